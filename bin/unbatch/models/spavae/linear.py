"""spaLDVAE (Tian et al. 2024): how much of a gene's rate follows the tissue, by a decoder that is linear.

Latent values are log-normal, and a gene's rate at size factor 1 is a sum over them with weights above 0, so each of
them has a share of it::

    log z_l ~ GP(0, k(x, x')),  l = 1 ... L        log z_h ~ N(p_h, exp(r_h)^2),  h = 1 ... H,  p and r trained
    y_ig ~ NB(mean s_i z_i exp(W)_g, dispersion theta_g)

    share_g = sum_l a_l exp(W_lg) / sum_{l, h} a exp(W_g),   a = sum_i E[z_i]

There is no p-value. What the share is where nothing follows the tissue is found by a second fit to positions that were
permuted within their sections: trained and scored on these. As published are sizes, kernel (Matern), beta and the form
of the share. Not as published: a section's kernel has one scale, and not one for each dimension; weights start at the
genes' mean rates; the rate of learning is larger and falls as a cosine, for fewer steps; the posterior is the exact one
of all spots. A batch multiplies the rates of genes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from unbatch.models.spavae import positions
from unbatch.models.spavae.data import Spots
from unbatch.models.spavae.field import Field, choose
from unbatch.models.spavae.networks import Inputs, Network
from unbatch.models.spavae.objective import Objective, added_up, encoded
from unbatch.models.spavae.settings import PRESETS, Settings
from unbatch.models.spavae.start import inputs_of
from unbatch.nn.sparse_gp import Posterior
from unbatch.nn.training import Plan, train

STEPS = 800
"""Steps of a fit: a small part of the published 2,000 epochs, which would take hours."""
BOUND = 15.0
"""Largest logarithm of a latent value."""
SETTINGS = PRESETS["paper"].but(
    latent=15, gaussian=15, kernel="matern", beta=10.0, minibatch=256, rate=1e-2, cosine=True, validation=0.0
)


class Linear(Network):
    """A network whose decoder is linear in log-normal latent values; see `Network`."""

    def __init__(self, settings: Settings, inputs: Inputs, field: Field, genes: int, batches: int) -> None:
        super().__init__(settings, inputs, field, genes, batches)
        self.decoder, self.out = nn.Identity(), nn.Identity()
        # the published start has this spread about 0
        spread = math.sqrt(2 / 6 / genes)
        self.weight = nn.Parameter(torch.randn(settings.latent + settings.gaussian, genes) * spread)
        self.of_batch = nn.Parameter(torch.zeros(self.table.shape[1], genes))
        self.prior_mean, self.prior_log_spread = (nn.Parameter(torch.zeros(settings.gaussian)) for _ in range(2))

    @torch.no_grad()
    def start(self, rates: Tensor) -> None:
        """Let the latent values, each near 1, add up to the mean rates of the genes."""
        self.weight += (rates.clamp(min=1e-6) / len(self.weight)).log()

    def decode(self, latent: Tensor, batch: Tensor, genes: slice | np.ndarray = slice(None)) -> Tensor:
        """Logarithms of rates, n x G; see `Network.decode`."""
        total = latent.clamp(-BOUND, BOUND).exp() @ self.weight[:, genes].exp()
        return total.clamp(min=1e-12).log() + self.table[batch] @ self.of_batch[:, genes]

    def divergence(self, mean: Tensor, variance: Tensor) -> Tensor:
        """KL divergence of the Gaussian dimensions from their prior, summed over all."""
        prior = (2 * self.prior_log_spread).exp()
        return ((variance + (mean - self.prior_mean).square()) / prior - 1 - variance.log()).sum() / 2 + len(
            mean
        ) * self.prior_log_spread.sum()


@dataclass(frozen=True)
class Share:
    """Share of each gene's rate that follows the tissue, G, and the same of permuted positions."""

    share: np.ndarray
    permuted: np.ndarray


def spatial_share(
    spots: Spots, *, epochs: int | None = None, seed: int = 0, tell: Callable[[str], None] = lambda text: None
) -> Share:
    """Fit twice, to the positions as they are and to permuted ones.

    Parameters
    ----------
    spots
        Counts, positions, sections and batches; each spot has counts.
    epochs
        Epochs of each fit; None for `STEPS`.
    seed
        Seed of all random numbers.
    tell
        Called with a line of progress after each epoch.

    Raises
    ------
    Diverged
        If a loss term is not finite.
    """
    rng = np.random.default_rng(seed)
    place = spots.points * positions.units(spots.points, spots.section, SETTINGS.box)[spots.section]
    shuffled = place.copy()
    for code in np.unique(spots.section):
        rows = np.flatnonzero(spots.section == code)
        shuffled[rows] = place[rng.permutation(rows)]
    return Share(*(_share(spots, each, epochs, seed, tell) for each in (place, shuffled)))


def _share(spots: Spots, place: np.ndarray, epochs: int | None, seed: int, tell: Callable[[str], None]) -> np.ndarray:
    """Fit to the spots at these places, score at the same ones."""
    cells, source, device = np.arange(len(spots)), spots.source, spots.source.device
    steps = math.ceil(len(spots) / SETTINGS.minibatch)
    most = STEPS * SETTINGS.minibatch
    plan = Plan(epochs or math.ceil(STEPS / steps), SETTINGS.minibatch, patience=epochs or STEPS, most=most)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        chosen = choose(place, spots.section, SETTINGS, None, seed)
        field = Field(chosen.points, SETTINGS.kernel, chosen.scale, SETTINGS.learns_scale)
        depth = spots.depth(cells)
        inputs = inputs_of(source, cells, SETTINGS, depth, seed)
        network = Linear(SETTINGS, inputs, field, source.shape[1], spots.batches).to(device)
        totals = spots.of_genes(cells) / (spots.totals.sum() / depth)
        network.start(torch.as_tensor(totals, dtype=torch.float32, device=device))
        objective = Objective(network, spots, place, (cells, cells[:0]), plan)
        rng = np.random.default_rng(seed)
        train(network, source, cells, step=objective.step, judge=objective.judge, plan=plan, rng=rng, tell=tell)
    network.eval()
    with torch.no_grad():
        known, _ = added_up(network, source, cells, objective.place, objective.section)
        posterior, split, total = Posterior.of(known), SETTINGS.latent, 0.0
        for position, mean, variance in encoded(network, source, cells):
            section = objective.section[position]
            field_mean, field_variance = network.field.values(posterior, objective.features(position), section)
            logs = torch.cat([field_mean, mean[:, split:].double()], 1)
            spread = torch.cat([field_variance, variance[:, split:].double()], 1)
            total = total + (logs + spread / 2).clamp(max=BOUND).exp().sum(0)
        parts = total[:, None] * network.weight.double().exp()
        return (parts[:split].sum(0) / parts.sum(0)).cpu().numpy()
