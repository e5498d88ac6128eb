"""STAligner (Zhou, Dong & Zhang 2023): a graph attention autoencoder whose triplets bring the sections together.

Own code in plain torch after the paper and STAGATE (Dong & Zhang 2022), whose network it is, as STAligner's package is
on no package index. Of the spatial networks that are, neither served: spatiAlign 1.0.2 calls ``AnnData.concatenate``,
which anndata 0.13 no longer has, and does not say that it needs torch-geometric; GraphST 1.1.1 imports, but it keeps
dense matrices of all pairs of spots and joins sections only by coordinates that another program has aligned before.
"""

from itertools import permutations

import numpy as np
from pydantic import Field

from unbatch.contract import Fit, Needs, Parameters, Run
from unbatch.data.cells import Cells

PACKAGES = ("torch",)
NEEDS = Needs(coordinates=True, gpu=True)
EPOCHS = "epochs"


class Params(Parameters):
    """Parameters of `fit`."""

    hidden: int = Field(512, ge=1, description="width of the hidden layer")
    latent: int = Field(30, ge=1, description="dimensions of the embedding")
    epochs: int = Field(1000, ge=1, description="training steps, each over all cells")
    alone: int = Field(500, ge=1, description="how many of these, the first ones, are for the reconstruction alone")
    refresh: int = Field(100, ge=1, description="steps after which triplets are chosen anew")
    mutual: int = Field(
        100,
        ge=1,
        description="nearest neighbours among which a pair of cells of two batches must be mutual; at most a tenth of "
        "the smaller batch",
    )
    margin: float = Field(
        1.0,
        ge=0,
        description="by how much a mutual neighbour must be nearer than a random cell of the anchor's batch",
    )
    learning_rate: float = Field(0.001, ge=0, description="learning rate of Adam")
    weight_decay: float = Field(0.0001, ge=0, description="weight decay of Adam")


def fit(cells: Cells, params: Params, run: Run) -> Fit:
    """Return the embedding."""
    import torch
    import torch.nn.functional as F  # noqa: N812

    from unbatch.data.graph import neighbours
    from unbatch.models.staligner import train

    rng = np.random.default_rng(run.seed)
    graph = neighbours(cells.coordinates, cells.section, names=cells.sections)
    triplets = None

    def apart(epoch: int, embedding: torch.Tensor) -> torch.Tensor | None:
        nonlocal triplets
        if epoch < params.alone:
            return None
        if (epoch - params.alone) % params.refresh == 0:
            found = _triplets(embedding.detach().cpu().numpy(), cells.batch, params.mutual, rng)
            triplets = torch.from_numpy(found).to(run.device)
        if not len(triplets):
            return None
        anchor, positive, negative = (embedding[column] for column in triplets.T)
        return F.triplet_margin_loss(anchor, positive, negative, margin=params.margin)

    widths = params.hidden, params.latent
    steps = params.epochs, params.learning_rate, params.weight_decay
    edges = np.stack([graph.source, graph.target])
    found = train(cells.X.toarray(), edges, *widths, *steps, seed=run.seed, device=run.device, more=apart)
    return Fit(found)


def _triplets(embedding: np.ndarray, batch: np.ndarray, mutual: int, rng: np.random.Generator) -> np.ndarray:
    """Choose anchor, mutual nearest neighbour in another batch, random cell of the anchor's own; rows of three."""
    from sklearn.neighbors import NearestNeighbors

    members = [np.flatnonzero(batch == code) for code in range(batch.max() + 1)]
    near = {}
    for a, b in permutations(range(len(members)), 2):
        k = max(1, min(mutual, min(len(members[a]), len(members[b])) // 10))
        search = NearestNeighbors(n_neighbors=k).fit(embedding[members[b]])
        near[a, b] = search.kneighbors_graph(embedding[members[a]])
    rows = []
    for a, b in near:
        pairs = near[a, b].multiply(near[b, a].T).tocoo()
        if pairs.nnz:
            left, right = pairs.row, pairs.col
            # one positive per anchor and refresh, as in the paper's dictionary of pairs, drawn at random
            order = rng.permutation(len(left))
            anchor, first = np.unique(left[order], return_index=True)
            positive = right[order][first]
            # another than the anchor
            other = (anchor + rng.integers(1, max(2, len(members[a])), len(anchor))) % len(members[a])
            negative = members[a][other]
            rows.append(np.column_stack([members[a][anchor], members[b][positive], negative]))
    return np.concatenate(rows) if rows else np.empty((0, 3), np.int64)
