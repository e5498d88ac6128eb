#!/usr/bin/env python3
"""Whether two results of a run hold the same, but for times, memory, attempts and versions: same.py A B.

`same.py --table A` prints checksums of counts and embeddings for docs/reproducibility.md.

Every file of `dataset`, `fits`, `models`, `scores` and the simulated counts is compared by content. Ends with 1 and
names what differs, with 2 where there is nothing to compare.
"""

import hashlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

FOLDERS = ("simulated", "dataset", "fits", "models", "scores")
VARY = {"wall_s", "peak_mb", "attempts", "versions", "code"}


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of nested mappings, lists and HDF5 groups that does not vary, with its place."""
    if isinstance(value, h5py.Group | dict):
        for name in sorted(value):
            if name not in VARY:
                yield from leaves(value[name], f"{place}/{name}")
    elif isinstance(value, list):
        for number, one in enumerate(value):
            yield from leaves(one, f"{place}/{number}")
    elif isinstance(value, h5py.Dataset):
        yield place, np.asarray(value[()])
    else:
        yield place, value


def bytes_of(value: Any) -> bytes:
    if isinstance(value, np.ndarray):
        # text is objects
        content = repr(value.tolist()).encode() if value.dtype == object else value.tobytes()
        return f"{value.dtype} {value.shape} ".encode() + content
    return json.dumps(value).encode()


def digests(path: Path) -> dict[str, str]:
    """Digest of every value in a file, by its place; of another file's bytes."""
    if path.suffix == ".h5ad":
        with h5py.File(path) as file:
            return {place: hashlib.sha256(bytes_of(value)).hexdigest() for place, value in leaves(file)}
    if path.suffix == ".json":
        found = leaves(json.loads(path.read_text()))
        return {place: hashlib.sha256(bytes_of(value)).hexdigest() for place, value in found}
    return {"": hashlib.sha256(path.read_bytes()).hexdigest()}


def contents(folder: Path) -> dict[str, dict[str, str]]:
    files = [path for name in FOLDERS for path in sorted((folder / name).rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): digests(path) for path in files}


def table(folder: Path) -> dict[tuple[str, str], str]:
    """Checksums of counts and embeddings, by file and slot."""
    slots = r"/(X|layers/counts)(/data|/indices|/indptr)?|/obsm/X_[^/]+"
    return {
        (name, place.removeprefix("/")): checksum
        for name, found in contents(folder).items()
        for place, checksum in found.items()
        if name.endswith(".h5ad") and re.fullmatch(slots, place)
    }


def main() -> int:
    if sys.argv[1] == "--table":
        for (name, place), checksum in table(Path(sys.argv[2])).items():
            print(f"| `{name}` | `{place}` | `{checksum[:32]}` |")
        return 0
    first, second = (contents(Path(folder)) for folder in sys.argv[1:3])
    if not first:
        print(f"{sys.argv[1]}: nothing to compare")
        return 2
    different = [
        f"{name}{place}"
        for name in sorted({*first, *second})
        for place in sorted({*first.get(name, {"": "x"}), *second.get(name, {"": "y"})})
        if first.get(name, {}).get(place) != second.get(name, {}).get(place)
    ]
    for place in different[:20]:
        print(f"differs: {place}")
    print(f"{len(first)} files, {len(different)} differences")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
