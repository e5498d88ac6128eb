"""What went wrong, and what weakens the comparison."""

from collections.abc import Iterator

from unbatch.report.context import Report, View
from unbatch.report.scores import failures
from unbatch.report.section import Page, Section, Sections, render
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
    for own, taken in view.taken.items() if confined else ():
        if isinstance(own, Sections):
            found += [f"{entry.label}, {said}" for entry, fit in taken for said in own.warnings(fit, confined)]
    return found + [f"{what}, as they are too many: {count}." for what, count in view.omitted.items()]


SECTION = Section("warnings", "Warnings and failures", "What went wrong, and what weakens the comparison.", _pages)
