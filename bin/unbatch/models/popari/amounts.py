"""Amounts of the metagenes in each cell, given a quadratic data term and a penalty on their shares.

Metagenes and batch effects stay as they are. Each cell has a quadratic data term in its amounts x, and a penalty on
their shares z = x / sum(x):

``(x' Q_b x / 2 - linear' x) / variance + weight * penalty(z)``
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

_CHUNK = 16_384
"""Cells that a processor works on at once: their amounts then stay in its cache."""

_SWEEPS = 2
"""Times that each amount of a cell is renewed, given the neighbours."""

_HALVINGS = 4
"""Times that the step of an amount is halved before it stays where it was."""

_LEAST = 1e-3
"""Share of its amounts that a cell keeps at least, lest its data no longer count where a field is strong."""

STILL = 1e-4
"""Mean change of a cell's shares, summed over the metagenes, below which a phase ends."""


@dataclass(frozen=True)
class Problem:
    """An NMF's cells, frozen metagenes and neighbours; n cells, K metagenes, T batches.

    Attributes
    ----------
    X
        Amounts to start from, 0 or more, shape (n, K).
    linear
        Inner products of each cell's weighted, offset-corrected profile with the weighted metagenes of its batch,
        less `variance` times any linear penalty, shape (n, K).
    design
        Inner products of the weighted metagenes of each batch with one another, shape (T, K, K).
    batch
        Code of each cell's batch, 0 to T - 1, int64, shape (n,).
    variance
        Noise variance of each cell's weighted profile, above 0, shape (n,).
    source, target
        Both directions of every edge, int64, shape (edges,), sorted by source; of any batches.
    expected, spread
        What the shares of a cell are expected to be without its neighbours, and their variance about that (above 0),
        shape (n, K); or None. The random field uses neither.

    Notes
    -----
    All on one device, values of one floating type (float64 for small data). Cells without amounts keep their X, and
    so do those without neighbours that have any, unless something is expected of them.
    """

    X: torch.Tensor
    linear: torch.Tensor
    design: torch.Tensor
    batch: torch.Tensor
    variance: torch.Tensor
    source: torch.Tensor
    target: torch.Tensor
    expected: torch.Tensor | None = None
    spread: torch.Tensor | None = None


@dataclass(frozen=True)
class SpatialFit:
    """What a spatial phase found.

    Attributes
    ----------
    X
        Amounts, shape (n, K).
    history
        ``objective`` and its terms ``data`` (up to a constant, with the linear penalty in `Problem.linear`) and
        ``spatial``, at the start and after each round; the random field also has ``renewed``, 1 where the
        affinities are new, and the objective may be above the one before.
    affinity
        Affinities of the random field, float64, shape (1 or T, K, K); None without it.
    """

    X: torch.Tensor
    history: dict[str, list[float]]
    affinity: torch.Tensor | None = None


def no_edges(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Give source and target of no edges."""
    none = torch.zeros(0, dtype=torch.int64, device=device)
    return none, none


def shares(X: torch.Tensor) -> torch.Tensor:
    """Divide amounts by their sum; rows of 0 stay 0."""
    total = X.sum(dim=1, keepdim=True)
    return X / torch.where(total > 0, total, 1)


def by_batch(problem: Problem, usable: torch.Tensor) -> Iterator[tuple[torch.Tensor, int]]:
    """Yield usable cells (a mask, shape (n,)) of one batch, some at a time, and its code."""
    usable = usable & (problem.X.sum(dim=1) > 0)
    most = _CHUNK if problem.X.device.type == "cpu" else len(problem.X)
    for code in range(len(problem.design)):
        cells = (usable & (problem.batch == code)).nonzero()[:, 0]
        if len(cells):
            yield from ((part, code) for part in cells.split(most))


def mean_change(before: torch.Tensor, after: torch.Tensor) -> float:
    """Return the mean over cells of the absolute changes of a cell's shares, summed over the metagenes."""
    return float((shares(after) - shares(before)).abs().sum(dim=1).mean())


def data_term(problem: Problem, groups: list[tuple[torch.Tensor, int]], X: torch.Tensor) -> float:
    """Sum the data term of the cells of `groups`, which `by_batch` yielded, over them."""
    return sum(
        float(_data(X[c].T, problem.linear[c].T, problem.design[b], problem.variance[c]).double().sum())
        for c, b in groups
    )


def _data(x: torch.Tensor, linear: torch.Tensor, design: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
    """Return the data term of each cell from amounts of shape (K, cells)."""
    return (x * (design @ x / 2 - linear)).sum(dim=0) / variance


def descend(
    problem: Problem,
    cells: torch.Tensor,
    code: int,
    *,
    X: torch.Tensor,
    pull: torch.Tensor,
    precision: torch.Tensor,
) -> torch.Tensor:
    """Lower the data term plus ``pull' z + sum(precision z^2) / 2`` of cells of one batch that are no neighbours.

    Parameters
    ----------
    problem
        All cells.
    cells, code
        Places of the cells, int64, and the code of their batch.
    X, pull, precision
        Amounts to start from, and the two coefficients of the penalty, shape (cells, K); `precision` may have one row
        for all.

    Returns
    -------
    torch.Tensor
        Amounts, shape (cells, K).
    """
    # metagenes in rows, which makes each of them contiguous
    x, linear, pull, precision = (values.T.contiguous() for values in (X, problem.linear[cells], pull, precision))
    design, variance = problem.design[code], problem.variance[cells]
    total, along, square = x.sum(dim=0), (pull * x).sum(dim=0), (precision * x * x).sum(dim=0)
    least = _LEAST * problem.X[cells].sum(dim=1)
    # a dead metagene has no data, and the penalty alone would send it anywhere
    alive = [k for k, size in enumerate(design.diagonal().tolist()) if size > 0]
    for k in alive * _SWEEPS:
        old = x[k].clone()
        steepness = design[k, k] / variance
        data = (design[k] @ x - linear[k]) / variance
        spatial = (pull[k] + precision[k] * old / total - along / total - square / total**2) / total
        # a penalty that falls with the amount is convex in it
        curvature = steepness + precision[k] / total**2 - 2 * spatial.clamp(max=0) / total
        before = along / total + square / total**2 / 2
        new = (old - (data + spatial) / curvature).clamp(min=0)
        for halving in range(_HALVINGS + 1):
            step = new - old
            total_new = total + step
            along_new, square_new = along + pull[k] * step, square + precision[k] * (new + old) * step
            after = along_new / total_new + square_new / total_new**2 / 2
            rise = step * (data + steepness * step / 2) + after - before
            # also where this is not a number
            worse = (total_new < least) | ~(rise <= 0)
            if not worse.any():
                break
            new = torch.where(worse, (new + old) / 2 if halving < _HALVINGS - 1 else old, new)
        x[k], total, along, square = new, total_new, along_new, square_new
    return x.T
