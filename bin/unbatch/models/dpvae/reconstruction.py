"""Positions of latent distances, and of some spots whose positions are known: the anchors.

With latent values z_i, lambda and anchors I, positions p_i minimise the stress::

    sum_ij (|z_i - z_j| / lambda - |p_i - p_j|)^2,     p_i = s_i for i in I                                      (3)

or, with gamma, the stress + gamma sum_I |p_i - s_i|. That is not convex: it starts from the p largest principal axes of
z, which is classical scaling of the latent distances, mapped to the anchors by the best rotation and shift, with and
without a reflection, and from the best projection of z on the anchors; the smallest stress is kept. Steps are those of
SMACOF (de Leeuw 1977): with V = n I - 11' and B(P)_ij = -(|z_i - z_j| / lambda) / |p_i - p_j|, whose rows add up to 0,
V P' = B(P) P, with the rows of the anchors held. V has a closed inverse: a step costs one matrix of distances.

Three anchors that are not on a line fix rotation, reflection and shift where distances are exact; with the noise of
expression it takes tens.
"""

from collections.abc import Iterator

import numpy as np

from unbatch.metrics.spatial import Similarity, similarity

METHODS = ("latent", "mds", "stress")
MOST = 2_000
"""Spots up to which all distances are used; of more, so many are put first, the others by their distances to them."""
STEPS, TOLERANCE = 60, 1e-7
"""Steps at most, and the share of the stress that a step must remove."""
EXACT = 1e-13
"""Stress, as a share of the squared distances, that is rounding."""
FLAT = 1e-3
"""Ratio of the smallest to the largest extent of the anchors below which they are on a line."""
BLOCK = 1024

Anchors = tuple[np.ndarray, np.ndarray]
"""Which spots are anchors (numbers, m), and where they are (m x p)."""


class AnchorError(ValueError):
    """Anchors cannot be used."""


def reconstruct(
    latent: np.ndarray,
    scale: float,
    anchors: Anchors | None = None,
    *,
    method: str = "latent",
    gamma: float | None = None,
    axes: int = 2,
    seed: int = 0,
) -> np.ndarray:
    """Find positions of latent values.

    Parameters
    ----------
    latent
        n x d.
    scale
        Lambda: latent distance of two spots one unit apart.
    anchors
        Spots and their positions; None: positions are centred, and known but for rotation and reflection.
    method
        ``"latent"``: the principal axes of the latent values; ``"mds"``: least stress of all spots, brought to the
        anchors afterwards; ``"stress"``: least stress with the anchors held.
    gamma
        Weight of the distance of anchors from their positions, by ``"stress"``; None: they are held.
    axes
        Number of axes of positions without anchors.
    seed
        Seed of the choice of spots that are placed first where there are many.

    Returns
    -------
    numpy.ndarray
        n x p. Anchors are exactly where they are said to be, unless there is `gamma`.

    Raises
    ------
    AnchorError
        If there are fewer anchors than fix the axes, they are on a line, one is named twice or is none of the spots,
        two are on one position, or a value is not finite.
    ValueError
        If latent values, lambda or the method cannot be used.
    """
    latent = np.asarray(latent, dtype=np.float64)
    if latent.ndim != 2 or not np.isfinite(latent).all() or not 0 < scale < np.inf:
        raise ValueError(
            f"latent values of shape {latent.shape} with lambda {scale:g}, expected finite ones and a lambda above 0"
        )
    if method not in METHODS:
        raise ValueError(f"method is {method!r}, expected one of {', '.join(METHODS)}")
    if gamma is not None and (method != "stress" or anchors is None or not 0 < gamma < np.inf):
        raise ValueError("gamma is for the method stress with anchors, and above 0")
    z = latent / scale
    held = None
    if anchors is not None:
        held = checked(anchors, len(z))
        axes = held[1].shape[1]
    if z.shape[1] < axes or len(z) <= axes:
        raise ValueError(
            f"latent values have shape {z.shape}, expected {axes} dimensions or more and more spots than these"
        )
    if method == "latent":
        plain = _principal(z, axes)
        return plain if held is None else _exact(similarity(plain[held[0]], held[1])(plain), held)
    if len(z) <= MOST:
        return _least(z, axes, held, method, gamma)
    rng = np.random.default_rng(seed)
    first = rng.permutation(len(z))[:MOST]
    part = held
    if held is not None:
        # more anchors than that fix no more
        kept = np.sort(rng.permutation(len(held[0]))[: MOST // 2])
        part = held[0][kept], held[1][kept]
        first = np.union1d(first[: MOST - len(kept)], part[0])
    first = np.sort(first)
    some = None if part is None else (np.searchsorted(first, part[0]), part[1])
    found = np.empty((len(z), axes))
    found[first] = _least(z[first], axes, some, method, gamma)
    others = np.setdiff1d(np.arange(len(z)), first)
    for rows in np.array_split(others, max(1, -(-len(others) // BLOCK))):
        found[rows] = _placed(z[rows], z[first], found[first])
    return found if gamma is not None else _exact(found, held)


def from_anchors(found: np.ndarray, anchors: Anchors) -> np.ndarray:
    """Bring positions in other coordinates to anchors by rotation, reflection and shift; these are then exact.

    Raises
    ------
    AnchorError
        See `reconstruct`.
    """
    number, position = checked(anchors, len(found))
    tried = [_rigid(found[number], position, mirrored=mirrored)(found) for mirrored in (False, True)]
    best = min(tried, key=lambda each: np.square(each[number] - position).sum())
    return _exact(best, (number, position))


def checked(anchors: Anchors, spots: int) -> Anchors:
    """Check anchors, and give them as arrays.

    Raises
    ------
    AnchorError
        See `reconstruct`.
    """
    number, position = np.asarray(anchors[0]), np.asarray(anchors[1], dtype=np.float64)
    if position.ndim != 2 or number.shape != (len(position),):
        raise AnchorError(
            f"anchors have shapes {number.shape} and {position.shape}, expected a number and a position each"
        )
    least = position.shape[1] + 1
    if not np.isfinite(position).all():
        raise AnchorError(
            f"{int((~np.isfinite(position).all(1)).sum())} anchors have no position, expected one for each"
        )
    if len(number) and (number.min() < 0 or number.max() >= spots):
        raise AnchorError(f"anchor {number.min() if number.min() < 0 else number.max()} is none of the {spots} spots")
    values, times = np.unique(number, return_counts=True)
    if (times > 1).any():
        twice = values[times > 1][0]
        places = len(np.unique(position[number == twice], axis=0))
        what = f"{places} different positions" if places > 1 else "its position twice"
        raise AnchorError(f"anchor {twice} has {what}, expected every anchor once")
    if len(number) < least:
        raise AnchorError(f"there are {len(number)} anchors, expected {least} or more that are not on a line")
    if len(np.unique(position, axis=0)) < len(position):
        raise AnchorError("two anchors are on one position, expected a position of its own for each")
    extent = np.linalg.svd(position - position.mean(0), compute_uv=False)
    if extent[-1] < FLAT * extent[0]:
        raise AnchorError(
            f"the {len(number)} anchors are on a line, which fixes no reflection; expected {least} or more that are not"
        )
    return number, position


def _principal(z: np.ndarray, axes: int) -> np.ndarray:
    """Classical scaling of the distances of z: its principal axes, centred."""
    centred = z - z.mean(0)
    vectors = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :axes]
    return centred @ vectors


def _exact(found: np.ndarray, held: Anchors | None) -> np.ndarray:
    if held is not None:
        found = found.copy()
        found[held[0]] = held[1]
    return found


def _rigid(points: np.ndarray, true: np.ndarray, *, mirrored: bool) -> Similarity:
    """Find the rotation and shift that bring points closest to others, as a reflection or not."""
    centre, aim = points.mean(0), true.mean(0)
    left, _, right = np.linalg.svd((points - centre).T @ (true - aim))
    signs = np.ones(points.shape[1])
    signs[-1] = np.linalg.det(left @ right) * (-1 if mirrored else 1)
    rotation = (left * np.sign(signs)) @ right
    return Similarity(rotation, 1.0, aim - centre @ rotation)


def _starts(z: np.ndarray, axes: int, held: Anchors | None) -> Iterator[np.ndarray]:
    """Yield positions to start from, without the anchors put in their places."""
    plain = _principal(z, axes)
    if held is None:
        yield plain
        return
    number, position = held
    for mirrored in (False, True):
        yield _rigid(plain[number], position, mirrored=mirrored)(plain)
    yield similarity(plain[number], position)(plain)
    if z.shape[1] > axes:
        centre = z[number].mean(0)
        left, _, right = np.linalg.svd((z[number] - centre).T @ (position - position.mean(0)), full_matrices=False)
        yield (z - centre) @ (left @ right) + position.mean(0)


def _least(z: np.ndarray, axes: int, held: Anchors | None, method: str, gamma: float | None) -> np.ndarray:
    """Minimise the stress of all spots, from every start."""
    if method == "mds":
        found, _ = _smacof(z, _principal(z, axes), None, None)
        return found if held is None else _exact(similarity(found[held[0]], held[1])(found), held)
    best, exact = (None, np.inf), EXACT * float(np.square(_distances(z, z)).sum())
    for start in _starts(z, axes, held):
        best = min(best, _smacof(z, start, held, gamma), key=lambda each: each[1])
        if best[1] <= exact:
            break
    return best[0]


def _smacof(z: np.ndarray, start: np.ndarray, held: Anchors | None, gamma: float | None) -> tuple[np.ndarray, float]:
    """Minimise (3) from a start; positions and what is minimised."""
    n = len(z)
    wanted = _distances(z, z)
    current = start if gamma is not None else _exact(start, held)
    free = np.ones(n, dtype=bool)
    if held is not None and gamma is None:
        free[held[0]] = False
    before, total = np.inf, float(np.square(wanted).sum())
    for _ in range(STEPS + 1):
        found = _distances(current, current)
        stress = float(np.square(wanted - found).sum())
        if gamma is not None:
            away = np.linalg.norm(current[held[0]] - held[1], axis=1)
            stress += gamma * float(away.sum())
        if stress <= EXACT * total or (before < np.inf and before - stress <= TOLERANCE * before):
            break
        before = stress
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(found > 0, wanted / found, 0.0)
        pull = ratio.sum(1)[:, None] * current - ratio @ current
        if gamma is not None:
            # |u| is at most |u|^2 / 2c + c / 2, and equal for the c of the step before
            weight = np.zeros(n)
            weight[held[0]] = gamma / (4 * np.maximum(away, 1e-9))
            pull[held[0]] += weight[held[0], None] * held[1]
            inverse = 1 / (n + weight)
            # the inverse of diag(n + w) - 11' by Sherman and Morrison; 1 - sum n / n is 0 without a weight
            left = float((weight * inverse).sum()) / n
            current = inverse[:, None] * (pull + (inverse @ pull) / left)
        elif held is None:
            current = pull / n
        else:
            aim = pull[free] + held[1].sum(0)
            current = current.copy()
            current[free] = (aim + aim.sum(0) / len(held[1])) / n
    return current, stress


def _placed(z: np.ndarray, known: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Put spots by their distances to others that stay where they are, each by itself."""
    wanted = _distances(z, known)
    # as the best linear map of those that are known puts them
    design = np.column_stack([np.ones(len(known)), known])
    current = np.column_stack([np.ones(len(z)), z]) @ np.linalg.lstsq(design, position, rcond=None)[0]
    for _ in range(STEPS):
        found = _distances(current, position)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(found > 0, wanted / found, 0.0)
        current = position.mean(0) + (ratio.sum(1)[:, None] * current - ratio @ position) / len(position)
    return current


def _distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    squares = np.square(first).sum(1)[:, None] + np.square(second).sum(1) - 2 * first @ second.T
    np.maximum(squares, 0, out=squares)
    if first is second:
        np.fill_diagonal(squares, 0)
    return np.sqrt(squares, out=squares)
