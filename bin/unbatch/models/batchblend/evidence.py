"""Which verdict a step of the correction has, from the numbers that it is decided by."""

import math

from unbatch.models.batchblend.settings import RULES, Rules
from unbatch.models.verdicts import Evidence, Verdict

ALL = 0.995
"""Share that is written as 100%: more than it is all."""
LIKELY = 0.5
"""Probability of an offset, or share of a difference, from which it is said to be corrected; both go by degrees."""


def evidence_of_offset(
    batch: int,
    *,
    size: float,
    error: float,
    error_by_size: float,
    probability: float,
    removed: float,
    none_known_by_size: bool,
    rules: Rules = RULES,
) -> Evidence:
    """Say what was found of the offset of a batch.

    Parameters
    ----------
    batch
        Its code.
    size, error
        Total of the offset and its standard error, as shares of the mean total.
    error_by_size
        The error before it was seen how much depends on the genes that choose the states.
    probability
        Probability that there is an offset.
    removed
        Share of the estimate that is removed.
    none_known_by_size
        Whether that error is large in every batch.
    rules
        Where an error is large.
    """
    if probability >= LIKELY:
        verdict = Verdict.ACCEPTED if removed > ALL else Verdict.ACCEPTED_PARTLY
    elif error < rules.usual_offset:
        verdict = Verdict.NOTHING
    elif error_by_size < rules.usual_offset:
        verdict = Verdict.REFUSED_GENES
    else:
        verdict = Verdict.REFUSED_SE_ALL if none_known_by_size else Verdict.REFUSED_SE
    return Evidence((batch,), "offset", verdict, size=size, error=error, removed=removed)


def evidence_of_annealed_offset(batch: int, size: float) -> Evidence:
    """Say that an offset was found by a prior; `size` is its total as a share of the mean total."""
    return Evidence((batch,), "offset", Verdict.ASSUMED_ANNEALED, size=size)


def evidence_of_factors(
    pair: tuple[int, int],
    *,
    size: float,
    composition: float,
    removed: float,
    removed_error: float,
    overlap: float,
    few_cells: int | None,
    shared_states: int,
    rules: Rules = RULES,
) -> Evidence:
    """Say what became of the factors between two batches.

    Parameters
    ----------
    pair
        Codes of the two.
    size
        Spread of the log factors between them.
    composition
        Share of the difference that composition could make.
    removed, removed_error
        Share of it that is removed, and its standard deviation.
    overlap
        Share of cells that have cells of the other batch as near as their own.
    few_cells
        Cells of the one of the two that has too few; None if both have enough.
    shared_states
        Number of states with cells of both.
    rules
        Limits of all these.
    """
    small = size <= rules.min_factor_spread
    threshold = math.nan
    if few_cells is not None:
        verdict, threshold = Verdict.REFUSED_FEW, rules.min_batch_cells
    elif small and not shared_states:
        verdict = Verdict.REFUSED_APART
    elif small:
        verdict, threshold = Verdict.NOTHING, rules.min_factor_spread
    elif removed < LIKELY:
        verdict = Verdict.LEFT
    elif removed < ALL:
        verdict = Verdict.ACCEPTED_PARTLY
    else:
        verdict = Verdict.ACCEPTED
    known = not small and few_cells is None
    return Evidence(
        pair,
        "factors",
        verdict,
        size=size,
        composition=composition,
        removed=removed if known else math.nan,
        removed_error=removed_error if known else math.nan,
        meeting=overlap,
        threshold=threshold,
        cells=math.nan if few_cells is None else float(few_cells),
    )
