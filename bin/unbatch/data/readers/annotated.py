"""Annotated data: h5ad files, AnnData and SpatialData zarr stores, modalities of MuData."""

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from unbatch.data import features, io, names
from unbatch.data.readers.coordinates import locate
from unbatch.data.readers.kinds import Found
from unbatch.data.samples import COUNT_SLOTS, Sample, Wanted, only_genes
from unbatch.errors import InputError
from unbatch.text import some

COUNT_LAYERS = (
    "counts", "raw_counts", "rawcounts", "raw_count", "raw", "count", "umi", "umis", "umi_counts", "counts_raw",
    "unnormalized", "raw_data", "matrix", "decontxcounts", "spliced",
)  # fmt: skip
"""Layers, in lower case, that usually hold counts, the best first."""

_INDICES = (
    "_index",
    "index",
    "features",
    "gene",
    "genes",
    "barcodes",
    "cell",
    "cells",
    "cell_names",
    "gene_names",
    "names",
)
"""Columns that name the rows of a table that does not say which."""

_PROBED = 20_000
"""Values at the beginning, in the middle and at the end of a matrix that tell whether it holds counts."""


def read(found: Found, name: str, wanted: Wanted) -> Sample:
    """Read an h5ad, a zarr store, or the modality of an h5mu that has genes."""
    inner, kind = _inner(found)
    opened = functools.partial(io.open_annotated, found.place, inner)
    place = found.path if not inner else f"{found.path}: {inner}"
    with opened() as file:
        slot, remark = _counts(file, place, wanted.counts)
        in_raw = slot == "raw/X"
        obs, no_index = _table(file, "obs", place)
        var, odd = _table(file, "raw/var" if in_raw else "var", place)
        other = "var" if in_raw else "raw/var"
        # raw often has no table of its own, or has the only one that is whole
        borrowed = (
            _table(file, other, place)[0] if other in file and isinstance(file[other], Mapping | _groups()) else None
        )
        if in_raw and borrowed is not None:
            var = _with_columns_of(var, borrowed)
        shape = _shape(file[slot], place, slot)
        at = locate(file, obs, wanted.spatial, str(place))
        more = _more_obs(found, inner)
    if more is not None:
        more = more.loc[~more.index.duplicated()].reindex(obs.index)
        obs = obs.join(more[[column for column in more if column not in obs]])
    sample = Sample(
        name,
        found.path,
        slot,
        obs,
        var,
        shape,
        functools.partial(io.read_csr, found.place, slot, inner),
        kind,
        at.found,
        at.place,
        at.lacks,
        store=opened,
    )
    if shape != (len(obs), len(var)):
        raise InputError(
            f"{place}: {slot} has {shape[0]} x {shape[1]} values, expected {len(obs)} cells x {len(var)} features"
        )
    for text in (no_index, odd):
        if text:
            sample = sample.remark("no-index", text)
    if remark:
        sample = sample.remark("counts-elsewhere", remark)
    for remark in at.remarks:
        sample = sample.remark("coordinates-found", remark)
    column = features.type_column(var)
    if column is None and borrowed is not None:
        types = _types_by_name(borrowed)
        if types is not None:
            return only_genes(sample, types, f"{other}/{types.name}")
    table = "raw/var" if in_raw else "var"
    return only_genes(sample, None if column is None else var[column], f"{table}/{column}")


def _groups() -> type:
    import zarr

    return zarr.Group


def _with_columns_of(var: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Add the columns of X's genes to those of raw, by name, where each is there once."""
    missing = [column for column in other if column not in var]
    if not missing or not other.index.is_unique or not var.index.is_unique or not other.index.isin(var.index).all():
        return var
    if len(other) != len(var):
        # ids of some genes only would name the others in another way
        return var
    return var.join(other[missing])


# Where the data are ---------------------------------------------------------------------------------------------------


def _inner(found: Found) -> tuple[str, str]:
    """Place of the annotated data in a file or store, and what this is."""
    if found.kind == "h5ad":
        return "", "h5ad"
    if found.kind == "h5mu":
        return _modality(found.place), "MuData"
    with io.open_annotated(found.place) as group:
        if {"obs", "var"} <= set(group.keys()):
            return "", "zarr"
        if "mod" in group:
            return _modality(found.place), "MuData"
        for parent in ("tables", "table"):
            if parent in group:
                inner = group[parent]
                if {"obs", "var"} <= set(inner.keys()):
                    return parent, "SpatialData"
                listed = [key for key in inner.keys() if {"obs", "var"} <= set(inner[key].keys())]  # noqa: SIM118
                if len(listed) == 1:
                    return f"{parent}/{listed[0]}", "SpatialData"
                if listed:
                    raise InputError(
                        f"{found.path}: a SpatialData store with {len(listed)} tables ({some(listed)}), expected one; "
                        f"give the path of one, {found.place.name}/{parent}/{listed[0]}"
                    )
        raise InputError(
            f"{found.path}: this is a zarr store, but neither of AnnData nor with a table of SpatialData; found "
            f"{some(sorted(group.keys())) or 'nothing'}"
        )


def _modality(path: Path) -> str:
    """Choose the modality of a MuData that has genes: by its types of features, else by its name."""
    usual = ("rna", "gex", "gene expression", "gene_expression", "mrna", "scrna", "snrna", "transcriptome", "spatial")
    with io.open_annotated(path) as file:
        modalities = [key for key in file["mod"].keys() if {"obs", "var"} <= set(file["mod"][key].keys())]  # noqa: SIM118
        typed = []
        for key in modalities:
            var, _ = _table(file[f"mod/{key}"], "var", f"{path}: mod/{key}")
            column = features.type_column(var)
            if column is not None and features.any_named_gene(var[column]):
                typed.append(key)
    named = [key for key in modalities if key.lower() in usual]
    for chosen in (named, typed, modalities):
        if len(chosen) == 1:
            return f"mod/{chosen[0]}"
    raise InputError(
        f"{path}: a MuData of the modalities {some(modalities) or '(none)'}, of which none is named rna; expected one "
        "with genes: write it alone, mdata.mod[NAME].write_h5ad(...)"
    )


def _more_obs(found: Found, inner: str) -> pd.DataFrame | None:
    """Columns of the cells that a MuData has for all modalities."""
    if not inner.startswith("mod/"):
        return None
    with io.open_annotated(found.place) as file:
        if "obs" not in file:
            return None
        obs, _ = _table(file, "obs", found.path)
    return obs[[column for column in obs if ":" not in str(column)]]


# Counts ---------------------------------------------------------------------------------------------------------------


def layers_of_counts(layers: Iterable[str]) -> list[str]:
    """Slots of the layers that usually hold counts, in any case of letters, the best first."""
    named = sorted(layers)
    return [f"layers/{name}" for usual in COUNT_LAYERS for name in named if name.lower() == usual]


def count_places(file: Any) -> list[str]:
    """Places of a file that hold what counts can be, the usual ones first."""
    layers = list(file["layers"].keys()) if "layers" in file else []
    ordered = [slot for slot in COUNT_SLOTS if slot in file]
    ordered += [*layers_of_counts(layers), *(f"layers/{name}" for name in layers)]
    return [slot for slot in dict.fromkeys(ordered) if holds_counts(file[slot])]


def _counts(file: Any, path: Any, asked: str | None) -> tuple[str, str]:
    """Choose the slot with the counts, and say why where it is not the usual one."""
    layers = list(file["layers"].keys()) if "layers" in file else []
    if asked:
        if asked in file:
            return asked, ""
        found = (
            ", ".join(place for place in ("X", "raw/X", *(f"layers/{key}" for key in layers)) if place in file)
            or "no matrix"
        )
        raise InputError(f"{path}: no counts in {asked}; found {found}")
    present = [slot for slot in COUNT_SLOTS if slot in file]
    further = [slot for slot in layers_of_counts(layers) if slot not in present]
    if not present and not further:
        found = ", ".join(f"layers/{key}" for key in layers) or "no matrix"
        raise InputError(f"{path}: no counts in {', '.join(COUNT_SLOTS)}; found {found}")
    for slot in (*present, *further):
        if not holds_counts(file[slot]):
            continue
        passed = present[: present.index(slot)] if slot in present else present
        remark = ""
        if passed:
            remark = (
                f"{' and '.join(passed)} hold{'s' if len(passed) == 1 else ''} other values than counts, "
                f"which are taken from {slot}"
            )
        if slot.lower() == "layers/spliced":
            remark = "counts are those of spliced reads alone (layers/spliced), as there are no others"
        return slot, remark
    return (present or further)[0], ""


def holds_counts(stored: Any) -> bool:
    """Tell, by some of its values, whether a stored matrix holds whole numbers that are not negative."""
    try:
        values = _probe(stored)
    except Exception:
        # that it cannot be read is said where it is
        return True
    if values.dtype.kind == "b":
        return True
    if values.dtype.kind not in "iuf":
        return False
    with np.errstate(invalid="ignore"):
        return bool(((values >= 0) & (values == np.rint(values)) & np.isfinite(values)).all())


def _probe(stored: Any) -> np.ndarray:
    if hasattr(stored, "keys"):
        data = stored["data"]
        size = data.shape[0]
        starts = {0, max(0, size // 2 - _PROBED // 2), max(0, size - _PROBED)}
        return np.concatenate([np.asarray(data[start : start + _PROBED]) for start in sorted(starts)])
    rows = max(1, min(stored.shape[0], _PROBED // max(1, stored.shape[1])))
    starts = {0, max(0, stored.shape[0] // 2), max(0, stored.shape[0] - rows)}
    return np.concatenate([np.asarray(stored[start : start + rows]).ravel() for start in sorted(starts)])


def _shape(stored: Any, path: Any, slot: str) -> tuple[int, int]:
    shape = getattr(stored, "shape", None)
    if shape is None or callable(shape):
        found = dict(stored.attrs)
        shape = found.get("shape", found.get("h5sparse_shape"))
    if shape is None and "shape" in stored:
        shape = stored["shape"][:]
    if shape is None or len(shape) != 2:
        raise InputError(f"{path}: {slot} is no matrix of cells and features")
    return int(shape[0]), int(shape[1])


# Tables ---------------------------------------------------------------------------------------------------------------


def _table(file: Any, slot: str, path: Any) -> tuple[pd.DataFrame, str]:
    """Read a table with names as text, and say what was odd about it."""
    from anndata.io import read_elem

    odd = ""
    stored = file[slot]
    if hasattr(stored, "keys") and "_index" not in stored.attrs:
        table, index = _without_index(stored, f"{path}: {slot}")
        odd = f"{slot} does not say which column names its rows (no attribute _index); {index} is taken"
    elif getattr(getattr(stored, "dtype", None), "names", None):
        # anndata takes the text of records for ASCII
        table = stored[...]
    else:
        table = read_elem(stored)
    if isinstance(table, np.ndarray) and table.dtype.names:
        table = _of_records(table, slot, file)
    if isinstance(table, Mapping):
        table = pd.DataFrame({key: value for key, value in table.items() if np.ndim(value) == 1})
    if not isinstance(table, pd.DataFrame):
        raise InputError(f"{path}: {slot} is {type(table).__name__}, expected a table")
    table.index = names.text_index(table.index)
    return table, odd


def _without_index(stored: Any, where: str) -> tuple[pd.DataFrame, str]:
    from anndata.io import read_elem

    keys = [key for key in stored.keys() if key != "__categories"]  # noqa: SIM118
    index = next((key for key in _INDICES if key in keys), None)
    if index is None:
        raise InputError(
            f"{where} has no attribute _index, and none of {', '.join(_INDICES[:4])} to name its rows; found "
            f"{some(keys)}"
        )
    table = pd.DataFrame(index=pd.Index(np.asarray(read_elem(stored[index]), dtype=object)))
    for key in keys:
        if key != index:
            values = read_elem(stored[key])
            if np.ndim(values) == 1 and len(values) == len(table):
                table[key] = values
    return table, index


def _of_records(records: np.ndarray, slot: str, file: Any) -> pd.DataFrame:
    """Make a table of the records that anndata wrote before 0.7, with categories in uns."""
    from anndata.io import read_elem

    def text(values: np.ndarray) -> np.ndarray:
        return np.array([names.spelling(value) for value in values], dtype=object)

    fields = list(records.dtype.names or ())
    index = next((name for name in ("_index", "index") if name in fields), fields[0])
    table = pd.DataFrame(index=text(records[index]))
    for name in fields:
        if name == index:
            continue
        values = records[name]
        categories = f"uns/{name}_categories"
        if values.dtype.kind in "iu" and slot == "obs" and categories in file:
            known = text(np.atleast_1d(read_elem(file[categories])))
            table[name] = pd.Categorical.from_codes(values.astype(int), known)
        else:
            table[name] = text(values) if values.dtype.kind in "SO" else values
    return table


def _types_by_name(table: pd.DataFrame) -> pd.Series | None:
    """Types of the features of another table of the file, by their names."""
    column = features.type_column(table)
    if column is None:
        return None
    types = table[column].astype(object).set_axis(table.index)
    return types[~types.index.duplicated()]
