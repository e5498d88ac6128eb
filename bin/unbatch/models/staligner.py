"""Network of STAligner (Zhou, Dong & Zhang 2023), which is STAGATE's; its method is `unbatch.methods.staligner`."""

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
        attention = torch.sparse_coo_tensor(edges, share, (n, n))
        embedding = F.elu(torch.sparse.mm(attention, projected)) @ self.second
        made = F.elu(torch.sparse.mm(attention, embedding @ self.second.T)) @ self.first.T
        return embedding, made
