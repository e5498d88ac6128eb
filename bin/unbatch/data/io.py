"""Reading only what a step needs, and writing without anything half-written ever being seen."""

import errno
import json
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unbatch.errors import InputError, StorageError, UnbatchError, causes

if TYPE_CHECKING:
    import h5py
    import numpy as np
    from anndata import AnnData
    from scipy.sparse import csr_matrix

# Values of a matrix that are read at once: 64 MB as float32.
_DENSE_BLOCK = 2**24

_MAX_INT32 = 2**31 - 1

# What a disk can refuse.
_REFUSALS = {
    errno.ENOSPC: "no space is left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file of this size is not allowed there",
    errno.EROFS: "the file system is read-only",
}

# Files of a model.
_CONFIG, _WEIGHTS = "config.json", "weights.safetensors"


def require_file(path: Path) -> Path:
    """Return `path` if it is a readable, non-empty file.

    Raises
    ------
    InputError
        If it is missing, not a file, empty or unreadable.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if not path.is_file():
        raise InputError(f"{path}: expected a file, found a folder")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty (0 bytes)")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path}: the file cannot be read (permission denied)")
    return path


def read_mapping(path: str | Path, expected: str) -> dict[str, Any]:
    """Read names and their values: JSON from a file with that ending, else YAML.

    Parameters
    ----------
    path
        The file.
    expected
        What it should be, for messages.

    Raises
    ------
    InputError
        If it is missing, damaged, or holds something else.
    """
    import yaml

    path = Path(path)
    as_json = path.suffix == ".json"
    content = read_json(path, expected) if as_json else _parsed(path, expected, "YAML", yaml.safe_load, yaml.YAMLError)
    if content is None and not as_json:
        # comments only
        return {}
    if not isinstance(content, dict):
        raise InputError(f"{path}: found a {type(content).__name__}, expected {expected}, 'name: value' pairs")
    return {str(name): value for name, value in content.items()}


def read_json(path: str | Path, expected: str) -> Any:
    """Read whatever a JSON file holds; `expected` is what it should be, for messages.

    Raises
    ------
    InputError
        If it is missing or damaged.
    """
    return _parsed(Path(path), expected, "JSON", json.loads, ValueError)


def _parsed(path: Path, expected: str, kind: str, read: Callable[[str], Any], fault: type[Exception]) -> Any:
    try:
        return read(require_file(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError, fault) as error:
        raise InputError(f"{path}: not {kind}, expected {expected} ({' '.join(str(error).split())[:200]})") from error


@contextmanager
def open_hdf5(
    path: str | Path, kind: str = "an h5ad file", needed: Iterable[str] = ("obs", "var")
) -> "Iterator[h5py.File]":
    """Open an HDF5 file to read parts of it in the block, which should do nothing else.

    Parameters
    ----------
    path
        The file.
    kind
        What it should be, for messages.
    needed
        What such a file has; anything else is refused.

    Raises
    ------
    InputError
        If the file is missing, of another kind, or what the block reads of it is damaged.
    """
    import h5py

    path = require_file(Path(path))
    if not h5py.is_hdf5(path):
        raise InputError(f"{path}: not {kind} (no HDF5 signature)")
    try:
        with h5py.File(path, "r") as file:
            absent = [name for name in needed if name not in file]
            if absent:
                raise InputError(f"{path}: not {kind}, {' and '.join(absent)} is missing; found {sorted(file)}")
            yield file
    except (InputError, MemoryError):
        raise
    except Exception as error:
        raise unreadable(path, kind, error) from error


def sums_of_rows(path: str | Path, slot: str) -> "tuple[np.ndarray, np.ndarray] | None":
    """Sum the values and count those that are stored of each row of a sparse matrix, a block of rows at a time.

    Parameters
    ----------
    path
        An h5ad file.
    slot
        Where the matrix is, such as ``"layers/counts"``.

    Returns
    -------
    tuple of numpy.ndarray or None
        Sum and number of stored values, n each; None where there is no CSR matrix.

    Raises
    ------
    InputError
        See `open_hdf5`.
    """
    import numpy as np

    with open_hdf5(path) as file:
        group = file.get(slot)
        if group is None or group.attrs.get("encoding-type") != "csr_matrix":
            return None
        ends = group["indptr"][:].astype(np.int64)
        stored, sums = np.diff(ends), np.zeros(len(ends) - 1)
        row = 0
        while row < len(stored):
            last = max(int(np.searchsorted(ends, ends[row] + _DENSE_BLOCK, side="right")) - 1, row + 1)
            values = group["data"][ends[row] : ends[last]]
            owner = np.repeat(np.arange(last - row), stored[row:last])
            sums[row:last] = np.bincount(owner, weights=values, minlength=last - row)
            row = last
    return sums, stored


@contextmanager
def open_annotated(path: str | Path, inner: str = "") -> "Iterator[Any]":
    """Open an HDF5 file or a zarr store with annotated data, to read parts of it in the block.

    Parameters
    ----------
    path
        A file, or the folder or zip archive of a zarr store.
    inner
        Place of the data in it, such as ``mod/rna``; none for the whole.

    Yields
    ------
    h5py.Group or zarr.Group
        Which are used alike.

    Raises
    ------
    InputError
        If what the block reads of it cannot be read.
    """
    import h5py

    path = Path(path)
    # what is packed is told by content: an archive can have any name
    packed = path.is_file() and not h5py.is_hdf5(path) and (path.suffix.lower() == ".zip" or zipfile.is_zipfile(path))
    if path.is_dir() or packed:
        import zarr

        try:
            with closing(zarr.storage.ZipStore(path, mode="r")) if packed else nullcontext(path) as store:
                group = zarr.open_group(store, mode="r")
                yield group[inner] if inner else group
        except (InputError, MemoryError):
            raise
        except Exception as error:
            raise unreadable(path, "a zarr store of annotated data", error) from error
        return
    with open_hdf5(path, "an h5ad file" if not inner else "an HDF5 file", ()) as file:
        yield file[inner] if inner else file


_ABSENT = re.compile(
    r"doesn't exist|not found|can't locate attribute|no such|unknown|does not support|unsupported", re.IGNORECASE
)
_FILTER = re.compile(
    r"filter.*(not registered|not available|not found)|required filter|can't open directory", re.IGNORECASE
)


def unreadable(path: str | Path, kind: str, error: Exception) -> InputError:
    """Say why a file could not be read: what it lacks, or that it is damaged.

    h5py and anndata raise OSError, RuntimeError, KeyError and their own types, depending on where the fault is.
    """
    said = " ".join(str(each) for each in causes(error))
    if _FILTER.search(said):
        return InputError(
            f"{path}: compressed in a way that is not read here ({first_line(error)}), expected {kind} with gzip or "
            "lzf; read and write it anew where it was made"
        )
    own = isinstance(error, KeyError | AttributeError | TypeError | IndexError) or type(error).__name__.startswith(
        "IORegistry"
    )
    if own and (_ABSENT.search(said) or not isinstance(error, KeyError) or "Unable to" not in said):
        return InputError(f"{path}: a part is missing or of an unknown form, expected {kind} ({first_line(error)})")
    return InputError(f"{path}: truncated or damaged, expected {kind} ({first_line(error)})")


def read_h5ad(path: str | Path, slots: Iterable[str] | None = None) -> "AnnData":
    """Read an h5ad file, whole or only some of its slots.

    Parameters
    ----------
    path
        The file.
    slots
        Slots to read in addition to `obs` and `var`: ``"X"``, ``"layers/counts"``, ``"obsm/spatial"`` or a whole
        group such as ``"obsm"``; those that the file lacks are left out. None reads everything.

    Raises
    ------
    InputError
        If the file is missing, not an h5ad, or damaged.
    """
    from anndata import AnnData
    from anndata.io import read_elem

    with open_hdf5(path) as file:
        wanted = [key for key in file if key not in ("obs", "var")] if slots is None else list(slots)
        parts: dict[str, Any] = {"obs": read_elem(file["obs"]), "var": read_elem(file["var"])}
        for slot in wanted:
            if slot not in file or (slot == "raw" and slots is None):
                continue
            group, _, key = slot.partition("/")
            if key:
                parts.setdefault(group, {})[key] = read_elem(file[slot])
            else:
                parts[group] = read_elem(file[slot])
        if slots is None and "raw" in file:
            parts["raw"] = {key: read_elem(file["raw"][key]) for key in file["raw"]}
    try:
        return AnnData(**parts)
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: the slots do not fit together ({first_line(error)})") from error


def read_csr(path: str | Path, slot: str, inner: str = "") -> "csr_matrix":
    """Read a matrix of an h5ad file or a zarr store as CSR; a dense one is read some rows at a time.

    Parameters
    ----------
    path
        The file or store.
    slot
        Place of the matrix.
    inner
        Place of the annotated data, as of `open_annotated`.

    Raises
    ------
    InputError
        If the file or the matrix is damaged, or the matrix does not hold real numbers.
    """
    from anndata.io import read_elem
    from scipy.sparse import csr_matrix

    with open_annotated(path, inner) as file:
        stored = file[slot]
        group = hasattr(stored, "keys")
        dtype = stored["data"].dtype if group else stored.dtype
        if dtype.kind not in "biuf":
            raise InputError(f"{path}: {slot} holds {dtype}, expected real numbers")
        if not group:
            return small_indices(dense_to_csr(stored))
        matrix = read_elem(stored)
        # scipy trusts the indices of a file and reads outside of the arrays if they are wrong
        matrix.check_format(full_check=True)
        return small_indices(csr_matrix(matrix))


def dense_to_csr(stored: Any) -> "csr_matrix":
    """Make a CSR matrix of a stored dense one, some rows at a time."""
    import numpy as np
    from scipy.sparse import csr_matrix, vstack

    rows = max(1, _DENSE_BLOCK // max(1, stored.shape[1]))
    starts = range(0, stored.shape[0], rows)

    def block(start: int) -> "csr_matrix":
        values = stored[start : start + rows]
        # scipy has no sparse matrices of half precision
        return csr_matrix(values.astype(np.float32) if values.dtype == np.float16 else values)

    if not starts:
        return csr_matrix(stored.shape, dtype=np.float32)
    return vstack([block(start) for start in starts], format="csr")


def small_indices(matrix: "csr_matrix") -> "csr_matrix":
    """Give a matrix 32-bit indices where they suffice; files often have 64-bit ones, which take twice the memory."""
    import numpy as np
    from scipy.sparse import csr_matrix

    if matrix.indices.dtype != np.int32 and max(matrix.nnz, *matrix.shape) <= _MAX_INT32:
        indices, indptr = matrix.indices.astype(np.int32), matrix.indptr.astype(np.int32)
        matrix = csr_matrix((matrix.data, indices, indptr), shape=matrix.shape)
    return matrix


def first_line(error: Exception) -> str:
    """Return the first line of what an error says, or its name if it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def require_place(path: str | Path, inputs: Iterable[Path] = ()) -> Path:
    """Return `path` if a file can be written there; programs ask before heavy work.

    Raises
    ------
    InputError
        If it is a folder, an input or another output, or its own folder is missing or read-only.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: cannot write the output, a folder has this name")
    if not path.parent.is_dir():
        raise InputError(f"{path.parent}: no such folder to write {path.name} to")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"{path.parent}: cannot write {path.name} to this folder ({_refusal(path.parent)})")
    for other in inputs:
        same = path.exists() and other.exists() and path.samefile(other)
        if same or path.resolve() == other.resolve():
            raise InputError(f"{path}: the output would replace {other.name}, expected another name")
    return path


def _refusal(folder: Path) -> str:
    """Say why nothing can be written to a folder."""
    return _REFUSALS[errno.EROFS] if os.statvfs(folder).f_flag & os.ST_RDONLY else "permission denied"


def storage_error(error: BaseException, folder: Path, what: str, written: int = 0) -> StorageError | None:
    """Explain in a sentence that a disk refused to take what was written; None for other errors.

    Parameters
    ----------
    error
        What was raised.
    folder
        Where it was to be written.
    what
        What was to be written.
    written
        Bytes of it that the disk took before it refused, and that are removed by now.
    """
    number = next(filter(_REFUSALS.__contains__, map(_error_number, causes(error))), None)
    if number is None:
        return None
    sizes = [f"more than {_size(written)} are needed"] if written else []
    if number == errno.ENOSPC and folder.is_dir():
        sizes.append(f"{_size(shutil.disk_usage(folder).free)} are free")
    known = f" ({', '.join(sizes)})" if sizes else ""
    # a task of the pipeline writes to `.`, which says nothing
    return StorageError(f"{folder.absolute()}: cannot write {what}, {_REFUSALS[number]}{known}")


def _size(count: int) -> str:
    unit, name = next((each for each in ((1e9, "GB"), (1e6, "MB")) if count >= each[0]), (1e3, "kB"))
    return f"{count / unit:.1f} {name}"


def _error_number(error: BaseException) -> int | None:
    """Return the system's number of an error, which HDF5 and Rust have in their texts alone."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    stated = re.search(r"\b(?:errno =|os error) (\d+)", str(error))
    return int(stated[1]) if stated else None


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path in the folder of `path`, renamed to it when the block ends without an error.

    Raises
    ------
    StorageError
        If the disk is full or takes no more for another reason.
    """
    path = require_place(path)
    temporary, written = None, 0
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        # mkstemp makes files private; give them what a plain open() would
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except UnbatchError:
        raise
    except Exception as error:
        if temporary:
            written = temporary.stat().st_size
            temporary.unlink()
        refused = storage_error(error, path.parent, path.name, written)
        if refused is None:
            raise
        raise refused from error
    finally:
        if temporary:
            temporary.unlink(missing_ok=True)


def write_h5ad(
    adata: "AnnData",
    path: str | Path,
    *,
    copied: Mapping[str, tuple[Path, str]] | None = None,
    then: Callable[[Path], None] | None = None,
    **blocks: "Iterable[np.ndarray | csr_matrix] | None",
) -> None:
    """Write an h5ad file in encodings that every anndata since 0.8 reads (`unbatch.data.portable`).

    Parameters
    ----------
    adata
        The content, compressed with gzip level 1 (levels above cost time and save little on counts).
    path
        File to write.
    copied
        Slots that are copied from other files as they stand there, compression included, without being read: by name,
        such as ``"layers/counts"``, an h5ad file and the name of a slot of it.
    then
        What else to write from the file, given its temporary path: the file takes its name after that, if at all.
    blocks
        Row blocks of ``X`` or, by its name, of a layer, all dense or all CSR, appended one by one, as the whole
        matrix is never in memory. CSR is compressed with lzf, which is faster than gzip; dense noise would hardly
        shrink. None writes what `adata` has.

    Raises
    ------
    InputError
        If an element has no form that older readers take, or a file to copy from is damaged.
    StorageError
        If the disk takes no more.
    """
    from unbatch.data import portable

    with replacing(path) as temporary:
        with _new_hdf5(temporary) as (file, disk):
            portable.write(file, adata, compression="gzip", compression_opts=1)
            for name, rows in blocks.items():
                if rows is not None:
                    slot = name if name == "X" else f"layers/{name}"
                    _append_blocks(file, slot, disk.unless_refused(rows), adata.n_obs * adata.n_vars)
            for slot, (source, inside) in disk.unless_refused((copied or {}).items()):
                folder, _, name = slot.rpartition("/")
                with open_hdf5(source) as other:
                    other.copy(inside, file.require_group(folder) if folder else file, name=name)
            if copied:
                portable.require_known(file)
        if then is not None:
            then(temporary)


class _Disk(FileIO):
    """The file that HDF5 writes to, through h5py's driver for file-like objects.

    HDF5 cannot close a file that it cannot write to: it reports every object of it on stderr, and can crash when the
    program ends. So writing never fails from where HDF5 sees it: the first error is kept, and what follows is dropped.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self.refused: OSError | None = None

    def write(self, data: Any) -> int:
        left = memoryview(data)
        try:
            while self.refused is None and left:
                left = left[super().write(left) :]
        except OSError as error:
            self.refused = error
        return len(data)

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.refused = self.refused or error
            return size or 0

    def readinto(self, data: Any) -> int:
        # past the end there are zeros, also where writing was refused
        data = memoryview(data)
        found = super().readinto(data) or 0
        data[found:] = bytes(len(data) - found)
        return len(data)

    # no type parameter: `attempt` reads this file with the Python 3.11 of Seurat's image
    def unless_refused(self, items: Iterable[Any]) -> Iterator[Any]:
        """Iterate until something could not be written."""
        for item in items:
            yield item
            if self.refused:
                raise self.refused


@contextmanager
def _new_hdf5(path: Path) -> "Iterator[tuple[h5py.File, _Disk]]":
    """Open a new HDF5 file to write; OSError when the block ends if the disk did not take all of it."""
    import h5py

    disk = _Disk(path)
    try:
        with h5py.File(disk, "w") as file:
            yield file, disk
    except Exception as error:
        # without what was dropped, HDF5 can have failed in any way
        if disk.refused and error is not disk.refused:
            raise disk.refused from error
        raise
    finally:
        disk.close()
    if disk.refused:
        raise disk.refused


def _append_blocks(file: "h5py.File", slot: str, blocks: "Iterable[np.ndarray | csr_matrix]", most: int) -> None:
    """Write blocks of rows as a matrix; `most` is the largest number of values that they can have."""
    import numpy as np
    from anndata.io import sparse_dataset, write_elem

    blocks = iter(blocks)
    first = next(blocks)
    folder, _, name = slot.rpartition("/")
    group = file.require_group(folder) if folder else file
    if isinstance(first, np.ndarray):
        write_elem(group, name, first, dataset_kwargs={"maxshape": (None, first.shape[1])})
        for block in blocks:
            rows = len(group[name])
            group[name].resize(rows + len(block), axis=0)
            group[name][rows:] = block
    else:
        pointer = np.int32 if most <= _MAX_INT32 else np.int64
        write_elem(group, name, first, dataset_kwargs={"indptr_dtype": pointer, "compression": "lzf", "shuffle": True})
        stored = sparse_dataset(group[name])
        for block in blocks:
            stored.append(block)


def write_json(content: Any, path: str | Path) -> None:
    """Write JSON; a number that is not finite is an error, as no JSON reader takes it."""
    text = _json(content)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _json(content: Any) -> str:
    return json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def require_model_place(folder: str | Path) -> Path:
    """Return `folder` if a model can be written to it, even if it must be made; programs ask before heavy work.

    Raises
    ------
    InputError
        If it, or what it must be made in, is no folder or read-only, or a folder has the name of a file of the model.
    """
    folder = Path(folder)
    present = next(place for place in (folder, *folder.absolute().parents) if place.exists(follow_symlinks=False))
    if not present.is_dir():
        raise InputError(f"{folder}: cannot write the model, {present} is not a folder")
    if not os.access(present, os.W_OK | os.X_OK):
        raise InputError(f"{folder}: cannot write the model, {present} is read-only ({_refusal(present)})")
    for name in (_CONFIG, _WEIGHTS):
        if (folder / name).is_dir():
            raise InputError(f"{folder / name}: cannot write the model, a folder has this name")
    return folder


def write_model(folder: str | Path, config: dict[str, Any], weights: dict[str, Any]) -> None:
    """Write a fitted model: `config.json` and `weights.safetensors`, enough to apply it to new data.

    Both are complete before one of them is seen: an error leaves an older model in the folder as it is.
    """
    import numpy as np
    from safetensors.numpy import save_file

    folder = require_model_place(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / _WEIGHTS) as for_weights:
        save_file({key: np.ascontiguousarray(value) for key, value in weights.items()}, for_weights)
        with replacing(folder / _CONFIG) as for_config:
            for_config.write_text(_json(config), encoding="utf-8")


def read_model(folder: str | Path) -> "tuple[dict[str, Any], dict[str, np.ndarray]]":
    """Read what `write_model` wrote: the configuration and the weights.

    Raises
    ------
    InputError
        If a file is missing or not what it should be.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = Path(folder) / _CONFIG
    config = read_mapping(path, "the configuration of a model of unbatch")
    if "method" not in config:
        raise InputError(f"{path}: method is missing, expected the configuration of a model of unbatch")
    path = require_file(Path(folder) / _WEIGHTS)
    try:
        return config, load_file(path)
    except SafetensorError as error:
        raise InputError(f"{path}: damaged, expected safetensors ({first_line(error)})") from error
