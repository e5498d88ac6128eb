"""Which cells train, which choose when to stop, which test."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Parts:
    """Sorted positions of the cells of each part."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def of_fold(split: np.ndarray, fold: int) -> Parts:
    """Test on one fold, validate on the next one, train on the others.

    Parameters
    ----------
    split
        Fold of each cell, 0 ... F-1, n.
    fold
        The one to test on.

    Raises
    ------
    ValueError
        If there are fewer than three folds, or there is no such fold.
    """
    folds = int(split.max()) + 1
    if folds < 3 or not 0 <= fold < folds:
        raise ValueError(f"fold {fold} of {folds}: expected three folds or more, and one of 0 to {folds - 1}")
    following = (fold + 1) % folds
    return Parts(
        np.flatnonzero((split != fold) & (split != following)),
        np.flatnonzero(split == following),
        np.flatnonzero(split == fold),
    )


def without_batch(batch: np.ndarray, split: np.ndarray, held_out: int) -> tuple[Parts, np.ndarray]:
    """Test on one batch, of which training knows nothing; validate on fold 0 of the others.

    Parameters
    ----------
    batch
        Codes 0 ... K-1, n.
    split
        Fold of each cell, n.
    held_out
        Code of the batch.

    Returns
    -------
    tuple of Parts and np.ndarray
        The parts, and codes 0 ... K-2 of the batches that are left, -1 for the one that is held out.

    Raises
    ------
    ValueError
        If there is no such batch, or no other one.
    """
    held = batch == held_out
    if not held.any() or held.all():
        raise ValueError(f"batch {held_out} cannot be held out: {int(held.sum())} of {len(held)} cells are of it")
    codes = np.where(held, -1, batch - (batch > held_out))
    validation = ~held & (split == split[~held].min())
    return Parts(np.flatnonzero(~held & ~validation), np.flatnonzero(validation), np.flatnonzero(held)), codes
