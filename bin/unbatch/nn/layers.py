"""Layers that several models share."""

from itertools import pairwise

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


def dense(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    """Give a linear layer with Glorot's uniform start and biases of 0, as Keras has it."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def classifier(sizes: tuple[int, ...], normalised: bool = False) -> nn.Sequential:
    """Give a network of dense layers with ReLU between them, whose outputs are logits.

    Parameters
    ----------
    sizes
        Inputs, hidden layers, classes.
    normalised
        Whether to normalise the inputs over a minibatch.
    """
    layers: list[nn.Module] = [nn.BatchNorm1d(sizes[0], affine=False)] if normalised else []
    for inputs, outputs in pairwise(sizes[:-1]):
        layers += [dense(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers, dense(sizes[-2], sizes[-1]))


def rows(table: Tensor, batch: Tensor) -> Tensor:
    """Look up the row of the batch of each cell; zeros, the average of the population, where it is unknown (-1)."""
    return F.embedding(batch.clamp(min=0), table) * (batch >= 0).to(table.dtype)[:, None]
