"""Scores of an embedding, of all its cells and with each group of them left out, from the same sums.

A score is a function of sums over cells, of pairs or neighbours of cells. Those sums are split by group once; leaving
a group out is a subtraction. What is not taken anew for every group is what is costly and hardly changes: the search
of neighbours (those left out are dropped from the lists), the bandwidth of LISI, the clusters of k-means, the diffusion
maps of kBET and the fits of the probes.

Arrays in, numbers out. `group` is always the code of each cell, 0 to `groups` - 1, and what is returned has a row (or
an entry) for each of the g groups, without it, and a last one of all cells.
"""

from collections.abc import Callable, Iterator

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components
from scipy.special import gammaincc
from sklearn.cluster import KMeans

from unbatch.metrics.uncertainty import CLUSTERINGS

ALPHA = 0.05
"""Level of kBET's tests, as in scib-metrics."""

_CHUNK = 2**25
"""Bytes that a block of distances may take."""

_COINCIDE = 2e-6
"""Squared distance, relative to the squared norm, below which cells coincide: single precision tells no more."""


def without(parts: np.ndarray, axis: int = 0) -> np.ndarray:
    """Turn sums by group into sums without each group, and last the sum of all, along an axis."""
    everything = parts.sum(axis=axis, keepdims=True)
    return np.concatenate([everything - parts, everything], axis=axis)


def kept(group: np.ndarray, groups: int) -> np.ndarray:
    """Whether each cell is there without each group, and last that all are; n x (g + 1)."""
    return group[:, None] != np.arange(groups + 1)


def table(code: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """Count the cells of each code, (g + 1) x c."""
    codes = int(code.max()) + 1
    counts = np.bincount(group * codes + code, minlength=groups * codes).reshape(groups, codes)
    return without(counts)


def lisi(indices: np.ndarray, weights: np.ndarray, code: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """Median over cells of the local inverse Simpson index of a code, g + 1.

    Parameters
    ----------
    indices, weights
        Neighbours, n x k, and their weights, which sum to 1 (`neighbour_weights`).
    code
        n codes.
    group, groups
        Groups of cells.
    """
    found = np.empty((len(code), groups + 1), dtype=np.float32)
    for rows, shares in _by_code_and_group(indices, code, group, groups, weights):
        left = without(shares, axis=2)
        found[rows] = left.sum(axis=1) ** 2 / np.square(left).sum(axis=1)
    there = kept(group, groups)
    return np.array([np.nanmedian(found[there[:, g], g]) for g in range(groups + 1)])


def graph_connectivity(indices: np.ndarray, label: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """Mean share of a label's cells in its largest component of the graph of neighbours, n x k; g + 1."""
    rows = np.repeat(np.arange(len(label)), indices.shape[1])
    columns = indices.ravel()
    alike = (label[rows] == label[columns]) & (rows != columns)
    rows, columns = rows[alike], columns[alike]
    labels, shape = int(label.max()) + 1, (len(label), len(label))
    found = []
    for there in kept(group, groups).T:
        edges = there[rows] & there[columns]
        graph = csr_matrix((np.ones(edges.sum(), dtype=np.int8), (rows[edges], columns[edges])), shape)
        _, component = connected_components(graph, connection="strong")
        sizes = np.bincount(component[there], minlength=int(component.max()) + 1)
        largest, cells = np.zeros(labels), np.bincount(label[there], minlength=labels)
        np.maximum.at(largest, label[there], sizes[component[there]])
        found.append(np.mean(largest[cells > 0] / cells[cells > 0]))
    return np.array(found)


def variance_between(values: np.ndarray, batch: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """Share of the variance of all columns together that lies between batches, g + 1.

    Regression of principal components on the batch comes to the same: variances add up over orthogonal components.
    """
    batches = int(batch.max()) + 1
    cell = group * batches + batch
    values = values - values.mean(axis=0)
    one_hot = csr_matrix((np.ones(len(cell)), (cell, np.arange(len(cell)))), (groups * batches, len(cell)))
    size = without((one_hot @ np.ones(len(cell))).reshape(groups, batches))
    sums = without((one_hot @ values.astype(np.float64)).reshape(groups, batches, -1))
    square = without(np.bincount(group, np.square(values, dtype=np.float64).sum(axis=1), groups))
    centre = np.square(sums.sum(axis=1)).sum(axis=1) / size.sum(axis=1)
    between = (np.square(sums).sum(axis=2) / np.maximum(size, 1)).sum(axis=1) - centre
    return between / (square - centre)


def pcr(reference: np.ndarray, embedding: np.ndarray, batch: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """Share of the variance by batch of the reference that is gone in the embedding, 0 or more, g + 1."""
    before, after = (variance_between(values, batch, group, groups) for values in (reference, embedding))
    return np.maximum((before - after) / before, 0)


def agreement(
    label: np.ndarray, cluster: np.ndarray, group: np.ndarray, groups: int, of: Callable[[np.ndarray], float]
) -> np.ndarray:
    """Agreement of labels with clusters by a function of their table of counts, g + 1."""
    labels, clusters = (int(code.max()) + 1 for code in (label, cluster))
    flat = (group * labels + label) * clusters + cluster
    tables = np.bincount(flat, minlength=groups * labels * clusters).reshape(groups, labels, clusters)
    return np.array([of(each) for each in without(tables)])


def acceptance(indices: np.ndarray, batch: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """Share of cells whose neighbours, n x k, are a draw from all batches by kBET's test, g + 1."""
    batch = np.unique(batch, return_inverse=True)[1]
    batches = int(batch.max()) + 1
    counted = table(batch, group, groups)
    cells = counted.sum(axis=1)
    expected = counted / cells[:, None]
    accepted, there = np.zeros(groups + 1), kept(group, groups)
    for rows, counts in _by_code_and_group(indices, batch, group, groups):
        left = without(counts, axis=2)
        wanted = left.sum(axis=1, keepdims=True) * expected.T
        statistic = np.nansum((left - wanted) ** 2 / wanted, axis=1)
        accepted += (there[rows] & (gammaincc((batches - 1) / 2, statistic / 2) >= ALPHA)).sum(axis=0)
    return accepted / cells


def mutual_information(table: np.ndarray) -> float:
    """Mutual information of two codings over the mean of their entropies, from their counts, r x c."""
    p = table / table.sum()
    rows, columns = p.sum(axis=1), p.sum(axis=0)

    def entropy(shares: np.ndarray) -> float:
        known = shares[shares > 0]
        return float(-(known * np.log(known)).sum())

    mean = (entropy(rows) + entropy(columns)) / 2
    return (entropy(rows) + entropy(columns) - entropy(p)) / mean if mean > 0 else 1.0


def adjusted_rand(table: np.ndarray) -> float:
    """Return the adjusted Rand index of two codings from their counts, r x c."""

    def pairs(counts: np.ndarray) -> float:
        return (counts * (counts - 1.0) / 2).sum()

    together, rows, columns = pairs(table), pairs(table.sum(axis=1)), pairs(table.sum(axis=0))
    expected, most = rows * columns / pairs(table.sum()), (rows + columns) / 2
    return float((together - expected) / (most - expected)) if most != expected else 1.0


def clustering_variance(embedding: np.ndarray, label: np.ndarray) -> float:
    """Variance of the sum of NMI and ARI between starts of k-means.

    Parameters
    ----------
    embedding
        n x d.
    label
        n codes.
    """
    labels = int(label.max()) + 1
    found = []
    for start in range(CLUSTERINGS):
        cluster = KMeans(labels, n_init=1, random_state=start, max_iter=100).fit(embedding).labels_
        counts = np.bincount(label * labels + cluster, minlength=labels**2).reshape(labels, labels)
        found.append(mutual_information(counts) + adjusted_rand(counts))
    return float(np.var(found, ddof=1))


def silhouettes(
    embedding: np.ndarray,
    codings: list[np.ndarray],
    group: np.ndarray,
    groups: int,
    *,
    grouped: int | None = None,
    absolute: bool = False,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Sum the silhouette widths of the cells of each code; Euclidean distances, computed once for several codings.

    Parameters
    ----------
    embedding
        n x d.
    codings
        Codes 0 to c - 1 of the n cells, each coding with two codes or more.
    group, groups
        Groups of cells.
    grouped
        How many of the codings, the first ones, are wanted without each group; of the others there is the last row
        alone. None: all.
    absolute
        Sum absolute widths.

    Returns
    -------
    list of (sums, cells)
        By coding: sums and the number of cells that each is over, (g + 1) x c or 1 x c.
    """
    n = len(embedding)
    x = np.asarray(embedding, dtype=np.float32)
    x = x - x.mean(axis=0)
    square = np.square(x).sum(axis=1)
    many = len(codings) if grouped is None else grouped
    parts = [_Widths(code, group, groups) for code in codings[:many]]
    parts += [_Widths(code, np.zeros_like(group), 0) for code in codings[many:]]
    # sums over the columns of the first coding are sums over stretches, if cells are sorted by its codes and groups
    order = np.argsort(parts[0].cell, kind="stable")
    used, starts = np.unique(parts[0].cell[order], return_index=True)
    position = np.empty(n, dtype=np.int64)
    position[order] = np.arange(n)
    columns, squares = np.ascontiguousarray(x[order].T), square[order]
    members = [part.members()[order] for part in parts[1:]]
    step = max(1, _CHUNK // (4 * max(n, *(4 * part.width for part in parts))))
    for start in range(0, n, step):
        rows = slice(start, min(start + step, n))
        distance = x[rows] @ columns
        distance *= -2
        distance += square[rows, None]
        distance += squares
        distance *= distance > _COINCIDE * square[rows, None]
        distance[np.arange(len(distance)), position[rows]] = 0
        np.sqrt(distance, out=distance)
        first = np.zeros((len(distance), parts[0].width), dtype=np.float32)
        first[:, used] = np.add.reduceat(distance, starts, axis=1)
        for part, total in zip(parts, (first, *(distance @ each for each in members)), strict=True):
            part.add(rows, total, absolute)
    return [(part.sums, part.left.T) for part in parts]


class _Widths:
    """Sums of silhouette widths of a coding, to which rows of sums of distances are added.

    `cell` numbers the pairs of code and group, `width` is their number.
    """

    def __init__(self, code: np.ndarray, group: np.ndarray, groups: int) -> None:
        self.code, self.group, self.groups = code, group, groups
        self.codes, slots = int(code.max()) + 1, max(groups, 1)
        self.cell, self.width = code * slots + group, self.codes * slots
        counts = np.bincount(self.cell, minlength=self.width).reshape(self.codes, slots)
        self.left = without(counts, axis=1) if groups else counts
        self.sums = np.zeros((self.left.shape[1], self.codes))
        self.there = kept(group, groups) if groups else np.ones((len(code), 1), dtype=bool)

    def members(self) -> np.ndarray:
        """Pair of code and group of each cell, one-hot, n x `width`."""
        return (self.cell[:, None] == np.arange(self.width)).astype(np.float32)

    def add(self, rows: slice, total: np.ndarray, absolute: bool) -> None:
        """Add the widths of some cells from their summed distances to each pair, rows x `width`."""
        total = total.reshape(len(total), self.codes, -1)
        total = without(total, axis=2) if self.groups else total
        own, at = self.code[rows], np.arange(len(total))
        inside = total[at, own] / np.maximum(self.left[own] - 1, 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            total = np.where(self.left > 0, total / self.left, np.inf)
        total[at, own] = np.inf
        self._count(rows, inside, total.min(axis=1), absolute)

    def _count(self, rows: slice, inside: np.ndarray, outside: np.ndarray, absolute: bool) -> None:
        own = self.code[rows]
        with np.errstate(invalid="ignore", divide="ignore"):
            width = np.nan_to_num((outside - inside) / np.maximum(inside, outside), posinf=0, neginf=0)
        # a cell alone in its code counts 0, one that is left out not at all
        width = np.where((self.left[own] > 1) & self.there[rows], width, 0)
        np.add.at(self.sums.T, own, np.abs(width) if absolute else width)


def bras(embedding: np.ndarray, label: np.ndarray, batch: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """Overlap of the batches of a label by BRAS, mean over labels, g + 1.

    Cosine distances to the cells of the own and of all other batches, whose mean is the distance to the sum of the
    cells' directions: no distance between two cells is needed.
    """
    found = []
    for cells, batches in _labels_with_batches(label, batch):
        x = np.asarray(embedding[cells], dtype=np.float64)
        x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
        part = _Widths(batches, group[cells], groups)
        one_hot = csr_matrix((np.ones(len(x)), (part.cell, np.arange(len(x)))), (part.width, len(x)))
        sums = without((one_hot @ x).reshape(part.codes, groups, -1), axis=1)
        distance = part.left[None] - np.einsum("nd,cgd->ncg", x, sums, optimize=True)
        at = np.arange(len(x))
        own = distance[at, batches]
        inside = own / np.maximum(part.left[batches] - 1, 1)
        others = part.left.sum(axis=0) - part.left[batches]
        outside = (distance.sum(axis=1) - own) / np.maximum(others, 1)
        part._count(slice(None), inside, outside, absolute=True)
        found.append(_overlap(part.sums, part.left.T))
    return _mean_over_labels(found)


def silhouette_batch(
    embedding: np.ndarray, label: np.ndarray, batch: np.ndarray, group: np.ndarray, groups: int
) -> np.ndarray:
    """Overlap of the batches of a label by scIB's older score, mean over labels, g + 1."""
    found = []
    for cells, batches in _labels_with_batches(label, batch):
        found.append(_overlap(*silhouettes(embedding[cells], [batches], group[cells], groups, absolute=True)[0]))
    return _mean_over_labels(found)


def _labels_with_batches(label: np.ndarray, batch: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the cells of each label that has two batches, not each with a single cell, and the codes of these."""
    for one in np.unique(label):
        cells = np.flatnonzero(label == one)
        batches = np.unique(batch[cells], return_inverse=True)[1]
        if int(batches.max()) + 1 not in (1, len(cells)):
            yield cells, batches


def _overlap(sums: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Return 1 - the mean absolute width; NaN where a single batch is left."""
    alone = (cells > 0).sum(axis=1) < 2
    return np.where(alone, np.nan, 1 - sums.sum(axis=1) / np.maximum(cells.sum(axis=1), 1))


def _mean_over_labels(found: list[np.ndarray]) -> np.ndarray:
    if not found:
        raise ValueError("no label is in two batches")
    return np.nanmean(found, axis=0)


def neighbour_weights(distances: np.ndarray, other: np.ndarray, perplexity: float) -> np.ndarray:
    """Weights exp(-distance x beta) of neighbours, with the beta that gives each cell's the wanted perplexity.

    Parameters
    ----------
    distances
        n x k.
    other
        Whether a neighbour is another cell, n x k; the cell itself has no weight.
    perplexity
        Exponential of the entropy of a cell's weights.

    Returns
    -------
    np.ndarray
        n x k; they sum to 1.
    """
    n = len(distances)
    beta, low, high = np.ones(n), np.full(n, -np.inf), np.full(n, np.inf)
    weights = np.zeros(distances.shape, dtype=np.float32)
    active = np.arange(n)
    for _ in range(50):
        near = np.where(other[active], np.exp(-distances[active] * beta[active, None]), 0)
        total = np.maximum(near.sum(axis=1), 1e-300)
        weights[active] = near / total[:, None]
        entropy = np.log(total) + beta[active] * (distances[active] * near).sum(axis=1) / total
        excess = entropy - np.log(perplexity)
        flat = excess > 0
        low[active[flat]], high[active[~flat]] = beta[active[flat]], beta[active[~flat]]
        active = active[np.abs(excess) >= 1e-5]
        if not len(active):
            break
        up, down = np.isinf(high[active]), np.isinf(low[active])
        beta[active] = np.where(
            up, beta[active] * 2, np.where(down, beta[active] / 2, (low[active] + high[active]) / 2)
        )
    return weights


def _by_code_and_group(
    indices: np.ndarray, code: np.ndarray, group: np.ndarray, groups: int, weights: np.ndarray | None = None
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield rows and the weights (or numbers) of their neighbours by code and group, rows x c x g."""
    codes = int(code.max()) + 1
    column = code * groups + group
    k = indices.shape[1]
    step = max(1, _CHUNK // (16 * codes * groups))
    for start in range(0, len(indices), step):
        rows = slice(start, min(start + step, len(indices)))
        m = rows.stop - rows.start
        flat = np.repeat(np.arange(m) * (codes * groups), k) + column[indices[rows]].ravel()
        weight = None if weights is None else weights[rows].ravel()
        yield rows, np.bincount(flat, weight, m * codes * groups).reshape(m, codes, groups)
