"""The data of a sweep: what was simulated, with which parameters."""

from collections.abc import Iterator

from unbatch.report.context import Report
from unbatch.report.section import Page, Section, render
from unbatch.report.sweep import varied
from unbatch.report.text import join, parameter


def _pages(report: Report) -> Iterator[Page]:
    simulations = [result.dataset["simulation"] for result in report.results]
    swept = varied(simulations)
    counts = {
        "Cells": [result.dataset["cells"] for result in report.results],
        "Genes": [result.dataset["genes"] for result in report.results],
        "Batches": [len(result.dataset["batches"]) for result in report.results],
        "Labels": [len(result.dataset.get("labels") or []) for result in report.results],
    }
    content = render(
        "sections/sweep/data",
        datasets=len(simulations),
        counts=[(name, join(f"{n:,}" for n in sorted(set(found)))) for name, found in counts.items()],
        swept=[(name, parameter(sorted(values) if name == "seed" else values)) for name, values in swept.items()],
        fixed=[(name, parameter(value)) for name, value in simulations[0].items() if name not in swept],
    )
    yield Page("", content)


SECTION = Section("data", "The data", "What was simulated.", _pages)
