"""Cells x genes matrices on a device, read by products alone: a sparse one is never made dense as a whole."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

# products are all that is used of it, and are tested against numpy's
warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)

_CHUNK_ROWS = 2**17
_DENSE_VALUES = 2**23
"""Values of a block that is made dense for a Gram matrix: 32 MB."""


class _Chunk(NamedTuple):
    rows: Tensor
    """n x g, strided or CSR."""
    columns: Tensor
    """g x n, strided or CSR: torch multiplies by the transpose of a CSR matrix thirty times slower."""


class CellMatrix:
    """Expression of one batch, n cells x g genes in float32, on a device.

    Parameters
    ----------
    values
        A numpy array or a scipy CSR matrix.
    scale
        What all values are multiplied by.
    device
        Where products are computed.

    Notes
    -----
    A matrix of which more than half is not 0 is held dense, which then takes less memory. Products over cells are
    sums of float32 products over 131,072 cells each, added in float64.
    """

    def __init__(self, values: Any, scale: float, device: torch.device) -> None:
        self.shape: tuple[int, int] = values.shape
        self.device = device
        sparse = hasattr(values, "indptr")
        if sparse and values.nnz > 0.5 * values.shape[0] * values.shape[1]:
            values, sparse = values.toarray(), False
        self._chunks: list[_Chunk] = []
        for start in range(0, self.shape[0], _CHUNK_ROWS):
            part = values[start : start + _CHUNK_ROWS]
            if sparse:
                self._chunks.append(_Chunk(_csr(part, scale, device), _csr(part.T.tocsr(), scale, device)))
            else:
                rows = torch.as_tensor(np.asarray(part, dtype=np.float32) * np.float32(scale), device=device)
                self._chunks.append(_Chunk(rows, rows.T))

    def times(self, right: Tensor) -> Tensor:
        """Multiply with a g x k matrix; float32, n x k."""
        right = right.to(torch.float32)
        return torch.cat([chunk.rows @ right for chunk in self._chunks])

    def squares_times(self, right: Tensor) -> Tensor:
        """Multiply the squared values with a g x k matrix; float32, n x k."""
        right = right.to(torch.float32)
        return torch.cat([_map(chunk.rows, torch.square) @ right for chunk in self._chunks])

    def transposed_times(self, left: Tensor) -> Tensor:
        """Multiply the transpose with an n x k matrix; float64, g x k."""
        return self._over_cells(left, lambda columns: columns)

    def squares_transposed_times(self, left: Tensor) -> Tensor:
        """Multiply the transpose of the squared values with an n x k matrix; float64, g x k."""
        return self._over_cells(left, lambda columns: _map(columns, torch.square))

    def _over_cells(self, left: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        total = torch.zeros(self.shape[1], left.shape[1], dtype=torch.float64, device=self.device)
        parts = left.to(torch.float32).split(_CHUNK_ROWS)
        for chunk, part in zip(self._chunks, parts, strict=True):
            total += (change(chunk.columns) @ part).double()
        return total

    def gram(self, weights: Tensor) -> Tensor:
        """Return the sum over cells of ``weights_i^2 y_i y_i'``; float64, g x g."""
        total = torch.zeros(self.shape[1], self.shape[1], dtype=torch.float64, device=self.device)
        start = 0
        for block in self._dense_blocks():
            block = block * weights[start : start + len(block), None].to(torch.float32)
            total += (block.T @ block).double()
            start += len(block)
        return total

    def _dense_blocks(self) -> Iterator[Tensor]:
        size = max(1, _DENSE_VALUES // self.shape[1])
        for rows, _ in self._chunks:
            if not rows.is_sparse_csr:
                yield from rows.split(size)
                continue
            pointer, columns, values = rows.crow_indices().long(), rows.col_indices().long(), rows.values()
            for start in range(0, rows.shape[0], size):
                ends = pointer[start : start + size + 1]
                low, high = int(ends[0]), int(ends[-1])
                dense = torch.zeros(len(ends) - 1, self.shape[1], device=self.device)
                row = torch.repeat_interleave(torch.arange(len(ends) - 1, device=self.device), ends.diff())
                dense[row, columns[low:high]] = values[low:high]
                yield dense


def _csr(values: Any, scale: float, device: torch.device) -> Tensor:
    return torch.sparse_csr_tensor(
        torch.as_tensor(values.indptr.astype(np.int32), device=device),
        torch.as_tensor(values.indices.astype(np.int32), device=device),
        torch.as_tensor(values.data.astype(np.float32) * np.float32(scale), device=device),
        values.shape,
        check_invariants=False,
    )


def _map(matrix: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a function that keeps 0 to the values."""
    if not matrix.is_sparse_csr:
        return function(matrix)
    return torch.sparse_csr_tensor(
        matrix.crow_indices(),
        matrix.col_indices(),
        function(matrix.values()),
        matrix.shape,
        check_invariants=False,
    )
