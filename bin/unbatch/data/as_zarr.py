"""An h5ad file as a zarr store, element by element: a large matrix is never in memory."""

import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unbatch.data import portable
from unbatch.data.io import open_hdf5, storage_error
from unbatch.errors import InputError

if TYPE_CHECKING:
    import h5py
    import zarr

BLOCK = 2**22
"""Values that are read at once, and that a chunk of the store holds at most."""


def require_store_place(folder: str | Path, others: Iterable[Path] = ()) -> Path:
    """Return `folder` if a zarr store can be written there; programs ask before heavy work.

    Raises
    ------
    InputError
        If it is a file or a folder of anything else, which would be lost, one of the other inputs and outputs, or its
        own folder is missing or read-only.
    """
    folder = Path(folder)
    same = next((other for other in others if folder.resolve() == other.resolve()), None)
    if same is not None:
        raise InputError(f"{folder}: the zarr store would replace {same.name}, expected another name")
    if folder.exists() and not (folder / ".zgroup").is_file():
        raise InputError(f"{folder}: cannot write the zarr store, something else has this name")
    if not folder.parent.is_dir():
        raise InputError(f"{folder.parent}: no such folder to write {folder.name} to")
    if not os.access(folder.parent, os.W_OK):
        raise InputError(f"{folder.parent}: cannot write {folder.name} to this folder (permission denied)")
    return folder


def write_zarr(source: str | Path, folder: str | Path) -> None:
    """Write what an h5ad file of `unbatch` holds as AnnData's zarr store, format 2, which older readers take.

    Parameters
    ----------
    source
        The file.
    folder
        Folder to write; a store that has this name is replaced.

    Raises
    ------
    InputError
        If something else has this name, or the file is damaged.
    StorageError
        If the disk takes no more.
    """
    import zarr

    folder = require_store_place(folder)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        with open_hdf5(source) as file:
            _copy_group(file, zarr.open_group(str(temporary), mode="w", zarr_format=2))
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o777 & ~umask)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    except Exception as error:
        refused = storage_error(error, folder.parent, folder.name)
        if refused is None:
            raise
        raise refused from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _copy_group(source: "h5py.Group", target: "zarr.Group") -> None:
    """Copy a mapping, and everything below it."""
    import h5py
    from anndata.io import read_elem

    target.attrs.update(_plain(source.attrs))
    # items() would hold HDF5's lock meanwhile: where zarr's own thread happens to be the one that frees another file,
    # it would wait for that lock, and this thread for it
    for name in list(source):
        element = source[name]
        kind = element.attrs.get("encoding-type")
        if isinstance(element, h5py.Group) and kind in ("dict", "anndata", "raw"):
            _copy_group(element, target.create_group(name))
        elif kind in ("csr_matrix", "csc_matrix"):
            group = target.create_group(name)
            group.attrs.update(_plain(element.attrs))
            for part in ("data", "indices", "indptr"):
                _copy_array(element[part], group, part)
        elif isinstance(element, h5py.Dataset) and element.dtype.kind in "biuf" and element.ndim:
            _copy_array(element, target, name)
        else:
            portable.put(target, name, read_elem(element))


def _copy_array(source: "h5py.Dataset", target: "zarr.Group", name: str) -> None:
    """Copy numbers, some rows at a time."""
    width = max(1, source.size // max(1, len(source)))
    rows = max(1, min(len(source), BLOCK // width))
    # a chunk has no dimension of size 0, which an array can have
    chunks = (rows, *(max(1, size) for size in source.shape[1:]))
    made = target.create_array(name, shape=source.shape, dtype=source.dtype, chunks=chunks)
    made.attrs.update(_plain(source.attrs))
    for start in range(0, len(source), rows):
        made[start : start + rows] = source[start : start + rows]


def _plain(attributes: Any) -> dict[str, Any]:
    """Attributes as JSON takes them."""
    return {name: value.tolist() if hasattr(value, "tolist") else value for name, value in attributes.items()}
