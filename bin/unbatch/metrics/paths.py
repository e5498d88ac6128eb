"""Nearest cells in a graph, for methods that give one in place of an embedding."""

import numpy as np
from scib_metrics.nearest_neighbors import NeighborsResults
from scipy import sparse
from scipy.sparse.csgraph import dijkstra

_BLOCK = 500
"""Cells whose paths are found at once."""


def nearest_by_path(graph: sparse.csr_matrix, cells: np.ndarray, n_neighbors: int) -> NeighborsResults:
    """Find the nearest cells by the length of the shortest path, the cell itself first.

    Parameters
    ----------
    graph
        How strongly cells are joined, n x n; an edge is as long as the inverse of its weight.
    cells
        Positions of the m cells that are wanted, and looked for; paths may lead through others.
    n_neighbors
        How many; fewer only where fewer cells are wanted.

    Returns
    -------
    NeighborsResults
        Positions among `cells` and lengths, m x k.

    Notes
    -----
    As the graph LISI of Luecken et al. 2022 (Methods): a graph of few neighbours gets as many as the scores need. Paths
    are followed to a limit that is doubled until all cells have enough. A graph may fall into pieces: cells that no
    path leads to are twice as far as the farthest of the others, in an order drawn at random (the same in every run):
    the graph says nothing of it. Fewer neighbours for a cell, or for all, would be other scores.
    """
    lengths = graph.tocsr().astype(np.float64)
    lengths.data = 1 / np.maximum(lengths.data, 1e-12)
    part = sparse.csgraph.connected_components(lengths, directed=False)[1][cells]
    k = min(n_neighbors, len(cells))
    reached = np.minimum(np.bincount(part)[part], k)
    chance = np.random.default_rng(0).random(len(cells))
    indices, distances = np.empty((len(cells), k), np.int64), np.empty((len(cells), k))
    waiting, limit = np.arange(len(cells)), 4 * float(np.median(lengths.data))
    while waiting.size:
        short = []
        for block in np.split(waiting, range(_BLOCK, len(waiting), _BLOCK)):
            found = dijkstra(lengths, directed=False, indices=cells[block], limit=limit)[:, cells]
            enough = np.isfinite(found).sum(1) >= reached[block]
            short.append(block[~enough])
            block, found = block[enough], found[enough]
            found[np.arange(len(block)), block] = -1.0  # itself first, also where another one is at distance 0
            known = np.isfinite(found)
            farthest = np.where(known, found, 0).max(1, keepdims=True)
            found = np.where(known, found, 2 * farthest * (1 + 1e-6 * chance) + 1e-6 * chance)
            order = np.argsort(found, axis=1, kind="stable")[:, :k]
            indices[block] = order
            distances[block] = np.maximum(np.take_along_axis(found, order, 1), 0)
        waiting, limit = np.concatenate(short), 2 * limit
    return NeighborsResults(indices=indices, distances=distances)
