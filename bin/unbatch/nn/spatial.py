"""Last phases of an NMF: amounts of the metagenes in each cell given those of its neighbours, or what else is expected.

Metagenes and batch effects stay as they are. Each cell has a quadratic data term in its amounts x, and a penalty on
their shares z = x / sum(x):

``(x' Q_b x / 2 - linear' x) / variance + weight * penalty(z)``
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from unbatch.nn.affinity import affinities, pseudo_likelihood
from unbatch.nn.neighbours import adjacency, colours

_CHUNK = 16_384
"""Cells that a processor works on at once: their amounts then stay in its cache."""

_SWEEPS = 2
"""Times that each amount of a cell is renewed, given the neighbours."""

_HALVINGS = 4
"""Times that the step of an amount is halved before it stays where it was."""

_LEAST = 1e-3
"""Share of its amounts that a cell keeps at least, lest its data no longer count where a field is strong."""

_DAMPINGS = 3
"""Times that the step of all cells is halved before a phase ends."""

_STILL = 1e-4
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
        For `linear`: what the shares of a cell are expected to be without its neighbours, and their variance about that
        (above 0), shape (n, K); or None.

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
        ``spatial``, at the start and after each round; `hmrf` also has ``renewed``, 1 where the affinities are new,
        so that the objective may be above the one before.
    affinity
        Of `hmrf`: float64, shape (1 or T, K, K).
    """

    X: torch.Tensor
    history: dict[str, list[float]]
    affinity: torch.Tensor | None = None


def alone(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Give source and target of no edges."""
    none = torch.zeros(0, dtype=torch.int64, device=device)
    return none, none


def shares(X: torch.Tensor) -> torch.Tensor:
    """Divide amounts by their sum; rows of 0 stay 0."""
    total = X.sum(dim=1, keepdim=True)
    return X / torch.where(total > 0, total, 1)


def linear(problem: Problem, *, weight: float = 2.0, rounds: int = 8) -> SpatialFit:
    """Draw each cell's shares to what a linear regression expects from its neighbours' mean shares.

    The prior of the shares is normal around ``T = max([1, mean of the neighbours] W, 0)`` with the precision
    ``weight / (residual variance + 0.001)`` per metagene, W being a ridge regression over all cells. T, its precision
    and the amounts are renewed in turns. With `Problem.expected`, shares and means are those less what is expected,
    which is added to T; the variance is `Problem.spread` then.

    Parameters
    ----------
    problem
        Its graph should have about 20 neighbours a cell: one of Delaunay or Visium, widened to two rings
        (`unbatch.data.graph.widened`). It may have no edges if something is expected of the cells.
    weight
        Of the prior against the data; 1 is what the variance says. More makes domains clearer until it blurs the types
        of single cells.
    rounds
        Most rounds; fewer if the objective would rise or the cells stand still.

    Notes
    -----
    One regression for all batches: one for each would draw their cells to its own mean, and batches apart. The spatial
    term is the negative log of the normal densities, up to a constant. As the neighbours of a cell move with it, this
    pseudo-likelihood need not fall by itself: a round that makes the objective rise is halved, then given up. A
    residual variance that is found anew from shares that were drawn together falls below the true one: hence weights
    that are not 1 where there is no `Problem.spread`.
    """
    n = len(problem.X)
    matrix = adjacency(problem.source, problem.target, n, dtype=problem.X.dtype)
    counts = matrix @ (problem.X.sum(dim=1, keepdim=True) > 0).to(problem.X)
    near = counts[:, 0] > 0
    groups = list(_groups(problem, near if problem.expected is None else torch.ones_like(near)))
    if not groups:
        return SpatialFit(problem.X, {"objective": [], "data": [], "spatial": []})
    used = torch.cat([cells for cells, _ in groups])
    base = torch.zeros_like(problem.X) if problem.expected is None else problem.expected

    def expect(X: torch.Tensor) -> tuple[dict[str, float], torch.Tensor, torch.Tensor]:
        """Terms of the objective, and the prior's mean of all cells and its precision."""
        z = shares(X)
        rest = torch.where(X.sum(dim=1, keepdim=True) > 0, z - base, 0)
        expected = base.clone()
        if len(problem.source):
            means = matrix @ rest / counts.clamp(min=1)
            expected[used] += _regress(means[used], rest[used])
        expected.clamp_(min=0)
        squares = (z[used] - expected[used]).square()
        if problem.spread is None:
            # mean shares sum to 1, so that the intercept is one of their combinations
            variance = squares.sum(dim=0, keepdim=True) / max(len(used) - z.shape[1], 1) + 1e-3
            spatial = float((squares.sum(dim=0) / variance[0] + len(used) * variance[0].log()).sum())
        else:
            variance = problem.spread
            spatial = float((squares / variance[used] + variance[used].log()).sum())
        spatial, data = weight / 2 * spatial, _total_data(problem, groups, X)
        precision = (weight / variance).expand_as(z)
        return {"objective": data + spatial, "data": data, "spatial": spatial}, expected, precision

    X = problem.X
    terms, expected, precision = expect(X)
    history = {name: [value] for name, value in terms.items()}
    for _ in range(rounds):
        trial = X.clone()
        for cells, code in groups:
            pull = -precision[cells] * expected[cells]
            trial[cells] = _descend(problem, cells, code, X[cells], pull, precision[cells])
        for _ in range(_DAMPINGS):
            terms, *prior = expect(trial)
            if terms["objective"] <= history["objective"][-1]:
                break
            trial = (X + trial) / 2
        else:
            break
        moved = _moved(X, trial)
        X, (expected, precision) = trial, prior
        for name, value in terms.items():
            history[name].append(value)
        if moved < _STILL:
            break
    return SpatialFit(X, history)


def hmrf(
    problem: Problem,
    *,
    weight: float = 1.0,
    renewals: int = 2,
    rounds: int = 10,
    shared: bool = False,
    seed: int = 0,
) -> SpatialFit:
    """POPARI's hidden Markov random field: shares have the density ``exp(-sum_j z_i' L z_j) / Zint`` given neighbours.

    The affinities L are estimated by pseudo-likelihood (see `unbatch.nn.affinity.affinities`), then the amounts given
    them, cells of one colour of the graph at a time, in turns: iterated conditional modes (Besag, J. R. Stat. Soc. B
    1986). For given affinities the objective never rises.

    Parameters
    ----------
    problem
        See there; POPARI's graphs join cells that touch.
    weight
        Of the field against the data; 1 is POPARI's.
    renewals
        Times that the affinities are estimated.
    rounds
        Most rounds over all cells between them; fewer if the cells stand still.
    shared
        One L for all batches in place of one for each.
    seed
        Seed of the colouring and of the sample of cells for L.

    Notes
    -----
    The spatial term is the energy of the edges plus, as a constant from one estimate to the next, half of the sum of
    ``log Zint``: right after an estimate it is half of the negative log pseudo-likelihood, which sees each edge from
    both ends. From one estimate to the next nothing need fall, as the amounts do not see the Zint of their neighbours:
    with many `renewals` the field sharpens itself, affinities grow to several times those of the true shares, and on
    simulated data the error of the shares rises again after the second. For the same reason, what is shown as
    affinities should be estimated from the shares before this phase. Of an edge between two batches each end sees the
    affinities of its own batch, so that there the objective may rise by what the two differ in, unless `shared`.
    """
    n = len(problem.X)
    source, target = problem.source, problem.target
    full = adjacency(source, target, n, dtype=problem.X.dtype)
    usable = (full @ shares(problem.X)).sum(dim=1) > 0
    groups = list(_groups(problem, usable))
    colour = colours(source, target, n, seed)
    parts = [
        (cells, code, adjacency(source, target, n, cells, problem.X.dtype))
        for number in range(int(colour.max()) + 1)
        for cells, code in _groups(problem, usable & (colour == number))
    ]
    free = problem.X.new_zeros(1, problem.X.shape[1])
    X, affinity = problem.X.clone(), None
    history: dict[str, list[float]] = {"objective": [], "data": [], "spatial": [], "renewed": []}

    def record(constant: float, renewed: bool) -> None:
        data, spatial = _total_data(problem, groups, X), weight * (energy() + constant)
        for name, value in zip(history, (data + spatial, data, spatial, float(renewed)), strict=True):
            history[name].append(value)

    def energy() -> float:
        z = shares(X)
        sums = full @ z
        return sum(float((z[c] * (sums[c] @ affinity[0 if shared else b].to(X))).sum()) / 2 for c, b in groups)

    for _ in range(renewals):
        z = shares(X)
        affinity = affinities(z, source, target, problem.batch, shared=shared, start=affinity, seed=seed)
        sums = full @ z
        surprise = sum(
            float(pseudo_likelihood(z[c].double(), sums[c].double(), affinity[0 if shared else b]).sum())
            for c, b in groups
        )
        constant = surprise / 2 - energy()
        record(constant, renewed=True)
        for _ in range(rounds if groups else 0):
            before = X.clone()
            for cells, code, part in parts:
                pull = weight * (part @ z) @ affinity[0 if shared else code].to(X)
                X[cells] = _descend(problem, cells, code, X[cells], pull, free)
                z[cells] = shares(X[cells])
            record(constant, renewed=False)
            if _moved(before, X) < _STILL:
                break
    return SpatialFit(X, history, affinity)


def _groups(problem: Problem, usable: torch.Tensor) -> Iterator[tuple[torch.Tensor, int]]:
    """Yield usable cells of one batch, some at a time, and its code."""
    usable = usable & (problem.X.sum(dim=1) > 0)
    most = _CHUNK if problem.X.device.type == "cpu" else len(problem.X)
    for code in range(len(problem.design)):
        cells = (usable & (problem.batch == code)).nonzero()[:, 0]
        if len(cells):
            yield from ((part, code) for part in cells.split(most))


def _moved(before: torch.Tensor, after: torch.Tensor) -> float:
    return float((shares(after) - shares(before)).abs().sum(dim=1).mean())


def _regress(predictors: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """Expect shares by ridge regression with an intercept."""
    predictors = torch.cat((z.new_ones(len(z), 1), predictors), dim=1)
    n, columns = predictors.shape
    ridge = 1e-4 * n * torch.eye(columns, dtype=z.dtype, device=z.device)
    return predictors @ torch.linalg.solve(predictors.T @ predictors + ridge, predictors.T @ z)


def _total_data(problem: Problem, groups: list[tuple[torch.Tensor, int]], X: torch.Tensor) -> float:
    return sum(
        float(_data(X[c].T, problem.linear[c].T, problem.design[b], problem.variance[c]).double().sum())
        for c, b in groups
    )


def _data(x: torch.Tensor, linear: torch.Tensor, design: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
    """Return the data term of each cell from amounts of shape (K, cells)."""
    return (x * (design @ x / 2 - linear)).sum(dim=0) / variance


def _descend(
    problem: Problem, cells: torch.Tensor, code: int, X: torch.Tensor, pull: torch.Tensor, precision: torch.Tensor
) -> torch.Tensor:
    """Lower the data term plus ``pull' z + sum(precision z^2) / 2`` of cells of one batch that are no neighbours.

    Parameters
    ----------
    X, pull, precision
        Shape (cells, K); `precision` may have one row for all.
    """
    # metagenes in rows, so that one of them is contiguous
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
