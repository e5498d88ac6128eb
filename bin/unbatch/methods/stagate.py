"""STAGATE (Dong & Zhang 2022): a graph attention autoencoder over neighbouring spots; what STAligner starts from.

Own code in plain torch after the paper, the network of `unbatch.methods.staligner` without its second phase.
"""

import numpy as np
from pydantic import Field

from unbatch.contract import Fit, Needs, Parameters, Run
from unbatch.data.cells import Cells

PACKAGES = ("torch",)
NEEDS = Needs(batches=1, coordinates=True, gpu=True)
EPOCHS = "epochs"


class Params(Parameters):
    """Parameters of `fit`."""

    hidden: int = Field(512, ge=1, description="width of the hidden layer")
    latent: int = Field(30, ge=1, description="dimensions of the embedding")
    epochs: int = Field(1000, ge=1, description="training steps, each over all cells")
    learning_rate: float = Field(0.001, ge=0, description="learning rate of Adam")
    weight_decay: float = Field(0.0001, ge=0, description="weight decay of Adam")


def fit(cells: Cells, params: Params, run: Run) -> Fit:
    """Return the embedding; sections have the network in common, but no edge joins two of them."""
    from unbatch.data.graph import neighbours
    from unbatch.methods.smoothed_pca import warn_of_lone
    from unbatch.models.staligner import train

    graph = neighbours(cells.coordinates, cells.section, names=cells.sections)
    warn_of_lone(cells, graph.source, "stagate", "attend to themselves alone")
    edges = np.stack([graph.source, graph.target])
    widths = params.hidden, params.latent
    steps = params.epochs, params.learning_rate, params.weight_decay
    return Fit(train(cells.X.toarray(), edges, *widths, *steps, seed=run.seed, device=run.device))
