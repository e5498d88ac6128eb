"""dp-VAE (Zhou and Du): a variational autoencoder whose latent distances are those between spots, but for a scale.

For n spots with expression x_i and position s_i, the encoder q(z | x) = N(mu(x), diag sigma^2(x)), the decoder p(x | z)
and the prior N(0, I)::

    L      = alpha1 (L_rec + beta L_KL) + alpha2 L_DP                                                             (1)
    L_rec  = mean_i sum_g (x_ig - xhat_g(z_i))^2,  or of counts  mean_i sum_g -log NB(y_ig | l_i rho_g(z_i), theta_g)
    L_KL   = mean_i sum_k (mu_k^2 + sigma_k^2 - 1 - log sigma_k^2) / 2
    L_DP   = 1/n^2 sum_ij | |z_i - z_j| - lambda |s_i - s_j| |                                                    (2)

Positions are centred by section and divided by one number, the root of their variance along the mean axis, which keeps
their shape and makes lambda about 1. Pairs are of one section. (2) is estimated from pairs that are drawn in each step
(`unbatch.nn.pairs`), without bias: memory is linear in n. (2) alone is 0 where all z_i are one point and lambda
is 0, hence L_DP / lambda is what tells how well distances are kept, and training never stops by L_DP.

Differences from the paper (docs/decisions/0015-distances-of-dpvae.md): alpha1 and alpha2 are 0 or more; distances with
lambda in the reconstruction, squared (`reconstruction`); epochs and alpha2 are chosen on known spots (`search`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unbatch.models.dpvae.networks import Network
from unbatch.models.dpvae.settings import Settings
from unbatch.nn.minibatches import Resident, Rows
from unbatch.nn.negative_binomial import GammaTerms, mean_terms
from unbatch.nn.pairs import Edges, Groups, lengths, weighted_median
from unbatch.nn.training import Plan, train

Mask = Callable[[np.ndarray, np.ndarray, np.ndarray], Edges | Groups]
"""Takes positions (m x p) and sections (m) of some spots and which of all spots they are; gives their pairs."""
BLOCK = 8192
"""Spots that are encoded at a time."""


@dataclass(frozen=True)
class Spots:
    """What is learnt from: known spots, or part of them.

    Attributes
    ----------
    inputs
        n x D float32.
    positions
        Centred by section, of unit variance, n x p.
    section, batch
        Codes, n.
    counts
        Counts of the genes, n x G, where the likelihood is one of counts; else None.
    number
        Which of all spots these are, n.
    """

    inputs: np.ndarray
    positions: np.ndarray
    section: np.ndarray
    batch: np.ndarray
    counts: Any
    number: np.ndarray

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, rows: np.ndarray) -> "Spots":
        """Give some of them."""
        counts = None if self.counts is None else self.counts[rows]
        return Spots(self.inputs[rows], self.positions[rows], self.section[rows], self.batch[rows], counts,
                     self.number[rows])  # fmt: skip


class Objective:
    """The loss of known spots, and the step that lowers it.

    Parameters
    ----------
    network
        What is trained.
    spots
        What it is trained on.
    pairs
        Pairs of these.
    settings
        With `alpha2`.
    device
        Where to compute.
    """

    def __init__(self, network: Network, spots: Spots, pairs: Edges | Groups, settings: Settings, device: str) -> None:
        self.network, self.pairs, self.settings = network, pairs.to(device), settings
        self.source = Resident(spots.inputs, device)
        self.inputs = torch.as_tensor(spots.inputs, device=device)
        self.place = torch.as_tensor(spots.positions, dtype=torch.float32, device=device)
        self.batch = torch.as_tensor(spots.batch, device=device)
        self.counts = self.gammas = None
        if spots.counts is not None:
            self.counts = Rows(spots.counts, torch.device(device))
            self.gammas = GammaTerms(spots.counts, np.zeros(len(spots), np.int64), 1, device)
            library = torch.as_tensor(np.asarray(spots.counts.sum(1)).ravel(), dtype=torch.float32, device=device)
            self.library = library.clamp(min=1).log()[:, None]
        decayed = [value for name, value in network.named_parameters() if name not in ("log_scale", "log_theta")]
        free = [value for value in (network.log_scale, network.log_theta) if value is not None and value.requires_grad]
        groups = [{"params": decayed, "weight_decay": settings.decay}, {"params": free, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=settings.rate, fused=True)
        self.profiled = settings.scaling == "profiled"

    def step(self, position: Tensor, _inputs: Tensor, _share: float) -> dict[str, Tensor]:
        """Take a step on a minibatch (positions, b), and return its terms."""
        network, settings = self.network, self.settings
        first, second, weight = self.pairs.draw(position, settings.near, settings.uniform)
        nodes, place = position, None
        if settings.minibatch is not None or len(position) < len(self.inputs):
            nodes, place = torch.unique(torch.cat([position, first, second]), return_inverse=True)
        else:  # all spots at once, in the order of their numbers
            nodes = torch.arange(len(self.inputs), device=position.device)
        mean, log_variance = network.encode(self.inputs[nodes])
        latent = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        own, one, other = (
            (position, first, second) if place is None else place.split([len(position), *[len(first)] * 2])
        )
        distance = lengths(mean if settings.on_mean else latent, one, other)
        apart = lengths(self.place, first, second)
        if self.profiled:
            self._profile(distance, apart, weight)
        kept = (weight * (distance - network.scale * apart).abs()).sum()
        terms = {
            "reconstruction": self.reconstruction(latent[own], position),
            "divergence": divergence(mean[own], log_variance[own]),
            "distance": kept,
        }
        loss = settings.alpha1 * (terms["reconstruction"] + settings.beta * terms["divergence"])
        loss = loss + settings.alpha2 * kept
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        scale = network.scale.detach()
        return terms | {"scale": scale, "relative": kept.detach() / scale}

    def reconstruction(self, latent: Tensor, position: Tensor) -> Tensor:
        """L_rec of some spots, from their latent values."""
        if self.counts is None:
            return (self.network.decode(latent) - self.inputs[position]).square().sum(1).mean()
        counts = self.counts.dense(position, self.counts.stored(position.cpu().numpy()))
        rate = self.network.decode(latent, self.batch[position])
        theta = self.network.log_theta
        return mean_terms(rate, self.library[position], counts, theta[0]) / len(position) + self.gammas(theta)

    @torch.no_grad()
    def _profile(self, distance: Tensor, apart: Tensor, weight: Tensor) -> None:
        """Bring lambda towards the minimiser of the distances' term, the median of their ratios by weighted length."""
        far = apart > 0
        if not far.any():
            return
        best = weighted_median(distance[far] / apart[far], (weight * apart)[far]).clamp(min=1e-6).log()
        self.network.log_scale.lerp_(best, 0.1)


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """L_KL, see the module."""
    return (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean() / 2


def train_network(
    spots: Spots,
    settings: Settings,
    mask: Mask,
    *,
    judge: Callable[[Network, int], float | None] | None = None,
    watch: Callable[[Network, int], None] | None = None,
    batches: int = 1,
    seed: int = 0,
    device: str = "cpu",
    tell: Callable[[str], None] = lambda text: None,
) -> tuple[Network, list[dict[str, float]]]:
    """Train a network.

    Parameters
    ----------
    spots
        What to train on.
    settings
        With `alpha2` and `epochs`.
    mask
        Makes the pairs.
    judge
        Takes the network and the epoch, and gives an error that ends the training where it no longer falls, None in an
        epoch at which it does not look. Without it training goes on to the end.
    watch
        Called with the network and the epoch after each epoch.
    batches
        Batches that a decoder of counts is told.
    seed, device, tell
        Seed of all random numbers, where to compute, and what is called with a line after each epoch.

    Returns
    -------
    network
        After the last epoch, or with the weights of the epoch of the smallest error.
    history
        By epoch: ``reconstruction``, ``divergence``, ``distance`` (L_DP), ``scale`` (lambda), and ``relative``
        (L_DP / lambda).

    Raises
    ------
    Diverged
        If a term is not finite.
    """
    # finite before the first look, as the loop stops where a score is not
    last = [0, 1e30]

    def score(_counts: bool) -> tuple[float, dict[str, float]]:
        last[0] += 1
        if watch is not None:
            watch(network, last[0])
        if judge is None:
            return -float(last[0]), {}
        error = judge(network, last[0])
        if error is not None:
            last[1] = error
        return last[1], {}

    with torch.random.fork_rng(devices=[device] if device != "cpu" else []):
        torch.manual_seed(seed)
        outputs = spots.inputs.shape[1] if spots.counts is None else spots.counts.shape[1]
        told = 0 if spots.counts is None else batches
        network = Network(settings, spots.inputs.shape[1], outputs, told).to(device)
        pairs = mask(spots.positions, spots.section, spots.number)
        objective = Objective(network, spots, pairs, settings, device)
        size = len(spots) if settings.minibatch is None else settings.minibatch
        plan = Plan(settings.epochs, min(size, len(spots)), settings.patience if judge else settings.epochs)
        rng, every = np.random.default_rng(seed), np.arange(len(spots))
        found = train(network, objective.source, every, step=objective.step, judge=score, plan=plan, rng=rng, tell=tell)
    names = list(found.terms)
    rows = zip(*found.terms.values(), strict=True)
    return network, [{"epoch": epoch, **dict(zip(names, row, strict=True))} for epoch, row in enumerate(rows, 1)]


@torch.no_grad()
def encoded(network: Network, inputs: np.ndarray) -> np.ndarray:
    """Latent means of inputs, n x d."""
    network.eval()
    device = network.log_scale.device
    parts = [network.encode(torch.as_tensor(part, device=device))[0].cpu().numpy() for part in _parts(inputs)]
    return np.concatenate(parts) if parts else np.empty((0, network.mean.out_features), np.float32)


def _parts(values: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(values), BLOCK):
        yield values[start : start + BLOCK]
