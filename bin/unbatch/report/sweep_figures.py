"""Figures of a sweep: arrays in, image files as data addresses out."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from unbatch.report import figures
from unbatch.report.figures import FAINT, KIND_COLOURS, OKABE_ITO

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKS = "osD^vP*X"
_CONTROL_LINES = ["--", ":", "-.", (0, (1, 3)), (0, (6, 3, 1, 3, 1, 3))]


def limits(values: Sequence[np.ndarray]) -> tuple[float, float]:
    """Return the ends of a colour scale for all scores of a sweep, in tenths."""
    known = np.concatenate([v[np.isfinite(v)] for v in values])
    if not known.size:
        return 0.0, 1.0
    low, high = np.floor(known.min() * 10 + 1e-9) / 10, np.ceil(known.max() * 10 - 1e-9) / 10
    return (float(low), float(high)) if high > low else (float(low), float(low) + 0.1)


def heat_maps(
    maps: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    x: tuple[str, Sequence[Any]],
    y: tuple[str, Sequence[Any]],
    scale: tuple[float, float],
) -> str:
    """Draw a grid of small heat maps on one colour scale, with the number in every cell.

    Parameters
    ----------
    maps
        row x column x y x x; NaN where there is no value.
    rows, columns
        Titles.
    x, y
        Name and values of the axes; y grows upwards.
    scale
        Ends of the colour scale.
    """
    with mpl.rc_context(figures.STYLE):
        # not narrower, as the page would blow it up
        width = np.clip(0.52 * len(x[1]) + 0.5, 2.7, 8)
        height = np.clip(0.34 * len(y[1]) + 0.55, 0.9, 6)
        figure = Figure(figsize=(0.9 + width * len(columns), 1.3 + height * len(rows)), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(len(rows), len(columns), squeeze=False)
        for (row, column), axes in np.ndenumerate(panels):
            _map(axes, maps[row, column], scale)
            axes.set_xticks(range(len(x[1])), [_text(v) for v in x[1]])
            axes.set_yticks(range(len(y[1])), [_text(v) for v in y[1]])
            axes.tick_params(length=0, labelsize=9, labelbottom=row == len(rows) - 1, labelleft=column == 0)
            if column == 0:
                axes.set_title(_cut(rows[row]), loc="left", fontsize=10.5, fontweight="bold")
                axes.set_ylabel(y[0], fontsize=9)
            if row == 0:
                axes.annotate(
                    columns[column], (0.5, 1), xytext=(0, 24), xycoords="axes fraction", textcoords="offset points",
                    ha="center", size=11.5,
                )  # fmt: skip
            if row == len(rows) - 1:
                axes.set_xlabel(x[0], fontsize=9)
        bar = figure.colorbar(
            mpl.cm.ScalarMappable(mpl.colors.Normalize(*scale), "viridis"), ax=panels, location="bottom",
            fraction=0.35 / figure.get_figheight(), aspect=30, shrink=0.5,
        )  # fmt: skip
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=9)
        return figures.svg(figure)


def _map(axes: "Axes", values: np.ndarray, scale: tuple[float, float]) -> None:
    norm, colours = mpl.colors.Normalize(*scale, clip=True), mpl.colormaps["viridis"]
    for (y, x), value in np.ndenumerate(values):
        known = np.isfinite(value)
        fill = colours(norm(value)) if known else "#F0F2F4"
        bright = not known or np.dot(fill[:3], [0.299, 0.587, 0.114]) > 0.5
        axes.add_patch(mpl.patches.Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=fill, edgecolor="white", lw=0.8))
        text = f"{value:.2f}".removeprefix("0") if known else "–"
        axes.text(x, y, text, ha="center", va="center", size=8.5, color="black" if bright else "white")
    axes.set_xlim(-0.5, values.shape[1] - 0.5)
    axes.set_ylim(-0.5, values.shape[0] - 0.5)
    axes.spines[:].set_visible(False)


def curves(
    means: np.ndarray,
    halves: np.ndarray,
    labels: Sequence[str],
    kinds: Sequence[str],
    rows: Sequence[str],
    columns: Sequence[str],
    x: tuple[str, Sequence[Any]],
) -> str:
    """Draw scores against a parameter: a line per method, bars for the interval, what corrects nothing in grey.

    Parameters
    ----------
    means, halves
        line x row x column x x: the score, and half the width of its interval; NaN where there is none.
    labels, kinds
        Of the lines.
    rows, columns
        Titles: scores and panels.
    x
        Name and values of the parameter; values are drawn at equal distances.
    """
    with mpl.rc_context(figures.STYLE):
        figure = Figure(figsize=(1.2 + 4.6 * len(columns), 1.4 + 2.9 * len(rows)), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(len(rows), len(columns), sharex=True, sharey="row", squeeze=False)
        looks = _looks(kinds)
        # side by side, so that no bar hides another
        shifts = (np.arange(len(labels)) - (len(labels) - 1) / 2) * min(0.07, 0.5 / len(labels))
        places = np.arange(len(x[1]))
        for (row, column), axes in np.ndenumerate(panels):
            for i, look in enumerate(looks):
                y = means[i, row, column]
                axes.errorbar(
                    places + shifts[i], y, yerr=whiskers(y, halves[i, row, column]), elinewidth=1.1, capsize=0, ms=5,
                    label=_cut(labels[i], 34), zorder=3 if kinds[i] == "correction" else 2, **look,
                )  # fmt: skip
            axes.set_xticks(places, [_text(v) for v in x[1]])
            axes.grid(axis="y", color="#EEF1F4", lw=1)
            axes.set_axisbelow(True)
            axes.tick_params(color=FAINT, labelsize=9.5)
            if row == 0:
                axes.set_title(columns[column], fontsize=11.5)
            if row == len(rows) - 1:
                axes.set_xlabel(x[0])
            if column == 0:
                axes.set_ylabel(rows[row])
        handles, names = panels[0, 0].get_legend_handles_labels()
        # as many side by side as the figure has room for, about .085 inches a letter
        widest = 0.7 + 0.085 * max(len(name) for name in names)
        beside = int(np.clip(figure.get_figwidth() / widest, 1, min(4, len(names))))
        figure.legend(handles, names, loc="outside upper center", ncols=beside, frameon=False, fontsize=10)
        return figures.svg(figure)


def whiskers(values: np.ndarray, halves: np.ndarray) -> np.ndarray:
    """Lengths of bars below and above scores, 2 x n: none lies beyond 0 and 1, as an interval over two seeds can.

    Parameters
    ----------
    values, halves
        Scores and half the widths of their intervals, NaN where there is none; n.
    """
    return np.minimum(np.nan_to_num(halves), np.maximum([values, 1 - values], 0))


def _looks(kinds: Sequence[str]) -> list[dict[str, Any]]:
    """Give every line colour, mark and dashes, so that lines differ without colour as well."""
    looks, corrections, others = [], 0, 0
    for kind in kinds:
        if kind == "correction":
            turn = corrections // len(OKABE_ITO)
            colour, mark = OKABE_ITO[corrections % len(OKABE_ITO)], _MARKS[(corrections + turn) % len(_MARKS)]
            looks.append({"color": colour, "marker": mark, "ls": "-" if turn == 0 else "--", "lw": 1.8})
            corrections += 1
        else:
            colour = KIND_COLOURS["control"] if others % 2 == 0 else FAINT
            style = _CONTROL_LINES[others % len(_CONTROL_LINES)]
            looks.append({"color": colour, "marker": "", "ls": style, "lw": 1.4})
            others += 1
    return looks


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _cut(text: str, length: int = 28) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
