"""The program `fit-batchblend`: what it writes, what it says, what it refuses."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from safetensors.numpy import load_file, save_file
from scipy import sparse

from unbatch.cli import fit_batchblend
from unbatch.models import batchblend
from unbatch.models.verdicts import Verdict, sentence

QUICK = ("--max-epochs", "5")
"""For tests of what is written and said, not of what is found."""


@pytest.fixture
def run(dataset_path: Path, tmp_path: Path) -> Callable[..., Result]:
    """Run the program on the shared dataset, or on another one."""

    def invoke(*options: str, dataset: Path = dataset_path) -> Result:
        arguments = [str(dataset), "-o", str(tmp_path / "fit.h5ad"), "--threads", "1", *options]
        return CliRunner().invoke(fit_batchblend.main, arguments)

    return invoke


@pytest.fixture(scope="module")
def saved(dataset_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model of 5 metagenes of the shared dataset, hardly fitted; not to be changed."""
    folder = tmp_path_factory.mktemp("saved")
    options = ["--metagenes", "5", "--max-epochs", "2", "--spatial", "none", "--model", str(folder / "model")]
    arguments = [str(dataset_path), "-o", str(folder / "fit.h5ad"), "--threads", "1", *options]
    result = CliRunner().invoke(fit_batchblend.main, arguments)
    assert result.exit_code == 0, result.output
    return folder / "model"


@pytest.fixture
def changed(dataset_path: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write the shared dataset after a change."""

    def write(change: Callable[[anndata.AnnData], anndata.AnnData | None]) -> Path:
        adata = anndata.read_h5ad(dataset_path)
        adata = change(adata) or adata
        path = tmp_path / "changed.h5ad"
        adata.write_h5ad(path)
        return path

    return write


@pytest.mark.parametrize(("per_thread", "expected"), [(None, 1), (1, 2)])
def test_threads_are_as_many_as_the_data_are_worth(run, monkeypatch, per_thread, expected) -> None:
    seen = []
    fit = batchblend.fit
    monkeypatch.setattr(
        batchblend, "fit", lambda *args, **more: seen.append(torch.get_num_threads()) or fit(*args, **more)
    )
    if per_thread is not None:
        monkeypatch.setattr("unbatch.methods.batchblend.PER_THREAD", per_thread)
    before = torch.get_num_threads()
    try:
        result = run("--metagenes", "5", "--max-epochs", "2", "--spatial", "none", "--threads", "2")
    finally:
        torch.set_num_threads(before)
    assert result.exit_code == 0, result.output
    assert seen == [expected]


def test_a_fit_holds_all_that_the_report_reads(run, tmp_path: Path) -> None:
    result = run(*QUICK, "--metagenes", "8", "--corrected")
    assert result.exit_code == 0, result.output
    fit = anndata.read_h5ad(tmp_path / "fit.h5ad")
    about = fit.uns["unbatch"]
    n, genes = fit.shape
    assert fit.obsm["X_batchblend"].shape[0] == n
    np.testing.assert_allclose(fit.obsm["X_batchblend"].sum(1), 1, atol=1e-3)
    assert fit.obsm["X_batchblend_amount"].shape == (n, 8)
    np.testing.assert_allclose(fit.varm["metagenes"].sum(0), 1, atol=1e-5)
    assert list(about["batches"]) == ["batch1", "batch2"]
    effect = about["batch_effect"]
    assert effect["beta"].shape == (2, 8)
    assert {effect[name].shape for name in ("offset", "offset_se", "factor", "log_factor_se")} == {(2, genes)}
    assert set(about["evidence"]["step"]) == {"offset", "factors"}
    steps = zip(about["evidence"]["step"], about["evidence"]["verdict"], strict=True)
    assert all(sentence(step, Verdict(verdict)) for step, verdict in steps)
    assert about["spatial"]["mode"] == "linear"
    assert about["spatial"]["affinity"].shape == about["spatial"]["affinity_permuted_sd"].shape == (2, 8, 8)
    lengths = {len(values) for values in about["history"].values()}
    assert len(lengths) == 1
    assert set(about["history"]["phase"]) == {0, 1}
    assert set(fit.uns) == {"unbatch"}


def test_a_metagene_that_is_the_same_in_every_cell_is_no_column_and_that_is_recorded(
    run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fit = batchblend.fit

    def with_unused(*arguments: object, **options: object) -> batchblend.Fitted:
        fitted = fit(*arguments, **options)
        fitted.amounts[:, 2] = 0
        return fitted

    monkeypatch.setattr(batchblend, "fit", with_unused)
    assert run("--metagenes", "5", "--spatial", "none", "--max-epochs", "2").exit_code == 0
    found = anndata.read_h5ad(tmp_path / "fit.h5ad")
    assert found.uns["unbatch"]["embedded"].tolist() == [0, 1, 3, 4]
    shares = batchblend.shares(found.obsm["X_batchblend_amount"])
    np.testing.assert_array_equal(found.obsm["X_batchblend"], shares[:, [0, 1, 3, 4]])


def test_corrected_expression_is_counts_without_offset_and_factors(run, tmp_path: Path, dataset_path: Path) -> None:
    run(*QUICK, "--metagenes", "8", "--corrected", "--spatial", "none", "--offset", "annealed")
    fit, data = anndata.read_h5ad(tmp_path / "fit.h5ad"), anndata.read_h5ad(dataset_path)
    effect = fit.uns["unbatch"]["batch_effect"]
    assert effect["offset"].sum() > 0
    batch = data.obs["batch"].cat.codes.to_numpy()
    counts = data[:, fit.var_names].layers["counts"].toarray()
    expected = np.maximum(counts - effect["offset"][batch], 0) / effect["factor"][batch]
    np.testing.assert_allclose(fit.layers["corrected"], expected, rtol=1e-5, atol=1e-4)


def test_popari_has_a_random_field_and_no_batch_effect(run, tmp_path: Path) -> None:
    result = run(*QUICK, "--mode", "popari", "--metagenes", "6")
    assert result.exit_code == 0
    said = result.output
    fit = anndata.read_h5ad(tmp_path / "fit.h5ad")
    about = fit.uns["unbatch"]
    assert "X_popari" in fit.obsm
    assert about["spatial"]["mode"] == "hmrf"
    assert not about["batch_effect"]["offset"].any()
    assert (about["batch_effect"]["factor"] == 1).all()
    assert np.isnan(about["batch_effect"]["total_offset_se"]).all()
    assert "states, round 1 of 4" in said
    assert "batch effect, round" not in said
    assert "neighbours: delaunay in 2 of 2 sections; " in said


@pytest.mark.parametrize("phase", ["none", "linear"])
def test_popari_takes_other_phases(run, phase: str) -> None:
    assert run("--mode", "popari", "--metagenes", "5", "--max-epochs", "2", "--spatial", phase).exit_code == 0


def test_the_same_seed_gives_the_same_fit(run, tmp_path: Path) -> None:
    fits = []
    for _ in range(2):
        run(*QUICK, "--metagenes", "6", "--seed", "3")
        fits.append(anndata.read_h5ad(tmp_path / "fit.h5ad").obsm["X_batchblend"])
    np.testing.assert_array_equal(*fits)


def test_cells_are_pooled_by_default_and_a_weight_that_is_not_used_is_named(run, tmp_path: Path) -> None:
    quick = ["--metagenes", "5", "--max-epochs", "2"]
    said = run(*quick, "--spatial", "linear", "--spatial-weight", "2").output
    assert "spatial_weight 2.0 is used with pooling: 0 only" in said
    assert anndata.read_h5ad(tmp_path / "fit.h5ad").uns["unbatch"]["params"]["pooling"] == 1
    params = tmp_path / "params.yml"
    params.write_text("pooling: 2\n")
    assert "is not used" in run(*quick, "--spatial", "hmrf", "--params", str(params)).output


def test_options_win_over_the_file_and_the_file_over_defaults(run, tmp_path: Path) -> None:
    params = tmp_path / "params.yml"
    params.write_text(yaml.safe_dump({"metagenes": 5, "sparsity": 0.25, "pooling": 0}))
    run("--params", str(params), "--metagenes", "6", "--max-epochs", "7", "--spatial", "none")
    about = anndata.read_h5ad(tmp_path / "fit.h5ad").uns["unbatch"]
    assert (about["params"]["metagenes"], about["params"]["sparsity"], about["params"]["rounds"]) == (6, 0.25, 4)
    assert len(about["history"]["objective"]) == 7


def test_without_coordinates_there_is_no_spatial_phase(run, changed, tmp_path: Path) -> None:
    path = changed(lambda adata: adata.obsm.pop("spatial") is None or None)
    assert run(*QUICK, "--metagenes", "6", dataset=path).exit_code == 0
    about = anndata.read_h5ad(tmp_path / "fit.h5ad").uns["unbatch"]
    assert about["params"]["spatial"] == "none"
    assert "spatial" not in about
    result = run(*QUICK, "--metagenes", "6", "--spatial", "linear", dataset=path)
    assert result.exit_code == 99
    assert "obsm/spatial is missing" in result.output


def _stacked(adata: anndata.AnnData) -> None:
    adata.obsm["spatial"][adata.obs["batch"] == "batch2"] = 1


@pytest.mark.parametrize("spatial", ["auto", "none"])
def test_a_fit_that_needs_no_graph_goes_on_without_one(run, changed, tmp_path: Path, spatial: str) -> None:
    result = run("--metagenes", "6", "--spatial", spatial, "--max-epochs", "2", dataset=changed(_stacked))
    assert result.exit_code == 0, result.output
    assert "changed.h5ad: obsm/spatial: section batch2: 99 of 100 cells are at the position of another" in result.output
    about = anndata.read_h5ad(tmp_path / "fit.h5ad").uns["unbatch"]
    assert about["params"]["spatial"] == "none"
    assert "spatial" not in about


@pytest.mark.parametrize("options", [["--spatial", "linear"], ["--spatial", "hmrf"], ["--graph", "delaunay"]])
def test_a_graph_that_was_asked_for_and_cannot_be_made_is_an_error(run, changed, options: list[str]) -> None:
    result = run(*QUICK, "--metagenes", "6", *options, dataset=changed(_stacked))
    assert result.exit_code == 2
    assert "changed.h5ad: obsm/spatial: section batch2: 99 of 100 cells" in result.output


def test_the_number_of_metagenes_is_below_that_of_the_genes_and_not_above_that_of_a_batch(run, changed) -> None:
    def few(adata: anndata.AnnData) -> anndata.AnnData:
        second = np.flatnonzero(adata.obs["batch"] == "batch2")
        return adata[np.setdiff1d(np.arange(adata.n_obs), second[4:]), :4].copy()

    result = run("--spatial", "none", "--max-epochs", "2", dataset=changed(few))
    assert result.exit_code == 0, result.output
    assert "3 metagenes, by held-out entries" in result.output


def test_the_log_normalised_expression_is_not_read(run, changed) -> None:
    def without(adata: anndata.AnnData) -> None:
        del adata.X

    result = run("--metagenes", "5", "--spatial", "none", "--max-epochs", "2", dataset=changed(without))
    assert result.exit_code == 0, result.output


def test_one_batch_is_factorised_and_said_to_need_no_correction(run, changed, tmp_path: Path) -> None:
    result = run(
        *QUICK, "--metagenes", "6", dataset=changed(lambda adata: adata[adata.obs["batch"] == "batch1"].copy())
    )
    assert result.exit_code == 0
    assert "one batch: there is no batch effect to correct" in result.output
    assert not anndata.read_h5ad(tmp_path / "fit.h5ad").uns["unbatch"]["batch_effect"]["offset"].any()


def test_a_saved_model_embeds_the_same_cells_alike_and_a_new_batch_among_them(run, changed, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    assert run("--metagenes", "8", "--spatial", "none", "--model", str(folder)).exit_code == 0
    fitted = anndata.read_h5ad(tmp_path / "fit.h5ad")
    assert run("--apply", str(folder)).exit_code == 0
    applied = anndata.read_h5ad(tmp_path / "fit.h5ad")
    distance = np.abs(applied.obsm["X_batchblend"] - fitted.obsm["X_batchblend"]).sum(1)
    assert np.median(distance) < 0.05

    def renamed(adata: anndata.AnnData) -> None:
        adata.obs["batch"] = adata.obs["batch"].cat.rename_categories({"batch2": "another"})

    assert run("--apply", str(folder), dataset=changed(renamed)).exit_code == 0
    about = anndata.read_h5ad(tmp_path / "fit.h5ad").uns["unbatch"]
    assert list(about["batches"]) == ["batch1", "batch2", "another"]
    assert about["batch_effect"]["offset"].shape == (3, 60)
    assert any("another" in name for name in about["evidence"]["batch"])


def test_a_model_of_one_batch_takes_no_other_unless_it_is_without_offset(run, changed, tmp_path: Path) -> None:
    data = changed(lambda adata: adata[adata.obs["batch"] == "batch1"].copy())
    options = ["--metagenes", "6", "--spatial", "none", "--max-epochs", "2", "--model"]
    for name, more in (("rays", []), ("none", ["--offset", "none"])):
        assert run(*options, str(tmp_path / name), *more, dataset=data).exit_code == 0
    result = run("--apply", str(tmp_path / "rays"))
    assert result.exit_code == 2
    assert "batch2 is a new batch, and the model in" in result.output
    assert "is of one batch (batch1), whose own offset cannot be told" in result.output
    assert run("--apply", str(tmp_path / "rays"), dataset=data).exit_code == 0
    assert run("--apply", str(tmp_path / "none")).exit_code == 0


def test_without_a_spatial_phase_affinities_are_of_a_graph_that_was_asked_for(run, tmp_path: Path) -> None:
    for options, there in (([], False), (["--graph", "knn", "--neighbours", "4"], True)):
        assert run("--metagenes", "6", "--max-epochs", "2", "--spatial", "none", *options).exit_code == 0
        assert ("spatial" in anndata.read_h5ad(tmp_path / "fit.h5ad").uns["unbatch"]) == there


def test_a_batch_of_few_cells_is_not_compared_gene_by_gene(run, changed, tmp_path: Path) -> None:
    def few(adata: anndata.AnnData) -> anndata.AnnData:
        second = np.flatnonzero(adata.obs["batch"] == "batch2")
        return adata[np.setdiff1d(np.arange(adata.n_obs), second[6:])].copy()

    assert run(*QUICK, "--metagenes", "5", "--spatial", "none", dataset=changed(few)).exit_code == 0
    about = anndata.read_h5ad(tmp_path / "fit.h5ad").uns["unbatch"]
    assert (about["batch_effect"]["factor"] == 1).all()
    last = {name: column[-1] for name, column in about["evidence"].items()}
    assert (last["step"], last["accepted"], last["refused"]) == ("factors", False, True)
    assert (last["verdict"], last["cells"], last["threshold"]) == (Verdict.REFUSED_FEW, 6, 20)


def test_a_model_that_cannot_be_written_is_refused_before_the_fit(run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder" / "config.json").mkdir(parents=True)
    for folder, message in [("file/model", "file is not a folder"), ("folder", "config.json: cannot write the model")]:
        result = run(*QUICK, "--metagenes", "6", "--model", str(tmp_path / folder))
        assert result.exit_code == 2
        assert message in result.output
        assert "noise model" not in result.output
    assert not (tmp_path / "fit.h5ad").exists()


def test_a_model_is_applied_only_to_its_own_genes(run, changed, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    run(*QUICK, "--metagenes", "6", "--spatial", "none", "--model", str(folder))
    result = run("--apply", str(folder), dataset=changed(lambda adata: adata[:, 3:].copy()))
    assert result.exit_code == 2
    assert "var_names lack 3 of the 60 genes of the model" in result.output
    result = run("--apply", str(tmp_path))
    assert result.exit_code == 2
    assert "config.json: no such file" in result.output


def test_an_applied_model_has_the_evidence_of_its_fit(run, saved: Path, tmp_path: Path) -> None:
    fitted = anndata.read_h5ad(saved.with_name("fit.h5ad")).uns["unbatch"]["evidence"]
    assert run("--apply", str(saved), "--model", str(tmp_path / "again")).exit_code == 0
    applied = anndata.read_h5ad(tmp_path / "fit.h5ad").uns["unbatch"]["evidence"]
    assert len(fitted["step"]) > 2
    assert np.isnan(fitted["error"]).any()
    for name, values in fitted.items():
        np.testing.assert_array_equal(applied[name], values)
    again, first = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path / "again", saved))
    assert again == first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "pca"}, "config.json: method is 'pca', expected one of batchblend, popari"),
        ({"method": ["popari"]}, "config.json: method is ['popari']"),
        ({"genes": None}, "config.json: genes is None, expected a list of names"),
        ({"genes": ["A", 1]}, "config.json: genes is ['A', 1], expected a list of names"),
        ({"batches": "batch1"}, "config.json: batches is 'batch1', expected a list of names"),
        ({"batches": ["batch1", "batch1"]}, "config.json: batches holds a name more than once"),
        ({"batches": ["batch1"]}, "config.json: evidence 1: batches is [1]"),
        ({"batches": ["batch1", "batch2", "batch3"]}, "weights.safetensors: offset has shape 2 x 60, expected 3 x 60"),
        ({"params": None}, "config.json: params is None, expected parameters by name"),
        ({"params": {"metagene": 5}}, "config.json: params: batchblend: no parameter 'metagene'"),
        ({"params": {"ambiguous": "leave"}}, "parameter 'ambiguous' is of an earlier version, expected strength"),
        ({"params": {"metagenes": 5, "sparsity": -1}}, "config.json: params: batchblend: parameter sparsity is -1"),
        ({"params": {}}, "config.json: params: metagenes is missing"),
        ({"params": {"metagenes": 6}}, "weights.safetensors: metagenes has shape 5 x 60, expected 6 x 60"),
        ({"evidence": {}}, "config.json: evidence is {}, expected a list"),
        ({"evidence": [{"step": "offset"}]}, "config.json: evidence 0 is {'step': 'offset'}, expected batches, step"),
    ],
)
def test_a_model_with_a_wrong_configuration_is_refused_in_one_sentence(
    run, saved: Path, tmp_path: Path, change: dict, message: str
) -> None:
    folder = shutil.copytree(saved, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps(config))
    result = run("--apply", str(folder))
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert len(result.output.splitlines()) == 1
    for name in change:
        del config[name]
    (folder / "config.json").write_text(json.dumps(config))
    result = run("--apply", str(folder))
    assert result.exit_code == 2, result.output
    assert f"config.json: {next(iter(change))} is" in result.output


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("sigma", None, "weights sigma are missing or unknown"),
        ("beta", np.ones((2, 4)), "beta has shape 2 x 4, expected 2 x 5 for the 2 batches, 5 metagenes and 60 genes"),
        ("decoder.shares", np.ones((4, 5)), "decoder.centres has shape 5 x 5, expected 4 x 5"),
        ("decoder.scale", np.ones(2), "decoder.scale has shape 2, expected 1 for"),
        ("reference.batch", np.full(200, 2), "reference.batch holds other values than the codes 0 to 1"),
    ],
)
def test_weights_that_do_not_fit_the_configuration_are_refused_in_one_sentence(
    run, saved: Path, tmp_path: Path, name: str, value: np.ndarray | None, message: str
) -> None:
    folder = shutil.copytree(saved, tmp_path / "model")
    weights = load_file(folder / "weights.safetensors") | ({} if value is None else {name: value})
    save_file(
        {key: array for key, array in weights.items() if key != name or value is not None},
        folder / "weights.safetensors",
    )
    result = run("--apply", str(folder))
    assert result.exit_code == 2, result.output
    assert "weights.safetensors: " + message in result.output


def test_options_of_a_fit_are_refused_where_a_model_is_applied(run, saved: Path, tmp_path: Path) -> None:
    params = tmp_path / "params.yml"
    params.touch()
    given = [["--metagenes", "5"], ["--offset", "rays"], ["--no-factors"], ["--strength", "0.5"], ["--graph", "knn"]]
    for options in [*given, ["--spatial", "none"], ["--mode", "batchblend"], ["--params", str(params)]]:
        result = run("--apply", str(saved), *options)
        assert result.exit_code == 2, options
        assert "cannot be given with --apply" in result.output
        assert options[0].replace("--no-", "--").replace("mode", "method") in result.output


def test_a_new_batch_that_cannot_be_judged_is_refused(run, changed, saved: Path, tmp_path: Path) -> None:
    def few(adata: anndata.AnnData) -> anndata.AnnData:
        adata.obs["batch"] = adata.obs["batch"].cat.rename_categories({"batch2": "another"})
        return adata[np.setdiff1d(np.arange(adata.n_obs), np.flatnonzero(adata.obs["batch"] == "another")[4:])].copy()

    result = run("--apply", str(saved), dataset=changed(few))
    assert result.exit_code == 2
    assert "obs/batch: another is a new batch with 4 cells" in result.output
    folder = shutil.copytree(saved, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["params"]["offset"] = "annealed"
    (folder / "config.json").write_text(json.dumps(config))
    result = run("--apply", str(folder), dataset=changed(few))
    assert result.exit_code == 2
    assert "another is a new batch, and the model in" in result.output


def _logarithmic(adata: anndata.AnnData) -> None:
    adata.layers["counts"] = sparse.csr_matrix(adata.layers["counts"]).log1p()


def test_logarithms_are_noticed(run, changed) -> None:
    assert "look like logarithms" not in run(*QUICK, "--metagenes", "6", "--spatial", "none").output
    result = run(*QUICK, "--metagenes", "6", "--spatial", "none", dataset=changed(_logarithmic))
    assert "look like logarithms of counts" in result.output


def _negative(adata: anndata.AnnData) -> None:
    adata.layers["counts"].data[0] = -1


def _few_cells(adata: anndata.AnnData) -> anndata.AnnData:
    second = np.flatnonzero(adata.obs["batch"] == "batch2")
    return adata[np.setdiff1d(np.arange(adata.n_obs), second[4:])].copy()


def _empty_cells(adata: anndata.AnnData) -> None:
    counts = adata.layers["counts"].tolil()
    counts[np.flatnonzero(adata.obs["batch"] == "batch2")[4:]] = 0
    adata.layers["counts"] = counts.tocsr()


def _no_position(adata: anndata.AnnData) -> None:
    adata.obsm["spatial"][adata.obs["batch"] == "batch2"] = np.nan


@pytest.mark.parametrize(
    ("change", "options", "named"),
    [
        (_negative, [], ["layers/counts", "-1"]),
        (_few_cells, [], ["obs/batch", "batch2"]),
        (_empty_cells, [], ["obs/batch", "batch2"]),
        (_no_position, [], ["obsm/spatial"]),
        (None, ["--metagenes", "60"], ["var/highly_variable", "60 metagenes"]),
        (None, ["--graph", "radius"], ["parameter radius"]),
        (None, ["--device", "cuda"], ["CUDA"]),
    ],
)
def test_what_cannot_be_fitted_is_refused_by_the_name_of_its_place(
    run, changed, tmp_path: Path, change, options, named
) -> None:
    dataset = {"dataset": changed(change)} if change else {}
    if "cuda" in options and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    result = run("--metagenes", "6", *options, **dataset)
    assert result.exit_code == 2, result.output
    assert all(name in result.output for name in named)
    assert not (tmp_path / "fit.h5ad").exists()


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"metagene": 5}, "metagene'"),
        ({"metagenes": 2.5}, "metagenes"),
        ({"spatial": "yes"}, "spatial"),
        ({"sparsity": math.nan}, "sparsity"),
        ({"spatial_weight": math.inf}, "spatial_weight"),
        ({"radius": math.inf}, "radius"),
        ({"radius": -1, "graph": "radius"}, "radius"),
        ({"radius": "far"}, "radius"),
        ({"graph": "radius", "radius": 1e-6, "metagenes": 6, "spatial": "none"}, "dataset.h5ad: obsm/spatial: section"),
    ],
)
def test_wrong_parameters_are_refused_by_name(run, tmp_path: Path, given, named) -> None:
    params = tmp_path / "params.yml"
    params.write_text(yaml.safe_dump(given))
    result = run("--params", str(params))
    assert result.exit_code == 2, result.output
    assert named in result.output
    assert not (tmp_path / "fit.h5ad").exists()
