"""The networks of a dp-VAE: encoder, decoder, and the scale lambda between the two kinds of distances."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from unbatch.models.dpvae.settings import Settings
from unbatch.nn.layers import dense

WIDEST = 6.0
"""Largest logarithm of a latent variance, and of its inverse."""


class Network(nn.Module):
    """Encoder N(mu(x), diag sigma^2(x)), decoder and log lambda.

    Parameters
    ----------
    settings
        Sizes and likelihood.
    inputs
        Inputs, D.
    outputs
        What is decoded: the inputs, or G counts.
    batches
        Batches that the decoder is told, K; 0 for none.
    """

    def __init__(self, settings: Settings, inputs: int, outputs: int, batches: int = 0) -> None:
        super().__init__()
        self.batches = batches
        drop_inputs, drop_hidden = settings.dropout
        self.hidden = nn.Sequential(
            nn.Dropout(drop_inputs), dense(inputs, settings.hidden), nn.ReLU(), nn.Dropout(drop_hidden)
        )
        self.mean = dense(settings.hidden, settings.latent)
        self.log_variance = dense(settings.hidden, settings.latent)
        self.decoder = nn.Sequential(
            dense(settings.latent + batches, settings.hidden), nn.ReLU(), dense(settings.hidden, outputs)
        )
        self.log_theta = nn.Parameter(torch.ones(1, outputs)) if batches else None
        self.log_scale = nn.Parameter(torch.tensor(float(settings.scale_start)).log())
        self.log_scale.requires_grad_(settings.scaling == "learned")

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Latent means and logarithms of variances of inputs (b x D), b x d each."""
        hidden = self.hidden(x)
        return self.mean(hidden), self.log_variance(hidden).clamp(-WIDEST, WIDEST)

    def decode(self, latent: Tensor, batch: Tensor | None = None) -> Tensor:
        """Means of the inputs; of counts, logarithms of the shares of the genes, which the library size multiplies."""
        if not self.batches:
            return self.decoder(latent)
        told = F.one_hot(batch.clamp(min=0), self.batches).to(latent.dtype) * (batch >= 0)[:, None]
        return self.decoder(torch.cat([latent, told], 1)).log_softmax(1)

    @property
    def scale(self) -> Tensor:
        """Lambda, above 0."""
        return self.log_scale.exp()
