"""What a user sets, and what the presets make of it: loss weights, rates, lengths of training, and every threshold.

The steps themselves, in `model`, read a `Recipe` and know no preset.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

from unbatch.nn.training import Plan

WITH_LABELS = ("aec", "fec")
"""Models that are trained on labels."""
OF_BATCHES = ("fe", "fec", "re")
"""Models that are trained on batches."""
ADVERSARIAL = ("fe", "fec")
"""Models that are trained against the batch."""


@dataclass(frozen=True)
class Settings:
    """How to fit.

    Attributes
    ----------
    model
        ``"ae"``, ``"aec"`` (with labels), ``"fe"``, ``"fec"`` (with labels), ``"re"``.
    preset
        ``"recommended"`` or ``"paper"``, see `RECIPES`.
    latent, hidden
        Sizes of the latent space and of the two hidden layers.
    epochs, minibatch, learning_rate, patience
        None for those of the preset: 500 epochs of minibatches of 512 cells at a rate of 1e-4, patience 30, as
        published; or, recommended, see `schedule`, at 1e-3.
    weights
        Weights of loss terms by name, over those of the preset (`loss_weights`). In the preset ``paper`` they multiply
        the terms as they are; recommended, terms are balanced first: the squared error is divided by that of the genes'
        means, cross entropies by that of guessing.
    shared_draw
        RE: whether all cells of a batch share the drawn random effects in a step, as published; recommended is not.
    sd
        RE, recommended: posterior standard deviation of a random effect at the start.
    sd_rate
        RE, recommended: learning rate of the posterior standard deviations, in units of the general one.
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

    @property
    def recipe(self) -> "Recipe":
        """The recipe of the preset."""
        return RECIPES[self.preset]

    @property
    def uses_labels(self) -> bool:
        """Whether a term of the loss needs labels."""
        return self.model in WITH_LABELS or self.weights.get("matching", 0) > 0

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Make settings of what `dataclasses.asdict` gave, after JSON turned its tuples into lists."""
        return cls(**values | {"hidden": tuple(values["hidden"])})


@dataclass(frozen=True)
class Recipe:
    """What a preset does: its networks, its optimisers, its loss.

    Attributes
    ----------
    balanced
        Whether loss terms are divided by what a model that knows nothing has; weights then have no units.
    tied
        AE, FE: whether the decoder has the transposed kernels of the encoder and the latent layer a SELU, as
        published; else principal components plus networks on both sides, and an intercept per batch in the decoder.
    starts_from_data
        Whether a network starts from the moments of the training cells: AE and FE as their principal components, RE at
        mean and spread of the genes. Principal components cannot be more than genes or training cells.
    rate
        Learning rate of Adam where `Settings.learning_rate` has none.
    epsilon
        Adam's epsilon: that of Keras where Keras is compared with.
    momentum
        Share by which a minibatch moves the statistics that normalise cells in evaluation.
    label_head, batch_head
        Units of the hidden layer that predicts the label (AEC, FEC) or the batch (RE) from the embedding.
    adversary
        FE: units of the adversary's hidden layers; None for those of the encoder.
    adversary_normalised
        FE: whether the adversary's inputs are normalised; a larger embedding then does not escape it.
    adversary_steps
        FE: steps of the adversary for each step of the encoder. With one, as published, it lags behind the encoder,
        which then hides the batch from this adversary alone.
    adversary_rate
        FE: its learning rate; None for the general one.
    ramp
        FE: share of the training, 0 to 1, over which penalties of the batch rise linearly to their weight; 0 for full
        weight from the start. Before that the reconstruction settles, and no epoch before twice this share is kept.
    shared_draw
        RE: whether the cells of a batch share one drawn table of random effects in a step, where
        `Settings.shared_draw` does not say.
    closed_form
        RE: whether the divergence is in closed form at the weight of the evidence bound, or estimated by the drawn
        table (which takes a shared draw) and averaged over blocks, as published.
    free_sd
        RE: whether posterior standard deviations start at `Settings.sd` and have a rate of their own; else they start
        and learn as in the reference code.
    scaled_output
        RE: whether random intercepts of the output are in units of each gene's spread.
    head_noise
        RE: noise that is added to the standardised embedding on its way to the batch head, in standard deviations. 0
        for none and no standardisation: the head is then content as soon as batches can be told at all.
    probe
        FE: what a batch probe that tells all cells adds to the score by which epochs are chosen, in units of the
        variance of the genes; one at chance adds 0, and 0 is for no probe. More keeps epochs that have less of the
        batch, less those that reconstruct better.
    plan
        How long and in what steps to train, whatever the data are; None for what `PACE` makes of their size.
    """

    balanced: bool
    tied: bool
    starts_from_data: bool
    rate: float
    epsilon: float
    momentum: float
    label_head: int
    batch_head: int
    adversary: tuple[int, ...] | None
    adversary_normalised: bool
    adversary_steps: int
    adversary_rate: float | None
    ramp: float
    shared_draw: bool
    closed_form: bool
    free_sd: bool
    scaled_output: bool
    head_noise: float
    probe: float
    plan: Plan | None


RECIPES: dict[str, Recipe] = {
    # what the authors' code does, for comparison
    "paper": Recipe(
        balanced=False,
        tied=True,
        starts_from_data=False,
        rate=1e-4,
        epsilon=1e-7,
        momentum=0.01,
        label_head=2,
        batch_head=5,
        adversary=None,
        adversary_normalised=False,
        adversary_steps=1,
        adversary_rate=None,
        ramp=0.0,
        shared_draw=True,
        closed_form=False,
        free_sd=False,
        scaled_output=False,
        head_noise=0.0,
        probe=0.0,
        plan=Plan(epochs=500, size=512, patience=30),
    ),
    "recommended": Recipe(
        balanced=True,
        tied=False,
        starts_from_data=True,
        rate=1e-3,
        epsilon=1e-8,
        momentum=0.1,
        label_head=32,
        batch_head=32,
        adversary=(128,),
        adversary_normalised=True,
        adversary_steps=5,
        adversary_rate=2e-3,
        ramp=0.3,
        shared_draw=False,
        closed_form=True,
        free_sd=True,
        scaled_output=True,
        head_noise=1.5,
        probe=0.1,
        plan=None,
    ),
}
"""The presets by name; their loss weights are in `loss_weights`."""


@dataclass(frozen=True)
class Pace:
    """How long and in what steps the recommended preset trains, by the number of cells.

    Attributes
    ----------
    minibatches, smallest, largest
        Minibatches in an epoch of few cells, and cells of a minibatch at least and at most. Smaller ones are too noisy
        for the normalisation and the independence criterion, larger ones make steps scarce.
    minibatches_large, largest_large
        The same of large data, from 51,200 cells on: larger minibatches cost less time for each cell.
    smallest_matching
        Cells of a minibatch at least with the term ``matching``, which compares batches within labels of a minibatch.
    steps, epochs
        Steps of the training, and epochs at least.
    patience_share, patience
        Training ends after this share of the epochs without a better one, but within these bounds, in epochs: a
        patience longer than the training would never end it.
    """

    minibatches: int = 18
    smallest: int = 64
    largest: int = 512
    minibatches_large: int = 100
    largest_large: int = 4096
    smallest_matching: int = 256
    steps: int = 460
    epochs: int = 25
    patience_share: int = 3
    patience: tuple[int, int] = (10, 30)


PACE = Pace()


@dataclass(frozen=True)
class Decoding:
    """How the embedding of the default counterfactual is made and decoded.

    Attributes
    ----------
    dimensions
        Dimensions of the embedding at most. More of them carry the noise of single cells, which the decoder then takes
        for a reason to shift cells differently.
    rate
        Learning rate of the decoder, a small network.
    weights
        Loss weights of the embedding where there are labels: batches then meet within each of them.
    kept, nearest
        Without labels: training cells of each batch that are kept, and how many of them are near a cell. Fewer kept
        ones make what is near less near, more take memory; a mean of fewer near ones is noisier.
    group
        Validation cells of one batch that a group (a label or a cluster) has at least to be counted in the misfit: of
        fewer, the mean is too noisy.
    clusters, cells_of_cluster
        Without labels: clusters at least and at most, and cells of each batch that they have on average at least, in
        units of `group`.
    """

    dimensions: int = 20
    rate: float = 3e-3
    weights: dict[str, float] = field(default_factory=lambda: {"hsic": 0.3, "matching": 3.0, "batch": 0.0})
    kept: int = 500
    nearest: int = 10
    group: int = 10
    clusters: tuple[int, int] = (2, 10)
    cells_of_cluster: int = 5


DECODING = Decoding()


# -------------------------------------------------------------------------------------------------------- loss weights

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


# ------------------------------------------------------------------------------------------------------------ schedule


def schedule(settings: Settings, cells: int) -> Plan:
    """Choose the number of epochs and the size of minibatches.

    Recommended (`PACE`): minibatches of a power of 2 cells, about 18 in an epoch, but at least 64 cells (256 with the
    term ``matching``) and at most 512, and for large data about 100 in an epoch, at most 4,096 cells; epochs for 460
    steps, but at least 25. Training ends early after a third of the epochs without a better one (at least 10, at most
    30); for FE and FEC only epochs count in which the penalties of the batch have their weight for a while (the last
    40 %).

    Parameters
    ----------
    settings
        How to fit; what it sets wins.
    cells
        Number of training cells.
    """
    recipe = settings.recipe
    plan = recipe.plan or _plan(settings, cells, first=2 * recipe.ramp if settings.model in ADVERSARIAL else 0.0)
    changes = {"epochs": settings.epochs, "size": settings.minibatch, "patience": settings.patience}
    return replace(plan, **{name: value for name, value in changes.items() if value is not None})


def _plan(settings: Settings, cells: int, first: float) -> Plan:
    small = min(PACE.largest, max(PACE.smallest, cells / PACE.minibatches))
    size = 2 ** round(math.log2(max(small, min(PACE.largest_large, cells / PACE.minibatches_large))))
    epochs = max(PACE.epochs, math.ceil(PACE.steps * size / cells))
    if settings.weights.get("matching"):
        size = max(size, PACE.smallest_matching)
    least, most = PACE.patience
    patience = min(most, max(least, (settings.epochs or epochs) // PACE.patience_share))
    return Plan(epochs, size, patience, first=first, cosine=True)


def limited(settings: Settings, cells: int, epochs: int | None) -> Settings:
    """Train no longer than so many epochs; None leaves the settings as they are.

    Parameters
    ----------
    settings
        How to fit.
    cells
        Number of training cells, on which the number of epochs depends.
    epochs
        The limit.
    """
    return settings if epochs is None else replace(settings, epochs=min(schedule(settings, cells).epochs, epochs))


def decoding_settings(settings: Settings) -> Settings:
    """Derive the settings of the embedding of the default counterfactual, an FE, from those of a model.

    It is of the recommended preset whatever the models are; weights that were set for another preset or for terms that
    it lacks say nothing about it.
    """
    known = RECOMMENDED_WEIGHTS["fe"] if settings.preset == "recommended" else {}
    weights = {term: weight for term, weight in settings.weights.items() if term in known}
    return replace(settings, model="fe", preset="recommended", weights=weights)
