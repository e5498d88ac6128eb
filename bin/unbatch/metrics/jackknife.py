"""Scores of an embedding with a group of its cells left out, for all groups at once and without computing them anew.

A score is a function of sums over cells, of pairs or neighbours of cells. Those sums are split by group once; leaving
a group out is a subtraction. What is not taken anew for every group is what is costly and hardly changes: the search
of neighbours (those left out are dropped from the lists), the bandwidth of LISI, the clusters of k-means, the diffusion
maps of kBET and the fits of the probes. Arrays in, numbers out.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components
from scipy.special import gammaincc
from sklearn.cluster import KMeans

from unbatch.metrics.integration import (
    GRAPH_NEIGHBOURS,
    KBET_NEIGHBOURS,
    LISI_NEIGHBOURS,
    Metric,
    Scene,
    isolated,
)
from unbatch.metrics.uncertainty import CLUSTERINGS

ALPHA = 0.05
"""Level of kBET's tests, as in scib-metrics."""

_CHUNK = 2**26
"""Bytes that a block of distances may take."""


def replicates(scene: Scene, wanted: Sequence[Metric], group: np.ndarray) -> dict[str, np.ndarray]:
    """Compute scores with each group of cells left out.

    Parameters
    ----------
    scene
        The embedding, of which these scores were computed before.
    wanted
        The scores; those without such a form are skipped.
    group
        Codes 0 to g - 1 of the n cells, no group empty.

    Returns
    -------
    dict
        By name, g; NaN for a group without which the score cannot be computed.
    """
    left_out, found = LeftOut(scene, group), {}
    # a label or batch can vanish with a group: the NaN says so
    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)
        for metric in wanted:
            if metric.left_out is not None:
                found[metric.name] = metric.left_out(scene, group, left_out.groups)
            elif metric.name in _SCORES:
                found[metric.name] = _SCORES[metric.name](left_out)
    return found


@dataclass(frozen=True, eq=False)
class LeftOut:
    """Scores of a scene without each of its groups.

    Attributes
    ----------
    scene
        The embedding and its cells.
    group
        Codes 0 to g - 1 of the n cells.
    """

    scene: Scene
    group: np.ndarray

    @cached_property
    def groups(self) -> int:
        """Number of groups, g."""
        return int(self.group.max()) + 1

    @cached_property
    def silhouette_of_labels(self) -> tuple[np.ndarray, np.ndarray]:
        """Sum of the silhouette widths of the cells of each label, and their number, g x labels."""
        return silhouettes(self.scene.embedding, self.scene.label, self.group, self.groups)

    @cached_property
    def closeness(self) -> np.ndarray:
        """Weights of the neighbours in LISI, n x k; they sum to 1."""
        near = self.scene.nearest(LISI_NEIGHBOURS)
        other = near.indices != np.arange(len(near.indices))[:, None]
        return neighbour_weights(np.asarray(near.distances), other, np.floor(near.indices.shape[1] / 3))

    def lisi(self, code: np.ndarray) -> np.ndarray:
        """Median of the local inverse Simpson index of a code, g."""
        indices = self.scene.nearest(LISI_NEIGHBOURS).indices
        shares = _by_code_and_group(indices, code, self.group, self.groups, self.closeness)
        found = np.empty((len(code), self.groups), dtype=np.float32)
        for rows, each in shares:
            left = each.sum(axis=2, keepdims=True) - each
            found[rows] = left.sum(axis=1) ** 2 / np.square(left).sum(axis=1)
        return np.array([np.nanmedian(found[self.group != g, g]) for g in range(self.groups)])

    def graph_connectivity(self) -> np.ndarray:
        """Mean share of a label's cells in its largest component, g."""
        indices, label = self.scene.nearest(GRAPH_NEIGHBOURS).indices, self.scene.label
        rows = np.repeat(np.arange(len(label)), indices.shape[1])
        columns = indices.ravel()
        alike = (label[rows] == label[columns]) & (rows != columns)
        rows, columns = rows[alike], columns[alike]
        labels = int(label.max()) + 1
        found = []
        for g in range(self.groups):
            kept = self.group != g
            edges = kept[rows] & kept[columns]
            shape = (len(label), len(label))
            graph = csr_matrix((np.ones(edges.sum(), dtype=np.int8), (rows[edges], columns[edges])), shape)
            _, component = connected_components(graph, connection="strong")
            sizes = np.bincount(component[kept], minlength=int(component.max()) + 1)
            largest, cells = np.zeros(labels), np.bincount(label[kept], minlength=labels)
            np.maximum.at(largest, label[kept], sizes[component[kept]])
            found.append(np.mean(largest[cells > 0] / cells[cells > 0]))
        return np.array(found)

    def pcr(self) -> np.ndarray:
        """Share of the variance by batch that is gone, 0 or more, g."""
        before, after = (self._variance_by_batch(x) for x in (self.scene.reference, self.scene.embedding))
        return np.maximum((before - after) / before, 0)

    def _variance_by_batch(self, values: np.ndarray) -> np.ndarray:
        """Share of the variance of all columns together that lies between batches, g."""
        batches = int(self.scene.batch.max()) + 1
        cell = self.group * batches + self.scene.batch
        values = values - values.mean(axis=0)
        one_hot = csr_matrix((np.ones(len(cell)), (cell, np.arange(len(cell)))), (self.groups * batches, len(cell)))
        size = (one_hot @ np.ones(len(cell))).reshape(self.groups, batches)
        sums = (one_hot @ values.astype(np.float64)).reshape(self.groups, batches, -1)
        square = np.bincount(self.group, np.square(values, dtype=np.float64).sum(axis=1), self.groups)
        size, sums, square = (each.sum(axis=0) - each for each in (size, sums, square))
        centre = np.square(sums.sum(axis=1)).sum(axis=1) / size.sum(axis=1)
        between = (np.square(sums).sum(axis=2) / np.maximum(size, 1)).sum(axis=1) - centre
        return between / (square - centre)

    def agreement(self, of: Callable[[np.ndarray], float]) -> np.ndarray:
        """Agreement of labels with the clusters of k-means, g."""
        labels, clusters = (int(code.max()) + 1 for code in (self.scene.label, self.scene.assigned))
        flat = (self.group * labels + self.scene.label) * clusters + self.scene.assigned
        tables = np.bincount(flat, minlength=self.groups * labels * clusters).reshape(self.groups, labels, clusters)
        return np.array([of(table) for table in tables.sum(axis=0) - tables])

    def silhouette_label(self) -> np.ndarray:
        """Mean silhouette width of labels, scaled to 0 to 1, g."""
        sums, cells = self.silhouette_of_labels
        return (sums.sum(axis=1) / cells.sum(axis=1) + 1) / 2

    def isolated_labels(self) -> np.ndarray:
        """Mean silhouette width of the labels that are in fewest batches, scaled to 0 to 1, g."""
        sums, cells = (each[:, isolated(self.scene.label, self.scene.batch)] for each in self.silhouette_of_labels)
        return (np.nanmean(sums / cells, axis=1) + 1) / 2

    def silhouette_batch(self, *, cosine: bool) -> np.ndarray:
        """Overlap of the batches of a label, mean over labels, g: BRAS with `cosine`, else scIB's older score."""
        found = []
        for one in np.unique(self.scene.label):
            inside = np.flatnonzero(self.scene.label == one)
            batch = np.unique(self.scene.batch[inside], return_inverse=True)[1]
            if len(np.unique(batch)) in (1, len(batch)):
                continue
            sums, cells = silhouettes(
                self.scene.embedding[inside],
                batch,
                self.group[inside],
                self.groups,
                cosine=cosine,
                to_all_others=cosine,
                absolute=True,
            )
            alone = (cells > 0).sum(axis=1) < 2
            found.append(np.where(alone, np.nan, 1 - sums.sum(axis=1) / cells.sum(axis=1)))
        return np.nanmean(found, axis=0)

    def kbet(self) -> np.ndarray:
        """Return the acceptance rate of kBET, mean over labels, g."""
        return np.mean(
            [
                np.zeros(self.groups)
                if part.indices is None
                else self._acceptance(part.indices, self.scene.batch[part.cells], self.group[part.cells])
                for part in self.scene.acceptance[1]
            ],
            axis=0,
        )

    def kbet_all(self) -> np.ndarray:
        """Return the acceptance rate of kBET over all cells, g."""
        return self._acceptance(self.scene.nearest(KBET_NEIGHBOURS).indices, self.scene.batch, self.group)

    def _acceptance(self, indices: np.ndarray, batch: np.ndarray, group: np.ndarray) -> np.ndarray:
        batch = np.unique(batch, return_inverse=True)[1]
        batches = int(batch.max()) + 1
        table = np.bincount(group * batches + batch, minlength=self.groups * batches).reshape(self.groups, batches)
        expected = (table.sum(axis=0) - table) / (len(batch) - table.sum(axis=1, keepdims=True))
        accepted, cells = np.zeros(self.groups), len(batch) - table.sum(axis=1)
        for rows, counts in _by_code_and_group(indices, batch, group, self.groups):
            left = counts.sum(axis=2, keepdims=True) - counts
            wanted = left.sum(axis=1, keepdims=True) * expected.T
            statistic = np.nansum((left - wanted) ** 2 / wanted, axis=1)
            kept = group[rows, None] != np.arange(self.groups)
            accepted += (kept & (gammaincc((batches - 1) / 2, statistic / 2) >= ALPHA)).sum(axis=0)
        return accepted / cells


_SCORES: dict[str, Callable[[LeftOut], np.ndarray]] = {
    "bras": lambda s: s.silhouette_batch(cosine=True),
    "silhouette_batch": lambda s: s.silhouette_batch(cosine=False),
    "ilisi": lambda s: (s.lisi(s.scene.batch) - 1) / s.scene.batch.max(),
    "kbet": LeftOut.kbet,
    "kbet_all": LeftOut.kbet_all,
    "graph_connectivity": LeftOut.graph_connectivity,
    "pcr": LeftOut.pcr,
    "isolated_labels": LeftOut.isolated_labels,
    "nmi": lambda s: s.agreement(mutual_information),
    "ari": lambda s: s.agreement(adjusted_rand),
    "silhouette_label": LeftOut.silhouette_label,
    "clisi": lambda s: (s.scene.label.max() + 1 - s.lisi(s.scene.label)) / s.scene.label.max(),
}


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
        return float((counts * (counts - 1.0) / 2).sum())

    together, rows, columns = pairs(table), pairs(table.sum(axis=1)), pairs(table.sum(axis=0))
    expected, most = rows * columns / pairs(table.sum()), (rows + columns) / 2
    return (together - expected) / (most - expected) if most != expected else 1.0


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
        table = np.bincount(label * labels + cluster, minlength=labels**2).reshape(labels, labels)
        found.append(mutual_information(table) + adjusted_rand(table))
    return float(np.var(found, ddof=1))


def silhouettes(
    embedding: np.ndarray,
    code: np.ndarray,
    group: np.ndarray,
    groups: int,
    *,
    cosine: bool = False,
    to_all_others: bool = False,
    absolute: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Sum silhouette widths of the cells of each code with each group left out.

    Parameters
    ----------
    embedding
        n x d.
    code
        Codes 0 to c - 1, n.
    group
        Codes of the groups, n.
    groups
        Number of groups, g.
    cosine
        Cosine distances in place of Euclidean ones.
    to_all_others
        Compare with the mean distance to all cells of other codes, not with the nearest code.
    absolute
        Sum absolute widths.

    Returns
    -------
    sums
        g x c.
    cells
        Number of cells that each sum is over, g x c.
    """
    codes, n = int(code.max()) + 1, len(code)
    cell = code * groups + group
    order = np.argsort(cell, kind="stable")
    used, starts = np.unique(cell[order], return_index=True)
    table = np.bincount(cell, minlength=codes * groups).reshape(codes, groups)
    left = table.sum(axis=1, keepdims=True) - table
    x = np.asarray(embedding, dtype=np.float32)
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) if cosine else x - x.mean(axis=0)
    columns = np.ascontiguousarray(x[order].T)
    square = np.square(x).sum(axis=1)
    sums = np.zeros((groups, codes))
    step = max(1, _CHUNK // (4 * max(n, 4 * codes * groups)))
    for start in range(0, n, step):
        rows = slice(start, min(start + step, n))
        near = x[rows] @ columns
        if cosine:
            distance = np.clip(1 - near, 0, 2)
        else:
            near *= -2
            near += square[rows, None]
            near += square[order]
            distance = np.sqrt(np.maximum(near, 0, out=near), out=near)
        total = np.zeros((len(distance), codes * groups), dtype=np.float32)
        total[:, used] = np.add.reduceat(distance, starts, axis=1)
        total = total.reshape(-1, codes, groups)
        total = total.sum(axis=2, keepdims=True) - total
        own = code[rows]
        at = np.arange(len(own))
        inside = total[at, own] / np.maximum(left[own] - 1, 1)
        if to_all_others:
            outside = (total.sum(axis=1) - total[at, own]) / np.maximum(left.sum(axis=0) - left[own], 1)
        else:
            with np.errstate(divide="ignore", invalid="ignore"):
                total = np.where(left > 0, total / left, np.inf)
            total[at, own] = np.inf
            outside = total.min(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            width = np.nan_to_num((outside - inside) / np.maximum(inside, outside), posinf=0, neginf=0)
        # a cell alone in its code counts 0, one that is left out not at all
        width = np.where((left[own] > 1) & (group[rows, None] != np.arange(groups)), width, 0)
        np.add.at(sums.T, own, np.abs(width) if absolute else width)
    return sums, left.T


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
        active = active[np.abs(excess) >= 1e-4]
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
