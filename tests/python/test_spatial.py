from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import nnls

from unbatch.data.graph import neighbours, widened
from unbatch.models.batchblend.neighbour_prior import draw_to_expected
from unbatch.models.popari import affinity as affinity_module
from unbatch.models.popari.affinity import MAX_PULL, RIDGE, affinities, permuted_affinities, pseudo_likelihood
from unbatch.models.popari.amounts import Problem, no_edges, shares
from unbatch.models.popari.field import hmrf
from unbatch.models.popari.graph import adjacency, colours
from unbatch.nn import systems

SIDE, K, GENES = 20, 4, 40


def stripes(seed: int = 0, noise: float = 0.3, rings: int = 1) -> tuple[Problem, torch.Tensor]:
    """Two batches of a square grid with four stripes, a metagene for each: noisy amounts, and the true shares."""
    rng = np.random.default_rng(seed)
    row, column = np.divmod(np.arange(SIDE**2), SIDE)
    position, batch = np.tile(np.column_stack((row, column)), (2, 1)), np.repeat([0, 1], SIDE**2)
    stripe = position[:, 1] * K // SIDE
    truth = rng.dirichlet(np.full(K, 2.0), len(batch)) * 0.2
    truth[np.arange(len(batch)), stripe] += 0.8
    metagenes = rng.gamma(0.5, size=(K, GENES))
    metagenes /= np.linalg.norm(metagenes, axis=1, keepdims=True)
    amounts = truth * rng.gamma(20, 0.05, (len(batch), 1))
    values = amounts @ metagenes + rng.normal(0, noise, (len(batch), GENES))
    graph = widened(neighbours(position, batch), len(batch), rings)
    design = metagenes @ metagenes.T
    start = np.array([nnls(metagenes.T, value)[0] for value in values])
    problem = Problem(
        X=torch.tensor(start),
        linear=torch.tensor(values @ metagenes.T),
        design=torch.tensor(np.stack([design, design])),
        batch=torch.tensor(batch),
        variance=torch.full((len(batch),), noise**2, dtype=torch.float64),
        source=torch.tensor(graph.source),
        target=torch.tensor(graph.target),
    )
    return problem, torch.tensor(truth)


def error(X: torch.Tensor, truth: torch.Tensor) -> float:
    return float((shares(X) - truth).square().mean().sqrt())


def halves(seed: int = 0) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """Shares and graph of two batches of a square grid: cells of metagene 0 or 1 in one half, 2 or 3 in the other."""
    rng = np.random.default_rng(seed)
    position, batch = np.tile(np.column_stack(np.divmod(np.arange(SIDE**2), SIDE)), (2, 1)), np.repeat([0, 1], SIDE**2)
    z = 0.4 * rng.dirichlet(np.full(K, 2.0), len(batch))
    z[np.arange(len(batch)), 2 * (position[:, 1] * 2 // SIDE) + rng.integers(0, 2, len(batch))] += 0.6
    graph = neighbours(position, batch)
    return torch.tensor(z), (torch.tensor(graph.source), torch.tensor(graph.target), torch.tensor(batch))


TOGETHER = torch.block_diag(torch.ones(2, 2), torch.ones(2, 2)).bool()


@pytest.mark.parametrize("phase", [draw_to_expected, hmrf])
def test_a_phase_brings_shares_nearer_to_the_truth(phase):
    problem, truth = stripes(rings=2 if phase is draw_to_expected else 1)
    fit = phase(problem)
    assert error(fit.X, truth) < 0.85 * error(problem.X, truth)
    assert (fit.X >= 0).all()
    assert 0.7 < fit.X.sum() / problem.X.sum() < 1.1


def test_neighbours_matter_in_both_phases_and_more_with_more_weight():
    """With the cells of each batch shuffled, there is nothing to be learnt from neighbours."""
    problem, truth = stripes(rings=2)
    generator = torch.Generator().manual_seed(0)
    order = torch.cat([torch.randperm(SIDE**2, generator=generator) + shift for shift in (0, SIDE**2)])
    moved = replace(problem, X=problem.X[order], linear=problem.linear[order])
    assert error(draw_to_expected(problem).X, truth) < 0.8 * error(draw_to_expected(moved).X, truth[order])
    weak, strong = (draw_to_expected(problem, weight=weight).X for weight in (0.01, 3))
    assert (weak - problem.X).abs().sum() < (strong - problem.X).abs().sum()


@pytest.mark.parametrize("phase", [draw_to_expected, hmrf])
def test_without_weight_the_least_squares_amounts_stay(phase):
    problem, _ = stripes()
    torch.testing.assert_close(phase(problem, weight=0).X, problem.X, atol=1e-9, rtol=0)


def test_the_objective_is_the_sum_of_its_terms_and_never_rises():
    problem, _ = stripes(rings=2)
    history = {name: np.array(values) for name, values in draw_to_expected(problem).history.items()}
    np.testing.assert_allclose(history["objective"], history["data"] + history["spatial"])
    assert (np.diff(history["objective"]) <= 0).all()
    history = {name: np.array(values) for name, values in hmrf(stripes()[0]).history.items()}
    np.testing.assert_allclose(history["objective"], history["data"] + history["spatial"])
    same = history["renewed"][1:] == 0
    assert (np.diff(history["objective"])[same] <= 1e-9 * abs(history["objective"][0])).all()
    assert 0 < same.sum() < len(same)


def test_the_field_ends_where_no_cell_can_lower_the_exact_objective():
    problem, _ = stripes()
    fit = hmrf(problem, renewals=1, rounds=300)
    X = fit.X.clone().requires_grad_()
    z = X / X.sum(dim=1, keepdim=True)
    sums = adjacency(problem.source, problem.target, len(z)) @ z
    energy = sum((z * (sums @ fit.affinity[b]))[problem.batch == b].sum() / 2 for b in (0, 1))
    data = (X * (X @ problem.design[0] / 2 - problem.linear)).sum(dim=1) / problem.variance
    (slope,) = torch.autograd.grad(data.sum() + energy, X)
    scale = problem.linear.abs().mean() / problem.variance[0]
    # a few cells whose data contradict the field shrink until they are stopped
    shrunk = fit.X.sum(dim=1) < 0.01 * problem.X.sum(dim=1)
    assert shrunk.sum() < 10
    assert (fit.X.sum(dim=1) >= 0.999e-3 * problem.X.sum(dim=1)).all()
    slope, X = slope[~shrunk], fit.X[~shrunk]
    assert slope[X > 0].abs().max() < 0.01 * scale
    assert (slope[X == 0] > -0.01 * scale).all()
    assert (X > 0).sum() > len(X)


def test_a_batch_without_edges_and_an_empty_cell_stay_as_they_are():
    problem, truth = stripes(rings=2)
    joined = problem.batch[problem.source] == 0
    problem.X[5] = 0
    problem = replace(problem, source=problem.source[joined], target=problem.target[joined])
    for phase in (draw_to_expected, hmrf):
        X = phase(problem).X
        assert (X[problem.batch == 1] == problem.X[problem.batch == 1]).all()
        assert (X[5] == 0).all()
        assert error(X[: SIDE**2], truth[: SIDE**2]) < 0.87 * error(problem.X[: SIDE**2], truth[: SIDE**2])
    none = torch.empty(0, dtype=torch.int64)
    for phase in (draw_to_expected, hmrf):
        assert (phase(replace(problem, source=none, target=none)).X == problem.X).all()


def test_the_same_seed_gives_the_same_field():
    problem, _ = stripes()
    first, second, other = (hmrf(problem, seed=seed) for seed in (0, 0, 1))
    assert (first.X == second.X).all()
    assert (first.X != other.X).any()
    # a few cells have two optima
    assert ((shares(first.X) - shares(other.X)).abs().amax(dim=1) < 0.05).float().mean() > 0.98


def test_affinities_show_what_occurs_together_and_repeat_between_batches():
    z, graph = halves()
    found, permuted = affinities(z, *graph), permuted_affinities(z, *graph)
    for number in (0, 1):
        excess = (found - permuted.mean)[number]
        assert excess[TOGETHER].max() < 0 < excess[~TOGETHER].min()
        assert (excess / permuted.sd[number]).abs().median() > 4
    assert torch.corrcoef(torch.stack([matrix[*torch.triu_indices(K, K)] for matrix in found]))[0, 1] > 0.8
    torch.testing.assert_close(found, found.mT)


def test_affinities_of_shuffled_cells_are_like_the_permuted_ones():
    z, graph = halves()
    z[: SIDE**2] = z[torch.randperm(SIDE**2, generator=torch.Generator().manual_seed(9))]
    permuted = permuted_affinities(z, *graph, permutations=8)
    score = ((affinities(z, *graph) - permuted.mean) / permuted.sd).abs()
    assert score[0].median() < 2
    assert score[1].median() > 4


def test_permuted_affinities_of_a_batch_do_not_depend_on_other_batches():
    problem, truth = stripes()
    edges = problem.source, problem.target
    batch = problem.batch
    other = truth.clone()
    other[batch == 1] = truth[batch == 1].roll(1, dims=1) ** 2
    other /= other.sum(dim=1, keepdim=True)
    one, two = (permuted_affinities(z, *edges, batch, shared=False, seed=0) for z in (truth, other))
    torch.testing.assert_close(one.mean[0], two.mean[0])
    torch.testing.assert_close(one.sd[0], two.sd[0])
    assert not torch.allclose(one.mean[1], two.mean[1], atol=0.01)


def test_affinities_are_the_minimum_of_the_pseudo_likelihood():
    z, graph = halves()
    found = affinities(z, *graph, shared=True)
    assert found.shape == (1, K, K)
    sums = adjacency(*graph[:2], len(z)) @ z

    def loss(affinity: torch.Tensor) -> float:
        return float(pseudo_likelihood(z, sums, affinity).mean() + RIDGE / 2 * affinity.square().sum())

    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        step = torch.randn((K, K), generator=generator, dtype=torch.float64)
        step = 1e-3 * (step + step.T)
        rise, fall = loss(found[0] + step) - loss(found[0]), loss(found[0] - step) - loss(found[0])
        assert min(rise, fall) > 0
        # at a minimum the slope vanishes: both ways are equally far up
        assert abs(rise - fall) < 0.2 * (rise + fall)
    assert loss(found[0]) < loss(0 * found[0])


def test_affinities_stay_finite_where_shares_and_start_drive_them_out_of_range():
    """Every cell has one metagene, that of all its neighbours: only ridge and bound stop its affinity."""
    z, graph = halves()
    z = torch.nn.functional.one_hot(2 * (z[:, :2].sum(dim=1) < z[:, 2:].sum(dim=1)), K).double()
    huge = torch.full((2, K, K), 1e300, dtype=torch.float64)
    found = affinities(z, *graph, start=huge)
    neighbours = adjacency(*graph[:2], len(z)) @ z.sum(dim=1)
    assert found.isfinite().all()
    assert found.abs().max() <= MAX_PULL / neighbours.max()
    torch.testing.assert_close(found, affinities(z, *graph), atol=0.2, rtol=0)
    for number, matrix in enumerate(found):
        cells = graph[2] == number
        sums = adjacency(*graph[:2], len(z)) @ z
        assert pseudo_likelihood(z[cells], sums[cells], matrix).isfinite().all()


def test_affinities_take_no_more_evaluations_than_allowed(monkeypatch: pytest.MonkeyPatch):
    z, graph = halves()
    seen = []
    series = affinity_module.log_partition
    monkeypatch.setattr(affinity_module, "log_partition", lambda eta: seen.append(len(eta)) or series(eta))
    monkeypatch.setattr(affinity_module, "_SMALL_GAIN", 0.0)
    monkeypatch.setattr(affinity_module, "_EVALUATIONS", 5)
    affinities(z, *graph, shared=True)
    # a line search that has begun is ended
    assert 5 <= len(seen) <= 5 + 20


def test_affinities_of_20_metagenes_are_the_same_with_two_threads():
    """Newton's steps were wrong with several: MKL's batched LU decomposition is, from an order of about 150 on."""
    rng = np.random.default_rng(0)
    z = torch.tensor(rng.dirichlet(np.full(20, 0.3), 2 * SIDE**2))
    position, batch = np.tile(np.column_stack(np.divmod(np.arange(SIDE**2), SIDE)), (2, 1)), np.repeat([0, 1], SIDE**2)
    graph = neighbours(position, batch)
    edges = (torch.tensor(graph.source), torch.tensor(graph.target), torch.tensor(batch))
    found = [with_threads(threads, lambda: affinities(z, *edges)) for threads in (1, 2)]
    assert found[0].abs().max() < 10
    torch.testing.assert_close(found[1], found[0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("order", [40, 200])
def test_batches_of_systems_are_solved_with_two_threads(order):
    generator = torch.Generator().manual_seed(0)
    root = torch.randn((3, order, order), dtype=torch.float64, generator=generator)
    matrices, right = root @ root.mT + torch.eye(order), root[:, :, :1]
    found = with_threads(2, lambda: systems.solve(matrices, right))
    torch.testing.assert_close(matrices @ found, right, atol=1e-8, rtol=0)
    found = with_threads(2, lambda: systems.inverse(matrices))
    torch.testing.assert_close(matrices @ found, torch.eye(order).double().expand(3, -1, -1), atol=1e-8, rtol=0)


def with_threads(threads: int, found: Callable[[], torch.Tensor]) -> torch.Tensor:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return found()
    finally:
        assert torch.get_num_threads() == threads
        torch.set_num_threads(before)


def test_neighbours_have_different_colours_and_few_are_needed():
    rng = np.random.default_rng(0)
    graph = neighbours(rng.random((3000, 2)), np.zeros(3000, dtype=int))
    source, target = torch.tensor(graph.source), torch.tensor(graph.target)
    colour = colours(source, target, 3000)
    assert (colour[source] != colour[target]).all()
    assert 4 <= colour.max() + 1 <= 9
    assert (colours(source, target, 3000) == colour).all()


def with_expected(problem: Problem, truth: torch.Tensor) -> Problem:
    """Expect the mean of its stripe of every cell, with the variance that there is."""
    stripe = truth.argmax(dim=1)
    means = torch.stack([truth[stripe == k].mean(dim=0) for k in range(K)])[stripe]
    return replace(problem, expected=means, spread=(truth - means).square().mean(dim=0).expand_as(means))


def test_shares_are_drawn_to_what_is_expected_as_far_as_they_are_noisy():
    """Without edges: nearer to the truth, and no less spread about what is expected than a posterior mean is."""
    problem, truth = stripes(noise=0.015)
    source, target = no_edges(problem.X.device)
    given = replace(with_expected(problem, truth), source=source, target=target)
    found = shares(draw_to_expected(given, weight=1.0).X)
    assert error(found, truth) < 0.9 * error(problem.X, truth)
    spread, true = ((z - given.expected).square().mean() for z in (found, truth))
    assert 0.2 * true < spread < true
    loose = replace(given, spread=torch.full_like(given.spread, 1e6))
    torch.testing.assert_close(shares(draw_to_expected(loose, weight=1.0).X), shares(problem.X), atol=2e-3, rtol=0)


def test_neighbours_add_to_what_is_expected():
    """Cells drawn to the mean of all, as if that were known of each: neighbours tell the stripes all the same."""
    problem, truth = stripes()
    middle = truth.mean(dim=0).expand_as(truth)
    given = replace(problem, expected=middle, spread=torch.full_like(middle, 0.01))
    source, target = no_edges(problem.X.device)
    neighbours = draw_to_expected(given, weight=1.0).X
    without = draw_to_expected(replace(given, source=source, target=target), weight=1.0).X
    assert error(neighbours, truth) < 0.8 * error(without, truth)


def test_a_cell_without_neighbours_is_drawn_to_what_is_expected_of_it():
    problem, truth = stripes()
    kept = (problem.source != 0) & (problem.target != 0)
    given = replace(with_expected(problem, truth), source=problem.source[kept], target=problem.target[kept])
    found = draw_to_expected(given, weight=100.0).X
    torch.testing.assert_close(shares(found)[0], given.expected[0], atol=0.05, rtol=0)
    bare = draw_to_expected(replace(given, expected=None, spread=None)).X
    torch.testing.assert_close(bare[0], problem.X[0])
