"""spaVAE, the program: what it answers, what its saved models answer again, and what ends with a sentence."""

from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from click.testing import CliRunner, Result
from scipy import sparse
from sklearn.metrics import adjusted_rand_score
from test_spavae import SETTINGS, spots_of, tissue

from unbatch.cli import fit_spavae, preprocess
from unbatch.methods.spavae import given as spavae_given
from unbatch.models import spavae
from unbatch.models.spavae import PRESETS, differential, domains, spatial_genes


@pytest.fixture(scope="module")
def section_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sections after preprocess, with layers as labels."""
    folder = tmp_path_factory.mktemp("spavae")
    given = tissue(side=16, sections=2)
    adata = ad.AnnData(sparse.csr_matrix(given["counts"]))
    adata.obs["sample"] = np.array(["one", "two"])[given["section"]]
    adata.obs["layer"] = np.array(list("ABCD"))[given["layer"]]
    adata.obsm["spatial"] = given["points"]
    adata.obs_names = [f"spot{i}" for i in range(adata.n_obs)]
    adata.var_names = [f"gene{i}" for i in range(adata.n_vars)]
    adata.write_h5ad(folder / "raw.h5ad")
    out = folder / "dataset.h5ad"
    result = CliRunner().invoke(preprocess.main, [str(folder / "raw.h5ad"), "--label-key", "layer", "-o", str(out)])
    assert result.exit_code == 0, result.output
    return out


def run(dataset: Path, output: Path, *options: str) -> Result:
    return CliRunner().invoke(fit_spavae.main, [str(dataset), "-o", str(output), "--threads", "1", *options])


def test_the_program_answers_everything_and_its_model_gives_the_fit_again(section_path: Path, tmp_path: Path):
    new = tmp_path / "new.csv"
    new.write_text("section,x,y\none,150,150\ntwo,750,50\ntwo,90000,0\n")
    asked = ["--denoised", "--spatial-genes", "--differential", "label", "--predict-at", str(new)]
    model = tmp_path / "model"
    result = run(section_path, tmp_path / "fit.h5ad", *asked, "--fold", "1", "--model", str(model))
    assert result.exit_code == 0, result.output
    assert "1 of 3 positions are outside the tissue" in result.stderr
    dataset, fit = ad.read_h5ad(section_path), ad.read_h5ad(tmp_path / "fit.h5ad")
    about = fit.uns["unbatch"]
    np.testing.assert_allclose(
        fit.obsm["X_spavae"], np.c_[fit.obsm["X_spavae_gp"], fit.obsm["X_spavae_gaussian"]], atol=1e-6
    )
    assert fit.layers["denoised"].shape == fit.shape
    assert (about["part"] == "held out").sum() == (dataset.obs["split"] == 1).sum()
    held = dict(zip(about["held_out"]["models"], about["held_out"]["nb_per_spot"], strict=True))
    assert held["spavae"] < held["means"]
    assert list(about["inducing"]["sections"]) == ["one", "two"]
    assert (about["inducing"]["residual"] <= SETTINGS.tolerance).all()
    predicted = about["predicted"]
    assert predicted["distance"][2] > 100 > predicted["distance"][0]
    assert predicted["variance"][2].min() > 3 * predicted["variance"][0].max()
    assert predicted["expression"].shape == (3, fit.n_vars)
    # markers of a layer are spatial genes, and differ
    order = [int(name.removeprefix("gene")) % 12 for name in fit.var_names]
    marked = np.isin(order, range(4))
    assert about["spatial_genes"]["q_value"][marked].max() < 0.05
    change = dict(zip(about["differential"]["groups"], about["differential"]["change"], strict=True))
    assert change["A"][np.array(order) == 0].min() > 0.3
    assert float(about["params"]["scale"]) == pytest.approx(about["inducing"]["scale"][0])
    labels = dataset.obs["label"].cat.codes
    assert adjusted_rand_score(about["domains"]["mixture"], labels) > 0.4

    result = run(section_path, tmp_path / "again.h5ad", "--apply", str(model))
    assert result.exit_code == 0, result.output
    again = ad.read_h5ad(tmp_path / "again.h5ad")
    train = about["part"] == "train"
    np.testing.assert_allclose(again.obsm["X_spavae"][train], fit.obsm["X_spavae"][train], atol=1e-4)
    np.testing.assert_allclose(again.obsm["X_spavae_variance"], fit.obsm["X_spavae_variance"], atol=1e-5)

    # cells of a section and a batch that the model has not seen
    other = dataset[dataset.obs["batch"] == "two"].copy()
    other.obs["batch"] = other.obs["batch"].cat.rename_categories({"two": "three"}).cat.remove_unused_categories()
    other.obs["section"] = other.obs["batch"]
    other.write_h5ad(tmp_path / "other.h5ad")
    result = run(tmp_path / "other.h5ad", tmp_path / "third.h5ad", "--apply", str(model), "--domains", "4")
    assert result.exit_code == 0, result.output
    third = ad.read_h5ad(tmp_path / "third.h5ad")
    found = third.uns["unbatch"]["domains"]
    assert int(found["number"]) == 4
    assert np.corrcoef(third.obsm["X_spavae_gp"][:, 0], fit[other.obs_names].obsm["X_spavae_gp"][:, 0])[0, 1] > 0.9


@pytest.fixture(scope="module")
def model_path(section_path: Path) -> Path:
    """A model of both sections, fitted for two epochs."""
    folder = section_path.parent / "short"
    result = run(section_path, section_path.parent / "short.h5ad", "--max-epochs", "2", "--model", str(folder))
    assert result.exit_code == 0, result.output
    return folder


def part_of(dataset: Path, output: Path, rows: np.ndarray, **renamed: str) -> Path:
    """Write some cells of a dataset, with other names of batches."""
    adata = ad.read_h5ad(dataset)[rows].copy()
    adata.obs["batch"] = adata.obs["batch"].astype(str).replace(renamed).astype("category")
    adata.obs["section"] = adata.obs["section"].cat.remove_unused_categories()
    adata.write_h5ad(output)
    return output


def test_known_batches_of_fewer_cells_are_predicted_as_themselves(section_path, model_path, tmp_path):
    new = tmp_path / "new.csv"
    new.write_text("section,x,y\ntwo,750,50\ntwo,150,850\n")
    both = np.arange(512)
    found = {}
    for name, rows in (("all", both), ("one", both[:256]), ("two", both[256:])):
        dataset = part_of(section_path, tmp_path / f"{name}.h5ad", rows)
        result = run(dataset, tmp_path / "fit.h5ad", "--apply", str(model_path), "--predict-at", str(new))
        assert result.exit_code == 0, result.output
        found[name] = ad.read_h5ad(tmp_path / "fit.h5ad").uns["unbatch"]["predicted"]["expression"]
    np.testing.assert_allclose(found["two"], found["all"], rtol=1e-5)
    # no cell tells the batch of section two: it is the average one
    assert np.abs(found["one"] / found["all"] - 1).max() > 1e-3


def test_batches_that_the_fit_has_not_seen_are_compared_as_the_average_one(section_path, model_path, tmp_path):
    dataset = part_of(section_path, tmp_path / "new.h5ad", np.arange(512), one="new", two="other")
    options = ["--apply", str(model_path), "--differential", "label", "--between", "A,C"]
    result = run(dataset, tmp_path / "fit.h5ad", *options)
    assert result.exit_code == 0, result.output
    assert np.isfinite(ad.read_h5ad(tmp_path / "fit.h5ad").uns["unbatch"]["differential"]["change"]).all()


def test_spots_of_unseen_batches_are_drawn_as_often_as_others():
    batch = np.repeat([-1, 0], 30)
    groups = np.arange(0, 60, 2), np.arange(1, 60, 2)
    pairs, told = differential._pairs(groups, batch, 2000, np.random.default_rng(0))
    assert (told == -1).mean() == pytest.approx(0.5, abs=0.05)
    for rows in pairs:
        np.testing.assert_array_equal(batch[rows], told)


def test_domains_of_one_section_count_its_own_values_alone(section_path, model_path, tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(domains, "number_of", lambda _values, independent, _seed: found.append(independent) or 2)
    for rows in (np.arange(256), np.arange(256, 512), np.arange(512)):
        dataset = part_of(section_path, tmp_path / "part.h5ad", rows)
        assert run(dataset, tmp_path / "fit.h5ad", "--apply", str(model_path)).exit_code == 0
    assert found[0] + found[1] == pytest.approx(found[2])
    assert min(found) > 1


def test_genes_of_few_cells_are_tested_in_the_pitches_of_the_model(section_path, model_path, tmp_path, monkeypatch):
    places, test = [], spatial_genes.spatial_genes
    monkeypatch.setattr(spatial_genes, "spatial_genes", lambda *given: places.append(given[1]) or test(*given))
    every, options = np.arange(512), ["--apply", str(model_path), "--spatial-genes"]
    # a sparse sample of one section, and a cell of the other
    for rows in (every, np.append(every[:256:3], 400)):
        result = run(part_of(section_path, tmp_path / "part.h5ad", rows), tmp_path / "fit.h5ad", *options)
        assert result.exit_code == 0, result.output
    np.testing.assert_allclose(places[1], places[0][rows])
    result = run(part_of(section_path, tmp_path / "part.h5ad", every[[3, 4, 400]]), tmp_path / "few.h5ad", *options)
    assert result.exit_code == 2, result.output
    assert not (tmp_path / "few.h5ad").exists()


@pytest.mark.parametrize("preset", PRESETS)
def test_a_model_knows_the_pitches_of_its_sections_whatever_its_unit(preset):
    given = tissue(side=10, sections=2)
    given["points"][100:] *= (3, 4)
    units = spavae.fit(spots_of(given), PRESETS[preset].but(epochs=1, beta=1.0)).model.pitches
    np.testing.assert_allclose(units, [[1 / 100] * 2, [1 / 300] * 2])


def test_a_file_of_positions_is_read_once_against_all_sections_before_anything_is_embedded(
    section_path, model_path, tmp_path, monkeypatch
):
    read, embedded = [], []
    plain, embed = spavae_given.read_positions, spavae.Model.embed
    monkeypatch.setattr(spavae_given, "read_positions", lambda *given: read.append(given[2]) or plain(*given))
    monkeypatch.setattr(spavae.Model, "embed", lambda *given: embedded.append(1) or embed(*given))
    placed, at = [], spavae.Model.at
    monkeypatch.setattr(spavae.Model, "at", lambda *given: placed.append(len(given[1])) or at(*given))
    dataset, new = part_of(section_path, tmp_path / "one.h5ad", np.arange(256)), tmp_path / "new.csv"
    options = ["--apply", str(model_path), "--predict-at", str(new)]
    new.write_text("x,y\n150,150\n")
    assert run(dataset, tmp_path / "fit.h5ad", *options).exit_code == 2
    assert not embedded
    new.write_text("section,x,y\ntwo,150,150\n")
    assert run(dataset, tmp_path / "fit.h5ad", *options).exit_code == 0
    assert read == [["one", "two"]] * 2
    assert placed == [256, 1]
    assert list(ad.read_h5ad(tmp_path / "fit.h5ad").uns["unbatch"]["predicted"]["section"]) == ["two"]


def test_without_coordinates_it_does_not_apply(section_path: Path, tmp_path: Path):
    dataset = ad.read_h5ad(section_path)
    del dataset.obsm["spatial"]
    dataset.write_h5ad(tmp_path / "flat.h5ad")
    result = run(tmp_path / "flat.h5ad", tmp_path / "fit.h5ad")
    assert result.exit_code == 99
    assert "obsm/spatial is missing" in result.stderr
    assert not (tmp_path / "fit.h5ad").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda a: a.obsm["spatial"].__setitem__((slice(0, 40), 0), 0.0), "at the position of another spot"),
        (lambda a: None, "expected 20 or more"),
    ],
)
def test_sections_that_cannot_be_fitted_end_with_2_and_nothing_written(section_path, tmp_path, change, said):
    dataset = ad.read_h5ad(section_path)
    dataset = dataset[dataset.obs["section"] == "one"][: 200 if "position" in said else 15].copy()
    dataset.obsm["spatial"][:, 1] = np.where(np.arange(dataset.n_obs) < 40, 0, dataset.obsm["spatial"][:, 1])
    change(dataset)
    if "position" not in said:
        dataset.obsm["spatial"] = np.stack([np.arange(15.0), np.arange(15.0)], 1)
    for name in ("batch", "section"):
        dataset.obs[name] = dataset.obs[name].cat.remove_unused_categories()
    dataset.write_h5ad(tmp_path / "small.h5ad")
    result = run(tmp_path / "small.h5ad", tmp_path / "fit.h5ad")
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert not (tmp_path / "fit.h5ad").exists()


def test_a_fit_that_breaks_keeps_what_was_good_and_says_so(section_path: Path, tmp_path: Path):
    options = ["--beta", "1e38", "--max-epochs", "2", "--model", str(tmp_path / "model")]
    result = run(section_path, tmp_path / "fit.h5ad", *options)
    assert result.exit_code == 1
    assert "spavae failed: loss term" in result.stderr
    assert not (tmp_path / "fit.h5ad").exists()
    result = run(section_path, tmp_path / "fit.h5ad", "--apply", str(tmp_path / "model"))
    assert result.exit_code == 2
    assert "ended with an error" in result.stderr
