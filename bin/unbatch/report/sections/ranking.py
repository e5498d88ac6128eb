"""The ranking as a picture: every method's score with its seeds and its interval."""

from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import MaxNLocator

from unbatch.metrics.uncertainty import interval
from unbatch.report.scores import UNCORRECTED, Entry, Result
from unbatch.report.section import render

MOST = 20
"""Methods in the picture; those that rank lower are in the table of scores."""

_SCORES = {"total": "Total", "batch": "Batch score", "bio": "Biology score"}


@dataclass(frozen=True)
class Row:
    """A method in the picture; places are in percent of the width of the axis."""

    entry: Entry
    mean: float
    half: float | None
    place: float
    seeds: list[float]
    low: float | None
    high: float | None


def half_width(entry: Entry, score: str) -> float | None:
    """Half the width of the interval of a mean over cells and seeds; None where there is none."""
    sample = entry.sample(score)
    found = None if sample is None else interval(sample)
    return found.high - found.mean if found and found.low <= found.high else None


def score_shown(result: Result) -> str | None:
    """Name the score that methods are ordered by: the total where there is one; None without any."""
    return next((name for name in _SCORES if any(getattr(entry, name) for entry in result.scored())), None)


def picture(result: Result) -> str:
    """Draw the methods in their order, controls last, as a table with dots and bars; empty without scores."""
    score = score_shown(result)
    if score is None:
        return ""
    entries = [entry for entry in result.scored() if getattr(entry, score)]
    halves = {id(entry): half_width(entry, score) for entry in entries}
    means = {id(entry): getattr(entry, score).mean for entry in entries}
    ends = [
        end
        for entry in entries
        for end in (getattr(entry, score).low, getattr(entry, score).high, *_ends(entry, means, halves))
    ]
    ticks = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(max(min(ends), 0.0), min(max(ends), 1.0))
    low, high = float(ticks[0]), float(ticks[-1])

    def place(value: float) -> float:
        return float(np.clip(100 * (value - low) / (high - low), 0, 100))

    rows = []
    for entry in entries[:MOST]:
        mean, half = means[id(entry)], halves[id(entry)]
        values = [row[score] for row in entry.compared if row.get(score) is not None]
        first, last = (None, None) if half is None else (place(mean - half), place(mean + half))
        rows.append(Row(entry, mean, half, place(mean), [place(value) for value in values], first, last))
    none = next((entry for entry in entries if entry.shows == UNCORRECTED), None)
    return render(
        "sections/ranking",
        rows=rows,
        title=_SCORES[score],
        formula=result.formula if score == "total" else "",
        idle=place(means[id(none)]) if none else None,
        ticks=[(place(tick), f"{tick:.2g}") for tick in ticks],
        intervals=any(row.half is not None for row in rows),
        several=any(len(row.seeds) > 1 for row in rows),
        others=len(entries) - len(rows),
    )


def _ends(entry: Entry, means: dict[int, float], halves: dict[int, float | None]) -> tuple[float, float]:
    half = halves[id(entry)] or 0.0
    return means[id(entry)] - half, means[id(entry)] + half
