"""spaVAE: a variational autoencoder of counts whose latent space has a Gaussian process over the tissue.

Spot i at position x_i in section k has counts y_ig, size factor s_i (its counts over those of the median spot) and
latent values z_i: L that follow Gaussian processes over each section, H that are independent of the position::

    z_l ~ GP(0, k(x, x')),  l = 1 ... L        z_h ~ N(0, 1),  h = 1 ... H
    y_ig ~ NB(mean s_i rho_ig, dispersion theta_g),   log rho_i = decoder(z_i, batch_i)

An encoder gives values w_i and variances v_i. Those of the H dimensions are the posterior. Those of the L dimensions
are noisy observations of the processes, whose posterior given all of them, by M inducing points p, is in closed form
(`unbatch.nn.sparse_gp`): q(z_i) = N(m_i, B_i). The fit minimises, per spot and over minibatches, with Adam::

    mean_i [ -log NB(y_i | z_i) + beta KL(q(z_iH) || N(0, 1)) ] + beta / N sum_kl KL(q(f_p) || p(f_p))
        [ + G/L mean_i |m_i - m'_i|^2  where noise is asked for: m' of a second encoding of noisy inputs ]

The last divergence is all of the processes' part: the published cross entropy and bound reduce to it. Spots of two
sections are independent (the kernel is block-diagonal), batches are told to the decoder alone. beta is fixed or held
by a controller such that the divergences are near a target. Features of spots, processes and their moments are in
float64, networks in float32.

Steps: `unit of positions, inducing points` (`positions`, `field.choose`), `moments and components of genes`
(`start.inputs_of`), `start of the linear parts` (`start.start_from_data`), `training` (`Objective`), and `the exact
posterior`: with the weights of the best epoch, all training spots' moments are added up once. These sums are saved
with the model; every later answer uses them, so none depends on minibatches or their order.

The preset ``paper`` is what the authors' code does (Tian et al. 2024), but for four faults: here epochs are compared
by a score that has no beta in it, validation spots are scored in evaluation mode, the best weights are kept however
training ends, and latent values come from the exact posterior. Minibatches have equal sizes and none is dropped.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unbatch.models.spavae import positions
from unbatch.models.spavae.controller import Controller
from unbatch.models.spavae.data import Spots, require
from unbatch.models.spavae.field import MOST_KEPT, Chosen, Field, Running, choose
from unbatch.models.spavae.networks import Network
from unbatch.models.spavae.settings import Settings, schedule
from unbatch.models.spavae.start import BLOCK, Seen, inputs_of, start_from_data
from unbatch.nn.minibatches import Source
from unbatch.nn.negative_binomial import GammaTerms, mean_terms, negative_log_likelihood
from unbatch.nn.sparse_gp import Moments, Posterior
from unbatch.nn.training import History, Plan, train


@dataclass(frozen=True)
class Latent:
    """What spots are in the latent space.

    Attributes
    ----------
    mean, variance
        Posterior of the processes, n x L.
    gaussian, gaussian_variance
        Posterior of the other dimensions, n x H.
    """

    mean: np.ndarray
    variance: np.ndarray
    gaussian: np.ndarray
    gaussian_variance: np.ndarray

    @property
    def embedding(self) -> np.ndarray:
        """Means of all dimensions, n x (L + H)."""
        return np.concatenate([self.mean, self.gaussian], 1)

    def draw(self, rng: np.random.Generator, rows: np.ndarray) -> np.ndarray:
        """Draw from the posterior of some spots, rows x (L + H)."""
        spread = np.sqrt(np.concatenate([self.variance[rows], self.gaussian_variance[rows]], 1))
        return self.embedding[rows] + spread * rng.standard_normal(spread.shape)


@dataclass
class Model:
    """A fitted spaVAE.

    Attributes
    ----------
    network
        In evaluation mode, on the device where it was fitted.
    moments
        Sums over training spots of which the posterior is made, by section: P and q of `unbatch.nn.sparse_gp`.
    units
        What coordinates are multiplied by, sections x axes.
    known
        The training spots: positions in these units (n x d), codes of sections (n), Gaussian latent values (n x H).
    """

    network: Network
    moments: Moments | None
    units: np.ndarray
    known: tuple[np.ndarray, ...]

    @property
    def settings(self) -> Settings:
        """How it was fitted."""
        return self.network.settings

    @property
    def posterior(self) -> Posterior:
        """Posterior of the processes, sections x L."""
        return Posterior.of(self.moments)

    @property
    def pitches(self) -> np.ndarray:
        """What coordinates are multiplied by to be in spot pitches, sections x axes, whatever the preset's unit."""
        if self.settings.box is None:
            return self.units
        place, section, _ = self.known
        points = place / self.units[section]
        # indices of an array are whole numbers, which the division has to leave whole
        whole = np.rint(points)
        return positions.units(np.where(np.abs(points - whole) < 1e-9, whole, points), section)

    def at(self, points: np.ndarray, section: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give means and variances of the processes at any positions (n x d, as given to `fit`), each n x L."""
        posterior, found = self.posterior, []
        place, code = self._placed(points, section)
        for rows in torch.arange(len(code), device=code.device).split(BLOCK):
            features = self.network.field.features(place[rows], code[rows])
            found.append(torch.cat(self.network.field.values(posterior, features, code[rows]), 1).detach())
        both = torch.cat(found).cpu().numpy()
        return both[:, : self.settings.latent], both[:, self.settings.latent :]

    def embed(self, spots: Spots) -> Latent:
        """Embed spots: the processes by their positions, given the training spots; the rest by their own counts."""
        mean, variance = self.at(spots.points, spots.section)
        own = [each for _, *each in self._encoded(spots.source, np.arange(len(spots)))]
        split = self.settings.latent
        gaussian = (torch.cat(each)[:, split:].cpu().numpy() for each in zip(*own, strict=True))
        return Latent(mean, variance, *gaussian)

    @torch.no_grad()
    def rates(self, latent: np.ndarray, batch: np.ndarray, genes: slice = slice(None)) -> Iterator[np.ndarray]:
        """Yield rates at size factor 1, blocks of n x G, of latent values (n x (L + H)) and codes of batches (n)."""
        device = self.network.log_theta.device
        values = torch.as_tensor(latent, dtype=torch.float32, device=device)
        code = torch.as_tensor(batch.astype(np.int64), device=device)
        for rows in torch.arange(len(code), device=device).split(BLOCK):
            yield self.network.decode(values[rows], code[rows], genes).exp().cpu().numpy()

    @torch.no_grad()
    def exact(self, spots: Spots, cells: np.ndarray) -> tuple[Moments, np.ndarray]:
        """Add up the moments of some spots in float64, and give their Gaussian latent values."""
        field, split = self.network.field, self.settings.latent
        place, code = self._placed(spots.points, spots.section)
        total, gaussian = None, []
        for position, mean, variance in self._encoded(spots.source, cells):
            features, own = field.features(place[position], code[position]), code[position]
            count = torch.bincount(own, minlength=field.sections)
            found = field.moments(features, mean[:, :split].double(), variance[:, :split].double(), own, count)
            total = found if total is None else total + found
            gaussian.append(mean[:, split:])
        return total, torch.cat(gaussian).cpu().numpy()

    @torch.no_grad()
    def _encoded(self, source: Source, cells: np.ndarray) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for position, counts in source.minibatches(cells, BLOCK):
            yield position, *self.network.encode(self.network.inputs(counts))

    def _placed(self, points: np.ndarray, section: np.ndarray) -> tuple[Tensor, Tensor]:
        device = self.network.log_theta.device
        place = torch.as_tensor(points * self.units[section], device=device)
        return place, torch.as_tensor(section.astype(np.int64), device=device)


@dataclass
class Fitted:
    """A model, what happened in its fit, and what was chosen for it.

    Attributes
    ----------
    model
        With the weights of the best epoch.
    history, best_epoch
        Loss terms, beta and score by epoch, and the epoch from 1 on whose weights were kept.
    plan
        Epochs and minibatches.
    chosen
        Scale of the kernel, inducing points, and the variance that these leave.
    held
        Sorted positions of the validation spots.
    """

    model: Model
    history: dict[str, list[float]]
    best_epoch: int
    plan: Plan
    chosen: Chosen
    held: np.ndarray


def fit(
    spots: Spots,
    settings: Settings,
    *,
    train_on: np.ndarray | None = None,
    seed: int = 0,
    tell: Callable[[str], None] = lambda text: None,
) -> Fitted:
    """Fit a model.

    Parameters
    ----------
    spots
        Counts, positions, sections and batches.
    settings
        How to fit.
    train_on
        Sorted positions of the spots to fit to; None for all. `Settings.validation` is a share of these.
    seed
        Seed of all random numbers.
    tell
        Called with a line of progress after each epoch.

    Raises
    ------
    ValueError
        If the counts or positions can't be fitted (`data.require`, `positions.require`).
    Diverged
        If a loss term is not finite; it has the network with the weights of the best epoch.
    """
    seen = np.arange(len(spots)) if train_on is None else train_on
    require(spots, seen)
    rng = np.random.default_rng(seed)
    held = np.sort(rng.permutation(seen)[: round(settings.validation * len(seen))])
    learnt = np.setdiff1d(seen, held)
    units = positions.units(spots.points[seen], spots.section[seen], settings.box)
    place = spots.points * units[spots.section]
    device = spots.source.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        chosen = choose(place[learnt], spots.section[learnt], settings, settings.scale, seed)
        field = Field(chosen.points, settings.kernel, chosen.scale, settings.learns_scale)
        inputs = inputs_of(spots.source, learnt, settings, spots.depth(learnt), seed)
        network = Network(settings, inputs, field, spots.source.shape[1], spots.batches).to(device)
        plan = schedule(settings, len(learnt))
        objective = Objective(network, spots, place, (learnt, held), plan)
        if settings.from_data:
            start_from_data(network, spots.source, learnt, objective.seen(learnt))
        history: History = train(
            network,
            spots.source,
            learnt,
            step=objective.step,
            judge=objective.judge,
            plan=plan,
            rng=rng,
            tell=tell,
        )
    model = finished(network, spots, learnt, units)
    return Fitted(model, history.terms, best_epoch=history.best, plan=plan, chosen=chosen, held=held)


def finished(network: Network, spots: Spots, cells: np.ndarray, units: np.ndarray | None = None) -> Model:
    """Make a model of a trained network: add up the exact moments of the spots that it was trained on.

    Parameters
    ----------
    network
        With its final weights.
    spots, cells
        The spots, and sorted positions of those that it was trained on.
    units
        What coordinates are multiplied by; None to find it from these spots.
    """
    own = spots.points[cells], spots.section[cells]
    if units is None:
        units = positions.units(*own, network.settings.box)
    model = Model(network.eval(), None, units, (own[0] * units[own[1]], own[1], None))
    model.moments, gaussian = model.exact(spots, cells)
    model.known = (*model.known[:2], gaussian)
    return model


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
        self.gammas = GammaTerms(spots.rows(self.learnt), groups, len(network.log_theta), device)
        self.running = Running(settings.smoothing)
        self.controller = Controller(settings.target, settings.clipped)
        self.beta = self.controller.beta if settings.beta is None else settings.beta
        self.steps = plan.epochs * -(-len(self.learnt) // plan.size)
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
            "gaussian": _divergence(value[:, split:], variance[:, split:]) / spots,
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
        model = Model(self.network, None, np.ones((self.field.sections, self.place.shape[1])), ())
        everything = Spots(
            self.source, self.place.cpu().numpy(), *(x.cpu().numpy() for x in (self.section, self.batch))
        )
        model.moments, _ = model.exact(everything, self.learnt)
        posterior, split, found = model.posterior, self.settings.latent, 0.0
        for position, values in self.source.minibatches(self.held, BLOCK):
            value, variance = self.network.encode(self._inputs(position, values))
            mean, _ = self.field.values(posterior, self.features(position), self.section[position])
            latent = torch.cat([mean.float(), value[:, split:]], 1)
            batch = self.batch[position]
            rate, size = self.network.decode(latent, batch), self.network.inputs.size(values).log()
            found += float(negative_log_likelihood(rate, size, values, self.network.dispersion(batch)).sum())
            found += float(_divergence(value[:, split:], variance[:, split:]))
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


def _divergence(mean: Tensor, variance: Tensor) -> Tensor:
    """KL divergence of independent normal distributions from standard ones, summed over all of them."""
    return (variance + mean.square() - 1 - variance.log()).sum() / 2
