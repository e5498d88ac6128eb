"""How well a fit finds the truth of a simulation: metagenes, amounts, batch effect. Arrays in, numbers out.

G genes, K metagenes, T batches, N cells. What can't be computed, as an estimate is the same everywhere, is NaN.
"""

from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np


@dataclass(frozen=True, eq=False)
class Truth:
    """Truth of a simulation in the units of a fit.

    Attributes
    ----------
    metagenes
        G x K, columns sum to 1.
    amounts
        N x K, in counts.
    beta
        T x K, in counts.
    offset
        T x G, as seen in the counts: after a gene's factor.
    factor
        T x G; the mean over batches of its logarithm is 0.
    """

    metagenes: np.ndarray
    amounts: np.ndarray
    beta: np.ndarray
    offset: np.ndarray
    factor: np.ndarray


def in_units_of_fit(
    metagenes: np.ndarray, amounts: np.ndarray, beta: np.ndarray, factor: np.ndarray, scale: float = 1.0
) -> Truth:
    """Write the mean ``scale * ((amounts + beta) @ metagenes.T) * factor`` as a fit does, without changing it.

    A fit has it as ``offset + factor * (amounts @ metagenes.T)``.

    What all batches share of a gene's factor can't be told from its weight in the metagenes, and the weights of fewer
    genes than were simulated do not sum to 1: both are moved to where a fit has them.

    Parameters
    ----------
    metagenes
        G x K, of the genes that the fit used.
    amounts
        N x K.
    beta
        T x K.
    factor
        T x G, of the same genes.
    scale
        Counts per unit of the amounts.
    """
    shared = np.exp(np.log(factor).mean(axis=0))
    weights = metagenes * shared[:, None]
    size = weights.sum(axis=0)
    return Truth(
        metagenes=weights / size,
        amounts=amounts * (scale * size),
        beta=beta * (scale * size),
        offset=scale * (beta @ weights.T) * (factor / shared),
        factor=factor / shared,
    )


def in_cell_sizes_of(truth: Truth, factor: np.ndarray, batch: np.ndarray) -> Truth:
    """Move what the genes of a batch share of their factors to where an estimate has it, without changing the mean.

    A factor of all genes of a batch can't be told from the size of its cells. So the median over genes of the
    difference between estimated and true logarithms is added to the true ones and subtracted from amounts and beta. The
    offset, as it is seen in the counts, stays.

    Parameters
    ----------
    truth
        In any units.
    factor
        Estimated factors, T x G.
    batch
        Batch of each cell, N.
    """
    shared = np.exp(np.median(np.log(factor) - np.log(truth.factor), axis=1, keepdims=True))
    return replace(truth, amounts=truth.amounts / shared[batch], beta=truth.beta / shared, factor=truth.factor * shared)


def correlation(estimate: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Pearson correlation of each column of the one with each column of the other, (columns, columns)."""
    first, second = (_standardised(each) for each in (estimate, truth))
    return first.T @ second


def _standardised(values: np.ndarray) -> np.ndarray:
    centred = np.asarray(values, dtype=np.float64) - np.mean(values, axis=0, dtype=np.float64)
    norm = np.linalg.norm(centred, axis=0)
    # rounding leaves a little of a constant
    constant = norm <= 1e-9 * np.linalg.norm(values, axis=0)
    return np.where(constant, np.nan, centred / np.where(constant, 1, norm))


def match_metagenes(estimate: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Match metagenes one to one such that the sum of their correlations over genes is largest.

    Parameters
    ----------
    estimate, truth
        G x K each; the numbers of metagenes may differ, then the smaller one is matched.

    Returns
    -------
    estimated, true : np.ndarray
        Indices of the partners, in the order of `true`.
    correlation : np.ndarray
        Correlation of each pair.
    """
    from scipy.optimize import linear_sum_assignment

    table = correlation(estimate, truth)
    # a metagene without any weight is like none: any other partner is better
    true, estimated = linear_sum_assignment(np.nan_to_num(table, nan=-1.0).T, maximize=True)
    return estimated, true, table[estimated, true]


def offset_recovery(offset: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Compare offsets in gene space.

    The differences of all pairs of batches are compared as one long vector. Their sums of squares and products are T
    times those of the deviations from the mean over batches, which are used instead.

    Parameters
    ----------
    offset, truth
        T x G.

    Returns
    -------
    dict
        ``cosine`` and ``relative_error`` (norm of the error over norm of the truth) of the differences between
        batches, ``total_error``: absolute error of the sum over genes and batches, over the true sum.
    """
    found, true = (each - np.mean(each, axis=0) for each in (offset, truth))
    norms = np.linalg.norm(found), np.linalg.norm(true)
    total = np.sum(truth)
    return {
        "cosine": float(np.sum(found * true) / np.prod(norms)) if all(norms) else np.nan,
        "relative_error": float(np.linalg.norm(found - true) / norms[1]) if norms[1] else np.nan,
        "total_error": float(abs(np.sum(offset) - total) / total) if total else np.nan,
    }


def coverage(estimate: np.ndarray, se: np.ndarray, truth: np.ndarray, level: float = 0.9) -> float:
    """Share of the truths within ``estimate +- z * se``, which should be `level`.

    Parameters
    ----------
    estimate, se, truth
        Arrays of one shape. Where there is no standard error, or 0, there is no interval: these are left out.
    level
        Level of the intervals of a normal distribution.
    """
    with_interval = np.isfinite(estimate) & np.isfinite(se) & (np.asarray(se) > 0)
    if not with_interval.any():
        return float("nan")
    width = NormalDist().inv_cdf((1 + level) / 2) * se[with_interval]
    return float(np.mean(np.abs(estimate - truth)[with_interval] <= width))


def factor_correlation(factor: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Correlation over genes of the logarithms of gene-wise factors with the true ones, by batch.

    Parameters
    ----------
    factor, truth
        T x G. Only what differs between batches counts: the mean logarithm of each gene is subtracted.

    Returns
    -------
    np.ndarray
        Shape (T,).
    """
    found, true = (np.log(each) for each in (factor, truth))
    found, true = (_standardised((each - each.mean(axis=0)).T) for each in (found, true))
    return np.sum(found * true, axis=0)
