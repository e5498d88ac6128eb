"""BatchBlend: non-negative metagenes with an additive and a multiplicative batch effect.

The expression of cell i of batch b, cells in rows, is modelled as

    y_i = F_b + g_b * (x_i M) + noise,    x_i >= 0, F_b >= 0, rows of M >= 0 with sum 1,

with amounts ``x_i`` of K metagenes ``M`` (K x G), an offset ``F_b`` (G) whose loadings on the metagenes are the
``beta_b`` of the BatchBlend thesis (section 2.1), and factors ``g_b`` (G) whose logarithms have mean 0 over batches.
POPARI (Alam et al., bioRxiv 2025) is the case F = 0, g = 1 with a spatial prior on ``x_i / sum(x_i)``.

What identifies F is the size of cells: within a state c (a cluster of cells), a cell of total T_i lies on the ray
``F_b + g_b * p_c (T_i - S_b)``, ``S_b = sum F_b``, and all rays of a batch meet in F_b. What identifies g is that the
profiles p_c are shared. So the fit is: noise model; states; offset and factors in a few rounds (each followed by new
states); then sparse non-negative matrix factorisation with the batch effect fixed.

All sums over cells are of scores of the cells on a few principal directions, or products with the sparse matrix.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unbatch.nn.cells import CellMatrix
from unbatch.nn.kmeans import kmeans, nearest

SMALLEST = 0.02
"""Cells whose total is below this share of the mean total tell nothing of the batch effect and are left out of it."""
LEAST_SPREAD = 0.02
"""Factors that differ by less over the genes are within what errors of the offset make; they are left alone."""
MOST_AMBIGUOUS = 0.5
"""Two batches are compared gene by gene when at most this share of their difference could be composition."""
LEAST_MEETING = 0.05
"""Batches meet when this share of the cells of each has cells of the other as near as cells of its own."""
_FLOOR = 0.05
"""Smallest size of a cell after the offset is taken off, as a share of the mean total."""
_EPS = 0.1
"""Share of a metagene in a state at which the sparse prior has fallen by half."""


@dataclass(frozen=True)
class Settings:
    """How to fit.

    Attributes
    ----------
    metagenes
        Number of metagenes, K.
    offset, factors
        Whether batches may have an additive offset, and a factor per gene.
    rounds
        Times that states, offset and factors are found anew.
    sparsity
        Strength of the sparse prior, in standard deviations of the noise of an amount.
    iterations
        Iterations of the factorisation.
    """

    metagenes: int
    offset: bool = True
    factors: bool = True
    rounds: int = 4
    sparsity: float = 0.75
    iterations: int = 40


@dataclass
class _Data:
    """Cells that are kept, sorted by batch; one unit of expression is 1 / scale of the input's.

    Attributes
    ----------
    matrices, totals, batch
        Expression by batch; totals (n) and batches (n) of all cells.
    slices
        Cells of each batch.
    mean
        Of each gene over all cells, G.
    """

    matrices: list[CellMatrix]
    totals: Tensor
    batch: Tensor
    slices: list[slice]
    mean: Tensor
    squares: Tensor

    @property
    def batches(self) -> int:
        return len(self.matrices)

    @property
    def sizes(self) -> Tensor:
        return torch.bincount(self.batch, minlength=self.batches)

    @property
    def mean_total(self) -> float:
        return float(self.totals.mean())

    def times(self, rights: list[Tensor]) -> Tensor:
        """Multiply the cells of each batch with a matrix of its own; float64, n x k."""
        return torch.cat([m.times(right) for m, right in zip(self.matrices, rights, strict=True)]).double()


@dataclass
class _Noise:
    """Variance of a value: ``(gene_constant + gene_slope * mean) * (cell_constant + cell_slope * total / mean total)``.

    `weights` (G) are the inverse standard deviations of genes, scaled so that the mean total is unchanged.
    """

    gene_constant: float
    gene_slope: float
    weights: Tensor
    cell_constant: float = 0.0
    cell_slope: float = 1.0

    def of_genes(self, mean: Tensor) -> Tensor:
        return self.gene_constant + self.gene_slope * mean

    def of_cells(self, totals: Tensor, mean_total: float) -> Tensor:
        return self.cell_constant + self.cell_slope * totals.clamp(min=_FLOOR * mean_total) / mean_total


# ---------------------------------------------------------------------------------------------- principal directions


def _directions(data: _Data, noise: _Noise, factors: Tensor, rank: int, batches: list[int]) -> Tensor:
    """Top eigenvectors of the Gram matrix of noise-weighted expression of some batches; G x rank, orthonormal."""
    spread = 1 / noise.of_cells(data.totals, data.mean_total).sqrt()
    genes = [noise.weights / factors[b] for b in batches]
    parts = [(data.matrices[b], spread[data.slices[b]], w) for b, w in zip(batches, genes, strict=True)]
    return _top(parts, rank)


def _top(parts: list[tuple[CellMatrix, Tensor, Tensor]], rank: int) -> Tensor:
    n_genes = parts[0][0].shape[1]
    if n_genes <= 1000:
        gram = sum(matrix.gram(cells) * genes[:, None] * genes for matrix, cells, genes in parts)
        return torch.linalg.eigh(gram).eigenvectors[:, -rank:].flip(1)
    # subspace iteration (Halko, Martinsson & Tropp 2011), as the eigenvectors of a large Gram matrix cost more
    generator = torch.Generator().manual_seed(0)
    device = parts[0][0].device
    width = min(rank + 10, n_genes)
    space = torch.randn(n_genes, width, generator=generator, dtype=torch.float64).to(device)
    for _ in range(7):
        space, _ = torch.linalg.qr(space)
        image = torch.zeros_like(space)
        for matrix, cells, genes in parts:
            scores = matrix.times(genes[:, None] * space) * cells.square()[:, None]
            image += genes[:, None] * matrix.transposed_times(scores)
        basis, space = space, image
    rotation = torch.linalg.eigh(basis.T @ image).eigenvectors[:, -rank:].flip(1)
    return basis @ rotation


# -------------------------------------------------------------------------------------------------------------- noise


def _noise_model(data: _Data, rank: int) -> tuple[_Noise, list[Tensor]]:
    """Estimate the noise from what `rank` directions of each batch leave; also return these directions."""
    mean = data.mean
    noise = _Noise(0.0, 1.0, _unit_mean(1 / (mean + 1e-3 * mean.mean()).sqrt(), mean))
    ones = torch.ones(data.batches, len(mean), dtype=torch.float64, device=mean.device)
    for _ in range(2):
        residual = torch.zeros_like(mean)
        bases = []
        for b, (matrix, cells) in enumerate(zip(data.matrices, data.slices, strict=True)):
            own_rank = min(rank, max(1, matrix.shape[0] // 5))
            basis = _directions(data, noise, ones, own_rank, [b])
            bases.append(basis)
            residual += data.squares[b] - _explained(matrix, basis, noise.weights)
        residual /= len(data.totals)
        constant, slope = _two_positive(1 / residual, mean / residual)
        variance = constant + slope * mean
        noise = _Noise(
            constant,
            slope,
            _unit_mean(1 / variance.sqrt(), mean),
            float(constant / variance.mean()),
            float(slope * mean.mean() / variance.mean()),
        )
    return noise, bases


def _explained(matrix: CellMatrix, basis: Tensor, weights: Tensor) -> Tensor:
    """Sum over cells of ``2 y z - z^2`` by gene, where z is the projection of y; squares minus this are the residual."""
    scores = matrix.times(weights[:, None] * basis).double()
    cross = (matrix.transposed_times(scores) * basis).sum(1) / weights
    return 2 * cross - ((basis @ (scores.T @ scores)) * basis).sum(1) / weights.square()


def _unit_mean(weights: Tensor, mean: Tensor) -> Tensor:
    return weights / ((weights.square() * mean).sum() / mean.sum()).sqrt()


def _two_positive(first: Tensor, second: Tensor) -> tuple[float, float]:
    """Non-negative a, b that minimise ``|a first + b second - 1|^2``."""
    columns = torch.stack([first, second])
    gram, right = columns @ columns.T, columns.sum(1)
    alone = right / gram.diagonal()
    both = torch.linalg.lstsq(gram, right[:, None]).solution[:, 0]
    if (both >= 0).all():
        return float(both[0]), float(both[1])
    # the gain in squares of one column alone is right^2 / gram
    return (float(alone[0]), 0.0) if alone[0] * right[0] > alone[1] * right[1] else (0.0, float(alone[1]))


# -------------------------------------------------------------------------------------------------------------- rays


@dataclass
class _Rays:
    """Where the rays of each batch meet, on principal directions.

    Attributes
    ----------
    offset, total, error
        Offset (T x r), its sum over genes (T), and the standard error of that sum.
    profile
        Of each state, per unit of size, C x r.
    inverse
        Of the normal matrix of offsets and profiles.
    covariance
        Of each offset, T x r x r.
    """

    offset: Tensor
    total: Tensor
    error: Tensor
    profile: Tensor
    inverse: Tensor
    covariance: Tensor


class _RayFit:
    """Weighted least squares of ``y_i = F_b + p_c (T_i - S_b)``, Gauss-Newton on S with F and p projected out.

    Parameters
    ----------
    scores, totals, batch, state
        Of the cells: n x r, n, n, n.
    states
        Number of states.
    genes
        Number of genes, G.
    offset_scale
        Mean over genes of the squared mean expression, the variance of the normal prior on F.
    """

    def __init__(
        self, scores: Tensor, totals: Tensor, batch: Tensor, state: Tensor, states: int, genes: int, offset_scale: float
    ) -> None:
        self.scores, self.totals, self.batch, self.state = scores, totals, batch, state
        self.batches, self.states = int(batch.max()) + 1, states
        self.genes, self.offset_scale = genes, offset_scale
        self.mean_total = float(totals.mean())
        lowest = [torch.quantile(totals[batch == b], 0.02) for b in range(self.batches)]
        self.most = 0.95 * torch.stack(lowest)

    def fit(self, steps: int = 30, tolerance: float = 1e-4) -> _Rays:
        total = torch.zeros_like(self.most)
        variance = 0.0
        for _ in range(steps):
            self._solve(total, variance)
            variance = float(self.residual.square().sum()) / (len(self.scores) * self.genes)
            hessian, gradient = self._newton()
            damping = variance / self.mean_total**2
            eye = torch.eye(self.batches, dtype=hessian.dtype, device=hessian.device)
            hessian = hessian + (damping + 1e-12 * hessian.trace()) * eye
            moved = total + torch.linalg.solve(hessian, gradient - damping * total)
            moved = torch.minimum(moved.clamp(min=0), self.most)
            change = float((moved - total).abs().max())
            total = moved
            if change < tolerance * self.mean_total:
                break
        inverse_hessian = torch.linalg.pinv(hessian, hermitian=True)
        shift = self._influence() @ inverse_hessian
        error = shift.square().sum(0).sqrt()
        covariance = self._offset_covariance(shift)
        self._solve(total, variance)
        return _Rays(self.offset, total, error, self.profile, self.inverse, covariance)

    def _solve(self, total: Tensor, variance: float) -> None:
        """Find offsets and profiles for given totals of the offset."""
        size = (self.totals - total[self.batch]).clamp(min=_FLOOR * self.mean_total)
        self.size = size
        self.weight = 1 / size.clamp(min=0.3 * float(size.median()))
        w2 = self.weight.square()
        parts = torch.stack([w2, w2 * size, w2 * size.square()], 1)
        parts = torch.cat([parts, w2[:, None] * self.scores, (w2 * size)[:, None] * self.scores], 1)
        sums = parts.new_zeros(self.batches * self.states, parts.shape[1])
        sums.index_add_(0, self.batch * self.states + self.state, parts)
        sums = sums.view(self.batches, self.states, -1)
        self.w0, self.w1, w2s = sums[..., 0], sums[..., 1], sums[..., 2]
        self.y0, y1 = sums[..., 3:].split(self.scores.shape[1], dim=-1)
        normal = torch.cat(
            [
                torch.cat([self.w0.sum(1).diag(), self.w1], 1),
                torch.cat([self.w1.T, w2s.sum(0).diag()], 1),
            ]
        )
        right = torch.cat([self.y0.sum(1), y1.sum(0)])
        ridge = torch.zeros(len(normal), dtype=normal.dtype, device=normal.device)
        ridge[: self.batches] = variance / self.offset_scale
        ridged = normal + ridge.diag()
        ridged += (
            1e-10 * ridged.trace() / len(normal) * torch.eye(len(normal), dtype=normal.dtype, device=normal.device)
        )
        self.inverse = torch.linalg.inv(ridged)
        solution = self.inverse @ right
        self.slack = right - normal @ solution
        self.offset, self.profile = solution[: self.batches], solution[self.batches :]
        fitted = self.offset[self.batch] + self.profile[self.state] * size[:, None]
        self.residual = (self.scores - fitted) * self.weight[:, None]

    def _newton(self) -> tuple[Tensor, Tensor]:
        """Hessian and downhill direction of the squared residual in S, F and p projected out (Kaufman 1975)."""
        b, c, r = self.batches, self.states, self.scores.shape[1]
        design = self.scores.new_zeros(b, b + c, r)
        design[range(b), range(b)] = -(self.w0 @ self.profile)
        design[:, b:] = -self.w1[..., None] * self.profile
        self.projected = torch.einsum("de,ber->bdr", self.inverse, design)
        hessian = -torch.einsum("bdr,edr->be", design, self.projected)
        hessian += (self.w0 @ self.profile.square().sum(1)).diag()
        inner = self.y0 - self.offset[:, None] * self.w0[..., None] - self.profile * self.w1[..., None]
        gradient = -(inner * self.profile).sum((1, 2)) - torch.einsum("bdr,dr->b", self.projected, self.slack)
        return hessian, gradient

    def _influence(self) -> Tensor:
        """Inner product of residual and derivative in S of each cell, n x T."""
        columns = []
        for b in range(self.batches):
            step = self.projected[b]
            along = step[self.batch] + self.size[:, None] * step[self.batches + self.state]
            along += (self.batch == b)[:, None] * self.profile[self.state]
            columns.append(-self.weight * (along * self.residual).sum(1))
        return torch.stack(columns, 1)

    def _offset_covariance(self, shift: Tensor) -> Tensor:
        """Covariance of the offsets from the influence of each cell (sandwich), T x r x r."""
        covariances = []
        for b in range(self.batches):
            row = self.inverse[b]
            lever = self.weight * (row[self.batch] + self.size * row[self.batches + self.state])
            influence = lever[:, None] * self.residual - shift @ self.projected[:, b]
            covariances.append(influence.T @ influence)
        return torch.stack(covariances)

    def profile_variance(self, rays: _Rays, directions: list[Tensor]) -> Tensor:
        """Variance of the profiles in weighted gene space for states of one batch each; C x G."""
        rank = self.scores.shape[1]
        moments = self.scores.new_zeros(self.states, rank, rank)
        for residual, state in zip(self.residual.split(2**15), self.state.split(2**15), strict=True):
            moments.index_add_(0, state, residual[:, :, None] * residual[:, None, :])
        count = torch.bincount(self.state, minlength=self.states)
        own = len(directions)
        spread = torch.cat(
            [
                torch.einsum("gr,crs,gs->cg", basis, part[:, : basis.shape[1], : basis.shape[1]], basis)
                for basis, part in zip(directions, moments.view(own, -1, rank, rank), strict=True)
            ]
        )
        mean = spread.sum(0) / len(self.scores)
        spread = (spread + 3 * mean) / (count[:, None] + 3)
        return spread * rays.inverse.diagonal()[self.batches :, None]


# ------------------------------------------------------------------------------------------------- factors of the genes


def _gene_factors(profile: Tensor, variance: Tensor, count: Tensor, floor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compare the profiles of the same states between batches, gene by gene, robustly.

    Parameters
    ----------
    profile, variance
        Profile of each state in each batch and its variance, T x C x G.
    count
        Cells in each state and batch, T x C.
    floor
        Smallest expression that is compared, G.

    Returns
    -------
    tuple of Tensor
        Logarithm of the factors (T x G, mean 0 over batches), their standard errors, and the variance over states of
        what is left (G).
    """
    known = (count >= 3)[..., None] & (profile > floor)
    known &= known.sum(0) >= 2
    positive = profile.clamp(min=1e-12)
    variance = torch.where(known, (variance / positive.square()).clamp(max=25) + 1e-6, math.inf)
    logs = torch.where(known, positive.log(), 0.0)
    factors, error, spread = _two_way(logs, variance)
    missing = torch.tensor(math.nan, dtype=logs.dtype, device=logs.device)
    for _ in range(2):
        # profiles are shares: that of a state falls in all genes where one is much too high
        left = torch.where(known, logs - factors[:, None], missing)
        common = (left - left.nanmean(0)).nanmedian(-1).values.nan_to_num()
        logs = torch.where(known, logs - common[..., None], 0.0)
        factors, error, spread = _two_way(logs, variance)
    return factors, error, spread


def _two_way(logs: Tensor, variance: Tensor, steps: int = 30, huber: float = 1.5) -> tuple[Tensor, Tensor, Tensor]:
    """Fit ``log p_bcg = a_cg + h_bg`` per gene by reweighted least squares; variance is infinite where unknown."""
    batches, _, genes = logs.shape
    sampling = 1 / variance
    known = sampling > 0
    weight = sampling
    factors = torch.zeros(batches, genes, dtype=logs.dtype, device=logs.device)
    spread = torch.zeros(genes, dtype=logs.dtype, device=logs.device)
    eye = torch.eye(batches, dtype=logs.dtype, device=logs.device)
    entries = known.sum((0, 1))
    freedom = (entries - known.any(0).sum(0) - batches + 1).clamp(min=0)
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
        inverse = torch.linalg.inv(normal + scale * (1 / batches + 1e-9 * eye))
        factors = (inverse @ right[..., None])[..., 0].T
        factors = factors - factors.mean(0)
        state = (weight * (logs - factors[:, None])).sum(0) / of_state
        residual = torch.where(known, logs - state - factors[:, None], 0.0)
        limited = torch.where(known, torch.minimum(residual.square(), 9 * (variance + spread)), 0.0)
        found = ((sampling * limited).sum((0, 1)) - freedom).clamp(min=0) / contrast
        found = torch.where(freedom > 0, found, 0.0)
        spread = (freedom * found + 4 * found.median()) / (freedom + 4)
        total = variance + spread
        influence = (huber * total.sqrt() / residual.abs().clamp(min=1e-9)).clamp(max=1)
        weight = torch.where(known, influence / total, 0.0)
    error = inverse.diagonal(dim1=1, dim2=2).T.clamp(min=0).sqrt()
    return factors, error, spread


def _factors_of_groups(
    log_factors: Tensor, profile: Tensor, variance: Tensor, count: Tensor, floor: Tensor, groups: list[list[int]]
) -> tuple[Tensor, Tensor]:
    """Move the factors by what the profiles tell, within groups of batches, and shrink; factors and errors, T x G."""
    found, errors = torch.zeros_like(log_factors), torch.zeros_like(log_factors)
    for group in groups:
        if len(group) == 1:
            continue
        step, error, _ = _gene_factors(profile[group], variance[group], count[group], floor)
        shrunk, posterior, prior = _shrink(log_factors[group] + step, error)
        if prior > LEAST_SPREAD:
            found[group], errors[group] = shrunk, posterior
    return found, errors


def _shrink(factors: Tensor, error: Tensor) -> tuple[Tensor, Tensor, float]:
    """Shrink factors towards 1 by empirical Bayes; return them, their posterior standard deviation, and the prior's."""
    weight = 1 / (error.square() + error.median().square())
    prior = max(0.0, float((weight * (factors.square() - error.square())).sum() / weight.sum()))
    kept = prior / (prior + error.square())
    factors = factors * kept
    return factors - factors.mean(0), (kept.sqrt() * error), math.sqrt(prior)


# ------------------------------------------------------------------------------------------- batch effect or composition


@dataclass
class _Composition:
    """How the cells of a batch differ among themselves: what a difference between batches may be without any effect.

    Attributes
    ----------
    directions
        Principal directions of the profiles within batches, orthonormal in weighted gene space, G x m.
    scale
        Change of the weighted profile of the mean cell by a small log factor, G.
    """

    directions: Tensor
    scale: Tensor

    @property
    def expected(self) -> Tensor:
        """Share of the factors' variance that falls on each direction when genes vary independently, m."""
        return (self.directions * self.scale[:, None]).square().sum(0) / self.scale.square().sum()

    def along(self, logs: Tensor) -> Tensor:
        """Coordinates on the directions, ... x m."""
        return (logs * self.scale) @ self.directions

    def ambiguous(self, logs: Tensor) -> Tensor:
        """Excess share of each difference (... x G) that composition could make: 0 as by chance, 1 all of it."""
        share = self.along(logs).square().sum(-1) / (logs * self.scale).square().sum(-1).clamp(min=1e-30)
        by_chance = self.expected.sum()
        return ((share - by_chance) / (1 - by_chance)).clamp(min=0)

    def without(self, logs: Tensor) -> Tensor:
        """Take off all that lies on the directions of composition."""
        return logs - self.along(logs) @ self.directions.T / self.scale

    def spare(self, logs: Tensor, error: Tensor) -> Tensor:
        """Take off what exceeds, on a direction of composition, the spread that the other directions tell.

        A batch effect has no reason to favour these few directions.
        """
        along = self.along(logs)
        rest = logs * self.scale - along @ self.directions.T
        leverage = self.directions.square().sum(1)
        spread = rest.square().sum(-1) / (self.scale.square() * (1 - leverage)).sum()
        lever = self.directions * self.scale[:, None]
        usual = spread[:, None] * lever.square().sum(0) + error.square() @ lever.square()
        kept = (usual / along.square().clamp(min=1e-30)).clamp(max=1)
        return logs - (along * (1 - kept)) @ self.directions.T / self.scale


def _composition(data: _Data, noise: _Noise, own: list[Tensor], rank: int) -> _Composition:
    """Directions in which the profiles of cells differ within batches, larger cells counting more."""
    ones = torch.ones(data.batches, len(data.mean), dtype=torch.float64, device=data.mean.device)
    scores, _ = _divided(data, noise, ones, own)
    parts = []
    for basis, cells in zip(own, data.slices, strict=True):
        weight = (data.totals[cells] / data.mean_total)[:, None]
        profile = scores[cells][:, scores.shape[1] - basis.shape[1] :] / data.totals[cells, None]
        centred = (profile - (weight * profile).sum(0) / weight.sum()) * weight.sqrt()
        values, vectors = torch.linalg.eigh(centred.T @ centred)
        parts.append(basis @ (vectors * values.clamp(min=0).sqrt()))
    left, values, _ = torch.linalg.svd(torch.cat(parts, 1), full_matrices=False)
    real = int((values > 1e-6 * values[0]).sum())
    return _Composition(left[:, : min(rank, real)], noise.weights * data.mean / data.mean.sum())


def _meeting(profiles: Tensor, slices: list[slice], rng: torch.Generator, most: int = 1000) -> Tensor:
    """Share of a batch's cells that have cells of another batch as near as cells of their own; T x T, row to column.

    As near: the distance to the tenth cell of the other batch exceeds that to the tenth of their own by less than a
    tenth, with equally many cells drawn from both.
    """
    batches = len(slices)
    meeting = torch.zeros(batches, batches, dtype=torch.float64)
    most = max(100, most // max(1, batches // 8))
    order = [torch.randperm(c.stop - c.start, generator=rng)[:most] + c.start for c in slices]
    for a in range(batches):
        for b in range(a):
            n = min(len(order[a]), len(order[b]))
            k = min(10, n - 1)
            if k < 1:
                continue
            x, y = profiles[order[a][:n].to(profiles.device)], profiles[order[b][:n].to(profiles.device)]
            across = torch.cdist(x, y)
            for one, other, own, cross in ((a, b, x, across), (b, a, y, across.T)):
                near = torch.cdist(own, own).kthvalue(k + 1, dim=1).values
                meeting[one, other] = (cross.kthvalue(k, dim=1).values < 1.1 * near).double().mean()
    return meeting


def _groups(linked: Tensor) -> list[list[int]]:
    """Connected components of a symmetric T x T matrix of links."""
    free, groups = set(range(len(linked))), []
    while free:
        group, front = set(), {min(free)}
        while front:
            group |= front
            front = set(linked[sorted(front)].any(0).nonzero()[:, 0].tolist()) - group
        groups.append(sorted(group))
        free -= group
    return groups


@dataclass
class _Judge:
    """Which pairs of batches may be compared gene by gene; a pair that is refused once stays so.

    `share` is the largest share of the pair's difference that composition could make, T x T.
    """

    composition: _Composition
    share: Tensor
    size: Tensor

    @property
    def linked(self) -> Tensor:
        return self.share <= MOST_AMBIGUOUS

    def look(self, logs: Tensor, groups: list[list[int]]) -> None:
        """Take note of the factors found, T x G."""
        difference = logs[:, None] - logs[None]
        size = difference.square().mean(-1).sqrt()
        share = torch.where(size > LEAST_SPREAD, self.composition.ambiguous(difference), 0.0)
        compared = torch.zeros_like(self.linked)
        for group in groups:
            compared[torch.tensor(group)[:, None], torch.tensor(group)] = True
        larger = compared & (share >= self.share)
        self.share = torch.where(larger, share, self.share)
        self.size = torch.where(larger, size, self.size)


# ---------------------------------------------------------------------------------------- the batch effect, in rounds


@dataclass
class _Effect:
    """Batch effect and states, in units of the kept data.

    Attributes
    ----------
    offset
        Offset before the factors, T x G.
    total, total_error
        Sum of the offset over genes, and its standard error (T).
    log_factors, log_error
        T x G.
    state, centres
        State of each cell (n) and its centre on `directions` (C x r).
    directions
        Orthonormal in weighted gene space, G x r.
    on_directions
        The offset on them, T x r.
    scores, profiles
        Of the cells after the factors are divided out, and after the offset is taken off and size divided out; n x r.
    mean_total
        Mean total after the factors are divided out.
    """

    offset: Tensor
    total: Tensor
    total_error: Tensor
    log_factors: Tensor
    log_error: Tensor
    state: Tensor
    centres: Tensor
    directions: Tensor
    on_directions: Tensor
    scores: Tensor
    profiles: Tensor
    mean_total: float
    log: list[str] = field(default_factory=list)

    @property
    def factors(self) -> Tensor:
        return self.log_factors.exp()


def _divided(data: _Data, noise: _Noise, factors: Tensor, directions: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Scores of the cells on directions (of each batch) and totals, after expression is divided by the factors."""
    rights = [
        torch.cat([(noise.weights / g)[:, None] * basis, 1 / g[:, None]], 1)
        for g, basis in zip(factors, directions, strict=True)
    ]
    widest = max(right.shape[1] for right in rights)
    # a small batch has fewer directions; 0 leaves lengths as they are
    rights = [torch.nn.functional.pad(right, (widest - right.shape[1], 0)) for right in rights]
    product = data.times(rights)
    return product[:, :-1], product[:, -1]


def _first_states(data: _Data, noise: _Noise, directions: list[Tensor], states: int, rng: torch.Generator) -> Tensor:
    """Cluster the logarithms of profiles, centred by batch, so that a batch effect does not decide the state."""
    share = data.mean / data.mean.sum()
    scores, totals = _divided(data, noise, torch.ones(data.batches, len(share), dtype=torch.float64), directions)
    del totals

    def features(cells: Tensor, b: int) -> Tensor:
        rank = directions[b].shape[1]
        profile = scores[cells][:, scores.shape[1] - rank :] @ directions[b].T / noise.weights
        profile = profile.clamp(min=0) / data.totals[cells, None]
        return (profile + 0.3 * share).log() * (share * noise.weights)

    everyone = torch.arange(len(data.totals), device=data.totals.device)
    limit = max(20_000, 40_000_000 // len(share))
    chosen = everyone
    if len(everyone) > limit:
        chosen = torch.randperm(len(everyone), generator=rng)[:limit].sort().values.to(everyone.device)
    middles, rows = [], []
    for b in range(data.batches):
        mine = chosen[data.batch[chosen] == b]
        mine = everyone[data.slices[b]] if len(mine) < 10 else mine
        part = features(mine, b)
        middles.append(part.mean(0))
        rows.append(part - middles[-1])
    centres = kmeans(torch.cat(rows), states, rng)
    if chosen is everyone:
        return nearest(torch.cat(rows), centres)
    found = []
    for b in range(data.batches):
        for part in everyone[data.slices[b]].split(limit // 4 + 1):
            found.append(nearest(features(part, b) - middles[b], centres))
    return torch.cat(found)


def _pooled_profiles(
    data: _Data, factors: Tensor, offset: Tensor, size: Tensor, state: Tensor, states: int
) -> tuple[Tensor, Tensor]:
    """Profiles as ratios of sums by batch and state, and their variance; T x C x G."""
    profiles, variances = [], []
    for b, (matrix, cells) in enumerate(zip(data.matrices, data.slices, strict=True)):
        member = torch.nn.functional.one_hot(state[cells], states).double()
        sized = member * size[cells, None]
        count, total, total_squares = member.sum(0), sized.sum(0), (sized * size[cells, None]).sum(0)
        expression = matrix.transposed_times(member).T / factors[b]
        with_size = matrix.transposed_times(sized).T / factors[b] - total[:, None] * offset[b]
        squares = matrix.squares_transposed_times(member).T / factors[b].square()
        squares += count[:, None] * offset[b].square() - 2 * offset[b] * expression
        profile = (expression - count[:, None] * offset[b]) / total.clamp(min=1e-9)[:, None]
        residual = squares - 2 * profile * with_size + profile.square() * total_squares[:, None]
        profiles.append(profile)
        variances.append(residual.clamp(min=0) / total.clamp(min=1e-9).square()[:, None])
    return torch.stack(profiles), torch.stack(variances)


def _profiles(
    data: _Data, noise: _Noise, factors: Tensor, offset: Tensor, total: Tensor, rank: int
) -> tuple[Tensor, Tensor]:
    """Profiles of the cells, without batch effect, on common directions (n x r), and the directions (G x r)."""
    directions = _directions(data, noise, factors, rank, list(range(data.batches)))
    scores, totals = _divided(data, noise, factors, [directions] * data.batches)
    size = (totals - total[data.batch]).clamp(min=_FLOOR * float(totals.mean()))
    return (scores - ((offset * noise.weights) @ directions)[data.batch]) / size[:, None], directions


def _estimate_effect(data: _Data, settings: Settings, noise: _Noise, own: list[Tensor], seed: int) -> _Effect:
    """Find states, offset and factors in rounds."""
    batches, genes, states = data.batches, len(data.mean), settings.metagenes
    # what is drawn to judge the batch effect must not change the states, so that refusing it leaves the data untouched
    rng, chance = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 1)
    q = noise.weights
    device = data.mean.device
    offset_scale = float((data.mean * q).square().mean())
    share = data.mean / data.mean.sum()
    state = _first_states(data, noise, own, states, rng)
    log_factors = torch.zeros(batches, genes, dtype=torch.float64, device=device)
    log_error = torch.zeros_like(log_factors)
    offset, total = torch.zeros_like(log_factors), torch.zeros(batches, dtype=torch.float64, device=device)
    directions = own
    scores, totals = _divided(data, noise, log_factors.exp(), directions)
    groups = [list(range(batches))]
    nothing = torch.zeros(batches, batches, dtype=torch.float64, device=device)
    judge = _Judge(_composition(data, noise, own, states - 1), nothing, nothing)
    log: list[str] = []
    for _ in range(settings.rounds):
        mean_total = float(totals.mean())
        if settings.factors:
            separate = data.batch * states + state
            count = torch.bincount(separate, minlength=batches * states).view(batches, states)
            use = False
            if settings.offset:
                problem = _RayFit(scores, totals, data.batch, separate, batches * states, genes, offset_scale)
                free = problem.fit()
                use = bool(((free.total > 6 * free.error) & (free.error < 0.12 * mean_total)).any())
                log.append(f"free {_shares(free.total, mean_total)} +- {_shares(free.error, mean_total)}")
            if use:
                width = scores.shape[1]
                padded = [torch.nn.functional.pad(d, (width - d.shape[1], 0)) for d in directions]
                profile = torch.einsum("bcr,bgr->bcg", free.profile.view(batches, states, -1), torch.stack(padded)) / q
                variance = problem.profile_variance(free, padded).view(batches, states, genes) / q.square()
            else:
                size = (totals - offset.sum(1)[data.batch]).clamp(min=_FLOOR * mean_total)
                profile, variance = _pooled_profiles(data, log_factors.exp(), offset, size, state, states)
            while True:
                found, error = _factors_of_groups(log_factors, profile, variance, count, 0.02 * share, groups)
                judge.look(found, groups)
                smaller = _groups(judge.linked)
                if smaller == groups:
                    break
                groups = smaller
            # composition can be what tells batches apart only if they meet without it
            profiles, _ = _profiles(data, noise, judge.composition.without(found).exp(), offset, total, states)
            meeting = _meeting(profiles, data.slices, chance)
            meets = torch.minimum(meeting, meeting.T).max(1).values >= LEAST_MEETING
            spared = judge.composition.spare(found, error)
            log_factors, log_error = torch.where(meets.to(device)[:, None], spared, found), error
            log.append(
                f"factors sd {float(log_factors.square().mean().sqrt()):.3f}, share {judge.share.max():.2f}"
                f" meet {float(torch.minimum(meeting, meeting.T).max()):.2f}"
            )
        factors = log_factors.exp()
        directions = [_directions(data, noise, factors, states, list(range(batches)))] * batches
        scores, totals = _divided(data, noise, factors, directions)
        mean_total = float(totals.mean())
        if settings.offset:
            rays = _RayFit(scores, totals, data.batch, state, states, genes, offset_scale).fit()
            error = rays.error
            if (rays.total > 3 * error).any():
                halves = _half_split_error(data, noise, factors, totals, state, settings, chance, offset_scale)
                error = torch.maximum(error, halves)
            accepted = (rays.total > 3 * error) & (error < 0.12 * mean_total)
            log.append(f"shared {_shares(rays.total, mean_total)} +- {_shares(error, mean_total)}")
            total, total_error = rays.total * accepted, error
            on_directions = rays.offset * accepted[:, None]
            offset = on_directions @ directions[0].T / q
        else:
            on_directions, total_error = scores.new_zeros(batches, scores.shape[1]), total
        size = (totals - total[data.batch]).clamp(min=_FLOOR * mean_total)
        profiles = (scores - on_directions[data.batch]) / size[:, None]
        centres = kmeans(profiles, states, rng)
        state = nearest(profiles, centres)
    return _Effect(
        offset.clamp(min=0),
        total,
        total_error,
        log_factors,
        log_error,
        state,
        centres,
        directions[0],
        on_directions,
        scores,
        profiles,
        mean_total,
        log,
    )


def _shares(values: Tensor, total: float) -> str:
    return "[" + " ".join(f"{v / total:.3f}" for v in values.tolist()) + "]"


def _half_split_error(
    data: _Data,
    noise: _Noise,
    factors: Tensor,
    totals: Tensor,
    state: Tensor,
    settings: Settings,
    rng: torch.Generator,
    offset_scale: float,
    repeats: int = 3,
    most: int = 20_000,
) -> Tensor:
    """Standard error of the offset's sum from fits to random halves of each batch, with directions of their own."""
    spread = noise.of_cells(data.totals, data.mean_total).rsqrt()
    weights = [noise.weights / g for g in factors]
    squares = torch.zeros(data.batches, dtype=torch.float64, device=totals.device)
    for _ in range(repeats):
        half = torch.full((len(totals),), -1)
        for cells in data.slices:
            order = torch.randperm(cells.stop - cells.start, generator=rng)[:most] + cells.start
            half[order] = torch.arange(len(order)) * 2 // max(len(order), 1)
        half = half.to(totals.device)
        found = []
        for side in (0, 1):
            inside = (half == side).double() * spread
            parts = [(m, inside[c], w) for m, c, w in zip(data.matrices, data.slices, weights, strict=True)]
            basis = _top(parts, settings.metagenes)
            scores = data.times([w[:, None] * basis for w in weights])
            mine = half == side
            problem = _RayFit(
                scores[mine],
                totals[mine],
                data.batch[mine],
                state[mine],
                settings.metagenes,
                len(data.mean),
                offset_scale,
            )
            found.append(problem.fit().total)
        squares += (found[0] - found[1]).square() / (4 * repeats)
    return squares.sqrt()


# ------------------------------------------------------------------------------------- non-negative matrix factorisation


def _sweep(amounts: Tensor, linear: Tensor, design: Tensor, sweeps: int) -> None:
    """Lower ``x' Q x / 2 - x' c`` over x >= 0 in place, one coordinate of all cells after another; n x K."""
    curvature = design.diagonal().tolist()
    for part, target in zip(amounts.split(2**14), linear.split(2**14), strict=True):
        x, c = part.T.contiguous(), target.T.contiguous()
        for _ in range(sweeps):
            for k, curve in enumerate(curvature):
                if curve > 1e-12:
                    slope = torch.addmv(c[k], x.T, design[k], alpha=-1)
                    x[k].add_(slope, alpha=1 / curve).clamp_(min=0)
        part.copy_(x.T)


def _sweep_metagenes(metagenes: Tensor, design: Tensor, weights: Tensor, linear: Tensor, sweeps: int) -> None:
    """The same for the metagenes (K x G), whose genes have designs ``sum_b weights_bg design_b``."""
    designs = torch.einsum("bg,bkl->klg", weights, design)
    for _ in range(sweeps):
        for k in range(len(metagenes)):
            curve = designs[k, k]
            slope = linear[k] - (designs[k] * metagenes).sum(0)
            moved = (metagenes[k] + slope / curve.clamp(min=1e-12)).clamp(min=0)
            metagenes[k] = torch.where(curve > 1e-12, moved, metagenes[k])


def _residual_weights(data: _Data, noise: _Noise, effect: _Effect, rank: int) -> Tensor:
    """Inverse noise standard deviations by batch and gene, shrunk towards the noise model; T x G."""
    rows = []
    for b, (matrix, cells) in enumerate(zip(data.matrices, data.slices, strict=True)):
        n = matrix.shape[0]
        g = effect.factors[b]
        scores = effect.scores[cells]
        fitted = effect.directions * (g / noise.weights)[:, None]
        cross = (matrix.transposed_times(scores) * fitted).sum(1)
        squared = ((fitted @ (scores.T @ scores)) * fitted).sum(1)
        residual = (data.squares[b] - 2 * cross + squared).clamp(min=0) / n * (n / max(n - rank / 2, 1))
        model = noise.gene_constant + noise.gene_slope * data.mean * g
        model = model * (residual / model).median()
        shrunk = (n * residual.clamp(min=1e-3 * model).log() + 20 * model.log()) / (n + 20)
        rows.append((-0.5 * shrunk).exp())
    weights = torch.stack(rows)
    return weights / ((weights.mean(0).square() * data.mean).sum() / data.mean.sum()).sqrt()


@dataclass
class _Factorisation:
    """What the factorisation found: amounts (n x K), beta (T x K), metagenes (K x G), and what embeds further cells."""

    amounts: Tensor
    beta: Tensor
    metagenes: Tensor
    weights: Tensor
    variance: Tensor
    shares: Tensor
    history: dict[str, list[float]]


def _initial_metagenes(noise: _Noise, effect: _Effect, metagenes: int) -> Tensor:
    """Mean profiles of the states, the largest first; K x G, rows sum to 1."""
    count = torch.bincount(effect.state, minlength=metagenes)
    sums = effect.profiles.new_zeros(metagenes, effect.profiles.shape[1]).index_add_(0, effect.state, effect.profiles)
    means = sums / count.clamp(min=1)[:, None] @ effect.directions.T / noise.weights
    found = means[count.argsort(descending=True, stable=True)].clamp(min=1e-10)
    return found / found.sum(1, keepdim=True)


def _state_means(amounts: Tensor, state: Tensor, states: int) -> Tensor:
    """Mean share of each metagene in the cells of each state, C x K."""
    share = (amounts / amounts.sum(1, keepdim=True).clamp(min=1e-6)).double()
    sums = share.new_zeros(states, share.shape[1]).index_add_(0, state, share)
    return sums / torch.bincount(state, minlength=states).clamp(min=1)[:, None]


def _penalty(shares: Tensor) -> Tensor:
    """Weight of the sparse prior by share of the metagene in the state: 1 / (1 + eps) at share 0, none at share 1."""
    return (_EPS / (shares + _EPS) - _EPS / (1 + _EPS)).clamp(min=0)


def _factorise(data: _Data, settings: Settings, noise: _Noise, effect: _Effect) -> _Factorisation:
    """Sparse non-negative matrix factorisation with offset and factors fixed, by coordinate descent."""
    K, batches = settings.metagenes, data.batches
    g = effect.factors
    offset = effect.offset * g
    q = _residual_weights(data, noise, effect, K)
    squared, cells_noise = q.square(), noise.of_cells(data.totals, data.mean_total)
    spread = (cells_noise / cells_noise.mean()).sqrt().float()
    count = data.sizes.double()
    metagenes = _initial_metagenes(noise, effect, K)
    amounts = (data.totals - offset.sum(1)[data.batch]).clamp(min=1e-3)[:, None].repeat(1, K).float() / K
    beta = effect.offset.sum(1, keepdim=True).clamp(min=1e-3).repeat(1, K) / K
    beta[~offset.any(1)] = 0
    norms = [
        (m.squares_times(w[:, None]) - 2 * m.times((w * f)[:, None]) + (w * f * f).sum())[:, 0]
        for m, w, f in zip(data.matrices, squared, offset, strict=True)
    ]
    variance = torch.ones(batches, dtype=torch.float64, device=g.device)
    shares = torch.ones(K, K, dtype=torch.float64, device=g.device)
    history: dict[str, list[float]] = {"data": [], "sparsity": []}
    for iteration in range(settings.iterations + 1):
        sweeps = 3 if iteration else 30
        if iteration:
            shares = _state_means(amounts, effect.state, K)
        penalty = _penalty(shares)
        design = torch.empty(batches, K, K, dtype=torch.float64, device=g.device)
        linear = torch.zeros_like(metagenes)
        cost = {"data": 0.0, "sparsity": 0.0}
        for b, (matrix, cells) in enumerate(zip(data.matrices, data.slices, strict=True)):
            mine, noise_of_cell = amounts[cells], spread[cells, None]
            weighted = metagenes * (g[b] * squared[b])
            gram = (weighted * g[b]) @ metagenes.T
            target = matrix.times(weighted.T) - (weighted @ offset[b]).float()
            small_gram = gram.float()
            if iteration:
                fitted = 2 * (mine * target).sum(1) - ((mine @ small_gram) * mine).sum(1)
                residual = ((norms[b] - fitted).clamp(min=0) / noise_of_cell[:, 0].square()).double().sum()
                variance[b] = residual / (count[b] * len(g[b]))
                cost["data"] += float(count[b] * len(g[b]) * variance[b].log() / 2)
                pull = settings.sparsity * variance[b].sqrt() * gram.diagonal().sqrt() * penalty
                lift = pull.float()[effect.state[cells]] * noise_of_cell
                cost["sparsity"] += float(
                    ((lift * mine).sum(1) / noise_of_cell[:, 0].square()).double().sum() / variance[b]
                )
                target = target - lift
            _sweep(mine, target, small_gram, sweeps)
            if offset[b].any():
                row = beta[b : b + 1].clone()
                _sweep(row, (weighted @ offset[b])[None], gram, sweeps)
                beta[b] = row[0]
            if iteration:
                weight = mine / noise_of_cell.square()
                pseudo = 0.1 * count[b]
                sums = matrix.transposed_times(weight).T - weight.double().sum(0)[:, None] * offset[b]
                inner = (weight.double().T @ mine.double()) + pseudo * beta[b, :, None] * beta[b]
                floor = max(float(variance[b]), 1e-3 * float(variance.max()))
                design[b] = inner / floor
                linear += (sums + pseudo * beta[b, :, None] * offset[b]) * (g[b] * squared[b]) / floor
        if iteration:
            _sweep_metagenes(metagenes, design, squared * g.square(), linear, 3)
            total = metagenes.sum(1).clamp(min=1e-12)
            metagenes /= total[:, None]
            amounts *= total.float()
            beta *= total
            values = len(data.totals) * len(data.mean)
            for term, found in cost.items():
                history[term].append(found / values)
    return _Factorisation(amounts, beta, metagenes, q, variance, shares, history)


# ---------------------------------------------------------------------------------------------------------------- fit


@dataclass
class BatchBlend:
    """A fitted model.

    Attributes
    ----------
    amounts
        Of the metagenes in each cell, n x K, in units of the input; 0 for a cell without any expression.
    metagenes
        K x G, rows sum to 1.
    beta, offset, factors
        Batch effect: T x K and T x G in units of the input; T x G.
    """

    amounts: np.ndarray
    metagenes: np.ndarray
    beta: np.ndarray
    offset: np.ndarray
    factors: np.ndarray
    log_error: np.ndarray
    state: np.ndarray
    history: dict[str, list[float]]
    log: list[str]

    @property
    def embedding(self) -> np.ndarray:
        """Amounts divided by their sum, n x K."""
        total = self.amounts.sum(1, keepdims=True)
        return np.divide(
            self.amounts, total, out=np.full_like(self.amounts, 1 / self.amounts.shape[1]), where=total > 0
        )


def fit(expression: Any, batch: np.ndarray, settings: Settings, *, seed: int = 0, device: str = "cpu") -> BatchBlend:
    """Fit the model.

    Parameters
    ----------
    expression
        Counts, or continuous values scaled by one constant; n x G numpy array or scipy CSR matrix, non-negative.
    batch
        Batch of each cell as a code 0 ... T-1, n.
    settings
        How to fit.
    seed
        Of all random numbers.
    device
        Where to compute.
    """
    totals = np.asarray(expression.sum(1), dtype=np.float64).ravel()
    kept = np.flatnonzero(totals > SMALLEST * totals.mean())
    kept = kept[np.argsort(batch[kept], kind="stable")]
    scale = settings.metagenes / totals[kept].mean()
    data = _prepare(expression, batch, kept, totals, scale, torch.device(device))
    noise, own = _noise_model(data, settings.metagenes)
    effect = _estimate_effect(data, settings, noise, own, seed)
    found = _factorise(data, settings, noise, effect)
    amounts = np.zeros((len(batch), settings.metagenes), dtype=np.float32)
    amounts[kept] = found.amounts.cpu().numpy() / scale
    state = np.full(len(batch), -1)
    state[kept] = effect.state.cpu().numpy()
    return BatchBlend(
        amounts,
        found.metagenes.cpu().numpy(),
        found.beta.cpu().numpy() / scale,
        (effect.offset * effect.factors).cpu().numpy() / scale,
        effect.factors.cpu().numpy(),
        effect.log_error.cpu().numpy(),
        state,
        found.history,
        effect.log,
    )


def _prepare(
    expression: Any, batch: np.ndarray, kept: np.ndarray, totals: np.ndarray, scale: float, device: torch.device
) -> _Data:
    sizes = np.bincount(batch[kept])
    ends = np.cumsum(sizes)
    slices = [slice(int(end - size), int(end)) for end, size in zip(ends, sizes, strict=True)]
    matrices = [CellMatrix(expression[kept[cells]], scale, device) for cells in slices]
    ones = [torch.ones(matrix.shape[0], 1, device=device) for matrix in matrices]
    sums = sum(m.transposed_times(one)[:, 0] for m, one in zip(matrices, ones, strict=True))
    squares = [m.squares_transposed_times(one)[:, 0] for m, one in zip(matrices, ones, strict=True)]
    return _Data(
        matrices,
        torch.as_tensor(totals[kept] * scale, device=device),
        torch.as_tensor(batch[kept], device=device),
        slices,
        sums / len(kept),
        torch.stack(squares),
    )
