from dataclasses import replace
from functools import cache
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from scipy.optimize import nnls
from scipy.sparse import csr_matrix, vstack
from scipy.spatial import cKDTree

from unbatch.data.graph import neighbours, widened
from unbatch.data.simulation.common import METAGENES, draw_expression
from unbatch.data.simulation.thesis import Parameters, Truth, draw_truth
from unbatch.metrics.recovery import (
    coverage,
    factor_correlation,
    in_units_of_fit,
    match_metagenes,
    offset_recovery,
)
from unbatch.models.batchblend import RULES, BatchBlend, Fitted, Settings, choose_metagenes, fit, shares
from unbatch.models.batchblend.composition import Composition, Difference, Kinds, kinds
from unbatch.models.batchblend.expression import prepare
from unbatch.models.batchblend.factors import comparable
from unbatch.models.batchblend.nmf import Given, _renew_metagenes, gene_weights, objective
from unbatch.models.batchblend.noise import Noise, estimate_noise
from unbatch.models.batchblend.offset import estimate_offset, weigh_offsets
from unbatch.models.batchblend.pooling import expected_shares, with_expectations
from unbatch.models.batchblend.search import first_view
from unbatch.models.batchblend.view import Axes
from unbatch.models.verdicts import Verdict

DEFAULT = Settings(METAGENES)
ALONE = Settings(METAGENES, pooling=0.0)
PLAIN = Settings(METAGENES, offset="none", factors=False)
SEEDS = [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)]


def expression(truth: Truth, rng: np.random.Generator) -> np.ndarray | csr_matrix:
    parts = list(draw_expression(truth, rng))
    return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else vstack(parts).tocsr()


@cache
def simulation(seed: int = 0, **changed) -> tuple[np.ndarray | csr_matrix, Truth]:
    """Sparse metagenes, which few cells suffice to distinguish."""
    rng = np.random.default_rng(seed)
    truth = draw_truth(Parameters(**{"cells": 150, "genes": 60, "gamma_shape": 1.0, **changed}), rng)
    return expression(truth, rng), truth


@cache
def fitted(seed: int = 0, settings: Settings = DEFAULT, **changed) -> Fitted:
    values, truth = simulation(seed, **changed)
    return fit(values, truth.batch, settings)


def in_units(truth: Truth):
    return in_units_of_fit(truth.metagenes.T, truth.amounts, truth.beta, truth.gene_factors, truth.scale)


@cache
def gradients(low: float, high: float, axes: int, seed: int = 0, **changed) -> tuple[csr_matrix, Truth]:
    """Cells between two ends; those of the first batch up to `high`, those of the second from `low` on."""
    rng = np.random.default_rng(seed)
    usual = {"cells": 300, "gamma_shape": 2.0, "sigma_beta": 0.0, "noise": "nb", "depth": 2000.0, "dispersion": 0.0}
    truth = draw_truth(Parameters(**usual | changed), rng)
    n = len(truth.batch)
    place = np.where(truth.batch == 0, rng.uniform(0, high, n), rng.uniform(low, 1, n))
    first, last = np.array([(0, 2), (1, 3), (7, 8)][:axes])[rng.integers(0, axes, n)].T
    amounts = np.zeros_like(truth.amounts)
    amounts[np.arange(n), first], amounts[np.arange(n), last] = 1 - place, place
    truth = replace(truth, amounts=amounts * truth.amounts.sum(1, keepdims=True))
    return expression(truth, rng), truth


def factors_evidence(model):
    return [each for each in model.evidence if each.step == "factors"]


@pytest.mark.parametrize("seed", SEEDS)
def test_the_truth_is_recovered(seed):
    truth = in_units(simulation(seed)[1])
    found = fitted(seed)
    offset = found.model.offset
    recovery = offset_recovery(offset, truth.offset)
    assert recovery["cosine"] > 0.995
    assert recovery["relative_error"] < 0.08
    assert recovery["total_error"] < 0.03
    estimated, true, correlation = match_metagenes(found.model.metagenes.T, truth.metagenes)
    assert np.median(correlation) > 0.8
    pairs = zip(found.amounts.T[estimated], truth.amounts.T[true], strict=True)
    assert np.median([np.corrcoef(*pair)[0, 1] for pair in pairs]) > 0.9


def test_the_parts_of_a_fit_have_the_units_and_sums_of_the_model():
    values, truth = simulation()
    model = fitted().model
    np.testing.assert_allclose(model.metagenes.sum(1), 1)
    np.testing.assert_allclose(np.log(model.factors).mean(0), 0, atol=1e-12)
    before = model.offset
    np.testing.assert_allclose(before.sum(1), model.total_offset, rtol=0.02)
    assert np.linalg.norm(model.beta @ model.metagenes - before) < 0.05 * np.linalg.norm(before)
    # what is left of a thousandfold of the data is a thousandfold
    larger = fit(values * 1000, truth.batch, Settings(METAGENES))
    np.testing.assert_allclose(larger.model.offset, 1000 * model.offset, rtol=0.01, atol=0.01 * model.offset.mean())
    np.testing.assert_allclose(larger.amounts.sum(1), 1000 * fitted().amounts.sum(1), rtol=0.01)


def test_a_fit_explains_the_data_up_to_their_noise():
    values, truth = simulation()
    found = fitted()
    mean = found.model.offset[truth.batch] + found.model.factors[truth.batch] * (found.amounts @ found.model.metagenes)
    noise = truth.parameters.sigma_y / truth.parameters.genes
    assert np.sqrt(np.mean((values - mean) ** 2)) < 1.3 * noise


def removed_offset(total: list[float], error: float = 0.01, possible: list[bool] | None = None) -> np.ndarray:
    estimates = torch.tensor(total, dtype=torch.float64)
    known = torch.tensor(possible or [True] * len(total))
    return weigh_offsets(estimates, torch.full_like(estimates, error), known, RULES).removed.numpy()


@pytest.mark.parametrize("others", [[0.0], [0.3], [0.0] * 11, [0.3] * 11])
def test_an_offset_counts_by_its_probability_without_a_jump(others):
    by_distance = [removed_offset([*others, 0.01 * distance])[-1] for distance in np.linspace(-3, 10, 131)]
    assert by_distance == sorted(by_distance)
    assert np.diff(by_distance).max() < 0.15
    assert by_distance[0] < 0.01
    assert by_distance[-1] > 0.99


def test_an_offset_is_likelier_next_to_batches_that_have_one():
    found = [removed_offset([first, 0.025])[1] for first in (0.0, 0.3)]
    alone = removed_offset([0.3, 0.025], possible=[False, True])
    assert alone[0] == 0
    assert found[0] < alone[1] < found[1]
    # errors as large as a cell, or none, say nothing
    assert removed_offset([0.0, 0.9], error=0.9)[1] < 0.05
    assert np.isfinite(removed_offset([0.0, 0.9], error=np.inf)).all()
    assert np.isfinite(removed_offset([0.0, 0.0], error=0.0)).all()


def test_a_small_offset_is_likelier_where_another_batch_has_a_certain_one():
    values, truth = simulation(1, sigma_beta=0.0)
    profile, size = truth.metagenes.mean(0) / truth.metagenes.mean(0).sum(), values.sum(1).mean()
    small = 0.03 * (truth.batch == 0)
    taken = {}
    for name, other in (("alone", 0.0), ("with_others", 0.3)):
        added = (small + other * (truth.batch == 1))[:, None] * size * profile
        model = fit(values + added, truth.batch, replace(ALONE, iterations=1)).model
        taken[name] = next(each for each in model.evidence if each.step == "offset")
        # what is removed is the estimate times the probability of one
        removed = model.total_offset[0] / (values + added).sum(1).mean()
        assert removed == pytest.approx(taken[name].size * taken[name].removed, rel=0.01)
    assert taken["with_others"].removed > taken["alone"].removed + 0.1


def test_one_certain_offset_makes_those_of_many_others_no_likelier():
    values, truth = simulation(1, sigma_beta=0.0, batches=4, cells=100)
    profile, size = truth.metagenes.mean(0) / truth.metagenes.mean(0).sum(), values.sum(1).mean()
    added = (0.01 * (truth.batch == 0) + 0.3 * (truth.batch == 3))[:, None] * size * profile
    model = fit(values + added, truth.batch, replace(ALONE, iterations=1)).model
    offsets = [each for each in model.evidence if each.step == "offset"]
    assert [each.accepted for each in offsets] == [False, False, False, True]
    assert 2 < offsets[0].size / offsets[0].error < 4
    assert offsets[3].size > 6 * offsets[3].error
    assert [each.verdict for each in offsets[:3]] == [Verdict.NOTHING] * 3


def test_a_batch_that_is_known_to_be_clean_gets_no_offset():
    values, truth = simulation()
    totals, order = values.sum(1), np.argsort(truth.batch, kind="stable")
    scale = METAGENES / totals.mean()
    data = prepare(values, truth.batch, kept=order, totals=totals, scale=scale, device=torch.device("cpu"))
    noise, bases = estimate_noise(data, METAGENES)
    generator = torch.Generator().manual_seed(0)
    view = first_view(data, noise, Axes(tuple(bases)), generator, states=METAGENES, rules=RULES)
    view = view.divided_by(data.ones())
    for clean in ([False, False], [True, False]):
        offset = estimate_offset(view, generator, clean=torch.tensor(clean), last=False)
        assert offset.genes.any(1).tolist() == [not each for each in clean]
        assert [each.accepted for each in offset.evidence] == [not each for each in clean]


@pytest.mark.parametrize("seed", SEEDS)
def test_data_without_a_batch_effect_are_left_alone_to_the_last_bit(seed):
    effect = {"sigma_beta": 0.0}
    found, plain = fitted(seed, **effect), fitted(seed, PLAIN, **effect)
    np.testing.assert_array_equal(found.amounts, plain.amounts)
    np.testing.assert_array_equal(found.model.metagenes, plain.model.metagenes)
    assert not found.model.offset.any()
    assert (found.model.factors == 1).all()
    assert not any(each.accepted for each in found.model.evidence)


def test_a_batch_effect_that_is_found_is_not_left_in_the_embedding():
    """Cells of a type have the same shares in both batches; without correction they do not."""
    _, truth = simulation()
    apart = {}
    for name, found in (("corrected", fitted()), ("plain", fitted(0, PLAIN))):
        z = shares(found.amounts)
        types = [np.stack([z[(truth.cell_type == c) & (truth.batch == b)].mean(0) for b in (0, 1)]) for c in range(8)]
        apart[name] = np.mean([abs(np.diff(each, axis=0)).sum() for each in types])
    assert apart["corrected"] < 0.1
    assert apart["corrected"] < 0.2 * apart["plain"]


@pytest.mark.parametrize("batches", [2, 3])
def test_factors_of_genes_are_recovered(batches):
    effect = {"sigma_beta": 0.0, "sigma_gene": 0.3, "batches": batches, "genes": 100, "gamma_shape": 8.0}
    truth = in_units(simulation(0, **effect)[1])
    model = fitted(0, **effect).model
    assert (factor_correlation(model.factors, truth.factor) > 0.99).all()
    assert all(each.accepted for each in factors_evidence(model))
    assert len(factors_evidence(model)) == batches * (batches - 1) // 2
    assert not model.offset.any()


def test_offset_and_factors_are_found_side_by_side():
    effect = {"sigma_gene": 0.3, "genes": 100, "gamma_shape": 8.0}
    truth = in_units(simulation(0, **effect)[1])
    model = fitted(0, **effect).model
    assert (factor_correlation(model.factors, truth.factor) > 0.99).all()
    assert offset_recovery(model.offset, truth.offset)["cosine"] > 0.9
    assert offset_recovery(model.offset, truth.offset)["total_error"] < 0.1


def test_strong_factors_make_states_clearer():
    """Genes with a large factor carry more information, those with a small one are noise: weights by precision help."""
    apart = []
    for spread in (0.1, 0.6):
        effect = {"sigma_beta": 0.0, "sigma_gene": spread, "genes": 100, "gamma_shape": 8.0, "sigma_y": 3.0}
        _, truth = simulation(1, **effect)
        z = shares(fitted(1, ALONE, **effect).amounts)
        middle = np.stack([z[truth.cell_type == c].mean(0) for c in range(9)])
        within = np.square(z - middle[truth.cell_type]).sum(1).mean()
        apart.append(within / np.square(middle - middle.mean(0)).sum(1).mean())
    assert apart[1] < 0.8 * apart[0]


def test_errors_of_factors_with_an_offset_hold_the_error_of_the_offset():
    """Loosely: 90% intervals of the logarithms, whose common part is size, hold 75% to 99.5% of the genes."""
    held = []
    for seed in range(3):
        effect = {"sigma_gene": 0.3, "genes": 100, "gamma_shape": 8.0}
        model, truth = fitted(seed, **effect).model, in_units(simulation(seed, **effect)[1])
        error = np.log(model.factors) - np.log(truth.factor) + np.log(truth.factor).mean(0)
        error -= np.median(error, axis=1, keepdims=True)
        held.append(coverage(error, model.log_error, np.zeros_like(error)))
    assert 0.75 < np.mean(held) < 0.995


def test_without_a_batch_effect_there_are_no_standard_errors():
    model = fitted(0, sigma_beta=0.0).model
    assert np.isnan(model.offset_error).all()
    assert np.isnan(model.log_error).all()


def test_errors_of_the_offset_cover_the_truth():
    """Loosely: over three simulations, 90% intervals hold 70% to 99% of the genes."""
    held = []
    for seed in range(3):
        model, truth = fitted(seed).model, in_units(simulation(seed)[1])
        held.append(coverage(model.offset, model.offset_error, truth.offset))
        off = (model.total_offset - truth.offset.sum(1)) / model.total_offset_error
        assert (abs(off) < 4).all()
    assert 0.7 < np.mean(held) < 0.99


@pytest.mark.parametrize("seed", SEEDS[:2])
def test_the_error_of_an_offset_holds_for_counts_whose_states_are_uncertain(seed):
    """Overdispersed counts: noise assigns cells to states, and rays through these miss the offset."""
    model = fitted(seed, noise="nb", depth=10_000.0, cells=400, genes=100, gamma_shape=8.0).model
    values, truth = simulation(seed, noise="nb", depth=10_000.0, cells=400, genes=100, gamma_shape=8.0)
    wrong = np.abs(model.total_offset - truth.beta.sum(1) * truth.scale)
    evidence = [each for each in model.evidence if each.step == "offset"]
    found = np.array([each.accepted for each in evidence])
    assert (wrong < 3 * model.total_offset_error)[found].all()
    # there is one, and it is not said to be none; of one that was hardly taken, the evidence has the error
    error = np.array([each.error for each in evidence]) * values.sum(1).mean()
    assert (found | (error > 600)).all()


@pytest.mark.parametrize(("low", "high", "axes"), [(0.5, 0.5, 3), (0.6, 0.4, 3)])
def test_little_is_removed_between_batches_of_disjoint_states(low, high, axes):
    values, truth = gradients(low, high, axes)
    model = fit(values, truth.batch, Settings(6)).model
    (evidence,) = factors_evidence(model)
    assert evidence.composition > 0.5
    assert evidence.verdict is Verdict.LEFT
    assert evidence.removed < 0.05
    assert np.abs(np.log(model.factors)).max() < 0.05


def test_factors_are_refused_where_batches_share_no_state():
    values, truth = simulation(sigma_beta=0.0)
    excitatory = truth.cell_type < 4
    kept = np.where(truth.batch == 0, excitatory, ~excitatory)
    model = fit(values[kept], truth.batch[kept], Settings(8)).model
    assert (model.factors == 1).all()
    (evidence,) = factors_evidence(model)
    assert evidence.verdict is Verdict.REFUSED_APART


def weighed(concentration: float, overlap: float = 0.5, strength: float = 0.5) -> list[float]:
    values = (torch.tensor([each], dtype=torch.float64) for each in (concentration, overlap))
    return [float(each) for each in kinds(*values, strength=strength, rules=RULES)]


def test_what_a_difference_is_goes_by_its_concentration_without_a_jump():
    """Factors of genes alone, batch effects of tissue and composition have 1, 12 and 100."""
    found = np.array([weighed(value) for value in np.geomspace(1, 200, 400)])
    assert found.sum(1) == pytest.approx(1)
    assert [int(np.argmax(weighed(value))) for value in (1, 12, 100, np.inf)] == [1, 0, 2, 2]
    assert np.abs(np.diff(found[:, 0])).max() < 0.1


@pytest.mark.parametrize("concentration", [1.0, 12.0, 100.0])
def test_strength_reaches_from_leaving_to_removing_in_proportion(concentration):
    found = {s: np.array(weighed(concentration, strength=s)) for s in (0, 0.25, 0.5, 0.75, 1)}
    assert found[0][0] == 0
    np.testing.assert_allclose(found[1], [1, 0, 0], atol=1e-12)
    for low, middle, high in ((0, 0.25, 0.5), (0.5, 0.75, 1)):
        np.testing.assert_allclose(found[middle], (found[low] + found[high]) / 2, atol=1e-12)


def test_what_is_removed_of_a_pair_is_certain_where_the_kind_of_each_batch_is():
    """Two batches with an effect of their own, and one of another composition."""
    rng = np.random.default_rng(0)
    genes = 50
    directions = torch.eye(genes, dtype=torch.float64)[:, :4]
    ones = torch.ones(genes, dtype=torch.float64)
    composition = Composition(axes=directions, variance=ones[:4], scale=ones)
    logs = torch.as_tensor(rng.normal(0, 0.2, (3, genes)))
    logs = logs - logs.mean(0)
    known, together = torch.full((3,), True), torch.full((3, 3), 5)

    def evidence(whole: list[float], nothing: list[float]):
        kinds = Kinds(*(torch.tensor(each, dtype=torch.float64) for each in (whole, [0.0] * 3, nothing)))
        error = torch.full_like(logs, 0.01)
        parts = {"composition": composition, "overlap": together.double(), "shared_states": together, "kinds": kinds}
        difference = Difference(logs=logs, error=error, compared=known, **parts)
        kept = difference.mean(RULES)[0]
        torch.testing.assert_close(kept.mean(0), torch.zeros(genes, dtype=torch.float64))
        return {each.batches: each for each in difference.evidence(kept, torch.tensor([100] * 3), RULES)}

    certain, unsure = evidence([1.0, 1, 0], [0.0, 0, 1]), evidence([0.5] * 3, [0.5] * 3)
    assert certain[0, 1].removed == pytest.approx(1)
    assert all(each.removed_error == pytest.approx(0, abs=1e-9) for each in certain.values())
    assert all(each.removed == pytest.approx(0.5) for each in unsure.values())
    assert unsure[0, 1].removed_error == pytest.approx(0.5)


def test_factors_of_genes_that_leave_no_overlap_are_no_composition():
    """Once what composition could not make is removed, a little composition leaves batches overlapping."""
    whole = [weighed(1.0, overlap)[0] for overlap in (0, 0.05, 0.5)]
    assert whole[0] == pytest.approx(1)
    assert whole[0] > whole[1] > whole[2]
    assert weighed(100.0, 0.0)[2] > 0.9


@pytest.mark.parametrize("noise", [0.01, 0.1, 0.3])
def test_concentration_does_not_depend_on_the_errors(noise):
    """Genes are directions: composition differs on the first twelve, factors in all genes."""
    rng = np.random.default_rng(0)
    scale, directions = torch.ones(400, dtype=torch.float64), torch.eye(400, dtype=torch.float64)[:, :12]
    composition = Composition(axes=directions, variance=torch.ones(12, dtype=torch.float64), scale=scale)
    error = torch.full((2, 400), noise, dtype=torch.float64)
    independent, shift = rng.normal(0, 0.2, (2, 400)), np.zeros((2, 400))
    shift[:, :12] = rng.choice([-1, 1], (2, 12))
    for logs, low, high in ((independent, 0.1, 4), (3 * shift, 50, np.inf), (independent + 0.8 * shift, 8, 40)):
        found = composition.concentration(torch.as_tensor(logs + rng.normal(0, noise, logs.shape)), error)
        assert (found >= low).all()
        assert (found <= high).all()
    # genes that one batch lacks say nothing there
    error[0, 200:] = torch.inf
    assert (composition.concentration(torch.as_tensor(independent), error) < 4).all()


def test_a_gene_that_one_batch_lacks_is_fitted_next_to_offsets():
    values, truth = simulation(0, sigma_gene=0.3, batches=3, genes=100)
    values = values.copy()
    values[truth.batch == 0, 5] = 0
    model = fit(values, truth.batch, Settings(METAGENES, iterations=3)).model
    assert model.offset.any()
    assert np.isfinite(model.factors).all()
    np.testing.assert_allclose(np.log(model.factors).mean(0), 0, atol=1e-6)


def test_a_small_change_of_composition_changes_the_result_by_little():
    """Each batch lacks more and more of every second type, until they share none; factors are the same throughout."""
    values, truth = simulation(3, sigma_beta=0.0, sigma_gene=0.3, cells=500, genes=100)
    lacking = truth.cell_type % 2 == truth.batch % 2
    chance = np.random.default_rng(0).random(len(truth.batch))
    found, logs = [], []
    for degree in np.linspace(0, 1, 11):
        kept = chance >= degree * lacking
        fitted = fit(values[kept], truth.batch[kept], Settings(METAGENES, iterations=3))
        mixing = [
            mixed(z, truth.batch[kept]) for z in (shares(fitted.amounts), shares(truth.amounts[kept].astype(float)))
        ]
        found.append(mixing[0] - mixing[1])
        logs.append(np.log(fitted.model.factors))
    assert np.abs(np.diff(found)).max() < 0.1
    # without a type in common there is nothing to compare
    steps = [np.sqrt(np.mean((one - other) ** 2)) for one, other in pairwise(logs[:-1])]
    assert max(steps) < 0.03


def mixed(embedding: np.ndarray, batch: np.ndarray) -> float:
    """Share of the 15 nearest cells that are of the other batch."""
    near = cKDTree(embedding).query(embedding, 16)[1][:, 1:]
    return float(np.mean(batch[near] != batch[:, None]))


def test_batches_of_few_cells_are_not_compared():
    view = SimpleNamespace(data=SimpleNamespace(sizes=torch.tensor([30, RULES.min_batch_cells - 1, 30])), rules=RULES)
    assert comparable(view) == [0, 2]


def test_strength_0_keeps_differences_that_composition_could_make():
    """The batches are at different ends of the gradient; with strength 0 they stay there."""
    values, truth = gradients(0.3, 0.7, 1, seed=1, sigma_gene=0.3)
    true = in_units(truth).factor
    removed, left = (fit(values, truth.batch, Settings(6, strength=s, iterations=3)).model for s in (1.0, 0.0))
    assert factors_evidence(left)[0].accepted
    assert factors_evidence(removed)[0].removed == pytest.approx(1)
    error = [np.sqrt(np.mean((np.log(m.factors) - np.log(true)) ** 2)) for m in (removed, left)]
    assert error[1] < 0.7 * error[0]


def test_what_composition_explains_is_left_where_genes_are_hit_independently():
    """Genes are directions: composition differs on the first four, on each by so many cells' deviations."""
    rng = np.random.default_rng(0)
    genes = 400
    scale = torch.ones(genes, dtype=torch.float64)
    directions = torch.eye(genes, dtype=torch.float64)[:, :4]
    variance = torch.tensor([4.0, 1.0, 0.25, 0.01], dtype=torch.float64)
    composition = Composition(axes=directions, variance=variance, scale=scale)
    errors, covered = {0.0: [], 0.4: []}, []
    for _ in range(300):
        batch = torch.as_tensor(rng.normal(0, 0.1, (1, genes)))
        drawn = rng.choice(RULES.usual_shifts, size=4)
        for size in (*errors, torch.as_tensor(drawn)):
            shift = size * torch.as_tensor(rng.normal(size=4)) * variance.sqrt()
            kept, doubt = composition.batch_part(batch + directions @ shift, torch.zeros_like(batch))
            assert torch.equal(kept[:, 4:], batch[:, 4:])
            assert not doubt[:, 4:].any()
            if isinstance(size, float):
                errors[size].append((kept - batch)[0, :4].square())
            else:
                covered.append((kept - batch).abs()[0, :4] < 1.645 * doubt[0, :4])
    error = {size: torch.stack(values).mean(0) for size, values in errors.items()}
    # to keep nothing there errs by the variance of the batch effect, to keep all by that of composition
    assert (error[0.0] < 0.6 * 0.01).all()
    assert (error[0.4] < 2 * 0.01).all()
    assert (error[0.4][:2] < 0.2 * 0.4**2 * variance[:2]).all()
    assert 0.85 < torch.stack(covered).double().mean() < 0.98


def test_the_same_seed_gives_the_same_fit():
    values, truth = simulation()
    again, other = (fit(values, truth.batch, Settings(METAGENES), seed=seed) for seed in (0, 1))
    np.testing.assert_array_equal(again.amounts, fitted().amounts)
    np.testing.assert_array_equal(again.model.offset_error, fitted().model.offset_error)
    assert not np.array_equal(other.amounts, fitted().amounts)
    np.testing.assert_allclose(other.model.total_offset, fitted().model.total_offset, rtol=0.02)


def test_cells_of_the_batches_may_be_in_any_order():
    """Batches are sorted by the fit; within a batch, another order draws other starts of the clusters."""
    values, truth = simulation()
    rng = np.random.default_rng(0)
    mixed = np.empty(len(values), dtype=int)
    places = rng.permutation(truth.batch)
    for b in (0, 1):
        mixed[places == b] = np.flatnonzero(truth.batch == b)
    found = fit(values[mixed], truth.batch[mixed], Settings(METAGENES))
    np.testing.assert_array_equal(found.amounts, fitted().amounts[mixed])
    mixed = rng.permutation(len(values))
    found = fit(values[mixed], truth.batch[mixed], Settings(METAGENES))
    np.testing.assert_allclose(found.model.total_offset, fitted().model.total_offset, rtol=0.02)
    np.testing.assert_allclose(found.model.offset, fitted().model.offset, atol=0.1 * fitted().model.offset.mean())
    # metagenes may be cut in another way, but not what they make of a cell
    expected, explained = (each.amounts @ each.model.metagenes for each in (fitted(), found))
    assert np.linalg.norm(explained - expected[mixed]) < 0.03 * np.linalg.norm(expected)


def test_another_numbering_of_the_batches_turns_the_effect_round():
    effect = {"sigma_beta": 0.0, "sigma_gene": 0.3}
    values, truth = simulation(0, **effect)
    turned = fit(values, 1 - truth.batch, Settings(METAGENES)).model
    np.testing.assert_allclose(np.log(turned.factors)[::-1], np.log(fitted(0, **effect).model.factors), atol=0.1)


def test_sparse_and_dense_input_agree():
    values, truth = simulation(noise="nb", gamma_shape=0.3, depth=60.0)
    assert values.nnz < 0.5 * np.prod(values.shape)
    dense, sparse = (fit(each, truth.batch, Settings(METAGENES)) for each in (values.toarray(), values))
    np.testing.assert_allclose(dense.model.total_offset, sparse.model.total_offset, rtol=1e-3)
    assert abs(dense.amounts - sparse.amounts).mean() < 0.01 * dense.amounts.mean()


def test_a_batch_of_few_cells_is_corrected():
    values, truth = simulation()
    kept = np.r_[0:150, 150:165]
    model = fit(values[kept], truth.batch[kept], Settings(METAGENES)).model
    np.testing.assert_allclose(model.total_offset, in_units(truth).offset.sum(1), rtol=0.1)


def test_empty_cells_have_no_amounts_and_mean_shares():
    values, truth = simulation()
    values = values.copy()
    values[[3, 200]] = 0
    found = fit(values, truth.batch, Settings(METAGENES))
    assert not found.amounts[[3, 200]].any()
    z = shares(found.amounts)
    np.testing.assert_allclose(z.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(z[3], found.amounts.sum(0) / found.amounts.sum(), rtol=1e-4)
    np.testing.assert_allclose(found.model.total_offset, in_units(truth).offset.sum(1), rtol=0.05)


def test_one_batch_alone_is_factorised():
    values, truth = simulation(sigma_beta=0.0)
    found = fit(values[:150], truth.batch[:150], Settings(METAGENES))
    assert (found.model.factors == 1).all()
    assert not factors_evidence(found.model)
    assert not found.model.offset.any()
    assert found.amounts.shape == (150, METAGENES)
    assert np.median(match_metagenes(found.model.metagenes.T, truth.metagenes.T)[2]) > 0.7


def test_more_metagenes_than_types_do_no_harm():
    truth = in_units(simulation()[1])
    found = fitted(0, Settings(25))
    assert np.isfinite(found.amounts).all()
    assert offset_recovery(found.model.offset, truth.offset)["cosine"] > 0.99


def test_too_few_genes_or_cells_are_refused():
    values, truth = simulation()
    with pytest.raises(ValueError, match="61 metagenes need more genes"):
        fit(values, truth.batch, Settings(61))
    kept = np.r_[0:150, 150:160]
    with pytest.raises(ValueError, match=r"found 60.*\(10\)"):
        fit(values[kept], truth.batch[kept], Settings(METAGENES))


@pytest.mark.parametrize("effect", [{}, {"sigma_gene": 0.3}, {"noise": "nb", "sigma_gene": 0.3}])
def test_the_model_embeds_the_cells_of_the_fit_as_the_fit_did(effect):
    values, truth = simulation(**effect)
    found = fitted(0, **effect)
    amounts = found.model.amounts(values, truth.batch)
    assert abs(amounts - found.amounts).sum() < 0.1 * found.amounts.sum()
    assert np.corrcoef(shares(amounts).ravel(), shares(found.amounts).ravel())[0, 1] > 0.99


class ByHand:
    """Random cells of two batches with all that the factorisation is given, as arrays and as its input."""

    def __init__(self, sparsity: float = 0.8, halving: float = 0.1):
        rng = np.random.default_rng(0)
        n, genes, K = 40, 12, 3
        self.batch, self.state = np.repeat([0, 1], [15, 25]), rng.integers(0, K, n)
        self.y, self.x = rng.gamma(2, size=(n, genes)), rng.gamma(1, size=(n, K))
        self.last, self.metagenes = rng.dirichlet(np.ones(K), K), rng.dirichlet(np.ones(genes), K)
        self.g, self.offset, self.q = (rng.uniform(0.5, 1.5, (2, genes)) * scale for scale in (1, 0.1, 1))
        self.noise = rng.uniform(0.5, 2, n)
        self.rest = self.q[self.batch] * (self.y - self.offset[self.batch])
        data = prepare(
            self.y, self.batch, kept=np.arange(n), totals=self.y.sum(1), scale=1.0, device=torch.device("cpu")
        )
        self.given = Given(
            data=data,
            state=torch.tensor(self.state),
            cluster=torch.arange(K),
            factors=torch.tensor(self.g),
            offset=torch.tensor(self.offset),
            squared=torch.tensor(self.q**2),
            noise=torch.tensor(self.noise).float(),
            norms=[torch.tensor((self.rest[self.batch == b] ** 2).sum(1)) for b in (0, 1)],
            sparsity=sparsity,
            penalty_halving=halving,
        )


def test_the_objective_is_the_documented_one():
    sparsity, halving = 0.8, 0.1
    given = ByHand(sparsity, halving)
    batch, q, g, noise, x = given.batch, given.q, given.g, given.noise, given.x
    amounts, metagenes, last = torch.tensor(x).float(), torch.tensor(given.metagenes), torch.tensor(given.last)
    found = objective(given.given, amounts, metagenes, last_shares=last)
    z = shares(x)
    now = np.array([z[given.state == c].mean(0) for c in range(3)])
    residual = (given.rest - q[batch] * g[batch] * (x @ given.metagenes)) / noise[:, None]
    variance = np.array([np.square(residual[batch == b]).mean() for b in (0, 1)])
    values = given.y.size
    terms = {"data": sum(np.log(v) * (batch == b).sum() * 12 / 2 for b, v in enumerate(variance)) / values}
    for name, share in (("sparsity", now), ("last", given.last)):
        length = np.sqrt(np.square(q[:, None] * g[:, None] * given.metagenes).sum(-1))
        weight = halving / (share + halving) - halving / (1 + halving)
        penalty = sparsity * np.sqrt(variance)[batch, None] * length[batch] * weight[given.state]
        terms[name] = (penalty * x / (noise * variance[batch])[:, None]).sum() / values
    np.testing.assert_allclose(found.variance, variance, rtol=1e-5)
    np.testing.assert_allclose(found.shares, now, rtol=1e-5)
    assert found.terms["data"] == pytest.approx(terms["data"], rel=1e-5)
    assert found.terms["sparsity"] == pytest.approx(terms["sparsity"], rel=1e-5)
    assert found.by_last == pytest.approx(terms["data"] + terms["last"], rel=1e-5)


def test_metagenes_are_the_weighted_non_negative_least_squares_of_the_cells():
    """By scipy, gene after gene; the offset of a batch is a row of its own that weighs a tenth of its cells."""
    given = ByHand()
    batch, variance = given.batch, np.array([0.5, 2.0])
    beta = np.random.default_rng(1).gamma(1, size=(2, 3))
    found = torch.tensor(given.metagenes)
    amounts = torch.tensor(given.x).float()
    for _ in range(100):
        _renew_metagenes(given.given, amounts, torch.tensor(beta), metagenes=found, variance=torch.tensor(variance))
    for j in range(12):
        q, g = given.q[:, j], given.g[:, j]
        cells = (q / np.sqrt(variance))[batch] / given.noise
        rows = np.sqrt(0.1 * np.bincount(batch)) * q / np.sqrt(variance)
        design = np.concatenate([(cells * g[batch])[:, None] * given.x, (rows * g)[:, None] * beta])
        target = np.concatenate([cells * (given.y[:, j] - given.offset[batch, j]), rows * given.offset[:, j]])
        np.testing.assert_allclose(found[:, j], nnls(design, target)[0], atol=1e-4)


def test_genes_weigh_by_the_inverse_of_what_they_scatter_by_in_each_batch():
    rng = np.random.default_rng(0)
    sd = np.exp(rng.normal(0, 0.7, (2, 12)))
    parts = [torch.tensor(each * rng.normal(size=(4000, 12))) for each in sd]
    matrices = [SimpleNamespace(shape=part.shape, transposed_times=part.T.matmul) for part in parts]
    data = SimpleNamespace(
        matrices=matrices,
        slices=[slice(0, 4000), slice(4000, 8000)],
        mean=torch.ones(12).double(),
        squares=torch.stack([part.square().sum(0) for part in parts]),
    )
    # an axis of one gene alone, on which no cell lies
    axes, scores = torch.eye(12, 1).double(), torch.zeros(8000, 1).double()
    effect = SimpleNamespace(factors=torch.ones(2, 12).double(), axes=axes, scores=scores, rules=RULES)
    found = gene_weights(data, Noise(gene_constant=0.0, gene_slope=1.0, weights=torch.ones(12).double()), effect)[
        :, 1:
    ].numpy()
    expected = 1 / sd[:, 1:]
    np.testing.assert_allclose(found / found[:, :1], expected / expected[:, :1], rtol=0.05)


def test_the_objective_falls():
    history = fitted(0, ALONE).history
    objective = np.array(history["objective"])
    np.testing.assert_allclose(objective, np.add(history["data"], history["sparsity"]))
    assert len(objective) == Settings(METAGENES).iterations
    # the weights of the sparse prior are renewed in each iteration
    assert (np.diff(objective) < 1e-3 * abs(objective[0])).all()
    assert objective[-1] < objective[0]


@cache
def graphs() -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    _, truth = simulation(cells=81)
    graph = neighbours(truth.position, truth.batch)
    wide = widened(graph, len(truth.batch), 2)
    return (graph.source, graph.target), (wide.source, wide.target)


@cache
def spatial(settings: Settings) -> Fitted:
    values, truth = simulation(cells=81)
    graph, wide = graphs()
    return fit(values, truth.batch, settings, graph=graph, wide_graph=wide)


@pytest.mark.parametrize("phase", ["linear", "hmrf"])
def test_a_spatial_phase_goes_on_from_the_factorisation(phase):
    found = spatial(Settings(METAGENES, spatial=phase))
    history = {name: np.array(values) for name, values in found.history.items()}
    assert len({len(values) for values in history.values()}) == 1
    total = history["data"] + history["sparsity"] + history["spatial"]
    np.testing.assert_allclose(history["objective"], total)
    first = history["phase"] == 0
    assert first.sum() == Settings(METAGENES).iterations
    assert (np.diff(history["phase"]) >= 0).all()
    assert (~first).sum() > 1
    assert not history["spatial"][first].any()
    np.testing.assert_allclose(history["data"][first], fitted(0, ALONE, cells=81).history["data"])
    # the first row of the phase is where the factorisation ended
    assert history["data"][first][-1] == pytest.approx(history["data"][~first][0])
    objective = history["objective"][~first]
    assert objective[-1] < objective[0]
    np.testing.assert_array_equal(found.model.offset, fitted(0, ALONE, cells=81).model.offset)
    assert not np.array_equal(found.amounts, fitted(0, ALONE, cells=81).amounts)


def test_pooling_draws_cells_to_others_of_their_state_and_keeps_the_batch_effect():
    """The types of the truth, which the fit does not see, come to lie closer together against their distances."""
    apart = []
    effect = {"cells": 225, "genes": 100, "gamma_shape": 8.0}
    for settings in (ALONE, DEFAULT):
        _, truth = simulation(2, **effect)
        found = fitted(2, settings, **effect)
        z = shares(found.amounts)
        middle = np.stack([z[truth.cell_type == c].mean(0) for c in range(9)])
        within = np.square(z - middle[truth.cell_type]).sum(1).mean()
        apart.append(within / np.square(middle - middle.mean(0)).sum(1).mean())
    assert apart[1] < 0.6 * apart[0]
    np.testing.assert_array_equal(found.model.offset, fitted(2, ALONE, **effect).model.offset)
    assert fitted(2, ALONE, **effect).history["phase"][-1] == 0
    assert found.history["phase"][-1] == 1


def test_pooling_keeps_differences_between_batches():
    """Factors that are not removed: types stay as far apart between batches as they are without pooling."""
    effect = {"cells": 225, "genes": 100, "gamma_shape": 8.0, "sigma_beta": 0.0, "sigma_gene": 0.03}
    _, truth = simulation(0, **effect)
    gaps = []
    for pooling in (0.0, 1.0):
        found = fitted(0, Settings(METAGENES, offset="none", factors=False, pooling=pooling), **effect)
        z = shares(found.amounts)
        means = [[z[(truth.batch == b) & (truth.cell_type == c)].mean(0) for c in range(9)] for b in range(2)]
        gaps.append(np.square(np.subtract(*means)).sum())
        within = np.mean([z[(truth.batch == 0) & (truth.cell_type == c)].std(0).mean() for c in range(9)])
        gaps.append(within)
    assert gaps[3] < 0.8 * gaps[1]
    assert gaps[2] > 0.65 * gaps[0]


def test_pooling_keeps_the_differences_of_a_new_batch():
    """Factors of a batch to which the model of another one is applied; nothing removes them."""
    effect = {"cells": 225, "genes": 100, "gamma_shape": 8.0, "sigma_beta": 0.0, "sigma_gene": 0.15}
    values, truth = simulation(0, **effect)
    old, new = truth.batch == 0, truth.batch == 1
    gaps = []
    for pooling in (0.0, 1.0):
        settings = Settings(METAGENES, offset="none", factors=False, pooling=pooling)
        found = fit(values[old], truth.batch[old], settings)
        later = shares(found.model.with_batch(values[new], settings=settings).amounts(values[new], truth.batch[new]))
        z, types = shares(found.amounts), (truth.cell_type[old], truth.cell_type[new])
        gap = [z[types[0] == c].mean(0) - later[types[1] == c].mean(0) for c in range(9)]
        gaps.append(np.square(gap).sum())
    assert gaps[1] > 0.6 * gaps[0]


def test_pooling_attributes_to_chance_what_random_batches_of_cells_differ_in():
    """The variance of a batch's mean about that of all cells of a state, from many random assignments of cells."""
    values, truth = simulation()
    rng, cells = np.random.default_rng(0), len(truth.batch)
    totals, order = values.sum(1), np.argsort(truth.batch, kind="stable")
    data = prepare(values, truth.batch, kept=order, totals=totals, scale=1.0, device=torch.device("cpu"))
    batch, state = data.batch.numpy(), rng.integers(0, 2, cells)
    # the second state has few cells of the second batch, and differs there
    state[(batch == 1) & (rng.random(cells) < 0.7)] = 0
    amounts = rng.dirichlet(np.ones(METAGENES), cells)
    amounts[(batch == 1) & (state == 1), 0] += 0.1
    z = shares(amounts)
    effect = SimpleNamespace(clusters=torch.arange(2), state=torch.tensor(state), rules=RULES)
    decoder = replace(fitted().model.decoder, pooling=1.0)
    found = with_expectations(decoder, torch.tensor(amounts), data, effect, pooling=1.0, seed=0).expected.numpy()
    middle, change, chance = np.zeros((2, METAGENES)), *np.zeros((2, 2, 2, METAGENES))
    for c in (0, 1):
        own, mine = z[state == c], batch[state == c]
        middle[c] = own.mean(0)
        dealt = [rng.permutation(mine) for _ in range(3000)]
        for b in (0, 1):
            change[b, c] = own[mine == b].mean(0) - middle[c]
            chance[b, c] = np.square([own[one == b].mean(0) - middle[c] for one in dealt]).mean(0)
    given = (torch.tensor(each) for each in (middle, change, chance, np.ones((2, 2, 1), dtype=bool)))
    expected = expected_shares(*given).numpy()
    assert np.abs(expected - middle).max() > 0.01
    np.testing.assert_allclose(found, expected, atol=0.05 * np.abs(expected - middle).max())


def test_a_continuum_is_not_pooled():
    values, truth = gradients(0.0, 1.0, 1)
    found, plain = (fit(values, truth.batch, Settings(5, pooling=pooling)) for pooling in (1.0, 0.0))
    np.testing.assert_array_equal(found.amounts, plain.amounts)
    assert found.history["phase"][-1] == 0


def test_a_graph_alone_gives_affinities_and_changes_nothing():
    found = spatial(Settings(METAGENES))
    np.testing.assert_array_equal(found.amounts, fitted(cells=81).amounts)
    assert fitted(cells=81).affinity is None
    assert found.affinity.affinity.shape == (2, METAGENES, METAGENES)
    assert found.affinity.permuted.shape == found.affinity.permuted_sd.shape == (2, METAGENES, METAGENES)


def test_popari_has_a_random_field_and_no_batch_effect():
    found = spatial(Settings.popari(METAGENES, shared_affinity=True))
    assert not found.model.offset.any()
    assert not found.model.beta.any()
    assert (found.model.factors == 1).all()
    assert not any(each.accepted for each in found.model.evidence)
    assert not any(found.history["sparsity"])
    assert found.affinity.affinity.shape == (1, METAGENES, METAGENES)
    assert max(found.history["phase"]) == 1


@pytest.mark.parametrize("effect", [{}, {"sigma_beta": 0.0}, {"sigma_beta": 0.0, "sigma_gene": 0.3}])
def test_as_many_metagenes_as_there_are_or_a_few_more_are_chosen(effect):
    """A batch effect takes none of them."""
    for seed in range(3):
        values, truth = simulation(seed, cells=225, genes=100, gamma_shape=8.0, **effect)
        assert METAGENES <= choose_metagenes(values, truth.batch, seed) <= METAGENES + 5


def test_the_number_of_metagenes_keeps_within_what_genes_and_cells_allow():
    values, truth = simulation(cells=225, genes=100, gamma_shape=8.0)
    assert choose_metagenes(csr_matrix(values), truth.batch) == choose_metagenes(values, truth.batch)
    assert choose_metagenes(values, truth.batch, most=7) == 7
    assert choose_metagenes(values, truth.batch, fewest=20) == 20
    assert choose_metagenes(values[:, :12], truth.batch) <= 6
    assert choose_metagenes(values[:, :4], truth.batch) == 4
    few = np.r_[0:3, 225:228]
    assert choose_metagenes(values[few], truth.batch[few]) == 3


@pytest.mark.parametrize("mix", ["same", "shifted"])
def test_the_annealed_prior_finds_how_batches_differ(mix):
    """What all batches share is not tested: the floor of the prior is known to be too high."""
    shape = {"cells": 225, "genes": 100, "gamma_shape": 8.0, "mix": mix}
    for seed in range(2):
        # few iterations: the offset is known before
        model = fitted(seed, Settings(METAGENES, offset="annealed", iterations=3), **shape).model
        truth = in_units(simulation(seed, **shape)[1])
        recovery = offset_recovery(model.offset, truth.offset)
        assert recovery["cosine"] > 0.98
        assert recovery["relative_error"] < 0.2
        assert (model.factors == 1).all()
        assert np.isnan(model.offset_error).all()
        assert np.isnan(model.total_offset_error).all()
        assert [(each.batches, each.step, each.accepted) for each in model.evidence] == [
            ((0,), "offset", True),
            ((1,), "offset", True),
        ]


def test_offsets_of_cells_of_one_total_are_refused_for_their_standard_errors():
    values, truth = simulation()
    model = fit(values / values.sum(1, keepdims=True), truth.batch, Settings(METAGENES)).model
    assert not model.offset.any()
    assert [each.verdict for each in model.evidence if each.step == "offset"] == [Verdict.REFUSED_SE_ALL] * 2
    assert not any(each.verdict is Verdict.REFUSED_SE_ALL for each in fitted().model.evidence)


@pytest.mark.parametrize("seed", SEEDS)
def test_factors_are_found_where_one_batch_alone_has_an_offset(seed):
    """Its cells are all alike until the offset is removed: states must not be matched before that."""
    rng = np.random.default_rng(seed)
    truth = draw_truth(Parameters(sigma_gene=0.3), rng)
    truth = replace(truth, beta=truth.beta * [[0], [1]])
    model = fit(expression(truth, rng), truth.batch, Settings(METAGENES, iterations=3)).model
    assert (factor_correlation(model.factors, in_units(truth).factor) > 0.99).all()
    assert model.total_offset[0] == 0
    assert [each.accepted for each in model.evidence] == [False, True, True]


@cache
def held_out(seed: int = 0, **effect) -> tuple[Fitted, BatchBlend]:
    """A fit of the first two batches, and its model, loaded anew, with the third."""
    values, truth = simulation(seed, batches=3, **effect)
    old = truth.batch < 2
    found = fit(values[old], truth.batch[old], Settings(METAGENES))
    return found, BatchBlend.from_weights(found.model.weights(), found.model.evidence).with_batch(values[~old])


@pytest.mark.parametrize("effect", [{"sigma_beta": 0.0, "sigma_gene": 0.3}, {"sigma_gene": 0.3}])
def test_a_new_batch_is_embedded_among_the_cells_of_the_fit(effect):
    effect = {"genes": 100, "gamma_shape": 8.0, **effect}
    values, truth = simulation(0, batches=3, **effect)
    new = truth.batch == 2
    found, larger = held_out(0, **effect)
    z = shares(found.amounts)

    def transferred(embedded: np.ndarray) -> float:
        distance = ((embedded[:, None] - z) ** 2).sum(-1)
        return np.mean(truth.cell_type[~new][distance.argmin(1)] == truth.cell_type[new])

    assert transferred(shares(larger.amounts(values[new], truth.batch[new]))) > 0.95
    assert transferred(shares(found.model.amounts(values[new], np.zeros(new.sum(), int)))) < 0.95
    full = fitted(0, batches=3, **effect)
    relative = np.log(full.model.factors[2]) - np.log(full.model.factors[:2]).mean(0)
    np.testing.assert_allclose(np.log(larger.factors[2]), relative, atol=0.1)
    expected = full.model.total_offset[2]
    np.testing.assert_allclose(larger.total_offset[2], expected, atol=0.05 * values[new].sum(1).mean())
    assert {each.step for each in larger.evidence if 2 in each.batches} == {"offset", "factors"}


def test_the_offset_of_a_new_batch_is_found():
    _, truth = simulation(0, batches=3)
    _, larger = held_out()
    recovery = offset_recovery(larger.offset, in_units(truth).offset)
    assert recovery["cosine"] > 0.99
    assert recovery["total_error"] < 0.03
    assert (larger.factors == 1).all()
    # the same noise is in all batches
    assert 0.8 < larger.sigma[2] / larger.sigma[:2].mean() < 1.3
    explained = larger.beta[2] @ larger.metagenes
    assert np.linalg.norm(explained - larger.offset[2]) < 0.1 * np.linalg.norm(larger.offset[2])


def test_the_offset_of_a_new_batch_and_its_error_are_in_the_units_of_its_genes():
    effect = {"genes": 100, "gamma_shape": 8.0, "sigma_gene": 0.3}
    values, truth = simulation(0, batches=3, **effect)
    found, larger = held_out(0, **effect)
    scale = np.exp(np.random.default_rng(0).normal(0, 0.3, 100))
    scaled = found.model.with_batch(values[truth.batch == 2] * scale)
    for name in ("offset", "offset_error", "factors"):
        ratio = np.log(getattr(scaled, name)[2] / getattr(larger, name)[2])
        assert np.corrcoef(ratio, np.log(scale))[0, 1] > 0.95, name
        assert np.polyfit(np.log(scale), ratio, 1)[0] == pytest.approx(1, abs=0.1), name


def test_a_new_batch_without_effect_is_left_alone():
    found, larger = held_out(0, sigma_beta=0.0)
    assert not larger.offset[2].any()
    assert (larger.factors[2] == 1).all()
    assert not any(each.accepted for each in larger.evidence)
    assert len(larger.evidence) == len(found.model.evidence) + 2


def test_a_new_batch_changes_nothing_for_the_others():
    values, truth = simulation(0, batches=3)
    found, larger = held_out()
    old = truth.batch < 2
    amounts = found.model.amounts(values[old], truth.batch[old])
    np.testing.assert_allclose(larger.amounts(values[old], truth.batch[old]), amounts, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(larger.offset[:2], found.model.offset)
    assert found.model.offset.shape == (2, 60)
    again = found.model.with_batch(values[~old])
    np.testing.assert_array_equal(again.offset, larger.offset)


def test_a_new_batch_that_does_not_fit_is_refused():
    values, _ = simulation()
    with pytest.raises(ValueError, match=r"60 genes \(found 50\)"):
        fitted().model.with_batch(values[:, :50])
    with pytest.raises(ValueError, match=r"11 cells \(4\)"):
        fitted().model.with_batch(values[:4])
    with pytest.raises(ValueError, match="offset annealed finds one in any cells"):
        fitted().model.with_batch(values, settings=Settings(METAGENES, offset="annealed"))


def test_a_model_that_was_saved_is_the_same(tmp_path):
    values, truth = simulation()
    model = fitted().model
    save_file(model.weights(), tmp_path / "weights.safetensors")
    loaded = BatchBlend.from_weights(load_file(tmp_path / "weights.safetensors"), model.evidence)
    amounts = model.amounts(values, truth.batch)
    np.testing.assert_allclose(loaded.amounts(values, truth.batch), amounts, rtol=1e-4, atol=1e-5)
    assert loaded.evidence == model.evidence
    for name, array in model.weights().items():
        np.testing.assert_array_equal(loaded.weights()[name], array, err_msg=name)
    # few enough cells of the fit to be kept with it
    assert len(model.weights()["reference.batch"]) == 300
    weights = model.weights()
    del weights["decoder.factors"]
    with pytest.raises(ValueError, match=r"decoder\.factors"):
        BatchBlend.from_weights(weights)


def test_a_gene_without_counts_changes_nothing_for_the_others():
    values, truth = simulation(sigma_gene=0.3)
    wider = np.insert(values, 7, 0, axis=1)
    found, plain = (fit(part, truth.batch, Settings(METAGENES)) for part in (wider, values))
    assert np.isfinite(found.amounts).all()
    assert not found.model.metagenes[:, 7].any()
    others = np.delete(found.model.factors, 7, axis=1)
    assert np.corrcoef(np.log(others).ravel(), np.log(plain.model.factors).ravel())[0, 1] > 0.98
    assert choose_metagenes(wider, truth.batch) >= 5


def test_one_batch_keeps_its_offset():
    values, truth = simulation()
    mine = truth.batch == 0
    model = fit(values[mine], truth.batch[mine], Settings(METAGENES)).model
    assert not model.offset.any()
    assert (model.factors == 1).all()
