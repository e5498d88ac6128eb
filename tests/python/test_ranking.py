"""What may be said of a ranking: by intervals, against the controls, naming the scores that it lacks; what follows."""

from pathlib import Path

import numpy as np
import pytest

from unbatch.integrated import Reason, choose, take
from unbatch.report.scores import Result, rank, read_cards
from unbatch.report.sections.leakage import Told, findings
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


@pytest.mark.parametrize(
    ("totals", "settings", "reason", "method"),
    [
        ({"harmony": 0.7, "combat": 0.5, "none": 0.4, "shuffled": 0.1}, {}, Reason.FIRST, "harmony"),
        ({"harmony": 0.7, "combat": 0.699, "none": 0.4}, {}, Reason.TIED, "harmony"),
        ({"harmony": 0.7}, {}, Reason.ALONE, "harmony"),
        # without intervals: the highest, even if it corrects nothing
        ({"harmony": 0.7, "none": 0.4}, {"seeds": 1}, Reason.HIGHEST, "harmony"),
        ({"harmony": 0.4, "none": 0.7}, {"seeds": 1}, Reason.HIGHEST, "none"),
        # no better than no correction, or than cells at random: the data as they are
        ({"harmony": 0.5, "none": 0.499}, {}, Reason.UNCORRECTED, "none"),
        ({"harmony": 0.5, "none": 0.6, "pca": 0.7}, {}, Reason.UNCORRECTED, "pca"),
        ({"harmony": 0.6, "shuffled": 0.6, "none": 0.2}, {}, Reason.UNCORRECTED, "none"),
        ({"harmony": 0.6, "shuffled": 0.6}, {}, Reason.NOT_SHOWN, "harmony"),
        # the labels themselves are never chosen
        ({"label_leak": 0.9, "none": 0.4}, {}, Reason.UNCORRECTED, "none"),
        ({"label_leak": 0.9}, {}, Reason.NO_FIT, None),
    ],
)
def test_the_method_to_go_on_with_follows_the_verdict(totals, settings, reason, method):
    found = choose(result(*(rows(name, total, **settings) for name, total in totals.items())))
    assert (found.reason, found.entry and found.entry.method) == (reason, method)
    assert found.doubtful == (reason not in (Reason.FIRST, Reason.TIED, Reason.ALONE))


def test_without_labels_the_data_are_gone_on_with_as_they_are():
    table = [row | {"bio": None, "total": None} for name in ("harmony", "none") for row in rows(name, 0.5)]
    found = choose(result(table))
    assert (found.reason, found.entry.method) == (Reason.UNCORRECTED, "none")
    assert choose(result(table), "harmony").entry.method == "harmony"


def test_of_every_method_the_first_seed_with_all_scores_is_taken(tmp_path):
    harmony = rows("harmony", 0.7)
    harmony[0]["metrics"]["kbet"] = None
    other = [row | {"params_id": "few", "id": f"{row['id']}.few"} for row in rows("none", 0.3)]
    found = result(harmony, rows("none", 0.4), other, rows("shuffled", 0.1))
    files = {row["id"]: tmp_path / row["id"] for row in found.rows}
    taken = {each.slot: each.path.name for each in take(found, files)}
    assert taken == {
        "obsm/X_harmony": "harmony.s1",
        "obsm/X_none_default": "none.s0",
        "obsm/X_none_few": "none.s0.few",
    }
