"""The report's pages on fits of spaVAE: what they say, what is escaped, what is refused."""

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from unbatch.errors import InputError
from unbatch.report import embedding
from unbatch.report.fits.spavae import SECTIONS, drawing
from unbatch.report.fits.spavae.domains import alike
from unbatch.report.fits.spavae.read import read_spatial
from unbatch.report.read import FitFile, read_dataset
from unbatch.report.section import Page, Shown

HOSTILE = "<script>alert(1)</script>"
GENES = [HOSTILE, "b", "c", "d"]


@pytest.fixture
def fit(dataset_path: Path) -> ad.AnnData:
    """What fit-spavae writes, of 4 genes, with all that can be asked for."""
    dataset = ad.read_h5ad(dataset_path)
    n, rng = dataset.n_obs, np.random.default_rng(0)
    codes = np.arange(n) % 3
    names = lambda *given: np.array(given, dtype=object)  # noqa: E731
    sections = [str(name) for name in dataset.obs["section"].cat.categories]
    place = np.asarray(dataset.obsm["spatial"], dtype=float)
    about = {
        "schema": 1,
        "method": "spavae",
        "seed": 0,
        "params": {"latent": 2},
        "part": np.where(np.arange(n) % 10 == 0, "held out", "train").astype(object),
        "history": {"counts": np.arange(10.0, 0, -1), "beta": np.full(10, 4.0), "bound": np.arange(10.0, 0, -1)},
        "best_epoch": 10,
        "domains": {
            "number": 3,
            "chosen": True,
            "mixture": codes,
            "mixture_refined": codes,
            # the same with other numbers
            "kmeans": (codes + 1) % 3,
            "kmeans_refined": codes,
        },
        "inducing": {
            "sections": names(*sections),
            "points": np.full(len(sections), 2),
            "residual": np.full(len(sections), 0.2),
            "largest": np.full(len(sections), 0.5),
            "scale": np.full(len(sections), 7.0),
            "needed": np.full(len(sections), 9),
            "tolerance": 0.03,
            "position": np.tile(place[:2], (len(sections), 1)),
        },
        "held_out": {
            "models": names("spavae", "kriging", "nearest", "means"),
            "spots": 20,
            "nb_per_spot": np.array([100.0, 98.5, 120.0, 110.0]),
            "correlation": np.array([0.2, 0.3, 0.1, 0.0]),
        },
        "maps": {
            "genes": names(HOSTILE, "b"),
            "why": names("spatial", "named"),
            "raw": rng.random((n, 2)).astype(np.float32),
            "denoised": rng.random((n, 2)).astype(np.float32),
        },
        "enhanced": {
            "spot": np.repeat(np.arange(n), 5),
            "position": np.repeat(place, 5, 0),
            "genes": names(HOSTILE, "b"),
            "expression": rng.random((5 * n, 2)).astype(np.float32),
        },
        "predicted": {
            "section": names(sections[0], sections[0]),
            "position": np.array([place[0], place[0] + 1e6]),
            "distance": np.array([0.1, 1e6]),
            "expression": rng.random((2, 4)).astype(np.float32),
        },
        "spatial_genes": {
            "p_value": np.array([1e-300, 0.01, 0.5, 0.9]),
            "q_value": np.array([1e-300, 0.02, 0.7, 0.9]),
            "scale": np.array([10.0, 40.0, 10.0, 10.0]),
            "moran": np.array([0.5, 0.1, 0.0, 0.0]),
            "moran_p_value": np.array([0.001, 0.2, 0.5, 0.5]),
            "share": np.array([0.9, 0.4, 0.4, 0.4]),
            "permuted": np.array([0.45, 0.4, 0.5, 0.4]),
        },
        "differential": {
            "column": "domains",
            "groups": names("0", "1"),
            "delta": np.array([0.3, 0.4]),
            **{name: np.tile([3.0, -2.0, 0.1, 0.0], (2, 1)) for name in ("change", "bayes_factor", "probability")},
            **{name: np.ones((2, 4)) for name in ("first", "second")},
        },
        "restarts": {
            "seeds": np.array([0, 1, 2]),
            "loss": np.array([3.0, 1.5, 2.0]),
            "kept": 1,
            "spots": 10,
            **{name: np.full((3, 3), 0.5) + 0.5 * np.eye(3) for name in ("mixture", "kmeans")},
        },
    }
    values = rng.normal(size=(n, 4)).astype(np.float32)
    return ad.AnnData(
        obs=dataset.obs[[]], var=pd.DataFrame(index=GENES), obsm={"X_spavae": values}, uns={"unbatch": about}
    )


def made_of(folder: Path, dataset_path: Path, fit: ad.AnnData) -> dict[str, Page]:
    """The pages on a fit, by section and key."""
    fit.write_h5ad(folder / "f.h5ad")
    dataset = read_dataset(dataset_path)
    found = read_spatial(FitFile(folder / "f.h5ad"), dataset)
    shown = Shown(dataset.cells, 0)
    with pytest.MonkeyPatch.context() as patch:
        # a layout takes longest and is tested elsewhere
        patch.setattr(embedding, "umap", lambda values, _seed: values[:, :2])
        return {
            f"{section.id}.{page.key}": page for section in SECTIONS.sections for page in section.pages(found, shown)
        }


def test_every_answer_has_a_page_and_names_are_escaped(dataset_path, fit, tmp_path):
    pages = made_of(tmp_path, dataset_path, fit)
    assert list(pages) == [
        "domains.maps",
        "domains.seeds",
        "prediction.held_out",
        "prediction.umap",
        "prediction.genes",
        "spatial_genes.table",
        "spatial_genes.maps",
        "differential.groups",
        "training.losses",
        "training.inducing",
    ]
    assert not any(HOSTILE in page.content for page in pages.values())
    for name in ("spatial_genes.table", "spatial_genes.maps", "differential.groups"):
        assert "&lt;script&gt;" in pages[name].content
    # a gene is on the page that it was chosen for; counts, denoised, held out, finer, new
    assert pages["prediction.genes"].content.count("<img") == 5 * 2
    assert pages["spatial_genes.maps"].content.count("<img") == 5 * 2
    assert max(len(page.content) for page in pages.values()) < 400_000
    # a rival that predicts better is named, p-values at the floor have no reach
    assert "1.5 nats" in pages["prediction.held_out"].content
    assert "<b>A simple rival" in pages["prediction.held_out"].content
    assert "&lt; 1e-290" in pages["spatial_genes.table"].content
    assert "there are fewer" in pages["training.inducing"].content
    assert pages["training.losses"].plot["pconfig"]["x_lines"][0]["value"] == 10
    assert pages["domains.seeds"].content.count("kept") >= 1


def test_a_plain_fit_and_an_applied_model_have_only_what_they_know(dataset_path, fit, tmp_path):
    about = fit.uns["unbatch"]
    for name in ("enhanced", "predicted", "spatial_genes", "differential", "restarts", "held_out", "maps"):
        del about[name]
    about["part"] = np.full(fit.n_obs, "train", dtype=object)
    assert list(made_of(tmp_path, dataset_path, fit)) == ["domains.maps", "training.losses", "training.inducing"]
    for name in ("history", "best_epoch", "inducing"):
        del about[name]
    assert list(made_of(tmp_path, dataset_path, fit)) == ["domains.maps"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda about: about["domains"].update(number=2), "codes that are not 0 to 1"),
        (lambda about: about["maps"].update(raw=about["maps"]["raw"][:, :1]), "raw is float32 of shape"),
        (lambda about: about["maps"].update(genes=np.array(["b", "z"], dtype=object)), "the gene 'z'"),
        (lambda about: about["spatial_genes"].pop("moran"), "moran is missing"),
        (lambda about: about["restarts"].update(loss=np.zeros(2)), "loss is float64 of shape"),
    ],
)
def test_a_damaged_fit_is_refused(dataset_path, fit, tmp_path, change, said):
    change(fit.uns["unbatch"])
    with pytest.raises(InputError, match=said):
        made_of(tmp_path, dataset_path, fit)


def test_clusters_have_the_numbers_of_those_they_share_most_cells_with():
    reference = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    np.testing.assert_array_equal(alike(np.array([1, 1, 2, 2, 2, 0, 0, 0]), reference, 3), [0, 0, 1, 1, 1, 2, 2, 2])


def test_other_positions_are_placed_as_the_spots_of_an_array_are():
    from unbatch.report.read import Cells

    row, column = np.divmod(np.arange(400), 50)
    points = np.stack([row, 2 * column + row % 2], 1).astype(float)
    none = np.zeros(400, int)
    cells = Cells(pd.RangeIndex(400).astype(str), ["one"], none, None, None, points)
    found = drawing.Tissue.of(cells, 2, 0)
    np.testing.assert_allclose(found.placed(points), found.positions)
    np.testing.assert_allclose(found.placed(np.array([[0.5, 1.0]])), [[0.5, 0.5 * np.sqrt(0.75)]])
    np.testing.assert_array_equal(found.inside(0, np.array([[5.0, 5.0], [900.0, 5.0]])), [True, False])
