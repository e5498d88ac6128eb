"""What scoring costs, by part, and whether two versions of the code give the same scores.

    OMP_NUM_THREADS=1 python benchmarks/scoring.py FOLDER [--against COMMIT] [--sections FOLDER] [--record]

100,000 cells are simulated (8 donors as batches, 8 types that overlap, 300 genes), embedded by `none`, `harmony` and
`shuffled`, and scored with all scores, intervals, evidence and predictions: 20,000 cells, one thread. With `--against`,
by the code of another commit as well, in the same run: the values of both stand next to each other, with the standard
error over cells of those that have one. `--sections` scores the DLPFC sections there in addition (layers are labels).
Data and fits are made in FOLDER once, so a second run only scores.
"""

import argparse
import functools
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
METHODS = ("none", "harmony", "shuffled")

PARTS = {
    "neighbours": [("metrics.integration", "nearest_neighbours")],
    "kBET: diffusion maps": [("metrics.integration", "kbet_per_label")],
    "reference": [("scoring", "_reference")],
    "intervals over cells": [("metrics.jackknife", "replicates")],
    "starts of k-means": [("metrics.jackknife", "clustering_variance")],
    "levels of evidence": [("metrics.evidence", "levels")],
    "predictions": [("metrics.prediction", "forest")],
}
"""Functions whose own CPU time is reported by part; a score counts as a part of its name."""


def timed(code: Path, arguments: list[str], file: Path) -> None:
    """Score by the code in a folder `bin`, in this process, and write the CPU seconds of each part (JSON)."""
    sys.path.insert(0, str(code))
    from unbatch.cli.common import limit_threads_early

    sys.argv = ["score", *arguments]
    limit_threads_early()
    started = time.process_time()
    import importlib

    modules = {name: importlib.import_module(f"unbatch.{name}") for name in ("scoring", "metrics.integration")}
    modules |= {f"metrics.{n}": importlib.import_module(f"unbatch.metrics.{n}") for n in ("jackknife", "evidence")}
    modules["metrics.prediction"] = importlib.import_module("unbatch.metrics.prediction")
    spent: dict[str, float] = defaultdict(float, imports=time.process_time() - started)
    inner = [0.0]

    def clock(part: str, function: Any) -> Any:
        @functools.wraps(function)
        def call(*given: Any, **named: Any) -> Any:
            start = time.process_time()
            inner.append(0.0)
            try:
                return function(*given, **named)
            finally:
                used = time.process_time() - start
                spent[part] += used - inner.pop()
                inner[-1] += used

        return call

    for part, places in PARTS.items():
        for module, name in places:
            original = getattr(modules[module], name, None)
            for each in modules.values() if original else ():
                if getattr(each, name, None) is original:
                    setattr(each, name, clock(part, original))
    integration = modules["metrics.integration"]
    evaluate = integration.evaluate

    def evaluated(scene: Any, wanted: Any) -> Any:
        from dataclasses import replace

        return evaluate(scene, [replace(m, compute=clock(f"score {m.name}", m.compute)) for m in wanted])

    integration.evaluate = evaluated
    from unbatch.cli import score

    try:
        score.main(arguments, standalone_mode=False)
    finally:
        spent["all"] = time.process_time() - started
        spent["other"] = spent["all"] - sum(inner) - spent["imports"]
        spent["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
        file.write_text(json.dumps(spent))


def run(*command: str) -> None:
    """Run a program of this checkout."""
    subprocess.run([str(ROOT / "bin" / command[0]), "--quiet", *command[1:]], check=True)


def made(folder: Path, source: list[str], options: list[str]) -> list[str]:
    """Make a dataset and its fits where they are missing; the arguments of `score`."""
    folder.mkdir(parents=True, exist_ok=True)
    dataset = folder / "dataset.h5ad"
    if not dataset.exists():
        run("preprocess", *source, *options, "-o", str(dataset))
    for method in METHODS:
        if not (folder / f"{method}.fit.h5ad").exists():
            run("fit-baseline", str(dataset), "--method", method, "-o", str(folder / f"{method}.fit.h5ad"))
    return [str(dataset), *(str(folder / f"{method}.fit.h5ad") for method in METHODS)]


def scored(code: Path, arguments: list[str], threads: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Score in a process of its own: CPU seconds by part, and the table."""
    with tempfile.TemporaryDirectory() as scratch:
        spent, table = Path(scratch, "spent.json"), Path(scratch, "scores.json")
        options = ["--quiet", "--threads", str(threads), *arguments, "-o", str(table)]
        own = [sys.executable, "-W", "ignore", __file__, "--timed", str(code), str(spent), "--", *options]
        subprocess.run(own, check=True, env=os.environ | {"PYTHONPATH": str(code)})
        return json.loads(spent.read_text()), json.loads(table.read_text())


def values(table: dict[str, Any]) -> dict[str, dict[str, tuple[float | None, float]]]:
    """Values and standard errors over cells (NaN where there is none) of a table, by method and metric."""
    import numpy as np

    from unbatch.metrics.uncertainty import jackknife_variance

    found: dict[str, dict[str, tuple[float | None, float]]] = {}
    for row in table["rows"]:
        own = found[row["method"]] = {name: (row[name], math.nan) for name in ("batch", "bio", "total")}
        own |= {name: (value, math.nan) for name, value in row["metrics"].items()}
        for name, replicates in ((row.get("cells") or {}).get("left_out") or {}).items():
            own[name] = (own[name][0], math.sqrt(jackknife_variance(np.array(replicates))))
        for held_out, by in (row.get("prediction") or {}).get("label", {}).items():
            if held_out not in ("cells", "batches"):
                continue
            for features, accuracy in by.items():
                each = accuracy["balanced_accuracy"]
                low, high = each["low"], each["high"]
                # t of 4 degrees of freedom
                own[f"{features}, held-out {held_out}"] = each["mean"], math.nan if low is None else (high - low) / 5.55
    return found


def compared(now: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """Lines of a table: method, metric, before, after, difference, standard error."""
    old, lines = (
        values(before),
        [f"{'method':9} {'metric':32} {'before':>10} {'after':>10} {'change':>10} {'error':>8}"],
    )
    for method, by in values(now).items():
        for name, (value, error) in by.items():
            was = old[method].get(name, (None, math.nan))[0]
            if value is None or was is None:
                lines.append(f"{method:9} {name:32} {was} {value}")
                continue
            said = "" if math.isnan(error) else f"{error:.5f}"
            lines.append(f"{method:9} {name:32} {was:10.6f} {value:10.6f} {value - was:+10.2e} {said:>8}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--against", metavar="COMMIT")
    parser.add_argument("--sections", type=Path, metavar="FOLDER")
    parser.add_argument("--record", action="store_true", help="append the figures to benchmarks/results/scoring.csv")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    # not above, as a process that scores by another version's code must not import this one's package
    import environment  # noqa: F401
    import record

    simulated = given.folder / "simulated.h5ad"
    given.folder.mkdir(parents=True, exist_ok=True)
    if not (given.folder / "simulated" / "dataset.h5ad").exists():
        size = ["--batches", "8", "--cells", str(given.cells // 8), "--types", "8", "--genes", "300"]
        overlap = ["--sigma-profile", "0.2", "--depth", "500"]
        run("simulate", "--preset", "donors", *size, *overlap, "-o", str(simulated))
    columns = ["--batch-key", "donor", "--label-key", "cell_type"]
    data = {"simulated": made(given.folder / "simulated", [str(simulated)], columns)}
    simulated.unlink(missing_ok=True)
    if given.sections:
        sheet = given.folder / "sections.csv"
        files = sorted(given.sections.glob("*.h5ad"))
        sheet.write_text("sample,path\n" + "".join(f"{file.stem},{file.resolve()}\n" for file in files))
        data["dlpfc"] = made(given.folder / "dlpfc", [str(sheet)], ["--label-key", "layer"])
    at = {"now": record.commit(), "before": given.against}
    with tempfile.TemporaryDirectory() as scratch:
        versions = {"now": ROOT / "bin"}
        if given.against:
            archive = subprocess.run(
                ["git", "archive", given.against, "bin"], cwd=ROOT, check=True, capture_output=True
            )
            subprocess.run(["tar", "-x", "-C", scratch], input=archive.stdout, check=True)
            versions = {"before": Path(scratch, "bin")} | versions
        for dataset, arguments in data.items():
            tables = {}
            for version, code in versions.items():
                spent, tables[version] = scored(code, arguments, given.threads)
                peak, everything = spent.pop("peak_mb"), spent.pop("all")
                print(
                    f"\n{dataset}, {version}: {everything:.0f} CPU s for {len(METHODS)} embeddings, peak {peak:.0f} MB"
                )
                for part, seconds in sorted(spent.items(), key=lambda item: -item[1]):
                    print(f"    {seconds:8.2f}  {part}")
                if given.record:
                    measured = {"cpu_s": everything, "peak_mb": peak} | {f"cpu_s of {k}": v for k, v in spent.items()}
                    cells = f"{given.cells:,} cells of 8 batches, 20,000 scored" if dataset == "simulated" else dataset
                    name = f"{cells}, {len(METHODS)} embeddings, {given.threads} thread"
                    record.record("scoring", name, version, measured, seed=0, at=at[version])
            if len(tables) > 1:
                print("\n".join(compared(tables["now"], tables["before"])), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--timed"]:
        timed(Path(sys.argv[2]), sys.argv[5:], Path(sys.argv[3]))
    else:
        main()
