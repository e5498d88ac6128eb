import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import stats

from unbatch import contract
from unbatch.cli.simulate import main
from unbatch.data import io
from unbatch.data.simulation.common import METAGENES, draw_expression
from unbatch.data.simulation.thesis import CELL_TYPES, LAYERS, Parameters, Truth, draw_truth
from unbatch.errors import InputError


def truth_of(seed: int = 0, **parameters) -> Truth:
    return draw_truth(Parameters(**parameters), np.random.default_rng(seed))


def expression_of(truth: Truth, seed: int = 1, threads: int = 1) -> np.ndarray:
    blocks = draw_expression(truth, np.random.default_rng(seed), threads)
    return np.concatenate([block if isinstance(block, np.ndarray) else block.toarray() for block in blocks])


def shares(truth: Truth, batch: int) -> np.ndarray:
    """Share of each cell type in each layer of a batch."""
    here = truth.batch == batch
    table = np.zeros((len(LAYERS), len(CELL_TYPES)))
    np.add.at(table, (truth.layer[here], truth.cell_type[here]), 1)
    return table / table.sum(axis=1, keepdims=True)


def test_the_defaults_are_the_thesis_preset():
    truth = truth_of()
    assert (len(truth.batch), truth.metagenes.shape, len(CELL_TYPES), len(LAYERS)) == (450, (11, 100), 9, 4)
    assert len(np.unique(truth.position, axis=0)) == 225
    np.testing.assert_allclose(truth.metagenes.sum(axis=1), 1)
    assert ((truth.beta > 0).sum(axis=1) == 6).all()


def test_amounts_follow_the_type_and_the_size_of_the_cell():
    truth = truth_of(cells=10_000)
    sizes = truth.amounts.sum(axis=1)
    assert stats.kstest(sizes, stats.gamma(METAGENES).cdf).pvalue > 1e-3
    first = truth.amounts[truth.cell_type == CELL_TYPES.index("Excitatory L1")]
    assert set(np.flatnonzero(first.sum(axis=0))) == {0, 7}
    assert np.mean(first[:, 0] / first.sum(axis=1)) == pytest.approx(1 / 3, abs=0.01)


def test_the_batch_effect_is_half_normal_and_the_mean_holds_it():
    sizes = np.concatenate([truth_of(seed, cells=4, genes=10, batches=40, sigma_beta=3).beta for seed in range(30)])
    assert stats.kstest(sizes[sizes > 0], stats.halfnorm(scale=3).cdf).pvalue > 1e-3
    truth = truth_of(sigma_gene=0.5)
    expected = (truth.amounts[300] + truth.beta[1]) @ truth.metagenes * truth.gene_factors[1]
    np.testing.assert_allclose(truth.mean(slice(300, 301))[0], expected)
    assert np.log(truth.gene_factors).std() == pytest.approx(0.5, rel=0.2)


def test_without_an_effect_beta_is_exactly_zero_and_the_cells_stay_the_same():
    with_effect, without = truth_of(), truth_of(sigma_beta=0)
    assert (without.beta == 0).all()
    np.testing.assert_array_equal(with_effect.amounts, without.amounts)


def test_gaussian_noise_has_its_standard_deviation_and_no_negative_values():
    truth = truth_of(cells=2500, sigma_y=2)
    values = expression_of(truth)
    assert values.dtype == np.float32
    assert values.min() >= 0
    assert (values - truth.mean(slice(None))).std() == pytest.approx(2 / 100, rel=0.01)


@pytest.mark.parametrize("dispersion", [0.0, 0.4])
def test_counts_have_the_depth_the_mean_and_the_variance_asked_for(dispersion: float):
    truth = truth_of(cells=2500, noise="nb", depth=500, dispersion=dispersion)
    counts, mean = expression_of(truth), truth.mean(slice(None))
    assert (counts == np.rint(counts)).all()
    assert counts.sum(axis=1).mean() == pytest.approx(500, rel=0.01)
    squared = ((counts - mean) ** 2).sum() / (mean + dispersion * mean**2).sum()
    assert squared == pytest.approx(1, rel=0.02)


def test_a_shifted_mix_changes_every_second_batch_and_keeps_the_layers():
    same, shifted = truth_of(batches=3, cells=10_000), truth_of(batches=3, cells=10_000, mix="shifted")
    np.testing.assert_allclose(shares(same, 0), shares(same, 1), atol=1e-3)
    np.testing.assert_allclose(shares(same, 0), shares(shifted, 2), atol=1e-3)
    inhibitory = [CELL_TYPES.index(f"Inhibitory L{i}") for i in range(1, 5)]
    np.testing.assert_allclose(shares(same, 1)[:, inhibitory].sum(axis=1), 0.4, atol=1e-3)
    np.testing.assert_allclose(shares(shifted, 1)[:, inhibitory].sum(axis=1), 0.53, atol=1e-3)


@pytest.mark.parametrize("cells", [3, 5, 225, 1000])
def test_any_number_of_cells_has_unique_positions_in_the_field(cells: int):
    position = truth_of(cells=cells).position[:cells]
    assert len(np.unique(position, axis=0)) == cells
    assert position.min() >= 0
    assert position.max() <= 1


@pytest.mark.parametrize("noise", ["gaussian", "nb"])
def test_values_depend_on_the_seed_and_not_on_the_threads(noise: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("unbatch.data.simulation.common._BLOCK", 1000)
    truth = truth_of(noise=noise)
    np.testing.assert_array_equal(expression_of(truth, 1, threads=1), expression_of(truth, 1, threads=4))
    assert not np.array_equal(expression_of(truth, 1), expression_of(truth, 2))


@pytest.mark.parametrize("noise", ["gaussian", "nb"])
def test_the_program_writes_the_same_file_for_the_same_seed(noise: str, tmp_path: Path):
    files = []
    for name in "ab":
        path = tmp_path / f"{name}.h5ad"
        CliRunner().invoke(main, ["-o", str(path), "--noise", noise, "--seed", "7"], catch_exceptions=False)
        files.append(path.read_bytes())
    assert files[0] == files[1]


def test_the_file_holds_the_truth(simulated_path: Path):
    adata = io.read_h5ad(simulated_path)
    truth = adata.uns["unbatch"]["truth"]
    assert list(truth["batches"]) == ["batch1", "batch2"] == list(adata.obs["sample"].cat.categories)
    assert truth["beta"].shape == (2, METAGENES)
    assert truth["parameters"]["cells"] == 100
    batch = adata.obs["sample"].cat.codes.to_numpy()
    factors = truth["scale"] * truth["gene_factors"][batch]
    mean = (adata.obsm["X_true"] + truth["beta"][batch]) @ adata.varm["metagenes_true"].T * factors
    variance = mean + truth["parameters"]["dispersion"] * mean**2
    assert ((adata.X.toarray() - mean) ** 2 / variance).mean() == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize(
    ("name", "value"),
    [("batches", 0), ("cells", 2), ("genes", 9), ("share_beta", 1.5), ("sigma_y", -1.0), ("depth", float("nan"))],
)
def test_parameters_out_of_range_are_named(name: str, value: float, tmp_path: Path):
    with pytest.raises(InputError) as refused:
        contract.checked("simulate", Parameters, {name: value})
    assert name in str(refused.value)
    result = CliRunner().invoke(main, ["-o", str(tmp_path / "a.h5ad"), f"--{name.replace('_', '-')}", str(value)])
    assert result.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_versions_are_json():
    assert "h5py" in json.loads(CliRunner().invoke(main, ["--version"]).output)
