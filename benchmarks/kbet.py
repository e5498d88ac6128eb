#!/usr/bin/env python3
"""kBET per label with scib-metrics' own neighbour search and with the exact one of unbatch, on simulated types."""

import environment  # noqa: F401

# isort: split
import time
from collections.abc import Callable

import numpy as np
import scib_metrics as scib
from record import record

from unbatch.metrics import integration

rng = np.random.default_rng(0)
n = 3000
label, batch = np.arange(n) % 5, rng.integers(0, 2, n)
embedding = rng.normal(0, 1, (n, 20))
embedding[np.arange(n), label] += 5
embedding[:, 10] += 0.8 * batch
neighbours = integration.nearest_neighbours(embedding.astype(np.float32), integration.KBET_NEIGHBOURS)
# the first call compiles what both need
integration.Scene(None, embedding, neighbours, batch, label).kbet()


def timed(method: str, compute: Callable[..., float]) -> None:
    """Value, CPU seconds of a first and of a second call."""
    values = {}
    for call in ("first", "second"):
        start = time.process_time()
        values["kbet"] = compute(neighbours, batch, label)
        values[f"cpu_s of the {call} call"] = time.process_time() - start
    record("kbet", f"{n:,} cells, 5 types, 2 batches", method, values, seed=0)


timed("exact search", lambda near, *codes: integration.Scene(None, embedding, near, *codes).kbet()[-1])
timed("scib-metrics' search", scib.kbet_per_label)
