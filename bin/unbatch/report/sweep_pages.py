"""Pages of the report on a sweep: what holds over the whole grid, in place of pages per dataset."""

import base64
from collections import Counter
from typing import Any

import numpy as np
from markupsafe import escape

from unbatch.metrics.uncertainty import LEVEL, more_than_chance, over_seeds
from unbatch.report import sweep_figures
from unbatch.report.model import Report
from unbatch.report.names import join
from unbatch.report.page import PREFIX, make_page, render
from unbatch.report.pages import methods_pages, style
from unbatch.report.paper import weights
from unbatch.report.sweep import SCORES, Standing, Sweep, collect, curve, failures, leads, standings, table
from unbatch.report.verdict import remarks

MAX_NAMED = 3
"""Datasets that a warning names."""

_INTERVAL = f"{LEVEL:.0%} t interval over the simulations' seeds"


def build_sweep(report: Report) -> tuple[dict[str, dict[str, Any]], str]:
    """Make the pages of a sweep.

    Returns
    -------
    pages
        Content of the JSON files, by file name.
    table
        Mean of every setting and method, as CSV.
    """
    sweep = collect(report.results)
    text = table(sweep)
    pages = [
        _summary(report, sweep),
        _warnings(report, sweep),
        *_heat_maps(sweep),
        *_curves(sweep),
        *_tables(sweep, text),
        *methods_pages(report),
    ]
    return {f"{page['id']}_mqc.json": page for page in pages}, text


def spell(setting: dict[str, Any]) -> str:
    """Write a setting, as in ``sigma_beta 0.3, mix same``."""
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in setting.items()
    )


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


def _summary(report: Report, sweep: Sweep) -> dict[str, Any]:
    found = standings(sweep)
    fits = [row for result in report.results for row in result.rows]
    content = render(
        "sweep_summary",
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
                "lowest": s.lowest and {"value": s.lowest[0], "setting": spell(s.lowest[1])},
            }
            for s in found
        ],
        lost=any(s.lost for s in found),
        settings=sweep.settings,
        alike=len(sweep.places) - sweep.settings,
        level=f"{LEVEL:.0%}",
        weights=weights(report.results[0]),
    )
    return make_page("summary", "", content)


def _warnings(report: Report, sweep: Sweep) -> dict[str, Any]:
    failed = failures(report.results)
    told = Counter(remark for result in report.results for remark in remarks(result, []))
    several = len(report.results)
    notes = [f"{remark} ({count} of {several} datasets)" for remark, count in told.items()]
    if sweep.partial:
        notes.append(
            f"{sweep.partial} fits are left out of all means, as some of the metrics could not be computed for them."
        )
    content = render(
        "sweep_warnings",
        fits=sum(len(result.rows) for result in report.results),
        failures=[
            {
                **row,
                "where": ", ".join(row["datasets"][:MAX_NAMED])
                + (f" and {len(row['datasets']) - MAX_NAMED} more" if len(row["datasets"]) > MAX_NAMED else ""),
            }
            for row in failed
        ],
        remarks=notes,
    )
    return make_page("warnings", "", content)


def _heat_maps(sweep: Sweep) -> list[dict[str, Any]]:
    maps = np.stack([over_seeds(sweep.values[name])[0] for name in SCORES], axis=1)
    scale = sweep_figures.limits([maps])
    pages = []
    for number, panel in enumerate(sweep.panels):
        content = render(
            "figure",
            caption=f"Mean over {_seeds(sweep)} in every cell; one colour scale for all maps, bright is good. "
            "A dash: no scores over all metrics. Corrections in order of their mean total, then what corrects nothing.",
            image=sweep_figures.heat_maps(
                maps[:, :, number],
                [line.label for line in sweep.lines],
                list(SCORES.values()),
                (sweep.x.name, sweep.x.values),
                (sweep.y.name, sweep.y.values),
                scale,
            ),
            alt=f"Scores of every method over {sweep.x.name} and {sweep.y.name}; the numbers are in the table below.",
        )
        pages.append(make_page("sweep", spell(panel), content, f"{number}_maps"))
    return pages


_PANELS_ABREAST = 2


def _curves(sweep: Sweep) -> list[dict[str, Any]]:
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
                    sweep_figures.curves(
                        mean[:, :, start : start + _PANELS_ABREAST],
                        half[:, :, start : start + _PANELS_ABREAST],
                        [line.label for line in sweep.lines],
                        [line.kind for line in sweep.lines],
                        [SCORES[name] for name in scores],
                        [spell(panel) for panel in sweep.panels[start : start + _PANELS_ABREAST]],
                        (axis.name, axis.values),
                    )
                    for start in range(0, len(sweep.panels), _PANELS_ABREAST)
                ],
                "alt": f"Scores of every method against {axis.name}; the numbers are in the table below.",
            }
        )
    if not parts:
        return []
    bars = f"Bars: {_INTERVAL}, cut at 0 and 1." if len(sweep.seeds) > 1 else "One seed, so no intervals."
    content = render(
        "sweep_curves",
        caption=f"{bars} Grey: controls and what corrects nothing. The values stand at equal distances, and methods a "
        "little side by side so that no bar hides another. A seed counts only where it has scores for all that is "
        "averaged; where none has, the line has a gap.",
        parts=parts,
    )
    return [make_page("curves", "", content)]


def _tables(sweep: Sweep, text: str) -> list[dict[str, Any]]:
    """MultiQC's own table with a row per setting, and all means as a file."""
    address = "data:text/csv;base64," + base64.b64encode(text.encode()).decode()
    link = render("sweep_download", address=address, interval=_INTERVAL)
    found = {name: over_seeds(sweep.values[name]) for name in ("total", "batch", "bio")}
    shades = {"total": "Purples", "batch": "Blues", "bio": "Greens"}
    headers, data = {}, {}
    for name, shade in shades.items():
        for i, line in enumerate(sweep.lines):
            headers[f"{name}_{i}"] = {
                "title": str(escape(line.label)) + ("" if name == "total" else f" ({SCORES[name].split()[0].lower()})"),
                "description": f"{SCORES[name]}, mean over seeds",
                "min": 0,
                "max": 1,
                "format": "{:,.3f}",
                "scale": shade,
                "hidden": name != "total",
            }
    for panel, y, x in np.ndindex(*sweep.values["total"].shape[1:4]):
        row = {
            f"{name}_{i}": float(found[name][0][i, panel, y, x])
            for name in found
            for i in range(len(sweep.lines))
            if np.isfinite(found[name][0][i, panel, y, x])
        }
        data[str(escape(spell(sweep.setting(panel, y, x)) or "all"))] = row
    used = {key for row in data.values() for key in row}
    pages = [make_page("means", "All means as a file", link, "file")]
    if used:
        page = make_page("means", "Totals", "", "table") | {
            "plot_type": "table",
            "description": "A row per setting, mean total over seeds. “Configure columns” has batch and biology.",
            "pconfig": {
                "id": f"{PREFIX}means_table",
                "title": "Means of the sweep",
                "col1_header": "Setting",
                "sort_rows": False,
                "no_violin": True,
            },
            "headers": {key: header for key, header in headers.items() if key in used},
            "data": data,
        }
        pages.append(page)
    return pages


def _seeds(sweep: Sweep) -> str:
    return f"{len(sweep.seeds)} seeds" if len(sweep.seeds) > 1 else "one seed"
