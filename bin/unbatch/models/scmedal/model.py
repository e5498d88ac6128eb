"""scMEDAL: autoencoders whose latent space is free of the batch (fixed effects) or made of it (random effects).

For a cell with expression x (G genes, scaled to 0 ... 1), batch z (of K) and, in AEC and FEC, label y (of C), an
encoder gives the embedding u and a decoder the reconstruction r. A model minimises a sum of terms with weights w
(`recipes.loss_weights`), over minibatches, with Adam::

    AE   w_r MSE(x, r) / V  [+ w_y CE(c(u), y) / log C  in AEC and FEC]
    FE   AE + w_d |drift|^2 + ramp (w_h HSIC(u, z) + w_m M(u, z | y) - w_b CE(a(u), z) / log K)
    RE   AE + w_b CE(h(u), z) / log K + w_k 2 (MSE / V) KL(q | p) / (N G)

V is the mean variance of the genes, CE a cross entropy, N the number of training cells. The divisors make a term about
1 for a model that knows nothing, so weights have no units.

AE, FE
    ``u = W (x - mean) / s + MLP(x)`` starts as principal components; what the MLP adds is the drift. The decoder is the
    transpose of W plus another MLP, whose layers in FE have an intercept for each batch. The batch leaves u under an
    independence criterion (HSIC) and an adversary a, which minimises its own cross entropy and takes five steps for
    each one of the encoder. M is the distance between the means of batches within labels. The penalties of the batch
    rise to their weight over the first part of the training (ramp). Kept is the epoch with the least squared error of
    validation cells plus what a fresh probe tells of the batch.
RE
    Layers have slopes and intercepts for each batch, with a normal prior p and posterior q (`random_effects`). With a
    residual variance equal to the squared error, the negative evidence bound is ``MSE + 2 MSE KL / (N G)``, in units of
    half the cells times the genes over that error. The head h guesses the batch from u, with noise.

This is the preset ``recommended``. ``paper`` is what the authors' code does (Andrade et al. 2026), for comparison: tied
kernels, no divisors, no HSIC, drift, ramp or probe, one step of an adversary that sees all layers, a divergence that is
estimated by a draw, and weights by the size of the data. All differences stand in `recipes.RECIPES`.

Expression is scaled by one minimum and maximum, those of the training cells, which the model keeps. All arrays that go
in and out are log-normalised expression, unscaled.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from unbatch.models.scmedal.data import BLOCK, TrainingData, as_codes, as_source, moments, require_fit
from unbatch.models.scmedal.networks import Network
from unbatch.models.scmedal.parts import Parts
from unbatch.models.scmedal.probe import balanced_probe
from unbatch.models.scmedal.recipes import ADVERSARIAL, Settings, loss_weights, schedule
from unbatch.nn.minibatches import Source
from unbatch.nn.penalties import hsic, mean_matching
from unbatch.nn.training import History, Plan, train


@dataclass
class Model:
    """A fitted autoencoder.

    Attributes
    ----------
    network
        In evaluation mode, on the device where it was fitted.
    """

    network: Network

    @property
    def settings(self) -> Settings:
        """How it was fitted."""
        return self.network.settings

    @property
    def genes(self) -> int:
        """Number of genes, G."""
        return self.network.genes

    @property
    def batches(self) -> int:
        """Number of batches, K."""
        return self.network.batches

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.network.low.device

    def embed(self, cells: Any, batch: np.ndarray) -> np.ndarray:
        """Embed cells, n x L.

        Parameters
        ----------
        cells
            Expression, n x G: a `Source`, a scipy CSR matrix or a numpy array.
        batch
            Codes, n; -1 for a batch that the model does not know, which RE takes for the average one, as only RE uses
            them.
        """
        return np.concatenate([latent.cpu().numpy() for latent, _ in self._embedded(cells, batch)])

    def reconstruct(self, cells: Any, batch: np.ndarray) -> Iterator[np.ndarray]:
        """Yield reconstructions, a block of cells after the other; see `embed`."""
        for latent, code in self._embedded(cells, batch):
            with torch.no_grad():
                yield self.network.unscaled(self.network.coder.decode(latent, code)).cpu().numpy()

    def scaled_blocks(self, cells: Any, batch: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield codes and scaled expression on the device, a block of cells after the other; see `embed`."""
        source = as_source(cells, self.device)
        code = as_codes(batch, source, self.batches)
        for position, expression in source.minibatches(np.arange(source.shape[0]), BLOCK):
            yield code[position], self.network.scaled(expression)

    def _embedded(self, cells: Any, batch: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
        for code, scaled in self.scaled_blocks(cells, batch):
            with torch.no_grad():
                latent = self.network.coder.encode(scaled, code).latent
            yield latent, code

    def weights(self) -> dict[str, np.ndarray]:
        """Everything that `from_weights` needs in addition to `config`."""
        return self.network.weights()

    def config(self) -> dict[str, Any]:
        """Give settings and sizes, as JSON takes them."""
        sizes = {name: getattr(self.network, name) for name in ("genes", "batches", "labels")}
        return {"settings": asdict(self.settings), **sizes}

    @classmethod
    def from_weights(cls, config: dict[str, Any], weights: dict[str, np.ndarray], device: str = "cpu") -> Self:
        """Make a model of what `config` and `weights` gave.

        Raises
        ------
        ValueError
            If they do not belong together.
        """
        sizes = {name: int(config[name]) for name in ("genes", "batches", "labels")}
        network = Network(Settings.from_json(config["settings"]), **sizes)
        network.load(weights)
        return cls(network.to(device).eval())


@dataclass
class Fitted:
    """A model, what happened in its fit, and how it was trained.

    Attributes
    ----------
    model
        With the weights of the best epoch.
    history
        Loss terms and validation scores by epoch.
    best_epoch
        From 1 on.
    plan
        Epochs and minibatches.
    weights
        Weights of the loss terms.
    """

    model: Model
    history: dict[str, list[float]]
    best_epoch: int
    plan: Plan
    weights: dict[str, float]


def fit(
    source: Source,
    batch: np.ndarray,
    parts: Parts,
    settings: Settings,
    *,
    label: np.ndarray | None = None,
    seed: int = 0,
    tell: Callable[[str], None] = lambda text: None,
) -> Fitted:
    """Fit a model.

    Parameters
    ----------
    source
        Log-normalised expression, n x G.
    batch
        Codes 0 ... K-1, n; -1 for a batch held out, of which training knows nothing.
    parts
        Which cells train, and which choose when to stop.
    settings
        How to fit.
    label
        Codes 0 ... C-1, n, -1 where unknown; AEC and FEC need them, FE with the term ``matching``.
    seed
        Seed of all random numbers.
    tell
        Called with a line of progress now and then.

    Raises
    ------
    ValueError
        If a batch has no training cells, there are labels or batches too few, or the latent space is too large.
    Diverged
        If a loss term is not finite; it has the network with the weights of the best epoch.
    """
    require_fit(source, batch, parts, settings, label=label)
    labels = int(label.max()) + 1 if settings.uses_labels else 0
    data = TrainingData.on_device(source, parts, batch, label)
    objective, plan, history = fit_network(data, settings, int(batch.max()) + 1, labels, seed=seed, tell=tell)
    model, best = Model(objective.network), history.best
    return Fitted(model, history.terms, best_epoch=best, plan=plan, weights=objective.weights)


def fit_network(
    data: TrainingData,
    settings: Settings,
    batches: int,
    labels: int = 0,
    *,
    seed: int,
    tell: Callable[[str], None],
) -> tuple["Objective", Plan, History]:
    """Make a network, start it from the moments of the training cells, and train it; see `fit`.

    Returns
    -------
    tuple
        The objective, which has the network, how long it was to be trained, and what happened.
    """
    source, cells = data.source, data.parts.train
    inputs = None if data.embedding is None else data.embedding.shape[1]
    with torch.random.fork_rng(devices=[source.device] if source.device.type == "cuda" else []):
        torch.manual_seed(seed)
        of_cells = moments(source, cells)
        network = Network(settings, source.shape[1], batches, labels, inputs=inputs)
        network.start(of_cells)
        network.to(source.device)
        kind = RandomObjective if settings.model == "re" else FixedObjective
        objective = kind(network, data, of_cells.unexplained)
        plan = schedule(settings, len(cells))
        history = train(
            network,
            source,
            cells,
            step=objective.step,
            judge=objective.judge,
            plan=plan,
            optimisers=(objective.optimiser,),
            rng=np.random.default_rng(seed),
            tell=tell,
        )
    return objective, plan, history


class Objective:
    """A sum of loss terms, the step that lowers it, and the score by which epochs are chosen.

    Parameters
    ----------
    network
        What is trained.
    data
        On what.
    unexplained
        Mean variance of the scaled genes.
    """

    def __init__(self, network: Network, data: TrainingData, unexplained: float) -> None:
        self.network, self.coder, self.data = network, network.coder, data
        self.settings, self.recipe = network.settings, network.settings.recipe
        self.batches, self.labels = network.batches, network.labels
        self.weights = loss_weights(self.settings, len(data.parts.train))
        self.rate = self.settings.learning_rate or self.recipe.rate
        # what a model that knows nothing has
        chance = {"batch": math.log(max(self.batches, 2)), "label": math.log(max(self.labels, 2))}
        self.units = {"reconstruction": unexplained, **chance} if self.recipe.balanced else {}
        self.unexplained = unexplained
        self.optimiser = self._optimiser()

    def terms(self, position: Tensor, values: Tensor, share: float) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Loss terms of a minibatch, and by what some of them are multiplied in addition to their weights.

        Parameters
        ----------
        position, values
            Positions (m) and scaled expression (m x G) of the cells.
        share
            Share of the training that is over.
        """
        raise NotImplementedError

    def step(self, position: Tensor, expression: Tensor, share: float) -> dict[str, Tensor]:
        """Take a step on a minibatch, and return its loss terms."""
        terms, factors = self.terms(position, self.network.scaled(expression), share)
        terms = {name: value / self.units.get(name, 1.0) for name, value in terms.items()}
        total = sum(self.weights[name] * factors.get(name, 1.0) * value for name, value in terms.items())
        self.optimiser.zero_grad()
        total.backward()
        self.optimiser.step()
        return terms | {"total": total}

    def judge(self, counts: bool) -> tuple[float, dict[str, float]]:
        """Score on validation cells: their squared error, and for FE and FEC what a fresh probe tells of the batch.

        In an epoch that cannot be kept (`counts` is False) the probe is left out: a fifth of the time on few cells.
        """
        error, latents, position = self._validation()
        score = error / self.units.get("reconstruction", 1.0)
        found = {"validation_reconstruction": score}
        if not self.recipe.probe or self.settings.model not in ADVERSARIAL:
            return score, found
        if not counts:
            return score, found | {"batch_probe": math.nan}
        told, chance = balanced_probe(latents, self.data.batch[position], self.batches), 1 / self.batches
        return score + self.recipe.probe * max(0.0, (told - chance) / (1 - chance)), found | {"batch_probe": told}

    def _validation(self) -> tuple[float, Tensor, Tensor]:
        data, cells = self.data, self.data.parts.validation
        total, latents, positions = 0.0, [], []
        for position, expression in data.source.minibatches(cells, BLOCK):
            batch, values = data.batch[position], self.network.scaled(expression)
            latent = self.coder.encode(data.inputs(position, values), batch).latent
            total = total + (self.coder.decode(latent, batch) - values).square().sum(dtype=torch.float64)
            latents.append(latent)
            positions.append(position)
        return float(total) / (len(cells) * data.source.shape[1]), torch.cat(latents), torch.cat(positions)

    def _optimiser(self) -> torch.optim.Adam:
        """Adam for everything but the adversary; parameters with a rate of their own are groups of their own."""
        own = {f"coder.{name}": rate for name, rate in self.coder.own_rates(self.rate).items()}
        groups: dict[float, list[Tensor]] = {self.rate: []}
        for name, each in self.network.named_parameters():
            if not name.startswith("adversary."):
                groups.setdefault(own.get(name, self.rate), []).append(each)
        return self._adam([{"params": each, "lr": rate} for rate, each in groups.items()])

    def _adam(self, groups: list[dict[str, Any]]) -> torch.optim.Adam:
        fused = self.data.source.device.type == "cuda"
        return torch.optim.Adam(groups, lr=self.rate, eps=self.recipe.epsilon, fused=fused)


class FixedObjective(Objective):
    """The objective of AE, AEC, FE and FEC: a step of the adversary first, then one of all else, on one encoding."""

    def __init__(self, network: Network, data: TrainingData, unexplained: float) -> None:
        super().__init__(network, data, unexplained)
        self.adversary = network.adversary if self.weights.get("batch", 0) > 0 else None
        if self.adversary is not None:
            rate = self.recipe.adversary_rate or self.rate
            self.against = self._adam([{"params": list(self.adversary.parameters()), "lr": rate}])

    def terms(self, position: Tensor, values: Tensor, share: float) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Loss terms of a minibatch; the adversary learns before it is asked."""
        batch, weights = self.data.batch[position], self.weights
        ramp = min(1.0, share / self.recipe.ramp) if self.recipe.ramp else 1.0
        latent, seen, drift = self.coder.encode(values, batch)
        terms = {"reconstruction": F.mse_loss(self.coder.decode(latent, batch), values)}
        if weights.get("drift"):
            terms["drift"] = drift.square().mean()
        if self.adversary is not None:
            self.train_adversary(seen.detach(), batch)
            terms["batch"] = F.cross_entropy(self.adversary(seen), batch)
        if weights.get("hsic"):
            terms["hsic"] = hsic(latent, batch, self.batches)
        if weights.get("matching"):
            label = self.data.label[position]
            terms["matching"] = mean_matching(latent, batch, self.batches, group=label, groups=self.labels)
        if self.network.of_label is not None:
            terms["label"] = _known_cross_entropy(self.network.of_label(latent), self.data.label[position])
        return terms, {"batch": -ramp, "hsic": ramp, "matching": ramp}

    def train_adversary(self, seen: Tensor, batch: Tensor) -> None:
        """Teach the adversary to guess the batch from what it sees, and leave it fixed."""
        self.adversary.requires_grad_(True)
        for _ in range(self.recipe.adversary_steps):
            guessed = F.cross_entropy(self.adversary(seen), batch)
            self.against.zero_grad()
            guessed.backward()
            self.against.step()
        self.adversary.requires_grad_(False)


class RandomObjective(Objective):
    """The objective of RE: reconstruction, a head that guesses the batch, and the divergence from the prior."""

    def terms(self, position: Tensor, values: Tensor, share: float) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Loss terms of a minibatch, by random effects that are drawn for it or, in the layers, for each cell."""
        batch, shared = self.data.batch[position], self.settings.shared_draw
        shared = self.recipe.shared_draw if shared is None else shared
        tables = self.coder.sample() if shared else None
        latent = self.coder.encode(self.data.inputs(position, values), batch, tables).latent
        error = F.mse_loss(self.coder.decode(latent, batch, tables), values)
        terms = {"reconstruction": error}
        if self.network.of_batch is not None and self.weights["batch"] > 0:
            terms["batch"] = F.cross_entropy(self.network.of_batch(self._for_head(latent)), batch)
        if self.recipe.closed_form:
            divergence = sum(effects.divergence() for effects in self.coder.effects)
            numbers = len(self.data.parts.train) * self.data.source.shape[1]
            terms["divergence"] = 2 * (error.detach() / self.unexplained) * divergence / numbers
        else:
            terms["divergence"] = self.coder.sampled_divergence(tables)
        return terms, {}

    def _for_head(self, latent: Tensor) -> Tensor:
        if not self.recipe.head_noise:
            return latent
        standardised = (latent - latent.mean(0)) / (latent.std(0) + 1e-3)
        return standardised + self.recipe.head_noise * torch.randn_like(standardised)


def _known_cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Mean over the cells whose label is known; 0 if there is none."""
    known = (label >= 0).to(logits.dtype)
    losses = F.cross_entropy(logits, label.clamp(min=0), reduction="none")
    return (losses * known).sum() / known.sum().clamp(min=1)
