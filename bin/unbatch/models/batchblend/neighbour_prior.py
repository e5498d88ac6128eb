"""A prior on the shares of a cell: what a linear regression expects from its neighbours, or what its state does."""

import torch

from unbatch.models.popari.amounts import STILL, Problem, SpatialFit, by_batch, data_term, descend, mean_change, shares
from unbatch.models.popari.graph import adjacency

_DAMPINGS = 3
"""Times that the step of all cells is halved before a phase ends."""


def draw_to_expected(problem: Problem, *, weight: float = 2.0, rounds: int = 8) -> SpatialFit:
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
        Weight of the prior against the data; 1 is what the variance says. More makes domains clearer until it blurs
        the types of single cells.
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
    groups = list(by_batch(problem, near if problem.expected is None else torch.ones_like(near)))
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
            # mean shares sum to 1: the intercept is one of their combinations
            variance = squares.sum(dim=0, keepdim=True) / max(len(used) - z.shape[1], 1) + 1e-3
            spatial = float((squares.sum(dim=0) / variance[0] + len(used) * variance[0].log()).sum())
        else:
            variance = problem.spread
            spatial = float((squares / variance[used] + variance[used].log()).sum())
        spatial, data = weight / 2 * spatial, data_term(problem, groups, X)
        precision = (weight / variance).expand_as(z)
        return {"objective": data + spatial, "data": data, "spatial": spatial}, expected, precision

    X = problem.X
    terms, expected, precision = expect(X)
    history = {name: [value] for name, value in terms.items()}
    for _ in range(rounds):
        trial = X.clone()
        for cells, code in groups:
            pull = -precision[cells] * expected[cells]
            trial[cells] = descend(problem, cells, code, X=X[cells], pull=pull, precision=precision[cells])
        for _ in range(_DAMPINGS):
            terms, *prior = expect(trial)
            if terms["objective"] <= history["objective"][-1]:
                break
            trial = (X + trial) / 2
        else:
            break
        moved = mean_change(X, trial)
        X, (expected, precision) = trial, prior
        for name, value in terms.items():
            history[name].append(value)
        if moved < STILL:
            break
    return SpatialFit(X, history)


def _regress(predictors: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """Expect shares by ridge regression with an intercept."""
    predictors = torch.cat((z.new_ones(len(z), 1), predictors), dim=1)
    n, columns = predictors.shape
    ridge = 1e-4 * n * torch.eye(columns, dtype=z.dtype, device=z.device)
    return predictors @ torch.linalg.solve(predictors.T @ predictors + ridge, predictors.T @ z)
