"""Where and how to draw cells: UMAP, colours from components, tissue positions."""

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from unbatch.metrics.spatial import is_hexagonal

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

NEIGHBOURS, MIN_DIST, EPOCHS = 15, 0.3, 200
"""Settings of UMAP, named in the report."""

EXACT = 50_000
"""Cells above which neighbours are approximate: the time of exact ones grows with the square of the cells."""


@dataclass(frozen=True)
class Layout:
    """Cells in two dimensions, and the graph of neighbours that was laid out.

    Attributes
    ----------
    positions
        n x 2.
    connectivities, distances
        n x n CSR, float32: how strongly UMAP joins two cells, symmetric, and how far each cell's nearest neighbours are
        (the cell itself is none of them).
    neighbours
        Neighbours of each cell, itself included.
    """

    positions: np.ndarray
    connectivities: "csr_matrix"
    distances: "csr_matrix"
    neighbours: int


def umap(embedding: np.ndarray, seed: int) -> np.ndarray:
    """Lay out cells in two dimensions, n x 2; see `lay_out`."""
    if len(embedding) < 3:
        return np.zeros((len(embedding), 2))
    return lay_out(embedding, seed).positions


def lay_out(embedding: np.ndarray, seed: int) -> Layout:
    """Lay out cells in two dimensions, and say which are neighbours.

    Neighbours are exact (up to `EXACT` cells) and the start is the first two principal components: the picture depends
    on the seed less than with a random start, and keeps more of what is far and near.

    Parameters
    ----------
    embedding
        n x d, of three cells or more.
    seed
        Seed of the layout, and of neighbours that are approximate.
    """
    from scipy.sparse import csr_matrix

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from umap import UMAP

        from unbatch.compiled import keep_compiled

        keep_compiled()
        embedding = np.ascontiguousarray(embedding, dtype=np.float32)
        k = min(NEIGHBOURS, len(embedding) - 1)
        if embedding.shape[1] == 1:
            embedding = np.column_stack([embedding, np.zeros_like(embedding)])
        distances, indices = _neighbours(embedding, k, seed)
        model = UMAP(
            n_neighbors=k,
            min_dist=MIN_DIST,
            n_epochs=EPOCHS,
            init="pca",
            random_state=seed,
            n_jobs=1,
            precomputed_knn=(indices, distances, None),
        )
        positions = model.fit_transform(embedding)
    # of cells that coincide, another may come first
    others = indices != np.arange(len(indices))[:, None]
    others[others.all(axis=1), -1] = False
    pointer = np.arange(len(indices) + 1) * (k - 1)
    shape = len(indices), len(indices)
    near = csr_matrix((distances[others], indices[others].astype(np.int32), pointer), shape=shape)
    near.sort_indices()
    connectivities = csr_matrix(model.graph_, dtype=np.float32)
    return Layout(positions, connectivities, near, k)


def lay_out_graph(graph: "csr_matrix", seed: int) -> np.ndarray:
    """Lay out a graph of cells by UMAP with the settings of embeddings; n x 2."""
    from scipy.sparse.csgraph import connected_components

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from umap.umap_ import find_ab_params, simplicial_set_embedding

        from unbatch.compiled import keep_compiled

        keep_compiled()

        a, b = find_ab_params(1.0, MIN_DIST)
        positions, _ = simplicial_set_embedding(
            data=np.zeros((graph.shape[0], 1), dtype=np.float32),
            graph=graph,
            n_components=2,
            initial_alpha=1.0,
            a=a,
            b=b,
            gamma=1.0,
            negative_sample_rate=5,
            n_epochs=EPOCHS,
            # spectral takes the parts of a graph that is not connected from the data, of which there are none
            init="spectral" if connected_components(graph, directed=False)[0] == 1 else "random",
            random_state=np.random.RandomState(seed),
            metric="euclidean",
            metric_kwds={},
            densmap=False,
            densmap_kwds={},
            output_dens=False,
        )
    return np.asarray(positions, dtype=np.float32)


def _neighbours(embedding: np.ndarray, k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the k nearest cells of each, itself among them: distances (float32) and indices, n x k."""
    if len(embedding) <= EXACT:
        from sklearn.neighbors import NearestNeighbors

        distances, indices = NearestNeighbors(n_neighbors=k).fit(embedding).kneighbors(embedding)
    else:
        from umap.umap_ import nearest_neighbors

        random = np.random.RandomState(seed)
        settings = {"metric": "euclidean", "metric_kwds": None, "angular": False, "random_state": random}
        indices, distances, _ = nearest_neighbors(embedding, k, **settings, low_memory=True, n_jobs=1)
    return distances.astype(np.float32), indices


def component_colours(embedding: np.ndarray) -> np.ndarray:
    """Turn the first three principal components into red, green and blue (n x 3, 0 to 1)."""
    centred = np.asarray(embedding, dtype=np.float64) - np.mean(embedding, axis=0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    components = centred @ vectors[:, ::-1][:, :3]
    # the sign of a component is arbitrary: with the heavier tail positive, a picture can be repeated
    components *= np.where(np.sum(components**3, axis=0) < 0, -1, 1)
    low, high = np.percentile(components, [2, 98], axis=0)
    scaled = np.clip((components - low) / np.where(high > low, high - low, 1), 0, 1)
    return np.pad(scaled, ((0, 0), (0, 3 - scaled.shape[1])), constant_values=0.5)


def tissue(coordinates: np.ndarray) -> tuple[np.ndarray, bool]:
    """Positions to draw, x to the right and y downwards.

    Indices of a hexagonal array such as Visium's (`metrics.spatial.is_hexagonal`) become distances; everything else is
    taken as x and y.

    Parameters
    ----------
    coordinates
        n x 2 or more.

    Returns
    -------
    positions
        n x 2.
    array
        Whether these were indices of an array.
    """
    coordinates = np.asarray(coordinates, dtype=np.float64)
    if is_hexagonal(coordinates):
        return array_distances(coordinates), True
    return coordinates[:, :2], False


def array_distances(indices: np.ndarray) -> np.ndarray:
    """Turn indices (row, column, n x 2) of a hexagonal array into distances in pitches, x to the right and y down."""
    return np.column_stack([indices[:, 1] * 0.5, indices[:, 0] * np.sqrt(0.75)])


@dataclass(frozen=True)
class Sections:
    """The sections of a dataset, as they are drawn.

    Attributes
    ----------
    positions
        n x 2, x to the right and y downwards.
    members
        Indices of the cells of each section.
    shown
        Codes of the sections that are drawn.
    extent
        Width and height of the largest of them.
    directions
        A sentence on what is up and how large.
    order
        Codes of all sections in the order in which they are chosen: one of each batch, then the second of each.
    """

    positions: np.ndarray
    members: list[np.ndarray]
    shown: list[int]
    extent: np.ndarray
    directions: str
    order: list[int]

    def thinned(self, limit: int, seed: int) -> tuple[dict[int, np.ndarray], str]:
        """Draw cells of the sections that have more than a map can show.

        Parameters
        ----------
        limit
            Cells of a section at most.
        seed
            Seed of what is drawn.

        Returns
        -------
        members
            Indices of the cells to draw, by code of the shown sections.
        caption
            Sentences on directions, and on what is left out.
        """
        rng = np.random.default_rng(seed)
        members = {code: self.members[code] for code in self.shown}
        full = max(map(len, members.values()))
        for code, found in members.items():
            if len(found) > limit:
                members[code] = np.sort(rng.choice(found, limit, replace=False))
        caption = self.directions
        if len(self.shown) < len(self.members):
            caption += f" Shown are {len(self.shown)} of {len(self.members)} sections."
        if full > limit:
            caption += f" Up to {limit:,} cells of a section, chosen at random."
        return members, caption

    def first(self, most: int) -> list[int]:
        """Codes of the sections to draw where there is place for `most`."""
        return sorted(self.order[:most])


def sections(coordinates: np.ndarray, batches: list[list[int]], section: np.ndarray, most: int) -> Sections:
    """Prepare the sections for drawing.

    Parameters
    ----------
    coordinates
        n x 2 or more.
    batches
        Codes of the batches that have cells in each section.
    section
        Code of each cell's section.
    most
        Sections to draw.
    """
    positions, array = tissue(coordinates)
    members = [np.flatnonzero(section == code) for code in range(len(batches))]
    # a batch with many sections must not take the place of the others
    seen: dict[int, int] = {}
    turns = []
    for code, own in enumerate(batches):
        home = own[0] if own else -1
        turns.append((seen.get(home, 0), code))
        seen[home] = seen.get(home, 0) + 1
    order = [code for _, code in sorted(turns) if len(members[code])]
    shown = sorted(order[:most])
    extent = np.max([np.ptp(positions[members[code]], axis=0) for code in shown], axis=0)
    directions = (
        "Positions are rows and columns of a Visium array, drawn as distances, first row on top."
        if array
        else "The second coordinate runs downwards, as in images; all sections at one scale."
    )
    return Sections(positions, members, shown, extent, directions, order)
