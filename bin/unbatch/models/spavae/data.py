"""The spots of a fit, and what of their counts is refused."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from unbatch.models.spavae import positions
from unbatch.nn.minibatches import Resident, Source

LARGEST_DENSE = 250_000_000
"""Spots times genes up to which counts are held dense, which is faster: 1 GB."""


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
        The counts, a CSR matrix or an array; None where only minibatches are needed.
    """

    source: Source
    points: np.ndarray
    section: np.ndarray
    batch: np.ndarray
    counts: Any = None

    @classmethod
    def of(
        cls,
        counts: Any,
        points: np.ndarray,
        section: np.ndarray | None = None,
        batch: np.ndarray | None = None,
        device: str = "cpu",
    ) -> Self:
        """Take counts (n x G, a scipy CSR matrix or an array) and, where there are several, sections and batches."""
        none = np.zeros(counts.shape[0], dtype=np.int64)
        section = none if section is None else section
        small = counts.shape[0] * counts.shape[1] <= LARGEST_DENSE
        held = counts.toarray() if small and hasattr(counts, "toarray") else counts
        source = Resident(held.astype(np.float32), device)
        points = np.asarray(points, dtype=np.float64)
        return cls(source, points, section, section if batch is None else batch, counts)

    def __len__(self) -> int:
        return self.source.shape[0]

    @property
    def batches(self) -> int:
        """Number of batches, K."""
        return int(self.batch.max()) + 1

    def rows(self, cells: np.ndarray) -> Any:
        """Give the counts of some spots."""
        return self.counts if len(cells) == len(self) else self.counts[cells]

    def depth(self, cells: np.ndarray) -> float:
        """Count the molecules of the median spot."""
        return float(np.median(np.asarray(self.counts.sum(1)).ravel()[cells]))


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
    values = spots.counts.data if hasattr(spots.counts, "indptr") else np.asarray(spots.counts).ravel()
    wrong = ~np.isfinite(values) | (values < 0) | (values != np.rint(values))
    if wrong.any():
        raise ValueError(
            f"{int(wrong.sum())} counts are not whole numbers of 0 or more, the first is {values[wrong][0]:g}: a "
            "negative binomial needs counts of molecules, neither logarithms nor normalised ones"
        )
    totals = np.asarray(spots.counts.sum(1)).ravel()
    empty = int((totals[cells] == 0).sum())
    if empty:
        raise ValueError(f"{empty} of {len(cells)} spots have no count, expected spots with counts only")
    positions.require(spots.points[cells], spots.section[cells], names)
