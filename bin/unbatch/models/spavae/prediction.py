"""Spots that were not measured: what the model says at their positions, and how far to trust it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import sparse

from unbatch.metrics.spatial import pitch
from unbatch.models.spavae.data import Spots, dense
from unbatch.models.spavae.model import Latent, Model
from unbatch.models.spavae.positions import nearest_spots
from unbatch.nn.negative_binomial import negative_log_likelihood, row_blocks

NEAREST = 6
"""Nearest spots whose Gaussian latent values are averaged by the inverse of their squared distance."""
BLOCK = 100_000
"""Positions whose surroundings are averaged at once."""
THETAS = np.exp(np.linspace(-1.5, 5, 14))
"""Dispersions that are tried for each gene where predictions are compared."""

ALIKE = 0.9
"""Correlation over the tissue of genes of which one is shown."""


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
    blocks = [slice(start, start + BLOCK) for start in range(0, max(len(points), 1), BLOCK)]
    mean = [(weight[rows, :, None] * gaussian[number[rows]]).sum(1) for rows in blocks]
    return np.concatenate(mean), distance[:, 0] / unit


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
    """Mean of counts over size factors of some spots (m x k numbers) for each position, m x G: a rival to the model.

    Counts are a matrix, or blocks of its rows one after another.
    """
    found, start = None, 0
    for block in row_blocks(counts):
        if found is None:
            found = np.zeros((len(number), block.shape[1]))
        for column in number.T:
            here = np.flatnonzero((column >= start) & (column < start + block.shape[0]))
            found[here] += dense(block[column[here] - start]) / size[column[here]][:, None]
        start += block.shape[0]
    return found / number.shape[1]


def kriged_rates(
    model: Model, spots: Spots, train: np.ndarray, held: np.ndarray, components: int = 20, noise: float = 5.0
) -> np.ndarray:
    """Predict by a Gaussian process on the encoder's inputs alone, m x G, brought to mean rates: the closest rival.

    Parameters
    ----------
    model
        Its moments of genes, components, inducing points and kernel are used, none of its networks.
    spots, train, held
        Spots, positions of those that are known, and of those to predict.
    components
        So many components, where these are what is encoded; else all genes.
    noise
        Variance of the noise over that of the process.
    """
    inputs, field = model.network.inputs, model.network.field

    def features(rows: np.ndarray) -> np.ndarray:
        place = torch.as_tensor(spots.points[rows] * model.units[spots.section[rows]], device=inputs.mean.device)
        code = torch.as_tensor(spots.section[rows].astype(np.int64), device=inputs.mean.device)
        return field.features(place, code).detach().cpu().numpy()

    def rates(rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
        finite = np.where(np.isfinite(spread), spread, 0.0)
        return np.maximum(np.expm1(features(rows) @ weights * finite + mean), 1e-4)

    found = np.zeros((len(held), len(inputs.mean)))
    size = np.maximum(spots.totals / float(inputs.depth), 1e-9)
    mean, spread = (each.cpu().numpy().astype(np.float64) for each in (inputs.mean, inputs.spread))
    basis = None if inputs.components is None else inputs.components.cpu().numpy().astype(np.float64)[:, :components]
    for code in np.unique(spots.section[held]):
        rows, asked = train[spots.section[train] == code], held[spots.section[held] == code]
        gram = products = counted = known = 0.0
        parts = []
        for own, block in spots.blocks(rows):
            parts.append(own)
            here, counts = features(own), sparse.csr_matrix(block)
            values = (np.log1p(counts.toarray() / size[own, None]) - mean) / spread
            if basis is not None:
                # components have variance 1: what they are in standardised genes
                values = values @ basis @ (basis / (basis**2).sum(0)).T
            gram, products = gram + here.T @ here, products + here.T @ values
            counted = counted + np.asarray(counts.sum(0)).ravel()
        weights = np.linalg.solve(noise * np.eye(len(gram)) + gram, products)
        for own in parts:
            known = known + rates(own, weights).mean(0) * (len(own) / len(rows))
        found[spots.section[held] == code] = rates(asked, weights) * (counted / size[rows].sum() / known)
    return found


def between_spots(model: Model, points: np.ndarray, section: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give positions finer than the spots: each spot and four around it, a quarter of a pitch away on both diagonals.

    Parameters
    ----------
    model
        Its unit, and the median distance of its spots to the nearest one, by section, are used.
    points, section
        Coordinates, n x d, and codes of sections, n.

    Returns
    -------
    tuple of np.ndarray
        Coordinates (5n x d), those of a spot one after another and itself first, and numbers of their spots (5n).
    """
    place, known, _ = model.known
    steps = np.zeros((5, points.shape[1]))
    steps[1:, :2] = [(1, 1), (1, -1), (-1, 1), (-1, -1)]
    quarter = np.zeros(len(points))
    for code in np.unique(section):
        quarter[section == code] = pitch(place[known == code]) / 4
    moved = points[:, None] + steps * quarter[:, None, None] / model.units[section][:, None]
    return moved.reshape(-1, points.shape[1]), np.repeat(np.arange(len(points)), 5)


def varying(model: Model, latent: Latent, batch: np.ndarray, count: int, seed: int = 0, most: int = 3000) -> np.ndarray:
    """Choose genes that the processes make vary most over the tissue and that are not alike, at most `count`.

    How much is the rate times the squared logarithm of it over the gene's mean, of the processes alone, in the mean of
    `most` spots; of two genes whose logarithms correlate more than `ALIKE`, up or down, the second is passed over.
    """
    rows = np.sort(np.random.default_rng(seed).permutation(len(batch))[:most])
    values = np.concatenate([latent.mean[rows], np.zeros_like(latent.gaussian[rows])], 1)
    logs = np.log(np.concatenate(list(model.rates(values, batch[rows]))))
    for code in np.unique(batch[rows]):
        # what a whole batch has more of is no pattern
        logs[batch[rows] == code] -= logs[batch[rows] == code].mean(0)
    rates = np.concatenate(list(model.rates(latent.embedding[rows], batch[rows])))
    strength = (rates * logs**2).mean(0)
    norm = np.sqrt((logs**2).sum(0)) + 1e-12
    found: list[int] = []
    for gene in np.argsort(-strength, kind="stable"):
        alike = [abs(logs[:, gene] @ logs[:, other]) / norm[gene] / norm[other] for other in found]
        if max(alike, default=0.0) < ALIKE:
            found.append(int(gene))
        if len(found) == count:
            break
    return np.array(found, dtype=np.int64)
