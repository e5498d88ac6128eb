"""Principal components, averaged over neighbouring spots: what a spatial method without training can do.

On sections of cortex the domains of this mean are a strong rival of every network (docs/results/spavae.md).
"""

import logging

import numpy as np
from pydantic import Field

from unbatch.contract import Fit, Needs, Parameters, Run
from unbatch.data.cells import Cells, principal_components

log = logging.getLogger("unbatch")

PACKAGES = ("scikit-learn",)
NEEDS = Needs(batches=1, coordinates=True)


class Params(Parameters):
    """Parameters of `fit`."""

    n_components: int = Field(10, ge=1, description="principal components of genes scaled to unit variance")
    rings: int = Field(2, ge=0, description="rings of neighbours that a cell is averaged with; 0: none")
    max_value: float = Field(
        10.0, gt=0, description="largest scaled value, in standard deviations; larger ones are clipped"
    )


def fit(cells: Cells, params: Params, run: Run) -> Fit:
    """Return the mean of the components over a cell and its neighbours; no mean is over two sections.

    Raises
    ------
    InputError
        If the coordinates can't be used.
    """
    from scipy.sparse import csr_array

    from unbatch.data.graph import neighbours, widened

    values = cells.X.toarray().astype(np.float64)
    spread = values.std(0, ddof=1)
    scaled = (values - values.mean(0)) / np.where(spread > 1e-12, spread, 1.0)
    scaled = np.clip(scaled, -params.max_value, params.max_value)
    embedding = principal_components(scaled, params.n_components).embedding
    used = params.using(n_components=embedding.shape[1])
    # the graph also checks the coordinates
    graph = neighbours(cells.coordinates, cells.section, names=cells.sections)
    warn_of_lone(cells, graph.source, "smoothed_pca", "keep their own components")
    if not params.rings:
        return Fit(embedding, used=used)
    n = len(embedding)
    wide = widened(graph, n, params.rings)
    own = np.arange(n)
    ends = np.concatenate([wide.source, own]), np.concatenate([wide.target, own])
    joined = csr_array((np.ones(len(ends[0])), ends), shape=(n, n))
    mean = joined @ embedding.astype(np.float64) / joined.sum(1)[:, None]
    return Fit(mean.astype(np.float32), used=used)


def warn_of_lone(cells: Cells, source: np.ndarray, method: str, what: str) -> None:
    """Warn of cells that have no neighbour.

    Parameters
    ----------
    cells
        The cells.
    source
        The cell at the start of each edge.
    method, what
        The method's name, and what becomes of these cells.
    """
    lone = len(cells) - len(np.unique(source))
    if lone:
        log.warning("%s: %d of %d cells have no neighbour in their section; they %s", method, lone, len(cells), what)
