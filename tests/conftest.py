"""Settings of all tests: how many run at once, and where compiled code is kept between them and between runs."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GB_PER_WORKER = 5
"""What a worker takes at most, with the tasks of a pipeline that it waits for."""
MOST_WORKERS = 4

# What XLA has compiled for one test or task, it need not for another: set before JAX is imported. The keys hold the
# program, the versions and what the processor can do; with a limit of size, entries are written and read under a lock.
COMPILED = {
    "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "xla"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    "JAX_COMPILATION_CACHE_MAX_SIZE": str(2**29),
}
for name, value in COMPILED.items():
    os.environ.setdefault(name, value)


def available_gb() -> float:
    """Memory that is free or can be made so; as much as is wanted where Linux does not say."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) / 2**20
    except (OSError, KeyError):
        return float("inf")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return the workers of `-n auto`: by cores and memory, and never more than four."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, int(available_gb() // GB_PER_WORKER), MOST_WORKERS))
