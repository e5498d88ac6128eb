"""STAligner (Zhou, Dong & Zhang 2023): a graph attention autoencoder whose triplets bring the sections together.

Own code in plain torch after the paper and STAGATE (Dong & Zhang 2022), whose network it is, as STAligner's package is
on no package index. Of the spatial networks that are, neither served: spatiAlign 1.0.2 calls ``AnnData.concatenate``,
which anndata 0.13 no longer has, and does not say that it needs torch-geometric; GraphST 1.1.1 imports, but it keeps
dense matrices of all pairs of spots and joins sections only by coordinates that another program has aligned before.
"""

from itertools import permutations

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn

from unbatch.baselines.cells import Cells, Fit
from unbatch.data.graph import neighbours
from unbatch.errors import NotApplicable

PACKAGES = ("torch",)


def fit(
    cells: Cells,
    *,
    seed: int,
    device: str = "cpu",
    hidden: int = 512,
    latent: int = 30,
    epochs: int = 1000,
    alone: int = 500,
    refresh: int = 100,
    mutual: int = 100,
    margin: float = 1.0,
    learning_rate: float = 1e-3,
    weight_decay: float = 1e-4,
) -> Fit:
    """Return the embedding.

    Parameters
    ----------
    cells, seed, device
        As of every method.
    hidden, latent
        Widths of the hidden layer and the embedding.
    epochs, alone
        Steps over all cells, and how many of them are for the reconstruction alone.
    refresh
        Steps after which triplets are chosen anew.
    mutual
        Nearest neighbours among which a pair of cells of two batches must be mutual; at most a tenth of the
        smaller batch.
    margin
        By which a mutual neighbour must be nearer than a random cell of the anchor's batch.
    learning_rate, weight_decay
        Of Adam.

    Raises
    ------
    NotApplicable
        If the dataset has no coordinates.
    """
    if cells.coordinates is None:
        raise NotApplicable("staligner: the dataset has no coordinates (obsm/spatial)")
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    graph = neighbours(cells.coordinates, cells.sections, names=cells.section_names)
    own = np.arange(len(cells.batch))
    edges = torch.from_numpy(np.stack([np.r_[graph.source, own], np.r_[graph.target, own]])).to(device)
    X = torch.from_numpy(cells.X.toarray()).to(device)
    network = _Autoencoder(X.shape[1], hidden, latent).to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=learning_rate, weight_decay=weight_decay)
    triplets = None
    for epoch in range(epochs):
        embedding, made = network(X, edges)
        loss = F.mse_loss(made, X)
        if epoch >= alone:
            if (epoch - alone) % refresh == 0:
                found = _triplets(embedding.detach().cpu().numpy(), cells.batch, mutual, rng)
                triplets = torch.from_numpy(found).to(device)
            if triplets is not None and len(triplets):
                anchor, positive, negative = (embedding[column] for column in triplets.T)
                loss = loss + F.triplet_margin_loss(anchor, positive, negative, margin=margin)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
    with torch.no_grad():
        return Fit(network(X, edges)[0].cpu().numpy())


class _Autoencoder(nn.Module):
    """STAGATE's: attention over neighbours in the first layer and the third, whose weights are those of the first."""

    def __init__(self, genes: int, hidden: int, latent: int) -> None:
        super().__init__()
        self.first = nn.Parameter(nn.init.xavier_normal_(torch.empty(genes, hidden), gain=1.414))
        self.second = nn.Parameter(nn.init.xavier_normal_(torch.empty(hidden, latent), gain=1.414))
        self.ends = nn.Parameter(nn.init.xavier_normal_(torch.empty(hidden, 2), gain=1.414))

    def forward(self, X: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
        """Return embedding and reconstruction."""
        n = X.shape[0]
        projected = X @ self.first
        target, source = projected @ self.ends[:, 0], projected @ self.ends[:, 1]
        # a sigmoid before the softmax, which bounds it
        strength = torch.sigmoid(target[edges[0]] + source[edges[1]]).exp()
        share = strength / strength.new_zeros(n).index_add(0, edges[0], strength)[edges[0]]
        attention = torch.sparse_coo_tensor(edges, share, (n, n))
        embedding = F.elu(torch.sparse.mm(attention, projected)) @ self.second
        made = F.elu(torch.sparse.mm(attention, embedding @ self.second.T)) @ self.first.T
        return embedding, made


def _triplets(embedding: np.ndarray, batch: np.ndarray, mutual: int, rng: np.random.Generator) -> np.ndarray:
    """Choose anchor, mutual nearest neighbour in another batch, random cell of the anchor's own; rows of three."""
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
