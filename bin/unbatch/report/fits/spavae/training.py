"""How the losses of a spaVAE went, which epoch was kept, and the inducing points of its processes."""

from collections.abc import Iterator

import matplotlib as mpl
import numpy as np

from unbatch.report.fits.common import TRAINING, lines
from unbatch.report.fits.spavae.drawing import SPOT, Tissue
from unbatch.report.fits.spavae.read import Inducing, Spatial
from unbatch.report.section import FitSection, Page, Shown, render
from unbatch.report.text import parameter, plain, share

_TERMS = {
    "counts": "Counts: minus log likelihood a spot",
    "field": "Processes: divergence a spot",
    "gaussian": "Other dimensions: divergence a spot",
    "noise": "Noise: change of the processes",
    "beta": "beta: weight of the divergences",
    "bound": "Score: counts and divergences at beta 1",
    "validation_bound": "Score: the same on validation spots",
}
MARK = "#D55E00"
"""Colour of inducing points."""
MOST = 6
"""Sections whose inducing points are drawn."""


def _pages(fit: Spatial, shown: Shown) -> Iterator[Page]:
    if fit.history:
        order = [
            *(name for name in _TERMS if name in fit.history),
            *(name for name in fit.history if name not in _TERMS),
        ]
        terms = {}
        for name in order:
            values = np.asarray(fit.history[name], dtype=float)
            terms[plain(_TERMS.get(name, name))] = {"spaVAE": (np.arange(1, len(values) + 1), values)}
        epochs = len(next(iter(fit.history.values())))
        content = render(
            "fits/spavae/training",
            best=fit.best,
            epochs=epochs,
            counts=_fall(fit.history.get("counts"), fit.best),
            validation="validation_bound" in fit.history,
            beta=_range(fit.history.get("beta")),
        )
        yield Page("Losses by epoch", content, "losses", lines("Losses by epoch", terms, "Epoch", {"spaVAE": fit.best}))
    if fit.inducing is not None and shown.cells.positions is not None:
        yield Page("Inducing points", _inducing(fit.inducing, shown), "inducing")


def _fall(values: np.ndarray | None, best: int) -> str | None:
    """Say by how much a term fell in the last fifth of the epochs up to the best one, as a share of its value."""
    if values is None or best < 5:
        return None
    before, after = float(values[best - 1 - best // 5]), float(values[best - 1])
    return share(max(before - after, 0) / abs(before)) if before else None


def _range(values: np.ndarray | None) -> str | None:
    if values is None:
        return None
    low, high = (parameter(float(f"{each:.3g}")) for each in (np.min(values), np.max(values)))
    return low if low == high else f"{low} to {high}"


def _inducing(found: Inducing, shown: Shown) -> str:
    tissue = Tissue.of(shown.cells, MOST, shown.seed)
    starts = np.concatenate([[0], np.cumsum(found.points)]).astype(int)
    rows, panels = [], []
    for code, name in enumerate(found.sections):
        rows.append(
            {
                "name": name,
                "points": int(found.points[code]),
                "residual": share(float(found.residual[code])),
                "largest": share(float(found.largest[code])),
                "scale": parameter(float(f"{found.scale[code]:.3g}")),
                "needed": int(found.needed[code]),
            }
        )
        if name not in tissue.names:
            continue
        own = tissue.names.index(name)
        if own in tissue.members:
            marked = tissue.placed(found.position[starts[code] : starts[code + 1]])
            image = tissue.around(own, marked, np.tile(mpl.colors.to_rgba(MARK), (len(marked), 1)))
            panels.append(
                {
                    "title": name,
                    "note": f"{len(marked)} points",
                    "image": image,
                    "alt": f"Inducing points on section {name}",
                }
            )
    enough = all(0 < row["needed"] <= row["points"] for row in rows)
    return render(
        "fits/spavae/inducing",
        rows=rows,
        panels=panels,
        tolerance=share(found.tolerance),
        enough=enough,
        caption=tissue.caption,
        mark=MARK,
        spot=SPOT,
    )


SECTION = FitSection(*TRAINING, _pages)
