"""Amounts of a cell of a known batch, given all else: what a saved model needs to embed cells."""

from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from unbatch.models.batchblend.cell_matrix import CellMatrix
from unbatch.models.batchblend.effect import Effect
from unbatch.models.batchblend.expression import Batches, inner_products
from unbatch.models.batchblend.neighbour_prior import draw_to_expected
from unbatch.models.batchblend.nmf import Factorisation, penalty
from unbatch.models.batchblend.nnls import solve_amounts
from unbatch.models.batchblend.noise import Noise, noise_of_cells, projector
from unbatch.models.batchblend.settings import RULES, Rules
from unbatch.models.popari.amounts import Problem, no_edges
from unbatch.nn.kmeans import nearest


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """All that gives the amounts of a cell of a known batch, in the unit of the fit.

    Attributes
    ----------
    metagenes
        K x G.
    factors, offset
        Factors, and offset as added to expression, T x G.
    weights, variance
        Inverse standard deviations of the noise of genes by batch, T x G, and the variance of the weighted noise, T.
    shares
        Mean share of each metagene in each state, C x K.
    directions, centres
        Principal axes (expression), G x r, and the centres of the states on them, C x r.
    on_directions, total
        Offset on the axes, T x r, and in total, T, before factors.
    precision
        Inverse variance of expression divided by the factors, T x G.
    expected, spread
        What the shares of a cell are drawn to by its batch and state, T x C x K, and their variance about that, C x K.
    cell_constant, cell_slope, cell_mean
        Noise of a cell by its total, and its mean over the cells of the fit.
    mean_total, mean_divided
        Mean total, and the same after factors are divided out.
    sparsity, pooling
        Strength of the sparse prior, and weight of what is expected, 0 for none.
    scale
        Units of the fit per unit of the input.
    rules
        The thresholds; not saved.
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
    rules: Rules = field(default=RULES, metadata={"saved": False})

    def cell_variance(self, totals: Tensor, b: int) -> Tensor:
        """Variance of the weighted noise of each cell, n."""
        relative = noise_of_cells(
            totals,
            self.mean_total,
            constant=self.cell_constant,
            slope=self.cell_slope,
            min_size=self.rules.min_size,
        )
        return self.variance[b] * relative / self.cell_mean

    def residual_variance(self, matrix: CellMatrix, totals: Tensor, amounts: Tensor, b: int) -> Tensor:
        """Mean square of what the amounts leave of the weighted expression, relative to the noise of the cells."""
        squared, offset = self.weights[b].square(), self.offset[b]
        right = (squared * offset)[:, None]
        norms = (matrix.squares_times(squared[:, None]) - 2 * matrix.times(right)).double()[:, 0]
        norms += (squared * offset.square()).sum()
        target = inner_products(matrix, self.metagenes * (self.factors[b] * squared), offset).double()
        x = amounts.double()
        residual = norms - 2 * (x * target).sum(1) + ((x @ self.design(b)) * x).sum(1)
        relative = self.cell_variance(totals, b) / self.variance[b]
        return (residual.clamp(min=0) / relative).sum() / (len(x) * len(offset))

    def states(self, matrix: CellMatrix, b: int) -> Tensor:
        """Find the state of each cell, n."""
        right = torch.cat([projector(self.directions, self.precision[b]), torch.ones_like(self.directions[:, :1])], 1)
        right = right / self.factors[b, :, None]
        product = matrix.times(right).double()
        size = (product[:, -1] - self.total[b]).clamp(min=self.rules.min_size * self.mean_divided)
        return nearest((product[:, :-1] - self.on_directions[b]) / size[:, None], self.centres)

    def design(self, b: int) -> Tensor:
        """Gram matrix of the weighted metagenes of a batch, K x K."""
        weighted = self.metagenes * (self.factors[b] * self.weights[b])
        return weighted @ weighted.T

    def linear(self, matrix: CellMatrix, totals: Tensor, state: Tensor, b: int) -> Tensor:
        """Inner products of cells with the weighted metagenes, less the sparse prior, n x K."""
        weighted = self.metagenes * (self.factors[b] * self.weights[b].square())
        target = inner_products(matrix, weighted, self.offset[b])
        pull = self.sparsity * self.design(b).diagonal().sqrt() * penalty(self.shares, self.rules.penalty_halving)
        return target - (pull[state] * self.cell_variance(totals, b).sqrt()[:, None]).float()

    def amounts(self, matrix: CellMatrix, totals: Tensor, b: int, *, pooled: bool = True) -> Tensor:
        """Find the amounts of each cell, n x K, each by itself or with what its state makes one expect."""
        state, design = self.states(matrix, b), self.design(b)
        linear = self.linear(matrix, totals, state, b)
        found = solve_amounts(linear, design)
        if not (pooled and self.pooling):
            return found.float()
        source, target = no_edges(state.device)
        problem = Problem(
            X=found,
            linear=linear.double(),
            design=design[None],
            batch=torch.zeros_like(state),
            variance=self.cell_variance(totals, b),
            source=source,
            target=target,
            expected=self.expected[b, state],
            spread=self.spread[state],
        )
        return draw_to_expected(problem, weight=self.pooling).X.float()


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Cells of the fit that new batches are compared with, in its unit.

    Attributes
    ----------
    amounts, batch
        Amounts of the metagenes, n x K, and batch of each cell, n.
    """

    amounts: Tensor
    batch: Tensor


def saved_fields(kind: type) -> dict[str, bool]:
    """Fields of a part that are saved, and whether they are numbers."""
    return {each.name: each.type is float for each in fields(kind) if each.metadata.get("saved", True)}


def decoder_of(
    data: Batches, noise: Noise, effect: Effect, found: Factorisation, *, sparsity: float, scale: float
) -> Decoder:
    """Put together what embeds further cells as the fit did; nothing is expected of a cell by its state."""
    factors = effect.factors
    return Decoder(
        metagenes=found.metagenes,
        factors=factors,
        offset=effect.offset * factors,
        weights=found.weights,
        variance=found.variance,
        shares=found.shares,
        directions=effect.axes / noise.weights[:, None],
        on_directions=effect.on_axes,
        total=effect.total,
        centres=effect.centres,
        precision=noise.precision(data.mean, factors) * noise.weights.square(),
        expected=found.shares.expand(data.count, -1, -1),
        spread=torch.ones_like(found.shares),
        cell_constant=noise.cell_constant,
        cell_slope=noise.cell_slope,
        cell_mean=float(noise.of_cells(data.totals, data.mean_total).mean()),
        mean_total=data.mean_total,
        mean_divided=effect.mean_total,
        sparsity=sparsity,
        pooling=0.0,
        scale=scale,
        rules=effect.rules,
    )
