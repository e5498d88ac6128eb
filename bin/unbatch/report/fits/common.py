"""What sections about fits have in common."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from unbatch.report import draw
from unbatch.report.read import Cells
from unbatch.report.section import MAX_TISSUES

EFFECT = (
    "effect",
    "The batch effect, gene by gene",
    "What differs between the batches, how sure that is, and what was refused.",
)
"""Section to which several families belong: id, title and one sentence."""

Z90 = 1.645
"""Standard errors on each side of an interval that holds the truth in 90 of 100 cases."""

OPEN_ROWS = 20
"""Rows of a table, and batches described in words, that are seen before anything is unfolded."""


def surest(size: np.ndarray, se: np.ndarray) -> np.ndarray:
    """Order by what is left of a size at the near end of its interval: first what is surely large.

    Parameters
    ----------
    size, se
        Sizes, 0 or more, and their standard errors.
    """
    return np.argsort(-(size - Z90 * np.nan_to_num(se)), kind="stable")


def shown_batches(batches: list[str], cells: Cells) -> tuple[list[int], list[str], str]:
    """Batches to show one by one, the colour of each, and what is said of those left out."""
    shown = list(range(len(batches)))[:MAX_TISSUES]
    colour = dict(zip(cells.batches, draw.legend(cells.batches).colours, strict=True))
    omitted = f" The first {len(shown)} of {len(batches)} batches." if len(shown) < len(batches) else ""
    return shown, [colour.get(batches[t], draw.FAINT) for t in shown], omitted


def lines(
    title: str,
    terms: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]],
    step: str,
    marks: Mapping[str, Mapping[str, int]] | None = None,
) -> dict[str, Any]:
    """Plot values by step as MultiQC's own lines, with a button for each term.

    Parameters
    ----------
    title
        Of the plot.
    terms
        By term and name of the line, both harmless in HTML: steps and values, which are NaN where there is none.
    step
        What the steps are.
    marks
        Steps to mark, by term and name of the mark.
    """
    drawn = {
        term: {
            name: pairs
            for name, (steps, values) in several.items()
            if (pairs := [[int(x), float(y)] for x, y in zip(steps, values, strict=True) if np.isfinite(y)])
        }
        for term, several in terms.items()
    }
    drawn = {term: several for term, several in drawn.items() if several}
    labels = []
    for term in drawn:
        marked = [
            {"value": int(at), "label": name, "color": draw.OKABE_ITO[1], "dash": "dash", "width": 1}
            for name, at in (marks or {}).get(term, {}).items()
        ]
        # what stands behind the colon has no room on a button
        labels.append({"name": term.split(":")[0], "ylab": term} | ({"x_lines": marked} if marked else {}))
    names = list(dict.fromkeys(name for several in drawn.values() for name in several))
    colours = draw.legend(names).colours
    return {
        "plot_type": "linegraph",
        "data": list(drawn.values()),
        "pconfig": {
            "title": title,
            "xlab": step,
            "ylab": labels[0]["ylab"],
            "colors": dict(zip(names, colours, strict=True)),
            "showlegend": len(names) > 1,
            "series_label": False,
            "data_labels": labels,
            **({"x_lines": labels[0]["x_lines"]} if "x_lines" in labels[0] else {}),
        },
    }
