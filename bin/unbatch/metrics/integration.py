"""The scIB scores (Luecken et al. 2022) by scib-metrics: how well batches mix and biology is kept.

All lie between 0 and 1, larger is better.
"""

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import scib_metrics as scib
from scib_metrics.nearest_neighbors import NeighborsResults
from scib_metrics.utils import KMeans
from scipy.sparse import csr_matrix, diags_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import eigsh
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from unbatch.compiled import keep_compiled
from unbatch.errors import out_of_memory
from unbatch.metrics import jackknife
from unbatch.metrics.separability import SCORES

# it writes to the terminal by itself, in colour even where there is none: its messages go where ours do
_their_log = logging.getLogger("scib_metrics")
_their_log.handlers.clear()
_their_log.setLevel(logging.NOTSET)
_their_log.propagate = True

WEIGHTS = {"batch": 0.4, "bio": 0.6}
"""Weights of the total, after Luecken et al. 2022."""

LISI_NEIGHBOURS, KBET_NEIGHBOURS, GRAPH_NEIGHBOURS = 90, 50, 15
"""Neighbours, the cell itself included, as in scib-metrics' benchmark."""


@dataclass(frozen=True)
class Scene:
    """One embedding and what is known of its cells.

    Attributes
    ----------
    embedding
        n x d; None of a method that gives a graph.
    reference
        Uncorrected principal components, n x p, that PCR comparison measures against.
    neighbours
        Nearest neighbours in the embedding or the graph, found once; None where no wanted score needs them.
    batch
        n codes.
    label
        n codes; None when there are no labels.
    group
        Groups of cells that are left out in turn, n codes from 0; None where no score is wanted without some cells.
    left_out
        Scores without each group, by name, as they are computed.
    """

    embedding: np.ndarray | None
    reference: np.ndarray
    neighbours: NeighborsResults | None
    batch: np.ndarray
    label: np.ndarray | None
    group: np.ndarray | None = None
    left_out: dict[str, np.ndarray] = field(default_factory=dict)

    @cached_property
    def groups(self) -> tuple[np.ndarray, int]:
        """Group of every cell and the number of groups; one group of all cells where none is left out."""
        group = np.zeros(len(self.batch), dtype=np.int64) if self.group is None else self.group
        return group, int(group.max()) + 1

    @cached_property
    def assigned(self) -> np.ndarray:
        """Cluster of every cell by k-means with as many clusters as labels, as in scib-metrics; n."""
        return clusters_of(self.embedding, len(np.unique(self.label)))

    @cached_property
    def widths(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Sums of silhouette widths of labels, without each group, and of batches; with numbers of cells."""
        codings = {"batch": self.batch} if self.label is None else {"label": self.label, "batch": self.batch}
        grouped = 0 if self.label is None else 1
        found = jackknife.silhouettes(self.embedding, list(codings.values()), *self.groups, grouped=grouped)
        return dict(zip(codings, found, strict=True))

    @cached_property
    def closeness(self) -> np.ndarray:
        """Weights of the neighbours in LISI, n x k; they sum to 1."""
        near = self.nearest(LISI_NEIGHBOURS)
        other = near.indices != np.arange(len(near.indices))[:, None]
        return jackknife.neighbour_weights(np.asarray(near.distances), other, np.floor(near.indices.shape[1] / 3))

    @cached_property
    def communities(self) -> dict[str, float]:
        """NMI and ARI of Leiden's communities with the labels, at the resolution with the highest NMI."""
        return scib.nmi_ari_cluster_labels_leiden(self.nearest(GRAPH_NEIGHBOURS), self.label, n_jobs=1, seed=0)

    def nearest(self, k: int) -> NeighborsResults:
        """Return the k nearest of the neighbours, or all when there are fewer."""
        return self.neighbours.subset_neighbors(min(k, self.neighbours.n_neighbors))

    def lisi(self, code: np.ndarray) -> np.ndarray:
        """Median of the local inverse Simpson index of a code."""
        return jackknife.lisi(self.nearest(LISI_NEIGHBOURS).indices, self.closeness, code, *self.groups)

    def agreement(self, of: Callable[[np.ndarray], float]) -> np.ndarray:
        """Agreement of labels with the clusters of k-means."""
        return jackknife.agreement(self.label, self.assigned, *self.groups, of)

    def silhouette_label(self) -> np.ndarray:
        """Mean silhouette width of labels, scaled to 0 to 1."""
        sums, cells = self.widths["label"]
        return (sums.sum(axis=1) / cells.sum(axis=1) + 1) / 2

    def isolated_labels(self) -> np.ndarray:
        """Mean silhouette width of the labels that are in fewest batches, scaled to 0 to 1."""
        sums, cells = (each[:, isolated(self.label, self.batch)] for each in self.widths["label"])
        return (np.nanmean(sums / cells, axis=1) + 1) / 2

    def width(self, coding: Literal["label", "batch"]) -> float:
        """Mean silhouette width, as it is."""
        sums, cells = self.widths[coding]
        return float(sums[-1].sum() / cells[-1].sum())

    def kbet(self) -> np.ndarray:
        """Return the acceptance rate of kBET, mean over labels."""
        group, groups = self.groups
        rates = [
            np.zeros(groups + 1)
            if part.indices is None
            else jackknife.acceptance(part.indices, self.batch[part.cells], group[part.cells], groups)
            for part in diffusion_neighbours(self.nearest(KBET_NEIGHBOURS), self.batch, self.label)
        ]
        return np.mean(rates, axis=0) if rates else np.full(groups + 1, np.nan)


@dataclass(frozen=True)
class Metric:
    """A score: its name, the mean it enters, what it needs, how it is computed, whether a graph is enough for it.

    `compute` gives the score alone or, for those that get an interval over cells, an array: the score without each of
    the groups of the scene, and last that of all cells.
    """

    name: str
    kind: Literal["batch", "bio", "other", "evidence"]
    compute: Callable[[Scene], "float | np.ndarray"]
    needs_label: bool = True
    of_graphs: bool = False
    needs_batches: bool = False

    @property
    def of_batches(self) -> bool:
        """Whether it says nothing of a single batch; the mean of mixing has no part that does."""
        return self.needs_batches or self.kind == "batch"


def metrics(batch_silhouette: str = "bras", labelled: bool = True, graphs: bool = False) -> list[Metric]:
    """List the scores.

    Parameters
    ----------
    batch_silhouette
        Which of ``"bras"`` and ``"silhouette_batch"`` enters the batch mean; the other is computed, too.
        BRAS is the default, as silhouette batch rewards embeddings in which batches stay apart
        (Rautenstrauch & Ohler 2025).
    labelled
        Without labels, kBET over all cells takes the place of kBET per label, which it is not comparable with.
    graphs
        Whether some method gives a graph: then NMI and ARI of Leiden's communities, which a graph has too, are
        computed for all, in no mean.
    """
    silhouettes = {
        "bras": lambda s: jackknife.bras(s.embedding, s.label, s.batch, *s.groups),
        "silhouette_batch": lambda s: jackknife.silhouette_batch(s.embedding, s.label, s.batch, *s.groups),
    }
    kbet_all = lambda s: jackknife.acceptance(s.nearest(KBET_NEIGHBOURS).indices, s.batch, *s.groups)  # noqa: E731
    kbet = (
        Metric("kbet", "batch", Scene.kbet, of_graphs=True)
        if labelled
        else Metric("kbet_all", "batch", kbet_all, False, True)
    )
    return [
        *(
            Metric(name, "batch" if name == batch_silhouette else "other", f, needs_batches=True)
            for name, f in silhouettes.items()
        ),
        Metric("ilisi", "batch", lambda s: (s.lisi(s.batch) - 1) / s.batch.max(), False, True),
        kbet,
        Metric(
            "graph_connectivity",
            "batch",
            lambda s: jackknife.graph_connectivity(s.nearest(GRAPH_NEIGHBOURS).indices, s.label, *s.groups),
            of_graphs=True,
        ),
        Metric("pcr", "batch", lambda s: jackknife.pcr(s.reference, s.embedding, s.batch, *s.groups), False),
        Metric("isolated_labels", "bio", Scene.isolated_labels, needs_batches=True),
        Metric("nmi", "bio", lambda s: s.agreement(jackknife.mutual_information)),
        Metric("ari", "bio", lambda s: s.agreement(jackknife.adjusted_rand)),
        Metric("silhouette_label", "bio", Scene.silhouette_label),
        Metric("clisi", "bio", lambda s: (s.label.max() + 1 - s.lisi(s.label)) / s.label.max(), of_graphs=True),
        *(
            Metric(f"{n}_leiden", "other", lambda s, n=n: s.communities[n], of_graphs=True)
            for n in ("nmi", "ari")
            if graphs
        ),
        Metric("asw_batch", "other", lambda s: s.width("batch"), False, needs_batches=True),
        *(
            Metric(f"{n}_batch", "other", lambda s, f=f: f(s.embedding, s.batch), False, needs_batches=True)
            for n, f in SCORES.items()
        ),
        Metric("asw_label", "other", lambda s: s.width("label")),
        *(Metric(f"{n}_label", "other", lambda s, f=f: f(s.embedding, s.label)) for n, f in SCORES.items()),
    ]


def clusters_of(embedding: np.ndarray, clusters: int) -> np.ndarray:
    """Assign cells to clusters by scib-metrics' k-means, whose start has a seed of its own.

    Its ``max_iter`` is a least number of iterations: with 1 it stops where it has converged, and gives the same.
    """
    return np.asarray(KMeans(clusters, max_iter=1).fit(embedding).labels_).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Tested:
    """Cells of a label that kBET is computed on, and their neighbours among them; None where all are rejected."""

    cells: np.ndarray
    indices: np.ndarray | None


def diffusion_neighbours(neighbours: NeighborsResults, batch: np.ndarray, label: np.ndarray) -> list[Tested]:
    """Find the neighbours that kBET per label is computed on: the nearest in a diffusion map of each label's graph.

    As in scib-metrics, but for the search, which is exact, and the start of ARPACK, which has a seed
    (docs/decisions/0011-exact-searches-in-scores.md).

    Returns
    -------
    list of Tested
        One for each label with two batches and 10 cells.
    """
    # the graph is UMAP's
    keep_compiled()
    graph = neighbours.knn_graph_connectivities.tocsr()
    tested = []
    # ARPACK calls BLAS for many short vectors: a second thread only waits, and waits busily
    with threadpool_limits(1, user_api="blas"):
        for one in np.unique(label):
            cells = np.flatnonzero(label == one)
            sizes = np.unique(batch[cells], return_counts=True)[1]
            if len(cells) < 10 or len(sizes) < 2:
                continue
            k = min(70, max(10, int(sizes.mean() // 4)))
            number, component = connected_components(graph[cells][:, cells], connection="strong")
            large = cells[np.bincount(component)[component] >= 3 * k] if number > 1 else cells
            # a label in pieces is tested on those that are large enough, and rejected where they are too few
            if len(large) < 0.75 * len(cells) or len(np.unique(batch[large])) < 2:
                tested.append(Tested(cells, None))
                continue
            tested.append(Tested(large, nearest_neighbours(diffusion_map(graph[large][:, large]), k + 1).indices))
    return tested


def diffusion_map(graph: csr_matrix, components: int = 100) -> np.ndarray:
    """Embed the cells of a graph in diffusion distances, as scib-metrics and scanpy do.

    Parameters
    ----------
    graph
        Connectivities, n x n, symmetric.
    components
        Eigenvectors at most; n - 1 where there are fewer cells.
    """
    density = diags_array(1 / np.asarray(graph.sum(axis=0)).ravel())
    kernel = density @ graph @ density
    degree = diags_array(1 / np.sqrt(np.asarray(kernel.sum(axis=0)).ravel()))
    transitions = (degree @ kernel @ degree).astype(np.float64)
    values, vectors = eigsh(transitions, k=min(components, graph.shape[0] - 1), which="LM", rng=0)
    # single precision makes a first eigenvalue 1 that is 1 but for rounding: steps of any length, which count once
    values = values[::-1].astype(np.float32) + np.float32(1e-8)
    scale = np.array([value if value == 1 else value / (1 - value) for value in values], dtype=np.float32)
    return vectors[:, ::-1].astype(np.float32) * scale


def nearest_neighbours(embedding: np.ndarray, n_neighbors: int = LISI_NEIGHBOURS) -> NeighborsResults:
    """Find the nearest neighbours of every cell, itself first.

    Exact: at the sizes that are scored it is as fast as an approximation, and a score does not change with a seed.
    """
    k = min(n_neighbors, len(embedding))
    distances, indices = NearestNeighbors(n_neighbors=k).fit(embedding).kneighbors(embedding)
    # of cells that coincide, another may come first
    own = np.arange(len(embedding))
    displaced = np.flatnonzero(indices[:, 0] != own)
    for cell in displaced:
        place = np.flatnonzero(indices[cell] == cell)
        indices[cell, place[0] if place.size else 0] = indices[cell, 0]
        indices[cell, 0] = cell
    return NeighborsResults(indices=indices, distances=distances)


def isolated(label: np.ndarray, batch: np.ndarray) -> np.ndarray:
    """Return the labels that are in fewest batches, which is what scib-metrics calls isolated."""
    pairs = np.unique(np.column_stack([label, batch]), axis=0)
    batches = np.bincount(pairs[:, 0])
    return np.flatnonzero(batches == batches[batches > 0].min())


def evaluate(scene: Scene, wanted: list[Metric]) -> tuple[dict[str, float | None], dict[str, str]]:
    """Compute scores.

    Returns
    -------
    scores
        Value by name; None where it could not be computed.
    reasons
        Why, by name.
    """
    scores: dict[str, float | None] = {}
    reasons: dict[str, str] = {}
    for metric in wanted:
        if scene.embedding is None and not metric.of_graphs:
            scores[metric.name] = None
            reasons[metric.name] = "not applicable: the method gives a graph of cells, this score needs an embedding"
            continue
        try:
            # a label or batch can vanish with a group: the NaN of that group says so
            with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
                warnings.simplefilter("ignore", RuntimeWarning)
                values = np.atleast_1d(np.asarray(metric.compute(scene), dtype=np.float64))
        # one score that fails on one embedding must not cost the others; with more memory it may be there
        except Exception as error:
            if out_of_memory(error):
                raise
            scores[metric.name] = None
            reasons[metric.name] = (" ".join(str(error).split()) or type(error).__name__)[:200]
            continue
        value = float(values[-1])
        scores[metric.name] = value if np.isfinite(value) else None
        if not np.isfinite(value):
            reasons[metric.name] = f"the value is {value}"
        elif scene.group is not None and len(values) > 1:
            scene.left_out[metric.name] = values[:-1]
    return scores, reasons


def mean(scores: dict[str, float | None], names: list[str]) -> tuple[float | None, int]:
    """Return the mean of the named scores that could be computed, and how many they are."""
    values = [scores[name] for name in names if scores.get(name) is not None]
    return (float(np.mean(values)) if values else None), len(values)


def total(batch: float | None, bio: float | None) -> float | None:
    """Return .4 batch + .6 bio, or None when one of the two is missing."""
    return None if batch is None or bio is None else WEIGHTS["batch"] * batch + WEIGHTS["bio"] * bio
