"""Log-normalised expression: whether it fits in memory, and its depth."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

SHARE_OF_MEMORY = 0.25
"""Share of the memory at hand: expression that would take more is streamed, less is held. Copies in other forms, the
networks and a minibatch's work need the rest."""
GROUPS = Path("/sys/fs/cgroup")
"""Control groups, with limits of containers and of jobs of a cluster."""
OWN_GROUPS = Path("/proc/self/cgroup")
"""Which of them this process is in."""
DEPTH_CELLS = 1000
"""Cells at the start of a dataset that tell its depth, which `preprocess` makes the same for all cells."""


def is_large(stored: int, device: str = "cpu") -> bool:
    """Tell whether expression of so many stored values would take too large a share of the memory."""
    return 8 * stored > SHARE_OF_MEMORY * memory(device)


def memory(device: str = "cpu") -> float:
    """Bytes that this process may use: of the machine, of its container or job, and of the device."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    # "max", or more than there is, where nothing limits it
    for file in _limits():
        with suppress(OSError, ValueError):
            found.append(int(file.read_text()))
    if device.startswith("cuda"):
        import torch

        found.append(torch.cuda.mem_get_info(device)[1])
    return min(found)


def _limits() -> Iterator[Path]:
    """Yield files that may have a limit: of the own control groups and of those above them, in versions 2 and 1."""
    own = ["0::/", "0:memory:/"]
    with suppress(OSError):
        own += OWN_GROUPS.read_text().splitlines()
    for line in own:
        _, kinds, place = line.split(":", 2)
        if kinds and "memory" not in kinds.split(","):
            continue
        root, name = (GROUPS / "memory", "memory.limit_in_bytes") if kinds else (GROUPS, "memory.max")
        group = root / place.lstrip("/")
        yield from (each / name for each in (group, *group.parents) if each.is_relative_to(root))


def depth(cells: Any) -> float:
    """Sum of the normalised counts of a cell: the median over some cells, n x G; 1 where nothing is counted."""
    counts = cells.astype(np.float64).expm1() if hasattr(cells, "indptr") else np.expm1(cells.astype(np.float64))
    sums = np.asarray(counts.sum(axis=1)).ravel()
    return float(np.median(sums[sums > 0])) if (sums > 0).any() else 1.0


def rescaled(cells: Any, scale: float) -> Any:
    """Bring log-normalised expression, a CSR matrix or an array, to `scale` times its depth."""
    if abs(scale - 1) < 1e-6:
        return cells
    if hasattr(cells, "indptr"):
        cells = cells.copy()
        cells.data = np.log1p(np.expm1(cells.data) * cells.dtype.type(scale))
        return cells
    return np.log1p(np.expm1(cells) * cells.dtype.type(scale))
