"""The report's pages on fits of autoencoders: what is read off shifts, what is marked, what is refused."""

import json
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from test_report import Tags, content, pages_of, row

from unbatch.cli.report import main
from unbatch.errors import InputError
from unbatch.report.fits.scmedal import SECTIONS
from unbatch.report.fits.scmedal.read import read_autoencoders
from unbatch.report.read import FitFile, read_dataset
from unbatch.report.section import Page, Shown
from unbatch.report.sections import embeddings

CARDS = {"scmedal": {"label": "scMEDAL", "kind": "correction"}}
GENES = ["up", "down", "wide", "still"]


@pytest.fixture
def dataset(dataset_path: Path) -> ad.AnnData:
    return ad.read_h5ad(dataset_path)


@pytest.fixture
def fit(dataset: ad.AnnData) -> ad.AnnData:
    """What fit-scmedal writes, of 4 genes, with all cells of two labels put into the first batch."""
    # cells that are of the batch shift by what is rounded
    shift = np.array([[[0.6, -0.5, 1.0, 0.0], [1e-6, 0.0, 0.0, 0.0]]])
    label = dataset.obs["label"].cat.categories[0]
    history = {"fe.total": [3.0, 2.0, 1.0], "fe.batch_probe": [0.9, 0.5, 0.6], "re.total": [1.0, 0.5, 0.2]}
    about = {
        "schema": 1,
        "method": "scmedal",
        "seed": 0,
        "params": {"latent": 6},
        "history": {name: np.array(values) for name, values in history.items()},
        "best_epoch": {"fe": 2, "re": 3},
        "loss_weights": {"fe.batch": 0.25},
        "counterfactual": {
            "way": "batch-free",
            "batches": np.array(["batch1"], dtype=object),
            "labels": np.array([label, ""], dtype=object),
            "cells": np.array([1200, 7]),
            "shift": shift.astype(np.float32),
            "shift_se": np.where(abs(shift) > 1e-3, [0.3, 0.1, 1.0, 0.1], 0).astype(np.float32),
        },
    }
    embedding = np.random.default_rng(0).normal(size=(dataset.n_obs, 3)).astype(np.float32)
    genes = pd.DataFrame(index=GENES)
    return ad.AnnData(obs=dataset.obs[[]], var=genes, obsm={"X_scmedal": embedding}, uns={"unbatch": about})


def report(folder: Path, dataset: ad.AnnData, fit: ad.AnnData, panels: int = 0) -> dict[str, str]:
    """Content of the pages, by the part that they are of."""
    (folder / "methods.yml").write_text(json.dumps(CARDS))
    (folder / "s.json").write_text(json.dumps(content([row("scmedal")], cells=dataset.n_obs)))
    dataset.write_h5ad(folder / "d.h5ad")
    fit.write_h5ad(folder / "f.h5ad")
    given = ("--dataset", folder / "d.h5ad", "--fit", folder / "f.h5ad", "--methods", folder / "methods.yml")
    with pytest.MonkeyPatch.context() as patch:
        # UMAPs take longest and are tested elsewhere
        patch.setattr(embeddings.SECTION, "most", panels)
        outcome = CliRunner().invoke(main, [str(a) for a in (folder / "s.json", *given, "-o", folder / "out")])
    assert outcome.exit_code == 0, outcome.output
    return {name.split("_")[1]: json.dumps(page) for name, page in pages_of(folder / "out").items()}


def made_of(folder: Path, dataset: ad.AnnData, fit: ad.AnnData, evidence: bool = False) -> dict[str, Page]:
    """The pages on the fit, by key, without the rest of the report."""
    dataset.write_h5ad(folder / "d.h5ad")
    fit.write_h5ad(folder / "f.h5ad")
    found, shown = (
        read_autoencoders(FitFile(folder / "f.h5ad")),
        Shown(read_dataset(folder / "d.h5ad").cells, 0, evidence),
    )
    return {page.key: page for section in SECTIONS.sections for page in section.pages(found, shown)}


def images(page: str) -> list[str]:
    return [attributes["src"] for tag, attributes in Tags(page).found if tag == "img"]


def test_genes_whose_interval_stays_off_0_are_listed_the_surest_first(dataset, fit, tmp_path):
    page = made_of(tmp_path, dataset, fit)["shifts"].content
    first, second = page.split("<tr>")[2:]
    listed = [attributes["title"] for _, attributes in Tags(first).found if attributes.get("class") == "ub-cut"]
    # the label itself, then its genes: the largest shift is not sure at all, the next one less so than the last
    assert listed[1:] == ["down", "up"]
    assert "<b>−0.50</b> <small>(−0.66 to −0.34)</small>" in first
    assert "<b>+0.60</b> <small>(+0.11 to +1.09)</small>" in first
    assert '<td class="ub-num">1,200</td><td class="ub-num">2</td>' in first
    assert "no label" in second
    assert "nothing shifts" in second


def test_a_label_that_the_other_batch_lacks_is_marked(dataset, fit, tmp_path):
    assert '<span class="ub-pill' not in made_of(tmp_path, dataset, fit)["shifts"].content
    label = dataset.obs["label"].cat.categories[0]
    alone = dataset[~((dataset.obs["label"] == label) & (dataset.obs["batch"] == "batch1"))].copy()
    page = made_of(tmp_path, alone, fit[alone.obs_names].copy())["shifts"].content
    assert page.count('<span class="ub-pill ub-refused">none in that batch</span>') == 1


def test_the_epoch_that_was_kept_is_said_and_marked(dataset, fit, tmp_path):
    fit.uns["unbatch"]["history"]["fe.batch"] = np.array([1.0, 2.0, 3.0])
    page = made_of(tmp_path, dataset, fit)["losses"]
    assert "(FE)</b>: epoch 2 of 3 kept; weights in the total: Batch: cross-entropy of guesses × 0.25." in page.content
    assert "(RE)</b>: epoch 3 of 3 kept." in page.content
    names = [label["name"] for label in page.plot["pconfig"]["data_labels"]]
    lines = dict(zip(names, page.plot["data"], strict=True))
    assert lines["Total (what is minimised)"] == {
        "FE": [[1, 3.0], [2, 2.0], [3, 1.0]],
        "RE": [[1, 1.0], [2, 0.5], [3, 0.2]],
    }
    # only the model with an adversary has a probe to explain
    assert list(lines["Batch told from validation cells"]) == ["FE"]
    assert "fresh" in page.content
    assert [(mark["label"], mark["value"]) for mark in page.plot["pconfig"]["x_lines"]] == [
        ("FE kept", 2),
        ("RE kept", 3),
    ]


def test_nothing_is_said_of_what_is_not_there(dataset, fit, tmp_path):
    about = fit.uns["unbatch"]
    with_random = [made_of(tmp_path, dataset, fit, evidence=there)["losses"].content for there in (True, False)]
    assert ["Random effects show" in page for page in with_random] == [True, True]
    assert ["Evidence and leakage" in page for page in with_random] == [True, False]
    del about["counterfactual"], about["best_epoch"]["re"]
    made = made_of(tmp_path, dataset, fit)
    assert set(made) == {"losses"}
    assert "Random effects show" not in made["losses"].content
    del about["best_epoch"]
    assert "training" not in report(tmp_path, dataset, fit)


@pytest.fixture
def with_panel(dataset: ad.AnnData, fit: ad.AnnData) -> ad.AnnData:
    """The fit with 3 cells of 9 genes as they are and as if from 4 batches, and tests between groups of batches."""
    rng = np.random.default_rng(0)
    values = rng.normal(2, 1, (3, 9))
    # gene 5 goes up from batch to batch, in the first label alone
    random = np.stack([values + 0.05 * rng.normal(size=(3, 9)) for _ in range(4)])
    random[:, 0, 5] = [0, 3, 1, 2]
    about = fit.uns["unbatch"]
    about["panel"] = {
        "way": "published",
        "cells": np.array(["c1", "c2", "c3"]),
        "labels": np.array(["T", "B", "T"]),
        "own": np.array(["batch1", "new", "b4"]),
        "medoids": 2,
        "genes": np.array([f"g{i}" for i in range(9)]),
        "batches": np.array(["batch1", "b2", "b3", "b4"]),
        "input": values,
        "fixed": values,
        "random": random,
    }
    p = np.array([[0.001, 0.2, np.nan, 0.5], [np.nan] * 4])
    about["groups"] = {
        "way": "published",
        "column": "arm",
        "names": np.array(["control", "case"]),
        "batches": np.array([4, 5]),
        "smallest_p": 0.0159,
        "labels": np.array(["T", "B"]),
        "cells": np.array([1200, 7]),
        "observed_batches": np.array([[4, 5], [1, 5]]),
        **{f"{kind}{name}": p for kind in ("", "rank_", "observed_") for name in ("p", "fdr")},
        **{name: np.array([[-0.5, 0.4, 0.3, 0.2]] * 2) for name in ("difference", "se", "observed_difference")},
    }
    return fit


def test_genes_that_batches_change_are_listed_with_their_extremes(dataset, with_panel, tmp_path):
    page = made_of(tmp_path, dataset, with_panel)[""].content
    first = page.split("<tr>")[2]
    # 1.29 in the cell where it changes, next to nothing in the other one of this label
    listed = [attributes["title"] for _, attributes in Tags(first).found if attributes.get("class") == "ub-cut"]
    assert listed[:4] == ["T", "g5", "b2", "batch1"]
    random = with_panel.uns["unbatch"]["panel"]["random"]
    expected = np.mean([np.std(random[:, cell, 5], ddof=1) for cell in (0, 2)])
    assert f"<b>{expected:.2f}</b>" in first
    assert '<td class="ub-num">2</td>' in first
    (image,) = images(page)
    assert image.startswith("data:image/png")
    # the frame is around the cell's own batch: with another one the picture is another
    with_panel.uns["unbatch"]["panel"]["own"] = np.array(["b2", "new", "b4"])
    assert images(made_of(tmp_path, dataset, with_panel)[""].content) != [image]


def test_tests_between_groups_are_counted_with_the_batches_as_the_unit(dataset, with_panel, tmp_path):
    page = made_of(tmp_path, dataset, with_panel)["groups"].content
    assert "4 + 5 of them, however many cells" in page
    assert "no p-value below 0.016" in page
    first, second = page.split("<tr>")[2:]
    assert first.count('<td class="ub-num">1</td>') == 3
    listed = [attributes["title"] for _, attributes in Tags(first).found if attributes.get("class") == "ub-cut"]
    assert listed == ["T", "up", "down", "still"]
    assert "<b>−0.50</b> <small>(0.001)</small>" in first
    assert "</span> +0.40 <small>(0.2)</small>" in first
    assert "too few batches" in second
    assert "no gene could be tested" in second


def test_random_effects_are_laid_out_next_to_fixed_ones(dataset, fit, tmp_path, monkeypatch):
    laid_out = []

    def layout(values, seed):
        laid_out.append(values)
        return values[:, :2]

    monkeypatch.setattr("unbatch.report.embedding.umap", layout)
    fit.obsm["X_scmedal_fe"] = fit.obsm["X_scmedal"]
    fit.uns["unbatch"] |= {"first": "X_scmedal_fe", "second": "X_scmedal_re"}
    fit.obsm["X_scmedal_re"] = np.random.default_rng(1).normal(size=(dataset.n_obs, 4)).astype(np.float32)
    report(tmp_path, dataset, fit, panels=1)
    made = pages_of(tmp_path / "out")
    titles = {page["section_name"] for name, page in made.items() if "umap" in name}
    assert titles == {"By batch", "By label"} | {f"Fixed and random effects, by {what}" for what in ("batch", "label")}
    assert [values.shape[1] for values in laid_out] == [3, 4]
    page = next(page["data"] for page in made.values() if page["section_name"].endswith("effects, by batch"))
    fixed, random = images(page)
    assert fixed != random
    assert images(next(page["data"] for page in made.values() if page["section_name"] == "By batch")) == [fixed]
    fit.obsm["X_scmedal_re"][0, 0] = np.nan
    fit.write_h5ad(tmp_path / "f.h5ad")
    with pytest.raises(InputError, match="X_scmedal_re is not a matrix of finite numbers"):
        assert FitFile(tmp_path / "f.h5ad").second is None


def test_hostile_names_stay_text(dataset, fit, with_panel, tmp_path):
    bad = "<script>alert(1)</script>\"'$x$"
    about = fit.uns["unbatch"]
    fit.var_names = [f"{bad}{i}" for i in range(4)]
    found = about["counterfactual"]
    found["batches"], found["labels"] = np.array([bad]), np.array([bad, "b"])
    found["way"] = bad
    about["best_epoch"]["<b>"] = 1
    about["history"] |= {f"fe.{bad.replace('/', '')}": np.ones(3), "<b>.total": np.ones(3)}
    panel = with_panel.uns["unbatch"]["panel"]
    panel["labels"], panel["own"], panel["genes"] = np.array([bad] * 3), np.array([bad] * 3), np.array([bad] * 9)
    panel["batches"], panel["way"] = np.array([bad] * 4), bad
    groups = about.pop("groups")
    about["groups"] = groups | {"labels": np.array([bad] * 2), "names": np.array([bad] * 2), "column": bad, "way": bad}
    made = made_of(tmp_path, dataset, fit)
    assert set(made) == {"shifts", "groups", "", "losses"}
    for page in made.values():
        for tag, attributes in Tags(page.content + json.dumps(page.plot)).found:
            assert tag != "script"
            assert not [name for name in attributes if name.startswith("on")]
            assert tag != "img" or attributes["src"].startswith("data:image/")
    # batch, way, label and two genes; each shown and, but for the way, as a title
    assert made["shifts"].content.count("&lt;script&gt;alert(1)") == 9
    assert "<b>&lt;B&gt;</b>" in made["losses"].content


def test_fits_beyond_the_limit_are_counted_not_shown(dataset, fit, tmp_path, monkeypatch):
    monkeypatch.setattr(SECTIONS, "most", 0)
    made = report(tmp_path, dataset, fit)
    assert "training" not in made
    assert "training and counterfactuals are not shown, as they are too many: 1." in made["warnings"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda about: about["best_epoch"].update(fe=4), "best_epoch of fe is 4, expected one of the 3 in history"),
        (lambda about: about["history"].pop("re.total"), "best_epoch of re is 3, expected one of the 0"),
        (lambda about: about["history"].update({"fe.total": np.ones(2)}), "expected numbers"),
        (lambda about: about["counterfactual"].pop("shift_se"), "shift_se is missing; a fit of scmedal"),
        (lambda about: about["counterfactual"].update(shift=np.ones((1, 2, 3))), "expected numbers 1 x 2 x 4"),
        (lambda about: about["counterfactual"].update(shift_se=-np.ones((1, 2, 4))), "must be finite"),
        (lambda about: about["panel"].update(medoids=4), "panel: 3 batches and 4 medoids of 3 cells"),
        (lambda about: about["panel"].update(random=np.ones((3, 3, 9))), "expected numbers 4 x 3 x 9"),
        (lambda about: about["panel"].update(input=np.full((3, 9), np.nan)), "panel: expected finite numbers"),
        (lambda about: about["groups"].pop("rank_p"), "rank_p is missing"),
        (lambda about: about["groups"].update(names=np.array(["a"])), "1 names of groups, expected two"),
    ],
)
def test_a_fit_that_breaks_the_contract_is_refused(with_panel, tmp_path, change, message):
    change(with_panel.uns["unbatch"])
    with_panel.write_h5ad(tmp_path / "f.h5ad")
    with pytest.raises(InputError, match=message):
        read_autoencoders(FitFile(tmp_path / "f.h5ad"))
