"""Which features of a file are genes."""

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from test_preprocess import done, make, refused, run, two_samples

from unbatch.data.features import UNTYPED, genes_among, type_column
from unbatch.errors import InputError

RNA, TAG = "Gene Expression", "Antibody Capture"


def found(*types: object) -> tuple[list[bool], dict[str, int]]:
    result = genes_among(pd.Series(types), "x.h5ad: var/feature_types")
    return result.genes.tolist(), result.left_out


@pytest.mark.parametrize(
    ("types", "genes", "left_out"),
    [
        ([RNA, TAG, RNA, TAG], [True, False, True, False], {TAG: 2}),
        (["gene_expression", "ADT", "GEX "], [True, False, True], {"ADT": 1}),
        # a type that nobody knows is no gene where genes are named
        ([RNA, "Lipid"], [True, False], {"Lipid": 1}),
        ([RNA, RNA, np.nan, "NA"], [True, True, False, False], {UNTYPED: 2}),
        # what lacks a type can only be the genes
        ([None, "", TAG], [True, True, False], {TAG: 1}),
        ([None, np.nan, "nan"], [True, True, True], {}),
        # biotypes, as CELLxGENE has them in a column of this name
        (["protein_coding", "lncRNA", "IG_V_gene", "artifact"], [True] * 4, {}),
        (["protein_coding", "Peaks"], [True, False], {"Peaks": 1}),
    ],
)
def test_types_distinguish_genes_from_other_features(types, genes, left_out):
    assert found(*types) == (genes, left_out)
    assert found(*pd.Categorical(types)) == (genes, left_out)


@pytest.mark.parametrize("types", [[TAG, "Peaks"], ["exon"] * 3, [RNA, None, None]])
def test_a_column_that_names_no_genes_is_refused(types):
    with pytest.raises(InputError, match=r"^x.h5ad: var/feature_types: "):
        found(*types)


@pytest.mark.parametrize("name", ["feature_types", "feature_type", "Feature Types", "FeatureType", "feature.type"])
def test_the_column_is_found_in_any_spelling(name: str):
    assert type_column(pd.DataFrame({"gene_ids": ["a"], name: [RNA]})) == name
    assert type_column(pd.DataFrame({"feature_name": ["a"], "type": [RNA]})) is None


def test_of_two_columns_the_one_with_types_of_10x_is_taken():
    assert type_column(pd.DataFrame({"feature_types": ["protein_coding"], "feature_type": [RNA]})) == "feature_type"


def tagged(seed: int = 0, column: str = "feature_types") -> ad.AnnData:
    """The cells of `make` with two antibodies before the last gene, one of them named as a gene."""
    adata = make(seed=seed)
    values = np.insert(adata.X.toarray(), 7, np.full((2, 12), 500), axis=1)
    names = [*adata.var_names[:7], "g0", "tag", "g7"]
    var = pd.DataFrame({column: pd.Categorical([RNA] * 7 + [TAG] * 2 + [RNA])}, index=names)
    return ad.AnnData(csr_matrix(values.astype("float32")), obs=adata.obs, var=var, obsm=dict(adata.obsm))


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
@pytest.mark.parametrize("slot", ["X", "layers", "raw", "raw without the column", "X without the column"])
def test_only_genes_of_an_h5ad_are_counted(tmp_path: Path, slot: str):
    adata = tagged()
    if slot == "layers":
        adata.layers["counts"] = adata.X.copy()
    elif slot.startswith("raw"):
        adata.raw = adata.copy()
        if slot != "raw":
            del adata.raw.var["feature_types"]
            # by name, which must be unique to say anything
            adata.raw.var.index = adata.var_names = [*adata.var_names[:7], "CD0", "tag", "g7"]
        adata = adata[:, [0, 7, 8, 9]].copy()
    elif slot != "X":
        adata.var_names = [*adata.var_names[:7], "CD0", "tag", "g7"]
        adata.raw = adata.copy()
        del adata.var["feature_types"]
    adata.write_h5ad(tmp_path / "in.h5ad")
    options = ["--counts-from", "X"] if slot.startswith("X") else []
    dataset = done(tmp_path / "in.h5ad", *options)
    assert list(dataset.var_names) == [f"g{i}" for i in range(8)]
    np.testing.assert_array_equal(dataset.layers["counts"].toarray(), make().X.toarray())
    assert (dataset.uns["unbatch"]["losses"]["not_genes"] == 2).all()


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_tags_of_one_sample_are_left_out_of_all(tmp_path: Path):
    second = make(seed=1)
    second = ad.AnnData(
        csr_matrix(np.column_stack([second.X.toarray(), np.full(12, 9)]).astype("float32")),
        obs=second.obs,
        var=pd.DataFrame(index=[*second.var_names, "tag"]),
    )
    result = run(two_samples(tmp_path, tagged(), second))
    assert "2 Antibody Capture of A (var/feature_types)" in result.stderr
    dataset = ad.read_h5ad(tmp_path / "dataset.h5ad")
    assert list(dataset.var_names) == [f"g{i}" for i in range(8)]
    np.testing.assert_array_equal(dataset.layers["counts"].toarray()[:12], make().X.toarray())
    assert dataset.uns["unbatch"]["losses"]["genes_not_shared"].to_dict() == {"A": 0, "B": 1}


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_the_truth_of_a_simulation_follows_its_genes(tmp_path: Path, simulated_path: Path):
    simulated = ad.read_h5ad(simulated_path)
    simulated.var["feature_type"] = ["Peaks"] + [RNA] * (simulated.n_vars - 1)
    simulated.write_h5ad(tmp_path / "in.h5ad")
    dataset = done(tmp_path / "in.h5ad")
    np.testing.assert_array_equal(dataset.varm["metagenes_true"], simulated.varm["metagenes_true"][1:])
    factors = simulated.uns["unbatch"]["truth"]["gene_factors"]
    np.testing.assert_array_equal(dataset.uns["unbatch"]["truth"]["gene_factors"], factors[:, 1:])


def test_a_file_without_genes_is_refused_by_file_and_column(tmp_path: Path):
    adata = make()
    adata.var["feature_type"] = "Peaks"
    adata.write_h5ad(tmp_path / "in.h5ad")
    message = refused(tmp_path / "in.h5ad")
    assert "in.h5ad: var/feature_type: " in message
    assert "8 Peaks" in message


def test_features_that_the_other_table_does_not_know_are_kept_and_do_not_change_how_it_is_read(tmp_path: Path):
    adata = make()
    adata.raw = adata.copy()
    adata = adata[:, :5].copy()
    # one biotype that is on no list, and one gene without any: neither is an antibody
    adata.var["feature_type"] = ["protein_coding", "lncRNA", "artifact", "Antibody Capture", "IG_V_gene"]
    adata.write_h5ad(tmp_path / "in.h5ad")
    dataset = done(tmp_path / "in.h5ad", "--counts-from", "raw")
    assert list(dataset.var_names) == ["g0", "g1", "g2", "g4", "g5", "g6", "g7"]
