"""Mutual nearest neighbours (Haghverdi et al. 2018) by scranpy, of fastMNN's author, on the components of `none`."""

import numpy as np
from pydantic import Field

from unbatch.contract import Fit, Parameters, Run
from unbatch.data.cells import Cells, principal_components

PACKAGES = ("scranpy",)
EXTRA = "mnn"


class Params(Parameters):
    """Parameters of `fit`."""

    n_components: int = Field(50, ge=1, description="principal components that are corrected")
    neighbours: int = Field(15, ge=1, description="nearest neighbours among which a pair must be mutual")


def fit(cells: Cells, params: Params, run: Run) -> Fit:
    """Return the corrected principal components; without random numbers, so the same for every seed."""
    import scranpy

    components = principal_components(cells.X, params.n_components).embedding.T.astype(np.float64)
    found = scranpy.correct_mnn(components, cells.batch.astype(str).tolist(), num_neighbors=params.neighbours)
    return Fit(np.asarray(found["corrected"]).T, used=params.using(n_components=len(components)))
