"""BatchBlend: non-negative metagenes with an additive and a multiplicative batch effect.

The expression of cell i of batch b, cells in rows, is modelled as

    y_i = F_b + g_b * (x_i M) + noise,    x_i >= 0, F_b >= 0, rows of M >= 0 with sum 1,

with amounts ``x_i`` of K metagenes ``M`` (K x G), an offset ``F_b`` (G) whose loadings on the metagenes are the
``beta_b`` of the BatchBlend thesis (section 2.1), and factors ``g_b`` (G) whose logarithms have mean 0 over batches.
POPARI (Alam et al., bioRxiv 2025) is the case F = 0, g = 1 with a spatial prior on ``x_i / sum(x_i)``.

What identifies F is the size of cells: within a state c (a cluster of cells), a cell of total T_i lies on the ray
``F_b + g_b * p_c (T_i - S_b)``, ``S_b = sum F_b``, and all rays of a batch meet in F_b. What identifies g is that the
profiles p_c are shared. So the fit is: noise model; states; offset and factors in a few rounds (each followed by new
states); then sparse non-negative matrix factorisation with the batch effect fixed, and a last phase in which the shares
of a cell are drawn to those of its state and its neighbours.

All sums over cells are of scores of the cells on a few principal directions, or products with the sparse matrix.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import combinations
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from unbatch.models.batchblend.annealed import annealed_offset
from unbatch.models.batchblend.cell_matrix import CellMatrix
from unbatch.models.batchblend.held_out import held_out_errors
from unbatch.models.batchblend.neighbour_prior import draw_to_expected
from unbatch.models.batchblend.nnls import solve_amounts, sweep_amounts, sweep_metagenes
from unbatch.models.batchblend.rays import FLOOR, RayFit, Rays, quadratic
from unbatch.models.batchblend.two_way import two_way
from unbatch.models.popari import amounts as cell_problem
from unbatch.models.popari.affinity import affinities, permuted_affinities
from unbatch.models.popari.field import hmrf
from unbatch.models.verdicts import Evidence, Verdict
from unbatch.nn.kmeans import joined, kmeans, nearest

LEAST_VARIANCE = 1e-5
"""Of a share within a state."""
SMALLEST = 0.02
"""Cells whose total is below this share of the mean total tell nothing of the batch effect and are left out of it."""
LEAST_SPREAD = 0.02
"""Factors that differ by less over the genes are within what errors of the offset make; they are left alone."""
MOST_AMBIGUOUS = 0.5
"""Two batches are compared gene by gene when at most this share of their difference could be composition."""
MOST_ERROR = 0.12
"""An offset whose standard error is a larger share of the mean total is not taken."""
CERTAIN = 6.0
"""Standard errors from 0 at which an offset is beyond doubt."""
LEAST_ERRORS = 3.0
"""Standard errors from 0 at which an offset is taken."""
LEAST_ERRORS_BESIDE = 2.0
"""The same where the offsets of most other batches are beyond doubt: then one is likely, and 0 is no safe guess."""
HALVED = 20_000
"""Cells of a batch at most whose halves are fitted apart."""
SPLITS = 4
"""Splits of the genes by which an offset is compared with one whose states other genes chose."""
SMALL_AMBIGUITY = 0.15
"""Share of all differences that composition could make up to which that part is left in the data by ``auto``."""
USUAL_SHIFT = 0.2
"""How far composition usually draws a batch from the mean of all along a direction, in standard deviations of cells."""
LEAST_MEETING = 0.05
"""Batches meet when this share of the cells of each has cells of the other as near as cells of its own."""
FEWEST = 20
"""Cells of a batch with fewer are not compared with others gene by gene."""
LEAST_CLOUD = 10
"""Cells of a cloud that counts as one; fewer are outliers of a continuum."""
LEAST_CELLS = 3
"""A state is compared between batches that have so many cells of it."""
_REFERENCE = 2000
"""Cells of the fit that its model keeps, for new batches."""
_LEAST_FOR_CHOICE = 20
"""Cells of a batch that helps to choose the number of metagenes."""
_AHEAD = 0.5
"""How much longer than it is a step of the factorisation is made at first."""
_EPS = 0.1
"""Share of a metagene in a state at which the sparse prior has fallen by half."""


OF_CELLS = {"sparsity": 0.75, "pooling": 1.0, "spatial_weight": 3.0}
"""Settings for single cells."""
OF_SPOTS = {"sparsity": 0.0, "pooling": 0.0, "spatial_weight": 4.0}
"""The same for spots that hold several cells: neither few metagenes in each nor types are to be expected, and shares
are noisy."""


@dataclass(frozen=True)
class Settings:
    """How to fit.

    Attributes
    ----------
    metagenes
        Number of metagenes, K.
    offset
        How the additive offset of a batch is found: from the ``"rays"`` of its cells; for data whose cells all have one
        total, with the ``"annealed"`` prior, which finds one in any data; or there is ``"none"``.
    factors
        Whether batches may have a factor per gene; not with ``"annealed"``.
    ambiguous
        What becomes of that part of an accepted difference between batches which their composition could make, too,
        where batches meet without its removal: ``"leave"`` in the data what is rather composition's, ``"remove"`` it
        all, or, ``"auto"``, leave it if it is a small part of the differences of all these batches together, which
        costs little mixing and keeps composition, and remove it if it is not.
    rounds
        Times that states, offset and factors are found anew.
    sparsity
        Strength of the sparse prior, in standard deviations of the noise of an amount.
    pooling
        Weight of the prior that draws the shares of a cell to those of its state, against the data, 1 being what the
        variance within states says; 0 for none. Where it is, the phase ``"linear"`` adds what neighbours expect and has
        this weight; ``"hmrf"`` has no states. Without several states there is nothing to draw to.
    iterations
        Iterations of the factorisation.
    spatial
        Phase after the factorisation, with metagenes and batch effect fixed: ``"linear"`` draws the shares of a cell to
        what a regression on its neighbours expects; ``"hmrf"`` is POPARI's hidden Markov random field.
    spatial_weight
        Of the spatial prior against the data, where there is no pooling.
    shared_affinity
        One affinity matrix for all batches in place of one for each.
    """

    metagenes: int
    offset: Literal["rays", "annealed", "none"] = "rays"
    factors: bool = True
    ambiguous: Literal["auto", "remove", "leave"] = "auto"
    rounds: int = 4
    sparsity: float = 0.75
    pooling: float = 1.0
    iterations: int = 20
    spatial: Literal["none", "linear", "hmrf"] = "none"
    spatial_weight: float = 3.0
    shared_affinity: bool = False

    @classmethod
    def popari(cls, metagenes: int, **others: Any) -> "Settings":
        """POPARI's model: no batch effect, no priors of states, the random field on.

        Without what knowing the batch effect and the states adds, the factorisation takes longer to get anywhere.
        """
        return cls(
            metagenes,
            **{
                "offset": "none",
                "factors": False,
                "sparsity": 0.0,
                "pooling": 0.0,
                "iterations": 60,
                "spatial": "hmrf",
                "spatial_weight": 1.0,
                **others,
            },
        )


@dataclass
class _Data:
    """Cells that are kept, sorted by batch; one unit of expression is 1 / scale of the input's.

    Attributes
    ----------
    matrices, totals, batch
        Expression by batch; totals (n) and batches (n) of all cells.
    slices
        Cells of each batch.
    mean, squares
        Mean of each gene over all cells, above 0, G; sums of squares by batch, T x G.
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

    def ones(self) -> Tensor:
        """Factors that change nothing, T x G."""
        return torch.ones(self.batches, len(self.mean), dtype=torch.float64, device=self.mean.device)

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

    def precision(self, mean: Tensor, factors: Tensor) -> Tensor:
        """Inverse variance of expression divided by the factors, in units of that without factors; T x G."""
        return factors.square() * self.of_genes(mean) / self.of_genes(mean * factors)

    def of_cells(self, totals: Tensor, mean_total: float) -> Tensor:
        return self.cell_constant + self.cell_slope * totals.clamp(min=FLOOR * mean_total) / mean_total


# ---------------------------------------------------------------------------------------------- principal directions


def _directions(data: _Data, noise: _Noise, factors: Tensor, rank: int, batches: list[int]) -> Tensor:
    """Top eigenvectors of the Gram matrix of noise-weighted expression of some batches; G x rank, orthonormal."""
    spread = 1 / noise.of_cells(data.totals, data.mean_total).sqrt()
    # the factors of some batches make more noise of a gene than those of others: their mean, by cells
    share = data.sizes[batches].double() / data.sizes[batches].sum()
    scale = (share @ (1 / noise.precision(data.mean, factors[batches]))).rsqrt()
    parts = [(data.matrices[b], spread[data.slices[b]], noise.weights / factors[b] * scale) for b in batches]
    return torch.linalg.qr(_top(parts, rank) / scale[:, None]).Q


def _projector(basis: Tensor, precision: Tensor) -> Tensor:
    """Matrix that gives the scores of cells on a basis (G x r) by weighted least squares, G x r.

    Divided by its factor, a gene is the noisier the smaller that is. If all genes counted alike, factors with a spread
    of .6 of the logarithms would cost half of the precision.
    """
    right = precision[:, None] * basis
    return torch.linalg.solve(basis.T @ right, right.T).T


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
    for _ in range(2):
        residual = torch.zeros_like(mean)
        bases = []
        for b, matrix in enumerate(data.matrices):
            own_rank = min(rank, max(1, matrix.shape[0] // 5))
            basis = _directions(data, noise, data.ones(), own_rank, [b])
            bases.append(basis)
            residual += data.squares[b] - _explained(matrix, basis, noise.weights)
        residual = (residual / len(data.totals)).clamp(min=1e-9 * float(residual.mean()) / len(data.totals))
        counted = data.squares.sum(0) > 0
        constant, slope = _two_positive((1 / residual)[counted], (mean / residual)[counted])
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
    """Sum ``2 y z - z^2`` over cells by gene, where z is the projection of y; squares minus this are the residual."""
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
    known = (count >= LEAST_CELLS)[..., None] & (profile > floor)
    known &= known.sum(0) >= 2
    positive = profile.clamp(min=1e-12)
    variance = torch.where(known, (variance / positive.square()).clamp(max=25) + 1e-6, math.inf)
    logs = torch.where(known, positive.log(), 0.0)
    factors, error, spread = two_way(logs, variance)
    missing = torch.tensor(math.nan, dtype=logs.dtype, device=logs.device)
    for _ in range(2):
        # profiles are shares: that of a state falls in all genes where one is much too high
        left = torch.where(known, logs - factors[:, None], missing)
        common = (left - left.nanmean(0)).nanmedian(-1).values.nan_to_num()
        logs = torch.where(known, logs - common[..., None], 0.0)
        factors, error, spread = two_way(logs, variance)
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
    """Shrink factors towards 1 by empirical Bayes; return them, their posterior standard deviation, and the prior's.

    A factor of infinite error, of a gene that is not seen in a batch, becomes 1 with the prior's deviation.
    """
    known = error.isfinite()
    if not known.any():
        return torch.zeros_like(factors), torch.zeros_like(error), 0.0
    square = error[known].square()
    weight = 1 / (square + square.median())
    prior = max(0.0, float((weight * (factors[known].square() - square)).sum() / weight.sum()))
    kept = prior / (prior + error.square())
    factors = torch.where(known, factors * kept, 0.0)
    mean = factors.sum(0) / known.sum(0).clamp(min=1)
    return torch.where(known, factors - mean, 0.0), (prior * (1 - kept)).sqrt(), math.sqrt(prior)


# ------------------------------------------------------------------------------------------ batch effect or composition


@dataclass
class _Composition:
    """How the cells of a batch differ among themselves: what a difference between batches may be without any effect.

    Attributes
    ----------
    directions
        Principal directions of the profiles within batches, orthonormal in weighted gene space, G x m.
    variance
        Of the cells on each direction within batches, noise included, m.
    scale
        Change of the weighted profile of the mean cell by a small log factor, G.
    """

    directions: Tensor
    variance: Tensor
    scale: Tensor

    @property
    def expected(self) -> Tensor:
        """Share of the factors' variance that falls on each direction when genes vary independently, m."""
        return (self.directions * self.scale[:, None]).square().sum(0) / self.scale.square().sum()

    def along(self, logs: Tensor) -> Tensor:
        """Coordinates on the directions, ... x m."""
        return (logs * self.scale) @ self.directions

    def ambiguous(self, logs: Tensor, together: bool = False) -> Tensor:
        """Excess share of each difference (... x G) that composition could make: 0 as by chance, 1 all of it.

        Few cells tell the share of all differences `together` better than that of each.
        """
        along, whole = self.along(logs).square().sum(-1), (logs * self.scale).square().sum(-1)
        if together:
            along, whole = along.sum(), whole.sum()
        by_chance = self.expected.sum()
        return ((along / whole.clamp(min=1e-30) - by_chance) / (1 - by_chance)).clamp(min=0)

    def without(self, logs: Tensor) -> Tensor:
        """Take off all that lies on the directions of composition."""
        return logs - self.along(logs) @ self.directions.T / self.scale

    def spare(self, logs: Tensor, error: Tensor) -> tuple[Tensor, Tensor]:
        """Take off the part that is rather composition's than the batch's, and say how sure that is, both T x G.

        On each direction a difference is the sum of two normal variables. A batch effect has no reason to favour these
        few directions: on each it varies as the others tell. Composition varies by `USUAL_SHIFT` standard deviations of
        the cells, or by what exceeds the batch effect and the error if that is more. What is kept is the mean of the
        batch effect given their sum; its standard deviation is the error that this adds.
        """
        along = self.along(logs)
        rest = logs * self.scale - along @ self.directions.T
        leverage = self.directions.square().sum(1)
        elsewhere = rest.square().sum(-1) / (self.scale.square() * (1 - leverage)).sum()
        lever = self.directions * self.scale[:, None]
        usual = elsewhere[:, None] * lever.square().sum(0)
        excess = along.square() - usual - error.square() @ lever.square()
        composition = torch.maximum(USUAL_SHIFT**2 * self.variance, excess)
        kept = usual / (usual + composition).clamp(min=1e-30)
        doubt = ((usual * (1 - kept)) @ self.directions.square().T).sqrt() / self.scale
        return logs - (along * (1 - kept)) @ self.directions.T / self.scale, doubt


def _composition(
    data: _Data, noise: _Noise, directions: list[Tensor], scores: Tensor, totals: Tensor, rank: int
) -> _Composition:
    """Directions in which the profiles of cells differ within batches, larger cells counting more."""
    parts, all_weights = [], 0.0
    for basis, cells in zip(directions, data.slices, strict=True):
        weight = (totals[cells] / totals.mean()).clamp(min=FLOOR)[:, None]
        profile = scores[cells][:, scores.shape[1] - basis.shape[1] :] / (weight * totals.mean())
        centred = (profile - (weight * profile).sum(0) / weight.sum()) * weight.sqrt()
        values, vectors = torch.linalg.eigh(centred.T @ centred)
        parts.append(basis @ (vectors * values.clamp(min=0).sqrt()))
        all_weights += float(weight.sum())
    left, values, _ = torch.linalg.svd(torch.cat(parts, 1), full_matrices=False)
    real = min(rank, int((values > 1e-6 * values[0]).sum()))
    variance = values[:real].square() / all_weights
    return _Composition(left[:, :real], variance, noise.weights * data.mean / data.mean.sum())


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
    """Find the connected components of a symmetric T x T matrix of links."""
    free, groups = set(range(len(linked))), []
    while free:
        group, front = set(), {min(free)}
        while front:
            group |= front
            front = set(linked[sorted(front)].any(0).nonzero()[:, 0].tolist()) - group
        groups.append(sorted(group))
        free -= group
    return groups


class _Judge:
    """Which pairs of batches may be compared gene by gene; a pair that is refused once stays so.

    Attributes
    ----------
    composition
        What composition could make.
    share, last
        Largest share of the difference of a pair that composition could make, and that of the last round, T x T.
    size
        Spread of the log factors between two batches when that was found, T x T.
    meeting
        Share of cells that meet without what composition could make, in the worse direction, T x T.
    shared
        Number of states with cells of both, T x T.
    meets
        Batches with factors that meet another one without what composition could make, T.
    overall
        Share of the differences of these together that composition could make, in the last round.
    decided
        `last` of the search by which it was decided to leave that part in the data, if there was one.
    left
        Batches in which the part that composition could make was left in the data, T.
    sizes, few
        Cells of each batch, and whether they are fewer than `FEWEST`, T.
    """

    def __init__(self, composition: _Composition, sizes: Tensor) -> None:
        self.composition = composition
        self.sizes = sizes.cpu()
        self.few = self.sizes < FEWEST
        batches = len(sizes)
        self.share = torch.zeros(batches, batches, dtype=torch.float64)
        self.last = torch.zeros_like(self.share)
        self.size, self.meeting = torch.zeros_like(self.share), torch.zeros_like(self.share)
        self.shared = torch.ones_like(self.share)
        self.meets, self.left = torch.zeros(2, batches, dtype=torch.bool)
        self.overall = 0.0
        self.decided: Tensor | None = None

    @property
    def linked(self) -> Tensor:
        return (self.share <= MOST_AMBIGUOUS) & ~(self.few[:, None] | self.few)

    def look(self, logs: Tensor, groups: list[list[int]]) -> None:
        """Take note of the factors found, T x G."""
        for group in groups:
            for a, b in combinations(group, 2):
                difference = logs[a] - logs[b]
                size = float(difference.square().mean().sqrt())
                share = float(self.composition.ambiguous(difference)) if size > LEAST_SPREAD else 0.0
                self.last[a, b] = self.last[b, a] = share
                if share >= self.share[a, b]:
                    self.share[a, b] = self.share[b, a] = share
                    self.size[a, b] = self.size[b, a] = size

    def evidence(self, groups: list[list[int]], logs: Tensor, most: int = 100) -> list[Evidence]:
        """Say what was decided for each pair; of many pairs, those of which composition could make most."""
        group_of = {batch: number for number, group in enumerate(groups) for batch in group}
        pairs = sorted(combinations(group_of, 2), key=lambda pair: (-float(self.share[pair]), pair))[:most]
        found = []
        for a, b in pairs:
            share, size, meeting = (float(table[a, b]) for table in (self.share, self.size, self.meeting))
            if group_of[a] == group_of[b]:
                size = float((logs[a] - logs[b]).square().mean().sqrt())
            small = size <= LEAST_SPREAD
            accepted = not small and group_of[a] == group_of[b]
            few = next((batch for batch in (a, b) if self.few[batch]), None)
            nothing = small and few is None and bool(self.shared[a, b])
            if accepted and share <= MOST_AMBIGUOUS:
                # what was decided of an accepted difference was decided of the last one
                share = float((self.last if self.decided is None else self.decided)[a, b])
            threshold = cells = math.nan
            if few is not None:
                verdict, threshold, cells = Verdict.REFUSED_FEW, FEWEST, float(self.sizes[few])
            elif small and not nothing:
                verdict = Verdict.REFUSED_APART
            elif nothing:
                verdict, threshold = Verdict.NOTHING, LEAST_SPREAD
            elif not accepted:
                verdict = Verdict.REFUSED_COMPOSITION
            elif share > MOST_AMBIGUOUS:
                verdict = Verdict.INDIRECT
            elif self.left[a] or self.left[b]:
                verdict = Verdict.ACCEPTED_PARTLY
            elif meeting >= LEAST_MEETING:
                verdict = Verdict.ACCEPTED_AMBIGUOUS
            else:
                verdict = Verdict.ACCEPTED
            found.append(Evidence((a, b), "factors", verdict, size, math.nan, share, meeting, threshold, cells))
        return found


# ---------------------------------------------------------------------------------------- the batch effect, in rounds


@dataclass
class _Effect:
    """Batch effect and states, in units of the kept data.

    Attributes
    ----------
    offset, offset_error
        Offset before the factors, and its standard error, T x G.
    total, total_error
        Sum of the offset over genes, and its standard error, T.
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
    size
        Totals of the cells after factors and offset, n.
    mean_total
        Mean total after the factors are divided out.
    """

    offset: Tensor
    offset_error: Tensor
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
    size: Tensor
    mean_total: float
    evidence: list[Evidence] = field(default_factory=list)

    @property
    def factors(self) -> Tensor:
        return self.log_factors.exp()

    @cached_property
    def clouds(self) -> Tensor:
        """Number of each state, C, the same of states that are parts of one cloud of cells."""
        return joined(self.profiles, self.state, len(self.centres), self.size)

    @property
    def several(self) -> bool:
        """Whether cells are in several clouds, a few cells apart; if not, states are pieces of a continuum."""
        return int((torch.bincount(self.clouds[self.state]) >= LEAST_CLOUD).sum()) > 1


def _divided(data: _Data, noise: _Noise, factors: Tensor, directions: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Scores of the cells on directions (of each batch) and totals, after expression is divided by the factors."""
    precision = noise.precision(data.mean, factors)
    rights = [
        torch.cat([_projector(basis, h) * (noise.weights / g)[:, None], 1 / g[:, None]], 1)
        for g, h, basis in zip(factors, precision, directions, strict=True)
    ]
    widest = max(right.shape[1] for right in rights)
    # a small batch has fewer directions; 0 leaves lengths as they are
    rights = [torch.nn.functional.pad(right, (widest - right.shape[1], 0)) for right in rights]
    product = data.times(rights)
    return product[:, :-1], product[:, -1]


def _first_states(
    data: _Data,
    noise: _Noise,
    directions: list[Tensor],
    states: int,
    rng: torch.Generator,
    offset: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Cluster the logarithms of profiles, centred by batch, so that a batch effect does not decide the state.

    `offset` (on the directions of each batch, and in total) is taken off before, if it is known.
    """
    share = data.mean / data.mean.sum()
    scores, _ = _divided(data, noise, data.ones(), directions)
    size = data.totals
    if offset is not None:
        scores = scores - offset[0][data.batch]
        size = (size - offset[1][data.batch]).clamp(min=FLOOR * data.mean_total)

    own = []
    for cells, basis in zip(data.slices, directions, strict=True):
        total = scores[cells].sum(0)[-basis.shape[1] :] @ basis.T / noise.weights
        own.append((total / size[cells].sum()).clamp(min=0.05 * share))

    def features(cells: Tensor, b: int) -> Tensor:
        rank = directions[b].shape[1]
        profile = scores[cells][:, scores.shape[1] - rank :] @ directions[b].T / noise.weights
        profile = profile.clamp(min=0) / size[cells, None]
        # by the batch's own mean, lest a strong factor bring a gene to where the logarithm is flat
        return (profile / own[b] + 0.3).log() * (share * noise.weights)

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
    centred = torch.cat(rows)
    # clusters live on few directions, where distances cost less
    axes = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -2 * states :]
    centres = kmeans(centred @ axes, states, rng)
    if chosen is everyone:
        return nearest(centred @ axes, centres)
    found = []
    for b in range(data.batches):
        for part in everyone[data.slices[b]].split(limit // 4 + 1):
            found.append(nearest((features(part, b) - middles[b]) @ axes, centres))
    return torch.cat(found)


def _pooled_profiles(
    data: _Data, factors: Tensor, offset: Tensor, size: Tensor, members: Tensor
) -> tuple[Tensor, Tensor]:
    """Profiles as ratios of sums by batch and state (n x C, 0 or 1), and their variance; T x C x G."""
    profiles, variances = [], []
    for b, (matrix, cells) in enumerate(zip(data.matrices, data.slices, strict=True)):
        member = members[cells].double()
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


class _View(NamedTuple):
    """Cells after the factors are divided out: totals, states, and scores on the directions of each batch."""

    data: _Data
    totals: Tensor
    state: Tensor
    scores: Tensor
    directions: list[Tensor]

    def separate(self, states: int) -> Tensor:
        """State of each cell, numbered apart in each batch, n."""
        return self.data.batch * states + self.state


class _Rounds:
    """The state of the search: factors and offset so far, and the cells seen without them.

    `take` gives the data of some of the cells, whose places come sorted by batch. Batches that are `clean` are known to
    have no offset.
    """

    def __init__(
        self,
        data: _Data,
        take: Callable[[Tensor], _Data],
        settings: Settings,
        noise: _Noise,
        own: list[Tensor],
        seed: int,
        tell: Callable[[str], None],
        clean: tuple[int, ...] = (),
    ) -> None:
        self.data, self.take, self.settings, self.noise, self.tell = data, take, settings, noise, tell
        self.clean = torch.zeros(data.batches, dtype=torch.bool, device=data.mean.device)
        self.clean[list(clean)] = True
        # what is drawn to judge the batch effect must not change the states: refused, it leaves the fit untouched
        self.rng = torch.Generator().manual_seed(seed)
        self.chance = torch.Generator().manual_seed(seed + 1)
        self.states = settings.metagenes
        self.offset_scale = float((data.mean * noise.weights).square().mean())
        self.state = _first_states(data, noise, own, self.states, self.rng)
        self.log_factors = torch.zeros_like(data.ones())
        self.log_error, self.doubt = torch.zeros_like(self.log_factors), torch.zeros_like(self.log_factors)
        self.offset, self.offset_error = torch.zeros_like(self.log_factors), torch.zeros_like(self.log_factors)
        self.total, self.total_error = self.log_factors[:, 0].clone(), self.log_factors[:, 0].clone()
        self.directions = own
        self.scores, self.totals = _divided(data, noise, data.ones(), own)
        self.judge = _Judge(self._composition(), data.sizes)
        self.groups = _groups(self.judge.linked)
        self.evidence: list[Evidence] = []
        if settings.offset == "rays":
            self._start_without_offset(own)

    def _start_without_offset(self, own: list[Tensor]) -> None:
        """Find the first states anew where an offset is certain, whatever the states of other batches.

        An offset makes the cells of a batch alike. Beside cells without one they are all near the centre, and where no
        state has cells of both there would be nothing to tell factors by.
        """
        free = self._free_rays(self.whole).fit()
        certain = self._certain(free) & ~self.clean
        if certain.any() and self.data.batches > 1:
            offset = free.offset * certain[:, None], free.total * certain
            self.state = _first_states(self.data, self.noise, own, self.states, self.rng, offset)

    @property
    def whole(self) -> _View:
        return _View(self.data, self.totals, self.state, self.scores, self.directions)

    def _rays(self, view: _View) -> RayFit:
        return self._ray_fit(view, view.state, self.states)

    def _free_rays(self, view: _View) -> RayFit:
        """Rays whose states are those of one batch each."""
        return self._ray_fit(view, view.separate(self.states), self.data.batches * self.states)

    def _ray_fit(self, view: _View, state: Tensor, states: int) -> RayFit:
        return RayFit(view.scores, view.totals, view.data.batch, state, states, len(self.data.mean), self.offset_scale)

    def _certain(self, free: Rays) -> Tensor:
        return (free.total > CERTAIN * free.error) & (free.error < MOST_ERROR * self.mean_total)

    @property
    def mean_total(self) -> float:
        return float(self.totals.mean())

    @property
    def _sought(self) -> str:
        return "batch effect" if self.settings.factors or self.settings.offset != "none" else "states"

    def run(self) -> _Effect:
        if self.settings.offset == "annealed":
            return self._shrunken()
        for number in range(self.settings.rounds):
            self.tell(f"{self._sought}, round {number + 1} of {self.settings.rounds}")
            if self.settings.factors and self.data.batches > 1:
                self._find_factors(*self._profiles_by_batch(self.whole))
            factors = self.log_factors.exp()
            batches = list(range(self.data.batches))
            self.directions = [_directions(self.data, self.noise, factors, self.states, batches)] * len(batches)
            self.scores, self.totals = _divided(self.data, self.noise, factors, self.directions)
            self.judge.composition = self._composition()
            on_directions = self.scores.new_zeros(self.data.batches, self.scores.shape[1])
            if self.settings.offset == "rays":
                on_directions = self._find_offset(last=number == self.settings.rounds - 1)
            profiles = self._without_offset(self.scores, self.totals, on_directions)
            centres = kmeans(profiles, self.states, self.rng)
            self.state = nearest(profiles, centres)
        if self.log_factors.any():
            self._calibrate_factors()
        of_factors = self.judge.evidence(self.groups, self.log_factors) if self.settings.factors else []
        return self._effect(centres, on_directions, profiles, self.evidence + of_factors)

    def _shrunken(self) -> _Effect:
        """Find the offset by a prior on the amounts, then the states."""
        data = self.data
        self.tell("batch effect (annealed)")
        beta, metagenes = annealed_offset(data.matrices, self.noise.weights, self._start())
        self.offset = beta @ metagenes
        self.total = self.offset.sum(1)
        # a prior gives no errors
        self.offset_error = torch.full_like(self.offset, math.nan)
        self.total_error = torch.full_like(self.total, math.nan)
        self.directions = [_directions(data, self.noise, data.ones(), self.states, list(range(data.batches)))]
        self.directions *= data.batches
        self.scores, self.totals = _divided(data, self.noise, data.ones(), self.directions)
        on_directions = (self.offset * self.noise.weights) @ self.directions[0]
        profiles = self._without_offset(self.scores, self.totals, on_directions)
        centres = kmeans(profiles, self.states, self.rng)
        self.state = nearest(profiles, centres)
        evidence = [
            Evidence((b,), "offset", Verdict.ASSUMED_ANNEALED, float(self.total[b]) / self.mean_total)
            for b in range(data.batches)
        ]
        return self._effect(centres, on_directions, profiles, evidence)

    def _start(self) -> Tensor:
        """Mean expression of the first states, K x G, rows sum to 1."""
        member = torch.nn.functional.one_hot(self.state, self.states).double()
        data = self.data
        parts = zip(data.matrices, data.slices, strict=True)
        sums = sum(matrix.transposed_times(member[cells]).T for matrix, cells in parts)
        # a state without cells starts from the mean of all
        sums = torch.where(sums.sum(1, keepdim=True) > 0, sums, data.mean) + 1e-9 * data.mean
        return sums / sums.sum(1, keepdim=True)

    def _effect(self, centres: Tensor, on_directions: Tensor, profiles: Tensor, evidence: list[Evidence]) -> _Effect:
        return _Effect(
            self.offset.clamp(min=0),
            _where_any(self.offset, self.offset_error),
            self.total,
            torch.where(self.offset.any(1), self.total_error, math.nan),
            self.log_factors,
            _where_any(self.log_factors, self.log_error),
            self.state,
            centres,
            self.directions[0],
            on_directions,
            self.scores,
            profiles,
            self._size(self.totals),
            self.mean_total,
            evidence,
        )

    def _composition(self) -> _Composition:
        return _composition(self.data, self.noise, self.directions, self.scores, self.totals, self.states - 1)

    def _without_offset(self, scores: Tensor, totals: Tensor, on_directions: Tensor) -> Tensor:
        """Profiles of the cells: offset taken off, divided by what is left of their size."""
        return (scores - on_directions[self.data.batch]) / self._size(totals)[:, None]

    def _size(self, totals: Tensor) -> Tensor:
        return (totals - self.total[self.data.batch]).clamp(min=FLOOR * float(totals.mean()))

    def _offset_of_half(self, half: _View, start: Tensor) -> tuple[Tensor, Tensor]:
        """Offset in weighted gene space (T x G) and its total (T), from half of the cells."""
        offset, total = self._rays(half).meet(start)
        return offset @ half.directions[0].T, total

    def _profiles_by_batch(self, view: _View) -> tuple[Tensor, Tensor, Tensor]:
        """Profile of each state in each batch, its variance (T x C x G), and the number of cells (T x C)."""
        batches, states, mean_total = self.data.batches, self.states, self.mean_total
        count = torch.bincount(view.separate(states), minlength=batches * states).view(batches, states)
        if self.settings.offset == "rays":
            problem = self._free_rays(view)
            free = problem.fit()
            if self._certain(free).any():
                width = view.scores.shape[1]
                padded = [torch.nn.functional.pad(d, (width - d.shape[1], 0)) for d in view.directions]
                profile = torch.einsum("bcr,bgr->bcg", free.profile.view(batches, states, -1), torch.stack(padded))
                variance = problem.profile_variance(free, padded).view(batches, states, -1)
                return profile / self.noise.weights, variance / self.noise.weights.square(), count
        size = (view.totals - self.offset.sum(1)[view.data.batch]).clamp(min=FLOOR * mean_total)
        member = torch.nn.functional.one_hot(view.state, states)
        return *_pooled_profiles(view.data, self.log_factors.exp(), self.offset, size, member), count

    def _find_factors(self, profile: Tensor, variance: Tensor, count: Tensor) -> None:
        data, judge = self.data, self.judge
        present = (count >= LEAST_CELLS).double()
        judge.shared = present @ present.T
        floor = 0.02 * data.mean / data.mean.sum()
        while True:
            found, error = _factors_of_groups(self.log_factors, profile, variance, count, floor, self.groups)
            judge.look(found, self.groups)
            smaller = _groups(judge.linked)
            if smaller == self.groups:
                break
            self.groups = smaller
        # composition can be what tells batches apart only if they meet without it
        factors = judge.composition.without(found).exp()
        directions = _directions(data, self.noise, factors, self.states, list(range(data.batches)))
        scores, totals = _divided(data, self.noise, factors, [directions] * data.batches)
        on_directions = (self.offset * self.noise.weights) @ directions
        meeting = _meeting(self._without_offset(scores, totals, on_directions), data.slices, self.chance)
        judge.meeting = torch.minimum(meeting, meeting.T)
        judge.meets = (judge.meeting.max(1).values >= LEAST_MEETING).to(found.device) & found.any(1)
        judge.overall = float(judge.composition.ambiguous(found[judge.meets], together=True))
        judge.left = judge.meets & (self.settings.ambiguous == "leave")
        spared, doubt = judge.composition.spare(found, error)
        self.log_factors = torch.where(judge.left[:, None], spared, found)
        self.log_error = error
        self.doubt = doubt * judge.left[:, None]

    def _across_genes(self) -> Tensor:
        """Change of the total offset when no gene chooses the states of the cells that its rays are drawn through, T.

        A cell goes to a state by the noise of its genes, too, and the smaller it is, the more by noise: the cells of a
        state seem to lie on a line that does not point to the offset. With states by half of the genes, the rays of the
        other half are free of that. Counts with a dispersion of .1 in 100 genes made offsets a quarter too small.
        """
        view = self._sample()
        data, basis, factors = view.data, view.directions[0], self.log_factors.exp()
        precision = self.noise.precision(self.data.mean, factors)
        rays = self._rays(view)
        on_directions, total = rays.meet(torch.zeros_like(self.total))
        size = (view.totals - total[data.batch]).clamp(min=FLOOR * self.mean_total)
        profiles = (view.scores - on_directions[data.batch]) / size[:, None]
        centres = _means_by_state(profiles, view.state, self.states)[view.state.unique()]
        of_total = (basis / self.noise.weights[:, None]).sum(0)
        changes = []
        for _ in range(SPLITS):
            half = torch.randperm(len(basis), generator=self.chance).to(basis.device) < len(basis) // 2
            change = -total
            for chosen, other in ((half, ~half), (~half, half)):
                across = torch.zeros_like(basis)
                across[other] = torch.linalg.qr(basis[other]).Q
                rights = [
                    torch.cat(
                        [
                            _projector(basis, h * chosen) * (self.noise.weights / g)[:, None],
                            _projector(across, h * other) * (self.noise.weights / g)[:, None],
                            (other / g)[:, None],
                        ],
                        1,
                    )
                    for g, h in zip(factors, precision, strict=True)
                ]
                product = data.times(rights)
                scores, of_others, totals_of_others = product.split([basis.shape[1], basis.shape[1], 1], dim=1)
                size = (scores @ of_total - total[data.batch]).clamp(min=FLOOR * self.mean_total)
                state = nearest((scores - on_directions[data.batch]) / size[:, None], centres)
                scale = float((self.data.mean * self.noise.weights)[other].square().mean())
                problem = RayFit(
                    of_others, totals_of_others[:, 0], data.batch, state, len(centres), int(other.sum()), scale
                )
                change = change + problem.meet(total / 2)[1]
            changes.append(change)
        return torch.stack(changes).mean(0)

    def _sample(self) -> _View:
        """Draw some of the cells of large batches; view all cells where none is large."""
        if int(self.data.sizes.max()) <= HALVED:
            return self.whole
        chosen = [
            (torch.randperm(cells.stop - cells.start, generator=self.chance)[:HALVED] + cells.start).sort().values
            for cells in self.data.slices
        ]
        places = torch.cat(chosen).to(self.state.device)
        data = replace(self.take(places), mean=self.data.mean)
        return _View(data, self.totals[places], self.state[places], self.scores[places], self.directions)

    def _find_offset(self, last: bool) -> Tensor:
        """Find the offset of each batch, and take it where it is certain; return it on the directions, T x r.

        Before the last round it is judged by less, as it is not kept.
        """
        weights, basis = self.noise.weights, self.directions[0]
        rays = self._rays(self.whole).fit()
        total_error = rays.error
        covariance = rays.covariance
        if self.log_factors.any():
            # with factors as given an offset looks more certain than it is: both come from the same rays
            covariance = self._free_rays(self.whole).fit(start=rays.total).covariance
        variance = quadratic(basis, covariance).clamp(min=0)
        if (rays.total > LEAST_ERRORS * total_error).any():
            # directions are found anew in each half, so that their error is in the difference, too
            totals, genes = [], []
            # halves are of a sample where batches are large, and their variance falls with the number of cells
            drawn = (HALVED / self.data.sizes).clamp(max=1)
            for halves in self._halves(3 if last else 1):
                (one, one_total), (other, other_total) = (self._offset_of_half(half, rays.total) for half in halves)
                totals.append(drawn * (one_total - other_total).square() / 4)
                genes.append(drawn * (one - other).square().mean(1) / 4)
            total_error = torch.maximum(total_error, torch.stack(totals).mean(0).sqrt())
            variance = variance * (torch.stack(genes).mean(0) / variance.mean(1)).clamp(min=1)[:, None]
        certain = by_size = total_error < MOST_ERROR * self.mean_total
        if last and certain.any() and len(basis) > 2 * basis.shape[1]:
            # what hangs on the genes that choose the states is not known better than that
            change = self._across_genes()
            chance = total_error.square()
            total_error = (chance + change.square()).sqrt()
            variance = variance * (1 + change.square() / chance)[:, None]
            certain = total_error < MOST_ERROR * self.mean_total
        sure = (rays.total > CERTAIN * total_error) & certain & ~self.clean
        others_sure = int(sure.sum()) - sure.int()
        least = torch.where(2 * others_sure > self.data.batches - 1, LEAST_ERRORS_BESIDE, LEAST_ERRORS)
        accepted = (rays.total > least * total_error) & certain & ~self.clean
        self.total, self.total_error = rays.total * accepted, total_error
        on_directions = rays.offset * accepted[:, None]
        self.offset = on_directions @ basis.T / weights
        self.offset_error = variance.sqrt() / weights * accepted[:, None]
        self.evidence = [
            _offset_evidence(
                b,
                *(float(x) / self.mean_total for x in (rays.total[b], total_error[b])),
                bool(accepted[b]),
                float(least[b]),
                bool(by_size[b]),
                not by_size.any(),
            )
            for b in range(self.data.batches)
        ]
        return on_directions

    def _halves(self, repeats: int = 3) -> Iterator[tuple[_View, _View]]:
        """Draw random halves of each batch, with directions of their own."""
        factors, batches = self.log_factors.exp(), list(range(self.data.batches))
        for _ in range(repeats):
            rows: tuple[list[Tensor], list[Tensor]] = ([], [])
            for cells in self.data.slices:
                order = torch.randperm(cells.stop - cells.start, generator=self.chance)[:HALVED] + cells.start
                middle = (len(order) + 1) // 2
                rows[0].append(order[:middle].sort().values)
                rows[1].append(order[middle:].sort().values)
            pair = []
            for mine in rows:
                places = torch.cat(mine).to(self.state.device)
                data = replace(self.take(places), mean=self.data.mean)
                directions = [_directions(data, self.noise, factors, self.states, batches)] * len(batches)
                scores, totals = _divided(data, self.noise, factors, directions)
                pair.append(_View(data, totals, self.state[places], scores, directions))
            yield tuple(pair)

    def _calibrate_factors(self) -> None:
        """Scale the errors of the factors to what random halves of the cells, fitted apart, differ by."""
        found, expected = torch.zeros_like(self.total), torch.zeros_like(self.total)
        for halves in self._halves():
            fits = [self._factors_of_half(half) for half in halves]
            known = fits[0][1].isfinite() & fits[1][1].isfinite()
            difference = torch.where(known, fits[0][0] - fits[1][0], 0.0)
            difference = difference - difference.median(1, keepdim=True).values
            found += difference.square().median(1).values
            expected += (fits[0][1].square() + fits[1][1].square()).median(1).values
        # of a normal variable, the median square is .455 of the mean square
        ratio = found / (0.455 * expected.clamp(min=1e-12))
        # halves of the same batches agree on what may be composition's
        self.log_error = torch.hypot(self.log_error * ratio.clamp(0.1, 100).sqrt()[:, None], self.doubt)
        if self.offset.any():
            self.log_error = torch.hypot(self.log_error, self._error_by_offset())

    def _error_by_offset(self) -> Tensor:
        """Carry the errors of the offset over to the log factors, T x G: what one has too much, the other lacks."""
        data, share = self.data, 1 / self.data.batches
        ones = torch.ones(len(self.totals), 1, dtype=torch.float64, device=self.totals.device)
        parts = zip(data.matrices, data.slices, strict=True)
        mean = torch.stack([matrix.transposed_times(ones[cells])[:, 0] for matrix, cells in parts])
        mean = mean / data.sizes[:, None] / self.log_factors.exp()
        signal = (mean - self.offset).clamp(min=0.1 * mean)
        variance = (self.offset_error / signal).square()
        # less the mean over batches, as the logarithms are
        return ((1 - 2 * share) * variance + share**2 * variance.sum(0)).sqrt()

    def _factors_of_half(self, half: _View) -> tuple[Tensor, Tensor]:
        """Increments of the log factors in half of the cells, and their errors, T x G."""
        profile, variance, count = self._profiles_by_batch(half)
        floor = 0.02 * self.data.mean / self.data.mean.sum()
        found, errors = torch.zeros_like(self.log_factors), torch.zeros_like(self.log_factors)
        for group in self.groups:
            if len(group) > 1:
                found[group], errors[group], _ = _gene_factors(profile[group], variance[group], count[group], floor)
        return found, errors


def _batch_effect(settings: Settings, search: Callable[[Settings], _Rounds]) -> _Effect:
    """Search for the batch effect as the settings want it.

    Of what is left in the data, later rounds see ever less: states are those of cells that differ by it. So ``auto``
    decides on what a search finds that has removed all, and searches anew if it is to be left.
    """
    if settings.ambiguous != "auto":
        return search(settings).run()
    first = search(replace(settings, ambiguous="remove"))
    effect, judge = first.run(), first.judge
    if not judge.meets.any() or judge.overall > SMALL_AMBIGUITY:
        return effect
    first.tell("composition could make a small part of the batch effect: that part is left, the rest sought anew")
    # what is held of the cells is not needed twice
    del first, effect
    second = search(replace(settings, ambiguous="leave"))
    second.judge.decided = judge.last
    return second.run()


def _where_any(effect: Tensor, error: Tensor) -> Tensor:
    """Keep the errors of the batches that have an effect; where none was taken, its error is not known."""
    return torch.where(effect.any(1, keepdim=True), error, math.nan)


def _offset_evidence(
    batch: int, size: float, error: float, accepted: bool, least: float, size_tells: bool, no_size_tells: bool
) -> Evidence:
    if error >= MOST_ERROR and size_tells:
        verdict = Verdict.REFUSED_GENES
    elif error >= MOST_ERROR:
        verdict = Verdict.REFUSED_SE_ALL if no_size_tells else Verdict.REFUSED_SE
    elif accepted:
        verdict = Verdict.ACCEPTED if size / max(error, 1e-9) >= LEAST_ERRORS else Verdict.ACCEPTED_BY_OTHERS
    else:
        verdict = Verdict.NOTHING
    return Evidence((batch,), "offset", verdict, size, error, threshold=least)


# ------------------------------------------------------------------------------------ non-negative matrix factorisation


def _residual_weights(data: _Data, noise: _Noise, effect: _Effect) -> Tensor:
    """Inverse noise standard deviations by batch and gene, shrunk towards the noise model; T x G."""
    rows = []
    precision = noise.precision(data.mean, effect.factors)
    for b, (matrix, cells) in enumerate(zip(data.matrices, data.slices, strict=True)):
        n = matrix.shape[0]
        g = effect.factors[b]
        scores = effect.scores[cells]
        fitted = effect.directions * (g / noise.weights)[:, None]
        cross = (matrix.transposed_times(scores) * fitted).sum(1)
        squared = ((fitted @ (scores.T @ scores)) * fitted).sum(1)
        # a gene that a direction follows leaves less than its noise
        left = (1 - (effect.directions * _projector(effect.directions, precision[b])).sum(1)).clamp(min=1e-3)
        residual = (data.squares[b] - 2 * cross + squared).clamp(min=0) / (n * left)
        model = noise.of_genes(data.mean * g)
        model = model * (residual / model).median()
        shrunk = (n * left * residual.clamp(min=1e-3 * model).log() + 20 * model.log()) / (n * left + 20)
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
    means = _means_by_state(effect.profiles, effect.state, metagenes) @ effect.directions.T / noise.weights
    found = means[count.argsort(descending=True, stable=True)].clamp(min=1e-10)
    return found / found.sum(1, keepdim=True)


def _state_means(amounts: Tensor, state: Tensor, states: int) -> Tensor:
    """Mean share of each metagene in the cells of each state, C x K."""
    return _means_by_state((amounts / amounts.sum(1, keepdim=True).clamp(min=1e-6)).double(), state, states)


def _means_by_state(values: Tensor, state: Tensor, states: int) -> Tensor:
    """Mean over the cells of each state, 0 of one without cells; C x k of n x k."""
    sums = values.new_zeros(states, values.shape[1]).index_add_(0, state, values)
    return sums / torch.bincount(state, minlength=states).clamp(min=1)[:, None]


def _penalty(shares: Tensor) -> Tensor:
    """Weight of the sparse prior by share of the metagene in the state: 1 / (1 + eps) at share 0, none at share 1."""
    return (_EPS / (shares + _EPS) - _EPS / (1 + _EPS)).clamp(min=0)


def _factorise(data: _Data, settings: Settings, noise: _Noise, effect: _Effect) -> _Factorisation:
    """Sparse non-negative matrix factorisation with offset and factors fixed, by coordinate descent.

    Each iteration goes on from where the last step, made longer, would have led, and goes back to its end where that
    is worse (Ang & Gillis, Neural Comput 2019). On the thesis's simulation 20 iterations reach what 40 to 45 do
    without that. The sparse prior has weights by the shares that states have (Candes, Wakin & Boyd, J Fourier Anal
    Appl 2008): what is lower, is so by the weights before, and its sum with new weights need not fall.
    """
    K, batches = settings.metagenes, data.batches
    g = effect.factors
    offset = effect.offset * g
    q = _residual_weights(data, noise, effect)
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
    # halves of one type would each draw their cells to a metagene of their own
    alike = effect.clouds if settings.sparsity and effect.several else torch.arange(K, device=g.device)
    values = len(data.totals) * len(data.mean)

    def problem(b: int) -> tuple[Tensor, Tensor, Tensor]:
        """Weighted metagenes of a batch, their Gram matrix, and their inner products with its cells."""
        weighted = metagenes * (g[b] * squared[b])
        target = data.matrices[b].times(weighted.T) - (weighted @ offset[b]).float()
        return weighted, (weighted * g[b]) @ metagenes.T, target

    def look(before: Tensor) -> tuple[list[tuple[Tensor, Tensor, Tensor]], dict[str, float], Tensor, float]:
        """Problems of all batches, terms of the objective, shares of the states, and the objective by those `before`.

        The variance is renewed, too.
        """
        problems, shares = [problem(b) for b in range(batches)], _state_means(amounts, alike[effect.state], K)[alike]
        penalties, cost, by_before = (_penalty(shares), _penalty(before)), {"data": 0.0, "sparsity": 0.0}, 0.0
        for b, (_, gram, target) in enumerate(problems):
            cells = data.slices[b]
            mine, noise_of_cell = amounts[cells], spread[cells, None]
            fitted = 2 * (mine * target).sum(1) - ((mine @ gram.float()) * mine).sum(1)
            residual = ((norms[b] - fitted).clamp(min=0) / noise_of_cell[:, 0].square()).double().sum()
            variance[b] = residual / (count[b] * len(g[b]))
            cost["data"] += float(count[b] * len(g[b]) * variance[b].log() / 2)
            # amounts of each state in all, as the prior weighs them
            state = effect.state[cells]
            sums = torch.zeros(K, K, dtype=torch.float64, device=g.device)
            sums.index_add_(0, state, (mine / noise_of_cell).double())
            strength = settings.sparsity * variance[b].sqrt() * gram.diagonal().sqrt()
            cost["sparsity"], by_before = (
                term + float((strength * penalty * sums).sum() / variance[b])
                for term, penalty in zip((cost["sparsity"], by_before), penalties, strict=True)
            )
            target -= (strength * penalties[0]).float()[state] * noise_of_cell
        terms = {term: found / values for term, found in cost.items()}
        return problems, terms, shares, terms["data"] + by_before / values

    def renew_amounts(problems: list[tuple[Tensor, Tensor, Tensor]], sweeps: int) -> None:
        for b, (weighted, gram, target) in enumerate(problems):
            sweep_amounts(amounts[data.slices[b]], target, gram.float(), sweeps)
            if offset[b].any():
                # its own row of the model, which weighs little
                sweep_amounts(beta[b : b + 1], (weighted @ offset[b])[None], gram, 2)

    def renew_metagenes() -> None:
        design = torch.empty(batches, K, K, dtype=torch.float64, device=g.device)
        linear = torch.zeros_like(metagenes)
        for b, (matrix, cells) in enumerate(zip(data.matrices, data.slices, strict=True)):
            weight = amounts[cells] / spread[cells, None].square()
            pseudo = 0.1 * count[b]
            sums = matrix.transposed_times(weight).T - weight.double().sum(0)[:, None] * offset[b]
            inner = (weight.double().T @ amounts[cells].double()) + pseudo * beta[b, :, None] * beta[b]
            floor = max(float(variance[b]), 1e-3 * float(variance.max()))
            design[b] = inner / floor
            linear += (sums + pseudo * beta[b, :, None] * offset[b]) * (g[b] * squared[b]) / floor
        sweep_metagenes(metagenes, design, squared * g.square(), linear, 6)
        total = metagenes.sum(1).clamp(min=1e-12)
        metagenes.div_(total[:, None])
        amounts.mul_(total.float())
        beta.mul_(total)

    renew_amounts([problem(b) for b in range(batches)], 30)
    history: dict[str, list[float]] = {"data": [], "sparsity": []}
    shares = torch.ones(K, K, dtype=torch.float64, device=g.device)
    ahead, end, least = _AHEAD, (metagenes, amounts), math.inf
    for iteration in range(settings.iterations):
        last = shares
        problems, cost, shares, by_last = look(last)
        if by_last > least and iteration > 1:
            metagenes, amounts = (each.clone() for each in end)
            ahead /= 2
            problems, cost, shares, _ = look(last)
        least = sum(cost.values())
        for term, found in cost.items():
            history[term].append(found)
        renew_amounts(problems, 6)
        renew_metagenes()
        before, end = end, (metagenes.clone(), amounts.clone())
        if 0 < iteration < settings.iterations - 1:
            for each, old in zip((metagenes, amounts), before, strict=True):
                each.add_(each - old, alpha=ahead).clamp_(min=0)
            total = metagenes.sum(1).clamp(min=1e-12)
            metagenes.div_(total[:, None])
            amounts.mul_(total.float())
            ahead = min(1.05 * ahead, 1.0)
    problems, _, shares, _ = look(shares)
    for b in offset.any(1).nonzero()[:, 0].tolist():
        weighted, gram, _ = problems[b]
        beta[b] = solve_amounts((weighted @ offset[b])[None], gram)[0]
    return _Factorisation(amounts, beta, metagenes, q, variance, shares, history)


# ------------------------------------------------------------------------------------------ cells, given all the rest


@dataclass
class _Decoder:
    """All that gives the amounts of a cell of a known batch, in the unit of the fit.

    Attributes
    ----------
    metagenes, factors, offset, weights, variance
        K x G; T x G before noise; T x G as added to expression; T x G; T.
    shares
        Mean share of each metagene in each state, C x K.
    directions, on_directions, total, centres
        G x r (expression), T x r, T, C x r: what finds the state of a cell.
    precision
        Inverse variance of expression divided by the factors, T x G.
    cell_constant, cell_slope, cell_mean
        Noise of a cell by its total, and its mean over the cells of the fit.
    expected, spread
        What the shares of a cell are drawn to by its batch and state, T x C x K, and their variance about that, C x K.
    mean_total, mean_divided, sparsity, pooling, scale
        Mean total, the same after factors are divided out, strength of the sparse prior, weight of what is expected (0
        for none), units per unit of the input.
    """

    metagenes: Tensor
    factors: Tensor
    offset: Tensor
    weights: Tensor
    variance: Tensor
    shares: Tensor
    directions: Tensor
    on_directions: Tensor
    total: Tensor
    centres: Tensor
    precision: Tensor
    expected: Tensor
    spread: Tensor
    cell_constant: float
    cell_slope: float
    cell_mean: float
    mean_total: float
    mean_divided: float
    sparsity: float
    pooling: float
    scale: float

    def cell_variance(self, totals: Tensor, b: int) -> Tensor:
        """Variance of the weighted noise of each cell, n."""
        relative = self.cell_constant + self.cell_slope * totals.clamp(min=FLOOR * self.mean_total) / self.mean_total
        return self.variance[b] * relative / self.cell_mean

    def residual_variance(self, matrix: CellMatrix, totals: Tensor, amounts: Tensor, b: int) -> Tensor:
        """Mean square of what the amounts leave of the weighted expression, relative to the noise of the cells."""
        squared, offset = self.weights[b].square(), self.offset[b]
        right = (squared * offset)[:, None]
        norms = (matrix.squares_times(squared[:, None]) - 2 * matrix.times(right)).double()[:, 0]
        norms += (squared * offset.square()).sum()
        weighted = self.metagenes * (self.factors[b] * squared)
        target = (matrix.times(weighted.T) - (weighted @ offset).float()).double()
        x = amounts.double()
        residual = norms - 2 * (x * target).sum(1) + ((x @ self.design(b)) * x).sum(1)
        relative = self.cell_variance(totals, b) / self.variance[b]
        return (residual.clamp(min=0) / relative).sum() / (len(x) * len(offset))

    def states(self, matrix: CellMatrix, b: int) -> Tensor:
        """Find the state of each cell, n."""
        right = torch.cat([_projector(self.directions, self.precision[b]), torch.ones_like(self.directions[:, :1])], 1)
        right = right / self.factors[b, :, None]
        product = matrix.times(right).double()
        size = (product[:, -1] - self.total[b]).clamp(min=FLOOR * self.mean_divided)
        return nearest((product[:, :-1] - self.on_directions[b]) / size[:, None], self.centres)

    def design(self, b: int) -> Tensor:
        """Gram matrix of the weighted metagenes of a batch, K x K."""
        weighted = self.metagenes * (self.factors[b] * self.weights[b])
        return weighted @ weighted.T

    def linear(self, matrix: CellMatrix, totals: Tensor, state: Tensor, b: int) -> Tensor:
        """Inner products of cells with the weighted metagenes, less the sparse prior, n x K."""
        weighted = self.metagenes * (self.factors[b] * self.weights[b].square())
        target = matrix.times(weighted.T) - (weighted @ self.offset[b]).float()
        pull = self.sparsity * self.design(b).diagonal().sqrt() * _penalty(self.shares)
        return target - (pull[state] * self.cell_variance(totals, b).sqrt()[:, None]).float()

    def amounts(self, matrix: CellMatrix, totals: Tensor, b: int, pooled: bool = True) -> Tensor:
        """Find the amounts of each cell, n x K, each by itself or with what its state makes one expect."""
        state, design = self.states(matrix, b), self.design(b)
        linear = self.linear(matrix, totals, state, b)
        found = solve_amounts(linear, design)
        if not (pooled and self.pooling):
            return found.float()
        problem = cell_problem.Problem(
            found,
            linear.double(),
            design[None],
            torch.zeros_like(state),
            self.cell_variance(totals, b),
            *cell_problem.no_edges(state.device),
            self.expected[b, state],
            self.spread[state],
        )
        return draw_to_expected(problem, weight=self.pooling).X.float()


# ---------------------------------------------------------------------------------------------------------------- fit


@dataclass
class _Reference:
    """Cells of the fit that new batches are compared with, in its unit.

    Attributes
    ----------
    amounts, batch
        n x K, n.
    """

    amounts: Tensor
    batch: Tensor


_PUBLIC = (
    "metagenes",
    "offset",
    "offset_error",
    "total_offset",
    "total_offset_error",
    "factors",
    "log_error",
    "beta",
    "sigma",
)
"""Arrays of a BatchBlend."""


@dataclass
class BatchBlend:
    """A fitted model; T batches, K metagenes, G genes, expression in the units of the input.

    Attributes
    ----------
    metagenes
        K x G, rows sum to 1.
    offset, offset_error
        What is added to the expression of every cell of a batch, and its standard error (NaN where no offset was
        taken), T x G.
    total_offset, total_offset_error
        Sum of the offset over the genes before factors, and its standard error (NaN where no offset was taken), T.
    factors, log_error
        What the expression of each gene is multiplied by (T x G, mean logarithm 0 over batches), and the standard
        deviation of its logarithm (NaN where no factors were taken).
    beta
        Loadings of the offset, before the factors, on the metagenes, T x K.
    sigma
        Standard deviation of the noise, relative to the weights of the fit, T.
    evidence
        Why steps of the correction were taken or left.
    """

    metagenes: np.ndarray
    offset: np.ndarray
    offset_error: np.ndarray
    total_offset: np.ndarray
    total_offset_error: np.ndarray
    factors: np.ndarray
    log_error: np.ndarray
    beta: np.ndarray
    sigma: np.ndarray
    evidence: list[Evidence]
    decoder: _Decoder
    reference: _Reference

    def weights(self) -> dict[str, np.ndarray]:
        """Return all that `from_weights` needs but the evidence, as arrays by name."""
        found = {name: getattr(self, name) for name in _PUBLIC}
        for prefix, part in (("decoder", self.decoder), ("reference", self.reference)):
            for each in fields(part):
                value = getattr(part, each.name)
                found[f"{prefix}.{each.name}"] = value.cpu().numpy() if isinstance(value, Tensor) else np.array(value)
        return {name: np.ascontiguousarray(value) for name, value in found.items()}

    @classmethod
    def from_weights(
        cls, weights: dict[str, np.ndarray], evidence: list[Evidence] | None = None, device: str = "cpu"
    ) -> "BatchBlend":
        """Make the model that had these `weights`.

        Parameters
        ----------
        weights
            What `weights` returned.
        evidence
            That of the model; it is kept, not used.
        device
            Where to compute.

        Raises
        ------
        ValueError
            If a weight is missing, or one too many.
        """
        kinds = {"decoder": _Decoder, "reference": _Reference}
        names = {*_PUBLIC, *(f"{part}.{each.name}" for part, kind in kinds.items() for each in fields(kind))}
        if names != set(weights):
            wrong = ", ".join(sorted(names ^ set(weights)))
            raise ValueError(f"weights {wrong} are missing or unknown: another version's model has to be fitted anew")
        parts = {}
        for part, kind in kinds.items():
            values = {each: weights[f"{part}.{each.name}"] for each in fields(kind)}
            # a copy, as what was read from a file may not be written to
            parts[part] = kind(
                **{
                    each.name: float(value.item()) if each.type is float else torch.tensor(value, device=device)
                    for each, value in values.items()
                }
            )
        public = {name: np.array(weights[name]) for name in _PUBLIC}
        return cls(**public, evidence=list(evidence or []), **parts)

    def with_batch(
        self,
        expression: Any,
        seed: int = 0,
        settings: Settings | None = None,
        tell: Callable[[str], None] = lambda text: None,
    ) -> "BatchBlend":
        """Add a batch: find its effect against the cells of the fit, with all else as it is.

        Parameters
        ----------
        expression
            Cells of the new batch, in the units of the fit, with the genes in its order; n x G.
        seed
            Of all random numbers.
        settings
            Whether an offset by rays, and factors, may be taken; the defaults of the fit if None.
        tell
            Called with a line of progress now and then.

        Returns
        -------
        BatchBlend
            The same model with one batch more, whose code is the number of batches before; its evidence is at the end.

        Raises
        ------
        ValueError
            If the batch has fewer cells than there are metagenes, or other genes; if the offset is to be found by a
            prior.

        Notes
        -----
        The cells of the fit are drawn anew from a sample of their amounts and the noise of the model, without any batch
        effect, and compared with the new ones as two batches of a fit are, with the same rules of evidence. The factors
        of the new batch are thus relative to the mean of the batches of the fit.
        """
        return _with_batch(self, expression, seed, settings or Settings(len(self.metagenes)), tell)

    def amounts(self, expression: Any, batch: np.ndarray) -> np.ndarray:
        """Embed cells of the batches of the fit.

        Parameters
        ----------
        expression
            n x G, genes in the order of the fit.
        batch
            Code of each cell's batch, n.

        Returns
        -------
        np.ndarray
            Amounts of the metagenes, n x K, in the units of the input.
        """
        found = np.zeros((len(batch), len(self.metagenes)), dtype=np.float32)
        device = self.decoder.metagenes.device
        for b in np.unique(batch):
            cells = np.flatnonzero(batch == b)
            matrix = CellMatrix(expression[cells], self.decoder.scale, device)
            totals = matrix.times(torch.ones(matrix.shape[1], 1, device=device))[:, 0].double()
            values = self.decoder.amounts(matrix, totals, int(b)).cpu().numpy() / self.decoder.scale
            found[cells] = np.where(totals.cpu().numpy()[:, None] > 0, values, 0)
        return found


@dataclass
class Affinity:
    """Spatial affinities of the metagenes before the last phase, and what chance makes of them.

    Attributes
    ----------
    affinity
        L x K x K, L = 1 (shared) or T; negative where two metagenes lie side by side.
    permuted, permuted_sd
        Mean and standard deviation of the same after the cells of each batch change places.
    """

    affinity: np.ndarray
    permuted: np.ndarray
    permuted_sd: np.ndarray


@dataclass
class Fitted:
    """Result of a fit.

    Attributes
    ----------
    model
        The model.
    amounts
        Of the metagenes in each cell, n x K, in the units of the input.
    history
        Terms of the objective (its mean over all values of the matrix, up to constants) by iteration; `phase` is 0 in
        the factorisation and 1 where cells are then drawn to their states and neighbours.
    affinity
        None without a graph.
    """

    model: BatchBlend
    amounts: np.ndarray
    history: dict[str, list[float]]
    affinity: Affinity | None = None


def shares(amounts: np.ndarray) -> np.ndarray:
    """Divide amounts by their sum; a cell without any has the mean of all others, as nothing is known of it."""
    total = amounts.sum(1, keepdims=True)
    mean = amounts.sum(0) / max(amounts.sum(), 1e-30)
    return np.where(total > 0, amounts / np.where(total > 0, total, 1), mean).astype(np.float32)


def fit(
    expression: Any,
    batch: np.ndarray,
    settings: Settings,
    *,
    graph: tuple[np.ndarray, np.ndarray] | None = None,
    wide_graph: tuple[np.ndarray, np.ndarray] | None = None,
    seed: int = 0,
    device: str = "cpu",
    tell: Callable[[str], None] = lambda text: None,
) -> Fitted:
    """Fit the model.

    Parameters
    ----------
    expression
        Counts, or continuous values scaled by one constant; n x G numpy array or scipy CSR matrix, non-negative.
    batch
        Batch of each cell as a code 0 ... T-1, n.
    settings
        How to fit.
    graph
        Source and target of the edges between neighbouring cells, both directions of each; may join batches.
        Without it there are neither affinities nor neighbours in the last phase.
    wide_graph
        The same for about 20 neighbours of each cell, for the phase ``"linear"``; `graph` if not given.
    seed
        Of all random numbers.
    device
        Where to compute.
    tell
        Called with a line of progress now and then.

    Raises
    ------
    ValueError
        If there are fewer genes than metagenes, or a batch has fewer cells than metagenes.
    """
    K = settings.metagenes
    totals = np.asarray(expression.sum(1, dtype=np.float64)).ravel()
    kept = np.flatnonzero(totals > SMALLEST * totals.mean())
    kept = kept[np.argsort(batch[kept], kind="stable")]
    smallest = np.bincount(batch[kept], minlength=int(batch.max()) + 1).min()
    if expression.shape[1] <= K or smallest < K:
        raise ValueError(
            f"{K} metagenes need more genes (found {expression.shape[1]}) and as many cells in every batch ({smallest})"
        )
    if batch.max() == 0:
        settings = replace(settings, offset="none", factors=False)
    scale = K / totals[kept].mean()
    data = _prepare(expression, batch, kept, totals, scale, torch.device(device))
    tell("noise model")
    noise, own = _noise_model(data, K)

    def take(rows: Tensor) -> _Data:
        return _prepare(expression, batch, kept[rows.cpu().numpy()], totals, scale, data.totals.device)

    effect = _batch_effect(settings, lambda given: _Rounds(data, take, given, noise, own, seed, tell))
    tell("factorisation")
    found = _factorise(data, settings, noise, effect)
    model = _model(data, settings, noise, effect, found, scale, seed)
    history = {**found.history, "phase": [0.0] * len(found.history["data"])}
    affinity = edges = None
    if graph is not None:
        tell("spatial affinities")
        affinity = _affinity(found.amounts, data, _within(graph, kept, len(batch), data), settings, seed)
        if settings.spatial != "none":
            wide = wide_graph if wide_graph is not None and settings.spatial == "linear" else graph
            edges = _within(wide, kept, len(batch), data)
    random_field = edges is not None and settings.spatial == "hmrf"
    if settings.pooling and effect.several and not random_field:
        tell("what states expect")
        _expect_of_states(model.decoder, found.amounts, data, effect, settings, take, seed)
    if edges is not None or model.decoder.pooling:
        tell("cells beside others")
        found.amounts, terms = _last_phase(model.decoder, found.amounts, data, effect, edges, settings, seed)
        _append(history, terms)
    amounts = np.empty((len(batch), K), dtype=np.float32)
    amounts[kept] = found.amounts.cpu().numpy() / scale
    left = np.setdiff1d(np.arange(len(batch)), kept)
    amounts[left] = model.amounts(expression[left], batch[left])
    history["objective"] = [sum(terms) for terms in zip(*(history[t] for t in history if t != "phase"), strict=True)]
    return Fitted(model, amounts, history, affinity)


def choose_metagenes(
    expression: Any, batch: np.ndarray, seed: int = 0, *, fewest: int = 5, most: int = 30, device: str = "cpu"
) -> int:
    """Choose the number of metagenes by what they predict of held-out entries.

    Parameters
    ----------
    expression, batch
        See `fit`.
    seed
        Of the sample of cells and of the blocks that are held out.
    fewest, most
        Smallest and largest number; less than `fewest` if genes or cells do not allow as many.
    device
        Where to compute.

    Returns
    -------
    int
        Two more than the rank of the least error.

    Notes
    -----
    Bi-cross-validation with 5 x 5 blocks (see `held_out_errors`) in each batch alone, so that what tells batches apart
    takes no rank: of up to 8 batches, 2,000 cells each and the 1,000 genes that vary most, all weighted by their noise.
    The error falls by little for metagenes of few cells, and the blocks are fitted to 64 % of the entries, so that the
    rank is on the low side; metagenes beyond the truth do little harm, while with fewer, states are lost. At most half
    as many as genes and a third as many as cells in the smallest of these batches are chosen, and no more than the
    smallest batch has cells.
    """
    rng = np.random.default_rng(seed)
    codes, sizes = np.unique(batch, return_counts=True)
    large = codes[sizes >= _LEAST_FOR_CHOICE]
    smallest = int(sizes[sizes >= _LEAST_FOR_CHOICE].min()) if len(large) else 0
    limit = min(most, expression.shape[1] // 2, smallest // 3)
    if limit <= fewest:
        return max(1, min(fewest, expression.shape[1], int(sizes.min())))
    chosen = np.sort(rng.permutation(large)[:8])
    cells = np.concatenate([np.sort(rng.permutation(np.flatnonzero(batch == code))[:2000]) for code in chosen])
    sample, code = expression[cells], np.searchsorted(chosen, batch[cells])
    totals = np.asarray(sample.sum(1, dtype=np.float64)).ravel()
    kept = np.flatnonzero(totals > SMALLEST * totals.mean())
    data = _prepare(sample, code, kept, totals, limit / totals[kept].mean(), torch.device(device))
    noise, _ = _noise_model(data, limit)
    generator = torch.Generator().manual_seed(seed)
    variance = (data.squares.sum(0) / len(kept) - data.mean.square()) * noise.weights.square()
    genes = variance.argsort(descending=True)[:1000]
    weighted = torch.zeros(len(variance), len(genes), dtype=torch.float64, device=variance.device)
    weighted[genes, torch.arange(len(genes), device=variance.device)] = noise.weights[genes]
    errors = []
    for matrix, mine in zip(data.matrices, data.slices, strict=True):
        spread = noise.of_cells(data.totals[mine], data.mean_total).sqrt()
        values = matrix.times(weighted).double() / spread[:, None]
        errors.append(held_out_errors(values, limit, 5, generator))
    width = min(each.shape[1] for each in errors)
    # batches count alike whatever their noise
    error = torch.cat([each[:, :width] / each.min(1).values.mean() for each in errors])
    least = int(error.mean(0).argmin())
    return min(max(fewest, min(least + 3, limit)), int(sizes.min()))


def _within(edges: tuple[np.ndarray, np.ndarray], kept: np.ndarray, cells: int, data: _Data) -> tuple[Tensor, Tensor]:
    """Edges between the cells of the fit, by their place in it, sorted by source, then target."""
    place = np.full(cells, -1)
    place[kept] = np.arange(len(kept))
    source, target = place[edges[0]], place[edges[1]]
    real = (source >= 0) & (target >= 0)
    source, target = source[real], target[real]
    order = np.lexsort((target, source))
    device = data.batch.device
    return torch.as_tensor(source[order], device=device), torch.as_tensor(target[order], device=device)


def _affinity(amounts: Tensor, data: _Data, edges: tuple[Tensor, Tensor], settings: Settings, seed: int) -> Affinity:
    z = cell_problem.shares(amounts.double())
    shared = settings.shared_affinity
    found = affinities(z, *edges, data.batch, shared=shared, seed=seed)
    by_chance = permuted_affinities(z, *edges, data.batch, shared=shared, seed=seed)
    return Affinity(found.cpu().numpy(), by_chance.mean.cpu().numpy(), by_chance.sd.cpu().numpy())


def _expect_of_states(
    decoder: _Decoder,
    amounts: Tensor,
    data: _Data,
    effect: _Effect,
    settings: Settings,
    take: Callable[[Tensor], _Data],
    seed: int,
) -> None:
    """Find what shares are expected of a cell by its batch and state, and how far it may differ from that.

    The mean of the state, and in each batch as much of its difference from it as exceeds chance: what batches disagree
    in is not taken off here. The variance within states is what two halves of the genes agree on, as noise is in one or
    the other.
    """
    K, batches, own = len(decoder.metagenes), data.batches, effect.clouds[effect.state]
    z, states = cell_problem.shares(amounts).double(), int(effect.clouds.max()) + 1
    some = amounts.sum(1) > 0
    z, own, batch = z[some], own[some], data.batch[some]
    both = batch * states + own
    count = torch.bincount(own, minlength=states).double()
    middle = torch.where(count[:, None] > 0, _means_by_state(z, own, states), z.mean(0))
    variance = _means_by_state((z - middle[own]).square(), own, states)
    in_batch = torch.bincount(both, minlength=batches * states).view(batches, states, 1).double()
    change = _means_by_state(z, both, batches * states).view(batches, states, K) - middle
    # of a mean over part of those in the mean that it is compared with
    chance = variance * (1 / in_batch.clamp(min=1) - 1 / count.clamp(min=1)[:, None])
    # a state of one batch alone disagrees with nobody
    known = (in_batch > 1) & (in_batch < count[:, None])
    kept = _beyond_chance(change, chance, middle, known)
    expected = (middle + kept * change).clamp(min=0)
    share = _variance_of_genes(decoder, data, effect, take, seed)
    spread = share * middle * (1 - middle) + LEAST_VARIANCE
    decoder.expected, decoder.spread = expected[:, effect.clouds], spread[effect.clouds]
    decoder.pooling = settings.pooling


def _beyond_chance(change: Tensor, chance: Tensor, middle: Tensor, known: Tensor) -> Tensor:
    """Share of a change of mean shares that is kept, if true changes are as large, against m (1 - m), in all states."""
    scale = middle * (1 - middle)
    states = tuple(range(change.ndim - 1))
    excess = torch.where(known, change.square() - chance, 0).sum(states)
    prior = scale * (excess / torch.where(known, scale, 0).sum(states).clamp(min=1e-9)).clamp(min=0)
    return torch.where(known, prior / (prior + chance).clamp(min=1e-12), 0)


def _variance_of_genes(
    decoder: _Decoder, data: _Data, effect: _Effect, take: Callable[[Tensor], _Data], seed: int, repeats: int = 2
) -> Tensor:
    """Variance of shares within the states of each batch, over the m (1 - m) of shares of mean m; K."""
    rng = torch.Generator().manual_seed(seed + 3)
    device, own = data.batch.device, effect.clouds[effect.state]
    if len(own) > HALVED:
        rows = torch.randperm(len(own), generator=rng)[:HALVED].sort().values.to(device)
        data, own = take(rows), own[rows]
    own, K = data.batch * (int(own.max()) + 1) + own, len(decoder.metagenes)
    groups = int(own.max()) + 1
    top, bottom = torch.zeros(K, dtype=torch.float64, device=device), torch.zeros(K, dtype=torch.float64, device=device)
    for _ in range(repeats):
        half = (torch.randperm(len(data.mean), generator=rng) < len(data.mean) // 2).to(device)
        both = []
        for chosen in (half, ~half):
            parts = []
            for b, matrix in enumerate(data.matrices):
                scaled = decoder.metagenes * (decoder.factors[b] * decoder.weights[b] * chosen)
                weighted = scaled * decoder.weights[b]
                target = matrix.times(weighted.T) - (weighted @ decoder.offset[b]).float()
                parts.append(cell_problem.shares(solve_amounts(target, scaled @ scaled.T)))
            both.append(torch.cat(parts))
        some = (both[0].sum(1) > 0) & (both[1].sum(1) > 0)
        one, other, group = both[0][some], both[1][some], own[some]
        means = [_means_by_state(z, group, groups)[group] for z in (one, other)]
        middle = (means[0] + means[1]) / 2
        top += ((one - means[0]) * (other - means[1])).sum(0)
        bottom += (middle * (1 - middle)).sum(0)
    return (top / bottom.clamp(min=1e-9)).clamp(0, 1)


def _last_phase(
    decoder: _Decoder,
    amounts: Tensor,
    data: _Data,
    effect: _Effect,
    edges: tuple[Tensor, Tensor] | None,
    settings: Settings,
    seed: int,
) -> tuple[Tensor, dict[str, list[float]]]:
    """Renew the amounts given those of the neighbours and the state; also return the terms of the objective."""
    linear, variance = [], []
    for b, (matrix, cells) in enumerate(zip(data.matrices, data.slices, strict=True)):
        linear.append(decoder.linear(matrix, data.totals[cells], effect.state[cells], b))
        variance.append(decoder.cell_variance(data.totals[cells], b))
    problem = cell_problem.Problem(
        amounts.double(),
        torch.cat(linear).double(),
        torch.stack([decoder.design(b) for b in range(data.batches)]),
        data.batch,
        torch.cat(variance),
        *(edges or cell_problem.no_edges(amounts.device)),
    )
    if decoder.pooling:
        expected, spread = decoder.expected[data.batch, effect.state], decoder.spread[effect.state]
        problem = replace(problem, expected=expected, spread=spread)
    if edges is not None and settings.spatial == "hmrf":
        shared = settings.shared_affinity
        found = hmrf(problem, weight=settings.spatial_weight, shared=shared, seed=seed)
    else:
        # neighbours add to what is expected of a cell, not to how firmly
        weight = decoder.pooling or settings.spatial_weight
        found = draw_to_expected(problem, weight=weight)
    values = len(data.totals) * len(data.mean)
    terms = {name: [x / values for x in found.history[name]] for name in ("data", "spatial")}
    return found.X.float(), terms


def _append(history: dict[str, list[float]], terms: dict[str, list[float]]) -> None:
    """Add the last phase, whose data term holds the sparse prior, so that the course of the sum goes on."""
    before, after = len(history["data"]), len(terms["data"])
    start = history["data"][-1] + history["sparsity"][-1] - terms["data"][0] if after and before else 0.0
    history["data"] += [x + start - history["sparsity"][-1] for x in terms["data"]]
    history["sparsity"] += [history["sparsity"][-1]] * after
    history["spatial"] = [0.0] * before + terms["spatial"]
    history["phase"] += [1.0] * after


def _model(
    data: _Data,
    settings: Settings,
    noise: _Noise,
    effect: _Effect,
    found: _Factorisation,
    scale: float,
    seed: int,
) -> BatchBlend:
    g = effect.factors
    sample = torch.randperm(len(data.totals), generator=torch.Generator().manual_seed(seed))[:_REFERENCE]
    sample = sample.sort().values.to(data.batch.device)
    decoder = _Decoder(
        found.metagenes,
        g,
        effect.offset * g,
        found.weights,
        found.variance,
        found.shares,
        effect.directions / noise.weights[:, None],
        effect.on_directions,
        effect.total,
        effect.centres,
        noise.precision(data.mean, g) * noise.weights.square(),
        found.shares.expand(data.batches, -1, -1),
        torch.ones_like(found.shares),
        noise.cell_constant,
        noise.cell_slope,
        float(noise.of_cells(data.totals, data.mean_total).mean()),
        data.mean_total,
        effect.mean_total,
        settings.sparsity,
        0.0,
        scale,
    )

    def plain(values: Tensor) -> np.ndarray:
        return values.cpu().numpy()

    return BatchBlend(
        plain(found.metagenes),
        plain(effect.offset * g) / scale,
        plain(effect.offset_error * g) / scale,
        plain(effect.total) / scale,
        plain(effect.total_error) / scale,
        plain(g),
        plain(effect.log_error),
        plain(found.beta) / scale,
        plain(found.variance.sqrt()),
        effect.evidence,
        decoder,
        _Reference(found.amounts[sample], data.batch[sample]),
    )


def _drawn_anew(model: BatchBlend, rng: torch.Generator) -> Tensor:
    """Draw the cells of the reference without batch effect, in the unit of the fit, n x G.

    Values below 0 are left: without them the genes that are hardly expressed would have an offset.
    """
    decoder, amounts, batch = model.decoder, model.reference.amounts.double(), model.reference.batch
    mean = amounts @ decoder.metagenes
    noise = torch.randn(mean.shape, generator=rng, dtype=torch.float64).to(mean.device)
    for b in range(len(decoder.factors)):
        cells = (batch == b).nonzero()[:, 0]
        totals = (mean[cells] * decoder.factors[b] + decoder.offset[b]).sum(1)
        sd = decoder.cell_variance(totals, b).sqrt()[:, None] / (decoder.weights[b] * decoder.factors[b])
        noise[cells] *= sd
    return mean + noise


def _with_batch(
    model: BatchBlend, expression: Any, seed: int, settings: Settings, tell: Callable[[str], None]
) -> BatchBlend:
    if settings.offset == "annealed":
        raise ValueError("offset annealed finds one in any cells, those of the fit too: choose rays or none")
    decoder = model.decoder
    K, G = decoder.metagenes.shape
    device = decoder.metagenes.device
    totals = np.asarray(expression.sum(1, dtype=np.float64)).ravel()
    kept = np.flatnonzero(totals > SMALLEST * totals.mean())
    if expression.shape[1] != G or len(kept) < K:
        raise ValueError(f"a new batch needs {G} genes (found {expression.shape[1]}) and {K} cells ({len(kept)})")
    drawn = _drawn_anew(model, torch.Generator().manual_seed(seed + 2))
    scale = decoder.scale
    both = torch.cat([drawn.sum(1), torch.as_tensor(totals[kept] * scale, device=device)])

    def take(rows: Tensor) -> _Data:
        old, new = rows[rows < len(drawn)].cpu().numpy(), rows[rows >= len(drawn)].cpu().numpy() - len(drawn)
        matrices = CellMatrix(drawn.cpu().numpy()[old], 1.0, device), CellMatrix(expression[kept[new]], scale, device)
        return _gather(list(matrices), both[rows])

    data = take(torch.arange(len(both), device=device))
    tell("noise model")
    noise, own = _noise_model(data, K)
    settings = replace(settings, metagenes=K)
    effect = _batch_effect(settings, lambda given: _Rounds(data, take, given, noise, own, seed, tell, clean=(0,)))
    # relative to the reference, which has no factors; one of the two is minus the other, and so are their errors
    log_factors = effect.log_factors[1] - effect.log_factors[0]
    log_error = effect.log_error.sum(0)
    g, frame = log_factors.exp(), effect.factors[0]
    before, before_error = effect.offset[1] * frame, effect.offset_error[1] * frame
    offset = before * g
    row = _residual_weights(data, noise, effect)[1]
    # in the unit of the other batches: the noise of the new one is then its variance
    usual = decoder.weights.log().mean(0).exp()
    row = row * (usual / row).median()

    # of the new noise model, in the frame of the reference
    precision = noise.precision(data.mean, g) * noise.weights.square()

    def more(values: Tensor, new: Tensor) -> Tensor:
        return torch.cat([values, new[None]])

    larger = replace(
        decoder,
        factors=more(decoder.factors, g),
        offset=more(decoder.offset, offset),
        weights=more(decoder.weights, row),
        variance=more(decoder.variance, decoder.variance.mean()),
        on_directions=more(decoder.on_directions, before @ _projector(decoder.directions, precision)),
        precision=more(decoder.precision, precision),
        total=more(decoder.total, before.sum()),
        expected=more(decoder.expected, decoder.expected.mean(0)),
    )
    b, matrix, sizes = len(decoder.factors), data.matrices[1], data.totals[data.slices[1]]
    amounts = larger.amounts(matrix, sizes, b, pooled=False)
    larger.variance[b] = larger.residual_variance(matrix, sizes, amounts, b)
    if larger.pooling:
        z, state, middle = cell_problem.shares(amounts).double(), larger.states(matrix, b), larger.expected[b]
        count = torch.bincount(state, minlength=len(middle))[:, None].double()
        change = _means_by_state(z, state, len(middle)) - middle
        chance = _means_by_state((z - middle[state]).square(), state, len(middle)) / count.clamp(min=1)
        kept = _beyond_chance(change, chance, middle, count > 1)
        larger.expected[b] = (middle + kept * change).clamp(min=0)
    beta = solve_amounts((larger.metagenes * (g * row.square()) @ offset)[None], larger.design(b))
    found = [replace(each, batches=(b,)) for each in effect.evidence if 1 in each.batches]

    def with_row(values: np.ndarray, new: Tensor) -> np.ndarray:
        return np.concatenate([values, new.cpu().numpy()[None]])

    return BatchBlend(
        model.metagenes,
        with_row(model.offset, offset / scale),
        with_row(model.offset_error, before_error * g / scale),
        with_row(model.total_offset, before.sum() / scale),
        with_row(model.total_offset_error, effect.total_error[1] / scale),
        with_row(model.factors, g),
        with_row(model.log_error, log_error),
        with_row(model.beta, beta[0] / scale),
        with_row(model.sigma, larger.variance[b].sqrt()),
        model.evidence + found,
        larger,
        model.reference,
    )


def _gather(matrices: list[CellMatrix], totals: Tensor) -> _Data:
    """Put the cells of some batches, in their order, together with the sums over them that all steps need."""
    sizes = [matrix.shape[0] for matrix in matrices]
    ends = np.cumsum(sizes)
    slices = [slice(int(end - size), int(end)) for end, size in zip(ends, sizes, strict=True)]
    ones = [torch.ones(size, 1, device=totals.device) for size in sizes]
    sums = sum(m.transposed_times(one)[:, 0] for m, one in zip(matrices, ones, strict=True))
    squares = [m.squares_transposed_times(one)[:, 0] for m, one in zip(matrices, ones, strict=True)]
    batch = torch.arange(len(sizes), device=totals.device).repeat_interleave(
        torch.as_tensor(sizes, device=totals.device)
    )
    # a gene without any count has no noise to be weighted by, but must not be divided by
    mean = (sums / len(totals)).clamp(min=1e-5 * float(sums.mean()) / len(totals))
    return _Data(matrices, totals, batch, slices, mean, torch.stack(squares))


def _prepare(
    expression: Any, batch: np.ndarray, kept: np.ndarray, totals: np.ndarray, scale: float, device: torch.device
) -> _Data:
    ends = np.cumsum(np.bincount(batch[kept]))
    parts = np.split(kept, ends[:-1])
    matrices = [CellMatrix(expression[cells], scale, device) for cells in parts]
    return _gather(matrices, torch.as_tensor(totals[kept] * scale, device=device))
