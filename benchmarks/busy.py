"""CPU time of fits and scores with one thread and with two, on a machine whose cores are all busy.

    python benchmarks/busy.py [--cells 225] [--genes 100] [--repeats 1] [--only batchblend,score] [--spin]

Makes its own load: for every core a process that counts, of the same priority, ended with the benchmark whatever
happens. Fits every own method (scMEDAL in all modes, and its published preset) to the thesis preset with so many cells
per batch, scores three fits, and records the CPU seconds of each process with one and with two threads and their ratio,
which is not to exceed 1.3. Exits with 1 if one does. `--spin` lets threads wait as the libraries have it by default.
With 225 cells it shows that small data are worked on by one thread, with more cells or genes what two threads cost.
"""

import argparse
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from record import record

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 1.3
LIMIT_S = 1200
"""After which a process is ended."""
SPINNING = {"OMP_WAIT_POLICY": "ACTIVE", "KMP_BLOCKTIME": "200", "OPENBLAS_THREAD_TIMEOUT": "26"}
FITS = {
    "batchblend": ("fit-batchblend",),
    "popari": ("fit-batchblend", "--mode", "popari"),
    **{
        name: ("fit-scmedal", "--mode", name.removeprefix("scmedal_"), "--max-epochs", "4")
        for name in ("scmedal", "scmedal_ae", "scmedal_aec", "scmedal_fe", "scmedal_fec", "scmedal_re")
    },
    "scmedal, preset paper": ("fit-scmedal", "--preset", "paper", "--max-epochs", "4"),
}


# also ends if this benchmark is killed
SPINNER = "import os; parent = os.getppid()\nwhile os.getppid() == parent:\n    for _ in range(10**6): pass"


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Keep so many cores busy."""
    spinners = [subprocess.Popen([sys.executable, "-c", SPINNER]) for _ in range(processes)]
    try:
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
        for spinner in spinners:
            spinner.wait()


def run(*command: object, environment: dict[str, str]) -> None:
    program, *arguments = map(str, command)
    subprocess.run(
        [sys.executable, "-W", "ignore", ROOT / "bin" / program, "--quiet", *arguments],
        check=True,
        env=environment,
        timeout=LIMIT_S,
    )


def cpu_seconds(*command: object, environment: dict[str, str]) -> float:
    """CPU time of a program, user and system, with its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run(*command, environment=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=225, help="cells per batch, of two")
    parser.add_argument("--genes", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--only", help="names, comma-separated")
    parser.add_argument("--spin", action="store_true")
    given = parser.parse_args()
    names = [*FITS, "score"] if given.only is None else given.only.split(",")
    environment = {name: value for name, value in os.environ.items() if not name.endswith(("_NUM_THREADS", "NPROC"))}
    if given.spin:
        environment |= SPINNING
    # what was started is ended then, too
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    worst = 0.0
    with tempfile.TemporaryDirectory() as scratch:
        raw, data, out = (Path(scratch) / name for name in ("raw.h5ad", "data.h5ad", "out"))
        size = ("--cells", given.cells, "--genes", given.genes)
        run("simulate", *size, "--threads", 1, "-o", raw, environment=environment)
        options = ("--label-key", "cell_type", "--allow-continuous", "--threads", 1)
        run("preprocess", raw, *options, "-o", data, environment=environment)
        baselines = [Path(scratch) / f"{name}.fit.h5ad" for name in ("none", "pca", "shuffled")]
        if "score" in names:
            for fit in baselines:
                method = fit.name.split(".")[0]
                run("fit-baseline", data, "--method", method, "--threads", 1, "-o", fit, environment=environment)
        dataset = f"{2 * given.cells:,} cells x {given.genes:,} genes{', threads spin' * given.spin}"
        with busy(os.cpu_count() or 1):
            for name in names:
                command = ("score", data, *baselines) if name == "score" else (FITS[name][0], data, *FITS[name][1:])
                used: dict[int, list[float]] = {1: [], 2: []}
                for _ in range(given.repeats):
                    for threads, seconds in used.items():
                        options = ("--seed", 0, "--threads", threads, "-o", out.with_suffix(".json"))
                        seconds.append(cpu_seconds(*command, *options, environment=environment))
                one, two = (median(seconds) for seconds in used.values())
                worst = max(worst, two / one)
                values = {"cpu_s, 1 thread": one, "cpu_s, 2 threads": two, "ratio": two / one}
                record("busy", dataset, name, values, seed=0)
    print(f"largest ratio {worst:.2f}, limit {LIMIT}")
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
