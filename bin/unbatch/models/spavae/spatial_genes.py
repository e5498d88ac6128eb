"""Genes that vary over space: a score test of a Gaussian process on Pearson residuals, and Moran's I.

For residuals r of a gene (n spots, mean 0, variance 1) and a kernel K over space, centred over each section's spots,
the statistic of the score test is ``r' K r``. Without a pattern it is distributed as a sum of chi-squares weighted by
the eigenvalues of K, whose tail a saddlepoint approximation gives (Kuonen 1999); with the spread of r estimated, as a
ratio of two such sums. Kernels of several scales are combined by the Cauchy rule (Liu & Xie 2020). There is nothing
to fit and nothing to permute.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import sparse
from scipy.stats import false_discovery_control, norm

from unbatch.metrics.spatial import adjacency, morans_i, nearest
from unbatch.models.spavae.data import Stored
from unbatch.nn import inducing
from unbatch.nn.negative_binomial import residuals

SCALES = (10.0, 40.0, 160.0, 640.0)
"""Scales of the kernels, in squared spot pitches."""
TOLERANCE, MOST_POINTS = 0.02, 256
"""Mean prior variance that the inducing points of a kernel may leave, and most of them in a section."""
NEIGHBOURS = 6
"""Neighbours of a spot for Moran's I."""
GENES, ENTRIES = 1000, 100_000_000
"""Genes that are tested at once, and spots times genes: fewer genes of more spots."""
ROWS = 131_072
"""Spots whose features are made at once."""
LOOSE = 0.1
"""Genes whose first p-value is below this do not count for the depth of a spot in the second round."""
LEAST = 0.1
"""Share of the counts that genes without a pattern must keep for a second round."""


@dataclass(frozen=True)
class SpatialGenes:
    """What was found, G each.

    Attributes
    ----------
    p_value, q_value
        P-value of the score test, and the same after Benjamini and Hochberg.
    scale
        Scale of the kernel with the smallest p-value, in squared spot pitches.
    moran, moran_p_value
        Moran's I of the residuals, and its one-sided p-value by a normal approximation.
    """

    p_value: np.ndarray
    q_value: np.ndarray
    scale: np.ndarray
    moran: np.ndarray
    moran_p_value: np.ndarray


def spatial_genes(counts: Any, positions: np.ndarray, section: np.ndarray, batch: np.ndarray) -> SpatialGenes:
    """Test all genes.

    Parameters
    ----------
    counts
        n x G, a scipy CSR matrix, an array or `Stored`, which is read twice for each block of genes, and twice more.
    positions
        In spot pitches, n x d.
    section, batch
        Codes, n: patterns lie within sections; rates and dispersions are those of a batch.

    Notes
    -----
    Size factors are sums over genes, so a strong pattern of many genes appears inverted in all others. Hence genes are
    tested twice: the size factors of the second round are made of the genes that showed no pattern in the first.
    """
    counts = counts if isinstance(counts, Stored) else sparse.csc_matrix(counts)
    kernels = [_features(positions, section, scale) for scale in SCALES]
    near = nearest(positions, NEIGHBOURS, section, fewer=True)
    depth = _depth(counts, slice(None))
    by_scale, moran = _tested(counts, depth, batch, kernels, near)
    quiet = _depth(counts, combined(by_scale) >= LOOSE)
    if quiet.sum() >= LEAST * depth.sum() and (quiet > 0).all():
        by_scale, moran = _tested(counts, quiet, batch, kernels, near)
    p_value = combined(by_scale)
    scale = np.array(SCALES)[by_scale.argmin(0)]
    return SpatialGenes(p_value, false_discovery_control(p_value), scale, moran, _moran_p_value(moran, near))


def _depth(counts: Any, genes: slice | np.ndarray) -> np.ndarray:
    """Add up the counts of some genes in each spot."""
    return np.concatenate([np.asarray(block.sum(1)).ravel() for block in _columns(counts, genes)])


def _columns(counts: Any, genes: slice | np.ndarray) -> Iterator[Any]:
    """Yield the counts of some genes, blocks of spots one after another."""
    if isinstance(counts, Stored):
        yield from (found[:, genes] for _, found in counts.blocks(np.arange(counts.shape[0])))
    else:
        yield counts[:, genes]


def _features(positions: np.ndarray, section: np.ndarray, scale: float) -> tuple[list[tuple], np.ndarray]:
    """Give features of the spots of each section, centred, and the eigenvalues of all sections' kernels together.

    Those of a large tissue, of more spots than are worked on at once, are in float32.
    """
    parts, values = [], []
    kind = np.float64 if len(positions) <= ROWS else np.float32
    for code in np.unique(section):
        rows = np.flatnonzero(section == code)
        points = torch.as_tensor(positions[rows])
        chosen = inducing.greedy(points, "cauchy", scale, TOLERANCE, MOST_POINTS)
        features = np.empty((len(rows), len(chosen.points)), dtype=kind)
        blocks = [slice(start, start + ROWS) for start in range(0, len(rows), ROWS)]
        for block in blocks:
            features[block] = inducing.whitened(chosen.points, points[block], "cauchy", scale).numpy()
        features -= features.mean(0, dtype=np.float64)
        parts.append((rows, features))
        own = (features[block].astype(np.float64, copy=False) for block in blocks)
        values.append(np.linalg.eigvalsh(sum(each.T @ each for each in own)))
    found = np.concatenate(values)
    return parts, found[found > 1e-8 * found.max()]


def _tested(
    counts: Any, depth: np.ndarray, batch: np.ndarray, kernels: list[tuple], near: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Give p-values of the score test (kernels x G), and Moran's I (G), 0 of genes without counts."""
    by_scale, moran = [], []
    genes = min(GENES, max(1, ENTRIES // len(depth)))
    for start in range(0, counts.shape[1], genes):
        own = _residuals(_columns(counts, slice(start, start + genes)), depth, batch)
        found = []
        for parts, values in kernels:
            squares = sum(_squares(features, own, rows) for rows, features in parts)
            found.append(upper_tail(squares, values, len(own)))
        by_scale.append(np.stack(found))
        moran.append(np.nan_to_num(morans_i(own, near)))
    return np.concatenate(by_scale, 1), np.concatenate(moran)


def _squares(features: np.ndarray, residuals: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Sum the squares of what the features of the spots of a section add up of their residuals, by gene."""
    return ((features.T @ residuals[rows].astype(features.dtype, copy=False)) ** 2).sum(0)


def _residuals(counts: Iterator[Any], depth: np.ndarray, batch: np.ndarray) -> np.ndarray:
    found, start = np.empty((0, 0)), 0
    for block in counts:
        if not start:
            found = np.empty((len(depth), block.shape[1]))
        found[start : start + block.shape[0]] = block.toarray()
        start += block.shape[0]
    for code in np.unique(batch):
        rows = batch == code
        found[rows] = residuals(found[rows], depth[rows] / depth[rows].mean())
    return found


def upper_tail(statistic: np.ndarray, values: np.ndarray, spots: int) -> np.ndarray:
    """Probability that ``spots * sum_j values_j x_j^2 / sum_j x_j^2`` is larger than each statistic.

    x are `spots - 1` independent standard normal numbers, of which only the first have a weight that is not 0.

    Parameters
    ----------
    statistic
        G.
    values
        Weights above 0.
    spots
        n, more than there are weights.

    Notes
    -----
    The event is ``sum_j (values_j - statistic / n) x_j^2 > 0``: the saddlepoint approximation of the tail of that sum
    at 0 (Lugannani and Rice).
    """
    level = statistic / spots
    weights = np.concatenate([values[:, None] - level, -np.broadcast_to(level, (1, len(level)))])
    number = np.ones(len(weights))
    number[-1] = max(spots - 1 - len(values), 0)
    found = np.zeros(len(level))
    inside = (level > 0) & (level < values.max())
    found[level <= 0] = 1.0
    found[inside] = _saddlepoint(weights[:, inside], number)
    return found


def _saddlepoint(weights: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Probability that a sum of chi-squares times weights (terms x G), of which there are several, is above 0."""
    number = number[:, None]
    # the derivative of the cumulant generating function rises from minus to plus infinity between these
    low, high = 1 / (2 * weights.min(0)), 1 / (2 * weights.max(0))
    for _ in range(100):
        middle = (low + high) / 2
        slope = (number * weights / (1 - 2 * middle * weights)).sum(0)
        low, high = np.where(slope < 0, middle, low), np.where(slope < 0, high, middle)
    point = (low + high) / 2
    inner = 1 - 2 * point * weights
    cumulant = -(number * np.log(inner)).sum(0) / 2
    curve = (2 * number * (weights / inner) ** 2).sum(0)
    root = np.sign(point) * np.sqrt(np.maximum(-2 * cumulant, 0))
    other = point * np.sqrt(curve)
    # at the mean both are 0
    near = np.abs(root) < 1e-4
    safe = np.where(near, 1.0, root)
    corrected = safe + np.log(np.where(near, 1.0, other / safe)) / safe
    skew = (8 * number * (weights / inner) ** 3).sum(0) / curve**1.5
    return np.where(near, 0.5 - skew / (6 * np.sqrt(2 * np.pi)), norm.sf(corrected))


def combined(p_values: np.ndarray) -> np.ndarray:
    """Combine p-values (tests x G) of one hypothesis, however dependent, by the Cauchy rule."""
    p_values = np.clip(p_values, 1e-300, 1 - 1e-12)
    small = p_values < 1e-15
    terms = np.where(small, 1 / (np.pi * p_values), np.tan((0.5 - np.where(small, 0.5, p_values)) * np.pi))
    mean = terms.mean(0)
    large = mean > 1e14
    return np.where(large, 1 / (np.pi * np.where(large, mean, 1.0)), 0.5 - np.arctan(mean) / np.pi)


def _moran_p_value(moran: np.ndarray, near: np.ndarray) -> np.ndarray:
    """One-sided p-values of Moran's I with weights of 1 between neighbours, by its moments under normality."""
    spots, graph = len(near), adjacency(near)
    both = graph + graph.T
    weight = graph.sum()
    first = both.multiply(both).sum() / 2
    second = np.square(graph.sum(1) + graph.sum(0)).sum()
    expected = -1 / (spots - 1)
    square = (spots**2 * first - spots * second + 3 * weight**2) / (weight**2 * (spots**2 - 1))
    return norm.sf((moran - expected) / np.sqrt(square - expected**2))
