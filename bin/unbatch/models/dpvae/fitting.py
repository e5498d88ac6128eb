"""A fit: settings by inner validation, one network or several, positions of all spots."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unbatch.models.dpvae import masks, search
from unbatch.models.dpvae.inputs import Inputs
from unbatch.models.dpvae.model import Mask, Spots, encoded, train_network
from unbatch.models.dpvae.networks import Network
from unbatch.models.dpvae.readout import Frames, Readout
from unbatch.models.dpvae.settings import COLLAPSED, DRIFT, FEWEST, Settings


@dataclass(frozen=True)
class Member:
    """A network and what makes positions of its latent values."""

    network: Network
    readout: Readout


@dataclass
class Model:
    """What embeds spots and says where they are.

    Attributes
    ----------
    settings
        As they were used, `alpha2` and `epochs` included.
    inputs
        Makes inputs of expression.
    members
        Networks with their readouts.
    unit
        What positions were divided by before they were learnt.
    process
        Makes positions of the inputs and of what the networks say; None: the networks' mean counts.
    """

    settings: Settings
    inputs: Inputs
    members: list[Member]
    unit: float
    process: Readout | None = None

    @property
    def scale(self) -> float:
        """Lambda of the first network: latent distance of two spots that are one unit of the given positions apart."""
        return float(self.members[0].network.scale.detach()) / self.unit

    @property
    def frames(self) -> Frames:
        """How coordinates of the sections go over into those of the reference."""
        return (self.process or self.members[0].readout).frames

    def predict(self, x: Any, section: np.ndarray | None = None) -> np.ndarray:
        """Embed spots: latent means of the first network, n x d."""
        section = np.zeros(x.shape[0], np.int64) if section is None else section
        return encoded(self.members[0].network, self.inputs(x, section))

    def gene_weights(self) -> np.ndarray:
        """Say how much the first network takes of each gene: squared weights of its first layer, G numbers."""
        layer = self.members[0].network.hidden[1].weight.detach().cpu().numpy()
        first = self.inputs.components
        if first is None:
            return np.square(layer * np.where(self.inputs.spread > 0, self.inputs.spread, 0)).sum(0)
        found = np.square(layer[:, : len(first)] @ first).sum(0)
        residual = self.inputs.residual
        return found if residual is None else found + np.square(layer[:, len(first) :] @ residual).sum(0)

    def rough(self, inputs: np.ndarray) -> np.ndarray:
        """Positions by each network, members x n x p, in the coordinates of the reference."""
        return np.stack([each.readout.place(encoded(each.network, inputs)) for each in self.members])

    def locate(self, inputs: np.ndarray, section: np.ndarray) -> np.ndarray:
        """Give positions of spots, see `positions`; `inputs` are those of `self.inputs`."""
        if self.process is not None:
            return self.process(np.concatenate([inputs, self.rough(inputs).mean(0)], axis=1), section)
        return np.mean([each.readout(encoded(each.network, inputs), section) for each in self.members], axis=0)

    def positions(self, x: Any, section: np.ndarray | None = None) -> np.ndarray:
        """Predict positions.

        Parameters
        ----------
        x
            Expression as it was given to `fit`, n x G; columns of NaN for genes that are not known.
        section
            Codes, n; those of sections of the fit, or others (None: 0).

        Returns
        -------
        numpy.ndarray
            n x p, in the unit of the positions of the fit and the coordinates of the spot's section, or of the
            reference where that had no known spot.
        """
        section = np.zeros(x.shape[0], np.int64) if section is None else section
        return self.locate(self.inputs(x, section), section)


@dataclass
class Fitted(Model):
    """A model, and what happened in its fit.

    Attributes
    ----------
    latent
        Latent means of all spots, n x d.
    predicted
        Positions of all spots, n x p; of a known spot without its own position, unless there is one network only.
    known
        Spots whose position was used, n booleans.
    member
        Which member was not shown a spot, n; -1 for none.
    history
        Loss terms of the first network, a mapping by epoch; see `train_network`.
    tried
        What the inner validation found; None where all was set.
    warnings
        What went wrong with lambda or the latent values.
    """

    latent: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))
    predicted: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))
    known: np.ndarray = field(default_factory=lambda: np.empty(0, bool))
    member: np.ndarray = field(default_factory=lambda: np.empty(0, int))
    history: list[dict[str, float]] = field(default_factory=list)
    tried: search.Tried | None = None
    warnings: list[str] = field(default_factory=list)

    def positions(self, x: Any = None, section: np.ndarray | None = None) -> np.ndarray:
        """Predict positions, see `Model.positions`; those of the spots of the fit where no expression is given."""
        return self.predicted if x is None else super().positions(x, section)


def fit(
    x: Any,
    positions: np.ndarray,
    *,
    section: np.ndarray | None = None,
    settings: Settings | None = None,
    known: np.ndarray | None = None,
    batch: np.ndarray | None = None,
    mask: Mask | None = None,
    reference: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    tell: Callable[[str], None] = lambda text: None,
    watch: Callable[[int, int, Callable[[np.ndarray], np.ndarray]], None] | None = None,
) -> Fitted:
    """Fit a model to spots whose positions are known, and predict those of the others.

    Parameters
    ----------
    x
        Expression, n x G, a CSR matrix or an array: log-normalised, or counts for the negative binomial.
    positions
        n x p, in any unit that is the same along all axes; those that are not known are not looked at.
    section
        Codes 0 ... B-1 of what has coordinates of its own, n; None: one.
    settings
        None for the recommended ones.
    known
        Spots whose position may be used, n booleans; None for all with finite positions.
    batch
        Codes 0 ... K-1, n, of which a decoder of counts is told; None for the section.
    mask
        Makes the pairs whose distances count; None for all pairs of a section (`masks`).
    reference
        Code of the section in whose coordinates spots of sections without known ones are put; None: the one with most.
    seed, device, tell
        Seed of all random numbers, where to compute, and what is called with lines of progress.
    watch
        Called after each epoch of the first network with the epoch, the number of epochs, and what embeds some spots.

    Raises
    ------
    ValueError
        If the arrays do not belong together, too few spots are known, or a setting cannot be used.
    Diverged
        If a loss term is not finite.
    """
    settings = Settings() if settings is None else settings
    positions = np.asarray(positions, dtype=np.float64)
    section = np.zeros(len(positions), np.int64) if section is None else np.asarray(section)
    there = np.isfinite(positions).all(1)
    known = there if known is None else np.asarray(known, bool)
    _require(x, positions, section, known, there, settings)
    rows = np.flatnonzero(known)
    # one for all networks, which are not shown the same spots
    reference = int(np.bincount(section[rows]).argmax()) if reference is None else reference
    likelihood = settings.likelihood == "negative_binomial"
    inputs = Inputs.of(x, section, rows, genes=settings.genes, standardised=settings.standardised,
                       components=settings.components, counts=settings.counts,
                       residuals=settings.residuals)  # fmt: skip
    values = inputs(x, section)
    place, unit = _standardised(positions[rows], section[rows])
    told = section if batch is None else batch
    own = x[rows][:, inputs.genes] if likelihood else None
    spots = Spots(values[rows], place, section[rows], told[rows], own, rows)
    near = settings.nearest if settings.near else 0
    mask = (lambda points, codes, _number: masks.all_pairs(points, codes, near)) if mask is None else mask
    how = {"batches": int(told.max()) + 1, "device": device}
    tried = None
    if settings.alpha2 is None or settings.epochs is None:
        tried = search.choose(spots, settings, mask, unit=unit, seed=seed, tell=tell, **how)
        alpha2, epochs = tried.best
        settings = settings.but(alpha2=alpha2, epochs=epochs)
    fold = np.random.default_rng(seed).permutation(len(rows)) % settings.members
    kind = "similarity" if settings.latent == positions.shape[1] else "linear"
    place = {"sections": int(section.max()) + 1, "reference": reference}
    members, history = [], []
    for number in range(settings.members):
        shown = np.flatnonzero(fold != number) if settings.members > 1 else np.arange(len(rows))
        watched = None if watch is None or number else _watched(watch, settings.epochs, values)
        network, happened = train_network(
            spots.take(shown), settings, mask, seed=seed + number, tell=tell, watch=watched, **how
        )
        history = history or happened
        latent, at = encoded(network, spots.inputs[shown]), rows[shown]
        members.append(Member(network, Readout.of(kind, latent, positions[at], section[at], **place)))
        if settings.members > 1:
            tell(f"network {number + 1} of {settings.members}")
    found = Fitted(settings, inputs, members, unit, known=known, history=history, tried=tried)
    found.member = np.full(len(known), -1)
    if settings.members > 1:
        found.member[rows] = fold
    if settings.process:
        rough = found.rough(values)
        features = np.concatenate([values, rough.mean(0)], axis=1)
        if settings.members > 1:
            features[rows, values.shape[1] :] = rough[fold, rows]
        found.process = Readout.of("process", features[rows], positions[rows], section[rows], seed=seed, **place)
        found.predicted = found.process(features, section)
        found.predicted[rows] = found.process.without(features[rows], positions[rows], section[rows], fold)
    else:
        each = np.stack([one.readout(encoded(one.network, values), section) for one in members])
        found.predicted = each.mean(0)
        if settings.members > 1:
            found.predicted[rows] = each[fold, rows]
    found.latent = encoded(members[0].network, values)
    found.warnings = _warnings(found, settings)
    return found


def _watched(watch: Callable[..., None], epochs: int, values: np.ndarray) -> Callable[[Network, int], None]:
    return lambda network, epoch: watch(epoch, epochs, lambda rows: encoded(network, values[rows]))


def _require(
    x: Any, positions: np.ndarray, section: np.ndarray, known: np.ndarray, there: np.ndarray, settings: Settings
) -> None:
    if positions.ndim != 2 or not len(positions) == x.shape[0] == len(section) == len(known):
        raise ValueError(
            f"expression, positions, section and known have shapes {x.shape}, {positions.shape}, {section.shape} and "
            f"{known.shape}, expected as many rows"
        )
    if missing := int((known & ~there).sum()):
        raise ValueError(f"{missing} known spots have no position, expected one for each")
    if known.sum() < FEWEST:
        raise ValueError(f"{int(known.sum())} spots have a known position, expected {FEWEST} or more")
    for code in np.unique(section[known]):
        own = positions[known & (section == code)]
        if np.linalg.matrix_rank(own - own.mean(0), tol=1e-9 * np.ptp(own)) < positions.shape[1]:
            raise ValueError(
                f"the known spots of section {code} do not span {positions.shape[1]} axes: they are on a line, or a "
                "column of the positions is constant; expected positions that do"
            )
    if settings.process and settings.members < 2:
        raise ValueError(
            "members is 1, expected 2 or more: a process learns from positions by networks that did not see them"
        )
    if settings.residuals and settings.components is None:
        raise ValueError("components is null, expected a number with residuals")
    if settings.counts:
        values = x.data if hasattr(x, "indptr") else np.asarray(x)
        if np.nanmin(values, initial=0) < 0 or (values != np.rint(values))[np.isfinite(values)].any():
            raise ValueError(
                "expression is not whole numbers of 0 or more, expected counts for residuals or a negative binomial"
            )


def _standardised(positions: np.ndarray, section: np.ndarray) -> tuple[np.ndarray, float]:
    """Centre positions by section and divide them by one unit, which is returned, too."""
    centred = positions.copy()
    for code in np.unique(section):
        centred[section == code] -= positions[section == code].mean(0)
    unit = float(np.sqrt(np.square(centred).mean()))
    return centred / unit, unit


def _warnings(found: Fitted, settings: Settings) -> list[str]:
    """Say where the term of the distances is small because latent values are."""
    texts = []
    end = found.history[-1]["scale"]
    if end < DRIFT * settings.scale_start:
        texts.append(
            f"lambda fell from {settings.scale_start:.3g} to {end:.3g}: distances shrank more than they were kept; a "
            "fixed lambda (scaling), a larger alpha2 or fewer epochs may help"
        )
    size = float(np.sqrt(np.square(found.latent - found.latent.mean(0)).sum(1).mean()))
    if size < COLLAPSED:
        texts.append(f"latent values have collapsed: their root mean square is {size:.2g}, expected about 1 or more")
    return texts
