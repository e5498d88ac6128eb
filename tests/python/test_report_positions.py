"""The report's pages on predicted positions: what is compared, what is marked, what is refused."""

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from test_report import Tags

from unbatch.errors import InputError
from unbatch.positions import evaluation, isometry
from unbatch.report.fits.dpvae import SECTIONS
from unbatch.report.fits.dpvae.read import read_positions
from unbatch.report.read import FitFile, read_dataset
from unbatch.report.section import Page, Shown

NAMES = ["a", "<b>"]


@pytest.fixture
def pair() -> tuple[ad.AnnData, ad.AnnData]:
    """Two sections of a grid, the second without known positions, and what a fit of them holds."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.arange(12.0), np.arange(12.0)), axis=-1).reshape(-1, 2) * 5
    places = np.tile(grid, (2, 1))
    section = np.repeat([0, 1], 144)
    x = np.column_stack((np.sin(places / 20), np.cos(places / 25), rng.normal(size=(288, 4))))
    x = x + rng.normal(scale=0.1, size=x.shape)
    known = section == 0
    known[::4] = False
    predicted = places / 5 + rng.normal(size=places.shape)
    # positions in the second section are worse than known ones let expect
    predicted[section == 1] += rng.normal(scale=4, size=(144, 2))
    found = evaluation.evaluate(
        x, places / 5, predicted, section, known, sections=NAMES, latent=x[:, :2], rivals=("mean", "ridge")
    )
    shapes = isometry.ellipses(lambda z: np.column_stack((z, z[:, :1] ** 2)), x[:, :2])
    about = {
        "schema": 1,
        "method": "dpvae",
        "seed": 0,
        "params": {},
        "part": np.where(known, "known", np.where(section == 0, "held out", "unknown")).astype(object),
        "radii_from": np.array(["own section", "<another>"], dtype=object),
        "history": {"epoch": np.arange(1.0, 4.0), "relative": np.array([3.0, 2, 1]), "scale": np.array([1, 0.6, 0.3])},
        "search": {"alpha2": np.repeat([1.0, 9.0], 2), "epoch": np.tile([5.0, 10], 2), "random": np.arange(4.0)},
        "ellipses": vars(shapes),
        "snapshots": {"spots": np.arange(50), "epoch": np.array([1, 9]), "latent": rng.normal(size=(2, 50, 2))},
        "transfer": {
            "train": np.array(["a", "a"], dtype=object),
            "test": np.array(["a", "<b>"], dtype=object),
            "method": np.array(["dpvae"] * 2, dtype=object),
            "disparity": np.array([0.25, 0.75]),
            "rmse": np.array([1.0, 2.0]),
        },
    } | {name: value for name, value in found.items() if name not in ("radii", "familiar", "calibration")}
    obs = pd.DataFrame(
        {"batch": pd.Categorical.from_codes(section, NAMES)}, index=[f"spot{number}" for number in range(288)]
    )
    genes = pd.DataFrame(index=["up", "<i>", *"stuvwx"])
    fit = ad.AnnData(
        obs=obs[[]],
        var=genes,
        obsm={
            "X_dpvae": x[:, :2].astype(np.float32),
            "X_dpvae_positions": (5 * predicted).astype(np.float32),
            "X_dpvae_radii": found["radii"].astype(np.float32),
        },
        uns={"unbatch": about},
    )
    dataset = ad.AnnData(x.astype(np.float32), obs=obs, var=genes, obsm={"spatial": places})
    return dataset, fit


def made_of(folder: Path, dataset: ad.AnnData, fit: ad.AnnData) -> tuple[dict[str, Page], list[str]]:
    """The pages by key, and the warnings."""
    dataset.write_h5ad(folder / "d.h5ad")
    fit.write_h5ad(folder / "f.h5ad")
    read = read_dataset(folder / "d.h5ad")
    found = read_positions(FitFile(folder / "f.h5ad"), read)
    pages = [page for section in SECTIONS.sections for page in section.pages(found, Shown(read.cells))]
    return {page.key: page for page in pages}, SECTIONS.warnings(found, [])


def test_a_fit_has_a_page_for_all_that_it_holds_and_names_are_escaped(pair, tmp_path):
    pages, _ = made_of(tmp_path, *pair)
    assert list(pages) == [
        *("maps", "rivals", "coverage", "transfer", "spatial", "genes"),
        *("losses", "search", "snapshots", "ellipses"),
    ]
    assert not [key for key, page in pages.items() if '<b>"' in page.content or "<i>" in page.content]
    images = [attributes for tag, attributes in Tags(pages["maps"].content).found if tag == "img"]
    # four pictures of each section; the second section is not the first
    assert len({image["src"] for image in images}) == len(images) - 1 == 7
    assert [row["key"] if "key" in row else row["name"] for row in pages["search"].plot["pconfig"]["data_labels"]] == [
        "Held out at random"
    ]
    assert {"alpha2 1", "alpha2 9"} == pages["search"].plot["data"][0].keys()


def test_errors_are_in_pitches_whatever_the_unit_of_the_file(pair, tmp_path):
    dataset, fit = pair
    dataset.write_h5ad(tmp_path / "d.h5ad")
    fit.write_h5ad(tmp_path / "f.h5ad")
    found = read_positions(FitFile(tmp_path / "f.h5ad"), read_dataset(tmp_path / "d.h5ad"))
    first = (found.section == 0) & found.scored
    # two axes with a standard deviation of one pitch
    assert np.sqrt((found.error[first] ** 2).mean()) == pytest.approx(np.sqrt(2), rel=0.15)


def test_a_rival_that_is_ahead_is_said_to_be_and_the_best_are_bold(pair, tmp_path):
    dataset, fit = pair
    table = fit.uns["unbatch"]["baselines"]
    mine = (table["section"] == "a") & (table["method"] == "dpvae")
    table["disparity"] = np.where(mine, 0.9, table["disparity"])
    content = made_of(tmp_path, dataset, fit)[0]["rivals"].content
    assert "ridge regression is ahead of dp-VAE" in content
    cells = [attributes for tag, attributes in Tags(content).found if tag == "b"]
    # three columns in each of two sections
    assert len(cells) == 6


def test_radii_that_hold_too_few_spots_are_marked_and_warned_of(pair, tmp_path):
    pages, warnings = made_of(tmp_path, *pair)
    low = [text for text in warnings if "90 % radii" in text]
    assert [text.split(":")[0] for text in low] == ["<b>"]
    first, second = pages["coverage"].content.split("<tr>")[2:4]
    assert "ub-refused" not in first
    assert second.count("ub-refused") == 4
    assert "own section" in first
    assert "&lt;another&gt;" in second


def test_a_fit_without_tables_has_maps_only_and_a_damaged_one_is_refused(pair, tmp_path):
    dataset, fit = pair
    about = fit.uns["unbatch"]
    bare = {name: about[name] for name in ("schema", "method", "seed", "params", "part")}
    fit.uns["unbatch"] = bare
    del fit.obsm["X_dpvae_radii"]
    pages, warnings = made_of(tmp_path, dataset, fit)
    assert list(pages) == ["maps"]
    assert warnings == []
    # known spots are drawn by what was fitted to them, which says nothing: they are left out
    assert "36 spots (held out)" in pages["maps"].content
    bare["part"] = np.array(["known"], dtype=object)
    with pytest.raises(InputError, match="part has 1"):
        made_of(tmp_path, dataset, fit)
    bare["part"], bare["radii_from"] = about["part"], about["radii_from"][:1]
    with pytest.raises(InputError, match="radii_from has 1"):
        made_of(tmp_path, dataset, fit)
    del bare["radii_from"]
    bare["baselines"] = {"section": np.array(["a", "b"], dtype=object)}
    with pytest.raises(InputError, match="kind is missing"):
        made_of(tmp_path, dataset, fit)
