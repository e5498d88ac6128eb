"""Cells as if from each batch as genomaps, and the genes that batches change most."""

from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from unbatch.report import draw, genomap
from unbatch.report.fits.scmedal.read import WAYS, Autoencoders, Panel
from unbatch.report.section import FitSection, Page, Shown, render
from unbatch.report.text import cut

SHOWN_CELLS, SHOWN_BATCHES, MARKED = 6, 6, 10
"""Rows and batches of the panel, and genes that are circled in it."""
TOP_GENES = 6
"""Genes of a label that are listed."""
LOW, HIGH = -1.0, 2.0
"""Standard deviations that have the first and the last colour, as in the scMEDAL paper."""
FRAME = "#D55E00"
"""Colour around images of cells in their own batch."""


def _pages(fit: Autoencoders, _shown: Shown) -> Iterator[Page]:
    found = fit.panel
    if found is None:
        return
    shown = range(min(found.medoids, SHOWN_CELLS))
    chosen = _batches(found, [found.own[i] for i in shown])
    fixed = [] if found.fixed is None else [found.fixed]
    stack = genomap.standardise(np.stack([found.input, *fixed, *found.random]))
    places = genomap.fit_genomap(stack)
    first = 1 + len(fixed)
    several = len(found.batches) > 1
    marked = genomap.top_genes(stack[first:], MARKED).tolist() if several else []
    columns = ["input", *(["fixed effects"] if fixed else []), *(f"as {found.batches[code]}" for code in chosen)]
    blocks = [*range(first), *(first + code for code in chosen)]
    own = [first + chosen.index(code) if (code := _code(found, i)) in chosen else -1 for i in shown]
    image = draw_panel(
        places,
        stack[np.ix_(blocks, list(shown))],
        columns,
        [found.labels[i] or found.own[i] for i in shown],
        marked,
        found.genes,
        own,
    )
    content = render(
        "fits/scmedal/genomaps",
        image=image,
        way=WAYS.get(found.way, found.way),
        published=found.way == "published",
        fixed=bool(fixed),
        genes=f"{len(found.genes):,}",
        stack=f"{len(found.labels):,}",
        shown=[{"label": found.labels[i] or "no label", "batch": found.own[i]} for i in shown],
        omitted=len(found.batches) - len(chosen),
        rows=_changed(found) if several else [],
    )
    yield Page("Genomaps of cells as if from each batch", content)


def _code(found: Panel, cell: int) -> int:
    """Batch of a cell among those that cells were put into, -1 for another one."""
    return found.batches.index(found.own[cell]) if found.own[cell] in found.batches else -1


def _batches(found: Panel, first: list[str]) -> list[int]:
    """Choose the batches to show: those of the cells that are shown first, in the order of all."""
    own = [found.batches.index(name) for name in dict.fromkeys(first) if name in found.batches]
    others = [code for code in range(len(found.batches)) if code not in own]
    return sorted([*own, *others][:SHOWN_BATCHES])


def _changed(found: Panel) -> list[dict[str, Any]]:
    """List by label the genes with the largest standard deviation over the batches, mean over the cells kept of it."""
    rows = []
    for label in dict.fromkeys(found.labels):
        cells = np.array([each == label for each in found.labels])
        moved = found.random[:, cells]
        spread = moved.std(axis=0, ddof=1).mean(axis=0)
        mean = moved.mean(axis=1)
        top = [g for g in genomap.top_genes(moved, TOP_GENES) if spread[g] > 0]
        rows.append(
            {
                "label": label,
                "cells": f"{int(cells.sum()):,}",
                "genes": [
                    {
                        "name": found.genes[g],
                        "sd": f"{spread[g]:.2f}" if spread[g] >= 0.0095 else f"{spread[g]:.1g}",
                        "high": found.batches[int(mean[:, g].argmax())],
                        "low": found.batches[int(mean[:, g].argmin())],
                    }
                    for g in top
                ],
            }
        )
    return rows


def draw_panel(
    places: genomap.Genomap,
    stack: np.ndarray,
    columns: Sequence[str],
    cells: Sequence[str],
    marked: Sequence[int] = (),
    genes: Sequence[str] | None = None,
    own: Sequence[int] = (),
) -> str:
    """Draw cells as rows of images: what they are, and what they would be as if from each batch.

    Parameters
    ----------
    places
        Fitted to the stack that all of this is from.
    stack
        Standardised values, columns x cells x G: input, reconstruction, projections.
    columns
        What each block of the stack is.
    cells
        What each cell is, its type for instance.
    marked
        Indices of genes to circle and number, in the order of the numbers.
    genes
        Names of all G genes, for the list of those that are marked.
    own
        Column of each cell in which it is in its own batch, which is framed; -1 for none.

    Raises
    ------
    ValueError
        If the stack has not the shape that the names ask for.
    """
    stack = np.asarray(stack)
    if stack.shape[:2] != (len(columns), len(cells)):
        raise ValueError(
            f"the stack has shape {stack.shape}, expected {len(columns)} columns x {len(cells)} cells x genes"
        )
    images = places.images(stack)
    row, column = places.places(np.asarray(marked, dtype=int))
    names = [] if genes is None else [f"{number} {_name(genes[g])}" for number, g in enumerate(marked, 1)]
    lines = [", ".join(names[start : start + 5]) for start in range(0, len(names), 5)]
    with mpl.rc_context(draw.STYLE | {"font.size": 8}):
        # inches; placed by hand, as matplotlib's layout takes as long again as the drawing
        left, right, top, bottom = 0.3, 0.8, 0.3, 0.12 + 0.15 * len(lines)
        width, height = 1.25 * len(columns) + left + right, 1.25 * len(cells) + top + bottom
        figure = Figure(figsize=(width, height), dpi=160)
        FigureCanvasAgg(figure)
        frame = {"left": left / width, "right": 1 - right / width, "top": 1 - top / height, "bottom": bottom / height}
        panels = figure.subplots(
            len(cells), len(columns), squeeze=False, gridspec_kw={**frame, "wspace": 0.06, "hspace": 0.06}
        )
        # wide enough a ring for any number of pixels, and a little wider than one
        radius = max(0.9, places.side / 22)
        for i, j in np.ndindex(panels.shape):
            axes = panels[i, j]
            shown = axes.imshow(images[j, i], cmap="viridis", vmin=LOW, vmax=HIGH, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            framed = i < len(own) and own[i] == j
            for spine in axes.spines.values():
                spine.set(visible=True, color=FRAME if framed else draw.FAINT, linewidth=2.4 if framed else 0.6)
            if i == 0:
                axes.set_title(_name(columns[j]), fontsize=8)
            if j == 0:
                axes.set_ylabel(_name(cells[i]), fontsize=8)
            for number, (y, x) in enumerate(zip(row, column, strict=True), 1):
                axes.add_patch(mpl.patches.Circle((x, y), radius, fill=False, color="#D5005E", lw=0.9, clip_on=False))
                if i == 0:
                    # next to the ring, on the side where there is room
                    side = 1 if x < places.side * 0.8 else -1
                    axes.annotate(
                        str(number), (x + side * radius * 1.15, y), ha="left" if side == 1 else "right", va="center",
                        fontsize=5.5, color="#FFFFFF",
                        path_effects=[mpl.patheffects.withStroke(linewidth=1.3, foreground="#000000")],
                    )  # fmt: skip
        length = min(1.25 * len(cells), 2.2)
        spot = (1 - (right - 0.12) / width, 1 - (top + length) / height, 0.12 / width, length / height)
        bar = figure.colorbar(shown, cax=figure.add_axes(spot), extend="both")
        bar.outline.set_visible(False)
        bar.ax.set_ylabel("standard deviations from the mean", fontsize=7)
        figure.text(left / width, 0.06 / height, "\n".join(lines), fontsize=7, va="bottom")
        return draw.png(figure)


def _name(text: str) -> str:
    return cut(text, 16)


SECTION = FitSection(
    "genomap", "Genomaps", "Cells as images with a pixel per gene: as observed, and as if from each batch.", _pages
)
