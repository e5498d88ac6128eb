"""Number of domains; the clusterers are those of `unbatch.metrics.domains`."""

import numpy as np

from unbatch.metrics.domains import by_kmeans, by_mixture, refined
from unbatch.models.spavae.start import sampled

__all__ = ["MOST", "by_kmeans", "by_mixture", "number_of", "refined"]

MOST = 15
"""Largest number of domains that is tried where none is given."""
MOST_SPOTS = 100_000
"""Most spots that choose the number of domains: a random sample where there are more."""


def number_of(values: np.ndarray, independent: float, seed: int = 0) -> int:
    """Choose the number of domains by the Bayesian information criterion of the mixture with a shared covariance.

    Parameters
    ----------
    values
        Means of the processes, n x L.
    independent
        Number of values that the spots determine of one process (`Posterior.explained`): neighbouring spots have
        nearly one value, so their number would favour ever more domains.
    seed
        Seed of the starts.
    """
    values = values[sampled(np.arange(len(values)), MOST_SPOTS, seed)]
    width, scores = values.shape[1], []
    most = min(MOST, len(values) // 10)
    for clusters in range(2, max(most, 2) + 1):
        fitted = by_mixture(values, clusters, seed, starts=3)
        parameters = clusters * (width + 1) - 1 + width * (width + 1) / 2
        scores.append(-2 * independent * fitted.log_likelihood + parameters * np.log(independent))
    return 2 + int(np.argmin(scores))
