"""The program `fit-scmedal`: what it writes, what it refuses."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.numpy import load_file
from scipy.sparse import csr_matrix

from unbatch.cli import fit_scmedal
from unbatch.data import expression
from unbatch.data.cells import read_cells
from unbatch.models import scmedal
from unbatch.models.scmedal import Model
from unbatch.report.fits.scmedal.read import read_autoencoders
from unbatch.report.read import FitFile

SMALL = ("--max-epochs", "2", "--threads", "1")


@pytest.fixture
def run(dataset_path: Path, tmp_path: Path) -> Callable[..., Result]:
    """Run the program on the shared dataset, or on another one."""

    def invoke(*options: str, dataset: Path = dataset_path) -> Result:
        arguments = [str(dataset), "-o", str(tmp_path / "fit.h5ad"), *SMALL, *options]
        return CliRunner().invoke(fit_scmedal.main, arguments)

    return invoke


@pytest.fixture
def latent(tmp_path: Path) -> tuple[str, str]:
    """Options for a small latent space, as a file of parameters."""
    path = tmp_path / "params.yml"
    path.write_text("latent: 6\n")
    return "--params", str(path)


def test_a_fit_has_both_embeddings_and_its_model_gives_them_again(run, latent, dataset_path, tmp_path: Path) -> None:
    result = run(*latent, "--model", str(tmp_path / "model"))
    assert result.exit_code == 0, result.output
    dataset, fit = anndata.read_h5ad(dataset_path), anndata.read_h5ad(tmp_path / "fit.h5ad")
    about = fit.uns["unbatch"]
    np.testing.assert_array_equal(fit.obsm["X_scmedal"], fit.obsm["X_scmedal_fe"])
    assert fit.obsm["X_scmedal_re"].shape == (dataset.n_obs, 6)
    assert set(about["part"]) == {"train", "validation", "test"}
    assert {name.split(".")[0] for name in about["history"]} == {"fe", "re"}
    assert len(about["history"]["fe.reconstruction"]) == 2

    config = json.loads((tmp_path / "model" / "config.json").read_text())
    weights = load_file(tmp_path / "model" / "weights.safetensors")
    expression = dataset.X[:, dataset.var_names.get_indexer(config["genes"])]
    batch = dataset.obs["batch"].cat.codes.to_numpy()
    for kind in ("fe", "re"):
        mine = {name.removeprefix(f"{kind}."): x for name, x in weights.items() if name.startswith(f"{kind}.")}
        again = Model.from_weights(config["models"][kind], mine).embed(expression, batch)
        np.testing.assert_allclose(again, fit.obsm[f"X_scmedal_{kind}"], atol=1e-5)


@pytest.mark.parametrize(("per_thread", "expected"), [(None, 1), (1, 2)])
def test_threads_are_as_many_as_the_data_are_worth(run, latent, monkeypatch, per_thread, expected) -> None:
    seen = []
    fit = scmedal.fit
    monkeypatch.setattr(
        scmedal, "fit", lambda *args, **more: seen.append(torch.get_num_threads()) or fit(*args, **more)
    )
    if per_thread is not None:
        monkeypatch.setattr("unbatch.methods.scmedal.PER_THREAD", per_thread)
    before = torch.get_num_threads()
    try:
        result = run(*latent, "--mode", "ae", "--threads", "2")
    finally:
        torch.set_num_threads(before)
    assert result.exit_code == 0, result.output
    assert seen == [expected]


def test_expression_that_is_streamed_gives_an_embedding_as_good(run, latent, tmp_path: Path) -> None:
    """With one window the order is that of memory, and so is the fit."""
    found = {}
    for where in ("yes", "no"):
        result = run(*latent, "--mode", "ae", "--in-memory", where)
        assert result.exit_code == 0, result.output
        found[where] = anndata.read_h5ad(tmp_path / "fit.h5ad").obsm["X_scmedal_ae"]
    np.testing.assert_allclose(found["no"], found["yes"], atol=1e-4)


@pytest.mark.parametrize("way", ["batch-free", "published", "decoder"])
def test_cells_in_their_own_batch_are_not_shifted_and_in_another_one_are(run, latent, way, tmp_path: Path) -> None:
    options = ["--counterfactual", "batch1,batch2,average", "--cells", "batch == 'batch1'", "--way", way]
    result = run(*latent, *options)
    assert result.exit_code == 0, result.output
    fit = anndata.read_h5ad(tmp_path / "fit.h5ad")
    found = fit.uns["unbatch"]["counterfactual"]
    assert list(found["batches"]) == ["batch1", "batch2", "average"]
    assert found["shift"].shape == found["shift_se"].shape == (3, len(found["labels"]), fit.n_vars)
    assert found["cells"].sum() == 100
    assert abs(found["shift"][0]).max() < 1e-5
    assert abs(found["shift"][1]).max() > 1e-3
    # what the report reads is what the program writes
    read = read_autoencoders(FitFile(tmp_path / "fit.h5ad"))
    assert set(read.models) == {"fe", "re"}
    np.testing.assert_array_equal(read.counterfactual.shift, found["shift"])


@pytest.fixture(scope="session")
def saved(dataset_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the fit of a model, the model, and one that was saved without what counterfactuals need."""
    folder = tmp_path_factory.mktemp("saved")
    (folder / "params.yml").write_text("latent: 6\n")
    options = [*SMALL, "--params", str(folder / "params.yml")]
    for name, asked in (("model", ["--counterfactual", "batch2"]), ("plain", [])):
        arguments = [str(dataset_path), "-o", str(folder / f"{name}.h5ad"), "--model", str(folder / name), *asked]
        result = CliRunner().invoke(fit_scmedal.main, [*arguments, *options])
        assert result.exit_code == 0, result.output
    return folder


def random_effects(folder: Path) -> Model:
    config = json.loads((folder / "config.json").read_text())["models"]["re"]
    weights = load_file(folder / "weights.safetensors")
    return Model.from_weights(
        config, {name.removeprefix("re."): x for name, x in weights.items() if name.startswith("re.")}
    )


def apply(dataset: Path, model: Path, output: Path, *options: str) -> Result:
    arguments = [str(dataset), "-o", str(output), "--apply", str(model), "--threads", "1", *options]
    return CliRunner().invoke(fit_scmedal.main, arguments)


def test_a_saved_model_gives_the_embedding_and_the_counterfactuals_of_its_fit(dataset_path, saved, tmp_path) -> None:
    result = apply(dataset_path, saved / "model", tmp_path / "fit.h5ad", "--counterfactual", "batch2")
    assert result.exit_code == 0, result.output
    first, again = anndata.read_h5ad(saved / "model.h5ad"), anndata.read_h5ad(tmp_path / "fit.h5ad")
    for slot in ("X_scmedal", "X_scmedal_fe", "X_scmedal_re"):
        np.testing.assert_allclose(again.obsm[slot], first.obsm[slot], atol=1e-5)
    shifts = [fit.uns["unbatch"]["counterfactual"] for fit in (first, again)]
    for name in ("shift", "shift_se"):
        np.testing.assert_allclose(shifts[1][name], shifts[0][name], atol=1e-5)
    assert set(again.uns["unbatch"]["part"]) == {"applied"}
    assert read_autoencoders(FitFile(tmp_path / "fit.h5ad")).models == {}


def test_new_cells_of_another_depth_and_an_unknown_batch_are_embedded(dataset_path, saved, tmp_path: Path) -> None:
    """The other dataset has the batches' cells once more, one under a new name, with half the counts a cell."""
    adata, first = anndata.read_h5ad(dataset_path), anndata.read_h5ad(saved / "plain.h5ad")
    adata.X.data = np.log1p(np.expm1(adata.X.data) / 2)
    adata.obs["batch"] = adata.obs["batch"].cat.rename_categories({"batch2": "new"})
    # the model's genes are found by name, whatever their order
    adata = adata[:, ::-1].copy()
    adata.write_h5ad(tmp_path / "other.h5ad")
    for where in ("yes", "no"):
        result = apply(tmp_path / "other.h5ad", saved / "plain", tmp_path / "fit.h5ad", "--in-memory", where)
        assert result.exit_code == 0, result.output
        found = anndata.read_h5ad(tmp_path / "fit.h5ad")
        assert found.var_names.equals(first.var_names)
        np.testing.assert_allclose(found.obsm["X_scmedal_fe"], first.obsm["X_scmedal_fe"], atol=1e-4)
        known = (adata.obs["batch"] == "batch1").to_numpy()
        re, of_fit = found.obsm["X_scmedal_re"], first.obsm["X_scmedal_re"]
        np.testing.assert_allclose(re[known], of_fit[known], atol=1e-4)
        assert abs(re[~known] - of_fit[~known]).max() > 1e-2
    dataset = anndata.read_h5ad(dataset_path)[~known]
    expression = dataset.X[:, dataset.var_names.get_indexer(first.var_names)]
    average = random_effects(saved / "plain").embed(expression, np.full(dataset.n_obs, -1))
    np.testing.assert_allclose(re[~known], average, atol=1e-4)


@pytest.mark.parametrize(
    ("model", "options", "says"),
    [
        ("plain", ["--counterfactual", "batch2"], "was saved without what way batch-free decodes with"),
        ("plain", ["--mode", "fe"], "--mode cannot be given with --apply"),
        ("model", ["--counterfactual", "batch9"], "no batch 'batch9'"),
    ],
)
def test_what_a_saved_model_cannot_do_is_refused(dataset_path, saved, tmp_path: Path, model, options, says) -> None:
    result = apply(dataset_path, saved / model, tmp_path / "fit.h5ad", *options)
    assert result.exit_code == 2
    assert says in result.output


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda config: config.update(method="magic"), "method is 'magic', expected one of scmedal"),
        (lambda config: config.update(genes=config["genes"][1:]), "genes and 2 batches, expected the"),
        (lambda config: config.update(depth=0), "depth is 0, expected a number above 0"),
        (lambda config: config["models"].pop("re"), "do not make a model"),
        (lambda config: config["params"].update(latent="x"), "params: scmedal: parameter latent"),
        (lambda config: config.update(diverged="loss term hsic is nan"), "ended with an error"),
    ],
)
def test_a_model_that_was_changed_is_refused(dataset_path, saved, tmp_path: Path, change, says) -> None:
    (tmp_path / "model").mkdir()
    config = json.loads((saved / "plain" / "config.json").read_text())
    change(config)
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    shutil.copy(saved / "plain" / "weights.safetensors", tmp_path / "model")
    result = apply(dataset_path, tmp_path / "model", tmp_path / "fit.h5ad")
    assert result.exit_code == 2
    assert says in result.output


@pytest.fixture(scope="session")
def grouped(dataset_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset with its cells in six batches of two groups, whose difference is in the first gene alone."""
    adata = anndata.read_h5ad(dataset_path)
    rng = np.random.default_rng(0)
    code = np.arange(adata.n_obs) % 6
    values = adata.X.toarray()
    values[:, 0] = 1 + 0.1 * rng.normal(size=len(values)) + (code > 2)
    adata.X = csr_matrix(values.astype(np.float32))
    adata.obs["batch"] = pd.Categorical.from_codes(code, [f"b{i}" for i in range(6)])
    adata.obs["arm"] = np.where(code > 2, "treated", "control")
    adata.obs["site"] = np.where(code == 5, "far", "near")
    adata.obs["mixed"] = np.where(np.arange(adata.n_obs) % 4 > 1, "x", "y")
    adata.var["highly_variable"] = True
    path = tmp_path_factory.mktemp("grouped") / "dataset.h5ad"
    adata.write_h5ad(path)
    return path


def test_groups_of_batches_are_tested_by_label_on_projections_and_observed_cells(grouped, run, latent, tmp_path):
    result = run(*latent, "--groups", "arm", "--mode", "fe", "--max-epochs", "50", dataset=grouped)
    assert result.exit_code == 0, result.output
    fit = anndata.read_h5ad(tmp_path / "fit.h5ad")
    found = fit.uns["unbatch"]["groups"]
    assert list(found["names"]) == ["control", "treated"]
    assert found["batches"].tolist() == [3, 3]
    assert found["smallest_p"] == pytest.approx(0.1)
    labels = anndata.read_h5ad(grouped).obs["label"].value_counts()
    assert found["cells"].tolist() == [labels[name] for name in found["labels"]]
    large = found["cells"] >= 30
    # six batches are six observations, not hundreds of cells
    assert (found["difference"][large, 0] > 0.3).all()
    assert (found["fdr"][large, 0] < 0.05).all()
    assert (found["observed_fdr"][large, 0] < 0.05).all()
    assert found["rank_p"][large, 0] == pytest.approx(0.1)
    assert (found["fdr"][large][:, 1:] < 0.05).mean() < 0.1
    read = read_autoencoders(FitFile(tmp_path / "fit.h5ad"))
    np.testing.assert_array_equal(read.tests.tested["p"], found["p"])


@pytest.mark.parametrize(
    ("column", "says"),
    [
        ("nothing", "obs has no column 'nothing' for parameter groups"),
        (
            "site",
            "obs/site, parameter groups: found far (1 batches), near (5 batches), expected two groups of two batches",
        ),
        ("mixed", "has cells of x, y, expected one group a batch"),
    ],
)
def test_columns_that_are_no_two_groups_of_batches_are_refused(grouped, run, latent, column, says) -> None:
    result = run(*latent, "--groups", column, dataset=grouped)
    assert result.exit_code == 2
    assert says in result.output


def test_the_cells_of_genomaps_are_kept_as_they_are_and_as_if_from_each_batch(run, latent, dataset_path, tmp_path):
    result = run(*latent, "--model", str(tmp_path / "model"))
    assert result.exit_code == 0, result.output
    dataset, fit = anndata.read_h5ad(dataset_path), anndata.read_h5ad(tmp_path / "fit.h5ad")
    panel = fit.uns["unbatch"]["panel"]
    cells = dataset[[str(name) for name in panel["cells"]]]
    assert len(set(panel["cells"])) == len(panel["cells"])
    assert 50 < len(panel["cells"]) <= 60
    assert cells.obs["label"].tolist() == list(panel["labels"])
    # a medoid of every label comes first, that of the most frequent one at the top
    first = panel["labels"][: panel["medoids"]]
    assert sorted(first) == sorted(dataset.obs["label"].cat.categories)
    assert first[0] == dataset.obs["label"].value_counts().index[0]
    np.testing.assert_allclose(panel["input"], cells[:, list(panel["genes"])].X.toarray(), atol=1e-6)
    assert panel["random"].shape == (2, len(panel["cells"]), len(panel["genes"]))
    own = cells.obs["batch"].cat.codes.to_numpy()
    assert panel["way"] == "published"
    (expected,) = random_effects(tmp_path / "model").reconstruct(cells[:, fit.var_names].X, own)
    place = fit.var_names.get_indexer(list(panel["genes"]))
    found = panel["random"][own, np.arange(len(own))]
    np.testing.assert_allclose(found, expected[:, place], atol=1e-4)


def test_a_batch_that_is_held_out_is_embedded_by_models_that_never_saw_it(run, latent, tmp_path: Path) -> None:
    result = run(*latent, "--held-out-batch", "batch2", "--mode", "re")
    assert result.exit_code == 2
    assert "needs two batches" in result.output
    result = run(*latent, "--held-out-batch", "batch2", "--mode", "ae")
    assert result.exit_code == 0, result.output
    fit = anndata.read_h5ad(tmp_path / "fit.h5ad")
    assert (fit.uns["unbatch"]["part"] == "test").sum() == 100


def test_a_latent_space_larger_than_the_data_is_made_smaller(run, tmp_path: Path) -> None:
    result = run("--mode", "ae")
    assert result.exit_code == 0, result.output
    fit = anndata.read_h5ad(tmp_path / "fit.h5ad")
    assert fit.obsm["X_scmedal_ae"].shape[1] <= fit.n_vars


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--held-out-batch", "batch9"], "obs/batch has no 'batch9' to hold out, expected one of batch1, batch2"),
        (["--fold", "7"], "obs/split: fold 7 of 5"),
        (["--counterfactual", "batch7"], "parameter counterfactual: there is no batch 'batch7'"),
        (["--counterfactual", "batch1", "--cells", "nothing == 1"], "expected a condition on the columns of obs"),
        (["--counterfactual", "batch1", "--cells", "batch == 'x'"], "no cell of"),
        (["--cells", "batch == 'batch1'"], "neither is given"),
        (["--counterfactual", "batch1", "--mode", "fe", "--way", "decoder"], "way decoder needs random effects"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_sentence(run, latent, tmp_path: Path, options, says) -> None:
    result = run(*latent, *options)
    assert result.exit_code == 2
    assert says in result.output
    assert not (tmp_path / "fit.h5ad").exists()


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ("latent: 0", "latent"),
        ("minibatch: 1", "2 or more"),
        ("preset: best", "recommended, paper"),
        ("learning_rate: 7", "below 1"),
        ("weights_fixed: {hsic: many}", "weights_fixed"),
        ("weights_fixed: {magic: 1}", "weight magic"),
    ],
)
def test_parameters_are_checked(run, tmp_path: Path, params, says) -> None:
    path = tmp_path / "params.yml"
    path.write_text(params)
    result = run("--params", str(path))
    assert result.exit_code == 2
    assert says in result.output


def test_without_labels_or_batches_there_is_nothing_to_fit(run, dataset_path, tmp_path: Path) -> None:
    adata = anndata.read_h5ad(dataset_path)
    path = tmp_path / "other.h5ad"
    adata.obs = adata.obs.drop(columns="label")
    adata.write_h5ad(path)
    result = run("--mode", "fec", dataset=path)
    assert result.exit_code == 99
    assert "obs/label holds 0 labels, fec needs two or more" in result.output
    adata[adata.obs["batch"] == "batch1"].copy().write_h5ad(path)
    result = run(dataset=path)
    assert result.exit_code == 99
    assert "obs/batch holds one batch" in result.output


def test_a_loss_that_is_not_finite_says_which_and_keeps_the_model(run, tmp_path: Path, latent) -> None:
    path = Path(latent[1])
    path.write_text("latent: 6\nweights_fixed: {reconstruction: 1.0e+38}\n")
    result = run("--params", str(path), "--mode", "fe", "--model", str(tmp_path / "model"))
    assert result.exit_code == 1
    assert "fe failed: loss term" in result.output
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    weights = load_file(tmp_path / "model" / "weights.safetensors")
    mine = {name.removeprefix("fe."): x for name, x in weights.items()}
    assert Model.from_weights(config["models"]["fe"], mine).settings.model == "fe"
    assert not (tmp_path / "fit.h5ad").exists()


def test_models_that_were_fitted_before_one_broke_are_kept(run, tmp_path: Path, latent) -> None:
    path = Path(latent[1])
    path.write_text("latent: 6\nweights_random: {reconstruction: 1.0e+38}\n")
    result = run("--params", str(path), "--model", str(tmp_path / "model"))
    assert result.exit_code == 1
    assert "re failed: loss term" in result.output
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert set(config["models"]) == {"fe", "re"}
    weights = load_file(tmp_path / "model" / "weights.safetensors")
    mine = {name.removeprefix("fe."): x for name, x in weights.items() if name.startswith("fe.")}
    assert Model.from_weights(config["models"]["fe"], mine).settings.model == "fe"


@pytest.mark.parametrize(
    ("mode", "params"),
    [("fec", "weights_fixed: {label: 0.2}"), ("fe", "preset: paper\nweights_fixed: {reconstruction: 2000}")],
)
def test_weights_of_another_model_are_not_those_of_what_is_decoded(run, latent, tmp_path: Path, mode, params) -> None:
    found = []
    for given in (params, ""):
        Path(latent[1]).write_text(f"latent: 6\n{given}\n")
        result = run(*latent, "--mode", mode, "--counterfactual", "batch1")
        assert result.exit_code == 0, result.output
        found.append(anndata.read_h5ad(tmp_path / "fit.h5ad").uns["unbatch"]["counterfactual"])
    np.testing.assert_array_equal(found[0]["shift"], found[1]["shift"])


@pytest.mark.parametrize(
    ("own", "file"),
    [
        ("0::/\n", "memory.max"),
        ("0::/system.slice/job_7/step_0\n", "system.slice/job_7/memory.max"),
        ("5:cpu:/x\n4:memory:/slurm/job_7\n0::/y\n", "memory/slurm/job_7/memory.limit_in_bytes"),
    ],
)
def test_expression_is_streamed_where_the_container_or_job_has_little_memory(
    monkeypatch, dataset_path, tmp_path: Path, own, file
) -> None:
    limit = tmp_path / file
    limit.parent.mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(expression, "GROUPS", tmp_path)
    (tmp_path / "own").write_text(own)
    monkeypatch.setattr(expression, "OWN_GROUPS", tmp_path / "own")
    stored, found = read_cells(dataset_path).source.n_stored, []
    for bytes_at_hand in ("max", "100000", str(2**60)):
        limit.write_text(f"{bytes_at_hand}\n")
        found.append(expression.is_large(stored))
    assert found == [False, True, False]


@pytest.mark.parametrize(("fold", "code"), [(0, 2), (3, 0)])
def test_a_batch_in_one_fold_is_refused_or_named(run, latent, dataset_path, tmp_path: Path, fold, code) -> None:
    """In the test fold no model can learn it; in a training fold nothing judges it."""
    adata = anndata.read_h5ad(dataset_path)
    adata.obs.loc[adata.obs["batch"] == "batch1", "split"] = fold
    path = tmp_path / "folds.h5ad"
    adata.write_h5ad(path)
    result = run(*latent, "--mode", "ae", dataset=path)
    assert result.exit_code == code, result.output
    says = "batch batch1 has no cells in the training folds" if code else "no cell of batch1 is in the validation fold"
    assert says in result.output
