"""BBKNN (Polanski et al. 2020) by its own package: a graph with as many neighbours from every batch."""

import numpy as np
from pydantic import Field

from unbatch.contract import Fit, Parameters, Run
from unbatch.data.cells import Cells, principal_components

PACKAGES = ("bbknn",)
EXTRA = "bbknn"


class Params(Parameters):
    """Parameters of `fit`."""

    n_components: int = Field(50, ge=1, description="principal components among which neighbours are searched")
    neighbours: int = Field(3, ge=1, description="neighbours from every batch")


def fit(cells: Cells, params: Params, run: Run) -> Fit:
    """Return the graph's connectivities; there is no embedding.

    Notes
    -----
    Fewer neighbours than asked for where a batch has not as many cells. The search has a seed of its own, so the graph
    is the same for every seed, on the same machine.
    """
    from bbknn.matrix import bbknn
    from scipy import sparse

    components = principal_components(cells.X, params.n_components).embedding
    used = params.using(
        n_components=components.shape[1], neighbours=min(params.neighbours, int(np.bincount(cells.batch).min()))
    )
    _distances, connectivities, _settings = bbknn(
        components,
        cells.batch.astype(str),
        neighbors_within_batch=used.neighbours,
        n_pcs=components.shape[1],
    )
    return Fit(None, graph=sparse.csr_matrix(connectivities), used=used)
