"""Network and loss of SAUCIE (Amodio et al. 2019), whose method is `unbatch.methods.saucie`."""

from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from unbatch.nn.layers import perceptron
from unbatch.nn.penalties import mean_discrepancy


def train(
    points: Tensor,
    batch: Tensor,
    rng: np.random.Generator,
    *,
    hidden: tuple[int, ...],
    latent: int,
    batch_weight: float,
    other_weight: float,
    steps: int,
    minibatch: int,
    learning_rate: float,
) -> Tensor:
    """Train the autoencoder and return the embedding, n x latent.

    Parameters
    ----------
    points, batch
        Cells, n x d, and their batches as codes, n.
    rng
        Draws the minibatches.
    hidden, latent
        Widths of the encoder, mirrored in the decoder, and of the embedding.
    batch_weight
        Weight of the discrepancy between the first batch, the reference, and each other one (lambda_b).
    other_weight
        Weight of the reconstruction of batches other than the reference.
    steps, minibatch, learning_rate
        Schedule of Adam.
    """
    sizes = (points.shape[1], *hidden)
    leaky = partial(nn.LeakyReLU, 0.2)
    encoder = perceptron((*sizes, latent), activation=leaky).to(points.device)
    decoder = perceptron((latent, *sizes[::-1]), activation=leaky).to(points.device)
    optimiser = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=learning_rate)
    batches = int(batch.max()) + 1
    for _ in range(steps):
        chosen = rng.choice(len(batch), min(minibatch, len(batch)), replace=False)
        chosen = torch.from_numpy(chosen).to(points.device)
        seen, code = points[chosen], batch[chosen]
        embedding = encoder(seen)
        loss = reconstruction(seen, decoder(embedding), code, other_weight)
        loss = loss + batch_weight * mean_discrepancy(embedding, code, batches)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        return encoder(points)


def reconstruction(seen: Tensor, made: Tensor, batch: Tensor, other_weight: float) -> Tensor:
    """Squared error of the first batch, and of each other one after both were standardised.

    So the decoder may give another batch the mean and the spread of the reference, which is the correction.
    """
    loss = seen.new_zeros(())
    for code in batch.unique():
        mine = batch == code
        if code == 0:
            loss = loss + (made[mine] - seen[mine]).square().mean()
        elif mine.sum() > 1:
            loss = loss + other_weight * (standardised(made[mine]) - standardised(seen[mine])).square().mean()
    return loss


def standardised(values: Tensor) -> Tensor:
    """Bring each column to mean 0 and variance 1."""
    return (values - values.mean(0)) / (values.var(0, unbiased=False) + 1e-6).sqrt()
