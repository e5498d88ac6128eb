"""No correction: principal components of the log-normalised genes, the reference of every comparison."""

from unbatch.baselines.cells import Cells, Fit, principal_components

PACKAGES = ("scikit-learn",)
LEAST_BATCHES = 1


def fit(cells: Cells, *, seed: int, n_components: int = 30) -> Fit:
    """Return the first principal components."""
    return principal_components(cells.X, n_components)
