"""Spatial domains of an embedding, section by section."""

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.mixture import GaussianMixture

from unbatch.metrics import spatial
from unbatch.metrics.domains import Tissue, by_kmeans, by_mixture, refined


def stripes(side: int = 12, noise: float = 0.15, stretch: float = 0.8) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions on a hexagonal array, three stripes as labels, and an embedding that is stretched along one axis."""
    rng = np.random.default_rng(0)
    row, column = (each.ravel() for each in np.meshgrid(np.arange(side), np.arange(side), indexing="ij"))
    places = np.stack([row, 2 * column + row % 2], 1).astype(float)
    label = row // (side // 3)
    embedding = np.stack([label + noise * rng.normal(size=len(label)), stretch * rng.normal(size=len(label))], 1)
    return places, label, embedding


def test_the_mixture_knows_that_a_space_is_stretched_and_a_vote_mends_single_spots():
    places, label, embedding = stripes()
    label = np.where(np.arange(len(label)) % 7 == 0, -1, label)
    tissue = Tissue.of(places, np.zeros(len(places), np.int64), ["one"], label, 1000)
    found = tissue.score(embedding)["one"]
    assert tissue.sections["one"].clusters == 3
    assert found["mixture"]["nmi"] > 0.95 > 0.7 > found["kmeans"]["nmi"]
    assert found["kmeans_voted"]["ari"] > found["kmeans"]["ari"]
    assert found["kmeans_voted"]["pas"] < found["kmeans"]["pas"]
    # by the parts: all cells are clustered, those without a label enter neither NMI nor ARI
    section = tissue.sections["one"]
    clusters = by_kmeans(embedding, 3, 0, 3)
    known = label >= 0
    assert found["kmeans"]["nmi"] == pytest.approx(normalized_mutual_info_score(label[known], clusters[known]))
    voted = refined(clusters, section.place, np.zeros(len(label), np.int64))
    assert found["kmeans_voted"]["ari"] == pytest.approx(adjusted_rand_score(label[known], voted[known]))
    assert found["kmeans"]["pas"] == spatial.abnormal_spots(clusters, section.place)
    assert found["kept"] == spatial.neighbourhood_kept(embedding, section.place)
    # the six that vote are those that touch
    near = np.linalg.norm(section.place[spatial.nearest(section.place, 6)[5 * 12 + 5]] - section.place[65], axis=1)
    np.testing.assert_allclose(near, 1)


def test_the_mixture_is_that_of_scikit_learn():
    embedding = stripes()[2]
    found = by_mixture(embedding, 3)
    other = GaussianMixture(3, covariance_type="tied", n_init=10, random_state=0, tol=1e-6).fit(embedding)
    assert adjusted_rand_score(found.labels, other.predict(embedding)) == 1
    assert found.log_likelihood == pytest.approx(other.score(embedding), abs=1e-3)


def test_sections_are_taken_whole_as_far_as_the_limit_goes_and_others_are_named():
    places, label, embedding = stripes()
    n = len(places)
    section = np.repeat([0, 1, 2, 3], [n, n, n, 5])
    points = np.concatenate([places, places, np.full((n, 2), 3.0), places[:5]])
    names = ["a", "b", "c", "d"]
    tissue = Tissue.of(points, section, names, np.concatenate([label, label, label, label[:5]]), 2 * n)
    assert list(tissue.sections) == ["a", "b"]
    assert tissue.reasons.keys() == {"c", "d"}
    np.testing.assert_array_equal(tissue.cells, np.arange(2 * n))
    found = tissue.score(np.concatenate([embedding, np.ones((n, 2))]))
    assert "mixture" in found["a"]
    assert found["b"].keys() == {"reason"}
    fewer = Tissue.of(points, section, names, None, n + 1)
    assert list(fewer.sections) == ["a"]
    drawn = Tissue.of(points, section, names, None, 40).sections["a"]
    assert (len(drawn.cells), drawn.of, drawn.clusters) == (40, n, 0)


def test_nearest_in_many_dimensions_are_those_by_all_distances():
    points = np.random.default_rng(0).normal(size=(60, spatial.FEW + 5))
    points[7] = points[3]
    distance = np.linalg.norm(points[:, None] - points, axis=2) + np.diag([np.inf] * 60)
    found = spatial.nearest(points, 4)
    own = np.take_along_axis(distance, found, axis=1)
    np.testing.assert_allclose(np.sort(own, 1), np.sort(distance, 1)[:, :4], atol=1e-6)
