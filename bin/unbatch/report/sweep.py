"""Scores over the grid of a sweep: one array per score, with an axis each for method, panel, y, x and seed."""

import csv
import io
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unbatch.errors import InputError
from unbatch.metrics.uncertainty import LEVEL, over_seeds
from unbatch.report.scores import Entry, Result, number

SCORES = {"batch": "Batch mixing", "bio": "Biology kept", "total": "Total"}
"""The scores of a sweep and their titles."""

INTERVAL = f"{LEVEL:.0%} t interval over the simulations' seeds"
"""What bars and ends of means are."""

_WITHOUT = {"sigma_beta": ("share_beta",), "sigma_condition": ("share_types", "share_genes")}
"""Parameters that change nothing where another one is 0."""

_FIRST = ("sigma_beta", "share_beta", "sigma_common", "sigma_type")
_KINDS = ("correction", "reference", "control")


@dataclass(frozen=True)
class Axis:
    """A parameter of the simulation and its values, in order."""

    name: str
    values: list[Any]


@dataclass(frozen=True)
class Line:
    """A method with one set of parameters, as it is called in figures."""

    method: str
    params_id: str
    label: str
    kind: str
    uncorrected: bool = False


def line_of(entry: Entry) -> Line:
    """Name the method of an entry."""
    return Line(entry.method, entry.params_id, entry.label, entry.kind, entry.uncorrected)


@dataclass(frozen=True)
class Sweep:
    """Scores over a grid.

    Attributes
    ----------
    x, y
        The parameters that span the heat maps; a value alone where fewer than two are swept.
    panels
        The settings of all other swept parameters.
    seeds
        Seeds of the simulations.
    lines
        The methods: corrections by their mean total, then references and controls.
    values
        Score -> array of line x panel x y x x x seed; NaN where there is no score, or not over all metrics.
    cells
        Cells of every dataset.
    partial
        Fits of a dataset that were left out, as their means are over fewer metrics.
    """

    x: Axis
    y: Axis
    panels: list[dict[str, Any]]
    seeds: list[int]
    lines: list[Line]
    values: dict[str, np.ndarray]
    cells: list[int]
    partial: int

    @property
    def settings(self) -> int:
        """Number of settings that differ, each simulated with all seeds."""
        return len(self.distinct)

    @property
    def places(self) -> list[tuple[int, int, int]]:
        """Panel, y and x of every place of the grid, in the order of the arrays."""
        return list(np.ndindex(len(self.panels), len(self.y.values), len(self.x.values)))

    @property
    def distinct(self) -> list[int]:
        """Places of the grid whose data differ, the first of those alike: without a batch effect its share is void."""
        found = {}
        for position, place in enumerate(self.places):
            setting = {self.x.name: self.x.values[place[2]], self.y.name: self.y.values[place[1]]}
            setting |= self.panels[place[0]]
            idle = {name for other, names in _WITHOUT.items() if setting.get(other) == 0 for name in names}
            found.setdefault(tuple(item for item in setting.items() if item[0] not in idle), position)
        return list(found.values())

    @property
    def totals(self) -> np.ndarray:
        """Totals at the settings that differ, line x setting x seed."""
        return self.values["total"].reshape(len(self.lines), -1, len(self.seeds))[:, self.distinct]

    @property
    def swept(self) -> list[Axis]:
        """Those of the two axes that have more than one value."""
        return [axis for axis in (self.x, self.y) if len(axis.values) > 1]

    def setting(self, panel: int, y: int, x: int) -> dict[str, Any]:
        """Return the parameters at a place of the grid: those of the panel, and the axes where they are swept."""
        places = ((self.x, x), (self.y, y))
        return {axis.name: axis.values[i] for axis, i in places if axis in self.swept} | self.panels[panel]


def limits(values: Sequence[np.ndarray]) -> tuple[float, float]:
    """Return the ends of a colour scale for all scores of a sweep, in tenths."""
    known = np.concatenate([v[np.isfinite(v)] for v in values])
    if not known.size:
        return 0.0, 1.0
    low, high = np.floor(known.min() * 10 + 1e-9) / 10, np.ceil(known.max() * 10 - 1e-9) / 10
    return (float(low), float(high)) if high > low else (float(low), float(low) + 0.1)


def varied(simulations: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return the parameters that have more than one value, with these in the order in which they occur."""
    values = {name: list(dict.fromkeys(s[name] for s in simulations)) for name in simulations[0]}
    return {name: found for name, found in values.items() if len(found) > 1}


def grid(simulations: Sequence[dict[str, Any]]) -> tuple[Axis, Axis, list[dict[str, Any]]]:
    """Find what was swept.

    Numbers span the maps: `sigma_beta` and `share_beta` (of the preset ``donors``: `sigma_common` and `sigma_type`)
    where they are swept, else the first two that are. All other parameters with more than one value make panels.

    Parameters
    ----------
    simulations
        Parameters of every dataset.

    Returns
    -------
    x, y
        The axes of the maps.
    panels
        Every setting of the other parameters that occurs; one without parameters if there are no others.
    """
    swept = {name: found for name, found in varied(simulations).items() if name != "seed"}
    numeric = [name for name, found in swept.items() if all(number(value) is not None for value in found)]
    first = [name for name in _FIRST if name in simulations[0]]
    numeric.sort(key=lambda name: first.index(name) if name in first else len(first))
    # a map of one row or one value where less is swept
    names = [*numeric, *(name for name in first if name not in numeric)][:2]
    x, y = (Axis(name, sorted(swept.get(name, [simulations[0][name]]))) for name in names)
    others = [name for name in swept if name not in names]
    found = {tuple(s[name] for name in others) for s in simulations}
    order = [setting for setting in itertools.product(*(swept[name] for name in others)) if setting in found]
    return x, y, [dict(zip(others, setting, strict=True)) for setting in order]


def collect(results: Sequence[Result]) -> Sweep:
    """Put the scores of all datasets on their grid.

    A dataset's score of a method is the mean over the seeds of the fit. Only means over the same metrics are put side
    by side: those that any dataset of the sweep has.

    Raises
    ------
    InputError
        If a dataset was not simulated, or two have the same parameters and seed.
    """
    real = next((result for result in results if not result.dataset.get("simulation")), None)
    if real:
        raise InputError(f"{real.source}: dataset has no simulation; a sweep is over simulated datasets")
    simulations = [dict(result.dataset["simulation"]) for result in results]
    x, y, panels = grid(simulations)
    seeds = sorted({int(s["seed"]) for s in simulations})
    lines = list(dict.fromkeys(line_of(e) for r in results for e in r.entries))
    full = set().union(*(_available(entry, r) for r in results for entry in r.scored()))
    shape = (len(lines), len(panels), len(y.values), len(x.values), len(seeds))
    values = {name: np.full(shape, np.nan) for name in SCORES}
    partial = 0
    taken: dict[tuple[int, ...], str] = {}
    for result, s in zip(results, simulations, strict=True):
        panel = panels.index({name: s[name] for name in panels[0]})
        place = (panel, y.values.index(s[y.name]), x.values.index(s[x.name]), seeds.index(int(s["seed"])))
        if place in taken:
            raise InputError(f"{result.source}: {taken[place]} has the same parameters and seed of the simulation")
        taken[place] = result.source
        for entry in result.scored():
            if _available(entry, result) != full:
                partial += len(entry.compared)
                continue
            line = lines.index(line_of(entry))
            for name in SCORES:
                spread = getattr(entry, name)
                values[name][(line, *place)] = spread.mean if spread else np.nan
    totals = np.array([_mean(each) for each in values["total"]])
    order = sorted(
        range(len(lines)),
        key=lambda i: (_KINDS.index(lines[i].kind), -np.nan_to_num(totals[i], nan=-1), lines[i].label),
    )
    return Sweep(
        x,
        y,
        panels,
        seeds,
        [lines[i] for i in order],
        {name: array[order] for name, array in values.items()},
        sorted({result.dataset["cells"] for result in results}),
        partial,
    )


def _available(entry: Entry, result: Result) -> frozenset[str]:
    names = (*result.metrics.get("batch", []), *result.metrics.get("bio", []))
    # of a seed, not of all: a mean over seeds that have different metrics is none either
    return frozenset.intersection(
        *(frozenset(name for name in names if number(row["metrics"].get(name)) is not None) for row in entry.compared)
    )


def _mean(values: np.ndarray) -> float:
    present = values[np.isfinite(values)]
    return float(present.mean()) if present.size else np.nan


def curve(values: np.ndarray, along: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Average a score over one axis of the maps, then over seeds.

    Parameters
    ----------
    values
        ... x y x x x seed.
    along
        The axis to keep: -2 for x, -3 for y. Over the other, a seed that lacks a value is left out, and all
        means are over the same settings.

    Returns
    -------
    mean, half, count
        See `over_seeds`.
    """
    return over_seeds(values.mean(axis=-3 if along == -2 else -2))


@dataclass(frozen=True)
class Standing:
    """How a method fares over the grid; counts are of settings.

    Attributes
    ----------
    first
        Where the interval of its difference to every other correction, seed by seed, lies above 0.
    not_above
        Where the interval of its difference to some method that corrects nothing does not lie above 0.
    lost
        Where it has no total.
    mean
        Total, over all settings that have one.
    lowest
        Lowest total of a setting and where, or None.
    """

    line: Line
    first: int
    not_above: int
    lost: int
    mean: float
    lowest: tuple[float, dict[str, Any]] | None


def exceeds(one: np.ndarray, others: Sequence[np.ndarray]) -> bool:
    """Whether a score is above all others by intervals of the differences, seed by seed, that hold at once.

    Parameters
    ----------
    one, others
        Scores by seed of the simulation.
    """
    for other in others:
        gain, half, _ = over_seeds(one - other, len(others))
        if not gain - half > 0:
            return False
    return True


def standings(sweep: Sweep) -> list[Standing]:
    """Say of every method how it fares over the grid, in the order of the lines."""
    by_seed = sweep.totals
    totals, _, _ = over_seeds(by_seed)
    places = [sweep.places[number] for number in sweep.distinct]
    corrections = [i for i, line in enumerate(sweep.lines) if line.kind == "correction"]
    idle = [i for i, line in enumerate(sweep.lines) if line.uncorrected]
    first, not_above = Counter(), Counter()
    for setting in range(totals.shape[1]):
        known = [i for i in corrections if np.isfinite(totals[i, setting])]
        bounds = [by_seed[j, setting] for j in idle if np.isfinite(totals[j, setting])]
        for i in known:
            others = [by_seed[j, setting] for j in known if j != i]
            first[i] += bool(others) and exceeds(by_seed[i, setting], others)
            not_above[i] += not exceeds(by_seed[i, setting], bounds)
    found = []
    for i, line in enumerate(sweep.lines):
        known = np.isfinite(totals[i])
        lowest = int(np.nanargmin(totals[i])) if known.any() else None
        found.append(
            Standing(
                line,
                first[i],
                not_above[i],
                int((~known).sum()),
                _mean(totals[i]),
                None if lowest is None else (float(totals[i, lowest]), sweep.setting(*places[lowest])),
            )
        )
    return found


def leads(sweep: Sweep, one: Line, others: Sequence[Line]) -> bool:
    """Whether the mean of a method over all settings is above those of others, by the same rule.

    Parameters
    ----------
    one, others
        Lines of the sweep.
    """
    by_seed = sweep.totals.mean(axis=1)
    own, *rest = (by_seed[sweep.lines.index(line)] for line in (one, *others))
    return bool(rest) and exceeds(own, rest)


def means(sweep: Sweep) -> list[dict[str, Any]]:
    """List the mean of every setting and method with its interval, a row each; None where there is none."""
    found = {name: over_seeds(sweep.values[name]) for name in SCORES}
    rows = []
    for panel, y, x in np.ndindex(*sweep.values["total"].shape[1:4]):
        for i, line in enumerate(sweep.lines):
            at = (i, panel, y, x)
            row = {sweep.x.name: sweep.x.values[x], sweep.y.name: sweep.y.values[y]} | sweep.panels[panel]
            row |= {"method": line.method, "params_id": line.params_id, "seeds": int(found["total"][2][at])}
            for name, (mean, half, _) in found.items():
                row[name] = _known(mean[at])
                row[f"{name}_low"], row[f"{name}_high"] = _known(mean[at] - half[at]), _known(mean[at] + half[at])
            rows.append(row)
    return rows


def _known(value: float) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None


def table(sweep: Sweep) -> str:
    """Write `means` as CSV."""
    rows = means(sweep)
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
