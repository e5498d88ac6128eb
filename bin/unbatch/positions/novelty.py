"""Whether the expression of a spot is like that of the spots that a model has learnt from."""

import numpy as np
from scipy.spatial import cKDTree

from unbatch.positions.baselines import components

NEAREST = 10
"""Training spots whose mean distance counts."""
COMPONENTS = 20
FAR = 0.99
"""Quantile of the training spots' own distances above which a spot's position is called a guess."""


def expression_distance(train: np.ndarray, new: np.ndarray) -> tuple[np.ndarray, float]:
    """Measure how far spots are from the training spots in expression.

    Parameters
    ----------
    train, new
        Standardised expression, m x G and n x G.

    Returns
    -------
    distance
        Mean distance to the 10 nearest training spots on 20 principal components of these, over the median of that
        among training spots themselves, n numbers.
    far
        What 99 of 100 training spots do not exceed: beyond it the model has seen nothing of the kind, and the
        position is a guess.
    """
    project = components(train, COMPONENTS)
    known = project(train)
    tree, k = cKDTree(known), min(NEAREST, len(known) - 1)
    # a spot is its own nearest
    own = tree.query(known, k + 1)[0][:, 1:].mean(axis=1)
    unit = np.median(own)
    if unit == 0:
        raise ValueError("half of the training spots have the same expression, expected different spots")
    # a training spot is not its own neighbour
    near = tree.query(project(new), k + 1)[0].reshape(len(new), k + 1)
    distance = np.where(near[:, 0] == 0, near[:, 1:].mean(axis=1), near[:, :k].mean(axis=1))
    return distance / unit, float(np.quantile(own, FAR) / unit)
