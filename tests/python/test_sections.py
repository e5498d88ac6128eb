"""Sections: what has coordinates of its own, and that no edge joins two of them."""

from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from test_preprocess import done, make, refused, two_samples, write_sheet

from unbatch.cli import fit_baseline, fit_batchblend
from unbatch.data.cells import Cells, read_cells
from unbatch.data.notes import Notes, read_notes
from unbatch.data.sections import choose_sections, warn_of_sections
from unbatch.models import batchblend
from unbatch.report import draw, embedding
from unbatch.report.read import read_dataset


def table(**columns: object) -> pd.DataFrame:
    return pd.DataFrame(columns, index=[f"c{i}" for i in range(12)])


def chosen(obs: pd.DataFrame, key: str | None = None, from_sheet: bool = False) -> str:
    batch = pd.Categorical(obs["donor"])
    section, column = choose_sections(obs, key, batch, "donor", Path("in.h5ad"), from_sheet)
    assert not section.isna().any()
    if column != "donor" and key is None:
        assert section.tolist() == obs[column].tolist()
    return column


DONOR, THREES = np.repeat(["D1", "D2"], 6), np.repeat(["s1", "s2", "s3", "s4"], 3)


def test_sections_of_a_sheet_are_its_samples_unless_another_column_is_named():
    obs = table(donor=DONOR, sample=THREES, section=THREES[::-1])
    assert chosen(obs, from_sheet=True) == "sample"
    assert chosen(obs, "section", from_sheet=True) == "section"


@pytest.mark.parametrize(
    ("columns", "column"),
    [
        ({}, "donor"),
        ({"sample": THREES}, "sample"),
        ({"sample": DONOR, "section": THREES}, "section"),
        # a sample of both donors is no section of one of them
        ({"sample": np.tile(["s1", "s2"], 6)}, "donor"),
        ({"sample": np.where(np.arange(12) == 5, None, THREES)}, "donor"),
        # the names of cells are no sections
        ({"sample": np.arange(12).astype(str)}, "donor"),
    ],
)
def test_sections_of_one_file_divide_its_batches(columns: dict, column: str):
    assert chosen(table(donor=DONOR, **columns)) == column


def codes(obs: pd.DataFrame, key: str, coordinates: np.ndarray) -> list[str]:
    notes = Notes()
    warn_of_sections(obs, pd.Categorical(obs[key]), key, pd.Categorical(obs["donor"]), coordinates, notes)
    return [note.code for note in notes]


def test_sections_that_are_likely_wrong_are_warned_of():
    line = np.column_stack((np.arange(12.0), np.arange(12.0) % 3))
    stacked = np.column_stack((np.arange(12.0) % 3, np.arange(12.0) % 2))
    obs = table(donor=DONOR, library_id=THREES)
    # parts that lie side by side have one coordinate system, those over one another hardly
    assert codes(obs, "donor", line) == []
    assert codes(obs, "donor", stacked) == ["finer-sections"]
    assert codes(obs, "library_id", stacked) == []
    assert codes(table(donor=DONOR, slide="one"), "slide", line) == ["sections-span-batches"]


def test_a_donor_of_two_sections_has_two_in_the_dataset(tmp_path: Path):
    for number in range(4):
        make(seed=number).write_h5ad(tmp_path / f"{number}.h5ad")
    rows = [{"sample": f"s{i}", "path": f"{i}.h5ad", "donor": f"d{i // 2}"} for i in range(4)]
    dataset = done(write_sheet(tmp_path, rows), "--batch-key", "donor")
    assert dataset.obs["section"].tolist() == dataset.obs["sample"].tolist()
    assert dataset.uns["unbatch"]["parameters"]["section_key"] == "sample"
    cells = read_cells(tmp_path / "dataset.h5ad")
    assert cells.section.tolist() == np.repeat(range(4), 12).tolist()
    assert cells.batch.tolist() == np.repeat([0, 1], 24).tolist()
    assert cells.sections == [f"s{i}" for i in range(4)]


def test_sections_that_cannot_be_used_are_refused(tmp_path: Path):
    adata = make()
    adata.obs["slide"] = ["x"] * 11 + [None]
    adata.obs["cell"] = adata.obs_names
    adata.write_h5ad(tmp_path / "in.h5ad")
    assert "no column nowhere (--section-key)" in refused(tmp_path / "in.h5ad", "--section-key", "nowhere")
    assert "slide (--section-key) is missing in 1 cells" in refused(tmp_path / "in.h5ad", "--section-key", "slide")
    assert "cell (--section-key) has 12 values" in refused(tmp_path / "in.h5ad", "--section-key", "cell")


def test_datasets_of_older_versions_have_their_batches_for_sections(dataset_path: Path, tmp_path: Path):
    dataset = ad.read_h5ad(dataset_path)
    del dataset.obs["section"]
    dataset.write_h5ad(tmp_path / "old.h5ad")
    cells = read_cells(tmp_path / "old.h5ad")
    np.testing.assert_array_equal(cells.section, cells.batch)
    drawn = read_dataset(tmp_path / "old.h5ad").cells
    assert (drawn.sections, drawn.section.tolist()) == (drawn.batches, drawn.batch.tolist())


def test_a_column_of_the_input_named_section_is_kept(tmp_path: Path):
    first, second = make(), make(seed=1)
    first.obs["section"] = second.obs["section"] = "cortex"
    dataset = done(two_samples(tmp_path, first, second))
    assert dataset.obs["section_input"].eq("cortex").all()
    assert list(dataset.obs["section"].cat.categories) == ["A", "B"]
    assert "columns-renamed" in [note.code for note in read_notes(dataset.uns["unbatch"]["notes"])]


# No edge joins two sections -----------------------------------------------------------------------------------------


@pytest.fixture
def sectioned(dataset_path: Path, tmp_path: Path) -> Callable[[float], Path]:
    """The dataset, with two sections over one another in each batch, of which one is moved."""

    def write(moved: float) -> Path:
        dataset = ad.read_h5ad(dataset_path)
        second = np.arange(dataset.n_obs) % 2 == 1
        dataset.obs["section"] = pd.Categorical(dataset.obs["batch"].astype(str) + np.where(second, " b", " a"))
        dataset.obsm["spatial"] = np.random.default_rng(0).random((dataset.n_obs, 2))
        dataset.obsm["spatial"][second] += moved
        path = tmp_path / f"{moved:g}.h5ad"
        dataset.write_h5ad(path)
        return path

    return write


QUICK = ["--metagenes", "4", "--max-epochs", "2", "--graph", "knn"]


@pytest.mark.parametrize(
    ("program", "options", "slot"),
    [
        (fit_batchblend, [*QUICK, "--spatial", "linear"], "X_batchblend"),
        (fit_batchblend, [*QUICK, "--spatial", "hmrf"], "X_batchblend"),
        (fit_batchblend, [*QUICK, "--mode", "popari"], "X_popari"),
        (fit_baseline, ["--method", "staligner", "--max-epochs", "3"], "X_staligner"),
    ],
)
def test_moving_a_section_within_its_batch_changes_no_fit(sectioned, tmp_path: Path, program, options, slot: str):
    found = []
    for moved in (0.0, 1e4):
        arguments = [str(sectioned(moved)), *options, "-o", str(tmp_path / "fit.h5ad")]
        result = CliRunner().invoke(program.main, arguments)
        assert result.exit_code == 0, result.output
        found.append(ad.read_h5ad(tmp_path / "fit.h5ad").obsm[slot])
    np.testing.assert_allclose(*found, atol=1e-5)


def test_a_section_of_two_batches_joins_their_cells_where_they_touch(dataset_path: Path, tmp_path: Path, monkeypatch):
    dataset = ad.read_h5ad(dataset_path)
    dataset.obs["section"] = pd.Categorical(["slide"] * dataset.n_obs)
    dataset.obsm["spatial"] = np.random.default_rng(0).random((dataset.n_obs, 2))
    dataset.write_h5ad(tmp_path / "in.h5ad")
    seen = {}

    def fit(*arguments: object, **options: object) -> batchblend.Fitted:
        seen.update(options, batch=arguments[1])
        return real(*arguments, **options)

    real = batchblend.fit
    monkeypatch.setattr(batchblend, "fit", fit)
    for mode in ("batchblend", "popari"):
        arguments = [str(tmp_path / "in.h5ad"), *QUICK, "--mode", mode, "-o", str(tmp_path / "fit.h5ad")]
        result = CliRunner().invoke(fit_batchblend.main, arguments)
        assert result.exit_code == 0, result.output
        source, target = seen["graph"]
        assert (seen["batch"][source] != seen["batch"][target]).any()
    assert set(ad.read_h5ad(tmp_path / "fit.h5ad").uns["unbatch"]["spatial"]["graph"]) == {"knn"}


def test_sections_are_the_batches_where_a_method_is_given_no_others():
    cells = Cells(None, np.ones((3, 2)), ["g", "h"], np.array([0, 0, 1]))
    np.testing.assert_array_equal(cells.section, cells.batch)


# Drawing ------------------------------------------------------------------------------------------------------------


def test_maps_are_by_section_and_take_turns_among_batches():
    section = np.repeat([0, 1, 2, 3], 5)
    batches = [[0], [0], [0, 1], [1]]
    drawn = embedding.sections(np.random.default_rng(0).random((20, 2)), batches, section, 3)
    assert drawn.order == [0, 3, 1, 2]
    assert (drawn.shown, drawn.first(2)) == ([0, 1, 3], [0, 3])
    assert [len(cells) for cells in drawn.members] == [5] * 4
    colours = draw.section_colours(["a", "b"], batches)
    assert colours == [draw.OKABE_ITO[0], draw.OKABE_ITO[0], draw.FAINT, draw.OKABE_ITO[1]]
