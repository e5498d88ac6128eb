"""Samples of cells that keep the shares of groups."""

import numpy as np


def stratified_sample(strata: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Draw cells without replacement such that every stratum keeps its share, and none is lost.

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


def medoids(embedding: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Choose a typical cell of each group: the one that is nearest to the mean of the group.

    Parameters
    ----------
    embedding
        n x d.
    group
        n codes; cells of -1 are in no group.

    Returns
    -------
    np.ndarray
        A position for each group, the largest group first.
    """
    codes, counts = np.unique(group[group >= 0], return_counts=True)
    found = []
    for code in codes[np.argsort(-counts, kind="stable")]:
        cells = np.flatnonzero(group == code)
        distance = np.linalg.norm(embedding[cells] - embedding[cells].mean(axis=0), axis=1)
        found.append(cells[distance.argmin()])
    return np.array(found, dtype=np.int64)
