"""What the scores say: means over seeds, ranks, the verdict in words, and what went wrong."""

import json
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml

from unbatch.data.io import require_file
from unbatch.errors import InputError

VERSION = 1
"""Version of scores.json that this code reads."""

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
    defaults: dict[str, Any] = field(default_factory=dict)


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


@dataclass
class Entry:
    """One method with one set of parameters on one dataset, over its seeds.

    Attributes
    ----------
    method, params_id, label, kind
        What it is; kinds as in the cards.
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
    """

    source: str
    dataset: dict[str, Any]
    metrics: dict[str, Any]
    settings: dict[str, Any]
    versions: dict[str, str]
    entries: list[Entry]

    @property
    def name(self) -> str:
        """Name of the dataset."""
        return str(self.dataset["name"])

    @property
    def rows(self) -> list[dict[str, Any]]:
        """All rows, in the order of the entries."""
        return [row for entry in self.entries for row in entry.rows]

    @property
    def labelled(self) -> bool:
        """Whether the cells have labels."""
        return bool(self.dataset.get("labels"))

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
    path = require_file(Path(path))
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        known = Card.__dataclass_fields__
        return {
            str(name): Card(name=str(name), **{key: card[key] for key in card if key in known})
            for name, card in content.items()
        }
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError, TypeError) as error:
        raise InputError(f"{path}: not a file of method cards such as assets/methods.yml ({error})") from error


def read_scores(path: str | Path, cards: dict[str, Card]) -> Result:
    """Read a scores.json and rank its methods.

    Parameters
    ----------
    path
        A file that `score` wrote.
    cards
        Of the methods, by name.

    Raises
    ------
    InputError
        If it is missing, not JSON, lacks a field or names a method without a card.
    """
    path = require_file(Path(path))
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not JSON ({error})") from error
    if not isinstance(content, dict) or content.get("schema") != VERSION:
        found = content.get("schema") if isinstance(content, dict) else type(content).__name__
        raise InputError(f"{path}: expected a scores.json of schema {VERSION}, found {found!r}")
    for key, kind in (("dataset", dict), ("metrics", dict), ("rows", list)):
        if not isinstance(content.get(key), kind):
            raise InputError(f"{path}: {key} is missing or not a {kind.__name__}; expected what `score` writes")
    absent = {"name", "cells", "genes", "batches"} - set(content["dataset"])
    if absent:
        raise InputError(f"{path}: dataset lacks {', '.join(sorted(absent))}")
    for number, row in enumerate(content["rows"]):
        absent = {"id", "method", "seed", "status", "metrics"} - set(row)
        if absent:
            raise InputError(f"{path}: rows[{number}] lacks {', '.join(sorted(absent))}")
        if row["method"] not in cards:
            raise InputError(
                f"{path}: rows[{number}] names the method {row['method']!r}, which has no card; "
                f"there are {', '.join(cards)}"
            )
        if row["status"] not in STATUSES:
            raise InputError(
                f"{path}: rows[{number}] has the status {row['status']!r}, not one of {', '.join(STATUSES)}"
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
        Of the methods, by name.

    Returns
    -------
    list of Entry
        Ranked ones first, then those not comparable, controls, and those without scores.
    """
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["method"], str(row.get("params_id") or "default")].append(row)

    averaged = [*metrics.get("batch", []), *metrics.get("bio", [])]
    present = {id(row): {name for name in averaged if _number(row["metrics"].get(name)) is not None} for row in rows}
    full = set().union(*(present[id(row)] for row in rows if row["status"] == "ok"))
    names = list(dict.fromkeys([*averaged, *metrics.get("other", [])]))

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
                name: Spread.of(_number(row["metrics"].get(name)) for row in compared) for name in names if compared
            },
            **{key: Spread.of(_number(row.get(key)) for row in compared) for key in ("batch", "bio", "total")},
            complete=bool(whole),
        )
        entry.note = _note(entry, metrics, full)
        entries.append(entry)

    def score(entry: Entry) -> float:
        value = entry.total or entry.batch
        return -value.mean if value else math.inf

    def place(entry: Entry) -> tuple[int, float, str]:
        if entry.status != "ok":
            return (3 if entry.status == "failed" else 4, 0, entry.label)
        if entry.kind == "control":
            return 2, 0 if entry.method == "none" else 1, entry.label
        return (0 if entry.complete else 1), score(entry), entry.label

    entries.sort(key=place)
    ranked = [e for e in entries if place(e)[0] == 0 and e.total]
    for number, entry in enumerate(ranked, 1):
        entry.rank = number
    return entries


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _note(entry: Entry, metrics: dict[str, Any], full: set[str]) -> str:
    if entry.status != "ok":
        return str(entry.rows[0].get("message") or "")
    notes = []
    if not entry.complete:
        notes.append("not ranked, as its means are over fewer metrics" + _fewer(entry, metrics, full))
    left_out = [str(row["seed"]) for row in entry.rows if row not in entry.compared]
    if left_out:
        used = _join(str(row["seed"]) for row in entry.compared)
        notes.append(f"mean over seed {used} only, as seed {_join(left_out)} gave none or fewer scores")
    return "; ".join(notes)


def _fewer(entry: Entry, metrics: dict[str, Any], full: set[str]) -> str:
    """Say which means are over how many metrics, and which are missing."""
    parts = []
    for key, word in (("batch", "batch"), ("bio", "biology")):
        wanted = [name for name in metrics.get(key, []) if name in full]
        absent = [name for name in wanted if not entry.metrics.get(name)]
        if absent:
            lost = _join(title(name) for name in absent)
            parts.append(f"{word}: mean of {len(wanted) - len(absent)} of {len(wanted)}, without {lost}")
    return f" ({'; '.join(parts)})" if parts else ""


def overlap(one: Spread, other: Spread) -> bool:
    """Whether the ranges over seeds touch."""
    return one.low <= other.high and other.low <= one.high


def verdict(result: Result) -> list[str]:
    """Say in plain sentences what the scores of a dataset mean.

    Returns
    -------
    list of str
        The first is the headline. Plain text: escape it for HTML.
    """
    corrections = [e for e in result.scored("correction") if e.rank]
    uncorrected = sorted(
        (e for e in result.scored() if e.kind == "reference" or e.method == "none"),
        key=lambda e: -(e.total.mean if e.total else 0),
    )
    none = next((e for e in uncorrected if e.method == "none" and e.total), None)
    if not result.scored():
        return [f"No fit ended with a result: none of the {len(result.entries)} methods can be judged."]
    if not any(e.total for e in result.entries):
        return _verdict_without_total(result)
    if not corrections:
        return ["No correction method ended with a full set of scores, so there is no best method to name."]

    best = corrections[0]
    sentences = []
    bound = max((e for e in uncorrected if e.total and e.complete), key=lambda e: e.total.mean, default=None)
    if bound is None:
        alone = not any(e.rank and e is not best for e in result.entries)
        sentences += [
            f"{best.label} is the only method with a full set of scores: total {describe(best.total)}."
            if alone
            else f"{best.label} ranks first: total {describe(best.total)}.",
            "No embedding without correction (None) was scored beside it, so whether correction helps is not known.",
        ]
    elif bound.total.mean >= best.total.mean:
        sentences += [
            "No method beats no correction on this data.",
            f"{bound.label}, which corrects nothing, reaches a total of {describe(bound.total)}; "
            f"the best correction, {best.label}, {describe(best.total)}.",
        ]
    else:
        gain = best.total.mean - bound.total.mean
        against = "no correction" if bound.method == "none" else "the best embedding without correction"
        sentences.append(
            f"{best.label} ranks first: total {describe(best.total)}, {gain:.2f} above {against}, {bound.label} "
            f"with {bound.total.mean:.2f}."
        )
        if overlap(best.total, bound.total):
            sentences.append(f"Over seeds, its range overlaps with that of {bound.label}: the gain is not certain.")
    if none and best.batch and best.bio and none.batch and none.bio:
        sentences.append(
            f"Against {none.label}, {best.label} has a batch score {_change(best.batch.mean - none.batch.mean)} and "
            f"a biology score {_change(best.bio.mean - none.bio.mean)}."
        )
    sentences += _separable(best, [e for e in result.entries if e.rank and e not in (best, bound)])
    shuffled = next((e for e in result.scored("control") if e.method == "shuffled" and e.total), None)
    if shuffled and shuffled.total.mean >= best.total.mean:
        sentences.append(
            f"Caution: the {shuffled.label} control, in which no biology is left, has a total of "
            f"{shuffled.total.mean:.2f}. The total says little on this data; read batch and biology apart."
        )
    return sentences


def _verdict_without_total(result: Result) -> list[str]:
    entries = [e for e in result.scored("correction", "reference") if e.batch and e.complete]
    reason = "there are no labels" if not result.labelled else "the biology scores are missing"
    sentences = [f"No best method can be named, as {reason}: only the mixing of batches was scored."]
    if entries:
        sentences.append(
            f"Batches mix best with {entries[0].label}, batch score {describe(entries[0].batch)}, but a method "
            "that destroys all biology would mix them best of all."
        )
    shuffled = next((e for e in result.scored("control") if e.method == "shuffled" and e.batch), None)
    if shuffled:
        sentences.append(f"The {shuffled.label} control, in which no biology is left, has {shuffled.batch.mean:.2f}.")
    return sentences


def _separable(best: Entry, others: list[Entry]) -> list[str]:
    close = [e for e in others if overlap(best.total, e.total)]
    following = next((e for e in others if e.kind == "correction"), None)
    sentences = []
    if close:
        sentences.append(f"By its range over seeds it is not separable from {_join(e.label for e in close)}.")
    elif following:
        sentences.append(f"The next correction is {following.label} with {describe(following.total)}.")
    single = [e.label for e in (best, following) if e and e.total.n == 1]
    if single:
        sentences.append(
            f"{_join(single)} {'has' if len(single) == 1 else 'have'} scores of one seed only: the spread is unknown, "
            "and a small difference may be chance."
        )
    return sentences


def describe(spread: Spread) -> str:
    """Write a mean with its spread, as in ``0.61 ± 0.01 (2 seeds, 0.60 to 0.62)``."""
    if spread.sd is None:
        return f"{spread.mean:.2f} (one seed)"
    if spread.high - spread.low < 5e-4:
        return f"{spread.mean:.2f} (the same for {spread.n} seeds)"
    return f"{spread.mean:.2f} ± {spread.sd:.2f} ({spread.n} seeds, {spread.low:.2f} to {spread.high:.2f})"


def _change(value: float) -> str:
    if abs(value) < 0.005:
        return "that is the same"
    return f"{abs(value):.2f} {'higher' if value > 0 else 'lower'}"


def _shorten(name: str, length: int = 40) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"


def _join(words: Iterable[str]) -> str:
    words = list(words)
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


@dataclass(frozen=True)
class Trouble:
    """Fits of a method that ended alike without scores; of attempts, time and memory the largest."""

    label: str
    seeds: list[int]
    status: str
    exit_code: str
    message: str
    attempts: int
    wall_s: float | None
    peak_mb: float | None


def troubles(result: Result) -> list[Trouble]:
    """List the fits that failed, then those that were not applicable."""
    alike: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for entry in result.entries:
        for row in entry.rows:
            if row["status"] != "ok":
                code = "killed" if row.get("exit_code") is None else str(row["exit_code"])
                alike[entry.label, row["status"], code, str(row.get("message") or "no message")].append(row)
    found = [
        Trouble(
            label,
            [row["seed"] for row in rows],
            status,
            code,
            message,
            max(row.get("attempts") or 1 for row in rows),
            max(_number(row.get("wall_s")) or 0 for row in rows) or None,
            max(_number(row.get("peak_mb")) or 0 for row in rows) or None,
        )
        for (label, status, code, message), rows in alike.items()
    ]
    return sorted(found, key=lambda t: t.status != "failed")


def remarks(result: Result, confined: list[tuple[str, str, int]]) -> list[str]:
    """List what weakens the comparison, as plain sentences.

    Parameters
    ----------
    result
        A dataset.
    confined
        Labels that occur in one batch only: label, batch, cells.
    """
    found = []
    if not result.labelled:
        found.append("There are no labels, so biology is not scored and there is no total.")
    elif result.dataset.get("unlabelled"):
        count, cells = result.dataset["unlabelled"], result.dataset["cells"]
        found.append(
            f"{count:,} of {cells:,} cells ({count / cells:.1%}) have no label; scores that need labels leave them out."
        )
    if confined:
        listed = "; ".join(
            f"{_shorten(label)} only in {_shorten(batch)} ({cells:,} cells)" for label, batch, cells in confined[:10]
        )
        more = f"; and {len(confined) - 10} more" if len(confined) > 10 else ""
        found.append(
            "Batch and biology cannot be told apart for labels that one batch alone has, and a method that merges them "
            f"with others is not punished by the batch scores: {listed}{more}."
        )
    reasons: dict[str, list[str]] = defaultdict(list)
    for name, reason in result.metrics.get("missing", {}).items():
        reasons[str(reason)].append(title(name))
    found += [f"Not computed ({reason}): {_join(names)}." for reason, names in reasons.items()]
    for entry in result.scored():
        if entry.note:
            found.append(f"{entry.label}: {entry.note}.")
    retried = [
        f"{entry.label} seed {row['seed']} ({row['attempts']})"
        for entry in result.entries
        for row in entry.rows
        if row["status"] == "ok" and (row.get("attempts") or 1) > 1
    ]
    if retried:
        found.append(f"More than one attempt was needed for {_join(retried)}.")
    return found


@dataclass(frozen=True)
class MetricInfo:
    """How a metric is called and read; `better` is ``"higher"`` or ``"lower"``."""

    title: str
    short: str
    about: str
    better: str = "higher"


METRICS = {
    "bras": MetricInfo(
        "BRAS", "BRAS", "silhouette of batches within each label, against all other batches: 1 when batches mix"
    ),
    "silhouette_batch": MetricInfo(
        "Silhouette batch", "Silh. batch", "older form of BRAS; can reward embeddings in which batches stay apart"
    ),
    "ilisi": MetricInfo("iLISI", "iLISI", "how many batches there are among the neighbours of a cell"),
    "kbet": MetricInfo(
        "kBET", "kBET", "share of cells, per label, around which batches are as frequent as in the whole label"
    ),
    "kbet_all": MetricInfo(
        "kBET (all cells)", "kBET all", "share of cells around which batches are as frequent as in the whole dataset"
    ),
    "graph_connectivity": MetricInfo(
        "Graph connectivity", "Graph conn.", "whether the cells of a label hang together in the neighbour graph"
    ),
    "pcr": MetricInfo("PCR comparison", "PCR", "how much less variance batches explain than before correction"),
    "isolated_labels": MetricInfo(
        "Isolated labels", "Isolated labels", "whether labels that few batches have stay apart from others"
    ),
    "nmi": MetricInfo("NMI", "NMI", "agreement of k-means clusters with labels"),
    "ari": MetricInfo("ARI", "ARI", "agreement of k-means clusters with labels, corrected for chance"),
    "silhouette_label": MetricInfo("Silhouette label", "Silh. label", "whether labels form compact, separate groups"),
    "clisi": MetricInfo(
        "cLISI", "cLISI", "whether the neighbours of a cell have its label; near 1 for most methods, so it tells little"
    ),
    "asw_batch": MetricInfo("ASW batch", "ASW batch", "separation of batches (silhouette width, raw)", "lower"),
    "ch_batch": MetricInfo("CH batch", "CH batch", "separation of batches (Calinski-Harabasz)", "lower"),
    "inv_db_batch": MetricInfo("1/DB batch", "1/DB batch", "separation of batches (1 / Davies-Bouldin)", "lower"),
    "asw_label": MetricInfo("ASW label", "ASW label", "separation of labels (silhouette width, raw)"),
    "ch_label": MetricInfo("CH label", "CH label", "separation of labels (Calinski-Harabasz)"),
    "inv_db_label": MetricInfo("1/DB label", "1/DB label", "separation of labels (1 / Davies-Bouldin)"),
}
"""What the metrics of `score` mean, by name."""


def info(name: str) -> MetricInfo:
    """Return how a metric is called and read; one that is not known goes by its name."""
    plain = name.replace("_", " ")
    return METRICS.get(name, MetricInfo(plain, plain, ""))


def title(name: str) -> str:
    """Return the title of a metric."""
    return info(name).title
