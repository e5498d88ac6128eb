"""Which spots are held out: at random, or whole blocks of the tissue."""

import numpy as np

BLOCKS = 5
"""Blocks along each axis of a section."""


def random_split(section: np.ndarray, share: float = 0.2, seed: int = 0) -> np.ndarray:
    """Hold out a share of the spots of each section, n booleans; every section keeps a spot on each side."""
    rng, section = np.random.default_rng(seed), np.asarray(section)
    held = np.zeros(len(section), dtype=bool)
    for code in np.unique(section):
        rows = rng.permutation(np.flatnonzero(section == code))
        held[rows[: _number(len(rows), share)]] = True
    return held


def block_split(
    positions: np.ndarray, section: np.ndarray | None = None, share: float = 0.2, seed: int = 0
) -> np.ndarray:
    """Hold out blocks of the tissue, about a share of the spots of each section.

    A section is cut into 5 x 5 blocks of as many spots: along the first axis, and each strip along the second. Spots
    with neighbours in the training set are then few, unlike in a random split.

    Parameters
    ----------
    positions
        n x p; the first two axes count.
    section
        Section of each spot, n; None: one.
    share
        Share of blocks that are held out, one at least.
    seed
        Seed of the choice.

    Returns
    -------
    numpy.ndarray
        n booleans.
    """
    positions = np.asarray(positions, dtype=np.float64)
    section = np.zeros(len(positions), dtype=int) if section is None else np.asarray(section)
    rng, held = np.random.default_rng(seed), np.zeros(len(positions), dtype=bool)
    for code in np.unique(section):
        rows = np.flatnonzero(section == code)
        block = np.zeros(len(rows), dtype=int)
        for number, strip in enumerate(np.array_split(np.argsort(positions[rows, 0], kind="stable"), BLOCKS)):
            along = strip[np.argsort(positions[rows[strip], 1], kind="stable")]
            for other, part in enumerate(np.array_split(along, BLOCKS)):
                block[part] = number * BLOCKS + other
        there = np.unique(block)
        chosen = rng.permutation(there)[: _number(len(there), share)]
        held[rows[np.isin(block, chosen)]] = True
    return held


def _number(size: int, share: float) -> int:
    return min(max(1, round(size * share)), size - 1)
