"""spaVAE: formulas against dense ones, a small tissue whose truth is known, and what is refused."""

import json
import sys

import numpy as np
import pytest
import torch
from scipy import sparse, stats
from sklearn.metrics import adjusted_rand_score

from unbatch import contract, methods
from unbatch.methods.spavae import given as spavae_given
from unbatch.metrics import spatial
from unbatch.models import spavae
from unbatch.models.spavae import PRESETS, Spots, differential, domains, field, positions, spatial_genes
from unbatch.models.spavae.controller import Controller
from unbatch.models.spavae.field import Field, Running
from unbatch.models.spavae.prediction import agreement, predict
from unbatch.models.spavae.start import inputs_of
from unbatch.nn import inducing
from unbatch.nn.kernels import kernel_matrix
from unbatch.nn.negative_binomial import GammaTerms, mean_terms, negative_log_likelihood, residuals
from unbatch.nn.sparse_gp import Moments, Posterior, moments

SETTINGS = PRESETS["recommended"]
SHORT = {"epochs": 2}


# ---------------------------------------------------------------------------------------- formulas, against dense ones


def some_values(spots: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Positions, values and variances of two processes."""
    rng = np.random.default_rng(seed)
    place = torch.as_tensor(rng.random((spots, 2)) * 6)
    return place, torch.as_tensor(rng.standard_normal((spots, 2))), torch.as_tensor(rng.uniform(0.1, 2, (spots, 2)))


@pytest.mark.parametrize(
    ("kind", "formula"),
    [
        ("cauchy", lambda d, s: 1 / (1 + d**2 / s)),
        ("eq", lambda d, s: np.exp(-(d**2) / s)),
        ("matern", lambda d, s: (1 + np.sqrt(3 / s) * d) * np.exp(-np.sqrt(3 / s) * d)),
    ],
)
def test_kernels_are_functions_of_squared_distances(kind, formula):
    first, second = (some_values(9, seed)[0] for seed in (1, 2))
    distance = np.linalg.norm(first.numpy()[:, None] - second.numpy(), axis=2)
    np.testing.assert_allclose(kernel_matrix(kind, first, second, 3.0), formula(distance, 3.0), atol=1e-7)


def test_the_divergence_is_the_published_cross_entropy_less_the_published_bound():
    """By explicit inverses, on a minibatch of 15 of 40 spots."""
    place, value, variance = some_values(40)
    points = place[::5]
    b, n = 15, 40
    K = kernel_matrix("cauchy", points, points, 2.0) + inducing.JITTER * torch.eye(8)
    Kb = kernel_matrix("cauchy", points, place[:b], 2.0)
    Ki, total = torch.linalg.inv(K), 0.0
    features = inducing.whitened(points, place[:b], "cauchy", 2.0)
    found = Posterior.of(moments(features, value[:b], variance[:b], n / b))
    for process in range(2):
        w, v, c = value[:b, process], variance[:b, process], n / b
        sigma = torch.linalg.inv(K + c * Kb / v @ Kb.T)
        m = c * Kb.T @ sigma @ (Kb / v) @ w
        B = 1 - (Kb * (Ki @ Kb)).sum(0) + (Kb * (sigma @ Kb)).sum(0)
        mu, A = c * K @ sigma @ (Kb / v) @ w, K @ sigma @ K
        kt = 1 - (Kb * (Ki @ Kb)).sum(0)
        trace = torch.stack([torch.trace(A @ torch.outer(Ki @ k, Ki @ k)) for k in Kb.T])
        kl = 0.5 * (torch.trace(Ki @ A) + mu @ Ki @ mu - 8 + torch.logdet(K) - torch.logdet(A))
        logs = torch.log(2 * torch.pi * v)
        bound = -0.5 * ((kt + trace) / v + logs + (w - Kb.T @ Ki @ mu) ** 2 / v).sum() - b / n * kl
        cross = -0.5 * (logs + (B + (m - w) ** 2) / v).sum()
        total += cross - bound
        np.testing.assert_allclose(found.mean(features)[:, process], m, atol=1e-8)
        np.testing.assert_allclose(found.variance(features)[:, process], B, atol=1e-8)
    np.testing.assert_allclose(b / n * found.divergence(), total, rtol=1e-7)


def test_with_all_spots_as_inducing_points_the_posterior_is_that_of_the_dense_process():
    place, value, variance = some_values(30)
    K = kernel_matrix("cauchy", place, place, 2.0)
    features = inducing.whitened(place, place, "cauchy", 2.0)
    found = Posterior.of(moments(features, value, variance))
    for process in range(2):
        gain = K @ torch.linalg.inv(K + torch.diag(variance[:, process]))
        np.testing.assert_allclose(found.mean(features)[:, process], gain @ value[:, process], atol=1e-4)
        np.testing.assert_allclose(found.variance(features)[:, process], torch.diagonal(K - gain @ K), atol=1e-4)
    np.testing.assert_allclose(found.divergence(), _dense_divergence(K, value, variance), rtol=1e-3)


def _dense_divergence(K: torch.Tensor, value: torch.Tensor, variance: torch.Tensor) -> float:
    """Divergence of the n x n posterior from its prior: log q~(w | f) in the mean, less the log evidence."""
    total = 0.0
    for w, v in zip(value.T, variance.T, strict=True):
        gain = K @ torch.linalg.inv(K + torch.diag(v))
        m, B = gain @ w, torch.diagonal(K - gain @ K)
        expected = -0.5 * (torch.log(2 * torch.pi * v) + (B + (w - m) ** 2) / v).sum()
        evidence = torch.distributions.MultivariateNormal(torch.zeros(len(w)).double(), K + torch.diag(v)).log_prob(w)
        total += float(expected - evidence)
    return total


def test_pivoted_cholesky_leaves_the_conditional_variances_and_stops_where_it_was_told():
    place, *_ = some_values(200)
    found = inducing.greedy(place, "cauchy", 1.0, 0.05, 100)
    K, cross = (kernel_matrix("cauchy", a, place, 1.0) for a in (place, found.points))
    inner = kernel_matrix("cauchy", found.points, found.points, 1.0)
    left = torch.diagonal(K - cross.T @ torch.linalg.solve(inner, cross))
    np.testing.assert_allclose((found.residual, found.largest), (left.mean(), left.max()), atol=1e-6)
    assert found.residual <= 0.05
    fewer = inducing.greedy(place, "cauchy", 1.0, 0.05, len(found.points) - 1)
    assert fewer.residual > 0.05
    assert inducing.greedy(place, "cauchy", 1.0, 0.05, 10).residual < inducing.centres(place, "cauchy", 1.0, 6).residual
    assert len(inducing.grid(place, "cauchy", 1.0, 6).points) == 49


def test_the_likelihood_is_that_of_scipy_and_so_is_its_gradient():
    rng = np.random.default_rng(0)
    counts = rng.poisson(2.0, (20, 5)).astype(np.float32)
    rate = torch.tensor(rng.normal(0, 1, (20, 5)), requires_grad=True)
    size, theta = torch.tensor(rng.normal(0, 0.3, (20, 1))), torch.tensor(rng.normal(0, 1, 5), requires_grad=True)
    mean, spread = np.exp((rate + size).detach().numpy()), np.exp(theta.detach().numpy())
    expected = -stats.nbinom.logpmf(counts, spread, spread / (spread + mean))
    seen = torch.as_tensor(counts)
    np.testing.assert_allclose(negative_log_likelihood(rate, size, seen, theta).detach(), expected, rtol=1e-6)
    gammas = GammaTerms(sparse.csr_matrix(counts), np.zeros(20, np.int64), 1)
    total = mean_terms(rate, size, seen.double(), theta) + 20 * gammas(theta[None].float())
    np.testing.assert_allclose(total.item(), expected.sum(), rtol=1e-5)
    own = torch.autograd.grad(mean_terms(rate, size, seen.double(), theta) + 20 * gammas(theta[None]), (rate, theta))
    plain = torch.autograd.grad(negative_log_likelihood(rate, size, seen.double(), theta).sum(), (rate, theta))
    for a, b in zip(own, plain, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_sections_are_fields_of_their_own_and_one_section_is_the_same_path():
    place, value, variance = some_values(60)
    section = torch.as_tensor(np.random.default_rng(1).integers(0, 2, 60))
    parts = [place[section == code] for code in (0, 1)]
    points = [parts[0][:7], parts[1][:4]]
    both = Field(points, "cauchy", 2.0, trained=False)
    count = torch.bincount(section)
    posterior = Posterior.of(both.moments(both.features(place, section), value, variance, section, count))
    mean, spread = both.values(posterior, both.features(place, section), section)
    divergence = 0.0
    for code in (0, 1):
        rows = section == code
        one = Field([points[code]], "cauchy", 2.0, trained=False)
        none = torch.zeros(int(rows.sum()), dtype=torch.int64)
        features = one.features(place[rows], none)
        own = Posterior.of(one.moments(features, value[rows], variance[rows], none, torch.bincount(none)))
        for a, b in zip(one.values(own, features, none), (mean[rows], spread[rows]), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-9)
        divergence += float(own.divergence())
    np.testing.assert_allclose(float(posterior.divergence()), divergence)


def test_running_moments_have_the_value_of_the_average_and_the_gradient_of_the_minibatch():
    value = torch.ones(2, 1, 3, dtype=torch.float64, requires_grad=True)
    running = Running(0.25)

    def step(factor: float, section: list[int]) -> torch.Tensor:
        new = Moments(torch.zeros(2, 1, 3, 3, dtype=torch.float64), value * factor)
        return running(new, torch.tensor(section)).weighted

    np.testing.assert_array_equal(step(8.0, [0]).detach()[0], 8)
    second = step(4.0, [0, 1])
    np.testing.assert_array_equal(second.detach()[:, 0, 0], [7, 4])  # the second section is seen for the first time
    np.testing.assert_array_equal(torch.autograd.grad(second.sum(), value)[0], 4)
    np.testing.assert_array_equal(step(0.0, [0]).detach()[:, 0, 0], [5.25, 4])


def test_a_controller_that_is_clipped_does_not_wind_up():
    clipped, published = Controller(0.25), Controller(0.25, clipped=False)
    for _ in range(3000):
        high = clipped(3.0), published(3.0)
    assert high == (25.0, 25.0)
    for _ in range(200):
        after = clipped(0.1), published(0.1)
    assert after[0] < 24.9
    assert after[1] == 25.0
    # latent values that are about to be given up are worth less than the published bound
    for _ in range(300):
        low = clipped(0.01), published(0.01)
    assert low[0] == pytest.approx(1)
    assert low[1] >= 4


def test_a_scale_that_nobody_asked_for_suits_the_tissue_and_needs_few_inducing_points(monkeypatch):
    row, column = np.divmod(np.arange(900), 30)
    place, none = np.stack([row, column], 1).astype(float), np.zeros(900, np.int64)
    small = field.choose(place, none, SETTINGS, None, 0)
    assert small.scale == pytest.approx(900 / field.SPOTS_OF_SCALE)
    monkeypatch.setattr(field, "FEW", 12)
    fewer = field.choose(place, none, SETTINGS, None, 0)
    assert len(fewer.points[0]) <= 12 < len(small.points[0])
    assert fewer.scale > small.scale
    assert fewer.residual[0] <= SETTINGS.tolerance
    # one that was asked for stays
    asked = field.choose(place, none, SETTINGS, small.scale, 0)
    assert (asked.scale, len(asked.points[0])) == (small.scale, len(small.points[0]))


def test_tails_of_sums_of_chi_squares_are_right_where_they_can_be_known():
    spots, values = 5000, np.array([3.0, 3.0])
    level = np.array([0.1, 6.0, 40.0, 150.0])
    # the ratio for two equal weights is a beta variable
    exact = stats.beta.sf(level / (3 * spots), 1, (spots - 3) / 2)
    np.testing.assert_allclose(spatial_genes.upper_tail(level, values, spots), exact, rtol=0.09)
    many = np.linspace(0.1, 2, 200)
    middle = spatial_genes.upper_tail(np.array([many.sum() + 1e-9, 1.5 * many.sum()]), many, spots)
    drawn = (np.random.default_rng(0).standard_normal((20_000, 200)) ** 2) @ many
    assert middle[0] == pytest.approx((drawn > many.sum()).mean(), abs=0.01)
    np.testing.assert_allclose(spatial_genes.combined(np.array([[0.01, 1e-200], [0.01, 1e-200]])), [0.01, 1e-200])


@pytest.mark.parametrize("factor", [1.0, 137.0])
def test_the_unit_is_the_pitch_of_the_spots_in_indices_and_in_pixels(factor):
    row, column = np.divmod(np.arange(300), 20)
    indices = np.stack([row, 2 * column + row % 2], 1).astype(float)
    pixels = np.stack([row * np.sqrt(3) / 2, column + row % 2 / 2], 1) * factor
    none = np.zeros(300, np.int64)
    for points in (indices, pixels):
        place = points * positions.units(points, none)[none]
        assert spatial.pitch(place, none) == pytest.approx(1)
        edges = np.linalg.norm(place[:, None] - place, axis=2)
        assert ((edges > 0.99) & (edges < 1.01)).sum(1).max() == 6
    square = np.stack([row, column], 1) * 2.0
    assert not positions.is_hexagonal(square)
    np.testing.assert_allclose(np.ptp(square * positions.units(square, none, 20.0)[none], axis=0), 20)


# ----------------------------------------------------------------------------------------------------- a small tissue


def tissue(seed: int = 0, side: int = 22, genes: int = 60, sections: int = 1) -> dict[str, np.ndarray]:
    """Four layers of a square section, a third of the genes higher in one of them, and types of cells in no order."""
    rng = np.random.default_rng(seed)
    row, column = np.divmod(np.arange(side * side), side)
    layer = np.tile((4 * (row + 2 * np.sin(column / 4)).clip(0, side - 1) / side).astype(int), sections)
    points = np.tile(np.stack([row, column], 1).astype(float), (sections, 1)) * 100
    section = np.repeat(np.arange(sections), side * side)
    logs = np.tile(rng.normal(0.5, 0.7, genes), (len(layer), 1))
    marker = np.arange(genes) % 12
    for code in range(4):
        logs[np.ix_(layer == code, marker == code)] += 1.0
    logs[:, marker == 5] += rng.normal(0, 0.7, (len(layer), 1))
    logs[:, marker == 6] += 0.5 * section[:, None]
    mean = np.exp(logs) * rng.gamma(8, 1 / 8, (len(layer), 1))
    counts = rng.poisson(mean * rng.gamma(5, 1 / 5, mean.shape)).astype(np.float32)
    return {"counts": counts, "points": points, "layer": layer, "section": section, "marker": marker}


def spots_of(given: dict[str, np.ndarray]) -> Spots:
    return Spots.of(sparse.csr_matrix(given["counts"]), given["points"], given["section"])


@pytest.fixture(scope="module")
def small() -> dict[str, np.ndarray]:
    return tissue()


@pytest.fixture(scope="module")
def fitted(small: dict[str, np.ndarray]) -> spavae.Fitted:
    """Fitted to nine tenths of the spots."""
    return spavae.fit(spots_of(small), SETTINGS, train_on=training(small), seed=0)


def training(given: dict[str, np.ndarray]) -> np.ndarray:
    return np.setdiff1d(np.arange(len(given["layer"])), np.arange(0, len(given["layer"]), 10))


def test_domains_are_the_layers_and_clusterers_agree_with_sklearn(small, fitted):
    latent = fitted.model.embed(spots_of(small))
    found = domains.by_mixture(latent.mean, 4)
    assert adjusted_rand_score(found.labels, small["layer"]) > 0.8
    assert adjusted_rand_score(domains.by_kmeans(latent.embedding, 4), small["layer"]) > 0.6
    place = small["points"] * fitted.model.units[0]
    refined = domains.refined(found.labels, place, small["section"])
    near = spatial.nearest(place, 6)
    assert (refined[near] == refined[:, None]).mean() >= (found.labels[near] == found.labels[:, None]).mean()
    from sklearn.mixture import GaussianMixture

    other = GaussianMixture(4, covariance_type="tied", n_init=10, random_state=0, tol=1e-6, max_iter=500)
    assert found.log_likelihood > other.fit(latent.mean).score(latent.mean) - 0.01


def test_held_out_spots_are_predicted_better_than_by_gene_means(small, fitted):
    train = training(small)
    held = np.setdiff1d(np.arange(len(small["layer"])), train)
    found = predict(fitted.model, small["points"][held], small["section"][held])
    size = small["counts"].sum(1) / np.median(small["counts"][train].sum(1))
    rates = np.concatenate(list(fitted.model.rates(found.latent.embedding, small["section"][held])))
    mean = small["counts"][train].sum(0) / size[train].sum()
    own, correlation = agreement(rates, small["counts"][held], size[held])
    assert own < agreement(np.broadcast_to(mean, rates.shape), small["counts"][held], size[held])[0] - 0.5
    assert correlation > 0.1
    np.testing.assert_allclose(found.distance, 1)
    # far from all spots nothing is known but the prior
    away = predict(fitted.model, np.array([[1e7, 1e7]]), np.zeros(1, np.int64))
    np.testing.assert_allclose(away.latent.variance, 1, atol=1e-3)
    assert away.distance[0] > 1e4


def test_the_posterior_is_that_of_all_spots_in_any_order(small, fitted, monkeypatch):
    spots, train = spots_of(small), training(small)
    order = np.random.default_rng(0).permutation(train)
    again = {name: small[name][order] for name in ("counts", "points", "section")}
    monkeypatch.setattr("unbatch.models.spavae.objective.BLOCK", 37)
    found, _ = fitted.model.exact(spots_of(again), np.arange(len(order)))
    for name in ("precision", "weighted"):
        np.testing.assert_allclose(getattr(found, name), getattr(fitted.model.moments, name), rtol=1e-4, atol=1e-3)
    # and that of the dense process given what the encoder says of all of them, but for the inducing points
    mean, _ = fitted.model.at(spots.points, spots.section)
    network = fitted.model.network
    with torch.no_grad():
        value, variance = (x[:, 0].double() for x in network.encode(network.inputs(torch.as_tensor(again["counts"]))))
    place = torch.as_tensor(again["points"] * fitted.model.units[0])
    K = kernel_matrix("cauchy", place, place, float(network.field.scale[0]))
    dense = K @ torch.linalg.solve(K + torch.diag(variance), value)
    assert np.corrcoef(mean[order, 0], dense)[0, 1] > 0.999


def test_the_same_seed_gives_the_same_fit_and_another_one_does_not(small):
    found = [
        spavae.fit(spots_of(small), SETTINGS.but(**SHORT), seed=seed).model.embed(spots_of(small)) for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(found[0].embedding, found[1].embedding)
    assert np.abs(found[0].embedding - found[2].embedding).max() > 1e-4


@pytest.mark.parametrize(
    "changes",
    [
        {"inputs": "genes"},
        {"inputs": "genes", "encoder": "convolutional"},
        {"inducing": "grid"},
        {"inducing": "kmeans", "points": 20},
        {"kernel": "matern"},
        {"kernel": "eq", "learns_scale": True},
        {"dispersion": "batch"},
        {"beta": 3.0, "noise": 0.5},
        {"gaussian": 0},
        {"validation": 0.1, "smoothing": 1.0},
    ],
    ids=lambda changes: ",".join(map(str, changes.values())),
)
def test_every_option_fits_two_sections_and_its_model_comes_back_from_its_arrays(changes):
    given = tissue(side=10, sections=2)
    spots = spots_of(given)
    found = spavae.fit(spots, SETTINGS.but(**SHORT, **changes))
    terms = found.history
    assert terms["counts"][-1] < terms["counts"][0]
    assert ("noise" in terms) == ("noise" in changes)
    assert (np.ptp(terms["beta"]) == 0) == ("beta" in changes)
    assert len(found.held) == round(200 * changes.get("validation", 0))
    latent = found.model.embed(spots)
    again = spavae.model_of(json.loads(json.dumps(spavae.config(found.model))), spavae.weights(found.model))
    np.testing.assert_allclose(again.embed(spots).embedding, latent.embedding, atol=1e-6)
    scale = found.model.network.field.scale
    assert (float((scale - found.chosen.scale).detach().abs().max()) > 1e-6) == ("learns_scale" in changes)


@pytest.mark.parametrize(
    "damage",
    [
        lambda config, _: config["settings"].update(kernel="linear"),
        lambda _, weights: weights.update({"network.field.inducing": weights["network.field.inducing"][0]}),
        lambda _, weights: weights.pop("network.inputs.mean"),
    ],
    ids=["kernel", "no sections", "no mean"],
)
def test_a_damaged_model_is_refused(fitted, damage):
    config, weights = json.loads(json.dumps(spavae.config(fitted.model))), spavae.weights(fitted.model)
    damage(config, weights)
    with pytest.raises(ValueError, match=r"kernel is|IndexError|KeyError"):
        spavae.model_of(config, weights)


@pytest.mark.parametrize(("axes", "steps"), [(2, 7), (3, 3)])
def test_a_grid_has_the_number_of_points_that_was_asked_for(axes, steps):
    params = methods.load("spavae").params
    asked = contract.checked("spavae", params, {"inducing": "grid", "inducing_points": 64})
    settings = spavae_given.settings(asked, axes)
    assert settings.grid_steps == steps
    place = torch.rand(50, axes, dtype=torch.float64)
    assert len(inducing.grid(place, "cauchy", 1.0, settings.grid_steps).points) == 64


@pytest.mark.parametrize("kind", ["genes", "pcs"])
def test_moments_of_genes_are_those_of_logarithms(small, kind):
    spots = spots_of(small)
    found = inputs_of(spots.source, np.arange(len(spots)), SETTINGS.but(inputs=kind), 200.0, 0)
    values = np.log1p(small["counts"] / (small["counts"].sum(1, keepdims=True) / 200))
    np.testing.assert_allclose(found.mean, values.mean(0), rtol=1e-4)
    np.testing.assert_allclose(found.spread, values.std(0, ddof=1), rtol=1e-4)


def test_the_paper_is_a_preset_that_trains_and_scores_epochs_without_beta(small):
    settings = PRESETS["paper"].but(epochs=3)
    losses = [spavae.fit(spots_of(small), settings.but(beta=beta), seed=0) for beta in (1e-6, 20.0)]
    assert len(losses[0].chosen.points[0]) == 49
    assert losses[0].plan.size == 128
    # with hardly any weight on the divergences they grow, and the score, in which their weight is 1, says so
    first, second = (fit.history for fit in losses)
    assert first["gaussian"][-1] > second["gaussian"][-1]
    assert first["validation_bound"][-1] > 0
    assert len(losses[0].held) == round(0.05 * len(small["layer"]))


def test_a_new_section_has_a_field_of_its_own_given_by_its_own_spots(small, fitted):
    other = tissue(seed=1, side=14)
    section = np.ones(len(other["layer"]), np.int64)
    more = Spots.of(other["counts"], other["points"], section, np.full(len(section), -1))
    model = spavae.with_sections(fitted.model, more)
    before, after = (each.embed(spots_of(small)).embedding for each in (fitted.model, model))
    np.testing.assert_allclose(after, before, atol=1e-5)
    labels = domains.by_mixture(model.embed(more).mean, 4).labels
    assert adjusted_rand_score(labels, other["layer"]) > 0.5


def test_markers_of_a_layer_are_differentially_expressed_and_types_without_order_are_not(small, fitted):
    latent = fitted.model.embed(spots_of(small))
    none = np.zeros(len(small["layer"]), np.int64)
    groups = np.flatnonzero(small["layer"] == 0), np.flatnonzero(small["layer"] == 2)
    means = differential.mean_rates(spots_of(small), groups)
    size = small["counts"].sum(1) / np.median(small["counts"].sum(1))
    np.testing.assert_allclose(means[1], (small["counts"] / size[:, None])[groups[1]].mean(0), rtol=1e-5)
    found = differential.compare(fitted.model, latent, none, means, groups, draws=500)
    up, down, other = (found.change[np.isin(small["marker"], codes)] for codes in ([0], [2], [4, 7, 8, 9, 10, 11]))
    assert up.min() > 0.5
    assert down.max() < -0.5
    assert np.abs(other).max() < 0.4
    sure = found.bayes_factor > 1
    assert sure[np.isin(small["marker"], [0, 2])].mean() >= 0.8
    assert not sure[small["marker"] > 6].any()
    halves = np.flatnonzero(small["layer"] == 0)[::2], np.flatnonzero(small["layer"] == 0)[1::2]
    same = differential.compare(fitted.model, latent, none, means, halves, draws=500)
    assert (same.bayes_factor < 1).all()
    assert np.abs(same.change).max() < 0.2
    with pytest.raises(ValueError, match="expected one or more in each"):
        differential.compare(fitted.model, latent, none, means, (halves[0], np.array([], int)))


def test_patterns_are_found_and_the_p_values_of_genes_without_one_are_uniform(small, monkeypatch):
    rng = np.random.default_rng(3)
    spots, genes = len(small["layer"]), 300
    size = rng.gamma(8, 1 / 8, (spots, 1))
    logs = np.tile(rng.normal(0, 1, genes), (spots, 1))
    logs[:, :20] += 0.9 * (small["layer"] == 1)[:, None]
    counts = rng.poisson(size * np.exp(logs) * rng.gamma(3, 1 / 3, logs.shape)).astype(np.float32)
    place = small["points"] / 100
    found = spatial_genes.spatial_genes(sparse.csr_matrix(counts), place, small["section"], small["section"])
    assert (found.q_value[:20] < 0.05).mean() > 0.5
    assert (found.q_value[20:] < 0.05).mean() < 0.02
    for p_values in (found.p_value[20:], found.moran_p_value[20:]):
        assert stats.kstest(p_values, "uniform").pvalue > 0.01
    assert found.moran[:20].mean() > found.moran[20:].mean() + 0.02
    # blocks of genes change nothing, and their residuals are made once in each of the two rounds
    made = []
    monkeypatch.setattr(spatial_genes, "GENES", 150)
    monkeypatch.setattr(spatial_genes, "residuals", lambda *given: made.append(1) or residuals(*given))
    blocks = spatial_genes.spatial_genes(sparse.csr_matrix(counts), place, small["section"], small["section"])
    np.testing.assert_allclose(blocks.p_value, found.p_value, rtol=1e-9)
    assert len(made) == 4
    # positions at random have no pattern
    shuffled = place[rng.permutation(spots)]
    none = spatial_genes.spatial_genes(counts, shuffled, small["section"], small["section"])
    assert (none.q_value > 0.05).all()


# ------------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: x | {"counts": x["counts"] + 0.5}, "not whole numbers"),
        (lambda x: x | {"counts": np.where(x["counts"] > 8, -1, x["counts"])}, "first is -1"),
        (
            lambda x: x | {"counts": np.where(np.arange(100)[:, None] == 3, 0, x["counts"])},
            "1 of 100 spots have no count",
        ),
        (lambda x: x | {"points": x["points"] // 200}, "at the position of another spot"),
        (lambda x: x | {"points": np.where(x["points"] == 0, np.nan, x["points"])}, "19 of 100 spots have no position"),
        (lambda x: x | {"points": x["points"][:, :1]}, "expected 2 or 3 columns"),
        (lambda x: x | {"section": (np.arange(100) >= 90).astype(int)}, "section 1 has 10 spots"),
        (lambda x: x | {"section": np.arange(100)}, "section 0 has 1 spots"),
    ],
)
def test_data_that_no_field_can_be_fitted_to_are_refused_with_a_sentence(change, said):
    given = change(tissue(side=10))
    with pytest.raises(ValueError, match=said):
        spavae.fit(spots_of(given), SETTINGS)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"encoder": "convolutional", "inputs": "pcs"}, "needs inputs genes"),
        ({"preset": "paper", "scale": 3.0}, "expected scale null"),
        ({"between": "a,b"}, "names groups of differential"),
        ({"differential": "nothing"}, "no column 'nothing'"),
        ({"differential": "label", "between": "A,C"}, "expected two of"),
        ({"differential": "domains", "between": "1"}, "expected two of"),
        ({"differential": "domains", "between": "1,3", "domains": 3}, "expected two of 0, 1, 2"),
        ({"fold": 9}, "no fold 9"),
        ({"predict_at": "absent.csv"}, "no such file"),
        ({"predict_at": sys.executable}, "not UTF-8"),
        ({"maps": "nothing"}, "maps names nothing"),
        ({"linear_share": True}, "adds to spatial_genes"),
    ],
)
def test_questions_that_have_no_answer_are_refused_before_anything_is_fitted(given, said, dataset_path, monkeypatch):
    from unbatch.data.cells import read_cells

    monkeypatch.setattr(spavae, "fit", lambda *_args, **_more: pytest.fail("was fitted"))
    method = methods.load("spavae")
    with pytest.raises(Exception, match=said):
        method.fit(read_cells(dataset_path), contract.checked("spavae", method.params, given))
