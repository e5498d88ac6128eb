"""What a notebook calls: fits and scores of an AnnData in memory are those of the programs."""

from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import yaml
from click.testing import CliRunner

import unbatch
from unbatch.cli import fit_baseline, fit_batchblend
from unbatch.errors import InputError, NotApplicable


@pytest.fixture
def adata(simulated_path: Path) -> ad.AnnData:
    return ad.read_h5ad(simulated_path)


KEYS = {"batch_key": "sample", "label_key": "cell_type"}


def test_a_fit_in_memory_is_that_of_the_program(adata: ad.AnnData, dataset_path: Path, tmp_path: Path):
    before = adata.X.copy()
    assert unbatch.fit(adata, "harmony", **KEYS, params={"n_components": 8}) is None
    (tmp_path / "params.yml").write_text(yaml.safe_dump({"n_components": 8}))
    arguments = [str(dataset_path), "--method", "harmony", "--params", str(tmp_path / "params.yml")]
    assert CliRunner().invoke(fit_baseline.main, [*arguments, "-o", str(tmp_path / "fit.h5ad")]).exit_code == 0
    found = ad.read_h5ad(tmp_path / "fit.h5ad")
    np.testing.assert_allclose(adata.obsm["X_harmony"], found.obsm["X_harmony"], atol=1e-5)
    assert adata.uns["unbatch"]["harmony"]["params"] == {"n_components": 8}
    assert (before != adata.X).nnz == 0


def test_slots_of_a_model_of_our_own_are_written_and_a_copy_leaves_the_input_alone(
    adata: ad.AnnData, dataset_path: Path, tmp_path: Path
):
    params = {"metagenes": 5, "spatial": "none", "corrected": True}
    found = unbatch.fit(adata, "batchblend", **KEYS, params=params, max_epochs=2, copy=True)
    assert "X_batchblend" not in adata.obsm
    assert found.layers["corrected"].shape == found.shape
    options = ["--metagenes", "5", "--spatial", "none", "--max-epochs", "2", "-o", str(tmp_path / "fit.h5ad")]
    assert CliRunner().invoke(fit_batchblend.main, [str(dataset_path), *options]).exit_code == 0
    fit = ad.read_h5ad(tmp_path / "fit.h5ad")
    np.testing.assert_allclose(found.varm["metagenes"], fit[:, found.var_names].varm["metagenes"], atol=1e-5)
    about = found.uns["unbatch"]["batchblend"]
    assert (about["params"]["iterations"], about["given"]) == (2, params)
    assert set(about["batch_effect"]) == set(fit.uns["unbatch"]["batch_effect"])


def test_scores_are_a_row_for_each_embedding_of_the_data(adata: ad.AnnData):
    for method in ("none", "shuffled"):
        unbatch.fit(adata, method, **KEYS)
    adata.obsm["mine"] = adata.obsm["X_none"].copy()
    table = unbatch.score(adata, ["none", "shuffled", "mine"], **KEYS)
    assert list(table.index) == ["none", "shuffled", "mine"]
    assert table.loc["none"].equals(table.loc["mine"])
    assert table.loc["shuffled", "batch"] > table.loc["none", "batch"]
    assert table.loc["shuffled", "bio"] < table.loc["none", "bio"]
    assert table.attrs["scores"]["rows"][0]["method"] == "none"


def test_targets_are_predicted_from_one_embedding_named_by_itself(adata: ad.AnnData):
    unbatch.fit(adata, "none", batch_key="sample")
    table = unbatch.score(adata, "none", batch_key="sample", targets="cell_type")
    assert list(table.index) == ["none"]
    assert list(table.attrs["scores"]["rows"][0]["prediction"]) == ["cell_type"]


def test_a_column_that_is_called_label_is_no_label_unless_it_is_named(adata: ad.AnnData):
    adata.obs["label"] = adata.obs["cell_type"]
    adata.obs["split"] = np.where(adata.obs["cell_type"].cat.codes % 2, "odd", "even")
    with pytest.raises(NotApplicable, match="labels"):
        unbatch.fit(adata, "label_leak", batch_key="sample")
    unbatch.fit(adata, "none", batch_key="sample")
    table = unbatch.score(adata, ["none"], batch_key="sample", targets=["split_input"], evidence=True)
    assert np.isnan(float(table.loc["none", "bio"] or np.nan))
    assert set(adata.obs["split"]) == {"odd", "even"}
    assert unbatch.fit(adata, "label_leak", batch_key="sample", label_key="label") is None


def test_a_graph_and_a_second_embedding_are_scored_as_by_the_program(adata: ad.AnnData):
    unbatch.fit(adata, "bbknn", **KEYS)
    unbatch.fit(adata, "scmedal", **KEYS, max_epochs=1)
    scores = unbatch.score(adata, ["bbknn", "scmedal"], **KEYS, evidence=True).attrs["scores"]
    graph, scmedal = scores["rows"]
    assert graph["metrics"]["ilisi"] is not None
    assert graph["metrics"]["bras"] is None
    assert scmedal["random_effects"]["batch_probe"] is not None
    assert scmedal["params"]["latent"] == adata.obsm["X_scmedal"].shape[1]
    assert scmedal["wall_s"] > 0


def test_the_device_and_the_matrix_of_the_caller_stay_as_they_are(adata: ad.AnnData, monkeypatch: pytest.MonkeyPatch):
    adata.X.data[:3] = 0
    before = adata.X.copy()
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    unbatch.fit(adata, "saucie", **KEYS, device="auto", max_epochs=1, continuous=True)
    assert adata.uns["unbatch"]["saucie"]["device"] == "cpu"
    np.testing.assert_array_equal(adata.X.data, before.data)
    np.testing.assert_array_equal(adata.X.indptr, before.indptr)
    with pytest.raises(InputError, match="no CUDA device"):
        unbatch.fit(adata, "saucie", **KEYS, device="cuda")


def test_wrong_input_is_one_sentence(adata: ad.AnnData):
    with pytest.raises(InputError, match="no column nothing"):
        unbatch.fit(adata, "harmony", batch_key="nothing")
    with pytest.raises(InputError, match="n_components"):
        unbatch.fit(adata, "harmony", batch_key="sample", params={"components": 5})
    with pytest.raises(NotApplicable, match="labels"):
        unbatch.fit(adata, "scanvi", batch_key="sample")
    with pytest.raises(InputError, match="targets"):
        unbatch.score(adata, "none", batch_key="sample", targets="cell_type", evidence=False)
    with pytest.raises(InputError, match="nor nothing"):
        unbatch.score(adata, ["nothing"], batch_key="sample")
    adata.X = adata.X * 0.5
    with pytest.raises(InputError, match="not whole"):
        unbatch.fit(adata, "harmony", batch_key="sample")
