"""LEACE (Belrose et al. 2023, NeurIPS, arXiv 2306.03819): linear erasure of the batch in closed form, on PCA."""

import numpy as np
from pydantic import Field

from unbatch.contract import Fit, Parameters, Run, SavedModel
from unbatch.data.cells import Cells, principal_components, project
from unbatch.errors import NotApplicable

PACKAGES = ("scikit-learn",)


class Params(Parameters):
    """Parameters of `fit`."""

    n_components: int = Field(30, ge=1, description="principal components that the batch is erased from")


def fit(cells: Cells, params: Params, run: Run) -> Fit:
    """Return the components of `none` after the smallest change that leaves no linear trace of the batch.

    Raises
    ------
    NotApplicable
        If there are not more components than batches tell apart: nothing would be left.

    Notes
    -----
    The closed form: x' = x - W^+ P W (x - mean), W whitens x and P projects onto the columns of W Cov(x, z). Components
    are uncorrelated, so W divides each by its standard deviation; z is the one-hot batch, so the columns span the same
    as the whitened means of the batches. In float64: the means of all batches become equal but for rounding.
    """
    pca = principal_components(cells.X, params.n_components)
    components = pca.embedding.astype(np.float64)
    spread = components.std(axis=0)
    white = (components - components.mean(axis=0)) / spread
    means = np.array([white[cells.batch == b].mean(axis=0) for b in range(cells.n_batches)])
    _left, size, directions = np.linalg.svd(means, full_matrices=False)
    erased = directions[size > 1e-6]
    if len(erased) >= len(spread):
        raise NotApplicable(
            f"leace: {cells.n_batches} batches take {len(erased)} of {len(spread)} components; give more n_components"
        )
    keep = np.eye(len(spread)) - (erased.T @ erased) * spread / spread[:, None]
    weights = {"mean": pca.weights["mean"], "components": (keep.T @ pca.weights["components"]).astype(np.float32)}
    used = params.using(n_components=components.shape[1])
    return Fit((components @ keep).astype(np.float32), weights, used=used)


def apply(model: SavedModel, cells: Cells, run: Run) -> Fit:
    """Return the erased components of other cells."""
    return Fit(project(model.weights, cells.X))
