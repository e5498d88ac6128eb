"""Readers of single-cell and spatial files: what a path is, and what it holds.

Every reader returns a `unbatch.data.samples.Sample`: names of cells and genes, tables, coordinates, and a function
that reads the counts.
"""

from dataclasses import replace
from pathlib import Path

from unbatch.data.readers.kinds import find
from unbatch.data.samples import Remark, Sample, Wanted


def read(path: Path, name: str, wanted: Wanted) -> Sample:
    """Read all but the counts of a file or folder of any known kind.

    Raises
    ------
    InputError
        If it is missing, of no known kind (the message says what it is), or cannot be read.
    """
    from unbatch.data.readers import annotated, loom, spatial, tables, tenx

    found = find(path)
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
