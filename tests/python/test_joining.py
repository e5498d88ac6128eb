"""The order of cells and genes, and what cells are filtered and scaled by, against values written down by hand."""

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from unbatch.data import genes, preprocess
from unbatch.data.cells import Cells, cells_of, principal_components, project, read_cells


def test_cells_are_judged_by_the_genes_that_are_kept():
    # the last gene is in one cell alone, which has enough counts and genes only with it
    counts = csr_matrix(np.array([[1, 1, 0], [2, 2, 0], [2, 0, 9], [1, 3, 0]], dtype=np.float32))
    by_counts = preprocess.filters(counts, min_counts=3, min_cells=2)
    by_genes = preprocess.filters(counts, min_genes=2, min_cells=2)
    assert by_counts[1].tolist() == by_genes[1].tolist() == [True, True, False]
    assert by_counts[0].tolist() == [False, True, False, True]
    assert by_genes[0].tolist() == [True, True, False, True]


def test_size_factors_have_a_mean_of_1():
    counts = csr_matrix(np.array([[1, 1], [0, 2], [3, 17]], dtype=np.float32))
    np.testing.assert_allclose(preprocess.size_factors(counts), [0.25, 0.25, 2.5])


def test_genes_of_a_model_come_in_its_order(dataset_path: Path):
    whole = ad.read_h5ad(dataset_path)
    wanted = whole.var_names[[7, 0, 3]].tolist()
    for cells in (cells_of(whole), read_cells(dataset_path)):
        model = cells.of_model(wanted, folder=dataset_path.parent)
        np.testing.assert_array_equal(model.counts.toarray(), whole[:, wanted].layers["counts"].toarray())
        np.testing.assert_array_equal(model.X.toarray(), whole[:, wanted].X.toarray())


def test_continuous_values_become_20_counts_a_gene_in_the_mean():
    values = csr_matrix(np.random.default_rng(0).gamma(2, 0.01, (50, 8)))
    cells = Cells(values, values, list("abcdefgh"), np.repeat([0, 1], 25))
    whole = cells.whole_counts()
    assert np.array_equal(whole.data, np.rint(whole.data))
    assert whole.sum() / (50 * 8) == pytest.approx(20, rel=0.02)
    np.testing.assert_allclose(whole.toarray(), values.toarray() * 20 / values.mean(), atol=0.51)


def test_a_projection_puts_the_cells_of_a_fit_where_they_were():
    X = csr_matrix(np.random.default_rng(0).normal(3, 1, (30, 6)))
    found = principal_components(X, 3)
    np.testing.assert_allclose(project(found.weights, X), found.embedding, atol=1e-4)
    np.testing.assert_allclose(found.embedding.mean(0), 0, atol=1e-5)


def test_genes_are_found_by_symbol_and_id_and_near_names_are_given_for_others():
    var = pd.DataFrame(
        {"gene_symbol": ["MOBP", "SNAP25", "DUP", "DUP", "PCP4"]}, index=[f"ENSG0000000000{i}" for i in range(5)]
    )
    have = list(var.index[:4])
    assert genes.find(["SNAP25", var.index[0], "MOBP"], have, var) == ([var.index[1], var.index[0]], [])
    found, lacking = genes.find(["mobp", "PCP4", "DUP", "zzz"], have, var)
    assert not found
    near, rare, several, nothing = lacking
    assert "MOBP" in near
    assert "highly variable" in rare
    assert var.index[2] in several
    assert var.index[3] in several
    assert nothing == "zzz"
    assert genes.find(["a", "b"], ["a"], None) == (["a"], ["b"])
