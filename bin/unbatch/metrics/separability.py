"""How far groups of cells lie apart in an embedding: Calinski-Harabasz and 1 / Davies-Bouldin.

Each takes an embedding, n x d, and the group of every cell, n codes of two kinds or more. For labels larger is
better, for batches smaller; raw values, in no mean.
"""

from collections.abc import Callable

import numpy as np
from sklearn.metrics import calinski_harabasz_score, davies_bouldin_score


def inverse_davies_bouldin(embedding: np.ndarray, groups: np.ndarray) -> float:
    """Return 1 / Davies-Bouldin: as with the others, larger is further apart."""
    return 1 / np.float64(davies_bouldin_score(embedding, groups))


SCORES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "ch": calinski_harabasz_score,
    "inv_db": inverse_davies_bouldin,
}
