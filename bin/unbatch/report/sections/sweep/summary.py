"""Which methods rank first over the grid, and how each fares."""

from collections.abc import Iterator

from unbatch.metrics.uncertainty import LEVEL, more_than_chance
from unbatch.report.context import Report
from unbatch.report.section import Page, Section, render, style
from unbatch.report.sweep import Standing, Sweep, leads, standings
from unbatch.report.text import join, setting


def ranked_first(sweep: Sweep, found: list[Standing]) -> list[Standing]:
    """Return the methods that rank first in more settings than chance would give them, the one with most first.

    Parameters
    ----------
    sweep, found
        The sweep and its standings.
    """
    winners = [s for s in found if more_than_chance(s.first, sweep.settings)]
    return sorted(winners, key=lambda s: -s.first)


def verdict(sweep: Sweep, found: list[Standing]) -> list[str]:
    """Say in plain sentences which methods rank first over the grid; the first sentence is the headline."""
    corrections = [s for s in found if s.line.kind == "correction" and s.lost < sweep.settings]
    if not corrections:
        return ["No correction method has a total anywhere on the grid, so there is no best method to name."]
    if len(sweep.seeds) == 1:
        return ["There is one seed: without an interval over seeds, no method can be said to rank first."]
    count = f"{sweep.settings} setting{'s' if sweep.settings > 1 else ''}"
    winners = ranked_first(sweep, corrections)
    if winners:
        others = [f"{s.line.label} in {s.first}" for s in winners[1:]]
        sentences = [
            f"{winners[0].line.label} ranks first of the corrections in {winners[0].first} of {count}"
            + (f", {join(others)}." if others else ".")
        ]
    elif len(corrections) == 1:
        sentences = [f"{corrections[0].line.label} is the only correction: mean total {corrections[0].mean:.2f}."]
    else:
        sentences = [f"No correction ranks first in more of {count} than by chance: they cannot be told apart."]
    sentences.append(
        f"A method ranks first where the {LEVEL:.0%} intervals of its differences to all other corrections lie above "
        f"0; they are over {len(sweep.seeds)} seeds of the simulation, seed by seed, each with cells of its own."
    )
    # a mean over fewer settings is no match
    whole = [s for s in corrections if not s.lost]
    leader = max(whole, key=lambda s: s.mean, default=None)
    if leader and leads(sweep, leader.line, [s.line for s in whole if s is not leader]):
        sentences.append(f"Over all settings together {leader.line.label} is first, with a mean of {leader.mean:.2f}.")
    shown = winners[0] if winners else corrections[0]
    if shown.not_above:
        sentences.append(
            f"In {shown.not_above} of {count}, {shown.line.label} is not shown to exceed what corrects nothing."
        )
    return sentences


def _pages(report: Report) -> Iterator[Page]:
    sweep = report.sweep
    found = standings(sweep)
    fits = [row for result in report.results for row in result.rows]
    content = render(
        "sections/sweep/summary",
        style=style(),
        sentences=verdict(sweep, found),
        facts=[
            (f"{sweep.settings:,}", "settings"),
            (f"{len(sweep.seeds)}", "seeds of the simulation"),
            (f"{len(report.results):,}", "datasets"),
            (" to ".join(f"{n:,}" for n in dict.fromkeys((sweep.cells[0], sweep.cells[-1]))), "cells each"),
            (f"{len(sweep.lines)}", "methods"),
            (f"{len(fits):,}", "fits"),
        ],
        standings=[
            {
                **vars(s),
                "over": f" ({sweep.settings - s.lost} of {sweep.settings})" if s.lost else "",
                "lowest": s.lowest and {"value": s.lowest[0], "setting": setting(s.lowest[1])},
            }
            for s in found
        ],
        lost=any(s.lost for s in found),
        settings=sweep.settings,
        alike=len(sweep.places) - sweep.settings,
        level=f"{LEVEL:.0%}",
        weights=report.results[0].formula,
    )
    yield Page("", content)


SECTION = Section("summary", "Summary", "What the scores show about the methods, and what they do not.", _pages)
