"""What went wrong in a sweep, and what weakens the comparison."""

from collections import Counter
from collections.abc import Iterator

from unbatch.report.context import Report
from unbatch.report.scores import failures
from unbatch.report.section import Page, Section, render
from unbatch.report.text import first
from unbatch.report.verdict import remarks

MAX_NAMED = 3
"""Datasets that a warning names."""


def _pages(report: Report) -> Iterator[Page]:
    told = Counter(remark for result in report.results for remark in remarks(result, []))
    notes = [f"{remark} ({count} of {len(report.results)} datasets)" for remark, count in told.items()]
    if report.sweep.partial:
        notes.append(
            f"{report.sweep.partial} fits are left out of all means, as some of the metrics could not be computed for "
            "them."
        )
    content = render(
        "sections/sweep/warnings",
        fits=sum(len(result.rows) for result in report.results),
        failures=[(each, first(each.datasets, MAX_NAMED)) for each in failures(report.results)],
        remarks=notes,
    )
    yield Page("", content)


SECTION = Section("warnings", "Warnings and failures", "What went wrong, and what weakens the comparison.", _pages)
