"""Samples of cells that keep the shares of groups."""

import numpy as np


def stratified_sample(strata: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Draw cells without replacement so that every stratum keeps its share, and none is lost.

    Parameters
    ----------
    strata
        n codes.
    size
        Cells to draw; all are returned when there are no more than that.
    seed
        Seed of the draw.

    Returns
    -------
    np.ndarray
        Sorted positions. At least one cell of each stratum is kept, so with many tiny strata there can be a few
        more than `size`.
    """
    if len(strata) <= size:
        return np.arange(len(strata))
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(strata))
    codes = np.unique(strata, return_inverse=True)[1][shuffled]
    order = np.argsort(codes, kind="stable")
    counts = np.bincount(codes)
    rank = np.empty(len(strata), dtype=np.int64)
    rank[order] = np.arange(len(strata)) - np.repeat(np.cumsum(counts) - counts, counts)
    # rounding by largest remainder: shares as near to proportional as whole cells can be
    exact = counts * (size / len(strata))
    quota = np.maximum(np.floor(exact).astype(np.int64), 1)
    short = size - quota.sum()
    if short > 0:
        quota[np.argsort(np.floor(exact) - exact, kind="stable")[:short]] += 1
    return np.sort(shuffled[rank < quota[codes]])
