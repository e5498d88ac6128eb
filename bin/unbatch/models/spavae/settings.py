"""What a user sets and what the two presets are: every size, rate and threshold of a fit."""

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

from unbatch.nn.kernels import KERNELS
from unbatch.nn.training import Plan


@dataclass(frozen=True)
class Settings:
    """How to fit.

    Attributes
    ----------
    latent, gaussian
        Latent dimensions with a Gaussian process prior, L, and with independent Gaussian ones, H.
    kernel
        ``"cauchy"``, ``"eq"`` or ``"matern"``, functions of the squared distance over the scale.
    scale
        Scale of the kernel, in squared spot pitches; None for `default_scale`, less in a small tissue, more in one that
        would need more than 128 inducing points (`field.choose`).
    default_scale
        See `scale`; where `box` is set, in the unit that this makes.
    learns_scale
        Whether each section's scale is trained, from that on; else the features of spots are computed once.
    box
        Length to which each axis of the coordinates is brought; None for spot pitches.
    inducing
        ``"auto"``: spots chosen by pivoted Cholesky until they leave a share of `tolerance` of the prior variance in
        the mean, at most `most_points`; ``"grid"`` of `grid_steps` steps along each axis; ``"kmeans"``: `points`
        centres.
    inputs
        What is encoded: ``"pcs"``, so many `components` of the standardised genes, each scaled to variance 1, or
        ``"genes"``, all of them standardised.
    encoder
        ``"dense"``, or ``"convolutional"``: a convolution over the order of the genes first, as one of the published
        codes has it; that order means nothing.
    hidden, decoder_hidden
        Units of the encoder's and the decoder's hidden layers.
    from_data
        Whether encoder and decoder have a linear part, started from the components that vary over space and those of
        the rest (`start`).
    dispersion
        ``"gene"``, or ``"batch"`` for one of each gene and batch.
    theta
        Dispersions at the start; None for log-normal draws.
    noise
        Standard deviation of noise on the inputs of a second encoding whose process means should be the same; 0 for
        none. Its term is ``G / L`` times their squared difference.
    rate, decay
        Learning rate of Adam, and decay of the weights.
    cosine
        Whether the rate rises over the first twentieth of the training and falls to a hundredth as a cosine.
    smoothing
        Weight of a minibatch in the running moments of the processes; 1: each stands alone, as published.
    minibatch, epochs
        None for those of `schedule`.
    patience
        Epochs without a better score after which training ends; None: none.
    validation
        Share of the spots that is not trained on and scores the epochs.
    beta
        Weight of the divergences; None for the controller.
    clipped
        Whether the controller's integral stays within its bounds; as published it does not and winds up.
    draws
        Draws from the posterior over which denoised counts are averaged; 0 for the rates of its mean.
    """

    latent: int = 2
    gaussian: int = 8
    kernel: str = "cauchy"
    scale: float | None = None
    default_scale: float = 200.0
    learns_scale: bool = False
    box: float | None = None
    inducing: str = "auto"
    tolerance: float = 0.03
    most_points: int = 512
    grid_steps: int = 6
    points: int = 49
    inputs: str = "pcs"
    components: int = 50
    encoder: str = "dense"
    hidden: tuple[int, ...] = (128, 64)
    decoder_hidden: int = 128
    from_data: bool = True
    dispersion: str = "gene"
    theta: float | None = 3.0
    noise: float = 0.0
    rate: float = 1e-2
    decay: float = 0.0
    cosine: bool = True
    smoothing: float = 0.3
    minibatch: int | None = None
    epochs: int | None = None
    patience: int | None = None
    validation: float = 0.0
    beta: float | None = None
    clipped: bool = True
    draws: int = 0

    @property
    def target(self) -> float:
        """Divergence per spot that the controller of beta aims at, as published."""
        return 0.025 * (self.latent + self.gaussian)

    def but(self, **changes: Any) -> Self:
        """Return the same with other values; those that are None change nothing."""
        return replace(self, **{name: value for name, value in changes.items() if value is not None})

    def as_json(self) -> dict[str, Any]:
        """Give all values by name."""
        return asdict(self)

    @classmethod
    def from_json(cls, given: dict[str, Any]) -> Self:
        """Make settings of what `as_json` gave.

        Raises
        ------
        ValueError
            If names are not those of settings, or the kernel is none.
        """
        if set(given) != {each.name for each in fields(cls)}:
            raise ValueError(f"settings are {', '.join(sorted(given))}, which are not those of a spaVAE")
        if given["kernel"] not in KERNELS:
            raise ValueError(f"kernel is {given['kernel']!r}, expected one of {', '.join(KERNELS)}")
        return cls(**given | {"hidden": tuple(given["hidden"])})


PRESETS: dict[str, Settings] = {
    "recommended": Settings(),
    # the authors' code, but for what the module's docstring of `model` names
    "paper": Settings(
        default_scale=20.0,
        learns_scale=True,
        box=20.0,
        inducing="grid",
        inputs="genes",
        from_data=False,
        theta=None,
        rate=1e-3,
        decay=1e-6,
        cosine=False,
        smoothing=1.0,
        epochs=5000,
        patience=200,
        validation=0.05,
        clipped=False,
        draws=25,
    ),
}
"""The presets by name."""

STEPS = 180
"""Steps of a fit at least: where clusters of spots have stopped changing."""
EPOCHS = 12
"""Epochs at least."""
MOST = 16_384
"""Spots of an epoch at most, drawn anew for each of more: 32 minibatches, so 12 epochs have 384 steps."""
SIZES = (64, 512)
"""Spots of a minibatch at least and at most: the former for the normalisation, the latter for steps enough."""


def schedule(settings: Settings, spots: int) -> Plan:
    """Choose epochs, their spots and the size of minibatches.

    Recommended: eight minibatches in an epoch, but of 64 to 512 spots; epochs for 180 steps, at least 12. Published:
    minibatches of 512 spots from 2,049 spots on, of 256 from 1,025 on, else of 128.

    Steps and not epochs are what a fit needs. Where there are more than `MOST` spots, each recommended epoch takes a
    fresh random sample of that size. More steps make the fit of a large tissue worse, not better, as beta pushes the
    Gaussian dimensions to 0 in the long run: docs/results/spavae.md, "Steps". 180 steps scored better there than the
    384 of this limit, which leaves the fits of up to `MOST` spots, such as of four sections, as they were. Without
    validation spots, the score of an epoch is that of its own sample. A published epoch is a pass over all spots.

    Parameters
    ----------
    settings
        How to fit; what it sets wins.
    spots
        Number of training spots.
    """
    if settings.box is not None:
        size = settings.minibatch or (512 if spots > 2048 else 256 if spots > 1024 else 128)
    else:
        size = settings.minibatch or min(SIZES[1], max(SIZES[0], spots // 8))
    most = MOST if settings.box is None else spots
    epochs = settings.epochs or max(EPOCHS, math.ceil(STEPS / math.ceil(min(most, spots) / size)))
    return Plan(epochs, size, patience=settings.patience or epochs, most=most)
