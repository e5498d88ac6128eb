"""The networks: what is encoded, the encoder, the decoder, and the dispersions."""

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from unbatch.models.spavae.field import Field
from unbatch.models.spavae.settings import Settings

RATES = (1e-5, 1e6)
"""Least and largest rate of a gene, as published."""


class Inputs(nn.Module):
    """Standardised logarithms of counts, or components of these: what the encoder sees of a spot.

    Parameters
    ----------
    depth
        Counts of a spot of size factor 1.
    mean, spread
        Moments of log1p(counts / size factor) by gene, G.
    components
        G x C, which make components of variance 1 of standardised genes; None to encode the genes.
    """

    def __init__(self, depth: float, mean: Tensor, spread: Tensor, components: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("depth", torch.tensor(float(depth), dtype=torch.float32))
        self.register_buffer("mean", mean.float())
        self.register_buffer("spread", spread.float())
        self.register_buffer("components", None if components is None else components.float())

    @property
    def width(self) -> int:
        """Number of inputs."""
        return len(self.mean) if self.components is None else self.components.shape[1]

    def size(self, counts: Tensor) -> Tensor:
        """Size factors of spots, n x 1: 1 for the median spot of the fit."""
        return (counts.sum(1, keepdim=True) / self.depth).clamp(min=1e-4)

    def forward(self, counts: Tensor) -> Tensor:
        """Make inputs (n x width) of counts (n x G)."""
        values = (torch.log1p(counts / self.size(counts)) - self.mean) / self.spread
        return values if self.components is None else values @ self.components


class Network(nn.Module):
    """Everything that is trained.

    Parameters
    ----------
    settings
        Sizes.
    inputs
        What is encoded.
    field
        The processes.
    genes, batches
        G, and the batches that the decoder is told, K; of one batch it is told nothing.
    """

    def __init__(self, settings: Settings, inputs: Inputs, field: Field, genes: int, batches: int) -> None:
        super().__init__()
        self.settings, self.genes, self.batches = settings, genes, batches
        self.inputs, self.field = inputs, field
        latent, width = settings.latent + settings.gaussian, inputs.width
        told = batches if batches > 1 else 0
        layers: list[nn.Module] = []
        if settings.encoder == "convolutional":
            layers += [nn.Unflatten(1, (1, width)), nn.Conv1d(1, 2, 5), nn.ELU(), nn.MaxPool1d(2), nn.Flatten()]
            width = 2 * ((width - 4) // 2)
        for before, after in pairwise((width, *settings.hidden)):
            layers += [nn.Linear(before, after), nn.BatchNorm1d(after), nn.ELU()]
        self.encoder = nn.Sequential(*layers)
        self.mean, self.log_variance = (nn.Linear(settings.hidden[-1], latent) for _ in range(2))
        hidden = settings.decoder_hidden
        self.decoder = nn.Sequential(nn.Linear(latent + told, hidden), nn.BatchNorm1d(hidden), nn.ELU())
        self.out = nn.Linear(hidden, genes)
        rows = batches if settings.dispersion == "batch" else 1
        drawn = torch.randn(rows, genes)
        self.log_theta = nn.Parameter(
            drawn if settings.theta is None else torch.full_like(drawn, float(np.log(settings.theta)))
        )
        # the last row is that of a batch that the fit has not seen: the average
        table = torch.cat([torch.eye(told), torch.full((1, told), 1 / max(told, 1))])
        self.register_buffer("table", table, persistent=False)
        self.skip = nn.Parameter(torch.zeros(inputs.width, latent)) if settings.from_data else None
        self.linear = nn.Parameter(torch.zeros(latent + told, genes)) if settings.from_data else None

    def encode(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Means and variances of all latent dimensions, each n x (L + H); those of the field come first."""
        hidden = self.encoder(inputs)
        mean = self.mean(hidden)
        if self.skip is not None:
            mean = mean + inputs @ self.skip
        return mean, self.log_variance(hidden).clamp(-15, 15).exp()

    def decode(self, latent: Tensor, batch: Tensor, genes: slice | np.ndarray = slice(None)) -> Tensor:
        """Logarithms of rates at size factor 1, n x G.

        Parameters
        ----------
        latent
            n x (L + H).
        batch
            Codes, n; -1 for one that the fit has not seen.
        genes
            Which genes: a slice, or their numbers.
        """
        known = torch.cat([latent, self.table[batch]], 1)
        rate = nn.functional.linear(self.decoder(known), self.out.weight[genes], self.out.bias[genes])
        if self.linear is not None:
            rate = rate + known @ self.linear[:, genes]
        low, high = RATES
        return rate if self.training else rate.clamp(float(np.log(low)), float(np.log(high)))

    def dispersion(self, batch: Tensor) -> Tensor:
        """Logarithms of dispersions of spots, G if it is the same for all, else n x G."""
        if len(self.log_theta) == 1:
            return self.log_theta[0]
        # of an unknown batch the mean
        return torch.cat([self.log_theta, self.log_theta.mean(0, keepdim=True)])[batch]

    def divergence(self, mean: Tensor, variance: Tensor) -> Tensor:
        """KL divergence of the Gaussian dimensions (n x H each) from their prior, standard normal, summed over all."""
        return (variance + mean.square() - 1 - variance.log()).sum() / 2
