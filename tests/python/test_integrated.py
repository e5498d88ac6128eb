"""`integrate`: one file with data, embeddings, and neighbours, UMAP and clusters of the chosen method."""

import json
import threading
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from click.testing import CliRunner
from h5py._objects import phil
from scipy import sparse
from sklearn.neighbors import NearestNeighbors

from unbatch.cli import integrate
from unbatch.data import as_zarr, io, portable
from unbatch.errors import StorageError
from unbatch.report import embedding

ROOT = Path(__file__).parents[2]
CARDS = ROOT / "assets" / "methods.yml"
TOTALS = {"harmony": 0.7, "batchblend": 0.5, "none": 0.4, "shuffled": 0.2, "label_leak": 0.9, "bbknn": None}
GENES = 20
"""Genes with corrected expression."""


def write_fit(path: Path, data: ad.AnnData, method: str, seed: int) -> None:
    rng = np.random.default_rng([seed, len(method)])
    fit = ad.AnnData(obs=pd.DataFrame(index=data.obs_names), var=pd.DataFrame(index=data.var_names[5 : 5 + GENES]))
    values = rng.normal(size=(data.n_obs, 4)) + 6 * np.eye(4)[np.arange(data.n_obs) % 4]
    if method == "bbknn":
        near = NearestNeighbors(n_neighbors=5).fit(values).kneighbors_graph()
        fit.obsp[method] = sparse.csr_matrix(near + near.T, dtype=np.float32)
    else:
        fit.obsm[f"X_{method}"] = values.astype(np.float32)
    if method == "batchblend":
        fit.layers["corrected"] = rng.random((data.n_obs, GENES)).astype(np.float32)
    fit.uns["unbatch"] = {
        "schema": 1,
        "method": method,
        "output": "graph" if method == "bbknn" else "embedding",
        "params": {},
        "seed": seed,
        "device": "cpu",
        "wall_s": 1.0,
        "peak_mb": 1.0,
        "versions": {},
    }
    io.write_h5ad(fit, path)


def row(method: str, seed: int, **more) -> dict:
    total = TOTALS[method]
    changes = 0.005 * np.sin(np.arange(20) + len(method))
    left_out = {} if total is None else {name: (total + changes).tolist() for name in ("batch", "bio", "total")}
    values = {"id": f"toy.{method}.s{seed}", "method": method, "params_id": "default", "seed": seed, "status": "ok"}
    values |= dict.fromkeys(("batch", "bio", "total"), total and total + 0.001 * seed)
    values |= {"metrics": dict.fromkeys(("ilisi", "nmi"), total), "output": "graph" if total is None else "embedding"}
    return values | {"cells": {"left_out": left_out, "clustering_sd": {}}} | more


def write_scores(path: Path, data: ad.AnnData, rows: list[dict]) -> Path:
    dataset = {
        "name": "toy",
        "cells": data.n_obs,
        "genes": data.n_vars,
        "batches": {"a": 1, "b": 1},
        "labels": {"T": 2},
    }
    metrics = {"batch": ["ilisi"], "bio": ["nmi"], "weights": {"batch": 0.4, "bio": 0.6}, "missing": {}}
    path.write_text(json.dumps({"schema": 1, "dataset": dataset, "metrics": metrics, "rows": rows}))
    return path


@pytest.fixture(scope="module")
def made(dataset_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fits of six methods with two seeds, and their scores."""
    folder = tmp_path_factory.mktemp("integrated")
    data = ad.read_h5ad(dataset_path)
    rows = [row(method, seed) for method in TOTALS for seed in (0, 1)]
    for each in rows:
        write_fit(folder / f"{each['id']}.fit.h5ad", data, each["method"], each["seed"])
    write_scores(folder / "scores.json", data, rows)
    return folder


def run(dataset: Path, made: Path, output: Path, *options: str, fits: list[Path] | None = None, scores=None):
    files = sorted(made.glob("*.fit.h5ad")) if fits is None else fits
    arguments = [
        dataset,
        *files,
        "--scores",
        scores or made / "scores.json",
        "--methods",
        CARDS,
        "-o",
        output,
        *options,
    ]
    return CliRunner().invoke(integrate.main, [str(each) for each in (*arguments, "--threads", 1)])


@pytest.fixture(scope="module")
def integrated(dataset_path: Path, made: Path) -> Path:
    path = made / "integrated.h5ad"
    result = run(dataset_path, made, path, "--zarr", made / "integrated.zarr", "--notes", made / "choice.json")
    assert result.exit_code == 0, result.output
    return path


def test_the_file_has_the_dataset_as_it_is_and_every_embedding(dataset_path, made, integrated):
    data, found = ad.read_h5ad(dataset_path), ad.read_h5ad(integrated)
    assert (data.X != found.X).nnz == (data.layers["counts"] != found.layers["counts"]).nnz == 0
    pd.testing.assert_frame_equal(found.obs.drop(columns="leiden"), data.obs)
    pd.testing.assert_frame_equal(found.var, data.var)
    np.testing.assert_array_equal(found.obsm["spatial"], data.obsm["spatial"])
    assert found.uns["unbatch"]["source"] == data.uns["unbatch"]["source"]
    # the first seed; permuted cells and the labels themselves are nothing to go on with
    assert {name for name in found.obsm if name not in data.obsm} == {"X_harmony", "X_batchblend", "X_none", "X_umap"}
    fit = ad.read_h5ad(made / "toy.harmony.s0.fit.h5ad")
    np.testing.assert_array_equal(found.obsm["X_harmony"], fit.obsm["X_harmony"])
    graph = ad.read_h5ad(made / "toy.bbknn.s0.fit.h5ad").obsp["bbknn"]
    assert (found.obsp["bbknn"] != graph).nnz == 0


def test_the_file_says_which_method_was_chosen_and_where_embeddings_are_from(made, integrated):
    about = ad.read_h5ad(integrated).uns["unbatch"]["integrated"]
    assert (about["method"], about["reason"], about["slot"]) == ("harmony", "first", "obsm/X_harmony")
    table = about["embeddings"]
    assert table.loc["X_harmony", ["fit", "seed", "rank"]].tolist() == ["toy.harmony.s0", 0, 1]
    assert table.loc["bbknn", "slot"] == "obsp/bbknn"
    assert {"scanpy", "umap-learn", "igraph", "unbatch"} <= about["versions"].keys()
    (note,) = json.loads((made / "choice.json").read_text())["notes"]
    assert (note["code"], note["severity"]) == ("chosen", "info")


def test_scanpy_goes_on_from_there(integrated):
    data = ad.read_h5ad(integrated)
    assert data.obsm["X_umap"].shape == (data.n_obs, 2)
    # from four groups that are apart from one another
    assert (pd.crosstab(data.obs["leiden"], np.arange(data.n_obs) % 4) > 0).sum(axis=1).max() == 1
    settings = {"flavor": "igraph", "n_iterations": 2, "directed": False, "random_state": 0}
    sc.tl.leiden(data, key_added="again", **settings)
    pd.testing.assert_series_equal(data.obs["again"], data.obs["leiden"], check_names=False)
    assert sc.Neighbors(data).n_neighbors == embedding.NEIGHBOURS


def test_older_readers_know_every_element_and_the_zarr_store_is_the_same(made, integrated):
    with h5py.File(integrated) as file:
        assert portable.foreign_elements(file) == {}
    assert (made / "integrated.zarr" / ".zgroup").is_file()
    one, other = ad.read_h5ad(integrated), ad.read_zarr(made / "integrated.zarr")
    assert (one.X != other.X).nnz == (one.layers["counts"] != other.layers["counts"]).nnz == 0
    pd.testing.assert_frame_equal(one.obs, other.obs)
    pd.testing.assert_frame_equal(one.var, other.var)
    for name, values in one.obsm.items():
        np.testing.assert_array_equal(values, other.obsm[name])
    for name, values in one.obsp.items():
        assert (values != other.obsp[name]).nnz == 0
    assert one.uns["unbatch"]["integrated"]["text"] == other.uns["unbatch"]["integrated"]["text"]


def test_same_input_and_seed_give_the_same_file_and_another_seed_does_not(dataset_path, made, integrated, tmp_path):
    first = ad.read_h5ad(integrated)
    for seed, same in ((0, True), (1, False)):
        assert run(dataset_path, made, tmp_path / "x.h5ad", "--seed", seed).exit_code == 0
        again = ad.read_h5ad(tmp_path / "x.h5ad")
        assert np.array_equal(first.obsm["X_umap"], again.obsm["X_umap"]) == same


def test_a_method_can_be_named_and_its_corrected_expression_comes_along(dataset_path, made, tmp_path):
    assert run(dataset_path, made, tmp_path / "x.h5ad", "--use", "batchblend").exit_code == 0
    data = ad.read_h5ad(tmp_path / "x.h5ad")
    about = data.uns["unbatch"]["integrated"]
    assert (about["method"], about["reason"], about["use"]) == ("batchblend", "asked", "batchblend")
    fit = ad.read_h5ad(made / "toy.batchblend.s0.fit.h5ad")
    np.testing.assert_array_equal(data.obsm["corrected"], fit.layers["corrected"])
    assert data.var_names[data.var["corrected"]].equals(fit.var_names)


def test_a_graph_can_be_chosen_for_further_work(dataset_path, made, tmp_path):
    assert run(dataset_path, made, tmp_path / "x.h5ad", "--use", "bbknn").exit_code == 0
    data = ad.read_h5ad(tmp_path / "x.h5ad")
    assert (data.obsp["connectivities"] != data.obsp["bbknn"]).nnz == 0
    assert np.isfinite(data.obsm["X_umap"]).all()
    assert np.ptp(data.obsm["X_umap"], axis=0).min() > 1
    assert len(set(data.obs["leiden"])) > 1


def test_without_a_fit_of_the_method_that_was_named_there_are_no_clusters(dataset_path, made, tmp_path):
    fits = [made / f"toy.none.s{seed}.fit.h5ad" for seed in (0, 1)]
    rows = [row("none", 0), row("none", 1), row("harmony", 0, status="failed", message="it broke", metrics={})]
    scores = write_scores(tmp_path / "s.json", ad.read_h5ad(dataset_path), rows)
    result = run(dataset_path, made, tmp_path / "x.h5ad", "--use", "harmony", fits=fits, scores=scores)
    assert result.exit_code == 0, result.output
    data = ad.read_h5ad(tmp_path / "x.h5ad")
    assert "leiden" not in data.obs
    assert "X_umap" not in data.obsm
    assert "X_none" in data.obsm
    assert data.uns["unbatch"]["integrated"]["reason"] == "no_fit"
    assert "it broke" in data.uns["unbatch"]["integrated"]["text"]


def test_where_every_fit_failed_the_file_has_the_data_alone(dataset_path, made, tmp_path):
    data = ad.read_h5ad(dataset_path)
    scores = write_scores(tmp_path / "s.json", data, [row("harmony", 0, status="failed", metrics={})])
    assert run(dataset_path, made, tmp_path / "x.h5ad", fits=[], scores=scores).exit_code == 0
    found = ad.read_h5ad(tmp_path / "x.h5ad")
    assert (found.X != data.X).nnz == 0
    assert found.obsm.keys() == data.obsm.keys()
    assert found.uns["unbatch"]["integrated"]["reason"] == "no_fit"
    assert len(found.uns["unbatch"]["integrated"]["embeddings"]) == 0


def test_a_column_of_the_input_with_the_name_of_the_clusters_is_kept(dataset_path, made, tmp_path):
    data = ad.read_h5ad(dataset_path)
    data.obs["leiden"] = pd.Categorical(["mine"] * data.n_obs)
    io.write_h5ad(data, tmp_path / "d.h5ad")
    assert run(tmp_path / "d.h5ad", made, tmp_path / "x.h5ad").exit_code == 0
    obs = ad.read_h5ad(tmp_path / "x.h5ad").obs
    assert set(obs["leiden_input"]) == {"mine"}
    assert "mine" not in set(obs["leiden"])


@pytest.mark.parametrize(
    ("use", "said"),
    [("harmoni", "harmony"), ("shuffled", "control"), ("label_leak", "control"), ("combat", "batchblend, bbknn")],
)
def test_a_method_that_cannot_be_chosen_is_refused(dataset_path, made, tmp_path, use, said):
    result = run(dataset_path, made, tmp_path / "x.h5ad", "--use", use)
    assert result.exit_code == 2
    assert said in result.output
    assert list(tmp_path.iterdir()) == []


def test_files_that_do_not_belong_together_are_refused_and_nothing_is_written(dataset_path, made, tmp_path):
    (tmp_path / "out").mkdir()
    fits = [made / "toy.none.s0.fit.h5ad"]
    absent = run(dataset_path, made, tmp_path / "out" / "x.h5ad", fits=fits)
    assert (absent.exit_code, "toy.harmony.s0" in absent.output) == (2, True)

    data = ad.read_h5ad(dataset_path)
    (tmp_path / "f").mkdir()
    write_fit(tmp_path / "f" / "toy.harmony.s0.fit.h5ad", data[::-1].copy(), "harmony", 0)
    other = run(dataset_path, made, tmp_path / "out" / "x.h5ad", fits=[tmp_path / "f" / "toy.harmony.s0.fit.h5ad"])
    assert (other.exit_code, "another order" in other.output) == (2, True)

    io.write_h5ad(data[:50].copy(), tmp_path / "d.h5ad")
    fewer = run(tmp_path / "d.h5ad", made, tmp_path / "out" / "x.h5ad")
    assert (fewer.exit_code, "50 cells" in fewer.output) == (2, True)

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    taken = run(dataset_path, made, tmp_path / "out" / "x.h5ad", "--zarr", tmp_path / "mine")
    assert (taken.exit_code, (tmp_path / "mine" / "thesis.txt").exists()) == (2, True)
    assert list((tmp_path / "out").iterdir()) == []


def test_two_outputs_have_two_names_and_a_row_has_one_fit(dataset_path, made, tmp_path):
    for options in (["--notes", "x.h5ad"], ["--zarr", "x.h5ad"], ["--notes", "n.json", "--zarr", "n.json"]):
        paths = [option if option.startswith("-") else str(tmp_path / option) for option in options]
        assert run(dataset_path, made, tmp_path / "x.h5ad", *paths).exit_code == 2, options
    assert not list(tmp_path.iterdir())
    fit = made / "toy.harmony.s0.fit.h5ad"
    (tmp_path / "toy.harmony.s0.h5ad").write_bytes(fit.read_bytes())
    twice = run(dataset_path, made, tmp_path / "x.h5ad", fits=[fit, tmp_path / "toy.harmony.s0.h5ad"])
    assert (twice.exit_code, "toy.harmony.s0" in twice.output) == (2, True)
    assert not (tmp_path / "x.h5ad").exists()


def grouped(cells: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.normal(size=(cells, 5)) + 8 * np.eye(5)[np.arange(cells) % 5]).astype(np.float32)


def test_neighbours_are_those_of_scanpy():
    values = grouped(300)
    data = ad.AnnData(obs=pd.DataFrame(index=[str(i) for i in range(300)]), obsm={"X": values})
    sc.pp.neighbors(data, n_neighbors=embedding.NEIGHBOURS, use_rep="X")
    found = embedding.lay_out(values, 0)
    assert abs(data.obsp["distances"] - found.distances).max() < 1e-4
    assert abs(data.obsp["connectivities"] - found.connectivities).max() < 0.02


def test_cells_that_coincide_have_as_many_neighbours_and_none_is_itself():
    values = grouped(100)
    values[:40] = values[0]
    found = embedding.lay_out(values, 0)
    assert set(np.diff(found.distances.indptr)) == {embedding.NEIGHBOURS - 1}
    assert not found.distances.diagonal().any()
    coordinates = found.distances.tocoo()
    assert (coordinates.row != coordinates.col).all()


def test_neighbours_of_many_cells_are_searched_with_the_seed_by_one_thread(monkeypatch):
    import umap.umap_

    values, asked = grouped(120), {}

    def nearest(data, k, **settings):
        asked.update(settings)
        distances, indices = NearestNeighbors(n_neighbors=k).fit(data).kneighbors(data)
        return indices, distances, None

    exact = embedding.lay_out(values, 7)
    # the real search is compiled for half a minute
    monkeypatch.setattr(umap.umap_, "nearest_neighbors", nearest)
    monkeypatch.setattr(embedding, "EXACT", 100)
    found = embedding.lay_out(values, 7)
    assert (found.distances != exact.distances).nnz == 0
    assert asked["n_jobs"] == 1
    assert asked["random_state"].randint(10**6) == np.random.RandomState(7).randint(10**6)


def test_the_notebook_opens_the_file(integrated, tmp_path, monkeypatch):
    import matplotlib as mpl

    mpl.use("Agg")
    cells = json.loads((ROOT / "docs" / "integrated.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    lines = [line for line in "\n".join(code).splitlines() if line]
    assert len(lines) <= 10
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "integrated.h5ad").symlink_to(integrated)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for cell in code:
        exec(compile(cell, "integrated.ipynb", "exec"), names)
    assert len(set(names["data"].obs["coarse"])) > 1
    assert "rank_genes_groups" in names["data"].uns


def test_arrays_without_columns_are_in_the_zarr_store(tmp_path: Path):
    data = ad.AnnData(np.ones((5, 3), np.float32))
    data.obsm["X_empty"], data.layers["other"] = np.zeros((5, 0), np.float32), np.ones((5, 3), np.float32)
    io.write_h5ad(data, tmp_path / "a.h5ad")
    as_zarr.write_zarr(tmp_path / "a.h5ad", tmp_path / "a.zarr")
    store = ad.read_zarr(tmp_path / "a.zarr")
    assert store.obsm["X_empty"].shape == (5, 0)
    np.testing.assert_array_equal(store.layers["other"], data.layers["other"])


def test_the_lock_of_hdf5_is_free_while_the_zarr_store_is_written(tmp_path: Path, monkeypatch):
    """Zarr works in a thread of its own, which needs the lock if it is the one that frees a file."""
    file = ad.AnnData(np.ones((4, 3), np.float32), layers={"counts": sparse.csr_matrix(np.eye(4, 3))})
    file.write_h5ad(tmp_path / "a.h5ad")
    copy, free = as_zarr._copy_array, []

    def take() -> None:
        got = phil.acquire(blocking=False)
        free.append(got)
        if got:
            phil.release()

    def looked(*given: object) -> None:
        thread = threading.Thread(target=take)
        thread.start()
        thread.join()
        copy(*given)

    monkeypatch.setattr(as_zarr, "_copy_array", looked)
    as_zarr.write_zarr(tmp_path / "a.h5ad", tmp_path / "a.zarr")
    assert len(free) >= 4
    assert all(free)


def test_nothing_is_written_where_the_zarr_store_cannot_be(dataset_path, made, tmp_path, monkeypatch):
    def refuse(source: Path, folder: Path) -> None:
        raise StorageError(f"{folder}: no space is left on the disk")

    monkeypatch.setattr(as_zarr, "write_zarr", refuse)
    result = run(dataset_path, made, tmp_path / "x.h5ad", "--zarr", tmp_path / "x.zarr", "--notes", tmp_path / "n.json")
    assert result.exit_code == StorageError.exit_code
    assert not list(tmp_path.iterdir())
