"""What a change of structure must not change: results of every method on small simulations, compared bit by bit.

    python benchmarks/guard.py record FOLDER       # before the change; 10 minutes of CPU time
    python benchmarks/guard.py compare FOLDER      # after it, on the same machine: exit code 1 where a number differs
    python benchmarks/guard.py compare FOLDER --only batchblend,popari --settings thesis

Programs are called by their names and options, so the record outlives a move of the code behind them. Kept are all
arrays and numbers of every fit (embeddings, amounts, offsets, factors, evidence, counterfactuals), of the saved models,
of ``fit-batchblend --apply`` and ``fit-scmedal --apply``, and of the score table of ``-profile test``. Text, times,
memory and versions are left out. Records are of one machine: they are compared there and not committed; how many
arrays were compared and how many differ is (results/guard.csv).
"""

import environment

# isort: split
import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

# results of some libraries depend on the number of threads; set before any of them is imported
os.environ |= {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMBA")}

import h5py
import numpy as np
import yaml
from record import record

ROOT = environment.ROOT

COUNTS = ["--noise", "nb", "--depth", "1000", "--dispersion", "0.1"]
SETTINGS: dict[str, list[str]] = {
    "thesis": [],
    "mix": ["--mix", "shifted"],
    "factors": ["--sigma-gene", "0.3"],
    "donors": ["--preset", "donors", "--batches", "4", "--cells", "100", *COUNTS],
}
"""Options of ``simulate`` by name."""
SEEDS = (0, 1)
OPTIONS: dict[str, list[str]] = {
    "batchblend": ["--corrected"],
    "scmedal": ["--counterfactual", "average", "--max-epochs", "3"],
    "scvi": ["--max-epochs", "3"],
    "scanvi": ["--max-epochs", "3"],
    "saucie": ["--max-epochs", "20"],
    "staligner": ["--max-epochs", "20"],
}
"""Options of a method's program in addition to those of all."""
DONORS = {"scmedal": ["--groups", "condition"]}
"""Options of a method on donors, which have two groups of batches."""
APPLIED = ("batchblend", "popari", "scmedal")
NOT_COMPARED = {"wall_s", "peak_mb", "versions", "cpu_s", "code"}
"""Names that differ between equal runs."""


def call(*arguments: object) -> int:
    """Run a program in this process, which saves its imports, and return its exit code."""
    from unbatch.cli import main

    try:
        main([str(part) for part in arguments], standalone_mode=False)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def numbers(path: Path) -> dict[str, np.ndarray]:
    """All numeric arrays and scalars of an h5ad or safetensors file, or of JSON, by their place."""
    if path.suffix == ".safetensors":
        from safetensors.numpy import load_file

        return load_file(path)
    if path.suffix == ".json":
        return dict(leaves(json.loads(path.read_text())))
    found: dict[str, np.ndarray] = {}

    def keep(name: str, item: h5py.Group | h5py.Dataset) -> None:
        numeric = isinstance(item, h5py.Dataset) and item.shape is not None and item.dtype.kind in "biuf"
        if numeric and not NOT_COMPARED & set(name.split("/")):
            found[name] = item[()]

    with h5py.File(path) as file:
        file.visititems(keep)
    return found


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Numbers of nested lists and mappings by their place; rows that have an ``id`` by that."""
    if isinstance(value, Mapping):
        for name, each in value.items():
            if name not in NOT_COMPARED:
                yield from leaves(each, f"{place}/{name}")
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from leaves(each, f"{place}/{each.get('id', number) if isinstance(each, Mapping) else number}")
    elif isinstance(value, bool | int | float):
        yield place, np.asarray(value)


def cards() -> dict[str, Any]:
    """All methods, by name."""
    return yaml.safe_load((ROOT / "assets" / "methods.yml").read_text(encoding="utf-8"))


def fits(folder: Path, settings: list[str], only: list[str] | None) -> None:
    """Make the datasets and fit every method to them; each fit's numbers become an npz file."""
    for setting in settings:
        for seed in SEEDS:
            with tempfile.TemporaryDirectory() as scratch:
                name = f"{setting}.{seed}"
                raw, data = Path(scratch) / "raw.h5ad", Path(scratch) / "data.h5ad"
                must(call("simulate", "--quiet", "--seed", seed, *SETTINGS[setting], "-o", raw), "simulate")
                options = ["--quiet", "--label-key", "cell_type", "--allow-continuous"]
                must(call("preprocess", raw, *options, "-o", data), "preprocess")
                keep(folder / f"{name}.dataset.npz", numbers(data))
                for method, card in cards().items():
                    if (only and method not in only) or card["program"] == "fit-seurat":
                        continue
                    fit(folder, name, method, card["program"], data, seed)


def fit(folder: Path, name: str, method: str, program: str, data: Path, seed: int) -> None:
    """Fit one method to one dataset, apply its model where it has one, and keep the numbers."""
    out, model = data.with_name(f"{method}.fit.h5ad"), data.with_name(f"{method}.model")
    named = ["--method", method] if program != "fit-scmedal" else []
    options = OPTIONS.get(method, []) + (DONORS.get(method, []) if name.startswith("donors") else [])
    saved = ["--model", model] if method in APPLIED else []
    code = call(program, data, *named, "--quiet", "--seed", seed, *options, *saved, "-o", out)
    found = {"exit_code": np.asarray(code)}
    if code == 0:
        found |= numbers(out)
    if code == 0 and saved:
        found |= {f"model/{place}": value for place, value in numbers(model / "weights.safetensors").items()}
        found |= {f"config{place}": value for place, value in numbers(model / "config.json").items()}
        again = data.with_name(f"{method}.applied.h5ad")
        must(call(program, data, "--quiet", "--apply", model, "-o", again), f"{program} --apply")
        found |= {f"applied/{place}": value for place, value in numbers(again).items()}
    keep(folder / f"{name}.{method}.npz", found)
    print(name, method, "exit code" if code else f"{len(found)} arrays", code or "", flush=True)


def scores(folder: Path) -> None:
    """Numbers of the score table of ``-profile test``."""
    environment = os.environ | {"NXF_ANSI_LOG": "false", "NXF_OFFLINE": "true", "NXF_SYNTAX_PARSER": "v2"}
    with tempfile.TemporaryDirectory() as scratch:
        command = ["nextflow", "run", str(ROOT), "-profile", "test", "--outdir", "out"]
        subprocess.run(command, cwd=scratch, env=environment, check=True, stdout=subprocess.DEVNULL)
        keep(folder / "profile_test.npz", numbers(Path(scratch) / "out" / "scores" / "simulated.scores.json"))
    print("profile test scored", flush=True)


def must(code: int, what: str) -> None:
    """End where a step that every comparison needs has failed."""
    if code:
        sys.exit(f"guard: {what} ended with {code}")


def keep(path: Path, found: dict[str, np.ndarray]) -> None:
    """Write arrays under numbered names, as places have slashes."""
    places = sorted(found)
    np.savez(path, places=np.array(places), **{str(n): found[place] for n, place in enumerate(places)})


def kept(path: Path) -> dict[str, np.ndarray]:
    """Read what `keep` wrote."""
    with np.load(path) as file:
        return {str(place): file[str(number)] for number, place in enumerate(file["places"])}


def differences(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> tuple[list[str], list[str]]:
    """Return what differs, and which places are in one of the two only."""
    moved = [f"{place}: gone" for place in before.keys() - after.keys()]
    moved += [f"{place}: new" for place in after.keys() - before.keys()]
    wrong = []
    for place in sorted(before.keys() & after.keys()):
        old, new = before[place], after[place]
        if old.shape != new.shape or old.dtype != new.dtype:
            wrong.append(f"{place}: {old.shape} {old.dtype} became {new.shape} {new.dtype}")
        elif old.tobytes() != new.tobytes():
            gap = np.abs(np.nan_to_num(old.astype(float)) - np.nan_to_num(new.astype(float))).max()
            wrong.append(f"{place}: differs by up to {gap:.3g}, values up to {np.abs(np.nan_to_num(old)).max():.3g}")
    return wrong, sorted(moved)


def main() -> int:
    """Record or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["record", "compare"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", help="methods, separated by commas, without the pipeline's scores")
    parser.add_argument("--settings", default=",".join(SETTINGS), help="simulations, separated by commas")
    given = parser.parse_args()
    only = given.only.split(",") if given.only else None
    settings = given.settings.split(",")
    unknown = {*(only or [])} - cards().keys() | {*settings} - SETTINGS.keys()
    if unknown:
        parser.error(f"no method or setting {', '.join(sorted(unknown))}")
    place = given.folder if given.task == "record" else Path(tempfile.mkdtemp(prefix="guard."))
    place.mkdir(parents=True, exist_ok=True)
    fits(place, settings, only)
    if only is None:
        scores(place)
    if given.task == "record":
        return 0
    names = {path.name for path in place.glob("*.npz")}
    if only is None and settings == list(SETTINGS):
        names |= {path.name for path in given.folder.glob("*.npz")}
    bad = compared = 0
    for name in sorted(names):
        absent = [what for what, folder in (("record", given.folder), ("run", place)) if not (folder / name).exists()]
        if absent:
            wrong, moved = [f"not in the {absent[0]}"], []
        else:
            before, after = kept(given.folder / name), kept(place / name)
            wrong, moved = differences(before, after)
            compared += len(before.keys() & after.keys())
        bad += len(wrong)
        for line in wrong + moved:
            print(f"{name.removesuffix('.npz')}: {line}")
    data = f"simulations {', '.join(settings)}" + (" and -profile test" if only is None else "")
    methods = "all methods" if only is None else ", ".join(only)
    record("guard", f"{data}, {methods}", "guard", {"arrays compared": compared, "arrays that differ": bad})
    print("equal bit by bit, but for what is named above as gone or new" if not bad else f"{bad} places differ")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
