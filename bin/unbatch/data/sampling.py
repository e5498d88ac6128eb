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
    codes, counts = np.unique(strata, return_counts=True)
    share = counts * size / len(strata)
    quota = np.maximum(np.floor(share).astype(int), 1)
    # the largest remainders get what is left; strata raised to one cell may have used it up
    left = max(size - int(quota.sum()), 0)
    quota[np.argsort(quota - share, kind="stable")[:left]] += 1
    rng = np.random.default_rng(seed)
    drawn = [rng.choice(np.flatnonzero(strata == c), n, replace=False) for c, n in zip(codes, quota, strict=True)]
    return np.sort(np.concatenate(drawn))
