"""No correction: principal components of the log-normalised genes, the reference of every comparison."""

from pydantic import Field

from unbatch.contract import Fit, Needs, Parameters, Run, SavedModel
from unbatch.data.cells import Cells, principal_components, project

PACKAGES = ("scikit-learn",)
NEEDS = Needs(batches=1)


class Params(Parameters):
    """Parameters of `fit`."""

    n_components: int = Field(30, ge=1, description="principal components")


def fit(cells: Cells, params: Params, run: Run) -> Fit:
    """Return the first principal components."""
    found = principal_components(cells.X, params.n_components)
    return Fit(found.embedding, found.weights, used=params.using(n_components=found.embedding.shape[1]))


def apply(model: SavedModel, cells: Cells, run: Run) -> Fit:
    """Return the scores of other cells on the components."""
    return Fit(project(model.weights, cells.X))
