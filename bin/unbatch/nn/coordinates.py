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
    curvature = design.diagonal()
    moving = [k for k, curve in enumerate(curvature.tolist()) if curve > 1e-12]
    scaled = design / curvature.clamp(min=1e-12)[:, None]
    scaled.diagonal().zero_()
    others = scaled.unbind()
    for part, target in zip(amounts.split(2**14), linear.split(2**14), strict=True):
        x, c = part.T.contiguous(), (target / curvature).T.contiguous()
        cells, rows, wanted = x.T, x.unbind(), c.unbind()
        best = torch.empty_like(rows[0])
        for _ in range(sweeps):
            for k in moving:
                torch.addmv(wanted[k], cells, others[k], alpha=-1, out=best)
                if anchor is not None:
                    shrunk = torch.nn.functional.softshrink(best - anchor[k], pull / float(curvature[k]))
                    torch.add(shrunk, anchor[k], out=best)
                torch.clamp(best, min=0, out=rows[k])
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
    curvature = designs.diagonal().T
    moving = curvature > 1e-12
    safe = curvature.clamp(min=1e-12)
    wanted = linear / safe
    designs = designs / safe[:, None]
    designs.diagonal().zero_()
    # where nothing moves, the metagene itself is what is wanted
    still = [None if bool(row.all()) else ~row for row in moving]
    for _ in range(sweeps):
        for k, row in enumerate(metagenes.unbind()):
            best = torch.sub(wanted[k], (designs[k] * metagenes).sum(0)).clamp_(min=0)
            row.copy_(best if still[k] is None else torch.where(still[k], row, best))
