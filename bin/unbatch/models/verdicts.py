"""What BatchBlend decided of each step of the correction: codes and numbers, and the one table of sentences for them.

Programs decide by the code; only what people read is made of the sentences.
"""

import math
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """What became of a tested step, and why."""

    ACCEPTED = "accepted"
    ACCEPTED_PARTLY = "accepted_partly"
    """Factors of which a part is left, as composition could make it; an offset that may be none, of which a part is."""
    ASSUMED_ANNEALED = "assumed_annealed"
    LEFT = "left"
    """Factors of which most is left, as composition is likely to have made the difference."""
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
        Verdict.ACCEPTED_PARTLY,
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
    removed, removed_error
        Share of the difference or of the offset that is removed, 0 to 1, and its standard deviation (NaN for an
        offset); NaN where there is nothing to remove.
    meeting
        Share of cells that have cells of the other batch as near as their own, after the correction without what
        composition could make; the smaller of both directions; NaN for an offset.
    threshold
        What the verdict was decided by: smallest spread of factors, fewest cells of a batch; NaN where it is neither.
    cells
        Cells of the smaller batch where these are too few, else NaN.
    """

    batches: tuple[int, ...]
    step: str
    verdict: Verdict
    size: float
    error: float = math.nan
    composition: float = math.nan
    removed: float = math.nan
    removed_error: float = math.nan
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


RETIRED = frozenset(("accepted_by_others", "accepted_ambiguous", "indirect", "refused_composition"))
"""Codes of earlier versions."""

NUMBERS = ("size", "error", "composition", "removed", "removed_error", "meeting", "threshold", "cells")
"""The numbers of evidence, as they are called in files, too."""

_SENTENCES = {
    ("offset", Verdict.ACCEPTED): "The estimate lies {distance:.0f} standard errors from 0.",
    ("offset", Verdict.ACCEPTED_PARTLY): "The estimate lies {distance:.1f} standard errors from 0: by that, and by "
    "the offsets of the other batches, {removed:.0%} of it is removed.",
    ("offset", Verdict.ASSUMED_ANNEALED): "Accepted as requested: the annealed prior finds an offset in any data, and "
    "there is no test of it.",
    ("offset", Verdict.NOTHING): "The estimate lies {distance:.1f} standard errors from 0 (standard error "
    "{error:.1%} of the mean library size): {removed:.0%} of it is removed.",
    ("offset", Verdict.REFUSED_SE): "Hardly identifiable from the library sizes (standard error {error:.0%} of the "
    "mean library size): {removed:.0%} of the estimate is removed.",
    ("offset", Verdict.REFUSED_SE_ALL): "Hardly identifiable from the library sizes (standard error {error:.0%} of the "
    "mean library size): {removed:.0%} of the estimate is removed. If there must be an offset, `offset: annealed` "
    "estimates it without them.",
    ("offset", Verdict.REFUSED_GENES): "Hardly identifiable: the estimate depends on the genes used for clustering "
    "(standard error {error:.0%} of the mean library size), which is typical of overdispersed counts. {removed:.0%} of "
    "it is removed.",
    ("factors", Verdict.ACCEPTED): "Removed in full; {composition:.0%} of the difference lies along within-batch "
    "variation, where composition could have made it.",
    ("factors", Verdict.ACCEPTED_PARTLY): "{removed:.0%} of the difference is removed (standard deviation "
    "{removed_error:.0%}), the rest is left, as cell composition may have made it.",
    ("factors", Verdict.LEFT): "Left in the data but for {removed:.0%} (standard deviation {removed_error:.0%}): cell "
    "composition is likely to have made the difference.",
    ("factors", Verdict.NOTHING): "Genes differ by less than {threshold:.0%}: nothing to correct.",
    (
        "factors",
        Verdict.REFUSED_FEW,
    ): "Not corrected: one of the two has {cells:.0f} cells, and at least {threshold:.0f} are needed.",
    (
        "factors",
        Verdict.REFUSED_APART,
    ): "Not corrected: no cluster has cells of both batches, so nothing can be compared.",
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
    # files of earlier versions do not have all numbers
    return _SENTENCES.get((step, verdict), "").format(**known).replace("nan%", "an unknown share")
