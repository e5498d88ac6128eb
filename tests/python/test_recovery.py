"""How well a fit finds the truth, against numbers computed by hand."""

import numpy as np
import pytest

from unbatch.metrics.recovery import (
    Truth,
    correlation,
    coverage,
    factor_correlation,
    in_cell_sizes_of,
    in_units_of_fit,
    match_metagenes,
    offset_recovery,
)


def test_metagenes_are_matched_whatever_their_order_and_number():
    truth = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]])
    # two that are true, one without any weight, one of no gene in particular
    estimate = np.column_stack([np.zeros(4), truth[:, 2], truth[:, 0], [0.1, 0.4, 0.2, 0.3]])
    estimated, true, found = match_metagenes(estimate, truth)
    assert true.tolist() == [0, 1, 2]
    assert estimated.tolist() == [2, 3, 1]
    # deviations (-0.15, 0.15, -0.05, 0.05) and (-1, 3, -1, -1) / 4
    assert found == pytest.approx([1, 0.6 / np.sqrt(0.05 * 12), 1])
    fewer = match_metagenes(estimate[:, [2]], truth)
    assert [part.tolist() for part in fewer[:2]] == [[0], [0]]


def test_a_column_that_is_the_same_everywhere_has_no_correlation():
    table = correlation(np.column_stack([np.full(5, 0.1), np.arange(5)]), np.arange(5.0)[:, None])
    assert np.isnan(table[0, 0])
    assert table[1, 0] == pytest.approx(1)


def test_offsets_are_compared_by_the_differences_between_batches():
    truth = np.array([[3.0, 0, 1], [0, 4, 1]])
    shifted = offset_recovery(truth + np.array([1, 0, 2]), truth)
    assert (shifted["cosine"], shifted["relative_error"]) == pytest.approx((1, 0))
    assert shifted["total_error"] == pytest.approx(6 / 9)
    # differences (3, -4, 0) and (3, 0, 4)
    found = offset_recovery(np.array([[3.0, 0, 4], [0, 0, 0]]), truth)
    assert found == pytest.approx({"cosine": 9 / 25, "relative_error": np.sqrt(16 + 16) / 5, "total_error": 2 / 9})


def test_offsets_of_several_batches_are_compared_over_all_pairs():
    rng = np.random.default_rng(0)
    offset, truth = rng.random((2, 4, 6))
    one, two = np.triu_indices(4, 1)
    found, true = ((each[one] - each[two]).ravel() for each in (offset, truth))
    result = offset_recovery(offset, truth)
    assert result["cosine"] == pytest.approx(found @ true / np.linalg.norm(found) / np.linalg.norm(true))
    assert result["relative_error"] == pytest.approx(np.linalg.norm(found - true) / np.linalg.norm(true))


def test_an_offset_that_was_refused_has_no_direction():
    found = offset_recovery(np.zeros((2, 3)), np.array([[3.0, 0, 1], [0, 4, 1]]))
    assert np.isnan(found["cosine"])
    assert (found["relative_error"], found["total_error"]) == pytest.approx((1, 1))
    assert np.isnan(list(offset_recovery(np.ones((2, 3)), np.zeros((2, 3))).values())).all()


def test_coverage_counts_intervals_that_hold_the_truth():
    estimate, truth = np.zeros(5), np.array([0.0, 1.6, 1.7, 5, 5])
    se = np.array([1, 1, 1, 0, np.nan])
    assert coverage(estimate, se, truth) == pytest.approx(2 / 3)
    assert coverage(estimate, se, truth, level=0.95) == 1
    assert np.isnan(coverage(estimate, np.zeros(5), truth))


def test_factors_are_compared_by_what_differs_between_batches():
    truth = np.exp([[0.5, -1, 0.5], [-0.5, 1, -0.5]])
    assert factor_correlation(truth**2 * [3, 1, 7], truth) == pytest.approx([1, 1])
    # (0.5, -1, 0.5) and (1, 0, -1)
    assert factor_correlation(np.exp([[1.0, 0, -1], [-1, 0, 1]]), truth) == pytest.approx([0, 0])
    assert np.isnan(factor_correlation(np.ones((2, 3)), truth)).all()


@pytest.fixture
def simulated() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "metagenes": rng.random((6, 3)),
        "amounts": rng.random((5, 3)),
        "beta": rng.random((2, 3)),
        "factor": np.exp(rng.normal(size=(2, 6))),
    }


BATCH = np.array([0, 0, 1, 1, 1])


def mean_of(truth: Truth) -> np.ndarray:
    """The mean as a fit has it."""
    return truth.offset[BATCH] + truth.factor[BATCH] * (truth.amounts @ truth.metagenes.T)


def test_the_truth_in_units_of_a_fit_has_the_same_mean(simulated):
    truth = in_units_of_fit(**simulated, scale=7.0)
    np.testing.assert_allclose(truth.metagenes.sum(axis=0), 1)
    np.testing.assert_allclose(np.log(truth.factor).mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(truth.offset, truth.factor * (truth.beta @ truth.metagenes.T))
    loadings = simulated["amounts"] + simulated["beta"][BATCH]
    np.testing.assert_allclose(mean_of(truth), 7.0 * (loadings @ simulated["metagenes"].T) * simulated["factor"][BATCH])


def test_what_the_factors_of_a_batch_share_is_put_where_an_estimate_has_it(simulated):
    truth = in_units_of_fit(**simulated)
    shared = np.array([[2.0], [0.5]])
    # the estimate of the first gene is wrong, which hardly changes the median
    estimate = truth.factor * shared * np.array([9.0, 1, 1, 1, 1, 1])
    moved = in_cell_sizes_of(truth, estimate, BATCH)
    np.testing.assert_allclose(moved.factor, truth.factor * shared)
    np.testing.assert_allclose(moved.beta, truth.beta / shared)
    np.testing.assert_allclose(mean_of(moved), mean_of(truth))
    np.testing.assert_allclose(moved.offset, moved.factor * (moved.beta @ moved.metagenes.T))
