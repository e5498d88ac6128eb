"""Mutual nearest neighbours (Haghverdi et al. 2018) by scranpy, of fastMNN's author, on the components of `none`."""

import numpy as np
import scranpy

from unbatch.baselines.cells import Cells, Fit, principal_components

PACKAGES = ("scranpy",)


def fit(cells: Cells, *, seed: int, n_components: int = 50, neighbours: int = 15) -> Fit:
    """Return the corrected principal components; without random numbers, so the same for every seed."""
    components = principal_components(cells.X, n_components).embedding.T.astype(np.float64)
    found = scranpy.correct_mnn(components, cells.batch.astype(str).tolist(), num_neighbors=neighbours)
    return Fit(np.asarray(found["corrected"]).T)
