"""Principal components of genes scaled to unit variance, clipped, as in scanpy's and Seurat's tutorials."""

import numpy as np
from pydantic import Field

from unbatch.contract import Fit, Needs, Parameters, Run
from unbatch.data.cells import Cells, principal_components

PACKAGES = ("scikit-learn",)
NEEDS = Needs(batches=1)


class Params(Parameters):
    """Parameters of `fit`."""

    n_components: int = Field(30, ge=1, description="principal components")
    max_value: float = Field(
        10.0, ge=0, description="largest scaled value, in standard deviations; larger ones are clipped"
    )


def fit(cells: Cells, params: Params, run: Run) -> Fit:
    """Return the principal components of scaled genes; not a model for new cells, as their scale is unknown."""
    import scanpy as sc

    scaled = np.asarray(sc.pp.scale(cells.X.toarray(), max_value=params.max_value))
    embedding = principal_components(scaled, params.n_components).embedding
    return Fit(embedding, used=params.using(n_components=embedding.shape[1]))
