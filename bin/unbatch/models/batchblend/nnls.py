"""Non-negative least squares: exactly, or by coordinate descent, one coordinate of all cells or genes after another."""

import torch
from torch import Tensor

from unbatch.nn import systems

_BLOCK_VALUES = 2**22
"""Values of the matrices that are solved at once."""

_PIVOTS = 100
"""Exchanges of coordinates before a cell that still has one to exchange is left to coordinate descent."""

_SWEEPS = 500

_ALL_AT_ONCE = 3
"""Exchanges of all coordinates that need it, in a row, that may leave as many to exchange."""


def solve_amounts(linear: Tensor, design: Tensor) -> Tensor:
    """Minimise ``x' Q x / 2 - x' c`` over x >= 0.

    Parameters
    ----------
    linear
        c of each cell, n x K.
    design
        Q, K x K; a coordinate whose curvature is 0 becomes 0.

    Returns
    -------
    Tensor
        x of each cell, float64, n x K.

    Notes
    -----
    Block principal pivoting (Portugal, Judice & Vicente, Math Comput 1994; Kim & Park, SIAM J Sci Comput 2011): all
    coordinates that are below 0, or at 0 and should not be, change sides at once, or, where that leads nowhere, the
    last of them alone. Metagenes that are alike make coordinate descent crawl: from equal amounts, 100 sweeps left
    shares of noisy cells .1 to .5 (sum of the absolute differences) from the minimum, in the time that this takes with
    11 to 14 metagenes. Where Q is nearly singular (a condition number of 1e7 and more), pivots may not end; cells that
    they left are near the minimum, by coordinate descent.
    """
    design = design.double()
    block = max(1, _BLOCK_VALUES // len(design) ** 2)
    return torch.cat([_pivoted(part.double(), design) for part in linear.split(block)])


def _pivoted(linear: Tensor, design: Tensor) -> Tensor:
    n, K = linear.shape
    alive = design.diagonal() > 1e-12
    # two metagenes that are the same have one solution, too
    firm = design + 1e-9 * design.trace() / K * torch.eye(K, dtype=design.dtype, device=design.device)
    found, free = torch.zeros_like(linear), alive.repeat(n, 1)
    cells = torch.arange(n, device=linear.device)
    fewest, chances = torch.full_like(cells, K + 1), torch.full_like(cells, _ALL_AT_ONCE)
    slack = 1e-9 * linear.abs().amax(1, keepdim=True)
    for _ in range(_PIVOTS):
        inside, target = free.double(), linear[cells]
        matrices = firm * (inside[:, :, None] * inside[:, None, :]) + torch.diag_embed(1 - inside)
        x = systems.solve(matrices, (target * inside)[..., None])[..., 0]
        found[cells] = x.clamp(min=0)
        below = x < -1e-12 * x.abs().amax(1, keepdim=True)
        wrong = torch.where(free, below, (x @ firm - target < -slack[cells]) & alive)
        left = wrong.any(1)
        cells, wrong, free, fewest, chances = (each[left] for each in (cells, wrong, free, fewest, chances))
        if not len(cells):
            return found
        count = wrong.sum(1)
        chances = torch.where(count < fewest, _ALL_AT_ONCE, chances - 1)
        fewest = torch.minimum(count, fewest)
        last = wrong & (wrong.flip(1).cumsum(1).flip(1) == 1)
        free = free ^ torch.where(chances[:, None] >= 0, wrong, last)
    rest, target = torch.zeros_like(linear[cells]), linear[cells]
    sweep_amounts(rest, target, firm, _SWEEPS)
    found[cells] = rest
    return found


def sweep_amounts(amounts: Tensor, linear: Tensor, design: Tensor, sweeps: int) -> None:
    """Lower ``x' Q x / 2 - x' c`` over x >= 0 in place.

    Parameters
    ----------
    amounts, linear
        x and c of each cell, n x K.
    design
        Q, K x K; a coordinate whose curvature is 0 stays.
    sweeps
        Times that all coordinates are renewed.
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
                torch.clamp(best, min=0, out=rows[k])
        part.copy_(x.T)


def sweep_metagenes(metagenes: Tensor, design: Tensor, weights: Tensor, linear: Tensor, *, sweeps: int) -> None:
    """Do the same for the metagenes, whose genes have designs ``sum_b weights_bg design_b``.

    Parameters
    ----------
    metagenes, linear
        K x G.
    design
        Design of each batch, T x K x K.
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
