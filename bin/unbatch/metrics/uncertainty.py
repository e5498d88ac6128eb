"""How far a score can be trusted: one rule, over seeds and over cells, for every sentence that compares.

A score of a method is a mean over fits with different seeds, each scored on the same cells. Its variance has three
parts:

- *cells*: what other cells of the same tissue would have given. Cells are dealt into `GROUPS` groups, and every score
  is computed with each group left out (delete-a-group jackknife). All methods have the same groups, which gives the
  difference of two methods replicates of its own, in which what both share cancels out;
- *seeds*: the variance between fits over their number;
- *clustering*: k-means started elsewhere gives another NMI and ARI for the same embedding. Where seeds differ by less
  than that, it takes their place.

The interval is Student's t with Satterthwaite's degrees of freedom. Several comparisons with the same method each
have the level 1 - (1 - `LEVEL`) / comparisons (Bonferroni), and all hold at once. Arrays in, numbers out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom
from scipy.stats import t as student

LEVEL = 0.95
"""Coverage of an interval, or of all intervals of a family at once."""

GROUPS = 20
"""Groups of cells that are left out in turn."""

MIN_SEEDS = 2
"""Fits below which nothing is known of the spread over seeds."""


@dataclass(frozen=True)
class Interval:
    """A mean and its interval, not cut at 0 or 1; the ends are NaN where there is none."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float], held_out: float = 0.0) -> "Interval":
        """Student's t interval of a mean; fewer than three values have none.

        Parameters
        ----------
        values
            Independent, or of classifiers on splits of the same cells. Fits to overlapping parts of the data are not
            independent: the variance of their mean is that of the splits times (1 / splits + cells held out / cells
            fitted to), after Nadeau & Bengio (2003).
        held_out
            Cells held out per cell fitted to, mean over splits; 0 for independent values.
        """
        mean, n = float(np.mean(values)), len(values)
        if n < 3:
            return cls(mean, math.nan, math.nan)
        return student_interval(mean, [(float(np.var(values, ddof=1)) * (1 / n + held_out), n - 1)])

    @property
    def above(self) -> bool:
        """Whether all of it lies above 0."""
        return self.low > 0

    @property
    def below(self) -> bool:
        """Whether all of it lies below 0."""
        return self.high < 0


@dataclass(frozen=True, eq=False)
class Sample:
    """A score of one method: a value per seed, and how it changes with the cells.

    Attributes
    ----------
    values
        The score by seed, S.
    replicates
        The same with each group of cells left out, S x groups; None where that is not known.
    clustering
        Variance of a value between starts of the clustering, mean over seeds; 0 where nothing is clustered.
    """

    values: np.ndarray
    replicates: np.ndarray | None
    clustering: float = 0.0

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return float(np.mean(self.values))

    @property
    def by_seed(self) -> tuple[float, float]:
        """Variance of the mean that is due to fit and clustering, and its degrees of freedom."""
        n = len(self.values)
        spread = float(np.var(self.values, ddof=1)) if n > 1 else 0.0
        # fits that are all alike have drawn one start of the clustering between them
        floor = self.clustering / (n if spread > 0 else 1)
        return (spread / n, n - 1) if spread / n >= floor else (floor, CLUSTERINGS - 1)


CLUSTERINGS = 8
"""Starts of k-means from which the variance of NMI and ARI is estimated."""


def deal(strata: np.ndarray, seed: int, groups: int = GROUPS) -> np.ndarray:
    """Deal cells into groups at random, those of each stratum as evenly as they go.

    Parameters
    ----------
    strata
        Code of each cell, n.
    seed
        Seed of the draw.
    groups
        Number of groups; n where there are fewer cells.

    Returns
    -------
    np.ndarray
        Group of each cell, n.
    """
    order = np.random.default_rng(seed).permutation(len(strata))
    order = order[np.argsort(strata[order], kind="stable")]
    group = np.empty(len(strata), dtype=np.int64)
    # numbered on from stratum to stratum, to make groups of one size
    group[order] = np.arange(len(strata)) % min(groups, len(strata))
    return group


def jackknife_variance(replicates: np.ndarray) -> float:
    """Variance of a statistic from its values with each of g groups of cells left out, g."""
    g = len(replicates)
    return float((g - 1) / g * np.square(replicates - np.mean(replicates)).sum())


def student_interval(mean: float, parts: Sequence[tuple[float, float]], comparisons: int = 1) -> Interval:
    """Interval of a mean whose variance is the sum of parts that were estimated apart.

    Parameters
    ----------
    mean
        The mean.
    parts
        Variance and degrees of freedom of each part.
    comparisons
        How many such intervals are to hold at once.
    """
    variance = sum(part for part, _ in parts)
    if not variance > 0:
        # an estimate without any spread, as of scores that are all 0 or 1
        return Interval(mean, mean, mean) if variance == 0 else Interval(mean, math.nan, math.nan)
    freedom = variance**2 / sum(part**2 / n for part, n in parts if part > 0)
    half = float(student.ppf(1 - (1 - LEVEL) / 2 / comparisons, freedom)) * math.sqrt(variance)
    return Interval(mean, mean - half, mean + half)


def interval(sample: Sample, comparisons: int = 1) -> Interval:
    """Interval of a score over cells, and over seeds where there are several.

    Parameters
    ----------
    sample
        The score; without replicates there is no interval.
    comparisons
        As in `student_interval`.
    """
    return _interval(sample.mean, sample.replicates, [sample.by_seed], comparisons)


def difference(one: Sample, other: Sample, comparisons: int = 1, *, of_methods: bool = True) -> Interval:
    """Interval of what one method scores more than another on the same cells.

    Parameters
    ----------
    one, other
        Scores of the two.
    comparisons
        As in `student_interval`.
    of_methods
        Whether it is the methods that are compared, which takes `MIN_SEEDS` fits of each, or just these fits.
    """
    paired = None
    if of_methods and min(len(one.values), len(other.values)) < MIN_SEEDS:
        return Interval(one.mean - other.mean, math.nan, math.nan)
    if one.replicates is not None and other.replicates is not None:
        a, b = one.replicates.mean(axis=0), other.replicates.mean(axis=0)
        paired = (a - b)[None] if a.shape == b.shape else None
    return _interval(one.mean - other.mean, paired, [one.by_seed, other.by_seed], comparisons)


def above_level(sample: Sample, level: float, comparisons: int = 1) -> Interval:
    """Interval of what a score has over a number that is known, such as chance; parameters as of `interval`."""
    found = interval(sample, comparisons)
    return Interval(found.mean - level, found.low - level, found.high - level)


def _interval(
    mean: float, replicates: np.ndarray | None, by_seed: list[tuple[float, float]], comparisons: int
) -> Interval:
    if replicates is None or replicates.shape[1] < 2 or not np.isfinite(replicates).all():
        return Interval(mean, math.nan, math.nan)
    cells = jackknife_variance(replicates.mean(axis=0)), replicates.shape[1] - 1
    return student_interval(mean, [cells, *by_seed], comparisons)


def over_seeds(values: np.ndarray, comparisons: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Average simulations, whose seeds draw cells anew, over the last axis, with Student's t interval.

    Parameters
    ----------
    values
        Any shape; NaN is left out.
    comparisons
        As in `student_interval`.

    Returns
    -------
    mean
        NaN where there is no value.
    half
        Half the width of the interval; NaN where there are fewer than two values.
    count
        Number of values.
    """
    known = np.isfinite(values)
    count = known.sum(axis=-1)
    filled = np.where(known, values, 0.0)
    mean = np.where(count > 0, filled.sum(axis=-1) / np.maximum(count, 1), np.nan)
    squares = np.where(known, (values - mean[..., None]) ** 2, 0.0).sum(axis=-1)
    freedom = np.maximum(count - 1, 1)
    half = student.ppf(1 - (1 - LEVEL) / 2 / comparisons, freedom)
    half = half * np.sqrt(squares / freedom / np.maximum(count, 1))
    return mean, np.where(count > 1, half, np.nan), count


def more_than_chance(count: int, of: int) -> bool:
    """Whether an interval lies above 0 in more of several independent cases than it would if nothing were there.

    Parameters
    ----------
    count, of
        Number of cases in which it does, and of all.
    """
    return count > 0 and float(binom.sf(count - 1, of, (1 - LEVEL) / 2)) < 1 - LEVEL


def widened(replicates: np.ndarray, splits: int, held_out: float) -> np.ndarray:
    """Widen replicates that hold the chance of the cells to predict only, for that of the cells to fit to.

    The variance is multiplied by 1 + splits x cells held out / cells fitted to, as in `Interval.of`.

    Parameters
    ----------
    replicates
        Accuracy with each group of the held-out cells left out, g.
    splits
        Times that a classifier was fitted.
    held_out
        Cells held out per cell fitted to, mean over splits.
    """
    centre = replicates.mean()
    return centre + (replicates - centre) * math.sqrt(1 + splits * held_out)
