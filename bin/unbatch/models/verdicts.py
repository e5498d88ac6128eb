"""What BatchBlend decided of each step of the correction: codes and numbers, and the one table of sentences for them.

Programs decide by the code; only what people read is made of the sentences.
"""

import math
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """What became of a tested step, and why."""

    ACCEPTED = "accepted"
    ACCEPTED_BY_OTHERS = "accepted_by_others"
    """An offset nearer to 0 than is asked for alone, as those of most other batches are beyond doubt."""
    ACCEPTED_PARTLY = "accepted_partly"
    """Factors but for what composition could make."""
    ACCEPTED_AMBIGUOUS = "accepted_ambiguous"
    """Factors with what composition could make."""
    INDIRECT = "indirect"
    """Factors by way of other batches: of these two alone they would be refused."""
    ASSUMED_ANNEALED = "assumed_annealed"
    NOTHING = "nothing"
    REFUSED_SE = "refused_se"
    """An offset whose standard error is too large."""
    REFUSED_SE_ALL = "refused_se_all"
    """The same in every batch, as where all cells have one total."""
    REFUSED_GENES = "refused_genes"
    """An offset that depends on the genes by which cells are put in states."""
    REFUSED_FEW = "refused_few"
    """Factors of a batch with too few cells."""
    REFUSED_APART = "refused_apart"
    """Factors of batches without a state in common."""
    REFUSED_COMPOSITION = "refused_composition"
    """Factors that cells of one batch differ by, too."""

    @property
    def accepted(self) -> bool:
        """Whether the step was taken."""
        return self in _ACCEPTED

    @property
    def refused(self) -> bool:
        """Whether it was left for want of evidence; what is neither accepted nor refused found nothing."""
        return not self.accepted and self is not Verdict.NOTHING


_ACCEPTED = frozenset(
    (
        Verdict.ACCEPTED,
        Verdict.ACCEPTED_BY_OTHERS,
        Verdict.ACCEPTED_PARTLY,
        Verdict.ACCEPTED_AMBIGUOUS,
        Verdict.INDIRECT,
        Verdict.ASSUMED_ANNEALED,
    )
)


@dataclass
class Evidence:
    """Why a step of the correction was taken or left.

    Attributes
    ----------
    batches
        Codes of the batch, or of the two that are compared.
    step
        ``"offset"`` or ``"factors"``.
    verdict
        What was decided.
    size
        Size of the effect: total offset as a share of the mean total; spread of the log factors between the two.
    error
        Standard error of the offset, in the same unit; NaN for factors.
    composition
        Share of the difference that composition could make, 0 to 1; NaN for an offset.
    meeting
        Share of cells that have cells of the other batch as near as their own, after the correction without what
        composition could make; the smaller of both directions; NaN for an offset.
    threshold
        What the verdict was decided by: standard errors from 0 that an offset takes, smallest spread of factors,
        fewest cells of a batch; NaN where it is none of these.
    cells
        Cells of the smaller batch where these are too few, else NaN.
    """

    batches: tuple[int, ...]
    step: str
    verdict: Verdict
    size: float
    error: float = math.nan
    composition: float = math.nan
    meeting: float = math.nan
    threshold: float = math.nan
    cells: float = math.nan

    @property
    def accepted(self) -> bool:
        """Whether the step was taken."""
        return self.verdict.accepted

    @property
    def refused(self) -> bool:
        """Whether it was left for want of evidence."""
        return self.verdict.refused


NUMBERS = ("size", "error", "composition", "meeting", "threshold", "cells")
"""The numbers of evidence, as they are called in files, too."""

_SENTENCES = {
    ("offset", Verdict.ACCEPTED): "The states meet {distance:.0f} standard errors from 0.",
    ("offset", Verdict.ACCEPTED_BY_OTHERS): "The states meet {distance:.1f} standard errors from 0. As the offsets of "
    "most other batches are beyond doubt, that is enough.",
    ("offset", Verdict.ASSUMED_ANNEALED): "Taken as asked for: the annealed prior finds one in any data, and there is "
    "no test of it.",
    ("offset", Verdict.NOTHING): "The states meet within {threshold:.0f} standard errors of 0 (standard error "
    "{error:.1%} of a mean cell).",
    ("offset", Verdict.REFUSED_SE): "The sizes of the cells do not determine it (standard error {error:.0%} of a mean "
    "cell).",
    ("offset", Verdict.REFUSED_SE_ALL): "The sizes of the cells do not determine it (standard error {error:.0%} of a "
    "mean cell). If there must be one, `offset: annealed` finds it without them.",
    ("offset", Verdict.REFUSED_GENES): "The estimate depends on the genes by which cells are put in states (standard "
    "error {error:.0%} of a mean cell), as for counts that scatter much more than Poisson's.",
    ("factors", Verdict.ACCEPTED): "Accepted whole: without any part of it, cells of the two don't meet.",
    ("factors", Verdict.ACCEPTED_PARTLY): "Accepted but for the {composition:.0%} of it that composition could make: "
    "{meeting:.0%} of cells meet.",
    (
        "factors",
        Verdict.ACCEPTED_AMBIGUOUS,
    ): "Accepted whole, though composition could make {composition:.0%} of it and {meeting:.0%} of cells meet.",
    ("factors", Verdict.INDIRECT): "Accepted by way of other batches; between these two, {composition:.0%} could be "
    "composition.",
    ("factors", Verdict.NOTHING): "Genes differ by less than {threshold:.0%}: nothing to correct.",
    (
        "factors",
        Verdict.REFUSED_FEW,
    ): "One of them has {cells:.0f} cells; fewer than {threshold:.0f} tell nothing about genes.",
    ("factors", Verdict.REFUSED_APART): "No state has cells of both, so nothing can be compared.",
    ("factors", Verdict.REFUSED_COMPOSITION): "Cells of one batch differ among themselves in the same way "
    "({composition:.0%} of it).",
}


def sentence(step: str, verdict: Verdict, **numbers: float) -> str:
    """Say in a sentence why a step was taken or left; empty for a step that has no such verdict.

    Parameters
    ----------
    step, verdict
        As in `Evidence`.
    **numbers
        Those of `NUMBERS`; what is missing is NaN.
    """
    known = dict.fromkeys(NUMBERS, math.nan) | numbers
    known["distance"] = known["size"] / max(known["error"], 1e-9)
    return _SENTENCES.get((step, verdict), "").format(**known)
