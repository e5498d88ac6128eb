"""Readers of single-cell and spatial files: what a path is, and what it holds.

Every reader returns a `unbatch.data.samples.Sample`: names of cells and genes, tables, coordinates, and a function
that reads the counts.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from unbatch.data.genes import looks_like_id
from unbatch.data.readers.kinds import Found, find
from unbatch.data.samples import Remark, Sample, Wanted
from unbatch.errors import InputError
from unbatch.text import some

_KINDS = {
    "10x": "a 10x HDF5 file",
    "mtx": "a matrix.mtx with its names",
    "visium": "a Space Ranger folder",
    "xenium": "a Xenium folder",
    "merscope": "a MERSCOPE folder",
    "cosmx": "a CosMx folder",
    "table": "a table of counts",
}
"""Kinds that have one matrix only, in words."""

_BARCODE = re.compile(r"(?:.*[^A-Za-z])?[ACGT]{12,}(?:-\d+)?")
_LOOKED_AT, _MOST = 500, 0.9
"""Names of cells and genes that are looked at, and the share by which they are judged."""

_WITHOUT_COLUMNS = frozenset(["10x", "mtx", "visium"])
"""Kinds without columns or keys among which coordinates could be chosen."""


def read(path: Path, name: str, wanted: Wanted) -> Sample:
    """Read all but the counts of a file or folder of any known kind.

    Raises
    ------
    InputError
        If it is missing, of no known kind (the message says what it is), cannot be read, or lacks what is wanted.
    """
    from unbatch.data.readers import annotated, loom, spatial, tables, tenx

    found = find(path)
    _require_taken(found, wanted)
    reader = {
        "h5ad": annotated.read,
        "zarr": annotated.read,
        "h5mu": annotated.read,
        "loom": loom.read,
        "10x": tenx.read_hdf5,
        "mtx": tenx.read_mtx,
        "visium": spatial.read_visium,
        "xenium": spatial.read_xenium,
        "merscope": spatial.read_merscope,
        "cosmx": spatial.read_cosmx,
        "table": tables.read,
    }[found.kind]
    sample = reader(found, name, wanted)
    _require_cells_in_rows(sample)
    return replace(
        sample, remarks=(*(Remark("folder", text, severity) for text, severity in found.remarks), *sample.remarks)
    )


def _require_cells_in_rows(sample: Sample) -> None:
    """Refuse a matrix that is on its side: cells named by ids of genes, or genes by barcodes."""
    cells, genes = ([str(name) for name in names[:_LOOKED_AT]] for names in (sample.obs.index, sample.var.index))
    turned = _share(looks_like_id, cells) > _MOST and _share(looks_like_id, genes) < 1 - _MOST
    if turned or _share(_BARCODE.fullmatch, genes) > _MOST:
        raise InputError(
            f"{sample.path}: cells are named {some(cells, 2)}, and genes {some(genes, 2)}: rows and columns are "
            "exchanged, expected cells in rows (obs) and genes in columns (var)"
        )


def _share(test: Callable[[str], object], names: list[str]) -> float:
    return sum(bool(test(name)) for name in names) / max(len(names), 1)


def _require_taken(found: Found, wanted: Wanted) -> None:
    """Refuse what a kind of file has no choice of, which would be passed over otherwise."""
    what = _KINDS.get(found.kind)
    if what is None:
        return
    if wanted.counts not in (None, "X"):
        raise InputError(
            f"{found.path}: counts_from is {wanted.counts}, but this is {what}, which has one matrix; expected X or "
            "nothing"
        )
    if wanted.spatial and found.kind in _WITHOUT_COLUMNS:
        own = "its coordinates in one place" if found.kind == "visium" else "no coordinates"
        raise InputError(
            f"{found.path}: spatial_key is {wanted.spatial}, but this is {what}, which has {own}; expected nothing"
        )
