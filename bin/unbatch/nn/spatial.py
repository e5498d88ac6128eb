"""Spatial phases of an NMF: amounts of the metagenes in each cell given those of its neighbours.

Metagenes and batch effects stay as they are. Each cell has a quadratic data term in its amounts x, and a spatial
penalty on their shares z = x / sum(x):

``(x' Q_b x / 2 - linear' x) / variance + weight * penalty(z)``
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from unbatch.nn.affinity import RIDGE, affinities, pseudo_likelihood
from unbatch.nn.neighbours import adjacency, colours

_SWEEPS = 2
_HALVINGS = 8
_DAMPINGS = 3


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
        Both directions of every edge, int64, shape (edges,), sorted by source, never between batches.

    Notes
    -----
    All on one device, values of one floating type (float64 for small data). Cells without amounts or without
    neighbours that have any keep their X.
    """

    X: torch.Tensor
    linear: torch.Tensor
    design: torch.Tensor
    batch: torch.Tensor
    variance: torch.Tensor
    source: torch.Tensor
    target: torch.Tensor


@dataclass(frozen=True)
class SpatialFit:
    """What a spatial phase found.

    Attributes
    ----------
    X
        Amounts, shape (n, K).
    history
        ``objective`` and its terms ``data`` (up to a constant, with the linear penalty in `Problem.linear`) and
        ``spatial``, at the start and after each round.
    affinity
        Of `hmrf`: float64, shape (1 or T, K, K).
    """

    X: torch.Tensor
    history: dict[str, list[float]]
    affinity: torch.Tensor | None = None


def shares(X: torch.Tensor) -> torch.Tensor:
    """Divide amounts by their sum; rows of 0 stay 0."""
    total = X.sum(dim=1, keepdim=True)
    return X / torch.where(total > 0, total, 1)


def linear(problem: Problem, *, weight: float = 1.0, rounds: int = 8) -> SpatialFit:
    """Draw each cell's shares to what a linear regression expects from the mean shares of its neighbours.

    The prior of the shares is normal around ``T = max([1, mean of the neighbours] W, 0)`` with the precision
    ``weight / (residual variance + 0.001)`` per metagene; W is a ridge regression within each batch, so that batches
    keep their mean shares. T, its precision and the amounts are renewed in turns.

    Parameters
    ----------
    problem
        Its graph should have about 20 neighbours a cell: one of Delaunay or Visium, widened to two rings
        (`unbatch.data.graph.widened`).
    weight
        Of the prior against the data.
    rounds
        Most rounds; fewer if the objective would rise.

    Notes
    -----
    The spatial term is the negative log of the normal densities, up to a constant. As the neighbours of a cell move
    with it, this pseudo-likelihood need not fall by itself: a round that makes the objective rise is halved, then
    given up.
    """
    n, K = problem.X.shape
    matrix = adjacency(problem.source, problem.target, n, dtype=problem.X.dtype)
    counts = matrix @ (problem.X.sum(dim=1, keepdim=True) > 0).to(problem.X)
    groups = list(_groups(problem, counts[:, 0] > 0))

    def expect(X: torch.Tensor) -> tuple[float, tuple[torch.Tensor, torch.Tensor]]:
        z = shares(X)
        means = matrix @ z / counts.clamp(min=1)
        expected, precision = torch.zeros_like(z), z.new_zeros((len(groups), K))
        spatial = 0.0
        for number, (cells, _) in enumerate(groups):
            predictors = torch.cat((z.new_ones(len(cells), 1), means[cells]), dim=1)
            ridge = 1e-4 * len(cells) * torch.eye(K + 1, dtype=z.dtype, device=z.device)
            slopes = torch.linalg.solve(predictors.T @ predictors + ridge, predictors.T @ z[cells])
            expected[cells] = (predictors @ slopes).clamp(min=0)
            squares = (z[cells] - expected[cells]).square().sum(dim=0)
            # K of the slopes are free, as shares sum to 1
            spread = squares / max(len(cells) - K, 1) + 1e-3
            precision[number] = weight / spread
            spatial += weight / 2 * float((squares / spread + len(cells) * spread.log()).sum())
        return spatial, (expected, precision)

    def update(X: torch.Tensor, prior: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        expected, precision = prior
        X = X.clone()
        for number, (cells, code) in enumerate(groups):
            pull = -precision[number] * expected[cells]
            X[cells] = _descend(problem, cells, code, X[cells], pull, precision[number])
        return X

    return _alternate(problem, [cells for cells, _ in groups], expect, update, rounds)[0]


def hmrf(
    problem: Problem, *, weight: float = 1.0, rounds: int = 20, shared: bool = False, seed: int = 0
) -> SpatialFit:
    """POPARI's hidden Markov random field: shares have the density ``exp(-sum_j z_i' L z_j) / Zint`` given neighbours.

    The affinities L (see `unbatch.nn.affinity.affinities`) and the amounts are renewed in turns, amounts of cells of
    one colour of the graph at a time, so that the data term and the energy of the edges never rise.

    Parameters
    ----------
    problem
        See there; POPARI's graphs join cells that touch.
    weight
        Of the field against the data; 1 is POPARI's.
    rounds
        Most rounds; fewer if the objective changes by less than 1e-5 of itself, or would rise.
    shared
        One L for all batches in place of one for each.
    seed
        Seed of the colouring and of the sample of cells for L.

    Notes
    -----
    The spatial term is half of the cells' negative log pseudo-likelihood, as each edge is seen from both ends. Amounts
    follow the energy of the edges only, as in POPARI, and not the neighbours' Zint: a round in which that makes the
    objective rise is halved, then given up.
    """
    n = len(problem.X)
    z = shares(problem.X)
    full = adjacency(problem.source, problem.target, n, dtype=problem.X.dtype)
    usable = (full @ z).sum(dim=1) > 0
    groups = [cells for cells, _ in _groups(problem, usable)]
    colour = colours(problem.source, problem.target, n, seed)
    parts = [
        (cells, code, adjacency(problem.source, problem.target, n, cells, problem.X.dtype))
        for number in range(int(colour.max()) + 1)
        for cells, code in _groups(problem, usable & (colour == number))
    ]
    flat = problem.X.new_zeros(problem.X.shape[1])
    latest: torch.Tensor | None = None

    def estimate(X: torch.Tensor) -> tuple[float, torch.Tensor]:
        nonlocal latest
        z = shares(X)
        latest = affinities(z, problem.source, problem.target, problem.batch, shared=shared, start=latest, seed=seed)
        sums = full @ z
        spatial = 0.0
        for cells in groups:
            affinity = latest[0 if shared else int(problem.batch[cells[0]])]
            spatial += float(pseudo_likelihood(z[cells].double(), sums[cells].double(), affinity).sum())
            spatial += len(cells) * RIDGE / 2 * float(affinity.square().sum())
        return weight / 2 * spatial, latest

    def update(X: torch.Tensor, affinity: torch.Tensor) -> torch.Tensor:
        z, X = shares(X), X.clone()
        for cells, code, part in parts:
            pull = weight * (part @ z) @ affinity[0 if shared else code].to(X)
            X[cells] = _descend(problem, cells, code, X[cells], pull, flat)
            z[cells] = shares(X[cells])
        return X

    fit, affinity = _alternate(problem, groups, estimate, update, rounds, tolerance=1e-5)
    return replace(fit, affinity=affinity)


def _groups(problem: Problem, usable: torch.Tensor) -> Iterator[tuple[torch.Tensor, int]]:
    """Yield the usable cells of each batch that has any, and its code."""
    usable = usable & (problem.X.sum(dim=1) > 0)
    for code in range(len(problem.design)):
        cells = (usable & (problem.batch == code)).nonzero()[:, 0]
        if len(cells):
            yield cells, code


def _alternate[Prior](
    problem: Problem,
    groups: list[torch.Tensor],
    renew: Callable[[torch.Tensor], tuple[float, Prior]],
    update: Callable[[torch.Tensor, Prior], torch.Tensor],
    rounds: int,
    tolerance: float = 0.0,
) -> tuple[SpatialFit, Prior]:
    """Renew the prior and the amounts in turns for as long as the objective falls."""

    def evaluate(X: torch.Tensor) -> tuple[dict[str, float], Prior]:
        data = 0.0
        for cells in groups:
            code = int(problem.batch[cells[0]])
            data += float(_data(X[cells].T, problem.linear[cells].T, problem.design[code], problem.variance[cells]).sum())
        spatial, prior = renew(X)
        return {"objective": data + spatial, "data": data, "spatial": spatial}, prior

    X = problem.X
    terms, prior = evaluate(X)
    history = {name: [value] for name, value in terms.items()}
    for _ in range(rounds if groups else 0):
        before = history["objective"][-1]
        trial = update(X, prior)
        for _ in range(_DAMPINGS):
            terms, found = evaluate(trial)
            if terms["objective"] <= before:
                break
            trial = (X + trial) / 2
        else:
            break
        X, prior = trial, found
        for name, value in terms.items():
            history[name].append(value)
        if before - terms["objective"] <= tolerance * abs(before):
            break
    return SpatialFit(X, history), prior


def _data(x: torch.Tensor, linear: torch.Tensor, design: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
    """Data term of each cell, amounts of shape (K, cells)."""
    return (x * (design @ x / 2 - linear)).sum(dim=0) / variance


def _descend(
    problem: Problem, cells: torch.Tensor, code: int, X: torch.Tensor, pull: torch.Tensor, precision: torch.Tensor
) -> torch.Tensor:
    """Lower the data term plus ``pull' z + sum(precision z^2) / 2`` of cells of one batch that are no neighbours.

    Parameters
    ----------
    X, pull
        Shape (cells, K).
    precision
        Shape (K,).
    """
    # metagenes in rows, so that one of them is contiguous
    start, linear, pull = X.T.contiguous(), problem.linear[cells].T.contiguous(), pull.T.contiguous()
    design, variance = problem.design[code], problem.variance[cells]

    def value(x: torch.Tensor) -> torch.Tensor:
        total = x.sum(dim=0)
        z = x / total
        penalty = (z * (pull + precision[:, None] * z / 2)).sum(dim=0)
        # not a number where all amounts are 0, and then no smaller than anything
        return _data(x, linear, design, variance) + penalty

    x = start.clone()
    total = x.sum(dim=0)
    tiny = 1e-6 * total
    along, square = (pull * x).sum(dim=0), (precision[:, None] * x * x).sum(dim=0)
    # a dead metagene has no data, and the penalty alone would send it anywhere
    alive = [k for k, size in enumerate(design.diagonal().tolist()) if size > 0]
    for _ in range(_SWEEPS):
        for k in alive:
            old = x[k].clone()
            centre = along / total + square / total**2
            slope = (design[k] @ x - linear[k]) / variance + (pull[k] + precision[k] * old / total - centre) / total
            new = (old - slope / (design[k, k] / variance + precision[k] / total**2)).clamp(min=0)
            x[k] = new
            total = (total + new - old).clamp(min=tiny)
            along += pull[k] * (new - old)
            square += precision[k] * (new * new - old * old)
    before = value(start)
    step = x - start
    for halving in range(_HALVINGS + 1):
        worse = ~(value(x) <= before)
        if not worse.any():
            break
        step[:, worse] *= 0.5 if halving < _HALVINGS else 0
        x = torch.where(worse, start + step, x)
    return x.T
