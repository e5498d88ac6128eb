"""Spots that were not measured: what the model says at their positions, and how far to trust it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from unbatch.metrics.spatial import pitch
from unbatch.models.spavae.model import Latent, Model
from unbatch.models.spavae.positions import nearest_spots
from unbatch.nn.negative_binomial import negative_log_likelihood

NEAREST = 6
"""Nearest spots whose Gaussian latent values are averaged by the inverse of their squared distance."""
THETAS = np.exp(np.linspace(-1.5, 5, 14))
"""Dispersions that are tried for each gene where predictions are compared."""


@dataclass(frozen=True)
class Predicted:
    """Latent values at positions, and their distance to the nearest measured spot of the section, in spot pitches."""

    latent: Latent
    distance: np.ndarray


def predict(model: Model, points: np.ndarray, section: np.ndarray) -> Predicted:
    """Predict at any positions of sections that the model knows.

    The processes are those given all measured spots. The other dimensions, which no position tells, are the average of
    the nearest spots; their variance is that of the prior.

    Parameters
    ----------
    model
        The model.
    points
        Coordinates as given to `fit`, m x d.
    section
        Codes, m.
    """
    mean, variance = model.at(points, section)
    near, distance = surroundings(model, points, section)
    return Predicted(Latent(mean, variance, near, np.ones_like(near)), distance)


def surroundings(model: Model, points: np.ndarray, section: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average the Gaussian latent values of the nearest measured spots of any positions; see `predict`.

    Returns
    -------
    tuple of np.ndarray
        The averages (m x H), and distances to the nearest spot in spot pitches (m).
    """
    place, known, gaussian = model.known
    unit = pitch(place, known)
    distance, number = nearest_spots(place, known, points * model.units[section], section, NEAREST)
    weight = 1 / np.maximum(distance, 1e-6 * unit) ** 2
    weight /= weight.sum(1, keepdims=True)
    return (weight[:, :, None] * gaussian[number]).sum(1), distance[:, 0] / unit


def agreement(rates: np.ndarray, counts: np.ndarray, size: np.ndarray) -> tuple[float, float]:
    """Compare predicted rates with counts.

    Parameters
    ----------
    rates
        At size factor 1, m x G.
    counts
        m x G, dense.
    size
        Size factors, m.

    Returns
    -------
    tuple of float
        Minus log likelihood per spot, at the best of some dispersions for each gene, the same favour for every method;
        and the mean over genes of the correlation with counts over size factors.
    """
    rate = torch.as_tensor(np.log(np.maximum(rates, 1e-4)), dtype=torch.float32)
    seen = torch.as_tensor(counts, dtype=torch.float32)
    sizes = torch.as_tensor(np.log(size)[:, None], dtype=torch.float32)
    best = torch.full((counts.shape[1],), torch.inf)
    for theta in np.log(THETAS):
        each = negative_log_likelihood(rate, sizes, seen, torch.tensor(float(theta))).sum(0)
        best = torch.minimum(best, each)
    relative = counts / size[:, None]
    first, second = rates - rates.mean(0), relative - relative.mean(0)
    norms = np.sqrt((first**2).sum(0) * (second**2).sum(0))
    there = norms > 1e-9
    found = (first * second).sum(0)[there] / norms[there]
    return float(best.sum()) / len(counts), float(found.mean()) if there.any() else 0.0


def neighbour_rates(counts: Any, size: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Mean of counts over size factors of some spots (m x k numbers) for each position, m x G: a rival to the model."""
    found = np.zeros((len(number), counts.shape[1]))
    for column in number.T:
        rows = counts[column]
        found += np.asarray(rows.toarray() if hasattr(rows, "toarray") else rows) / size[column][:, None]
    return found / number.shape[1]
