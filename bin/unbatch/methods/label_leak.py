"""The control that cheats: an embedding made of the labels themselves, which is all biology and no batch."""

import numpy as np
from pydantic import Field

from unbatch.contract import Fit, Needs, Parameters, Run
from unbatch.data.cells import Cells

PACKAGES = ("numpy",)
NEEDS = Needs(batches=1, labels=True)


class Params(Parameters):
    """Parameters of `fit`."""

    noise: float = Field(0.1, ge=0, description="standard deviation of the noise in each dimension")


def fit(cells: Cells, params: Params, run: Run) -> Fit:
    """Return the one-hot label of each cell with Gaussian noise; cells without a label lie at the origin.

    Notes
    -----
    The upper bound of Luecken et al. 2025 (Open Problems' "embedding of cell types with jitter"). The noise
    (standard deviation per dimension) keeps cells of a label apart, without which neighbours would be ties.
    """
    known = np.flatnonzero(cells.label >= 0)
    embedding = np.random.default_rng(run.seed).normal(0, params.noise, (len(cells.batch), int(cells.label.max()) + 1))
    embedding[known, cells.label[known]] += 1
    return Fit(embedding.astype(np.float32))
