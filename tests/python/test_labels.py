"""Columns that hold no labels are noticed, and nothing is scored by them."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from unbatch.data.labels import about_labels
from unbatch.scoring import Options, score

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("values", "code", "meaningless"),
    [
        (["T"] * 50 + [None] * 50, "one-label", True),
        ([f"cell{i}" for i in range(100)], "label-per-cell", True),
        # a few that share a name, and barcodes that are numbers
        (["T"] * 10 + [f"cell{i}" for i in range(90)], "label-per-cell", True),
        (range(100), "label-per-cell", True),
        (RNG.normal(size=100), "label-measured", True),
        (RNG.normal(size=100).round(1).astype(str), "label-measured", True),
        (np.repeat([0.5, 1.0, 34.25, np.nan], 25), "label-measured", False),
    ],
)
def test_a_column_that_is_none_of_labels_is_noticed(values, code, meaningless):
    found = about_labels(pd.Series(list(values), dtype=object).astype("category"), "kind")
    assert (found.code, found.meaningless) == (code, meaningless)
    assert "kind" in found.text


@pytest.mark.parametrize(
    "values",
    [
        ["T", "B", None] * 20,
        list(range(20)) * 5,
        ["1.0", "2.0", "3.0"] * 20,
        # many fine types, and few cells
        [f"type {i}" for i in range(40)] * 3,
        ["T", "T", "B", "B"],
        ["4.5", "layer"] * 10,
        ["inf", "1"] * 10,
    ],
)
def test_a_column_of_labels_passes(values):
    assert about_labels(pd.Categorical(values)) is None


def test_only_categories_that_cells_have_count():
    label = pd.Categorical(["T", "B"] * 10, categories=["T", "B", *(f"cell{i}" for i in range(100))])
    assert about_labels(label) is None


@pytest.mark.parametrize("labels", ["a label a cell", "one label", "a measurement"])
def test_by_such_a_column_no_biology_is_scored(dataset_path, labels):
    data = ad.read_h5ad(dataset_path)
    values = {
        "a label a cell": data.obs_names,
        "one label": ["T"] * data.n_obs,
        "a measurement": RNG.random(data.n_obs),
    }
    data.obs["label"] = pd.Categorical(np.asarray(values[labels]).astype(str))
    assert len(data) > 100
    embedding = RNG.normal(size=(data.n_obs, 3)).astype(np.float32)

    def read(_name, cells, _tissue):
        from unbatch.scoring import Fitted

        made = {"method": "none", "seed": 0, "params": {}, "wall_s": 0, "peak_mb": 0, "device": "cpu", "versions": {}}
        return Fitted.of(made, {"X_none": embedding}, {}, cells)

    table = score(data, [{"fit": "f"}], read, Options(evidence=False, max_cells=60))
    (row,) = table["rows"]
    assert (row["bio"], row["total"], table["metrics"]["bio"]) == (None, None, [])
    assert {"nmi", "ari"} <= table["metrics"]["missing"].keys()
    assert row["batch"] is not None
    assert len(table["dataset"]["labels"] or ()) <= 1
