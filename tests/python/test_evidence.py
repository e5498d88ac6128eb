"""Probes and predictions against independent computations, and what `score` and `report` make of them."""

import json
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from scipy import stats
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import silhouette_score
from sklearn.neighbors import NearestNeighbors

from unbatch import scoring
from unbatch.cli import fit_baseline, report, score
from unbatch.metrics import evidence, integration, jackknife, prediction, trees

ROOT = Path(__file__).parents[2]
BAD = "<b>donor & co"


def mixed(n: int = 300, shift: float = 0.0) -> dict[str, np.ndarray]:
    """Three labels in two batches, of unlike mix, in four dimensions; the second batch is shifted by `shift`."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, n)
    batch = (rng.random(n) < np.array([0.3, 0.5, 0.8])[label]).astype(int)
    embedding = rng.normal(size=(n, 4)) + 2 * np.eye(3, 4)[label]
    embedding[:, 3] += shift * batch
    return {"embedding": embedding, "label": label, "batch": batch, "fold": np.arange(n) % 5}


def recalls(true: np.ndarray, predicted: np.ndarray) -> float:
    return float(np.mean([(predicted[true == one] == one).mean() for one in np.unique(true)]))


def test_the_batch_probe_is_a_regression_fitted_to_the_other_folds():
    data = mixed(shift=1.0)
    expected = []
    for held_out in range(5):
        train, test = data["fold"] != held_out, data["fold"] == held_out
        mean, sd = data["embedding"][train].mean(0), data["embedding"][train].std(0)
        scaled = (data["embedding"] - mean) / sd
        model = LogisticRegression(max_iter=1000).fit(scaled[train], data["batch"][train])
        expected.append(recalls(data["batch"][test], model.predict(scaled[test])))
    predicted = evidence.logistic_predictions(data["embedding"], data["batch"], data["fold"])
    assert evidence.accuracy(predicted, data["batch"]) == pytest.approx(np.mean(expected))


def test_neighbours_vote_on_the_label():
    data = mixed()
    expected = []
    for held_out in range(5):
        train, test = np.flatnonzero(data["fold"] != held_out), np.flatnonzero(data["fold"] == held_out)
        near = NearestNeighbors(n_neighbors=11).fit(data["embedding"][train]).kneighbors(data["embedding"][test])[1]
        votes = [np.bincount(data["label"][train][row]).argmax() for row in near]
        expected.append(recalls(data["label"][test], np.array(votes)))
    predicted = evidence.neighbour_predictions(data["embedding"], data["label"], data["fold"])
    assert evidence.accuracy(predicted, data["label"]) == pytest.approx(np.mean(expected))


def test_a_probe_within_groups_is_the_mean_of_probes_of_each_alone():
    data = mixed()
    # a label of which one batch has too few cells is not asked about
    few = np.flatnonzero((data["label"] == 0) & (data["batch"] == 1))[9:]
    data = {name: np.delete(values, few, axis=0) for name, values in data.items()}
    expected = []
    for one in (1, 2):
        embedding, batch, fold = (data[name][data["label"] == one] for name in ("embedding", "batch", "fold"))
        expected.append(evidence.accuracy(evidence.logistic_predictions(embedding, batch, fold), batch))
    predicted = evidence.predict_within(data["embedding"], data["batch"], data["label"], data["fold"])
    found = evidence.accuracies_within(predicted, data["batch"], data["fold"], 5)
    assert found[-1] == pytest.approx(np.mean(expected))
    with pytest.raises(ValueError, match="no group has two classes"):
        evidence.predict_within(data["embedding"], data["batch"], data["batch"], data["fold"])


def weighted_widths(embedding: np.ndarray, batch: np.ndarray, label: np.ndarray) -> float:
    """Silhouette width of the batches of each label by scikit-learn, weighted by cells."""
    widths = [silhouette_score(embedding[label == one], batch[label == one]) for one in np.unique(label)]
    return float(np.average(widths, weights=np.bincount(label)))


def test_evidence_without_a_group_is_that_of_the_other_cells():
    data = mixed(shift=0.5)
    embedding, batch, label = data["embedding"], data["batch"], data["label"]
    # group 0 has no cells
    group, groups = 1 + np.random.default_rng(0).integers(0, 5, len(batch)), 6
    within = evidence.silhouette_within(embedding, batch, label, group, groups)
    excess = evidence.silhouette_excess(embedding, batch, label, 3, group, groups, times=1)
    assert excess[0] == pytest.approx(excess[-1], abs=1e-6)
    assert within[-1] == pytest.approx(weighted_widths(embedding, batch, label), abs=1e-6)
    for g in (0, 2):
        kept = group != g
        expected = weighted_widths(embedding[kept], batch[kept], label[kept])
        assert within[g] == pytest.approx(expected, abs=1e-6)
    predicted = evidence.logistic_predictions(embedding, batch, data["fold"])
    *found, value = evidence.accuracies(predicted, batch, group, groups)
    found = np.array(found)
    assert value == pytest.approx(evidence.accuracy(predicted, batch))
    told = [(test[group[test] != g], right[group[test] != g]) for g in range(groups) for test, right in predicted]
    folds = [recalls(batch[test], np.where(right, batch[test], -1)) for test, right in told]
    expected = np.mean(np.reshape(folds, (groups, 5)), axis=1)
    assert found.mean() == pytest.approx(expected.mean())
    # wider, as the classifiers were not fitted anew
    wider = (found - found.mean()) / (expected - expected.mean())
    np.testing.assert_allclose(wider, np.sqrt(1 + 5 / 4), rtol=1e-6)


def test_silhouettes_of_several_codings_are_those_of_scikit_learn():
    data = mixed(shift=0.5)
    lonely = np.where(np.arange(300) == 7, 2, data["batch"])
    codings = [data["batch"], data["label"], lonely]
    found = jackknife.silhouettes(data["embedding"], codings, data["fold"], 5, grouped=2)
    for code, (sums, cells) in zip(codings, found, strict=True):
        assert sums[-1].sum() / cells[-1].sum() == pytest.approx(silhouette_score(data["embedding"], code), abs=1e-6)
    kept = data["fold"] != 3
    expected = silhouette_score(data["embedding"][kept], data["label"][kept])
    assert found[1][0][3].sum() / found[1][1][3].sum() == pytest.approx(expected, abs=1e-6)


def test_batches_are_permuted_within_labels_and_the_null_is_subtracted():
    data = mixed()
    permuted = evidence.permuted_within(data["batch"], data["label"], 3, seed=1)
    for column in permuted.T:
        assert (column != data["batch"]).any()
        np.testing.assert_array_equal(
            pd.crosstab(data["label"], column).to_numpy(), pd.crosstab(data["label"], data["batch"]).to_numpy()
        )
    null = [silhouette_score(data["embedding"], column) for column in permuted.T]
    groups = {"group": data["fold"], "groups": 5}
    found = evidence.silhouette_excess(data["embedding"], data["batch"], data["label"], seed=1, times=3, **groups)[-1]
    assert found == pytest.approx(silhouette_score(data["embedding"], data["batch"]) - np.mean(null), abs=1e-6)
    assert abs(found) < 0.01
    shifted = mixed(shift=3.0)
    found = evidence.silhouette_excess(shifted["embedding"], shifted["batch"], shifted["label"], seed=1, **groups)
    assert found.min() > 0.1


def test_labels_alone_tell_the_batch_as_far_as_their_mix_does():
    data = mixed(3000)
    level = evidence.levels(data["batch"], data["label"], data["fold"], data["fold"], 5)["batch_probe"]
    majority = np.array([np.bincount(data["batch"][data["label"] == one]).argmax() for one in range(3)])
    assert level.chance == 0.5
    assert level.label == pytest.approx(recalls(data["batch"], majority[data["label"]]), abs=0.02)
    assert level.label > 0.6


def test_an_interval_is_that_of_students_t():
    values = [0.5, 0.6, 0.55, 0.7, 0.52]
    expected = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    found = prediction.Interval.of(values)
    assert (found.low, found.high) == pytest.approx(expected)
    assert np.isnan(prediction.Interval.of([0.5, 0.6]).low)


def test_guesses_of_one_split_are_not_those_of_another():
    """Cells that are sorted by class are in the same places of every split."""
    target = np.repeat([0, 1], 40)
    folds = np.tile(np.arange(4), 20)
    splits = [(np.flatnonzero(folds != one), np.flatnonzero(folds == one)) for one in range(4)]
    found = prediction.dummy(target, splits, seed=0).balanced
    assert found.high > found.low
    assert found == prediction.dummy(target, splits, seed=0).balanced


def test_a_prediction_is_a_forest_on_standardised_features():
    data = mixed(shift=1.0)
    question = prediction.Question.of(data["label"], data["batch"], data["fold"])
    found = question.with_embedding(data["embedding"], None, False, seed=3)
    Z = np.eye(2)[data["batch"]]
    for name, features in (
        ("embedding", data["embedding"]),
        ("embedding + batch", np.hstack([data["embedding"], Z])),
    ):
        plain, balanced = [], []
        for held_out in range(5):
            train, test = data["fold"] != held_out, data["fold"] == held_out
            scaled = (features - features[train].mean(0)) / features[train].std(0)
            forest = RandomForestClassifier(100, random_state=3).fit(scaled[train], data["label"][train])
            plain.append((forest.predict(scaled[test]) == data["label"][test]).mean())
            balanced.append(recalls(data["label"][test], forest.predict(scaled[test])))
        assert found["cells"][name].accuracy.mean == pytest.approx(np.mean(plain), abs=0.01)
        assert found["cells"][name].balanced.mean == pytest.approx(np.mean(balanced), abs=0.01)
    assert set(found["batches"]) == {"embedding"}
    # two batches make two splits, which have no interval: NaN equals nothing
    assert repr(found) == repr(question.with_embedding(data["embedding"], None, False, seed=3, threads=2))


@pytest.mark.parametrize(("cells", "columns", "classes"), [(120, 1, 3), (360, 30, 9), (50, 20, 2)])
def test_classes_are_those_of_scikit_learns_forest_with_any_number_of_threads(cells: int, columns: int, classes: int):
    rng = np.random.default_rng(cells)
    # rounded: cells that coincide have leaves of several classes
    features = np.round(rng.normal(size=(cells, columns)), 1).astype(np.float32)
    target = 3 * rng.integers(0, classes, cells) + 1
    features[:, 0] += target
    expected = RandomForestClassifier(100, random_state=5).fit(features[20:], target[20:]).predict(features)
    assert trees._parts() is not None
    for threads in (1, 2):
        found = trees.Forest(100, seed=5, threads=threads).fit_predict(features[20:], target[20:], features)
        np.testing.assert_array_equal(found, expected)


def test_a_forest_of_other_parts_is_scikit_learns_own(monkeypatch: pytest.MonkeyPatch):
    import sklearn.tree._tree

    def other(*_arguments):
        raise TypeError("takes 7 arguments")

    monkeypatch.setattr(sklearn.tree._tree, "DepthFirstTreeBuilder", other)
    assert trees._parts() is None
    rng = np.random.default_rng(0)
    features, target = rng.normal(size=(60, 4)), rng.integers(0, 3, 60)
    expected = RandomForestClassifier(10, random_state=0).fit(features, target).predict(features[:9])
    np.testing.assert_array_equal(trees.Forest(10, seed=0).fit_predict(features, target, features[:9]), expected)


def test_of_many_cells_a_forest_in_bins_predicts_as_well():
    data = mixed(5000)
    splits = evidence.cell_splits(data["fold"], data["label"])[:1]
    # a column with two values keeps both, however rare one is
    rare = (np.arange(5000) % 99 == 0).astype(int)
    features = np.column_stack([data["embedding"], rare])
    found = prediction.forest(features, data["label"], splits, seed=0)
    assert prediction.forest(features[:, 4:], rare, splits, seed=0).balanced.mean == 1
    assert prediction.forest(1 - features[:, 4:], rare, splits, seed=0).balanced.mean == 1
    (train, test), *_ = splits
    whole = RandomForestClassifier(100, random_state=0).fit(features[train], data["label"][train])
    expected = recalls(data["label"][test], whole.predict(features[test]))
    assert found.balanced.mean == pytest.approx(expected, abs=0.02)


def test_a_target_that_the_batch_determines_is_solved_by_it_for_known_batches_only():
    rng = np.random.default_rng(0)
    batch = rng.integers(0, 6, 300)
    donor = batch % 2
    question = prediction.Question.of(donor, batch, np.arange(300) % 5)
    alone = question.without_embedding(seed=0)
    assert prediction.solves(alone["cells"]["batch"])
    assert alone["batches"]["batch"].balanced.mean == pytest.approx(0.5, abs=0.1)
    noise = question.with_embedding(rng.normal(size=(300, 3)), np.eye(6)[batch], True, seed=0)
    assert noise["cells"]["embedding + re"].balanced.mean > 0.98
    assert noise["cells"]["re"].balanced.mean == 1
    assert prediction.explains(alone["cells"]["batch"], noise["cells"]["embedding"], question.splits["cells"])
    assert not prediction.solves(alone["cells"]["dummy"])


@pytest.mark.parametrize("constant", [True, False])
def test_a_held_out_batch_is_on_one_side_only_and_every_batch_is_held_out_once(constant: bool):
    rng = np.random.default_rng(0)
    batch = rng.choice(13, 400, p=np.arange(1, 14) / 91)
    target = batch % 3 if constant else rng.integers(0, 3, 400)
    splits = prediction.batch_splits(batch, target)
    assert len(splits) == (4 if constant else 5)
    for train, test in splits:
        assert not set(batch[train]) & set(batch[test])
        assert set(target[train]) == set(target[test]) == {0, 1, 2}
    np.testing.assert_array_equal(np.sort(np.concatenate([test for _train, test in splits])), np.arange(400))


def test_held_out_batches_need_every_class_on_both_sides():
    batch = np.repeat([0, 1, 2], 20)
    with pytest.raises(ValueError, match="a class of it has one batch only"):
        prediction.batch_splits(batch, (batch == 2).astype(int))
    # a class that the other batches lack is not asked about
    target = np.tile([0, 1], 30)
    target[:5] = 7
    (_train, test), *_others = prediction.batch_splits(batch, target)
    assert not set(range(5)) & set(test.tolist())


def test_folds_targets_and_features_are_those_of_the_cells_that_are_asked(monkeypatch: pytest.MonkeyPatch):
    """A third of the cells has no label, and of the others a part is asked: no position is that of the dataset."""
    rng = np.random.default_rng(0)
    # every clone lies at a point of its own, all of it in one fold
    clone = rng.permutation(np.arange(600) % 30)
    fold, place = np.arange(30) % 5, rng.normal(size=(30, 2))
    batch, side = rng.integers(0, 2, (2, 600))
    obs = pd.DataFrame(
        {"batch": pd.Categorical(batch), "split": fold[clone], "side": side}, index=list(map(str, range(600)))
    )
    obs["label"] = pd.Categorical(np.where(np.arange(600) < 200, None, np.array(["T", "B"])[rng.integers(0, 2, 600)]))
    # in every fold, half of the clones of each kind: what tells it is to have seen the clone
    obs["kind"] = (np.arange(30) // 5 % 2)[clone]
    # the first component follows one gene
    X = np.column_stack([100.0 * rng.random(600), rng.random((600, 5))]).astype(np.float32)
    adata = ad.AnnData(X, obs, pd.DataFrame({"highly_variable": True}, index=list("abcdef")))
    adata.uns["unbatch"] = {}
    embedding = np.column_stack([place[clone], 9.0 * side]) + rng.normal(0, 1e-3, (600, 3))
    effects = np.column_stack([batch, rng.normal(size=600)])
    made = {"method": "m", "seed": 0, "params": {}, "versions": {}, "wall_s": 0, "peak_mb": 0, "device": "cpu"}

    def read(_name: str, cells: np.ndarray, _tissue: None) -> scoring.Fitted:
        return scoring.Fitted(embedding[cells], made, embedding[cells], effects[cells])

    monkeypatch.setattr(scoring, "EVIDENCE_CELLS", 250)
    monkeypatch.setattr(prediction, "TREES", 3)
    scenes = []
    seen = integration.Metric("seen", "other", lambda scene: scenes.append(scene) or 0.0)
    monkeypatch.setattr(integration, "metrics", lambda *_: [seen])
    monkeypatch.setattr(scoring, "nearest_neighbours", lambda _: None)
    options = scoring.Options(targets=["kind", "side", "batch"])
    (row,) = scoring.score(adata, [{"fit": "m"}], read, options)["rows"]

    def told(target: str, features: str) -> float:
        return row["prediction"][target]["cells"][features]["balanced_accuracy"]["mean"]

    (scene,) = scenes
    assert abs(np.corrcoef(scene.reference[:, 0], X[200:, 0])[0, 1]) > 0.99
    np.testing.assert_array_equal(scene.batch, batch[200:])
    np.testing.assert_array_equal(scene.label, obs["label"].cat.codes[200:])
    assert told("side", "embedding") > 0.9
    assert told("batch", "re") > 0.9 > 0.7 > told("batch", "embedding")
    assert told("batch", "embedding + batch") > 0.9
    assert told("kind", "embedding") < 0.75
    assert row["random_effects"]["batch_probe"] > 0.9 > 0.7 > row["metrics"]["batch_probe"]


@pytest.fixture(scope="module")
def data(dataset_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with four batches of two donors, and fits of it: none, and one with random effects."""
    folder = tmp_path_factory.mktemp("evidence")
    dataset = ad.read_h5ad(dataset_path)
    half = np.arange(dataset.n_obs) // 2 % 2
    codes = dataset.obs["batch"].cat.codes.to_numpy() * 2 + half
    dataset.obs["batch"] = pd.Categorical.from_codes(codes, ["a", "b", "c", "d"])
    dataset.obs[BAD] = pd.Categorical.from_codes(codes // 2, ["<i>one", "two"])
    dataset.obs["lone"] = codes == 3
    # few enough labels for each to have ten cells in every batch
    dataset.obs["label"] = pd.Categorical.from_codes(dataset.obs["label"].cat.codes.to_numpy() % 2, ["even", "odd"])
    dataset.write_h5ad(folder / "dataset.h5ad")
    for seed, method in ((0, "none"), (1, "none"), (0, "harmony")):
        out = folder / f"dataset.{method}.default.s{seed}.fit.h5ad"
        arguments = [str(folder / "dataset.h5ad"), "--method", method, "--seed", str(seed), "-o", str(out)]
        result = CliRunner().invoke(fit_baseline.main, arguments)
        assert result.exit_code == 0, result.output
    fit = ad.read_h5ad(out)
    fit.obsm["X_scmedal_fe"] = fit.obsm["X_harmony"]
    fit.uns["unbatch"] |= {"first": "X_scmedal_fe", "second": "X_scmedal_re"}
    fit.obsm["X_scmedal_re"] = np.eye(4, dtype=np.float32)[codes] + 0.01 * fit.obsm["X_harmony"][:, :4]
    fit.write_h5ad(out)
    return folder


def run_score(folder: Path, *options: str, out: str = "scores.json", code: int = 0) -> dict | str:
    fits = sorted(map(str, folder.glob("*.fit.h5ad")))
    arguments = [str(folder / "dataset.h5ad"), *fits, "--threads", "1", *options, "-o", str(folder / out)]
    # ten trees in place of a hundred: what is tested here does not depend on them
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prediction, "TREES", 10)
        result = CliRunner().invoke(score.main, arguments)
    assert result.exit_code == code, result.output
    return json.loads((folder / out).read_text()) if code == 0 else result.stderr


@pytest.fixture(scope="module")
def table(data: Path) -> dict:
    return run_score(data, "--targets", f"{BAD}, lone,{BAD}", "--name", "dataset")


def test_evidence_is_scored_for_every_embedding_and_enters_no_mean(table: dict):
    names = table["metrics"]["evidence"]
    assert len(names) == 6
    for row in table["rows"]:
        assert all(row["metrics"][name] is not None for name in names), row["reasons"]
        assert (row["n_batch"], row["n_bio"]) == (5, 5)
    assert not set(names) & set(table["metrics"]["batch"] + table["metrics"]["bio"] + table["metrics"]["other"])
    scmedal = next(row for row in table["rows"] if row["method"] == "harmony")
    assert scmedal["random_effects"]["batch_probe"] > 0.95 > scmedal["metrics"]["batch_probe"]


def test_score_writes_means_and_probes_without_each_group_of_cells(table: dict):
    groups = table["settings"]["cell_groups"]
    names = {"batch", "bio", "total", *table["metrics"]["evidence"]}
    for row in table["rows"]:
        cells = row["cells"]
        assert set(cells["left_out"]) == set(cells["interval"]) == names
        assert {len(values) for values in cells["left_out"].values()} == {groups}
        for name, (low, high) in cells["interval"].items():
            assert low < row.get(name, row["metrics"].get(name)) < high
            assert abs(np.mean(cells["left_out"][name]) - (low + high) / 2) < (high - low) / 2
        assert cells["clustering_sd"]["total"] == pytest.approx(0.6 * cells["clustering_sd"]["bio"], abs=1e-6)
    assert len(table["evidence"]["levels"]["batch_probe"]["left_out"]) == groups


def test_score_predicts_label_and_targets_once_per_method_and_lends_random_effects(table: dict):
    by_id = {(row["method"], row["seed"]): row for row in table["rows"]}
    assert list(table["evidence"]["targets"]) == ["label", BAD, "lone"]
    assert "prediction" not in by_id["none", 1]
    none, own = by_id["none", 0]["prediction"], by_id["harmony", 0]["prediction"]
    assert set(none["label"]["cells"]) == {"embedding", "embedding + batch", "embedding + re"}
    assert set(own["label"]["cells"]) == {"embedding", "embedding + batch", "embedding + re", "re"}
    assert by_id["none", 0]["random_effects_of"] == by_id["harmony", 0]["id"]
    donor, lone = table["evidence"]["targets"][BAD], table["evidence"]["targets"]["lone"]
    assert donor["solved_by_batch"]
    assert not table["evidence"]["targets"]["label"]["solved_by_batch"]
    assert donor["splits"] == {"cells": 5, "batches": 2}
    assert none[BAD]["batch_explains"]
    assert lone["reasons"] == {
        "batches": "it is the same in all cells of a batch, and a class of it has one batch only"
    }


def test_the_same_seed_gives_the_same_evidence(data: Path, table: dict):
    again = run_score(data, "--targets", f"{BAD},lone", "--name", "dataset", out="again.json")
    assert again == table


def test_seeds_with_one_embedding_are_scored_once_and_each_has_the_scores(
    data: Path, table: dict, monkeypatch: pytest.MonkeyPatch
):
    scored = []
    evaluate = integration.evaluate
    monkeypatch.setattr(integration, "evaluate", lambda scene, wanted: scored.append(1) or evaluate(scene, wanted))
    again = run_score(data, "--no-evidence", out="once.json")
    # harmony, and none of both seeds
    assert len(scored) == 2
    rows = {(row["method"], row["seed"]): row for row in again["rows"]}
    first, second = rows["none", 0], rows["none", 1]
    assert first["id"] != second["id"]
    assert all(first[key] == second[key] for key in ("metrics", "reasons", "total", "cells"))
    assert first["cells"] is not second["cells"]
    assert first["total"] != rows["harmony", 0]["total"]


def test_without_evidence_nothing_of_it_is_computed(data: Path):
    plain = run_score(data, "--no-evidence", "--max-cells", "60", out="plain.json")
    assert plain["evidence"] is None
    assert plain["metrics"]["evidence"] == []
    assert all("prediction" not in row for row in plain["rows"])


@pytest.mark.parametrize(
    ("targets", "message"),
    [("age", "obs/age, a column of --targets, is missing"), ("size_factor", "a column of classes was expected")],
)
def test_a_target_that_can_not_be_predicted_is_refused_in_a_sentence(data: Path, targets: str, message: str):
    said = run_score(data, "--targets", targets, out="refused.json", code=2)
    assert message in said
    assert said.startswith("Error: ")
    assert said.count("\n") == 1
    assert not (data / "refused.json").exists()


def test_the_report_shows_evidence_warns_of_leakage_and_escapes_names(data: Path, table: dict):
    arguments = [
        str(data / "scores.json"),
        "--methods",
        str(ROOT / "assets" / "methods.yml"),
        "-o",
        str(data / "report"),
    ]
    result = CliRunner().invoke(report.main, arguments)
    assert result.exit_code == 0, result.output
    pages = {path.name: json.loads(path.read_text()) for path in (data / "report").glob("*.json")}
    probes = pages["unbatch_evidence_0_probes_page_mqc.json"]["data"]
    assert "Labels alone, no embedding" in probes
    assert "Harmony: random effects" in probes
    targets = [page["data"] for name, page in pages.items() if "_target_" in name]
    assert any("The batch alone predicts" in text and "&lt;b&gt;donor &amp; co" in text for text in targets)
    assert any("not applicable, it is the same in all cells" in text for text in targets)
    assert "The batch alone predicts" in pages["unbatch_warnings_page_mqc.json"]["data"]
    assert not [name for name, page in pages.items() if BAD in json.dumps(page)]
