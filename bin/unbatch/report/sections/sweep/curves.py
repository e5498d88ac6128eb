"""How the methods bear a stronger batch effect: scores against each parameter that was swept."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from unbatch.report import draw
from unbatch.report.context import Report
from unbatch.report.draw import FAINT, KIND_COLOURS, OKABE_ITO
from unbatch.report.section import Page, Section, render
from unbatch.report.sweep import INTERVAL, SCORES, curve
from unbatch.report.text import cut, join, parameter, setting

_MARKS = "osD^vP*X"
_CONTROL_LINES = ["--", ":", "-.", (0, (1, 3)), (0, (6, 3, 1, 3, 1, 3))]
_PANELS_ABREAST = 2


def _pages(report: Report) -> Iterator[Page]:
    sweep = report.sweep
    parts = []
    scores = ["total", "batch", "bio"]
    for axis in sweep.swept:
        other = sweep.y if axis is sweep.x else sweep.x
        found = [curve(sweep.values[name], -2 if axis is sweep.x else -3) for name in scores]
        # line x score x panel x value
        mean, half = (np.stack([each[i] for each in found], axis=1) for i in (0, 1))
        parts.append(
            {
                "title": f"Against {axis.name}",
                "note": f"Mean over {other.name} {join(f'{v:g}' for v in other.values)}."
                if len(other.values) > 1
                else "",
                "images": [
                    curves(
                        mean[:, :, start : start + _PANELS_ABREAST],
                        half[:, :, start : start + _PANELS_ABREAST],
                        [line.label for line in sweep.lines],
                        [line.kind for line in sweep.lines],
                        [SCORES[name] for name in scores],
                        [setting(panel) for panel in sweep.panels[start : start + _PANELS_ABREAST]],
                        (axis.name, axis.values),
                    )
                    for start in range(0, len(sweep.panels), _PANELS_ABREAST)
                ],
                "alt": f"Scores of every method against {axis.name}; the numbers are in the table below.",
            }
        )
    if parts:
        yield Page("", render("sections/sweep/curves", parts=parts, interval=len(sweep.seeds) > 1 and INTERVAL))


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
        Labels and kinds of the lines.
    rows, columns
        Titles: scores and panels.
    x
        Name and values of the parameter; values are drawn at equal distances.
    """
    with draw.figure(1.2 + 4.6 * len(columns), 1.4 + 2.9 * len(rows)) as figure:
        panels = figure.subplots(len(rows), len(columns), sharex=True, sharey="row", squeeze=False)
        looks = _looks(kinds)
        # side by side, or bars would hide one another
        shifts = (np.arange(len(labels)) - (len(labels) - 1) / 2) * min(0.07, 0.5 / len(labels))
        places = np.arange(len(x[1]))
        for (row, column), axes in np.ndenumerate(panels):
            for i, look in enumerate(looks):
                y = means[i, row, column]
                axes.errorbar(
                    places + shifts[i], y, yerr=whiskers(y, halves[i, row, column]), elinewidth=1.1, capsize=0, ms=5,
                    label=cut(labels[i], 34), zorder=3 if kinds[i] == "correction" else 2, **look,
                )  # fmt: skip
            axes.set_xticks(places, [parameter(v) for v in x[1]])
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
        # as many side by side as the figure has room for, about 0.085 inches a letter
        widest = 0.7 + 0.085 * max(len(name) for name in names)
        columns_of_legend = int(np.clip(figure.get_figwidth() / widest, 1, min(4, len(names))))
        figure.legend(handles, names, loc="outside upper center", ncols=columns_of_legend, frameon=False, fontsize=10)
        return draw.svg(figure)


def whiskers(values: np.ndarray, halves: np.ndarray) -> np.ndarray:
    """Lengths of bars below and above scores, 2 x n: none lies beyond 0 and 1, as an interval over two seeds can.

    Parameters
    ----------
    values, halves
        Scores and half the widths of their intervals, NaN where there is none; n.
    """
    return np.minimum(np.nan_to_num(halves), np.maximum([values, 1 - values], 0))


def _looks(kinds: Sequence[str]) -> list[dict[str, Any]]:
    """Give every line colour, mark and dashes: lines differ without colour as well."""
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


SECTION = Section("curves", "Curves", "Scores of the methods as the batch effect gets stronger.", _pages)
