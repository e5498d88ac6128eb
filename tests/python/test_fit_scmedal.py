"""The program `fit-scmedal`: what it writes, what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import load_file

from unbatch.cli import fit_scmedal
from unbatch.models.scmedal import Model
from unbatch.report.autoencoders import read_autoencoders

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


def test_expression_that_is_streamed_gives_an_embedding_as_good(run, latent, tmp_path: Path) -> None:
    """Of one window the order is that of memory, and so is the fit."""
    found = {}
    for where in ("yes", "no"):
        result = run(*latent, "--mode", "ae", "--in-memory", where)
        assert result.exit_code == 0, result.output
        found[where] = anndata.read_h5ad(tmp_path / "fit.h5ad").obsm["X_scmedal_ae"]
    np.testing.assert_allclose(found["no"], found["yes"], atol=1e-4)


@pytest.mark.parametrize("way", fit_scmedal.WAYS)
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
    read = read_autoencoders(tmp_path / "fit.h5ad")
    assert set(read.models) == {"fe", "re"}
    np.testing.assert_array_equal(read.counterfactual.shift, found["shift"])


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
        (["--counterfactual", "batch7"], "obs/batch has no 'batch7' for --counterfactual"),
        (["--counterfactual", "batch1", "--cells", "nothing == 1"], "expected a condition on the columns of obs"),
        (["--counterfactual", "batch1", "--cells", "batch == 'x'"], "no cell of"),
        (["--cells", "batch == 'batch1'"], "neither is given"),
        (["--counterfactual", "batch1", "--mode", "fe", "--way", "decoder"], "--way decoder needs random effects"),
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
        ("latent: 0", "parameter latent is 0, expected a whole number of 1 or more"),
        ("preset: best", "parameter preset is 'best', expected one of recommended, paper"),
        ("learning_rate: 7", "parameter learning_rate is 7, expected a number between 0 and 1"),
        ("weights_fixed: {hsic: many}", "weights_fixed: hsic is 'many'"),
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
