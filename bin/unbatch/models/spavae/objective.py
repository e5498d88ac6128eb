"""The loss of a fit, the step that lowers it, and the score by which epochs are chosen."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from unbatch.models.spavae.controller import Controller
from unbatch.models.spavae.data import Spots
from unbatch.models.spavae.field import MOST_KEPT, Running
from unbatch.models.spavae.networks import Network
from unbatch.models.spavae.start import BLOCK, Seen
from unbatch.nn.minibatches import Source
from unbatch.nn.negative_binomial import GammaTerms, mean_terms, negative_log_likelihood
from unbatch.nn.sparse_gp import Moments, Posterior
from unbatch.nn.training import Plan


@torch.no_grad()
def encoded(network: Network, source: Source, cells: np.ndarray) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield positions of spots, and means and variances of the encoder, block by block."""
    for position, counts in source.minibatches(cells, BLOCK):
        yield position, *network.encode(network.inputs(counts))


@torch.no_grad()
def added_up(
    network: Network, source: Source, cells: np.ndarray, place: Tensor, section: Tensor
) -> tuple[Moments, np.ndarray]:
    """Add up the moments of some spots in float64, and give their Gaussian latent values.

    Parameters
    ----------
    network, source, cells
        Network, counts, and positions of the spots among these.
    place, section
        Places of all spots in the unit of the kernel (n x d), and codes of their sections (n).
    """
    field, split = network.field, network.settings.latent
    total, gaussian = None, []
    for position, mean, variance in encoded(network, source, cells):
        features, own = field.features(place[position], section[position]), section[position]
        count = torch.bincount(own, minlength=field.sections)
        found = field.moments(features, mean[:, :split].double(), variance[:, :split].double(), own, count)
        total = found if total is None else total + found
        gaussian.append(mean[:, split:])
    return total, torch.cat(gaussian).cpu().numpy()


class Objective:
    """The loss, the step that lowers it, and the score by which epochs are chosen.

    Parameters
    ----------
    network
        What is trained.
    spots, place
        The spots, and their positions in the unit of the kernel.
    parts
        Sorted positions of the spots that are trained on, and of those that score the epochs.
    plan
        How long and in what steps.
    """

    def __init__(
        self, network: Network, spots: Spots, place: np.ndarray, parts: tuple[np.ndarray, np.ndarray], plan: Plan
    ) -> None:
        self.network, self.field, self.settings = network, network.field, network.settings
        self.source, (self.learnt, self.held) = spots.source, parts
        device, settings = spots.source.device, self.settings
        self.place = torch.as_tensor(place, device=device)
        self.section = torch.as_tensor(spots.section.astype(np.int64), device=device)
        self.batch = torch.as_tensor(spots.batch.astype(np.int64), device=device)
        self.spots = torch.bincount(self.section[torch.as_tensor(self.learnt)], minlength=self.field.sections)
        kept = not settings.learns_scale and self.field.used.shape[1] * len(spots) <= MOST_KEPT
        self.kept = self.field.features(self.place, self.section) if kept else None
        self.inputs = self._components() if network.inputs.components is not None else None
        groups = spots.batch[self.learnt] if settings.dispersion == "batch" else np.zeros(len(self.learnt), np.int64)
        counts = (found for _, found in spots.blocks(self.learnt))
        self.gammas = GammaTerms(counts, groups, len(network.log_theta), device)
        self.running = Running(settings.smoothing)
        self.controller = Controller(settings.target, settings.clipped)
        self.beta = self.controller.beta if settings.beta is None else settings.beta
        self.steps = plan.epochs * plan.steps(len(self.learnt))
        self.optimiser = torch.optim.AdamW(
            network.parameters(), lr=settings.rate, weight_decay=settings.decay, fused=True
        )
        self.bound = [0.0, 0]

    def seen(self, cells: np.ndarray) -> Seen:
        """Give what the start needs of some spots."""
        rows = torch.as_tensor(cells, device=self.place.device)
        if self.inputs is None:
            inputs = torch.cat([self.network.inputs(counts) for _, counts in self.source.minibatches(cells, BLOCK)])
        else:
            inputs = self.inputs[rows]
        return Seen(inputs, self.features(rows).detach(), self.section[rows])

    def features(self, position: Tensor) -> Tensor:
        """Features of spots, n x M."""
        if self.kept is not None:
            return self.kept[position]
        return self.field.features(self.place[position], self.section[position])

    def step(self, position: Tensor, counts: Tensor, share: float) -> dict[str, Tensor]:
        """Take a step on a minibatch, and return its loss terms per spot."""
        network, split, spots = self.network, self.settings.latent, len(position)
        self._pace(share)
        inputs = self._inputs(position, counts)
        features, section = self.features(position), self.section[position]
        value, variance = network.encode(inputs)
        found = self._moments(features, value, variance, section)
        posterior = Posterior.of(self.running(found, section))
        mean, spread = self.field.values(posterior, features, section)
        latent_mean = torch.cat([mean.float(), value[:, split:]], 1)
        latent_variance = torch.cat([spread.float(), variance[:, split:]], 1)
        latent = latent_mean + latent_variance.sqrt() * torch.randn_like(latent_mean)
        terms = {
            "counts": self._likelihood(latent, position, counts) / spots + self.gammas(network.log_theta),
            "field": (posterior.divergence() / len(self.learnt)).float(),
            "gaussian": network.divergence(value[:, split:], variance[:, split:]) / spots,
        }
        loss = terms["counts"] + self.beta * (terms["field"] + terms["gaussian"])
        if self.settings.noise:
            noisy = network.encode(inputs + self.settings.noise * torch.randn_like(inputs))
            other = Posterior.of(self._moments(features, *noisy, section))
            apart = mean - self.field.values(other, features, section)[0]
            terms["noise"] = (apart.square().sum() / spots * (network.genes / split)).float()
            loss = loss + terms["noise"]
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        divergence = float((terms["field"] + terms["gaussian"]).detach())
        self.bound[0] += (float(terms["counts"].detach()) + divergence) * spots
        self.bound[1] += spots
        if self.settings.beta is None and np.isfinite(divergence):
            self.beta = self.controller(divergence)
        return terms | {"beta": terms["counts"].new_tensor(self.beta)}

    def judge(self, counts: bool) -> tuple[float, dict[str, float]]:
        """Score an epoch by the negative evidence bound per spot, with beta 1: epochs of any beta can be compared.

        It is that of the validation spots, embedded by the exact posterior given the training spots; where there are
        none, the mean over the epoch's steps.
        """
        total, spots = self.bound
        self.bound = [0.0, 0]
        if not len(self.held):
            return total / spots, {"bound": total / spots}
        known, _ = added_up(self.network, self.source, self.learnt, self.place, self.section)
        posterior, split, found = Posterior.of(known), self.settings.latent, 0.0
        for position, values in self.source.minibatches(self.held, BLOCK):
            value, variance = self.network.encode(self._inputs(position, values))
            mean, _ = self.field.values(posterior, self.features(position), self.section[position])
            latent = torch.cat([mean.float(), value[:, split:]], 1)
            batch = self.batch[position]
            rate, size = self.network.decode(latent, batch), self.network.inputs.size(values).log()
            found += float(negative_log_likelihood(rate, size, values, self.network.dispersion(batch)).sum())
            found += float(self.network.divergence(value[:, split:], variance[:, split:]))
        score = found / len(self.held) + float(posterior.divergence()) / len(self.learnt)
        return score, {"validation_bound": score}

    def _moments(self, features: Tensor, value: Tensor, variance: Tensor, section: Tensor) -> Moments:
        split = self.settings.latent
        return self.field.moments(
            features, value[:, :split].double(), variance[:, :split].double(), section, self.spots
        )

    def _likelihood(self, latent: Tensor, position: Tensor, counts: Tensor) -> Tensor:
        """Sum the terms with the mean of the minus log likelihood of a minibatch."""
        batch, theta = self.batch[position], self.network.log_theta
        rate, size = self.network.decode(latent, batch), self.network.inputs.size(counts).log()
        if len(theta) == 1:
            return mean_terms(rate, size, counts, theta[0])
        of = [(code, (batch == code).nonzero()[:, 0]) for code in range(len(theta))]
        return sum(mean_terms(rate[rows], size[rows], counts[rows], theta[code]) for code, rows in of if len(rows))

    def _inputs(self, position: Tensor, counts: Tensor) -> Tensor:
        return self.network.inputs(counts) if self.inputs is None else self.inputs[position]

    def _components(self) -> Tensor:
        """Components of all spots."""
        everything = np.arange(self.source.shape[0])
        return torch.cat([self.network.inputs(counts) for _, counts in self.source.minibatches(everything, BLOCK)])

    def _pace(self, share: float) -> None:
        """Set the rate of the optimiser by the share of the training that is over."""
        if self.settings.cosine:
            step = 1 / self.steps
            factor = min(1.0, (share + step) / (0.05 + step)) * (0.01 + 0.99 * (0.5 + 0.5 * np.cos(np.pi * share)))
            for group in self.optimiser.param_groups:
                group["lr"] = self.settings.rate * factor
