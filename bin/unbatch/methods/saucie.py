"""SAUCIE (Amodio et al. 2019): an autoencoder whose two-dimensional embedding has one distribution in all batches.

Own code in torch, as the authors' needs TensorFlow 1 and is on no package index; architecture and penalties are
theirs, and so are the defaults, but for the weight of the batches, which is that of their later code (.1; .01 in the
first). Theirs compares two batches; here every further one is compared with the first. Only what corrects the batch is
here: the penalties that make clusters (lambda_c, lambda_d) are 0, as the authors advise where a batch is corrected.
"""

from typing import Annotated

import numpy as np
from pydantic import Field

from unbatch.contract import Fit, Needs, Parameters, Run
from unbatch.data.cells import Cells, principal_components

PACKAGES = ("torch",)
NEEDS = Needs(gpu=True)
EPOCHS = "steps"


class Params(Parameters):
    """Parameters of `fit`."""

    n_components: int = Field(100, ge=1, description="principal components that it is given, as scIB does")
    hidden: list[Annotated[int, Field(ge=1)]] = Field(
        [512, 256, 128], description="widths of the encoder, mirrored in the decoder"
    )
    latent: int = Field(2, ge=1, description="dimensions of the embedding")
    batch_weight: float = Field(
        0.1, ge=0, description="weight of the discrepancy between the first batch and each other one (lambda_b)"
    )
    other_weight: float = Field(0.1, ge=0, description="weight of the reconstruction of batches other than the first")
    steps: int = Field(1000, ge=1, description="training steps")
    minibatch: int = Field(256, ge=1, description="cells in a step")
    learning_rate: float = Field(0.001, ge=0, description="learning rate of Adam")


def fit(cells: Cells, params: Params, run: Run) -> Fit:
    """Return the embedding."""
    import torch

    from unbatch.models import saucie

    torch.manual_seed(run.seed)
    components = principal_components(cells.X, params.n_components).embedding
    found = saucie.train(
        torch.from_numpy(components).to(run.device),
        torch.from_numpy(cells.batch).to(run.device),
        np.random.default_rng(run.seed),
        **params.model_dump(exclude={"n_components"}),
    )
    return Fit(found.cpu().numpy(), used=params.using(n_components=components.shape[1]))
