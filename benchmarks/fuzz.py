"""Mutated inputs: each must end in a right result or in a sentence, never in a wrong result without a warning.

    python benchmarks/fuzz.py [N] [--seed S] [--keep FOLDER]

Valid inputs of every kind (h5ad, 10x HDF5, matrix.mtx, table, samplesheet) are damaged N times (2,000): cut off, bytes
changed, arrays of a file shortened, reordered or given other types, axes exchanged. What `preprocess` makes of each is

- refused: exit code 2 and one sentence,
- right: the counts, cells and genes of the input as it was,
- said: another result, with a warning,
- silent: another result without a warning, for a change that a reader could see. Values that another value may stand
  for (a count changed into a count, names of cells) cannot be seen, and are not counted as silent,
- crash: any other end.
"""

import argparse
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from click.testing import CliRunner
from scipy.io import mmwrite
from scipy.sparse import coo_matrix, csr_matrix

CELLS, GENES = 40, 30


@dataclass(frozen=True)
class Outcome:
    """How a try ended: refused, right, said, silent or crash; what was changed and what was said."""

    end: str
    kind: str
    change: str
    text: str


def sample(seed: int) -> ad.AnnData:
    """Make counts of 40 cells and 30 genes, at least one in each cell."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(2, (CELLS, GENES)).astype(np.float32)
    counts[:, 0] += 1
    obs = pd.DataFrame(
        {"cell_type": pd.Categorical(np.where(np.arange(CELLS) % 2, "T cell", "B cell")), "donor": f"D{seed}"},
        index=[f"CELL{seed}ACGTACGTAC{i}-1" for i in range(CELLS)],
    )
    var = pd.DataFrame({"gene_ids": [f"ENSG{i:011d}" for i in range(GENES)]}, index=[f"Gene{i}" for i in range(GENES)])
    return ad.AnnData(csr_matrix(counts), obs=obs, var=var)


def write(folder: Path, kind: str, number: int) -> Path:
    """Write a sample as a file or folder of a kind, and return the file that is mutated."""
    adata = sample(number)
    counts = adata.X.astype(np.int32)
    if kind == "h5ad":
        path = folder / f"{number}.h5ad"
        adata.write_h5ad(path)
    elif kind == "10x":
        path = folder / f"{number}.h5"
        with h5py.File(path, "w") as file:
            group = file.create_group("matrix")
            group["barcodes"] = np.array(adata.obs_names, dtype="S")
            group["data"], group["indices"], group["indptr"] = counts.data, counts.indices.astype("i8"), counts.indptr
            group["shape"] = np.array([GENES, CELLS], dtype="i4")
            group["features/id"] = np.array(adata.var["gene_ids"], dtype="S")
            group["features/name"] = np.array(adata.var_names, dtype="S")
            group["features/feature_type"] = np.array(["Gene Expression"] * GENES, dtype="S")
    elif kind == "mtx":
        place = folder / str(number)
        place.mkdir()
        mmwrite(place / "matrix.mtx", coo_matrix(counts.T))
        (place / "barcodes.tsv").write_text("\n".join(adata.obs_names) + "\n")
        lines = [f"{adata.var['gene_ids'].iloc[i]}\t{adata.var_names[i]}\tGene Expression" for i in range(GENES)]
        (place / "features.tsv").write_text("\n".join(lines) + "\n")
        path = place / "matrix.mtx"
    else:
        path = folder / f"{number}.csv"
        frame = pd.DataFrame(counts.toarray(), index=adata.obs_names, columns=adata.var_names)
        frame.rename_axis("cell").to_csv(path)
    return path


# Changes: each returns whether a reader could see it ------------------------------------------------------------------


def cut(path: Path, rng: np.random.Generator) -> bool:
    """Leave off the end of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: int(rng.integers(0, len(content)))])
    return path.suffix not in (".csv", ".tsv")


def noise(path: Path, rng: np.random.Generator) -> bool:
    """Change some bytes, which may be values."""
    content = bytearray(path.read_bytes())
    for at in rng.integers(0, len(content), int(rng.integers(1, 30))):
        content[at] = int(rng.integers(0, 256))
    path.write_bytes(bytes(content))
    return False


def shuffled(path: Path, rng: np.random.Generator) -> bool:
    """Exchange two blocks of a file."""
    content = path.read_bytes()
    size = int(rng.integers(1, max(2, len(content) // 4)))
    first, second = (int(at) for at in rng.integers(0, len(content), 2))
    first, second = min(first, second), max(first, second)
    size = min(size, second - first)
    middle = content[first + size : second]
    end = content[second + size :]
    path.write_bytes(content[:first] + content[second : second + size] + middle + content[first : first + size] + end)
    return False


def lines_lost(path: Path, rng: np.random.Generator) -> bool:
    """Drop, double or join lines of a text."""
    lines = path.read_text(errors="replace").splitlines()
    at = int(rng.integers(0, len(lines)))
    match int(rng.integers(0, 3)):
        case 0:
            lines.pop(at)
        case 1:
            lines.insert(at, lines[at])
        case _:
            lines[at] = lines[at][: len(lines[at]) // 2]
    path.write_text("\n".join(lines) + "\n")
    return False


def array_changed(path: Path, rng: np.random.Generator) -> bool:
    """Shorten an array of an HDF5 file, give it another type or remove it."""
    with h5py.File(path, "r+") as file:
        found: list[str] = []
        file.visititems(lambda name, each: found.append(name) if isinstance(each, h5py.Dataset) else None)
        name = found[int(rng.integers(0, len(found)))]
        values = file[name][()]
        attributes = dict(file[name].attrs)
        what = int(rng.integers(0, 5))
        del file[name]
        if what == 0 or np.ndim(values) == 0:
            return not name.startswith(("uns", "obsm", "varm"))
        if what == 1:
            values = values[: len(values) // 2]
        elif what == 2:
            values = values[::-1]
        elif what == 3:
            values = (
                np.asarray([str(value) for value in values], dtype="S")
                if values.dtype.kind in "iuf"
                else np.arange(len(values))
            )
        else:
            values = -np.asarray(values, dtype=np.float64) - 0.5 if values.dtype.kind in "iuf" else values[:0]
        file[name] = values
        file[name].attrs.update(attributes)
        # reversed names and values are others, which nobody can see
        return what != 2 and not name.startswith(
            ("obs/cell_type", "obs/donor", "var/gene_ids", "obs/_index", "var/_index")
        )


def axes_exchanged(path: Path, rng: np.random.Generator) -> bool:
    """Exchange cells and genes of the matrix alone."""
    with h5py.File(path, "r+") as file:
        if "X" in file:
            file["X"].attrs["shape"] = file["X"].attrs["shape"][::-1]
        else:
            shape = file["matrix/shape"][:][::-1]
            del file["matrix/shape"]
            file["matrix/shape"] = shape
    return True


CHANGES: dict[str, list[Callable[[Path, np.random.Generator], bool]]] = {
    "h5ad": [cut, noise, shuffled, array_changed, array_changed, array_changed, axes_exchanged],
    "10x": [cut, noise, shuffled, array_changed, array_changed, array_changed, axes_exchanged],
    "mtx": [cut, noise, shuffled, lines_lost],
    "table": [cut, noise, shuffled, lines_lost],
    "sheet": [cut, noise, shuffled, lines_lost],
}


def attempt(folder: Path, kind: str, number: int, seed: int) -> Outcome:
    """Make two samples of a kind, change the first or the sheet, and see what becomes of them."""
    from unbatch.cli.preprocess import main

    rng = np.random.default_rng([seed, number])
    place = folder / str(number)
    place.mkdir()
    form = kind if kind != "sheet" else "h5ad"
    paths = [write(place, form, 0), write(place, form, 1)]
    sheet = place / "sheet.csv"
    named = [path.parent if form == "mtx" else path for path in paths]
    sheet.write_text("sample,path,age\n" + "".join(f"S{i},{path.name},{i + 3}\n" for i, path in enumerate(named)))
    change = CHANGES[kind][int(rng.integers(0, len(CHANGES[kind])))]
    target = sheet if kind == "sheet" else paths[0]
    if form == "mtx" and kind == "mtx":
        target = sorted(named[0].iterdir())[int(rng.integers(0, 3))]
    visible = change(target, rng)
    output = place / "dataset.h5ad"
    done = CliRunner().invoke(main, [str(sheet), "--quiet", "-o", str(output)])
    text = done.output.strip()
    about = f"{change.__name__} of {target.name}"
    # a memory that a file asks for in error is refused by the machine
    if done.exit_code == 2 and "Traceback" not in text and not output.exists():
        return Outcome("refused", kind, about, text)
    if done.exit_code != 0:
        error = f"{type(done.exception).__name__}: {done.exception}"
        return Outcome("crash", kind, about, f"{done.exit_code} {text[-300:]} {error}")
    end = "right" if _is_right(output) else "said" if text else "silent" if visible else "other value"
    shutil.rmtree(place)
    return Outcome(end, kind, about, text)


def _is_right(output: Path) -> bool:
    found = ad.read_h5ad(output)
    expected = np.concatenate([sample(0).X.toarray(), sample(1).X.toarray()])
    counts = found.layers["counts"].toarray()
    return counts.shape == expected.shape and np.array_equal(counts, expected)


def run(tries: int, seed: int, folder: Path) -> list[Outcome]:
    """Try all kinds in turn."""
    kinds = list(CHANGES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [attempt(folder, kinds[number % len(kinds)], number, seed) for number in range(tries)]


def main() -> int:
    """Run, and print how the tries ended and every one that ended badly."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tries", type=int, nargs="?", default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    folder = given.keep or Path(tempfile.mkdtemp(prefix="fuzz."))
    folder.mkdir(exist_ok=True)
    outcomes = run(given.tries, given.seed, folder)
    for (kind, end), count in sorted(Counter((each.kind, each.end) for each in outcomes).items()):
        print(f"{kind:6} {end:12} {count}")
    bad = [(number, each) for number, each in enumerate(outcomes) if each.end in ("crash", "silent")]
    for number, each in bad:
        print(f"{each.end} {number} {each.kind}: {each.change}: {each.text[:400]}")
    if not given.keep:
        shutil.rmtree(folder)
    return len(bad) > 0


if __name__ == "__main__":
    sys.exit(main())
