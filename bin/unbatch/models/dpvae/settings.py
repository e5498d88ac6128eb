"""What a user sets and what the two presets are: every size, rate and threshold of a fit."""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self


@dataclass(frozen=True)
class Settings:
    """How to fit.

    Attributes
    ----------
    likelihood
        ``"gaussian"`` of unit variance, or ``"negative_binomial"`` of counts, with library size and batch.
    genes
        Most variable genes that are used; None for all.
    standardised
        Whether each gene is brought to mean 0 and variance 1 in each section.
    components
        Principal components of the genes that are encoded; None for the genes themselves.
    hidden
        Units of the hidden layer of encoder and decoder.
    latent
        Latent dimensions, d.
    dropout
        Shares of the inputs and of the hidden units that are left out of a step.
    alpha1, beta
        Weights of reconstruction and divergence together, and of the divergence in that.
    alpha2
        Weight of the distances; None: chosen of `grid` by inner validation.
    grid
        Candidates of `alpha2`.
    epochs
        Passes over the spots; None: chosen by inner validation, of `most_epochs` at most.
    most_epochs, check, patience
        Epochs that the inner validation goes on for, after how many it looks at the error, and how many without a
        smaller one end it.
    minibatch
        Spots in a step; None for all.
    rate, decay
        Learning rate of Adam, and decay of the weights.
    scaling
        lambda: ``"learned"``, ``"fixed"`` at `scale_start`, or ``"profiled"``: the one that makes the distances' term
        of a step's pairs smallest, averaged over steps.
    scale_start
        lambda at first, where positions have variance 1 along the mean axis.
    on_mean
        Whether distances are between latent means instead of draws.
    near, uniform, nearest
        Partners of a spot in a step: of its `nearest` spots, and of all.
    residuals
        Whether as many components of Pearson residuals of the counts are encoded, too; expression then is counts.
    process
        Whether positions are those of a Gaussian process on the inputs and the positions that the networks give by
        their latent values, each of a known spot being that of the network which was not shown it.
    members
        Networks. Where there are several, each is not shown one part of the known spots, and positions are averaged.
    """

    likelihood: str = "gaussian"
    genes: int | None = None
    standardised: bool = True
    components: int | None = 50
    hidden: int = 128
    latent: int = 16
    dropout: tuple[float, float] = (0.2, 0.2)
    alpha1: float = 1.0
    beta: float = 1.0
    alpha2: float | None = None
    grid: tuple[float, ...] = (10.0, 100.0, 1000.0)
    epochs: int | None = None
    most_epochs: int = 60
    check: int = 5
    patience: int = 20
    minibatch: int | None = 256
    rate: float = 1e-3
    decay: float = 1e-2
    scaling: str = "learned"
    scale_start: float = 1.0
    on_mean: bool = False
    near: int = 1
    uniform: int = 8
    nearest: int = 12
    residuals: bool = True
    process: bool = True
    members: int = 5

    def but(self, **changes: Any) -> Self:
        """Return the same with other values; those that are None change nothing."""
        return replace(self, **{name: value for name, value in changes.items() if value is not None})

    def as_json(self) -> dict[str, Any]:
        """Give all values by name."""
        return asdict(self)

    @property
    def counts(self) -> bool:
        """Whether expression is counts."""
        return self.residuals or self.likelihood == "negative_binomial"

    @classmethod
    def from_json(cls, given: dict[str, Any]) -> Self:
        """Make settings of what `as_json` gave.

        Raises
        ------
        ValueError
            If names are not those of settings.
        """
        if set(given) != {each.name for each in fields(cls)}:
            raise ValueError(f"settings are {', '.join(sorted(given))}, which are not those of a dp-VAE")
        return cls(**given | {"grid": tuple(given["grid"]), "dropout": tuple(given["dropout"])})


PRESETS: dict[str, Settings] = {
    "recommended": Settings(),
    # what the paper states, and where it states nothing what the public code does; the published 2,000 epochs overfit,
    # hence epochs by inner validation here, too
    "paper": Settings(
        genes=100,
        standardised=False,
        components=None,
        hidden=124,
        latent=2,
        dropout=(0.0, 0.0),
        grid=(10.0, 30.0, 100.0, 300.0, 1000.0),
        most_epochs=300,
        check=20,
        patience=100,
        minibatch=None,
        rate=5e-4,
        decay=0.0,
        near=0,
        uniform=5,
        residuals=False,
        process=False,
        members=1,
    ),
}
"""The presets by name."""

DRIFT = 0.5
"""Share of its start below which lambda has drifted: distances then are small as latent values are."""
COLLAPSED = 0.1
"""Root mean square of latent means, of which the prior's is 1 in each dimension, below which they have collapsed."""
HELD = 0.1
"""Share of the known spots in each of the two parts of the inner validation: spots at random, and a block."""
FEWEST = 20
"""Known spots below which nothing is fitted."""
