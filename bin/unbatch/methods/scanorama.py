"""Scanorama (Hie, Bryson & Berger 2019) by its own package."""

import contextlib
import io

import numpy as np
from pydantic import Field

from unbatch.contract import Fit, Parameters, Run
from unbatch.data.cells import Cells

PACKAGES = ("scanorama",)


class Params(Parameters):
    """Parameters of `fit`."""

    n_components: int = Field(100, ge=1, description="dimensions of the panorama")


def fit(cells: Cells, params: Params, run: Run) -> Fit:
    """Return the integrated embedding of the panorama."""
    import scanorama

    rows = [np.flatnonzero(cells.batch == b) for b in range(cells.n_batches)]
    dimensions = min(params.n_components, len(cells.genes) - 1, len(cells.batch) - 1)
    # it prints the number of shared genes whatever it is told
    with contextlib.redirect_stdout(io.StringIO()):
        parts, _genes = scanorama.integrate(
            [cells.X[r] for r in rows],
            [cells.genes for _ in rows],
            dimred=dimensions,
            seed=run.seed,
            verbose=0,
        )
    embedding = np.empty((len(cells.batch), parts[0].shape[1]), dtype=np.float32)
    for r, part in zip(rows, parts, strict=True):
        embedding[r] = part
    return Fit(embedding, used=params.using(n_components=embedding.shape[1]))
