"""Tests between groups of batches by gene: is a difference more than batches differ anyway? Arrays in, tables out.

For expression, reconstructions or projections onto batches. The unit is the batch (donor, sample) and never the cell:
cells of a batch share its chance, and a test over cells finds a difference between any two groups of batches. Every
table has the number of batches, corrected p-values (Benjamini & Hochberg 1995), and NaN for genes that nothing can be
said about. N cells, G genes, T batches.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd

# Ratios of the variances, between over within batches, at which the likelihood is first looked at, in addition to 0
_RATIOS = np.geomspace(1e-6, 1e6, 97)
_GOLDEN = (math.sqrt(5) - 1) / 2
# Splits of the batches into two groups up to which all are gone through, where values are tied
_SPLITS = 20_000


def mixed_model(
    values: np.ndarray,
    batch: np.ndarray,
    group: np.ndarray,
    genes: Sequence[str] | None = None,
    reference: Literal["t", "normal"] = "t",
) -> pd.DataFrame:
    """Fit ``value ~ group`` with a random intercept per batch to every gene, by restricted maximum likelihood.

    With a group for every batch the means and the sums of squares within batches are sufficient (Searle, Casella &
    McCulloch 1992, chapter 3): what is left is the likelihood of one number, the ratio of the variances, which is found
    for all genes at once. For batches of one size this is a test on the means of the batches.

    Where the same cells are in every batch, as in projections, what cells differ by is counted as noise, and p-values
    are somewhat too large.

    Parameters
    ----------
    values
        N x G.
    batch, group
        Group of each cell, N; two groups, every batch in one of them.
    genes
        Names.
    reference
        Distribution of the statistic: ``t`` with T - 2 degrees of freedom, or ``normal``, the Wald test of statsmodels
        and of the scMEDAL paper, whose p-values are too small with few batches.

    Returns
    -------
    pandas.DataFrame
        By gene: ``difference`` of the second group (in sorted order) from the first, ``se``, ``statistic``, ``p``,
        ``fdr``, ``variance_batch``, ``variance_cell``, and ``batches_1``, ``batches_2``: the batches of the groups.

    Raises
    ------
    ValueError
        If shapes don't fit, there are not two groups with two batches each, a batch is in both, no batch has two cells,
        or a value is not finite.
    """
    design = _Design(values, batch, group)
    means, within = design.means, design.within
    cells = len(values)
    # sums of squares that rounding leaves of a constant
    known = within > 1e-10 * np.maximum(design.squares, np.finfo(float).tiny)
    if cells == len(design.sizes):
        raise ValueError(f"the {cells} batches have a cell each, expected two or more cells in some batch")
    fit = _Likelihood(means[:, known], within[known], design.sizes, design.second, cells)
    steps = np.concatenate(([0.0], _RATIOS))
    found = np.stack([fit.deviance(np.full(known.sum(), ratio)) for ratio in steps])
    best = found.argmin(axis=0)
    # 0 is a bound: it is kept where nothing between it and the next is better
    ratio = _minimise(fit, steps[np.maximum(best - 1, 0)], steps[np.minimum(best + 1, len(steps) - 1)])
    ratio = np.where(fit.deviance(ratio) < found[0] - 1e-9, ratio, 0.0)
    difference, variance, noise = fit.estimate(ratio)
    table = pd.DataFrame(
        np.nan,
        index=design.names(genes),
        columns=["difference", "se", "statistic", "p", "fdr", "variance_batch", "variance_cell"],
    )
    table["difference"] = design.difference()
    statistic = difference / np.sqrt(variance)
    table.loc[known, "difference"] = difference
    table.loc[known, "se"] = np.sqrt(variance)
    table.loc[known, "statistic"] = statistic
    table.loc[known, "p"] = _two_sided(statistic, len(design.sizes) - 2 if reference == "t" else math.inf)
    table.loc[known, "variance_batch"] = ratio * noise
    table.loc[known, "variance_cell"] = noise
    return design.finished(table)


def mann_whitney(
    values: np.ndarray, batch: np.ndarray, group: np.ndarray, genes: Sequence[str] | None = None, seed: int = 0
) -> pd.DataFrame:
    """Compare the means of the batches by ranks: the exact, two-sided test of Mann and Whitney.

    Parameters
    ----------
    values, batch, group, genes
        As for `mixed_model`; a batch may have one cell.
    seed
        Seed of the random splits that are looked at where means are tied and the splits are more than 20,000.

    Returns
    -------
    pandas.DataFrame
        By gene: ``difference`` of the means of the groups' batches, second from first in sorted order, ``statistic`` (U
        of the second), ``p``, ``fdr``, ``smallest_p``, which no gene can go below however large its difference, and
        ``batches_1``, ``batches_2``.

    Raises
    ------
    ValueError
        As `mixed_model`, but for batches of one cell.
    """
    from scipy import stats

    design = _Design(values, batch, group)
    first, second = design.means[~design.second], design.means[design.second]
    ranked = np.sort(design.means, axis=0)
    # of sums of another order the same mean comes out with another last digit
    close = np.abs(np.diff(ranked, axis=0)) <= 1e-12 * np.abs(ranked).max(axis=0)
    tied, constant = close.any(axis=0), close.all(axis=0)
    statistic, p = np.full((2, design.means.shape[1]), np.nan)
    if not tied.all():
        statistic[~tied], p[~tied] = stats.mannwhitneyu(second[:, ~tied], first[:, ~tied], method="exact")
    some = tied & ~constant
    if some.any():
        splits = stats.PermutationMethod(n_resamples=_SPLITS, batch=100, rng=np.random.default_rng(seed))
        rank = stats.rankdata(_merged(design.means[:, some]), axis=0)
        statistic[some], p[some] = stats.mannwhitneyu(rank[design.second], rank[~design.second], method=splits)
    table = pd.DataFrame(
        {"difference": design.difference(), "statistic": statistic, "p": p, "fdr": np.nan},
        index=design.names(genes),
    )
    table["smallest_p"] = smallest_p(len(first), len(second))
    return design.finished(table)


def smallest_p(first: int, second: int) -> float:
    """Return the smallest two-sided p-value that the test of Mann and Whitney has for groups of so many batches."""
    return min(1.0, 2 / math.comb(first + second, first))


def _merged(means: np.ndarray) -> np.ndarray:
    """Round away differences that `mann_whitney` takes for ties."""
    top = np.abs(means).max(axis=0)
    return np.round(means / np.where(top > 0, top, 1), 11)


class _Design:
    """Which batch is in which group, and the sums over the cells of each."""

    def __init__(self, values: np.ndarray, batch: np.ndarray, group: np.ndarray) -> None:
        values, batch, group = np.asarray(values), np.asarray(batch), np.asarray(group)
        if values.ndim != 2 or not len(values) == len(batch) == len(group):
            raise ValueError(
                f"values have shape {values.shape}, batch {batch.shape} and group {group.shape}, expected cells x "
                "genes and one of each per cell"
            )
        names, code = np.unique(batch, return_inverse=True)
        groups, side = np.unique(group, return_inverse=True)
        if len(groups) != 2:
            raise ValueError(f"{len(groups)} groups were given, expected two")
        first = np.array([side[code == k].min() for k in range(len(names))])
        for k, name in enumerate(names):
            if (side[code == k] != first[k]).any():
                raise ValueError(f"batch {name} has cells of both groups, expected each batch in one of them")
        self.counts = np.bincount(first, minlength=2)
        if self.counts.min() < 2:
            raise ValueError(
                f"group {groups[self.counts.argmin()]} has {self.counts.min()} batch, expected two or more in each: "
                "without that a difference cannot be told from chance, however many cells there are"
            )
        self.second = first == 1
        self.sizes = np.bincount(code)
        self.means = np.empty((len(names), values.shape[1]))
        self.within, self.squares = np.zeros((2, values.shape[1]))
        for k in range(len(names)):
            cells = values[code == k].astype(np.float64)
            self.means[k] = cells.mean(axis=0)
            self.within += ((cells - self.means[k]) ** 2).sum(axis=0)
            self.squares += (cells**2).sum(axis=0)
        if not np.isfinite(self.squares).all():
            raise ValueError(f"values of gene {int(np.argmin(np.isfinite(self.squares)))} are not all finite numbers")

    def difference(self) -> np.ndarray:
        """Difference of the means of the groups' batches."""
        return self.means[self.second].mean(axis=0) - self.means[~self.second].mean(axis=0)

    def names(self, genes: Sequence[str] | None) -> pd.Index:
        if genes is not None and len(genes) != self.means.shape[1]:
            raise ValueError(f"{len(genes)} names of genes were given for {self.means.shape[1]} columns")
        return pd.RangeIndex(self.means.shape[1], name="gene") if genes is None else pd.Index(genes, name="gene")

    def finished(self, table: pd.DataFrame) -> pd.DataFrame:
        from scipy.stats import false_discovery_control

        known = table["p"].notna().to_numpy()
        if known.any():
            table.loc[known, "fdr"] = false_discovery_control(table["p"].to_numpy()[known])
        return table.assign(batches_1=self.counts[0], batches_2=self.counts[1])


class _Likelihood:
    """Restricted likelihood of the ratio of the variances, for all genes at once."""

    def __init__(
        self, means: np.ndarray, within: np.ndarray, sizes: np.ndarray, second: np.ndarray, cells: int
    ) -> None:
        self.means, self.within, self.sizes, self.cells = means, within, sizes[:, None].astype(float), cells
        self.sides = (~second, second)

    def deviance(self, ratio: np.ndarray) -> np.ndarray:
        """Return -2 x the logarithm of the restricted likelihood, but for a constant, at one ratio per gene."""
        weight, _, misfit = self._weighted(ratio)
        shrinkage = np.log1p(self.sizes * ratio).sum(axis=0)
        information = sum(np.log(weight[side].sum(axis=0)) for side in self.sides)
        return (self.cells - 2) * np.log(self.within + misfit) + shrinkage + information

    def estimate(self, ratio: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the difference between the groups, its variance, and the variance within batches."""
        weight, centres, misfit = self._weighted(ratio)
        noise = (self.within + misfit) / (self.cells - 2)
        variance = noise * sum(1 / weight[side].sum(axis=0) for side in self.sides)
        return centres[1] - centres[0], variance, noise

    def _weighted(self, ratio: np.ndarray) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
        weight = self.sizes / (1 + self.sizes * ratio)
        centres = [(weight[side] * self.means[side]).sum(axis=0) / weight[side].sum(axis=0) for side in self.sides]
        parts = zip(self.sides, centres, strict=True)
        misfit = sum((weight[side] * (self.means[side] - centre) ** 2).sum(axis=0) for side, centre in parts)
        return weight, centres, misfit


def _minimise(fit: _Likelihood, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Golden section search between two ratios per gene, of their logarithm unless the lower one is 0."""
    # the grid's first step from 0 is so short that its logarithm serves there, too
    low, high = np.log(np.maximum(low, _RATIOS[0] / 100)), np.log(high)
    for _ in range(60):
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        smaller = fit.deviance(np.exp(left)) < fit.deviance(np.exp(right))
        low, high = np.where(smaller, low, left), np.where(smaller, right, high)
    return np.exp((low + high) / 2)


def _two_sided(statistic: np.ndarray, freedom: float) -> np.ndarray:
    from scipy import stats

    reference = stats.norm if math.isinf(freedom) else stats.t(freedom)
    return 2 * reference.sf(np.abs(statistic))
