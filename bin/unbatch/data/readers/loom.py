"""Loom files, which keep genes in rows."""

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from unbatch.data import features, io, names
from unbatch.data.readers.annotated import holds_counts, layers_of_counts
from unbatch.data.readers.coordinates import of_columns
from unbatch.data.readers.kinds import Found
from unbatch.data.samples import Sample, Wanted, only_genes
from unbatch.errors import InputError
from unbatch.text import some

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

_CELLS = ("CellID", "cell_id", "obs_names", "barcode", "barcodes", "cell_names", "index", "_index")
_GENES = ("Gene", "gene_names", "var_names", "gene_name", "gene", "genes", "Accession", "gene_ids", "index", "_index")
_BLOCK = 2**24


def read(found: Found, name: str, wanted: Wanted) -> Sample:
    """Read all but the counts of a loom file."""
    with io.open_hdf5(found.place, "a loom file", ("row_attrs", "col_attrs")) as file:
        obs = _table(file["col_attrs"], _CELLS, found.path, "cells")
        var = _table(file["row_attrs"], _GENES, found.path, "genes")
        if "Accession" in var and "gene_id" not in var:
            var = var.rename(columns={"Accession": "gene_id"})
        slot, remark = _slot(file, found.path, wanted.counts)
        shape = tuple(int(size) for size in file[slot].shape[::-1])
    if shape != (len(obs), len(var)):
        raise InputError(
            f"{found.path}: {slot} has {shape[1]} x {shape[0]} values, expected {len(var)} genes x {len(obs)} cells"
        )
    at = of_columns(obs, "is a loom file", wanted.spatial, str(found.path))
    sample = Sample(
        name,
        found.path,
        slot,
        obs,
        var,
        shape,
        functools.partial(_read, found.place, slot),
        "loom",
        at.found,
        at.place,
        at.lacks,
    )
    if remark:
        sample = sample.remark("counts-elsewhere", remark)
    for text in at.remarks:
        sample = sample.remark("coordinates-found", text)
    column = features.type_column(var)
    return only_genes(sample, None if column is None else var[column], f"row_attrs/{column}")


def _table(group: Any, usual: tuple[str, ...], path: Path, what: str) -> pd.DataFrame:
    columns = {}
    for key in group:
        stored = group[key]
        if getattr(stored, "ndim", 0) == 1:
            values = stored[:]
            columns[key] = [names.spelling(value) for value in values] if values.dtype.kind in "SO" else values
    index = next((key for key in usual if key in columns), None)
    if index is None:
        raise InputError(
            f"{path}: the {what} of the loom file have no names ({', '.join(usual[:3])}); found "
            f"{some(columns) or 'nothing'}"
        )
    table = pd.DataFrame(columns)
    return table.set_index(index).pipe(lambda found: found.set_axis(names.text_index(found.index)))


def _slot(file: Any, path: Path, asked: str | None) -> tuple[str, str]:
    layers = list(file["layers"]) if "layers" in file else []
    if asked and asked != "X":
        if asked in file:
            return asked, ""
        raise InputError(
            f"{path}: no counts in {asked}; found {', '.join(['matrix (X)', *(f'layers/{key}' for key in layers)])}"
        )
    if asked or holds_counts(file["matrix"]):
        return "matrix", ""
    for slot in layers_of_counts(layers):
        if holds_counts(file[slot]):
            return slot, f"the matrix holds other values than counts, which are taken from {slot}"
    return "matrix", ""


def _read(path: Path, slot: str) -> "csr_matrix":
    from scipy.sparse import csr_matrix, vstack

    with io.open_hdf5(path, "a loom file", (slot,)) as file:
        stored = file[slot]
        if stored.dtype.kind not in "biuf":
            raise InputError(f"{path}: {slot} holds {stored.dtype}, expected real numbers")
        step = max(1, _BLOCK // max(1, stored.shape[0]))
        blocks = [
            csr_matrix(np.ascontiguousarray(stored[:, start : start + step].T))
            for start in range(0, stored.shape[1], step)
        ]
    return io.small_indices(vstack(blocks, format="csr"))
