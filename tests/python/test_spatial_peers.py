"""Spatial methods that others are compared with: their definitions, and what they make of few cells."""

import importlib

import numpy as np
import pytest
from scipy import sparse

from unbatch import contract, methods
from unbatch.contract import Run
from unbatch.data.cells import Cells
from unbatch.errors import InputError, NotApplicable
from unbatch.models import banksy

SHORT = {
    "smoothed_pca": {"n_components": 4},
    "banksy": {"n_components": 4},
    "stagate": {"epochs": 3, "hidden": 8, "latent": 4},
    "resolvi": {"epochs": 1, "latent": 4},
}


def tissue(places: np.ndarray, section: np.ndarray, genes: int = 30, seed: int = 0) -> Cells:
    """Counts whose first genes depend on the position; sections are batches."""
    rng = np.random.default_rng(seed)
    rate = 1 + 4 * np.outer(places[:, 0] > np.median(places[:, 0]), np.arange(genes) < 8)
    counts = sparse.csr_matrix(1 + rng.poisson(rate).astype(np.float32))
    X = counts.copy()
    X.data = np.log1p(X.data)
    return Cells(X, counts, [f"g{i}" for i in range(genes)], section.astype(np.int64), coordinates=places)


def fit(method: str, cells: Cells, **params: object) -> np.ndarray:
    declared = methods.load(method)
    try:
        return declared.fit(cells, contract.checked(method, declared.params, SHORT[method] | params), Run(1)).embedding
    except NotApplicable as error:
        pytest.skip(str(error))


def square(side: int) -> np.ndarray:
    return np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2).astype(float)


@pytest.mark.parametrize("method", SHORT)
def test_no_edge_joins_two_sections(method: str):
    """Cells of the second section are moved onto those of the first: what is found of the first does not change."""
    places = square(5)
    section = np.repeat([0, 1], 25)
    apart, over = (tissue(np.concatenate([places, places + shift]), section, seed=2) for shift in (100.0, 0.5))
    over = apart.but(coordinates=over.coordinates)
    np.testing.assert_allclose(fit(method, over), fit(method, apart), atol=1e-5)


@pytest.mark.parametrize("method", SHORT)
def test_cells_without_a_neighbour_are_embedded_and_named(method: str, caplog: pytest.LogCaptureFixture):
    """A section of one cell among others, one cell a section, and hardly any cells."""
    rng = np.random.default_rng(3)
    mixed = tissue(rng.random((21, 2)), np.repeat([0, 1], [20, 1]))
    lonely = tissue(rng.random((8, 2)), np.arange(8))
    tiny = tissue(rng.random((4, 2)), np.zeros(4))
    for cells in (mixed, lonely, tiny):
        with caplog.at_level("WARNING", "unbatch"):
            found = fit(method, cells)
        assert len(found) == len(cells)
        assert np.isfinite(found).all()
    if method in ("smoothed_pca", "banksy", "stagate"):
        assert any(record.args[1:3] == (1, 21) for record in caplog.records)
        assert any(record.args[1:3] == (8, 8) for record in caplog.records)


@pytest.mark.parametrize("method", SHORT)
def test_positions_that_are_missing_or_shared_are_refused(method: str):
    cells = tissue(square(6), np.zeros(36))
    for places in (np.where(np.arange(36)[:, None] == 2, np.nan, cells.coordinates), np.ones((36, 2))):
        with pytest.raises(InputError, match="section"):
            fit(method, cells.but(coordinates=places))
    with pytest.raises(NotApplicable, match="coordinates"):
        methods.load(method).fit(cells.but(coordinates=None))


def test_smoothed_components_are_the_mean_over_a_cell_and_two_rings():
    cells = tissue(square(9), np.zeros(81))
    plain, rings = fit("smoothed_pca", cells, rings=0), fit("smoothed_pca", cells)
    middle = 4 * 9 + 4
    steps = np.abs(cells.coordinates - cells.coordinates[middle]).sum(1)
    np.testing.assert_allclose(rings[middle], plain[steps <= 2].mean(0), atol=1e-5)
    assert (steps <= 2).sum() == 13


def test_banksys_mean_and_gradient_are_those_of_its_definition():
    rng = np.random.default_rng(0)
    places = rng.random((40, 2)) * [1, 3]
    section, X = np.arange(40) % 2, rng.random((40, 3))
    found = banksy.features(X, places, section, 0.8, 5, 7)
    parts = np.zeros((2, 40, 3), complex)
    for harmonic, k in ((0, 5), (1, 7)):
        near, widths = {}, {0: [], 1: []}
        for cell in range(40):
            mine = np.flatnonzero((section == section[cell]) & (np.arange(40) != cell))
            apart = places[mine] - places[cell]
            order = np.argsort(np.hypot(*apart.T))[:k]
            near[cell] = mine[order], apart[order]
            widths[section[cell]] += np.hypot(*apart[order].T).tolist()
        for cell, (others, apart) in near.items():
            r, angle = np.hypot(*apart.T), np.arctan2(apart[:, 1], apart[:, 0])
            weight = np.exp(-0.5 * (r / np.median(widths[section[cell]])) ** 2)
            weight /= weight.sum()
            level = X[others] - harmonic * weight @ X[others]
            parts[harmonic][cell] = (weight * np.exp(1j * harmonic * angle)) @ level
    expected = [X, parts[0].real, np.abs(parts[1])]
    for block, (share, values) in enumerate(zip((0.2, 0.8 * 2 / 3, 0.8 / 3), expected, strict=True)):
        scaled = np.sqrt(share) * (values - values.mean(0)) / values.std(0)
        np.testing.assert_allclose(found[:, 3 * block : 3 * block + 3], scaled, atol=1e-10)
    assert banksy.features(X, places, section, 0.8, 5, None).shape == (40, 6)


def test_a_cell_far_from_all_others_has_a_neighbourhood_all_the_same():
    grid = np.stack(np.meshgrid(np.arange(10.0), np.arange(10.0)), -1).reshape(-1, 2)
    place, section = np.vstack([grid, [150.0, 150.0]]), np.zeros(101, int)
    found = banksy.kernel(place, section, 6, 0)
    assert np.isfinite(found.data).all()
    np.testing.assert_allclose(abs(found).sum(1), 1)


def test_banksy_in_three_dimensions_needs_no_gradient():
    rng = np.random.default_rng(1)
    cells = tissue(rng.random((30, 3)), np.zeros(30))
    with pytest.raises(InputError, match="gradient"):
        fit("banksy", cells)
    assert fit("banksy", cells, gradient_neighbours=None).shape == (30, 4)


def test_a_library_without_resolvi_is_not_a_failure(monkeypatch: pytest.MonkeyPatch):
    external = pytest.importorskip("scvi.external")
    monkeypatch.delattr(external, "RESOLVI")
    assert importlib.import_module("scvi.external") is external
    with pytest.raises(NotApplicable, match="scvi-tools"):
        methods.load("resolvi").fit(tissue(square(5), np.zeros(25)))


def test_resolvi_names_cells_without_a_count():
    cells = tissue(square(5), np.zeros(25))
    counts = cells.counts.tolil()
    counts[3] = 0
    with pytest.raises(InputError, match="1 of 25"):
        fit("resolvi", cells.but(counts=sparse.csr_matrix(counts)))
