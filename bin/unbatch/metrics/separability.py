"""How far groups of cells lie apart in an embedding: silhouette width, Calinski-Harabasz, 1 / Davies-Bouldin.

For labels larger is better, for batches smaller; raw values, in no mean.
"""

import numpy as np
from sklearn.metrics import calinski_harabasz_score, davies_bouldin_score, silhouette_score

NAMES = ("asw", "ch", "inv_db")


def separability(embedding: np.ndarray, groups: np.ndarray) -> dict[str, float]:
    """Score the separation of groups.

    Parameters
    ----------
    embedding
        n x d.
    groups
        n codes, at least two of them.

    Returns
    -------
    dict
        ``asw`` (-1 to 1), ``ch`` (0 and more) and ``inv_db`` (0 and more).
    """
    values = (
        silhouette_score(embedding, groups),
        calinski_harabasz_score(embedding, groups),
        1 / davies_bouldin_score(embedding, groups),
    )
    return dict(zip(NAMES, map(float, values), strict=True))
