"""One thing, one name: batches, labels and sections, and the genes of several files."""

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from test_preprocess import codes, done, make, refused, run, two_samples, write_10x, write_sheet

from unbatch.data import names
from unbatch.data.notes import read_notes


@pytest.mark.parametrize(
    ("found", "what", "expected"),
    [
        (["a", " a", "a\u00a0", "a  b", "a b"], "batch", ["a", "a", "a", "a b", "a b"]),
        (["1", 1.0, 1, "2.0"], "batch", ["1", "1", "1", "2"]),
        (["0", "1.0", "1"], "label", ["0", "1", "1"]),
        (["1.0", "1.5"], "label", ["1.0", "1.5"]),
        (["v1.0", "v1"], "batch", ["v1.0", "v1"]),
        (["nan", "x", None, "N/A", "-", "<NA>", "#N/A"], "batch", [None, "x", *[None] * 5]),
        (["Unknown", "unassigned", "NA", "x"], "label", [None, None, None, "x"]),
        (["unknown", "x"], "batch", ["unknown", "x"]),
        (["T cell", "T Cell", "T cell"], "label", ["T cell"] * 3),
        (["B Cell", "B cell"], "label", ["B Cell"] * 2),
        (["Lab", "lab"], "batch", ["Lab", "lab"]),
        (["a", "A"], "label", ["a", "A"]),
        (["b'x'", "b'y'"], "batch", ["x", "y"]),
        (["cafe\u0301", "caf\u00e9"], "label", ["caf\u00e9"] * 2),
        ([True, False, True], "label", ["True", "False", "True"]),
    ],
)
def test_spellings_become_names(found, what, expected):
    settled = names.settle(pd.Series(found, dtype=object), what)
    assert [None if value is np.nan else value for value in settled.chosen] == expected


def test_an_order_of_categories_is_kept_and_mends_are_counted():
    column = pd.Series(pd.Categorical(["b ", "a", "b", "c", "nan"], ["c", "b ", "b", "a", "nan"]))
    settled = names.settle(column, "label")
    assert list(settled.chosen.categories) == ["c", "b", "a"]
    assert settled.renamed == {"b ": "b"}
    assert settled.cells == {"b ": 1}
    assert settled.words == {"nan": 1}


@pytest.mark.parametrize(
    ("found", "alike"),
    [
        (["T cell", "T_cell", "Tcell", "T cells"], True),
        (["donor1", "donor01"], True),
        (["S1", "s1"], True),
        (["CD4+", "CD4-"], False),
        (["L1-2", "L12"], False),
        (["cluster 1", "cluster 11"], False),
    ],
)
def test_names_that_look_alike_are_left_and_warned_of(found: list[str], alike: bool):
    settled = names.settle(pd.Series(found), "batch")
    assert list(settled.chosen.categories) == found
    assert settled.alike == ([found] if alike else [])


def test_batches_of_two_columns_are_their_combinations(tmp_path: Path):
    adata = make()
    adata.obs["lane"] = ["1", "2"] * 6
    adata.write_h5ad(tmp_path / "in.h5ad")
    dataset = done(tmp_path / "in.h5ad", "--batch-key", "sample, lane")
    expected = [f"{a} | {b}" for a, b in zip(adata.obs["sample"], adata.obs["lane"], strict=True)]
    assert dataset.obs["batch"].tolist() == expected
    assert "no column absent" in refused(tmp_path / "in.h5ad", "--batch-key", "sample,absent")


def test_words_for_a_missing_batch_are_refused_by_name(tmp_path: Path):
    adata = make()
    adata.obs["donor"] = ["nan", "N/A"] + ["d"] * 10
    adata.write_h5ad(tmp_path / "in.h5ad")
    sentence = refused(tmp_path / "in.h5ad", "--batch-key", "donor")
    assert "missing in 2 cells" in sentence
    assert "'nan'" in sentence


def test_a_measurement_or_a_name_of_each_cell_is_no_label(tmp_path: Path):
    adata = make(cells=30)
    adata.obs["depth"] = np.linspace(0.1, 9, 30)
    adata.obs["barcode"] = adata.obs_names
    adata.obs["dose"] = [0.5, 1.0] * 15
    adata.write_h5ad(tmp_path / "in.h5ad")
    assert "depth holds numbers with fractions" in refused(tmp_path / "in.h5ad", "--label-key", "depth")
    assert "barcode has 30 labels for 30 cells" in refused(tmp_path / "in.h5ad", "--label-key", "barcode")
    assert "label-measured" in codes(done(tmp_path / "in.h5ad", "--label-key", "dose"))


def test_names_shared_by_batches_of_one_file_are_made_unique_by_batch(tmp_path: Path):
    adata = make()
    adata.obs_names = [f"c{i % 6}" for i in range(12)]
    adata.write_h5ad(tmp_path / "in.h5ad")
    dataset = done(tmp_path / "in.h5ad")
    assert list(dataset.obs_names[[0, 6]]) == ["s1/c0", "s2/c0"]
    assert "cells-renamed" in codes(dataset)


def test_columns_that_h5ad_would_make_one_stay_two(tmp_path: Path):
    from unbatch.data.preprocess import tidy

    table = tidy(pd.DataFrame({"x/y": [1, 2], "x_y": [3, 4], "x_y_2": [5, 6]}))
    assert {name: list(table[name]) for name in table} == {"x_y_3": [1, 2], "x_y": [3, 4], "x_y_2": [5, 6]}


# Genes ----------------------------------------------------------------------------------------------------------------


def genes(folder: Path, first: list[str], second: list[str], *options: str, **columns: list[str]) -> ad.AnnData:
    """Join two samples whose genes have these names; columns of var are those of both."""
    parts = [make(), make(seed=1)]
    for part, listed in zip(parts, (first, second), strict=True):
        part.var_names = listed
        for name, values in columns.items():
            part.var[name] = values
    return done(two_samples(folder, *parts), *options)


IDS = [f"ENSG{i:011d}" for i in range(8)]


@pytest.mark.parametrize(
    ("first", "second", "code", "named"),
    [
        ([f"{name}.1" for name in IDS], [f"{name}.{i}" for i, name in enumerate(IDS)], "gene-versions", IDS),
        ([f"{name}.1" for name in IDS], IDS, "gene-versions", IDS),
        ([f"GRCh38_{name}" for name in "ABCDEFGH"], list("ABCDEFGH"), "genome-prefix", list("ABCDEFGH")),
        (
            [f"mm10___{name}" for name in "ABCDEFGH"],
            [f"{name} " for name in "ABCDEFGH"],
            "genome-prefix",
            list("ABCDEFGH"),
        ),
        (
            [f"HLA-{name}" for name in "ABCDEFGH"],
            [f"HLA.{name}" for name in "ABCDEFGH"],
            "gene-spelling",
            [f"HLA-{name}" for name in "ABCDEFGH"],
        ),
        (
            [f"Y_R{name}" for name in "ABCDEFGH"],
            [f"Y-R{name}" for name in "ABCDEFGH"],
            "gene-spelling",
            [f"Y_R{name}" for name in "ABCDEFGH"],
        ),
    ],
)
def test_what_is_certain_in_names_of_genes_is_mended_and_said(tmp_path: Path, first, second, code: str, named):
    dataset = genes(tmp_path, first, second)
    assert list(dataset.var_names) == named
    assert code in codes(dataset)
    np.testing.assert_array_equal(dataset.layers["counts"].toarray()[12:], make(seed=1).X.toarray())


def test_one_spelling_of_all_files_is_left_as_it_is(tmp_path: Path):
    listed = [f"{name}.3" for name in IDS]
    dataset = genes(tmp_path, listed, listed)
    assert list(dataset.var_names) == listed
    assert codes(dataset) == {"column-replaced"}


def test_doubled_symbols_are_told_apart_by_id_and_without_ids_left_out(tmp_path: Path):
    first, second = make(), make(seed=1)[:, ::-1].copy()
    for part, ids in ((first, IDS), (second, IDS[::-1])):
        part.var["gene_ids"] = ids
    first.var_names, second.var_names = [*"ABCDEF", "T", "T-1"], ["T", "T-1", *"FEDCBA"]
    dataset = done(two_samples(tmp_path, first, second))
    assert list(dataset.var_names) == list(first.var_names)
    np.testing.assert_array_equal(dataset.layers["counts"].toarray()[12:], make(seed=1).X.toarray())
    for part in (first, second):
        del part.var["gene_ids"]
    dataset = done(two_samples(tmp_path, first, second))
    assert list(dataset.var_names) == list("ABCDEF")
    assert "genes-ambiguous" in codes(dataset)
    assert dataset.uns["unbatch"]["losses"]["genes_ambiguous"].tolist() == [2, 2]


def test_doubled_names_of_one_file_are_made_unique(tmp_path: Path):
    adata = make()
    adata.var_names = ["A", "A", "A-1", *"BCDEF"]
    adata.write_h5ad(tmp_path / "in.h5ad")
    dataset = done(tmp_path / "in.h5ad")
    assert list(dataset.var_names) == ["A", "A-2", "A-1", *"BCDEF"]
    assert "genes-doubled" in codes(dataset)


def test_ids_of_one_file_meet_symbols_of_another_through_a_third(tmp_path: Path):
    first, second = make(), make(seed=1)
    first.var_names = IDS
    two_samples(tmp_path, first, second)
    assert "no gene is in all samples" in refused(tmp_path / "sheet.csv")
    write_10x(tmp_path / "three.h5", make(seed=2), list(second.var_names))
    rows = [
        {"sample": name, "path": path} for name, path in zip("ABC", ("one.h5ad", "two.h5ad", "three.h5"), strict=True)
    ]
    first.var_names = [f"ENSG{i}" for i in range(8)]
    first.write_h5ad(tmp_path / "one.h5ad")
    dataset = done(write_sheet(tmp_path, rows))
    assert list(dataset.var_names) == list(second.var_names)


def test_names_of_genes_are_chosen_by_option(tmp_path: Path):
    symbols = list("ABCDEFGH")
    for by, named, other in (("auto", IDS, "gene_symbol"), ("id", IDS, "gene_symbol"), ("symbol", symbols, "gene_id")):
        dataset = genes(tmp_path, IDS, IDS, "--gene-names", by, feature_name=symbols)
        assert list(dataset.var_names) == named
        assert list(dataset.var[other]) == (symbols if other == "gene_symbol" else IDS)
    sheet = two_samples(tmp_path)
    assert "have no id of genes" in refused(sheet, "--gene-names", "id")


def test_genes_that_differ_in_case_are_not_joined(tmp_path: Path):
    dataset = genes(tmp_path, [*"ABCDEF", "Gh", "Hi"], [*"ABCDEF", "gh", "hi"])
    assert dataset.n_vars == 6
    assert "gene-case" in codes(dataset)


def test_names_of_two_species_are_refused(tmp_path: Path):
    first, second = make(), make(seed=1)
    first.var_names, second.var_names = [f"GENE{i}" for i in range(8)], [f"Gene{i}" for i in range(8)]
    assert "differ in case" in refused(two_samples(tmp_path, first, second))


def test_fewer_than_half_of_the_genes_in_common_is_said_loudly(tmp_path: Path):
    dataset = genes(tmp_path, list("ABCDEFGH"), list("ABCQRSTU"))
    numbers = {note.code: note.numbers for note in read_notes(dataset.uns["unbatch"]["notes"])}
    assert numbers["few-genes-shared"]["samples"] == {"A": 5, "B": 5}


@pytest.mark.parametrize("positions", [range(8), range(1, 9), [0, 3, 5, 6, 11, 12, 13, 20]])
def test_genes_named_by_position_take_their_symbols_or_are_refused(tmp_path: Path, positions):
    numbered = [str(i) for i in positions]
    dataset = genes(tmp_path, numbered, numbered, feature_name=list("ABCDEFGH"))
    assert list(dataset.var_names) == list("ABCDEFGH")
    parts = [make(), make(seed=1)]
    for part in parts:
        part.var_names = numbered
    assert "by their position" in refused(two_samples(tmp_path, *parts))


def test_numbers_of_entrez_are_ids(tmp_path: Path):
    numbers = ["7157", "1956", "672", "675", "4609", "5728", "3845", "207"]
    assert genes(tmp_path, numbers, numbers[::-1]).n_vars == 8


def test_a_name_that_two_genes_could_be_meant_by_is_not_changed(tmp_path: Path):
    """R makes X1_A of 1-A and of 1.A alike; which one it was does not depend on the order of a set."""
    first, second = ["1-A", "1.A", *"CDEFGH"], ["X1_A", "B", *"CDEFGH"]
    assert "gene-spelling" not in codes(genes(tmp_path, first, second))


def test_features_named_like_tags_and_peaks_are_warned_of(tmp_path: Path):
    adata = make()
    adata.var_names = [*"ABCDE", "chr1:100-200", "CD3_TotalSeqB", "sgTP53_1"]
    adata.write_h5ad(tmp_path / "in.h5ad")
    text = run(tmp_path / "in.h5ad").stderr
    assert all(what in text for what in ("antibody tags", "peaks", "guides"))
    ordinary = ["HLA-A", "MT-ND1", "RP11-34P13.7", "NKX2-1", "IGHG1", "AC000123.1", "H2-K1", "5S_rRNA"]
    adata.var_names = ordinary
    adata.write_h5ad(tmp_path / "in.h5ad")
    assert codes(done(tmp_path / "in.h5ad")) == set()


def test_names_without_text_are_left_out(tmp_path: Path):
    dataset = genes(tmp_path, [*"ABCDEF", "nan", ""], [*"ABCDEF", "G", "H"])
    assert list(dataset.var_names) == list("ABCDEF")
    assert "genes-unnamed" in codes(dataset)
