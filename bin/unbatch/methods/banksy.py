"""BANKSY (Singhal et al. 2024): principal components of own expression and that of the neighbourhood.

Own code after the paper; the authors' packages are under the GPL and were not used.
"""

import numpy as np
from pydantic import Field

from unbatch.contract import Fit, Needs, Parameters, Run
from unbatch.data.cells import Cells, principal_components
from unbatch.errors import InputError

PACKAGES = ("scikit-learn",)
NEEDS = Needs(batches=1, coordinates=True)


class Params(Parameters):
    """Parameters of `fit`."""

    weight: float = Field(
        0.8, ge=0, le=1, description="share of the neighbourhood (lambda): 0.8 for domains, 0.2 for types of cells"
    )
    neighbours: int = Field(15, ge=1, description="nearest cells whose mean is taken")
    gradient_neighbours: int | None = Field(
        30, ge=2, description="nearest cells of the gradient (azimuthal Gabor filter); null: no gradient"
    )
    n_components: int = Field(20, ge=1, description="principal components")


def fit(cells: Cells, params: Params, run: Run) -> Fit:
    """Return the components; the neighbourhood of a cell is in its section.

    Raises
    ------
    InputError
        If the coordinates can't be used.
    """
    from unbatch.data.graph import neighbours
    from unbatch.methods.smoothed_pca import warn_of_lone
    from unbatch.metrics.spatial import units
    from unbatch.models.banksy import features

    if cells.coordinates.shape[1] != 2 and params.gradient_neighbours is not None:
        raise InputError(
            f"{cells.name}: obsm/spatial has {cells.coordinates.shape[1]} columns, expected 2 for the gradient of "
            "banksy; gradient_neighbours null leaves it out"
        )
    # checks the coordinates
    graph = neighbours(cells.coordinates, cells.section, "knn", k=params.neighbours, names=cells.sections)
    warn_of_lone(cells, graph.source, "banksy", "are their own neighbourhood")
    place = cells.coordinates * units(cells.coordinates, cells.section, lone=True)[cells.section]
    X = cells.X.toarray().astype(np.float64)
    found = features(X, place, cells.section, params.weight, params.neighbours, params.gradient_neighbours)
    embedding = principal_components(found, params.n_components).embedding
    return Fit(embedding, used=params.using(n_components=embedding.shape[1]))
