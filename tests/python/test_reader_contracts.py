"""What readers owe to those who call them, whatever the kind of file."""

import gzip
import shutil
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from test_preprocess import done, make, refused, run, two_samples, write_10x
from test_readers import PLACES, SYMBOLS, loom, merscope, mtx, visium, xenium, zarr_store

from unbatch.data.readers.annotated import count_places
from unbatch.data.readers.kinds import find
from unbatch.data.samples import Wanted, inspect
from unbatch.errors import InputError


def table(path: Path) -> None:
    frame = pd.DataFrame(make().X.toarray().astype(int), columns=["ACTB", "GAPDH", "CD4", "CD8A", *"EFGH"])
    frame.set_axis(pd.Index(make().obs_names, name="cell")).assign(x=PLACES[:, 0], y=PLACES[:, 1]).to_csv(path)


def of_kind(kind: str, path: Path) -> Path:
    writers = {
        "table": table,
        "loom": loom,
        "10x": lambda place: write_10x(place, make(), SYMBOLS),
        "mtx": mtx,
        "visium": lambda place: visium(place, "tissue_positions.csv"),
        "xenium": lambda place: xenium(place, parquet=False),
        "merscope": merscope,
    }
    writers[kind](path)
    return path


@pytest.mark.parametrize("kind", ["table", "10x", "mtx", "visium", "xenium", "merscope"])
def test_a_place_of_counts_that_a_kind_of_file_cannot_have_is_refused(kind: str, tmp_path: Path):
    path = of_kind(kind, tmp_path / "given")
    with pytest.raises(InputError, match=r"given.*layers/raw_counts"):
        inspect(path, "A", Wanted(counts="layers/raw_counts"))
    assert inspect(path, "A", Wanted(counts="X")).shape[0] == 12


@pytest.mark.parametrize("kind", ["table", "loom", "10x", "mtx", "visium", "xenium", "merscope"])
def test_coordinates_that_are_not_there_are_refused(kind: str, tmp_path: Path):
    path = of_kind(kind, tmp_path / "given")
    with pytest.raises(InputError, match=r"given.*spatial_key is left,right"):
        inspect(path, "A", Wanted(spatial="left,right"))


@pytest.mark.parametrize("kind", ["table", "loom"])
def test_coordinates_are_taken_from_the_columns_that_are_named(kind: str, tmp_path: Path):
    found = inspect(of_kind(kind, tmp_path / "given"), "A", Wanted(spatial="y,x"))
    np.testing.assert_array_equal(found.coordinates, PLACES[:, ::-1])


def test_a_line_of_a_sheet_names_several_columns_that_make_a_batch_together(tmp_path: Path):
    one, two = make(), make(seed=1)
    two.obs["donor"], two.obs["lane"] = ["d1", "d2"] * 6, [1.0] * 6 + [2.0] * 6
    two_samples(tmp_path, one, two)
    sheet = tmp_path / "sheet.csv"
    sheet.write_text('sample,path,batch_key,section_key\nA,one.h5ad,,\nB,two.h5ad,"donor,lane","lane, donor"\n')
    dataset = done(sheet)
    assert dataset.obs["batch"].value_counts().to_dict() == {"A": 12} | {f"d{d} | {n}": 3 for d in "12" for n in "12"}
    assert set(dataset.obs["section"]) == {"A"} | {f"{n} | d{d}" for d in "12" for n in "12"}
    sheet.write_text('sample,path,batch_key\nA,one.h5ad,\nB,two.h5ad,"donor,day"\n')
    assert "two.h5ad" in refused(sheet, "-o", str(tmp_path / "x.h5ad"))


@pytest.mark.parametrize(
    "name", ["cellranger_summary.csv.gz", "cells_removed.csv.gz", "genes_of_interest.tsv.gz", "variants.csv"]
)
@pytest.mark.parametrize("by_folder", [True, False])
def test_names_of_a_matrix_are_not_taken_from_other_files_with_it(name: str, by_folder: bool, tmp_path: Path):
    mtx(tmp_path, packed=False)
    text = "a,1\nb,2\n"
    (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    found = inspect(tmp_path if by_folder else tmp_path / "matrix.mtx", "A")
    assert list(found.obs.index) == list(make().obs_names)
    assert list(found.var.index) == SYMBOLS


def test_names_of_a_matrix_do_not_depend_on_the_order_of_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    mtx(tmp_path, packed=False)
    for name in ("features_a.tsv", "features_b.tsv"):
        (tmp_path / name).write_bytes((tmp_path / "features.tsv").read_bytes())
    (tmp_path / "features.tsv").unlink()
    listed = sorted(tmp_path.iterdir())
    chosen = set()
    for order in (listed, listed[::-1]):
        monkeypatch.setattr(Path, "iterdir", lambda folder, order=order: iter(order))
        chosen.add(find(tmp_path / "matrix.mtx").files["features"].name)
    assert chosen == {"features_a.tsv"}


def test_names_of_a_matrix_may_be_written_in_one_word(tmp_path: Path):
    mtx(tmp_path, packed=False)
    (tmp_path / "barcodes.tsv").rename(tmp_path / "cellnames.tsv")
    (tmp_path / "features.tsv").rename(tmp_path / "geneids.tsv")
    assert list(inspect(tmp_path, "A").var.index) == SYMBOLS


@pytest.mark.parametrize("closed", ["outs", "outs/inner"])
def test_a_folder_that_cannot_be_listed_is_refused_by_its_name(
    closed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "outs" / "inner").mkdir(parents=True)
    listing = Path.iterdir

    def iterdir(folder: Path):
        # root needs no permission
        if folder == tmp_path / closed:
            raise PermissionError(13, "Permission denied", str(folder))
        return listing(folder)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    with pytest.raises(InputError, match=closed):
        inspect(tmp_path, "A")


@pytest.mark.parametrize("name", ["packed.zarr", "packed.zip"])
def test_a_packed_store_is_read_whatever_its_name_and_closed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import zarr

    closed = []
    close = zarr.storage.ZipStore.close
    monkeypatch.setattr(zarr.storage.ZipStore, "close", lambda store: (closed.append(store), close(store)))
    zarr_store(tmp_path / "a.zarr", 2)
    Path(shutil.make_archive(str(tmp_path / "a"), "zip", tmp_path / "a.zarr")).rename(tmp_path / name)
    found = inspect(tmp_path / name, "A")
    assert (found.kind, list(found.var.index)) == ("zarr", SYMBOLS)
    np.testing.assert_array_equal(found.coordinates, PLACES)
    assert closed
    assert not any(store._is_open for store in closed)


@pytest.mark.parametrize("positions", [True, False])
def test_only_a_raw_matrix_of_all_barcodes_is_warned_of(positions: bool, tmp_path: Path):
    visium(tmp_path / "outs", "tissue_positions.csv")
    matrix = tmp_path / "outs" / "raw_feature_bc_matrix.h5"
    (tmp_path / "outs" / "filtered_feature_bc_matrix.h5").rename(matrix)
    found = inspect(tmp_path / "outs" if positions else matrix, "A")
    assert (found.kind == "Visium", "raw-matrix" in {remark.code for remark in found.remarks}) == (
        positions,
        not positions,
    )


def test_counts_are_looked_for_in_one_order_in_every_kind_of_file(tmp_path: Path):
    layers = {"raw_counts": 1, "Counts": 2, "zzz": 3}
    with h5py.File(tmp_path / "a.loom", "w") as file:
        for name, value in layers.items():
            file[f"layers/{name}"] = np.full((2, 3), value)
        file["matrix"] = file["X"] = np.full((2, 3), 0.5)
        file["row_attrs/Gene"], file["col_attrs/CellID"] = np.array(["A", "B"], "S"), np.array(["a", "b", "c"], "S")
        assert count_places(file) == ["layers/Counts", "layers/raw_counts", "layers/zzz"]
    adata = make()
    adata.layers["raw_counts"] = adata.layers["Counts"] = adata.X.copy()
    adata.X = adata.X * 0.5
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert {inspect(tmp_path / name, "A").slot for name in ("a.loom", "a.h5ad")} == {"layers/Counts"}


def test_text_that_is_not_utf8_does_not_keep_a_file_of_old_anndata_from_being_read(tmp_path: Path):
    with h5py.File(tmp_path / "a.h5ad", "w") as file:
        file["X"] = np.ones((2, 3), np.float32)
        file["obs"] = np.array([(b"a", b"caf\xe9"), (b"b", b"bar")], dtype=[("index", "S1"), ("place", "S4")])
        file["var"] = np.array([(b"A",), (b"B",), (b"C",)], dtype=[("index", "S1")])
    assert inspect(tmp_path / "a.h5ad", "A").obs["place"].tolist() == ["caf\ufffd", "bar"]


def test_an_error_that_says_nothing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class SilentError(Exception):
        pass

    def fail(*args: object, **options: object) -> None:
        raise SilentError

    xenium(tmp_path / "a", parquet=False)
    monkeypatch.setattr(pd, "read_csv", fail)
    with pytest.raises(InputError, match="SilentError"):
        inspect(tmp_path / "a", "A")


@pytest.mark.parametrize(
    ("cells", "genes", "turned"),
    [
        ([f"ENSG{i:011d}" for i in range(12)], [f"c{i}" for i in range(8)], True),
        (list("ABCDEFGHIJKL"), [f"ACGTACGTACGTACG{'ACGT'[i % 4]}{'ACGT'[i // 4]}-1" for i in range(8)], True),
        (
            [f"ACGTACGTACGTAC{'ACGT'[i % 4]}{'ACGT'[i // 4]}-1" for i in range(12)],
            [f"ENSG{i:011d}" for i in range(8)],
            False,
        ),
        ([f"c{i}" for i in range(12)], list("ABCDEFGH"), False),
    ],
)
def test_rows_and_columns_that_are_exchanged_are_refused(
    tmp_path: Path, cells: list[str], genes: list[str], turned: bool
):
    adata = make()
    adata.obs_names, adata.var_names = cells, genes
    adata.write_h5ad(tmp_path / "in.h5ad")
    result = run(tmp_path / "in.h5ad")
    assert result.exit_code == (2 if turned else 0)
    assert not turned or cells[0] in result.output
