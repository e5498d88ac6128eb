"""The report: what the scores say, pages that MultiQC takes, names that can do no harm."""

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner
from scipy import sparse

from unbatch.cli.report import main
from unbatch.data.io import read_h5ad
from unbatch.report import draw, embedding
from unbatch.report.context import Report, View
from unbatch.report.probes import Told, findings
from unbatch.report.read import read_dataset
from unbatch.report.scores import failures, rank, read_cards, read_scores, scale
from unbatch.report.sections import embeddings, tradeoff, warnings
from unbatch.report.text import distinct, plain
from unbatch.report.verdict import Code, judge, remarks, verdict

ASSETS = Path(__file__).parents[2] / "assets"
CARDS = read_cards(ASSETS / "methods.yml")
BATCH = ["bras", "ilisi", "kbet", "graph_connectivity", "pcr"]
BIO = ["isolated_labels", "nmi", "ari", "silhouette_label", "clisi"]
METRICS = {
    "batch": BATCH,
    "bio": BIO,
    "other": ["asw_batch", "ch_label"],
    "weights": {"batch": 0.4, "bio": 0.6},
    "missing": {},
}
HOSTILE = ["<script>alert(1)</script>", "$(touch x)", "\"quoted\" & 'so'", "long " * 60]


def left_out(method, name, value, se):
    """A score with each of 20 groups of cells left out, of a given standard error."""
    changes = np.random.default_rng([*f"{method} {name}".encode()]).normal(size=20)
    changes -= changes.mean()
    return (value + se * changes / np.sqrt(19 / 20 * np.square(changes).sum())).tolist()


def over_cells(method, batch, bio, se):
    found = {name: left_out(method, name, value, se) for name, value in (("batch", batch), ("bio", bio))}
    found["total"] = (0.4 * np.array(found["batch"]) + 0.6 * np.array(found["bio"])).tolist()
    return {"left_out": found, "interval": {}, "clustering_sd": {}}


def seeds(method, batch=0.5, bio=0.5, count=3, spread=0.002, **more):
    """Rows of a method, one per seed."""
    return [row(method, s, batch, bio + spread * (s - (count - 1) / 2), **more) for s in range(count)]


def row(method, seed=0, batch=0.5, bio=0.5, without=(), dataset="toy", se=0.005, **more):
    metrics = dict.fromkeys(BATCH, batch) | dict.fromkeys(BIO, bio) | {"asw_batch": 0.1, "ch_label": 5321.0}
    metrics |= dict.fromkeys(without)
    count = {key: sum(metrics[n] is not None for n in names) for key, names in (("batch", BATCH), ("bio", BIO))}
    return {
        "id": f"{dataset}.{method}.default.s{seed}",
        "dataset": dataset,
        "method": method,
        "params_id": "default",
        "seed": seed,
        "status": "ok",
        "exit_code": 0,
        "message": "",
        "metrics": metrics,
        "batch": batch if count["batch"] else None,
        "n_batch": count["batch"],
        "bio": bio if count["bio"] else None,
        "n_bio": count["bio"],
        "total": 0.4 * batch + 0.6 * bio if all(count.values()) else None,
        "cells": over_cells(method, batch, bio, se),
        "wall_s": 2.5,
        "peak_mb": 640.0,
        "device": "cpu",
        "attempts": 1,
        "versions": {"harmonypy": "2.1.0"},
    } | more


def fallen(method, seed=0, status="failed", exit_code=1, message="ValueError: it broke", **more):
    ended = {"status": status, "exit_code": exit_code, "message": message, "metrics": {}}
    return row(method, seed, without=[*BATCH, *BIO], **ended, **more)


def content(rows, cells=90, labels=("T", "B"), batches=("a", "b"), dataset="toy", **more):
    return {
        "schema": 1,
        "dataset": {
            "name": dataset,
            "cells": cells,
            "genes": 50,
            "batches": dict.fromkeys(batches, cells // len(batches)),
            "labels": dict.fromkeys(labels, 10) if labels else None,
            "unlabelled": 3 if labels else 0,
            "scored_cells": 60,
            "subsampled": True,
            "coordinates": True,
        },
        "metrics": METRICS,
        "rows": rows,
        "settings": {"seed": 0, "max_cells": 60},
        "versions": {"scib-metrics": "0.6.1"},
    } | more


@pytest.fixture
def result(tmp_path):
    def read(rows, **more):
        path = tmp_path / "scores.json"
        path.write_text(json.dumps(content(rows, **more)))
        return read_scores(path, CARDS)

    return read


def run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in (*arguments, "--methods", ASSETS / "methods.yml", "--threads", 1)])


def pages_of(folder):
    return {path.name: json.loads(path.read_text()) for path in sorted(folder.glob("*_mqc.json"))}


def write_dataset(path, batches=("a", "b"), labels=("T", "B"), cells=90, positions=True):
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(index=[f"c{i}" for i in range(cells)])
    obs["batch"] = pd.Categorical.from_codes(np.arange(cells) % len(batches), list(batches))
    if labels:
        codes = np.arange(cells) // 2 % len(labels)
        # the last label is in the first batch only, three cells have none
        codes[(codes == len(labels) - 1) & (np.arange(cells) % len(batches) > 0)] = 0
        codes[:3] = -1
        obs["label"] = pd.Categorical.from_codes(codes, list(labels))
    data = ad.AnnData(obs=obs, uns={"unbatch": {"schema": 1}})
    if positions:
        data.obsm["spatial"] = rng.random((cells, 2)) * 100
    data.write_h5ad(path)
    return obs


def write_fit(path, obs, method, seed=0):
    matrix = np.random.default_rng(seed).normal(size=(len(obs), 5)).astype(np.float32)
    about = {"schema": 1, "method": method, "seed": seed, "params": {"n_components": 5}}
    ad.AnnData(obs=obs[[]], obsm={f"X_{method}": matrix}, uns={"unbatch": about}).write_h5ad(path)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A report with everything in it, hostile names among them."""
    folder = tmp_path_factory.mktemp("report")
    rows = [
        row("none", 0, 0.2, 0.6),
        row("none", 1, 0.2, 0.6),
        row("harmony", 0, 0.7, 0.6),
        row("harmony", 1, 0.72, 0.61),
        row("combat", 0, 0.6, 0.6, without=["kbet"]),
        fallen("scanorama", 0, exit_code=None, message="Killed <b>here</b>", attempts=3),
        fallen("pca", 0, "not applicable", 99, "needs <i>counts</i>"),
    ]
    (folder / "scores.json").write_text(json.dumps(content(rows, batches=HOSTILE[:2], labels=HOSTILE)))
    obs = write_dataset(folder / "toy.h5ad", HOSTILE[:2], HOSTILE)
    fits = []
    for each in rows[:1] + rows[2:3]:
        fits += ["--fit", folder / f"{each['id']}.fit.h5ad"]
        write_fit(fits[-1], obs, each["method"])
    (folder / "params.json").write_text(json.dumps({"run_name": "<u>run</u>", "parameters": {"seeds": 2, "x": None}}))
    arguments = (
        folder / "scores.json",
        "--dataset",
        folder / "toy.h5ad",
        *fits,
        "--parameters",
        folder / "params.json",
    )
    outcome = run(*arguments, "-o", folder / "report")
    assert outcome.exit_code == 0, outcome.output
    return folder, arguments


# what the scores say


def test_a_control_is_never_ranked_and_never_named_best(result):
    rows = seeds("shuffled", 1, 1) + seeds("none", 0.9, 0.9) + seeds("harmony") + seeds("combat", bio=0.4)
    found = result(rows)
    assert [(e.method, e.rank) for e in found.entries] == [
        ("harmony", 1),
        ("combat", 2),
        ("none", None),
        ("shuffled", None),
    ]
    said = judge(found)
    assert (said.code, said.best, said.leader.method) == (Code.NOT_ABOVE_SHUFFLED, None, "harmony")


@pytest.mark.parametrize(
    ("bio", "code"), [(0.7, Code.BELOW_UNCORRECTED), (0.595, Code.NOT_ABOVE_UNCORRECTED), (0.4, Code.FIRST)]
)
@pytest.mark.parametrize("idle", ["none", "pca"])
def test_a_correction_is_first_only_if_it_is_above_what_corrects_nothing(result, idle, bio, code):
    said = judge(result(seeds(idle, bio=bio) + seeds("harmony", bio=0.6)))
    assert said.code is code
    assert (said.best is not None) == (code is Code.FIRST)


def test_the_best_method_is_named_with_its_spread_and_gain(result):
    found = result(seeds("none", 0.2, 0.5) + seeds("harmony", 0.7, 0.5) + seeds("combat", 0.5, 0.5))
    said = judge(found)
    assert (said.code, said.best.method) == (Code.FIRST, "harmony")
    gains = {each.entry.method: each.gain for each in (*said.corrections, *said.uncorrected)}
    assert gains["none"].mean == pytest.approx(0.2)
    assert 0.18 < gains["none"].low < 0.2 < gains["none"].high < 0.22
    assert "Harmony" in verdict(found)[0]


@pytest.mark.parametrize(
    ("bio", "spread", "se", "tied"),
    [(0.5, 0.002, 0.005, True), (0.44, 0.002, 0.005, False), (0.44, 0.05, 0.005, True), (0.44, 0.002, 0.05, True)],
)
def test_methods_are_told_apart_over_seeds_and_over_cells(result, bio, spread, se, tied):
    rows = seeds("harmony", bio=0.505, spread=spread, se=se) + seeds("combat", bio=bio, spread=spread, se=se)
    said = judge(result(rows + seeds("none", bio=0.1) + seeds("shuffled", bio=0.1)))
    assert said.code is (Code.TIED if tied else Code.FIRST)
    assert [e.method for e in said.tied] == (["combat"] if tied else [])
    assert (said.best is None) == tied


@pytest.mark.parametrize("lost", ["seeds", "cells"])
def test_without_several_seeds_or_an_interval_over_cells_nothing_is_ranked(result, lost):
    count, more = (1, {}) if lost == "seeds" else (3, {"cells": None})
    said = judge(result(seeds("harmony", count=count, **more) + seeds("none", bio=0.1, count=count, **more)))
    assert (said.code, said.best) == (Code.UNKNOWN, None)


def test_fits_that_are_all_alike_have_the_chance_of_their_clusters(result):
    rows = seeds("harmony", spread=0) + seeds("none", bio=0.45, spread=0)
    assert judge(result(rows)).code is Code.FIRST
    for each in rows:
        each["cells"]["clustering_sd"] = {"bio": 0.05, "total": 0.03}
    assert judge(result(rows)).code is Code.NOT_ABOVE_UNCORRECTED


def test_means_over_other_metrics_are_not_ranked(result):
    found = result([row("harmony"), row("combat", batch=0.9, without=["kbet"]), row("none", bio=0.1)])
    combat = next(e for e in found.entries if e.method == "combat")
    assert combat.rank is None
    assert "mean of 4 of 5, without kBET" in combat.note
    assert any("mean of 4 of 5" in remark for remark in remarks(found, []))


def test_as_many_metrics_but_others_are_not_compared(result):
    found = result([row("harmony", without=["ilisi"]), row("combat", without=["kbet"])])
    assert [e.rank for e in found.entries] == [None, None]


def test_a_seed_with_fewer_metrics_is_left_out_of_the_mean(result):
    found = result([row("harmony", 0), row("harmony", 1, batch=0.9, without=["kbet"])])
    assert found.entries[0].batch.n == 1
    assert "mean over seed 0 only, as seed 1 gave none or fewer scores" in found.entries[0].note


def test_without_labels_nothing_is_ranked():
    entries = rank([row("harmony", without=BIO), row("none", without=BIO)], {**METRICS, "bio": []}, CARDS)
    assert [e.rank for e in entries] == [None, None]


def test_without_labels_no_best_method_is_named(tmp_path):
    lost = [*BIO, "bras", "kbet", "graph_connectivity"]
    rows = [row("harmony", batch=0.7, without=lost), row("none", batch=0.2, without=lost)]
    missing = {"nmi": "no labels", "ari": "no labels"}
    more = {"metrics": {**METRICS, "batch": ["ilisi", "pcr"], "bio": [], "missing": missing}}
    (tmp_path / "s.json").write_text(json.dumps(content(rows, labels=None, **more)))
    found = read_scores(tmp_path / "s.json", CARDS)
    assert judge(found).code is Code.NO_TOTAL
    assert "Not computed (no labels): NMI and ARI." in remarks(found, [])
    outcome = run(tmp_path / "s.json", "-o", tmp_path / "out")
    assert outcome.exit_code == 0, outcome.output


def test_no_result_at_all_is_reported_not_an_error(tmp_path):
    (tmp_path / "s.json").write_text(json.dumps(content([fallen("harmony"), fallen("none")])))
    outcome = run(tmp_path / "s.json", "-o", tmp_path / "out")
    assert outcome.exit_code == 0, outcome.output
    assert "No fit ended with a result" in pages_of(tmp_path / "out")["unbatch_summary_page_mqc.json"]["data"]


def test_the_weights_of_the_total_are_those_of_the_scores(result):
    other = METRICS | {"weights": {"batch": 0.3, "bio": 0.7}}
    found = result([row("harmony", batch=0.6), row("none", batch=0.2)], metrics=other)
    assert found.formula == "0.3 × batch + 0.7 × biology"
    lines = [tradeoff.scatter(found.entries, by) for by in (found.weights, METRICS["weights"])]
    assert lines[0] != lines[1]


def test_one_batch_has_no_best_method_and_a_biology_score(result, tmp_path):
    alone = result([row("none", bio=0.4), row("batchblend", bio=0.6), row("label_leak", bio=0.9)], batches=("a",))
    for entry in alone.entries:
        entry.batch = entry.total = None
    assert judge(alone).code is Code.ONE_BATCH
    assert verdict(alone)
    assert remarks(alone, [])[0] == "There is one batch: mixing is not scored, and there is no total."


def test_a_method_that_has_seen_the_labels_is_not_first_without_a_word(result):
    found = result([row("none", bio=0.4), row("scanvi", bio=0.9), row("harmony", bio=0.6)])
    assert judge(found).leader.supervised
    fair = result([row("none", bio=0.4), row("harmony", bio=0.9), row("scanvi", bio=0.6)])
    assert len(verdict(found)) == len(verdict(fair)) + 1


def test_scores_between_controls_that_hardly_differ_are_not_scaled(result):
    found = result([row("none", batch=0.5, bio=0.5), row("shuffled", batch=0.51, bio=0.9), row("harmony", batch=0.9)])
    scaled = scale(found)["Harmony"]
    assert scaled.batch is None
    assert scaled.total is None
    assert scaled.bio is not None


def test_failures_come_before_what_is_not_applicable_and_alike_seeds_together(result):
    rows = [fallen("pca", 0, "not applicable", 99), fallen("harmony", 0), fallen("harmony", 1), row("none")]
    found = failures([result(rows)])
    assert [(t.label, t.seeds, t.status) for t in found] == [
        ("Harmony", [0, 1], "failed"),
        ("PCA (scaled)", [0], "not applicable"),
    ]


# the pages


def test_every_page_has_what_multiqc_needs(written):
    pages = pages_of(written[0] / "report")
    assert len({page["id"] for page in pages.values()}) == len(pages)
    for page in pages.values():
        assert page["plot_type"] in ("html", "table", "box")
        assert page["data"]
        assert page["parent_id"] != page["id"]
        assert page["parent_name"]
        assert page["section_name"]
    about = {page["parent_id"]: page["parent_description"] for page in pages.values()}
    assert all(page["parent_description"] == about[page["parent_id"]] for page in pages.values())
    assert {"umap", "tissue", "scores", "tradeoff", "cost", "methods"} <= {key.split("_")[1] for key in about}


class Tags(HTMLParser):
    """Collects tags and their attributes."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_names_from_outside_are_shown_as_text(written):
    pages = pages_of(written[0] / "report")
    for page in pages.values():
        text = page["data"] if page["plot_type"] == "html" else json.dumps(page["data"])
        for tag, attributes in Tags(text).found:
            assert tag not in ("script", "b" if "warnings" in page["id"] else "script", "u", "iframe", "object")
            assert not [name for name in attributes if name.startswith("on")]
        assert "<script" not in page["section_name"]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in pages["unbatch_umap_0_label_page_mqc.json"]["data"]
    assert "$(touch x)" in pages["unbatch_umap_0_batch_page_mqc.json"]["data"]
    assert "Killed &lt;b&gt;here&lt;/b&gt;" in pages["unbatch_warnings_page_mqc.json"]["data"]


def test_titles_stay_harmless_when_multiqc_unescapes_them():
    assert plain("<script>alert(1)</script>") == "_script_alert(1)__script_"
    assert plain("&lt;b&gt;") == "_lt_b_gt_"
    assert len(plain("x" * 500)) == 60


def test_images_have_a_text_for_those_who_do_not_see_them(written):
    images = [
        attributes
        for page in pages_of(written[0] / "report").values()
        if page["plot_type"] == "html"
        for tag, attributes in Tags(page["data"]).found
        if tag == "img"
    ]
    assert len(images) >= 2 * 2 + 2 + 2
    assert all(image["alt"] and image["src"].startswith("data:image/") for image in images)


@pytest.mark.parametrize(
    ("asked", "warned"), [({"gpu": True}, True), ({"device": "cuda"}, True), ({"device": "auto", "gpu": False}, False)]
)
def test_a_gpu_that_was_asked_for_and_not_there_is_warned_of(result, asked, warned):
    rows = [row("none"), row("scmedal"), row("batchblend", device="cuda")]
    view = View(Report([], {}, {"parameters": asked}), result(rows))
    found = " ".join(warnings._without_gpu(view))
    # a method that cannot use one is no matter
    assert ("1 fit ran on the CPU (scmedal)" in found) == warned
    assert bool(found) == warned


def test_warnings_name_confined_labels_and_unlabelled_cells(written):
    text = pages_of(written[0] / "report")["unbatch_warnings_page_mqc.json"]["data"]
    assert "only in &lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "3 of 90 cells (3.3%) have no label" in text
    # a fit that was killed: its code, attempts and memory
    assert re.search(r">killed</td><td[^>]*>3</td><td[^>]*>640 MB</td>", text)


def test_the_data_come_first_with_warnings_and_losses_by_sample(tmp_path):
    (tmp_path / "s.json").write_text(json.dumps(content([row("none")])))
    write_dataset(tmp_path / "d.h5ad")
    data = ad.read_h5ad(tmp_path / "d.h5ad")
    notes = [
        {"code": "x", "severity": "info", "text": "Good to know.", "numbers": {}},
        {"code": "y", "severity": "warning", "text": "<script>alert(1)</script> is odd.", "numbers": {"n": 1}},
    ]
    losses = {"genes": 200, "genes_not_shared": 169, "genes_dropped": 1, "not_genes": 10, "cells": 60}
    losses = pd.DataFrame(losses | {"cells_dropped": 12, "counts_from": "X"}, index=["<b>A</b>"])
    data.uns["unbatch"] |= {
        "notes": json.dumps(notes),
        "losses": losses,
        "parameters": {"min_counts": 5, "min_cells": 3},
    }
    data.write_h5ad(tmp_path / "d.h5ad")
    assert run(tmp_path / "s.json", "--dataset", tmp_path / "d.h5ad", "-o", tmp_path / "out").exit_code == 0
    pages = pages_of(tmp_path / "out")
    page = pages["unbatch_data_warnings_0_page_mqc.json"]["data"]
    assert page.index("is odd.") < page.index("Good to know.")
    assert not {"script", "b"} & {tag for tag, _ in Tags(page).found}
    cells = [re.sub(r"<.*?>", "", cell).strip() for cell in re.findall(r"<td.*?>(.*?)</td>", page, re.DOTALL)]
    assert [cells[i] for i in (1, 2, 3, 4, 5, 6)] == ["60", "12", "48", "210", "180", "30"]
    assert "fewer than 5 counts" in cells[7]
    assert 'href="#unbatch_data_warnings"' in pages["unbatch_summary_page_mqc.json"]["data"]


@pytest.mark.parametrize(
    "notes", ["", "[1, {}]", "{", '[{"code": 1, "severity": "warning", "text": "t", "numbers": {}}]']
)
def test_a_dataset_without_notes_has_no_page_on_its_samples(tmp_path, notes):
    (tmp_path / "s.json").write_text(json.dumps(content([row("none")])))
    write_dataset(tmp_path / "d.h5ad")
    data = ad.read_h5ad(tmp_path / "d.h5ad")
    data.uns["unbatch"]["notes"] = notes
    data.write_h5ad(tmp_path / "d.h5ad")
    assert run(tmp_path / "s.json", "--dataset", tmp_path / "d.h5ad", "-o", tmp_path / "out").exit_code == 0
    assert "unbatch_data_warnings_0_page_mqc.json" not in pages_of(tmp_path / "out")


def test_cells_are_counted_by_batch_section_and_label_and_changed_names_are_listed(tmp_path):
    (tmp_path / "s.json").write_text(json.dumps(content([row("none")])))
    write_dataset(tmp_path / "d.h5ad")
    data = ad.read_h5ad(tmp_path / "d.h5ad")
    first = data.obs["batch"] == data.obs["batch"].cat.categories[0]
    data.obs["section"] = pd.Categorical(np.where(first & (np.arange(90) % 4 == 0), "<s1>", "s2"))
    mended = {"column": "donor", "what": "batch", "renamed": {"d1 ": "<d1>"}, "cells": {"d1 ": 7}}
    note = {"code": "names-mended", "severity": "warning", "text": "t", "numbers": mended}
    data.uns["unbatch"]["notes"] = json.dumps([note])
    data = ad.AnnData(obs=data.obs, uns=data.uns, var=pd.DataFrame(index=["g1", "g2"]))
    data.layers["counts"] = sparse.csr_matrix(np.arange(180.0).reshape(90, 2))
    data.write_h5ad(tmp_path / "d.h5ad")
    sums, stored = read_dataset(tmp_path / "d.h5ad").depth
    np.testing.assert_array_equal(sums, np.arange(180.0).reshape(90, 2).sum(axis=1))
    np.testing.assert_array_equal(stored, np.r_[1, np.full(89, 2)])
    assert run(tmp_path / "s.json", "--dataset", tmp_path / "d.h5ad", "-o", tmp_path / "out").exit_code == 0
    pages = pages_of(tmp_path / "out")
    text = {key: pages[f"unbatch_data_warnings_0_{key}_page_mqc.json"]["data"] for key in ("cells", "renamed", "depth")}
    rows = [re.findall(r"<td.*?>(.*?)</td>", line) for line in text["cells"].split("<tr>")]
    plain = [[re.sub(r"<.*?>", "", cell) for cell in cells] for cells in rows if cells]
    expected = data.obs.groupby(["batch", "section"], observed=True)["label"].agg(["size", "count"])
    assert [int(cells[2]) for cells in plain] == expected["size"].tolist()
    assert [sum(map(int, cells[3:])) for cells in plain] == expected["size"].tolist()
    assert "&lt;s1&gt;" in text["cells"]
    assert "&lt;d1&gt;" in text["renamed"]
    assert "data:image/svg+xml" in text["depth"]


def test_genes_are_written_by_their_symbols_where_these_are_known(tmp_path):
    obs = write_dataset(tmp_path / "d.h5ad")
    var = pd.DataFrame({"gene_symbol": ["MBP", "", None]}, index=["ENSG1", "ENSG2", "ENSG3"])
    ad.AnnData(obs=obs, var=var, uns={"unbatch": {"schema": 1}}).write_h5ad(tmp_path / "d.h5ad")
    assert read_dataset(tmp_path / "d.h5ad").shown(["ENSG3", "ENSG1", "ENSG2"]) == ["ENSG3", "MBP", "ENSG2"]


def test_tissue_maps_are_by_section(tmp_path):
    (tmp_path / "s.json").write_text(json.dumps(content([row("none")])))
    write_dataset(tmp_path / "d.h5ad")
    data = ad.read_h5ad(tmp_path / "d.h5ad")
    names = data.obs["batch"].astype(str) + np.where(np.arange(90) < 45, "<1>", "<2>")
    data.obs["section"] = pd.Categorical(names)
    data.write_h5ad(tmp_path / "d.h5ad")
    assert run(tmp_path / "s.json", "--dataset", tmp_path / "d.h5ad", "-o", tmp_path / "out").exit_code == 0
    page = pages_of(tmp_path / "out")["unbatch_tissue_0_label_page_mqc.json"]["data"]
    drawn = [attributes["alt"].split(",")[0] for tag, attributes in Tags(page).found if tag == "img"]
    assert drawn == [f"Tissue map of section {name}" for name in ("a<1>", "a<2>", "b<1>", "b<2>")]


def test_paper_text_cites_the_methods_and_tools_used(written):
    text = pages_of(written[0] / "report")["unbatch_methods_paper_page_mqc.json"]["data"]
    for source in (
        "10.1038/s41592-019-0619-0",
        "10.1038/s41592-021-01336-8",
        "10.1038/nbt.3820",
        "10.1093/bioinformatics/",
    ):
        assert source in text
    assert "harmonypy 2.1.0" in text


def test_paper_text_names_our_own_code_where_a_method_is_ours(tmp_path):
    (tmp_path / "s.json").write_text(json.dumps(content([row("batchblend"), row("none", bio=0.1)])))
    assert run(tmp_path / "s.json", "-o", tmp_path / "out").exit_code == 0
    text = pages_of(tmp_path / "out")["unbatch_methods_paper_page_mqc.json"]["data"]
    assert re.search(r"BatchBlend \(unbatch [\d.]+\) \[", text)
    assert CARDS["batchblend"].citation in text


def test_same_input_gives_the_same_files(written, tmp_path):
    folder, arguments = written
    assert run(*arguments, "-o", tmp_path / "again").exit_code == 0
    for path in (folder / "report").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


def test_pages_of_an_earlier_report_do_not_stay(tmp_path):
    (tmp_path / "s.json").write_text(json.dumps(content([row("harmony"), row("none", bio=0.1)])))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "unbatch_umap_7_batch_page_mqc.json").write_text("{}")
    (tmp_path / "out" / "other.txt").write_text("stays")
    assert run(tmp_path / "s.json", "-o", tmp_path / "out").exit_code == 0
    assert not (tmp_path / "out" / "unbatch_umap_7_batch_page_mqc.json").exists()
    assert (tmp_path / "out" / "other.txt").exists()


def test_without_coordinates_or_labels_their_pages_are_left_out(tmp_path):
    (tmp_path / "s.json").write_text(json.dumps(content([row("harmony")], labels=None)))
    write_dataset(tmp_path / "d.h5ad", labels=None, positions=False)
    assert run(tmp_path / "s.json", "--dataset", tmp_path / "d.h5ad", "-o", tmp_path / "out").exit_code == 0
    assert not [name for name in pages_of(tmp_path / "out") if "tissue" in name or "label" in name]


def test_several_datasets_are_compared_in_one_table(tmp_path):
    for number, name in enumerate(("one", "<b>two</b>")):
        rows = [row("harmony", dataset=name), row("none", bio=0.1, dataset=name)]
        (tmp_path / f"{number}.json").write_text(json.dumps(content(rows, dataset=name)))
    outcome = run(tmp_path / "0.json", tmp_path / "1.json", "-o", tmp_path / "out")
    assert outcome.exit_code == 0, outcome.output
    pages = pages_of(tmp_path / "out")
    assert "Without correction" in pages["unbatch_summary_page_mqc.json"]["data"]
    assert pages["unbatch_scores_1_page_mqc.json"]["section_name"] == "_b_two__b_: Overview"


def test_embeddings_beyond_the_limit_are_counted_not_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(embeddings.SECTION, "most", 0)
    (tmp_path / "s.json").write_text(json.dumps(content([row("harmony")])))
    write_fit(tmp_path / "toy.harmony.default.s0.fit.h5ad", write_dataset(tmp_path / "d.h5ad"), "harmony")
    given = ("--dataset", tmp_path / "d.h5ad", "--fit", tmp_path / "toy.harmony.default.s0.fit.h5ad")
    assert run(tmp_path / "s.json", *given, "-o", tmp_path / "out").exit_code == 0
    pages = pages_of(tmp_path / "out")
    assert "as they are too many: 1." in pages["unbatch_warnings_page_mqc.json"]["data"]
    assert not [name for name in pages if "umap" in name]


TOY = """
from unbatch.report.section import Page, Section, render

SECTION = Section(
    "toy",
    "Toy",
    "What a toy makes of it.",
    each=lambda view: [Page("Fits", render("sections/toy", taken=view.taken[SECTION]), "fits")],
    take=lambda view, entry, fit: fit.embedding.shape[1],
    most=1,
    omitted="Toys",
)
"""


def test_a_section_is_a_file_with_its_template_and_a_line_which_is_its_place(tmp_path):
    bin_ = shutil.copytree(ASSETS.parent / "bin", tmp_path / "bin")
    sections = bin_ / "unbatch" / "report" / "sections"
    (sections / "toy.py").write_text(TOY)
    (sections / "toy.html.j2").write_text("{% for e, n in taken %}{{ e.label }}: {{ n }}{% endfor %}")
    registry = sections / "__init__.py"
    registry.write_text(registry.read_text().replace('    "tradeoff",\n', '    "toy",\n    "tradeoff",\n', 1))
    (tmp_path / "s.json").write_text(json.dumps(content([row("harmony"), row("none", bio=0.1)])))
    obs = write_dataset(tmp_path / "d.h5ad", positions=False)
    fits = [tmp_path / f"toy.{name}.default.s0.h5ad" for name in ("harmony", "none")]
    for path, name in zip(fits, ("harmony", "none"), strict=True):
        write_fit(path, obs, name)
    given = ["s.json", "--dataset", "d.h5ad", *(part for path in fits for part in ("--fit", str(path)))]
    cards = ["--methods", str(ASSETS / "methods.yml"), "-o", "out"]
    code = (
        f"import sys; sys.path.insert(0, {str(bin_)!r}); sys.argv[0] = 'report'\n"
        "from unbatch.report.sections import embeddings; embeddings.SECTION.most = 0\n"
        "from unbatch.cli.report import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code, *given, *cards], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = pages_of(tmp_path / "out")
    assert pages["unbatch_toy_0_fits_page_mqc.json"]["data"] == "Harmony: 5"
    assert "Toys, as they are too many: 1." in pages["unbatch_warnings_page_mqc.json"]["data"]
    order = yaml.safe_load((tmp_path / "out" / "multiqc_order.yml").read_text())
    parts = order["custom_content"]["order"]
    assert parts.index("unbatch_toy") == parts.index("unbatch_tradeoff") - 1 == parts.index("unbatch_scores") + 1
    assert set(order["report_section_order"]) == {page["id"] for page in pages.values()}


def test_names_in_plots_of_multiqc_cannot_be_html_and_stay_apart(tmp_path):
    names = ["<img src=x onerror=alert(1)>", "&lt;img src=x onerror=alert(1)&gt;", "[img src=x onerror=alert(1)]"]
    methods = ("harmony", "combat", "none")
    cards = {method: {"label": name, "kind": "correction"} for method, name in zip(methods, names, strict=True)}
    (tmp_path / "methods.yml").write_text(json.dumps(cards))
    (tmp_path / "s.json").write_text(json.dumps(content([row(methods[0]), row(methods[1]), fallen(methods[2])])))
    given = (tmp_path / "s.json", "--methods", tmp_path / "methods.yml", "-o", tmp_path / "out")
    assert CliRunner().invoke(main, [str(part) for part in given]).exit_code == 0
    pages = pages_of(tmp_path / "out")
    times, memory = pages["unbatch_cost_0_box_page_mqc.json"]["data"]
    assert len(times) == len(memory) == 3
    for name in times:
        assert not set(name) & set("<>&[]'\"")
    assert distinct(["a<b", "a>b", "a_b"]) == ["a_b", "a_b (2)", "a_b (3)"]


def test_every_file_is_read_once(tmp_path, monkeypatch):
    (tmp_path / "s.json").write_text(json.dumps(content([row("scmedal"), row("harmony"), row("none", bio=0.1)])))
    obs = write_dataset(tmp_path / "d.h5ad")
    given = [tmp_path / "s.json", "--dataset", tmp_path / "d.h5ad"]
    for method in ("scmedal", "harmony", "none"):
        given += ["--fit", tmp_path / f"toy.{method}.default.s0.h5ad"]
        write_fit(given[-1], obs, method)
    names = []

    def read(path, slots):
        names.append(path.name)
        return read_h5ad(path, slots)

    monkeypatch.setattr("unbatch.report.read.read_h5ad", read)
    monkeypatch.setattr("unbatch.report.embedding.umap", lambda values, seed: values[:, :2])
    assert run(*given, "-o", tmp_path / "out").exit_code == 0
    assert sorted(names) == ["d.h5ad", *(f"toy.{method}.default.s0.h5ad" for method in ("harmony", "none", "scmedal"))]


# what is wrong is said in a sentence


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("rows"), "rows is missing"),
        (lambda c: c.update(schema=7), "schema 1, found 7"),
        (lambda c: c["rows"][0].update(method="magic"), "names the method 'magic'"),
        (lambda c: c["rows"][0].update(status="so so"), "status 'so so'"),
        (lambda c: c["rows"][0].pop("metrics"), "rows[0] lacks metrics"),
        (lambda c: c["dataset"].pop("genes"), "dataset lacks genes"),
        (lambda c: c.update(rows=[]), "rows is empty"),
        (lambda c: c.update(metrics=METRICS | {"weights": {"batch": 1}}), "metrics lacks weights of batch and bio"),
    ],
)
def test_scores_that_are_not_scores_are_refused(tmp_path, change, message):
    broken = content([row("harmony")])
    change(broken)
    (tmp_path / "s.json").write_text(json.dumps(broken))
    outcome = run(tmp_path / "s.json", "-o", tmp_path / "out")
    assert outcome.exit_code == 2
    assert message in outcome.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["", "{", "[1, 2]"])
def test_scores_that_are_not_json_are_refused(tmp_path, text):
    (tmp_path / "s.json").write_text(text)
    outcome = run(tmp_path / "s.json", "-o", tmp_path / "out")
    assert outcome.exit_code == 2
    assert "s.json" in outcome.output


def test_a_dataset_or_fit_of_other_cells_is_refused(tmp_path):
    (tmp_path / "s.json").write_text(json.dumps(content([row("harmony")])))
    obs = write_dataset(tmp_path / "toy.h5ad", cells=60)
    outcome = run(tmp_path / "s.json", "--dataset", tmp_path / "toy.h5ad", "-o", tmp_path / "out")
    assert outcome.exit_code == 2
    assert "holds 60 cells" in outcome.output
    write_dataset(tmp_path / "toy.h5ad")
    write_fit(tmp_path / "fit.h5ad", obs, "harmony")
    both = ("--dataset", tmp_path / "toy.h5ad", "--fit", tmp_path / "fit.h5ad")
    outcome = run(tmp_path / "s.json", *both, "-o", tmp_path / "out")
    assert outcome.exit_code == 2
    assert "not those of the dataset" in outcome.output
    write_fit(tmp_path / "fit.h5ad", obs, "combat")
    outcome = run(tmp_path / "s.json", *both, "-o", tmp_path / "out")
    assert outcome.exit_code == 2
    assert "no row of the scores" in outcome.output
    assert not (tmp_path / "out").exists()


def test_help_imports_nothing_heavy():
    code = "import sys, unbatch.cli.report; print([m for m in ('matplotlib', 'numpy', 'umap') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ASSETS.parent / "bin"
    )
    assert done.stdout.strip() == "[]"


# what is drawn


def test_visium_array_positions_become_distances_with_rows_downwards():
    row_, column = np.divmod(np.arange(78 * 128), 128)
    on_grid = (row_ + column) % 2 == 0
    positions, array = embedding.tissue(np.column_stack([row_, column])[on_grid])
    assert array
    first = positions[0]
    assert np.isclose(np.sort(np.linalg.norm(positions - first, axis=1))[1:3], 1, atol=1e-6).all()
    assert np.ptp(positions, axis=0).tolist() == pytest.approx([63.5, 77 * np.sqrt(0.75)])


def test_a_piece_of_an_array_is_drawn_as_distances_too():
    row_, column = np.divmod(np.arange(12 * 20), 20)
    on_grid = (row_ + column) % 2 == 0
    positions, array = embedding.tissue(np.column_stack([row_, column])[on_grid])
    assert array
    assert np.ptp(positions, axis=0).tolist() == pytest.approx([9.5, 11 * np.sqrt(0.75)])


def test_other_positions_are_left_as_they_are():
    xy = np.random.default_rng(0).random((200, 3))
    positions, array = embedding.tissue(xy)
    assert not array
    assert np.array_equal(positions, xy[:, :2])


@pytest.mark.parametrize("count", [1, 8, 9, 54, 150])
def test_every_category_has_a_colour_and_few_have_colour_blind_safe_ones(count):
    colours = draw.legend([str(i) for i in range(count)]).colours
    assert len(colours) == count
    assert len(set(colours)) == min(count, 54)
    if count <= 8:
        assert set(colours) <= set(draw.OKABE_ITO)


def test_figures_hold_the_colours_of_the_legend():
    from base64 import b64decode
    from io import BytesIO

    from PIL import Image

    rng = np.random.default_rng(0)
    legend = draw.legend(["a", "b", "c"])
    # the third category is rare
    codes = np.r_[np.zeros(500, int), np.ones(500, int), [2] * 5, [-1] * 5]
    picture = draw.cells(rng.normal(size=(len(codes), 2)), codes, legend, seed=0)
    image = Image.open(BytesIO(b64decode(picture.split(",")[1]))).convert("RGB")
    found = {"#{:02X}{:02X}{:02X}".format(*colour) for _, colour in image.getcolors(1000)}
    assert {*legend.colours, draw.MISSING, "#FFFFFF"} == found


def test_shades_run_from_worst_to_best():
    assert draw.shades([0.0, 1.0, None])[2] is None
    assert draw.shades([0.0, 1.0]) == draw.shades([1.0, 0.0], lower_is_better=True)


@pytest.mark.parametrize("shape", [(30, 1), (3, 5), (2, 2)])
def test_small_and_flat_embeddings_can_be_laid_out(shape):
    layout = embedding.umap(np.random.default_rng(0).normal(size=shape), seed=0)
    assert layout.shape == (shape[0], 2)
    assert np.isfinite(layout).all()


@pytest.mark.parametrize("dimensions", [1, 2, 7])
def test_an_embedding_of_any_width_becomes_colours(dimensions):
    colours = embedding.component_colours(np.random.default_rng(0).normal(size=(30, dimensions)))
    assert colours.shape == (30, 3)
    assert colours.min() >= 0
    assert colours.max() <= 1


# MultiQC


def test_multiqc_makes_one_page_of_it_that_asks_no_server(written, tmp_path):
    folder, _ = written
    (tmp_path / "versions_mqc_versions.yml").write_text("SCORE:\n  scib-metrics: 0.6.1\n")
    done = subprocess.run(
        [
            Path(sys.executable).with_name("multiqc"),
            folder / "report",
            "versions_mqc_versions.yml",
            "--config",
            ASSETS / "multiqc_config.yml",
            "--config",
            folder / "report" / "multiqc_order.yml",
            "--filename",
            "multiqc_report.html",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "rror" not in done.stderr
    html = (tmp_path / "multiqc_report.html").read_text(encoding="utf-8")
    heads = re.findall(r'<h2 class="mb-0" id="(\w+)">', html)
    parts = ["summary", "data_warnings", "warnings", "scores", "tradeoff", "umap", "tissue", "cost", "methods"]
    assert heads == [*(f"unbatch_{part}" for part in parts), "multiqc_software_versions"]
    # pages go by the file of their order and not by their titles, among which Metrics would come first
    found = re.findall(r'<h3 id="unbatch_methods_(\w+)_page', html)
    assert found == ["compared", "metrics", "paper", "parameters"]
    remote = [
        (tag, attributes)
        for tag, attributes in Tags(html).found
        if tag in ("script", "img", "link", "iframe", "source", "object", "embed")
        and re.match(r"(https?:)?//", attributes.get("src") or attributes.get("href") or "")
    ]
    assert not remote
    assert not re.findall(r"url\(\s*['\"]?(?:https?:)?//", html)
    assert "<script>alert(1)" not in html
    assert len(html) < 6_000_000


def probed(method, level, se=0.02, seed=0):
    """A row with a batch probe."""
    found = row(method, seed)
    found["metrics"]["batch_probe"] = level
    found["cells"]["left_out"]["batch_probe"] = left_out(method, f"probe {seed}", level, se)
    return found


def told(result, rows, label=None):
    levels = {"batch_probe": {"chance": 0.5, "label": label and label[0], "left_out": label and label[1]}}
    evidence = {"cells": 200, "permutations": 5, "levels": levels, "targets": {}}
    found = result(rows, evidence=evidence, metrics=METRICS | {"evidence": ["batch_probe"]})
    return {each.entry.method: each.told for each in findings(found)}


def test_a_batch_effect_is_left_only_where_the_interval_over_cells_excludes_the_reference(result):
    rows = [probed("shuffled", 0.53), probed("none", 0.8), probed("harmony", 0.54), probed("combat", 0.6, se=0.06)]
    expected = {"shuffled": Told.REFERENCE, "none": Told.LEFT, "harmony": Told.NOT_SHOWN, "combat": Told.NOT_SHOWN}
    assert told(result, rows) == expected
    # more than the labels alone tell: composition is no batch effect
    label = (0.75, left_out("label", "probe", 0.75, 0.02))
    assert told(result, rows, label)["none"] is Told.NOT_SHOWN
    assert told(result, [*rows[:1], probed("none", 0.9)], label)["none"] is Told.LEFT
    # sure, but next to nothing
    assert told(result, [probed("none", 0.515, se=0.001)]) == {"none": Told.NOT_SHOWN}


def test_an_embedding_that_the_shuffled_control_equals_has_no_batch_effect_left(result):
    assert told(result, [probed("harmony", 0.62)]) == {"harmony": Told.LEFT}
    assert told(result, [probed("harmony", 0.62), probed("shuffled", 0.61)])["harmony"] is Told.NOT_SHOWN


def test_without_an_interval_nothing_is_said_to_be_left(result):
    rows = [probed("none", 0.9)]
    rows[0]["cells"] = None
    assert told(result, rows) == {"none": Told.NOT_SHOWN}
