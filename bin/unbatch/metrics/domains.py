"""Domains: clusters of spots by their place in an embedding, with and without a vote of neighbouring spots."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import solve_triangular

from unbatch.metrics import spatial
from unbatch.nn.kmeans import kmeans, nearest

NEIGHBOURS = 6
"""Spots around one whose majority it takes where domains are refined."""
REGULARISATION = 1e-4
"""What is added to the covariance of a mixture, in units of the mean variance."""


def by_kmeans(values: np.ndarray, clusters: int, seed: int = 0, starts: int = 10) -> np.ndarray:
    """Cluster by k-means (the best of some starts): codes, n, of values n x d."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.as_tensor(values, dtype=torch.float64)
    return nearest(points, kmeans(points, clusters, generator, starts)).numpy()


@dataclass(frozen=True)
class Mixture:
    """A Gaussian mixture whose components share one covariance (mclust's EEE).

    Attributes
    ----------
    labels
        Most probable component of each spot, n.
    log_likelihood
        Mean over spots.
    """

    labels: np.ndarray
    log_likelihood: float


def by_mixture(values: np.ndarray, clusters: int, seed: int = 0, starts: int = 10, steps: int = 200) -> Mixture:
    """Fit a mixture with a shared covariance by expectation and maximisation, from k-means; the best of some starts.

    Unlike k-means it knows that a latent space is stretched, and it does not cut it into parts of one size.

    Parameters
    ----------
    values
        n x d.
    clusters
        Number of components.
    seed
        Seed of the starts.
    starts
        Number of starts.
    steps
        Most steps of a start.
    """
    values = np.asarray(values, dtype=np.float64)
    found = [_mixture(values, by_kmeans(values, clusters, seed + start, 1), clusters, steps) for start in range(starts)]
    return max(found, key=lambda each: each.log_likelihood)


def _mixture(values: np.ndarray, labels: np.ndarray, clusters: int, steps: int) -> Mixture:
    spots, width = values.shape
    share = np.zeros((spots, clusters))
    share[np.arange(spots), labels] = 1
    floor = REGULARISATION * values.var(0).mean() * np.eye(width)
    second = values.T @ values
    last = -np.inf
    for _ in range(steps):
        weight = share.sum(0) + 1e-10
        centre = share.T @ values / weight[:, None]
        covariance = (second - (weight * centre.T) @ centre) / spots + floor
        factor = np.linalg.cholesky(covariance)
        white = solve_triangular(factor, values.T, lower=True).T
        middle = solve_triangular(factor, centre.T, lower=True).T
        square = (white**2).sum(1)[:, None] + (middle**2).sum(1) - 2 * white @ middle.T
        logs = np.log(weight / spots) - square / 2
        top = logs.max(1, keepdims=True)
        share = np.exp(logs - top)
        total = share.sum(1, keepdims=True)
        share /= total
        constant = width * np.log(2 * np.pi) / 2 + np.log(np.diag(factor)).sum()
        now = float((np.log(total) + top).mean() - constant)
        if now - last < 1e-5:
            break
        last = now
    return Mixture(share.argmax(1), now)


def refined(labels: np.ndarray, positions: np.ndarray, section: np.ndarray) -> np.ndarray:
    """Give each spot the label of more than half of its six nearest spots, where there is one.

    Parameters
    ----------
    labels
        Codes, n.
    positions, section
        Positions (n x d) and codes of sections (n).
    """
    near = spatial.nearest(positions, NEIGHBOURS, section, fewer=True)
    there = near >= 0
    votes = np.stack([((labels[near] == code) & there).sum(1) for code in range(int(labels.max()) + 1)], 1)
    first = votes.argmax(1)
    return np.where(2 * votes.max(1) > there.sum(1), first, labels)
