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

TRAINING = ("training", "Training", "How the losses of autoencoders went, and which epoch was kept.")
"""As `EFFECT`."""

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
    kept: Mapping[str, int] | None = None,
) -> dict[str, Any] | None:
    """Plot values by step as MultiQC's own lines, with a button for each term; None where there are no values.

    Parameters
    ----------
    title
        Title of the plot.
    terms
        By term and name of the line, both harmless in HTML: steps and values, which are NaN where there is none.
    step
        What the steps are.
    kept
        Steps whose fit was kept, by name of the line.
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
    if not drawn:
        return None
    names = list(dict.fromkeys(name for several in drawn.values() for name in several))
    colours = dict(zip(names, draw.legend(names).colours, strict=True))
    by_step: dict[int, list[str]] = {}
    for name, at in (kept or {}).items():
        by_step.setdefault(int(at), []).append(name)
    return {
        "plot_type": "linegraph",
        "data": list(drawn.values()),
        "pconfig": {
            "title": title,
            "xlab": step,
            "ylab": next(iter(drawn)),
            "colors": colours,
            "showlegend": len(names) > 1,
            "series_label": False,
            # what stands behind the colon has no room on a button
            "data_labels": [{"name": term.split(":")[0], "ylab": term} for term in drawn],
            "x_lines": [
                {
                    "value": at,
                    "label": f"{', '.join(own)} kept",
                    "color": colours.get(own[0]) if len(own) == 1 else draw.FAINT,
                    "dash": "dash",
                    "width": 1,
                }
                for at, own in by_step.items()
            ],
        },
    }
