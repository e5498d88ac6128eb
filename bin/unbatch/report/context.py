"""All that a report is made of."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import numpy as np

from unbatch import methods as registry
from unbatch.data.sampling import stratified_sample
from unbatch.report.read import Cells, Dataset, FitFile
from unbatch.report.scores import Card, Entry, Result
from unbatch.report.section import Section, Sections
from unbatch.report.sweep import Sweep
from unbatch.report.text import cut


@dataclass
class Report:
    """All that the pages are made of.

    Attributes
    ----------
    results
        Scores of the datasets.
    cards
        Cards of the methods, by name.
    parameters, versions
        What is known of the run, and versions of the report's own packages.
    sweep
        The scores on their grid, where the results are settings of a simulation and their seeds.
    seed, threads, max_cells
        Seed of layouts and drawing orders; threads of layouts; cells in a UMAP at most.
    colour_by
        Columns of obs that UMAPs are coloured by in addition to batch and label.
    views
        What is shown of each dataset.
    """

    results: list[Result]
    cards: dict[str, Card]
    parameters: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    sweep: Sweep | None = None
    seed: int = 0
    threads: int = 1
    max_cells: int = 10_000
    colour_by: tuple[str, ...] = ()
    views: "list[View]" = field(default_factory=list)

    @property
    def several(self) -> bool:
        """Whether there is more than one dataset."""
        return len(self.results) > 1

    @property
    def all_versions(self) -> dict[str, str]:
        """Versions of all software: that of the run, the report, the scores and the fits."""
        found = dict(self.versions)
        if self.parameters.get("nextflow"):
            found["nextflow"] = self.parameters["nextflow"]
        for result in self.results:
            found |= result.versions
            for row in result.rows:
                found |= row.get("versions") or {}
        return {str(key): str(value) for key, value in found.items()}


@dataclass
class View:
    """What is shown of one dataset.

    Attributes
    ----------
    report, result
        What it is part of, and its scores.
    dataset
        The dataset itself, if it was given.
    entries
        Methods with a fit that can be drawn, those that rank best first.
    taken
        What each section took of the fits, with their entries.
    omitted
        How many fits are not shown, by what is missed.
    params
        Parameters that the fits hold, by method and parameter set.
    calibration
        What each method does to halves of one batch (calibration.json); None where that was not asked for.
    undrawn
        Why columns that UMAPs were to be coloured by cannot be drawn, by name.
    """

    report: Report
    result: Result
    dataset: Dataset | None = None
    entries: list[Entry] = field(default_factory=list)
    taken: "dict[Section | Sections, list[tuple[Entry, Any]]]" = field(default_factory=lambda: defaultdict(list))
    omitted: Counter[str] = field(default_factory=Counter)
    params: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    calibration: dict[str, Any] | None = None
    undrawn: dict[str, str] = field(default_factory=dict)

    @property
    def cells(self) -> Cells:
        """The cells of the dataset, which must be there."""
        return self.dataset.cells

    @cached_property
    def chosen(self) -> np.ndarray:
        """Indices of the cells that are drawn in UMAPs."""
        return stratified_sample(self.cells.strata, self.report.max_cells, self.report.seed)

    @property
    def name(self) -> str:
        """What stands before the titles of its pages: its name, if there are several datasets."""
        return cut(self.result.name, 60) if self.report.several else ""


@cache
def sections_of(method: str) -> Sections | None:
    """Sections that a method declares; the same object at every call, under which is kept what they take."""
    return registry.load(method).sections() if method in registry.names() else None


def take(
    view: View, fits: dict[str, FitFile], sections: tuple[Section, ...], budget: Counter[Section | Sections]
) -> None:
    """Hand each fit of a dataset to all that show something of it, once.

    Parameters
    ----------
    view
        Where what is taken goes to.
    fits
        Files of all fits, by the id of their row.
    sections
        Those of the report.
    budget
        Counts what was taken of all datasets.
    """
    drawable = [(entry, _first_seed(entry, fits)) for entry in view.result.scored()]
    view.entries = [entry for entry, fit in drawable if fit]
    for entry, fit in drawable:
        if fit is None:
            continue
        fit.require_cells(view.cells)
        view.params[entry.method, entry.params_id] = fit.params
        own = sections_of(entry.method)
        for taker in (*(section for section in sections if section.take), *([own] if own else [])):
            if len(view.taken[taker]) >= taker.most or budget[taker] >= taker.most_in_all:
                view.omitted[taker.omitted] += 1
                continue
            found = taker.read(fit, view.dataset) if taker is own else taker.take(view, entry, fit)
            if found is not None:
                view.taken[taker].append((entry, found))
                budget[taker] += 1
        fit.close()


def _first_seed(entry: Entry, fits: dict[str, FitFile]) -> FitFile | None:
    rows = (row for row in entry.compared if row["id"] in fits and row.get("output") != "graph")
    return next((fits[row["id"]] for row in rows), None)
