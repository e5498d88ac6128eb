"""Genes on true and on predicted positions, in tiles."""

from collections.abc import Iterator

import numpy as np

from unbatch.report import draw
from unbatch.report.fits.dpvae.read import Genes, Located
from unbatch.report.section import Page, Shown, render
from unbatch.report.text import cut, decimals

PATTERNED = 0.1
"""Moran's I above which a gene has a pattern that could be put in the right place."""


def pages(fit: Located, _shown: Shown) -> Iterator[Page]:
    """Show the genes, where the fit has them."""
    found = fit.genes
    if found is None or not found.sections:
        return
    parts = []
    for place, section in enumerate(found.sections):
        patterned = found.moran[place] > PATTERNED
        known = found.correlation[place][patterned & np.isfinite(found.correlation[place])]
        parts.append(
            {
                "title": section,
                "patterned": f"{int(patterned.sum()):,}",
                "all": f"{found.moran.shape[1]:,}",
                "median": decimals(float(np.median(known))) if len(known) else None,
                "image": _tiles(found, place),
                "alt": f"Genes of section {section} by true and by predicted position",
            }
        )
    yield Page("Genes where they belong", render("fits/dpvae/genes", parts=parts, limit=PATTERNED), "genes")


def _tiles(found: Genes, place: int) -> str:
    """Draw two rows of tiles: above by true, below by predicted position; the last column counts spots."""
    names = found.names[place]
    with draw.figure(1.45 * (len(names) + 1), 3.3) as figure:
        panels = figure.subplots(2, len(names) + 1, squeeze=False)
        for gene, name in enumerate(names):
            pair = found.true[place, gene], found.predicted[place, gene]
            values = np.concatenate([each[np.isfinite(each)] for each in pair])
            low, high = np.percentile(values, (2, 98)) if len(values) else (0, 1)
            for row, values in enumerate(pair):
                _tile(panels[row, gene], values, low, high)
            panels[0, gene].set_title(cut(name, 16), fontsize=9 if len(name) < 12 else 7)
        for row, counts in enumerate(found.spots[place]):
            _tile(panels[row, -1], np.where(counts > 0, counts, np.nan), 0, max(np.max(found.spots[place]), 1))
        panels[0, -1].set_title("spots", fontsize=9)
        for row, label in enumerate(("true", "predicted")):
            panels[row, 0].set_ylabel(label, fontsize=10)
        return draw.svg(figure)


def _tile(axes, values: np.ndarray, low: float, high: float) -> None:  # noqa: ANN001
    # the first axis of the tiles runs to the right as in the maps, the second downwards
    axes.imshow(values.T, cmap="viridis", vmin=low, vmax=max(high, low + 1e-9), interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
