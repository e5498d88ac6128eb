"""Methods: the cards, what each declares and returns, and `fit-baseline`."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from scipy import sparse

from unbatch import contract, methods
from unbatch.cli import fit as fits_programs
from unbatch.cli import fit_baseline, score
from unbatch.contract import Fit, Run
from unbatch.data import io, schema
from unbatch.data.cells import Cells, principal_components
from unbatch.errors import InputError, NotApplicable
from unbatch.metrics.paths import nearest_by_path
from unbatch.nn import penalties

ROOT = Path(__file__).parents[2]
CARDS = yaml.safe_load((ROOT / "assets" / "methods.yml").read_text(encoding="utf-8"))
BASELINES = [name for name, card in CARDS.items() if card["program"] == "fit-baseline"]


SHORT = {
    "scvi": {"max_epochs": 2},
    "scanvi": {"max_epochs": 2},
    "liger": {"factors": 4},
    "saucie": {"steps": 20},
    "staligner": {"epochs": 6, "alone": 3, "refresh": 2, "hidden": 16, "latent": 4},
    "stagate": {"epochs": 6, "hidden": 16, "latent": 4},
    "resolvi": {"epochs": 2},
    # cells are at random places here: means over neighbours would hold nothing
    "smoothed_pca": {"rings": 0},
}
"""Parameters that make a fit short enough for a test."""


def fitted(method: str, cells: Cells, seed: int = 0, **params: object) -> Fit:
    """A fit by the method, or a skipped test where its extra is not installed."""
    found = methods.load(method)
    try:
        return found.fit(cells, contract.checked(method, found.params, params), Run(seed))
    except NotApplicable as error:
        if "not installed" in str(error):
            pytest.skip(str(error))
        raise


def shifted_batches(n: int = 120, genes: int = 40, shift: float = 0.5) -> tuple[Cells, np.ndarray]:
    """Two cell types in two batches; the second batch has `shift` added to a third of its genes."""
    rng = np.random.default_rng(0)
    label, batch = np.arange(n) % 2, (np.arange(n) // 2) % 2
    X = rng.gamma(2.0, 0.2, (n, genes))
    X[label == 1, : genes // 4] += 2.0
    X[batch == 1, -genes // 3 :] += shift
    X = sparse.csr_matrix(X.astype(np.float32))
    names = [f"gene{i}" for i in range(genes)]
    return Cells(X=X, counts=X, genes=names, batch=batch.astype(np.int64)), label


def between_over_within(embedding: np.ndarray, groups: np.ndarray) -> float:
    """Squared distance between the means of two groups over the mean variance within them."""
    means = [embedding[groups == g].mean(0) for g in (0, 1)]
    within = np.mean([embedding[groups == g].var(0).sum() for g in (0, 1)])
    return float(((means[0] - means[1]) ** 2).sum() / within)


def fit_of(method: str) -> tuple[np.ndarray, np.ndarray, bool]:
    """A short fit of whole counts with labels and places: embedding or graph, labels, and whether it is a graph."""
    cells, label = shifted_batches()
    counts = sparse.csr_matrix(np.rint(3 * cells.counts.toarray()))
    places = np.random.default_rng(1).random((len(label), 2))
    cells = cells.but(counts=counts, label=label.astype(np.int64), coordinates=places)
    found = fitted(method, cells, 3, **SHORT.get(method, {}))
    graph = found.embedding is None
    return found.graph.toarray() if graph else found.embedding, label, graph


def test_every_card_has_its_file_and_every_file_its_card():
    assert sorted(CARDS) == methods.names()
    for name, card in CARDS.items():
        assert card["program"] == methods.load(name).program, name
        assert card["extra"] == methods.load(name).extra, name
        assert (ROOT / "bin" / card["program"]).stat().st_mode & 0o100, name


@pytest.mark.parametrize("method", CARDS)
def test_a_card_has_a_row_in_the_documentation_a_citation_and_a_test(method: str):
    """Nothing is a method here that nobody can look up, cite, or trust."""
    assert f"| `{method}` |" in (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    assert CARDS[method]["label"] in (ROOT / "README.md").read_text(encoding="utf-8")
    cited = (ROOT / "CITATIONS.md").read_text(encoding="utf-8")
    assert CARDS[method]["citation"] in cited
    own = {"batchblend": "test_fit_batchblend", "popari": "test_fit_batchblend", "scmedal": "test_fit_scmedal"}
    own |= {"spavae": "test_spavae_program", "dpvae": "test_dpvae"}
    called = {"scmedal": "fit_scmedal.main", "seurat": '"fit-seurat"', "spavae": "fit_spavae.main"}
    called["dpvae"] = "fit_dpvae.main"
    # outside methods are all run by the tests here, which take them from the cards
    if method not in BASELINES:
        tests = (ROOT / "tests" / "python" / f"{own.get(method, 'test_methods')}.py").read_text(encoding="utf-8")
        assert called.get(method, f'"{method}"') in tests


@pytest.mark.parametrize("method", CARDS)
def test_a_card_is_complete(method: str):
    card = CARDS[method]
    assert set(card) >= {"label", "program", "kind", "summary", "package", "licence", "citation", "doi", "run"}
    assert set(card) - {"label", "program", "kind", "summary", "package", "licence", "citation", "doi", "run"} <= {
        "extra", "image", "cpus", "memory", "memory_per_gb", "time", "shows"
    }  # fmt: skip
    assert card["run"] in {"default", "asked"}
    assert card["citation"]
    assert card["kind"] in {"control", "reference", "correction"}


@pytest.mark.parametrize("method", CARDS)
def test_every_parameter_has_a_default_that_it_takes_and_a_description(method: str):
    params = methods.load(method).params
    rules = contract.rules(params)
    for name, rule in rules.items():
        assert rule["description"], name
        assert contract.checked(method, params, {name: rule["default"]})
        assert contract.expected(rule)
    assert params().model_dump() == {name: rule["default"] for name, rule in rules.items()}


def test_documentation_and_citations_say_what_the_cards_say():
    result = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "cards.py"), "--check"], capture_output=True, text=True
    )
    assert result.returncode == 0, f"{result.stdout}{result.stderr}run `make docs`"


@pytest.mark.parametrize("method", BASELINES)
def test_the_same_seed_gives_the_same_embedding(method: str):
    first, label, graph = fit_of(method)
    second, *_ = fit_of(method)
    assert first.shape == (len(label), len(label) if graph else first.shape[1])
    assert np.isfinite(first).all()
    assert (np.ptp(first, axis=0) > 0).all()
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("method", [name for name in BASELINES if name != "shuffled"])
def test_cells_come_back_in_their_order(method: str):
    """Some libraries have given them sorted by batch: types would then be no more apart than groups drawn at random."""
    found, label, graph = fit_of(method)

    def apart(groups: np.ndarray) -> float:
        same = groups[:, None] == groups
        return float(found[same].sum() / found.sum()) if graph else between_over_within(found, groups)

    rng = np.random.default_rng(0)
    assert apart(label) > max(apart(rng.permutation(label)) for _ in range(100))


@pytest.mark.parametrize("method", ["combat", "harmony", "leace", "mnn", "scanorama"])
def test_corrections_bring_the_batches_together_and_keep_the_types_apart(method: str):
    cells, label = shifted_batches()
    before = fitted("none", cells).embedding
    after = fitted(method, cells).embedding
    assert between_over_within(after, cells.batch) < 0.2 * between_over_within(before, cells.batch)
    assert between_over_within(after, label) > 0.3 * between_over_within(before, label)


def test_shuffling_mixes_batches_and_loses_types():
    cells, label = shifted_batches()
    shuffled = fitted("shuffled", cells).embedding
    none = fitted("none", cells).embedding
    assert between_over_within(shuffled, label) < 0.1 * between_over_within(none, label)
    np.testing.assert_array_equal(np.sort(shuffled, axis=0), np.sort(none, axis=0))


def test_principal_components_are_those_of_a_singular_value_decomposition():
    cells, _label = shifted_batches()
    dense = cells.X.toarray().astype(np.float64)
    left, values, _right = np.linalg.svd(dense - dense.mean(0), full_matrices=False)
    expected = left[:, :5] * values[:5]
    found = principal_components(cells.X, 5).embedding
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-4)


def test_leace_makes_batch_means_equal_by_the_smallest_change_and_embeds_by_its_weights():
    cells, _label = shifted_batches()
    fit = fitted("leace", cells, n_components=10)
    # the closed form with the inverse root of the whole covariance and the one-hot batch
    X = fitted("none", cells, n_components=10).embedding.astype(np.float64)
    Z = np.eye(2)[cells.batch] - np.eye(2)[cells.batch].mean(0)
    values, vectors = np.linalg.eigh(X.T @ X / len(X))
    whiten, restore = (vectors * values**power @ vectors.T for power in (-0.5, 0.5))
    shared = whiten @ X.T @ Z / len(X)
    expected = X - X @ (restore @ shared @ np.linalg.pinv(shared) @ whiten).T
    np.testing.assert_allclose(fit.embedding, expected, atol=1e-5)
    np.testing.assert_allclose(
        fit.embedding[cells.batch == 0].mean(0), fit.embedding[cells.batch == 1].mean(0), atol=1e-5
    )
    again = (cells.X.toarray() - fit.weights["mean"]) @ fit.weights["components"].T
    np.testing.assert_allclose(again, fit.embedding, atol=1e-4)
    with pytest.raises(NotApplicable, match="2 batches take 1 of 1 components"):
        fitted("leace", cells, n_components=1)


def test_combat_leaves_genes_alone_that_do_not_vary_in_a_batch():
    cells, _label = shifted_batches()
    X = cells.X.toarray()
    X[cells.batch == 1, 0] = 0
    assert np.isfinite(fitted("combat", cells.but(X=sparse.csr_matrix(X))).embedding).all()


@pytest.mark.parametrize(
    ("method", "given", "named"),
    [
        ("harmony", {"n_component": 5}, "n_components"),
        ("harmony", {"n_components": "5"}, "n_components"),
        ("harmony", {"n_components": True}, "n_components"),
        ("harmony", {"n_components": None}, "n_components"),
        ("none", {"n_components": 0}, "1 or more"),
        ("label_leak", {"noise": -1.0}, "0 or more"),
        ("label_leak", {"noise": float("nan")}, "a number"),
        ("scvi", {"likelihood": "znb"}, "zinb, nb, poisson"),
        ("saucie", {"hidden": [64, 0]}, "[64, 0]"),
        ("batchblend", {"graph": "radius"}, "radius"),
        ("batchblend", {"metagenes": 2.5}, "2 or more"),
    ],
)
def test_wrong_parameters_are_refused_with_what_would_be_right(method: str, given: dict, named: str):
    with pytest.raises(InputError) as found:
        contract.checked(method, methods.load(method).params, given)
    assert named in str(found.value)
    assert str(found.value).startswith(method)


def test_all_wrong_parameters_are_named_at_once_and_a_misspelt_one_with_the_closest():
    given = {"metagens": 5, "rounds": 0, "graph": "square"}
    with pytest.raises(InputError) as found:
        contract.checked("batchblend", methods.load("batchblend").params, given)
    assert all(name in str(found.value) for name in ("metagens", "metagenes", "rounds", "graph"))


@pytest.mark.parametrize("method", ["none", "harmony", "bbknn"])
def test_a_fit_records_the_components_that_the_data_allowed(method: str, caplog: pytest.LogCaptureFixture):
    cells, _label = shifted_batches()
    params = methods.load(method).params(n_components=10_000)
    with caplog.at_level("WARNING", "unbatch"):
        found = methods.load(method).fit(cells, params)
    assert found.used.n_components == min(len(cells) - 1, len(cells.genes))
    assert caplog.records


def test_a_card_without_a_field_is_named(tmp_path: Path):
    for folder in ("docs", "bin"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "assets").mkdir()
    cards = CARDS | {"none": {"label": "None"}}
    (tmp_path / "assets" / "methods.yml").write_text(yaml.safe_dump(cards))
    done = subprocess.run([sys.executable, str(tmp_path / "docs" / "cards.py")], capture_output=True, text=True)
    assert done.returncode == 2
    assert all(word in done.stderr for word in ("none", "program", "summary"))
    assert done.stderr.count("\n") == 1


def test_the_program_of_another_method_is_named(dataset_path: Path):
    found = CliRunner().invoke(fit_baseline.main, [str(dataset_path), "--method", "batchblend", "-o", "x.h5ad"])
    assert (found.exit_code, "fit-batchblend" in found.output) == (2, True)


def test_a_file_of_parameters_by_method_is_the_pipelines(dataset_path: Path, tmp_path: Path):
    (tmp_path / "params.yml").write_text("harmony: {n_components: 5}")
    options = ["--method", "harmony", "--params", str(tmp_path / "params.yml"), "-o", str(tmp_path / "fit.h5ad")]
    found = CliRunner().invoke(fit_baseline.main, [str(dataset_path), *options])
    assert (found.exit_code, "--method_params" in found.output) == (2, True)


def test_defaults_of_the_program_in_r_are_those_that_are_declared():
    text = (ROOT / "bin" / "unbatch" / "methods" / "seurat.R").read_text(encoding="utf-8")
    stated = re.search(r"DEFAULTS <- list\((.*?)\)", text)[1]
    found = {name: int(value) for name, value in re.findall(r"(\w+) = (\d+)L", stated)}
    assert found == methods.load("seurat").params().model_dump()


def test_fit_baseline_writes_cells_in_order_and_how_it_was_made(dataset_path: Path, tmp_path: Path):
    out, params = tmp_path / "fit.h5ad", tmp_path / "params.yml"
    params.write_text("n_components: 4\n")
    arguments = [str(dataset_path), "--method", "none", "--params", str(params), "--seed", "2", "-o", str(out)]
    result = CliRunner().invoke(fit_baseline.main, [*arguments, "--model", str(tmp_path / "model")])
    assert result.exit_code == 0, result.output
    fit, dataset = ad.read_h5ad(out), ad.read_h5ad(dataset_path)
    assert fit.obs_names.equals(dataset.obs_names)
    assert fit.X is None
    assert fit.obsm["X_none"].shape == (dataset.n_obs, 4)
    about = fit.uns["unbatch"]
    assert (about["method"], int(about["seed"]), int(about["params"]["n_components"])) == ("none", 2, 4)
    assert about["wall_s"] > 0
    assert about["peak_mb"] > 50
    assert json.loads((tmp_path / "model" / "config.json").read_text())["method"] == "none"
    assert (tmp_path / "model" / "weights.safetensors").stat().st_size > 0


@pytest.mark.parametrize("method", BASELINES)
def test_every_method_writes_a_fit_that_keeps_the_contract(method: str, dataset_path: Path, tmp_path: Path):
    out, params = tmp_path / "fit.h5ad", tmp_path / "params.yml"
    # without what is a tuple in the code, which a file does not know
    params.write_text(yaml.safe_dump(SHORT.get(method, {})))
    arguments = [str(dataset_path), "--method", method, "--params", str(params), "-o", str(out)]
    result = CliRunner().invoke(fit_baseline.main, arguments)
    if result.exit_code == 99 and "not installed" in result.output:
        pytest.skip(result.output.strip())
    assert result.exit_code == 0, result.output
    schema.validate(ad.read_h5ad(out), "fit", out, cells_of=ad.read_h5ad(dataset_path))


def test_a_wrong_value_in_a_file_ends_with_2_and_nothing_written(dataset_path: Path, tmp_path: Path):
    (tmp_path / "params.yml").write_text("n_components: 0")
    arguments = [str(dataset_path), "--method", "none", "--params", str(tmp_path / "params.yml")]
    result = CliRunner().invoke(fit_baseline.main, [*arguments, "-o", str(tmp_path / "fit.h5ad")])
    assert result.exit_code == 2
    assert not (tmp_path / "fit.h5ad").exists()


def test_a_model_is_not_written_without_its_fit(dataset_path: Path, tmp_path: Path, monkeypatch):
    out = tmp_path / "fit.h5ad"
    arguments = [str(dataset_path), "-o", str(out), "--model", str(tmp_path / "model"), "--method"]
    result = CliRunner().invoke(fit_baseline.main, [*arguments, "pca"])
    assert result.exit_code == 2
    assert "pca embeds only the cells it was fitted to" in result.stderr

    def refuse(*given: object, **named: object) -> None:
        raise InputError("no place for a fit")

    monkeypatch.setattr(fits_programs, "_write", refuse)
    assert CliRunner().invoke(fit_baseline.main, [*arguments, "none"]).exit_code == 2
    assert not out.exists()
    assert not (tmp_path / "model").exists()


def test_one_batch_is_for_methods_that_correct_nothing(dataset_path: Path, tmp_path: Path):
    dataset = ad.read_h5ad(dataset_path)
    dataset = dataset[dataset.obs["batch"] == dataset.obs["batch"].iloc[0]].copy()
    dataset.write_h5ad(tmp_path / "one.h5ad")
    out = tmp_path / "fit.h5ad"
    arguments = [str(tmp_path / "one.h5ad"), "-o", str(out), "--method"]
    result = CliRunner().invoke(fit_baseline.main, [*arguments, "combat"])
    assert result.exit_code == 99
    assert "one.h5ad: obs/batch holds one batch" in result.stderr
    assert not out.exists()
    assert CliRunner().invoke(fit_baseline.main, [*arguments, "none"]).exit_code == 0


def test_an_embedding_that_breaks_the_contract_is_the_methods_fault(
    dataset_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def not_finite(cells: Cells, params: object, run: Run) -> Fit:
        return Fit(np.full((len(cells.batch), 2), np.nan))

    broken = replace(methods.load("pca"), _fit=not_finite)
    monkeypatch.setattr(methods, "load", lambda _method: broken)
    out = tmp_path / "fit.h5ad"
    result = CliRunner().invoke(fit_baseline.main, [str(dataset_path), "--method", "pca", "-o", str(out)])
    assert result.exit_code == 1
    assert "pca failed: its output cannot be used" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_missing_extra_is_named_and_not_a_failure(
    dataset_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "scranpy", None)
    out = tmp_path / "fit.h5ad"
    result = CliRunner().invoke(fit_baseline.main, [str(dataset_path), "--method", "mnn", "-o", str(out)])
    assert result.exit_code == 99
    assert (
        "mnn: the package scranpy is not installed; pip install '.[mnn]' in the folder of unbatch brings it"
        in result.stderr
    )


def test_the_leak_is_the_labels_and_does_not_apply_without_them():
    cells, label = shifted_batches()
    leaking = cells.but(label=np.where(np.arange(len(label)) < 5, -1, label).astype(np.int64))
    found = fitted("label_leak", leaking).embedding
    np.testing.assert_array_equal(found[5:].argmax(1), label[5:])
    assert np.abs(found[:5]).max() < 0.6
    with pytest.raises(NotApplicable, match="needs labels"):
        fitted("label_leak", cells)


def test_a_graph_joins_as_many_cells_of_every_batch_and_is_scored_as_a_graph(dataset_path: Path, tmp_path: Path):
    fits = [tmp_path / f"{method}.fit.h5ad" for method in ("none", "bbknn")]
    for fit in fits:
        method = fit.name.split(".")[0]
        result = CliRunner().invoke(fit_baseline.main, [str(dataset_path), "--method", method, "-o", str(fit)])
        assert result.exit_code == 0, result.output
    graph = ad.read_h5ad(fits[1]).obsp["bbknn"]
    batch = ad.read_h5ad(dataset_path).obs["batch"].cat.codes.to_numpy()
    assert graph.shape == (len(batch), len(batch))
    assert all(((graph[:, batch == code] > 0).sum(1) >= 2).all() for code in (0, 1))
    out = tmp_path / "scores.json"
    given = [str(dataset_path), *map(str, fits), "-o", str(out)]
    result = CliRunner().invoke(score.main, given, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    none, found = json.loads(out.read_text())["rows"]
    assert found["output"] == "graph"
    assert found["batch"] is found["bio"] is found["total"] is None
    there = {name for name, value in found["metrics"].items() if value is not None}
    assert there == {"ilisi", "kbet", "graph_connectivity", "clisi", "nmi_leiden", "ari_leiden"}
    assert found["reasons"]["bras"].startswith("not applicable: the method gives a graph")
    assert found["metrics"]["ilisi"] > none["metrics"]["ilisi"]
    assert none["metrics"]["nmi_leiden"] > 0


def test_nearest_cells_by_path_are_those_of_the_whole_matrix_of_paths():
    rng = np.random.default_rng(0)
    graph = sparse.random(60, 60, 0.08, random_state=0, format="csr")
    graph = graph + sparse.diags([rng.random(59)], [1])
    graph = sparse.csr_matrix(graph + graph.T)
    cells = np.arange(0, 60, 2)
    lengths = graph.copy()
    lengths.data = 1 / lengths.data
    whole = sparse.csgraph.shortest_path(lengths)[np.ix_(cells, cells)]
    found = nearest_by_path(graph, cells, 7)
    np.testing.assert_array_equal(found.indices[:, 0], np.arange(30))
    np.testing.assert_allclose(found.distances, np.sort(whole, axis=1)[:, :7])


def test_cells_that_no_path_leads_to_are_the_farthest():
    # a chain of four cells and one of twenty
    joined = [(i, i + 1) for i in range(23) if i != 3]
    graph = sparse.coo_matrix((np.ones(22), np.transpose(joined)), shape=(24, 24))
    found = nearest_by_path(sparse.csr_matrix(graph + graph.T), np.arange(24), 10)
    np.testing.assert_array_equal(found.indices[0, :4], [0, 1, 2, 3])
    assert (found.indices[0, 4:] >= 4).all()
    np.testing.assert_allclose(found.distances[0, 4:], 6, rtol=1e-4)
    assert (found.indices[4:] >= 4).all()


def test_the_discrepancy_is_that_of_all_pairs_and_falls_when_batches_move_together():
    rng = np.random.default_rng(0)
    points, batch = torch.from_numpy(rng.normal(size=(300, 2))), torch.arange(300) % 3
    apart = points + 2.0 * torch.nn.functional.one_hot(batch, 3)[:, :2]
    squares = torch.cdist(apart, apart) ** 2
    kernel = sum(torch.exp(-squares / squares.max() / (2 * w)) for w in penalties._WIDTHS) / len(penalties._WIDTHS)

    def between(a: int, b: int) -> torch.Tensor:
        return kernel[batch == a][:, batch == b].mean()

    expected = sum(between(0, 0) + between(b, b) - 2 * between(0, b) for b in (1, 2))
    assert float(penalties.mean_discrepancy(apart, batch, 3)) == pytest.approx(float(expected))
    assert penalties.mean_discrepancy(points, batch, 3) < 0.2 * expected


def test_saucie_and_staligner_bring_batches_together():
    cells, label = shifted_batches(shift=2.0)
    cells = cells.but(coordinates=np.random.default_rng(1).random((len(label), 2)))
    before = fitted("none", cells).embedding
    for method, settings in (
        ("saucie", {"steps": 150, "batch_weight": 10.0}),
        ("staligner", {"epochs": 80, "alone": 20}),
    ):
        after = fitted(method, cells, **settings).embedding
        assert between_over_within(after, cells.batch) < 0.5 * between_over_within(before, cells.batch), method


def test_seurat_writes_a_fit_by_the_contract_and_leaves_nothing_else(dataset_path: Path, tmp_path: Path):
    program = ROOT / "bin" / "fit-seurat"
    (tmp_path / "p.yml").write_text('{"n_components": 10}')
    command = [str(program), str(dataset_path), "--params", "p.yml", "--seed", "2", "-o", "fit.h5ad"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    if done.returncode == 99:
        assert "not installed" in done.stderr
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    dataset = ad.read_h5ad(dataset_path)
    fit = io.read_h5ad(tmp_path / "fit.h5ad", ["obsm", "obsp", "uns/unbatch"])
    schema.validate(fit, "fit", "fit.h5ad", cells_of=dataset)
    assert fit.obsm["X_seurat"].shape == (dataset.n_obs, 10)
    assert fit.uns["unbatch"]["versions"]["Seurat"].startswith("4.")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fit.h5ad", "p.yml"]


def test_seurats_program_runs_a_file_that_is_there_with_options_that_it_has(tmp_path: Path):
    fake = tmp_path / "Rscript"
    fake.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    fake.chmod(0o755)
    task = (ROOT / "modules" / "fit" / "main.nf").read_text(encoding="utf-8")
    script = task[task.index("${job.program} ${run.dataset}") : task.index('""".stripIndent()')]
    given = [*re.findall(r"(?<=\s)--?[a-z-]+", script), "--model", "--device", "--max-epochs"]
    done = subprocess.run(
        [str(ROOT / "bin" / "fit-seurat"), *given], capture_output=True, text=True, check=True,
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )  # fmt: skip
    program, *passed_on = done.stdout.splitlines()
    assert Path(program).is_file()
    assert passed_on == given
    known = re.search(r"KNOWN <- c\((.*)\)", Path(program).read_text(encoding="utf-8"))
    # it saves no model: its card says so
    assert set(given) - {"--model"} <= set(re.findall(r'"([^"]+)"', known[1]))


def test_seurat_says_what_is_missing_where_there_is_no_r(tmp_path: Path):
    for name in ("sh", "dirname"):
        (tmp_path / name).symlink_to(shutil.which(name))
    done = subprocess.run(
        [str(ROOT / "bin" / "fit-seurat"), "x.h5ad", "-o", "y.h5ad"],
        capture_output=True, text=True, env={"PATH": str(tmp_path)},
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (99, 1)
    assert "seurat: R is not installed" in done.stderr
