"""Stationary kernels of unit variance, as functions of squared distances."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["cauchy", "eq", "matern"]


def cauchy(ratio: Tensor) -> Tensor:
    """Cauchy kernel, 1 / (1 + r), of squared distances over the scale."""
    return 1 / (1 + ratio)


def exponentiated_quadratic(ratio: Tensor) -> Tensor:
    """Exponentiated quadratic (Gaussian) kernel, exp(-r), of squared distances over the scale."""
    return torch.exp(-ratio)


def matern(ratio: Tensor) -> Tensor:
    """Matern kernel of smoothness 3/2, of squared distances over the scale."""
    # the root has no gradient at 0
    distance = (3 * ratio).clamp(min=1e-24).sqrt()
    return (1 + distance) * torch.exp(-distance)


KERNELS: dict[str, Callable[[Tensor], Tensor]] = {"cauchy": cauchy, "eq": exponentiated_quadratic, "matern": matern}


def squared_distances(first: Tensor, second: Tensor) -> Tensor:
    """Squared distances between the rows of two sets of points, n x d and m x d: n x m."""
    lengths = first.square().sum(-1)[:, None] + second.square().sum(-1)
    return (lengths - 2 * first @ second.T).clamp(min=0)


def kernel_matrix(kind: str, first: Tensor, second: Tensor, scale: Tensor | float) -> Tensor:
    """Kernel between the rows of two sets of points.

    Parameters
    ----------
    kind
        Name in `KERNELS`.
    first, second
        Points, n x d and m x d.
    scale
        What squared distances are divided by, in the squared unit of the points.

    Returns
    -------
    Tensor
        n x m.
    """
    return KERNELS[kind](squared_distances(first, second) / scale)
