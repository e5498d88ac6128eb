"""What a method does to data without a batch effect: which neighbours it displaces, which genes it changes.

The cells of one batch are called two batches (`unbatch.data.halves`). Fits to different splits of the same cells, and
fits with different seeds to the same split, are compared cell by cell. Arrays in, numbers out: N cells, G genes, k
neighbours, S seeds, g groups of cells that are left out in turn.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import false_discovery_control, norm

from unbatch.metrics.uncertainty import Interval, Sample, difference, interval

NEIGHBOURS = 15
"""Nearest cells that are a neighbourhood, the cell itself left out."""

FDR = 0.05
"""False discovery rate at which a gene is called changed."""

FEWEST_WITH_COUNTS = 20
"""Cells with counts of a gene that a test needs: the sum over fewer is not near a normal distribution."""

LEAST_EXCESS = 0.02
"""Share of neighbours, or of a neighbourhood's own kind, that must be lost for it to be said; smaller is negligible."""

MOST_CALLED = 0.01
"""Share of genes that may be called changed where no gene is."""

_BLOCK = 4096


def lost(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Share of each cell's neighbours that are no longer among its neighbours, N.

    Parameters
    ----------
    one, other
        Positions of the neighbours in two embeddings, N x k, without the cell itself.
    """
    found = np.empty(len(one))
    for start in range(0, len(one), _BLOCK):
        rows = slice(start, start + _BLOCK)
        found[rows] = 1 - (one[rows, :, None] == other[rows, None, :]).any(axis=2).mean(axis=1)
    return found


def own_kind(near: np.ndarray, kind: np.ndarray) -> np.ndarray:
    """Share of each cell's neighbours, N x k, that are of its kind (N codes), N; NaN for cells of -1."""
    alike = (kind[near] == kind[:, None]).mean(axis=1)
    return np.where(kind >= 0, alike, np.nan)


def over_cells(values: Sequence[np.ndarray], group: np.ndarray) -> Sample:
    """Mean over cells by fit, with each group of cells left out.

    Parameters
    ----------
    values
        For each of S fits (or pairs of fits) the values of the N cells; NaN for cells that do not count.
    group
        Group of each cell, N.
    """
    values = np.asarray(values, dtype=np.float64)
    groups = int(group.max()) + 1
    known = np.isfinite(values)
    sums, counts = (
        np.stack([np.bincount(group, row, groups) for row in each])
        for each in (np.where(known, values, 0.0), known.astype(np.float64))
    )
    total, number = sums.sum(axis=1), counts.sum(axis=1)
    return Sample(total / number, (total[:, None] - sums) / (number[:, None] - counts))


@dataclass(frozen=True)
class Change:
    """What is lost to a split, and to a seed; `excess` is by how much the split loses more, None without a second seed.

    Attributes
    ----------
    lost
        Share of neighbours that fits to the split have not in common with fits to another random split.
    noise
        The same between seeds, mean over the two splits.
    excess
        The first less the second.
    """

    lost: Interval
    noise: Interval | None
    excess: Interval | None

    @property
    def beyond(self) -> bool | None:
        """Whether the split displaces more than another seed by more than is negligible; None where it is not known."""
        return None if self.excess is None else bool(self.excess.low > LEAST_EXCESS)


def displacement(
    near: Sequence[np.ndarray], reference: Sequence[np.ndarray], group: np.ndarray, comparisons: int = 1
) -> Change:
    """Compare neighbourhoods of fits to a split with those of fits to the reference.

    Parameters
    ----------
    near, reference
        Neighbours in the fits, N x k each, by seed; both have the same S seeds.
    group
        Group of each cell, N.
    comparisons
        How many intervals of the excess are to hold at once.
    """
    moved = over_cells([lost(one, other) for one, other in zip(near, reference, strict=True)], group)
    pairs = [lost(fits[i], fits[i + 1]) for fits in (near, reference) for i in range(len(fits) - 1)]
    if not pairs:
        return Change(interval(moved), None, None)
    noise = over_cells(pairs, group)
    return Change(interval(moved), interval(noise), difference(moved, noise, comparisons, of_methods=False))


def between_halves(values: np.ndarray, half: np.ndarray, stratum: np.ndarray) -> np.ndarray:
    """Test every gene for a difference between halves within strata; two-sided p-values, G, NaN for constant genes.

    Within strata, cells were drawn into halves at random: the sum over a half is compared with the exact mean and
    variance of such draws (a stratified permutation test by its normal approximation). No distribution of the values
    is assumed, and composition does not count.

    Parameters
    ----------
    values
        N x G.
    half
        0 or 1 for each cell, N.
    stratum
        Within what cells are compared, N codes.
    """
    excess, variance, squares = np.zeros((3, values.shape[1]))
    for code in np.unique(stratum):
        cells = np.flatnonzero(stratum == code)
        n, first = len(cells), half[cells] == 1
        drawn = int(first.sum())
        if drawn in (0, n):
            continue
        part = np.asarray(values[cells], dtype=np.float64)
        squares += np.square(part).sum(axis=0)
        part = part - part.mean(axis=0)
        excess += part[first].sum(axis=0)
        variance += drawn * (n - drawn) / (n * (n - 1)) * np.square(part).sum(axis=0)
    # what rounding leaves of a constant
    known = variance > 1e-10 * np.maximum(squares, np.finfo(float).tiny)
    return np.where(known, 2 * norm.sf(np.abs(excess) / np.sqrt(np.where(known, variance, 1.0))), np.nan)


def called(p: np.ndarray, fdr: float = FDR) -> float:
    """Share of genes that are called changed (Benjamini & Hochberg 1995), of those with a p-value; NaN without any."""
    p = p[np.isfinite(p)]
    return float((false_discovery_control(p) <= fdr).mean()) if len(p) else float("nan")


def excluding_one(factor: np.ndarray, log_error: np.ndarray) -> float:
    """Share of factors, T x G, whose 95% interval excludes 1, from the standard errors of their logarithms."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return float((np.abs(np.log(factor)) > norm.ppf(0.975) * log_error).mean())
