"""BBKNN (Polanski et al. 2020) by its own package: a graph with as many neighbours from every batch."""

import numpy as np
from bbknn.matrix import bbknn
from scipy import sparse

from unbatch.baselines.cells import Cells, Fit, principal_components

PACKAGES = ("bbknn",)


def fit(cells: Cells, *, seed: int, n_components: int = 50, neighbours: int = 3) -> Fit:
    """Return the graph's connectivities; there is no embedding.

    Notes
    -----
    Fewer neighbours than asked for where a batch has not as many cells. The search has a seed of its own, so the graph
    is the same for every seed, on the same machine.
    """
    components = principal_components(cells.X, n_components).embedding
    least = int(np.bincount(cells.batch).min())
    _distances, connectivities, _settings = bbknn(
        components,
        cells.batch.astype(str),
        neighbors_within_batch=min(neighbours, least),
        n_pcs=components.shape[1],
    )
    return Fit(None, graph=sparse.csr_matrix(connectivities))
