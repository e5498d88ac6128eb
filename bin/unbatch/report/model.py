"""All that a report is made of."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unbatch.report.dataset import About
from unbatch.report.inputs import Cells
from unbatch.report.names import written
from unbatch.report.scores import Card, Entry, Result, number
from unbatch.report.section import FitShown


@dataclass(frozen=True)
class Drawing:
    """What is drawn of a dataset.

    Attributes
    ----------
    cells
        All its cells.
    chosen
        Indices of the cells that are drawn in UMAPs.
    umaps
        Entry and its layout of the chosen cells, in the order to show them.
    hues
        Entry and colours of all cells by components of its embedding; the first two are shown at once.
    seed
        Of subsample, layout and drawing order.
    omitted
        How many embeddings are not drawn, as they are too many.
    fits
        Fits with sections of their own, those that are shown.
    omitted_fits
        How many of them are not shown, as they are too many, by what is missed.
    about
        What is known of how the dataset was made.
    random
        Entry and layout of its random effects, of those fits that have them.
    """

    cells: Cells
    chosen: np.ndarray
    umaps: list[tuple[Entry, np.ndarray]]
    hues: list[tuple[Entry, np.ndarray]]
    seed: int
    omitted: int = 0
    fits: list[FitShown] = field(default_factory=list)
    omitted_fits: dict[str, int] = field(default_factory=dict)
    random: list[tuple[Entry, np.ndarray]] = field(default_factory=list)
    about: About = field(default_factory=About)


@dataclass
class Report:
    """All that the pages are made of; `fit_params` are those that the fits hold, by method and parameter set.

    With `sweep` the results are settings of a simulation, and their seeds, rather than datasets of interest.
    """

    results: list[Result]
    cards: dict[str, Card]
    drawings: dict[str, Drawing] = field(default_factory=dict)
    fit_params: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    sweep: bool = False

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


def parameters_of_fits(results: Iterable[Result]) -> dict[tuple[str, str], dict[str, Any]]:
    """Parameters of the fits by method and parameter set; one that each fit chose by itself has its range.

    Parameters
    ----------
    results
        Scores of all datasets.
    """
    found: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for result in results:
        for entry in result.scored():
            found[entry.method, entry.params_id] += [row["params"] for row in entry.compared if row.get("params")]
    return {
        key: {name: _over_fits([each.get(name) for each in several]) for name in several[0]}
        for key, several in found.items()
        if several
    }


def _over_fits(values: list[Any]) -> Any:
    different = [value for place, value in enumerate(values) if value not in values[:place]]
    if len(different) == 1:
        return different[0]
    if all(number(value) is not None for value in different):
        return f"{written(min(different))} to {written(max(different))}, by fit"
    return f"{', '.join(written(value) for value in different[:5])}{', ...' if len(different) > 5 else ''}, by fit"
