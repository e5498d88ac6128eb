"""Training: terms of the loss, the inner validation, latent values over epochs, how the decoder stretches them."""

from collections.abc import Iterator

import matplotlib as mpl
import numpy as np

from unbatch.report import draw
from unbatch.report.fits.common import lines
from unbatch.report.fits.dpvae.maps import _of_place
from unbatch.report.fits.dpvae.read import Located
from unbatch.report.section import FitSection, Page, Shown, render
from unbatch.report.text import amount

_TERMS = {
    "relative": "Distance term over lambda: pitches by which distances are off",
    "distance": "Distance term: mean absolute difference",
    "scale": "Lambda: latent distance of a unit on the tissue",
    "reconstruction": "Reconstruction: misfit of a spot",
    "divergence": "Divergence: from the prior",
    "total": "Total: what is minimised",
    "validation": "Validation: error of held-out spots",
}
MAX_SNAPSHOTS = 6


def _pages(fit: Located, _shown: Shown) -> Iterator[Page]:
    if fit.history:
        yield _losses(fit)
    if fit.search and {"alpha2", "epoch"} <= fit.search.keys():
        yield _search(fit)
    if fit.snapshots is not None and len(fit.snapshots):
        content = render("fits/dpvae/snapshots", image=_snapshots(fit), epochs=len(fit.snapshot_epochs))
        yield Page("Latent values over epochs", content, "snapshots")
    if fit.ellipses and len(fit.ellipses["points"]):
        content = render(
            "fits/dpvae/ellipses",
            image=_ellipses(fit),
            condition=amount(float(np.median(fit.ellipses["condition"]))),
            spread=amount(fit.ellipses["spread"]),
        )
        yield Page("How the decoder stretches", content, "ellipses")


def _losses(fit: Located) -> Page:
    history = dict(fit.history)
    steps = history.pop("epoch", None)
    size = len(next(iter(history.values())))
    steps = np.arange(1, size + 1) if steps is None or len(steps) != size else steps
    order = [*(name for name in _TERMS if name in history), *(name for name in history if name not in _TERMS)]
    terms = {
        _TERMS.get(name, name.replace("_", " ").capitalize()): {"training": (steps, history[name])}
        for name in order
        if len(history[name]) == size
    }
    fell = None
    if "scale" in history and history["scale"][-1] < 0.5 * history["scale"][0]:
        fell = f"{amount(history['scale'][0])} to {amount(history['scale'][-1])}"
    content = render("fits/dpvae/losses", fell=fell)
    return Page("Losses by epoch", content, "losses", lines("Losses by epoch", terms, "Epoch"))


def _search(fit: Located) -> Page:
    search = fit.search
    measured = [name for name in ("random", "block") if name in search]
    titles = {"random": "Held out at random: error in pitches", "block": "Held out as a block: error in pitches"}
    terms = {}
    for name in measured:
        terms[titles[name]] = {
            f"alpha2 {alpha2:g}": (
                search["epoch"][search["alpha2"] == alpha2],
                search[name][search["alpha2"] == alpha2],
            )
            for alpha2 in np.unique(search["alpha2"])
        }
    content = render("fits/dpvae/search")
    return Page("Weight of the distances", content, "search", lines("Weight of the distances", terms, "Epoch"))


def _snapshots(fit: Located) -> str:
    """Draw latent values of some epochs, coloured by true place."""
    chosen = np.unique(np.linspace(0, len(fit.snapshots) - 1, MAX_SNAPSHOTS).round().astype(int))
    places = fit.true[fit.snapshot_spots]
    colours, _ = _of_place(places, np.array([places.min(axis=0), places.max(axis=0)]))
    with draw.figure(2.0 * len(chosen), 2.3) as figure:
        panels = figure.subplots(1, len(chosen), squeeze=False)[0]
        for axes, number in zip(panels, chosen, strict=True):
            axes.scatter(*fit.snapshots[number].T, s=3, c=colours, linewidths=0)
            axes.set_title(f"epoch {fit.snapshot_epochs[number]}", fontsize=9)
            axes.set_aspect("equal", "datalim")
            axes.set_xticks([])
            axes.set_yticks([])
        return draw.png(figure)


def _ellipses(fit: Located) -> str:
    points, halves = fit.ellipses["points"], fit.ellipses["axes"]
    # a typical one is as large as the distance between points
    apart = np.ptp(points, axis=0).max() / max(np.sqrt(len(points)), 1)
    size = 0.45 * apart / max(np.median(np.linalg.norm(halves[:, 0], axis=1)), 1e-12)
    with draw.figure(5.2, 4.6) as figure:
        axes = figure.subplots()
        for point, half in zip(points, halves, strict=True):
            long, short = np.linalg.norm(half, axis=1)
            angle = np.degrees(np.arctan2(half[0, 1], half[0, 0]))
            width, height = 2 * min(size * long, apart), 2 * min(size * short, apart)
            axes.add_patch(mpl.patches.Ellipse(point, width, height, angle=angle, facecolor="none", edgecolor=draw.INK))
        axes.set_xlim(points[:, 0].min() - apart, points[:, 0].max() + apart)
        axes.set_ylim(points[:, 1].min() - apart, points[:, 1].max() + apart)
        axes.set_aspect("equal")
        axes.set_xlabel("latent dimension 1")
        axes.set_ylabel("latent dimension 2")
        return draw.svg(figure)


SECTION = FitSection("training", "Training", "How the losses of autoencoders went, and which epoch was kept.", _pages)
