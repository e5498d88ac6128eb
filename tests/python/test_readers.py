"""What people have: files and folders of every kind, recognised by content, and refused by what they are."""

import gzip
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.io import mmwrite
from scipy.sparse import coo_matrix
from test_preprocess import codes, done, make, refused, two_samples, write_10x, write_sheet

from unbatch.data.readers.kinds import find
from unbatch.data.samples import Wanted, inspect, read_counts
from unbatch.errors import InputError

SYMBOLS = list("ABCDEFGH")
PLACES = np.column_stack([np.arange(12.0), np.arange(12.0)[::-1]])


def mtx(folder: Path, prefix: str = "", old: bool = False, packed: bool = True) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = {"barcodes.tsv": list(make().obs_names), ("genes.tsv" if old else "features.tsv"): []}
    kind = "" if old else "\tGene Expression"
    names[list(names)[1]] = [f"ENSG{i}\t{name}{kind}" for i, name in enumerate(SYMBOLS)]
    mmwrite(folder / "m.mtx", coo_matrix(make().X.T.astype(int)))
    texts = {name: "\n".join(lines) + "\n" for name, lines in names.items()} | {
        "matrix.mtx": (folder / "m.mtx").read_text()
    }
    (folder / "m.mtx").unlink()
    for name, text in texts.items():
        content = gzip.compress(text.encode()) if packed else text.encode()
        (folder / f"{prefix}{name}{'.gz' if packed else ''}").write_bytes(content)


def table_of_positions() -> pd.DataFrame:
    adata = make()
    table = pd.DataFrame({"barcode": adata.obs_names, "in_tissue": 1, "array_row": 0, "array_col": 0})
    return table.assign(pxl_row_in_fullres=PLACES[:, 1], pxl_col_in_fullres=PLACES[:, 0])


def visium(folder: Path, positions: str, header: bool = True, matrix: str = "h5") -> None:
    (folder / "spatial").mkdir(parents=True)
    if matrix == "h5":
        write_10x(folder / "filtered_feature_bc_matrix.h5", make(), SYMBOLS)
    else:
        mtx(folder / "filtered_feature_bc_matrix")
    path = folder / "spatial" / positions
    if path.suffix == ".parquet":
        table_of_positions().to_parquet(path)
    else:
        table_of_positions().to_csv(path, header=header, index=False)


def xenium(folder: Path, parquet: bool) -> None:
    folder.mkdir()
    write_10x(folder / "cell_feature_matrix.h5", make(), SYMBOLS)
    table = pd.DataFrame({"cell_id": make().obs_names, "x_centroid": PLACES[:, 0], "y_centroid": PLACES[:, 1]})[::-1]
    if parquet:
        table.to_parquet(folder / "cells.parquet")
    else:
        table.to_csv(folder / "cells.csv.gz", index=False)


def merscope(folder: Path) -> None:
    folder.mkdir()
    frame = pd.DataFrame(make().X.toarray().astype(int), columns=SYMBOLS).assign(**{"Blank-1": 1})
    index = pd.Index(make().obs_names, name="cell")
    frame.set_axis(index).to_csv(folder / "cell_by_gene.csv")
    places = pd.DataFrame(PLACES, columns=["center_x", "center_y"], index=index.rename(None))
    places.to_csv(folder / "cell_metadata.csv")


def loom(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["matrix"] = make().X.toarray().T
        file["row_attrs/Gene"] = np.array(SYMBOLS, dtype="S")
        file["col_attrs/CellID"] = np.array(make().obs_names, dtype="S")
        file["col_attrs/x"], file["col_attrs/y"] = PLACES.T


def old_10x(path: Path, genomes: tuple[str, ...] = ("GRCh38",)) -> None:
    counts = make().X.tocsr().astype("int32")
    with h5py.File(path, "w") as file:
        for genome in genomes:
            group = file.create_group(genome)
            group["barcodes"] = np.array(make().obs_names, dtype="S")
            group["genes"], group["gene_names"] = (
                np.array(names, dtype="S") for names in ([f"E{i}" for i in range(8)], SYMBOLS)
            )
            group["data"], group["indices"], group["indptr"] = counts.data, counts.indices, counts.indptr
            group["shape"] = [8, 12]


def annotated() -> ad.AnnData:
    adata = make()
    adata.var_names = SYMBOLS
    adata.obsm["spatial"] = PLACES
    return adata


def zarr_store(path: Path, form: int, inner: str = "") -> None:
    import zarr

    before = ad.settings.zarr_write_format
    ad.settings.zarr_write_format = form
    try:
        if inner:
            zarr.open_group(path, mode="w").create_group("tables")
        annotated().write_zarr(path / inner)
    finally:
        ad.settings.zarr_write_format = before


def mudata(path: Path) -> None:
    import mudata

    tags = ad.AnnData(np.ones((12, 2), dtype="float32"), obs=annotated().obs[[]])
    mudata.MuData({"rna": annotated(), "prot": tags}).write(path)


def text_table(path: Path, genes_in_rows: bool) -> None:
    frame = pd.DataFrame(make().X.toarray().astype(int), index=make().obs_names, columns=SYMBOLS)
    frame = frame.T.rename_axis("gene") if genes_in_rows else frame.rename_axis("barcode")
    frame.to_csv(path, sep="\t" if ".tsv" in path.name else ",")


@pytest.mark.parametrize(
    ("name", "write", "spatial"),
    [
        ("m", lambda path: mtx(path), False),
        ("m", lambda path: mtx(path / "outs" / "filtered_feature_bc_matrix"), False),
        ("m", lambda path: mtx(path / "filtered_gene_bc_matrices" / "hg19", old=True, packed=False), False),
        ("m", lambda path: mtx(path, prefix="GSM1_s1_"), False),
        ("v", lambda path: visium(path, "tissue_positions.csv"), True),
        ("v", lambda path: visium(path, "tissue_positions_list.csv", header=False), True),
        ("v", lambda path: visium(path, "tissue_positions_list.csv", matrix="mtx"), True),
        ("v", lambda path: visium(path / "outs", "tissue_positions.csv", header=False), True),
        ("v", lambda path: visium(path / "binned_outputs" / "square_008um", "tissue_positions.parquet"), True),
        ("x", lambda path: xenium(path, parquet=True), True),
        ("x", lambda path: xenium(path, parquet=False), True),
        ("c", merscope, True),
        ("l.loom", loom, True),
        ("o.h5", old_10x, False),
        ("h.h5", lambda path: annotated().write_h5ad(path), True),
        ("t.h5ad", lambda path: write_10x(path, make(), SYMBOLS), False),
        ("a.zarr", lambda path: zarr_store(path, 2), True),
        ("a.zarr", lambda path: zarr_store(path, 3), True),
        ("s.zarr", lambda path: zarr_store(path, 3, "tables/table"), True),
        ("m.h5mu", mudata, True),
        ("t.csv", lambda path: text_table(path, False), False),
        ("t.tsv.gz", lambda path: text_table(path, True), False),
    ],
)
def test_files_and_folders_of_every_kind_are_read(
    tmp_path: Path, name: str, write: Callable[[Path], None], spatial: bool
):
    write(tmp_path / name)
    sample = inspect(tmp_path / name, "s")
    assert list(sample.var.index) == SYMBOLS
    assert list(sample.obs.index) == list(make().obs_names)
    counts = read_counts(sample, sample.var.index)
    np.testing.assert_array_equal(counts.toarray(), make().X.toarray())
    assert sample.kind
    if spatial:
        np.testing.assert_array_equal(sample.coordinates, PLACES)
    else:
        assert sample.coordinates is None


def test_what_a_folder_holds_several_times_is_asked_for_or_chosen_and_said(tmp_path: Path):
    for size in ("002", "008", "016"):
        visium(tmp_path / "hd" / "binned_outputs" / f"square_{size}um", "tissue_positions.parquet")
    sample = inspect(tmp_path / "hd", "s")
    assert any("square_008um" in remark.text and remark.severity == "warning" for remark in sample.remarks)
    for name in ("a_", "b_"):
        mtx(tmp_path / "geo", prefix=name)
    with pytest.raises(InputError, match=r"several matrices \(a_matrix.mtx.gz, b_matrix.mtx.gz\)"):
        inspect(tmp_path / "geo", "s")
    assert find(tmp_path / "geo" / "b_matrix.mtx.gz").files["barcodes"].name == "b_barcodes.tsv.gz"


def test_genomes_of_an_old_file_are_joined_under_their_prefix(tmp_path: Path):
    old_10x(tmp_path / "two.h5", ("hg19", "mm10"))
    sample = inspect(tmp_path / "two.h5", "s")
    assert list(sample.var.index[[0, 8]]) == ["hg19_A", "mm10_A"]
    assert read_counts(sample, sample.var.index).shape == (12, 16)


def test_a_table_that_does_not_tell_genes_from_cells_is_asked_about(tmp_path: Path):
    frame = pd.DataFrame(np.ones((4, 3), dtype=int), index=["p", "q", "r", "s"], columns=["u", "v", "w"])
    frame.to_csv(tmp_path / "t.csv")
    with pytest.raises(InputError, match="write gene or cell into the first cell"):
        inspect(tmp_path / "t.csv", "s")


@pytest.mark.parametrize(
    ("change", "slot"),
    [
        (lambda a: None, "X"),
        (lambda a: a.layers.__setitem__("counts", a.X.copy()), "layers/counts"),
        (lambda a: _logged(a, "raw_counts"), "layers/raw_counts"),
        (lambda a: _logged(a, "UMI"), "layers/UMI"),
        (lambda a: _logged(a, "spliced"), "layers/spliced"),
        (lambda a: a.layers.__setitem__("counts", np.log1p(a.X.toarray())), "X"),
        (lambda a: setattr(a, "raw", a.copy()), "raw/X"),
        (lambda a: _raw_logged(a), "X"),
    ],
)
def test_counts_are_found_where_whole_numbers_are(tmp_path: Path, change, slot: str):
    adata = make()
    change(adata)
    adata.write_h5ad(tmp_path / "in.h5ad")
    dataset = done(tmp_path / "in.h5ad")
    np.testing.assert_array_equal(dataset.layers["counts"].toarray(), make().X.toarray())
    assert set(dataset.uns["unbatch"]["losses"]["counts_from"]) == {slot}
    usual = slot == "layers/counts" or slot == "raw/X" or (not adata.layers and adata.raw is None)
    assert ("counts-elsewhere" in codes(dataset)) != usual


def _logged(adata: ad.AnnData, layer: str) -> None:
    adata.layers[layer] = adata.X.copy()
    adata.X = np.log1p(adata.X.toarray() / 3)


def _raw_logged(adata: ad.AnnData) -> None:
    logged = adata.copy()
    logged.X = np.log1p(adata.X.toarray() / 3)
    adata.raw = logged


def test_whole_numbers_in_a_layer_of_another_name_are_named_not_taken(tmp_path: Path):
    adata = make()
    _logged(adata, "something")
    adata.write_h5ad(tmp_path / "in.h5ad")
    assert "--counts-from layer:something has whole numbers" in refused(tmp_path / "in.h5ad")


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda a: a.obs.__setitem__(["x_centroid", "y_centroid"], PLACES), "obs/x_centroid"),
        (lambda a: a.obs.__setitem__(["array_col", "array_row"], PLACES), "obs/array_col"),
        (lambda a: a.obs.__setitem__(["X", "Y"], PLACES), "obs/X"),
        (lambda a: a.obsm.__setitem__("spatial_coords", PLACES), "obsm/spatial_coords"),
        (lambda a: a.obsm.__setitem__("X_xy", PLACES), "obsm/X_xy"),
        (lambda a: a.obsm.__setitem__("X_umap", PLACES), ""),
        (lambda a: a.obsm.__setitem__("spatial", np.zeros((12, 2))), ""),
    ],
)
def test_coordinates_are_found_in_other_places_and_said(tmp_path: Path, change, place: str):
    adata = make()
    del adata.obsm["spatial"]
    change(adata)
    adata.write_h5ad(tmp_path / "in.h5ad")
    dataset = done(tmp_path / "in.h5ad")
    assert set(dataset.uns["unbatch"]["losses"]["coordinates_from"]) == {place}
    assert ("coordinates-found" in codes(dataset)) == bool(place)
    if place:
        np.testing.assert_array_equal(dataset.obsm["spatial"], PLACES)


def test_a_table_without_an_index_is_named_by_its_usual_column(tmp_path: Path):
    make().write_h5ad(tmp_path / "in.h5ad")
    with h5py.File(tmp_path / "in.h5ad", "r+") as file:
        index = file["var"].attrs["_index"]
        del file["var"].attrs["_index"]
        file["var"].move(index, "features")
    dataset = done(tmp_path / "in.h5ad")
    assert list(dataset.var_names) == list(make().var_names)
    assert "no-index" in codes(dataset)


def test_raw_matrices_and_libraries_that_were_joined_are_said(tmp_path: Path):
    adata = make()
    adata.obs_names = [f"ACGTACGTAC{i:02d}-{1 + i // 6}" for i in range(12)]
    write_10x(tmp_path / "raw_feature_bc_matrix.h5", adata, SYMBOLS)
    dataset = done(tmp_path / "raw_feature_bc_matrix.h5", "--batch-key", "gem_group")
    assert list(dataset.obs["batch"].cat.categories) == ["1", "2"]
    assert codes(dataset) >= {"raw-matrix", "gem-groups"}


def _zipped(path: Path, member: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, "x")


def _hdf5(path: Path, *groups: str) -> None:
    with h5py.File(path, "w") as file:
        for name in groups:
            file.create_group(name)


@pytest.mark.parametrize(
    ("name", "write", "what"),
    [
        ("a.rds", lambda path: path.write_bytes(gzip.compress(b"X\n\x00\x00\x00\x03")), "an R object; in R"),
        ("a.RData", lambda path: path.write_bytes(gzip.compress(b"RDX3\nX\n")), "an R workspace; in R"),
        ("a.h5seurat", lambda path: _hdf5(path, "assays", "meta.data"), "an h5Seurat file; in R"),
        ("m.h5", lambda path: _hdf5(path, "barcode_idx"), "molecule_info"),
        ("a.xlsx", lambda path: _zipped(path, "xl/workbook.xml"), "an Excel workbook"),
        ("a.zip", lambda path: _zipped(path, "a.h5ad"), "a zip archive"),
        ("a.h5ad.gz", lambda path: path.write_bytes(gzip.compress(b"\x89HDF\r\n\x1a\n")), "gunzip it first"),
        ("a.h5ad", lambda path: path.write_text("<!DOCTYPE html><html>"), "a web page"),
        ("a.h5ad", lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "Git LFS"),
        ("a.bam", lambda path: path.write_bytes(gzip.compress(b"BAM\x01abc")), "an alignment"),
        ("a.pkl", lambda path: path.write_bytes(b"\x80\x04abc\x00"), "a Python pickle"),
        ("a.h5ad", lambda path: path.write_text("a,b\n1,2\n"), "no HDF5 signature"),
        ("a.h5", lambda path: _hdf5(path, "other"), "found ['other']"),
    ],
)
def test_what_is_not_read_is_refused_by_what_it_is(tmp_path: Path, name: str, write, what: str):
    write(tmp_path / name)
    with pytest.raises(InputError) as refusal:
        inspect(tmp_path / name, "s")
    assert what in str(refusal.value)
    assert "damaged" not in str(refusal.value)


def test_a_key_that_the_sheet_names_must_be_there(tmp_path: Path):
    make().write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(InputError, match="spatial_key is nothing, expected a key of obsm"):
        inspect(tmp_path / "a.h5ad", "s", Wanted(spatial="nothing"))
    two_samples(tmp_path)
    rows = [
        {"sample": "A", "path": "one.h5ad", "label_key": "no"},
        {"sample": "B", "path": "two.h5ad", "label_key": ""},
    ]
    assert "no column no (label_key in the samplesheet)" in refused(write_sheet(tmp_path, rows))


def test_mutated_inputs_end_in_a_sentence_or_in_what_they_were(tmp_path: Path):
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    try:
        import fuzz
    finally:
        sys.path.pop(0)
    ends = [outcome for outcome in fuzz.run(30, 7, tmp_path) if outcome.end in ("crash", "silent")]
    assert not ends


# Tables of counts ---------------------------------------------------------------------------------------------------


def counts_table(genes_in_rows: bool, **columns: list) -> pd.DataFrame:
    """Counts of 12 genes in 30 cells, and other columns."""
    counts = np.random.default_rng(0).poisson(3, (30, 12))
    frame = pd.DataFrame(
        counts, index=[f"cell_{i}" for i in range(30)], columns=["ACTB", "CD3E", *(f"GENE{i}" for i in range(10))]
    )
    frame = frame.T.rename_axis("gene") if genes_in_rows else frame.rename_axis("cell")
    return frame.assign(**{name: np.resize(values, len(frame)) for name, values in columns.items()})


@pytest.mark.parametrize("genes_in_rows", [True, False])
@pytest.mark.parametrize("value", ["1e", "1,5", "1.5"])
def test_a_column_of_counts_with_a_wrong_value_is_refused(tmp_path: Path, genes_in_rows: bool, value: str):
    frame = counts_table(genes_in_rows).astype(object)
    frame.iloc[3, 4] = value
    frame.to_csv(tmp_path / "t.csv", sep=";")
    with pytest.raises(InputError, match=rf"column {frame.columns[4]} holds '?{value}") as refusal:
        inspect(tmp_path / "t.csv", "s")
    assert "expected" in str(refusal.value)


def test_a_gene_named_like_a_column_of_cells_stays_a_gene(tmp_path: Path):
    counts_table(genes_in_rows=False, PCA3=[3, 1]).to_csv(tmp_path / "t.csv")
    assert "PCA3" in inspect(tmp_path / "t.csv", "s").var.index


def test_decimal_commas_throughout_a_column_are_refused(tmp_path: Path):
    frame = counts_table(genes_in_rows=True, cell_30=["1,5", "2,0"])
    frame.to_csv(tmp_path / "t.csv", sep=";")
    with pytest.raises(InputError, match="column cell_30 holds '1,5', expected numbers with a decimal point"):
        inspect(tmp_path / "t.csv", "s")


@pytest.mark.parametrize(
    ("genes_in_rows", "columns", "severity"),
    [
        (False, {"is_tumor": ["TRUE", "FALSE"], "age": [60, 54]}, "warning"),
        (False, {"S.Score": [0.5, -0.25], "malignancy": [0.25, 1.5]}, "warning"),
        (False, {"nCount_RNA": [900, 800], "percent.mt": [1, 2], "Fresh": ["TRUE", "FALSE"]}, "warning"),
        (True, {"length": [900, 1200], "GC": [0.5, 0.75]}, "warning"),
        (True, {"family": ["one", "two"]}, "info"),
    ],
)
def test_columns_that_are_no_counts_are_kept_apart_and_named(
    tmp_path: Path, genes_in_rows: bool, columns: dict[str, list], severity: str
):
    counts_table(genes_in_rows, **columns).to_csv(tmp_path / "t.csv")
    sample = inspect(tmp_path / "t.csv", "s")
    plain = counts_table(genes_in_rows)
    plain = plain.T if genes_in_rows else plain
    assert (list(sample.obs.index), list(sample.var.index)) == (list(plain.index), list(plain.columns))
    np.testing.assert_array_equal(read_counts(sample, sample.var.index).toarray(), plain)
    assert set(sample.var.columns if genes_in_rows else sample.obs.columns) == set(columns)
    remark = next(each for each in sample.remarks if each.code == "table-columns")
    assert remark.severity == severity
    assert all(name in remark.text for name in columns)


@pytest.mark.parametrize(("genes_in_rows", "name"), [(False, "smoker_years"), (False, "stage"), (True, "reads")])
def test_whole_numbers_under_a_name_unlike_the_others_are_warned_of(tmp_path: Path, genes_in_rows: bool, name: str):
    counts_table(genes_in_rows, **{name: [3, 4]}).to_csv(tmp_path / "t.csv")
    found = {each.code: each for each in inspect(tmp_path / "t.csv", "s").remarks}
    assert found["table-unlike"].severity == "warning"
    assert f"as {'cells' if genes_in_rows else 'genes'}: {name};" in found["table-unlike"].text
    counts_table(genes_in_rows).to_csv(tmp_path / "t.csv")
    assert [each.code for each in inspect(tmp_path / "t.csv", "s").remarks] == ["table"]


def test_a_table_of_cells_without_counts_is_refused(tmp_path: Path):
    columns = {"nCount_RNA": [900, 800], "score": [1, 2], "S.Score": [0.5, 0.25], "rank": [3, 4]}
    counts_table(False, **columns)[list(columns)].to_csv(tmp_path / "t.csv")
    with pytest.raises(InputError, match=r"text file without counts: its columns describe cells \(nCount_RNA"):
        inspect(tmp_path / "t.csv", "s")


@pytest.mark.parametrize(
    "text",
    [
        "\ngene,c_1,c_2\nACTB,1,2\nGAPDH,3,4\n",
        "# made by a program, version 1\n#\ngene,c_1,c_2\nACTB,1,2\nGAPDH,3,4\n",
        "#gene,c_1,c_2\nACTB,1,2\nGAPDH,3,4\n",
        "gene,c_1,c_2,\nACTB,1,2,\nGAPDH,3,4,\n",
        "gene\tc_1\tc_2\t\t\nACTB\t1\t2\t\t\nGAPDH\t3\t4\t\t\n",
        "gene,c_1,c_2\nACTB,1,2,\nGAPDH,3,4,\n",
        "c_1,c_2\nACTB,1,2\n\nGAPDH,3,4\n",
        "\ufeffgene c_1 c_2\nACTB 1 2\nGAPDH 3 4\n",
    ],
)
def test_what_surrounds_a_table_of_counts_is_no_part_of_it(tmp_path: Path, text: str):
    (tmp_path / "t.txt").write_text(text)
    sample = inspect(tmp_path / "t.txt", "s")
    assert (list(sample.obs.index), list(sample.var.index)) == (["c_1", "c_2"], ["ACTB", "GAPDH"])
    np.testing.assert_array_equal(read_counts(sample, sample.var.index).toarray(), [[1, 3], [2, 4]])


def test_separators_and_blanks_within_names_do_not_split_a_table(tmp_path: Path):
    (tmp_path / "t.csv").write_text('gene,"T cell; CD4 1","T cell; CD4, 2"\nACTB,1,2\nGAPDH,3,4\n')
    sample = inspect(tmp_path / "t.csv", "s")
    assert list(sample.obs.index) == ["T cell; CD4 1", "T cell; CD4, 2"]
    (tmp_path / "t.csv").write_text("gene,T cell CD4 1,T cell CD4 2\nACTB,1,2\nGAPDH,3,4\n")
    assert list(inspect(tmp_path / "t.csv", "s").obs.index) == ["T cell CD4 1", "T cell CD4 2"]


def test_an_error_without_a_text_ends_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object, **__: object) -> None:
        raise ValueError

    text_table(tmp_path / "t.csv", genes_in_rows=True)
    monkeypatch.setattr(pd, "read_csv", fail)
    with pytest.raises(InputError, match=r"cannot be read as a table \(ValueError\)"):
        inspect(tmp_path / "t.csv", "s")
