"""The first screen of the report: confounding, recommendations, the ranking's picture, warnings of fits, colours."""

import json
import logging
import re

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from test_report import CARDS, METRICS, content, fallen, left_out, pages_of, row, run, seeds, write_dataset, write_fit

from unbatch.data.notes import Note, logged_warnings, notes_text, read_notes
from unbatch.report.confounding import FEW, Finding, Kind, examine
from unbatch.report.read import read_dataset
from unbatch.report.recommend import Ground, Purpose, advise
from unbatch.report.scores import read_scores
from unbatch.report.sections.ranking import picture
from unbatch.report.sections.warnings import fit_notes
from unbatch.scoring import Fitted, _row

MIXED = [Finding(Kind.CROSSED, "")]


def table(tmp_path, counts, **columns):
    """Examine a dataset with so many cells of each label (rows) in each batch (columns)."""
    counts = np.asarray(counts)
    label, batch = np.divmod(np.repeat(np.arange(counts.size), counts.ravel()), counts.shape[1])
    obs = pd.DataFrame(index=[f"c{i}" for i in range(len(batch))])
    obs["batch"] = pd.Categorical.from_codes(batch, list("abcd"[: counts.shape[1]]))
    obs["label"] = pd.Categorical.from_codes(label, list("TBNK"[: len(counts)]))
    for name, by_batch in columns.items():
        obs[name] = pd.Categorical([by_batch[code] for code in batch])
    about = {"schema": 1, "parameters": {"batch_key": "sample", "label_key": "cell_type"}}
    ad.AnnData(obs=obs, uns={"unbatch": about}).write_h5ad(tmp_path / "d.h5ad")
    return examine(read_dataset(tmp_path / "d.h5ad"))


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([[50, 50], [50, 50]], {Kind.CROSSED: 0.0}),
        ([[50, 50], [50, 0]], {Kind.CONFINED: 1 / 3}),
        ([[50, 50], [50, FEW - 1]], {Kind.ALMOST_CONFINED: 59 / 159}),
        ([[50, 50], [50, FEW]], {Kind.CROSSED: 0.0}),
        ([[50, 0], [0, 50]], {Kind.NO_SHARED_LABEL: 1.0}),
        ([[50, 50]], {Kind.ONE_LABEL: 0.0}),
        ([[50], [50]], {Kind.ONE_BATCH: 0.0}),
        ([[50, 50, 0, 0], [0, 0, 30, 20]], {Kind.PARTED: 1 / 3}),
    ],
)
def test_labels_of_one_batch_are_found_with_their_share_of_the_cells(tmp_path, counts, expected):
    found = table(tmp_path, counts)
    assert {finding.kind: pytest.approx(finding.share) for finding in found} == expected


def test_columns_that_are_constant_within_batches_are_nested_or_the_same_as_the_batch(tmp_path):
    columns = {
        "condition": ["ctl", "ctl", "ill", "ill"],
        "donor": ["1", "2", "3", "4"],
        "constant": ["x"] * 4,
        "sample": ["a", "b", "c", "d"],
        "cell_type": ["p", "p", "q", "q"],
    }
    found = {finding.kind: finding.columns for finding in table(tmp_path, np.full((2, 4), 20), **columns)}
    assert found == {Kind.CROSSED: (), Kind.NESTED: ("condition",), Kind.SAME_AS_BATCH: ("donor",)}


def test_a_column_that_varies_within_a_batch_is_not_confounded(tmp_path):
    write_dataset(tmp_path / "d.h5ad", labels=("T", "B"))
    data = ad.read_h5ad(tmp_path / "d.h5ad")
    data.obs["phase"] = pd.Categorical(np.where(np.arange(90) % 3, "G1", "S"))
    data.write_h5ad(tmp_path / "d.h5ad")
    assert not {Kind.NESTED, Kind.SAME_AS_BATCH} & {f.kind for f in examine(read_dataset(tmp_path / "d.h5ad"))}


# recommendations


@pytest.fixture
def advice(tmp_path):
    """Recommendations by purpose for made-up scores; `probes` are those of the batch, by method."""

    def make(rows, confounding=(MIXED), probes=None, targets=(), se=0.005, by_label=0.5, **more):
        if probes is not None:
            for each in rows:
                value = probes.get(each["method"], 0.5)
                each["metrics"]["batch_probe"] = value
                each["cells"]["left_out"]["batch_probe"] = left_out(each["method"], "probe", value, se)
            by_labels = left_out("labels", "probe", by_label, 0.002)
            level = {"chance": 0.5, "label": by_label, "left_out": by_labels}
            more["evidence"] = {
                "cells": 60,
                "permutations": 5,
                "levels": {"batch_probe": level},
                "targets": dict.fromkeys(targets),
            }
            more["metrics"] = METRICS | {"evidence": ["batch_probe"]}
        (tmp_path / "scores.json").write_text(json.dumps(content(rows, **more)))
        found = advise(read_scores(tmp_path / "scores.json", CARDS), confounding)
        assert [each.purpose for each in found] == list(Purpose)
        assert all(each.text and each.answer and "{" not in each.text for each in found)
        return {each.purpose: each for each in found}

    return make


def methods_of(found):
    return {purpose: each.method and each.method.method for purpose, each in found.items()}


def none_and(*rows):
    return [*seeds("none", 0.3, 0.6), *seeds("shuffled", 1, 0.1), *(each for several in rows for each in several)]


def test_each_purpose_has_the_method_that_is_best_for_it(advice):
    # the highest total; as much biology as no correction, and better mixing; corrected expression
    rows = none_and(seeds("harmony", 0.6, 0.75), seeds("scanorama", 0.75, 0.6), seeds("batchblend", 0.5, 0.62))
    found = advice(rows, probes={"none": 0.9})
    assert {p: each.ground for p, each in found.items()} == {
        Purpose.CORRECT: Ground.EFFECT,
        Purpose.EMBEDDING: Ground.FIRST,
        Purpose.CLUSTERING: Ground.BEST_MIXING,
        Purpose.GENES: Ground.EXPRESSION,
    }
    assert methods_of(found) == {
        Purpose.CORRECT: None,
        Purpose.EMBEDDING: "harmony",
        Purpose.CLUSTERING: "scanorama",
        Purpose.GENES: "batchblend",
    }
    assert found[Purpose.CORRECT].gain.low > 0


def test_a_method_that_mixes_best_and_loses_biology_is_not_recommended_for_clusters(advice):
    found = advice(none_and(seeds("harmony", 0.6, 0.62), seeds("scanorama", 0.9, 0.5)))
    assert methods_of(found)[Purpose.CLUSTERING] == "harmony"
    found = advice(none_and(seeds("scanorama", 0.9, 0.5)))
    assert found[Purpose.CLUSTERING].ground is Ground.BIOLOGY_LOST


def test_overlapping_intervals_recommend_nothing_and_name_the_methods(advice):
    found = advice(none_and(seeds("harmony", 0.6, 0.65), seeds("scanorama", 0.6, 0.651)))
    for purpose in (Purpose.EMBEDDING, Purpose.CLUSTERING):
        assert found[purpose].ground is Ground.OVERLAP
        assert found[purpose].silent
        assert {entry.method for entry in found[purpose].tied} == {"harmony", "scanorama"}


def test_one_seed_recommends_nothing(advice):
    rows = [row("none", 0, 0.3, 0.6), row("harmony", 0, 0.8, 0.8), row("batchblend", 0, 0.7, 0.7)]
    found = advice(rows)
    assert {each.ground for purpose, each in found.items() if purpose is not Purpose.CORRECT} == {Ground.NO_INTERVAL}
    assert all(each.silent for each in found.values())


@pytest.mark.parametrize("kind", [Kind.CONFINED, Kind.PARTED])
@pytest.mark.parametrize(("confined", "silent"), [(0.19, False), (0.21, True)])
def test_confounded_labels_silence_everything_once_they_are_many(advice, kind, confined, silent):
    rows = none_and(seeds("harmony", 0.6, 0.75))
    found = advice(rows, [Finding(kind, "", confined)], probes={"none": 0.9})
    assert (found[Purpose.EMBEDDING].ground is Ground.CONFOUNDED) == silent
    assert all(each.silent for each in found.values()) == silent


def test_without_any_shared_label_nothing_is_recommended(advice):
    found = advice(none_and(seeds("harmony", 0.6, 0.75)), [Finding(Kind.NO_SHARED_LABEL, "", 1.0)])
    assert {each.ground for each in found.values()} == {Ground.CONFOUNDED}


def test_a_target_that_is_the_batch_silences_gene_level_work_alone(advice):
    same = [Finding(Kind.SAME_AS_BATCH, "", columns=("condition", "donor"))]
    rows = none_and(seeds("batchblend", 0.6, 0.75))
    found = advice(rows, same, probes={"none": 0.9}, targets=("condition",))
    assert (found[Purpose.GENES].ground, found[Purpose.GENES].columns) == (Ground.CONDITION_IS_BATCH, ("condition",))
    assert methods_of(found)[Purpose.EMBEDDING] == "batchblend"
    assert methods_of(advice(rows, same, probes={"none": 0.9}))[Purpose.GENES] == "batchblend"


def test_no_correction_is_recommended_where_the_probe_finds_nothing(advice):
    found = advice([*seeds("none", 0.8, 0.6), *seeds("harmony", 0.8, 0.6)], probes={"none": 0.5})
    assert {each.ground for each in found.values()} == {Ground.NO_EFFECT}
    assert not any(each.silent or each.method for each in found.values())


def test_a_probe_that_the_labels_leave_no_room_says_nothing(advice):
    rows = [*seeds("none", 0.8, 0.6), *seeds("harmony", 0.8, 0.6)]
    assert advice(rows, probes={"none": 0.97}, by_label=0.97)[Purpose.CORRECT].ground is Ground.NO_ROOM


def test_one_seed_does_not_recommend_to_do_without_correction(advice):
    found = advice([row("none", 0, 0.3, 0.6), row("harmony", 0, 0.8, 0.8)], probes={"none": 0.5})
    assert {each.ground for purpose, each in found.items() if purpose is not Purpose.CORRECT} == {Ground.NO_INTERVAL}


def test_probe_and_scores_that_disagree_recommend_nothing(advice):
    found = advice([*seeds("none", 0.3, 0.6), *seeds("harmony", 0.8, 0.6)], probes={"none": 0.5})
    assert {each.ground for each in found.values()} == {Ground.CONFLICT}


@pytest.mark.parametrize(
    ("probe", "se", "ground"),
    [(0.53, 0.002, Ground.EFFECT), (0.53, 0.03, Ground.UNDECIDED), (0.51, 0.002, Ground.CONFLICT)],
)
def test_a_correction_is_needed_not_needed_or_neither_by_the_interval_of_the_probe(advice, probe, se, ground):
    rows = [*seeds("none", 0.3, 0.6), *seeds("harmony", 0.8, 0.6)]
    assert advice(rows, probes={"none": probe}, se=se)[Purpose.CORRECT].ground is ground


def test_no_correction_is_recommended_for_the_embedding_where_it_scores_higher(advice):
    found = advice([*seeds("none", 0.5, 0.8), *seeds("harmony", 0.6, 0.5)], probes={"none": 0.9})
    assert found[Purpose.EMBEDDING].ground is Ground.UNCORRECTED
    assert found[Purpose.EMBEDDING].method.method == "none"
    assert found[Purpose.EMBEDDING].gain.low > 0


def test_a_method_that_has_seen_the_labels_is_never_recommended(advice):
    found = advice(none_and(seeds("scanvi", 0.9, 0.95), seeds("harmony", 0.6, 0.75)))
    assert methods_of(found)[Purpose.EMBEDDING] == "harmony"
    assert "scanvi" not in methods_of(advice(none_and(seeds("scanvi", 0.9, 0.95)))).values()


def test_without_labels_a_difference_between_batches_may_be_composition(advice):
    rows = [row("none", 0, 0.3, 0.6), row("harmony", 0, 0.7, 0.6)]
    for each in rows:
        each["total"] = each["bio"] = None
    found = advice(rows, [Finding(Kind.NO_LABELS, "")], probes={"none": 0.9}, labels=None)
    assert found[Purpose.CORRECT].ground is Ground.COMPOSITION
    assert found[Purpose.EMBEDDING].ground is Ground.NO_TOTAL


def test_one_batch_and_fits_that_all_failed_recommend_nothing(advice):
    assert {each.ground for each in advice(seeds("none"), batches=("a",)).values()} == {Ground.ONE_BATCH}
    assert all(each.silent for each in advice([fallen("harmony"), fallen("none")]).values())


# the ranking as a picture


def test_the_ranking_shows_every_seed_and_interval_and_controls_last(tmp_path):
    rows = [*none_and(seeds("harmony", 0.6, 0.75)), *seeds("combat", 0.5, 0.7, cells=None)]
    (tmp_path / "s.json").write_text(json.dumps(content(rows)))
    drawn = picture(read_scores(tmp_path / "s.json", CARDS))
    body = [line for line in re.split(r"<tr", drawn) if 'scope="row"' in line]
    assert [line.count("ub-seed") for line in body] == [3, 3, 3, 3]
    assert [line.count("ub-span") for line in body] == [1, 0, 1, 1]
    assert [re.search(r"ub-is-(\w+)", line)[1] for line in body] == ["correction"] * 2 + ["control"] * 2
    means = [float(re.search(r'ub-mean" style="left:([\d.]+)%', line)[1]) for line in body]
    assert means[0] > means[1] > means[2] > means[3]
    idle = {re.search(r'ub-idle" style="left:([\d.]+)%', line)[1] for line in body}
    assert idle == {f"{means[2]:.1f}"}


# warnings of fits


def test_what_is_logged_as_a_warning_during_a_fit_is_kept_once_without_the_files_name():
    log = logging.getLogger("unbatch")
    with logged_warnings("x.h5ad") as notes:
        log.warning("%s: %d spots are few", "x.h5ad", 7, extra={"code": "few-spots"})
        log.warning("%s: %d spots are few", "x.h5ad", 7, extra={"code": "few-spots"})
        log.info("nothing")
        log.warning("bad\x1b[2K name")
    log.warning("afterwards")
    assert notes == [
        Note("few-spots", "warning", "7 spots are few", {}),
        Note("warning", "warning", "bad?[2K name", {}),
    ]
    assert read_notes(notes_text(notes)) == notes


def test_notes_of_a_fit_are_in_its_row_and_in_the_report(tmp_path):
    made = {"method": "harmony", "seed": 1, "params": {}, "versions": {}, "wall_s": 1, "peak_mb": 1, "device": "cpu"}
    notes = notes_text([Note("few-spots", "warning", "<b>7</b> spots are few", {})])
    found = _row({}, "toy", made | {"notes": notes}, {}, {}, {"batch": [], "bio": []})
    assert [note["code"] for note in found["notes"]] == ["few-spots"]
    assert _row({}, "toy", made, {}, {}, {"batch": [], "bio": []})["notes"] == []
    assert Fitted.of(made, {"X_harmony": np.ones((3, 2))}, {}, np.arange(3)).embedding.shape == (3, 2)
    rows = [row("harmony", s, notes=found["notes"]) for s in (0, 1)] + [row("combat", 0, notes=found["notes"])]
    (tmp_path / "s.json").write_text(json.dumps(content([*rows, row("none")])))
    said = fit_notes(read_scores(tmp_path / "s.json", CARDS))
    assert len(said) == 1
    assert all(name in said[0] for name in ("Harmony", "ComBat", "3 fits"))
    assert run(tmp_path / "s.json", "-o", tmp_path / "out").exit_code == 0
    for name in ("summary", "warnings"):
        page = pages_of(tmp_path / "out")[f"unbatch_{name}_page_mqc.json"]["data"]
        assert "&lt;b&gt;7&lt;/b&gt; spots" in page
        assert "<b>7" not in page


# the page


@pytest.fixture(scope="module")
def coloured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coloured")
    (folder / "s.json").write_text(json.dumps(content([row("harmony"), row("none", bio=0.1)])))
    write_dataset(folder / "d.h5ad", labels=("<i>T</i>", "B"))
    data = ad.read_h5ad(folder / "d.h5ad")
    data.obs["a<b>"] = pd.Categorical(np.where(np.arange(90) % 2, "<u>x</u>", "y"))
    data.obs["depth"] = np.where(np.arange(90) < 5, np.nan, np.arange(90.0))
    data.write_h5ad(folder / "d.h5ad")
    write_fit(folder / "toy.harmony.default.s0.fit.h5ad", data.obs, "harmony")
    return folder


def coloured_by(folder, out, *columns):
    fit = ("--fit", folder / "toy.harmony.default.s0.fit.h5ad")
    given = ("--dataset", folder / "d.h5ad", *fit, "--colour-by", ",".join(columns))
    return run(folder / "s.json", *given, "-o", out)


def test_umaps_are_coloured_by_columns_whose_names_do_no_harm(coloured, tmp_path):
    outcome = coloured_by(coloured, tmp_path / "out", "a<b>", "depth")
    assert outcome.exit_code == 0, outcome.output
    pages = pages_of(tmp_path / "out")
    category, number = (pages[f"unbatch_umap_0_column_{i}_page_mqc.json"] for i in (0, 1))
    assert "<" not in category["section_name"]
    assert "&lt;u&gt;x&lt;/u&gt;" in category["data"]
    assert "<u>" not in category["data"]
    assert "a&lt;b&gt;" in category["data"]
    assert [f"{end:.1f}" in number["data"] for end in np.percentile(np.arange(5, 90), [1, 99])] == [True, True]
    images = {re.search(r'src="(data:image[^"]+)"', page["data"])[1] for page in (category, number)}
    assert len(images) == 2


@pytest.mark.parametrize(("column", "said"), [("detph", "depth"), ("nothing like it", "batch, label")])
def test_a_column_that_is_not_there_is_named_with_those_that_are(coloured, tmp_path, column, said):
    outcome = coloured_by(coloured, tmp_path / "out", column)
    assert outcome.exit_code == 2
    assert f"obs/{column}" in outcome.output
    assert said in outcome.output
    assert not (tmp_path / "out").exists()


def test_a_name_for_every_cell_is_no_colour(coloured, tmp_path):
    data = ad.read_h5ad(coloured / "d.h5ad")
    data = ad.concat([data] * 2, index_unique="-")
    data.obs["barcode"] = pd.Categorical([f"n{i}" for i in range(180)])
    data.uns["unbatch"] = {"schema": 1}
    data.write_h5ad(tmp_path / "d.h5ad")
    (tmp_path / "s.json").write_text(json.dumps(content([row("none")], cells=180)))
    given = ("--dataset", tmp_path / "d.h5ad", "--colour-by", "barcode")
    assert run(tmp_path / "s.json", *given, "-o", tmp_path / "out").exit_code == 0
    pages = pages_of(tmp_path / "out")
    assert not [name for name in pages if "column_0" in name]
    assert "barcode" in pages["unbatch_warnings_page_mqc.json"]["data"]


def test_the_first_screen_has_the_counts_of_labels_by_batch(coloured, tmp_path):
    given = ("--dataset", coloured / "d.h5ad")
    assert run(coloured / "s.json", *given, "-o", tmp_path / "out").exit_code == 0
    page = pages_of(tmp_path / "out")["unbatch_summary_page_mqc.json"]["data"]
    assert "<i>T" not in page
    body = page.split('class="ub-counts"')[1].split("</table>")[0]
    rows = [
        [int(re.sub(r"<.*?>", "", cell)) for cell in re.findall(r"<td.*?</td>", line)] for line in body.split("<tr")
    ]
    obs = ad.read_h5ad(coloured / "d.h5ad").obs
    expected = pd.crosstab(obs["label"], obs["batch"])
    # labels of one batch first, then those without a label and all cells
    assert [each for each in rows if each] == [
        *expected.loc[["B", "<i>T</i>"]].to_numpy().tolist(),
        obs.loc[obs["label"].isna(), "batch"].value_counts(sort=False).tolist(),
        obs["batch"].value_counts(sort=False).tolist(),
    ]
