"""Reading what is drawn: cells of a dataset and embeddings of its fits, as plain arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from unbatch.data.io import read_h5ad
from unbatch.errors import InputError
from unbatch.report.scores import Entry, Result


@dataclass(frozen=True)
class Cells:
    """Cells of a dataset.

    Attributes
    ----------
    names
        Of the cells.
    batches, labels
        Names of batches and labels; no labels at all is None.
    batch, label
        Codes into them; -1 for a cell without a label.
    positions
        Coordinates, or None.
    sections, section
        Names of the sections, each with coordinates of its own, and code of every cell; the batches if not given.
    """

    names: pd.Index
    batches: list[str]
    batch: np.ndarray
    labels: list[str] | None
    label: np.ndarray | None
    positions: np.ndarray | None
    sections: list[str] | None = None
    section: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Take the batches for sections where there are no others."""
        if self.section is None:
            object.__setattr__(self, "sections", self.batches)
            object.__setattr__(self, "section", self.batch)

    def batches_of_sections(self) -> list[list[int]]:
        """Codes of the batches that have cells in each section."""
        pairs = np.unique(np.column_stack((self.section, self.batch)), axis=0).tolist()
        found: list[list[int]] = [[] for _ in self.sections]
        for section, batch in pairs:
            found[section].append(batch)
        return found

    @property
    def strata(self) -> np.ndarray:
        """Code of batch and label together."""
        if self.label is None:
            return self.batch
        return self.batch * (len(self.labels) + 1) + self.label + 1

    def confined(self) -> list[tuple[str, str, int]]:
        """List the labels that occur in one batch only: label, batch, number of cells."""
        if self.label is None or len(self.batches) < 2:
            return []
        table = np.zeros((len(self.labels), len(self.batches)), dtype=int)
        known = self.label >= 0
        np.add.at(table, (self.label[known], self.batch[known]), 1)
        return [
            (self.labels[code], self.batches[int(np.argmax(table[code]))], int(table[code].sum()))
            for code in np.flatnonzero((table > 0).sum(axis=1) == 1)
        ]


def read_cells(path: str | Path) -> Cells:
    """Read batches, labels, sections and positions of a dataset.

    Raises
    ------
    InputError
        If it is not a dataset.h5ad.
    """
    data = read_h5ad(path, ["obsm/spatial"])
    if "batch" not in data.obs:
        raise InputError(f"{path}: obs has no column batch; a dataset that `preprocess` wrote was expected")
    batch = data.obs["batch"].astype("category").cat.remove_unused_categories()
    if batch.isna().any():
        raise InputError(f"{path}: obs/batch is missing in {int(batch.isna().sum())} cells")
    labels = label = None
    if "label" in data.obs and data.obs["label"].notna().any():
        column = data.obs["label"].astype("category").cat.remove_unused_categories()
        labels, label = [str(name) for name in column.cat.categories], column.cat.codes.to_numpy().astype(int)
    sections = section = None
    if "section" in data.obs and data.obs["section"].notna().all():
        column = data.obs["section"].astype("category").cat.remove_unused_categories()
        sections, section = [str(name) for name in column.cat.categories], column.cat.codes.to_numpy().astype(int)
    positions = None
    if "spatial" in data.obsm:
        positions = np.asarray(data.obsm["spatial"], dtype=np.float64)
        if positions.ndim != 2 or positions.shape[1] < 2 or not np.isfinite(positions).all():
            raise InputError(f"{path}: obsm/spatial is not cells x 2 finite numbers")
    return Cells(
        names=data.obs_names,
        batches=[str(name) for name in batch.cat.categories],
        batch=batch.cat.codes.to_numpy().astype(int),
        labels=labels,
        label=label,
        positions=positions,
        sections=sections,
        section=section,
    )


def match_datasets(results: Sequence[Result], paths: Sequence[Path]) -> dict[str, Path]:
    """Find the dataset file of every result: by name, or the only one.

    Raises
    ------
    InputError
        If several files are given and one of the results has none.
    """
    if not paths:
        return {}
    if len(results) == 1 and len(paths) == 1:
        return {results[0].name: paths[0]}
    by_name = {_stem(path): path for path in paths}
    absent = [result.name for result in results if result.name not in by_name]
    if absent:
        raise InputError(
            f"--dataset: no file for {', '.join(absent)}; with several datasets, files are found by name "
            f"(<name>.h5ad or <name>.dataset.h5ad), given were {', '.join(path.name for path in paths)}"
        )
    return {result.name: by_name[result.name] for result in results}


def _stem(path: Path) -> str:
    name = path.name.removesuffix(".h5ad")
    return name.removesuffix(".dataset").removesuffix(".fit")


def match_fits(results: Sequence[Result], paths: Sequence[Path]) -> dict[str, Path]:
    """Find the fit file of every row, by its id: by file name, else by the method and seed that the file holds.

    Raises
    ------
    InputError
        If a file belongs to no row, or to several.
    """
    rows = {row["id"]: row for result in results for row in result.rows}
    found: dict[str, Path] = {}
    for path in paths:
        if _stem(path) in rows:
            found[_stem(path)] = path
            continue
        about = _about(path)
        fitting = [
            name
            for name, row in rows.items()
            if row["method"] == str(about["method"]) and int(row["seed"]) == int(about["seed"])
        ]
        if len(fitting) != 1:
            raise InputError(
                f"{path}: holds method {about['method']}, seed {about['seed']}, which is "
                f"{'no row' if not fitting else 'more than one row'} of the scores; name fits <id of the row>.h5ad"
            )
        found[fitting[0]] = path
    return found


def _about(path: Path) -> dict[str, Any]:
    about = read_h5ad(path, ["uns/unbatch"]).uns.get("unbatch", {})
    absent = {"method", "seed"} - set(about)
    if absent:
        raise InputError(f"{path}: uns/unbatch lacks {', '.join(sorted(absent))}; a fit of unbatch was expected")
    return about


def read_embedding(path: Path, cells: Cells) -> tuple[np.ndarray, dict[str, Any]]:
    """Read the embedding of a fit, and its parameters.

    Raises
    ------
    InputError
        If the file is not a fit of these cells.
    """
    about = _about(path)
    slot = f"X_{about['method']}"
    data = read_h5ad(path, [f"obsm/{slot}"])
    if slot not in data.obsm:
        raise InputError(f"{path}: obsm/{slot} is missing; a fit of unbatch was expected")
    if not data.obs_names.equals(cells.names):
        raise InputError(f"{path}: its cells are not those of the dataset in the same order")
    embedding = np.asarray(data.obsm[slot], dtype=np.float32)
    if embedding.ndim != 2 or not np.isfinite(embedding).all():
        raise InputError(f"{path}: obsm/{slot} is not a matrix of finite numbers")
    params = about.get("params")
    return embedding, dict(params) if isinstance(params, dict) else {}


def second_slot(path: Path) -> str | None:
    """Slot of obsm in which a fit has a second embedding, such as random effects; None where it has one only."""
    about = _about(path)
    return str(about["second"]) if about.get("first") and about.get("second") else None


def read_second(path: Path, cells: Cells) -> np.ndarray:
    """Read the second embedding of a fit, n x d.

    Raises
    ------
    InputError
        If it is no matrix of finite numbers, a row a cell.
    """
    slot = second_slot(path)
    values = np.asarray(read_h5ad(path, [f"obsm/{slot}"]).obsm[slot], dtype=np.float32)
    if values.ndim != 2 or len(values) != len(cells.names) or not np.isfinite(values).all():
        raise InputError(f"{path}: obsm/{slot} is not a matrix of finite numbers, a row for each cell")
    return values


def drawable(result: Result, fits: dict[str, Path]) -> list[tuple[Entry, Path]]:
    """List the embeddings that can be drawn: of each method with scores the first seed that has a file."""
    chosen = []
    for entry in result.scored():
        path = next(
            (fits[row["id"]] for row in entry.compared if row["id"] in fits and row.get("output") != "graph"), None
        )
        if path:
            chosen.append((entry, path))
    return chosen
