"""Matrices of Cell Ranger and Space Ranger: HDF5 of versions 2 to 9, and folders of matrix.mtx."""

import functools
import gzip
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from unbatch.data import features, io, names
from unbatch.data.readers.kinds import Found
from unbatch.data.samples import Sample, Wanted, only_genes
from unbatch.errors import InputError
from unbatch.text import some

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import h5py
    from scipy.sparse import csr_matrix

_SEVERAL = re.compile(r"^.+-(\d+)$")


def read_hdf5(found: Found, name: str, wanted: Wanted) -> Sample:
    """Read all but the counts of an HDF5 file of 10x Genomics."""
    matrix = found.files.get("matrix", found.place)
    with _open(matrix) as file:
        if "matrix" in file:
            sample, types = _newer(found, matrix, file, name)
        else:
            sample, types = _older(found, matrix, file, name)
    sample = with_libraries(only_genes(sample, types, "matrix/features/feature_type"))
    return _without_positions(_raw(sample, matrix), matrix)


def _open(path: Path) -> "AbstractContextManager[h5py.File]":
    return io.open_hdf5(path, "a 10x HDF5 file", ())


def _text(stored: "h5py.Dataset") -> np.ndarray:
    return np.array([names.spelling(value) for value in stored[:]], dtype=object)


def _newer(found: Found, matrix: Path, file: "h5py.File", name: str) -> tuple[Sample, pd.Series | None]:
    if "features" not in file["matrix"]:
        raise InputError(f"{matrix}: not a 10x HDF5 file, matrix/features is missing; found {sorted(file['matrix'])}")
    about = file["matrix/features"]
    barcodes = names.text_index(_text(file["matrix/barcodes"]))
    ids, symbols = _text(about["id"]), _text(about["name"]) if "name" in about else _text(about["id"])
    var = pd.DataFrame({"gene_id": ids}, index=names.text_index(symbols))
    if "genome" in about:
        genome = _text(about["genome"])
        if len({value for value in genome if value}) > 1:
            var["genome"] = genome
    # CellBender writes none where the matrix that it was given had none
    types = pd.Series(_text(about["feature_type"]), var.index) if "feature_type" in about else None
    shape = tuple(int(value) for value in file["matrix/shape"][:2][::-1])
    if shape != (len(barcodes), len(var)):
        raise InputError(
            f"{matrix}: matrix/shape is {shape[1]} x {shape[0]}, expected {len(var)} features x {len(barcodes)} "
            "barcodes"
        )
    obs = pd.DataFrame(index=barcodes)
    read = functools.partial(_read_groups, matrix, {"matrix": None}, shape)
    return Sample(name, found.path, "matrix", obs, var, shape, read, "10x HDF5", lacks="is a 10x matrix"), types


def _older(found: Found, matrix: Path, file: "h5py.File", name: str) -> tuple[Sample, None]:
    """Read Cell Ranger 2's format, which has a group for each genome, with cells of its own."""
    genomes = [key for key in file if {"barcodes", "indptr", "data", "indices", "shape", "genes"} <= set(file[key])]
    if not genomes:
        raise InputError(f"{matrix}: not a 10x HDF5 file of any version; found {sorted(file)}")
    cells = {key: names.text_index(_text(file[key]["barcodes"])) for key in genomes}
    barcodes = cells[genomes[0]]
    for key in genomes[1:]:
        barcodes = barcodes.append(cells[key][~cells[key].isin(barcodes)])
    tables, rows = [], {}
    for key in genomes:
        symbols, ids = (
            _text(file[key]["gene_names"] if "gene_names" in file[key] else file[key]["genes"]),
            _text(file[key]["genes"]),
        )
        if len(genomes) > 1:
            symbols, ids = _prefixed(symbols, key), _prefixed(ids, key)
        tables.append(pd.DataFrame({"gene_id": ids}, index=names.text_index(symbols)))
        rows[key] = None if cells[key].equals(barcodes) else barcodes.get_indexer(cells[key])
    var = pd.concat(tables)
    shape = (len(barcodes), len(var))
    read = functools.partial(_read_groups, matrix, rows, shape)
    sample = Sample(
        name,
        found.path,
        "matrix",
        pd.DataFrame(index=barcodes),
        var,
        shape,
        read,
        "10x HDF5 (version 2)",
        lacks="is a 10x matrix",
    )
    if any(positions is not None for positions in rows.values()):
        sample = sample.remark(
            "several-genomes",
            f"of the {len(genomes)} genomes ({some(genomes)}) each has cells of its own, which have no counts "
            "of the others",
        )
    return sample, None


def _prefixed(text: np.ndarray, genome: str) -> np.ndarray:
    return np.array([name if name.startswith(genome + "_") else f"{genome}_{name}" for name in text], dtype=object)


def _read_groups(path: Path, rows: dict[str, np.ndarray | None], shape: tuple[int, int]) -> "csr_matrix":
    """Read groups of a file, each with features of its own, into one matrix; `rows` are the cells of each."""
    from scipy.sparse import csr_matrix, hstack

    parts = []
    with _open(path) as file:
        for key, positions in rows.items():
            genes, cells = file[key]["shape"][:2]
            data = tuple(file[key][name][:] for name in ("data", "indices", "indptr"))
            if data[0].dtype.kind not in "biuf":
                raise InputError(f"{path}: {key}/data holds {data[0].dtype}, expected real numbers")
            # genes x cells by column is cells x genes by row
            counts = csr_matrix(data, shape=(cells, genes))
            counts.check_format(full_check=True)
            if positions is not None:
                place = csr_matrix(
                    (np.ones(len(positions), counts.dtype), (positions, np.arange(len(positions)))),
                    shape=(shape[0], len(positions)),
                )
                counts = place @ counts
            parts.append(counts)
    return io.small_indices(parts[0] if len(parts) == 1 else csr_matrix(hstack(parts, format="csr")))


def _raw(sample: Sample, matrix: Path) -> Sample:
    if re.search(r"raw_(?:feature|gene|probe)_bc_matri", str(matrix)):
        return sample.remark(
            "raw-matrix",
            "this is a raw matrix, with all barcodes that were seen: most hold no cell; "
            "filtered_feature_bc_matrix has the cells alone",
        )
    return sample


def _without_positions(sample: Sample, matrix: Path) -> Sample:
    """Warn where a folder above has coordinates that this matrix goes with."""
    if sample.path == matrix and any((matrix.parent / "spatial").glob("*tissue_positions*")):
        return sample.remark(
            "positions-not-read",
            f"{matrix.name} is read without coordinates, which are in the folder spatial: give the folder of both",
        )
    return sample


def with_libraries(sample: Sample) -> Sample:
    """Add the number behind the barcodes as a column, where an aggregated matrix has several."""
    ends = sample.obs.index.to_series().str.extract(_SEVERAL)[0]
    if (
        len(ends)
        and ends.notna().all()
        and 1 < ends.nunique() <= min(1000, len(ends) // 3)
        and "gem_group" not in sample.obs
    ):
        obs = sample.obs.assign(gem_group=ends.to_numpy(dtype=object))
        text = (
            "barcodes end in several numbers, of libraries that were joined: they are in the column "
            "gem_group (--batch-key gem_group)"
        )
        from dataclasses import replace

        return replace(sample, obs=obs).remark("gem-groups", text)
    return sample


# Matrix Market --------------------------------------------------------------------------------------------------------


def read_mtx(found: Found, name: str, wanted: Wanted) -> Sample:
    """Read all but the counts of a matrix.mtx with its names of cells and features."""
    matrix, barcodes_file, features_file = (found.files[key] for key in ("matrix", "barcodes", "features"))
    shape = _mtx_shape(matrix)
    cells, genes = _lines(barcodes_file), _lines(features_file)
    orders = {"genes x cells": (len(genes), len(cells)), "cells x genes": (len(cells), len(genes))}
    fitting = [
        order
        for order, sizes in orders.items()
        if all(have - need in (0, 1) for have, need in zip(sizes, shape, strict=True))
    ]
    exact = [order for order, sizes in orders.items() if sizes == shape]
    if not fitting:
        raise InputError(
            f"{matrix}: has {shape[0]} x {shape[1]} values, but {barcodes_file.name} has {len(cells)} names and "
            f"{features_file.name} {len(genes)}; expected one for every row and column"
        )
    order = (exact or fitting)[0]
    n_genes, n_cells = shape if order == "genes x cells" else shape[::-1]
    # a line more than needed is a header
    cells, genes = cells[len(cells) - n_cells :], genes[len(genes) - n_genes :]
    index = names.text_index([line[0] for line in cells])
    width = min(len(line) for line in genes) if genes else 0
    first = [line[0] for line in genes]
    symbols = [line[1] for line in genes] if width > 1 else first
    numbered = len(genes) > 2 and first == [str(number) for number in range(1, len(genes) + 1)]
    if numbered and width > 1:
        first = symbols
        symbols = [line[2] for line in genes] if width > 2 else symbols
    var = pd.DataFrame({"gene_id": np.array(first, dtype=object)}, index=names.text_index(symbols))
    if first == symbols:
        var = var.drop(columns="gene_id")
    types = None
    if width > 2 and features.any_known_type({line[2] for line in genes}):
        types = pd.Series(np.array([line[2] for line in genes], dtype=object), var.index)
    read = functools.partial(_read_mtx, matrix, order == "genes x cells")
    sample = Sample(
        name,
        found.path,
        "matrix",
        pd.DataFrame(index=index),
        var,
        (n_cells, n_genes),
        read,
        "matrix.mtx",
        lacks="is a 10x matrix",
    )
    if shape[0] == shape[1] and n_genes == n_cells:
        sample = sample.remark(
            "square-matrix", "the matrix has as many cells as features, its rows are taken for features"
        )
    return _raw(with_libraries(only_genes(sample, types, features_file.name)), matrix)


def _lines(path: Path) -> list[list[str]]:
    """Read a table of names, without blank lines at its end."""
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig") as file:
            lines = file.read().splitlines()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: truncated or damaged, expected names, a line each ({error})") from error
    while lines and not lines[-1].strip():
        lines.pop()
    comma = path.name.removesuffix(".gz").endswith(".csv")
    split = [line.split("," if comma and "\t" not in line else "\t") for line in lines]
    return [[cell.strip().strip('"') for cell in line] for line in split]


def _mtx_shape(path: Path) -> tuple[int, int]:
    from scipy.io import mminfo

    try:
        rows, columns, _entries, form, kind, _symmetry = mminfo(path)
    except Exception as error:
        raise InputError(
            f"{path}: truncated or damaged, expected a matrix in Matrix Market's format ({error})"
        ) from error
    if kind not in ("integer", "real", "unsigned-integer", "double") or form not in ("coordinate", "array"):
        raise InputError(f"{path}: holds {kind} values, expected counts")
    return int(rows), int(columns)


def _read_mtx(path: Path, transpose: bool) -> "csr_matrix":
    from scipy.io import mmread
    from scipy.sparse import csr_matrix

    try:
        values = mmread(path)
        counts = csr_matrix(values.T if transpose else values)
    except MemoryError:
        raise
    except Exception as error:
        raise InputError(
            f"{path}: truncated or damaged, expected a matrix in Matrix Market's format ({error})"
        ) from error
    return io.small_indices(counts)
