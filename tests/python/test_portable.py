"""Files that others can read: encodings of anndata 0.8.0, whatever was in the input."""

from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from scipy.sparse import csc_matrix, csr_matrix

from unbatch.cli import fit_baseline, fit_batchblend, fit_scmedal, preprocess
from unbatch.data import io, portable
from unbatch.errors import InputError

# What R's reader of zellkonverter and anndata 0.8.0 both read; written out, as it must not follow the code.
READ_BY_ALL = {
    ("anndata", "0.1.0"),
    ("raw", "0.1.0"),
    ("dict", "0.1.0"),
    ("dataframe", "0.2.0"),
    ("categorical", "0.2.0"),
    ("array", "0.2.0"),
    ("string-array", "0.2.0"),
    ("rec-array", "0.2.0"),
    ("csr_matrix", "0.1.0"),
    ("csc_matrix", "0.1.0"),
    ("numeric-scalar", "0.2.0"),
    ("string", "0.2.0"),
}


def encodings(path: Path) -> dict[str, tuple[str, str]]:
    found = {}
    with h5py.File(path) as file:

        def look(name: str, element: h5py.Group | h5py.Dataset) -> None:
            if "encoding-type" in element.attrs or not name.endswith(("/data", "/indices", "/indptr")):
                found[name] = tuple(element.attrs.get(f"encoding-{what}", "none") for what in ("type", "version"))

        look("/", file)
        file.visititems(look)
    return found


def foreign(path: Path) -> dict[str, tuple[str, str]]:
    return {name: encoding for name, encoding in encodings(path).items() if encoding not in READ_BY_ALL}


COLUMNS = {
    "text": (pd.array(["x", "y", "z"], dtype="str"), ["x", "y", "z"], "string-array"),
    "text that repeats": (pd.array(["x", "y", "x"], dtype="str"), ["x", "y", "x"], "string-array"),
    "text with missing": (pd.array(["x", None, "y"], dtype="str"), ["x", None, "y"], "categorical"),
    "nullable text": (pd.array(["x", None, "y"], dtype="string"), ["x", None, "y"], "categorical"),
    "objects of text": (np.array(["x", "y", "z"], dtype=object), ["x", "y", "z"], "string-array"),
    "objects with missing": (np.array(["x", None, np.nan], dtype=object), ["x", None, None], "categorical"),
    "objects of all kinds": (np.array([1, "x", None], dtype=object), ["1", "x", None], "categorical"),
    "nothing": (np.array([None] * 3, dtype=object), [None] * 3, "categorical"),
    "categories": (pd.Categorical(["b", None, "a"], ["b", "a"]), ["b", None, "a"], "categorical"),
    "categories of str": (pd.Categorical(pd.array(["b", None, "a"], dtype="str")), ["b", None, "a"], "categorical"),
    "categories of numbers": (pd.Categorical([2, None, 1]), [2, None, 1], "categorical"),
    "intervals": (pd.cut([1, 2, 4], [0, 2, 4]), ["(0, 2]", "(0, 2]", "(2, 4]"], "categorical"),
    "truth values": (np.array([True, False, True]), [True, False, True], "array"),
    "nullable truth values": (pd.array([True, False, True], dtype="boolean"), [True, False, True], "array"),
    "truth values with missing": (
        pd.array([True, None, False], dtype="boolean"),
        ["True", None, "False"],
        "categorical",
    ),
    "whole numbers": (pd.array([1, 2, 3], dtype="Int8"), [1, 2, 3], "array"),
    "whole numbers with missing": (pd.array([1, None, 3], dtype="Int64"), [1, None, 3], "array"),
    "large ones with missing": (
        pd.array([2**60 + 1, None, 3], dtype="Int64"),
        [str(2**60 + 1), None, "3"],
        "categorical",
    ),
    "numbers with missing": (pd.array([0.5, None, 3], dtype="Float32"), [0.5, None, 3], "array"),
    "dates": (pd.to_datetime(["2020-01-02", None, "2021-01-01"]), ["2020-01-02", None, "2021-01-01"], "categorical"),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_columns_of_every_type_are_written_for_every_reader(name: str, tmp_path: Path):
    values, expected, encoding = COLUMNS[name]
    table = pd.DataFrame({"c": values}, index=["p", "é", "r"])
    adata = ad.AnnData(obs=table.copy(), var=table.copy(), obsm={"t": table.copy()})
    adata.uns["table"] = table.reset_index(drop=True)
    io.write_h5ad(adata, tmp_path / "a.h5ad")
    assert foreign(tmp_path / "a.h5ad") == {}
    assert encodings(tmp_path / "a.h5ad")["obsm/t/c"] == (encoding, "0.2.0")
    found = ad.read_h5ad(tmp_path / "a.h5ad")
    assert found.obs_names.tolist() == ["p", "é", "r"]
    for place in (found.obs, found.var, found.obsm["t"], found.uns["table"]):
        column = place["c"]
        assert column.isna().tolist() == [value is None for value in expected]
        assert column.dropna().tolist() == [value for value in expected if value is not None]


def test_what_is_written_is_left_as_it_was(tmp_path: Path):
    table = pd.DataFrame({"c": pd.array([1, None], dtype="Int64")}, index=["p", "q"])
    adata = ad.AnnData(obs=table, obsm={"t": table.copy()}, uns={"none": None})
    io.write_h5ad(adata, tmp_path / "a.h5ad")
    assert adata.obs["c"].dtype == adata.obsm["t"]["c"].dtype == "Int64"
    assert list(adata.uns) == ["none"]


def test_values_in_uns_are_written_for_every_reader_and_none_is_left_out(tmp_path: Path):
    uns: dict[str, Any] = {
        "none": None,
        "deep": {"er": {"none": None, "list": ["a", "b"], "empty": []}},
        "text": pd.array(["a", None], dtype="str"),
        "numbers": pd.array([1, None], dtype="Int64"),
        "strings": np.array(["a", "b"], dtype=np.dtypes.StringDType()),
        "matrix": csc_matrix(np.eye(2)),
        "records": np.array([("a", 1.0)], dtype=[("name", "O"), ("value", "f4")]),
        "inner": ad.AnnData(np.eye(2)),
        **{"flag": True, "number": 1, "float": 0.5, "name": "é"},
    }
    io.write_h5ad(ad.AnnData(csr_matrix(np.eye(2)), uns=uns), tmp_path / "a.h5ad")
    assert foreign(tmp_path / "a.h5ad") == {}
    found = ad.read_h5ad(tmp_path / "a.h5ad").uns
    assert set(uns) - set(found) == {"none"}
    assert set(found["deep"]["er"]) == {"list", "empty"}
    assert list(found["text"]) == ["a", np.nan]
    np.testing.assert_array_equal(found["numbers"], [1, np.nan])
    assert list(found["strings"]) == ["a", "b"]
    assert (found["flag"], found["number"], found["float"], found["name"]) == (True, 1, 0.5, "é")


def test_a_type_that_older_readers_do_not_know_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(portable, "ENCODINGS", READ_BY_ALL - {("csr_matrix", "0.1.0")})
    with pytest.raises(InputError, match="obsp/graph"):
        io.write_h5ad(ad.AnnData(np.eye(2), obsp={"graph": csr_matrix(np.eye(2))}), tmp_path / "a.h5ad")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def hostile_path(simulated_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The simulated counts with a column of every type, as today's anndata writes them."""
    adata = ad.read_h5ad(simulated_path)
    for axis in (adata.obs, adata.var):
        repeats = np.arange(len(axis)) % 3
        for name in ("text with missing", "categories", "truth values with missing", "large ones with missing"):
            axis[name] = pd.Series(COLUMNS[name][0])[repeats].to_numpy(dtype=object)
            axis[name] = axis[name].astype(COLUMNS[name][0].dtype)
        axis["unique"] = pd.array([f"n{i}" for i in range(len(axis))], dtype="str")
    path = tmp_path_factory.mktemp("hostile") / "hostile.h5ad"
    adata.write_h5ad(path)
    assert foreign(path)
    return path


PROGRAMS = {
    "preprocess": (preprocess, []),
    "fit-baseline": (fit_baseline, ["--method", "pca"]),
    "fit-batchblend": (fit_batchblend, ["--metagenes", "5", "--max-epochs", "2", "--spatial", "none"]),
    "fit-scmedal": (fit_scmedal, ["--max-epochs", "1"]),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_programs_write_is_for_every_reader(name: str, simulated_path, dataset_path, hostile_path, tmp_path: Path):
    program, options = PROGRAMS[name]
    source = [str(hostile_path), "--label-key", "cell_type"] if name == "preprocess" else [str(dataset_path)]
    result = CliRunner().invoke(program.main, [*source, *options, "--threads", "1", "-o", str(tmp_path / "out.h5ad")])
    assert result.exit_code == 0, result.output
    for path in (simulated_path, dataset_path, tmp_path / "out.h5ad"):
        assert foreign(path) == {}


def test_preprocess_keeps_the_values_of_columns_that_may_be_missing(hostile_path: Path, tmp_path: Path):
    options = ["--label-key", "cell_type", "-o", str(tmp_path / "out.h5ad")]
    assert CliRunner().invoke(preprocess.main, [str(hostile_path), *options]).exit_code == 0
    found = ad.read_h5ad(tmp_path / "out.h5ad")
    for axis in (found.obs, found.var):
        assert axis["truth values with missing"].iloc[:3].astype(object).tolist() == ["True", np.nan, "False"]
        assert axis["large ones with missing"].iloc[:3].astype(object).tolist() == [str(2**60 + 1), np.nan, "3"]
        assert axis["text with missing"].iloc[:3].astype(object).tolist() == ["x", np.nan, "y"]
        assert axis["unique"].iloc[:2].tolist() == ["n0", "n1"]


@pytest.mark.filterwarnings("ignore:Element:anndata.OldFormatWarning")
def test_tables_of_anndata_0_7_are_read(tmp_path: Path):
    path = tmp_path / "old.h5ad"
    with h5py.File(path, "w") as file:
        for axis in ("obs", "var"):
            table = file.create_group(axis)
            table.attrs.update({"encoding-type": "dataframe", "encoding-version": "0.1.0", "_index": "_index"})
            table.attrs["column-order"] = np.array(["kind"], dtype=object)
            table["_index"] = np.array(["p", "q", "r"], dtype=object)
            table["kind"] = np.array([1, -1, 0], dtype=np.int8)
            table["__categories/kind"] = np.array(["a", "b"], dtype=object)
            table["__categories/kind"].attrs["ordered"] = False
            table["kind"].attrs["categories"] = table["__categories/kind"].ref
        file["X"] = np.eye(3, dtype=np.float32)
        file["X"].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    found = io.read_h5ad(path)
    assert found.obs["kind"].astype(object).tolist() == ["b", np.nan, "a"]
    io.write_h5ad(found, path)
    assert foreign(path) == {}
