import math

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from scipy.sparse import csr_matrix

from unbatch.models.batchblend import cell_matrix as cells
from unbatch.models.batchblend.held_out import held_out_errors
from unbatch.models.batchblend.nnls import solve_amounts, sweep_amounts, sweep_metagenes
from unbatch.models.batchblend.rays import RayFit
from unbatch.models.batchblend.states import merged_clusters
from unbatch.models.batchblend.two_way import two_way
from unbatch.nn import kmeans

CPU = torch.device("cpu")


def counts(n: int = 53, genes: int = 17, density: float = 0.3, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.poisson(4, (n, genes)) * (rng.random((n, genes)) < density)).astype(np.float32)


@pytest.fixture(params=["one chunk", "many chunks"])
def _chunks(request, monkeypatch):
    if request.param == "many chunks":
        monkeypatch.setattr(cells, "_CHUNK_ROWS", 10)
        monkeypatch.setattr(cells, "_DENSE_VALUES", 60)


@pytest.mark.usefixtures("_chunks")
@pytest.mark.parametrize("make", [np.asarray, csr_matrix])
@pytest.mark.parametrize("density", [0.3, 0.9])
def test_products_with_cells_are_those_of_numpy(make, density):
    values, rng = counts(density=density), np.random.default_rng(1)
    matrix = cells.CellMatrix(make(values), 0.5, CPU)
    right, left, weights = rng.normal(size=(17, 3)), rng.normal(size=(53, 3)), rng.random(53)
    y = values.astype(np.float64) * 0.5
    found = {
        "times": matrix.times(torch.as_tensor(right)),
        "squares_times": matrix.squares_times(torch.as_tensor(right)),
        "transposed_times": matrix.transposed_times(torch.as_tensor(left)),
        "squares_transposed_times": matrix.squares_transposed_times(torch.as_tensor(left)),
        "gram": matrix.gram(torch.as_tensor(weights)),
    }
    weighted = y * weights[:, None]
    expected = {
        "times": y @ right,
        "squares_times": y**2 @ right,
        "transposed_times": y.T @ left,
        "squares_transposed_times": (y**2).T @ left,
        "gram": weighted.T @ weighted,
    }
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-4, err_msg=name)


def test_a_sparse_matrix_is_not_held_dense_unless_that_takes_less_memory():
    held = {d: cells.CellMatrix(csr_matrix(counts(density=d)), 1, CPU)._chunks[0].rows for d in (0.3, 0.9)}
    assert held[0.3].is_sparse_csr
    assert not held[0.9].is_sparse_csr


def blobs(seed: int = 0, clusters: int = 6, each: int = 40) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    middles = 20 * rng.permutation(np.eye(clusters))
    label = np.repeat(np.arange(clusters), each)
    points = middles[label] + rng.normal(size=(len(label), clusters))
    return torch.tensor(points), torch.tensor(label), torch.tensor(middles)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("sample", [50_000, 100])
def test_separated_clusters_are_found(sample, monkeypatch):
    monkeypatch.setattr(kmeans, "_SAMPLE", sample)
    points, label, middles = blobs()
    # far from 0, where squares of distances cancel
    points, middles = points + 1e4, middles + 1e4
    centres = kmeans.kmeans(points, 6, generator())
    found = kmeans.nearest(points, centres)
    pairs = {(int(a), int(b)) for a, b in zip(label, found, strict=True)}
    assert len(pairs) == 6
    assert torch.cdist(middles, centres).min(1).values.max() < 1.5


def test_clusters_are_the_same_for_the_same_random_numbers():
    points = torch.randn(300, 4, generator=generator(), dtype=torch.float64)
    first, second, other = (kmeans.kmeans(points, 12, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_more_clusters_than_distinct_points_leave_no_point_without_a_centre():
    points = torch.eye(3, dtype=torch.float64).repeat(10, 1)
    centres = kmeans.kmeans(points, 5, generator())
    assert centres.shape == (5, 3)
    assert torch.isfinite(centres).all()
    assert torch.cdist(points, centres).min(1).values.max() < 1e-6
    assert kmeans.kmeans(points[:2], 5, generator()).shape == (2, 3)


def test_an_emptied_cluster_takes_the_farthest_point(monkeypatch):
    """All starts on one blob but for a centre that no point is nearest to."""
    points, _, middles = blobs(clusters=2)
    start = torch.stack([middles[0], middles[0] + 1e3])[None]
    monkeypatch.setattr(kmeans, "_seeds", lambda own, *_: (start - points.mean(0)).to(own.dtype))
    centres = kmeans.kmeans(points, 2, generator())
    assert torch.cdist(middles, centres).min(1).values.max() < 1.5


def rays(seed: int, noise: float = 0.02, offset: float = 1.0) -> tuple[RayFit, torch.Tensor]:
    """Three states that two batches share, each batch with an offset."""
    rng = np.random.default_rng(seed)
    n, genes, states = 300, 8, 3
    profile = rng.dirichlet(np.ones(genes), states)
    planted = offset * rng.dirichlet(np.ones(genes), 2) * np.array([[3.0], [1.0]])
    batch, state = np.repeat([0, 1], n // 2), rng.integers(0, states, n)
    size = rng.gamma(10, 1, n)
    values = planted[batch] + profile[state] * size[:, None] + rng.normal(0, noise, (n, genes))
    problem = RayFit(
        torch.tensor(values),
        torch.tensor(values.sum(1)),
        batch=torch.tensor(batch),
        state=torch.tensor(state),
        states=states,
        genes=genes,
        offset_scale=float((values.mean(0) ** 2).mean()),
    )
    return problem, torch.tensor(planted)


def test_parts_of_one_cloud_are_joined_and_clouds_are_not():
    """Three clouds of normal points cut into 2, 1 and 3 parts along an axis, and a cluster without points."""
    rng = np.random.default_rng(0)
    points = torch.tensor(rng.normal(size=(600, 6)) + 6 * np.eye(6)[np.repeat([0, 1, 2], 200)])
    cut, even = points[:, 4], torch.ones(600)
    label = torch.cat(
        [(cut[:200] > 0).long(), torch.full((200,), 2), 3 + (cut[400:] > -0.5).long() + (cut[400:] > 0.5)]
    )
    assert merged_clusters(points, label, even, clusters=7).tolist() == [0, 0, 1, 2, 2, 2, 3]
    assert merged_clusters(points, label, even, clusters=7, distance=0.0, valley=np.inf).tolist() == list(range(7))


def test_pieces_of_a_continuum_are_joined():
    points = torch.tensor(np.random.default_rng(0).uniform(size=(1000, 2)) * [10, 0.5])
    cut = torch.tensor([1.0, 3.5, 4.0, 8.0], dtype=torch.float64)
    label = torch.bucketize(points[:, 0], cut)
    assert len(merged_clusters(points, label, torch.ones(1000), clusters=5).unique()) == 1


def test_a_rare_cloud_next_to_a_large_one_stays_apart():
    rng = np.random.default_rng(0)
    points = torch.tensor(rng.normal(size=(1020, 5)) + 6 * (np.arange(1020) < 20)[:, None] * np.eye(5)[0])
    label = (torch.arange(1020) >= 20).long()
    assert merged_clusters(points, label, torch.ones(1020), clusters=2).tolist() == [0, 1]


def test_noisy_points_do_not_join_clouds():
    """A tenth of the points of two clouds is noise, and weighs as little as it tells."""
    rng = np.random.default_rng(0)
    sd = np.where(np.arange(400) % 10, 1.0, 10.0)
    points = torch.tensor(rng.normal(size=(400, 3)) * sd[:, None] + 6 * (np.arange(400) < 200)[:, None] * np.eye(3)[0])
    label = (torch.arange(400) >= 200).long()
    weights = torch.tensor(sd**-2)
    assert merged_clusters(points, label, weights, clusters=2).tolist() == [0, 1]
    assert merged_clusters(points, label, torch.ones(400), clusters=2).tolist() == [0, 0]


def test_rays_meet_in_the_planted_offset():
    problem, planted = rays(0)
    found = problem.fit()
    torch.testing.assert_close(found.offset, planted, atol=0.05, rtol=0)
    torch.testing.assert_close(found.total, planted.sum(1), atol=0.1, rtol=0)
    torch.testing.assert_close(found.profile.sum(1), torch.ones(3, dtype=torch.float64), atol=0.02, rtol=0)


def test_rays_of_cells_without_offset_meet_near_0():
    problem, _ = rays(0, offset=0.0)
    found = problem.fit()
    assert (found.total <= 3 * found.error + 1e-9).all()
    assert found.offset.abs().max() < 0.05


def test_the_errors_of_an_offset_are_those_of_repeats():
    """Over repeats, estimates differ from the truth by as much as the standard errors say.

    With little noise: sizes are totals of the noisy values, which draws the offset to 0 where there is much.
    """
    totals, genes = [], []
    for seed in range(30):
        problem, planted = rays(seed)
        found = problem.fit()
        totals.append((found.total - planted.sum(1)) / found.error)
        genes.append((found.offset - planted) / found.covariance.diagonal(dim1=1, dim2=2).sqrt())
    for standardised in (torch.stack(totals), torch.stack(genes)):
        assert 0.7 < standardised.square().mean().sqrt() < 1.4


def test_cells_of_one_total_do_not_identify_the_level_of_an_offset():
    """The error is then that of the prior: a mean total, shared by two batches whose difference is known."""
    problem, _ = rays(0)
    problem.scores /= problem.scores.sum(1, keepdim=True)
    ones = torch.ones(len(problem.scores), dtype=torch.float64)
    about = {"batch": problem.batch, "state": problem.state, "offset_scale": problem.offset_scale}
    found = RayFit(problem.scores, ones, states=3, genes=8, **about).fit()
    assert (found.error > 0.5).all()


def test_errors_of_rays_grow_with_the_noise():
    errors = [float(rays(0, noise)[0].fit().error.mean()) for noise in (0.02, 0.2)]
    assert 5 < errors[1] / errors[0] < 20


def tables(noise: float = 0.01, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sums of a state and a factor (mean 0) with unequal variances; some entries are not known."""
    rng = np.random.default_rng(seed)
    batches, states, genes = 3, 6, 5
    factors = rng.normal(size=(batches, genes))
    factors -= factors.mean(0)
    sd = rng.uniform(0.5, 2, (batches, states, genes))
    logs = rng.normal(size=(states, genes)) + factors[:, None] + noise * sd * rng.normal(size=sd.shape)
    variance = sd**2
    variance[rng.random(sd.shape) < 0.1] = np.inf
    return torch.tensor(logs), torch.tensor(variance), torch.tensor(factors)


def test_a_two_way_fit_without_outliers_is_weighted_least_squares():
    logs, variance, _ = tables()
    found, error, spread = two_way(torch.where(variance.isinf(), 0, logs), variance)
    batches, states, genes = logs.shape
    batch, state = np.divmod(np.arange(batches * states), states)
    # the last batch has minus the sum of the others
    coded = np.vstack([np.eye(batches - 1), -np.ones(batches - 1)])[batch]
    design = np.hstack([coded, np.eye(states)[state]])
    for gene in range(genes):
        weight = (1 / variance[:, :, gene].numpy()).ravel()
        normal = design.T @ (design * weight[:, None])
        solution = np.linalg.solve(normal, design.T @ (weight * logs[:, :, gene].numpy().ravel()))
        expected = np.append(solution[: batches - 1], -solution[: batches - 1].sum())
        np.testing.assert_allclose(found[:, gene], expected, atol=1e-8)
        covariance = np.linalg.inv(normal)[: batches - 1, : batches - 1]
        both = np.vstack([np.eye(batches - 1), -np.ones(batches - 1)])
        exact = np.sqrt(np.diag(both @ covariance @ both.T))
        np.testing.assert_allclose(error[:, gene].numpy(), exact, rtol=1e-5)
    # noise is a hundredth of what the variances say: nothing is left for an interaction
    assert (spread == 0).all()


def test_a_two_way_fit_is_hardly_moved_by_an_outlier_of_a_gene():
    logs, variance, truth = tables(noise=0.1)
    variance = torch.full_like(variance, 0.01)
    far = logs.clone()
    far[0, 0, 0] += 50
    clean, moved = two_way(logs, variance)[0], two_way(far, variance)[0]
    assert (clean - truth).abs().max() < 0.25
    assert (moved - clean).abs().max() < 0.1


def test_what_states_and_batches_do_not_explain_is_the_spread():
    rng = np.random.default_rng(0)
    logs = torch.tensor(rng.normal(0, 0.5, (4, 30, 50)))
    _, error, spread = two_way(logs, torch.full_like(logs, 1e-4))
    assert 0.15 < spread.mean() < 0.35
    # four batches: each mean of 30 values has a variance of 3/4 of 0.25 / 30
    assert 0.06 < error.mean() < 0.13


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_held_out_entries_are_predicted_best_by_the_rank_of_the_data(rank):
    rng = np.random.default_rng(rank)
    values = rng.normal(size=(120, rank)) @ rng.normal(size=(rank, 40)) + rng.normal(0, 0.3, (120, 40))
    errors = held_out_errors(torch.tensor(values), 12, 5, generator())
    assert errors.shape == (25, 12)
    mean = errors.mean(0)
    assert int(mean.argmin()) + 1 == rank
    # what is left is noise, and that of the prediction
    assert 0.09 < mean.min() < 0.12


def test_held_out_errors_stop_at_the_rank_of_the_blocks_that_are_left():
    values = torch.randn(20, 10, generator=generator(), dtype=torch.float64)
    assert held_out_errors(values, 30, 5, generator()).shape == (25, 8)
    assert torch.isfinite(held_out_errors(torch.ones(20, 10, dtype=torch.float64), 5, 5, generator())).all()


def test_sweeps_end_at_non_negative_least_squares():
    rng = np.random.default_rng(0)
    metagenes, truth = rng.gamma(1, size=(4, 30)), rng.gamma(0.3, size=(50, 4))
    values = truth @ metagenes + rng.normal(0, 0.5, (50, 30))
    exact = np.array([nnls(metagenes.T, value)[0] for value in values])
    amounts = torch.ones(50, 4, dtype=torch.float64)
    sweep_amounts(amounts, torch.tensor(values @ metagenes.T), torch.tensor(metagenes @ metagenes.T), 300)
    np.testing.assert_allclose(amounts, exact, atol=1e-8)
    assert (exact == 0).any()
    # genes of two batches, with weights of their own
    halves, weights = (values[:25], values[25:]), torch.tensor(rng.uniform(0.5, 2, (2, 30)))
    design = torch.tensor(np.stack([truth[:25].T @ truth[:25], truth[25:].T @ truth[25:]]))
    linear = sum(torch.tensor(x.T @ y) * w for x, y, w in zip((truth[:25], truth[25:]), halves, weights, strict=True))
    found = torch.ones(4, 30, dtype=torch.float64)
    sweep_metagenes(found, design, weights, linear, sweeps=500)
    root = np.repeat(np.sqrt(weights.numpy()), 25, axis=0)
    exact = [nnls(truth * root[:, [g]], values[:, g] * root[:, g])[0] for g in range(30)]
    np.testing.assert_allclose(found.T, exact, atol=1e-7)


@pytest.mark.parametrize("alike", [1.0, 0.02])
def test_pivots_end_at_non_negative_least_squares(alike):
    rng = np.random.default_rng(2)
    metagenes = 1 + alike * rng.gamma(1, size=(12, 40))
    values = rng.gamma(0.3, size=(300, 12)) @ metagenes + rng.normal(0, 1, (300, 40))
    found = solve_amounts(torch.tensor(values @ metagenes.T), torch.tensor(metagenes @ metagenes.T))
    exact = np.array([nnls(metagenes.T, value)[0] for value in values])
    assert 0.2 < (exact == 0).mean() < 0.95
    np.testing.assert_allclose(found, exact, atol=1e-5 * exact.max())


def test_where_pivots_may_not_end_amounts_are_no_worse_than_by_coordinate_descent():
    rng = np.random.default_rng(0)
    place = np.linspace(0, 1, 200)
    smooth = np.exp(-0.5 * ((place - np.linspace(0, 1, 15)[:, None]) / 0.1) ** 2)
    values = rng.gamma(0.3, size=(300, 15)) @ smooth + rng.normal(0, 0.5, (300, 200))
    design, linear = torch.tensor(smooth @ smooth.T), torch.tensor(values @ smooth.T)
    assert np.linalg.cond(design) > 1e7
    exact = torch.tensor(np.array([nnls(smooth.T, value)[0] for value in values]))

    def objective(x):
        return (x @ design * x).sum(1) / 2 - (x * linear).sum(1)

    above = (objective(solve_amounts(linear, design)) - objective(exact)) / torch.tensor(values).square().sum(1)
    assert above.median() < 1e-9
    assert above.max() < 1e-4


def test_pivots_bear_dead_and_equal_metagenes():
    metagenes = torch.tensor([[1.0, 2.0, 0.0], [1.0, 2.0, 0.0], [0.0, 0.0, 0.0]])
    values = torch.tensor([[2.0, 4.0, 1.0], [0.0, 0.0, 3.0], [-1.0, 0.0, 0.0]])
    found = solve_amounts(values @ metagenes.T, metagenes @ metagenes.T)
    torch.testing.assert_close(found[:, :2].sum(1), torch.tensor([2.0, 0.0, 0.0], dtype=torch.float64))
    assert (found >= 0).all()
    assert not found[:, 2].any()


def test_a_gene_that_one_batch_lacks_is_still_compared_between_the_others():
    rng = np.random.default_rng(5)
    factors = np.array([0.4, -0.1, -0.3, 0.0])
    logs = torch.as_tensor(rng.normal(size=(1, 8, 1)) + factors[:, None, None] + 0.01 * rng.normal(size=(4, 8, 1)))
    variance = torch.full_like(logs, 1e-4)
    variance[3] = math.inf
    logs[3] = 0
    found, error, _ = two_way(logs, variance)
    np.testing.assert_allclose(found[:3, 0], factors[:3] - factors[:3].mean(), atol=0.02)
    assert error[:3].max() < 0.02
    assert math.isinf(error[3, 0])
    assert found[3, 0] == 0
