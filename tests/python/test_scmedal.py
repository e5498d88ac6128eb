from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from torch.distributions import Normal, kl_divergence

from unbatch.models import scmedal
from unbatch.models.scmedal import Model, Settings, fit, fit_projection, loss_weights, model, parameters, schedule
from unbatch.models.scmedal.parts import Parts, of_fold, without_batch
from unbatch.models.scmedal.random_effects import Reden
from unbatch.nn.layers import rows
from unbatch.nn.minibatches import Resident, Streamed
from unbatch.nn.training import Diverged

SMALL = {"latent": 16, "hidden": (128, 64)}
QUICK = Settings(**SMALL, epochs=3)
MODELS = ["ae", "aec", "fe", "fec", "re"]


class Simulated:
    """Types with a common effect of each batch and one for each type and batch, on log-normalised expression."""

    def __init__(self, cells: int = 900, genes: int = 80, batches: int = 3, types: int = 4, specific: float = 0.25):
        rng = np.random.default_rng(0)
        mixture = rng.dirichlet(np.full(types, 5.0), batches)
        self.batch = np.repeat(np.arange(batches), cells // batches)
        self.label = np.array([rng.choice(types, p=mixture[code]) for code in self.batch])
        profile = rng.uniform(1, 2.5, genes) + rng.normal(0, 0.6, (types, genes))
        effect = rng.normal(0, 0.3, (batches, 1, genes)) + rng.normal(0, specific, (batches, types, genes))
        self.effect = effect
        factors = rng.normal(size=(len(self.batch), 3)) @ rng.normal(0, 0.25, (3, genes))
        noise = rng.normal(0, 0.5, factors.shape)
        dense = profile[self.label] + factors + effect[self.batch, self.label] + noise
        # as in counts, what is below 0 is not seen
        self.X = csr_matrix(np.maximum(dense, 0).astype(np.float32))
        self.split = rng.permutation(len(self.batch)) % 5
        self.parts = of_fold(self.split, 0)

    def shift(self, cells: np.ndarray, target: int) -> np.ndarray:
        """True change of some cells by going to another batch."""
        own = self.effect[self.batch[cells], self.label[cells]]
        return self.effect[target, self.label[cells]] - own


@cache
def simulated(**changed) -> Simulated:
    return Simulated(**changed)


def quick(settings: Settings = QUICK, data: Simulated | None = None, **options):
    data = data or simulated()
    return fit(Resident(data.X), data.batch, data.parts, settings, label=data.label, **options)


@cache
def trained(model: str):
    return quick(Settings(model, **SMALL))


@pytest.mark.parametrize(("model", "number"), [("ae", 354_856), ("fe", 779_210), ("re", 753_127)])
def test_published_networks_have_as_many_parameters_as_the_reference(model, number):
    assert parameters(scmedal.Network(Settings(model, preset="paper"), 542, 6, 0)) == number


def test_published_weights_follow_the_size_of_the_data():
    def of(model, cells):
        return loss_weights(Settings(model, preset="paper"), cells)

    assert of("fe", 23_049) == {"reconstruction": 1000, "batch": 1}
    assert of("fe", 62_735)["reconstruction"] == 2000
    assert of("re", 291_680)["batch"] == 0.1
    assert of("re", 38_000)["batch"] == 0.1
    assert of("re", 38_100)["batch"] == 0.4


def test_published_random_effects_start_at_the_divergence_of_the_reference():
    torch.manual_seed(0)
    coder = scmedal.Network(Settings("re", preset="paper"), 542, 6, 0).coder
    start = 1e-5 * coder.sampled_divergence(coder.sample())
    assert float(start.detach()) == pytest.approx(0.232, abs=0.01)


@pytest.mark.parametrize("preset", ["recommended", "paper"])
@pytest.mark.parametrize("model", MODELS)
def test_the_loss_falls_and_every_term_is_logged(model, preset):
    settings = Settings(model, preset, **SMALL, epochs=4, learning_rate=1e-3)
    fitted = quick(settings)
    expected = {"reconstruction", "total", "validation_reconstruction"} | set(fitted.weights) - {"matching"}
    assert expected <= set(fitted.history)
    assert {len(values) for values in fitted.history.values()} == {4}
    assert fitted.history["reconstruction"][-1] < fitted.history["reconstruction"][0]
    if "batch_probe" in fitted.history:
        # epochs in which the penalties rise cannot be kept, and are not probed
        assert np.isnan(fitted.history["batch_probe"]).tolist() == [True, True, False, False]


@pytest.mark.parametrize("model", ["fe", "re"])
def test_the_same_seed_gives_the_same_fit(model):
    first, again, other = (quick(replace(QUICK, model=model), seed=seed).model.weights() for seed in (1, 1, 2))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert any(not np.array_equal(first[name], other[name]) for name in first)


def test_a_fit_leaves_the_global_random_numbers_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    quick(replace(QUICK, epochs=1))
    assert torch.equal(torch.rand(3), expected)


def test_streamed_cells_give_the_fit_of_resident_ones_in_the_same_order():
    data = simulated()
    streamed = Streamed(lambda start, stop: data.X[start:stop], data.X.shape, chunk=100, window=3)
    resident = Resident(data.X, chunk=100, window=3)
    one, other = (fit(source, data.batch, data.parts, QUICK, seed=3).model for source in (streamed, resident))
    assert all(np.array_equal(other.weights()[name], value) for name, value in one.weights().items())
    np.testing.assert_allclose(one.embed(streamed, data.batch), other.embed(data.X, data.batch), atol=1e-5)


def test_scaling_is_that_of_the_training_cells():
    data = Simulated()
    first = data.X.indptr[data.parts.test[0]]
    data.X.data[first] = 50.0
    network = quick(data=data).model.network
    low, high = data.X[data.parts.train].min(), data.X[data.parts.train].max()
    assert (float(network.low), float(network.low + network.range)) == pytest.approx((low, high))


def test_fe_starts_as_principal_components():
    data = simulated()
    fitted = quick(Settings("ae", **SMALL, epochs=1, learning_rate=1e-12))
    train = data.X[data.parts.train].toarray().astype(np.float64)
    _, _, components = np.linalg.svd(train - train.mean(0), full_matrices=False)
    expected = (train - train.mean(0)) @ components[:16].T
    found = fitted.model.embed(train, data.batch[data.parts.train])
    expected /= np.sqrt(expected.var(0).mean())
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-3)


def test_fe_loses_the_batch_and_keeps_the_types():
    data = simulated()
    fitted = trained("fe")
    embedding = fitted.model.embed(data.X, data.batch)
    start = quick(Settings("ae", **SMALL, epochs=1, learning_rate=1e-12)).model.embed(data.X, data.batch)
    told = {name: _told(each, data.batch) for name, each in (("fe", embedding), ("pca", start))}
    assert told["pca"] > 0.9
    assert told["fe"] < 0.55
    assert _told(embedding, data.label) > 0.9
    assert fitted.best_epoch > 0.6 * fitted.plan.epochs


def test_labels_align_the_batches_within_each_of_them():
    data = simulated(cells=1500)
    embedding = projected(True).fixed.embed(data.X, data.batch)
    for label in range(4):
        cells = data.label == label
        assert _told(embedding[cells], data.batch[cells]) < 0.55


def test_re_finds_the_batch_and_is_below_the_mean_profile_soon():
    data = simulated()
    fitted = trained("re")
    assert min(fitted.history["validation_reconstruction"][:3]) < 1
    embedding = fitted.model.embed(data.X, data.batch)
    assert _told(embedding, data.batch) > 0.98
    # no effect of the batch where the model is not given it
    unknown = fitted.model.embed(data.X, np.full(len(data.batch), -1))
    assert np.isfinite(unknown).all()
    assert not np.allclose(unknown, embedding)


def _told(embedding: np.ndarray, code: np.ndarray) -> float:
    from unbatch.models.scmedal.probe import balanced_probe

    return balanced_probe(torch.as_tensor(embedding), torch.as_tensor(code), int(code.max()) + 1)


def test_random_effects_are_surer_of_a_batch_of_more_cells():
    rng = np.random.default_rng(0)
    batch = np.repeat([0, 1, 2], [60, 300, 1500])
    X = rng.normal(1.5, 0.4, (len(batch), 60)) + rng.normal(0, 0.3, (3, 60))[batch]
    parts = of_fold(rng.permutation(len(batch)) % 5, 0)
    network = fit(Resident(X.clip(0)), batch, parts, Settings("re", **SMALL)).model.network
    sd = network.coder.decoder[2].effects.sd().chunk(2, 1)[1].median(1).values
    assert sd[0] > 1.3 * sd[1] > 1.3 * 1.3 * sd[2]


def test_divergence_is_that_of_normal_distributions():
    torch.manual_seed(0)
    effects = scmedal.RandomEffects(3, 4)
    expected = kl_divergence(Normal(effects.mean, effects.sd()), Normal(0.0, 0.25)).sum()
    assert float(effects.divergence().detach()) == pytest.approx(float(expected), rel=1e-5)
    drawn = torch.stack([torch.stack(effects.sampled_divergence(effects.sample())).sum() for _ in range(300)])
    assert float(drawn.mean()) == pytest.approx(float(expected), rel=0.1)


def test_a_block_stretches_and_shifts_its_units_by_the_effects_of_the_batch():
    torch.manual_seed(0)
    block = Reden(3, 4, 2, activation=False)
    # four cells, many times over; slopes and intercepts of unlike certainty
    values, batch = torch.randn(4, 3).repeat_interleave(10_000, 0), torch.tensor([0, 0, 1, 1]).repeat_interleave(10_000)
    block.effects.rho.data += torch.linspace(3, 0, 8)
    (slope, intercept), (of_slope, of_intercept) = (
        rows(each.detach(), torch.tensor([0, 0, 1, 1])).chunk(2, 1) for each in (block.effects.mean, block.effects.sd())
    )
    with torch.no_grad():
        drawn = block.train()(values, batch)
        given = block(values, batch, block.effects.mean)[::10_000]
        plain = (values - values.mean(0)) @ block.dense.weight.T
        plain = (plain / (plain.square().mean(0) + 1e-3).sqrt())[::10_000]
    drawn = drawn.reshape(4, 10_000, 4)
    expected, variance = plain + slope * plain + intercept, (plain * of_slope).square() + of_intercept.square()
    torch.testing.assert_close(given, expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(drawn.mean(1), expected, rtol=0, atol=0.03)
    torch.testing.assert_close(drawn.var(1), variance, rtol=0.08, atol=0)


def test_rows_of_a_table_are_products_with_the_one_hot_batch():
    table, batch = torch.randn(3, 5), torch.tensor([2, 0, -1, 1])
    one_hot = torch.nn.functional.one_hot(batch + 1, 4)[:, 1:].float()
    assert torch.equal(rows(table, batch), one_hot @ table)


@cache
def projected(labelled: bool):
    data = simulated(cells=1500)
    label = data.label if labelled else None
    return fit_projection(Resident(data.X), data.batch, data.parts, Settings(**SMALL), label=label)[0]


def _errors(labelled: bool) -> tuple[float, float, float]:
    """Squared error of the counterfactual, and of a shift by batch means; coverage of 90% intervals."""
    data = simulated(cells=1500)
    cells, train = data.parts.test, data.parts.train
    X, batch = data.X[cells], data.batch[cells]
    means = np.stack([np.asarray(data.X[train[data.batch[train] == code]].mean(0)).ravel() for code in range(3)])
    found, plain, covered = [], [], []
    for target in range(3):
        (shown,) = projected(labelled).counterfactual(X, batch, target)
        moved = batch != target
        error = (shown.shift - data.shift(cells, target))[moved]
        found.append(np.mean(error**2))
        plain.append(np.mean(((means[target] - means[batch]) - data.shift(cells, target))[moved] ** 2))
        covered.append(np.mean(np.abs(error) < 1.645 * shown.sd[moved]))
    return np.mean(found), np.mean(plain), np.mean(covered)


def test_counterfactuals_find_the_effect_of_each_type():
    found, plain, covered = _errors(labelled=True)
    assert found < 0.3 * plain
    # few cells: with 1,800 to train on it is 0.92
    assert 0.75 < covered < 0.97


def test_counterfactuals_without_labels_beat_the_batch_mean():
    found, plain, _ = _errors(labelled=False)
    assert found < plain


def test_a_projection_is_standardised_by_its_training_cells_alone():
    data, first = simulated(cells=1500), projected(True)
    train = data.parts.train
    embedding = first.fixed.embed(data.X[train], data.batch[train])
    np.testing.assert_allclose(first.centre.ravel(), embedding.mean(0), atol=1e-5)
    np.testing.assert_allclose(first.spread.ravel(), np.sqrt(embedding.var(0, ddof=1).mean()), rtol=1e-4)


def test_the_variance_of_a_shift_holds_the_misfit_of_both_batches():
    data, first = simulated(cells=1500), projected(True)
    weights = first.weights()
    exact = scmedal.Projection.from_weights(first.config(), weights | {"misfit": np.zeros_like(weights["misfit"])})
    cells = np.flatnonzero(data.batch == 1)[:20]
    (found,), (without,) = (one.counterfactual(data.X[cells], data.batch[cells], 2) for one in (first, exact))
    unit = float(first.network.range) ** 2
    assert weights["misfit"].max() > 0
    expected = np.broadcast_to(2 * weights["misfit"] * unit, found.sd.shape)
    np.testing.assert_allclose(found.sd**2 - without.sd**2, expected, rtol=1e-3, atol=1e-5)


def test_the_own_batch_gives_the_own_reconstruction():
    data = simulated(cells=1500)
    cells = np.flatnonzero(data.batch == 1)[:50]
    X, own = data.X[cells], data.batch[cells]
    (shown,) = projected(True).counterfactual(X, own, 1)
    (expected,) = projected(True).reconstruct(X, own)
    np.testing.assert_allclose(shown.expression, expected, atol=1e-6)
    assert not shown.shift.any()
    assert not shown.sd.any()
    re = trained("re").model
    small = simulated()
    for way in ("published", "decoder"):
        (shown,) = scmedal.shift_of_random_effects(re, small.X[:20], small.batch[:20], 0, way=way, samples=2)
        (expected,) = re.reconstruct(small.X[:20], small.batch[:20])
        np.testing.assert_allclose(shown.expression, expected, atol=1e-6)


@pytest.mark.parametrize("model", MODELS)
def test_a_model_comes_back_from_its_weights(model):
    data = simulated()
    fitted = quick(replace(QUICK, model=model, epochs=1)).model
    again = Model.from_weights(fitted.config(), fitted.weights())
    np.testing.assert_array_equal(again.embed(data.X, data.batch), fitted.embed(data.X, data.batch))


@pytest.mark.parametrize("labelled", [True, False])
def test_a_projection_comes_back_from_its_weights(labelled):
    data, first = simulated(cells=1500), projected(labelled)
    again = scmedal.Projection.from_weights(first.config(), first.weights())
    X, own = data.X[:40], data.batch[:40]
    for mine, other in zip(first.counterfactual(X, own, 2), again.counterfactual(X, own, 2), strict=True):
        for one, two in zip(mine, other, strict=True):
            np.testing.assert_array_equal(one, two)
    with pytest.raises(ValueError, match=r"misfit of the projection: expected shape \(80,\), found missing"):
        scmedal.Projection.from_weights(
            first.config(), {name: value for name, value in first.weights().items() if name != "misfit"}
        )


def test_weights_of_another_model_are_refused():
    fitted = quick(replace(QUICK, epochs=1)).model
    with pytest.raises(ValueError, match="weights do not fit"):
        Model.from_weights(fitted.config() | {"batches": 5}, fitted.weights())


def test_a_batch_can_be_held_out():
    data = simulated()
    parts, batch = without_batch(data.batch, data.split, 1)
    assert set(data.batch[parts.test]) == {1}
    assert set(batch) == {-1, 0, 1}
    fitted = fit(Resident(data.X), batch, parts, replace(QUICK, model="re")).model
    assert np.isfinite(fitted.embed(data.X[parts.test], batch[parts.test])).all()


def test_bad_input_is_refused():
    data = simulated()
    source = Resident(data.X)

    def refused(match, settings=QUICK, batch=data.batch, parts=data.parts, label=None):
        with pytest.raises(ValueError, match=match):
            fit(source, batch, parts, settings, label=label)

    refused("two batches", batch=np.zeros_like(data.batch))
    in_one_fold = Parts(data.parts.train[data.batch[data.parts.train] != 2], data.parts.validation, data.parts.test)
    refused("batch 2 has no cells in the training part", parts=in_one_fold)
    refused("held out", batch=np.where(data.batch == 2, -1, data.batch))
    refused("aec needs labels", replace(QUICK, model="aec"))
    refused("fec needs labels", replace(QUICK, model="fec"), label=np.full(len(data.batch), -1))
    refused("fe needs labels", replace(QUICK, weights={"matching": 1.0}))
    refused("weight kl", replace(QUICK, weights={"kl": 1.0}))
    refused("shared draw", Settings("re", preset="paper", **SMALL, shared_draw=False))
    refused("latent space of 200", replace(QUICK, latent=200))
    refused("code for each", batch=data.batch[:10])
    with pytest.raises(ValueError, match="counterfactual batch 3"):
        next(scmedal.shift_of_random_effects(trained("re").model, data.X, data.batch, 3))
    with pytest.raises(ValueError, match="-1 to 2"):
        trained("re").model.embed(data.X, data.batch + 1)


def test_a_loss_that_is_not_finite_is_named_and_the_last_good_weights_are_kept(monkeypatch):
    usual = model.hsic
    calls = []

    def breaks(*arguments):
        calls.append(1)
        return usual(*arguments) * (float("nan") if len(calls) > 20 else 1.0)

    monkeypatch.setattr(model, "hsic", breaks)
    with pytest.raises(Diverged, match="loss term hsic is nan in epoch") as caught:
        quick(replace(QUICK, epochs=10))
    assert caught.value.term == "hsic"
    assert caught.value.epoch > 1
    assert all(torch.isfinite(value).all() for value in caught.value.network.state_dict().values())


def test_the_schedule_follows_the_size_of_the_data():
    assert schedule(Settings("fe"), 9_400).size == 512
    assert schedule(Settings("fe"), 300_000).size in (2048, 4096)
    small = schedule(Settings("fe"), 500)
    assert small.size == 64
    assert small.epochs * 500 / 64 >= 460
    assert schedule(Settings("fe", preset="paper"), 9_400).epochs == 500
