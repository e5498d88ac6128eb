"""Non-negative least squares by coordinate descent, one coordinate of all cells, or of all genes, after another."""

import torch
from torch import Tensor


def sweep_amounts(
    amounts: Tensor,
    linear: Tensor,
    design: Tensor,
    sweeps: int,
    *,
    pull: float = 0.0,
    anchor: Tensor | None = None,
) -> None:
    """Lower ``x' Q x / 2 - x' c + pull |x - anchor|_1`` over x >= 0 in place.

    Parameters
    ----------
    amounts, linear
        x and c of each cell, n x K.
    design
        Q, K x K; a coordinate whose curvature is 0 stays.
    sweeps
        Times that all coordinates are renewed.
    pull, anchor
        Weight of the absolute distance to `anchor` (K). The step is exact: to the anchor, where both slopes of the
        distance hold it there.
    """
    curvature = design.diagonal().tolist()
    for part, target in zip(amounts.split(2**14), linear.split(2**14), strict=True):
        x, c = part.T.contiguous(), target.T.contiguous()
        for _ in range(sweeps):
            for k, curve in enumerate(curvature):
                if curve <= 1e-12:
                    continue
                slope = torch.addmv(c[k], x.T, design[k], alpha=-1)
                x[k].add_(slope, alpha=1 / curve)
                if anchor is not None:
                    x[k].copy_(anchor[k] + torch.nn.functional.softshrink(x[k] - anchor[k], pull / curve))
                x[k].clamp_(min=0)
        part.copy_(x.T)


def sweep_metagenes(metagenes: Tensor, design: Tensor, weights: Tensor, linear: Tensor, sweeps: int) -> None:
    """Do the same for the metagenes, whose genes have designs ``sum_b weights_bg design_b``.

    Parameters
    ----------
    metagenes, linear
        K x G.
    design
        Of each batch, T x K x K.
    weights
        T x G.
    sweeps
        Times that all metagenes are renewed.
    """
    designs = torch.einsum("bg,bkl->klg", weights, design)
    for _ in range(sweeps):
        for k in range(len(metagenes)):
            curve = designs[k, k]
            slope = linear[k] - (designs[k] * metagenes).sum(0)
            moved = (metagenes[k] + slope / curve.clamp(min=1e-12)).clamp(min=0)
            metagenes[k] = torch.where(curve > 1e-12, moved, metagenes[k])
