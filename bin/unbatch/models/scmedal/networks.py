"""The networks: encoders and decoders with or without the batch, and the heads that guess batch and label."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from unbatch.models.scmedal.data import Moments
from unbatch.models.scmedal.random_effects import RandomEffects, Reden
from unbatch.models.scmedal.recipes import ADVERSARIAL, WITH_LABELS, Settings
from unbatch.nn.layers import dense, perceptron, rows


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
    """As published: SELU on the latent layer, a decoder of the transposed kernels with biases of its own.

    Parameters
    ----------
    genes, hidden, latent
        Sizes.
    momentum
        Momentum of the moving statistics.
    adversarial
        Whether it is trained against an adversary.
    """

    def __init__(self, genes: int, hidden: tuple[int, int], latent: int, *, momentum: float, adversarial: bool) -> None:
        super().__init__()
        # the authors' encoder runs twice in a step of FE, which updates its moving statistics twice
        momentum = 1 - (1 - momentum) ** 2 if adversarial else momentum
        self.encoder = Encoder(genes, hidden, latent, momentum)
        self.bias = nn.ParameterList(torch.zeros(n) for n in (hidden[1], hidden[0], genes))
        self.adversarial = adversarial
        self.seen = sum(hidden) + latent

    def own_rates(self, rate: float) -> dict[str, float]:
        """Learning rates of parameters that do not have the general one, by name."""
        # the authors' list of variables of FE holds the tied kernels and their biases twice: two steps of them
        named = [name for name, _ in self.named_parameters() if name.startswith("encoder.dense.")]
        return dict.fromkeys(named, rate * 2) if self.adversarial else {}

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
    momentum
        Momentum of the moving statistics.
    """

    def __init__(self, genes: int, hidden: tuple[int, int], latent: int, *, batches: int, momentum: float) -> None:
        super().__init__()
        self.encoder = Encoder(genes, hidden, latent, momentum)
        nn.init.zeros_(self.encoder.dense[2].weight)
        sizes = (latent, hidden[1], hidden[0], genes)
        self.decoder = nn.ModuleList(dense(i, o) for i, o in pairwise(sizes))
        nn.init.zeros_(self.decoder[2].weight)
        self.intercepts = nn.ParameterList(torch.zeros(batches, n) for n in sizes[1:]) if batches else None
        self.linear = nn.Parameter(torch.zeros(latent, genes))
        self.shift = nn.Parameter(torch.zeros(latent))
        self.register_buffer("spread", torch.ones(()))
        self.seen = latent

    def own_rates(self, rate: float) -> dict[str, float]:
        """Learning rates of parameters that do not have the general one, by name."""
        return dict.fromkeys(("linear", "shift"), rate / 10)

    def start(self, moments: Moments) -> None:
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
                # of mean 0: a batch that is not known, whose row is 0, is the average of all
                values = values + rows(table - table.mean(0), batch)
            if number < 2:
                values = F.selu(values)
        return values + F.linear(latent, self.linear.T * self.spread.square())


class Tables(NamedTuple):
    """Tables of random effects by block, K x 2u: drawn ones, or None where there are none or the means serve."""

    encoder: tuple[Tensor | None, ...] = (None, None)
    decoder: tuple[Tensor | None, ...] = (None, None, None)


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
    momentum
        Momentum of the moving statistics.
    sd, sd_rate
        Posterior standard deviation at the start, None for that of the authors' code, and learning rate of the standard
        deviations in units of the general one.
    scaled
        Whether intercepts of the output are in units of each gene's spread.
    """

    def __init__(
        self,
        *,
        inputs: int,
        genes: int,
        hidden: tuple[int, int],
        latent: int,
        batches: int,
        encoder_batches: int,
        momentum: float,
        sd: float | None,
        sd_rate: float,
        scaled: bool,
    ) -> None:
        super().__init__()
        self.sd_rate = sd_rate
        first, second = hidden
        usual = {"momentum": momentum, "sd": sd}
        self.encoder = nn.ModuleList(
            [Reden(inputs, first, encoder_batches, **usual), Reden(first, second, encoder_batches, **usual)]
        )
        self.latent = dense(second, latent)
        self.decoder = nn.ModuleList(
            [
                Reden(latent, second, batches, **usual),
                Reden(second, first, batches, **usual),
                Reden(first, genes, batches, activation=False, scaled=scaled, **usual),
            ]
        )

    def start(self, moments: Moments) -> None:
        """Start the output at mean and spread of the genes, where Adam would need 10,000 steps to get."""
        norm = self.decoder[2].norm
        with torch.no_grad():
            norm.bias.copy_(moments.mean)
            norm.weight.copy_(0.4 * (moments.variance.sqrt() + 1e-3))

    def own_rates(self, rate: float) -> dict[str, float]:
        """Learning rates of parameters that do not have the general one, by name."""
        named = [name for name, _ in self.named_parameters() if name.endswith(".effects.rho")]
        return dict.fromkeys(named, rate * self.sd_rate)

    @property
    def effects(self) -> list[RandomEffects]:
        """The random effects of all blocks, those of the encoder first."""
        return [block.effects for block in (*self.encoder, *self.decoder) if block.effects is not None]

    def sample(self) -> Tables:
        """Draw the tables of all blocks."""
        encoder, decoder = (
            tuple(None if block.effects is None else block.effects.sample() for block in blocks)
            for blocks in (self.encoder, self.decoder)
        )
        return Tables(encoder, decoder)

    def encode(self, values: Tensor, batch: Tensor, tables: Tables | None = None) -> Encoded:
        """Embed; `tables` are draws of all blocks, None takes the posterior means."""
        for block, table in zip(self.encoder, (tables or Tables()).encoder, strict=True):
            values = block(values, batch, table)
        latent = F.selu(self.latent(values))
        return Encoded(latent, latent)

    def decode(self, latent: Tensor, batch: Tensor, tables: Tables | None = None) -> Tensor:
        """Decode; see `encode`."""
        for block, table in zip(self.decoder, (tables or Tables()).decoder, strict=True):
            latent = block(latent, batch, table)
        return latent

    def sampled_divergence(self, tables: Tables) -> Tensor:
        """Estimate the divergence by drawn tables, as a mean over blocks of slopes and of intercepts, as published."""
        means = []
        for blocks, drawn in ((self.encoder, tables.encoder), (self.decoder, tables.decoder)):
            known = [(block.effects, table) for block, table in zip(blocks, drawn, strict=True) if table is not None]
            pairs = [torch.stack(effects.sampled_divergence(table)) for effects, table in known]
            means.append(torch.stack(pairs).mean())
        return means[0] + means[1]


class Network(nn.Module):
    """An autoencoder, its heads, and the constants of its data.

    Parameters
    ----------
    settings
        How it is fitted.
    genes, batches, labels
        Sizes; `labels` is 0 without.
    inputs
        RE: dimensions of an embedding that is encoded in place of the expression, by an encoder that is not told the
        batch; None for the expression.

    Attributes
    ----------
    coder
        The autoencoder.
    of_label, of_batch, adversary
        Heads that guess the label (AEC, FEC), the batch (RE), and the batch that FE is to hide; None where there is
        none.
    low, range
        Minimum of the expression of the training cells, and their maximum less this.
    """

    def __init__(self, settings: Settings, genes: int, batches: int, labels: int, *, inputs: int | None = None) -> None:
        super().__init__()
        self.settings, self.genes, self.batches, self.labels = settings, genes, batches, labels
        recipe, latent = settings.recipe, settings.latent
        self.coder = _coder(settings, genes, batches, inputs)
        self.of_label = self.of_batch = self.adversary = None
        if settings.model in WITH_LABELS:
            self.of_label = perceptron((latent, recipe.label_head, labels))
        if settings.model in ADVERSARIAL:
            hidden = recipe.adversary or settings.hidden
            self.adversary = perceptron((self.coder.seen, *hidden, batches), normalised=recipe.adversary_normalised)
        elif settings.model == "re" and inputs is None:
            self.of_batch = perceptron((latent, recipe.batch_head, batches))
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("range", torch.ones(()))

    def start(self, moments: Moments) -> None:
        """Take the range of the training cells and, where the recipe says so, start from their moments."""
        if self.settings.recipe.starts_from_data:
            self.coder.start(moments)
        self.low.fill_(moments.low)
        self.range.fill_(moments.high - moments.low)

    def scaled(self, expression: Tensor) -> Tensor:
        """Bring expression to the range that training cells have as 0 to 1."""
        return (expression - self.low) / self.range

    def unscaled(self, values: Tensor) -> Tensor:
        """Bring it back."""
        return values * self.range + self.low

    def load(self, weights: dict[str, np.ndarray]) -> None:
        """Take the weights of such a network.

        Raises
        ------
        ValueError
            If they are those of another one.
        """
        try:
            self.load_state_dict({name: torch.as_tensor(np.array(value)) for name, value in weights.items()})
        except RuntimeError as error:
            raise ValueError(f"weights do not fit the model: {' '.join(str(error).split())[:300]}") from error

    def weights(self) -> dict[str, np.ndarray]:
        """Everything that `load` needs."""
        return {name: value.cpu().numpy() for name, value in self.state_dict().items()}


def _coder(settings: Settings, genes: int, batches: int, inputs: int | None) -> nn.Module:
    recipe, adversarial = settings.recipe, settings.model in ADVERSARIAL
    sizes = {"genes": genes, "hidden": settings.hidden, "latent": settings.latent, "momentum": recipe.momentum}
    if settings.model == "re":
        return RandomAutoencoder(
            **sizes,
            inputs=inputs or genes,
            batches=batches,
            encoder_batches=0 if inputs else batches,
            sd=settings.sd if recipe.free_sd else None,
            sd_rate=settings.sd_rate if recipe.free_sd else 1.0,
            scaled=recipe.scaled_output,
        )
    if recipe.tied:
        return TiedAutoencoder(**sizes, adversarial=adversarial)
    return SkipAutoencoder(**sizes, batches=batches if adversarial else 0)


def parameters(network: nn.Module) -> int:
    """Count the trainable numbers."""
    return sum(parameter.numel() for parameter in network.parameters())
