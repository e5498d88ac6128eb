"""Minibatches, penalties, probe and training loop that the networks share."""

import math

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression
from torch import nn

from unbatch.models.scmedal.parts import of_fold, without_batch
from unbatch.models.scmedal.probe import balanced_probe, logistic
from unbatch.nn.minibatches import Resident, Rows, Streamed
from unbatch.nn.penalties import hsic, mean_matching
from unbatch.nn.training import Plan, train


@pytest.fixture
def matrix() -> csr_matrix:
    rng = np.random.default_rng(0)
    return csr_matrix(rng.poisson(0.4, (103, 20)).astype(np.float32))


@pytest.mark.parametrize("offset", [0, 1])
def test_rows_are_those_of_the_matrix_sparse_or_dense(matrix, offset):
    # with 1 added, nothing is 0 and the matrix is held dense
    matrix = csr_matrix(matrix.toarray() + offset)
    wanted = np.array([7, 3, 3, 102, 0])
    rows = Rows(matrix, torch.device("cpu"))
    dense = rows.dense(torch.as_tensor(wanted), rows.stored(wanted))
    np.testing.assert_array_equal(dense.numpy(), matrix.toarray()[wanted])


def test_cells_of_a_file_are_shuffled_among_all_or_come_in_their_order(matrix):
    file = Streamed(lambda start, stop: matrix[start:stop], matrix.shape, chunk=10, window=None)
    whole = Resident(matrix)
    for seed in (None, 1):
        orders = []
        for source in (file, whole):
            rng = None if seed is None else np.random.default_rng(seed)
            parts = list(source.minibatches(np.arange(0, 103, 2), 8, rng))
            orders.append(np.concatenate([position.numpy() for position, _ in parts]))
            dense = torch.cat([expression for _, expression in parts]).numpy()
            np.testing.assert_array_equal(dense, matrix.toarray()[orders[-1]])
        np.testing.assert_array_equal(*orders)


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("sparse", [False, True])
def test_every_cell_is_in_one_minibatch_from_memory_and_from_a_file(matrix, sparse, shuffled):
    values = matrix if sparse else matrix.toarray()
    cells = np.flatnonzero(np.arange(103) % 3 > 0)
    whole = Resident(values)
    windows = Resident(values, chunk=10, window=2)
    file = Streamed(lambda start, stop: values[start:stop], values.shape, chunk=10, window=2)
    seen = []
    for source in (whole, windows, file):
        rng = np.random.default_rng(1) if shuffled else None
        parts = list(source.minibatches(cells, 8, rng))
        position = torch.cat([position for position, _ in parts]).numpy()
        expression = torch.cat([expression for _, expression in parts]).numpy()
        np.testing.assert_array_equal(np.sort(position), cells)
        np.testing.assert_array_equal(expression, matrix.toarray()[position])
        assert max(len(position) for position, _ in parts) <= 8
        assert shuffled != np.array_equal(position, cells)
        seen.append(position)
    np.testing.assert_array_equal(seen[1], seen[2])


def test_cells_shuffled_among_all_are_read_some_at_a_time(matrix, monkeypatch):
    monkeypatch.setattr("unbatch.nn.minibatches.LOADED", 20)
    sizes = []

    class Watched(Streamed):
        def _load(self, window: np.ndarray) -> list:
            sizes.append(len(window))
            return super()._load(window)

    file = Watched(lambda start, stop: matrix[start:stop], matrix.shape, chunk=10, window=None)
    cells, seen = np.arange(matrix.shape[0]), []
    for position, values in file.minibatches(cells, 8, np.random.default_rng(0)):
        np.testing.assert_array_equal(values.numpy(), matrix[position.numpy()].toarray())
        seen.extend(position.tolist())
    assert sorted(seen) == cells.tolist()
    assert max(sizes) <= 20


def test_no_window_has_one_cell_alone(matrix):
    """A network could not normalise it by its variance."""
    source = Resident(matrix, chunk=17, window=3)
    for seed in range(10):
        parts = source.minibatches(np.arange(103), 200, np.random.default_rng(seed))
        assert min(len(position) for position, _ in parts) > 1


def test_hsic_is_the_sum_over_pairs():
    rng = np.random.default_rng(0)
    u, z = rng.normal(size=(30, 4)), rng.integers(0, 3, 30)
    v = (u - u.mean(0)) / (u.std(0, ddof=1) + 1e-3)
    distance = ((v[:, None] - v) ** 2).sum(-1)
    centring = np.eye(30) - 1 / 30
    kernel = centring @ np.exp(-distance / distance.mean()) @ centring
    same = centring @ (z[:, None] == z) @ centring
    expected = ((kernel * same).sum() - (np.diag(kernel) * np.diag(same)).sum()) / np.linalg.norm(kernel)
    found = hsic(torch.as_tensor(u), torch.as_tensor(z), 3)
    assert float(found) == pytest.approx(expected / np.linalg.norm(same), rel=1e-6)


def test_penalties_are_about_0_without_a_difference_and_above_with_one():
    rng = np.random.default_rng(0)
    batch, group = rng.integers(0, 3, (2, 600))
    batch, group = torch.as_tensor(batch), torch.as_tensor(group)
    without = torch.as_tensor(rng.normal(size=(600, 20)))
    shifted = without + batch[:, None] * 0.5
    assert abs(float(hsic(without, batch, 3))) < 0.03 < 0.1 < float(hsic(shifted, batch, 3))
    assert abs(float(mean_matching(without, batch, 3, group, 3))) < 0.005
    # a shift with standard deviation 0.41 over batches, in units of a total variance of 1.17
    assert float(mean_matching(shifted, batch, 3, group, 3)) == pytest.approx(0.167 / 1.167, abs=0.02)
    unlabelled = torch.full_like(group, -1)
    assert float(mean_matching(shifted, batch, 3, unlabelled, 3)) == 0


def test_matching_within_groups_sees_what_the_average_hides():
    rng = np.random.default_rng(0)
    batch, group = (torch.as_tensor(codes) for codes in rng.integers(0, 2, (2, 1000)))
    embedding = torch.as_tensor(rng.normal(size=(1000, 5))) + ((batch == group).double() * 2 - 1)[:, None]
    assert float(mean_matching(embedding, batch, 2, torch.zeros_like(group), 1)) < 0.02
    assert float(mean_matching(embedding, batch, 2, group, 2)) > 0.4


def test_logistic_regression_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    code = rng.integers(0, 3, 200)
    values = rng.normal(size=(200, 5)) + code[:, None] * np.array([0.5, -0.3, 0, 0, 0.1])
    found = logistic(torch.as_tensor(values), torch.as_tensor(code), 3, iterations=200)
    expected = LogisticRegression(C=1.0, tol=1e-8, max_iter=1000).fit(values, code)
    ours = torch.softmax(torch.as_tensor(values) @ found[:-1] + found[-1], 1)
    np.testing.assert_allclose(ours.numpy(), expected.predict_proba(values), atol=2e-3)


def test_a_probe_finds_what_is_there_and_guesses_the_rest():
    rng = np.random.default_rng(0)
    code = torch.as_tensor(rng.integers(0, 4, 800))
    noise = torch.as_tensor(rng.normal(size=(800, 10)))
    assert balanced_probe(noise, code, 4) == pytest.approx(0.25, abs=0.05)
    assert balanced_probe(noise + 5 * nn.functional.one_hot(code, 10), code, 4) > 0.98
    # cells of unknown batch do not count
    half = torch.where(torch.arange(800) < 400, code, -1)
    assert balanced_probe(noise + 5 * nn.functional.one_hot(code, 10), half, 4) > 0.95


class _Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.steps = nn.Parameter(torch.zeros(()), requires_grad=False)


def _run(scores, matrix, **changed):
    network = _Counter()
    given = iter(scores)

    def step(position, expression, share):
        network.steps += 1
        return {"mean": expression.mean(), "total": expression.mean()}

    plan = Plan(**{"epochs": len(scores), "size": 200, "patience": 100} | changed)
    rng = np.random.default_rng(0)

    def judge(counts):
        return next(given), {"seen": 1.0, "costly": 0.5 if counts else math.nan}

    history = train(network, Resident(matrix), np.arange(103), step, judge, plan, rng=rng)
    return network, history


def test_training_keeps_the_weights_of_the_best_epoch(matrix):
    network, history = _run([3.0, 1.0, 2.0, 1.5], matrix)
    assert (float(network.steps), history.best) == (2, 2)
    assert history.terms["mean"] == pytest.approx([matrix.mean()] * 4)
    assert history.terms["seen"] == [1.0] * 4


def test_training_stops_when_patience_ends(matrix):
    _, history = _run([3.0, 1.0, 2.0, 1.5, 0.1], matrix, patience=2)
    assert len(history.terms["mean"]) == 4


def test_an_epoch_takes_no_more_cells_than_the_plan_says_and_others_each_time(matrix):
    seen = []

    def step(position, expression, share):
        seen.append((position.numpy(), share))
        return {"mean": expression.mean()}

    plan = Plan(epochs=4, size=15, patience=4, most=30)
    rng = np.random.default_rng(0)
    train(_Counter(), Resident(matrix), np.arange(103), step, lambda counts: (0.0, {}), plan, rng=rng)
    assert plan.steps(103) == 2
    assert [share for _, share in seen] == pytest.approx(np.arange(8) / 8)
    epochs = [np.concatenate([seen[start][0], seen[start + 1][0]]) for start in range(0, 8, 2)]
    assert all(len(np.unique(epoch)) == 30 for epoch in epochs)
    assert len(np.unique(np.concatenate(epochs))) > 60


def test_an_epoch_of_the_ramp_is_not_the_best(matrix):
    _, history = _run([0.0, 0.0, 2.0, 1.5], matrix, first=0.5)
    assert history.best == 4
    # what is computed for the choice alone is left out there
    np.testing.assert_array_equal(history.terms["costly"], [math.nan, math.nan, 0.5, 0.5])


def test_parts_are_three_of_five_folds():
    split = np.arange(20) % 5
    parts = of_fold(split, 4)
    assert set(split[parts.test]) == {4}
    assert set(split[parts.validation]) == {0}
    assert set(split[parts.train]) == {1, 2, 3}
    with pytest.raises(ValueError, match="fold 5"):
        of_fold(split, 5)


def test_a_batch_held_out_is_in_the_test_part_only():
    split, batch = np.arange(30) % 5, np.repeat([0, 1, 2], 10)
    parts, codes = without_batch(batch, split, 1)
    assert np.array_equal(parts.test, np.arange(10, 20))
    assert np.array_equal(np.unique(codes), [-1, 0, 1])
    assert set(codes[parts.train]) == set(codes[parts.validation]) == {0, 1}
    with pytest.raises(ValueError, match="batch 7"):
        without_batch(batch, split, 7)
