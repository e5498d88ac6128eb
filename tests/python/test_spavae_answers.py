"""spaVAE: rivals of its predictions, finer positions, several seeds, the linear decoder's share, unusual data."""

import anndata as ad
import numpy as np
import pytest
import torch
from scipy import sparse
from test_spavae import SETTINGS, SHORT, fitted, small, spots_of, tissue, training  # noqa: F401
from test_spavae_program import part_of, run, section_path  # noqa: F401
from torch.distributions import Normal, kl_divergence

from unbatch.models import spavae
from unbatch.models.spavae import linear, restarts
from unbatch.models.spavae.field import Field
from unbatch.models.spavae.prediction import agreement, between_spots, kriged_rates, predict, varying
from unbatch.models.spavae.start import inputs_of


def test_a_process_on_the_inputs_predicts_held_out_spots_better_than_gene_means(small, fitted):  # noqa: F811
    train = training(small)
    held = np.setdiff1d(np.arange(len(small["layer"])), train)
    rates = kriged_rates(fitted.model, spots_of(small), train, held)
    size = small["counts"].sum(1) / np.median(small["counts"][train].sum(1))
    mean = small["counts"][train].sum(0) / size[train].sum()
    own, correlation = agreement(rates, small["counts"][held], size[held])
    assert own < agreement(np.broadcast_to(mean, rates.shape), small["counts"][held], size[held])[0] - 0.3
    assert correlation > 0.1
    np.testing.assert_allclose(rates.mean(0), mean, rtol=0.3)


def test_finer_positions_are_a_quarter_of_a_pitch_away_on_the_diagonals_whatever_the_unit(small, fitted):  # noqa: F811
    points, none = small["points"][:50], np.zeros(50, np.int64)
    found, spot = between_spots(fitted.model, points, none)
    np.testing.assert_array_equal(spot, np.repeat(np.arange(50), 5))
    moved = found.reshape(50, 5, 2) - points[:, None]
    # spots are 100 apart
    np.testing.assert_allclose(moved[0], [[0, 0], [25, 25], [25, -25], [-25, 25], [-25, -25]])
    np.testing.assert_allclose(moved, np.broadcast_to(moved[0], moved.shape), atol=1e-9)
    # an array's rows and columns have units of their own
    model = spavae.Model(
        fitted.model.network, fitted.model.moments, np.array([[np.sqrt(3) / 2, 0.5]]), fitted.model.known
    )
    step = between_spots(model, points, none)[0].reshape(50, 5, 2)[0, 1] - points[0]
    np.testing.assert_allclose(step, [0.25 / (np.sqrt(3) / 2), 0.5])


def test_genes_to_show_vary_over_the_tissue_and_are_not_alike(small, fitted):  # noqa: F811
    spots = spots_of(small)
    latent = fitted.model.embed(spots)
    found = varying(fitted.model, latent, small["section"], 4)
    assert len(set(found.tolist())) == len(found) <= 4
    # markers of four layers; types of cells without order have larger variances
    assert np.isin(small["marker"][found], range(4)).all()
    logs = np.log(
        np.concatenate(list(fitted.model.rates(latent.embedding * [1, 1, *[0] * 8], small["section"], found)))
    )
    assert (np.abs(np.corrcoef(logs.T)) - np.eye(len(found))).max() < 0.95


def test_the_linear_decoder_is_a_sum_of_positive_parts_and_its_prior_is_trained():
    given = tissue(side=6)
    spots = spots_of(given)
    torch.manual_seed(0)
    inputs = inputs_of(spots.source, np.arange(36), linear.SETTINGS, 200.0, 0)
    field = Field([torch.as_tensor(given["points"][:9])], "matern", 20.0, trained=True)
    network = linear.Linear(linear.SETTINGS, inputs, field, 60, 2).eval()
    rates = torch.as_tensor(given["counts"].mean(0))
    network.start(rates)
    start = network.decode(torch.zeros(1, 30), torch.zeros(1, dtype=torch.int64)).exp()[0]
    np.testing.assert_allclose(start.detach(), rates, rtol=0.15)
    latent, batch = torch.randn(5, 30), torch.tensor([0, 1, 0, 1, -1])
    network.of_batch.data += torch.randn(2, 60)
    expected = (latent.exp() @ network.weight.exp()).log() + network.table[batch] @ network.of_batch
    np.testing.assert_allclose(network.decode(latent, batch).detach(), expected.detach(), rtol=1e-4, atol=1e-5)
    network.prior_mean.data += torch.randn(15)
    network.prior_log_spread.data += 0.3 * torch.randn(15)
    mean, variance = torch.randn(5, 15), torch.rand(5, 15) + 0.1
    own = kl_divergence(Normal(mean, variance.sqrt()), Normal(network.prior_mean, network.prior_log_spread.exp())).sum()
    np.testing.assert_allclose(network.divergence(mean, variance).detach(), own.detach(), rtol=1e-5)


@pytest.mark.parametrize(("weight", "low", "high"), [(20.0, 0.99, 1.0), (-20.0, 0.0, 0.01)])
def test_the_share_is_that_of_the_processes_and_the_second_fit_sees_permuted_places_only(
    monkeypatch, weight, low, high
):
    given = tissue(side=6, sections=2)
    places, own = [], linear._share
    monkeypatch.setattr(linear, "_share", lambda spots, place, *more: places.append(place) or own(spots, place, *more))

    def start(network: linear.Linear, _rates: torch.Tensor) -> None:
        network.weight.data[:15] += weight / 2
        network.weight.data[15:] -= weight / 2

    monkeypatch.setattr(linear.Linear, "start", start)
    found = linear.spatial_share(spots_of(given), epochs=1)
    for share in (found.share, found.permuted):
        assert low <= share.min() <= share.max() <= high
    true, permuted = places
    for code in (0, 1):
        rows = given["section"] == code
        assert (true[rows] != permuted[rows]).any(1).mean() > 0.8
        np.testing.assert_array_equal(np.sort(true[rows], axis=0), np.sort(permuted[rows], axis=0))


def test_of_several_seeds_the_one_is_kept_that_predicts_spots_none_was_trained_on(monkeypatch):
    given = tissue(side=12, sections=2)
    spots, trained, fit = spots_of(given), [], restarts.fit
    monkeypatch.setattr(restarts, "fit", lambda *a, **more: trained.append(more["train_on"]) or fit(*a, **more))
    losses = iter([2.0, 1.0, 3.0])
    monkeypatch.setattr(restarts, "agreement", lambda *_: (next(losses), 0.0))
    every = np.arange(len(given["layer"]))
    found = restarts.fit_several(spots, SETTINGS.but(epochs=1), 3, train_on=every, seed=5)
    assert (found.best, found.seeds) == (1, [5, 6, 7])
    # the same from each section
    np.testing.assert_array_equal(np.bincount(given["section"][found.scoring]), [7, 7])
    for own in trained:
        np.testing.assert_array_equal(own, np.setdiff1d(every, found.scoring))
    few = tissue(side=4)
    with pytest.raises(ValueError, match="too few to spare"):
        restarts.fit_several(spots_of(few), SETTINGS.but(epochs=1), 2, train_on=np.arange(16))


def test_the_program_maps_genes_predicts_between_spots_and_says_how_seeds_agree(section_path, tmp_path):  # noqa: F811
    dataset = ad.read_h5ad(section_path)
    dataset.var["gene_symbol"] = [f"Symbol{number}" for number in range(dataset.n_vars)]
    dataset.write_h5ad(tmp_path / "dataset.h5ad")
    seven = dataset.var.loc["gene7", "gene_symbol"]
    options = ["--max-epochs", "2", "--restarts", "2", "--enhance", "--maps", f"{seven},gene2", "--domains", "3"]
    result = run(tmp_path / "dataset.h5ad", tmp_path / "fit.h5ad", *options, "--spatial-genes")
    assert result.exit_code == 0, result.output
    fit = ad.read_h5ad(tmp_path / "fit.h5ad")
    about = fit.uns["unbatch"]
    maps, finer, seeds = about["maps"], about["enhanced"], about["restarts"]
    why = dict(zip(maps["genes"], maps["why"], strict=True))
    assert {"gene7", "gene2"} <= set(why)
    first = np.argsort(about["spatial_genes"]["p_value"], kind="stable")[:6]
    assert {gene for gene, reason in why.items() if reason == "spatial"} == set(fit.var_names[first])
    counts = dataset[:, list(maps["genes"])].layers["counts"].toarray()
    ratio = maps["raw"][counts > 0] / counts[counts > 0]
    assert ratio.max() / ratio.min() < 20
    np.testing.assert_array_equal(maps["raw"] == 0, counts == 0)
    assert finer["expression"].shape == (5 * fit.n_obs, len(maps["genes"]))
    # a spot itself is the first of its five positions
    np.testing.assert_allclose(finer["mean"][::5], fit.obsm["X_spavae_gp"], atol=1e-4)
    np.testing.assert_allclose(finer["position"][::5], dataset.obsm["spatial"])
    assert list(seeds["seeds"]) == [0, 1]
    assert seeds["kept"] == int(np.argmin(seeds["loss"]))
    assert (about["part"] == "validation").sum() == seeds["spots"] == 24
    for name in ("mixture", "kmeans"):
        np.testing.assert_allclose(seeds[name], seeds[name].T)
        np.testing.assert_allclose(np.diag(seeds[name]), 1)
        assert seeds[name][0, 1] < 1


def test_coordinates_of_any_size_and_place_give_the_same_fit():
    given = tissue(side=10)
    far = given | {"points": given["points"] * 1e7 + 1e12}
    found = [spavae.fit(spots_of(each), SETTINGS.but(**SHORT)).model.embed(spots_of(each)) for each in (given, far)]
    np.testing.assert_allclose(found[0].embedding, found[1].embedding, atol=1e-3)


def test_few_spots_and_counts_that_are_not_whole_are_fitted_with_a_warning_each(section_path, tmp_path):  # noqa: F811
    path = part_of(section_path, tmp_path / "few.h5ad", np.arange(256))
    adata = ad.read_h5ad(path)
    adata.layers["counts"] = sparse.csr_matrix(adata.layers["counts"] * np.float32(0.37))
    adata.write_h5ad(path)
    result = run(path, tmp_path / "fit.h5ad", "--max-epochs", "1")
    assert result.exit_code == 0, result.output
    assert "256 spots are few" in result.stderr
    assert "layers/counts are not whole numbers" in result.stderr


def test_one_spot_in_a_section_ends_with_a_sentence(section_path, tmp_path):  # noqa: F811
    path = part_of(section_path, tmp_path / "one.h5ad", np.arange(257))
    result = run(path, tmp_path / "fit.h5ad")
    assert result.exit_code == 2, result.output
    assert "two has 1 spots" in result.stderr
    assert not (tmp_path / "fit.h5ad").exists()


def test_predictions_between_spots_are_between_those_of_the_spots(small, fitted):  # noqa: F811
    none = np.zeros(1, np.int64)
    here, there = small["points"][100], small["points"][101]
    mean = [predict(fitted.model, each[None], none).latent.mean[0] for each in (here, (here + there) / 2, there)]
    np.testing.assert_allclose(mean[1], (mean[0] + mean[2]) / 2, atol=0.05)
