#!/usr/bin/env bash
# Do older versions of anndata read what the programs wrote, with the same values?
#
#     benchmarks/readable.sh RESULTS      # every .h5ad below this folder
#
# Makes an environment for each version in a temporary folder (by uv, with Python 3.9 and 3.12 of the PATH or fetched),
# describes every element of every file there and in the environment of unbatch (PYTHON, by default python), and compares
# the two; how many elements there are, and how many differ, is recorded (results/readable.csv). Exit 1 if they differ.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
results=${1:?a folder with h5ad files}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mapfile -d '' files < <(find "$results" -name '*.h5ad' -print0 | sort -z)
((${#files[@]})) || { echo "no h5ad file below $results" >&2; exit 2; }

cat > "$scratch/describe.py" <<'PYTHON'
import hashlib
import sys
import warnings
from collections.abc import Mapping

import numpy as np
import pandas as pd

warnings.simplefilter("ignore")
import anndata


def text(values):
    return [None if missing else str(value) for value, missing in zip(values, pd.isna(values))]


def describe(name, value):
    """Print a line for each element: its place, what it is, and a digest of its values."""
    if isinstance(value, Mapping):
        # newer versions have X among the layers, under the name None
        for key in sorted(key for key in value if key is not None):
            describe(f"{name}/{key}", value[key])
        return
    if isinstance(value, pd.DataFrame):
        describe(f"{name}/_index", value.index.to_numpy(dtype=object))
        for key in value:
            describe(f"{name}/{key}", value[key].array)
        return
    if hasattr(value, "tocsr"):
        rows = value.tocsr()
        rows.sort_indices()
        for part in ("indptr", "indices", "data"):
            describe(f"{name}/{part}", getattr(rows, part))
        return
    if isinstance(value, pd.Categorical):
        kind, content = "categories", (value.ordered, text(value.categories), text(np.asarray(value, dtype=object)))
    else:
        value = np.asarray(value)
        if value.dtype.kind in "biuf":
            kind, content = f"{value.dtype.kind} {value.shape}", value.astype("float64").tobytes()
        else:
            kind, content = f"text {value.shape}", text(value.ravel().astype(object))
    digest = hashlib.sha256(content if isinstance(content, bytes) else repr(content).encode()).hexdigest()
    print(name, kind, digest[:16], sep="\t")


for path in sys.argv[1:]:
    data = anndata.read_h5ad(path)
    for slot in ("obs", "var", "uns", "obsm", "varm", "obsp", "varp", "layers", "X"):
        value = getattr(data, slot)
        if value is not None:
            describe(f"{path}:{slot}", dict(value) if slot not in ("obs", "var", "X") else value)
PYTHON

"${PYTHON:-python}" "$scratch/describe.py" "${files[@]}" > "$scratch/here"
failed=0
while read -r version python rest; do
    uv venv --quiet --python "$python" "$scratch/$version"
    # shellcheck disable=SC2086
    uv pip install --quiet --python "$scratch/$version/bin/python" "anndata==$version" $rest
    "$scratch/$version/bin/python" "$scratch/describe.py" "${files[@]}" > "$scratch/there"
    # lines that this version has not, or has otherwise
    differ=$(diff "$scratch/here" "$scratch/there" | tee /dev/stderr | grep -c '^<' || true)
    ((differ == 0)) || failed=1
    "${PYTHON:-python}" "$here/record.py" add --ran 'benchmarks/readable.sh $RESULTS' readable "${#files[@]} files of a results folder" "anndata $version" \
        "elements=$(wc -l < "$scratch/here")" "elements that differ=$differ"
done << 'VERSIONS'
0.8.0 3.9 numpy<1.24 pandas<2 h5py<3.9 scipy<1.11 setuptools<81
0.10.9 3.12 numpy<2.2 pandas<2.3 zarr<3
VERSIONS
exit $failed
