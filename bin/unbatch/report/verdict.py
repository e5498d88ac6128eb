"""What the scores say: which method ranks first, if any, what went wrong, what weakens the comparison.

`judge` decides, by the intervals of `metrics.uncertainty` alone; `verdict` puts its decision into sentences. All text
is plain: escape it for HTML.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from enum import StrEnum

from unbatch.metrics.uncertainty import LEVEL, MIN_SEEDS, Interval, difference
from unbatch.report.names import title
from unbatch.report.scores import SHUFFLED, UNCORRECTED, Entry, Result, Spread
from unbatch.report.text import cut, decimals, first, join, signed


class Code(StrEnum):
    """What the totals of a dataset allow to say."""

    NO_RESULT = "no fit ended with a result"
    ONE_BATCH = "there is nothing to correct"
    NO_TOTAL = "biology was not scored"
    NO_CORRECTION = "no correction has all scores"
    UNKNOWN = "there is no interval to compare by"
    NOT_ABOVE_SHUFFLED = "the leader is not told from cells at random"
    BELOW_UNCORRECTED = "what corrects nothing is above the leader"
    NOT_ABOVE_UNCORRECTED = "the leader is not told from what corrects nothing"
    TIED = "the leader is above what corrects nothing, but not told from other corrections"
    ALONE = "there is nothing to compare the only correction with"
    FIRST = "the leader is above everything that it is compared with"


@dataclass(frozen=True)
class Comparison:
    """What the leader scores more than another method."""

    entry: Entry
    gain: Interval


@dataclass(frozen=True)
class Verdict:
    """What can be said of the methods on a dataset.

    Attributes
    ----------
    code
        The decision.
    leader
        Correction with the highest mean, which may be chance; None where there is none.
    corrections, uncorrected, shuffled
        How the leader compares with other corrections, with what corrects nothing, and with the control without
        biology. All intervals hold at once.
    """

    code: Code
    leader: Entry | None = None
    corrections: list[Comparison] = field(default_factory=list)
    uncorrected: list[Comparison] = field(default_factory=list)
    shuffled: list[Comparison] = field(default_factory=list)

    @property
    def best(self) -> Entry | None:
        """The method that may be called best, if there is one."""
        return self.leader if self.code is Code.FIRST else None

    @property
    def tied(self) -> list[Entry]:
        """Corrections that cannot be told from the leader."""
        return [each.entry for each in self.corrections if not each.gain.above]


def compare(leader: Entry, others: list[Entry], score: str, comparisons: int | None = None) -> list[Comparison]:
    """Compare a method with others by a score.

    Parameters
    ----------
    leader, others
        The methods; there is no interval where one has a single seed, or nothing is known over cells.
    score
        ``"batch"``, ``"bio"`` or ``"total"``.
    comparisons
        How many intervals hold at once; those of `others` by default.
    """
    own = leader.sample(score)
    found = []
    for entry in others:
        other = entry.sample(score)
        if own is not None and other is not None:
            found.append(Comparison(entry, difference(own, other, comparisons or len(others))))
    return found


def judge(result: Result) -> Verdict:
    """Decide what the totals of a dataset allow to say.

    Parameters
    ----------
    result
        Scores of a dataset.
    """
    if not result.scored():
        return Verdict(Code.NO_RESULT)
    if not any(e.total for e in result.entries):
        return Verdict(Code.ONE_BATCH if result.single else Code.NO_TOTAL)
    corrections = [e for e in result.scored("correction") if e.rank]
    if not corrections:
        return Verdict(Code.NO_CORRECTION)
    leader, others = corrections[0], corrections[1:]
    comparable = [e for e in result.scored() if e.total and e.complete]
    uncorrected = [e for e in comparable if e.uncorrected]
    shuffled = [e for e in comparable if e.shows == SHUFFLED]
    if not others and not uncorrected and not shuffled:
        return Verdict(Code.ALONE, leader)
    count = len(others) + len(uncorrected) + len(shuffled)
    parts = [compare(leader, group, "total", count) for group in (others, uncorrected, shuffled)]
    return Verdict(_code(*parts), leader, *parts)


def _code(corrections: list[Comparison], uncorrected: list[Comparison], shuffled: list[Comparison]) -> Code:
    known = [each for each in (*corrections, *uncorrected, *shuffled) if each.gain.low <= each.gain.high]
    if not known:
        return Code.UNKNOWN
    if any(not each.gain.above for each in shuffled):
        return Code.NOT_ABOVE_SHUFFLED
    if any(each.gain.below for each in uncorrected):
        return Code.BELOW_UNCORRECTED
    if any(not each.gain.above for each in uncorrected):
        return Code.NOT_ABOVE_UNCORRECTED
    return Code.FIRST if all(each.gain.above for each in corrections) else Code.TIED


def verdict(result: Result) -> list[str]:
    """Say in plain sentences what the scores of a dataset mean.

    Returns
    -------
    list of str
        The first is the headline, and what means lack in all methods comes next. Plain text: escape it for HTML.
    """
    headline, *more = _sentences(result)
    return [headline, *_lacking(result), *more]


def _lacking(result: Result) -> list[str]:
    """Say which scores could not be computed for any method, as batch, biology and total are then those of the rest."""
    found = []
    for kind, word in (("batch", "batch"), ("bio", "biology")):
        names = [name for name in result.metrics.get(kind, []) if name in result.lost]
        if names:
            count = len(result.metrics[kind])
            mean = (
                f"the {word} score is the mean of {count - len(names)} of {count}"
                if len(names) < count
                else f"there is no {word} score"
            )
            reasons = "; ".join(dict.fromkeys(result.lost[name] for name in names))
            found.append(f"{join(title(name) for name in names)} failed for every method ({reasons}): {mean}.")
    return found


def _sentences(result: Result) -> list[str]:
    found = judge(result)
    if found.code is Code.NO_RESULT:
        return [f"No fit ended with a result: none of the {len(result.entries)} methods can be judged."]
    if found.code is Code.ONE_BATCH:
        return _verdict_of_one_batch(result)
    if found.code is Code.NO_TOTAL:
        return _verdict_without_total(result)
    if found.code is Code.NO_CORRECTION:
        return ["No correction method ended with a full set of scores, so there is no best method to name."]
    leader = found.leader
    sentences = _headline(found, result)
    if not found.uncorrected:
        sentences.append(
            "No embedding without correction (None) has comparable scores, so whether correction helps is not known."
        )
    none = [e for e in result.scored() if e.shows == UNCORRECTED]
    if found.code is not Code.UNKNOWN and none and none[0].batch and none[0].bio and leader.batch and leader.bio:
        changes = [compare(leader, none, score, 2) for score in ("batch", "bio")]
        if all(changes):
            batch, bio = (_change(change[0].gain) for change in changes)
            sentences.append(
                f"Against {none[0].label}, {leader.label} has a batch score {batch} and a biology score {bio}."
            )
    if leader.supervised:
        sentences.append(
            f"{leader.label} was fitted with the labels that it is scored by: that is not a fair comparison."
        )
    single = [e.label for e in result.scored() if e.total and e.complete and e.total.n < MIN_SEEDS]
    if single:
        sentences.append(
            f"{join(single)} {'has' if len(single) == 1 else 'have'} scores of one seed only: the spread over seeds is "
            "unknown, so nothing is said of how they compare."
        )
    return sentences


def _headline(found: Verdict, result: Result) -> list[str]:
    """Say which method ranks first, or why none does, and what that rests on."""
    leader, tied = found.leader, found.tied
    by_total = {e.label: f"{e.label} ({e.total.mean:.2f})" for e in result.entries if e.total}
    idle = min(found.uncorrected, key=lambda each: each.gain.mean, default=None)
    seeds = {each.total.n for each in (leader, *(c.entry for c in _all(found)))}
    scored = result.dataset.get("scored_cells") or result.dataset["cells"]
    basis = f"{LEVEL:.0%} intervals, over {join(sorted(map(str, seeds)))} seeds and {scored:,} cells"
    sentences = {
        Code.ALONE: [f"{leader.label} is the only method with a full set of scores: total {describe(leader.total)}."],
        Code.UNKNOWN: [
            "No method can be called best: without an interval over seeds and cells, differences may be chance.",
            f"The totals are those of {join(by_total.values())}.",
        ],
        Code.NOT_ABOVE_SHUFFLED: [
            f"No method can be called best: the total of {leader.label} cannot be told apart from that of shuffled "
            "cells, in which no biology is left.",
        ]
        + [
            f"{by_total[leader.label]} against {by_total[each.entry.label]}, {_gain(each.gain)}: read the batch and "
            "the biology score apart."
            for each in found.shuffled
        ],
        Code.BELOW_UNCORRECTED: ["No correction is better than no correction at all on these data."],
        Code.NOT_ABOVE_UNCORRECTED: ["No correction can be told apart from no correction at all on these data."],
        Code.TIED: [
            f"No single best method: {join(by_total[e.label] for e in (leader, *tied))} cannot be told apart by their "
            "totals.",
        ],
        Code.FIRST: [f"{leader.label} ranks first: total {describe(leader.total)}."],
    }[found.code]
    if idle and found.code not in (Code.UNKNOWN, Code.ALONE):
        sentences.append(
            f"{idle.entry.label}, which corrects nothing, has a total of {describe(idle.entry.total)}; {leader.label} "
            f"has {leader.total.mean:.2f}, {_gain(idle.gain)}."
        )
    surely = [each.entry.label for each in found.corrections if each.gain.above]
    if found.code in (Code.FIRST, Code.TIED) and surely:
        sentences.append(f"{leader.label} scores higher than {join(surely)}, by more than chance.")
    if found.code not in (Code.UNKNOWN, Code.ALONE):
        sentences.append(f"Basis: {basis}.")
    return sentences


def _all(found: Verdict) -> list[Comparison]:
    return [*found.corrections, *found.uncorrected, *found.shuffled]


def _verdict_without_total(result: Result) -> list[str]:
    entries = [e for e in result.scored("correction", "reference") if e.batch and e.complete]
    reason = "there are no labels" if not result.labelled else "the biology scores are missing"
    sentences = [f"No best method can be named, as {reason}: only the mixing of batches was scored."]
    if entries:
        sentences += [
            _by_one_score(entries, "batch", "Batches mix best with {}"),
            "A method that destroys all biology mixes batches completely.",
        ]
    shuffled = next((e for e in result.scored("control") if e.shows == SHUFFLED and e.batch), None)
    if shuffled:
        sentences.append(f"The {shuffled.label} control, in which no biology is left, has {shuffled.batch.mean:.2f}.")
    return sentences


def _verdict_of_one_batch(result: Result) -> list[str]:
    sentences = ["There is one batch, so there is nothing to correct and no best method can be named."]
    entries = [e for e in result.scored() if e.bio and e.complete and (e.kind != "control" or e.uncorrected)]
    if entries:
        sentences.append(_by_one_score(entries, "bio", "Biology is kept best by {}"))
    return sentences


def leaders(entries: list[Entry], score: str) -> list[Entry]:
    """Return the methods that may have the highest score: the one with the highest mean and what is not told from it.

    Parameters
    ----------
    entries
        Those to compare, at least one.
    score
        As in `compare`.
    """
    first = max(entries, key=lambda e: getattr(e, score).mean)
    return [
        first,
        *(e.entry for e in compare(first, [e for e in entries if e is not first], score) if not e.gain.above),
    ]


def _by_one_score(entries: list[Entry], score: str, said: str) -> str:
    """Say which method has the highest score, or that it is not known; `said` has a place for its name."""
    found, word = leaders(entries, score), {"batch": "batch", "bio": "biology"}[score]
    if len(found) == 1 and len(entries) > 1:
        return f"{said.format(found[0].label)}, {word} score {describe(getattr(found[0], score))}."
    values = [f"{e.label} ({getattr(e, score).mean:.2f})" for e in found]
    if len(found) == 1:
        return f"The {word} score is that of {values[0]}."
    return f"By their {word} scores, {join(values)} cannot be told apart."


def describe(spread: Spread) -> str:
    """Write a mean with its range over seeds, as in ``0.61 (2 seeds, 0.60 to 0.62)``."""
    if spread.sd is None:
        return f"{spread.mean:.2f} (one seed)"
    if spread.high - spread.low < 5e-4:
        return f"{spread.mean:.2f} (the same for {spread.n} seeds)"
    digits = 2 if spread.high - spread.low >= 0.01 else 3
    mean, low, high = (decimals(value, digits) for value in (spread.mean, spread.low, spread.high))
    return f"{mean} ({spread.n} seeds, {low} to {high})"


def _gain(gain: Interval) -> str:
    """Write a difference and its interval."""
    if not gain.low <= gain.high:
        return f"a difference of {signed(gain.mean)} without an interval"
    return f"a difference of {signed(gain.mean)} ({signed(gain.low)} to {signed(gain.high)})"


def _change(gain: Interval) -> str:
    if not (gain.above or gain.below):
        return f"that cannot be told from it ({signed(gain.mean)})"
    return f"{abs(gain.mean):.2f} {'higher' if gain.above else 'lower'}"


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
            f"{count:,} of {cells:,} cells ({count / cells:.1%}) have no label and are left out of scores that need "
            "labels."
        )
    if confined:
        listed = [f"{cut(label, 40)} only in {cut(batch, 40)} ({cells:,} cells)" for label, batch, cells in confined]
        found.append(
            "Batch and biology cannot be told apart for labels that occur in one batch only, and batch scores do not "
            f"penalise a method that merges them with others: {first(listed, 10, '; ')}."
        )
    reasons: dict[str, list[str]] = defaultdict(list)
    for name, reason in result.metrics.get("missing", {}).items():
        reasons[str(reason)].append(title(name))
    averaged = {*result.metrics.get("batch", []), *result.metrics.get("bio", [])}
    for name, reason in result.lost.items():
        if name not in averaged:
            reasons[reason].append(title(name))
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
