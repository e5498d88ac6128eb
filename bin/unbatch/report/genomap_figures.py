"""The panel of genomaps: arrays in, an image file as a data address out."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from unbatch.report.figures import FAINT, STYLE, png
from unbatch.report.genomap import Genomap

LOW, HIGH = -1.0, 2.0
"""Standard deviations that have the first and the last colour, as in the scMEDAL paper."""

FRAME = "#D55E00"
"""Of images of cells in their own batch."""

_CUT = 16


def panel(
    genomap: Genomap,
    stack: np.ndarray,
    columns: Sequence[str],
    cells: Sequence[str],
    marked: Sequence[int] = (),
    genes: Sequence[str] | None = None,
    own: Sequence[int] = (),
) -> str:
    """Draw cells as rows of images: what they are beside what they would be as if from each batch.

    Parameters
    ----------
    genomap
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
    images = genomap.images(stack)
    row, column = genomap.places(np.asarray(marked, dtype=int))
    names = [] if genes is None else [f"{number} {_short(genes[g])}" for number, g in enumerate(marked, 1)]
    lines = [", ".join(names[start : start + 5]) for start in range(0, len(names), 5)]
    with mpl.rc_context(STYLE | {"font.size": 8}):
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
        radius = max(0.9, genomap.side / 22)
        for i, j in np.ndindex(panels.shape):
            axes = panels[i, j]
            shown = axes.imshow(images[j, i], cmap="viridis", vmin=LOW, vmax=HIGH, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            framed = i < len(own) and own[i] == j
            for spine in axes.spines.values():
                spine.set(visible=True, color=FRAME if framed else FAINT, linewidth=2.4 if framed else 0.6)
            if i == 0:
                axes.set_title(_short(columns[j]), fontsize=8)
            if j == 0:
                axes.set_ylabel(_short(cells[i]), fontsize=8)
            for number, (y, x) in enumerate(zip(row, column, strict=True), 1):
                axes.add_patch(mpl.patches.Circle((x, y), radius, fill=False, color="#D5005E", lw=0.9, clip_on=False))
                if i == 0:
                    # beside the ring, on the side where there is room
                    side = 1 if x < genomap.side * 0.8 else -1
                    axes.annotate(
                        str(number), (x + side * radius * 1.15, y), ha="left" if side == 1 else "right", va="center",
                        fontsize=5.5, color="#FFFFFF",
                        path_effects=[mpl.patheffects.withStroke(linewidth=1.3, foreground="#000000")],
                    )  # fmt: skip
        length = min(1.25 * len(cells), 2.2)
        place = (1 - (right - 0.12) / width, 1 - (top + length) / height, 0.12 / width, length / height)
        bar = figure.colorbar(shown, cax=figure.add_axes(place), extend="both")
        bar.outline.set_visible(False)
        bar.ax.set_ylabel("standard deviations from the mean", fontsize=7)
        figure.text(left / width, 0.06 / height, "\n".join(lines), fontsize=7, va="bottom")
        return png(figure)


def _short(text: str) -> str:
    text = str(text)
    return text if len(text) <= _CUT else text[: _CUT - 1] + "…"
