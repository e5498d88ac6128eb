"""Layers that several models share."""

from collections.abc import Callable
from itertools import pairwise

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


def dense(inputs: int, outputs: int) -> nn.Linear:
    """Give a linear layer with Glorot's uniform start and biases of 0, as Keras has it."""
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def perceptron(
    sizes: tuple[int, ...], *, normalised: bool = False, activation: Callable[[], nn.Module] = nn.ReLU
) -> nn.Sequential:
    """Give a network of dense layers with an activation between them; the last layer has none.

    Parameters
    ----------
    sizes
        Inputs, hidden layers, outputs.
    normalised
        Whether to normalise the inputs over a minibatch.
    activation
        Makes what stands between two layers.
    """
    layers: list[nn.Module] = [nn.BatchNorm1d(sizes[0], affine=False)] if normalised else []
    for inputs, outputs in pairwise(sizes[:-1]):
        layers += [dense(inputs, outputs), activation()]
    return nn.Sequential(*layers, dense(sizes[-2], sizes[-1]))


def rows(table: Tensor, batch: Tensor) -> Tensor:
    """Look up the row of the batch of each cell; zeros, the average of the population, where it is unknown (-1)."""
    return F.embedding(batch.clamp(min=0), table) * (batch >= 0).to(table.dtype)[:, None]
