"""The first screen: what was run, the ranking, the warnings, whether batch and biology are confounded, what to use."""

from collections.abc import Iterator
from typing import Any

from unbatch.report.confounding import examine
from unbatch.report.context import Report, View
from unbatch.report.recommend import advise
from unbatch.report.scores import Result, failures
from unbatch.report.section import Page, Section, render, style
from unbatch.report.sections import composition, ranking
from unbatch.report.sections.warnings import gather
from unbatch.report.text import cut, first
from unbatch.report.verdict import describe, judge, verdict

MOST_WARNINGS = 3
"""Warnings on the first screen; all of them have a section of their own."""

_KINDS = {"correction": ("correction", "corrections"), "reference": ("reference", "references")}


def _pages(report: Report) -> Iterator[Page]:
    content = render(
        "sections/summary",
        style=style(),
        several=report.several,
        datasets=[_dataset(view) for view in report.views],
        weights=report.results[0].formula,
        version=str(report.parameters.get("version", "")),
        most=MOST_WARNINGS,
        **{
            key: any(getattr(entry, key) for result in report.results for entry in result.entries)
            for key in ("batch", "bio", "total")
        },
    )
    yield Page("", content)


def _dataset(view: View) -> dict[str, Any]:
    result, data = view.result, view.result.dataset
    best = judge(result).best
    bounds = [e for e in result.scored() if e.uncorrected and e.total]
    bound = max(bounds, key=lambda e: e.total.mean, default=None)
    confounding = examine(view.dataset) if view.dataset else []
    return {
        "name": result.name,
        "sentences": verdict(result),
        "best": best and best.label,
        "best_total": describe(best.total) if best else "",
        "bound_total": f"{bound.label}: {bound.total.mean:.2f}" if bound else "",
        "troubles": sum(len(each.rows) for each in failures([result])),
        "facts": _facts(result),
        "methods": _methods(result),
        "warnings": gather(view),
        "of_data": bool(view.dataset and view.dataset.about.warnings),
        "ranking": ranking.picture(result),
        "composition": composition.table(view.cells, confounding) if view.dataset else "",
        "advice": advise(result, confounding),
        "data": data,
    }


def _facts(result: Result) -> list[tuple[str, str]]:
    data, seeds = result.dataset, len({row["seed"] for row in result.rows})
    return [
        (f"{data['cells']:,}", "cells"),
        (f"{data['genes']:,}", "genes"),
        (f"{len(data['batches']):,}", "batch" if result.single else "batches"),
        (f"{len(data['labels']):,}" if result.labelled else "no", "labels"),
        (f"{len(result.entries)}", "method" if len(result.entries) == 1 else "methods"),
        (f"{seeds}", "seed" if seeds == 1 else "seeds"),
    ]


def _methods(result: Result) -> str:
    """Name the methods that were run, corrections first."""
    names = {
        kind: [
            cut(entry.label, 40) for entry in sorted(result.entries, key=lambda each: each.label) if entry.kind == kind
        ]
        for kind in ("correction", "reference", "control")
    }
    parts = [f"{first(names['correction'], 20)}" if names["correction"] else "no correction"]
    others = names["reference"] + names["control"]
    return "; ".join([*parts, *([f"controls and references: {first(others, 10)}"] if others else [])])


SECTION = Section("summary", "Summary", "What was run, what the scores show, and what they do not.", _pages)
