"""What may be said of a ranking: by intervals, against the controls, and naming the scores that it lacks."""

from pathlib import Path

import numpy as np
import pytest

from unbatch.report.evidence import Told, findings
from unbatch.report.scores import Result, rank, read_cards
from unbatch.report.verdict import Code, judge, remarks, verdict

CARDS = read_cards(Path(__file__).parents[2] / "assets" / "methods.yml")
GROUPS = 20


def left_out(value: float, se: float, seed: int) -> list[float]:
    """A score with each group of cells left out, whose standard error by the jackknife is `se`."""
    changes = np.random.default_rng(seed).normal(size=GROUPS)
    changes -= changes.mean()
    return (value + se * changes / np.sqrt((GROUPS - 1) / GROUPS * np.square(changes).sum())).tolist()


def rows(method: str, total: float, seeds: int = 3, se: float = 0.005, lost: dict[str, str] | None = None, **probes):
    """Rows of a method; batch and biology are its total, of three scores each."""
    made = []
    for seed in range(seeds):
        metrics = dict.fromkeys(("ilisi", "kbet", "pcr", "nmi", "ari", "clisi"), total) | probes
        over_cells = {name: left_out(total, se, len(method)) for name in ("batch", "bio", "total")}
        over_cells |= {name: left_out(value, se, len(method)) for name, value in probes.items()}
        made.append(
            {"id": f"{method}.s{seed}", "method": method, "params_id": "default", "seed": seed, "status": "ok"}
            | {"metrics": metrics | dict.fromkeys(lost or {}), "reasons": lost or {}, "output": "embedding"}
            | dict.fromkeys(("batch", "bio", "total"), total + 0.001 * (seed - (seeds - 1) / 2))
            | {"cells": {"left_out": over_cells, "clustering_sd": {}}}
        )
    return made


def result(*groups: list[dict], **evidence) -> Result:
    metrics = {"batch": ["ilisi", "kbet", "pcr"], "bio": ["nmi", "ari", "clisi"], "evidence": [*evidence]}
    metrics |= {"weights": {"batch": 0.4, "bio": 0.6}, "missing": {}}
    dataset = {"name": "toy", "cells": 90, "genes": 9, "batches": {"a": 45, "b": 45}, "labels": {"T": 45, "B": 45}}
    table = [row for group in groups for row in group]
    about = {"levels": {name: {"chance": chance} for name, chance in evidence.items()}, "targets": {}}
    return Result("s.json", dataset, metrics, {}, {}, rank(table, metrics, CARDS), about)


def test_a_score_that_failed_for_every_method_is_named_next_to_the_headline():
    lost = {"kbet": "ValueError: no neighbours"}
    found = result(
        *(rows(name, total, lost=lost) for name, total in (("harmony", 0.7), ("combat", 0.5), ("none", 0.4)))
    )
    said = verdict(found)
    assert judge(found).code is Code.FIRST
    assert "kBET" in said[1]
    assert "no neighbours" in said[1]
    assert "2 of 3" in said[1]
    # once, and not where a score failed for some methods only, which then have no rank
    assert not [text for text in [*said[2:], *remarks(found, [])] if "kBET" in text]
    some = result(rows("harmony", 0.7, lost=lost), rows("combat", 0.5), rows("none", 0.4))
    assert [entry.rank for entry in some.entries if entry.method == "harmony"] == [None]
    assert "kBET" not in " ".join(verdict(some))


def test_without_any_score_of_biology_there_is_no_total_and_the_reason_is_said():
    lost = dict.fromkeys(("nmi", "ari", "clisi"), "MemoryError")
    table = [row | {"bio": None, "total": None} for name in ("harmony", "none") for row in rows(name, 0.5, lost=lost)]
    found = result(table)
    assert judge(found).code is Code.NO_TOTAL
    assert "MemoryError" in verdict(found)[1]


def test_probes_that_failed_for_every_method_are_remarked():
    lost = {"batch_probe": "ValueError: one class"}
    found = result(rows("harmony", 0.7, lost=lost), rows("none", 0.4, lost=lost), batch_probe=0.5)
    assert len(verdict(found)) == len(verdict(result(rows("harmony", 0.7), rows("none", 0.4))))
    assert any("one class" in text for text in remarks(found, []))


@pytest.mark.parametrize(("se", "code"), [(0.005, Code.FIRST), (0.1, Code.NOT_ABOVE_SHUFFLED)])
def test_a_method_is_first_only_where_the_interval_lies_above_shuffled_cells(se, code):
    found = judge(result(rows("harmony", 0.6, se=se), rows("shuffled", 0.55, se=se), rows("none", 0.2, se=se)))
    assert (found.code, found.leader.method) == (code, "harmony")
    assert (found.best is None) == (code is not Code.FIRST)


def test_a_method_of_one_seed_is_not_first():
    assert judge(result(rows("harmony", 0.9, seeds=1), rows("none", 0.2, seeds=1))).best is None


@pytest.mark.parametrize(("se", "told"), [(0.01, Told.LEFT), (0.2, Told.NOT_SHOWN)])
def test_a_batch_effect_is_left_only_where_the_probes_interval_says_so(se, told):
    found = findings(result(rows("harmony", 0.5, se=se, batch_probe=0.7), batch_probe=0.5))
    assert [each.told for each in found] == [told]
