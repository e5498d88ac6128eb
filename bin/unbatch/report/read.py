"""Reading what is drawn: a dataset with its cells, and fits, each file once."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from unbatch.data.io import read_h5ad, read_mapping, sums_of_rows
from unbatch.data.notes import Note, read_notes
from unbatch.errors import InputError
from unbatch.report.scores import Result

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True)
class Cells:
    """Cells of a dataset.

    Attributes
    ----------
    names
        Names of the cells.
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

    def by_label(self) -> np.ndarray | None:
        """Count the cells of each label (rows) in each batch (columns); None without labels."""
        if self.label is None:
            return None
        table = np.zeros((len(self.labels), len(self.batches)), dtype=int)
        known = self.label >= 0
        np.add.at(table, (self.label[known], self.batch[known]), 1)
        return table

    def confined(self) -> list[tuple[str, str, int]]:
        """List the labels that occur in one batch only: label, batch, number of cells."""
        table = self.by_label()
        if table is None or len(self.batches) < 2:
            return []
        return [
            (self.labels[code], self.batches[int(np.argmax(table[code]))], int(table[code].sum()))
            for code in np.flatnonzero((table > 0).sum(axis=1) == 1)
        ]


@dataclass(frozen=True)
class About:
    """What is known of how a dataset was made.

    Attributes
    ----------
    notes
        What `preprocess` had to say, warnings first.
    losses
        Genes and cells of each sample before and after, or None for a file of an older version.
    parameters
        Options of `preprocess`.
    """

    notes: list[Note] = field(default_factory=list)
    losses: pd.DataFrame | None = None
    parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def warnings(self) -> list[Note]:
        """Those notes that weaken what the report says."""
        return [note for note in self.notes if note.severity == "warning"]


MOST_CATEGORIES, MOST_NUMBERS = 100, 20
"""Categories that a legend can show, and different whole numbers that are taken for categories."""


@dataclass(frozen=True)
class Colours:
    """What cells are coloured by: categories with the code of every cell (-1 for none), or a number of every cell."""

    title: str
    names: list[str] | None = None
    codes: np.ndarray | None = None
    values: np.ndarray | None = None


@dataclass(frozen=True)
class Dataset:
    """A dataset: its cells, how it was made, and the file's other slots, such as the truth of a simulation."""

    cells: Cells
    about: About
    data: "AnnData"
    path: Path

    @cached_property
    def depth(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Counts and detected genes of each cell, n each; None of a file without counts."""
        return sums_of_rows(self.path, "layers/counts")

    def colours(self, name: str) -> "Colours":
        """Take a column of the cells to colour them by.

        Parameters
        ----------
        name
            A column of obs. Truth values, text, and whole numbers with few different values are categories.

        Raises
        ------
        InputError
            If there is no such column, it has no value, or more categories than a legend can show.
        """
        obs = self.data.obs
        if name not in obs:
            near = difflib.get_close_matches(name, map(str, obs), 1)
            meant = f", did you mean {near[0]}?" if near else ""
            raise InputError(
                f"{self.path}: obs/{name}, a column of --colour-by, is missing{meant}; there are "
                f"{', '.join(map(str, obs))}"
            )
        column = obs[name]
        if column.isna().all():
            raise InputError(f"{self.path}: obs/{name}, a column of --colour-by, has no value in any cell")
        kind = column.dtype.kind
        if kind == "f" or (kind in "iu" and column.nunique() > MOST_NUMBERS):
            values = column.to_numpy(dtype=np.float64)
            return Colours(name, values=np.where(np.isfinite(values), values, np.nan))
        names, codes = _codes(column)
        if len(names) > MOST_CATEGORIES:
            raise InputError(
                f"{self.path}: obs/{name}, a column of --colour-by, has {len(names):,} different values, expected "
                f"numbers or at most {MOST_CATEGORIES} categories"
            )
        return Colours(name, names, codes)

    @cached_property
    def _symbols(self) -> dict[str, str]:
        var = self.data.var
        if "gene_symbol" not in var:
            return {}
        known = var["gene_symbol"].dropna().astype(str)
        return known[known != ""].to_dict()

    def shown(self, genes: Sequence[str]) -> list[str]:
        """Names of genes as the report writes them: symbols wherever they are known."""
        return [self._symbols.get(gene, gene) for gene in genes]


def read_dataset(path: Path, result: Result | None = None) -> Dataset:
    """Read what is shown of a dataset.

    Parameters
    ----------
    path
        A file that `preprocess` wrote.
    result
        Scores of it.

    Raises
    ------
    InputError
        If it is not a dataset.h5ad, or not the one that was scored.
    """
    data = read_h5ad(path, ["obsm/spatial", "obsm/X_true", "varm/metagenes_true", "uns/unbatch"])
    if "batch" not in data.obs:
        raise InputError(f"{path}: obs has no column batch; a dataset that `preprocess` wrote was expected")
    if data.obs["batch"].isna().any():
        raise InputError(f"{path}: obs/batch is missing in {int(data.obs['batch'].isna().sum())} cells")
    positions = None
    if "spatial" in data.obsm:
        positions = np.asarray(data.obsm["spatial"], dtype=np.float64)
        if positions.ndim != 2 or positions.shape[1] < 2 or not np.isfinite(positions).all():
            raise InputError(f"{path}: obsm/spatial is not cells x 2 finite numbers")
    labelled = "label" in data.obs and data.obs["label"].notna().any()
    divided = "section" in data.obs and data.obs["section"].notna().all()
    cells = Cells(
        data.obs_names,
        *_codes(data.obs["batch"]),
        *(_codes(data.obs["label"]) if labelled else (None, None)),
        positions,
        *(_codes(data.obs["section"]) if divided else (None, None)),
    )
    if result is not None:
        result.require_cells(data.n_obs, path)
    return Dataset(cells, _about(data.uns.get("unbatch", {})), data, path)


def _codes(column: pd.Series) -> tuple[list[str], np.ndarray]:
    """Names of the categories that occur, and the code of every cell."""
    column = column.astype("category").cat.remove_unused_categories()
    return [str(name) for name in column.cat.categories], column.cat.codes.to_numpy().astype(int)


def _about(about: dict[str, Any]) -> About:
    """Take out how a dataset was made; what is not as it should be is left out."""
    notes, losses, parameters = about.get("notes", ""), about.get("losses"), about.get("parameters")
    whole = isinstance(losses, pd.DataFrame) and {"genes", "genes_not_shared", "cells", "cells_dropped"} <= set(losses)
    return About(
        read_notes(notes) if isinstance(notes, str) else [],
        losses if whole else None,
        dict(parameters) if isinstance(parameters, dict) else {},
    )


@dataclass
class FitFile:
    """A fit, read when something of it is asked for, and once."""

    path: Path

    @cached_property
    def data(self) -> "AnnData":
        """All but expression."""
        return read_h5ad(self.path, ["obsm", "varm", "uns/unbatch"])

    def close(self) -> None:
        """Forget what was read."""
        self.__dict__.pop("data", None)

    @property
    def about(self) -> dict[str, Any]:
        """What it says of itself: method, seed, parameters and so on."""
        return _made(self.data, self.path)

    @property
    def params(self) -> dict[str, Any]:
        """Parameters of the fit."""
        params = self.about.get("params")
        return dict(params) if isinstance(params, dict) else {}

    @property
    def genes(self) -> list[str]:
        """Names of its genes."""
        return [str(name) for name in self.data.var_names]

    @property
    def embedding(self) -> np.ndarray:
        """Its embedding, n x d."""
        return self.matrix(f"X_{self.about['method']}")

    @property
    def second(self) -> np.ndarray | None:
        """A second embedding, such as random effects, n x d; None where it has one only."""
        about = self.about
        return self.matrix(str(about["second"])) if about.get("first") and about.get("second") else None

    def require_cells(self, cells: Cells) -> None:
        """Check that it is a fit of these cells.

        Raises
        ------
        InputError
            If it is not.
        """
        if not self.data.obs_names.equals(cells.names):
            raise InputError(f"{self.path}: its cells are not those of the dataset in the same order")

    def matrix(self, slot: str) -> np.ndarray:
        """Take out an embedding, n x d.

        Raises
        ------
        InputError
            If it is missing, or no matrix of finite numbers.
        """
        if slot not in self.data.obsm:
            raise InputError(f"{self.path}: obsm/{slot} is missing; a fit of unbatch was expected")
        values = np.asarray(self.data.obsm[slot], dtype=np.float32)
        if values.ndim != 2 or not np.isfinite(values).all():
            raise InputError(f"{self.path}: obsm/{slot} is not a matrix of finite numbers")
        return values

    def numbers(self, group: Any, name: str, shape: tuple[int | None, ...]) -> np.ndarray:
        """Take out numbers of a shape, in which None is any size.

        Raises
        ------
        InputError
            If they are missing, no numbers, or of another shape.
        """
        if name not in group:
            raise InputError(f"{self.path}: {name} is missing; a fit of {self.about['method']} has it")
        values = np.asarray(group[name])
        fits = values.ndim == len(shape) and all(
            want in (None, found) for want, found in zip(shape, values.shape, strict=True)
        )
        if not fits or values.dtype.kind not in "biuf":
            wanted = " x ".join("any" if size is None else str(size) for size in shape)
            raise InputError(
                f"{self.path}: {name} is {values.dtype} of shape {values.shape}, expected numbers {wanted}"
            )
        return values


def names_in(group: dict[str, Any], key: str) -> list[str]:
    """Take a list of names out of a mapping of a fit; an array of one may have been written as a single name."""
    return [str(name) for name in np.atleast_1d(group.get(key, []))]


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


CALIBRATION = 1
"""Version of calibration.json that this code reads."""


def read_calibrations(paths: Sequence[Path], results: Sequence[Result]) -> dict[str, dict[str, Any]]:
    """Read null calibrations, by the name of the dataset.

    Raises
    ------
    InputError
        If a file is none, two are of one dataset, or one is of a dataset without scores.
    """
    found: dict[str, dict[str, Any]] = {}
    names = [result.name for result in results]
    for path in paths:
        content = read_mapping(path, "a calibration.json")
        if content.get("schema") != CALIBRATION:
            raise InputError(
                f"{path}: schema is {content.get('schema')!r}, expected {CALIBRATION}, as `calibrate` writes"
            )
        absent = [name for name in ("dataset", "settings", "rows") if name not in content]
        if absent:
            raise InputError(f"{path}: {', '.join(absent)} is missing, expected what `calibrate` writes")
        name = str(content["dataset"].get("name"))
        if name not in names or name in found:
            what = "of which there is another file" if name in found else f"expected one of {', '.join(names)}"
            raise InputError(f"{path}: dataset/name is {name!r}, {what}")
        found[name] = content
    return found


def match_fits(results: Sequence[Result], paths: Sequence[Path]) -> dict[str, FitFile]:
    """Find the fit of every row, by its id: by file name, else by the method and seed that the file holds.

    Raises
    ------
    InputError
        If a file belongs to no row, or to several; or a row has two files.
    """
    rows = {row["id"]: row for result in results for row in result.rows}
    found: dict[str, FitFile] = {}
    for path in paths:
        name = _stem(path) if _stem(path) in rows else _row_of(path, rows)
        if name in found:
            raise InputError(
                f"{path}: {found[name].path} is a fit of the row {name}, too; expected one file for each row"
            )
        found[name] = FitFile(path)
    return found


def _row_of(path: Path, rows: dict[str, dict[str, Any]]) -> str:
    """Find the row of a fit by the method and seed that the file holds."""
    about = _made(read_h5ad(path, ["uns/unbatch"]), path)
    method, seed = str(about["method"]), int(about["seed"])
    fitting = [name for name, row in rows.items() if (row["method"], int(row["seed"])) == (method, seed)]
    if len(fitting) != 1:
        raise InputError(
            f"{path}: holds method {method}, seed {seed}, which is "
            f"{'no row' if not fitting else 'more than one row'} of the scores; name fits <id of the row>.h5ad"
        )
    return fitting[0]


def _made(fit: "AnnData", path: Path) -> dict[str, Any]:
    """Take out how a fit was made."""
    about = fit.uns.get("unbatch", {})
    absent = {"method", "seed"} - set(about)
    if absent:
        raise InputError(f"{path}: uns/unbatch lacks {', '.join(sorted(absent))}; a fit of unbatch was expected")
    return about
