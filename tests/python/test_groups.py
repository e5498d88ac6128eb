"""Tests between groups of batches: equal to statsmodels and scipy, true to their level where cells' tests are not."""

import itertools
import warnings

import numpy as np
import pytest
from scipy import stats

from unbatch.metrics.groups import mann_whitney, mixed_model, smallest_p


def drawn(sizes: list[int], second: int, genes: int = 5, spread: float = 1.0, difference: float = 0.0, seed: int = 0):
    """Values of cells, their batch, and their group, which the last `second` batches make."""
    rng = np.random.default_rng(seed)
    batch = np.repeat(np.arange(len(sizes)), sizes)
    group = np.where(batch >= len(sizes) - second, "case", "a control")
    values = rng.normal(size=(len(batch), genes)) + spread * rng.normal(size=(len(sizes), genes))[batch]
    return values + difference * (group == "case")[:, None], batch, group


@pytest.mark.parametrize("sizes", [[20] * 7, [5, 40, 12, 60, 25, 9, 33]])
def test_the_mixed_model_is_that_of_statsmodels(sizes: list[int]):
    statsmodels = pytest.importorskip("statsmodels.regression.mixed_linear_model")
    values, batch, group = drawn(sizes, 3, difference=0.7)
    found = mixed_model(values, batch, group, reference="normal")
    design = np.column_stack([np.ones(len(batch)), group == "case"])
    for gene in range(values.shape[1]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            other = statsmodels.MixedLM(values[:, gene], design, groups=batch).fit(reml=True)
        expected = [other.fe_params[1], other.bse_fe[1], other.pvalues[1], other.cov_re[0, 0], other.scale]
        mine = found.loc[gene, ["difference", "se", "p", "variance_batch", "variance_cell"]]
        np.testing.assert_allclose(mine, expected, rtol=5e-3, atol=1e-6)


def test_for_batches_of_one_size_it_is_the_test_on_their_means():
    values, batch, group = drawn([30] * 9, 4, genes=20, spread=0.8)
    found = mixed_model(values, batch, group)
    means = values.reshape(9, 30, -1).mean(axis=1)
    expected = stats.ttest_ind(means[5:], means[:5])
    np.testing.assert_allclose(found["p"], expected.pvalue, rtol=1e-4)
    np.testing.assert_allclose(found["statistic"], expected.statistic, rtol=1e-4)
    np.testing.assert_allclose(found["fdr"], stats.false_discovery_control(expected.pvalue), rtol=1e-4)


def test_batches_that_do_not_differ_have_no_variance_between_them():
    values, batch, group = drawn([4, 9, 25, 16, 8, 11], 3, genes=40, spread=0.0)
    found = mixed_model(values, batch, group)
    none = found["variance_batch"] == 0
    assert 0.3 < none.mean() < 0.9
    case = group == "case"
    expected = stats.ttest_ind(values[case], values[~case]).statistic
    np.testing.assert_allclose(found["statistic"][none], expected[none], rtol=1e-8)


def test_ranks_and_ties_are_those_of_scipy():
    values, batch, group = drawn([6] * 9, 4, genes=6)
    values[:, 1] = 3
    values[:, 2] = np.array([0, 0, 0, 1, 2, 0, 5, 6, 7])[batch]
    found = mann_whitney(values, batch, group)
    means = values.reshape(9, 6, -1).mean(axis=1)
    for gene in (0, 3, 4, 5):
        expected = stats.mannwhitneyu(means[5:, gene], means[:5, gene], method="exact")
        assert found.loc[gene, ["statistic", "p"]].tolist() == pytest.approx([expected.statistic, expected.pvalue])
    assert found.loc[1, ["p", "fdr"]].isna().all()
    ranks = stats.rankdata(means[:, 2])
    sums = np.array([ranks[list(chosen)].sum() for chosen in itertools.combinations(range(9), 4)])
    upper, lower = np.mean(sums >= ranks[5:].sum()), np.mean(sums <= ranks[5:].sum())
    assert found.loc[2, "p"] == pytest.approx(min(1, 2 * min(upper, lower)))


def test_the_smallest_p_is_reached_and_said():
    values, batch, group = drawn([5] * 17, 5, genes=2, difference=1e3)
    found = mann_whitney(values, batch, group)
    assert smallest_p(12, 5) == pytest.approx(2 / 6188)
    assert found["p"].tolist() == pytest.approx([2 / 6188] * 2)
    assert found["smallest_p"].tolist() == pytest.approx([2 / 6188] * 2)
    assert (found["batches_1"].unique(), found["batches_2"].unique()) == ([12], [5])
    assert smallest_p(2, 2) == pytest.approx(1 / 3)


def test_without_a_difference_nothing_is_found_but_by_a_test_over_cells():
    values, batch, group = drawn([50] * 8, 4, genes=1000, spread=0.3)
    case = group == "case"
    cells = stats.false_discovery_control(stats.ttest_ind(values[case], values[~case]).pvalue)
    assert np.mean(cells < 0.1) > 0.3
    model, ranks = mixed_model(values, batch, group), mann_whitney(values, batch, group)
    assert np.mean(model["fdr"] < 0.1) <= 0.002
    assert (ranks["fdr"] >= 0.1).all()
    # 50 of 1,000 p-values are below 0.05, give or take 3 standard deviations; the exact test has steps
    assert 0.029 < np.mean(model["p"] < 0.05) < 0.071
    assert np.mean(ranks["p"] < 0.05) < 0.05
    assert np.mean(mixed_model(values, batch, group, reference="normal")["p"] < 0.05) > 0.07


def test_what_differs_is_found_and_named():
    values, batch, group = drawn([50] * 12, 6, genes=50, spread=0.3)
    values[:, :10] += 1.5 * (group == "case")[:, None]
    for test in (mixed_model, mann_whitney):
        found = test(values, batch, group, genes=[f"g{i}" for i in range(50)])
        assert (found.index[:2].tolist(), found.index.name) == (["g0", "g1"], "gene")
        assert (found["fdr"] < 0.1)[:10].sum() >= 9
        assert (found["fdr"] < 0.1)[10:].sum() <= 3
        assert found["difference"][:10].mean() == pytest.approx(1.5, abs=0.3)


def test_designs_that_say_nothing_are_refused():
    values, batch, group = drawn([5] * 5, 1)
    for test in (mixed_model, mann_whitney):
        with pytest.raises(ValueError, match="group case has 1 batch, expected two or more in each"):
            test(values, batch, group)
        with pytest.raises(ValueError, match="1 groups were given"):
            test(values, batch, np.zeros(25))
        with pytest.raises(ValueError, match="batch 0 has cells of both groups"):
            test(values, batch, np.arange(25) % 2)
        with pytest.raises(ValueError, match="values of gene 1 are not all finite"):
            test(np.where(np.arange(5) == 1, np.nan, values), batch, batch > 2)
        with pytest.raises(ValueError, match="2 names of genes were given for 5"):
            test(values, batch, batch > 2, genes=["a", "b"])
    with pytest.raises(ValueError, match="5 batches have a cell each"):
        mixed_model(values[::5], batch[::5], batch[::5] > 2)
    # a constant gene alone is no error
    values[:, 3] = 0.1
    assert mixed_model(values, batch, batch > 2)["p"].isna().tolist() == [False, False, False, True, False]
