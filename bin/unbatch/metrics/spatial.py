"""Scores of positions, and of embeddings and clusters against positions. Arrays in, numbers out.

Distances are in the unit of the positions; `pitch` gives the distance between neighbouring spots, by which errors are
divided to be comparable between technologies.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree
from scipy.spatial.distance import pdist, squareform

MAX_DISTANCE_SPOTS = 1_500
"""Spots whose pairwise distances are compared; more are sampled, as the cost grows with the square of their number."""

FEW = 10
"""Dimensions up to which a tree finds neighbours sooner than all distances do."""

PAS_NEIGHBOURS = 10
"""Neighbours of a spot that its label is compared with (Shang and Zhou 2022)."""


def pitch(positions: np.ndarray, section: np.ndarray | None = None) -> float:
    """Median distance of a spot, n x p, to the nearest other position of its section.

    Parameters
    ----------
    positions
        n x p.
    section
        Section of each spot, n; None: one. Those whose spots are all on one position are left out.

    Raises
    ------
    ValueError
        If the spots of every section are on one position.
    """
    positions, section = np.asarray(positions, dtype=np.float64), _sections(positions, section)
    found = []
    for code in np.unique(section):
        places = np.unique(positions[section == code], axis=0)
        if len(places) > 1:
            found.append(cKDTree(places).query(places, 2)[0][:, 1])
    if not found:
        raise ValueError("all spots are on one position, expected two positions or more")
    return float(np.median(np.concatenate(found)))


def is_hexagonal(points: np.ndarray) -> bool:
    """Tell whether positions are indices (row, column) of a hexagonal array, whose neighbours are 2 columns apart.

    Then they are whole numbers whose sums are all even or all odd, and some spots touch across rows: on a square grid
    of step 2, whose sums are even, too, none do.
    """
    if points.shape[1] != 2 or (points != np.rint(points)).any():
        return False
    parity = points.sum(1) % 2
    if (parity != parity[0]).any():
        return False
    row, column = (points - points.min(0)).astype(np.int64).T
    code = row * (int(column.max()) + 3) + column
    return bool(np.isin(code + int(column.max()) + 4, code).any())


def units(points: np.ndarray, section: np.ndarray, box: float | None = None, *, lone: bool = False) -> np.ndarray:
    """Find what coordinates are multiplied by, for each section and axis.

    Parameters
    ----------
    points
        Coordinates, n x 2 or n x 3.
    section
        Code of the section of each spot, n.
    box
        Length to which each axis is brought, as published, which changes the shape of the tissue; None for spot
        pitches: the distance of neighbours on a hexagonal array, or else the median distance to the nearest spot.
    lone
        Whether all spots of a section may be on one position; it keeps its unit.

    Returns
    -------
    np.ndarray
        Sections x axes.

    Raises
    ------
    ValueError
        If all spots of a section are on one position, unless `lone`.
    """
    found = np.ones((int(section.max()) + 1, points.shape[1]))
    for code in np.unique(section):
        own = np.unique(points[section == code], axis=0)
        extent = np.ptp(own, axis=0)
        if box is not None:
            found[code] = box / np.where(extent > 0, extent, 1.0)
        elif is_hexagonal(own):
            found[code] = math.sqrt(3) / 2, 1 / 2
        elif len(own) > 1 or not lone:
            found[code] = 1 / pitch(own)
    return found


@dataclass(frozen=True)
class Similarity:
    """A map that turns, mirrors where needed, scales and shifts: ``scale * points @ rotation + shift``.

    Attributes
    ----------
    rotation
        p x p, orthogonal; its determinant is -1 where the map mirrors.
    scale
        Not negative.
    shift
        p numbers.
    """

    rotation: np.ndarray
    scale: float
    shift: np.ndarray

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Map points, n x p."""
        return self.scale * np.asarray(points, dtype=np.float64) @ self.rotation + self.shift


def similarity(found: np.ndarray, true: np.ndarray) -> Similarity:
    """Find the map that brings points closest to their true positions, by least squares.

    Parameters
    ----------
    found, true
        n x p each, n of 2 or more.

    Returns
    -------
    Similarity
        That of Umeyama (1991), mirrored where that is closer.

    Raises
    ------
    ValueError
        If the shapes differ, a value is not finite, or all `found` are one point.
    """
    found, true = _matched(found, true)
    centre, aim = found.mean(axis=0), true.mean(axis=0)
    left, sizes, right = np.linalg.svd((found - centre).T @ (true - aim))
    spread = ((found - centre) ** 2).sum()
    if spread == 0:
        raise ValueError("all points are one point, which no similarity maps to several positions")
    rotation, scale = left @ right, float(sizes.sum() / spread)
    return Similarity(rotation, scale, aim - scale * centre @ rotation)


def disparity(found: np.ndarray, true: np.ndarray) -> float:
    """Procrustes disparity: what the best similarity leaves of the variance of the positions.

    Returns
    -------
    float
        0 where the points have the shape of the positions, mirrored or not; 1 where they say nothing of them.

    Raises
    ------
    ValueError
        See `similarity`.
    """
    found, true = _matched(found, true)
    left = true - similarity(found, true)(found)
    return float((left**2).sum() / ((true - true.mean(axis=0)) ** 2).sum())


@dataclass(frozen=True)
class PositionErrors:
    """How far estimated positions are from the true ones.

    Attributes
    ----------
    rmse, median
        Root of the mean squared error and median error, in pitches.
    r2
        Share of the variance of each axis that is explained, p numbers; below 0 where the mean would be closer.
    """

    rmse: float
    median: float
    r2: np.ndarray


def position_errors(found: np.ndarray, true: np.ndarray, unit: float = 1.0) -> PositionErrors:
    """Compare estimated positions with the true ones as they are; align them before, by spots that are not scored.

    Parameters
    ----------
    found, true
        n x p each.
    unit
        What errors are divided by, see `pitch`.
    """
    found, true = _matched(found, true)
    distance = np.linalg.norm(found - true, axis=1) / unit
    explained = 1 - ((found - true) ** 2).sum(axis=0) / ((true - true.mean(axis=0)) ** 2).sum(axis=0)
    return PositionErrors(float(np.sqrt((distance**2).mean())), float(np.median(distance)), explained)


def nearest(positions: np.ndarray, k: int, section: np.ndarray | None = None, *, fewer: bool = False) -> np.ndarray:
    """List the k nearest other spots of each spot; those of another section are not near.

    Parameters
    ----------
    positions
        n x p.
    k
        Neighbours.
    section
        Section of each spot, n; None: one.
    fewer
        Whether a section may have no more than k spots.

    Returns
    -------
    numpy.ndarray
        n x k positions in the arrays, nearest first; -1 where a section has too few spots.

    Raises
    ------
    ValueError
        If a section has too few spots, unless `fewer`.
    """
    positions, section = np.asarray(positions, dtype=np.float64), _sections(positions, section)
    found = np.full((len(positions), k), -1, dtype=np.int64)
    for code in np.unique(section):
        mine = np.flatnonzero(section == code)
        most = min(k, len(mine) - 1)
        if most < k and not fewer:
            raise ValueError(f"section {code} has {len(mine)} spots, expected more than the {k} neighbours")
        if most < 1:
            continue
        near = _nearest(positions[mine], most + 1)
        # of spots on one position any may come first: the spot itself is taken out wherever it is, else the farthest
        itself = near == np.arange(len(mine))[:, None]
        itself[~itself.any(axis=1), -1] = True
        found[mine, :most] = mine[near[~itself].reshape(len(mine), most)]
    return found


def _nearest(points: np.ndarray, k: int) -> np.ndarray:
    if points.shape[1] <= FEW:
        return cKDTree(points).query(points, k)[1]
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(n_neighbors=k, algorithm="brute").fit(points).kneighbors(points, return_distance=False)


def adjacency(neighbours: np.ndarray) -> sparse.csr_array:
    """Make an n x n matrix of neighbours (see `nearest`): 1 in the row of a spot for each of its own."""
    spots, k = neighbours.shape
    there = neighbours >= 0
    source = np.repeat(np.arange(spots), k).reshape(spots, k)[there]
    return sparse.csr_array((np.ones(len(source)), (source, neighbours[there])), (spots, spots))


def morans_i(values: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
    """Moran's I of each column with directed weights of 1 (Moran 1950).

    Parameters
    ----------
    values
        n x d.
    neighbours
        n x k, see `nearest`; -1 for none.

    Returns
    -------
    numpy.ndarray
        d numbers: about 0 without a spatial pattern, towards 1 with one; NaN of a constant column.
    """
    centred, graph = _centred(values), adjacency(neighbours)
    total = (centred**2).sum(axis=0)
    cross = len(centred) / graph.sum() * (centred * (graph @ centred)).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, cross / total, np.nan)


def gearys_c(values: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
    """Geary's C of each column with directed weights of 1 (Geary 1954).

    Returns
    -------
    numpy.ndarray
        d numbers: about 1 without a spatial pattern, towards 0 with one; NaN of a constant column.
    """
    centred = _centred(values)
    total = (centred**2).sum(axis=0)
    apart = ((centred[neighbours] - centred[:, None]) ** 2).mean(axis=1).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, (len(centred) - 1) / len(centred) * apart / (2 * total), np.nan)


@dataclass(frozen=True)
class DistanceCorrelation:
    """How distances between spots agree with those in an embedding.

    Attributes
    ----------
    r
        Pearson correlation of the two distances over all pairs of spots.
    interval
        95 % interval of `r` by a bootstrap of spots.
    p
        P-value of a Mantel test: share of permutations of the spots, the given order being one, whose correlation is as
        large.
    spots
        Spots that were compared.
    """

    r: float
    interval: tuple[float, float]
    p: float
    spots: int


def distance_correlation(
    embedding: np.ndarray, positions: np.ndarray, *, draws: int = 200, seed: int = 0
) -> DistanceCorrelation:
    """Correlate distances in an embedding with distances in space.

    Parameters
    ----------
    embedding
        n x d.
    positions
        n x p, of one section.
    draws
        Bootstrap samples, and permutations.
    seed
        Seed of the sample of spots, the bootstrap and the permutations.

    Notes
    -----
    The n (n - 1) / 2 pairs share n spots and are no sample of that size: Fisher's interval for them is more than ten
    times too narrow on cortex sections. Whole spots are drawn instead, and a pair of copies of one spot does not count.
    """
    embedding, positions = np.asarray(embedding, dtype=np.float64), np.asarray(positions, dtype=np.float64)
    rng = np.random.default_rng(seed)
    if len(embedding) > MAX_DISTANCE_SPOTS:
        chosen = np.sort(rng.choice(len(embedding), MAX_DISTANCE_SPOTS, replace=False))
        embedding, positions = embedding[chosen], positions[chosen]
    n = len(embedding)
    first, second = squareform(pdist(embedding)), squareform(pdist(positions))
    products = first * second, first**2, second**2
    r = _weighted_correlation(np.ones(n), first, second, *products)
    drawn = [np.bincount(rng.integers(n, size=n), minlength=n).astype(np.float64) for _ in range(draws)]
    resampled = [_weighted_correlation(times, first, second, *products) for times in drawn]
    upper = np.triu_indices(n, 1)
    centred = first[upper] - first[upper].mean()
    observed = float(centred @ second[upper])
    orders = [rng.permutation(n) for _ in range(draws)]
    as_large = sum(float(centred @ second[np.ix_(order, order)][upper]) >= observed for order in orders)
    low, high = np.quantile(resampled, (0.025, 0.975))
    return DistanceCorrelation(r, (float(low), float(high)), (1 + as_large) / (1 + draws), n)


def _weighted_correlation(
    times: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    both: np.ndarray,
    first_squared: np.ndarray,
    second_squared: np.ndarray,
) -> float:
    """Correlation over pairs of different spots, each spot counted so many times."""
    total = times.sum() ** 2 - (times**2).sum()
    means = [float(times @ matrix @ times) / total for matrix in (first, second, both, first_squared, second_squared)]
    a, b, ab, aa, bb = means
    return (ab - a * b) / float(np.sqrt((aa - a**2) * (bb - b**2)))


def distortion(
    embedding: np.ndarray,
    positions: np.ndarray,
    quantiles: tuple[float, ...] = (0.05, 0.25, 0.5, 0.75, 0.95),
    *,
    pairs: int = 100_000,
    seed: int = 0,
) -> np.ndarray:
    """Quantiles of the ratio of distances in an embedding and in space, divided by the median ratio.

    All are 1 where distances are preserved but for a scale; the last over the first is the distortion. Pairs on one
    position are left out.

    Parameters
    ----------
    embedding, positions
        n x d and n x p.
    quantiles
        Between 0 and 1.
    pairs
        Pairs of spots, drawn at random.
    seed
        Seed of the pairs.
    """
    embedding, positions = np.asarray(embedding, dtype=np.float64), np.asarray(positions, dtype=np.float64)
    one, other = np.random.default_rng(seed).integers(len(positions), size=(2, pairs))
    far = np.linalg.norm(positions[one] - positions[other], axis=1)
    ratio = np.linalg.norm(embedding[one] - embedding[other], axis=1)[far > 0] / far[far > 0]
    return np.quantile(ratio, quantiles) / np.median(ratio)


def neighbourhood_kept(
    embedding: np.ndarray, positions: np.ndarray, k: int = 15, section: np.ndarray | None = None
) -> float:
    """Mean share of the k nearest spots in space that are among the k nearest in the embedding, in each section.

    Raises
    ------
    ValueError
        If a section has no more than k spots.
    """
    near, alike = nearest(positions, k, section), nearest(embedding, k, section)
    both = np.sort(np.concatenate((near, alike), axis=1), axis=1)
    return float((both[:, 1:] == both[:, :-1]).sum() / near.size)


def abnormal_spots(cluster: np.ndarray, positions: np.ndarray, section: np.ndarray | None = None) -> float:
    """PAS: share of spots whose cluster is not that of more than half of their 10 nearest spots (Shang and Zhou 2022).

    Parameters
    ----------
    cluster
        Cluster of each spot, n.
    positions
        n x p.
    section
        Section of each spot, n; None: one.

    Returns
    -------
    float
        0 for smooth domains; smaller is better.
    """
    cluster = np.asarray(cluster)
    others = cluster[nearest(positions, PAS_NEIGHBOURS, section)] != cluster[:, None]
    return float((others.sum(axis=1) > PAS_NEIGHBOURS / 2).mean())


def chaos(cluster: np.ndarray, positions: np.ndarray, section: np.ndarray | None = None) -> float:
    """CHAOS: mean distance of a spot to the nearest one of its cluster, on standardised axes (Shang and Zhou 2022).

    Parameters
    ----------
    cluster, positions, section
        See `abnormal_spots`.

    Returns
    -------
    float
        Smaller for domains in one piece. Clusters of one or two spots in a section are left out of the sum, but not
        of the number of spots, as published. It depends on the number of spots: compare within a section only.
    """
    cluster, positions = np.asarray(cluster), np.asarray(positions, dtype=np.float64)
    section = np.zeros(len(cluster), dtype=int) if section is None else np.asarray(section)
    total = 0.0
    for code in np.unique(section):
        mine = np.flatnonzero(section == code)
        spread = positions[mine].std(axis=0)
        scaled = (positions[mine] - positions[mine].mean(axis=0)) / np.where(spread > 0, spread, 1)
        for name in np.unique(cluster[mine]):
            points = scaled[cluster[mine] == name]
            if len(points) > 2:
                total += cKDTree(points).query(points, 2)[0][:, 1].sum()
    return total / len(cluster)


def _sections(positions: np.ndarray, section: np.ndarray | None) -> np.ndarray:
    return np.zeros(len(positions), dtype=int) if section is None else np.asarray(section)


def _centred(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    return values - values.mean(axis=0)


def _matched(found: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Check two sets of points against one another."""
    found, true = np.asarray(found, dtype=np.float64), np.asarray(true, dtype=np.float64)
    if found.shape != true.shape or found.ndim != 2 or len(found) < 2:
        raise ValueError(
            f"points have shapes {found.shape} and {true.shape}, expected two equal ones of 2 or more rows"
        )
    if not (np.isfinite(found).all() and np.isfinite(true).all()):
        raise ValueError("points hold NaN or infinite values, expected finite numbers")
    return found, true
