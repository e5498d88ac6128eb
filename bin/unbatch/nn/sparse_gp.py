"""The posterior of a sparse Gaussian process given noisy values of it, in closed form, from sums over spots.

With whitened features W (n x M; `inducing.whitened`), values w and variances v of their noise (n), everything stands
in two sums over spots, P = W' diag(1/v) W and q = W' (w/v). With S = I + P = C C' and h = S^-1 q::

    mean        m = W h
    variance    B = 1 - |W|^2 + |W C^-T|^2          by rows
    divergence  KL(q(f_p) || p(f_p)) = (log|S| - M + tr S^-1 + h'h) / 2

The divergence over all spots of the process's factor of an evidence bound, E_q log q~(w | f) less the bound itself, is
this one of the values at the inducing points alone: m and the expected variance of its two data terms are the same, so
these cancel. Neither has to be computed. Leading dimensions (sections, latent dimensions) are batched; a feature that
is 0 for all spots changes nothing, which lets blocks of different sizes be filled up.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """What spots tell of the process: ``precision`` P (... x M x M) and ``weighted`` q (... x M); sums over spots."""

    precision: Tensor
    weighted: Tensor

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(self.precision + other.precision, self.weighted + other.weighted)

    def detached(self) -> "Moments":
        """Return the same without gradients."""
        return Moments(self.precision.detach(), self.weighted.detach())


def moments(features: Tensor, mean: Tensor, variance: Tensor, factor: float = 1.0) -> Moments:
    """Sum over spots.

    Parameters
    ----------
    features
        W, n x M, float64.
    mean, variance
        Noisy values and the variance of their noise, n x L, float64.
    factor
        What the sums are multiplied by: all spots over those of a minibatch.

    Returns
    -------
    Moments
        L x M x M and L x M.
    """
    precision = factor / variance.T
    scaled = precision.unsqueeze(1) * features.T
    return Moments(scaled @ features, (precision * mean.T) @ features)


@dataclass(frozen=True)
class Posterior:
    """What the process is, given moments.

    Attributes
    ----------
    root
        C^-1, the inverse of the lower Cholesky factor of S, ... x M x M.
    coefficients
        h, ... x M.
    """

    root: Tensor
    coefficients: Tensor

    @classmethod
    def of(cls, known: Moments) -> "Posterior":
        """Factorise; moments that are not finite give a posterior that is not, and no error."""
        eye = torch.eye(known.precision.shape[-1], dtype=known.precision.dtype, device=known.precision.device)
        factor, failed = torch.linalg.cholesky_ex(known.precision + eye)
        factor = factor.masked_fill((failed > 0)[..., None, None], torch.nan)
        root = torch.linalg.solve_triangular(factor, eye.expand_as(factor), upper=False)
        half = root @ known.weighted.unsqueeze(-1)
        return cls(root, (root.transpose(-1, -2) @ half).squeeze(-1))

    def mean(self, features: Tensor) -> Tensor:
        """Mean at spots of which the features (n x M) are given: n x L, of a posterior of shape L."""
        return features @ self.coefficients.T

    def variance(self, features: Tensor) -> Tensor:
        """Variance at spots, n x L; see `mean`."""
        explained = (self.root @ features.T).square().sum(-2).T
        return (1 - features.square().sum(-1, keepdim=True) + explained).clamp(min=1e-10)

    def divergence(self) -> Tensor:
        """KL divergence of the values at the inducing points from the prior, summed over all leading dimensions."""
        diagonal = torch.diagonal(self.root, dim1=-2, dim2=-1)
        parts = -2 * diagonal.log().sum() + (self.root.square().sum() - diagonal.numel())
        return (parts + self.coefficients.square().sum()) / 2

    @cached_property
    def explained(self) -> Tensor:
        """Effective number of values that the spots determine, tr(I - S^-1), of each process (...)."""
        return self.root.shape[-1] - self.root.square().sum((-2, -1))
