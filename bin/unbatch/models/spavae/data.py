"""The spots of a fit, and what of their counts is refused."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from scipy import sparse

from unbatch.models.spavae import positions
from unbatch.nn.minibatches import CHUNK, Resident, Source, Streamed

LARGEST_DENSE = 250_000_000
"""Spots times genes up to which counts are held dense, which is faster: 1 GB."""


@dataclass(frozen=True)
class Stored:
    """Counts in a file, of which only some neighbouring spots are in memory.

    Attributes
    ----------
    read
        Gives the counts of the spots from one position up to another, a scipy CSR matrix.
    shape
        Spots and genes.
    """

    read: Callable[[int, int], Any]
    shape: tuple[int, int]

    def blocks(self, cells: np.ndarray) -> Iterator[tuple[np.ndarray, Any]]:
        """Yield sorted positions of spots and their counts, of neighbouring ones at a time."""
        for start in range(0, self.shape[0], CHUNK):
            stop = min(start + CHUNK, self.shape[0])
            low, high = np.searchsorted(cells, [start, stop])
            if low < high:
                found = self.read(start, stop)
                rows = cells[low:high]
                yield rows, found if len(rows) == stop - start else found[rows - start]

    def only(self, cells: np.ndarray) -> "Stored":
        """Give the counts of some spots at sorted positions."""

        def read(start: int, stop: int) -> Any:
            return sparse.vstack([found for _, found in self.blocks(cells[start:stop])], format="csr")

        return Stored(read, (len(cells), self.shape[1]))


@dataclass(frozen=True)
class Spots:
    """Counts and where they are from.

    Attributes
    ----------
    source
        Counts in minibatches, n x G.
    points
        Coordinates, n x d, in any unit, which may differ between sections.
    section
        Codes 0 ... B-1 of what has a coordinate system of its own, n.
    batch
        Codes 0 ... K-1 of what the decoder is told, n; -1 for one that the fit has not seen.
    counts
        The counts, a CSR matrix, an array, or `Stored`, of which the methods below read blocks of spots one after
        another.
    """

    source: Source
    points: np.ndarray
    section: np.ndarray
    batch: np.ndarray
    counts: Any

    @classmethod
    def of(
        cls,
        counts: Any,
        points: np.ndarray,
        section: np.ndarray | None = None,
        batch: np.ndarray | None = None,
        device: str = "cpu",
    ) -> Self:
        """Take counts (n x G, CSR, an array or `Stored`) and, where there are several, sections and batches."""
        none = np.zeros(counts.shape[0], dtype=np.int64)
        section = none if section is None else section
        if isinstance(counts, Stored):
            # shuffled among all: a minibatch of neighbours would say nothing of the rest of the tissue
            source: Source = Streamed(counts.read, counts.shape, device, CHUNK, window=None)
        else:
            small = counts.shape[0] * counts.shape[1] <= LARGEST_DENSE
            held = counts.toarray() if small and hasattr(counts, "toarray") else counts
            source = Resident(held.astype(np.float32, copy=False), device)
        points = np.asarray(points, dtype=np.float64)
        return cls(source, points, section, section if batch is None else batch, counts)

    def __len__(self) -> int:
        return self.source.shape[0]

    @property
    def batches(self) -> int:
        """Number of batches, K."""
        return int(self.batch.max()) + 1

    def blocks(self, cells: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, Any]]:
        """Yield sorted positions of spots, by default all, and their counts: at once where these are held."""
        cells = np.arange(len(self)) if cells is None else cells
        if isinstance(self.counts, Stored):
            yield from self.counts.blocks(cells)
        else:
            yield cells, self.rows(cells)

    def rows(self, cells: np.ndarray) -> Any:
        """Give the counts of some spots at sorted positions: a matrix, or `Stored`."""
        if len(cells) == len(self):
            return self.counts
        return self.counts.only(cells) if isinstance(self.counts, Stored) else self.counts[cells]

    def array(self, cells: np.ndarray | None = None, genes: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Give the counts of some spots, by default all, and genes as an array, which has to fit in memory."""
        return np.concatenate([dense(found[:, genes]) for _, found in self.blocks(cells)])

    def only(self, cells: np.ndarray, section: np.ndarray | None = None, batch: np.ndarray | None = None) -> Self:
        """Give some spots at sorted positions, with their codes or with others."""
        section = self.section[cells] if section is None else section
        batch = self.batch[cells] if batch is None else batch
        return type(self).of(self.rows(cells), self.points[cells], section, batch, str(self.source.device))

    @cached_property
    def totals(self) -> np.ndarray:
        """Counts of each spot, n."""
        return np.concatenate([np.asarray(found.sum(1)).ravel() for _, found in self.blocks()])

    def of_genes(self, cells: np.ndarray) -> np.ndarray:
        """Add up the counts of each gene over some spots, G."""
        total = None
        for _, found in self.blocks(cells):
            own = np.asarray(found.sum(0)).ravel()
            total = own if total is None else total + own.astype(np.float64)
        return total

    def depth(self, cells: np.ndarray) -> float:
        """Count the molecules of the median spot."""
        return float(np.median(self.totals[cells]))


def dense(counts: Any) -> np.ndarray:
    """Give a CSR matrix or an array as an array."""
    return counts.toarray() if hasattr(counts, "toarray") else np.asarray(counts)


def require(spots: Spots, cells: np.ndarray, names: list[str] | None = None) -> None:
    """Refuse what can't be fitted.

    Parameters
    ----------
    spots
        The spots.
    cells
        Those that are fitted.
    names
        Names of the sections by code, for messages.

    Raises
    ------
    ValueError
        If positions can't be used (`positions.require`), counts are not whole numbers of 0 or more, a spot or all
        genes have none, or a section or batch is not among the spots that are fitted.
    """
    shape = spots.source.shape
    for name, codes in (("section", spots.section), ("batch", spots.batch)):
        if codes.shape != (shape[0],):
            raise ValueError(f"{name} has shape {codes.shape}, expected a code for each of {shape[0]} spots")
        absent = set(np.unique(codes).tolist()) - set(np.unique(codes[cells]).tolist())
        if absent:
            raise ValueError(f"no spot of {name} {min(absent)} is among those that are fitted, expected some of each")
    number, first = 0, 0.0
    for _, found in spots.blocks():
        values = found.data if hasattr(found, "indptr") else np.asarray(found).ravel()
        wrong = ~np.isfinite(values) | (values < 0) | (values != np.rint(values))
        if wrong.any():
            number, first = number + int(wrong.sum()), first if number else values[wrong][0]
    if number:
        raise ValueError(
            f"{number} counts are not whole numbers of 0 or more, the first is {first:g}: a "
            "negative binomial needs counts of molecules, neither logarithms nor normalised ones"
        )
    empty = int((spots.totals[cells] == 0).sum())
    if empty:
        raise ValueError(f"{empty} of {len(cells)} spots have no count, expected spots with counts only")
    positions.require(spots.points[cells], spots.section[cells], names)
