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
(`start.inputs_of`), `start of the linear parts` (`start.start_from_data`), `training` (`objective`), and `the exact
posterior`: with the weights of the best epoch, all training spots' moments are added up once. These sums are saved
with the model; every later answer uses them, so none depends on minibatches or their order.

Counts need not be in memory: `data.Stored` reads blocks of spots from a file, and every step above goes by such blocks,
in one pass over the file or a few. An epoch reads its sample (`settings.schedule`) before its first step, at most
`minibatches.LOADED` spots at a time, as a minibatch has to be a random sample of the whole tissue; of a large tissue
that is one pass over the file. What is in memory of all spots are positions, inputs of the
encoder where these are components, and latent values.

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
from unbatch.models.spavae.data import Spots, require
from unbatch.models.spavae.field import Chosen, Field, choose
from unbatch.models.spavae.networks import Network
from unbatch.models.spavae.objective import Objective, added_up, encoded
from unbatch.models.spavae.settings import Settings, schedule
from unbatch.models.spavae.start import BLOCK, MOST_SEEN, inputs_of, sampled, start_from_data
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
        own = [each for _, *each in encoded(self.network, spots.source, np.arange(len(spots)))]
        split = self.settings.latent
        gaussian = (torch.cat(each)[:, split:].cpu().numpy() for each in zip(*own, strict=True))
        return Latent(mean, variance, *gaussian)

    @torch.no_grad()
    def rates(
        self, latent: np.ndarray, batch: np.ndarray, genes: slice | np.ndarray = slice(None)
    ) -> Iterator[np.ndarray]:
        """Yield rates at size factor 1, blocks of n x G, of latent values (n x (L + H)) and codes of batches (n)."""
        device = self.network.log_theta.device
        values = torch.as_tensor(latent, dtype=torch.float32, device=device)
        code = torch.as_tensor(batch.astype(np.int64), device=device)
        for rows in torch.arange(len(code), device=device).split(BLOCK):
            yield self.network.decode(values[rows], code[rows], genes).exp().cpu().numpy()

    def exact(self, spots: Spots, cells: np.ndarray) -> tuple[Moments, np.ndarray]:
        """Add up the moments of some spots in float64, and give their Gaussian latent values."""
        place, code = self._placed(spots.points, spots.section)
        return added_up(self.network, spots.source, cells, place, code)

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
            first = sampled(learnt, MOST_SEEN, seed)
            start_from_data(network, spots.source, first, objective.seen(first))
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
