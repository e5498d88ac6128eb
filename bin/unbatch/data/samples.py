"""Reading samples: first the names in each file, which is fast and finds most mistakes, then the counts."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from unbatch.data import features, io
from unbatch.data.sparse import first_wrong
from unbatch.errors import InputError
from unbatch.text import some

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import h5py
    from scipy.sparse import csr_matrix

COUNT_SLOTS = ("layers/counts", "raw/X", "X")
"""Where an h5ad may keep its counts, the best place first."""

_COORDINATE_SLOTS = ("obsm/spatial", "obsm/X_spatial")


@dataclass(frozen=True, slots=True)
class Sample:
    """What is known about a file before its counts are read.

    Attributes
    ----------
    name
        The sample, as named in messages.
    path
        The file, as named in messages.
    matrix
        The file that has the counts, which is another one for a folder.
    slot
        The place of the counts in that file.
    obs
        Table of the cells.
    var
        Table of the genes.
    coordinates
        Positions of the cells, shape (cells, 2 or 3), or None. Some may be NaN.
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
    """

    name: str
    path: Path
    matrix: Path
    slot: str
    obs: pd.DataFrame
    var: pd.DataFrame
    coordinates: np.ndarray | None = None
    lacks: str = ""
    rows: np.ndarray | None = None
    columns: np.ndarray | None = None
    typed_by: str = ""
    left_out: dict[str, int] = field(default_factory=dict)
    untyped: int = 0

    @property
    def features(self) -> int:
        """How many features the file has, genes or not."""
        return len(self.var) + sum(self.left_out.values())


def inspect(path: Path, name: str, counts_from: str | None = None) -> Sample:
    """Read the names of cells and genes, and all that is known of the cells, but not the counts.

    Features that are no genes (`unbatch.data.features.genes_among`) are left out.

    Parameters
    ----------
    path
        An h5ad file, a 10x HDF5 file (``.h5``, Cell Ranger 3 or newer) or a Space Ranger folder.
    name
        What to call the sample.
    counts_from
        Slot of the h5ad that holds the counts; None takes the first of `COUNT_SLOTS` that it has.

    Raises
    ------
    InputError
        If the file is missing, of another kind, damaged, without cells or genes, or names one of them twice.
    """
    if path.is_dir():
        sample = _inspect_space_ranger(path, name)
    elif path.suffix.lower() == ".h5":
        sample = _inspect_10x(path, name)
    elif path.suffix.lower() == ".h5ad":
        sample = _inspect_h5ad(path, name, counts_from)
    else:
        io.require_file(path)
        raise InputError(f"{path}: expected an h5ad file, a 10x HDF5 file (.h5) or a Space Ranger folder")
    for what, names in (("cell", sample.obs.index), ("gene", sample.var.index)):
        if not len(names):
            raise InputError(f"{path}: there are 0 {what}s")
        twice = names[names.duplicated()].unique()
        if len(twice):
            raise InputError(
                f"{path}: {len(twice)} {what} names are there more than once ({some(twice)}), expected unique ones"
            )
    return sample


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
    counts = _read_10x_matrix(sample) if sample.slot == "matrix" else io.read_csr(sample.matrix, sample.slot)
    rows = len(sample.obs) if sample.rows is None else counts.shape[0]
    columns = sample.features
    if counts.shape != (rows, columns):
        raise InputError(
            f"{sample.path}: {sample.slot} has {counts.shape[0]} x {counts.shape[1]} values, expected {rows} cells x "
            f"{columns} features"
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

    with io.open_hdf5(sample.path) as file:
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
        if np.shape(about.get("gene_factors"))[1:] == (sample.features,):
            about["gene_factors"] = about["gene_factors"][:, sample.columns]
    return truth


def _check_counts(counts: "csr_matrix", sample: Sample, genes: pd.Index, continuous: bool) -> None:
    wrong = first_wrong(counts, continuous)
    if wrong is None:
        return
    at, kind = wrong
    cell = sample.obs.index[np.searchsorted(counts.indptr, at, side="right") - 1]
    gene = genes[counts.indices[at]]
    hint = "; choose others by --counts-from, or give --allow-continuous" if kind == "not whole" else ""
    raise InputError(
        f"{sample.path}: {sample.slot} holds {counts.data[at]:g} (cell {cell}, gene {gene}), which is {kind}, expected "
        f"raw counts{hint}"
    )


# h5ad -----------------------------------------------------------------------------------------------------------------


def _inspect_h5ad(path: Path, name: str, counts_from: str | None) -> Sample:
    from anndata.io import read_elem

    with io.open_hdf5(path) as file:
        slot = counts_from or next((slot for slot in COUNT_SLOTS if slot in file), None)
        if slot is None or slot not in file:
            places = ("X", "raw/X", *(f"layers/{key}" for key in file.get("layers", ())))
            found = ", ".join(place for place in places if place in file) or "no matrix"
            raise InputError(f"{path}: no counts in {counts_from or ', '.join(COUNT_SLOTS)}; found {found}")
        obs = read_elem(file["obs"])
        var = read_elem(file["raw/var" if slot == "raw/X" else "var"])
        coordinates = next((read_elem(file[key]) for key in _COORDINATE_SLOTS if key in file), None)
        other = "var" if slot == "raw/X" else "raw/var"
        if not (isinstance(obs, pd.DataFrame) and isinstance(var, pd.DataFrame)):
            raise InputError(
                f"{path}: obs and var are of a format before anndata 0.7, expected a file of a newer version"
            )
        obs.index, var.index = obs.index.astype(str), var.index.astype(str)
        # raw often has no table of its own, or has the only one that is whole
        borrowed = features.type_column(var) is None and isinstance(file.get(other), Mapping)
        types = _types_by_name(read_elem(file[other])) if borrowed else None
    coordinates, lacks = _usable(coordinates, len(obs))
    sample = Sample(name, path, path, slot, obs, var, coordinates, lacks)
    if types is not None:
        return _only_genes(sample, types, f"{other}/{types.name}")
    column = features.type_column(var)
    table = "raw/var" if slot == "raw/X" else "var"
    return _only_genes(sample, None if column is None else var[column], f"{table}/{column}")


def _types_by_name(table: Any) -> pd.Series | None:
    """Types of the features of another table of the file, by their names."""
    column = features.type_column(table) if isinstance(table, pd.DataFrame) else None
    if column is None:
        return None
    types = table[column].astype(object).set_axis(table.index.astype(str))
    return types[~types.index.duplicated()]


def _only_genes(sample: Sample, types: pd.Series | None, place: str) -> Sample:
    """Leave out the features that are no genes; `types` has them by name, `place` is where the file has them."""
    if types is None:
        return sample
    names = sample.var.index
    # what a table of other features does not know is kept: the table is there to say what is no gene
    own = types.index.equals(names)
    known = np.ones(len(names), dtype=bool) if own else names.isin(types.index)
    found = features.genes_among(types if own else types.loc[names[known]], f"{sample.matrix}: {place}")
    genes = np.ones(len(names), dtype=bool)
    genes[known] = found.genes
    return replace(
        sample,
        var=sample.var[genes],
        columns=None if genes.all() else np.flatnonzero(genes),
        typed_by=place,
        left_out=found.left_out,
        untyped=found.untyped,
    )


def _usable(coordinates: Any, cells: int) -> tuple[np.ndarray | None, str]:
    """Coordinates as a float array, or None and why they are not usable."""
    if coordinates is None:
        return None, "has no obsm/spatial"
    values = np.asarray(coordinates)
    if values.ndim != 2 or values.shape[0] != cells or values.shape[1] not in (2, 3):
        return None, f"has obsm/spatial of shape {values.shape}, not {cells} x 2 (or 3)"
    if values.dtype.kind not in "iuf":
        return None, f"has obsm/spatial of {values.dtype}, not numbers"
    return values.astype(np.float64, copy=False), ""


# 10x and Space Ranger -------------------------------------------------------------------------------------------------


def _open_10x(path: Path) -> "AbstractContextManager[h5py.File]":
    return io.open_hdf5(path, "a 10x HDF5 file of Cell Ranger 3 or newer", ["matrix/features"])


def _inspect_10x(path: Path, name: str) -> Sample:
    with _open_10x(path) as file:
        barcodes = file["matrix/barcodes"].asstr()[:]
        about = file["matrix/features"]
        var = pd.DataFrame({"gene_symbol": about["name"].asstr()[:]}, index=about["id"].asstr()[:])
        # CellBender writes none where the matrix that it was given had none
        types = pd.Series(about["feature_type"].asstr()[:], var.index) if "feature_type" in about else None
    sample = Sample(name, path, path, "matrix", pd.DataFrame(index=barcodes), var, lacks="is a 10x matrix")
    return _only_genes(sample, types, "matrix/features/feature_type")


def _read_10x_matrix(sample: Sample) -> "csr_matrix":
    from scipy.sparse import csr_matrix

    with _open_10x(sample.matrix) as file:
        genes, cells = file["matrix/shape"][:]
        parts = tuple(file["matrix"][key][:] for key in ("data", "indices", "indptr"))
        # genes x cells by column is cells x genes by row
        counts = csr_matrix(parts, shape=(cells, genes))
        counts.check_format(full_check=True)
    return counts


def _inspect_space_ranger(folder: Path, name: str) -> Sample:
    matrix = folder / "filtered_feature_bc_matrix.h5"
    named, unnamed = folder / "spatial" / "tissue_positions.csv", folder / "spatial" / "tissue_positions_list.csv"
    positions = unnamed if unnamed.exists() and not named.exists() else named
    io.require_file(matrix)
    io.require_file(positions)
    sample = _inspect_10x(matrix, name)
    columns = ["barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres"]
    try:
        table = pd.read_csv(positions, names=columns, header=0 if positions == named else None, index_col="barcode")
        table = table.astype(float)
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{positions}: expected the columns {', '.join(columns)} ({error})") from error
    unknown = sample.obs.index.difference(table.index)
    if len(unknown):
        raise InputError(f"{positions}: {len(unknown)} barcodes of {matrix.name} are missing ({some(unknown)})")
    if table.index.has_duplicates:
        raise InputError(
            f"{positions}: barcodes are there more than once ({some(table.index[table.index.duplicated()])})"
        )
    table = table.loc[sample.obs.index]
    rows = np.flatnonzero(table["in_tissue"] == 1)
    table = table.iloc[rows]
    coordinates, lacks = _usable(table[["pxl_col_in_fullres", "pxl_row_in_fullres"]], len(table))
    return replace(
        sample,
        path=folder,
        obs=table[["array_row", "array_col"]].rename_axis(None),
        coordinates=coordinates,
        lacks=lacks,
        rows=rows,
    )
