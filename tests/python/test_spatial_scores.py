"""Scores of positions: equal to independent implementations, and to what is known by construction."""

import numpy as np
import pytest
import scanpy as sc
from scipy import sparse
from scipy.spatial import procrustes
from scipy.stats import pearsonr
from sklearn.preprocessing import StandardScaler

from unbatch.metrics import spatial


def grid(side: int, step: float = 1.0) -> np.ndarray:
    return step * np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2).astype(float)


def noisy(points: np.ndarray, size: float, seed: int = 0) -> np.ndarray:
    return points + np.random.default_rng(seed).normal(scale=size, size=points.shape)


def test_disparity_is_that_of_scipy_and_0_for_a_mirrored_copy():
    places = grid(8)
    found = noisy(places, 1.5)
    assert spatial.disparity(found, places) == pytest.approx(procrustes(places, found)[2], abs=1e-12)
    mirrored = 3 * places[:, ::-1] + (5, -2)
    assert spatial.disparity(mirrored, places) < 1e-20


def test_a_similarity_that_was_found_on_some_spots_brings_others_to_their_places():
    places = grid(10, step=2.0)
    angle = 0.7
    turned = 0.3 * places @ np.array([[np.cos(angle), np.sin(angle)], [np.sin(angle), -np.cos(angle)]]) + (4, 1)
    train = np.arange(len(places)) % 2 == 0
    mapped = spatial.similarity(turned[train], places[train])(turned[~train])
    errors = spatial.position_errors(mapped, places[~train], spatial.pitch(places))
    assert errors.rmse < 1e-12
    np.testing.assert_allclose(errors.r2, 1)


def test_errors_are_in_pitches_and_the_mean_explains_nothing():
    places = grid(6, step=100.0)
    assert spatial.pitch(np.concatenate((places, places[:3]))) == 100
    found = places + np.array([100, 0])
    found[0] = places[0]
    errors = spatial.position_errors(found, places, spatial.pitch(places))
    assert errors.median == 1
    assert errors.rmse == pytest.approx(np.sqrt(35 / 36))
    np.testing.assert_allclose(spatial.position_errors(np.tile(places.mean(0), (36, 1)), places).r2, 0, atol=1e-12)


def test_moran_and_geary_are_those_of_scanpy():
    rng = np.random.default_rng(1)
    places = rng.random((300, 2))
    values = np.column_stack((places[:, 0] + 0.1 * rng.normal(size=300), rng.normal(size=300), np.ones(300)))
    near = spatial.nearest(places, 5)
    graph = sparse.csr_matrix((np.ones(near.size), (np.repeat(np.arange(300), 5), near.ravel())), shape=(300, 300))
    moran, geary = spatial.morans_i(values, near), spatial.gearys_c(values, near)
    np.testing.assert_allclose(moran[:2], sc.metrics.morans_i(graph, values[:, :2].T), atol=1e-6)
    np.testing.assert_allclose(geary[:2], sc.metrics.gearys_c(graph, values[:, :2].T), atol=1e-6)
    assert np.isnan([moran[2], geary[2]]).all()
    assert moran[0] > 0.8 > 0.2 > abs(moran[1])


def test_neighbours_stay_in_their_section_even_on_one_position():
    places = np.tile(grid(4), (2, 1))
    section = np.repeat([0, 1], 16)
    near = spatial.nearest(places, 3, section)
    assert (section[near] == section[:, None]).all()
    assert (near != np.arange(32)[:, None]).all()
    with pytest.raises(ValueError, match="16 spots"):
        spatial.nearest(places, 16, section)


def test_a_section_with_too_few_spots_has_fewer_neighbours_where_that_is_asked_for():
    places = np.concatenate((grid(4), 3 * grid(2), [[1.0, 1.0]]))
    section = np.repeat([0, 1, 2], [16, 4, 1])
    near = spatial.nearest(places, 5, section, fewer=True)
    np.testing.assert_array_equal((near >= 0).sum(axis=1), np.repeat([5, 3, 0], [16, 4, 1]))
    np.testing.assert_array_equal(np.sort(near[16]), [-1, -1, 17, 18, 19])
    np.testing.assert_array_equal(near[:16], spatial.nearest(grid(4), 5))
    # by their definition, each neighbour that there is counts once
    values = np.random.default_rng(0).normal(size=(21, 2))
    centred = values - values.mean(axis=0)
    products = [centred[spot] * centred[other] for spot in range(21) for other in near[spot] if other >= 0]
    expected = np.sum(products, axis=0) / len(products) / (centred**2).mean(axis=0)
    np.testing.assert_allclose(spatial.morans_i(values, near), expected)
    assert spatial.pitch(places, section) == 1
    assert spatial.pitch(places[16:], section[16:]) == 3
    with pytest.raises(ValueError, match="one position"):
        spatial.pitch(places[20:], section[20:])


def test_correlation_of_distances_has_an_interval_of_spots_and_a_test_against_chance():
    places = grid(12)
    found = spatial.distance_correlation(noisy(places, 2.0), places)
    pairs = np.triu_indices(len(places), 1)
    known = [np.linalg.norm(x[pairs[0]] - x[pairs[1]], axis=1) for x in (noisy(places, 2.0), places)]
    assert found.r == pytest.approx(pearsonr(*known)[0], abs=1e-9)
    assert found.interval[0] < found.r < found.interval[1]
    assert found.p == pytest.approx(1 / 201)
    unrelated = [
        spatial.distance_correlation(np.random.default_rng(s).normal(size=(80, 2)), grid(9)[:80]).p for s in range(8)
    ]
    assert min(unrelated) > 0.005
    assert np.mean(unrelated) > 0.2


def test_the_interval_is_as_wide_as_the_spread_over_samples_of_spots():
    """Fisher's interval over pairs would be several times too narrow."""
    estimates, widths = [], []
    for seed in range(30):
        places = np.random.default_rng(seed).random((60, 2))
        found = spatial.distance_correlation(noisy(places, 0.3, seed + 100), places)
        estimates.append(found.r)
        widths.append(found.interval[1] - found.interval[0])
    assert 0.6 < np.mean(widths) / (2 * 1.96 * np.std(estimates, ddof=1)) < 1.7


def test_a_scaled_copy_has_no_distortion_and_a_stretched_one_has_its_factor():
    places = grid(15)
    np.testing.assert_allclose(spatial.distortion(7 * places, places), 1)
    low, high = spatial.distortion(places * (1, 4), places, (0.0, 1.0))
    assert high / low == pytest.approx(4)


def test_neighbourhoods_are_kept_by_a_copy_and_lost_by_chance():
    places = np.random.default_rng(3).random((400, 2))
    assert spatial.neighbourhood_kept(2 * places, places) == 1
    shuffled = np.random.default_rng(4).permutation(places)
    assert spatial.neighbourhood_kept(shuffled, places) == pytest.approx(15 / 399, abs=0.02)


def test_domains_in_one_piece_have_few_abnormal_spots_and_low_chaos():
    places = grid(20)
    halves = (places[:, 0] >= 10).astype(int)
    salt = np.random.default_rng(5).integers(2, size=400)
    assert spatial.abnormal_spots(halves, places) < 0.05 < 0.3 < spatial.abnormal_spots(salt, places)
    assert spatial.chaos(halves, places) < spatial.chaos(salt, places)
    # a spot's nearest in its half is a step away
    assert spatial.chaos(halves, places) == pytest.approx(1 / StandardScaler().fit(places).scale_[0])


@pytest.mark.parametrize(
    ("found", "named"),
    [(np.zeros((5, 2)), "one point"), (np.zeros((4, 2)), "shapes"), (np.full((5, 2), np.nan), "finite")],
)
def test_points_that_cannot_be_aligned_are_refused(found: np.ndarray, named: str):
    with pytest.raises(ValueError, match=named):
        spatial.similarity(found, grid(3)[:5])
