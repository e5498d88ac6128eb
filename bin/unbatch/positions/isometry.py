"""How a decoder stretches its latent space: the pull-back metric, as ellipses (the paper's Fig. 13)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Ellipses:
    """Pull-back metrics of a decoder at points of a two-dimensional latent space.

    Attributes
    ----------
    points
        m x 2.
    axes
        m x 2 x 2: half axes of the ellipse that is mapped to a circle of radius 1 in expression, longest first, a row
        each.
    condition
        Ratio of the longest to the shortest half axis, m: 1 where angles are kept.
    spread
        Coefficient of variation of the area of the ellipses over the points: 0 where the map is an isometry but for a
        scale.
    """

    points: np.ndarray
    axes: np.ndarray
    condition: np.ndarray
    spread: float


def pullback(decode: Callable[[np.ndarray], np.ndarray], points: np.ndarray, step: float = 1e-3) -> np.ndarray:
    """Metric J'J of a decoder, where J is its derivative (G x d) by central differences.

    Parameters
    ----------
    decode
        From latent points, n x d, to expression, n x G.
    points
        n x d.
    step
        Step of the differences, as a share of the spread of the points along each axis.

    Returns
    -------
    numpy.ndarray
        n x d x d.
    """
    points = np.asarray(points, dtype=np.float64)
    spread = points.std(axis=0)
    size = step * np.where(spread > 0, spread, 1)
    columns = []
    for axis, width in enumerate(size):
        move = np.zeros(points.shape[1])
        move[axis] = width
        columns.append((np.asarray(decode(points + move)) - np.asarray(decode(points - move))) / (2 * width))
    jacobian = np.stack(columns, axis=2).astype(np.float64)
    return np.einsum("ngi,ngj->nij", jacobian, jacobian)


def ellipses(decode: Callable[[np.ndarray], np.ndarray], latent: np.ndarray, side: int = 8) -> Ellipses:
    """Compute ellipses on a grid over the middle of a two-dimensional latent space, only where spots are.

    Parameters
    ----------
    decode
        From latent points, n x 2, to expression, n x G.
    latent
        Latent means of the spots, n x 2.
    side
        Points along each axis.

    Raises
    ------
    ValueError
        If the latent space has not two dimensions.
    """
    latent = np.asarray(latent, dtype=np.float64)
    if latent.ndim != 2 or latent.shape[1] != 2:
        raise ValueError(f"latent values have shape {latent.shape}, expected two columns")
    low, high = np.quantile(latent, (0.02, 0.98), axis=0)
    edges = [np.linspace(a, b, side + 1) for a, b in zip(low, high, strict=True)]
    counts = np.histogram2d(*latent.T, bins=edges)[0]
    middle = np.stack(np.meshgrid(*((edge[1:] + edge[:-1]) / 2 for edge in edges), indexing="ij"), axis=-1)
    points = middle[counts > 0]
    values, vectors = np.linalg.eigh(pullback(decode, points))
    half = 1 / np.sqrt(np.maximum(values, np.finfo(float).tiny))
    axes = (vectors * half[:, None, :]).transpose(0, 2, 1)
    area = half.prod(axis=1)
    return Ellipses(points, axes, half[:, 0] / half[:, 1], float(area.std() / area.mean()))
