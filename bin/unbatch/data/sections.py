"""What has a coordinate system of its own: sections, within which cells can be neighbours and between which never."""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from unbatch.data.names import settle
from unbatch.data.notes import Notes
from unbatch.data.portable import categories_of_text
from unbatch.data.preprocess import MIN_BATCH, complete
from unbatch.errors import InputError
from unbatch.text import some

DEFAULT_COLUMNS = ("section", "sample")
"""Columns that have the sections of one h5ad, unless another is named; the first that divides its batches."""

_USUAL = frozenset(
    ["section", "sample", "library", "slide", "slice", "fov", "puck", "capture area", "field of view", "tissue section"]
)
"""What columns that may have sections are called, but for a trailing id, key, name or number."""

_OVERLAP = 0.25
"""Share of the smaller bounding box above which parts of a section lie over one another."""

_MOST_PARTS = 200
"""Parts of a section whose bounding boxes are compared."""


def choose_sections(
    obs: pd.DataFrame,
    key: str | None,
    batch: pd.Categorical,
    batch_key: str,
    source: Path,
    from_sheet: bool,
    notes: Notes | None = None,
) -> tuple[pd.Categorical, str]:
    """Take the section of every cell from a column.

    Parameters
    ----------
    obs
        Table of the cells.
    key
        The column. None takes ``sample`` of a samplesheet; of one h5ad the first of `DEFAULT_COLUMNS` that is complete
        and none of whose values is in two batches, else the batch.
    batch, batch_key
        Batch of every cell, and its column.
    source
        File, for messages.
    from_sheet
        Whether the source is a samplesheet.
    notes
        Takes what was mended in the names.

    Returns
    -------
    tuple
        Section of every cell, shape (cells,), and its column.

    Raises
    ------
    InputError
        If the column or the section of a cell is missing, or sections are about as many as cells.
    """
    if key is None and not from_sheet:
        for name in DEFAULT_COLUMNS:
            section = settle(obs[name], "section").chosen if name in obs else None
            if section is not None and _is_division(section, batch):
                return section, name
        return batch, batch_key
    named, key = key is not None, key or "sample"
    section = complete(obs, key, source, "section", notes if named else None)
    if named and len(section.categories) * MIN_BATCH > len(section):
        raise InputError(
            f"{source}: {key} (--section-key) has {len(section.categories)} values in {len(section)} cells, expected "
            "sections of many cells each"
        )
    return section, key


def warn_of_sections(
    obs: pd.DataFrame,
    section: pd.Categorical,
    section_key: str,
    batch: pd.Categorical,
    coordinates: np.ndarray,
    notes: Notes,
) -> None:
    """Warn where cells of different sections might be taken for neighbours.

    Parameters
    ----------
    obs
        Table of the cells.
    section, section_key, batch
        Section of every cell, its column, and the batch of every cell.
    coordinates
        Shape (cells, 2) or (cells, 3).
    notes
        Takes the warnings: a section with cells of several batches, and columns that divide sections into parts that
        lie over one another.
    """
    pairs = pd.DataFrame({"section": section.codes, "batch": batch.codes}).drop_duplicates()
    spanning = np.flatnonzero(np.bincount(pairs["section"]) > 1)
    if len(spanning):
        names = some(section.categories[spanning])
        notes.warn(
            "sections-span-batches",
            f"{len(spanning)} of {len(section.categories)} sections ({section_key}) hold cells of several batches "
            f"({names}), which are neighbours where they touch; if these are different pieces of tissue, name another "
            "column by --section-key.",
            sections=len(section.categories),
            spanning=len(spanning),
        )
    for name in obs:
        if not _is_usual(str(name)) or name == section_key:
            continue
        part = categories_of_text(obs[name])
        if _is_division(part, section) and _overlap(part, section, coordinates):
            notes.warn(
                "finer-sections",
                f"{name} divides the {len(section.categories)} sections ({section_key}) into {len(part.categories)}, "
                f"some of which lie over one another: if each has coordinates of its own, give --section-key {name}.",
                sections=len(section.categories),
                parts=len(part.categories),
            )


def _is_usual(name: str) -> bool:
    words = re.split(r"[\s_.-]+", name.lower().strip())
    while words and words[-1] in ("id", "ids", "key", "name", "number", "nr"):
        words.pop()
    return " ".join(words) in _USUAL


def _is_division(part: pd.Categorical, whole: pd.Categorical) -> bool:
    """Tell whether every cell has a part, each part is of one whole only, and parts are no single cells."""
    if part.isna().any() or len(part.categories) * MIN_BATCH > len(part):
        return False
    pairs = pd.DataFrame({"part": part.codes, "whole": whole.codes}).drop_duplicates()
    return len(pairs) == len(part.categories)


def _overlap(part: pd.Categorical, section: pd.Categorical, coordinates: np.ndarray) -> bool:
    """Tell whether bounding boxes of two parts of a section share more than `_OVERLAP` of the smaller one's area."""
    table = pd.DataFrame(coordinates[:, :2], columns=["x", "y"]).groupby(part.codes)
    low, high = table.min().to_numpy(), table.max().to_numpy()
    # parts are in the order of their codes, as none is empty
    home = pd.Series(section.codes).groupby(part.codes).first().to_numpy()
    for code in np.unique(home):
        boxes = np.flatnonzero(home == code)[:_MOST_PARTS]
        size = np.maximum(high[boxes] - low[boxes], 1e-12)
        shared = np.minimum(high[boxes][:, None], high[boxes]) - np.maximum(low[boxes][:, None], low[boxes])
        area = np.clip(shared, 0, None).prod(axis=2) / np.minimum.outer(size.prod(axis=1), size.prod(axis=1))
        np.fill_diagonal(area, 0)
        if (area > _OVERLAP).any():
            return True
    return False
