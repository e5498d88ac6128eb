"""Outside methods: the cards, the contract of what they return, and `fit-baseline`."""

import json
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from scipy import sparse

from unbatch import baselines
from unbatch.baselines.cells import Cells, principal_components
from unbatch.cli import fit_baseline, fit_batchblend, fit_scmedal
from unbatch.cli.fits import merge_parameters
from unbatch.errors import InputError, NotApplicable

ROOT = Path(__file__).parents[2]
CARDS = yaml.safe_load((ROOT / "assets" / "methods.yml").read_text(encoding="utf-8"))
BASELINES = [name for name, card in CARDS.items() if card["program"] == "fit-baseline"]


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


def test_every_card_has_its_file_and_every_file_its_card():
    assert sorted(BASELINES) == baselines.names()
    assert set(CARDS) == {*BASELINES, *fit_batchblend.DEFAULTS, "scmedal"}


@pytest.mark.parametrize("method", CARDS)
def test_a_card_is_complete(method: str):
    card = CARDS[method]
    assert set(card) == {
        "label", "program", "kind", "summary", "needs", "package", "licence", "citation", "doi", "choices", "defaults"
    }  # fmt: skip
    assert card["kind"] in {"control", "reference", "correction"}
    assert set(card["needs"]) <= {"labels", "coordinates", "integers", "gpu"}
    known = {"fit-batchblend": fit_batchblend.CHOICES, "fit-scmedal": fit_scmedal.CHOICES}.get(card["program"], {})
    assert card["choices"] == {name: list(known[name]) for name in card["defaults"] if name in known}


def test_documentation_and_citations_say_what_the_cards_say():
    result = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "cards.py"), "--check"], capture_output=True, text=True
    )
    assert result.returncode == 0, f"{result.stdout}{result.stderr}run `make docs`"


@pytest.mark.parametrize("method", BASELINES)
def test_defaults_on_the_card_are_those_of_the_function(method: str):
    assert baselines.parameters(baselines.load(method)) == CARDS[method]["defaults"]


@pytest.mark.parametrize("mode", fit_batchblend.DEFAULTS)
def test_defaults_on_the_card_are_those_of_the_mode(mode: str):
    assert CARDS[mode]["program"] == "fit-batchblend"
    assert CARDS[mode]["defaults"] == fit_batchblend.DEFAULTS[mode]


def test_defaults_on_the_card_of_scmedal_are_those_of_the_program():
    assert CARDS["scmedal"]["program"] == "fit-scmedal"
    assert CARDS["scmedal"]["defaults"] == fit_scmedal.DEFAULTS


@pytest.mark.parametrize("method", BASELINES)
def test_the_same_seed_gives_the_same_embedding(method: str):
    cells, _label = shifted_batches()
    fit = baselines.load(method)
    first, second = (fit(cells, seed=3).embedding for _ in range(2))
    assert first.shape[0] == len(cells.batch)
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("method", ["combat", "harmony", "leace", "scanorama"])
def test_corrections_bring_the_batches_together_and_keep_the_types_apart(method: str):
    cells, label = shifted_batches()
    before = baselines.load("none")(cells, seed=0).embedding
    after = baselines.load(method)(cells, seed=0).embedding
    assert between_over_within(after, cells.batch) < 0.2 * between_over_within(before, cells.batch)
    assert between_over_within(after, label) > 0.3 * between_over_within(before, label)


def test_shuffling_mixes_batches_and_loses_types():
    cells, label = shifted_batches()
    shuffled = baselines.load("shuffled")(cells, seed=0).embedding
    none = baselines.load("none")(cells, seed=0).embedding
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
    fit = baselines.load("leace")(cells, seed=0, n_components=10)
    # the closed form with the inverse root of the whole covariance and the one-hot batch
    X = baselines.load("none")(cells, seed=0, n_components=10).embedding.astype(np.float64)
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
        baselines.load("leace")(cells, seed=0, n_components=1)


def test_combat_leaves_genes_alone_that_do_not_vary_in_a_batch():
    cells, _label = shifted_batches()
    X = cells.X.toarray()
    X[cells.batch == 1, 0] = 0
    embedding = baselines.load("combat")(Cells(sparse.csr_matrix(X), cells.counts, cells.genes, cells.batch), seed=0)
    assert np.isfinite(embedding.embedding).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [({"n_component": 5}, "it has n_components"), ({"n_components": "5"}, "(int)"), ({"n_components": True}, "(int)")],
)
def test_wrong_parameters_are_refused(given: dict, message: str):
    with pytest.raises(InputError, match=message.replace("(", r"\(").replace(")", r"\)")):
        merge_parameters("harmony", baselines.parameters(baselines.load("harmony")), given)


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


def test_a_model_is_not_written_without_its_fit(dataset_path: Path, tmp_path: Path):
    out, params = tmp_path / "fit.h5ad", tmp_path / "params.yml"
    arguments = [str(dataset_path), "-o", str(out), "--model", str(tmp_path / "model"), "--method"]
    result = CliRunner().invoke(fit_baseline.main, [*arguments, "pca"])
    assert result.exit_code == 2
    assert "pca embeds only the cells it was fitted to" in result.stderr
    params.write_text("n_components: 0\n")
    assert CliRunner().invoke(fit_baseline.main, [*arguments, "none", "--params", str(params)]).exit_code
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
    def not_finite(cells: Cells, *, seed: int) -> baselines.cells.Fit:
        return baselines.cells.Fit(np.full((len(cells.batch), 2), np.nan))

    monkeypatch.setattr(baselines, "load", lambda _method: not_finite)
    out = tmp_path / "fit.h5ad"
    result = CliRunner().invoke(fit_baseline.main, [str(dataset_path), "--method", "pca", "-o", str(out)])
    assert result.exit_code == 1
    assert "pca failed: its output cannot be used" in result.stderr
    assert list(tmp_path.iterdir()) == []
