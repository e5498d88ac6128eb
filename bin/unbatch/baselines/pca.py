"""Principal components of genes scaled to unit variance, clipped, as in scanpy's and Seurat's tutorials."""

import numpy as np
import scanpy as sc

from unbatch.baselines.cells import Cells, Fit, principal_components

PACKAGES = ("scikit-learn",)
LEAST_BATCHES = 1


def fit(cells: Cells, *, seed: int, n_components: int = 30, max_value: float = 10.0) -> Fit:
    """Return the principal components of scaled genes; not a model for new cells, as their scale is unknown."""
    scaled = np.asarray(sc.pp.scale(cells.X.toarray(), max_value=max_value))
    return Fit(principal_components(scaled, n_components).embedding)
