"""Null calibration: halves of one batch, what is lost between them, and what the program and the report make of it."""

import json
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from click.testing import CliRunner
from scipy.stats import norm
from sklearn.neighbors import NearestNeighbors
from test_report import content, row, run

from unbatch.calibration import COMPARED, Code, codes
from unbatch.cli import calibrate, fit_baseline, halve
from unbatch.data import halves, io
from unbatch.metrics import calibration, uncertainty

CELLS = 400


@pytest.fixture(scope="module")
def cells() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An embedding of two kinds of cells, their kinds, and groups of cells."""
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 2, CELLS)
    embedding = rng.normal(size=(CELLS, 5)) + 4 * kind[:, None]
    return embedding, kind, uncertainty.deal(kind, 0)


def near(embedding: np.ndarray) -> np.ndarray:
    return NearestNeighbors(n_neighbors=calibration.NEIGHBOURS + 1).fit(embedding).kneighbors(embedding)[1][:, 1:]


# ------------------------------------------------------------------------------------------------------------ halves


def test_random_halves_are_equal_and_differ_between_splits():
    found = halves.splits(np.zeros(101, dtype=int), 3)
    assert sorted(found) == sorted(halves.SPLITS)
    assert abs(int(found["random"].sum()) - int(found["again"].sum())) == 0
    assert found["random"].sum() == 50
    assert 30 < (found["random"] != found["again"]).sum() < 70
    assert all((found[split] == half).all() for split, half in halves.splits(np.zeros(101, dtype=int), 3).items())


def test_unlike_halves_have_the_shares_asked_for_of_every_kind_and_similar_sizes():
    kind = np.repeat([0, 1, 2, 3, -1], [200, 100, 60, 40, 20])
    half = halves.unlike_halves(kind, 0)
    shares = [half[kind == code].mean() for code in range(4)]
    np.testing.assert_allclose(shares, [0.15, 0.85, 0.85, 0.85])
    # the largest is in one half, the three others, as many together, in the other
    assert abs(half.mean() - 0.5) < 0.02
    assert 0 < half[kind == -1].sum() < 20


# ------------------------------------------------------------------------------------------------------ displacement


def test_lost_neighbours_are_those_of_sets(cells):
    embedding, *_ = cells
    one, other = near(embedding), near(embedding[:, :3])
    expected = [1 - len(set(a) & set(b)) / len(a) for a, b in zip(one.tolist(), other.tolist(), strict=True)]
    np.testing.assert_allclose(calibration.lost(one, other), expected)
    assert calibration.lost(one, one[:, ::-1]).max() == 0


def test_intervals_over_cells_leave_each_group_out(cells):
    group = cells[2]
    values = np.random.default_rng(1).random((2, CELLS))
    values[:, :7] = np.nan
    found = calibration.over_cells(values, group)
    np.testing.assert_allclose(found.values, np.nanmean(values, axis=1))
    expected = [[np.nanmean(each[group != g]) for g in range(group.max() + 1)] for each in values]
    np.testing.assert_allclose(found.replicates, expected)


def test_what_does_nothing_displaces_nothing_and_a_shift_of_one_half_much(cells):
    embedding, _, group = cells
    half = halves.random_halves(CELLS, 0)
    rng = np.random.default_rng(2)

    def seeded(values: np.ndarray) -> list[np.ndarray]:
        return [near(values + rng.normal(scale=0.05, size=values.shape)) for _ in range(3)]

    nothing = calibration.displacement([near(embedding)] * 2, [near(embedding)] * 2, group)
    assert (nothing.lost.mean, nothing.noise.mean, nothing.excess.mean, nothing.beyond) == (0, 0, 0, False)
    noisy = calibration.displacement(seeded(embedding), seeded(embedding), group)
    assert noisy.noise.mean > 0.05
    assert noisy.excess.low < 0 < noisy.excess.high
    assert not noisy.beyond
    shifted = calibration.displacement(seeded(embedding + 10 * half[:, None]), seeded(embedding), group)
    # half of all neighbours are in the other half
    assert 0.45 < shifted.lost.mean < 0.6
    assert shifted.beyond
    assert calibration.displacement([near(embedding)], [near(embedding)], group).beyond is None


# ------------------------------------------------------------------------------------------------------------- genes


@pytest.fixture(scope="module")
def expression(cells) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values of 300 genes, half of which one kind of cells has more of, in halves of unlike composition."""
    kind = cells[1]
    values = np.random.default_rng(3).gamma(2, 0.3, (CELLS, 300))
    values[:, :150] += kind[:, None]
    return values, halves.unlike_halves(kind, 0), kind


def test_planted_genes_are_called_and_composition_is_not(expression):
    values, half, kind = expression
    assert calibration.called(calibration.between_halves(values, half, np.zeros_like(kind))) > 0.45
    assert calibration.called(calibration.between_halves(values, half, kind)) == 0
    planted = values.copy()
    planted[:, :30] += 0.5 * half[:, None]
    p = calibration.between_halves(planted, half, kind)
    assert 0.1 <= calibration.called(p) < 0.125
    assert calibration.called(p[:30]) == 1


def test_p_values_of_genes_without_a_difference_are_uniform(expression):
    values, _, kind = expression
    found = [calibration.between_halves(values, halves.unlike_halves(kind, seed), kind) for seed in range(20)]
    p = np.concatenate(found)
    np.testing.assert_allclose([(p < level).mean() for level in (0.05, 0.2, 0.5)], [0.05, 0.2, 0.5], atol=0.02)


def test_p_values_are_those_of_the_correlation_and_constants_have_none(expression):
    values, half, _ = expression
    values = values.copy()
    values[:, 0] = 0.1
    p = calibration.between_halves(values, half, np.zeros(CELLS, dtype=int))
    assert np.isnan(p[0])
    correlation = [np.corrcoef(gene, half)[0, 1] for gene in values[:, 1:].T]
    np.testing.assert_allclose(p[1:], 2 * norm.sf(np.sqrt(CELLS - 1) * np.abs(correlation)))
    assert np.isnan(calibration.called(p[:1]))


def test_factors_are_off_one_by_their_intervals():
    factor, error = np.exp([[0.0, 0.1, 0.1, -0.3]]), np.array([[0.0, 0.04, 0.06, 0.1]])
    assert calibration.excluding_one(factor, error) == 0.5


# ---------------------------------------------------------------------------------------------------------- programs


def invoke(command, *arguments):
    return CliRunner().invoke(command, [str(each) for each in arguments])


@pytest.fixture(scope="module")
def split(dataset_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Splits of a batch, with fits of ComBat and, called Harmony, of components of which one half is shifted."""
    folder = tmp_path_factory.mktemp("split")
    done = invoke(halve.main, dataset_path, "--batch", "batch2", "--max-cells", 90, "--quiet", "-o", folder)
    assert done.exit_code == 0, done.output
    (folder / "params.yml").write_text("corrected: true")
    for name in halves.SPLITS:
        data = folder / f"dataset.null.{name}.h5ad"
        for seed in (0, 1):
            fit = folder / f"dataset.null.{name}.combat.s{seed}.fit.h5ad"
            options = ["--method", "combat", "--params", folder / "params.yml", "--seed", seed, "--quiet", "-o", fit]
            done = invoke(fit_baseline.main, data, *options)
            assert done.exit_code == 0, done.output
            made = ad.read_h5ad(fit)
            half = ad.read_h5ad(data).obs["batch"].cat.codes.to_numpy()
            made.obsm["X_harmony"] = made.obsm.pop("X_combat") + 20 * half[:, None].astype(np.float32)
            # a constant for every gene that one half alone has
            layer = made.layers.pop("corrected_log")
            made.layers["corrected"] = np.expm1(np.maximum(layer, 0)) + 5 * half[:, None].astype(np.float32)
            made.uns["unbatch"]["method"] = "harmony"
            made.write_h5ad(folder / f"dataset.null.{name}.harmony.s{seed}.fit.h5ad")
    return folder


def calibrated(folder: Path, *fits: Path, out: Path, **options: object):
    datasets = [argument for name in halves.SPLITS for argument in ("--dataset", folder / f"dataset.null.{name}.h5ad")]
    more = [argument for name, value in options.items() for argument in (f"--{name}", value)]
    return invoke(calibrate.main, *fits, *datasets, *more, "--quiet", "-o", out)


def test_splits_are_of_the_same_cells_and_genes_and_differ_in_the_batch_alone(split: Path, dataset_path: Path):
    data = {name: ad.read_h5ad(split / f"dataset.null.{name}.h5ad") for name in halves.SPLITS}
    whole = ad.read_h5ad(dataset_path)
    first = data["again"]
    assert first.n_obs == 90
    assert set(whole[first.obs_names].obs["batch"]) == {"batch2"}
    for name, each in data.items():
        assert each.obs_names.equals(first.obs_names)
        assert each.obs["batch"].cat.categories.tolist() == ["half 1", "half 2"]
        assert each.uns["unbatch"]["halves"]["split"] == name
        assert (each.X != first.X).nnz == 0
    assert not data["random"].obs["batch"].equals(first.obs["batch"])
    assert first.uns["unbatch"]["halves"]["kinds"] == "labels"


def test_without_labels_kinds_are_clusters(split: Path):
    data = ad.read_h5ad(split / "dataset.null.again.h5ad")
    del data.obs["label"]
    code, names, made_of = halves.kinds(data, 0)
    assert (made_of, len(names), set(code.tolist())) == ("clusters", halves.CLUSTERS, set(range(halves.CLUSTERS)))


def test_the_program_tells_what_shifts_a_half_from_what_hardly_changes_it(split: Path, tmp_path: Path):
    done = calibrated(split, *split.glob("*.fit.h5ad"), out=tmp_path / "c.json", name="toy")
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "c.json").read_text())
    assert (found["dataset"]["name"], found["dataset"]["batch"], found["dataset"]["cells"]) == ("toy", "batch2", 90)
    assert sum(sum(sizes) for sizes in found["dataset"]["composition"].values()) <= 90
    combat, shifted = (next(row for row in found["rows"] if row["method"] == name) for name in ("combat", "harmony"))
    # the reference shifts a half, too: of a cell's neighbours a half at most stays
    assert min(shifted["splits"][name]["lost"]["mean"] for name in COMPARED) > 0.45
    assert {Code.DISPLACED_RANDOM, Code.DISPLACED_UNLIKE, Code.GENES_RANDOM, Code.GENES_UNLIKE} <= set(shifted["codes"])
    assert shifted["genes"]["random"]["called"] == 1
    assert shifted["genes"]["random"]["uncorrected"] < 0.05
    assert combat["splits"]["random"]["noise"]["mean"] == 0
    assert 0 < combat["splits"]["random"]["lost"]["mean"] < 0.4
    assert combat["genes"]["slot"] == "layers/corrected_log"
    assert combat["genes"]["random"]["called"] < 0.05
    assert not {Code.GENES_RANDOM, Code.GENES_UNLIKE} & set(combat["codes"])
    assert combat["seeds"] == [0, 1]


def test_a_planned_fit_that_failed_is_a_row(split: Path, tmp_path: Path):
    fit = split / "dataset.null.again.combat.s0.fit.h5ad"
    failed = {"method": "scvi", "seed": 0, "status": "failed", "message": "lost", "fit": None}
    one = {"dataset": "dataset.null.again", "method": "combat", "seed": 0, "status": "ok", "fit": fit.name}
    outcomes = [one, *({"dataset": f"dataset.null.{name}"} | failed for name in halves.SPLITS)]
    (tmp_path / "outcomes.json").write_text(json.dumps(outcomes))
    done = calibrated(split, fit, out=tmp_path / "c.json", outcomes=tmp_path / "outcomes.json")
    assert done.exit_code == 0, done.output
    rows = json.loads((tmp_path / "c.json").read_text())["rows"]
    # one split of three has a fit of ComBat
    assert [(row["method"], row["status"], row["codes"]) for row in rows] == [
        ("combat", "failed", []),
        ("scvi", "failed", []),
    ]
    assert rows[1]["message"] == "lost"


def test_wrong_files_end_with_a_sentence(split: Path, dataset_path: Path, tmp_path: Path):
    fit = split / "dataset.null.again.combat.s0.fit.h5ad"
    out = tmp_path / "c.json"
    cases = {
        "no batch 'batch9'": invoke(halve.main, dataset_path, "--batch", "batch9", "-o", tmp_path),
        "a dataset that `halve` wrote": invoke(calibrate.main, fit, "--dataset", dataset_path, "-o", out),
        "random and unlike": invoke(calibrate.main, fit, "--dataset", split / "dataset.null.again.h5ad", "-o", out),
        "no fit was given": calibrated(split, out=out),
    }
    for message, done in cases.items():
        assert (done.exit_code, message in done.output) == (2, True), done.output
    assert not list(tmp_path.iterdir())


def test_a_batch_that_is_too_small_is_not_split(dataset_path: Path):
    data = io.read_h5ad(dataset_path)[:50]
    with pytest.raises(halves.InputError, match="50 cells"):
        halves.choose_batch(data.obs["batch"], None, "data.h5ad")


# ------------------------------------------------------------------------------------------------------------ report


def interval(mean: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - 0.01, "high": mean + 0.01}


def line(method: str, lost: float, noise: float, called: float | None = None, kept: float = 0.0) -> dict:
    change = {"lost": interval(lost), "noise": interval(noise), "excess": interval(lost - noise)}
    genes = None if called is None else {"called": called, "uncorrected": 0.0}
    found = {
        "method": method,
        "params_id": "default",
        "status": "ok",
        "message": None,
        "seeds": [0, 1],
        "splits": dict.fromkeys(COMPARED, change | {"beyond": lost - noise - 0.01 > 0.02}),
        "mixing": {"before": 0.5, "after": 0.7, "change": interval(0.2)},
        "own_kind": {"before": 0.8, "after": 0.8 + kept, "change": interval(kept)},
        "genes": genes and {"slot": "layers/corrected", "tested": 50, "random": genes, "unlike": genes},
        "factors": None,
    }
    return found | {"codes": [str(code) for code in codes(found)]}


def test_codes_follow_their_rules():
    assert codes(line("harmony", 0.3, 0.29)) == []
    assert codes(line("harmony", 0.3, 0.1, called=0.01)) == [Code.DISPLACED_RANDOM, Code.DISPLACED_UNLIKE]
    assert codes(line("harmony", 0.1, 0.1, called=0.5)) == [Code.GENES_RANDOM, Code.GENES_UNLIKE]
    assert codes(line("harmony", 0.1, 0.1, kept=-0.02)) == []
    assert codes(line("harmony", 0.1, 0.1, kept=-0.05)) == [Code.MIXED]


def test_the_section_names_methods_that_change_data_without_cause(tmp_path: Path):
    hostile = "<script>alert(1)</script>"
    lines = [line("combat", 0.4, 0.0, called=0.25, kept=-0.2), line("scvi", 0.5, 0.5), line("shuffled", 0.9, 0.0)]
    lost = {"method": "liger", "params_id": "default", "status": "failed", "message": hostile, "seeds": [], "codes": []}
    about = {"name": "toy", "batch": hostile, "cells": 90, "cells_of_batch": 120, "genes": 50, "kinds": "labels"}
    settings = {"neighbours": 15, "share": 0.85, "fdr": 0.05, "least_excess": 0.02, "most_called": 0.01}
    made = {
        "schema": 1,
        "dataset": about | {"halves": {name: [45, 45] for name in halves.SPLITS}},
        "settings": settings,
        "rows": [*lines, lost],
    }
    (tmp_path / "toy.calibration.json").write_text(json.dumps(made))
    (tmp_path / "scores.json").write_text(json.dumps(content([row("combat"), row("scvi")])))
    options = ["--calibration", tmp_path / "toy.calibration.json", "-o", tmp_path / "out"]
    done = run(tmp_path / "scores.json", *options)
    assert done.exit_code == 0, done.output
    page = json.loads((tmp_path / "out" / "unbatch_calibration_0_page_mqc.json").read_text())["data"]
    assert "<script>" not in page
    said = page.split("How to read it")[0]
    # of random and unlike displacement, mixing, and genes of both splits; nothing of the control and of chance
    assert said.count("<li>") == 5
    assert said.count("ComBat (40%)") == 2
    assert said.count("ComBat (25%)") == 2
    assert "scVI" not in said
    assert "Shuffled" not in said
    table = page.split("<table")[1].split("</table>")[0]
    assert [name in table for name in ("ComBat", "scVI", "Shuffled", "LIGER")] == [True, True, True, False]
    assert table.index("ComBat") < table.index("scVI") < table.index("Shuffled")
    assert "LIGER" in page


def test_a_calibration_of_another_dataset_is_refused(tmp_path: Path):
    (tmp_path / "scores.json").write_text(json.dumps(content([row("combat")])))
    (tmp_path / "c.json").write_text(json.dumps({"schema": 1, "dataset": {"name": "b"}, "settings": {}, "rows": []}))
    done = run(tmp_path / "scores.json", "--calibration", tmp_path / "c.json", "-o", tmp_path / "out")
    assert (done.exit_code, "'b'" in done.output) == (2, True)
    assert not (tmp_path / "out").exists()
