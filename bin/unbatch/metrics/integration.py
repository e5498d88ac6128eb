"""The scIB scores (Luecken et al. 2022) by scib-metrics: how well batches mix and biology is kept.

All lie between 0 and 1, larger is better.
"""

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
import scib_metrics as scib
import scipy.sparse.csgraph
import scipy.sparse.linalg
from scib_metrics.nearest_neighbors import NeighborsResults
from scib_metrics.utils import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from unbatch.errors import out_of_memory
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
    kept
        What scores keep for their intervals over cells, by name of the score.
    """

    embedding: np.ndarray | None
    reference: np.ndarray
    neighbours: NeighborsResults | None
    batch: np.ndarray
    label: np.ndarray | None
    kept: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def assigned(self) -> np.ndarray:
        """Cluster of every cell by k-means with as many clusters as labels, as in scib-metrics; n."""
        return np.asarray(KMeans(len(np.unique(self.label))).fit(self.embedding).labels_).astype(np.int64)

    @cached_property
    def clusters(self) -> dict[str, float]:
        """NMI and ARI of k-means clusters with the labels."""
        return {
            "nmi": normalized_mutual_info_score(self.label, self.assigned, average_method="arithmetic"),
            "ari": adjusted_rand_score(self.label, self.assigned),
        }

    @cached_property
    def acceptance(self) -> "tuple[float, list[Tested]]":
        """Score of kBET per label, and what it was tested on."""
        return kbet_per_label(self.nearest(KBET_NEIGHBOURS), self.batch, self.label)

    @cached_property
    def communities(self) -> dict[str, float]:
        """NMI and ARI of Leiden's communities with the labels, at the resolution with the highest NMI."""
        return scib.nmi_ari_cluster_labels_leiden(self.nearest(GRAPH_NEIGHBOURS), self.label, n_jobs=1, seed=0)

    def nearest(self, k: int) -> NeighborsResults:
        """Return the k nearest of the neighbours, or all when there are fewer."""
        return self.neighbours.subset_neighbors(min(k, self.neighbours.n_neighbors))


@dataclass(frozen=True)
class Metric:
    """A score: its name, the mean it enters, what it needs, how it is computed, whether a graph is enough for it.

    `left_out` gives it with each group of cells left out, from a scene that it was computed of, the group of each cell
    and the number of groups; those that `jackknife` knows by name have none here.
    """

    name: str
    kind: Literal["batch", "bio", "other", "evidence"]
    compute: Callable[[Scene], float]
    needs_label: bool = True
    of_graphs: bool = False
    needs_batches: bool = False
    left_out: Callable[[Scene, np.ndarray, int], np.ndarray] | None = None

    @property
    def of_batches(self) -> bool:
        """Whether it says nothing of a single batch; the mean of mixing has no part that does."""
        return self.needs_batches or self.kind == "batch"


def metrics(batch_silhouette: str = "bras", labelled: bool = True, graphs: bool = False) -> list[Metric]:
    """List the scores.

    Parameters
    ----------
    batch_silhouette
        Which of ``"bras"`` and ``"silhouette_batch"`` enters the batch mean; the other is computed beside it.
        BRAS is the default, as silhouette batch rewards embeddings in which batches stay apart
        (Rautenstrauch & Ohler 2025).
    labelled
        Without labels, kBET over all cells takes the place of kBET per label, which it is not comparable with.
    graphs
        Whether some method gives a graph: then NMI and ARI of Leiden's communities, which a graph has too, are
        computed for all, in no mean.
    """
    silhouettes = {
        "bras": lambda s: scib.bras(s.embedding, s.label, s.batch),
        "silhouette_batch": lambda s: scib.silhouette_batch(s.embedding, s.label, s.batch),
    }
    kbet = (
        Metric("kbet", "batch", lambda s: s.acceptance[0], of_graphs=True)
        if labelled
        else Metric("kbet_all", "batch", lambda s: scib.kbet(s.nearest(KBET_NEIGHBOURS), s.batch)[0], False, True)
    )
    return [
        *(
            Metric(name, "batch" if name == batch_silhouette else "other", f, needs_batches=True)
            for name, f in silhouettes.items()
        ),
        Metric("ilisi", "batch", lambda s: scib.ilisi_knn(s.nearest(LISI_NEIGHBOURS), s.batch), False, True),
        kbet,
        Metric(
            "graph_connectivity",
            "batch",
            lambda s: scib.graph_connectivity(s.nearest(GRAPH_NEIGHBOURS), s.label),
            of_graphs=True,
        ),
        Metric(
            "pcr", "batch", lambda s: scib.pcr_comparison(s.reference, s.embedding, s.batch, categorical=True), False
        ),
        Metric(
            "isolated_labels", "bio", lambda s: scib.isolated_labels(s.embedding, s.label, s.batch), needs_batches=True
        ),
        Metric("nmi", "bio", lambda s: s.clusters["nmi"]),
        Metric("ari", "bio", lambda s: s.clusters["ari"]),
        Metric("silhouette_label", "bio", lambda s: scib.silhouette_label(s.embedding, s.label)),
        Metric("clisi", "bio", lambda s: scib.clisi_knn(s.nearest(LISI_NEIGHBOURS), s.label), of_graphs=True),
        *(
            Metric(f"{n}_leiden", "other", lambda s, n=n: s.communities[n], of_graphs=True)
            for n in ("nmi", "ari")
            if graphs
        ),
        *(
            Metric(f"{n}_batch", "other", lambda s, f=f: f(s.embedding, s.batch), False, needs_batches=True)
            for n, f in SCORES.items()
        ),
        *(Metric(f"{n}_label", "other", lambda s, f=f: f(s.embedding, s.label)) for n, f in SCORES.items()),
    ]


@dataclass(frozen=True, eq=False)
class Tested:
    """Cells of a label that kBET was computed on, and their neighbours among them; None where all were rejected."""

    cells: np.ndarray
    indices: np.ndarray | None


def kbet_per_label(neighbours: NeighborsResults, batch: np.ndarray, label: np.ndarray) -> tuple[float, list[Tested]]:
    """Compute kBET per label by scib-metrics, with exact neighbours in the diffusion maps that it makes of each label.

    Its own search, pynndescent, compiles itself anew in every process, which costs more than all else, and finds the
    same neighbours but for the last digits. ARPACK, which makes the maps, would start at random: in the smaller labels
    neighbours are tied but for rounding, and kBET would change from run to run
    (docs/decisions/0011-exact-searches-in-scores.md).

    Returns
    -------
    score
        Acceptance rate, mean over the labels with two batches and 10 cells.
    tested
        Cells and neighbours of each of these labels.
    """
    components: list[np.ndarray] = []
    found: dict[int, np.ndarray] = {}
    connected = scipy.sparse.csgraph.connected_components

    def split(*given: Any, **options: Any) -> tuple[int, np.ndarray]:
        number, component = connected(*given, **options)
        components.append(component)
        return number, component

    def search(embedding: np.ndarray, n_neighbors: int) -> NeighborsResults:
        near = nearest_neighbours(embedding, n_neighbors)
        found[len(components) - 1] = near.indices
        return near

    # ARPACK calls BLAS for many short vectors: a second thread only waits, and waits busily
    with (
        patch.object(scib.nearest_neighbors, "pynndescent", search),
        patch.object(scipy.sparse.csgraph, "connected_components", split),
        patch.object(scipy.sparse.linalg, "eigsh", partial(scipy.sparse.linalg.eigsh, rng=0)),
        threadpool_limits(1, user_api="blas"),
    ):
        score, by_label = scib.kbet_per_label(neighbours, batch, label, return_df=True)
    # scib-metrics looks for components in each label that it does not skip, in the order of the labels
    computed = by_label["cluster"][by_label["kBET"].notna()]
    tested = []
    for place, (one, component) in enumerate(zip(computed, components, strict=True)):
        cells = np.flatnonzero(label == one)
        indices = found.get(place)
        if indices is not None and len(indices) < len(cells):
            # of a label in pieces, those that are large enough
            sizes = np.bincount(component)
            order = np.argsort(-sizes, kind="stable")
            large = order[: np.searchsorted(np.cumsum(sizes[order]), len(indices)) + 1]
            cells = cells[np.isin(component, large)]
        tested.append(Tested(cells, indices if indices is not None and len(indices) == len(cells) else None))
    return score, tested


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
            with warnings.catch_warnings():
                # a negative PCR comparison is set to 0, as the score's definition says
                warnings.simplefilter("ignore")
                value = float(metric.compute(scene))
        # one score that fails on one embedding must not cost the others; with more memory it may be there
        except Exception as error:
            if out_of_memory(error):
                raise
            scores[metric.name] = None
            reasons[metric.name] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            continue
        scores[metric.name] = value if np.isfinite(value) else None
        if not np.isfinite(value):
            reasons[metric.name] = f"the value is {value}"
    return scores, reasons


def mean(scores: dict[str, float | None], names: list[str]) -> tuple[float | None, int]:
    """Return the mean of the named scores that could be computed, and how many they are."""
    values = [scores[name] for name in names if scores.get(name) is not None]
    return (float(np.mean(values)) if values else None), len(values)


def total(batch: float | None, bio: float | None) -> float | None:
    """Return .4 batch + .6 bio, or None when one of the two is missing."""
    return None if batch is None or bio is None else WEIGHTS["batch"] * batch + WEIGHTS["bio"] * bio
