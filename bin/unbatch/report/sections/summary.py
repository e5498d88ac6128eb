"""What the scores allow to say of the methods."""

from collections.abc import Iterator
from typing import Any

from unbatch.report.context import Report, View
from unbatch.report.scores import failures
from unbatch.report.section import Page, Section, render, style
from unbatch.report.verdict import describe, judge, verdict


def _pages(report: Report) -> Iterator[Page]:
    content = render(
        "sections/summary",
        style=style(),
        several=report.several,
        datasets=[_dataset(view) for view in report.views],
        weights=report.results[0].formula,
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
    return {
        "name": result.name,
        "sentences": verdict(result),
        "best": best and best.label,
        "best_total": describe(best.total) if best else "",
        "bound_total": f"{bound.label}: {bound.total.mean:.2f}" if bound else "",
        "troubles": sum(len(each.rows) for each in failures([result])),
        "facts": [
            (f"{data['cells']:,}", "cells"),
            (f"{data['genes']:,}", "genes"),
            (f"{len(data['batches']):,}", "batch" if result.single else "batches"),
            (f"{len(data['labels']):,}" if result.labelled else "none", "labels"),
            (f"{len(result.entries)}", "methods"),
            (f"{len({row['seed'] for row in result.rows})}", "seeds"),
        ],
        "data_warnings": len(view.dataset.about.warnings) if view.dataset else 0,
        "data": data,
    }


SECTION = Section("summary", "Summary", "What the scores allow to say of the methods, and what they do not.", _pages)
