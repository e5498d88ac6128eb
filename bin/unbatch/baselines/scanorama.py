"""Scanorama (Hie, Bryson & Berger 2019) by its own package."""

import contextlib
import io

import numpy as np
import scanorama

from unbatch.baselines.cells import Cells, Fit

PACKAGES = ("scanorama",)


def fit(cells: Cells, *, seed: int, n_components: int = 100) -> Fit:
    """Return the integrated embedding of the panorama."""
    rows = [np.flatnonzero(cells.batch == b) for b in range(cells.n_batches)]
    dimensions = min(n_components, len(cells.genes) - 1, len(cells.batch) - 1)
    # it prints the number of shared genes whatever it is told
    with contextlib.redirect_stdout(io.StringIO()):
        parts, _genes = scanorama.integrate(
            [cells.X[r] for r in rows],
            [cells.genes for _ in rows],
            dimred=dimensions,
            seed=seed,
            verbose=0,
        )
    embedding = np.empty((len(cells.batch), parts[0].shape[1]), dtype=np.float32)
    for r, part in zip(rows, parts, strict=True):
        embedding[r] = part
    return Fit(embedding)
