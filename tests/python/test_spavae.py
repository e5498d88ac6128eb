"""spaVAE: formulas against dense ones, a small tissue whose truth is known, and the program."""

import json
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from scipy import sparse, stats
from sklearn.metrics import adjusted_rand_score

from unbatch import contract, methods
from unbatch.cli import fit_spavae, preprocess
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
    # of two equal weights the ratio is a beta variable
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
    found = differential.compare(fitted.model, latent, none, small["counts"], groups, draws=500)
    up, down, other = (found.change[np.isin(small["marker"], codes)] for codes in ([0], [2], [4, 7, 8, 9, 10, 11]))
    assert up.min() > 0.5
    assert down.max() < -0.5
    assert np.abs(other).max() < 0.4
    sure = found.bayes_factor > 1
    assert sure[np.isin(small["marker"], [0, 2])].mean() >= 0.8
    assert not sure[small["marker"] > 6].any()
    halves = np.flatnonzero(small["layer"] == 0)[::2], np.flatnonzero(small["layer"] == 0)[1::2]
    same = differential.compare(fitted.model, latent, none, small["counts"], halves, draws=500)
    assert (same.bayes_factor < 1).all()
    assert np.abs(same.change).max() < 0.2
    with pytest.raises(ValueError, match="expected one or more in each"):
        differential.compare(fitted.model, latent, none, small["counts"], (halves[0], np.array([], int)))


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
    ],
)
def test_questions_that_have_no_answer_are_refused_before_anything_is_fitted(given, said, dataset_path, monkeypatch):
    from unbatch.data.cells import read_cells

    monkeypatch.setattr(spavae, "fit", lambda *_args, **_more: pytest.fail("was fitted"))
    method = methods.load("spavae")
    with pytest.raises(Exception, match=said):
        method.fit(read_cells(dataset_path), contract.checked("spavae", method.params, given))


# ---------------------------------------------------------------------------------------------------------- the program


@pytest.fixture(scope="module")
def section_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sections after preprocess, with layers as labels."""
    folder = tmp_path_factory.mktemp("spavae")
    given = tissue(side=16, sections=2)
    adata = ad.AnnData(sparse.csr_matrix(given["counts"]))
    adata.obs["sample"] = np.array(["one", "two"])[given["section"]]
    adata.obs["layer"] = np.array(list("ABCD"))[given["layer"]]
    adata.obsm["spatial"] = given["points"]
    adata.obs_names = [f"spot{i}" for i in range(adata.n_obs)]
    adata.var_names = [f"gene{i}" for i in range(adata.n_vars)]
    adata.write_h5ad(folder / "raw.h5ad")
    out = folder / "dataset.h5ad"
    result = CliRunner().invoke(preprocess.main, [str(folder / "raw.h5ad"), "--label-key", "layer", "-o", str(out)])
    assert result.exit_code == 0, result.output
    return out


def run(dataset: Path, output: Path, *options: str) -> Result:
    return CliRunner().invoke(fit_spavae.main, [str(dataset), "-o", str(output), "--threads", "1", *options])


def test_the_program_answers_everything_and_its_model_gives_the_fit_again(section_path: Path, tmp_path: Path):
    new = tmp_path / "new.csv"
    new.write_text("section,x,y\none,150,150\ntwo,750,50\ntwo,90000,0\n")
    asked = ["--denoised", "--spatial-genes", "--differential", "label", "--predict-at", str(new)]
    model = tmp_path / "model"
    result = run(section_path, tmp_path / "fit.h5ad", *asked, "--fold", "1", "--model", str(model))
    assert result.exit_code == 0, result.output
    assert "1 of 3 positions are outside the tissue" in result.stderr
    dataset, fit = ad.read_h5ad(section_path), ad.read_h5ad(tmp_path / "fit.h5ad")
    about = fit.uns["unbatch"]
    np.testing.assert_allclose(
        fit.obsm["X_spavae"], np.c_[fit.obsm["X_spavae_gp"], fit.obsm["X_spavae_gaussian"]], atol=1e-6
    )
    assert fit.layers["denoised"].shape == fit.shape
    assert (about["part"] == "held out").sum() == (dataset.obs["split"] == 1).sum()
    held = dict(zip(about["held_out"]["models"], about["held_out"]["nb_per_spot"], strict=True))
    assert held["spavae"] < held["means"]
    assert list(about["inducing"]["sections"]) == ["one", "two"]
    assert (about["inducing"]["residual"] <= SETTINGS.tolerance).all()
    predicted = about["predicted"]
    assert predicted["distance"][2] > 100 > predicted["distance"][0]
    assert predicted["variance"][2].min() > 3 * predicted["variance"][0].max()
    assert predicted["expression"].shape == (3, fit.n_vars)
    # markers of a layer are spatial genes, and differ
    order = [int(name.removeprefix("gene")) % 12 for name in fit.var_names]
    marked = np.isin(order, range(4))
    assert about["spatial_genes"]["q_value"][marked].max() < 0.05
    change = dict(zip(about["differential"]["groups"], about["differential"]["change"], strict=True))
    assert change["A"][np.array(order) == 0].min() > 0.3
    assert float(about["params"]["scale"]) == pytest.approx(about["inducing"]["scale"][0])
    labels = dataset.obs["label"].cat.codes
    assert adjusted_rand_score(about["domains"]["mixture"], labels) > 0.4

    result = run(section_path, tmp_path / "again.h5ad", "--apply", str(model))
    assert result.exit_code == 0, result.output
    again = ad.read_h5ad(tmp_path / "again.h5ad")
    train = about["part"] == "train"
    np.testing.assert_allclose(again.obsm["X_spavae"][train], fit.obsm["X_spavae"][train], atol=1e-4)
    np.testing.assert_allclose(again.obsm["X_spavae_variance"], fit.obsm["X_spavae_variance"], atol=1e-5)

    # cells of a section and a batch that the model has not seen
    other = dataset[dataset.obs["batch"] == "two"].copy()
    other.obs["batch"] = other.obs["batch"].cat.rename_categories({"two": "three"}).cat.remove_unused_categories()
    other.obs["section"] = other.obs["batch"]
    other.write_h5ad(tmp_path / "other.h5ad")
    result = run(tmp_path / "other.h5ad", tmp_path / "third.h5ad", "--apply", str(model), "--domains", "4")
    assert result.exit_code == 0, result.output
    third = ad.read_h5ad(tmp_path / "third.h5ad")
    found = third.uns["unbatch"]["domains"]
    assert int(found["number"]) == 4
    assert np.corrcoef(third.obsm["X_spavae_gp"][:, 0], fit[other.obs_names].obsm["X_spavae_gp"][:, 0])[0, 1] > 0.9


@pytest.fixture(scope="module")
def model_path(section_path: Path) -> Path:
    """A model of both sections, fitted for two epochs."""
    folder = section_path.parent / "short"
    result = run(section_path, section_path.parent / "short.h5ad", "--max-epochs", "2", "--model", str(folder))
    assert result.exit_code == 0, result.output
    return folder


def part_of(dataset: Path, output: Path, rows: np.ndarray, **renamed: str) -> Path:
    """Write some cells of a dataset, with other names of batches."""
    adata = ad.read_h5ad(dataset)[rows].copy()
    adata.obs["batch"] = adata.obs["batch"].astype(str).replace(renamed).astype("category")
    adata.obs["section"] = adata.obs["section"].cat.remove_unused_categories()
    adata.write_h5ad(output)
    return output


def test_known_batches_of_fewer_cells_are_predicted_as_themselves(section_path, model_path, tmp_path):
    new = tmp_path / "new.csv"
    new.write_text("section,x,y\ntwo,750,50\ntwo,150,850\n")
    both = np.arange(512)
    found = {}
    for name, rows in (("all", both), ("one", both[:256]), ("two", both[256:])):
        dataset = part_of(section_path, tmp_path / f"{name}.h5ad", rows)
        result = run(dataset, tmp_path / "fit.h5ad", "--apply", str(model_path), "--predict-at", str(new))
        assert result.exit_code == 0, result.output
        found[name] = ad.read_h5ad(tmp_path / "fit.h5ad").uns["unbatch"]["predicted"]["expression"]
    np.testing.assert_allclose(found["two"], found["all"], rtol=1e-5)
    # no cell tells the batch of section two: it is the average one
    assert np.abs(found["one"] / found["all"] - 1).max() > 1e-3


def test_batches_that_the_fit_has_not_seen_are_compared_as_the_average_one(section_path, model_path, tmp_path):
    dataset = part_of(section_path, tmp_path / "new.h5ad", np.arange(512), one="new", two="other")
    options = ["--apply", str(model_path), "--differential", "label", "--between", "A,C"]
    result = run(dataset, tmp_path / "fit.h5ad", *options)
    assert result.exit_code == 0, result.output
    assert np.isfinite(ad.read_h5ad(tmp_path / "fit.h5ad").uns["unbatch"]["differential"]["change"]).all()


def test_spots_of_unseen_batches_are_drawn_as_often_as_others():
    batch = np.repeat([-1, 0], 30)
    groups = np.arange(0, 60, 2), np.arange(1, 60, 2)
    pairs, told = differential._pairs(groups, batch, 2000, np.random.default_rng(0))
    assert (told == -1).mean() == pytest.approx(0.5, abs=0.05)
    for rows in pairs:
        np.testing.assert_array_equal(batch[rows], told)


def test_domains_of_one_section_count_its_own_values_alone(section_path, model_path, tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(domains, "number_of", lambda _values, independent, _seed: found.append(independent) or 2)
    for rows in (np.arange(256), np.arange(256, 512), np.arange(512)):
        dataset = part_of(section_path, tmp_path / "part.h5ad", rows)
        assert run(dataset, tmp_path / "fit.h5ad", "--apply", str(model_path)).exit_code == 0
    assert found[0] + found[1] == pytest.approx(found[2])
    assert min(found) > 1


def test_genes_of_few_cells_are_tested_in_the_pitches_of_the_model(section_path, model_path, tmp_path, monkeypatch):
    places, test = [], spatial_genes.spatial_genes
    monkeypatch.setattr(spatial_genes, "spatial_genes", lambda *given: places.append(given[1]) or test(*given))
    every, options = np.arange(512), ["--apply", str(model_path), "--spatial-genes"]
    # a sparse sample of one section, and a cell of the other
    for rows in (every, np.append(every[:256:3], 400)):
        result = run(part_of(section_path, tmp_path / "part.h5ad", rows), tmp_path / "fit.h5ad", *options)
        assert result.exit_code == 0, result.output
    np.testing.assert_allclose(places[1], places[0][rows])
    result = run(part_of(section_path, tmp_path / "part.h5ad", every[[3, 4, 400]]), tmp_path / "few.h5ad", *options)
    assert result.exit_code == 2, result.output
    assert not (tmp_path / "few.h5ad").exists()


@pytest.mark.parametrize("preset", PRESETS)
def test_a_model_knows_the_pitches_of_its_sections_whatever_its_unit(preset):
    given = tissue(side=10, sections=2)
    given["points"][100:] *= (3, 4)
    units = spavae.fit(spots_of(given), PRESETS[preset].but(epochs=1, beta=1.0)).model.pitches
    np.testing.assert_allclose(units, [[1 / 100] * 2, [1 / 300] * 2])


def test_a_file_of_positions_is_read_once_against_all_sections_before_anything_is_embedded(
    section_path, model_path, tmp_path, monkeypatch
):
    read, embedded = [], []
    plain, embed = spavae_given.read_positions, spavae.Model.embed
    monkeypatch.setattr(spavae_given, "read_positions", lambda *given: read.append(given[2]) or plain(*given))
    monkeypatch.setattr(spavae.Model, "embed", lambda *given: embedded.append(1) or embed(*given))
    placed, at = [], spavae.Model.at
    monkeypatch.setattr(spavae.Model, "at", lambda *given: placed.append(len(given[1])) or at(*given))
    dataset, new = part_of(section_path, tmp_path / "one.h5ad", np.arange(256)), tmp_path / "new.csv"
    options = ["--apply", str(model_path), "--predict-at", str(new)]
    new.write_text("x,y\n150,150\n")
    assert run(dataset, tmp_path / "fit.h5ad", *options).exit_code == 2
    assert not embedded
    new.write_text("section,x,y\ntwo,150,150\n")
    assert run(dataset, tmp_path / "fit.h5ad", *options).exit_code == 0
    assert read == [["one", "two"]] * 2
    assert placed == [256, 1]
    assert list(ad.read_h5ad(tmp_path / "fit.h5ad").uns["unbatch"]["predicted"]["section"]) == ["two"]


def test_without_coordinates_it_does_not_apply(section_path: Path, tmp_path: Path):
    dataset = ad.read_h5ad(section_path)
    del dataset.obsm["spatial"]
    dataset.write_h5ad(tmp_path / "flat.h5ad")
    result = run(tmp_path / "flat.h5ad", tmp_path / "fit.h5ad")
    assert result.exit_code == 99
    assert "obsm/spatial is missing" in result.stderr
    assert not (tmp_path / "fit.h5ad").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda a: a.obsm["spatial"].__setitem__((slice(0, 40), 0), 0.0), "at the position of another spot"),
        (lambda a: None, "expected 20 or more"),
    ],
)
def test_sections_that_cannot_be_fitted_end_with_2_and_nothing_written(section_path, tmp_path, change, said):
    dataset = ad.read_h5ad(section_path)
    dataset = dataset[dataset.obs["section"] == "one"][: 200 if "position" in said else 15].copy()
    dataset.obsm["spatial"][:, 1] = np.where(np.arange(dataset.n_obs) < 40, 0, dataset.obsm["spatial"][:, 1])
    change(dataset)
    if "position" not in said:
        dataset.obsm["spatial"] = np.stack([np.arange(15.0), np.arange(15.0)], 1)
    for name in ("batch", "section"):
        dataset.obs[name] = dataset.obs[name].cat.remove_unused_categories()
    dataset.write_h5ad(tmp_path / "small.h5ad")
    result = run(tmp_path / "small.h5ad", tmp_path / "fit.h5ad")
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert not (tmp_path / "fit.h5ad").exists()


def test_a_fit_that_breaks_keeps_what_was_good_and_says_so(section_path: Path, tmp_path: Path):
    options = ["--beta", "1e38", "--max-epochs", "2", "--model", str(tmp_path / "model")]
    result = run(section_path, tmp_path / "fit.h5ad", *options)
    assert result.exit_code == 1
    assert "spavae failed: loss term" in result.stderr
    assert not (tmp_path / "fit.h5ad").exists()
    result = run(section_path, tmp_path / "fit.h5ad", "--apply", str(tmp_path / "model"))
    assert result.exit_code == 2
    assert "ended with an error" in result.stderr
