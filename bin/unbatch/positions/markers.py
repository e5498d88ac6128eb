"""Genes on predicted positions: single ones (the paper's Fig. 12) and all of them in tiles (Fig. 14)."""

from dataclasses import dataclass

import numpy as np

from unbatch.metrics.spatial import morans_i, nearest

GENES = 6
"""Genes that are shown, those with the largest Moran's I on the true positions."""
TILES = 12
"""Tiles along the longer axis of a section."""
NEIGHBOURS = 5


@dataclass(frozen=True)
class Markers:
    """Expression in tiles of the tissue, by true and by predicted position, for one section.

    Attributes
    ----------
    genes
        Indices of the genes that are shown, the largest Moran's I first.
    moran
        Moran's I on the true positions of all G genes; NaN of a constant one.
    correlation
        By gene, G: correlation over tiles of the mean expression by true and by predicted position; NaN where it can't
        be computed.
    true, predicted
        Mean expression of the genes shown, genes x tiles x tiles; NaN of tiles without a spot.
    spots
        Spots of each tile by true and by predicted position, 2 x tiles x tiles.
    """

    genes: np.ndarray
    moran: np.ndarray
    correlation: np.ndarray
    true: np.ndarray
    predicted: np.ndarray
    spots: np.ndarray


def markers(x: np.ndarray, true: np.ndarray, predicted: np.ndarray, genes: int = GENES, tiles: int = TILES) -> Markers:
    """Compare where genes are with where the predicted positions put them.

    Parameters
    ----------
    x
        Expression of the spots of one section, n x G.
    true, predicted
        Positions in one unit, n x p; the first two axes count.
    genes, tiles
        Genes that are shown, tiles along the longer axis.
    """
    x = np.asarray(x, dtype=np.float64)
    true, predicted = np.asarray(true, dtype=np.float64)[:, :2], np.asarray(predicted, dtype=np.float64)[:, :2]
    moran = morans_i(x, nearest(true, NEIGHBOURS, fewer=True))
    shown = np.argsort(-np.nan_to_num(moran, nan=-np.inf), kind="stable")[:genes]
    low = true.min(axis=0)
    step = max(np.ptp(true, axis=0).max(), np.finfo(float).tiny) / tiles
    sums, spots = [], []
    for places in (true, predicted):
        # who was put beyond the section counts at its edge
        at = np.clip(((places - low) / step).astype(int), 0, tiles - 1)
        tile = at[:, 0] * tiles + at[:, 1]
        order = np.zeros((tiles * tiles, x.shape[1]))
        np.add.at(order, tile, x)
        count = np.bincount(tile, minlength=tiles * tiles)
        with np.errstate(invalid="ignore"):
            sums.append(order / np.where(count > 0, count, np.nan)[:, None])
        spots.append(count)
    both = (spots[0] > 0) & (spots[1] > 0)
    one, other = (each[both] - each[both].mean(axis=0) for each in sums)
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = (one * other).sum(axis=0) / np.sqrt((one**2).sum(axis=0) * (other**2).sum(axis=0))
    shape = (len(shown), tiles, tiles)
    maps = [each[:, shown].T.reshape(shape) for each in sums]
    return Markers(shown, moran, correlation, maps[0], maps[1], np.stack(spots).reshape(2, tiles, tiles))
