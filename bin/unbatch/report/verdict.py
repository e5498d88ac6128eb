"""What the scores say, in sentences: the best method, what went wrong, what weakens the comparison.

All is plain text: escape it for HTML.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from unbatch.report.names import join, title
from unbatch.report.scores import Entry, Result, Spread, number


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
            "No embedding without correction (None) has comparable scores, so whether correction helps is not known.",
        ]
    elif bound.total.mean >= best.total.mean:
        sentences += [
            "No method beats no correction on this data.",
            f"{bound.label}, which corrects nothing, reaches a total of {describe(bound.total)}; "
            f"the best correction, {best.label}, {describe(best.total)}.",
        ]
    else:
        gain = best.total.mean - bound.total.mean
        gained = f"{gain:.2f}" if gain >= 0.005 else "less than 0.01"
        against = "no correction" if bound.method == "none" else "the best embedding without correction"
        sentences.append(
            f"{best.label} ranks first: total {describe(best.total)}, {gained} above {against}, {bound.label} "
            f"with {bound.total.mean:.2f}."
        )
        if overlap(best.total, bound.total):
            sentences.append(f"Over seeds, its range overlaps with that of {bound.label}: the gain is not certain.")
    if none and best.batch and best.bio and none.batch and none.bio:
        sentences.append(
            f"Against {none.label}, {best.label} has a batch score {_change(best.batch.mean - none.batch.mean)} and "
            f"a biology score {_change(best.bio.mean - none.bio.mean)}."
        )
    if best.supervised:
        sentences.append(f"{best.label} was fitted with the labels that it is scored by: that is no fair comparison.")
    sentences += _separable(best, [e for e in result.entries if e.rank and e not in (best, bound)])
    shuffled = next((e for e in result.scored("control") if e.method == "shuffled" and e.total and e.complete), None)
    beaten = [e for e in (best, bound) if e and shuffled and shuffled.total.mean >= e.total.mean]
    if beaten:
        sentences.append(
            f"Caution: the {shuffled.label} control, in which no biology is left, has a total of "
            f"{shuffled.total.mean:.2f}, not below {join(e.label for e in beaten)}: here the total rewards mixing more "
            "than biology, so read batch and biology apart."
        )
    return sentences


def _verdict_without_total(result: Result) -> list[str]:
    if result.single:
        return _verdict_of_one_batch(result)
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


def _verdict_of_one_batch(result: Result) -> list[str]:
    sentences = ["There is one batch, so there is nothing to correct and no best method can be named."]
    entries = [e for e in result.scored() if e.bio and e.complete and (e.kind != "control" or e.method == "none")]
    if entries:
        best = max(entries, key=lambda e: e.bio.mean)
        sentences.append(f"Biology is kept best by {best.label}, biology score {describe(best.bio)}.")
    return sentences


def _separable(best: Entry, others: list[Entry]) -> list[str]:
    close = [e for e in others if overlap(best.total, e.total)]
    following = next((e for e in others if e.kind == "correction"), None)
    sentences = []
    if close:
        sentences.append(f"By its range over seeds it is not separable from {join(e.label for e in close)}.")
    elif following:
        sentences.append(f"The next correction is {following.label} with {describe(following.total)}.")
    single = [e.label for e in (best, following) if e and e.total.n == 1]
    if single:
        sentences.append(
            f"{join(single)} {'has' if len(single) == 1 else 'have'} scores of one seed only: the spread is unknown, "
            "and a small difference may be chance."
        )
    return sentences


def describe(spread: Spread) -> str:
    """Write a mean with its spread, as in ``0.61 ± 0.01 (2 seeds, 0.60 to 0.62)``."""
    if spread.sd is None:
        return f"{spread.mean:.2f} (one seed)"
    if spread.high - spread.low < 5e-4:
        return f"{spread.mean:.2f} (the same for {spread.n} seeds)"
    digits = 2 if spread.high - spread.low >= 0.01 else 3
    mean, sd, low, high = (f"{value:.{digits}f}" for value in (spread.mean, spread.sd, spread.low, spread.high))
    return f"{mean} ± {sd} ({spread.n} seeds, {low} to {high})"


def _change(value: float) -> str:
    if abs(value) < 0.005:
        return "that is the same"
    return f"{abs(value):.2f} {'higher' if value > 0 else 'lower'}"


def _shorten(name: str, length: int = 40) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"


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
            max(number(row.get("wall_s")) or 0 for row in rows) or None,
            max(number(row.get("peak_mb")) or 0 for row in rows) or None,
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
    if result.single:
        found.append("There is one batch: mixing is not scored, and there is no total.")
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
    found += [f"Not computed ({reason}): {join(names)}." for reason, names in reasons.items()]
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
        found.append(f"More than one attempt was needed for {join(retried)}.")
    return found
