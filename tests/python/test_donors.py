"""Simulated donors: nested, with a truth that adds up, and the true shift of a cell as if from another donor."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import stats

from unbatch import contract
from unbatch.cli import preprocess
from unbatch.cli.simulate import main
from unbatch.data import io
from unbatch.data.simulation.common import draw_expression
from unbatch.data.simulation.donors import Parameters, Truth, draw_truth, truth_in
from unbatch.errors import InputError
from unbatch.metrics.counterfactual import batch_mean_shift, expected_log1p, expected_shift, shift_error


def truth_of(seed: int = 0, **parameters) -> Truth:
    return draw_truth(Parameters(**parameters), np.random.default_rng(seed))


def expression_of(truth: Truth, seed: int = 1) -> np.ndarray:
    blocks = draw_expression(truth, np.random.default_rng(seed))
    return np.concatenate([block if isinstance(block, np.ndarray) else block.toarray() for block in blocks])


def run(command, *arguments) -> None:
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("donors") / "raw.h5ad"
    run(main, "--preset", "donors", "--batches", "5", "--cells", "80", "--genes", "60", "-o", path)
    return path


@pytest.mark.parametrize("batches", [2, 5, 8])
def test_donors_are_nested_in_conditions(batches: int):
    truth = truth_of(batches=batches, cells=20)
    assert truth.condition.tolist() == [0] * ((batches + 1) // 2) + [1] * (batches // 2)
    assert np.bincount(truth.batch).tolist() == [20] * batches


def test_effects_have_their_sizes_and_places():
    truth = truth_of(batches=10, cells=10, genes=2000, sigma_common=0.4, sigma_type=0.2, share_types=0.4)
    assert truth.common.std() == pytest.approx(0.4, rel=0.03)
    assert truth.specific.std() == pytest.approx(0.2, rel=0.03)
    np.testing.assert_allclose(truth.specific.mean(axis=1), 0, atol=1e-12)
    changed = truth.response != 0
    assert sorted(changed.sum(axis=1)) == [0, 0, 0, 400, 400]
    assert truth.response[changed].std() == pytest.approx(0.5, rel=0.1)
    np.testing.assert_allclose(np.exp(truth.profiles).sum(axis=1), 1)


def test_the_same_seed_has_the_same_cells_whatever_the_effects():
    one, other = truth_of(), truth_of(sigma_common=0, sigma_type=0, sigma_condition=0, share_types=0)
    assert not other.common.any()
    assert not other.response.any()
    for name in ("cell_type", "size", "state", "profiles"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_a_shifted_mix_turns_the_shares_of_every_second_donor_of_a_condition():
    truth = truth_of(batches=5, cells=100, types=2, mix="shifted")
    first = [int(np.sum(truth.cell_type[truth.batch == donor] == 0)) for donor in range(5)]
    assert first == [67, 33, 67, 67, 33]


def test_the_mean_is_the_sum_of_its_parts():
    truth = truth_of(cells=50)
    cell = int(np.flatnonzero((truth.batch == 6) & truth.response.any(axis=1)[truth.cell_type])[0])
    kind = truth.cell_type[cell]
    biology = truth.profiles[kind] + truth.state[cell] @ truth.programs
    size = truth.scale * truth.size[cell]
    technical = truth.common + truth.specific[:, kind]
    own = size * np.exp(biology + truth.response[kind] + technical[6])
    np.testing.assert_allclose(truth.mean(np.array([cell]))[0], own)
    np.testing.assert_allclose(truth.mean(np.array([cell]), 1)[0], own * np.exp(technical[1] - technical[6]))
    without = size * np.exp(biology + technical[1])
    np.testing.assert_allclose(truth.mean(np.array([cell]), 1, swap_condition=True)[0], without)


@pytest.mark.parametrize("noise", ["nb", "gaussian"])
def test_values_are_drawn_around_the_mean(noise: str):
    truth = truth_of(noise=noise, genes=60, depth=500, sigma_y=2)
    values, mean = expression_of(truth), truth.mean(slice(None))
    variance = mean + 0.1 * mean**2 if noise == "nb" else (2 / 60) ** 2
    inside = mean > (0 if noise == "nb" else 0.15)
    assert (((values - mean) ** 2 / variance)[inside]).mean() == pytest.approx(1, rel=0.03)
    assert mean.sum(axis=1).mean() == pytest.approx(500 if noise == "nb" else 11)


def test_the_stored_truth_adds_up_to_what_was_drawn_and_outlives_preprocess(raw: Path, tmp_path: Path):
    drawn = truth_of(batches=5, cells=80, genes=60)
    whole = io.read_h5ad(raw)
    np.testing.assert_allclose(truth_in(whole).mean(slice(None)), drawn.mean(slice(None)))
    run(preprocess.main, raw, "--label-key", "cell_type", "--min-cells", "350", "--min-counts", "600",
        "-o", tmp_path / "d.h5ad")  # fmt: skip
    left = io.read_h5ad(tmp_path / "d.h5ad")
    assert 20 < left.n_vars < 60
    assert 200 < left.n_obs < 400
    cells, genes = whole.obs_names.get_indexer(left.obs_names), whole.var_names.get_indexer(left.var_names)
    found = truth_in(left).mean(slice(None))
    np.testing.assert_allclose(found, drawn.mean(cells)[:, genes])
    counts = left.layers["counts"].toarray()
    assert ((counts - found) ** 2 / (found + 0.1 * found**2)).mean() == pytest.approx(1, rel=0.1)
    assert (left.obs["batch"].astype(str) == left.obs["donor"].astype(str)).all()
    assert left.obs.groupby("donor", observed=True)["condition"].nunique().eq(1).all()


def test_the_program_repeats_itself_and_keeps_the_options_of_presets_apart(raw: Path, tmp_path: Path):
    again = tmp_path / "again.h5ad"
    run(main, "--preset", "donors", "--batches", "5", "--cells", "80", "--genes", "60", "-o", again)
    assert again.read_bytes() == raw.read_bytes()
    wrong = CliRunner().invoke(main, ["--preset", "donors", "--sigma-beta", "2", "-o", str(tmp_path / "b.h5ad")])
    assert wrong.exit_code == 2
    assert "sigma_beta" in wrong.output
    with pytest.raises(InputError, match="types"):
        contract.checked("simulate", Parameters, {"types": 1})


def test_other_data_has_no_such_truth(simulated_path: Path):
    with pytest.raises(ValueError, match="not of simulate --preset donors"):
        truth_in(io.read_h5ad(simulated_path))


@pytest.mark.parametrize("dispersion", [0.0, 0.1, 2.0])
def test_the_expected_logarithm_is_the_sum_over_all_counts(dispersion: float):
    mean, size = np.array([[0.01, 0.7, 6.0, 300.0]] * 2), np.array([0.3, 2.0])
    y = np.arange(60_000)
    n = 1 / dispersion if dispersion else None
    for j, m in enumerate(mean[0]):
        p = stats.nbinom.pmf(y, n, n / (n + m)) if dispersion else stats.poisson.pmf(y, m)
        expected = [p @ np.log1p(y / s) for s in size]
        np.testing.assert_allclose(expected_log1p(mean, size, dispersion)[:, j], expected, rtol=1e-6)


@pytest.mark.parametrize("noise", ["nb", "gaussian"])
def test_the_true_shift_is_that_of_many_draws(noise: str):
    truth = truth_of(cells=40, genes=30, noise=noise, depth=300)
    size = truth.mean(slice(None)).sum(axis=1)
    size /= size.mean()
    cells = np.array([3, 100, 250])
    found = expected_shift(truth, size, 2, cells)
    rng = np.random.default_rng(0)
    own, other = truth.mean(cells), truth.mean(cells, 2)
    scale = size[cells, None], (size[cells] * other.sum(axis=1) / own.sum(axis=1))[:, None]
    noisy = {
        "nb": lambda mean: rng.poisson(mean * rng.gamma(10, 0.1, (4000, *mean.shape))),
        "gaussian": lambda mean: np.abs(mean + rng.normal(0, 1 / 30, (4000, *mean.shape))),
    }[noise]
    drawn = np.log1p(noisy(other) / scale[1]).mean(axis=0) - np.log1p(noisy(own) / scale[0]).mean(axis=0)
    np.testing.assert_allclose(found, drawn, atol=0.08)
    assert np.corrcoef(found.ravel(), drawn.ravel())[0, 1] > 0.998
    np.testing.assert_array_equal(expected_shift(truth, size, truth.batch[cells], cells), 0)


def test_errors_of_shifts_are_by_gene_and_type_and_the_batch_mean_misses_the_types():
    truth = truth_of(batches=4, cells=200, genes=80)
    counts = expression_of(truth)
    size = counts.sum(axis=1) / counts.sum(axis=1).mean()
    cells = np.arange(0, 200, 2)
    true = expected_shift(truth, size, 1, cells)
    predicted = batch_mean_shift(np.log1p(counts / size[:, None]), truth.batch, truth.batch[cells], 1)
    found = shift_error(predicted, true, truth.cell_type[cells])
    assert found["mse"] == pytest.approx(np.mean((predicted - true) ** 2))
    assert found["relative"] == pytest.approx(found["mse"] / np.mean(true**2))
    assert 0.2 < found["relative"] < 0.7
    third = truth.cell_type[cells] == 3
    np.testing.assert_allclose(found["mse_by_gene"][3], ((predicted - true)[third] ** 2).mean(axis=0))
    np.testing.assert_allclose(found["truth"][3], true[third].mean(axis=0))
    assert shift_error(true, true, truth.cell_type[cells])["mse"] == 0
