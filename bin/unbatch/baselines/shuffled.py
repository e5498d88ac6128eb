"""The control without biology: the uncorrected components, dealt out to the cells at random."""

import numpy as np

from unbatch.baselines.cells import Cells, Fit, principal_components

PACKAGES = ("scikit-learn",)
LEAST_BATCHES = 1


def fit(cells: Cells, *, seed: int, n_components: int = 30) -> Fit:
    """Return the principal components with their rows permuted over all cells."""
    embedding = principal_components(cells.X, n_components).embedding
    return Fit(np.random.default_rng(seed).permutation(embedding))
