"""Differential expression between groups of spots: log fold changes of rates drawn from the posterior, Bayes factors.

A draw takes a spot of each group at random, latent values from its posterior, and decodes both as if they were of one
batch. The log fold change of a gene is log2 of the ratio of rates, each with an offset that keeps genes that are as
good as absent from having one. A gene counts as changed in a draw if that is at least `delta` in size; the Bayes
factor is the ratio of the probabilities that it is and that it is not. The posterior is that of the whole tissue.
"""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from unbatch.models.spavae.data import Spots
from unbatch.models.spavae.domains import by_mixture
from unbatch.models.spavae.model import Latent, Model

GENES = 500
"""Genes that are decoded at once."""
OFFSETS = (0.05, 0.5)
"""Least and largest offset of rates."""
LEAST_CHANGE = 0.3
"""Least `delta`, in log2."""
SHARE = 0.6
"""`delta` in units of the mean change of the genes that a mixture calls lower and higher."""


@dataclass(frozen=True)
class Differential:
    """What was found between two groups, G each but `delta` and `offset`.

    Attributes
    ----------
    change, median, spread
        Mean, median and standard deviation over draws of the log2 fold change, group over reference.
    probability
        That the change is at least `delta` in size.
    bayes_factor
        Natural logarithm of the ratio of that probability and its complement.
    first, second
        Mean counts over size factors of the group and of the reference.
    delta, offset
        As they were used.
    """

    change: np.ndarray
    median: np.ndarray
    spread: np.ndarray
    probability: np.ndarray
    bayes_factor: np.ndarray
    first: np.ndarray
    second: np.ndarray
    delta: float
    offset: float


def mean_rates(spots: Spots, groups: list[np.ndarray]) -> list[np.ndarray]:
    """Give mean counts over size factors of some groups of spots at sorted positions, G each, in one pass."""
    size = np.maximum(spots.totals / np.median(spots.totals), 1e-9)
    found = [np.zeros(spots.source.shape[1], dtype=size.dtype) for _ in groups]
    for cells, counts in spots.blocks():
        block = sparse.csr_matrix(counts)
        for mean, rows in zip(found, groups, strict=True):
            own = rows[slice(*np.searchsorted(rows, [cells[0], cells[-1] + 1]))]
            if len(own):
                relative = np.asarray((sparse.diags(1 / size[own]) @ block[own - cells[0]]).mean(0)).ravel()
                mean += relative * (len(own) / len(rows))
    return found


def compare(
    model: Model,
    latent: Latent,
    batch: np.ndarray,
    relative: tuple[np.ndarray, np.ndarray],
    groups: tuple[np.ndarray, np.ndarray],
    *,
    draws: int = 2000,
    seed: int = 0,
) -> Differential:
    """Compare two groups of spots.

    Parameters
    ----------
    model, latent, batch
        The model, the spots' latent values, and codes of their batches, n; -1 for one that the fit has not seen.
    relative
        Mean counts over size factors of the group and of the reference, G each (`mean_rates`).
    groups
        Positions of the spots of the group and of the reference.
    draws
        Pairs that are drawn.
    seed
        Seed of the draws.

    Raises
    ------
    ValueError
        If a group has no spot.
    """
    if not all(len(each) for each in groups):
        raise ValueError(f"groups of {len(groups[0])} and {len(groups[1])} spots, expected one or more in each")
    rng = np.random.default_rng(seed)
    pairs, told = _pairs(groups, batch, draws, rng)
    values = [latent.draw(rng, rows) for rows in pairs]
    total = model.network.genes
    blocks = [slice(start, min(start + GENES, total)) for start in range(0, total, GENES)]

    def decoded(block: slice) -> list[np.ndarray]:
        return [np.concatenate(list(model.rates(each, told, block))) for each in values]

    largest = np.concatenate([np.stack([rates.max(0) for rates in decoded(block)], 1) for block in blocks])
    offset = _offset(largest, np.stack(relative, 1))
    parts = []
    for block in blocks:
        first, second = decoded(block)
        change = np.log2(first + offset) - np.log2(second + offset)
        parts.append((change, change.mean(0), np.median(change, axis=0), change.std(0)))
    mean, median, spread = (np.concatenate([part[i] for part in parts]) for i in (1, 2, 3))
    delta = _delta(mean, seed)
    probability = np.concatenate([(np.abs(part[0]) >= delta).mean(0) for part in parts])
    # of a probability of 0 or 1 the draws tell no more than that it is beyond one of them
    bounded = np.clip(probability, 0.5 / draws, 1 - 0.5 / draws)
    factor = np.log(bounded / (1 - bounded))
    return Differential(mean, median, spread, probability, factor, *relative, delta, offset)


def _pairs(
    groups: tuple[np.ndarray, np.ndarray], batch: np.ndarray, draws: int, rng: np.random.Generator
) -> tuple[list[np.ndarray], np.ndarray]:
    """Draw spots of both groups, of one batch where batches have both; also give the batch that both are decoded as.

    Batches that the fit has not seen, -1, count as one, the average batch.
    """
    codes = np.unique(batch)
    sizes = np.array([[(batch[rows] == code).sum() for rows in groups] for code in codes])
    shared = sizes.min(1)
    if not shared.any():
        return [rng.choice(rows, draws) for rows in groups], np.full(draws, -1)
    told = codes[np.sort(rng.choice(len(codes), draws, p=shared / shared.sum()))]
    pairs = [np.concatenate([rng.choice(rows[batch[rows] == code], (told == code).sum()) for code in np.unique(told)])
             for rows in groups]  # fmt: skip
    return pairs, told


def _offset(largest: np.ndarray, relative: np.ndarray) -> float:
    """Choose the offset of rates by the largest rates (G x 2) of genes that a group has no count of, as published."""
    found = [np.quantile(top[none], 0.9) for top, none in zip(largest.T, (relative == 0).T, strict=True) if none.any()]
    return float(np.clip(max(found, default=0.0), *OFFSETS))


def _delta(change: np.ndarray, seed: int) -> float:
    """Choose what counts as a change by a mixture of lower, equal and higher genes, as published."""
    if len(change) < 10 or change.std() < 1e-6:
        return LEAST_CHANGE
    labels = by_mixture(change[:, None], 3, seed).labels
    means = sorted(float(change[labels == code].mean()) for code in np.unique(labels))
    return max(LEAST_CHANGE, SHARE * (abs(means[0]) + abs(means[-1])) / 2)
