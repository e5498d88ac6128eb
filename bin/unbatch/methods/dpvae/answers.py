"""What is found of a fitted dp-VAE: positions by anchors, tables, errors between sections, latent values by epoch."""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from unbatch.contract import SavedModel
from unbatch.data.cells import Cells

if TYPE_CHECKING:
    from unbatch.methods.dpvae import Params
    from unbatch.models.dpvae import Fitted, Model, Settings
    from unbatch.models.dpvae.model import Mask
    from unbatch.positions.conformal import Calibration, Radii

log = logging.getLogger("unbatch")

EPOCHS, SPOTS = 12, 800
"""Epochs and spots whose latent values are kept, at most."""
OWN, ACROSS, OTHER = "own section", "sections that were left out", "another section"
"""Whose errors the radii of a section are made of."""
MANY_FAR = 0.05
"""Share of the spots that are unlike the known ones above which a warning says so."""
FEW = 30
"""Spots of a new section below which its own means and deviations are not worth using, as in the model's inputs."""
LEAST = 100
"""Known spots of a section from which alone positions of others are learnt."""


def reconstructed(
    fitted: "Fitted", latent: np.ndarray, predicted: np.ndarray, place: np.ndarray, section: np.ndarray,
    part: np.ndarray, params: "Params", seed: int,
) -> np.ndarray:  # fmt: skip
    """Place sections by their anchors, and spots by latent distances where that is asked for; in pitches."""
    from unbatch.models.dpvae import reconstruct
    from unbatch.models.dpvae.reconstruction import from_anchors

    found = predicted.copy()
    for code in np.unique(section):
        mine = np.flatnonzero(section == code)
        known = np.flatnonzero(part[mine] == "known")
        fixed = known if len(known) else np.flatnonzero(part[mine] == "anchor")
        wanted = params.anchors is not None or params.anchor_column is not None
        if params.reconstruction == "readout":
            if not len(known) and wanted:
                found[mine] = from_anchors(predicted[mine], (fixed, place[mine][fixed]))
        elif len(known) < len(mine) and (len(fixed) or wanted):
            anchors = fixed, place[mine][fixed]
            held = params.gamma if params.reconstruction == "stress" else None
            new = reconstruct(
                latent[mine],
                fitted.scale,
                anchors,
                method=params.reconstruction,
                gamma=held,
                axes=place.shape[1],
                seed=seed,
            )
            others = np.setdiff1d(np.arange(len(mine)), known)
            found[mine[others]] = new[others]
    return found


def about(fitted: "Fitted", cells: Cells, part: np.ndarray, place: np.ndarray) -> dict[str, Any]:
    """Give what was chosen, the terms of the loss by epoch, and which spots were anchors."""
    history = {name: np.array([row[name] for row in fitted.history]) for name in fitted.history[0]}
    settings = fitted.settings
    slots: dict[str, Any] = {
        "uns/part": part.astype(str),
        "uns/history": history,
        "uns/settings": {
            "alpha2": settings.alpha2,
            "epochs": settings.epochs,
            "genes": len(fitted.inputs.genes),
            "latent": settings.latent,
            "members": settings.members,
            "likelihood": settings.likelihood,
            "scale": fitted.scale,
            "reference": cells.sections[fitted.members[0].readout.frames.reference],
        },
    }
    if fitted.tried is not None:
        slots["uns/search"] = {name: getattr(fitted.tried, name) for name in ("alpha2", "epoch", "random", "block")}
    if (part == "anchor").any():
        chosen = np.flatnonzero(part == "anchor")
        slots["uns/anchors"] = {"cells": chosen, "positions": cells.coordinates[chosen]}
    log.info("alpha2 %.4g, %d epochs, lambda %.3g per pitch", settings.alpha2, settings.epochs, fitted.scale)
    return slots


def elsewhere(
    fitted: "Fitted", cells: Cells, x: Any, place: np.ndarray, mask: "Mask | None", seed: int, device: str
) -> "tuple[Calibration, ...]":
    """Learn radii for other sections, of errors in known sections that were left out; nothing where there is one only.

    A new section has the largest of these radii: they differ more between sections than spots of one section tell.
    """
    from unbatch.models import dpvae
    from unbatch.positions import conformal

    found = dpvae.left_out(
        x, place, section=cells.section, group=_groups(cells, fitted.known), fitted=fitted, batch=cells.batch,
        mask=mask, seed=seed, device=device, tell=log.info,
    )  # fmt: skip
    enough = ((predicted, true) for predicted, true in found if len(predicted) >= conformal.FEWEST)
    return tuple(conformal.calibrate(predicted, true, seed) for predicted, true in enough)


def has_radii(fitted: "Fitted", params: "Params") -> bool:
    """Tell whether known spots have positions by which radii can be made."""
    # positions of latent distances are others than those of known spots, by whose errors radii would be made
    return fitted.settings.members > 1 and params.reconstruction == "readout"


def _groups(cells: Cells, known: np.ndarray) -> np.ndarray:
    """Say what is left out together: a batch where batches, such as donors, hold several sections; else a section."""
    pairs = np.unique(np.stack([cells.section, cells.batch])[:, known], axis=1)
    whole = len(np.unique(pairs[0])) == pairs.shape[1]
    return cells.batch if whole and 1 < len(np.unique(pairs[1])) < pairs.shape[1] else cells.section


def evaluated(
    fitted: "Fitted",
    cells: Cells,
    params: "Params",
    found: np.ndarray,
    place: np.ndarray,
    part: np.ndarray,
    across: "tuple[Calibration, ...]",
    seed: int,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Compare with simpler methods, give radii, and say which spots are unlike the known ones.

    Also gives what a saved model needs for radii and distances of other spots; radii across sections are `across`.
    """
    from unbatch.positions import baselines, evaluation

    x = baselines.standardised(cells.X[:, fitted.inputs.genes], cells.section)
    fresh = has_radii(fitted, params)
    tables = evaluation.evaluate(
        x, place, found, cells.section, part == "known", sections=cells.sections, latent=fitted.latent,
        out_of_fold=fresh, genes=fitted.inputs.genes, frames=fitted.frames, anchors=part == "anchor",
        elsewhere=across, seed=seed,
    )  # fmt: skip
    familiar, calibration = tables.pop("familiar"), tables.pop("calibration", None)
    _tell_far(cells, tables["distance"] > tables["far"])
    known = np.flatnonzero(part == "known")
    mean, spread = moments(cells.X[known][:, fitted.inputs.genes])
    kept = {f"familiar.{name}": value for name, value in familiar.weights.items()} | {"mean": mean, "spread": spread}
    if calibration is not None:
        kept |= {f"radii.{name}": value for name, value in calibration.weights.items()}
    slots = {f"uns/{name}": value for name, value in tables.items() if name != "radii"}
    if calibration is not None:
        slots["obsm/X_dpvae_radii"] = tables["radii"]
        slots["uns/radii_from"] = _sources(calibration, cells)
    # a decoder of counts is given library size and batch, and an ellipse has two axes
    if fitted.settings.likelihood == "gaussian" and fitted.latent.shape[1] == 2:
        slots["uns/ellipses"] = _ellipses(fitted)
    return slots, {f"trust.{name}": value for name, value in kept.items()}


def trusted(
    model: "Model",
    saved: SavedModel,
    cells: Cells,
    logs: Any,
    place: np.ndarray,
    section: np.ndarray,
) -> dict[str, Any]:
    """Give radii and distances to the training expression by what a saved model keeps of its own spots.

    Parameters
    ----------
    model, saved
        The model, as networks and as read.
    cells
        The spots.
    logs
        Their log-normalised expression of the genes of the model's fit, NaN where one is missing, n x G.
    place
        Their positions in pitches.
    section
        Codes of their sections, which are those of the model or beyond.

    Raises
    ------
    ValueError
        If the arrays are damaged.
    """
    from unbatch.positions import baselines, conformal, novelty

    kept = _below(saved.weights, "trust.")
    if not kept:
        log.warning(
            "%s: the model was written by a version that kept neither radii nor the training expression with it; there "
            "are no radii and no distances, which a model that is fitted anew has",
            saved.folder,
        )
        return {}
    found, radii = novelty.Familiar.from_weights(_below(kept, "familiar.")), _below(kept, "radii.")
    x = baselines.standardised(logs[:, model.inputs.genes], section)
    # what is too few for moments of its own has those of the training spots
    for code in np.unique(section):
        mine = section == code
        if mine.sum() < FEW:
            own = logs[mine][:, model.inputs.genes]
            own = own.toarray() if hasattr(own, "toarray") else own
            x[mine] = (own - kept["mean"]) / np.where(kept["spread"] > 0, kept["spread"], np.inf)
    distance = found.distance(np.nan_to_num(x, nan=0.0))
    slots: dict[str, Any] = {"uns/distance": distance, "uns/far": found.far}
    _tell_far(cells, distance > found.far)
    if not radii:
        log.info("%s: the model has no radii: its known spots were predicted with their own positions", saved.folder)
        return slots
    calibration = conformal.Radii.from_weights(radii)
    slots["obsm/X_dpvae_radii"] = calibration.radii(place, section)
    slots["uns/radii_from"] = _sources(calibration, cells, section)
    if not calibration.elsewhere and (slots["uns/radii_from"] == OTHER).any():
        log.warning(
            "%s: radii of sections that the model has not seen are those of errors within a section, too small as a "
            "rule; a model that is fitted to two sections or more has radii for others",
            cells.name,
        )
    return slots


def _below(arrays: dict[str, Any], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): np.array(each) for name, each in arrays.items() if name.startswith(prefix)}


def moments(x: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each column of a sparse or dense matrix."""
    mean = np.asarray(x.mean(axis=0), dtype=np.float64).ravel()
    squares = np.asarray((x.multiply(x) if hasattr(x, "multiply") else np.square(x)).mean(axis=0), np.float64).ravel()
    return mean, np.sqrt(np.maximum(squares - mean**2, 0))


def _sources(calibration: "Radii", cells: Cells, section: np.ndarray | None = None) -> np.ndarray:
    """Say for each section of the cells whose errors its radii are made of; codes are those of the calibration."""
    code = cells.section if section is None else section
    first = [int(code[cells.section == number][0]) for number in range(len(cells.sections))]
    other = ACROSS if calibration.elsewhere else OTHER
    return np.array([OWN if each in calibration.own else other for each in first], dtype=object)


def _tell_far(cells: Cells, far: np.ndarray) -> None:
    if far.sum() > MANY_FAR * len(far):
        log.warning(
            "%s: the expression of %d spots is unlike that of the known ones; their positions are guesses",
            cells.name,
            int(far.sum()),
        )


def _ellipses(fitted: "Fitted") -> dict[str, Any]:
    """Say how the first decoder stretches the latent space."""
    import torch

    from unbatch.positions.isometry import ellipses

    network = fitted.members[0].network

    def decode(latent: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            given = torch.as_tensor(latent, dtype=torch.float32, device=network.log_scale.device)
            return network.decode(given).cpu().numpy()

    return dict(vars(ellipses(decode, fitted.latent)))


class Snapshots:
    """Latent values of some spots by epoch of the first network: a dozen epochs, denser at first.

    Parameters
    ----------
    spots
        Number of spots, of which 800 at most are drawn.
    seed
        Seed of what is drawn.
    """

    def __init__(self, spots: int, seed: int) -> None:
        self.spots = np.sort(np.random.default_rng(seed).permutation(spots)[:SPOTS])
        self.epochs: list[int] = []
        self.latent: list[np.ndarray] = []

    def __call__(self, epoch: int, epochs: int, embed: Callable[[np.ndarray], np.ndarray]) -> None:
        """Keep what `embed` gives for the spots, if the epoch is one of those that are kept."""
        if epoch in np.unique(np.round(np.geomspace(1, epochs, EPOCHS)).astype(int)):
            self.epochs.append(epoch)
            self.latent.append(embed(self.spots))

    def slots(self) -> dict[str, Any]:
        """Give the slot of the fit; none where the latent space has not two dimensions, as it could not be drawn."""
        if not self.latent or self.latent[0].shape[1] != 2:
            return {}
        table = {"epoch": np.array(self.epochs), "spots": self.spots, "latent": np.stack(self.latent)}
        return {"uns/snapshots": table}


def transfer(
    cells: Cells, x: Any, place: np.ndarray, known: np.ndarray, settings: "Settings", seed: int, device: str
) -> dict[str, np.ndarray]:
    """Fit four fifths of each section alone, and predict the other fifth and all other sections.

    Returns
    -------
    dict
        Columns train, test, method, disparity (Procrustes') and rmse (pitches, after the best rotation and shift, as
        each section has coordinates of its own).
    """
    from unbatch.metrics.spatial import disparity, position_errors, similarity
    from unbatch.models import dpvae
    from unbatch.positions.splits import random_split

    held = random_split(cells.section, seed=seed)
    rows: list[tuple[str, str, str, float, float]] = []
    for code, name in enumerate(cells.sections):
        own = known & (cells.section == code) & ~held
        if own.sum() < LEAST:
            log.info("%s: section %s has %d known spots, too few to learn from alone", cells.name, name, own.sum())
            continue
        alone = dpvae.fit(
            x, np.where(own[:, None], place, np.nan), section=cells.section, settings=settings, known=own,
            batch=cells.batch, seed=seed, device=device,
        )  # fmt: skip
        for other, test in enumerate(cells.sections):
            there = (cells.section == other) & (held if other == code else True)
            found, true = alone.predicted[there], place[there]
            aligned = found if other == code else similarity(found, true)(found)
            rows.append((name, test, "dpvae", disparity(found, true), position_errors(aligned, true).rmse))
    if not rows:
        return {}
    names = ("train", "test", "method", "disparity", "rmse")
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    kinds = {name: float if name in ("disparity", "rmse") else object for name in names}
    return {"uns/transfer": {name: np.array(values, dtype=kinds[name]) for name, values in columns.items()}}
