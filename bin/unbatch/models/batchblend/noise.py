"""Noise of expression, and the principal axes of what is not noise."""

from dataclasses import dataclass

import torch
from torch import Tensor

from unbatch.models.batchblend.cell_matrix import CellMatrix
from unbatch.models.batchblend.expression import Batches
from unbatch.models.batchblend.settings import RULES, Rules


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Variance of a value: ``(gene_constant + gene_slope * mean) * (cell_constant + cell_slope * total / mean total)``.

    Attributes
    ----------
    gene_constant, gene_slope, cell_constant, cell_slope
        See above.
    weights
        Inverse standard deviations of genes, scaled to leave the mean total unchanged, G.
    min_size
        Share of the mean total that a cell has at least.
    """

    gene_constant: float
    gene_slope: float
    weights: Tensor
    cell_constant: float = 0.0
    cell_slope: float = 1.0
    min_size: float = RULES.min_size

    def of_genes(self, mean: Tensor) -> Tensor:
        """Variance of genes with some means."""
        return self.gene_constant + self.gene_slope * mean

    def precision(self, mean: Tensor, factors: Tensor) -> Tensor:
        """Inverse variance of expression divided by the factors, in units of that without factors; T x G."""
        return factors.square() * self.of_genes(mean) / self.of_genes(mean * factors)

    def of_cells(self, totals: Tensor, mean_total: float) -> Tensor:
        """Variance of cells with some totals, relative to a gene's."""
        return noise_of_cells(
            totals, mean_total, constant=self.cell_constant, slope=self.cell_slope, min_size=self.min_size
        )


def noise_of_cells(totals: Tensor, mean_total: float, *, constant: float, slope: float, min_size: float) -> Tensor:
    """Variance of cells with some totals, linear in these down to a smallest size (a share of the mean total)."""
    return constant + slope * totals.clamp(min=min_size * mean_total) / mean_total


def estimate_noise(data: Batches, rank: int, rules: Rules = RULES) -> tuple[Noise, list[Tensor]]:
    """Estimate the noise from what `rank` principal axes of each batch leave.

    Returns
    -------
    tuple
        The noise, and the axes of each batch (G x r, orthonormal in weighted gene space).
    """
    mean = data.mean
    weights = _of_unit_mean(1 / (mean + 1e-3 * mean.mean()).sqrt(), mean)
    noise = Noise(gene_constant=0.0, gene_slope=1.0, weights=weights, min_size=rules.min_size)
    for _ in range(2):
        residual = torch.zeros_like(mean)
        bases = []
        for b, matrix in enumerate(data.matrices):
            own_rank = min(rank, max(1, matrix.shape[0] // 5))
            basis = principal_axes(data, noise, data.ones(), rank=own_rank, batches=[b])
            bases.append(basis)
            residual += data.squares[b] - _explained(matrix, basis, noise.weights)
        residual = (residual / len(data.totals)).clamp(min=1e-9 * float(residual.mean()) / len(data.totals))
        counted = data.squares.sum(0) > 0
        constant, slope = _two_non_negative((1 / residual)[counted], (mean / residual)[counted])
        variance = constant + slope * mean
        noise = Noise(
            gene_constant=constant,
            gene_slope=slope,
            weights=_of_unit_mean(1 / variance.sqrt(), mean),
            cell_constant=float(constant / variance.mean()),
            cell_slope=float(slope * mean.mean() / variance.mean()),
            min_size=rules.min_size,
        )
    return noise, bases


def principal_axes(
    data: Batches, noise: Noise, factors: Tensor, *, rank: int, batches: list[int] | None = None
) -> Tensor:
    """Find the principal axes of cells whose genes are divided by factors.

    Parameters
    ----------
    data, noise
        The cells and their noise, by which both genes and cells are weighted.
    factors
        Factors of genes by batch, T x G.
    rank
        Number of axes.
    batches
        Batches whose cells are used; all if None.

    Returns
    -------
    Tensor
        Orthonormal in weighted gene space, G x rank.
    """
    batches = list(range(data.count)) if batches is None else batches
    spread = 1 / noise.of_cells(data.totals, data.mean_total).sqrt()
    # the factors of some batches make more noise of a gene than those of others: their mean, by cells
    share = data.sizes[batches].double() / data.sizes[batches].sum()
    scale = (share @ (1 / noise.precision(data.mean, factors[batches]))).rsqrt()
    parts = [(data.matrices[b], spread[data.slices[b]], noise.weights / factors[b] * scale) for b in batches]
    return torch.linalg.qr(_top_eigenvectors(parts, rank) / scale[:, None]).Q


def projector(basis: Tensor, precision: Tensor) -> Tensor:
    """Matrix that gives the scores of cells on a basis (G x r) by weighted least squares, G x r.

    Divided by its factor, a gene is the noisier the smaller that is. If all genes counted alike, factors with a spread
    of 0.6 of the logarithms would cost half of the precision.
    """
    right = precision[:, None] * basis
    return torch.linalg.solve(basis.T @ right, right.T).T


def _top_eigenvectors(parts: list[tuple[CellMatrix, Tensor, Tensor]], rank: int) -> Tensor:
    """Top eigenvectors of the Gram matrix of cells, each part with weights of its cells and genes; G x rank."""
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


def _explained(matrix: CellMatrix, basis: Tensor, weights: Tensor) -> Tensor:
    """Sum ``2 y z - z^2`` over cells by gene, where z is the projection of y; squares minus this are the residual."""
    scores = matrix.times(weights[:, None] * basis).double()
    both = (matrix.transposed_times(scores) * basis).sum(1) / weights
    return 2 * both - ((basis @ (scores.T @ scores)) * basis).sum(1) / weights.square()


def _of_unit_mean(weights: Tensor, mean: Tensor) -> Tensor:
    """Scale weights to make the mean of their squares, by expression, 1."""
    return weights / ((weights.square() * mean).sum() / mean.sum()).sqrt()


def _two_non_negative(first: Tensor, second: Tensor) -> tuple[float, float]:
    """Non-negative a, b that minimise ``|a first + b second - 1|^2``."""
    columns = torch.stack([first, second])
    gram, right = columns @ columns.T, columns.sum(1)
    alone = right / gram.diagonal()
    both = torch.linalg.lstsq(gram, right[:, None]).solution[:, 0]
    if (both >= 0).all():
        return float(both[0]), float(both[1])
    # the gain in squares of one column alone is right^2 / gram
    return (float(alone[0]), 0.0) if alone[0] * right[0] > alone[1] * right[1] else (0.0, float(alone[1]))
