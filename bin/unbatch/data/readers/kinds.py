"""What a path is: told by content, not by its ending, and found below a folder above the one meant."""

import functools
import gzip
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

from unbatch.data import io
from unbatch.errors import InputError
from unbatch.text import some

READ = (
    "h5ad, h5mu or loom files, AnnData and SpatialData zarr stores, 10x HDF5 files and matrix.mtx folders, Space "
    "Ranger, Xenium and MERSCOPE folders, tables of counts (CSV, TSV)"
)
"""What is read, for messages."""

BIN = "square_008um"
"""Bins of Visium HD that are taken where several are there; Space Ranger's own analyses use them."""

_DEPTH = 4
"""Folders below the one that is given that are looked at."""

_WORDS_OF_SKIPPED = (
    "analysis spatial raw_feature_bc_matrix raw_gene_bc_matrices raw_probe_bc_matrix web_summary deconvolution "
    "segmented_outputs crispr_analysis vdj_t vdj_b vdj_reference morphology_focus aux_outputs images"
)
_MATRICES = re.compile(
    r"(?P<prefix>.*?)(?:sample_)?(?:filtered_feature_bc_matrix|filtered_gene_bc_matrices_h5|cell_feature_matrix)\.h5$"
)
_RAW = re.compile(r".*(?:raw_feature_bc_matrix|raw_gene_bc_matrices)")
_POSITIONS = re.compile(r".*tissue_positions(?:_list)?\.(?:csv|parquet)(?:\.gz)?$")
_MTX = re.compile(r".*\.mtx(?:\.gz)?$", re.IGNORECASE)
_SKIPPED = frozenset(_WORDS_OF_SKIPPED.split())


@dataclass(frozen=True)
class Found:
    """What a path is.

    Attributes
    ----------
    kind
        Name of the reader.
    path
        What was given.
    place
        What is read: the file or folder itself, which may be below the one that was given.
    files
        Its parts, by role.
    remarks
        What to know: text and severity.
    """

    kind: str
    path: Path
    place: Path
    files: dict[str, Path]
    remarks: tuple[tuple[str, str], ...] = ()


def find(path: Path) -> Found:
    """Tell what a path is.

    Raises
    ------
    InputError
        If it is missing, of no known kind, a folder of several such things, or cannot be read.
    """
    try:
        return _find(path)
    except PermissionError as error:
        raise InputError(f"{error.filename or path}: cannot be read (permission denied)") from error


def _find(path: Path) -> Found:
    if "://" in str(path) or re.match(r"^[a-z0-9]+:/[^/]", str(path)):
        raise InputError(
            f"{path}: a URL, which the pipeline fetches and this program does not; expected a file on this machine"
        )
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if path.is_dir():
        return _folder(path)
    return _file(io.require_file(path))


# Files ----------------------------------------------------------------------------------------------------------------


def _file(path: Path) -> Found:
    import h5py

    if h5py.is_hdf5(path):
        return _hdf5(path)
    with path.open("rb") as file:
        start = file.read(600)
    if start.startswith(b"\x89HDF"):
        raise InputError(f"{path}: truncated or damaged, expected a whole HDF5 file")
    name = path.name.lower()
    if zipfile.is_zipfile(path):
        return _zip(path)
    inner, packed = start, False
    if start[:2] == b"\x1f\x8b":
        packed = True
        try:
            with gzip.open(path) as file:
                inner = file.read(600)
        except (OSError, EOFError) as error:
            raise InputError(f"{path}: truncated or damaged, expected a whole gzip file ({error})") from error
    _refuse_foreign(path, name, inner, start, packed)
    if inner.startswith(b"%%MatrixMarket"):
        return _mtx_file(path)
    if b"\x00" not in inner or inner[:2] in (b"\xff\xfe", b"\xfe\xff"):
        if name.endswith((".h5ad", ".h5", ".hdf5", ".h5mu", ".loom")):
            raise InputError(
                f"{path}: not an h5ad file or other HDF5 file (no HDF5 signature), it is text; expected {READ}"
            )
        return Found("table", path, path, {})
    raise InputError(f"{path}: of no kind that is read ({_ending(path)}), expected {READ}")


def _ending(path: Path) -> str:
    return "".join(path.suffixes[-2:]) or "no ending"


_RDS = "in R: library(zellkonverter); writeH5AD(as.SingleCellExperiment(readRDS(FILE)), 'x.h5ad')"


def _refuse_foreign(path: Path, name: str, inner: bytes, start: bytes, packed: bool) -> None:
    """Refuse files of known other kinds by what they are."""
    what = ""
    plain = name.removesuffix(".gz").removesuffix(".bz2").removesuffix(".xz")
    if inner[:5] in (b"RDX2\n", b"RDX3\n", b"RDA2\n", b"RDA3\n") or plain.endswith((".rdata", ".rda")):
        what = "an R workspace; in R: load() it, then write its object as h5ad (zellkonverter::writeH5AD)"
    elif (inner[:2] in (b"X\n", b"A\n", b"B\n") and (packed or plain.endswith(".rds"))) or plain.endswith(
        (".rds", ".qs", ".qs2")
    ):
        what = f"an R object; {_RDS}"
    elif start.startswith(b"BZh") or start.startswith(b"\xfd7zXZ") or start.startswith(b"\x28\xb5\x2f\xfd"):
        what = "a compressed file; unpack it first"
        if plain.endswith(".rds"):
            what = f"an R object; {_RDS}"
    elif inner.startswith(b"\x89HDF"):
        what = "a compressed HDF5 file; gunzip it first"
    elif inner[257:262] == b"ustar" or plain.endswith((".tar", ".tgz")):
        what = "an archive; unpack it first and give the folder"
    elif start.startswith(b"PAR1"):
        what = "a parquet file alone; expected the folder that it belongs to (Space Ranger, Xenium)"
    elif inner.startswith((b"BAM\x01", b"CRAM", b"@HD\t", b"@SQ\t")):
        what = "an alignment of reads; expected counts, as Cell Ranger or STARsolo make them"
    elif (inner[:1] == b"@" and inner.count(b"\n+")) or plain.endswith((".fastq", ".fq")):
        what = "raw reads (FASTQ); expected counts, as Cell Ranger or STARsolo make them"
    elif inner.lstrip()[:1] == b"<" or inner.lstrip()[:9].lower() == b"<!doctype":
        what = "a web page or XML, perhaps an error page that was downloaded in place of the file; download it again"
    elif inner.startswith(b"version https://git-lfs"):
        what = "a pointer of Git LFS and not the file; run git lfs pull"
    elif inner.startswith(b"\xd0\xcf\x11\xe0"):
        what = "an old Excel workbook; save it as CSV"
    elif start[:4] in (b"II*\x00", b"MM\x00*", b"\x89PNG", b"\xff\xd8\xff\xe0", b"II+\x00"):
        what = "an image; expected counts"
    elif start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        what = "a Python pickle, which is not read as it can run any code; write the AnnData by write_h5ad"
    elif start.startswith(b"\x93NUMPY"):
        what = "a bare NumPy array without names of genes and cells; write an h5ad"
    elif start.startswith(b"%PDF"):
        what = "a PDF"
    elif inner.lstrip()[:1] in (b"{", b"[") and plain.endswith(".json"):
        what = "a JSON file"
    elif plain.endswith(".cloupe"):
        what = "a file of the Loupe Browser; expected filtered_feature_bc_matrix.h5 of the same outs folder"
    if what:
        raise InputError(f"{path}: this is {what}. Expected {READ}")


def _zip(path: Path) -> Found:
    with zipfile.ZipFile(path) as archive:
        members = archive.namelist()
    if any(name.startswith("xl/") for name in members):
        raise InputError(f"{path}: this is an Excel workbook; save it as CSV. Expected {READ}")
    if any(name.rsplit("/", 1)[-1] in (".zgroup", "zarr.json") for name in members):
        return Found("zarr", path, path, {})
    if members and all(name.endswith(".npy") for name in members):
        raise InputError(
            f"{path}: this is a NumPy archive without names of genes and cells; write an h5ad. Expected {READ}"
        )
    raise InputError(f"{path}: this is a zip archive ({some(members, 3)}); unpack it first and give the folder or file")


def _hdf5(path: Path) -> Found:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            keys = set(file)
            groups = {key for key in keys if isinstance(file.get(key), h5py.Group)}
            old = {key for key in groups if {"barcodes", "indptr", "data"} <= set(file[key])}
            inside = {key: set(file[key]) for key in groups}
    except Exception as error:
        raise InputError(
            f"{path}: truncated or damaged, expected an h5ad file or another HDF5 file ({error})"
        ) from error
    if "features" in inside.get("matrix", ()) or "barcodes" in inside.get("matrix", ()):
        return Found("10x", path, path, {"matrix": path})
    if {"obs", "var"} <= keys and "mod" not in keys:
        return Found("h5ad", path, path, {})
    if "mod" in keys:
        return Found("h5mu", path, path, {})
    if {"row_attrs", "col_attrs"} <= keys:
        return Found("loom", path, path, {})
    if old:
        return Found("10x", path, path, {"matrix": path})
    name = path.name
    foreign = {
        "an h5Seurat file; in R: library(SeuratDisk); Convert(FILE, dest = 'h5ad')": {"assays"} <= keys
        or {"meta.data"} <= keys,
        "a molecule_info file of Cell Ranger; expected filtered_feature_bc_matrix.h5 of the same folder": "barcode_idx"
        in keys,
        "a Stereo-seq file (GEF); in Python: stereopy's st.io.stereo_to_anndata": bool({"geneExp", "cellBin"} & keys),
        "the weights of a network": bool({"model_weights", "layer_names"} & keys),
    }
    for what, fits in foreign.items():
        if fits:
            raise InputError(f"{path}: this is {what}. Expected {READ}")
    wanted = "obs and var" if not {"obs", "var"} & keys else " and ".join(sorted({"obs", "var"} - keys))
    kind = "a 10x HDF5 file or an h5ad file" if name.lower().endswith((".h5", ".hdf5")) else "an h5ad file"
    raise InputError(f"{path}: not {kind}, {wanted} is missing; found {sorted(keys)}")


def _mtx_file(path: Path) -> Found:
    """Find the names that belong to a matrix.mtx, by what its name begins with."""
    for folder in dict.fromkeys((path.parent, path.resolve().parent)):
        # a file that is linked to from elsewhere has its companions where it really is
        files = sorted(each for each in folder.iterdir() if each.is_file())
        found = _companions(path if folder == path.parent else path.resolve(), files)
        if found:
            return Found("mtx", path, path, {"matrix": path, **found})
    raise InputError(
        f"{path}: a matrix.mtx without its names: no file of barcodes (barcodes.tsv) and of features (features.tsv, "
        "genes.tsv) lies with it; give the folder of all three"
    )


# Folders --------------------------------------------------------------------------------------------------------------


def _folder(path: Path) -> Found:
    found = _below(path, path, 0)
    if found is None:
        inside = sorted(each.name for each in path.iterdir())
        raise InputError(
            f"{path}: nothing in this folder is read: it holds {some(inside) or 'nothing'}, expected one of {READ}"
        )
    if found.place != path:
        below = found.place.relative_to(path)
        return Found(
            found.kind,
            path,
            found.place,
            found.files,
            (*found.remarks, (f"{below} in the folder that was given is read", "info")),
        )
    return found


def _below(given: Path, folder: Path, depth: int) -> Found | None:
    """Tell what a folder is; where it is nothing itself, find the one thing below it."""
    own = _itself(given, folder)
    if own is not None or depth > _DEPTH:
        return own
    found: list[Found] = []
    errors: list[InputError] = []
    for each in sorted(folder.iterdir()):
        if each.name.startswith(".") or (each.is_dir() and each.name.lower() in _SKIPPED):
            continue
        if each.is_dir():
            below = _below(given, each, depth + 1)
            if below is not None:
                found.append(below)
        elif each.suffix.lower() in (".h5ad", ".h5mu", ".loom", ".h5") and not _RAW.match(each.name):
            try:
                one = _file(io.require_file(each))
                found.append(Found(one.kind, given, each, one.files or {"matrix": each}))
            except InputError as error:
                errors.append(error)
    if len(found) > 1:
        raise InputError(
            f"{given}: this folder holds several things that are read "
            f"({some((str(each.place.relative_to(given)) for each in found), 8)}), "
            "expected one; a samplesheet takes a line for each"
        )
    if not found and errors:
        raise errors[0]
    return found[0] if found else None


def _itself(given: Path, folder: Path) -> Found | None:
    """Tell what a folder is, without a look below it other than for its own parts."""
    entries = {each.name: each for each in sorted(folder.iterdir())}
    if ".zgroup" in entries or "zarr.json" in entries or ".zattrs" in entries:
        return Found("zarr", given, folder, {})
    files = {name: each for name, each in entries.items() if each.is_file()}

    def first(pattern: str) -> Path | None:
        return next((each for name, each in files.items() if re.fullmatch(pattern, name, re.IGNORECASE)), None)

    cells = first(r".*\bcells\.parquet") or first(r".*cells\.csv(?:\.gz)?")
    matrix = first(r".*cell_feature_matrix\.h5") or (
        entries.get("cell_feature_matrix")
        if "cell_feature_matrix" in entries and entries["cell_feature_matrix"].is_dir()
        else None
    )
    if matrix is not None and cells is not None:
        return Found("xenium", given, folder, {"matrix": matrix, "cells": cells})
    by_gene, about = first(r".*cell_by_gene.*\.csv(?:\.gz)?"), first(r".*cell_metadata.*\.csv(?:\.gz)?")
    if by_gene is not None:
        if about is None:
            raise InputError(f"{folder}: {by_gene.name} of MERSCOPE has no cell_metadata.csv with it, expected both")
        return Found("merscope", given, folder, {"matrix": by_gene, "cells": about})
    expressed, about = first(r".*exprMat_file\.csv(?:\.gz)?"), first(r".*metadata_file\.csv(?:\.gz)?")
    if expressed is not None and about is not None:
        return Found("cosmx", given, folder, {"matrix": expressed, "cells": about})
    if "binned_outputs" in entries and entries["binned_outputs"].is_dir():
        return _bins(given, entries["binned_outputs"])
    if any(re.fullmatch(r"square_\d+um", name) for name in entries):
        return _bins(given, folder)
    return _tenx_folder(given, folder, files, entries)


def _bins(given: Path, folder: Path) -> Found:
    bins = sorted(each for each in folder.iterdir() if each.is_dir() and re.fullmatch(r"square_\d+um", each.name))
    if not bins:
        raise InputError(f"{folder}: no bins of Visium HD in it (square_008um, ...)")
    chosen = next((each for each in bins if each.name == BIN), bins[-1])
    found = _itself(given, chosen)
    if found is None:
        raise InputError(f"{chosen}: bins of Visium HD without filtered_feature_bc_matrix.h5")
    text = (
        f"of {len(bins)} sizes of Visium HD's bins {chosen.name} are read; name another folder for "
        f"{some(each.name for each in bins if each != chosen)}"
    )
    return Found(found.kind, given, chosen, found.files, ((text, "warning"),) if len(bins) > 1 else ())


def _tenx_folder(given: Path, folder: Path, files: dict[str, Path], entries: dict[str, Path]) -> Found | None:
    """Space Ranger's and Cell Ranger's folders, and those of three files in Matrix Market's format."""
    spatial = entries["spatial"] if "spatial" in entries and entries["spatial"].is_dir() else None
    positions = [
        each for place in (spatial, folder) if place for each in sorted(place.iterdir()) if _POSITIONS.match(each.name)
    ]
    matrices = [each for name, each in files.items() if _MATRICES.match(name)]
    packed = next(
        (
            each
            for name, each in entries.items()
            if each.is_dir() and re.search(r"(?:filtered_feature_bc_matrix|filtered_gene_bc_matrices)$", name)
        ),
        None,
    )
    if not matrices and not packed and positions:
        # counts of all spots are enough where positions say which are in tissue
        matrices = [each for name, each in files.items() if _RAW.match(name) and name.endswith(".h5")]
    if len(matrices) > 1:
        raise InputError(
            f"{folder}: several matrices ({some(each.name for each in matrices)}), expected one; put each into "
            "a folder of its own"
        )
    about: dict[str, Path] = {}
    if matrices:
        about = {"matrix": matrices[0]}
    elif packed is not None:
        about = trio(packed) or {}
    else:
        about = trio(folder) or {}
    if not about:
        if positions or spatial:
            raise InputError(
                f"{folder}: positions of spots without counts: no filtered_feature_bc_matrix.h5 and no folder with "
                f"matrix.mtx in it; found {some(entries)}"
            )
        return None
    if spatial is not None and not positions:
        raise InputError(
            f"{spatial}: tissue_positions.csv: no such file (nor tissue_positions_list.csv, "
            f"tissue_positions.parquet); found {some(sorted(each.name for each in spatial.iterdir())) or 'nothing'}"
        )
    if positions:
        best = sorted(positions, key=lambda each: ("_list" in each.name, each.suffix != ".parquet"))[0]
        return Found("visium", given, folder, {**about, "positions": best})
    if "barcodes" in about:
        return Found("mtx", given, folder, about)
    return Found("10x", given, folder, about)


def trio(folder: Path) -> dict[str, Path] | None:
    """Find matrix.mtx and its names in a folder, or in the one folder of a genome below it."""
    files = sorted(each for each in folder.iterdir() if each.is_file())
    matrices = [each for each in files if _MTX.match(each.name)]
    if len(matrices) > 1:
        plain = {each.name.removesuffix(".gz"): each for each in reversed(matrices)}
        matrices = list(plain.values())
    if len(matrices) > 1:
        raise InputError(
            f"{folder}: several matrices ({some(sorted(each.name for each in matrices))}), expected one; a "
            "samplesheet takes a line for each, with the .mtx file as path"
        )
    if not matrices:
        below = sorted(each for each in folder.iterdir() if each.is_dir())
        genomes = [each for each in below if any(_MTX.match(inner.name) for inner in each.iterdir() if inner.is_file())]
        if folder.name.endswith("gene_bc_matrices") and len(genomes) == 1:
            return trio(genomes[0])
        return None
    found = _companions(matrices[0], files)
    if found is None:
        raise InputError(
            f"{matrices[0]}: a matrix.mtx without its names: expected barcodes.tsv and features.tsv (or genes.tsv) in "
            f"{folder}, found {some(each.name for each in files)}"
        )
    return {"matrix": matrices[0], **found}


def _companions(matrix: Path, files: list[Path]) -> dict[str, Path] | None:
    """Names of cells and features of a matrix, of several samples in a folder those with its prefix."""

    def best(words: str) -> Path | None:
        # the word ends where letters do: cellranger_summary.csv holds no cells
        pattern = re.compile(
            rf"(?P<prefix>.*?)(?:{words})(?P<more>(?![a-z])[\w-]*)\.(?:tsv|csv|txt)(?:\.gz)?$", re.IGNORECASE
        )
        fitting = [(match, each) for each in files if (match := pattern.match(each.name))]
        fitting = [
            (match, each) for match, each in fitting if not match["prefix"] or matrix.name.startswith(match["prefix"])
        ]
        if len(fitting) < 2:
            return fitting[0][1] if fitting else None

        def rank(item: tuple[re.Match[str], Path]) -> tuple[bool, int, bool, bool]:
            match, each = item
            # of those that fit, the longest common prefix, then the packed file, as Cell Ranger writes it
            return _may_name(each, sizes()), len(match["prefix"]), not match["more"], each.suffix == ".gz"

        return max(fitting, key=rank)[1]

    @functools.cache
    def sizes() -> tuple[int, ...]:
        from scipy.io import mminfo

        try:
            return mminfo(matrix)[:2]
        except Exception:
            # that it is damaged is said where it is read
            return ()

    barcodes, features = (
        best("barcodes?|cells?|cell_?(?:metadata|names?|ids?)|obs"),
        best("features?|genes?|gene_?(?:names?|ids?|symbols?)|var"),
    )
    if barcodes is None or features is None:
        return None
    return {"barcodes": barcodes, "features": features}


def _may_name(path: Path, sizes: tuple[int, ...]) -> bool:
    """Tell whether a file has a line for every row or column of a matrix, and perhaps a header."""
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            lines = sum(1 for line in file if line.strip())
    except (OSError, EOFError):
        return False
    return lines in sizes or lines - 1 in sizes
