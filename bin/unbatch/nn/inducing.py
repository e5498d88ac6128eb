"""Inducing points of a sparse Gaussian process: as many as the kernel needs, a grid, or centres of k-means."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unbatch.nn.kernels import kernel_matrix
from unbatch.nn.kmeans import kmeans

MOST_SEARCHED = 20_000
"""Spots among which inducing points are searched; of more, a random sample of so many."""


@dataclass(frozen=True)
class Inducing:
    """Inducing points, and how much of the prior variance they leave.

    Attributes
    ----------
    points
        M x d, float64.
    residual, largest
        Variance of the prior at a spot given its values at the inducing points: mean and largest over spots. The
        variance of the prior is 1.
    """

    points: Tensor
    residual: float
    largest: float


def greedy(points: Tensor, kind: str, scale: float, tolerance: float, most: int, seed: int = 0) -> Inducing:
    """Choose spots one after another, each where the variance given those before is largest (pivoted Cholesky).

    Parameters
    ----------
    points
        Positions of the spots, n x d, float64.
    kind, scale
        Kind and scale of the kernel.
    tolerance
        Mean residual variance at which there are enough.
    most
        Most inducing points.
    seed
        Seed of the sample that is searched where there are more than `MOST_SEARCHED` spots.

    Notes
    -----
    Costs n M^2 operations. After M points the residuals are exactly the conditional variances given these.
    """
    points = _sample(points, seed)
    first = int((points - points.mean(0)).square().sum(1).argmin())
    residual = torch.ones(len(points), dtype=torch.float64)
    factor = torch.zeros(len(points), min(most, len(points)), dtype=torch.float64)
    chosen: list[int] = []
    following = first
    for column in range(factor.shape[1]):
        covariance = kernel_matrix(kind, points, points[following : following + 1], scale)[:, 0]
        explained = factor[:, :column] @ factor[following, :column]
        factor[:, column] = (covariance - explained) / residual[following].sqrt()
        residual = (residual - factor[:, column].square()).clamp(min=0)
        residual[following] = 0
        chosen.append(following)
        following = int(residual.argmax())
        # beyond rounding there is nothing left to explain
        if residual.mean() <= tolerance or residual[following] < 1e-10:
            break
    return Inducing(points[chosen], float(residual.mean()), float(residual.max()))


def grid(points: Tensor, kind: str, scale: float, steps: int, seed: int = 0) -> Inducing:
    """Lay a grid of ``(steps + 1) ** d`` points over the box around the spots, as published; see `greedy`."""
    low, high = points.min(0).values, points.max(0).values
    axes = [torch.linspace(float(a), float(b), steps + 1, dtype=torch.float64) for a, b in zip(low, high, strict=True)]
    found = torch.cartesian_prod(*axes).reshape(-1, points.shape[1])
    # an axis along which all spots are the same has one step
    return measured(torch.unique(found, dim=0), points, kind, scale, seed)


def centres(points: Tensor, kind: str, scale: float, number: int, seed: int = 0) -> Inducing:
    """Take the centres of k-means of the spots' positions; see `greedy`."""
    generator = torch.Generator().manual_seed(seed)
    found = kmeans(points, number, generator).double()
    return measured(torch.unique(found, dim=0), points, kind, scale, seed)


def measured(chosen: Tensor, points: Tensor, kind: str, scale: float, seed: int = 0) -> Inducing:
    """Measure what inducing points (M x d) leave of the variance of the prior at spots (n x d)."""
    points = _sample(points, seed)
    features = whitened(chosen, points, kind, scale)
    residual = (1 - features.square().sum(1)).clamp(min=0)
    return Inducing(chosen, float(residual.mean()), float(residual.max()))


JITTER = 1e-6
"""What is added to the variance at the inducing points: without it their covariance may lack a Cholesky factor."""


def whitened(inducing: Tensor, points: Tensor, kind: str, scale: Tensor | float, used: Tensor | None = None) -> Tensor:
    """Features of spots of which the sparse prior is the inner product: rows of ``K_np L^-T`` with ``K_pp = L L'``.

    Parameters
    ----------
    inducing, points
        M x d and n x d, float64.
    kind, scale
        Kind and scale of the kernel.
    used
        Which inducing points there are, M; the features of the others, which only fill a block up, are 0.

    Returns
    -------
    Tensor
        n x M.
    """
    eye = torch.eye(len(inducing), dtype=inducing.dtype, device=inducing.device)
    own = kernel_matrix(kind, inducing, inducing, scale)
    other = kernel_matrix(kind, inducing, points, scale)
    if used is not None:
        both = used[:, None] & used
        own, other = torch.where(both, own, 0.0), torch.where(used[:, None], other, 0.0)
        own = own + torch.diag((~used).to(own.dtype))
    factor = torch.linalg.cholesky(own + JITTER * eye)
    return torch.linalg.solve_triangular(factor, other, upper=False).T


def _sample(points: Tensor, seed: int) -> Tensor:
    if len(points) <= MOST_SEARCHED:
        return points
    chosen = np.random.default_rng(seed).choice(len(points), MOST_SEARCHED, replace=False)
    return points[torch.as_tensor(np.sort(chosen), device=points.device)]
