"""All methods with a card on simulated data and on tissue sections; results/peers.csv.

    python benchmarks/peers.py run OUT [--dlpfc DATA.h5ad] [--methods A,B] [--seeds 50,51] [--cells 400] [--minutes 58]
    python benchmarks/peers.py record OUT
    python benchmarks/peers.py report OUT

`run` simulates the thesis preset (2 batches x 225 cells, 100 genes; a dataset per seed, 50 to 54, on which nothing was
tuned) and draws CELLS labelled spots per section of DATA.h5ad, a dataset that `preprocess` wrote, anew for each seed.
Every method runs with the defaults of its card and the same seed, by its own program, a process each, one thread each,
two at a time. OUT/fits.csv gets a row as soon as a fit ends, well or not; OUT/DATASET.scores.json one of
every fit, once the last of a dataset has ended. `run` with the same OUT goes on where it was; what failed is not tried
again unless its row is taken out. Fits after MINUTES are rows, too ("not run").
`record` appends scores, times and memory of these files to the results, which `run` does at its end, and prints
failures; rows have the commit at which a fit was made. `report` makes OUT/report/multiqc_report.html of them,
all seeds together, and draws the cells of the first.
"""

import environment

# isort: split
import argparse
import csv
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from record import commit, record

ROOT = environment.ROOT
CARDS = yaml.safe_load((ROOT / "assets" / "methods.yml").read_text(encoding="utf-8"))
DECLARED = json.loads((ROOT / "assets" / "parameters.json").read_text(encoding="utf-8"))
SEEDS = (50, 51, 52, 53, 54)
FIELDS = ("dataset", "method", "seed", "status", "exit_code", "wall_s", "cpu_s", "commit", "message")
NAMES = {"thesis": "thesis preset", "dlpfc": "DLPFC"}
LIMIT_S = 900
"""After which a fit is ended."""
ENVIRONMENT = os.environ | {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMBA")}
# half of the time of scores is XLA compiling what it has compiled for the seed before
COMPILED = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}


def command(program: str, *arguments: object) -> list[str]:
    """Return the command for a program in `bin/`: run by this interpreter, or by itself where it is not in Python."""
    path = ROOT / "bin" / program
    own = "python" in path.read_text(encoding="utf-8").splitlines()[0]
    return [*([sys.executable, "-W", "ignore"] if own else []), str(path), *map(str, arguments)]


def fit_command(method: str, data: Path, out: Path, seed: int) -> list[str]:
    program = CARDS[method]["program"]
    return command(program, data, "--method", method, "--seed", seed, "--threads", 1, "-o", out)


def simulate(path: Path, seed: int) -> None:
    raw = path.with_suffix(".raw.h5ad")
    subprocess.run(command("simulate", "--quiet", "--seed", seed, "-o", raw), check=True, env=ENVIRONMENT)
    options = ("--quiet", "--label-key", "cell_type", "--allow-continuous", "-o", path)
    subprocess.run(command("preprocess", raw, *options), check=True, env=ENVIRONMENT)
    raw.unlink()


def draw(source: Path, path: Path, cells: int, seed: int) -> None:
    """Write so many labelled spots of every section, in their order."""
    import anndata

    from unbatch.data.io import write_h5ad

    data = anndata.read_h5ad(source)
    rng = np.random.default_rng(seed)
    known = data.obs["label"].notna().to_numpy() & (data.obs["label"].astype(str) != "NA").to_numpy()
    chosen = [
        rng.permutation(np.flatnonzero(known & (data.obs["batch"] == batch).to_numpy()))[:cells]
        for batch in data.obs["batch"].cat.categories
    ]
    part = data[np.sort(np.concatenate(chosen))].copy()
    part.obs["label"] = part.obs["label"].cat.remove_unused_categories()
    write_h5ad(part, path)


def datasets(given: argparse.Namespace) -> list[tuple[str, Path, int]]:
    """Name and file of each, and its seed: first the sections, whose fits take longer."""
    kinds = (["dlpfc"] if given.dlpfc else []) + ["thesis"]
    return [(f"{kind}.{seed}", given.out / f"{kind}.{seed}.h5ad", seed) for kind in kinds for seed in given.seeds]


def make(given: argparse.Namespace, name: str, path: Path, seed: int) -> None:
    if path.exists():
        return
    if name.startswith("thesis"):
        simulate(path, seed)
    else:
        draw(given.dlpfc, path, given.cells, seed)


def run(given: argparse.Namespace) -> None:
    given.out.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    end = start + 60 * given.minutes
    # scorers share what XLA compiled, which it does not write at once: one at a time
    book, lock, scoring = given.out / "fits.csv", threading.Lock(), threading.Lock()
    rows = read_rows(book)
    fresh = not rows
    waiting = {
        name: [m for m in given.methods if rows.get((name, m), {}).get("status") in (None, "not run")]
        for name, _, _ in datasets(given)
    }

    def fit(name: str, data: Path, method: str, seed: int) -> None:
        out = given.out / f"{name}.{method}.fit.h5ad"
        if time.monotonic() > end:
            row = {"status": "not run", "message": f"the {given.minutes:g} minutes were over"}
        else:
            row = attempt(fit_command(method, data, out, seed), out)
        row = {"dataset": name, "method": method, "seed": seed, "commit": commit(), **row}
        with lock:
            rows[name, method] = row
            write_rows(book, rows)
            waiting[name].remove(method)
            last = not waiting[name]
        print(name, method, row["status"], row.get("wall_s"), row.get("cpu_s"), flush=True)
        if last:
            grade_all(name, data)

    def ended(name: str) -> list[dict[str, Any]]:
        with lock:
            return [rows[name, m] for m in CARDS if (name, m) in rows]

    def grade_all(name: str, data: Path) -> None:
        with scoring:
            grade(given.out, name, data, ended(name), given.out / f"{name}.scores.json")
        print(name, "scored", f"{(time.monotonic() - start) / 60:.1f} min from the start", flush=True)

    pool, jobs = ThreadPoolExecutor(given.jobs), []
    try:
        list(pool.map(lambda which: make(given, *which), datasets(given)))
        for name, data, seed in datasets(given):
            if not waiting[name] and graded(given.out / f"{name}.scores.json") != planned(name, ended(name)):
                jobs.append(pool.submit(grade_all, name, data))
            # the longest first: none is left alone at the end
            for method in sorted(waiting[name], key=lambda m: CARDS[m]["run"] == "default"):
                jobs.append(pool.submit(fit, name, data, method, seed))
        for job in as_completed(jobs):
            job.result()
    finally:
        # after an error nothing more is begun
        pool.shutdown(cancel_futures=True)
    record_all(given)
    if fresh:
        kinds = " and ".join(
            NAMES[kind] for kind in dict.fromkeys(name.split(".")[0] for name, _, _ in datasets(given))
        )
        size = f"{len(given.methods)} methods x {len(given.seeds)} seeds, {given.jobs} jobs"
        record("peers", f"{kinds}: {size}", "whole table", {"wall_min": (time.monotonic() - start) / 60})


def attempt(arguments: list[str], out: Path) -> dict[str, Any]:
    """Run a fit; elapsed time and CPU time are of the whole process, imports included."""
    start = time.monotonic()
    # bash measures the child, and timeout ends it with all that it started
    timed = ["bash", "-c", 'TIMEFORMAT="%U %S"; time timeout "$@"', "_", str(LIMIT_S), *arguments]
    done = subprocess.run(timed, capture_output=True, text=True, errors="replace", env=ENVIRONMENT, check=False)
    # nothing was said where bash itself was killed
    *said, cpu = [line for line in done.stderr.splitlines() if line.strip()] or ["nan"]
    code = done.returncode
    status = {0: "ok", 99: "not applicable"}.get(code, "failed")
    if code == 124:
        said = [f"ended after {LIMIT_S} s"]
    elif code == 0 and not out.exists():
        status, said = "failed", ["it wrote no fit"]
    return {
        "status": status,
        "exit_code": code,
        "wall_s": round(time.monotonic() - start, 1),
        "cpu_s": round(sum(map(float, cpu.split())), 1),
        "message": "" if status == "ok" else (said or ["no message"])[-1][:300],
    }


def graded(scores: Path) -> list[dict[str, Any]]:
    """Outcomes that a file of scores was made of; none if it is not there."""
    plan = scores.with_name(scores.name.replace(".scores.", ".outcomes."))
    return json.loads(plan.read_text()) if scores.exists() else []


def planned(name: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Outcomes of the fits of a dataset, for `score`."""
    outcomes = []
    for row in rows:
        fit = f"{name}.{row['method']}.fit.h5ad"
        status = "failed" if row["status"] == "not run" else row["status"]
        outcomes.append(
            {
                "id": f"{name}.{row['method']}",
                "method": row["method"],
                "seed": int(row["seed"]),
                "status": status,
                "exit_code": None if row.get("exit_code") in (None, "") else int(row["exit_code"]),
                "message": row.get("message") or None,
                "fit": fit if status == "ok" else None,
            }
        )
    return outcomes


def grade(folder: Path, name: str, data: Path, rows: list[dict[str, Any]], scores: Path) -> None:
    """Score all fits of a dataset, those without a result as rows."""
    outcomes = planned(name, rows)
    # a file of scores next to other outcomes would pass for theirs
    scores.unlink(missing_ok=True)
    plan = folder / f"{name}.outcomes.json"
    plan.write_text(json.dumps(outcomes), encoding="utf-8")
    fits = [folder / outcome["fit"] for outcome in outcomes if outcome["fit"]]
    options = ("--quiet", "--no-evidence", "--threads", 1, "--outcomes", plan, "--name", name, "-o", scores)
    compiled = COMPILED | {"JAX_COMPILATION_CACHE_DIR": str(folder / "compiled")}
    subprocess.run(command("score", data, *fits, *options), check=True, env=ENVIRONMENT | compiled)


def read_rows(book: Path) -> dict[tuple[str, str], dict[str, Any]]:
    if not book.exists():
        return {}
    with book.open(encoding="utf-8", newline="") as file:
        return {(row["dataset"], row["method"]): dict(row) for row in csv.DictReader(file)}


def write_rows(book: Path, rows: dict[tuple[str, str], dict[str, Any]]) -> None:
    """Write a file whole or not at all: the benchmark can be stopped at any time."""
    partial = book.with_suffix(".partial")
    with partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(rows.values())
    partial.replace(book)


def scored(out: Path) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Give both kinds of data that have scores, and what the files say, a seed each."""
    for kind in ("thesis", "dlpfc"):
        if files := sorted(out.glob(f"{kind}.*.scores.json")):
            yield kind, [json.loads(file.read_text(encoding="utf-8")) for file in files]


def record_all(given: argparse.Namespace) -> None:
    """Append all scores, a row for each seed, and print what failed."""
    rows = read_rows(given.out / "fits.csv")
    for kind, found in scored(given.out):
        for scores in found:
            data = scores["dataset"]
            sizes = "{} x {:,} cells".format(len(data["batches"]), max(data["batches"].values()))
            name = f"{NAMES[kind]}, {sizes}, {data['genes']} genes"
            wanted = [*scores["metrics"]["batch"], *scores["metrics"]["bio"]]
            for row in scores["rows"]:
                if row["status"] != "ok":
                    print(f"{row['id']}: {row['status']}: {row['message']}", file=sys.stderr)
                    continue
                values = {**row, **row["metrics"]}
                # a mean over other scores is another mean
                whole = all(values.get(metric) is not None for metric in wanted)
                names = [*wanted, *(("batch", "bio", "total") if whole else ()), "wall_s", "peak_mb"]
                values = {metric: values[metric] for metric in names if values.get(metric) is not None}
                made = rows.get((data["name"], row["method"]), {}).get("commit")
                record("peers", name, label(row["method"]), values, seed=row["seed"], at=made)


def label(method: str) -> str:
    """Label of a method, and what to know when its scores are read."""
    card = CARDS[method]
    marks = {"control": ["control"], "reference": ["no correction"]}.get(card["kind"], [])
    marks += ["has seen the labels"] if "labels" in DECLARED[method]["needs"].split(", ") else []
    return card["label"] + (f" ({', '.join(marks)})" if marks else "")


def report(given: argparse.Namespace) -> None:
    folder = given.out / "report"
    folder.mkdir(exist_ok=True)
    pages, scores, drawn = folder / "pages", [], []
    for kind, found in scored(given.out):
        # seeds are draws here; the report knows them by the seed of the fit, which is the same
        rows = [row | {"dataset": kind} for each in found for row in each["rows"]]
        scores.append(folder / f"{kind}.json")
        dataset = found[0]["dataset"]
        scores[-1].write_text(json.dumps(found[0] | {"dataset": dataset | {"name": kind}, "rows": rows}))
        # files of cells are found by the name of the dataset
        cells = folder / f"{kind}.h5ad"
        cells.unlink(missing_ok=True)
        cells.symlink_to((given.out / f"{dataset['name']}.h5ad").resolve())
        fits = [given.out / f"{row['id']}.fit.h5ad" for row in found[0]["rows"] if row["status"] == "ok"]
        drawn += ["--dataset", cells, *(argument for fit in fits for argument in ("--fit", fit))]
    options = ("--quiet", "--methods", ROOT / "assets" / "methods.yml", *drawn, "-o", pages)
    subprocess.run(command("report", *scores, *options), check=True, env=ENVIRONMENT)
    configs = (ROOT / "assets" / "multiqc_config.yml", pages / "multiqc_order.yml")
    shown = (*(part for config in configs for part in ("--config", config)), "--filename", "multiqc_report.html")
    multiqc = (sys.executable, "-m", "multiqc", pages, *shown, "--outdir", folder, "--force", "--no-version-check")
    subprocess.run(list(map(str, multiqc)), check=True)
    print(folder / "multiqc_report.html")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "record", "report"])
    parser.add_argument("out", type=Path)
    parser.add_argument("--dlpfc", type=Path, help="dataset of the sections; without it, only the simulation")
    parser.add_argument("--methods", type=lambda text: text.split(","), default=list(CARDS))
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=list(SEEDS))
    parser.add_argument("--cells", type=int, default=400, help="spots of each section")
    parser.add_argument("--minutes", type=float, default=58.0)
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    unknown = [method for method in given.methods if method not in CARDS]
    if unknown:
        parser.error(f"--methods: no method {unknown[0]}; there are {', '.join(CARDS)}")
    {"run": run, "record": record_all, "report": report}[given.what](given)


if __name__ == "__main__":
    main()
