"""Whether the expression of a spot is like that of the spots that a model has learnt from."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.spatial import cKDTree

from unbatch.positions.baselines import principal

NEAREST = 10
"""Training spots whose mean distance counts."""
COMPONENTS = 20
FAR = 0.99
"""Quantile of the training spots' own distances above which a spot's position is called a guess."""
MOST = 20_000
"""Training spots that are compared with; of more, so many are drawn."""


@dataclass(frozen=True, eq=False)
class Familiar:
    """Expression of the training spots, and what is near to it; `weights` are all that it holds.

    Attributes
    ----------
    centre, vectors
        Principal components of the training spots, G and G x 20.
    spots
        Training spots on these, m x 20 float32.
    unit
        Median distance among training spots, of a spot to its 10 nearest.
    far
        What 99 of 100 training spots do not exceed, in that unit: beyond it the model has seen nothing of the kind,
        and the position is a guess.
    """

    centre: np.ndarray
    vectors: np.ndarray
    spots: np.ndarray
    unit: float
    far: float

    @classmethod
    def of(cls, train: np.ndarray, seed: int = 0) -> Self:
        """Learn from training spots.

        Parameters
        ----------
        train
            Standardised expression, m x G.
        seed
            Seed of the draw of spots where there are too many.

        Raises
        ------
        ValueError
            If half of the spots have the same expression.
        """
        centre, vectors = principal(train, COMPONENTS)
        chosen = np.sort(np.random.default_rng(seed).permutation(len(train))[:MOST])
        spots = ((np.asarray(train[chosen], dtype=np.float64) - centre) @ vectors).astype(np.float32)
        # a spot is its own nearest
        own = cKDTree(spots).query(spots, min(NEAREST, len(spots) - 1) + 1)[0][:, 1:].mean(axis=1)
        unit = float(np.median(own))
        if unit == 0:
            raise ValueError("half of the training spots have the same expression, expected different spots")
        return cls(centre, vectors, spots, unit, float(np.quantile(own, FAR) / unit))

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """All values as arrays by name, for a saved model."""
        return {name: np.asarray(value) for name, value in vars(self).items()}

    @classmethod
    def from_weights(cls, weights: dict[str, np.ndarray]) -> Self:
        """Make it of its `weights`.

        Raises
        ------
        ValueError
            If they do not belong together.
        """
        try:
            found = cls(**weights | {name: float(np.ravel(weights[name])[0]) for name in ("unit", "far")})
            fits = found.vectors.shape == (len(found.centre), found.spots.shape[1]) and len(found.spots) > 1
        except (LookupError, TypeError) as error:
            raise ValueError(f"the expression of the training spots is incomplete ({error})") from error
        if not fits:
            raise ValueError("the expression of the training spots has arrays that do not belong together")
        return found

    def distance(self, new: np.ndarray) -> np.ndarray:
        """Mean distance of spots, n x G standardised, to the 10 nearest training spots, in `unit`: n numbers."""
        found = ((np.asarray(new, dtype=np.float64) - self.centre) @ self.vectors).astype(np.float32)
        k = min(NEAREST, len(self.spots) - 1)
        near = cKDTree(self.spots).query(found, k + 1)[0].reshape(len(new), k + 1)
        # a training spot is not its own neighbour
        own = near[:, 0] < 1e-4 * self.unit
        return np.where(own, near[:, 1:].mean(axis=1), near[:, :k].mean(axis=1)) / self.unit


def expression_distance(train: np.ndarray, new: np.ndarray) -> tuple[np.ndarray, float]:
    """Measure how far spots are from the training spots in expression.

    Parameters
    ----------
    train, new
        Standardised expression, m x G and n x G.

    Returns
    -------
    distance, far
        See `Familiar`.
    """
    found = Familiar.of(train)
    return found.distance(new), found.far
