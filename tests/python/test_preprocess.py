import csv
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from scipy.sparse import csr_matrix

from unbatch.cli.preprocess import main
from unbatch.data import io, join, preprocess, schema, sparse
from unbatch.data.notes import Note, read_notes
from unbatch.data.samplesheet import is_samplesheet, read_samplesheet

DLPFC = Path(__file__).parents[3] / "shared/data/dlpfc"


def make(cells: int = 12, genes: int = 8, seed: int = 0) -> ad.AnnData:
    """Counts, at least 1 everywhere, in two samples with two labels each."""
    counts = np.random.default_rng(seed).poisson(3, (cells, genes)) + 1
    obs = pd.DataFrame(
        {"sample": np.repeat(["s1", "s2"], [cells // 2, cells - cells // 2]), "label_in": ["a", "b"] * (cells // 2)},
        index=[f"c{i}" for i in range(cells)],
    )
    adata = ad.AnnData(
        csr_matrix(counts.astype("float32")), obs=obs, obsm={"spatial": np.arange(2.0 * cells).reshape(-1, 2)}
    )
    adata.var_names = [f"g{i}" for i in range(genes)]
    return adata


def write_sheet(folder: Path, rows: list[dict[str, str]]) -> Path:
    with (folder / "sheet.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder / "sheet.csv"


def two_samples(folder: Path, first: ad.AnnData | None = None, second: ad.AnnData | None = None) -> Path:
    (first or make()).write_h5ad(folder / "one.h5ad")
    (second or make(seed=1)).write_h5ad(folder / "two.h5ad")
    return write_sheet(folder, [{"sample": "A", "path": "one.h5ad"}, {"sample": "B", "path": "two.h5ad"}])


def run(source: Path, *options: str) -> Result:
    output = source.parent / "dataset.h5ad"
    return CliRunner().invoke(main, [str(source), "-o", str(output), *options])


def done(source: Path, *options: str) -> ad.AnnData:
    result = run(source, *options)
    assert result.exit_code == 0, result.output
    return ad.read_h5ad(source.parent / "dataset.h5ad")


def refused(source: Path, *options: str) -> str:
    """Run, and return the one sentence that says why it was refused."""
    before = set(source.parent.iterdir())
    result = run(source, *options)
    last = result.stderr.rstrip("\n").splitlines()[-1]
    assert result.exit_code == 2, result.output
    assert last.startswith("Error: ")
    assert "Traceback" not in result.stderr
    assert set(source.parent.iterdir()) == before
    return last.removeprefix("Error: ")


@pytest.fixture
def one_file(tmp_path: Path) -> Callable[[ad.AnnData], Path]:
    def write(adata: ad.AnnData) -> Path:
        adata.write_h5ad(tmp_path / "in.h5ad")
        return tmp_path / "in.h5ad"

    return write


# What the dataset holds ---------------------------------------------------------------------------------------------


def test_one_file_becomes_a_dataset(one_file):
    dataset = done(one_file(make()), "--label-key", "label_in", "--seed", "3")
    schema.validate(dataset, "dataset", "dataset")
    assert list(dataset.obs_names) == [f"c{i}" for i in range(12)]
    assert list(dataset.obs["batch"].cat.categories) == ["s1", "s2"]
    totals = make().X.toarray().sum(axis=1)
    np.testing.assert_allclose(dataset.obs["size_factor"], totals / totals.mean())
    expected = np.log1p(make().X.toarray() / dataset.obs["size_factor"].to_numpy()[:, None])
    np.testing.assert_allclose(dataset.X.toarray(), expected, rtol=1e-6)
    np.testing.assert_array_equal(dataset.layers["counts"].toarray(), make().X.toarray())
    assert dataset.var["highly_variable"].all()
    made = dataset.uns["unbatch"]
    assert (made["counts"], made["source"]) == ("integer", "in.h5ad")
    assert made["parameters"]["seed"] == 3
    assert made["parameters"]["batch_key"] == "sample"


def test_samples_are_joined_on_shared_genes_in_the_order_of_the_first(tmp_path: Path):
    first = make()[:, ["g3", "g0", "g7", "g2"]].copy()
    result = run(two_samples(tmp_path, first, make(seed=1)[:, :4].copy()))
    assert "A: 4 genes, 1 of them not in all samples" in result.stderr
    dataset = ad.read_h5ad(tmp_path / "dataset.h5ad")
    assert list(dataset.var_names) == ["g3", "g0", "g2"]
    assert list(dataset.obs_names[[0, 12]]) == ["A/c0", "B/c0"]
    np.testing.assert_array_equal(
        dataset.layers["counts"].toarray()[12:], make(seed=1)[:, ["g3", "g0", "g2"]].X.toarray()
    )
    losses = dataset.uns["unbatch"]["losses"]
    assert losses.loc["A"].to_dict() == {
        "genes": 4,
        "genes_not_shared": 1,
        "genes_dropped": 0,
        "not_genes": 0,
        "cells": 12,
        "cells_dropped": 0,
        "counts_from": "X",
        "genes_ambiguous": 0,
        "kind": "h5ad",
        "file": "one.h5ad",
        "coordinates_from": "obsm/spatial",
    }


def test_columns_of_the_sheet_and_of_the_files_are_kept(tmp_path: Path):
    first, second = make(), make(seed=1)
    first.obs["age"] = 3.5
    second.obs["age"] = pd.Categorical(["old"] * 12)
    first.obs["donor"] = "from the file"
    first.obs["batch"] = "theirs"
    two_samples(tmp_path, first, second)
    rows = [
        {"sample": "A", "path": "one.h5ad", "donor": "d1", "site": ""},
        {"sample": "B", "path": "two.h5ad", "donor": "d2", "site": "x"},
    ]
    result = run(write_sheet(tmp_path, rows))
    assert "the samplesheet's donor replaces the one in the file" in result.stderr
    obs = ad.read_h5ad(tmp_path / "dataset.h5ad").obs
    assert obs.loc["A/c0", ["sample", "donor", "age", "batch", "batch_input"]].tolist() == [
        "A",
        "d1",
        "3.5",
        "A",
        "theirs",
    ]
    assert obs.loc["B/c0", ["sample", "donor", "age", "site"]].tolist() == ["B", "d2", "old", "x"]
    assert obs["site"].isna().sum() == 12


def test_batches_can_be_another_column_of_the_sheet(tmp_path: Path):
    for number in range(4):
        make(seed=number).write_h5ad(tmp_path / f"{number}.h5ad")
    rows = [{"sample": f"s{i}", "path": f"{i}.h5ad", "donor": f"d{i // 2}"} for i in range(4)]
    dataset = done(write_sheet(tmp_path, rows), "--batch-key", "donor")
    assert dataset.obs["batch"].value_counts().to_dict() == {"d0": 24, "d1": 24}


def test_staged_files_are_taken_by_the_number_of_their_row(tmp_path: Path):
    rows = [{"sample": name, "path": "elsewhere/x.h5ad"} for name in ("A", "B")]
    for number in (1, 2):
        (tmp_path / "staged" / str(number)).mkdir(parents=True)
        make(seed=number).write_h5ad(tmp_path / "staged" / str(number) / "x.h5ad")
    sheet = write_sheet(tmp_path, rows)
    dataset = done(sheet, "--staged", str(tmp_path / "staged"))
    np.testing.assert_array_equal(dataset.layers["counts"].toarray()[12:], make(seed=2).X.toarray())
    (tmp_path / "staged" / "1" / "y.h5ad").touch()
    assert "staged/1: expected one entry, the file of sample A, found 2" in refused(
        sheet, "--staged", f"{tmp_path}/staged"
    )


def test_counts_are_looked_for_in_the_layer_then_raw_then_x(one_file):
    adata = make()
    counts = adata.X.toarray()
    adata.X = csr_matrix(counts + 1)
    assert (done(one_file(adata)).layers["counts"].toarray() == counts + 1).all()
    adata.raw = ad.AnnData(csr_matrix(counts + 2), obs=adata.obs, var=adata.var.rename(index="raw-{}".format))
    raw = done(one_file(adata))
    assert (raw.layers["counts"].toarray() == counts + 2).all()
    assert raw.var_names[0] == "raw-g0"
    adata.layers["counts"] = csr_matrix(counts + 3)
    assert (done(one_file(adata)).layers["counts"].toarray() == counts + 3).all()
    adata.layers["mine"] = csr_matrix(counts + 4)
    source = one_file(adata)
    for choice, added in (("X", 1), ("raw", 2), ("layer:mine", 4)):
        assert (done(source, "--counts-from", choice).layers["counts"].toarray() == counts + added).all()
    assert "no counts in layers/no; found X, raw/X, layers/counts, layers/mine" in refused(
        source, "--counts-from", "layer:no"
    )


def test_continuous_values_are_taken_when_allowed(one_file):
    adata = make()
    adata.X.data[0] = 2.5
    source = one_file(adata)
    sentence = refused(source)
    assert sentence.endswith(
        "in.h5ad: X holds 2.5 (cell c0, gene g0), which is not whole, expected raw counts; choose others by "
        "--counts-from, or give --allow-continuous"
    )
    dataset = done(source, "--allow-continuous")
    assert dataset.uns["unbatch"]["counts"] == "continuous"
    assert dataset.layers["counts"][0, 0] == 2.5


def _draw(genes: int, depth: float) -> np.ndarray:
    """Counts of 150 cells of six types, whose sizes vary."""
    rng = np.random.default_rng(0)
    profiles = rng.dirichlet(np.full(genes, 0.3), 6)[rng.integers(0, 6, 150)]
    counts = rng.poisson(profiles * depth * rng.lognormal(0, 0.4, (150, 1))).astype(float)
    return counts[counts.sum(1) > 0]


@pytest.mark.parametrize(("genes", "depth"), [(100, 60), (100, 20_000), (500, 800)])
def test_logarithms_of_counts_are_distinguished_from_counts_and_from_corrected_values(genes: int, depth: float):
    counts = _draw(genes, depth)
    total, rng = counts.sum(1, keepdims=True), np.random.default_rng(1)
    ambient = counts.sum(0) / counts.sum()
    made = {
        "log1p": [np.log1p(counts), np.log1p(counts / total * 1e4), np.log1p(counts / total * total.mean())[:, ::2]],
        "log2(1 + x)": [np.log2(1 + counts), np.log2(1 + counts / total * 1e4)],
        "log10(1 + x)": [np.log10(1 + counts)],
        None: [
            counts,
            np.maximum(counts - 0.1 * total * ambient, 0),
            counts * rng.uniform(0.8, 1, genes),
            counts / total * 1e4,
            counts / total,
            rng.gamma(2, 0.1, counts.shape),
        ],
    }
    for name, several in made.items():
        assert [sparse.logarithm(csr_matrix(values.astype(np.float32))) for values in several] == [name] * len(several)


def test_continuous_values_are_described(one_file):
    adata = make(40, 30)
    adata.X = csr_matrix(adata.X).log1p()
    said = run(one_file(adata), "--allow-continuous").stderr
    assert "--allow-continuous): 0 to " in said
    assert "These are logarithms of counts (log1p)" in said
    adata.X = csr_matrix(adata.X.toarray() * np.random.default_rng(0).uniform(0.5, 1, 30).astype("float32"))
    assert "not recognised as logarithms" in run(one_file(adata), "--allow-continuous").stderr


def test_labels_that_mean_nothing_are_missing_and_the_cells_stay(one_file):
    adata = make()
    adata.obs["type"] = ["", "NA", "nan", "NaN", "None", "Unknown", None, "b", "a", "b", "10", "native"]
    dataset = done(one_file(adata), "--label-key", "type")
    assert dataset.n_obs == 12
    assert dataset.obs["label"].isna().sum() == 7
    assert set(dataset.obs["label"].cat.categories) == {"b", "a", "10", "native"}


def test_numbers_as_labels_are_whole_and_a_single_label_is_warned_of(one_file):
    adata = make()
    adata.obs["cluster"] = [1.0] * 11 + [np.nan]
    result = run(one_file(adata), "--label-key", "cluster")
    assert "All labels in cluster are 1: nothing can be said about biology" in result.stderr


def test_categories_keep_their_order(one_file):
    adata = make()
    adata.obs["sample"] = pd.Categorical(adata.obs["sample"], categories=["unused", "s2", "s1"])
    assert list(done(one_file(adata)).obs["batch"].cat.categories) == ["s2", "s1"]


def test_tables_are_made_fit_for_h5ad(tmp_path: Path):
    table = pd.DataFrame(
        {
            "a/b": [1, 2, 3],
            "mixed": np.array([1, "x", None], dtype=object),
            "both": np.array([1, "1", 2.5], dtype=object),
            "time": pd.Timestamp("2026-01-01"),
            "cluster": pd.Categorical([2, 10, None], categories=[10, 2, 5]),
            "empty": np.array([None] * 3, dtype=object),
            "flag": [True, False, True],
        },
        index=pd.Index(["c1", "c2", "c3"], name="barcode"),
    )
    tidied = preprocess.tidy(table)
    ad.AnnData(obs=tidied).write_h5ad(tmp_path / "a.h5ad")
    assert tidied["a_b"].tolist() == [1, 2, 3]
    assert tidied["mixed"].tolist()[:2] == ["1", "x"]
    assert tidied["both"].tolist() == ["1", "1", "2.5"]
    assert list(tidied["cluster"].cat.categories) == ["10", "2"]
    assert tidied["empty"].isna().all()
    assert tidied["flag"].dtype == bool


def test_filters_drop_genes_then_cells_and_say_so(one_file):
    counts = np.full((12, 5), 2.0, dtype="float32")
    counts[1:, 4] = 0
    counts[2, :3] = 0
    counts[8, :] = 0
    adata = make(genes=5)
    adata.X = csr_matrix(counts)
    result = run(one_file(adata), "--min-cells", "2", "--min-genes", "2", "--min-counts", "1")
    assert "1 of 5 shared genes dropped" in result.stderr
    assert "s1: 5 genes, 0 of them not in all samples; 6 cells, 1 of them dropped" in result.stderr
    dataset = ad.read_h5ad(one_file(adata).with_name("dataset.h5ad"))
    assert dataset.shape == (10, 4)
    assert not {"c2", "c8"} & set(dataset.obs_names)
    np.testing.assert_array_equal(dataset.obsm["spatial"][2], adata.obsm["spatial"][3])


def test_coordinates_are_kept_only_if_all_samples_have_them(tmp_path: Path):
    dataset = done(two_samples(tmp_path))
    assert dataset.obsm["spatial"].shape == (24, 2)
    for change, message, code in (
        (lambda adata: adata.obsm.clear(), "no coordinates: B has no obsm/spatial", "no-coordinates"),
        (
            lambda adata: adata.obsm["spatial"].__setitem__((0, 0), np.nan),
            "NaN or infinite in 1 cells of B",
            "coordinates-not-finite",
        ),
        (
            lambda adata: adata.obsm.__setitem__("spatial", np.arange(36.0).reshape(12, 3)),
            "their dimensions differ",
            "coordinates-differ",
        ),
    ):
        second = make(seed=1)
        change(second)
        sheet = two_samples(tmp_path, second=second)
        assert message in run(sheet).stderr
        left = ad.read_h5ad(tmp_path / "dataset.h5ad")
        assert "spatial" not in left.obsm
        assert codes(left) >= {code}


def test_the_truth_of_a_simulation_is_carried_through(simulated_path: Path, one_file):
    simulated = ad.read_h5ad(simulated_path)
    simulated.X = csr_matrix(simulated.X.toarray() * (np.arange(60) != 3))
    dataset = done(one_file(simulated), "--min-cells", "1")
    assert dataset.n_vars == 59
    np.testing.assert_array_equal(dataset.obsm["X_true"], simulated.obsm["X_true"])
    np.testing.assert_array_equal(dataset.varm["metagenes_true"], np.delete(simulated.varm["metagenes_true"], 3, 0))
    truth, before = (adata.uns["unbatch"]["truth"] for adata in (dataset, simulated))
    np.testing.assert_array_equal(truth["beta"], before["beta"])
    np.testing.assert_array_equal(truth["gene_factors"], np.delete(before["gene_factors"], 3, 1))
    assert truth["parameters"] == before["parameters"]
    assert {"domain", "cell_type"} <= set(dataset.obs)


def test_a_dataset_can_be_preprocessed_again(dataset_path: Path, tmp_path: Path):
    (tmp_path / "in.h5ad").write_bytes(dataset_path.read_bytes())
    again = done(tmp_path / "in.h5ad", "--batch-key", "batch", "--label-key", "label")
    before = ad.read_h5ad(dataset_path)
    np.testing.assert_array_equal(again.X.toarray(), before.X.toarray())
    assert (again.obs["label"] == before.obs["label"]).all()
    assert "size_factor_input" in again.obs


def test_highly_variable_genes_vary_within_batches():
    rng = np.random.default_rng(0)
    batch = pd.Categorical(np.repeat(["a", "b"], 200))
    mean = np.tile(rng.uniform(1, 5, 100), (400, 1))
    mean[200:, :10] *= 4
    mean[:, 90:] *= rng.gamma(0.5, 2, (400, 10))
    chosen = preprocess.highly_variable(csr_matrix(np.log1p(rng.poisson(mean)).astype("float32")), batch, 10)
    assert chosen.sum() == 10
    assert chosen[90:].sum() >= 8
    assert not chosen[:10].any()


def test_genes_that_do_not_vary_cannot_be_ranked(one_file):
    adata = make()
    adata.X = csr_matrix(np.ones((12, 8), dtype="float32"))
    assert "no gene varies in one of the batches" in refused(one_file(adata), "--n-top-genes", "3")


def test_folds_are_stratified_by_batch_and_label():
    rng = np.random.default_rng(0)
    batch = pd.Categorical(rng.choice(["a", "b", "c"], 997))
    label = pd.Categorical.from_codes(rng.choice([-1, 0, 1, 2], 997, p=[0.1, 0.6, 0.2, 0.1]), list("xyz"))
    fold = preprocess.folds(batch, label, np.random.default_rng(1))
    table = pd.crosstab([batch, label.codes], fold)
    assert (table.max(axis=1) - table.min(axis=1) <= 1).all()
    assert np.ptp(np.bincount(fold)) <= 1
    assert not np.array_equal(fold, preprocess.folds(batch, label, np.random.default_rng(2)))


def test_sums_and_checks_work_over_blocks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sparse, "_BLOCK", 3)
    values = np.array([[1, 0, 2], [0, 0, 0], [3, 4, 0], [0, 0, 0]], dtype="float32")
    counts = csr_matrix(values)
    np.testing.assert_array_equal(sparse.totals(counts), values.sum(axis=1))
    np.testing.assert_array_equal(sparse.cells_per_gene(counts), (values > 0).sum(axis=0))
    assert sparse.first_wrong(counts) is None
    counts.data[3] = 0.5
    assert sparse.first_wrong(counts) == (3, "not whole")
    assert sparse.first_wrong(counts, continuous=True) is None
    assert not sparse.are_whole(counts)


# 10x and Space Ranger -----------------------------------------------------------------------------------------------


def write_10x(path: Path, adata: ad.AnnData, symbols: list[str]) -> None:
    """Write a matrix as Cell Ranger does, with one antibody after the genes."""
    columns = np.column_stack([adata.X.toarray(), np.full(adata.n_obs, 99)])
    counts = csr_matrix(columns.astype("int32"))
    with h5py.File(path, "w") as file:
        matrix = file.create_group("matrix")
        matrix["barcodes"] = np.array(adata.obs_names, dtype="S")
        for key in ("data", "indices", "indptr"):
            matrix[key] = getattr(counts, key)
        matrix["shape"] = [columns.shape[1], columns.shape[0]]
        features = matrix.create_group("features")
        features["id"] = np.array([*(f"ENSG{i}" for i in range(adata.n_vars)), "AB"], dtype="S")
        features["name"] = np.array([*symbols, "CD3"], dtype="S")
        features["feature_type"] = np.array(["Gene Expression"] * adata.n_vars + ["Antibody Capture"], dtype="S")


def test_10x_files_are_named_by_symbol_or_if_that_is_not_unique_by_id(tmp_path: Path):
    unique, repeated = list("ABCDEFGH"), list("AACDEFGH")
    write_10x(tmp_path / "one.h5", make(), unique)
    rows = [{"sample": "A", "path": "one.h5"}, {"sample": "B", "path": "two.h5"}]
    sheet = write_sheet(tmp_path, rows)
    for symbols, names, other in (
        (unique, unique, "gene_id"),
        (repeated, [f"ENSG{i}" for i in range(8)], "gene_symbol"),
    ):
        write_10x(tmp_path / "two.h5", make(seed=1), symbols)
        dataset = done(sheet)
        assert list(dataset.var_names) == names
        assert other in dataset.var
        np.testing.assert_array_equal(dataset.layers["counts"].toarray()[12:], make(seed=1).X.toarray())


@pytest.mark.parametrize("header", [True, False])
def test_a_space_ranger_folder_gives_the_spots_in_tissue_and_their_positions(header: bool, tmp_path: Path):
    rows = []
    for name in ("one", "two"):
        (tmp_path / name / "spatial").mkdir(parents=True)
        write_10x(tmp_path / name / "filtered_feature_bc_matrix.h5", make(), list("ABCDEFGH"))
        lines = [f"c{i},{int(i != 5)},{i},{2 * i},{10 * i},{20 * i}" for i in reversed(range(14))]
        if header:
            lines.insert(0, "barcode,in_tissue,array_row,array_col,pxl_row_in_fullres,pxl_col_in_fullres")
        table = tmp_path / name / "spatial" / f"tissue_positions{'' if header else '_list'}.csv"
        table.write_text("\n".join(lines) + "\n")
        rows.append({"sample": name, "path": name})
    dataset = done(write_sheet(tmp_path, rows))
    assert dataset.n_obs == 22
    assert "one/c5" not in dataset.obs_names
    np.testing.assert_array_equal(dataset.obsm["spatial"][5], [120, 60])
    np.testing.assert_array_equal(dataset.layers["counts"].toarray()[5], make().X.toarray()[6])
    (tmp_path / "two" / "spatial" / table.name).write_text("\n".join(lines[:-2]) + "\n")
    assert "barcodes of filtered_feature_bc_matrix.h5 are missing (c0" in refused(tmp_path / "sheet.csv")
    (tmp_path / "two" / "spatial" / table.name).unlink()
    assert "tissue_positions.csv: no such file" in refused(tmp_path / "sheet.csv")


# Notes ---------------------------------------------------------------------------------------------------------------


def codes(dataset: ad.AnnData, severity: str = "warning") -> set[str]:
    return {note.code for note in read_notes(dataset.uns["unbatch"]["notes"]) if note.severity == severity}


def test_losses_are_notes_by_sample_for_the_terminal_and_the_report(tmp_path: Path):
    first, second = make(), make(seed=1)
    first.var_names = [*first.var_names[:6], "x6", "x7"]
    second.X[:8] = 0
    sheet = two_samples(tmp_path, first, second)
    dataset = done(sheet, "--min-counts", "1", "--notes", str(tmp_path / "notes.json"))
    assert codes(dataset) == {"genes-not-shared", "cells-dropped", "column-replaced"}
    written = json.loads((tmp_path / "notes.json").read_text())
    numbers = {note["code"]: note["numbers"] for note in written["notes"]}
    assert numbers["genes-not-shared"]["samples"] == {"A": 2, "B": 2}
    assert numbers["cells-dropped"]["samples"] == {"B": 8}
    assert numbers["kept"] == {"cells": 16, "genes": 6}
    assert (written["cells"], written["genes"]) == dataset.shape
    assert [(row["sample"], row["cells"], row["cells_dropped"]) for row in written["samples"]] == [
        ("A", 12, 0),
        ("B", 12, 8),
    ]
    assert [Note(**row) for row in written["notes"]] == read_notes(dataset.uns["unbatch"]["notes"])


def test_data_without_fault_are_warned_of_nothing(tmp_path: Path):
    first, second = make(), make(seed=1)
    first.obs["sample"], second.obs["sample"] = "A", "other"
    dataset = done(two_samples(tmp_path, first, second))
    assert codes(dataset) == set()
    assert codes(dataset, "info") == {"column-replaced", "counts-from", "kept"}


def test_columns_of_a_file_that_the_sheet_wipes_are_warned_of(tmp_path: Path):
    assert codes(done(two_samples(tmp_path))) == {"column-replaced"}


def test_counts_from_another_place_in_each_sample_are_warned_of(tmp_path: Path):
    second = make(seed=1)
    second.layers["counts"] = second.X.copy()
    assert codes(done(two_samples(tmp_path, second=second))) >= {"counts-from"}


def test_labels_are_judged_by_the_cells_that_are_kept(one_file):
    adata = make(cells=40)
    adata.obs["label_in"] = ["A"] * 30 + ["B"] * 10
    adata.X = csr_matrix(adata.X.toarray() + np.r_[np.full(30, 5), np.zeros(10)][:, None].astype(np.float32))
    kept = done(one_file(adata), "--label-key", "label_in", "--min-counts", "60")
    assert (kept.obs["label"].nunique(), "one-label" in codes(kept)) == (1, True)


def test_two_outputs_have_two_names(one_file, tmp_path):
    assert "dataset.h5ad" in refused(one_file(make()), "--notes", str(tmp_path / "dataset.h5ad"))


def test_notes_have_no_control_characters(one_file):
    adata = make()
    adata.obs["label_in"] = "\x1b[2J\u202eevil"
    notes = read_notes(done(one_file(adata), "--label-key", "label_in").uns["unbatch"]["notes"])
    assert "one-label" in {note.code for note in notes}
    assert all(note.text.isprintable() for note in notes)


# Bad input ----------------------------------------------------------------------------------------------------------


def _set(adata: ad.AnnData, value: float) -> None:
    adata.X.data[3] = value


def _empty_cells(adata: ad.AnnData) -> None:
    adata.X[[1, 8]] = 0


def _rename(adata: ad.AnnData, axis: str) -> None:
    names = getattr(adata, axis).to_list()
    setattr(adata, axis, [names[0], names[0], *names[2:]])


def _only(adata: ad.AnnData, column: str, values: list[str | None]) -> None:
    adata.obs[column] = values


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda a: _set(a, -1), (), "X holds -1 (cell c0, gene g3), which is negative"),
        (
            lambda a: _set(a, np.nan),
            ("--allow-continuous",),
            "X holds nan (cell c0, gene g3), which is NaN or infinite",
        ),
        (lambda a: _set(a, np.inf), (), "X holds inf"),
        (lambda a: _set(a, 0.5), (), "which is not whole, expected raw counts"),
        (
            _empty_cells,
            (),
            "1 in s1, 1 in s2 (the first is c1), expected counts in every cell; --min-counts 1 drops them",
        ),
        (lambda a: _rename(a, "obs_names"), (), "1 cell names are there more than once (c0)"),
        (
            lambda a: _only(a, "sample", ["s1"] * 10 + ["s2"] * 2),
            (),
            "batch s2 of sample has 2 cells, expected 3 or more",
        ),
        (
            lambda a: _only(a, "sample", [None] + ["s1"] * 6 + ["s2"] * 5),
            (),
            "sample (--batch-key) is missing in 1 cells (the first is c0)",
        ),
        (
            lambda a: _only(a, "sample", ["", ""] + ["s1"] * 5 + ["s2"] * 5),
            (),
            "sample (--batch-key) is missing in 2 cells",
        ),
        (lambda a: None, ("--batch-key", "donor"), "no column donor (--batch-key), found sample, label_in"),
        (lambda a: None, ("--label-key", "type"), "no column type (--label-key), found sample, label_in"),
        (lambda a: _only(a, "type", ["NA"] * 12), ("--label-key", "type"), "type has no label in any cell"),
        (lambda a: None, ("--label-key", "sample"), "--label-key and --batch-key are both sample"),
        (lambda a: None, ("--min-counts", "1e6"), "has 0 cells left by the filters, expected 3 or more"),
        (lambda a: None, ("--min-cells", "13"), "no gene is left by --min-cells"),
        (lambda a: None, ("--staged", "."), "--staged goes with a samplesheet"),
    ],
)
def test_bad_content_of_a_file_is_refused(one_file, change, options: tuple[str, ...], message: str):
    adata = make()
    change(adata)
    sentence = refused(one_file(adata), *options)
    assert message in sentence
    assert "in.h5ad: " in sentence or sentence.startswith("--")


def test_one_batch_is_taken_and_said_to_need_no_correction(one_file):
    adata = make()
    adata.obs["sample"] = "s1"
    source = one_file(adata)
    result = run(source)
    assert result.exit_code == 0, result.output
    assert "sample has one batch only (s1): there is nothing to correct" in result.stderr


@pytest.mark.parametrize(("shape", "what"), [((0, 5), "cell"), ((5, 0), "gene")])
def test_files_without_cells_or_genes_are_refused(one_file, shape: tuple[int, int], what: str):
    adata = ad.AnnData(csr_matrix(shape, dtype="float32"))
    assert f"in.h5ad: there are 0 {what}s" in refused(one_file(adata))


def test_samples_without_shared_genes_are_refused_with_examples(tmp_path: Path):
    second = make()
    second.var_names = [f"ENSG{i}" for i in range(8)]
    sentence = refused(two_samples(tmp_path, second=second))
    assert "no gene is in all samples (A has g0, g1, ...; B has ENSG0, ENSG1, ...)" in sentence


def test_all_files_are_looked_at_before_any_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    sheet = two_samples(tmp_path)
    (tmp_path / "two.h5ad").write_bytes((tmp_path / "two.h5ad").read_bytes()[:3000])
    monkeypatch.setattr(join, "read_counts", lambda *_: pytest.fail("counts were read"))
    assert "two.h5ad: truncated or damaged, expected an h5ad file" in refused(sheet)
    (tmp_path / "two.h5ad").unlink()
    assert "two.h5ad: no such file" in refused(sheet)
    (tmp_path / "two.h5ad").symlink_to(tmp_path / "two.h5ad")
    assert "two.h5ad: no such file" in refused(sheet)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes"),
        (b"\n\n", "the samplesheet is empty"),
        (b"sample,path\n", "there is no sample below the header"),
        (b"name,path\nA,one.h5ad\n", "the column sample is missing, found name,path"),
        (b"sample;file\nA;one.h5ad\n", "the column path is missing, found sample,file"),
        (b"sample,path,x,x\nA,one.h5ad,1,2\n", "the column x is there 2 times"),
        (b"sample,path,a/b\nA,one.h5ad,1\n", "column 3 is named 'a/b'"),
        (b"sample,path,\nA,one.h5ad,1\n", "column 3 is named ''"),
        (b"sample,path,counts_from,counts_layer\nA,one.h5ad,,\n", "say the same, expected one of them"),
        (b"sample,path\nA,https://x.org/one.h5ad\n", "is a URL"),
        (b"sample,path\nA,one.h5ad,extra\n", "line 2 has 3 columns, the header has 2"),
        (b"sample,path\nA\n", "line 2 has 1 columns"),
        (b"sample,path\nA,\n", "line 2: path is empty"),
        (b"sample,path\nA,one.h5ad\nB,./one.h5ad\n", "line 3: sample B has the file of sample A (./one.h5ad)"),
        (b"sample,path\nA,one.h5ad\n\nA,two.h5ad\n", "line 4: sample A is there twice"),
        (b'sample,path\n"A,one.h5ad\n', "not a valid CSV file"),
        (b"sample,path\n\xff\xfe,one.h5ad\n", "not a UTF-8 text"),
        (b"sample,path\nA,absent.h5ad\n", "absent.h5ad: no such file"),
        (b"sample,path\nA,.\n", "this folder holds several things that are read (one.h5ad, two.h5ad)"),
        (b"sample,path\nA,sheet.csv\n", "this is itself a samplesheet"),
        (b"sample,path\nA,\x00.h5ad\n", "no such file"),
    ],
)
def test_bad_samplesheets_are_refused(content: bytes, message: str, tmp_path: Path):
    sheet = two_samples(tmp_path)
    sheet.write_bytes(content)
    assert message in refused(sheet)


@pytest.mark.parametrize(
    "name", ["a/b", "a\\b", "a b", "a\tb", "a'b", 'a""b', "a`b", "", "-a", ".a", "a\x1bb", "a\u202eb"]
)
def test_unsafe_sample_names_are_refused(name: str, tmp_path: Path):
    sheet = two_samples(tmp_path)
    sheet.write_text(f'sample,path\nB,two.h5ad\n"{name}",one.h5ad\n')
    sentence = refused(sheet)
    assert "line 3: sample " in sentence
    assert "allowed are" in sentence or "is empty, expected a name" in sentence


@pytest.mark.parametrize(
    "name", ["$(touch,x)", "<script>alert(1)</script>".replace("/", ""), "Größe_1.2", "a;rm&b|c", "%s"]
)
def test_strange_but_harmless_sample_names_are_kept(name: str, tmp_path: Path):
    two_samples(tmp_path)
    rows = [{"sample": name, "path": "one.h5ad"}, {"sample": "B", "path": "two.h5ad"}]
    dataset = done(write_sheet(tmp_path, rows))
    assert list(dataset.obs["batch"].cat.categories) == [name, "B"]
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfsample , path,donor\r\n\r\nA, one.h5ad,d1\r\n,,\r\nB,/abs/two.h5ad, \r\n",
        b"Sample;PATH;donor;;\nA;one.h5ad;d1;;\nB;/abs/two.h5ad;;;\n;;;;\n",
        b'sep=;\r\nsample;path;donor\r\n"A";"one.h5ad" ;d1\r\nB;/abs/two.h5ad\r\n',
        "sample\tpath\tdonor\r\nA\tone.h5ad\td1\r\nB\t/abs/two.h5ad\t\r\n".encode("utf-16"),
        "sample|path|donor\n A\u00a0|“one.h5ad”|d1\nB|file:///abs/two.h5ad|\n".encode(),
    ],
)
def test_samplesheets_are_read_as_spreadsheets_write_them(content: bytes, tmp_path: Path):
    sheet = tmp_path / "sheet.csv"
    sheet.write_bytes(content)
    rows = read_samplesheet(sheet)
    assert [(row.sample, row.path, row.extra) for row in rows] == [
        ("A", tmp_path / "one.h5ad", {"donor": "d1"}),
        ("B", Path("/abs/two.h5ad"), {"donor": ""}),
    ]


def test_the_home_folder_is_known_in_a_sheet(tmp_path: Path):
    (tmp_path / "sheet.csv").write_text("sample,path\nA,~/one.h5ad\n")
    assert read_samplesheet(tmp_path / "sheet.csv")[0].path == Path.home() / "one.h5ad"


def test_columns_of_a_sheet_say_where_the_parts_of_each_file_are(tmp_path: Path):
    first, second = make(), make(seed=1)
    first.layers["umi"], first.X = first.X.copy(), np.log1p(first.X.toarray() / 3)
    first.obsm["mine"] = first.obsm.pop("spatial")
    first.obs["kind"] = first.obs.pop("label_in")
    second.obs["h"], second.obs["v"] = np.arange(12.0), np.arange(12.0)[::-1]
    second.obs["lane"] = ["1", "2"] * 6
    two_samples(tmp_path, first, second)
    (tmp_path / "sheet.csv").write_text(
        "sample,path,counts_layer,label_key,batch_key,spatial_key\n"
        'A,one.h5ad,umi,kind,,mine\nB,two.h5ad,,label_in,lane,"h,v"\n'
    )
    dataset = done(tmp_path / "sheet.csv")
    np.testing.assert_array_equal(dataset.layers["counts"].toarray()[:12], make().X.toarray())
    assert dataset.obs["label"].value_counts().to_dict() == {"a": 12, "b": 12}
    assert dataset.obs["batch"].value_counts().to_dict() == {"A": 12, "1": 6, "2": 6}
    np.testing.assert_array_equal(dataset.obsm["spatial"][12:], second.obs[["h", "v"]])
    assert dataset.uns["unbatch"]["losses"]["coordinates_from"].tolist() == ["obsm/mine", "obs/h"]


def test_an_empty_cell_of_a_sheet_leaves_the_values_of_the_file(tmp_path: Path):
    two_samples(tmp_path)
    (tmp_path / "sheet.csv").write_text("sample,path,label_in\nA,one.h5ad,\nB,two.h5ad,c\n")
    dataset = done(tmp_path / "sheet.csv", "--label-key", "label_in")
    assert dataset.obs["label"].value_counts().to_dict() == {"c": 12, "a": 6, "b": 6}


def test_cells_that_are_in_two_samples_are_noticed_by_their_counts(tmp_path: Path):
    other = make(seed=1, genes=30)
    copied = make(genes=30)[[3, 5, 8, 0, 7]].copy()
    copied.obs_names = [f"x{i}" for i in range(5)]
    dataset = done(two_samples(tmp_path, make(genes=30), ad.concat([other, copied])))
    notes = {note.code: note.numbers for note in read_notes(dataset.uns["unbatch"]["notes"])}
    assert notes["same-cells"]["pairs"] == [["A", "B", 5]]
    assert "same-cells" not in codes(done(two_samples(tmp_path, make(genes=30), other)))


def test_control_characters_from_a_file_do_not_reach_the_terminal(one_file):
    adata = make()
    adata.obs["sample"] = ["\x1b[31mred\n"] * 10 + ["s2"] * 2
    adata.obs["sample"] = adata.obs["sample"].replace("s2", "\x1b[2J")
    assert "batch ?[2J of sample has 2 cells" in refused(one_file(adata))


def test_the_output_must_have_a_folder_and_not_be_an_input(tmp_path: Path):
    sheet = two_samples(tmp_path)
    result = CliRunner().invoke(main, [str(sheet), "-o", str(tmp_path / "absent" / "a.h5ad")])
    assert result.exit_code == 2
    assert "absent: no such folder" in result.stderr
    result = CliRunner().invoke(main, [str(sheet), "-o", str(tmp_path / "two.h5ad")])
    assert result.exit_code == 2
    assert "two.h5ad: the output would replace" in result.stderr


# Real data ----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not DLPFC.is_dir(), reason=f"the DLPFC sections are not in {DLPFC}")
def test_four_sections_of_dlpfc_share_653_genes(tmp_path: Path):
    rows = [{"sample": path.stem, "path": str(path)} for path in sorted(DLPFC.glob("*.h5ad"))]
    dataset = done(write_sheet(tmp_path, rows), "--label-key", "layer")
    assert dataset.shape == (15769, 653)
    assert dataset.obs["label"].isna().sum() == 47
    assert dataset.obsm["spatial"].shape == (15769, 2)
    schema.validate(io.read_h5ad(tmp_path / "dataset.h5ad"), "dataset", "dataset")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", "cell,sample,ACTB,GAPDH\nc1,s1,3,4\nc2,path,0,1\n", False),
        ("a.csv", 'cell,ACTB,GAPDH\nc1,3,4\n"sample",0,1\n', False),
        ("a.tsv", "# counts, of all\n\ngene\tc1\tc2\nACTB\t3\t4\n", False),
        ("a.txt", "gene c1 c2\nACTB 3 4\n", False),
        ("a.csv", "gene," + ",".join(f"cell_{i}" for i in range(20000)) + "\nsample,1\n", False),
        ("a.csv", "sample,path,age,weight,height\nA,a.h5ad,1,2,3\n", True),
        ("a.csv", "sample,file,age,weight,height\nA,a.h5ad,1,2,3\n", True),
        ("a.csv", "name,file\nA,folder\n", True),
        ("a.csv", '\n;;\n"Sample";"PATH"\nA;1\n', True),
        ("a.csv", "\n\n", True),
        ("a.png", "sample,path\nA,a.h5ad\n", False),
    ],
)
def test_a_samplesheet_is_distinguished_from_a_table_of_counts(tmp_path: Path, name: str, content: str, expected: bool):
    (tmp_path / name).write_text(content)
    assert is_samplesheet(tmp_path / name) is expected


def test_a_table_of_counts_with_a_column_of_samples_is_one_dataset(tmp_path: Path):
    frame = pd.DataFrame(make().X.toarray().astype(int), make().obs_names, [f"GENE{i}" for i in range(8)])
    frame.insert(0, "sample", make().obs["sample"])
    frame.to_csv(tmp_path / "counts.csv", index_label="cell")
    dataset = done(tmp_path / "counts.csv")
    assert list(dataset.obs["batch"].cat.categories) == ["s1", "s2"]
    assert list(dataset.var_names) == list(frame.columns[1:])


def test_only_the_start_of_a_file_tells_what_it_is(tmp_path: Path):
    with (tmp_path / "large.csv").open("wb") as file:
        file.write(b"gene,c1,c2\nACTB,1,2\n")
        file.truncate(1 << 26)
    tracemalloc.start()
    try:
        assert not is_samplesheet(tmp_path / "large.csv")
        assert tracemalloc.get_traced_memory()[1] < 1 << 22
    finally:
        tracemalloc.stop()
