"""The control without biology: the uncorrected components, dealt out to the cells at random."""

import numpy as np
from pydantic import Field

from unbatch.contract import Fit, Needs, Parameters, Run
from unbatch.data.cells import Cells, principal_components

PACKAGES = ("scikit-learn",)
NEEDS = Needs(batches=1)


class Params(Parameters):
    """Parameters of `fit`."""

    n_components: int = Field(30, ge=1, description="principal components")


def fit(cells: Cells, params: Params, run: Run) -> Fit:
    """Return the principal components with their rows permuted over all cells."""
    embedding = principal_components(cells.X, params.n_components).embedding
    shuffled = np.random.default_rng(run.seed).permutation(embedding)
    return Fit(shuffled, used=params.using(n_components=embedding.shape[1]))
