"""Log-normalised expression: whether it fits in memory, and its depth."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

SHARE_OF_MEMORY = 0.25
"""Share of the memory at hand: expression that would take more is streamed, less is held. Copies in other forms, the
networks and a minibatch's work need the rest."""
LIMITS_OF_MEMORY = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Limits of a container, in bytes, of version 2 and 1 of control groups."""
DEPTH_CELLS = 1000
"""Cells at the start of a dataset that tell its depth, which `preprocess` makes the same for all cells."""


def is_large(stored: int, device: str = "cpu") -> bool:
    """Tell whether expression of so many stored values would take too large a share of the memory."""
    return 8 * stored > SHARE_OF_MEMORY * memory(device)


def memory(device: str = "cpu") -> float:
    """Bytes that this process may use: of the machine, of its container, and of the device."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    # "max", or more than there is, where nothing limits it
    for file in LIMITS_OF_MEMORY:
        with suppress(OSError, ValueError):
            found.append(int(file.read_text()))
    if device.startswith("cuda"):
        import torch

        found.append(torch.cuda.mem_get_info(device)[1])
    return min(found)


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
