"""SAUCIE (Amodio et al. 2019): an autoencoder whose two-dimensional embedding has one distribution in all batches.

Own code in torch, as the authors' needs TensorFlow 1 and is on no package index; architecture and penalties are
theirs, and so are the defaults, but for the weight of the batches, which is that of their later code (.1; .01 in the
first). Theirs compares two batches; here every further one is compared with the first. Only what corrects the batch is
here: the penalties that make clusters (lambda_c, lambda_d) are 0, as the authors advise where a batch is corrected.
"""

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from unbatch.baselines.cells import Cells, Fit, principal_components
from unbatch.nn.layers import dense
from unbatch.nn.penalties import mean_discrepancy

PACKAGES = ("torch",)


def fit(
    cells: Cells,
    *,
    seed: int,
    device: str = "cpu",
    n_components: int = 100,
    hidden: tuple[int, ...] = (512, 256, 128),
    latent: int = 2,
    batch_weight: float = 0.1,
    other_weight: float = 0.1,
    steps: int = 1000,
    minibatch: int = 256,
    learning_rate: float = 1e-3,
) -> Fit:
    """Return the embedding.

    Parameters
    ----------
    cells, seed, device
        As of every method.
    n_components
        Principal components that it is given, as scIB does.
    hidden, latent
        Widths of the encoder, mirrored in the decoder, and of the embedding.
    batch_weight
        Of the discrepancy between the first batch, the reference, and each other one (lambda_b).
    other_weight
        Of the reconstruction of batches other than the reference.
    steps, minibatch, learning_rate
        Of Adam.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    components = torch.from_numpy(principal_components(cells.X, n_components).embedding).to(device)
    batch = torch.from_numpy(cells.batch).to(device)
    sizes = (components.shape[1], *hidden)
    encoder, decoder = _network((*sizes, latent)).to(device), _network((latent, *sizes[::-1])).to(device)
    optimiser = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=learning_rate)
    for _ in range(steps):
        chosen = torch.from_numpy(rng.choice(len(batch), min(minibatch, len(batch)), replace=False)).to(device)
        seen, code = components[chosen], batch[chosen]
        embedding = encoder(seen)
        loss = _reconstruction(seen, decoder(embedding), code, other_weight)
        loss = loss + batch_weight * mean_discrepancy(embedding, code, cells.n_batches)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        return Fit(encoder(components).cpu().numpy())


def _network(sizes: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [dense(inputs, outputs), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers[:-1])


def _reconstruction(seen: Tensor, made: Tensor, batch: Tensor, other_weight: float) -> Tensor:
    """Squared error of the first batch, and of each other one after both were standardised.

    So the decoder may give another batch the mean and the spread of the reference, which is the correction.
    """
    loss = seen.new_zeros(())
    for code in batch.unique():
        mine = batch == code
        if code == 0:
            loss = loss + (made[mine] - seen[mine]).square().mean()
        elif mine.sum() > 1:
            loss = loss + other_weight * (_standardised(made[mine]) - _standardised(seen[mine])).square().mean()
    return loss


def _standardised(values: Tensor) -> Tensor:
    return (values - values.mean(0)) / (values.var(0, unbiased=False) + 1e-6).sqrt()
