#!/usr/bin/env python3
"""kBET per label with scib-metrics' own neighbour search and with the exact one of unbatch, on simulated types."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scib_metrics as scib

sys.path.insert(0, str(Path(__file__).parents[1] / "bin"))
from unbatch.metrics import integration

rng = np.random.default_rng(0)
n = 3000
label, batch = np.arange(n) % 5, rng.integers(0, 2, n)
embedding = rng.normal(0, 1, (n, 20))
embedding[np.arange(n), label] += 5
embedding[:, 10] += 0.8 * batch
neighbours = integration.nearest_neighbours(embedding.astype(np.float32), integration.KBET_NEIGHBOURS)
# the first call compiles what both need
integration.kbet_per_label(neighbours, batch, label)


def timed(compute: Callable[..., float]) -> str:
    """Value, CPU seconds of a first and of a second call."""
    seconds = []
    for _ in range(2):
        start = time.process_time()
        value = compute(neighbours, batch, label)
        seconds.append(time.process_time() - start)
    return f"{value:.4f}, CPU {seconds[0]:.1f} s the first time, {seconds[1]:.1f} s the second"


print("exact search:       ", timed(lambda *given: integration.kbet_per_label(*given)[0]))
print("scib-metrics' search:", timed(scib.kbet_per_label))
