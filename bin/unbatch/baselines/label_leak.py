"""The control that cheats: an embedding made of the labels themselves, which is all biology and no batch."""

import numpy as np

from unbatch.baselines.cells import Cells, Fit
from unbatch.errors import NotApplicable

PACKAGES = ("numpy",)
LEAST_BATCHES = 1


def fit(cells: Cells, *, seed: int, noise: float = 0.1) -> Fit:
    """Return the one-hot label of each cell with Gaussian noise; cells without a label lie at the origin.

    Raises
    ------
    NotApplicable
        If the dataset has no labels.

    Notes
    -----
    The upper bound of Luecken et al. 2025 (Open Problems' "embedding of cell types with jitter"). The noise
    (standard deviation per dimension) keeps cells of a label apart, without which neighbours would be ties.
    """
    if cells.label is None or cells.label.max() < 0:
        raise NotApplicable("label_leak: the dataset has no labels to leak")
    known = np.flatnonzero(cells.label >= 0)
    embedding = np.random.default_rng(seed).normal(0, noise, (len(cells.batch), int(cells.label.max()) + 1))
    embedding[known, cells.label[known]] += 1
    return Fit(embedding.astype(np.float32))
