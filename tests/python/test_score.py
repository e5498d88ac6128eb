"""Scores against independent implementations, and `score` on whole datasets."""

import json
import logging
import shutil
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import scib_metrics as scib
from click.testing import CliRunner
from scipy.optimize import brentq
from scipy.sparse.linalg import eigsh
from scipy.spatial.distance import cdist
from scipy.stats import entropy
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, silhouette_samples

from unbatch.cli import fit_baseline, score
from unbatch.data.sampling import medoids, stratified_sample
from unbatch.metrics import integration, jackknife, separability


def mixed_types(n: int = 240, batch_shift: float = 0.0) -> integration.Scene:
    """Three types in two batches, in six dimensions."""
    rng = np.random.default_rng(1)
    label, batch = np.arange(n) % 3, (np.arange(n) // 3) % 2
    embedding = rng.normal(0, 1, (n, 6))
    embedding[np.arange(n), label] += 6
    reference = embedding + 3 * batch[:, None]
    embedding = (embedding + batch_shift * batch[:, None]).astype(np.float32)
    return integration.Scene(embedding, reference, integration.nearest_neighbours(embedding), batch, label)


def scores(scene: integration.Scene) -> dict[str, float | None]:
    return integration.evaluate(scene, integration.metrics())[0]


def test_neighbours_are_the_nearest_and_the_cell_itself_comes_first():
    embedding = np.random.default_rng(0).normal(size=(80, 4))
    embedding[7] = embedding[3]
    found = integration.nearest_neighbours(embedding, 10)
    distances = cdist(embedding, embedding)
    np.testing.assert_array_equal(found.indices[:, 0], np.arange(80))
    np.testing.assert_allclose(found.distances, np.sort(distances, axis=1)[:, :10], atol=1e-7)


def test_silhouettes_are_those_of_scikit_learn():
    scene = mixed_types(batch_shift=0.5)
    found = scores(scene)
    width = silhouette_samples(scene.embedding.astype(float), scene.label)
    assert found["silhouette_label"] == pytest.approx((width.mean() + 1) / 2, abs=1e-4)
    per_label = [
        np.mean(1 - np.abs(silhouette_samples(scene.embedding[scene.label == c], scene.batch[scene.label == c])))
        for c in range(3)
    ]
    assert found["silhouette_batch"] == pytest.approx(np.mean(per_label), abs=1e-4)


def test_pcr_is_the_share_of_variance_that_the_batch_explains():
    scene = mixed_types(batch_shift=1.0)

    def explained(X: np.ndarray) -> float:
        parts, values, _ = np.linalg.svd(X - X.mean(0), full_matrices=False)
        variances = values**2 / np.sum(values**2)
        groups = [parts[scene.batch == b] for b in (0, 1)]
        between = sum(len(g) * (g.mean(0) - parts.mean(0)) ** 2 for g in groups)
        return float(np.sum(variances * between / ((parts - parts.mean(0)) ** 2).sum(0)))

    before, after = explained(scene.reference), explained(scene.embedding.astype(float))
    assert scores(scene)["pcr"] == pytest.approx((before - after) / before, abs=0.02)


def test_ilisi_is_the_inverse_simpson_index_at_a_perplexity_of_a_third_of_the_neighbours():
    scene = mixed_types(batch_shift=0.7)
    indices = []
    for distances, neighbours in zip(scene.neighbours.distances[:, 1:], scene.neighbours.indices[:, 1:], strict=True):

        def excess_entropy(scale: float, distances: np.ndarray = distances) -> float:
            return entropy(np.exp(-distances * scale)) - np.log(30)

        weights = np.exp(-distances * brentq(excess_entropy, 0, 100))
        share = np.bincount(scene.batch[neighbours], weights / weights.sum(), minlength=2)
        indices.append(1 / (share**2).sum())
    assert scores(scene)["ilisi"] == pytest.approx(np.median(indices) - 1, abs=0.01)


def test_graph_connectivity_is_the_share_of_a_label_in_its_largest_component():
    from scipy.sparse import csgraph, csr_matrix

    scene = mixed_types()
    near = scene.neighbours.indices[:, : integration.GRAPH_NEIGHBOURS]
    graph = csr_matrix((np.ones(near.size), (np.repeat(np.arange(240), near.shape[1]), near.ravel())), (240, 240))
    shares = []
    for c in range(3):
        inside = scene.label == c
        _n, component = csgraph.connected_components(graph[inside][:, inside], connection="strong")
        shares.append(np.bincount(component).max() / inside.sum())
    assert scores(scene)["graph_connectivity"] == pytest.approx(np.mean(shares))


def test_clusters_are_compared_with_labels_as_scikit_learn_does():
    scene = mixed_types()
    found = scores(scene)
    # types six standard deviations apart: any k-means finds them
    guess = scene.embedding[:, :3].argmax(axis=1)
    assert found["nmi"] == pytest.approx(normalized_mutual_info_score(scene.label, guess), abs=0.05)
    assert found["ari"] == pytest.approx(adjusted_rand_score(scene.label, guess), abs=0.05)


def test_kbet_rejects_batches_that_lie_apart_and_accepts_mixed_ones():
    assert scores(mixed_types(batch_shift=4.0))["kbet"] < 0.1
    assert scores(mixed_types())["kbet"] > 0.8


@pytest.mark.parametrize("shift", [0.0, 0.8])
def test_scores_are_those_of_scib_metrics(shift: float, monkeypatch: pytest.MonkeyPatch):
    scene = mixed_types(300, shift)
    # two labels that overlap, one of them in pieces, one label in few batches
    scene.label[scene.label == 2] = 1
    scene.batch[scene.label == 0] = 0
    scene.batch[:30:3] = 1
    near, X, label, batch = scene.neighbours, scene.embedding, scene.label, scene.batch
    monkeypatch.setattr(
        scib.nearest_neighbors, "pynndescent", lambda X, n_neighbors: integration.nearest_neighbours(X, n_neighbors)
    )
    clusters = scib.nmi_ari_cluster_labels_kmeans(X, label)
    expected = {
        "bras": scib.bras(X, label, batch),
        "silhouette_batch": scib.silhouette_batch(X, label, batch),
        "ilisi": scib.ilisi_knn(near, batch),
        "kbet": scib.kbet_per_label(near.subset_neighbors(50), batch, label),
        "graph_connectivity": scib.graph_connectivity(near.subset_neighbors(15), label),
        "pcr": max(0, scib.pcr_comparison(scene.reference, X, batch, categorical=True)),
        "isolated_labels": scib.isolated_labels(X, label, batch),
        "nmi": clusters["nmi"],
        "ari": clusters["ari"],
        "silhouette_label": scib.silhouette_label(X, label),
        "clisi": scib.clisi_knn(near, label),
    }
    found = scores(scene)
    for name, value in expected.items():
        # kBET counts cells
        assert found[name] == pytest.approx(value, abs=2e-3 if name == "kbet" else 2e-5), name
    everything = integration.metrics(labelled=False)
    assert integration.evaluate(scene, everything)[0]["kbet_all"] == pytest.approx(
        scib.kbet(near.subset_neighbors(50), batch)[0], abs=1e-6
    )


def test_kbet_of_the_same_embedding_is_the_same(monkeypatch: pytest.MonkeyPatch):
    starts = []

    def noted(*arguments: object, rng: object = None, **keywords: object) -> object:
        starts.append(rng)
        return eigsh(*arguments, rng=rng, **keywords)

    monkeypatch.setattr(integration, "eigsh", noted)
    scene = mixed_types()
    integration.diffusion_neighbours(scene.nearest(50), scene.batch, scene.label)
    assert starts == [0, 0, 0]


def test_cells_that_coincide_are_at_no_distance():
    rng = np.random.default_rng(0)
    label = np.repeat([0, 1], 50)
    embedding = (1e3 + 10 * label[:, None] + np.zeros((100, 8)) + rng.normal(0, 1, 8)).astype(np.float32)
    sums, cells = jackknife.silhouettes(embedding, [label], np.zeros(100, dtype=int), 1)[0]
    np.testing.assert_array_equal(sums[-1], cells[-1])


def test_the_library_of_scores_has_no_log_of_its_own(caplog: pytest.LogCaptureFixture):
    assert not logging.getLogger("scib_metrics").handlers
    logging.getLogger("scib_metrics.metrics").warning("said")
    assert "said" in caplog.text


def test_separability_is_that_of_its_definitions():
    scene = mixed_types(90)
    found = {name: score(scene.embedding, scene.label) for name, score in separability.SCORES.items()}
    centres = np.array([scene.embedding[scene.label == c].mean(0) for c in range(3)])
    spread = np.array([cdist(scene.embedding[scene.label == c], centres[[c]]).mean() for c in range(3)])
    ratio = (spread[:, None] + spread) / (cdist(centres, centres) + np.diag([np.inf] * 3))
    assert found["inv_db"] == pytest.approx(1 / ratio.max(axis=1).mean(), rel=1e-4)
    between = sum(30 * ((c - scene.embedding.mean(0)) ** 2).sum() for c in centres)
    within = sum(((scene.embedding[scene.label == c] - centres[c]) ** 2).sum() for c in range(3))
    assert found["ch"] == pytest.approx((between / 2) / (within / (90 - 3)), rel=1e-4)
    widths = scores(scene)
    for name, code in (("asw_label", scene.label), ("asw_batch", scene.batch)):
        assert widths[name] == pytest.approx(silhouette_samples(scene.embedding, code).mean(), abs=1e-6)


def test_a_score_that_fails_is_none_with_its_reason_and_enters_no_mean():
    def broken(_scene: integration.Scene) -> float:
        raise ValueError("cannot be done")

    found, reasons = integration.evaluate(mixed_types(), [integration.Metric("broken", "bio", broken)])
    assert found == {"broken": None}
    assert reasons == {"broken": "cannot be done"}
    assert integration.mean({"broken": None, "nmi": 0.5}, ["broken", "nmi"]) == (0.5, 1)
    assert integration.total(0.5, None) is None
    assert integration.total(0.5, 1.0) == pytest.approx(0.8)


def test_a_stratified_sample_keeps_shares_and_loses_no_stratum():
    strata = np.repeat([0, 1, 2], [700, 295, 5])
    sample = stratified_sample(strata, 100, seed=4)
    np.testing.assert_array_equal(np.bincount(strata[sample]), [70, 29, 1])
    np.testing.assert_array_equal(sample, stratified_sample(strata, 100, seed=4))
    assert not np.array_equal(sample, stratified_sample(strata, 100, seed=5))
    np.testing.assert_array_equal(stratified_sample(strata, 5000, seed=0), np.arange(1000))
    lonely = np.repeat([0, 1, 2, 3], [1, 33, 33, 33])
    np.testing.assert_array_equal(np.bincount(lonely[stratified_sample(lonely, 95, seed=0)])[0], 1)


def test_a_medoid_is_the_cell_of_its_group_that_is_nearest_to_the_mean():
    embedding = np.array([[0.0, 0], [9, 9], [1, 0], [2.5, 0], [5, 5], [5, 7]])
    assert medoids(embedding, np.array([2, -1, 2, 2, 0, 0])).tolist() == [2, 4]
    assert medoids(embedding, np.array([2, 0, 2, 2, -1, -1])).tolist() == [2, 1]


@pytest.fixture(scope="module")
def fits(dataset_path: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("fits")
    paths = []
    for method in ("none", "shuffled"):
        paths.append(folder / f"{method}.fit.h5ad")
        done = CliRunner().invoke(fit_baseline.main, [str(dataset_path), "--method", method, "-o", str(paths[-1])])
        assert done.exit_code == 0, done.output
    return paths


def run_score(*arguments: object) -> dict:
    out = Path(str(arguments[-1]))
    result = CliRunner().invoke(score.main, [*map(str, arguments[:-1]), "-o", str(out)])
    assert result.exit_code == 0, result.output
    return json.loads(out.read_text())


def test_score_writes_a_row_per_planned_fit_failed_ones_included(dataset_path: Path, fits: list[Path], tmp_path: Path):
    planned = [
        {"id": "d.none", "method": "none", "params_id": "default", "seed": 0, "code": "abc", "status": "ok",
         "exit_code": 0, "message": None, "attempts": 1, "fit": "none.fit.h5ad"},
        {"id": "d.bad", "method": "harmony", "params_id": "default", "seed": 0, "code": "abc", "status": "failed",
         "exit_code": 1, "message": "it broke", "attempts": 3, "fit": None},
    ]  # fmt: skip
    outcomes = tmp_path / "outcomes.json"
    outcomes.write_text(json.dumps(planned))
    table = run_score(dataset_path, fits[0], "--outcomes", outcomes, "--name", "d", tmp_path / "scores.json")
    good, bad = table["rows"]
    assert (bad["status"], bad["message"], bad["attempts"], bad["total"]) == ("failed", "it broke", 3, None)
    assert good["n_batch"] == len(table["metrics"]["batch"]) == 5
    assert good["n_bio"] == len(table["metrics"]["bio"]) == 5
    assert good["total"] == pytest.approx(0.4 * good["batch"] + 0.6 * good["bio"])
    assert good["code"] == "abc"
    assert good["wall_s"] > 0
    assert {"asw_batch", "ch_label", "inv_db_batch", "silhouette_batch"} <= set(good["metrics"])


def test_score_ranks_data_above_noise_and_repeats_itself(dataset_path: Path, fits: list[Path], tmp_path: Path):
    first = run_score(dataset_path, *fits, "--max-cells", 120, tmp_path / "a.json")
    second = run_score(dataset_path, *fits, "--max-cells", 120, tmp_path / "b.json")
    assert first == second
    assert first["dataset"]["subsampled"]
    assert abs(first["dataset"]["scored_cells"] - 120) <= 18
    by_method = {row["method"]: row for row in first["rows"]}
    assert by_method["none"]["bio"] > by_method["shuffled"]["bio"]
    # whole sections, as many as the limit holds; domains are in a block of their own, which enters no mean
    ((name, about),) = first["space"]["sections"].items()
    assert (about["cells"], about["scored_cells"], len(first["space"]["left_out"])) == (100, 100, 1)
    none, shuffled = (by_method[method]["space"][name] for method in ("none", "shuffled"))
    for rule in ("kmeans", "kmeans_voted", "mixture", "mixture_voted"):
        assert none[rule].keys() == {"nmi", "ari", "pas", "chaos"}
        assert none[rule]["nmi"] > shuffled[rule]["nmi"]
    assert not {"kept", "pas", "chaos"} & by_method["none"]["metrics"].keys()


def test_score_works_without_labels_and_says_what_is_missing(dataset_path: Path, fits: list[Path], tmp_path: Path):
    dataset = ad.read_h5ad(dataset_path)
    del dataset.obs["label"]
    dataset.write_h5ad(tmp_path / "plain.h5ad")
    table = run_score(tmp_path / "plain.h5ad", fits[0], tmp_path / "scores.json")
    assert table["metrics"]["batch"] == ["ilisi", "kbet_all", "pcr"]
    assert table["metrics"]["bio"] == []
    assert table["metrics"]["missing"]["nmi"] == "obs/label is missing"
    row = table["rows"][0]
    assert (row["n_batch"], row["bio"], row["total"]) == (3, None, None)
    assert [each["clusters"] for each in table["space"]["sections"].values()] == [0, 0]
    assert all(each.keys() == {"kept"} for each in row["space"].values())


def test_one_batch_is_scored_for_biology_only(dataset_path: Path, tmp_path: Path):
    dataset = ad.read_h5ad(dataset_path)
    dataset = dataset[dataset.obs["batch"] == "batch1"].copy()
    dataset.write_h5ad(tmp_path / "one.h5ad")
    arguments = [str(tmp_path / "one.h5ad"), "--method", "none", "-o", str(tmp_path / "none.fit.h5ad")]
    assert CliRunner().invoke(fit_baseline.main, arguments).exit_code == 0
    table = run_score(tmp_path / "one.h5ad", tmp_path / "none.fit.h5ad", tmp_path / "scores.json")
    assert table["metrics"]["batch"] == []
    assert table["metrics"]["bio"] == ["nmi", "ari", "silhouette_label", "clisi"]
    assert table["metrics"]["missing"]["graph_connectivity"] == "obs/batch holds one batch"
    row = table["rows"][0]
    assert (row["batch"], row["n_bio"], row["total"], row["reasons"]) == (None, 4, None, {})
    assert set(table["evidence"]["levels"]) == {"label_probe_within", "label_knn"}


def test_fits_of_one_method_and_seed_have_rows_of_their_own(dataset_path: Path, fits: list[Path], tmp_path: Path):
    shutil.copy(fits[0], tmp_path / "other.fit.h5ad")
    arguments = [dataset_path, *fits, tmp_path / "other.fit.h5ad", "--no-evidence", "--max-cells", 120]
    table = run_score(*arguments, tmp_path / "scores.json")
    assert [(row["id"], row["params_id"]) for row in table["rows"]] == [
        ("dataset.none.none.s0", "none"),
        ("dataset.shuffled.s0", "default"),
        ("dataset.none.other.s0", "other"),
    ]
    assert table["space"] is None
    assert "space" not in table["rows"][0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda fit: fit[::-1].copy(), "the same cells in another order"),
        (lambda fit: fit[:50].copy(), "50 other cells"),
    ],
)
def test_score_refuses_a_fit_of_other_cells(
    dataset_path: Path, fits: list[Path], tmp_path: Path, change: object, message: str
):
    change(ad.read_h5ad(fits[0])).write_h5ad(tmp_path / "odd.fit.h5ad")
    arguments = [str(dataset_path), str(tmp_path / "odd.fit.h5ad"), "-o", str(tmp_path / "scores.json")]
    result = CliRunner().invoke(score.main, arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "scores.json").exists()
