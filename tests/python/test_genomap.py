"""Genomaps: a permutation of genes over pixels, found by rounds in which the objective falls."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from unbatch.report.fits.scmedal.genomaps import draw_panel
from unbatch.report.genomap import fit_genomap, gene_distances, standardise, top_genes


def correlated(genes: int = 25, rows: int = 60, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, 3)) @ rng.normal(size=(3, genes)) + 0.5 * rng.normal(size=(rows, genes))


def objective(stack: np.ndarray, pixel: np.ndarray, side: int) -> float:
    """The discrepancy without its constant, by the definition: gene by gene and pixel by pixel."""
    row, column = np.divmod(pixel, side)
    radius = np.hypot(row - (side - 1) / 2, column - (side - 1) / 2)
    distance = 1 - np.nan_to_num(np.corrcoef(stack.T))
    np.fill_diagonal(distance, 0)
    return -float(np.sum(distance * np.log(np.abs(radius[:, None] - radius).round(12) + 1e-15)))


@pytest.mark.parametrize("genes", [3, 10, 16, 25, 30])
def test_an_image_is_a_permutation_of_the_genes_by_rows(genes: int):
    stack = correlated(genes)
    found = fit_genomap(stack)
    assert len(set(found.pixel)) == genes
    assert found.side == int(np.ceil(np.sqrt(genes)))
    images = found.images(stack.reshape(6, 10, genes))
    assert images.shape == (6, 10, found.side, found.side)
    # every cell has its image, the last one too
    np.testing.assert_allclose(np.nansum(images, axis=(2, 3)).ravel(), stack.sum(axis=1))
    np.testing.assert_array_equal(found.values(images).reshape(stack.shape), stack)
    row, column = found.places(np.array([genes - 1]))
    assert images[0, 0, row[0], column[0]] == stack[0, genes - 1]
    assert np.isnan(images).sum() == 60 * (found.side**2 - genes)


@pytest.mark.parametrize("seed", range(5))
def test_no_other_order_that_is_tried_is_better(seed: int):
    stack = correlated(40, seed=seed)
    found = fit_genomap(stack)
    rng = np.random.default_rng(seed)
    others = [objective(stack, rng.permutation(found.pixel), found.side) for _ in range(50)]
    assert objective(stack, found.pixel, found.side) < min(others)


def test_genes_that_vary_together_share_rings():
    rng = np.random.default_rng(0)
    # the rings of 6 x 6 pixels hold 4, 8, 4, 8, 8 and 4: two modules can have rings of their own
    stack = np.repeat(rng.normal(size=(100, 2)), [16, 20], axis=1) + 0.1 * rng.normal(size=(100, 36))
    found = fit_genomap(stack)
    row, column = found.places(np.arange(36))
    radius = np.hypot(row - 2.5, column - 2.5)
    first = np.arange(36) < 16
    together = np.isclose(radius[:, None], radius)
    np.fill_diagonal(together, False)
    # without order 49% of the pairs; the minimum is a local one
    assert (first[:, None] == first)[together].mean() > 0.8


def test_a_gene_that_does_not_vary_is_at_distance_1_and_has_an_image():
    stack = correlated(9)
    stack[:, 4] = 0.1
    assert gene_distances(stack)[4].tolist() == [1, 1, 1, 1, 0, 1, 1, 1, 1]
    np.testing.assert_allclose(gene_distances(stack)[:4, :4], 1 - np.corrcoef(stack[:, :4].T), atol=1e-12)
    assert (standardise(stack)[:, 4] == 0).all()
    assert sorted(fit_genomap(stack).pixel) == list(range(9))


def test_top_genes_are_those_that_projections_change():
    projections = np.zeros((4, 5, 6))
    projections[:, :, 2] = np.arange(4)[:, None]
    projections[:, 0, 5] = np.arange(4)
    # between cells, not between batches
    projections[:, :, 1] = 100 * np.arange(5)
    assert top_genes(projections, 2).tolist() == [2, 5]


def test_the_panel_has_an_image_per_cell_and_column():
    stack = standardise(correlated(24, 30).reshape(5, 6, 24))
    found = fit_genomap(stack)
    names = [f"<b>gene{i}</b>" for i in range(24)]
    columns = ["input", "fixed", "as $a$", "as b", "as c"]
    drawn = draw_panel(found, stack[:, :3], columns, ["T", "B", "NK"], [3, 1], names)
    assert drawn == draw_panel(found, stack[:, :3], columns, ["T", "B", "NK"], [3, 1], names)
    image = Image.open(io.BytesIO(base64.b64decode(drawn.split(",")[1])))
    assert image.width > image.height > 400
    with pytest.raises(ValueError, match=r"\(5, 6, 24\), expected 5 columns x 3 cells"):
        draw_panel(found, stack, columns, ["T", "B", "NK"])


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="1 rows x 9 genes"):
        fit_genomap(np.ones((1, 9)))
    with pytest.raises(ValueError, match="NaN"):
        fit_genomap(np.full((3, 9), np.nan))
    with pytest.raises(ValueError, match="values of 8 genes were given, expected the 9"):
        fit_genomap(correlated(9)).images(np.ones((2, 8)))
