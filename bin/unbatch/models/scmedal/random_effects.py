"""Layers with random effects of the batch, whose posterior is learned by variational inference (RE-DEN blocks)."""

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from unbatch.nn.layers import dense, rows

PRIOR = 0.25
"""Standard deviation of the prior, a normal distribution of mean 0."""
_LEAST = 1e-5
"""Standard deviation that a posterior has at least: at 0 the divergence would not be finite."""


class RandomEffects(nn.Module):
    """Slopes and intercepts of each batch for the units of a layer: a table K x 2u of normal posteriors.

    Parameters
    ----------
    batches, units
        Sizes K and u.
    spread
        Standard deviation of the means at the start.
    sd
        Standard deviation of the posterior at the start; None for that of the authors' code, which by a slip of its
        start is between 5e-5 and 0.010.
    """

    def __init__(self, batches: int, units: int, spread: float = 0.1, sd: float | None = 0.05) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.randn(batches, 2 * units) * spread)
        if sd is None:
            rho = _inverse_softplus(0.01) + torch.rand(batches, 2 * units) * _inverse_softplus(0.005)
        else:
            rho = torch.full((batches, 2 * units), _inverse_softplus(sd))
        self.rho = nn.Parameter(rho)

    def sd(self) -> Tensor:
        """Posterior standard deviations, K x 2u."""
        return _LEAST + F.softplus(self.rho)

    def sample(self) -> Tensor:
        """Draw a table."""
        return self.mean + self.sd() * torch.randn_like(self.mean)

    def divergence(self) -> Tensor:
        """Kullback-Leibler divergence of the posterior from the prior, in closed form, summed over the table."""
        sd = self.sd()
        return (torch.log(PRIOR / sd) + (sd.square() + self.mean.square()) / (2 * PRIOR**2) - 0.5).sum()

    def sampled_divergence(self, table: Tensor) -> tuple[Tensor, Tensor]:
        """Estimate the divergence of slopes and of intercepts by one drawn table: log q - log p."""
        sd = self.sd()
        score = ((table - self.mean) / sd).square()
        ratio = torch.log(PRIOR / sd) - score / 2 + (table / PRIOR).square() / 2
        slopes, intercepts = ratio.chunk(2, 1)
        return slopes.sum(), intercepts.sum()


class Reden(nn.Module):
    """scMEDAL's block: ``activation(n * (1 + slope_z) + intercept_z)``, ``n`` the normalised output of a dense layer.

    Parameters
    ----------
    inputs, units
        Sizes.
    batches
        Number of batches, K; 0 for a block without random effects.
    activation
        SELU or none.
    scaled
        Whether intercepts are in units of the weight of the normalisation, through which no gradient goes: for an
        output whose values have very different standard deviations.
    momentum
        Momentum of the moving statistics.
    spread, sd
        See `RandomEffects`.

    Notes
    -----
    A draw is either one table (`table` is given: all cells of a batch share it, as published), or, in training, one for
    each cell: given ``n``, the output of a unit is normal with variance ``n^2 sd_slope^2 + sd_intercept^2``, which is
    drawn from (local reparametrisation; Kingma, Salimans & Welling 2015). Cells of a minibatch then differ in their
    draws, and the gradient of the standard deviations is less noisy.
    """

    def __init__(
        self,
        inputs: int,
        units: int,
        batches: int,
        *,
        activation: bool = True,
        scaled: bool = False,
        momentum: float = 0.1,
        spread: float = 0.1,
        sd: float | None = 0.05,
    ) -> None:
        super().__init__()
        self.dense = dense(inputs, units)
        self.norm = nn.BatchNorm1d(units, eps=1e-3, momentum=momentum)
        self.effects = RandomEffects(batches, units, spread, sd) if batches else None
        self.activation, self.scaled = activation, scaled

    def forward(self, values: Tensor, batch: Tensor, table: Tensor | None = None) -> Tensor:
        """Apply the block."""
        values = self.norm(self.dense(values))
        if self.effects is not None:
            drawn = self.effects.mean if table is None else table
            slope, intercept = rows(drawn, batch).chunk(2, 1)
            unit = self.norm.weight.detach().abs() if self.scaled else 1.0
            out = values * (1 + slope) + intercept * unit
            if self.training and table is None:
                slope_sd, intercept_sd = F.embedding(batch, self.effects.sd()).chunk(2, 1)
                variance = (values * slope_sd).square() + (intercept_sd * unit).square()
                out = out + variance.sqrt() * torch.randn_like(out)
            values = out
        return F.selu(values) if self.activation else values


def _inverse_softplus(value: float) -> float:
    return math.log(math.expm1(value))
