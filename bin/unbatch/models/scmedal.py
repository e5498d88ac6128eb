"""scMEDAL: autoencoders whose latent space is free of the batch (fixed effects) or made of it (random effects).

Fixed effects: FE, FEC (with labels); random effects: RE; without batches: AE, AEC (with labels). In two presets:

``paper``
    What the authors' code does, with its weights of the loss terms by the size of the data, so that it can be compared.
``recommended``
    AE and FE start from principal components: ``u = W (x - mean) / s + MLP(x)``, whose MLP starts at 0, and decode with
    the transpose of W and another MLP, whose layers in FE have an intercept for each batch. The batch leaves ``u``
    under two penalties, an independence criterion (HSIC) and an adversary that is trained five steps for each step of
    the encoder; a third one keeps ``u`` near the principal components.
    RE is a variational Bayes fit with the closed-form divergence at its proper weight, whose output starts at the mean
    and spread of the genes.

Expression is scaled by one minimum and maximum, those of the training cells, which the model keeps. All arrays that go
in and out are log-normalised expression, unscaled.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from unbatch.nn.kmeans import kmeans, nearest
from unbatch.nn.layers import classifier, dense, rows
from unbatch.nn.minibatches import Resident, Source
from unbatch.nn.parts import Parts
from unbatch.nn.penalties import hsic, mean_matching
from unbatch.nn.probe import balanced_probe
from unbatch.nn.random_effects import RandomEffects, Reden
from unbatch.nn.training import Plan, train

FIXED = ("ae", "aec", "fe", "fec")
WITH_LABELS = ("aec", "fec")
OF_BATCHES = ("fe", "fec", "re")

_BLOCK = 4096
"""Cells that are worked on at once where nothing is trained."""


@dataclass(frozen=True)
class Settings:
    """How to fit.

    Attributes
    ----------
    model
        ``"ae"``, ``"aec"`` (with labels), ``"fe"``, ``"fec"`` (with labels), ``"re"``.
    preset
        ``"recommended"`` or ``"paper"``, see the module.
    latent, hidden
        Sizes of the latent space and of the two hidden layers.
    epochs, minibatch, learning_rate, patience
        None for those of the preset: 500 epochs of minibatches of 512 cells at a rate of 1e-4, patience 30, as
        published; or, recommended, see `schedule`, at 1e-3.
    weights
        Of loss terms by name, over those of the preset (`loss_weights`). In the preset ``paper`` they multiply the
        terms as they are; recommended, terms are balanced first: the squared error is divided by that of the genes'
        means, cross entropies by that of guessing.
    shared_draw
        RE: whether all cells of a batch share the drawn random effects in a step, as published; recommended is not.
    sd
        RE, recommended: posterior standard deviation of a random effect at the start.
    sd_rate
        RE, recommended: learning rate of the posterior standard deviations, in units of that of all else.
    """

    model: Literal["ae", "aec", "fe", "fec", "re"] = "fe"
    preset: Literal["recommended", "paper"] = "recommended"
    latent: int = 50
    hidden: tuple[int, int] = (512, 132)
    epochs: int | None = None
    minibatch: int | None = None
    learning_rate: float | None = None
    patience: int | None = None
    weights: dict[str, float] = field(default_factory=dict)
    shared_draw: bool | None = None
    sd: float = 0.05
    sd_rate: float = 20.0


PUBLISHED_WEIGHTS: dict[str, dict[str, tuple[float, float, float]]] = {
    "ae": {"reconstruction": (1, 1, 1)},
    "aec": {"reconstruction": (100, 100, 100), "label": (0.6, 0.1, 0.1)},
    "fe": {"reconstruction": (1000, 2000, 600), "batch": (1, 1, 1)},
    "fec": {"reconstruction": (2000, 2000, 2000), "batch": (0.5, 1, 1), "label": (3, 1, 1)},
    "re": {"reconstruction": (110, 110, 110), "batch": (0.1, 0.4, 0.1), "divergence": (1e-5, 1e-5, 1e-5)},
}
"""Weights by model and term of the three published data sets, whose training parts have `PUBLISHED_CELLS` cells (AML,
ASD, healthy heart; supplementary tables S2-S4)."""
PUBLISHED_CELLS = (23_049, 62_735, 291_680)

RECOMMENDED_WEIGHTS: dict[str, dict[str, float]] = {
    "ae": {"reconstruction": 1.0},
    "aec": {"reconstruction": 1.0, "label": 0.1},
    "fe": {"reconstruction": 1.0, "hsic": 1.0, "batch": 0.03, "drift": 0.08, "matching": 0.0},
    "fec": {"reconstruction": 1.0, "hsic": 1.0, "batch": 0.03, "drift": 0.08, "matching": 0.0, "label": 0.1},
    "re": {"reconstruction": 1.0, "batch": 1.0, "divergence": 1.0},
}
"""Weights of balanced terms. ``drift`` is the mean square of what the network adds to principal components, whose mean
variance is 1: without it, one direction grows to twice its size, as no other term minds, and rules all distances.
``matching`` draws batches together within labels and needs these."""

HEAD_NOISE = 1.5
"""Of the standardised embedding of RE on its way to the batch head. Without noise, the head is content as soon as
batches can be told at all."""

RAMP = 0.3
"""Share of the training over which the penalties of the batch rise to their weight."""
PROBED = 0.1
"""What a batch probe that tells all cells counts in the score of an epoch, in units of the variance of the genes."""


def loss_weights(settings: Settings, cells: int) -> dict[str, float]:
    """Weights of the loss terms.

    Parameters
    ----------
    settings
        How to fit.
    cells
        Number of training cells. The published weights were tuned for each of three data sets; those of the one that is
        nearest in the logarithm of this number are taken: up to 38,025 cells AML's, up to 135,272 ASD's, then the
        healthy heart's.

    Raises
    ------
    ValueError
        If a term is unknown or a weight is not a number of 0 or more.
    """
    if settings.preset == "paper":
        nearest = min(range(3), key=lambda i: abs(math.log(max(cells, 1) / PUBLISHED_CELLS[i])))
        known = {term: float(by_size[nearest]) for term, by_size in PUBLISHED_WEIGHTS[settings.model].items()}
    else:
        known = dict(RECOMMENDED_WEIGHTS[settings.model])
    for term, weight in settings.weights.items():
        if term not in known or not (math.isfinite(weight) and weight >= 0):
            raise ValueError(
                f"weight {term}: {weight} of {settings.model}: expected numbers from 0 for {', '.join(known)}"
            )
    return known | settings.weights


def schedule(settings: Settings, cells: int) -> Plan:
    """Choose the number of epochs and the size of minibatches.

    Recommended: minibatches of a power of 2 cells, about 18 in an epoch, but at least 64 cells (256 with the term
    ``matching``) and at most 512, and for large data about 100 in an epoch, at most 4,096 cells; epochs for 460 steps,
    but at least 25. Training ends early after a third of the epochs without a better one (at least 10, at most 30); for
    FE and FEC only epochs count in which the penalties of the batch have their weight for a while (the last 40 %).
    """
    if settings.preset == "paper":
        plan = Plan(epochs=500, size=512, patience=30)
    else:
        wanted = max(min(512, max(64, cells / 18)), min(4096, cells / 100))
        size = 2 ** round(math.log2(wanted))
        epochs = max(25, math.ceil(460 * size / cells))
        if settings.weights.get("matching"):
            # batches are compared within the labels of a minibatch
            size = max(size, 256)
        penalised = settings.model in ("fe", "fec")
        # a patience longer than the training would never end it
        patience = min(30, max(10, (settings.epochs or epochs) // 3))
        plan = Plan(epochs, size, patience, first=2 * RAMP if penalised else 0.0, cosine=True)
    changes = {"epochs": settings.epochs, "size": settings.minibatch, "patience": settings.patience}
    return replace(plan, **{name: value for name, value in changes.items() if value is not None})


# ----------------------------------------------------------------------------------------------------------- networks


class Encoded(NamedTuple):
    """What an encoder gives: the embedding, what an adversary sees of it, and what a network added to a linear one."""

    latent: Tensor
    seen: Tensor
    drift: Tensor | None = None


class Encoder(nn.Module):
    """Two blocks of dense layer, normalisation over the minibatch and SELU, then the latent layer."""

    def __init__(self, genes: int, hidden: tuple[int, int], latent: int, momentum: float) -> None:
        super().__init__()
        sizes = (genes, *hidden, latent)
        self.dense = nn.ModuleList(dense(i, o) for i, o in pairwise(sizes))
        self.norm = nn.ModuleList(nn.BatchNorm1d(n, eps=1e-3, momentum=momentum) for n in hidden)

    def forward(self, values: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the latent layer without its activation, and the activations of the hidden ones."""
        activations = []
        for layer, norm in zip(self.dense[:2], self.norm, strict=True):
            values = F.selu(norm(layer(values)))
            activations.append(values)
        return self.dense[2](values), activations


class TiedAutoencoder(nn.Module):
    """As published: SELU on the latent layer, a decoder of the transposed kernels with biases of its own."""

    def __init__(self, genes: int, hidden: tuple[int, int], latent: int, momentum: float) -> None:
        super().__init__()
        self.encoder = Encoder(genes, hidden, latent, momentum)
        self.bias = nn.ParameterList(torch.zeros(n) for n in (hidden[1], hidden[0], genes))

    def encode(self, values: Tensor, batch: Tensor) -> Encoded:
        """Embed; an adversary sees the activations of all layers."""
        latent, activations = self.encoder(values)
        latent = F.selu(latent)
        return Encoded(latent, torch.cat([*activations, latent], 1))

    def decode(self, latent: Tensor, batch: Tensor) -> Tensor:
        """Decode."""
        kernels = [layer.weight for layer in self.encoder.dense]
        for kernel, bias in zip(kernels[:0:-1], self.bias[:2], strict=True):
            latent = F.selu(F.linear(latent, kernel.T, bias))
        return F.linear(latent, kernels[0].T, self.bias[2])


class SkipAutoencoder(nn.Module):
    """Recommended: principal components plus what a network adds, with an intercept per batch in the decoder's layers.

    Parameters
    ----------
    genes, hidden, latent
        Sizes.
    batches
        Number of batches, K; 0 for a decoder without intercepts.
    """

    def __init__(self, genes: int, hidden: tuple[int, int], latent: int, batches: int) -> None:
        super().__init__()
        self.encoder = Encoder(genes, hidden, latent, momentum=0.1)
        nn.init.zeros_(self.encoder.dense[2].weight)
        sizes = (latent, hidden[1], hidden[0], genes)
        self.decoder = nn.ModuleList(dense(i, o) for i, o in pairwise(sizes))
        nn.init.zeros_(self.decoder[2].weight)
        self.intercepts = nn.ParameterList(torch.zeros(batches, n) for n in sizes[1:]) if batches else None
        self.linear = nn.Parameter(torch.zeros(latent, genes))
        self.shift = nn.Parameter(torch.zeros(latent))
        self.register_buffer("spread", torch.ones(()))

    def start(self, moments: "Moments") -> None:
        """Start as the principal components of the training cells."""
        variance, components = moments.components(len(self.linear))
        spread = variance.clamp(min=0).mean().sqrt().clamp(min=1e-6)
        with torch.no_grad():
            self.spread.copy_(spread)
            self.linear.copy_(components.T / spread)
            self.shift.copy_(-(components.T @ moments.mean) / spread)
            self.decoder[2].bias.copy_(moments.mean)

    def encode(self, values: Tensor, batch: Tensor) -> Encoded:
        """Embed."""
        drift, _ = self.encoder(values)
        latent = drift + F.linear(values, self.linear, self.shift)
        return Encoded(latent, latent, drift)

    def decode(self, latent: Tensor, batch: Tensor) -> Tensor:
        """Decode."""
        values = latent
        for number, layer in enumerate(self.decoder):
            values = layer(values)
            if self.intercepts is not None:
                table = self.intercepts[number]
                # of mean 0, so that a batch that is not known, whose row is 0, is the average of all
                values = values + rows(table - table.mean(0), batch)
            if number < 2:
                values = F.selu(values)
        return values + F.linear(latent, self.linear.T * self.spread.square())


class RandomAutoencoder(nn.Module):
    """RE: random effects of the batch in all layers but the latent one.

    Parameters
    ----------
    inputs, genes, hidden, latent
        Sizes.
    batches
        Number of batches.
    encoder_batches
        The same for the encoder; 0 for one that is not told the batch.
    published
        Whether to start and normalise as the authors' code does.
    sd
        Posterior standard deviation at the start.
    """

    def __init__(
        self,
        inputs: int,
        genes: int,
        hidden: tuple[int, int],
        latent: int,
        batches: int,
        encoder_batches: int,
        *,
        published: bool,
        sd: float,
    ) -> None:
        super().__init__()
        usual: dict[str, Any] = {"momentum": 0.01, "sd": None} if published else {"sd": sd}
        self.encoder = nn.ModuleList(
            [
                Reden(inputs, hidden[0], encoder_batches, **usual),
                Reden(hidden[0], hidden[1], encoder_batches, **usual),
            ]
        )
        self.latent = dense(hidden[1], latent)
        self.decoder = nn.ModuleList(
            [
                Reden(latent, hidden[1], batches, **usual),
                Reden(hidden[1], hidden[0], batches, **usual),
                Reden(hidden[0], genes, batches, activation=False, scaled=not published, **usual),
            ]
        )

    def start(self, moments: "Moments") -> None:
        """Start the output at mean and spread of the genes, where Adam would need 10,000 steps to get."""
        norm = self.decoder[2].norm
        with torch.no_grad():
            norm.bias.copy_(moments.mean)
            norm.weight.copy_(0.4 * (moments.variance.sqrt() + 1e-3))

    @property
    def effects(self) -> list[RandomEffects]:
        """The random effects of all blocks, those of the encoder first."""
        return [block.effects for block in (*self.encoder, *self.decoder) if block.effects is not None]

    def sample(self) -> list[Tensor]:
        """Draw the tables of all blocks."""
        return [effects.sample() for effects in self.effects]

    def encode(self, values: Tensor, batch: Tensor, tables: list[Tensor] | None = None) -> Encoded:
        """Embed; `tables` are draws of all blocks, None takes the posterior means."""
        for number, block in enumerate(self.encoder):
            values = block(values, batch, tables[number] if tables and block.effects is not None else None)
        latent = F.selu(self.latent(values))
        return Encoded(latent, latent)

    def decode(self, latent: Tensor, batch: Tensor, tables: list[Tensor] | None = None) -> Tensor:
        """Decode."""
        for number, block in enumerate(self.decoder):
            latent = block(latent, batch, tables[number - 3] if tables else None)
        return latent


class Network(nn.Module):
    """An autoencoder, its heads, and the constants of its data."""

    def __init__(self, settings: Settings, genes: int, batches: int, labels: int, inputs: int | None = None) -> None:
        super().__init__()
        self.settings = settings
        published, hidden, latent = settings.preset == "paper", settings.hidden, settings.latent
        model = settings.model
        adversarial = model in ("fe", "fec")
        if model == "re":
            self.coder: nn.Module = RandomAutoencoder(
                inputs or genes,
                genes,
                hidden,
                latent,
                batches,
                0 if inputs else batches,
                published=published,
                sd=settings.sd,
            )
        elif published:
            # the authors' encoder runs twice in a step of FE, which updates its moving statistics twice
            self.coder = TiedAutoencoder(genes, hidden, latent, 1 - 0.99**2 if adversarial else 0.01)
        else:
            self.coder = SkipAutoencoder(genes, hidden, latent, batches if adversarial else 0)
        self.of_label = self.of_batch = self.adversary = None
        if model in WITH_LABELS:
            self.of_label = classifier((latent, 2 if published else 32, labels))
        if adversarial and published:
            self.adversary = classifier((sum(hidden) + latent, *hidden, batches))
        elif adversarial:
            self.adversary = classifier((latent, 128, batches), normalised=True)
        elif model == "re" and inputs is None:
            self.of_batch = classifier((latent, 5 if published else 32, batches))
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("range", torch.ones(()))

    def scaled(self, expression: Tensor) -> Tensor:
        """Bring expression to the range that training cells have as 0 to 1."""
        return (expression - self.low) / self.range

    def unscaled(self, values: Tensor) -> Tensor:
        """Bring it back."""
        return values * self.range + self.low


def parameters(network: nn.Module) -> int:
    """Count the trainable numbers."""
    return sum(parameter.numel() for parameter in network.parameters())


# ------------------------------------------------------------------------------------------------------------ the data


@dataclass(frozen=True)
class Moments:
    """Of the training cells, scaled: minimum and maximum (unscaled), mean (g), covariance (g x g); float64."""

    low: float
    high: float
    mean: Tensor
    covariance: Tensor

    @property
    def variance(self) -> Tensor:
        """Of each gene, g."""
        return self.covariance.diagonal().clamp(min=0)

    @property
    def unexplained(self) -> float:
        """Mean squared error of the genes' means."""
        return float(self.variance.mean())

    def components(self, rank: int) -> tuple[Tensor, Tensor]:
        """Variances (rank) and principal components (g x rank)."""
        if len(self.mean) <= 1000:
            values, vectors = torch.linalg.eigh(self.covariance)
            return values[-rank:].flip(0), vectors[:, -rank:].flip(1)
        vectors, values, _ = torch.svd_lowrank(self.covariance, min(rank + 20, len(self.mean)), niter=6)
        return values[:rank], vectors[:, :rank]


def moments(source: Source, cells: np.ndarray) -> Moments:
    """Go through the training cells once."""
    genes = source.shape[1]
    total = torch.zeros(genes, dtype=torch.float64, device=source.device)
    gram = torch.zeros(genes, genes, dtype=torch.float64, device=source.device)
    low = torch.full((), math.inf, device=source.device)
    high = -low
    for _, values in source.minibatches(cells, _BLOCK):
        total += values.sum(0, dtype=torch.float64)
        gram += (values.T @ values).double()
        low, high = torch.minimum(low, values.min()), torch.maximum(high, values.max())
    least, most = float(low), float(high)
    if not (math.isfinite(least) and math.isfinite(most) and most > least):
        raise ValueError(
            f"expression of the training cells is from {least} to {most}, expected finite numbers that differ"
        )
    mean = total / len(cells)
    covariance = (gram / len(cells) - mean[:, None] * mean) / (most - least) ** 2
    return Moments(least, most, (mean - least) / (most - least), covariance)


# ---------------------------------------------------------------------------------------------------------- the model


@dataclass
class Model:
    """A fitted autoencoder.

    Attributes
    ----------
    settings
        How it was fitted.
    genes, batches, labels
        Sizes; `labels` is 0 for models without.
    network
        In evaluation mode, on the device where it was fitted.
    """

    settings: Settings
    genes: int
    batches: int
    labels: int
    network: Network

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
        return np.concatenate([u.cpu().numpy() for u, _, _ in self._embedded(cells, batch)])

    def reconstruct(self, cells: Any, batch: np.ndarray) -> Iterator[np.ndarray]:
        """Yield reconstructions, a block of cells after the other; see `embed`."""
        for latent, code, _ in self._embedded(cells, batch):
            with torch.no_grad():
                yield self.network.unscaled(self.network.coder.decode(latent, code)).cpu().numpy()

    def _embedded(self, cells: Any, batch: np.ndarray) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        source = _source(cells, self.device)
        code = _codes(batch, source, self.batches)
        for position, values in source.minibatches(np.arange(source.shape[0]), _BLOCK):
            with torch.no_grad():
                scaled = self.network.scaled(values)
                yield self.network.coder.encode(scaled, code[position]).latent, code[position], scaled

    def weights(self) -> dict[str, np.ndarray]:
        """Everything that `from_weights` needs beside `config`."""
        return {name: value.cpu().numpy() for name, value in self.network.state_dict().items()}

    def config(self) -> dict[str, Any]:
        """Give settings and sizes, as JSON takes them."""
        return {
            "settings": asdict(self.settings),
            "genes": self.genes,
            "batches": self.batches,
            "labels": self.labels,
        }

    @classmethod
    def from_weights(cls, config: dict[str, Any], weights: dict[str, np.ndarray], device: str = "cpu") -> "Model":
        """Make a model of what `config` and `weights` gave.

        Raises
        ------
        ValueError
            If they do not belong together.
        """
        settings = _settings_of(config["settings"])
        sizes = {name: int(config[name]) for name in ("genes", "batches", "labels")}
        network = Network(settings, **sizes)
        _load(network, weights)
        return cls(settings, **sizes, network=network.to(device).eval())


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
        Of the loss terms.
    """

    model: Model
    history: dict[str, list[float]]
    best_epoch: int
    plan: Plan
    weights: dict[str, float]


def missing_batches(batch: np.ndarray, parts: Parts) -> list[int]:
    """Codes of batches that have cells, but none in the training part; -1, a batch held out, is none of them."""
    known = np.unique(batch[batch >= 0])
    return sorted(set(known.tolist()) - set(batch[parts.train].tolist()))


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
        Of all random numbers.
    tell
        Called with a line of progress now and then.

    Raises
    ------
    ValueError
        If a batch has no training cells, there are labels or batches too few, or the latent space is too large.
    Diverged
        If a loss term is not finite; it has the weights of the best epoch.
    """
    _check(source, batch, parts, settings, label)
    batches = int(batch.max()) + 1
    labels = 0 if label is None or not _uses_labels(settings) else int(label.max()) + 1
    with torch.random.fork_rng(devices=[source.device] if source.device.type == "cuda" else []):
        torch.manual_seed(seed)
        of_data = moments(source, parts.train)
        network = Network(settings, source.shape[1], batches, labels)
        if settings.preset == "recommended":
            network.coder.start(of_data)
        network.low.fill_(of_data.low)
        network.range.fill_(of_data.high - of_data.low)
        network.to(source.device)
        trained = _Training(network, source, batch, label, labels, parts, settings, of_data)
        make = trained.random_step if settings.model == "re" else trained.fixed_step
        step, optimiser = make()
        plan = schedule(settings, len(parts.train))
        history = train(
            network,
            source,
            parts.train,
            step,
            trained.judge,
            plan,
            optimisers=(optimiser,),
            rng=np.random.default_rng(seed),
            tell=tell,
        )
    model = Model(settings, source.shape[1], batches, labels, network)
    return Fitted(model, history.terms, history.best, plan, trained.weights)


class _Training:
    """What steps and judge of a fit share."""

    def __init__(
        self,
        network: Network,
        source: Source,
        batch: np.ndarray,
        label: np.ndarray | None,
        labels: int,
        parts: Parts,
        settings: Settings,
        of_data: Moments,
        embedding: Tensor | None = None,
    ) -> None:
        self.network, self.source, self.parts, self.settings = network, source, parts, settings
        self.device = source.device
        self.batch = torch.as_tensor(batch.astype(np.int64), device=self.device)
        self.label = None if label is None else torch.as_tensor(label.astype(np.int64), device=self.device)
        self.batches, self.labels = int(batch.max()) + 1, labels
        self.embedding = embedding
        self.weights = loss_weights(settings, len(parts.train))
        self.balanced = settings.preset == "recommended"
        self.rate = settings.learning_rate or (1e-3 if self.balanced else 1e-4)
        self.unexplained = of_data.unexplained

    def inputs(self, position: Tensor, scaled: Tensor) -> Tensor:
        """Give what is encoded: the expression, or the embedding of another model."""
        return scaled if self.embedding is None else self.embedding[position]

    def optimiser(self, groups: list[dict[str, Any]], rate: float) -> torch.optim.Adam:
        # Keras's epsilon where Keras is compared with
        return torch.optim.Adam(groups, lr=rate, eps=1e-8 if self.balanced else 1e-7, fused=self.device.type == "cuda")

    def balance(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """Divide terms by what a model that knows nothing has, so that weights are free of units."""
        unit = {
            "reconstruction": self.unexplained,
            "batch": math.log(max(self.batches, 2)),
            "label": math.log(max(self.labels, 2)),
        }
        return {name: value / unit.get(name, 1.0) for name, value in terms.items()} if self.balanced else terms

    def fixed_step(self) -> tuple[Callable[..., dict[str, Tensor]], torch.optim.Optimizer]:
        """Make the step of AE, AEC, FE, FEC: the adversary first, then all else, on one pass of the encoder."""
        network, coder, adversary, weights = self.network, self.network.coder, self.network.adversary, self.weights
        others = {name: each for name, each in network.named_parameters() if not name.startswith("adversary.")}
        if self.balanced:
            slow = {name for name in others if name in ("coder.linear", "coder.shift")}
            special = self.rate / 10
        else:
            # the published list of variables of FE holds the tied kernels and their biases twice: two steps of them
            slow = {name for name in others if adversary is not None and name.startswith("coder.encoder.dense.")}
            special = self.rate * 2
        groups = [{"params": [each for name, each in others.items() if name not in slow]}]
        if slow:
            groups.append({"params": [others[name] for name in slow], "lr": special})
        optimiser = self.optimiser(groups, self.rate)
        against, repeats = None, 0
        if adversary is not None and weights["batch"] > 0:
            repeats = 5 if self.balanced else 1
            against = self.optimiser([{"params": list(adversary.parameters())}], 2e-3 if self.balanced else self.rate)

        def step(position: Tensor, expression: Tensor, share: float) -> dict[str, Tensor]:
            batch = self.batch[position]
            values = network.scaled(expression)
            ramp = min(1.0, share / RAMP) if self.balanced else 1.0
            latent, seen, drift = coder.encode(values, batch)
            terms = {"reconstruction": F.mse_loss(coder.decode(latent, batch), values)}
            signs = {}
            if weights.get("drift"):
                terms["drift"] = drift.square().mean()
            if against is not None:
                fixed = seen.detach()
                adversary.requires_grad_(True)
                for _ in range(repeats):
                    guessed = F.cross_entropy(adversary(fixed), batch)
                    against.zero_grad()
                    guessed.backward()
                    against.step()
                adversary.requires_grad_(False)
                terms["batch"] = F.cross_entropy(adversary(seen), batch)
                signs["batch"] = -ramp
            if weights.get("hsic"):
                terms["hsic"], signs["hsic"] = hsic(latent, batch, self.batches), ramp
            if weights.get("matching"):
                terms["matching"] = mean_matching(latent, batch, self.batches, self.label[position], self.labels)
                signs["matching"] = ramp
            if network.of_label is not None:
                terms["label"] = _known_cross_entropy(network.of_label(latent), self.label[position])
            terms = self.balance(terms)
            total = sum(weights[name] * signs.get(name, 1.0) * value for name, value in terms.items())
            optimiser.zero_grad()
            total.backward()
            optimiser.step()
            return terms | {"total": total}

        return step, optimiser

    def random_step(self) -> tuple[Callable[..., dict[str, Tensor]], torch.optim.Optimizer]:
        """Make the step of RE: one optimiser, no adversary; the divergence weighs what the evidence bound says.

        With a residual variance equal to the squared error, the bound is, in units of half the cells times the genes
        over that error, ``MSE + 2 MSE KL / (cells x genes)``.
        """
        network, coder, weights = self.network, self.network.coder, self.weights
        shared = not self.balanced if self.settings.shared_draw is None else self.settings.shared_draw
        deviations = [effects.rho for effects in coder.effects]
        chosen = {id(each) for each in deviations}
        groups = [{"params": [each for each in network.parameters() if id(each) not in chosen]}]
        fast = self.settings.sd_rate if self.balanced else 1.0
        groups.append({"params": deviations, "lr": self.rate * fast})
        optimiser = self.optimiser(groups, self.rate)
        values_in_all = len(self.parts.train) * self.source.shape[1]
        in_encoder = sum(block.effects is not None for block in coder.encoder)

        def step(position: Tensor, expression: Tensor, share: float) -> dict[str, Tensor]:
            batch = self.batch[position]
            values = network.scaled(expression)
            tables = coder.sample() if shared else None
            drawn = [None] * in_encoder + [None] * 3 if tables is None else tables
            latent = coder.encode(self.inputs(position, values), batch, tables).latent
            error = F.mse_loss(coder.decode(latent, batch, tables), values)
            terms = {"reconstruction": error}
            if network.of_batch is not None and weights["batch"] > 0:
                seen = latent
                if self.balanced:
                    seen = (latent - latent.mean(0)) / (latent.std(0) + 1e-3)
                    seen = seen + HEAD_NOISE * torch.randn_like(seen)
                terms["batch"] = F.cross_entropy(network.of_batch(seen), batch)
            if self.balanced:
                divergence = sum(effects.divergence() for effects in coder.effects)
                terms["divergence"] = 2 * (error.detach() / self.unexplained) * divergence / values_in_all
            else:
                each = [x.sampled_divergence(table) for x, table in zip(coder.effects, drawn, strict=True)]
                parts = torch.stack([torch.stack(pair) for pair in each])
                terms["divergence"] = parts[:in_encoder].mean() + parts[in_encoder:].mean()
            terms = self.balance(terms)
            total = sum(weights[name] * value for name, value in terms.items())
            optimiser.zero_grad()
            total.backward()
            optimiser.step()
            return terms | {"total": total}

        return step, optimiser

    def judge(self, counts: bool) -> tuple[float, dict[str, float]]:
        """Score on validation cells: their squared error, and for FE and FEC what a fresh probe tells of the batch.

        In an epoch that cannot be kept (`counts` is False) the probe is left out: a fifth of the time on few cells.
        """
        error, latents, position = self._validation()
        found = {"validation_reconstruction": error / (self.unexplained if self.balanced else 1.0)}
        score = found["validation_reconstruction"]
        if self.balanced and self.settings.model in ("fe", "fec"):
            chance = 1 / self.batches
            if not counts:
                return score, found | {"batch_probe": math.nan}
            told = balanced_probe(latents, self.batch[position], self.batches)
            found["batch_probe"] = told
            score += PROBED * max(0.0, (told - chance) / (1 - chance))
        return score, found

    def _validation(self) -> tuple[float, Tensor, Tensor]:
        network, coder = self.network, self.network.coder
        total, latents, positions = 0.0, [], []
        for position, expression in self.source.minibatches(self.parts.validation, _BLOCK):
            batch, values = self.batch[position], network.scaled(expression)
            latent = coder.encode(self.inputs(position, values), batch).latent
            total = total + (coder.decode(latent, batch) - values).square().sum(dtype=torch.float64)
            latents.append(latent)
            positions.append(position)
        error = float(total) / (len(self.parts.validation) * self.source.shape[1])
        return error, torch.cat(latents), torch.cat(positions)


def _known_cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Mean over the cells whose label is known; 0 if there is none."""
    known = (label >= 0).to(logits.dtype)
    losses = F.cross_entropy(logits, label.clamp(min=0), reduction="none")
    return (losses * known).sum() / known.sum().clamp(min=1)


def _uses_labels(settings: Settings) -> bool:
    return settings.model in WITH_LABELS or settings.weights.get("matching", 0) > 0


def _check(source: Source, batch: np.ndarray, parts: Parts, settings: Settings, label: np.ndarray | None) -> None:
    for name, codes in (("batch", batch), ("label", label)):
        if codes is not None and codes.shape != (source.shape[0],):
            raise ValueError(f"{name} has shape {codes.shape}, expected a code for each of {source.shape[0]} cells")
    if len(parts.train) < 4 or not len(parts.validation):
        raise ValueError(
            f"{len(parts.train)} cells to train on and {len(parts.validation)} to validate, expected 4 and 1 or more"
        )
    if settings.model in OF_BATCHES:
        if batch.max() < 1:
            raise ValueError(f"{settings.model} needs two batches or more")
        if (batch[parts.train] < 0).any():
            raise ValueError("the training part has cells of a batch that is held out (code -1)")
        missing = missing_batches(batch, parts)
        if missing:
            raise ValueError(
                f"batch {missing[0]} has no cells in the training part; it must have some, or be held out (code -1)"
            )
    if _uses_labels(settings) and (label is None or len(np.unique(label[parts.train][label[parts.train] >= 0])) < 2):
        raise ValueError(f"{settings.model} needs labels, two or more among the training cells")
    least = min(source.shape[1], len(parts.train))
    if settings.preset == "recommended" and settings.latent > least:
        raise ValueError(
            f"latent space of {settings.latent}: there are {least} genes or training cells, expected at most that"
        )


def _source(cells: Any, device: torch.device) -> Source:
    return cells if isinstance(cells, Source) else Resident(cells, device)


def _codes(batch: np.ndarray, source: Source, batches: int) -> Tensor:
    code = np.asarray(batch).astype(np.int64)
    if code.shape != (source.shape[0],) or code.max(initial=-1) >= batches or code.min(initial=0) < -1:
        raise ValueError(
            f"batch: expected a code of -1 to {batches - 1} for each of {source.shape[0]} cells, found "
            f"{code.min(initial=0)} to {code.max(initial=-1)} for {len(code)}"
        )
    return torch.as_tensor(code, device=source.device)


def _settings_of(values: dict[str, Any]) -> Settings:
    return Settings(**values | {"hidden": tuple(values["hidden"])})


def part_of(name: str, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays of one part of a model, those named ``name.*``, by the rest of their names."""
    return {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}


def _load(network: nn.Module, weights: dict[str, np.ndarray]) -> None:
    try:
        network.load_state_dict({name: torch.as_tensor(np.array(value)) for name, value in weights.items()})
    except RuntimeError as error:
        raise ValueError(f"weights do not fit the model: {' '.join(str(error).split())[:300]}") from error


# ---------------------------------------------------------------------------------------------------- counterfactuals


class Counterfactual(NamedTuple):
    """Some cells as if from another batch; all m x G.

    Attributes
    ----------
    expression
        Expected expression.
    shift
        The same less the reconstruction of the cells in their own batch.
    sd
        Standard error of the shift; 0 where a cell is left in its own batch. Shift and its error are as good as
        normally distributed.
    """

    expression: np.ndarray
    shift: np.ndarray
    sd: np.ndarray


def shift_of_random_effects(
    model: Model,
    cells: Any,
    batch: np.ndarray,
    target: int,
    *,
    way: Literal["published", "decoder"] = "published",
    samples: int = 0,
    seed: int = 0,
) -> Iterator[Counterfactual]:
    """Yield cells as RE has them in another batch, a block after the other.

    Parameters
    ----------
    model
        A fitted RE.
    cells, batch
        Expression and own batches of the cells; see `Model.embed`.
    target
        Code of the other batch, or -1 for the average of all.
    way
        ``"published"``: the batch is changed in the encoder and the decoder, as in the authors' code; ``"decoder"``: in
        the decoder only, as in their text.
    samples
        Draws of the posterior for the standard errors; 0 leaves these at NaN.
    seed
        Of the draws.
    """
    _check_target(target, model.batches)
    coder = model.network.coder
    tables = _draws(coder, samples, seed)

    def ways(values: Tensor, own: Tensor, other: Tensor, table: list[Tensor] | None) -> tuple[Tensor, Tensor]:
        latent = coder.encode(values, own, table).latent
        moved = coder.encode(values, other, table).latent if way == "published" else latent
        return coder.decode(moved, other, table), coder.decode(latent, own, table)

    source = _source(cells, model.device)
    for own, values in _own(source, batch, model):
        yield _shifted(model.network, ways, values, own, target, tables, None)


@dataclass
class Projection:
    """An embedding free of the batch, decoded with random effects of the batch.

    Attributes
    ----------
    fixed
        The model of the embedding, FE or FEC.
    network
        Decoder of the standardised embedding.
    centre, spread
        Mean of the embedding over the training cells, L, and root mean square of its standard deviations, 1.
    misfit
        Variance of what reconstructions of a batch miss of the means of groups of its cells, G, scaled. It is
        added to the error that the posterior tells, which is too small, as that of factorised posteriors is.
    reference
        Embedding of some training cells of each batch, K x r x L; None where labels matched the batches. Without
        labels, the embedding may have cells of one type in other places for another batch, where each batch has its
        own: what lies between a cell and the nearest cells of the other batch is counted as not known.
    """

    fixed: Model
    network: Network
    centre: Tensor
    spread: Tensor
    misfit: Tensor
    reference: Tensor | None = None

    def reconstruct(self, cells: Any, batch: np.ndarray) -> Iterator[np.ndarray]:
        """Yield reconstructions in the cells' own batches, a block after the other."""
        source = _source(cells, self.fixed.device)
        for own, values in _own(source, batch, self.fixed):
            with torch.no_grad():
                yield self.network.unscaled(self._decoded(self._embedded(values, own), own, None)).cpu().numpy()

    def counterfactual(
        self, cells: Any, batch: np.ndarray, target: int, *, samples: int = 30, seed: int = 0
    ) -> Iterator[Counterfactual]:
        """Yield cells as if from another batch; see `shift_of_random_effects`."""
        _check_target(target, self.fixed.batches)
        tables = _draws(self.network.coder, samples, seed)

        def ways(values: Tensor, own: Tensor, other: Tensor, table: list[Tensor] | None) -> tuple[Tensor, Tensor]:
            latent = self._embedded(values, own)
            return self._decoded(latent, other, table), self._decoded(latent, own, table)

        source = _source(cells, self.fixed.device)
        for own, values in _own(source, batch, self.fixed):
            yield _shifted(self.network, ways, values, own, target, tables, self)

    def weights(self) -> dict[str, np.ndarray]:
        """Everything that `from_weights` needs beside `config`."""
        found = {f"fixed.{name}": value for name, value in self.fixed.weights().items()}
        found |= {f"decoder.{name}": value.cpu().numpy() for name, value in self.network.state_dict().items()}
        own = {"centre": self.centre, "spread": self.spread, "misfit": self.misfit, "reference": self.reference}
        return found | {name: value.cpu().numpy() for name, value in own.items() if value is not None}

    def config(self) -> dict[str, Any]:
        """Give settings and sizes, as JSON takes them."""
        return {"fixed": self.fixed.config(), "decoder": asdict(self.network.settings)}

    @classmethod
    def from_weights(cls, config: dict[str, Any], weights: dict[str, np.ndarray], device: str = "cpu") -> "Projection":
        """Make a projection of what `config` and `weights` gave.

        Raises
        ------
        ValueError
            If they do not belong together.
        """
        fixed = Model.from_weights(config["fixed"], part_of("fixed", weights), device)
        latent = fixed.settings.latent
        network = Network(_settings_of(config["decoder"]), fixed.genes, fixed.batches, 0, inputs=latent)
        _load(network, part_of("decoder", weights))
        shapes = {"centre": (latent,), "spread": (1,), "misfit": (fixed.genes,)}
        if "reference" in weights:
            shapes["reference"] = (fixed.batches, REFERENCE, latent)
        for name, shape in shapes.items():
            found = weights[name].shape if name in weights else "missing"
            if found != shape:
                raise ValueError(f"{name} of the projection: expected shape {shape}, found {found}")
        own = {name: torch.as_tensor(np.array(weights[name]), device=device) for name in shapes}
        return cls(fixed, network.to(device).eval(), **own)

    def _beside(self, values: Tensor, own: Tensor, target: int) -> Tensor:
        """Square of what lies between cells and the nearest ones of the other batch, m x G."""
        if self.reference is None or target < 0:
            return torch.zeros_like(values)
        latent = self._embedded(values, own)
        others = self.reference[target]
        near = others[torch.cdist(latent, others).topk(NEAREST, largest=False).indices].mean(1)
        other = torch.full_like(own, target)
        return (self._decoded(near, other, None) - self._decoded(latent, other, None)).square()

    def _embedded(self, values: Tensor, batch: Tensor) -> Tensor:
        return (self.fixed.network.coder.encode(values, batch).latent - self.centre) / self.spread

    def _decoded(self, latent: Tensor, batch: Tensor, tables: list[Tensor] | None) -> Tensor:
        coder = self.network.coder
        return coder.decode(coder.encode(latent, batch).latent, batch, tables)


DIMENSIONS = 20
"""Of the embedding to decode, at most. More of them carry the noise of single cells, which the decoder then takes for
a reason to shift cells differently."""

DECODER_RATE = 3e-3
"""Learning rate of the decoder of a projection, a small network."""

REFERENCE, NEAREST = 500, 10
"""Cells of each batch that a projection without labels keeps, and how many of them are near."""

LATENT_OF_PROJECTION = {"hsic": 0.3, "matching": 3.0, "batch": 0.0}
"""Weights of the embedding to decode where there are labels: batches then meet within each of them."""


def fit_projection(
    source: Source,
    batch: np.ndarray,
    parts: Parts,
    settings: Settings,
    *,
    label: np.ndarray | None = None,
    seed: int = 0,
    tell: Callable[[str], None] = lambda text: None,
) -> tuple[Projection, dict[str, list[float]]]:
    """Fit what the default counterfactual needs: a batch-free embedding, and a decoder with random effects.

    Parameters
    ----------
    source, batch, parts, label, seed, tell
        See `fit`; with labels, the embedding matches batches within them.
    settings
        Of both; `Settings.weights` are those of the embedding, which has `DIMENSIONS` at most.

    Returns
    -------
    tuple
        The projection, and the history of its decoder.
    """
    matched = {} if label is None else LATENT_OF_PROJECTION
    settings = replace(settings, latent=min(settings.latent, DIMENSIONS))
    fixed = fit(
        source,
        batch,
        parts,
        replace(settings, model="fe", preset="recommended", weights=matched | settings.weights),
        label=label,
        seed=seed,
        tell=tell,
    ).model
    code = torch.as_tensor(batch.astype(np.int64), device=source.device)
    embedding = torch.as_tensor(fixed.embed(source, batch), device=source.device)
    centre = embedding[parts.train].mean(0)
    # one for all dimensions: each in its own units, those of noise would count as much as those of types
    spread = embedding[parts.train].std(0).square().mean(0, keepdim=True).sqrt() + 1e-6
    embedding = (embedding - centre) / spread
    of_decoder = replace(settings, model="re", preset="recommended", weights={"batch": 0.0}, learning_rate=DECODER_RATE)
    with torch.random.fork_rng(devices=[source.device] if source.device.type == "cuda" else []):
        torch.manual_seed(seed)
        of_data = moments(source, parts.train)
        network = Network(of_decoder, source.shape[1], fixed.batches, 0, inputs=settings.latent)
        network.coder.start(of_data)
        network.low.copy_(fixed.network.low)
        network.range.copy_(fixed.network.range)
        network.to(source.device)
        trained = _Training(network, source, batch, None, 0, parts, of_decoder, of_data, embedding)
        step, optimiser = trained.random_step()
        history = train(
            network,
            source,
            parts.train,
            step,
            trained.judge,
            schedule(of_decoder, len(parts.train)),
            optimisers=(optimiser,),
            rng=np.random.default_rng(seed),
            tell=tell,
        )
    nothing = torch.zeros(source.shape[1], device=source.device)
    projection = Projection(fixed, network, centre, spread, nothing)
    projection.misfit = _misfit(projection, source, code, embedding, parts.validation, label)
    if label is None:
        projection.reference = _reference(embedding, batch, parts.train, seed)
    return projection, history.terms


def _misfit(
    projection: Projection,
    source: Source,
    batch: Tensor,
    embedding: Tensor,
    cells: np.ndarray,
    label: np.ndarray | None,
    least: int = 10,
) -> Tensor:
    """Variance of mean residuals of groups of validation cells of one batch, beyond that of a mean of so many cells.

    Groups are labels or, without these, clusters of the embedding.
    """
    if label is None:
        number = max(2, min(10, len(cells) // (5 * least * projection.fixed.batches)))
        generator = torch.Generator().manual_seed(0)
        group = torch.zeros(len(batch), dtype=torch.long, device=source.device)
        group[cells] = nearest(embedding[cells], kmeans(embedding[cells], number, generator))
    else:
        group = torch.as_tensor(label.astype(np.int64), device=source.device)
    batches, groups = projection.fixed.batches, int(group.max()) + 1
    genes = source.shape[1]
    total = torch.zeros(groups * batches, genes, dtype=torch.float64, device=source.device)
    squares, size = torch.zeros_like(total), torch.zeros(groups * batches, 1, dtype=torch.float64, device=source.device)
    network = projection.network
    for position, expression in source.minibatches(cells, _BLOCK):
        with torch.no_grad():
            left = network.scaled(expression) - projection._decoded(embedding[position], batch[position], None)
        known = (group[position] >= 0) & (batch[position] >= 0)
        both, left = (group[position] * batches + batch[position])[known], left[known].double()
        total.index_add_(0, both, left)
        squares.index_add_(0, both, left.square())
        size.index_add_(0, both, torch.ones(len(both), 1, dtype=torch.float64, device=source.device))
    enough = size[:, 0] >= least
    if not enough.any():
        return torch.zeros(genes, device=source.device)
    mean, of = total[enough] / size[enough], size[enough]
    by_chance = (squares[enough] / of - mean.square()) / (of - 1)
    excess = (mean.square() - by_chance).mean(0)
    # of few groups: half of what all genes have together
    return ((excess.clamp(min=0) + excess.mean().clamp(min=0)) / 2).float()


def _reference(embedding: Tensor, batch: np.ndarray, cells: np.ndarray, seed: int) -> Tensor:
    """Embedding of some cells of each batch, K x r x L."""
    rng = np.random.default_rng(seed)
    drawn = [rng.choice(cells[batch[cells] == code], REFERENCE) for code in range(int(batch.max()) + 1)]
    return embedding[torch.as_tensor(np.stack(drawn), device=embedding.device)]


def _draws(coder: RandomAutoencoder, samples: int, seed: int) -> list[list[Tensor]]:
    with torch.random.fork_rng(devices=[0] if next(coder.parameters()).is_cuda else []), torch.no_grad():
        torch.manual_seed(seed)
        return [coder.sample() for _ in range(samples)]


def _own(source: Source, batch: np.ndarray, model: Model) -> Iterator[tuple[Tensor, Tensor]]:
    code = _codes(batch, source, model.batches)
    for position, expression in source.minibatches(np.arange(source.shape[0]), _BLOCK):
        yield code[position], model.network.scaled(expression)


def _shifted(
    network: Network,
    ways: Callable[..., tuple[Tensor, Tensor]],
    values: Tensor,
    own: Tensor,
    target: int,
    tables: list[list[Tensor]],
    projection: "Projection | None",
) -> Counterfactual:
    with torch.no_grad():
        other = torch.full_like(own, target)
        moved, stayed = ways(values, own, other, None)
        if tables:
            squares = torch.zeros_like(moved)
            for table in tables:
                there, here = ways(values, own, other, table)
                # around the shift of the posterior means: the draws' own mean is as noisy as there are few of them
                squares += (there - here - (moved - stayed)).square()
            variance = squares / len(tables)
            if projection is not None:
                # the misfit is of the own batch and of the other one
                variance = variance + 2 * projection.misfit + projection._beside(values, own, target)
                variance = variance * (own != target)[:, None]
            sd = variance.sqrt()
        else:
            sd = torch.full_like(moved, math.nan)
        return Counterfactual(
            network.unscaled(moved).cpu().numpy(),
            ((moved - stayed) * network.range).cpu().numpy(),
            (sd * network.range).cpu().numpy(),
        )


def _check_target(target: int, batches: int) -> None:
    if not -1 <= target < batches:
        raise ValueError(f"counterfactual batch {target}: expected one of 0 to {batches - 1}, or -1 for their average")
