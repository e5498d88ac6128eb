"""Network of STAGATE (Dong & Zhang 2022) and of STAligner (Zhou, Dong & Zhang 2023), and how it is trained."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


class Autoencoder(nn.Module):
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
        attention = torch.sparse_coo_tensor(edges, share, (n, n), check_invariants=False)
        embedding = F.elu(torch.sparse.mm(attention, projected)) @ self.second
        made = F.elu(torch.sparse.mm(attention, embedding @ self.second.T)) @ self.first.T
        return embedding, made


LONGEST_GRADIENT = 5.0
"""Norm to which gradients are cut."""


def train(
    X: np.ndarray,
    edges: np.ndarray,
    hidden: int,
    latent: int,
    epochs: int,
    learning_rate: float,
    weight_decay: float,
    *,
    seed: int = 0,
    device: str = "cpu",
    more: Callable[[int, Tensor], Tensor | None] = lambda _epoch, _embedding: None,
) -> np.ndarray:
    """Train an autoencoder on all cells at once, and embed them.

    Parameters
    ----------
    X
        Log-normalised expression, n x g.
    edges
        Cells at both ends of each edge, 2 x edges, in both directions. Each cell is also its own neighbour.
    hidden, latent
        Widths.
    epochs
        Steps of Adam.
    learning_rate, weight_decay
        Settings of Adam.
    seed
        Seed of the weights.
    device
        Where it computes.
    more
        Is given the epoch and the embedding; what it returns is added to the loss.

    Returns
    -------
    np.ndarray
        n x `latent`.
    """
    torch.manual_seed(seed)
    own = np.arange(len(X))
    ends = torch.from_numpy(np.concatenate([edges, np.stack([own, own])], axis=1)).to(device)
    values = torch.from_numpy(X).to(device)
    network = Autoencoder(values.shape[1], hidden, latent).to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=learning_rate, weight_decay=weight_decay)
    for epoch in range(epochs):
        embedding, made = network(values, ends)
        loss = F.mse_loss(made, values)
        added = more(epoch, embedding)
        if added is not None:
            loss = loss + added
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), LONGEST_GRADIENT)
        optimiser.step()
    with torch.no_grad():
        return network(values, ends)[0].cpu().numpy()
