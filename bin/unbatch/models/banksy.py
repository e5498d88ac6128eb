"""BANKSY's features (Singhal et al. 2024): own expression, mean and gradient of the neighbourhood."""

import numpy as np
from scipy import sparse

from unbatch.metrics.spatial import nearest

GRADIENT_SHARE = 1 / 3
"""Share of the neighbourhood's weight that is the gradient's."""


def kernel(place: np.ndarray, section: np.ndarray, k: int, harmonic: int) -> sparse.csr_array:
    """Weights of the neighbours of each cell: a Gaussian of the distance, turned by the direction.

    Parameters
    ----------
    place
        Positions, n x 2, one unit for all axes.
    section
        Section of each cell, n; no weight joins two of them.
    k
        Nearest cells; fewer in a section that has not more.
    harmonic
        How often the weight turns in a full circle: 0 for means, 1 for gradients.

    Returns
    -------
    scipy.sparse.csr_array
        n x n, complex; rows whose absolute values sum to 1, empty ones for cells without neighbours. The width of the
        Gaussian is the median distance to the neighbours in a section.
    """
    near = nearest(place, k, section, fewer=True)
    source, column = np.nonzero(near >= 0)
    target = near[source, column]
    apart = place[target] - place[source]
    distance = np.linalg.norm(apart, axis=1)
    width = np.ones(int(section.max()) + 1)
    for code in np.unique(section[source]):
        median = np.median(distance[section[source] == code])
        width[code] = median if median > 0 else 1.0
    # less that of the nearest, which the sum removes again: far from all others nothing would be left of it
    squared = (distance / width[section[source]]) ** 2
    least = np.full(len(place), np.inf)
    np.minimum.at(least, source, squared)
    weight = np.exp(-0.5 * (squared - least[source]))
    total = np.bincount(source, weight, minlength=len(place))
    turned = weight / total[source] * np.exp(1j * harmonic * np.arctan2(apart[:, 1], apart[:, 0]))
    return sparse.csr_array((turned, (source, target)), shape=(len(place), len(place)))


def features(
    X: np.ndarray, place: np.ndarray, section: np.ndarray, weight: float, k: int, k_gradient: int | None
) -> np.ndarray:
    """Stack own expression, mean and gradient of the neighbourhood, each gene of unit variance times its weight.

    Parameters
    ----------
    X
        Log-normalised expression, n x g.
    place, section
        As of `kernel`.
    weight
        Share of the neighbourhood, 0 to 1 (lambda).
    k, k_gradient
        Neighbours of the mean and of the gradient; None for no gradient.

    Returns
    -------
    np.ndarray
        n x 2 g, or 3 g with the gradient. A cell without neighbours is its own mean, and has no gradient.
    """
    weights = kernel(place, section, k, 0).real
    mean = weights @ X
    lone = np.diff(weights.indptr) == 0
    mean[lone] = X[lone]
    parts = [(1 - weight, X), (weight if k_gradient is None else weight * (1 - GRADIENT_SHARE), mean)]
    if k_gradient is not None:
        turned = kernel(place, section, k_gradient, 1)
        level = abs(turned) @ X
        # the gradient is that of differences from the mean around: directions may not be even at the edge of a tissue
        gradient = np.abs(turned @ X - level * np.asarray(turned.sum(1))[:, None])
        parts.append((weight * GRADIENT_SHARE, gradient))
    return np.concatenate([np.sqrt(share) * _scaled(values) for share, values in parts], axis=1)


def _scaled(values: np.ndarray) -> np.ndarray:
    spread = values.std(0)
    return (values - values.mean(0)) / np.where(spread > 1e-12, spread, 1.0)
