"""What went wrong, and what weakens the comparison."""

from collections.abc import Iterator

from unbatch.report.context import Report, View, sections_of
from unbatch.report.scores import failures
from unbatch.report.section import Page, Section, render
from unbatch.report.sections import leakage
from unbatch.report.verdict import remarks


def _pages(report: Report) -> Iterator[Page]:
    datasets = [
        {
            "name": view.result.name,
            "fits": len(view.result.rows),
            "failures": failures([view.result]),
            "remarks": _remarks(view),
        }
        for view in report.views
    ]
    yield Page("", render("sections/warnings", several=report.several, datasets=datasets))


def _remarks(view: View) -> list[str]:
    confined = view.cells.confined() if view.dataset else []
    found = leakage.warnings(view.result) + remarks(view.result, confined)
    for entry in view.entries if confined else []:
        own = sections_of(entry)
        fit = next((fit for other, fit in view.taken[own] if other is entry), None)
        found += [f"{entry.label}, {said}" for said in (own.warnings(fit, confined) if fit is not None else [])]
    return found + [f"{what}, as they are too many: {count}." for what, count in view.omitted.items()]


SECTION = Section("warnings", "Warnings and failures", "What went wrong, and what weakens the comparison.", _pages)
