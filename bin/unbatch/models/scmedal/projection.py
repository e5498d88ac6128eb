"""Cells as if from another batch: through RE, or through an embedding free of the batch that random effects decode.

The second way is the default one. An FE of few dimensions gives an embedding u in which batches meet; a decoder with
random effects (RE, whose encoder is not told the batch) is fitted to give the expression again. The shift of a cell
from its batch z to z' is then ``r(u, z') - r(u, z)``. Its variance is the sum of

- that of the shift over draws of the random effects from their posterior,
- the misfit of the decoder in either batch: what its reconstructions miss of the means of groups of validation cells,
  beyond chance (factorised posteriors are too sure of themselves),
- without labels, the square of what lies between the cell and the nearest cells of the other batch, as u may then have
  the cells of one type in another place for each batch.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from unbatch.models.scmedal.data import BLOCK, TrainingData
from unbatch.models.scmedal.model import Model, fit, fit_network
from unbatch.models.scmedal.networks import Network, RandomAutoencoder, Tables
from unbatch.models.scmedal.parts import Parts
from unbatch.models.scmedal.recipes import DECODING, Settings
from unbatch.nn.kmeans import kmeans, nearest
from unbatch.nn.minibatches import Source


class Counterfactual(NamedTuple):
    """Some cells as if from another batch; all m x G.

    Attributes
    ----------
    expression
        Expected expression.
    shift
        The same less the reconstruction of the cells in their own batch.
    sd
        Standard error of the shift; 0 where a cell is left in its own batch, NaN without draws. Shift and its error are
        as good as normally distributed.
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
        Seed of the draws.

    Raises
    ------
    ValueError
        If there is no such batch, or codes do not fit the cells.
    """
    _check_target(target, model.batches)
    coder = model.network.coder
    draws = _draws(coder, samples, seed)

    def moved_and_stayed(values: Tensor, own: Tensor, other: Tensor, tables: Tables | None) -> tuple[Tensor, Tensor]:
        latent = coder.encode(values, own, tables).latent
        moved = coder.encode(values, other, tables).latent if way == "published" else latent
        return coder.decode(moved, other, tables), coder.decode(latent, own, tables)

    for own, values in model.scaled_blocks(cells, batch):
        pair = partial(moved_and_stayed, values, own, torch.full_like(own, target))
        yield _shifted(model.network, pair, own != target, draws)


@dataclass
class Projection:
    """An embedding free of the batch, decoded with random effects of the batch.

    Attributes
    ----------
    fixed
        The model of the embedding, FE.
    network
        Decoder of the standardised embedding.
    centre, spread
        Mean of the embedding over the training cells, L, and root mean square of its standard deviations, 1.
    misfit
        Variance of what reconstructions of a batch miss of the means of groups of its cells, G, scaled.
    reference
        Standardised embedding of some training cells of each batch, K x r x L; None where labels matched the batches.
    """

    fixed: Model
    network: Network
    centre: Tensor
    spread: Tensor
    misfit: Tensor
    reference: Tensor | None = None

    def reconstruct(self, cells: Any, batch: np.ndarray) -> Iterator[np.ndarray]:
        """Yield reconstructions in the cells' own batches, a block after the other."""
        for own, values in self.fixed.scaled_blocks(cells, batch):
            with torch.no_grad():
                yield self.network.unscaled(self.decode(self.embed(values, own), own)).cpu().numpy()

    def counterfactual(
        self, cells: Any, batch: np.ndarray, target: int, *, samples: int = 30, seed: int = 0
    ) -> Iterator[Counterfactual]:
        """Yield cells as if from another batch; see `shift_of_random_effects`."""
        _check_target(target, self.fixed.batches)
        draws = _draws(self.network.coder, samples, seed)
        for own, values in self.fixed.scaled_blocks(cells, batch):
            with torch.no_grad():
                latent = self.embed(values, own)
                # the misfit is that of the own batch and that of the other one
                errors = (2 * self.misfit, self.gap(latent, target)) if draws else ()

            pair = partial(self._moved_and_stayed, latent, own, torch.full_like(own, target))
            yield _shifted(self.network, pair, own != target, draws, errors=errors)

    def _moved_and_stayed(
        self, latent: Tensor, own: Tensor, other: Tensor, tables: Tables | None
    ) -> tuple[Tensor, Tensor]:
        return self.decode(latent, other, tables), self.decode(latent, own, tables)

    def embed(self, values: Tensor, batch: Tensor) -> Tensor:
        """Standardised embedding of scaled expression, m x L."""
        return (self.fixed.network.coder.encode(values, batch).latent - self.centre) / self.spread

    def decode(self, latent: Tensor, batch: Tensor, tables: Tables | None = None) -> Tensor:
        """Scaled expression of a standardised embedding in a batch, m x G; `tables` are drawn random effects."""
        coder = self.network.coder
        return coder.decode(coder.encode(latent, batch).latent, batch, tables)

    def gap(self, latent: Tensor, target: int) -> Tensor:
        """Square of what lies between cells and the nearest ones of another batch, decoded there, m x G."""
        if self.reference is None or target < 0:
            return torch.zeros(len(latent), self.fixed.genes, device=latent.device)
        others = self.reference[target]
        near = others[torch.cdist(latent, others).topk(DECODING.nearest, largest=False).indices].mean(1)
        other = torch.full((len(latent),), target, device=latent.device)
        return (self.decode(near, other) - self.decode(latent, other)).square()

    def weights(self) -> dict[str, np.ndarray]:
        """Everything that `from_weights` needs in addition to `config`."""
        found = {f"fixed.{name}": value for name, value in self.fixed.weights().items()}
        found |= {f"decoder.{name}": value for name, value in self.network.weights().items()}
        own = {"centre": self.centre, "spread": self.spread, "misfit": self.misfit, "reference": self.reference}
        return found | {name: value.cpu().numpy() for name, value in own.items() if value is not None}

    def config(self) -> dict[str, Any]:
        """Give settings and sizes, as JSON takes them."""
        return {"fixed": self.fixed.config(), "decoder": asdict(self.network.settings)}

    @classmethod
    def from_weights(cls, config: dict[str, Any], weights: dict[str, np.ndarray], device: str = "cpu") -> Self:
        """Make a projection of what `config` and `weights` gave.

        Raises
        ------
        ValueError
            If they do not belong together.
        """
        fixed = Model.from_weights(config["fixed"], part_of("fixed", weights), device)
        latent = fixed.settings.latent
        network = Network(Settings.from_json(config["decoder"]), fixed.genes, fixed.batches, 0, inputs=latent)
        network.load(part_of("decoder", weights))
        shapes = {"centre": (latent,), "spread": (1,), "misfit": (fixed.genes,)}
        if "reference" in weights:
            shapes["reference"] = (fixed.batches, DECODING.kept, latent)
        for name, shape in shapes.items():
            found = weights[name].shape if name in weights else "missing"
            if found != shape:
                raise ValueError(f"{name} of the projection: expected shape {shape}, found {found}")
        own = {name: torch.as_tensor(np.array(weights[name]), device=device) for name in shapes}
        return cls(fixed, network.to(device).eval(), **own)


def part_of(name: str, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays of one part of a model, those named ``name.*``, by the rest of their names."""
    return {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}


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
        Settings of both (see `decoding_settings`); `Settings.weights` are those of the embedding, which has
        `DECODING.dimensions` at most.

    Returns
    -------
    tuple
        The projection, and the history of its decoder.
    """
    weights = settings.weights if label is None else DECODING.weights | settings.weights
    settings = replace(settings, preset="recommended", latent=min(settings.latent, DECODING.dimensions))
    of_fixed = replace(settings, model="fe", weights=weights)
    of_decoder = replace(settings, model="re", weights={"batch": 0.0}, learning_rate=DECODING.rate)
    fixed = fit(source, batch, parts, of_fixed, label=label, seed=seed, tell=tell).model

    embedding = torch.as_tensor(fixed.embed(source, batch), device=source.device)
    centre = embedding[parts.train].mean(0)
    # one for all dimensions: each in its own units, those of noise would count as much as those of types
    spread = embedding[parts.train].std(0).square().mean(0, keepdim=True).sqrt() + 1e-6
    embedding = (embedding - centre) / spread

    data = TrainingData.on_device(source, parts, batch, label, embedding=embedding)
    objective, _, history = fit_network(data, of_decoder, fixed.batches, seed=seed, tell=tell)
    nothing = torch.zeros(source.shape[1], device=source.device)
    projection = Projection(fixed, objective.network, centre=centre, spread=spread, misfit=nothing)
    projection.misfit = _misfit(projection, data)
    if label is None:
        projection.reference = _reference(data, fixed.batches, seed)
    return projection, history.terms


def _misfit(projection: Projection, data: TrainingData) -> Tensor:
    """Variance of mean residuals of groups of validation cells of one batch, beyond that of a mean of so many cells.

    Groups are labels or, without these, clusters of the embedding.
    """
    source, cells, network = data.source, data.parts.validation, projection.network
    group = _clusters(data, projection.fixed.batches) if data.label is None else data.label
    batches, groups = projection.fixed.batches, int(group.max()) + 1
    total = torch.zeros(groups * batches, source.shape[1], dtype=torch.float64, device=source.device)
    squares, size = torch.zeros_like(total), torch.zeros(groups * batches, 1, dtype=torch.float64, device=source.device)
    for position, expression in source.minibatches(cells, BLOCK):
        batch, scaled = data.batch[position], network.scaled(expression)
        with torch.no_grad():
            left = scaled - projection.decode(data.embedding[position], batch)
        known = (group[position] >= 0) & (batch >= 0)
        both, left = (group[position] * batches + batch)[known], left[known].double()
        total.index_add_(0, both, left)
        squares.index_add_(0, both, left.square())
        size.index_add_(0, both, torch.ones(len(both), 1, dtype=torch.float64, device=source.device))
    enough = size[:, 0] >= DECODING.group
    if not enough.any():
        return torch.zeros(source.shape[1], device=source.device)
    mean, of = total[enough] / size[enough], size[enough]
    by_chance = (squares[enough] / of - mean.square()) / (of - 1)
    excess = (mean.square() - by_chance).mean(0)
    # of few groups: half of what all genes have together
    return ((excess.clamp(min=0) + excess.mean().clamp(min=0)) / 2).float()


def _clusters(data: TrainingData, batches: int) -> Tensor:
    """Clusters of the validation cells' embedding, n; 0 for other cells."""
    cells, (least, most) = data.parts.validation, DECODING.clusters
    number = max(least, min(most, len(cells) // (DECODING.cells_of_cluster * DECODING.group * batches)))
    embedding = data.embedding[cells]
    group = torch.zeros(len(data.batch), dtype=torch.long, device=data.source.device)
    group[cells] = nearest(embedding, kmeans(embedding, number, torch.Generator().manual_seed(0)))
    return group


def _reference(data: TrainingData, batches: int, seed: int) -> Tensor:
    """Embedding of some training cells of each batch, K x r x L."""
    rng, train, batch = np.random.default_rng(seed), data.parts.train, data.batch.cpu().numpy()
    drawn = [rng.choice(train[batch[train] == code], DECODING.kept) for code in range(batches)]
    return data.embedding[torch.as_tensor(np.stack(drawn), device=data.embedding.device)]


def _draws(coder: RandomAutoencoder, samples: int, seed: int) -> list[Tables]:
    device = next(coder.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.no_grad():
        torch.manual_seed(seed)
        return [coder.sample() for _ in range(samples)]


def _shifted(
    network: Network,
    pair: Callable[[Tables | None], tuple[Tensor, Tensor]],
    away: Tensor,
    draws: list[Tables],
    *,
    errors: tuple[Tensor, ...] = (),
) -> Counterfactual:
    """Shift of some cells and its standard error.

    Parameters
    ----------
    network
        Knows the range of the expression.
    pair
        Gives the scaled expression in the other batch and in the own one, m x G, under a draw of the random effects or,
        for None, their means.
    away
        Whether a cell's own batch is another one, m.
    draws
        Draws from the posterior.
    errors
        Variances in addition to that over the draws, scaled.
    """
    with torch.no_grad():
        moved, stayed = pair(None)
        shift = moved - stayed
        sd = torch.full_like(shift, math.nan)
        if draws:
            squares = torch.zeros_like(shift)
            for tables in draws:
                there, here = pair(tables)
                # around the shift of the posterior means: the draws' own mean is as noisy as there are few of them
                squares += (there - here - shift).square()
            variance = squares / len(draws)
            for error in errors:
                variance = variance + error
            sd = (variance * away[:, None]).sqrt()
        return Counterfactual(
            network.unscaled(moved).cpu().numpy(),
            (shift * network.range).cpu().numpy(),
            (sd * network.range).cpu().numpy(),
        )


def _check_target(target: int, batches: int) -> None:
    if not -1 <= target < batches:
        raise ValueError(f"counterfactual batch {target}: expected one of 0 to {batches - 1}, or -1 for their average")
