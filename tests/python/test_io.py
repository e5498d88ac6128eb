import errno
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pytest
from scipy.sparse import csc_matrix, csr_matrix

from unbatch.data import io, schema
from unbatch.errors import InputError, StorageError


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.h5ad"
    adata = ad.AnnData(csr_matrix(np.eye(4, 3, dtype="float32")), layers={"counts": csr_matrix(np.eye(4, 3))})
    adata.obsm["spatial"] = np.zeros((4, 2))
    adata.obsm["other"] = np.ones((4, 1))
    adata.uns["unbatch"] = {"schema": 1}
    adata.raw = adata
    adata.write_h5ad(path)
    return path


def test_only_the_slots_asked_for_are_read(small: Path):
    adata = io.read_h5ad(small, ["obsm/spatial", "layers/absent", "uns"])
    assert adata.X is None
    assert list(adata.obsm) == ["spatial"]
    assert list(adata.layers) in ([], [None])
    assert adata.uns["unbatch"]["schema"] == 1
    assert adata.shape == (4, 3)


def test_without_slots_everything_is_read(small: Path):
    adata = io.read_h5ad(small)
    assert set(adata.obsm) == {"spatial", "other"}
    np.testing.assert_array_equal(adata.X.toarray(), np.eye(4, 3))
    np.testing.assert_array_equal(adata.raw.X.toarray(), np.eye(4, 3))


@pytest.mark.parametrize("kind", [np.asarray, csr_matrix, csc_matrix])
def test_matrices_of_every_layout_are_read_as_csr(kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(io, "_DENSE_BLOCK", 5)
    values = np.random.default_rng(0).poisson(1, (7, 3)).astype("float32")
    ad.AnnData(kind(values)).write_h5ad(tmp_path / "a.h5ad")
    matrix = io.read_csr(tmp_path / "a.h5ad", "X")
    assert matrix.format == "csr"
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(matrix.toarray(), values)


def test_64_bit_indices_are_made_small(small: Path):
    with h5py.File(small, "r+") as file:
        for key in ("indices", "indptr"):
            values = file["X"][key][:]
            del file["X"][key]
            file["X"][key] = values.astype("int64")
    matrix = io.read_csr(small, "X")
    assert matrix.indices.dtype == matrix.indptr.dtype == np.int32
    np.testing.assert_array_equal(matrix.toarray(), np.eye(4, 3))


@pytest.mark.parametrize("layout", [csr_matrix, csc_matrix])
def test_indices_out_of_range_are_refused(layout, small: Path):
    ad.AnnData(layout(np.eye(4, 3))).write_h5ad(small)
    with h5py.File(small, "r+") as file:
        file["X/indices"][0] = 1000
    with pytest.raises(InputError, match="truncated or damaged, expected an h5ad file"):
        io.read_csr(small, "X")


@pytest.mark.parametrize("dense", [True, False])
def test_blocks_of_rows_are_appended(dense: bool, tmp_path: Path):
    values = np.random.default_rng(0).poisson(1, (10, 4)).astype("float32")
    blocks = [values[:4], values[4:8], values[8:]]
    path = tmp_path / "blocks.h5ad"
    adata = ad.AnnData(shape=(10, 4))
    io.write_h5ad(adata, path, X=blocks if dense else map(csr_matrix, blocks))
    found = ad.read_h5ad(path).X
    np.testing.assert_array_equal(found if dense else found.toarray(), values)


def damage(path: Path, kind: str) -> None:
    content = path.read_bytes()
    path.unlink()
    if kind == "loop":
        path.symlink_to(path)
    elif kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes({"empty": b"", "text": b"a,b\n", "truncated": content[: len(content) // 2]}[kind])


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "no such file"),
        ("loop", "no such file"),
        ("folder", "expected a file, found a folder"),
        ("empty", "0 bytes"),
        ("text", "not an h5ad file"),
        ("truncated", "truncated or damaged"),
    ],
)
def test_files_that_cannot_be_read_are_named(small: Path, kind: str, message: str):
    damage(small, kind)
    with pytest.raises(InputError, match=f"small.h5ad: .*{message}"):
        io.read_h5ad(small)


def test_damage_inside_the_data_is_reported(small: Path):
    adata = io.read_h5ad(small)
    adata.write_h5ad(small, compression="gzip")
    with h5py.File(small) as file:
        offset = file["X/data"].id.get_chunk_info(0).byte_offset
    with small.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 12)
    with pytest.raises(InputError, match="truncated or damaged"):
        io.read_h5ad(small)


def test_a_file_that_lacks_a_part_is_not_called_damaged(small: Path):
    with h5py.File(small, "r+") as file:
        del file["obs"].attrs["_index"]
    with pytest.raises(InputError, match="a part is missing or of an unknown form"):
        io.read_h5ad(small)


def test_numbers_of_half_precision_are_read(tmp_path: Path):
    values = np.arange(6).reshape(3, 2)
    ad.AnnData(values.astype("float16")).write_h5ad(tmp_path / "half.h5ad")
    np.testing.assert_array_equal(io.read_csr(tmp_path / "half.h5ad", "X").toarray(), values)


def test_hdf5_that_is_not_h5ad_is_refused(tmp_path: Path):
    with h5py.File(tmp_path / "other.h5ad", "w") as file:
        file["data"] = [1]
    with pytest.raises(InputError, match="obs and var is missing; found"):
        io.read_h5ad(tmp_path / "other.h5ad")


def write_half(path: Path) -> None:
    with io.replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    path = tmp_path / "out.json"
    io.write_json({"a": 1}, path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        io.write_json({"a": float("nan")}, path)
    with pytest.raises(RuntimeError):
        write_half(path)
    assert [file.name for file in tmp_path.iterdir()] == ["out.json"]
    assert path.read_text() == '{\n  "a": 1\n}\n'


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let no file of this process grow larger: what a full disk does, without one."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("size", [0, 1000, 5000, 30000, 70000])
@pytest.mark.parametrize("blocks", [None, np.asarray, csr_matrix])
def test_an_h5ad_that_the_disk_does_not_take_is_one_sentence(size: int, blocks, tmp_path: Path, capfd):
    values = np.random.default_rng(0).random((200, 80))
    more = {"X": [blocks(values[:100]), blocks(values[100:])]} if blocks else {}
    adata = ad.AnnData(shape=values.shape) if blocks else ad.AnnData(values)
    adata.obs["text"] = [f"n{i}" for i in range(200)]
    path = tmp_path / "a.h5ad"
    path.write_text("old")
    with files_of_at_most(size), pytest.raises(StorageError, match=f"^{tmp_path}: cannot write a.h5ad, "):
        io.write_h5ad(adata, path, **more)
    assert [file.name for file in tmp_path.iterdir()] == ["a.h5ad"]
    assert path.read_text() == "old"
    del adata
    # HDF5 complains of every object that it cannot close
    assert capfd.readouterr().err == ""


def write_to_a_full_disk(path: Path) -> None:
    with io.replacing(path):
        Path("/dev/full").write_text("text")


def test_models_and_text_that_the_disk_does_not_take_are_one_sentence(tmp_path: Path):
    with pytest.raises(StorageError, match=f"^{tmp_path}: cannot write a.json, .* are free"):
        write_to_a_full_disk(tmp_path / "a.json")
    weights = {"w": np.zeros(1000)}
    io.write_model(tmp_path / "m", {"method": "old"}, weights)
    with files_of_at_most(5000), pytest.raises(StorageError, match=r"/m: cannot write weights\.safetensors, "):
        io.write_model(tmp_path / "m", {"method": "new"}, weights)
    assert sorted(file.name for file in (tmp_path / "m").iterdir()) == ["config.json", "weights.safetensors"]
    assert io.read_model(tmp_path / "m")[0] == {"method": "old"}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_quotas_and_read_only_file_systems_are_reported_as_well(number: int, tmp_path: Path, monkeypatch):
    def refuse(**_where: object) -> None:
        raise OSError(number, "refused")

    monkeypatch.setattr(io.tempfile, "mkstemp", refuse)
    with pytest.raises(StorageError, match=f"^{tmp_path}: cannot write a.json"):
        io.write_json({}, tmp_path / "a.json")


def test_written_files_have_the_usual_permissions(tmp_path: Path):
    io.write_json({}, tmp_path / "a.json")
    (tmp_path / "plain").touch()
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_places_that_cannot_be_written_are_named(small: Path):
    with pytest.raises(InputError, match="no such folder to write"):
        io.require_place(small.parent / "absent" / "a.h5ad")
    with pytest.raises(InputError, match="a folder has this name"):
        io.require_place(small.parent)
    with pytest.raises(InputError, match="would replace"):
        io.require_place(small, [small])


def test_a_dataset_meets_its_contract(dataset_path: Path):
    schema.validate(io.read_h5ad(dataset_path), "dataset", dataset_path)


def _drop_batch(adata: ad.AnnData) -> None:
    del adata.obs["batch"]


def _spoil_x(adata: ad.AnnData) -> None:
    adata.X.data[0] = np.nan


def _make_counts_negative(adata: ad.AnnData) -> None:
    adata.layers["counts"].data[0] = -1


def _lose_a_batch(adata: ad.AnnData) -> None:
    adata.obs.loc[adata.obs_names[0], "batch"] = None


def _flatten_positions(adata: ad.AnnData) -> None:
    adata.obsm["spatial"] = adata.obsm["spatial"][:, :1]


def _lose_positions(adata: ad.AnnData) -> None:
    adata.obsm["spatial"] = adata.obsm["spatial"].astype(float)
    adata.obsm["spatial"][[0, 2], [0, 1]] = np.nan


def _be_newer(adata: ad.AnnData) -> None:
    adata.uns["unbatch"]["schema"] = schema.VERSION + 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_drop_batch, "obs/batch is missing"),
        (_spoil_x, "X holds NaN"),
        (_make_counts_negative, "layers/counts holds -1, below 0"),
        (_lose_a_batch, "obs/batch is missing in 1 cells"),
        (_flatten_positions, r"obsm/spatial has shape \(200, 1\)"),
        (_lose_positions, r"obsm/spatial .* 2 of 200 cells.*fit-dpvae --apply"),
        (_be_newer, "uns/unbatch/schema is 2, this version reads 1"),
    ],
)
def test_a_broken_contract_names_the_slot(dataset_path: Path, change, message: str):
    adata = io.read_h5ad(dataset_path)
    change(adata)
    with pytest.raises(InputError, match=f"^data.h5ad: {message}"):
        schema.validate(adata, "dataset", "data.h5ad")


def test_fits_must_have_the_cells_of_the_dataset_in_order(dataset_path: Path):
    dataset = io.read_h5ad(dataset_path, ["uns"])
    fit = ad.AnnData(obs=dataset.obs[[]], obsm={"X_pca": np.random.default_rng(0).random((dataset.n_obs, 2))})
    fit.uns["unbatch"] = dict.fromkeys(("params", "seed", "device", "wall_s", "peak_mb", "versions"), 0)
    fit.uns["unbatch"] |= {"schema": schema.VERSION, "method": "pca"}
    schema.validate(fit, "fit", "fit.h5ad", cells_of=dataset)
    with pytest.raises(InputError, match="the same cells in another order"):
        schema.validate(fit[::-1], "fit", "fit.h5ad", cells_of=dataset)
    with pytest.raises(InputError, match="199 other cells"):
        schema.validate(fit[1:], "fit", "fit.h5ad", cells_of=dataset)
