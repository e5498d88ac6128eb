"""Scores of the methods: read, averaged over seeds, ranked."""

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from unbatch import methods
from unbatch.data.io import read_mapping
from unbatch.errors import InputError
from unbatch.metrics.uncertainty import Sample
from unbatch.report.names import title
from unbatch.report.text import join

VERSION = 1
"""Version of scores.json that this code reads."""

UNCORRECTED, SHUFFLED = "no correction", "shuffled cells"
"""What the controls show that others are read against, as on their cards."""

STATUSES = ("ok", "failed", "not applicable")


@dataclass(frozen=True)
class Card:
    """A method as `assets/methods.yml` describes it."""

    name: str
    label: str
    kind: str
    summary: str = ""
    package: str | None = None
    licence: str = ""
    citation: str = ""
    doi: str | None = None
    extra: str | None = None
    image: str | None = None
    shows: str | None = None


@dataclass(frozen=True)
class Spread:
    """Mean of some values and how far they are apart; `sd` is None for a single value."""

    mean: float
    sd: float | None
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> "Spread | None":
        """Summarise the values that are there; None when there are none."""
        present = [value for value in values if value is not None]
        if not present:
            return None
        return cls(
            mean(present), stdev(present) if len(present) > 1 else None, min(present), max(present), len(present)
        )


@dataclass(eq=False)
class Entry:
    """One method with one set of parameters on one dataset, over its seeds.

    Attributes
    ----------
    method, params_id, label, kind, package
        What it is; kinds and packages as in the cards.
    rows
        All its rows of scores.json, by seed.
    compared
        Those that the means are over: fits that ended well, and have the full set of metrics if any of them has.
    metrics, batch, bio, total
        Means over `compared`.
    complete
        Whether the means are over the same metrics as those of the dataset's other methods.
    rank
        From 1, or None for what is not ranked: controls, fits without scores, means over other metrics.
    note
        Why there is no rank, or no score.
    supervised
        Whether it was fitted with the labels, of all cells.
    shows
        What a control shows, as on its card; None for other methods.
    """

    method: str
    params_id: str
    label: str
    kind: str
    rows: list[dict[str, Any]]
    compared: list[dict[str, Any]]
    metrics: dict[str, Spread | None]
    batch: Spread | None
    bio: Spread | None
    total: Spread | None
    complete: bool
    rank: int | None = None
    note: str = ""
    package: str | None = None
    supervised: bool = False
    shows: str | None = None

    @property
    def aside(self) -> str:
        """How it is called where it stands among others, with what sets it apart."""
        return self.label + (" (control)" if self.kind == "control" else "" if self.complete else " (fewer metrics)")

    @property
    def uncorrected(self) -> bool:
        """Whether nothing was corrected: a reference, or the control that shows that."""
        return self.kind == "reference" or self.shows == UNCORRECTED

    @property
    def library(self) -> str:
        """Name and version of what fitted it, as far as its first fit knows them."""
        name = self.package or "unbatch"
        known = (self.compared[0].get("versions") or {}) if self.compared else {}
        return f"{name} {known[name]}" if name in known else name

    def sample(self, name: str) -> Sample | None:
        """Return a mean (``batch``, ``bio``, ``total``) or probe by seed and by group of cells; None without values."""
        values = [number(row.get(name, row["metrics"].get(name))) for row in self.compared]
        if not values or None in values:
            return None
        cells = [row.get("cells") or {} for row in self.compared]
        left_out = [each.get("left_out", {}).get(name) for each in cells]
        known = all(left_out) and len({len(each) for each in left_out}) == 1
        # None for a group without which there is no score: then there is no interval
        replicates = np.array(left_out, dtype=float) if known else None
        spread = [number(each.get("clustering_sd", {}).get(name)) or 0.0 for each in cells]
        return Sample(np.array(values), replicates, float(np.mean(np.square(spread))))

    @property
    def status(self) -> str:
        """``"ok"`` when any seed has scores, else how its fits ended."""
        found = {row["status"] for row in self.rows}
        return next(status for status in ("ok", "failed", "not applicable") if status in found)


@dataclass
class Result:
    """What scores.json holds about one dataset, and what follows from it.

    Attributes
    ----------
    source
        Name of the file.
    dataset, metrics, settings, versions
        As in the file.
    entries
        In the order to show them: ranked, not comparable, controls, without scores.
    evidence
        What probes and predictions are read against, as in the file; None where there were none.
    space
        Sections whose domains were scored, as in the file; None where there were none.
    """

    source: str
    dataset: dict[str, Any]
    metrics: dict[str, Any]
    settings: dict[str, Any]
    versions: dict[str, str]
    entries: list[Entry]
    evidence: dict[str, Any] | None = None
    space: dict[str, Any] | None = None

    def require_cells(self, cells: int, path: Path) -> None:
        """Check that a file holds as many cells as the scored dataset has.

        Raises
        ------
        InputError
            If not.
        """
        if cells != self.dataset["cells"]:
            raise InputError(
                f"{path}: holds {cells} cells, but the scores of {self.name!r} are of {self.dataset['cells']}"
            )

    @property
    def name(self) -> str:
        """Name of the dataset."""
        return str(self.dataset["name"])

    @property
    def weights(self) -> dict[str, float]:
        """Weights of ``batch`` and ``bio`` in the total."""
        return self.metrics["weights"]

    @property
    def formula(self) -> str:
        """How the total is weighted."""
        return f"{self.weights['batch']:g} × batch + {self.weights['bio']:g} × biology"

    @property
    def rows(self) -> list[dict[str, Any]]:
        """All rows, in the order of the entries."""
        return [row for entry in self.entries for row in entry.rows]

    @property
    def labelled(self) -> bool:
        """Whether the cells have labels."""
        return bool(self.dataset.get("labels"))

    @property
    def single(self) -> bool:
        """Whether there is one batch only, and nothing can mix."""
        return len(self.dataset["batches"]) < 2

    @property
    def lost(self) -> dict[str, str]:
        """Scores that no embedding has though they were asked for, and what is known of why."""
        rows = [row for row in self.rows if row["status"] == "ok" and row.get("output") != "graph"]
        names = [name for kind in ("batch", "bio", "other", "evidence") for name in self.metrics.get(kind, [])]
        absent = [name for name in names if rows and all(number(row["metrics"].get(name)) is None for row in rows)]
        reasons = {name: (row.get("reasons") or {}).get(name) for row in reversed(rows) for name in absent}
        return {name: str(reasons[name] or "no reason is known") for name in absent}

    def scored(self, *kinds: str) -> list[Entry]:
        """Entries with scores, of these kinds if any are given."""
        return [e for e in self.entries if e.status == "ok" and (not kinds or e.kind in kinds)]


def read_cards(path: str | Path) -> dict[str, Card]:
    """Read `assets/methods.yml`.

    Raises
    ------
    InputError
        If it is missing or is not a file of method cards.
    """
    known = Card.__dataclass_fields__
    cards = read_mapping(path, "method cards such as assets/methods.yml")
    try:
        return {
            name: Card(name=name, **{key: card[key] for key in card if key in known}) for name, card in cards.items()
        }
    except TypeError as error:
        raise InputError(f"{path}: not a file of method cards such as assets/methods.yml ({error})") from error


def read_scores(path: str | Path, cards: dict[str, Card]) -> Result:
    """Read a scores.json and rank its methods.

    Parameters
    ----------
    path
        A file that `score` wrote.
    cards
        Cards of the methods, by name.

    Raises
    ------
    InputError
        If it is missing, not JSON, lacks a field or names a method without a card.
    """
    path = Path(path)
    content = read_mapping(path, "a scores.json")
    if content.get("schema") != VERSION:
        raise InputError(f"{path}: expected a scores.json of schema {VERSION}, found {content.get('schema')!r}")
    for key, kind in (("dataset", dict), ("metrics", dict), ("rows", list)):
        if not isinstance(content.get(key), kind):
            raise InputError(f"{path}: {key} is missing or not a {kind.__name__}; expected what `score` writes")
    absent = {"name", "cells", "genes", "batches"} - set(content["dataset"])
    if absent:
        raise InputError(f"{path}: dataset lacks {', '.join(sorted(absent))}")
    weights = content["metrics"].get("weights")
    if not isinstance(weights, dict) or not all((number(weights.get(key)) or 0) > 0 for key in ("batch", "bio")):
        raise InputError(f"{path}: metrics lacks weights of batch and bio, found {weights!r}")
    for index, row in enumerate(content["rows"]):
        absent = {"id", "method", "seed", "status", "metrics"} - set(row)
        if absent:
            raise InputError(f"{path}: rows[{index}] lacks {', '.join(sorted(absent))}")
        if row["method"] not in cards:
            raise InputError(
                f"{path}: rows[{index}] names the method {row['method']!r}, which has no card; "
                f"there are {', '.join(cards)}"
            )
        if row["status"] not in STATUSES:
            raise InputError(
                f"{path}: rows[{index}] has the status {row['status']!r}, not one of {', '.join(STATUSES)}"
            )
    if not content["rows"]:
        raise InputError(f"{path}: rows is empty, there is nothing to report")
    return Result(
        source=path.name,
        dataset=content["dataset"],
        metrics=content["metrics"],
        settings=content.get("settings") or {},
        versions=content.get("versions") or {},
        entries=rank(content["rows"], content["metrics"], cards),
        evidence=content.get("evidence"),
        space=content.get("space"),
    )


def rank(rows: list[dict[str, Any]], metrics: dict[str, Any], cards: dict[str, Card]) -> list[Entry]:
    """Average the rows of one dataset over seeds and rank the methods by their total.

    Only means over the same metrics are compared: the full set is what the rows with scores have between them, and
    a method of which no seed has the full set gets no rank. Controls get none either.

    Parameters
    ----------
    rows, metrics
        As in scores.json.
    cards
        Cards of the methods, by name.

    Returns
    -------
    list of Entry
        Ranked ones first, then those not comparable, controls, and those without scores.
    """
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["method"], str(row.get("params_id") or "default")].append(row)

    averaged = [*metrics.get("batch", []), *metrics.get("bio", [])]
    present = {id(row): {name for name in averaged if number(row["metrics"].get(name)) is not None} for row in rows}
    full = set().union(*(present[id(row)] for row in rows if row["status"] == "ok"))
    names = list(dict.fromkeys([*averaged, *metrics.get("other", []), *metrics.get("evidence", [])]))

    entries = []
    for (method, params_id), group in groups.items():
        group.sort(key=lambda row: row["seed"])
        ok = [row for row in group if row["status"] == "ok"]
        whole = [row for row in ok if present[id(row)] == full]
        compared = whole or ok
        card = cards[method]
        entry = Entry(
            method=method,
            params_id=params_id,
            label=card.label if params_id == "default" else f"{card.label} ({params_id})",
            kind=card.kind,
            rows=group,
            compared=compared,
            metrics={
                name: Spread.of(number(row["metrics"].get(name)) for row in compared) for name in names if compared
            },
            **{key: Spread.of(number(row.get(key)) for row in compared) for key in ("batch", "bio", "total")},
            complete=bool(whole),
            package=card.package,
            supervised=method in methods.names() and methods.load(method).needs.labels,
            shows=card.shows,
        )
        entry.note = _note(entry, metrics, full)
        entries.append(entry)

    def score(entry: Entry) -> float:
        value = entry.total or entry.batch or entry.bio
        return -value.mean if value else math.inf

    def place(entry: Entry) -> tuple[int, float, str]:
        if entry.status != "ok":
            return (3 if entry.status == "failed" else 4, 0, entry.label)
        if entry.kind == "control":
            return 2, 0 if entry.uncorrected else 1, entry.label
        return (0 if entry.complete else 1), score(entry), entry.label

    entries.sort(key=place)
    ranked = [e for e in entries if place(e)[0] == 0 and e.total]
    for position, entry in enumerate(ranked, 1):
        entry.rank = position
    return entries


@dataclass(frozen=True)
class Failure:
    """Fits of a method that ended alike without scores; of attempts, time and memory the largest."""

    label: str
    status: str
    exit_code: str
    message: str
    rows: list[dict[str, Any]]
    datasets: list[str]

    @property
    def seeds(self) -> list[int]:
        """Their seeds."""
        return [row["seed"] for row in self.rows]

    def largest(self, name: str) -> float | None:
        """Largest number of that name; None where it is not known."""
        return max(number(row.get(name)) or 0 for row in self.rows) or None


def failures(results: Iterable[Result]) -> list[Failure]:
    """List the fits without scores, those that ended alike together: first what failed, then what was not applicable.

    Parameters
    ----------
    results
        Scores of the datasets.
    """
    alike: dict[tuple[str, str, str, str], list[tuple[str, dict[str, Any]]]] = defaultdict(list)
    for result in results:
        for entry in result.entries:
            for row in entry.rows:
                if row["status"] != "ok":
                    code = "killed" if row.get("exit_code") is None else str(row["exit_code"])
                    key = entry.label, row["status"], code, str(row.get("message") or "no message")
                    alike[key].append((result.name, row))
    found = [
        Failure(*key, [row for _, row in pairs], sorted({name for name, _ in pairs})) for key, pairs in alike.items()
    ]
    return sorted(found, key=lambda each: (each.status != "failed", -len(each.rows)))


LEAST_WIDTH = 0.02
"""Controls that are no further apart bound nothing: by so little, noise would become scores of 100."""


@dataclass(frozen=True)
class Scaled:
    """Scores of one method where 0 is the worst control and 1 the best; None where the controls do not differ."""

    metrics: dict[str, float | None]
    batch: float | None
    bio: float | None
    total: float | None


def scale(result: "Result") -> dict[str, Scaled]:
    """Scale scores between controls, after Luecken et al. 2025.

    Every metric's mean over seeds becomes (score - lower) / (upper - lower), with the lowest and the highest mean of
    the controls. Batch and biology are the means of their scaled metrics, the total is weighted as the raw one. Values
    below 0 and above 1 are left so: outside the means of the controls.

    Parameters
    ----------
    result
        Scores of a dataset.

    Returns
    -------
    dict
        By label of the entry; empty when fewer than two controls have scores. A metric in which the controls are no
        further apart than `LEAST_WIDTH` is None, and so is a mean in which a metric is missing that other methods have.
    """
    controls = result.scored("control")
    if len(controls) < 2:
        return {}
    names = {key: list(result.metrics.get(key, [])) for key in ("batch", "bio")}
    bounds = {}
    for name in [*names["batch"], *names["bio"]]:
        values = [entry.metrics[name].mean for entry in controls if entry.metrics.get(name)]
        if len(values) > 1 and max(values) - min(values) > LEAST_WIDTH:
            bounds[name] = min(values), max(values)
    found = {}
    for entry in result.scored():
        metrics: dict[str, float | None] = {}
        for name in [*names["batch"], *names["bio"]]:
            low, high = bounds.get(name, (0.0, 0.0))
            spread = entry.metrics.get(name)
            metrics[name] = (spread.mean - low) / (high - low) if spread and name in bounds else None
        means = {}
        for key, group in names.items():
            values = [metrics[name] for name in group if name in bounds]
            means[key] = mean(values) if values and None not in values else None
        weights = result.weights
        whole = None not in means.values()
        total = weights["batch"] * means["batch"] + weights["bio"] * means["bio"] if whole else None
        found[entry.label] = Scaled(metrics, means["batch"], means["bio"], total)
    return found


def number(value: Any) -> float | None:
    """Return a finite number, or None for anything else."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _note(entry: Entry, metrics: dict[str, Any], full: set[str]) -> str:
    if entry.status != "ok":
        return str(entry.rows[0].get("message") or "")
    notes = []
    if not entry.complete:
        graph = any(row.get("output") == "graph" for row in entry.rows)
        if graph:
            notes.append("not ranked and without means, as it gives a graph and most scores are of an embedding")
        else:
            notes.append("not ranked, as its means are over fewer metrics" + _fewer(entry, metrics, full))
    left_out = [str(row["seed"]) for row in entry.rows if row not in entry.compared]
    if left_out:
        used = join(str(row["seed"]) for row in entry.compared)
        notes.append(f"mean over seed {used} only, as seed {join(left_out)} gave none or fewer scores")
    return "; ".join(notes)


def _fewer(entry: Entry, metrics: dict[str, Any], full: set[str]) -> str:
    """Say which means are over how many metrics, and which are missing."""
    parts = []
    for key, word in (("batch", "batch"), ("bio", "biology")):
        wanted = [name for name in metrics.get(key, []) if name in full]
        absent = [name for name in wanted if not entry.metrics.get(name)]
        if absent:
            lost = join(title(name) for name in absent)
            parts.append(f"{word}: mean of {len(wanted) - len(absent)} of {len(wanted)}, without {lost}")
    return f" ({'; '.join(parts)})" if parts else ""
