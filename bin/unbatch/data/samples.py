"""Reading samples: first the names in each file, which is fast and finds most mistakes, then the counts."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from unbatch.data import features
from unbatch.data.sparse import first_wrong
from unbatch.errors import InputError
from unbatch.text import some

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

COUNT_SLOTS = ("layers/counts", "raw/X", "X")
"""Where an h5ad may keep its counts, the best place first."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Where the parts of a file are, as the user says; None chooses by itself.

    Attributes
    ----------
    counts
        Slot with the counts, such as ``layers/counts``.
    spatial
        Key of obsm with coordinates, or two columns of obs, separated by a comma.
    """

    counts: str | None = None
    spatial: str | None = None


@dataclass(frozen=True, slots=True)
class Remark:
    """What a reader found in a file that the user must know.

    Attributes
    ----------
    code
        See `Note`.
    text
        A sentence without its subject and full stop; samples with the same one are listed behind it.
    severity
        See `Note`.
    """

    code: str
    text: str
    severity: str = "warning"


@dataclass(frozen=True, slots=True)
class Sample:
    """What is known about a file before its counts are read.

    Attributes
    ----------
    name
        The sample, as named in messages.
    path
        The file, as named in messages.
    slot
        The place of the counts in that file.
    obs
        Table of the cells.
    var
        Table of the genes, named as in the file.
    shape
        Cells and features of the matrix in the file.
    read
        Reads that matrix, cells x features.
    kind
        What the file is, in words.
    coordinates
        Positions of the cells, shape (cells, 2 or 3), or None. Some may be NaN.
    place
        Where the coordinates are from.
    lacks
        Why there are no coordinates.
    rows, columns
        Positions of these cells and genes in the matrix of the file; None means all of them.
    typed_by
        The place in the file that says which features are genes, if there is one.
    left_out
        How many features are no genes, by type.
    untyped
        How many of the genes have no type, where other features have one.
    remarks
        What else to know.
    store
        Opens the place with obs, var and other slots, where the file has them (`unbatch.data.io.open_annotated`).
    """

    name: str
    path: Path
    slot: str
    obs: pd.DataFrame
    var: pd.DataFrame
    shape: tuple[int, int]
    read: "Callable[[], csr_matrix]"
    kind: str = ""
    coordinates: np.ndarray | None = None
    place: str = ""
    lacks: str = ""
    rows: np.ndarray | None = None
    columns: np.ndarray | None = None
    typed_by: str = ""
    left_out: dict[str, int] = field(default_factory=dict)
    untyped: int = 0
    remarks: tuple[Remark, ...] = ()
    store: Callable[[], Any] | None = None

    def only(self, genes: np.ndarray) -> "Sample":
        """Keep some genes, given as truth values of shape (genes,)."""
        if genes.all():
            return self
        kept = np.flatnonzero(genes) if self.columns is None else self.columns[genes]
        return replace(self, var=self.var[genes], columns=kept)

    def remark(self, code: str, text: str, severity: str = "warning") -> "Sample":
        """Add what to know about the file."""
        return replace(self, remarks=(*self.remarks, Remark(code, text, severity)))


def inspect(path: Path, name: str, wanted: Wanted | None = None) -> Sample:
    """Read the names of cells and genes, and all that is known of the cells, but not the counts.

    Features that are no genes (`unbatch.data.features.genes_among`) are left out.

    Parameters
    ----------
    path
        A file or a folder of a kind that `unbatch.data.readers` knows, or a folder above one.
    name
        What to call the sample.
    wanted
        Where its parts are, where the user says so.

    Raises
    ------
    InputError
        If the file is missing, of another kind, damaged, or without cells or genes.
    """
    from unbatch.data import readers

    sample = readers.read(path, name, wanted or Wanted())
    for what, table in (("cell", sample.obs), ("gene", sample.var)):
        if not len(table):
            raise InputError(f"{path}: there are 0 {what}s")
    return sample


def require_unique_cells(sample: Sample) -> None:
    """Check that every cell has a name of its own.

    Raises
    ------
    InputError
        If not.
    """
    index = sample.obs.index
    twice = index[index.duplicated()].unique()
    if len(twice):
        raise InputError(
            f"{sample.path}: {len(twice)} cell names are there more than once ({some(twice)}), expected unique ones; "
            "if the file joins several samples, give it in place of a samplesheet with --batch-key, or make names "
            "unique (adata.obs_names_make_unique())"
        )


def read_counts(sample: Sample, genes: pd.Index, continuous: bool = False) -> "csr_matrix":
    """Read the counts of a sample.

    Parameters
    ----------
    sample
        What `inspect` returned.
    genes
        Names of the genes to keep, all of which the sample has.
    continuous
        Take numbers that are not whole.

    Returns
    -------
    scipy.sparse.csr_matrix
        Float32, shape (cells, genes), without stored zeros, indices sorted.

    Raises
    ------
    InputError
        If the values are not counts: negative, not finite, or not whole.
    """
    counts = sample.read()
    if counts.shape != sample.shape:
        raise InputError(
            f"{sample.path}: {sample.slot} has {counts.shape[0]} x {counts.shape[1]} values, expected "
            f"{sample.shape[0]} cells x {sample.shape[1]} features"
        )
    if sample.rows is not None:
        counts = counts[sample.rows]
    wanted = sample.var.index.get_indexer(genes)
    if sample.columns is not None:
        wanted = sample.columns[wanted]
    if not np.array_equal(wanted, np.arange(counts.shape[1])):
        counts = counts[:, wanted]
    counts.sum_duplicates()
    counts.eliminate_zeros()
    _check_counts(counts, sample, genes, continuous)
    return counts.astype(np.float32, copy=False)


def read_truth(sample: Sample) -> dict[str, dict[str, Any]]:
    """Read what a simulation says about its cells and genes: slots named ``*_true`` and ``uns/unbatch/truth``.

    Returns
    -------
    dict
        ``obsm``, ``varm`` and ``uns``, each by key; empty where the file has none, or where `var` is that of raw.
    """
    from anndata.io import read_elem

    if sample.store is None:
        return {"obsm": {}, "varm": {}, "uns": {}}
    with sample.store() as file:
        truth = {
            axis: {key: read_elem(file[axis][key]) for key in file.get(axis, ()) if key.endswith("_true")}
            for axis in ("obsm", "varm")
        }
        known = "uns/unbatch/truth" in file
        truth["uns"] = {"truth": read_elem(file["uns/unbatch/truth"])} if known else {}
    if sample.slot == "raw/X":
        truth["varm"] = {}
    if sample.columns is not None:
        truth["varm"] = {key: value[sample.columns] for key, value in truth["varm"].items()}
        about = truth["uns"].get("truth", {})
        if np.shape(about.get("gene_factors"))[1:] == (sample.shape[1],):
            about["gene_factors"] = about["gene_factors"][:, sample.columns]
    return truth


def only_genes(sample: Sample, types: pd.Series | None, place: str) -> Sample:
    """Leave out the features that are no genes.

    Parameters
    ----------
    sample
        A file with all its features.
    types
        Type of each feature, in the order of `var` or by name; None where the file has none: then features whose names
        are those of tags, guides, peaks or control probes are warned of.
    place
        Where the file has the types.
    """
    names = sample.var.index
    if types is None:
        return _suspected(sample)
    # what a table of other features does not know is kept: the table is there to say what is no gene
    own = len(types) == len(names) and types.index.equals(names)
    known = np.ones(len(names), dtype=bool) if own else names.isin(types.index)
    found = features.genes_among(types if own else types.loc[names[known]], f"{sample.path}: {place}")
    genes = np.ones(len(names), dtype=bool)
    genes[known] = found.genes
    return replace(
        sample.only(genes),
        typed_by=place,
        left_out=found.left_out,
        untyped=found.untyped,
    )


def _suspected(sample: Sample) -> Sample:
    odd = features.unlike_genes(sample.var.index)
    for what, examples in odd.items():
        sample = sample.remark(
            "features-suspected",
            f"{len(examples)} features without a type are named like {what} ({some(examples, 3)}) and count as genes; "
            "give types in var['feature_types'] to leave them out",
        )
    return sample


def usable(coordinates: Any, cells: int, place: str) -> tuple[np.ndarray | None, str]:
    """Coordinates as a float array, or None and why they are not usable."""
    if coordinates is None:
        return None, "has no obsm/spatial"
    if hasattr(coordinates, "to_numpy") and not isinstance(coordinates, np.ndarray):
        coordinates = coordinates.to_numpy()
    values = np.asarray(coordinates.toarray() if hasattr(coordinates, "indptr") else coordinates)
    if values.ndim != 2 or values.shape[0] != cells or values.shape[1] not in (2, 3):
        return None, f"has {place} of shape {values.shape}, not {cells} x 2 (or 3)"
    if values.dtype.kind not in "iuf":
        return None, f"has {place} of {values.dtype}, not numbers"
    values = values.astype(np.float64, copy=False)
    if cells > 1 and (values == values[0]).all():
        return None, f"has {place} with all cells in one place"
    return values, ""


def _check_counts(counts: "csr_matrix", sample: Sample, genes: pd.Index, continuous: bool) -> None:
    wrong = first_wrong(counts, continuous)
    if wrong is None:
        return
    at, kind = wrong
    cell = sample.obs.index[np.searchsorted(counts.indptr, at, side="right") - 1]
    gene = genes[counts.indices[at]]
    hint = ""
    if kind == "not whole" or sample.store is not None:
        others = _other_counts(sample)
        options = " or ".join(f"--counts-from {other}" for other in others)
        hint = f"; {options} has whole numbers" if others else ""
        if kind == "not whole":
            hint += ", or" if others else "; choose others by --counts-from, or"
            hint += " give --allow-continuous"
    raise InputError(
        f"{sample.path}: {sample.slot} holds {counts.data[at]:g} (cell {cell}, gene {gene}), which is {kind}, expected "
        f"raw counts{hint}"
    )


def _other_counts(sample: Sample) -> list[str]:
    """Places of a file that hold whole numbers, as --counts-from names them."""
    from unbatch.data.readers.annotated import count_places

    if sample.store is None:
        return []
    with sample.store() as file:
        places = count_places(file)
    return [
        place.replace("layers/", "layer:") if place.startswith("layers/") else place.removesuffix("/X")
        for place in places
        if place != sample.slot
    ]
