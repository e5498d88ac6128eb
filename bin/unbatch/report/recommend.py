"""Which method for which purpose, by the rules of docs/report.md: from intervals of scores, or not at all.

`advise` decides, and `Advice.text` writes the sentence. All text is plain: escape it for HTML.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from unbatch import methods as registry
from unbatch.metrics.uncertainty import Interval
from unbatch.report.confounding import Finding, Kind
from unbatch.report.probes import Told, findings
from unbatch.report.scores import UNCORRECTED, Entry, Result, number
from unbatch.report.text import join
from unbatch.report.verdict import Code, Comparison, compare, judge

MAX_CONFINED = 0.2
"""Share of labelled cells whose label is in one batch only, above which scores recommend nothing."""

NEGLIGIBLE = 0.05
"""Balanced accuracy above the labels alone (or chance) that a batch probe must stay below for no effect to be left."""

MARGIN = 0.05
"""Biology score that a correction may lose, by its interval, to be recommended for clusters."""

EXPRESSION = ("layers/corrected", "layers/denoised")
"""Slots of a fit with expression that other analyses can use."""


class Purpose(StrEnum):
    """What the result of a correction is used for."""

    CORRECT = "Is a correction needed?"
    EMBEDDING = "One embedding of all cells (UMAP, neighbours, trajectories)"
    CLUSTERING = "Clusters across batches"
    GENES = "Gene-level work (markers, differential expression)"


class Ground(StrEnum):
    """What an answer, or its absence, rests on."""

    EFFECT = "a batch effect is left without correction"
    NO_EFFECT = "no batch effect is left without correction"
    FIRST = "first by its total"
    BEST_MIXING = "best mixing among methods that keep biology"
    UNCORRECTED = "no correction has the higher total"
    EXPRESSION = "corrected expression, and a total above that of no correction"

    ONE_BATCH = "one batch"
    CONFOUNDED = "batch and biology are confounded"
    NO_TOTAL = "biology was not scored"
    NO_METHOD = "no correction has all scores"
    NO_INTERVAL = "one seed, or no interval"
    COMPOSITION = "batches differ, and without labels that may be composition"
    NOT_PROBED = "the batch was not probed for"
    NO_ROOM = "the labels alone tell the batch"
    UNDECIDED = "the interval allows both"
    CONFLICT = "probe and scores disagree"
    OVERLAP = "several cannot be told apart"
    NOT_ABOVE_UNCORRECTED = "not told from no correction"
    NOT_ABOVE_SHUFFLED = "not told from shuffled cells"
    NO_REFERENCE = "nothing without correction to compare with"
    BIOLOGY_LOST = "no correction is shown to keep biology"
    NO_EXPRESSION = "no method with corrected expression was run"
    CONDITION_IS_BATCH = "the column asked about is the same as the batch"


ANSWERS = frozenset(
    {Ground.EFFECT, Ground.NO_EFFECT, Ground.FIRST, Ground.BEST_MIXING, Ground.UNCORRECTED, Ground.EXPRESSION}
)
"""Grounds on which something is recommended; on all others nothing is."""


@dataclass(frozen=True)
class Advice:
    """The answer for one purpose.

    Attributes
    ----------
    purpose, ground
        What for, and why.
    method
        The method to use; None where nothing is recommended, and for `Purpose.CORRECT`.
    gain
        The difference that supports the answer, with its interval.
    tied
        Methods that cannot be told apart, where that is the reason.
    columns
        Columns that are confounded with the batch, where that is the reason.
    """

    purpose: Purpose
    ground: Ground
    method: Entry | None = None
    gain: Interval | None = None
    tied: list[Entry] = field(default_factory=list)
    columns: tuple[str, ...] = ()

    @property
    def silent(self) -> bool:
        """Whether the evidence does not allow an answer."""
        return self.ground not in ANSWERS

    @property
    def answer(self) -> str:
        """The answer in a few words."""
        if self.silent:
            return "No recommendation"
        if self.purpose is Purpose.CORRECT:
            return "Yes" if self.ground is Ground.EFFECT else "No"
        return self.method.label if self.method and self.method.shows != UNCORRECTED else "No correction"

    @property
    def text(self) -> str:
        """The reason in a sentence."""
        return _sentence(self)


def advise(result: Result, confounding: Sequence[Finding] = ()) -> list[Advice]:
    """Recommend a method for each purpose, where the scores allow it.

    Parameters
    ----------
    result
        Scores of a dataset. Methods that were fitted with the labels are left out, as their scores use what they saw.
    confounding
        How batches and biology go together; nothing is known of it without the dataset.

    Returns
    -------
    list of Advice
        One for each purpose, in their order.
    """
    fair = replace(result, entries=[entry for entry in result.entries if not entry.supervised])
    general = _obstacle(fair, confounding)
    if general:
        return [Advice(purpose, general) for purpose in Purpose]
    needed = _needed(fair)
    if needed.ground is not Ground.NO_EFFECT:
        return [needed, _embedding(fair), _clustering(fair), _genes(fair, confounding)]
    code = judge(fair).code
    if code in (Code.FIRST, Code.TIED):
        # a correction that scores higher all the same: one of the two is wrong
        return [replace(needed, purpose=purpose, ground=Ground.CONFLICT) for purpose in Purpose]
    if code in (Code.UNKNOWN, Code.NO_TOTAL):
        # what would contradict the probe is not known
        return [needed, *(Advice(purpose, _SILENT[code]) for purpose in list(Purpose)[1:])]
    genes = _genes(fair, confounding)
    found = [replace(needed, purpose=purpose) for purpose in Purpose]
    return [*found[:-1], genes if genes.ground is Ground.CONDITION_IS_BATCH else found[-1]]


def _obstacle(result: Result, confounding: Sequence[Finding]) -> Ground | None:
    """Return what forbids every answer."""
    if result.single:
        return Ground.ONE_BATCH
    kinds = {finding.kind for finding in confounding}
    confined = sum(finding.share for finding in confounding if finding.kind is Kind.CONFINED)
    parted = sum(finding.share for finding in confounding if finding.kind is Kind.PARTED)
    if Kind.NO_SHARED_LABEL in kinds or max(confined, parted) > MAX_CONFINED:
        return Ground.CONFOUNDED
    return None


def _needed(result: Result) -> Advice:
    """Ask the batch probe of the cells without correction."""
    purpose = Purpose.CORRECT
    if not result.evidence:
        return Advice(purpose, Ground.NOT_PROBED)
    found = next((each for each in findings(result) if each.entry.shows == UNCORRECTED), None)
    if found is None:
        return Advice(purpose, Ground.NOT_PROBED)
    if not found.excess.low <= found.excess.high:
        return Advice(purpose, Ground.NO_INTERVAL)
    if found.told is Told.LEFT and not result.labelled:
        return Advice(purpose, Ground.COMPOSITION)
    if found.told is Told.LEFT:
        return Advice(purpose, Ground.EFFECT, gain=found.excess)
    level = number((result.evidence["levels"].get("batch_probe") or {}).get("label"))
    if found.excess.high < NEGLIGIBLE and level is not None and 1 - level < 2 * NEGLIGIBLE:
        # the probe could not have exceeded the labels by more
        return Advice(purpose, Ground.NO_ROOM)
    ground = Ground.NO_EFFECT if found.excess.high < NEGLIGIBLE else Ground.UNDECIDED
    return Advice(purpose, ground, gain=found.excess)


_SILENT = {
    Code.NO_RESULT: Ground.NO_METHOD,
    Code.ONE_BATCH: Ground.ONE_BATCH,
    Code.NO_TOTAL: Ground.NO_TOTAL,
    Code.NO_CORRECTION: Ground.NO_METHOD,
    Code.UNKNOWN: Ground.NO_INTERVAL,
    Code.ALONE: Ground.NO_REFERENCE,
    Code.NOT_ABOVE_SHUFFLED: Ground.NOT_ABOVE_SHUFFLED,
    Code.NOT_ABOVE_UNCORRECTED: Ground.NOT_ABOVE_UNCORRECTED,
}


def _embedding(result: Result) -> Advice:
    """Take what the verdict on totals allows."""
    purpose, found = Purpose.EMBEDDING, judge(result)
    if found.code in _SILENT:
        return Advice(purpose, _SILENT[found.code])
    if found.code is Code.BELOW_UNCORRECTED:
        least = min((each for each in found.uncorrected if each.gain.below), key=lambda each: each.gain.mean)
        return Advice(purpose, Ground.UNCORRECTED, least.entry, _turned(least.gain))
    if not found.uncorrected:
        return Advice(purpose, Ground.NO_REFERENCE)
    if found.code is Code.TIED:
        return Advice(purpose, Ground.OVERLAP, tied=[found.leader, *found.tied])
    least = min(found.uncorrected, key=lambda each: each.gain.mean)
    return Advice(purpose, Ground.FIRST, found.leader, least.gain)


def _clustering(result: Result) -> Advice:
    """Take the correction that mixes batches best, among those that are shown to keep biology."""
    purpose = Purpose.CLUSTERING
    corrections = [entry for entry in result.scored("correction") if entry.rank]
    none = next((entry for entry in result.scored() if entry.shows == UNCORRECTED and entry.total), None)
    if not any(entry.total for entry in result.entries):
        return Advice(purpose, Ground.NO_TOTAL)
    if not corrections:
        return Advice(purpose, Ground.NO_METHOD)
    if none is None:
        return Advice(purpose, Ground.NO_REFERENCE)
    # all intervals hold at once: biology and batch of each with no correction, and batch of one with each other
    count = 3 * len(corrections) - 1
    biology = [(entry, _one(entry, none, "bio", count)) for entry in corrections]
    if not any(_known(gain) for _, gain in biology):
        return Advice(purpose, Ground.NO_INTERVAL)
    kept = [entry for entry, gain in biology if _known(gain) and gain.low > -MARGIN]
    if not kept:
        return Advice(purpose, Ground.BIOLOGY_LOST)
    leader = max(kept, key=lambda entry: entry.batch.mean)
    gain = _one(leader, none, "batch", count)
    if not _known(gain) or not gain.above:
        return Advice(purpose, Ground.NOT_ABOVE_UNCORRECTED)
    others = compare(leader, [entry for entry in kept if entry is not leader], "batch", count)
    tied = [each.entry for each in others if not each.gain.above]
    if tied:
        return Advice(purpose, Ground.OVERLAP, tied=[leader, *tied])
    return Advice(purpose, Ground.BEST_MIXING, leader, gain)


def _genes(result: Result, confounding: Sequence[Finding]) -> Advice:
    """Take a method that writes expression, and is shown to do better than no correction."""
    purpose = Purpose.GENES
    asked = {name for name in (result.evidence or {}).get("targets", {}) if name != "label"}
    same = tuple(
        name
        for finding in confounding
        if finding.kind is Kind.SAME_AS_BATCH
        for name in finding.columns
        if name in asked
    )
    if same:
        return Advice(purpose, Ground.CONDITION_IS_BATCH, columns=same)
    able = [entry for entry in result.scored("correction") if entry.rank and _writes_expression(entry)]
    none = next((entry for entry in result.scored() if entry.shows == UNCORRECTED and entry.total), None)
    if not able:
        return Advice(purpose, Ground.NO_EXPRESSION)
    if none is None:
        return Advice(purpose, Ground.NO_REFERENCE)
    count = 2 * len(able) - 1
    leader = able[0]
    gain = _one(leader, none, "total", count)
    if not _known(gain):
        return Advice(purpose, Ground.NO_INTERVAL)
    if not gain.above:
        return Advice(purpose, Ground.NOT_ABOVE_UNCORRECTED)
    tied = [each.entry for each in compare(leader, able[1:], "total", count) if not each.gain.above]
    if tied:
        return Advice(purpose, Ground.OVERLAP, tied=[leader, *tied])
    return Advice(purpose, Ground.EXPRESSION, leader, gain)


def _one(entry: Entry, other: Entry, score: str, comparisons: int) -> Interval | None:
    found: list[Comparison] = compare(entry, [other], score, comparisons)
    return found[0].gain if found else None


def _known(gain: Interval | None) -> bool:
    return gain is not None and gain.low <= gain.high


def _turned(gain: Interval) -> Interval:
    return Interval(-gain.mean, -gain.high, -gain.low)


def _writes_expression(entry: Entry) -> bool:
    known = entry.method in registry.names()
    return known and any(slot in registry.load(entry.method).slots for slot in EXPRESSION)


_COUNTS = "test genes on the counts, with the batch as a covariate or with batches as replicates"

_SENTENCES = {
    Ground.EFFECT: (
        "Without correction, the batch of a held-out cell can be predicted better than from its label alone "
        "(difference in balanced accuracy {gain}, 95% interval)."
    ),
    Ground.NO_EFFECT: (
        f"Without correction, the batch of a held-out cell can be predicted at most {NEGLIGIBLE} better than without "
        "the embedding (difference in balanced accuracy {gain}, 95% interval)."
    ),
    Ground.FIRST: "Its total is the highest, above every other correction, and above no correction by {gain}.",
    Ground.BEST_MIXING: (
        "It mixes batches best (batch score above no correction by {gain}) among the corrections that are shown to "
        f"keep the biology score within {MARGIN} of that of no correction."
    ),
    Ground.UNCORRECTED: "Its total is above that of the best correction by {gain}.",
    Ground.EXPRESSION: (
        "It can write corrected expression, and its total is above that of no correction by {gain}. Use that to look "
        f"at genes; {_COUNTS}."
    ),
    Ground.ONE_BATCH: "There is one batch and nothing to correct.",
    Ground.CONFOUNDED: (
        "Too many cells have a label that occurs in one batch only: scores cannot tell a corrected batch effect from a "
        "loss of biology."
    ),
    Ground.NO_TOTAL: "Biology was not scored, and mixing alone cannot tell a correction from a loss of biology.",
    Ground.NO_METHOD: "No correction has a full set of scores.",
    Ground.NO_INTERVAL: "With one seed per method, or without intervals over cells, differences may be chance.",
    Ground.COMPOSITION: (
        "The batch can be predicted from the uncorrected embedding, but without labels this may be a difference in "
        "composition."
    ),
    Ground.NOT_PROBED: "The uncorrected embedding was not probed for the batch.",
    Ground.NO_ROOM: (
        "The labels alone nearly predict the batch: the probe cannot show whether an effect is left beyond composition."
    ),
    Ground.UNDECIDED: (
        "The 95% interval of what the batch probe finds without correction ({gain}) includes both no effect and one "
        "that matters."
    ),
    Ground.CONFLICT: (
        "The batch probe finds no effect worth correcting ({gain}), but a correction has a higher total than "
        "no correction."
    ),
    Ground.OVERLAP: "{tied} cannot be told apart by their {score}.",
    Ground.NOT_ABOVE_UNCORRECTED: "No correction is shown to do better than no correction.",
    Ground.NOT_ABOVE_SHUFFLED: "The highest total cannot be told apart from that of shuffled cells.",
    Ground.NO_REFERENCE: "There is no embedding without correction to compare with.",
    Ground.BIOLOGY_LOST: f"No correction is shown to keep the biology score within {MARGIN} of that of no correction.",
    Ground.NO_EXPRESSION: f"No method that can write corrected expression was run: {_COUNTS}.",
    Ground.CONDITION_IS_BATCH: (
        "Every batch has a value of its own in {columns}: no correction and no test can tell the two apart."
    ),
}
"""A sentence for each ground."""

_WITH_COUNTS = frozenset(Ground) - {
    Ground.EXPRESSION,
    Ground.NO_EXPRESSION,
    Ground.CONDITION_IS_BATCH,
    Ground.ONE_BATCH,
}
"""Grounds after which the advice for genes says what to do all the same."""


def _decimals(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _sentence(advice: Advice) -> str:
    text = _SENTENCES[advice.ground].format(
        gain="" if advice.gain is None else f"{_decimals(advice.gain.low)} to {_decimals(advice.gain.high)}",
        tied=join(entry.label for entry in advice.tied) if advice.tied else "",
        score="batch scores" if advice.purpose is Purpose.CLUSTERING else "totals",
        columns=join(advice.columns) if advice.columns else "",
    )
    if advice.purpose is Purpose.GENES and advice.ground in _WITH_COUNTS:
        return f"{text.removesuffix('.')}; {_COUNTS}."
    return text
