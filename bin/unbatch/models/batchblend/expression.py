"""Expression of the cells of a fit, batch by batch, and the products and means that all steps take of it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unbatch.models.batchblend.cell_matrix import CellMatrix


@dataclass(frozen=True, kw_only=True)
class Batches:
    """Cells that are kept, sorted by batch; one unit of expression is 1 / scale of the input's.

    Attributes
    ----------
    matrices
        Expression of each batch.
    totals, batch
        Total and batch of each cell, n.
    slices
        Cells of each batch.
    mean
        Mean of each gene over all cells, above 0, G.
    squares
        Sum of squares of each gene by batch, T x G.
    source
        Gives the batches of the cells at some places, which come sorted by batch.
    """

    matrices: list[CellMatrix]
    totals: Tensor
    batch: Tensor
    slices: list[slice]
    mean: Tensor
    squares: Tensor
    source: Callable[[Tensor], "Batches"]

    @property
    def count(self) -> int:
        """Number of batches, T."""
        return len(self.matrices)

    @property
    def sizes(self) -> Tensor:
        """Number of cells of each batch, T."""
        return torch.bincount(self.batch, minlength=self.count)

    @property
    def mean_total(self) -> float:
        """Mean total of a cell."""
        return float(self.totals.mean())

    def ones(self) -> Tensor:
        """Return factors that change nothing, T x G."""
        return torch.ones(self.count, len(self.mean), dtype=torch.float64, device=self.mean.device)

    def times(self, rights: list[Tensor]) -> Tensor:
        """Multiply the cells of each batch with a matrix of its own; float64, n x k."""
        return torch.cat([m.times(right) for m, right in zip(self.matrices, rights, strict=True)]).double()

    def sample(self, places: Tensor) -> "Batches":
        """Return the cells at some places, sorted by batch, with the mean expression of all."""
        return replace(self.source(places), mean=self.mean)


def gather(matrices: list[CellMatrix], totals: Tensor, source: Callable[[Tensor], Batches]) -> Batches:
    """Put the cells of some batches, in their order, together with the sums over them that all steps need."""
    sizes = [matrix.shape[0] for matrix in matrices]
    ends = np.cumsum(sizes)
    ones = [torch.ones(size, 1, device=totals.device) for size in sizes]
    sums = sum(m.transposed_times(one)[:, 0] for m, one in zip(matrices, ones, strict=True))
    squares = [m.squares_transposed_times(one)[:, 0] for m, one in zip(matrices, ones, strict=True)]
    return Batches(
        matrices=matrices,
        totals=totals,
        batch=torch.arange(len(sizes), device=totals.device).repeat_interleave(
            torch.as_tensor(sizes, device=totals.device)
        ),
        slices=[slice(int(end - size), int(end)) for end, size in zip(ends, sizes, strict=True)],
        # a gene without any count has no noise to be weighted by, but must not be divided by
        mean=(sums / len(totals)).clamp(min=1e-5 * float(sums.mean()) / len(totals)),
        squares=torch.stack(squares),
        source=source,
    )


def prepare(
    expression: Any, batch: np.ndarray, *, kept: np.ndarray, totals: np.ndarray, scale: float, device: torch.device
) -> Batches:
    """Put cells on a device.

    Parameters
    ----------
    expression
        All cells, n x G numpy array or scipy CSR matrix.
    batch, totals
        Code of the batch and total of each, n.
    kept
        Places of the cells that are used, sorted by batch.
    scale
        What expression is multiplied by.
    device
        Where to compute.
    """
    ends = np.cumsum(np.bincount(batch[kept]))
    matrices = [CellMatrix(expression[cells], scale, device) for cells in np.split(kept, ends[:-1])]

    def source(places: Tensor) -> Batches:
        some = kept[places.cpu().numpy()]
        return prepare(expression, batch, kept=some, totals=totals, scale=scale, device=device)

    return gather(matrices, torch.as_tensor(totals[kept] * scale, device=device), source)


def totals_of(expression: Any) -> np.ndarray:
    """Total of each cell, n."""
    return np.asarray(expression.sum(1, dtype=np.float64)).ravel()


def inner_products(matrix: CellMatrix, weighted: Tensor, offset: Tensor) -> Tensor:
    """Multiply cells less their offset (G) with weighted metagenes (K x G); float32, n x K."""
    return matrix.times(weighted.T) - (weighted @ offset).float()


def means_by_group(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """Mean over the cells of each group, 0 of one without cells; C x k of n x k."""
    sums = values.new_zeros(groups, values.shape[1]).index_add_(0, group, values)
    return sums / torch.bincount(group, minlength=groups).clamp(min=1)[:, None]
