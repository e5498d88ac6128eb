"""Cells in dense minibatches on a device, from a matrix that is there as a whole or from a file, by windows."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

CHUNK = 4096
"""Neighbouring cells that are read from a file at once."""
WINDOW = 8
"""Chunks among which cells are shuffled."""
LOADED = 65_536
"""Cells that are read from a file at once where they are shuffled among all."""


class Rows:
    """Some cells on a device; sparse ones stay so and are made dense a minibatch at a time.

    Parameters
    ----------
    values
        n x g, a scipy CSR matrix or a numpy array.
    device
        Where to hold them.

    Notes
    -----
    A matrix of which more than half is not 0 is held dense, which then takes less memory.
    """

    def __init__(self, values: Any, device: torch.device) -> None:
        self.genes: int = values.shape[1]
        self.device = device
        sparse = hasattr(values, "indptr")
        if sparse and values.nnz > 0.5 * values.shape[0] * values.shape[1]:
            values, sparse = values.toarray(), False
        self._lengths: np.ndarray | None = None
        if sparse:
            self._lengths = np.diff(values.indptr)
            self._starts = torch.as_tensor(values.indptr[:-1].astype(np.int64), device=device)
            self._stored = torch.as_tensor(self._lengths.astype(np.int64), device=device)
            self._columns = torch.as_tensor(values.indices.astype(np.int32, copy=False), device=device)
            self._values = torch.as_tensor(values.data.astype(np.float32, copy=False), device=device)
        else:
            self._values = torch.as_tensor(np.ascontiguousarray(values, dtype=np.float32), device=device)

    def stored(self, rows: np.ndarray) -> int:
        """Count the values that are stored of some rows: known here, as no step is to wait for the device."""
        return 0 if self._lengths is None else int(self._lengths[rows].sum())

    def dense(self, rows: Tensor, stored: int) -> Tensor:
        """Give some rows (m) as a dense m x g matrix, by one scatter; `stored` is what the method of this name says."""
        if self._lengths is None:
            return self._values[rows]
        lengths = self._stored[rows]
        row = torch.repeat_interleave(torch.arange(len(rows), device=self.device), lengths, output_size=stored)
        # the place of each value in the matrix: where its row starts, and its place in the row
        shift = self._starts[rows] - lengths.cumsum(0) + lengths
        place = torch.arange(stored, device=self.device) + shift[row]
        result = torch.zeros(len(rows) * self.genes, device=self.device)
        result[row * self.genes + self._columns[place]] = self._values[place]
        return result.view(len(rows), self.genes)


class Source(ABC):
    """Where the expression of cells comes from.

    Attributes
    ----------
    shape
        Cells and genes.
    device
        Where minibatches are made.
    chunk, window
        Cells are shuffled among `window` chunks of `chunk` neighbouring cells; among all if one of them is None.
    """

    shape: tuple[int, int]
    device: torch.device
    chunk: int | None = None
    window: int | None = WINDOW

    @abstractmethod
    def _rows(self, windows: list[np.ndarray]) -> Iterator[tuple[Rows, np.ndarray]]:
        """Yield, for the cells of each window, rows that have them and where in these each of them is."""

    def minibatches(
        self, cells: np.ndarray, size: int, rng: np.random.Generator | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Go through some cells once.

        Parameters
        ----------
        cells
            Sorted positions.
        size
            Most cells of a minibatch; those of a window have about as many cells each, and none is very small.
        rng
            Shuffles the cells; None keeps their order.

        Yields
        ------
        tuple of Tensor
            Positions (m) and expression (m x g) of the cells of a minibatch.
        """
        windows = _windows(cells, self.chunk, self.window, rng)
        for window, (rows, where) in zip(windows, self._rows(windows), strict=True):
            # to the device as a whole: a copy for each minibatch would be waited for
            position, place = torch.as_tensor(np.stack([window, where]), device=self.device)
            cuts = np.linspace(0, len(window), -(-len(window) // size) + 1).astype(int)
            for low, high in pairwise(cuts.tolist()):
                yield position[low:high], rows.dense(place[low:high], rows.stored(where[low:high]))

    def take(self, cells: np.ndarray) -> np.ndarray:
        """Give the expression of some cells, at any positions, as a dense matrix in their order."""
        order = np.argsort(cells)
        found = np.concatenate([values.cpu().numpy() for _, values in self.minibatches(cells[order], CHUNK)])
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return found[back]


class Resident(Source):
    """A matrix that is on the device as a whole.

    Parameters
    ----------
    values
        n x g, a scipy CSR matrix or a numpy array.
    device
        Where to hold it.
    chunk, window
        See `Source`; for the order that a `Streamed` one would have.
    """

    def __init__(
        self, values: Any, device: str | torch.device = "cpu", chunk: int | None = None, window: int | None = WINDOW
    ) -> None:
        self.shape = values.shape
        self.device = torch.device(device)
        self.chunk, self.window = chunk, window
        self._all = Rows(values, self.device)

    def _rows(self, windows: list[np.ndarray]) -> Iterator[tuple[Rows, np.ndarray]]:
        for window in windows:
            yield self._all, window


class Streamed(Source):
    """A matrix of which only two windows are in memory, one in use and the next one, which is read meanwhile.

    Parameters
    ----------
    read
        Gives the cells from one position up to another, as a scipy CSR matrix or a numpy array.
    shape
        Cells and genes.
    device
        Where minibatches are made.
    chunk, window
        See `Source`. If `window` is None, each minibatch is a random sample of all cells that are shuffled, of which
        `LOADED` are read at once, from all over the file. In their order, cells are read `WINDOW` chunks at a time.
    """

    def __init__(
        self,
        read: Callable[[int, int], Any],
        shape: tuple[int, int],
        device: str | torch.device = "cpu",
        chunk: int = CHUNK,
        window: int | None = WINDOW,
    ) -> None:
        self.shape = shape
        self.device = torch.device(device)
        self.chunk, self.window = chunk, window
        self._read = read

    def _rows(self, windows: list[np.ndarray]) -> Iterator[tuple[Rows, np.ndarray]]:
        with ThreadPoolExecutor(1) as reader:
            ahead = reader.submit(self._load, windows[0]) if windows else None
            for following in [*windows[1:], None]:
                rows = ahead.result()
                ahead = None if following is None else reader.submit(self._load, following)
                yield from rows

    def _load(self, window: np.ndarray) -> list[tuple[Rows, np.ndarray]]:
        order = np.argsort(window, kind="stable")
        cells = window[order]
        parts = []
        for number in np.unique(cells // self.chunk):
            start = int(number) * self.chunk
            wanted = cells[cells // self.chunk == number] - start
            parts.append(self._read(start, min(start + self.chunk, self.shape[0]))[wanted])
        where = np.empty(len(window), dtype=np.int64)
        where[order] = np.arange(len(window))
        return [(Rows(_stacked(parts), self.device), where)]


class _Csr:
    """Rows of several CSR matrices; what `Rows` reads of a scipy matrix."""

    def __init__(self, parts: list[Any]) -> None:
        self.shape = (sum(part.shape[0] for part in parts), parts[0].shape[1])
        self.data = np.concatenate([part.data for part in parts])
        self.indices = np.concatenate([part.indices for part in parts])
        self.indptr = np.concatenate([[0], *(np.diff(part.indptr) for part in parts)]).cumsum()
        self.nnz = len(self.data)

    def toarray(self) -> np.ndarray:
        result = np.zeros(self.shape, dtype=np.float32)
        result[np.repeat(np.arange(self.shape[0]), np.diff(self.indptr)), self.indices] = self.data
        return result


def _stacked(parts: list[Any]) -> Any:
    return _Csr(parts) if hasattr(parts[0], "indptr") else np.concatenate(parts)


def _windows(
    cells: np.ndarray, chunk: int | None, window: int | None, rng: np.random.Generator | None
) -> list[np.ndarray]:
    """Cells of each window, in their order."""
    if chunk is None or (window is None and rng is not None):
        shuffled = cells if rng is None else rng.permutation(cells)
        return [shuffled] if chunk is None else np.array_split(shuffled, max(1, -(-len(cells) // LOADED)))
    window = WINDOW if window is None else window
    number = cells // chunk
    chunks = np.unique(number)
    if rng is not None:
        chunks = rng.permutation(chunks)
    parts = [cells[np.isin(number, chunks[start : start + window])] for start in range(0, len(chunks), window)]
    if len(parts) > 1 and len(parts[-1]) < 2:
        # one cell alone has no variance to be normalised by
        parts[-2:] = [np.sort(np.concatenate(parts[-2:]))]
    return parts if rng is None else [rng.permutation(part) for part in parts]
