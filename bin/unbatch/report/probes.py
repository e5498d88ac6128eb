"""From which embeddings the batch can be told: the judgement on the batch probes, by intervals alone."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from unbatch.metrics.uncertainty import Interval, Sample, above_level, difference
from unbatch.report.scores import SHUFFLED, Entry, Result, number


class Told(StrEnum):
    """Whether the batch of held-out cells can be told from an embedding."""

    LEFT = "more than from the reference"
    NOT_SHOWN = "not shown to be more than from the reference"
    REFERENCE = "the control that has no batch effect"


LEAST_EXCESS = 0.02
"""Balanced accuracy over the reference below which what is left is not worth a word, however sure it is."""


@dataclass(frozen=True)
class Finding:
    """What the batch probe found in an embedding: its excess over the labels alone, or chance, and its interval."""

    entry: Entry
    told: Told
    excess: Interval


def findings(result: Result) -> list[Finding]:
    """Judge from which embeddings the batch can be told, by intervals over held-out cells and seeds that hold at once.

    A batch effect is left where the probe does better than from the labels alone (without labels: than chance), and
    than from shuffled cells where there are any.

    Parameters
    ----------
    result
        Scores of a dataset, with evidence.
    """
    level = result.evidence["levels"].get("batch_probe", {})
    probed = [(entry, entry.sample("batch_probe")) for entry in result.scored()]
    probed = [(entry, sample) for entry, sample in probed if sample is not None]
    shuffled = [sample for entry, sample in probed if entry.shows == SHUFFLED]
    tested = len(probed) - len(shuffled)
    by_label = number(level.get("label"))
    labels = None
    if by_label is not None:
        left_out = level.get("left_out")
        labels = Sample(np.array([by_label]), np.array([left_out], dtype=float) if left_out else None)
    found = []
    for entry, sample in probed:
        if entry.shows == SHUFFLED:
            excess = above_level(sample, by_label or number(level.get("chance")) or 0.0)
            found.append(Finding(entry, Told.REFERENCE, excess))
            continue
        chance = above_level(sample, number(level.get("chance")) or 0.0, tested)
        excess = chance if labels is None else difference(sample, labels, tested, of_methods=False)
        others = [difference(sample, other, tested, of_methods=False) for other in shuffled]
        left = all(each.above for each in (chance, excess, *others)) and excess.mean > LEAST_EXCESS
        found.append(Finding(entry, Told.LEFT if left else Told.NOT_SHOWN, excess))
    return found
