"""Robust two-way fits of many small tables at once."""

import math

import torch
from torch import Tensor

from unbatch.models.batchblend.settings import RULES
from unbatch.nn import systems


def two_way(
    logs: Tensor, variance: Tensor, *, steps: int = 30, huber: float = RULES.outlying_state
) -> tuple[Tensor, Tensor, Tensor]:
    """Fit ``log p_bcg = a_cg + h_bg`` per gene by reweighted least squares.

    Parameters
    ----------
    logs, variance
        Values and their variances, infinite where unknown, T x C x G.
    steps
        Most steps.
    huber
        Standard deviations beyond which a value weighs less.

    Returns
    -------
    tuple of Tensor
        h (mean 0 over batches) and its standard errors, T x G, and the variance that is left over states, G.
    """
    batches, _, genes = logs.shape
    sampling = 1 / variance
    known = sampling > 0
    weight = sampling
    factors = torch.zeros(batches, genes, dtype=logs.dtype, device=logs.device)
    spread = torch.zeros(genes, dtype=logs.dtype, device=logs.device)
    eye = torch.eye(batches, dtype=logs.dtype, device=logs.device)
    entries = known.sum((0, 1))
    # a gene may be unknown in a batch: that row is left out of the normal equations by a diagonal of its own
    present = known.any(1).to(logs.dtype)
    count = present.sum(0).clamp(min=1)
    freedom = (entries - known.any(0).sum(0) - count + 1).clamp(min=0)
    mean_of_present = torch.einsum("bg,dg->gbd", present, present) / count[:, None, None]
    # DerSimonian & Laird 1986
    contrast = sampling.sum((0, 1)) - sampling.square().sum((0, 1)) / sampling.sum((0, 1)).clamp(min=1e-12)
    contrast = (contrast * freedom / entries.clamp(min=1)).clamp(min=1e-12)
    for _ in range(steps):
        of_state = weight.sum(0).clamp(min=1e-12)
        normal = -torch.einsum("bcg,dcg->gbd", weight, weight / of_state)
        normal += torch.diag_embed(weight.sum(1).T)
        mean = (weight * logs).sum(0) / of_state
        right = (weight * (logs - mean)).sum(1).T
        scale = normal.diagonal(dim1=1, dim2=2).sum(1)[:, None, None] + 1e-12
        # the normal matrix leaves the mean over batches open: it is held at 0, and its part subtracted from the inverse
        absent = torch.diag_embed(1 - present.T)
        inverse = systems.inverse(normal + scale * (mean_of_present + absent + 1e-9 * eye))
        before, factors = factors, (inverse @ right[..., None])[..., 0].T
        factors = (factors - (factors * present).sum(0) / count) * present
        state = (weight * (logs - factors[:, None])).sum(0) / of_state
        residual = torch.where(known, logs - state - factors[:, None], 0.0)
        limited = torch.where(known, torch.minimum(residual.square(), 9 * (variance + spread)), 0.0)
        found = ((sampling * limited).sum((0, 1)) - freedom).clamp(min=0) / contrast
        found = torch.where(freedom > 0, found, 0.0)
        spread = (freedom * found + 4 * found.median()) / (freedom + 4)
        total = variance + spread
        influence = (huber * total.sqrt() / residual.abs().clamp(min=1e-9)).clamp(max=1)
        weight = torch.where(known, influence / total, 0.0)
        if (factors - before).abs().max() < 1e-5:
            break
    variance_of = (inverse - mean_of_present / scale).diagonal(dim1=1, dim2=2).T
    error = torch.where(present > 0, variance_of.clamp(min=0).sqrt(), math.inf)
    return factors, error, spread
