"""Measured values as rows of benchmarks/results/BENCHMARK.csv, from which `make results` writes docs/results/.

    python benchmarks/record.py add [--ran COMMAND] BENCHMARK DATASET METHOD METRIC=VALUE ...
    python benchmarks/record.py measure BENCHMARK DATASET METHOD -- COMMAND ...

A file has one value a row (`FIELDS`). Rows are only ever appended: what was measured before stays, and what reads the
files takes the newest row of each dataset, method, seed and metric. So the name of a dataset holds everything that a
value depends on, such as numbers of cells and genes.

`add` appends given values, which COMMAND measured. `measure` runs COMMAND and appends its elapsed and CPU time, its
peak memory and the load of the machine when it began; it ends with the command's exit code, and a command that failed
leaves no rows.

The variable BENCH_RESULTS of the environment is another folder for the files: for trial runs.
"""

import csv
import fcntl
import os
import platform
import re
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from datetime import date
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FIELDS = ("benchmark", "dataset", "method", "seed", "metric", "value", "commit", "date", "machine", "command")


def folder() -> Path:
    """Where the files are."""
    return Path(os.environ.get("BENCH_RESULTS") or ROOT / "benchmarks" / "results")


def record(
    benchmark: str,
    dataset: str,
    method: str,
    values: Mapping[str, float | int],
    *,
    seed: int | str = "",
    ran: str | None = None,
    at: str | None = None,
) -> None:
    """Append measured values to the file of a benchmark.

    Parameters
    ----------
    benchmark
        Name of the file, without its ending.
    dataset
        What was measured on, with everything about it that a value depends on.
    method
        What was measured.
    values
        Value by metric, whose name ends in its unit where it has one (``cpu_s``, ``peak_gb``). Values that are not
        finite are left out, as they say that something could not be computed.
    seed
        Seed of the data and the fit. ``"50-54"`` for a value over all of these; empty where nothing is drawn.
    ran
        The command, by default that of this process.
    at
        Commit of the code that was measured, by default the one that is checked out.

    Raises
    ------
    ValueError
        If a name is empty or has a line break, or the benchmark's is no name of a file.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", benchmark):
        raise ValueError(f"benchmark is {benchmark!r}, expected small letters, digits and hyphens")
    if not re.fullmatch(r"|\d+(-\d+)?", str(seed)):
        raise ValueError(f"seed is {seed!r}, expected a number, or the first and the last as in 50-54")
    for field, name in (("dataset", dataset), ("method", method), *(("metric", metric) for metric in values)):
        if not name.strip() or re.search(r"[\r\n]", name):
            raise ValueError(f"{benchmark}: {field} is {name!r}, expected one line of text")
    same = (at or commit(), date.today().isoformat(), machine(), ran or command())
    written = [(metric, _text(value)) for metric, value in values.items() if abs(float(value)) < float("inf")]
    drawn = f", seed {seed}" if str(seed) else ""
    print(f"{benchmark}: {dataset}, {method}{drawn}:", *(" ".join(each) for each in written), flush=True)
    _append(benchmark, [(benchmark, dataset, method, str(seed), *each, *same) for each in written])


def _text(value: float | int) -> str:
    """Six digits of a number that was measured, all of one that was counted."""
    whole = isinstance(value, int) or getattr(getattr(value, "dtype", None), "kind", "f") in "iub"
    return str(int(value)) if whole else f"{float(value):#.6g}".removesuffix(".")


def _append(benchmark: str, rows: Iterable[tuple[str, ...]]) -> None:
    path = folder() / f"{benchmark}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="", encoding="utf-8") as file:
        # fits that run next to one another write to the same file
        fcntl.flock(file, fcntl.LOCK_EX)
        writer = csv.writer(file, lineterminator="\n")
        if not file.tell():
            writer.writerow(FIELDS)
        writer.writerows(rows)


@cache
def commit() -> str:
    """Short name of the commit, with ``-dirty`` where files differ from it; results themselves do not count."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    # .venv and .tools may be links, which git does not ignore
    left_out = [f":!{name}" for name in ("benchmarks/results", "docs/results", ".venv", ".tools")]
    changed = git("status", "--porcelain", "--", ".", *left_out)
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("-dirty" if changed else "")


@cache
def machine() -> str:
    """Cores, memory, processor and Python; nothing that names the machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    known = Path("/proc/cpuinfo")
    text = known.read_text(encoding="utf-8", errors="replace") if known.exists() else ""
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.M)
    processor = (model and model[1].strip()) or platform.machine()
    return f"{len(os.sched_getaffinity(0))} cores, {memory:.0f} GB, {processor}, Python {platform.python_version()}"


def command(arguments: Iterable[str] | None = None) -> str:
    """Write a command line, by default this process's, without the paths of this machine.

    A path below the repository is written from there, any other one as a variable of the name of its file
    (``/data/dlpfc.h5ad`` is ``$DLPFC``).
    """
    if arguments is None:
        arguments = ["python", str(Path(sys.argv[0]).resolve()), *sys.argv[1:]]
    return " ".join(_without_place(argument) for argument in arguments)


def _without_place(argument: str) -> str:
    option, equals, path = argument.rpartition("=") if argument.startswith("-") else ("", "", argument)
    if path.startswith(str(ROOT)):
        path = os.path.relpath(path, ROOT)
        return "python" if path.startswith(".venv/bin/python") else f"{option}{equals}{path}"
    if not (path.startswith(("/", "~", "..")) or (os.sep in path and Path(path).exists())):
        return shlex.quote(argument)
    name = re.sub(r"\W+", "_", Path(path).name.split(".")[0]).strip("_").upper()
    return f"{option}{equals}${name or 'FOLDER'}"


def measure(benchmark: str, dataset: str, method: str, arguments: list[str]) -> int:
    """Run a command, append what it took, and return its exit code."""
    # the code that runs, whatever is edited meanwhile
    commit()
    load, start = os.getloadavg()[0], time.perf_counter()
    code = subprocess.call(arguments)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    took: dict[str, float | int] = {"wall_s": time.perf_counter() - start, "cpu_s": used.ru_utime + used.ru_stime}
    # the largest process, in GB (10^9 bytes)
    took |= {"peak_gb": used.ru_maxrss * 1024 / 1e9, "load": load}
    if code:
        print(f"{benchmark}: {dataset}, {method}: exit code {code}", file=sys.stderr)
    else:
        record(benchmark, dataset, method, took, ran=command(arguments))
    return code


def main(arguments: list[str]) -> int:
    """Add values, or measure a command."""
    ran = None
    if arguments[1:2] == ["--ran"] and len(arguments) > 2:
        ran = arguments.pop(2)
        arguments.pop(1)
    match arguments:
        case ["add", benchmark, dataset, method, *given] if given and all("=" in each for each in given):
            pairs = (each.rpartition("=") for each in given)
            values = {name: int(text) if text.isdecimal() else float(text) for name, _, text in pairs}
            record(benchmark, dataset, method, values, ran=ran)
        case ["measure", benchmark, dataset, method, "--", *given] if given:
            return measure(benchmark, dataset, method, given)
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
