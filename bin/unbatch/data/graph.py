"""Which cells of a section touch: graphs of neighbours from coordinates, one section at a time."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from unbatch.errors import InputError

Kind = Literal["auto", "delaunay", "visium", "knn", "radius"]

LONGEST = 2.5
"""Longest edge of a Delaunay triangulation, in units of the local distance between cells (see `neighbours`).

For cells at random positions this removes 1.3% of the edges inside a plane and 0.4% inside a solid."""

MOST_SHARED = 0.01
"""Share of a section's cells that may stand on the position of another cell."""

MOST_NEIGHBOURS = 200
"""Mean number of neighbours beyond which a radius is refused: the graph would need too much memory."""


@dataclass(frozen=True)
class Graph:
    """Neighbours of n cells.

    Attributes
    ----------
    source, target
        Cells at the two ends of each edge, int64, shape (edges,). Every edge is there in both directions, sorted by
        source, then target.
    kinds
        How each section's graph was built, by the section's code (``auto`` is never among them).
    """

    source: np.ndarray
    target: np.ndarray
    kinds: dict[int, str]


def neighbours(
    coordinates: np.ndarray,
    section: np.ndarray,
    kind: Kind = "auto",
    *,
    k: int = 6,
    radius: float | None = None,
    names: list[str] | None = None,
) -> Graph:
    """Join neighbouring cells; there is never an edge between sections.

    Parameters
    ----------
    coordinates
        Shape (n, 2) or (n, 3), any unit.
    section
        Code of what each cell's coordinates are of, shape (n,): cells of one code can be neighbours, others never.
    kind
        ``visium``: coordinates are array indices (row, column) of a hexagonal array, whose spots touch at the offsets
        (+-1, +-1) and (0, +-2); the nearest k by distance of the indices would be others. ``delaunay``: Delaunay
        triangulation without long edges (notes). ``knn``: the `k` nearest cells of each cell and the cells that have
        it among theirs (union). ``radius``: all cells within `radius`. ``auto``: ``visium`` for each section whose
        coordinates are such indices, else ``delaunay``.
    k
        Nearest cells for ``knn``; ties in distance are broken arbitrarily.
    radius
        For ``radius``, in the unit of the coordinates.
    names
        Names of the sections by code, for messages.

    Raises
    ------
    InputError
        If coordinates are missing, a section has no edge at all (one cell alone is no error), too many cells share
        positions, or `k` or `radius` cannot be used.

    Notes
    -----
    A triangulation spans gaps and hollows with long edges. POPARI drops those above the 94.5th percentile of length,
    which takes good edges from an even section and keeps bad ones in a torn one. Here an edge is dropped if it is
    longer than `LONGEST` times the geometric mean of its ends' distances to their third nearest (3-D: fourth)
    Delaunay neighbour: that follows the density of the tissue, and debris far off is cut loose. On a lattice, where
    all cells have their nearest neighbour at one distance, edges longer than 1.25 times that are dropped: 4
    neighbours on a square lattice and 6 on a hexagonal one (spots in pixels), whichever diagonals the triangulation
    took. Points on a line or a plane are triangulated there. For cells on one position the triangulation moves the
    later ones by a thousandth of the distance between cells.
    """
    coordinates = np.asarray(coordinates, dtype=np.float64)
    section = np.asarray(section)
    if coordinates.ndim != 2 or coordinates.shape[1] not in (2, 3) or len(coordinates) != len(section):
        raise InputError(
            f"coordinates have shape {coordinates.shape}, expected 2 or 3 columns and a row for each of the "
            f"{len(section)} cells"
        )
    if kind not in get_args(Kind):
        raise InputError(f"graph {kind} is unknown, expected one of {', '.join(get_args(Kind))}")
    if kind == "knn" and k < 1:
        raise InputError(f"k is {k}, expected 1 neighbour or more")
    if kind == "radius" and not (radius is not None and 0 < radius < np.inf):
        raise InputError(f"radius is {radius}, expected a length above 0 in the unit of the coordinates")
    order = np.argsort(section, kind="stable")
    codes, starts = np.unique(section[order], return_index=True)
    pairs, kinds = [], {}
    for code, cells in zip(codes.tolist(), np.split(order, starts[1:]), strict=True):
        name = f"section {names[code] if names else code}"
        points = coordinates[cells]
        _check(points, name)
        chosen = ("visium" if _is_array(points) else "delaunay") if kind == "auto" else kind
        match chosen:
            case "visium":
                found = _visium(points, name)
            case "delaunay":
                found = _delaunay(points)
            case "knn":
                found = _knn(points, k)
            case _:
                found = _within(points, radius, name)
        if not len(found) and len(cells) > 1:
            raise InputError(
                f"{name}: the {chosen} graph of its {len(cells)} cells has no edge, expected neighbouring cells: "
                "check the coordinates' unit or choose another graph"
            )
        pairs.append(cells[found])
        kinds[code] = chosen
    return Graph(*_both_ways(np.concatenate(pairs) if pairs else np.empty((0, 2), int), len(section)), kinds)


def widened(graph: Graph, n: int, rings: int = 2) -> Graph:
    """Join every cell with all cells that are at most `rings` edges away.

    Parameters
    ----------
    graph
        Positions of `n` cells.
    n
        Number of cells.
    rings
        1 returns the same edges; 2 makes the 6 neighbours of a Visium spot 18, and about 20 of a Delaunay graph.
    """
    from scipy.sparse import csr_array

    step = csr_array((np.ones(len(graph.source), dtype=bool), (graph.source, graph.target)), shape=(n, n))
    reached = step
    for _ in range(rings - 1):
        reached = reached + reached @ step
    source, target = reached.tocoo().coords
    keep = source < target
    return Graph(*_both_ways(np.column_stack((source[keep], target[keep])), n), graph.kinds)


def _both_ways(pairs: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Sort each pair's two directions by source and target, every one once."""
    pairs = np.unique(np.concatenate((pairs[:, 0] * n + pairs[:, 1], pairs[:, 1] * n + pairs[:, 0])))
    return pairs // n, pairs % n


def _check(points: np.ndarray, name: str) -> None:
    missing = ~np.isfinite(points).all(axis=1)
    if missing.any():
        raise InputError(
            f"{name}: coordinates are missing in {missing.sum()} of {len(points)} cells, expected a position for every "
            "cell, or no coordinates at all"
        )
    shared = len(points) - len(np.unique(points, axis=0))
    if shared > max(1, MOST_SHARED * len(points)):
        raise InputError(
            f"{name}: {shared} of {len(points)} cells are at the position of another cell, expected a position of its "
            "own for each cell; if these are several sections, preprocess --section-key tells them apart"
        )


def _is_array(points: np.ndarray) -> bool:
    """Tell whether these are indices into a hexagonal array: whole numbers whose sums are all even, or all odd.

    Some must touch across rows, too: few cells could be of one parity by chance, and all cells of a square grid of
    step 2 are, but these touch within rows only.
    """
    if points.shape[1] != 2 or len(points) < 2 or (points != np.rint(points)).any():
        return False
    parity = points.sum(axis=1) % 2
    if (parity != parity[0]).any():
        return False
    source, target = _visium(points).T
    return bool((points[source, 0] != points[target, 0]).any())


def _visium(points: np.ndarray, name: str = "") -> np.ndarray:
    if points.shape[1] != 2 or (points != np.rint(points)).any():
        raise InputError(
            f"{name}: coordinates are not whole numbers in 2 columns, expected the array's row and column of each spot "
            "for a visium graph"
        )
    row, column = (points - points.min(axis=0)).astype(np.int64).T
    # with a margin of 2 columns an offset never leads into another row
    width = column.max() + 3
    code = row * width + column
    order = np.argsort(code)
    code = code[order]
    pairs = []
    for offset in (2, width + 1, width - 1):
        place = np.minimum(np.searchsorted(code, code + offset), len(code) - 1)
        hit = code[place] == code + offset
        pairs.append(np.column_stack((order[hit], order[place[hit]])))
    return np.concatenate(pairs)


def _knn(points: np.ndarray, k: int) -> np.ndarray:
    from scipy.spatial import cKDTree

    k = min(k, len(points) - 1)
    if k < 1:
        return np.empty((0, 2), dtype=np.int64)
    _, near = cKDTree(points).query(points, k + 1)
    # of cells on one position, any can come first: take the cell itself out wherever it is, else the farthest
    itself = near == np.arange(len(points))[:, None]
    itself[~itself.any(axis=1), -1] = True
    return np.column_stack((np.repeat(np.arange(len(points)), k), near[~itself]))


def _within(points: np.ndarray, radius: float, name: str) -> np.ndarray:
    from scipy.spatial import cKDTree

    tree = cKDTree(points)
    mean = tree.count_neighbors(tree, radius) / len(points) - 1
    if mean > MOST_NEIGHBOURS:
        raise InputError(
            f"{name}: within the radius of {radius:g} a cell has {mean:.0f} neighbours in the mean, expected at most "
            f"{MOST_NEIGHBOURS}: give a smaller radius"
        )
    return tree.query_pairs(radius, output_type="ndarray").astype(np.int64)


def _delaunay(points: np.ndarray) -> np.ndarray:
    from scipy.spatial import Delaunay

    points = _flattened(_apart(points))
    n, dimensions = points.shape
    if dimensions == 0:
        return np.empty((0, 2), dtype=np.int64)
    if dimensions == 1:
        order = np.argsort(points[:, 0])
        pairs = np.column_stack((order[:-1], order[1:]))
    elif n == dimensions + 1:
        pairs = np.column_stack(np.triu_indices(n, 1))
    else:
        starts, ends = Delaunay(points).vertex_neighbor_vertices
        pairs = np.column_stack((np.repeat(np.arange(n), np.diff(starts)), ends))
        pairs = pairs[pairs[:, 0] < pairs[:, 1]].astype(np.int64)
    length = np.linalg.norm(points[pairs[:, 0]] - points[pairs[:, 1]], axis=1)
    nearest = _ranked_lengths(pairs, length, n, 1)
    low, spacing, high = np.quantile(nearest, (0.05, 0.5, 0.95))
    if high < 1.05 * low:
        return pairs[length <= 1.25 * spacing]
    local = _ranked_lengths(pairs, length, n, dimensions + 1)
    return pairs[length <= LONGEST * np.sqrt(local[pairs[:, 0]] * local[pairs[:, 1]])]


def _apart(points: np.ndarray) -> np.ndarray:
    """Move cells that are on the position of an earlier one by a thousandth of the distance between cells."""
    _, first = np.unique(points, axis=0, return_index=True)
    if len(first) == len(points):
        return points
    copies = np.setdiff1d(np.arange(len(points)), first)
    spread = np.ptp(points, axis=0)
    measured = spread[spread > 0]
    step = 1e-3 * np.exp(np.mean(np.log(measured))) / len(points) ** (1 / len(measured)) if len(measured) else 1.0
    points = points.copy()
    points[copies] += step * np.random.default_rng(0).uniform(-1, 1, (len(copies), points.shape[1]))
    return points


def _flattened(points: np.ndarray) -> np.ndarray:
    """Coordinates in the line or plane that the points lie in, centred, if they lie in one."""
    centred = points - points.mean(axis=0)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    rank = int((sizes > 1e-9 * max(sizes[0], 1e-300)).sum())
    return centred if rank == points.shape[1] else centred @ axes[:rank].T


def _ranked_lengths(pairs: np.ndarray, length: np.ndarray, n: int, rank: int) -> np.ndarray:
    """Length of the `rank`-th shortest edge of each cell, or of its longest if it has fewer; every cell has one."""
    ends = np.concatenate((pairs[:, 0], pairs[:, 1]))
    both = np.concatenate((length, length))
    order = np.lexsort((both, ends))
    degree = np.bincount(ends, minlength=n)
    start = np.cumsum(degree) - degree
    return both[order][start + np.minimum(rank, degree) - 1]
