"""What is found of a fitted dp-VAE: positions by anchors, tables, errors between sections, latent values by epoch."""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from unbatch.data.cells import Cells

if TYPE_CHECKING:
    from unbatch.methods.dpvae import Params
    from unbatch.models.dpvae import Fitted, Settings

log = logging.getLogger("unbatch")

EPOCHS, SPOTS = 12, 800
"""Epochs and spots whose latent values are kept, at most."""
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


def evaluated(
    fitted: "Fitted", cells: Cells, params: "Params", found: np.ndarray, place: np.ndarray, part: np.ndarray, seed: int
) -> dict[str, Any]:
    """Compare with simpler methods, give radii, and say which spots are unlike the known ones."""
    from unbatch.positions import baselines, evaluation

    x = baselines.standardised(cells.X[:, fitted.inputs.genes], cells.section)
    # positions of latent distances are others than those of known spots, by whose errors radii would be made
    fresh = fitted.settings.members > 1 and params.reconstruction == "readout"
    tables = evaluation.evaluate(
        x, place, found, cells.section, part == "known", sections=cells.sections, latent=fitted.latent,
        out_of_fold=fresh, genes=fitted.inputs.genes, frames=fitted.frames, anchors=part == "anchor", seed=seed,
    )  # fmt: skip
    far = int((tables["distance"] > tables["far"]).sum())
    if far > 0.05 * len(cells):
        log.warning(
            "%s: the expression of %d spots is unlike that of the known ones; their positions are guesses",
            cells.name,
            far,
        )
    slots = {f"uns/{name}": value for name, value in tables.items() if name != "radii"}
    if "radii" in tables:
        slots["obsm/X_dpvae_radii"] = tables["radii"]
    # a decoder of counts is given library size and batch, and an ellipse has two axes
    if fitted.settings.likelihood == "gaussian" and fitted.latent.shape[1] == 2:
        slots["uns/ellipses"] = _ellipses(fitted)
    return slots


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
