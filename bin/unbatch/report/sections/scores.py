"""Every method on every metric: the table with colours, and one to sort, with scores scaled between controls."""

from collections.abc import Iterator
from typing import Any

from markupsafe import escape

from unbatch.report import draw
from unbatch.report.context import View
from unbatch.report.names import info
from unbatch.report.scores import Entry, Result, scale
from unbatch.report.section import Page, Section, render
from unbatch.report.sections.ranking import half_width
from unbatch.report.text import short

_SCORES = {"total": "Total", "batch": "Batch", "bio": "Biology"}
_SHADES = {"total": "Purples", "batch": "Blues", "bio": "Greens", "other": "Greys"}


def _pages(view: View) -> Iterator[Page]:
    if view.result.scored():
        yield Page("Overview", _overview(view.result))
        yield _table(view.result)


def _names(result: Result, *keys: str) -> dict[str, list[str]]:
    """Metrics that any method has, by what they enter."""
    names = {key: result.metrics.get(key, []) for key in keys}
    return {key: [n for n in group if any(e.metrics.get(n) for e in result.scored())] for key, group in names.items()}


def _overview(result: Result) -> str:
    scored, names = result.scored(), _names(result, "batch", "bio")
    cells = _cells(scored, [name for group in names.values() for name in group])
    rows, last = [], None
    for entry in result.entries:
        part = _part(entry)
        rows.append(
            {
                "entry": entry,
                "tag": _tag(entry),
                "part": part if part != last else "",
                "note": _outcome(entry),
                "cells": cells.get(entry.label, {}),
                "halves": {key: half_width(entry, key) for key in _SCORES},
                **{key: getattr(entry, key) for key in _SCORES},
            }
        )
        last = part
    titles = {"batch": "Batch mixing", "bio": "Biology kept"}
    return render(
        "sections/scores",
        result=result,
        ranked=any(entry.total for entry in scored),
        groups=[
            {"title": titles[key], "columns": [{"name": name, **vars(info(name))} for name in group]}
            for key, group in names.items()
            if group
        ],
        rows=rows,
        aggregates=[
            {"name": key, "title": _SCORES[key]}
            for key in ("batch", "bio", "total")
            if any(getattr(entry, key) for entry in scored)
        ],
        seeds=max(len(entry.compared) for entry in scored),
        sure=any(half is not None for row in rows for half in row["halves"].values()),
    )


def _tag(entry: Entry) -> str:
    """Say what must be known of a method in addition to its scores."""
    if entry.supervised:
        return "has seen the labels"
    return "no correction" if entry.kind == "reference" else ""


def _outcome(entry: Entry) -> str | None:
    if entry.status == "ok":
        return None
    return "failed, see Warnings and failures" if entry.status == "failed" else f"not applicable: {entry.note}"


_CONTROLS = "Controls (not ranked): no correction, no biology and, as a cheat, the labels themselves"


def _part(entry: Entry) -> str:
    if entry.status != "ok":
        return "No scores"
    if entry.kind == "control":
        return _CONTROLS
    return "" if entry.complete else entry.note[:1].upper() + entry.note[1:]


def _cells(scored: list[Entry], names: list[str]) -> dict[str, dict[str, dict[str, str] | None]]:
    """Text and colours of each metric, by label of the method."""
    found: dict[str, dict[str, dict[str, str] | None]] = {entry.label: {} for entry in scored}
    for name in names:
        values = [entry.metrics[name].mean if entry.metrics.get(name) else None for entry in scored]
        shades = draw.shades(values, info(name).better == "lower")
        for entry, value, shade in zip(scored, values, shades, strict=True):
            found[entry.label][name] = shade and {"text": short(value), "background": shade[0], "ink": shade[1]}
    return found


def _table(result: Result) -> Page:
    """MultiQC's own table: sorts, hides columns, exports."""
    scaled = scale(result)
    headers: dict[str, dict[str, Any]] = {
        "rank": {"title": "Rank", "description": "By total; controls have none", "scale": False, "format": "{:,.0f}"}
    }

    def column(key: str, title: str, about: str, shade: str | bool, shown: bool, **more: Any) -> None:
        headers[key] = {"title": title, "description": about, "scale": shade, "format": "{:,.3f}"}
        headers[key] |= {"hidden": not shown, **more}

    for key, text in _SCORES.items():
        column(key, text, f"{text} score, mean over seeds", _SHADES[key], True, min=0, max=1)
        column(f"{key}_sd", "SD", f"Standard deviation of {text.lower()} over seeds", False, key == "total")
    for key, text in _SCORES.items():
        column(f"{key}_scaled", f"{text}, scaled", f"{text} score between the controls", _SHADES[key], True)
    headers["library"] = {"title": "Library", "description": "What fitted it, and its version", "scale": False}
    column("seeds", "Seeds", "Seeds the means are over", False, True, format="{:,.0f}")
    for key, names in _names(result, "batch", "bio", "other").items():
        for name in names:
            about = info(name)
            limits = {"min": 0, "max": 1} if key != "other" else {}
            column(name, about.title, about.about, _SHADES[key], False, **limits)
            column(f"{name}_scaled", f"{about.title}, scaled", about.about, "Greys", False)
    data = {
        str(escape(entry.aside)): _row(entry, vars(scaled[entry.label]) if scaled else {}) for entry in result.scored()
    }
    used = {key for row in data.values() for key in row}
    controls = [entry.label for entry in result.scored("control")] if scaled else []
    plot = {
        "plot_type": "table",
        "pconfig": {"title": "Integration scores", "col1_header": "Method", "sort_rows": False, "no_violin": True},
        "headers": {key: header for key, header in headers.items() if key in used},
        "data": data,
    }
    return Page("Table to sort", render("sections/table", controls=controls), "table", plot)


def _row(entry: Entry, scaled: dict[str, Any]) -> dict[str, float | str]:
    row: dict[str, Any] = {"seeds": len(entry.compared), "library": str(escape(entry.library)), "rank": entry.rank}
    for key in _SCORES:
        spread = getattr(entry, key)
        row |= {key: spread and spread.mean, f"{key}_sd": spread and spread.sd, f"{key}_scaled": scaled.get(key)}
    row |= {name: spread and spread.mean for name, spread in entry.metrics.items()}
    row |= {f"{name}_scaled": value for name, value in scaled.get("metrics", {}).items()}
    return {key: value for key, value in row.items() if value is not None}


SECTION = Section("scores", "Scores", "Every method on every metric.", each=_pages)
