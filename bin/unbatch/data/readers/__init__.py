"""Readers of single-cell and spatial files: what a path is, and what it holds.

Every reader returns a `unbatch.data.samples.Sample`: names of cells and genes, tables, coordinates, and a function
that reads the counts.
"""

from dataclasses import replace
from pathlib import Path

from unbatch.data.readers.kinds import Found, find
from unbatch.data.samples import Remark, Sample, Wanted
from unbatch.errors import InputError

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
    return replace(
        sample, remarks=(*(Remark("folder", text, severity) for text, severity in found.remarks), *sample.remarks)
    )


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
