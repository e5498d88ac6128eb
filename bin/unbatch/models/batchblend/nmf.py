"""Sparse non-negative matrix factorisation with offset and factors fixed, by coordinate descent.

The objective, with cells i of batch b and state c, genes j, weights q and the relative noise s_i of a cell, is

    sum_b n_b G log(v_b) / 2 + sum_i penalty_c' x_i / (s_i v_b),
    v_b = mean of (q_bj (y_ij - F_bj - g_bj (x_i M)_j) / s_i)^2,
    penalty_ck = sparsity sqrt(v_b) |q_b g_b m_k| w(share_ck),    w(share) = eps / (share + eps) - eps / (1 + eps).

The penalty draws the metagenes that a state hardly uses to 0. Its weights are renewed with the shares that states have.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from unbatch.models.batchblend.effect import Effect
from unbatch.models.batchblend.expression import Batches, inner_products, means_by_group
from unbatch.models.batchblend.nnls import solve_amounts, sweep_amounts, sweep_metagenes
from unbatch.models.batchblend.noise import Noise, projector
from unbatch.models.batchblend.settings import RULES, Rules, Settings

_START_SWEEPS, _SWEEPS, _BETA_SWEEPS, _METAGENE_SWEEPS = 30, 6, 2, 6
"""Sweeps over the amounts at the start and in each iteration, those over beta, and those over the metagenes."""

_BETA_WEIGHT = 0.1
"""Cells of a batch that its offset counts as, as a share of its cells, when the metagenes are renewed."""


@dataclass(frozen=True, kw_only=True)
class Factorisation:
    """What the factorisation found, and what embeds further cells.

    Attributes
    ----------
    amounts, beta, metagenes
        Amounts (n x K), loadings of the offset (T x K), metagenes (K x G, rows sum to 1).
    weights, variance
        Inverse standard deviations of the noise of genes by batch (T x G), and the variance of the weighted noise (T).
    shares
        Mean share of each metagene in each state, C x K.
    history
        Terms of the objective by iteration.
    """

    amounts: Tensor
    beta: Tensor
    metagenes: Tensor
    weights: Tensor
    variance: Tensor
    shares: Tensor
    history: dict[str, list[float]]


@dataclass(frozen=True, kw_only=True)
class Given:
    """What stays as it is.

    Attributes
    ----------
    data, state
        The cells, and the state of each, n.
    cluster
        Number of the cluster that each state is part of, C.
    factors, offset
        Factors, and offset after them, T x G.
    squared
        Squared weights of genes by batch, T x G.
    noise
        Standard deviation of the noise of each cell relative to the others, n.
    norms
        Sum of squares of the weighted expression of each cell without offset, by batch.
    sparsity, penalty_halving
        Strength of the sparse prior, and the share at which it has fallen by half.
    """

    data: Batches
    state: Tensor
    cluster: Tensor
    factors: Tensor
    offset: Tensor
    squared: Tensor
    noise: Tensor
    norms: list[Tensor]
    sparsity: float
    penalty_halving: float

    @property
    def values(self) -> int:
        """Number of values of the matrix."""
        return len(self.data.totals) * len(self.data.mean)

    def has_offset(self) -> list[int]:
        """Batches with an offset."""
        return self.offset.any(1).nonzero()[:, 0].tolist()


class LeastSquares(NamedTuple):
    """Problem of the amounts of a batch: weighted metagenes (K x G), their Gram matrix, inner products with cells."""

    weighted: Tensor
    gram: Tensor
    target: Tensor


class Objective(NamedTuple):
    """The objective at some amounts and metagenes.

    Attributes
    ----------
    terms
        Its terms, per value of the matrix.
    by_last
        Its value with the penalties by the shares before.
    variance
        Variance of the weighted noise, T.
    shares
        Mean shares of each state, C x K.
    problems
        Least squares of each batch, less the penalties.
    """

    terms: dict[str, float]
    by_last: float
    variance: Tensor
    shares: Tensor
    problems: list[LeastSquares]


def factorise(
    data: Batches, noise: Noise, effect: Effect, settings: Settings, *, rules: Rules = RULES
) -> Factorisation:
    """Factorise expression, given its batch effect and states.

    Each iteration goes on from where the last step, made longer, would have led, and goes back to its end where that
    is worse (Ang & Gillis, Neural Comput 2019). The sparse prior has weights by the shares that states have (Candes,
    Wakin & Boyd, J Fourier Anal Appl 2008): what is lower, is so by the weights before, and its sum with new weights
    need not fall.
    """
    K = settings.metagenes
    weights = gene_weights(data, noise, effect)
    given = _given(data, noise, effect, settings, weights=weights, rules=rules)
    metagenes = _first_metagenes(noise, effect, K)
    amounts = (data.totals - given.offset.sum(1)[data.batch]).clamp(min=1e-3)[:, None].repeat(1, K).float() / K
    beta = effect.offset.sum(1, keepdim=True).clamp(min=1e-3).repeat(1, K) / K
    beta[~given.offset.any(1)] = 0
    _renew_amounts(given, amounts, beta, problems=_least_squares(given, metagenes), sweeps=_START_SWEEPS)
    history: dict[str, list[float]] = {"data": [], "sparsity": []}
    shares = torch.ones(K, K, dtype=torch.float64, device=amounts.device)
    ahead, end, lowest = rules.first_extrapolation, (metagenes, amounts), math.inf
    for iteration in range(settings.iterations):
        last = shares
        now = objective(given, amounts, metagenes, last_shares=last)
        if now.by_last > lowest and iteration > 1:
            metagenes, amounts = (each.clone() for each in end)
            ahead /= 2
            now = objective(given, amounts, metagenes, last_shares=last)
        shares, lowest = now.shares, sum(now.terms.values())
        for term, value in now.terms.items():
            history[term].append(value)
        _renew_amounts(given, amounts, beta, problems=now.problems, sweeps=_SWEEPS)
        _renew_metagenes(given, amounts, beta, metagenes=metagenes, variance=now.variance)
        beta.mul_(_normalise(metagenes, amounts))
        before, end = end, (metagenes.clone(), amounts.clone())
        if 0 < iteration < settings.iterations - 1:
            for each, old in zip((metagenes, amounts), before, strict=True):
                each.add_(each - old, alpha=ahead).clamp_(min=0)
            _normalise(metagenes, amounts)
            ahead = min(1.05 * ahead, 1.0)
    now = objective(given, amounts, metagenes, last_shares=shares)
    for b in given.has_offset():
        weighted, gram, _ = now.problems[b]
        beta[b] = solve_amounts((weighted @ given.offset[b])[None], gram)[0]
    return Factorisation(
        amounts=amounts,
        beta=beta,
        metagenes=metagenes,
        weights=weights,
        variance=now.variance,
        shares=now.shares,
        history=history,
    )


def objective(given: Given, amounts: Tensor, metagenes: Tensor, *, last_shares: Tensor) -> Objective:
    """Find the terms of the objective, and what the next step needs of it."""
    K, genes = metagenes.shape
    in_clusters = shares_of_states(amounts, given.cluster[given.state], K)
    shares = in_clusters[given.cluster]
    penalties = [penalty(each, given.penalty_halving) for each in (shares, last_shares)]
    variance = given.squared.new_ones(given.data.count)
    terms, by_last, problems = {"data": 0.0, "sparsity": 0.0}, 0.0, []
    for b, problem in enumerate(_least_squares(given, metagenes)):
        cells, count = given.data.slices[b], given.data.sizes[b].double()
        x, noise = amounts[cells], given.noise[cells, None]
        fitted = 2 * (x * problem.target).sum(1) - ((x @ problem.gram.float()) * x).sum(1)
        residual = ((given.norms[b] - fitted).clamp(min=0) / noise[:, 0].square()).double().sum()
        variance[b] = residual / (count * genes)
        terms["data"] += float(count * genes * variance[b].log() / 2)
        # amounts of each state in all, as the prior weighs them
        state = given.state[cells]
        sums = torch.zeros(K, K, dtype=torch.float64, device=metagenes.device)
        sums.index_add_(0, state, (x / noise).double())
        strength = given.sparsity * variance[b].sqrt() * problem.gram.diagonal().sqrt()
        terms["sparsity"], by_last = (
            term + float((strength * each * sums).sum() / variance[b])
            for term, each in zip((terms["sparsity"], by_last), penalties, strict=True)
        )
        less = (strength * penalties[0]).float()[state] * noise
        problems.append(problem._replace(target=problem.target - less))
    terms = {term: value / given.values for term, value in terms.items()}
    return Objective(
        terms=terms,
        by_last=terms["data"] + by_last / given.values,
        variance=variance,
        shares=shares,
        problems=problems,
    )


def penalty(shares: Tensor, halving: float = RULES.penalty_halving) -> Tensor:
    """Weight of the sparse prior by share of the metagene in the state: 1 / (1 + `halving`) at share 0, 0 at 1."""
    return (halving / (shares + halving) - halving / (1 + halving)).clamp(min=0)


def shares_of_states(amounts: Tensor, state: Tensor, states: int) -> Tensor:
    """Mean share of each metagene in the cells of each state, C x K."""
    return means_by_group((amounts / amounts.sum(1, keepdim=True).clamp(min=1e-6)).double(), state, states)


def _given(data: Batches, noise: Noise, effect: Effect, settings: Settings, *, weights: Tensor, rules: Rules) -> Given:
    factors = effect.factors
    offset, squared = effect.offset * factors, weights.square()
    cells_noise = noise.of_cells(data.totals, data.mean_total)
    norms = [
        (m.squares_times(w[:, None]) - 2 * m.times((w * f)[:, None]) + (w * f * f).sum())[:, 0]
        for m, w, f in zip(data.matrices, squared, offset, strict=True)
    ]
    # halves of one type would each draw their cells to a metagene of their own
    together = settings.sparsity and effect.several
    return Given(
        data=data,
        state=effect.state,
        cluster=effect.clusters if together else torch.arange(settings.metagenes, device=factors.device),
        factors=factors,
        offset=offset,
        squared=squared,
        noise=(cells_noise / cells_noise.mean()).sqrt().float(),
        norms=norms,
        sparsity=settings.sparsity,
        penalty_halving=rules.penalty_halving,
    )


def gene_weights(data: Batches, noise: Noise, effect: Effect) -> Tensor:
    """Inverse noise standard deviations by batch and gene, shrunk towards the noise model; T x G."""
    rows, prior = [], effect.rules.noise_prior_cells
    precision = noise.precision(data.mean, effect.factors)
    for b, (matrix, cells) in enumerate(zip(data.matrices, data.slices, strict=True)):
        n = matrix.shape[0]
        g = effect.factors[b]
        scores = effect.scores[cells]
        fitted = effect.axes * (g / noise.weights)[:, None]
        both = (matrix.transposed_times(scores) * fitted).sum(1)
        squared = ((fitted @ (scores.T @ scores)) * fitted).sum(1)
        # a gene that an axis follows leaves less than its noise
        left = (1 - (effect.axes * projector(effect.axes, precision[b])).sum(1)).clamp(min=1e-3)
        residual = (data.squares[b] - 2 * both + squared).clamp(min=0) / (n * left)
        model = noise.of_genes(data.mean * g)
        model = model * (residual / model).median()
        own = n * left * residual.clamp(min=1e-3 * model).log()
        shrunk = (own + prior * model.log()) / (n * left + prior)
        rows.append((-0.5 * shrunk).exp())
    weights = torch.stack(rows)
    return weights / ((weights.mean(0).square() * data.mean).sum() / data.mean.sum()).sqrt()


def _first_metagenes(noise: Noise, effect: Effect, metagenes: int) -> Tensor:
    """Mean profiles of the states, the largest first; K x G, rows sum to 1."""
    count = torch.bincount(effect.state, minlength=metagenes)
    means = means_by_group(effect.profiles, effect.state, metagenes) @ effect.axes.T / noise.weights
    found = means[count.argsort(descending=True, stable=True)].clamp(min=1e-10)
    return found / found.sum(1, keepdim=True)


def _least_squares(given: Given, metagenes: Tensor) -> list[LeastSquares]:
    """Set up the problem of the amounts of each batch."""
    problems = []
    for b, matrix in enumerate(given.data.matrices):
        weighted = metagenes * (given.factors[b] * given.squared[b])
        gram = (weighted * given.factors[b]) @ metagenes.T
        problems.append(LeastSquares(weighted, gram, inner_products(matrix, weighted, given.offset[b])))
    return problems


def _renew_amounts(given: Given, amounts: Tensor, beta: Tensor, *, problems: list[LeastSquares], sweeps: int) -> None:
    """Lower the objective in the amounts, in place, and that of the offset in beta."""
    for b, (weighted, gram, target) in enumerate(problems):
        sweep_amounts(amounts[given.data.slices[b]], target, gram.float(), sweeps)
        if given.offset[b].any():
            # its own row of the model, which weighs little
            sweep_amounts(beta[b : b + 1], (weighted @ given.offset[b])[None], gram, _BETA_SWEEPS)


def _renew_metagenes(given: Given, amounts: Tensor, beta: Tensor, *, metagenes: Tensor, variance: Tensor) -> None:
    """Lower the objective in the metagenes, in place."""
    data, K = given.data, len(metagenes)
    design = torch.empty(data.count, K, K, dtype=torch.float64, device=metagenes.device)
    linear = torch.zeros_like(metagenes)
    for b, (matrix, cells) in enumerate(zip(data.matrices, data.slices, strict=True)):
        offset = given.offset[b]
        weight = amounts[cells] / given.noise[cells, None].square()
        pseudo = _BETA_WEIGHT * data.sizes[b].double()
        sums = matrix.transposed_times(weight).T - weight.double().sum(0)[:, None] * offset
        inner = (weight.double().T @ amounts[cells].double()) + pseudo * beta[b, :, None] * beta[b]
        floor = max(float(variance[b]), 1e-3 * float(variance.max()))
        design[b] = inner / floor
        linear += (sums + pseudo * beta[b, :, None] * offset) * (given.factors[b] * given.squared[b]) / floor
    sweep_metagenes(metagenes, design, given.squared * given.factors.square(), linear, sweeps=_METAGENE_SWEEPS)


def _normalise(metagenes: Tensor, amounts: Tensor) -> Tensor:
    """Scale rows of metagenes to sum to 1, and amounts to match, in place; return what they summed to."""
    total = metagenes.sum(1).clamp(min=1e-12)
    metagenes.div_(total[:, None])
    amounts.mul_(total.float())
    return total
