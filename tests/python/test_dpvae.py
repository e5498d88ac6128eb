"""dp-VAE: pairs, lambda, masks, reconstruction with anchors, fits, models that come back, the program."""

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import torch
from click.testing import CliRunner
from scipy import sparse

from unbatch.cli import fit_dpvae, preprocess
from unbatch.data import io
from unbatch.metrics.spatial import disparity, nearest, similarity
from unbatch.models import dpvae
from unbatch.models.dpvae import masks
from unbatch.models.dpvae.inputs import standardised_dispersion
from unbatch.models.dpvae.model import Objective, Spots
from unbatch.models.dpvae.networks import Network
from unbatch.nn.pairs import Groups, lengths, weighted_median

PAPER, RECOMMENDED = (dpvae.PRESETS[name] for name in ("paper", "recommended"))
QUICK = {"alpha2": 100.0, "epochs": 15}


def tissue(seed: int = 0, side: int = 16, genes: int = 40, turned: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Counts whose logarithms are waves over a square section, and positions, which may be turned."""
    rng = np.random.default_rng(seed)
    place = np.stack(np.divmod(np.arange(side * side), side), 1).astype(float)
    waves = np.random.default_rng(1).normal(0, 0.12, (2, genes))
    logs = 1.5 + np.sin(place @ waves + np.random.default_rng(2).uniform(0, 6, genes))
    turn = np.array([[np.cos(turned), -np.sin(turned)], [np.sin(turned), np.cos(turned)]])
    return rng.poisson(np.exp(logs)).astype(np.float32), place @ turn


def logs(counts: np.ndarray) -> np.ndarray:
    return np.log1p(counts / counts.sum(1, keepdims=True) * counts.sum(1).mean())


# ------------------------------------------------------------------------------------------------------ pairs, lambda


def dense_gradient(latent: torch.Tensor, place: torch.Tensor, group: torch.Tensor, scale: torch.Tensor) -> list:
    """Gradients of the published n x n sum over pairs of one group, with respect to latent values and lambda."""
    distance = (latent[:, None] - latent).square().sum(2).add(1e-24).sqrt()
    apart = (place[:, None] - place).square().sum(2).sqrt()
    same = (group[:, None] == group).double()
    loss = (same * (distance - scale * apart).abs()).sum() / (np.bincount(group.numpy()) ** 2.0).sum()
    return torch.autograd.grad(loss, (latent, scale))


@pytest.mark.parametrize(("batch", "sections"), [(60, 1), (20, 2)], ids=["all spots", "minibatches of two sections"])
def test_drawn_pairs_have_the_gradient_of_all_pairs_in_the_mean(batch, sections):
    rng, spots = np.random.default_rng(0), 60
    group = np.arange(spots) % sections
    points = rng.random((spots, 2))
    latent = torch.tensor(rng.standard_normal((spots, 3)), requires_grad=True)
    scale, place = torch.tensor(1.0, dtype=torch.float64, requires_grad=True), torch.as_tensor(points)
    pairs = Groups.of(group, nearest(points, 4, group))
    torch.manual_seed(0)
    total = [torch.zeros(spots, 3, dtype=torch.float64), 0.0]
    for _ in range(1000):
        first, second, weight = pairs.draw(torch.randperm(spots)[:batch], 2, 30)
        loss = (weight * (lengths(latent, first, second) - scale * lengths(place, first, second)).abs()).sum()
        for number, each in enumerate(torch.autograd.grad(loss, (latent, scale))):
            total[number] = total[number] + each / 1000
    true = dense_gradient(latent, place, torch.as_tensor(group), scale)
    # each spot is in a third of the draws of minibatches, hence the noise of single entries
    assert float((total[0] - true[0]).norm() / true[0].norm()) < (0.02 if sections == 1 else 0.1)
    assert float((total[0] * true[0]).sum() / true[0].square().sum()) == pytest.approx(1, abs=0.02)
    assert float(total[1]) == pytest.approx(float(true[1]), rel=0.02)


def test_variable_genes_are_those_of_scanpy():
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(0.5, rng.uniform(0.1, 20, 150), (200, 150))).astype(np.float32)
    data = ad.AnnData(np.log1p(counts))
    expected = sc.pp.highly_variable_genes(data, flavor="seurat", inplace=False)["dispersions_norm"]
    values = counts.astype(np.float64)
    found = standardised_dispersion(values.mean(0), values.var(0, ddof=1))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_distances_of_spots_on_one_point_have_a_finite_gradient():
    points = torch.zeros(3, 2, requires_grad=True)
    first, second = torch.tensor([0, 1]), torch.tensor([1, 2])
    assert torch.autograd.grad(lengths(points, first, second).sum(), points)[0].abs().max() == 0


def test_the_profiled_lambda_is_where_the_sum_of_absolute_differences_is_smallest():
    rng = np.random.default_rng(0)
    distance, apart, weight = (torch.as_tensor(rng.random(101) + 0.1) for _ in range(3))
    best = weighted_median(distance / apart, weight * apart)
    grid = torch.linspace(0.05, 8, 4000, dtype=torch.float64)
    losses = (weight * (distance - grid[:, None] * apart).abs()).sum(1)
    assert float((weight * (distance - best * apart).abs()).sum()) <= float(losses.min()) + 1e-9


def test_memory_of_the_pairs_is_linear_in_the_spots():
    spots = 50_000
    pairs = Groups.of(np.zeros(spots, np.int64), np.zeros((spots, 12), np.int64))
    first, _, weight = pairs.draw(torch.arange(spots), 1, 5)
    assert len(first) <= 6 * spots
    assert float(weight.sum()) == pytest.approx(1, rel=0.2)


# -------------------------------------------------------------------------------------------------------------- masks


def test_masks_hold_the_pairs_they_are_named_after():
    points = np.stack(np.divmod(np.arange(36), 6), 1).astype(float)
    section = np.zeros(36, np.int64)
    assert len(masks.listed(masks.knn(points, section, 4), section).source) == 36 * 4
    near = masks.listed(masks.within(points, section, 1.0), section, by_all=True)
    assert len(near.source) == 2 * 2 * 5 * 6
    assert near.total == 36**2
    label = np.where(np.arange(36) < 10, 0, np.where(np.arange(36) < 30, 1, -1))
    first, second, _ = masks.all_pairs(points, section, 0, label).draw(torch.arange(36), 0, 50)
    assert (label[first] == label[second]).all()
    assert (label[first] >= 0).all()


@pytest.mark.parametrize(
    "mask", [np.zeros((4, 4)), np.eye(4), np.eye(4)[::-1], np.ones((3, 3))], ids=["empty", "self", "sections", "shape"]
)
def test_masks_without_pairs_with_self_edges_or_across_sections_are_refused(mask):
    with pytest.raises(ValueError, match="mask"):
        masks.listed(sparse.csr_array(mask), np.array([0, 0, 1, 1]))


# ----------------------------------------------------------------------------------------------------- reconstruction


@pytest.mark.parametrize("method", ["latent", "mds", "stress"])
@pytest.mark.parametrize("spots", [200, 2500])
def test_exact_distances_and_three_anchors_give_all_positions(method, spots):
    rng = np.random.default_rng(0)
    true = rng.random((spots, 2)) * 40
    # in three dimensions, turned and mirrored
    latent = 0.7 * np.c_[true * [1, -1], np.zeros(spots)] @ np.linalg.qr(rng.standard_normal((3, 3)))[0]
    chosen = np.array([3, 50, 77])
    found = dpvae.reconstruct(latent, 0.7, (chosen, true[chosen]), method=method)
    np.testing.assert_array_equal(found[chosen], true[chosen])
    assert np.sqrt(np.square(found - true).sum(1).mean()) < 1e-3


def test_every_anchor_is_held_where_spots_are_too_many_for_all_distances():
    place = np.random.default_rng(0).random((2300, 2)) * 50
    every = np.arange(2300)
    np.testing.assert_array_equal(dpvae.reconstruct(place, 1.0, (every, place), method="stress"), place)
    found = dpvae.reconstruct(place, 1.0, (every[:2200], place[:2200]), method="stress")
    np.testing.assert_allclose(found, place, atol=1e-3)


def test_anchors_are_held_or_drawn_to_their_places_and_stress_falls():
    rng = np.random.default_rng(0)
    true = rng.random((150, 2)) * 20
    latent = true + rng.normal(0, 2, true.shape)
    chosen = np.arange(8)
    held = dpvae.reconstruct(latent, 1.0, (chosen, true[chosen]), method="stress")
    loose, tight = (
        dpvae.reconstruct(latent, 1.0, (chosen, true[chosen]), method="stress", gamma=gamma) for gamma in (1.0, 1e5)
    )

    def stress(points: np.ndarray) -> float:
        return float(np.square(np.linalg.norm(latent[:, None] - latent, axis=2)
                               - np.linalg.norm(points[:, None] - points, axis=2)).sum())  # fmt: skip

    def away(points: np.ndarray) -> float:
        return float(np.linalg.norm(points[chosen] - true[chosen], axis=1).max())

    start = similarity(latent[chosen], true[chosen])(latent)
    start[chosen] = true[chosen]
    assert stress(held) < stress(start)
    assert (away(held), away(tight) < 1e-2 < away(loose)) == (0, True)
    assert stress(loose) < stress(tight)
    np.testing.assert_allclose(tight, held, atol=0.2)


@pytest.mark.parametrize(
    ("number", "position"),
    [
        ([0, 1], [[0, 0], [1, 0]]),
        ([0, 1, 2], [[0, 0], [1, 1], [2, 2]]),
        ([0, 1, 2, 2], [[0, 0], [1, 0], [0, 1], [0, 1]]),
        ([0, 1, 2, 2], [[0, 0], [1, 0], [0, 1], [5, 1]]),
        ([0, 1, 2, 3], [[0, 0], [1, 0], [0, 1], [0, 1]]),
        ([0, 1, 99], [[0, 0], [1, 0], [0, 1]]),
        ([0, 1, 2], [[0, 0], [1, 0], [0, np.nan]]),
    ],
    ids=["two", "line", "twice", "contradictory", "one place", "no such spot", "NaN"],
)
def test_anchors_that_fix_nothing_are_refused(number, position):
    with pytest.raises(dpvae.AnchorError, match="anchor"):
        dpvae.reconstruct(np.random.default_rng(0).random((9, 2)), 1.0, (np.array(number), np.array(position)))


# --------------------------------------------------------------------------------------------------------------- fits


def test_the_step_lowers_the_published_loss_by_its_terms():
    counts, place = tissue(side=8)
    inputs = torch.as_tensor(logs(counts), dtype=torch.float32)
    settings = PAPER.but(alpha2=7.0, on_mean=True)
    network = Network(settings, inputs.shape[1], inputs.shape[1])
    with torch.no_grad():
        network.log_variance.weight.zero_()
        network.log_variance.bias.fill_(-6.0)
        mean = network.encode(inputs)[0]
    section = np.zeros(64, np.int64)
    spots = Spots(inputs.numpy(), place, section, section, None, np.arange(64))
    objective = Objective(network, spots, masks.all_pairs(place, section, 0), settings, "cpu")
    kept, latent = mean.numpy().astype(float), np.linalg.norm
    apart = latent(place[:, None] - place, axis=2)
    true = np.abs(latent(kept[:, None] - kept, axis=2) - apart).mean()
    settings_many = objective.settings = settings.but(uniform=400)
    assert settings_many.alpha2 == 7
    terms = objective.step(torch.randperm(64), inputs, 0.0)
    assert float(terms["distance"].detach()) == pytest.approx(true, rel=0.02)
    spread = 64 and np.exp(-6.0) + 6.0 - 1
    assert float(terms["divergence"].detach()) == pytest.approx(
        (np.square(kept).sum(1) + 2 * spread).mean() / 2, rel=1e-4
    )


@pytest.fixture(scope="module")
def fitted() -> tuple:
    counts, place = tissue()
    known = np.arange(256) % 5 > 0
    return counts, place, known, dpvae.fit(counts, place, settings=RECOMMENDED.but(**QUICK), known=known)


def test_positions_of_held_out_spots_are_found_and_those_of_known_ones_without_themselves(fitted):
    counts, place, known, found = fitted
    held = found.positions()[~known]
    assert disparity(held, place[~known]) < 0.25
    assert np.sqrt(np.square(held - place[~known]).sum(1).mean()) < 4
    np.testing.assert_allclose(found.positions(counts)[~known], held, atol=1e-5)
    inside, outside = (
        np.square(each - place[known]).sum() for each in (found.positions(counts)[known], found.positions()[known])
    )
    assert inside < outside
    # positions of held-out spots are not looked at
    other = place.copy()
    other[~known] = np.nan
    again = dpvae.fit(counts, other, settings=RECOMMENDED.but(**QUICK), known=known)
    np.testing.assert_array_equal(again.positions(), found.positions())


def test_a_model_comes_back_from_its_arrays_and_takes_genes_that_are_missing(fitted):
    counts, place, known, found = fitted
    again = dpvae.model_of(json.loads(json.dumps(dpvae.config(found))), dpvae.weights(found))
    np.testing.assert_allclose(again.positions(counts), found.positions(counts), atol=1e-6)
    few = counts.copy()
    few[:, :4] = np.nan
    moved = again.positions(few)
    assert np.isfinite(moved).all()
    assert disparity(moved[~known], place[~known]) < 0.4
    broken = dpvae.weights(found)
    broken.pop("0.network.mean.weight")
    with pytest.raises(ValueError, match=r"mean\.weight"):
        dpvae.model_of(dpvae.config(found), broken)


def test_the_paper_is_a_preset_and_distances_make_the_shape_of_the_section():
    counts, place = tissue()
    known = np.arange(256) % 5 > 0
    plain, kept = (
        dpvae.fit(logs(counts), place, settings=PAPER.but(alpha2=alpha2, epochs=250, rate=3e-3), known=known)
        for alpha2 in (0.0, 100.0)
    )
    assert kept.latent.shape == (256, 2)
    assert (
        disparity(kept.positions()[~known], place[~known]) < disparity(plain.positions()[~known], place[~known]) - 0.1
    )
    assert kept.history[-1]["relative"] == pytest.approx(
        kept.history[-1]["distance"] / kept.history[-1]["scale"], rel=0.05
    )


def test_alpha2_and_epochs_are_chosen_where_the_inner_error_is_smallest():
    counts, place = tissue()
    settings = PAPER.but(grid=(0.0, 100.0), most_epochs=60, check=30, rate=3e-3)
    found = dpvae.fit(logs(counts), place, settings=settings)
    best = found.tried.error.argmin()
    assert (found.settings.alpha2, found.settings.epochs) == (found.tried.alpha2[best], found.tried.epoch[best])
    assert set(found.tried.alpha2) == {0, 100}
    assert len(found.history) == found.settings.epochs


@pytest.mark.parametrize(
    "changes",
    [
        {"likelihood": "negative_binomial", "latent": 4},
        {"scaling": "fixed", "minibatch": 64, "near": 2},
        {"scaling": "profiled", "on_mean": True},
    ],
    ids=["counts", "fixed", "profiled"],
)
def test_every_likelihood_and_lambda_fits_and_comes_back(changes):
    counts, place = tissue(side=10)
    settings = PAPER.but(alpha2=30.0, epochs=30, rate=3e-3, **changes)
    found = dpvae.fit(counts if settings.counts else logs(counts), place, settings=settings)
    assert found.history[-1]["reconstruction"] < found.history[0]["reconstruction"]
    assert (found.history[-1]["scale"] == 1) == (changes.get("scaling") == "fixed")
    again = dpvae.model_of(json.loads(json.dumps(dpvae.config(found))), dpvae.weights(found))
    x = counts if settings.counts else logs(counts)
    np.testing.assert_allclose(again.positions(x), found.positions(x), atol=1e-5)


@pytest.mark.parametrize("unknown", [0, 2])
def test_sections_in_other_coordinates_help_one_another_and_unknown_ones_are_put_into_the_reference(unknown):
    # the second section, which has most known spots, is the reference
    turned = [2.0, 0.0, 0.0] if unknown == 2 else [0.0, 0.0, 2.0]
    parts = [tissue(seed, turned=angle) for seed, angle in enumerate(turned)]
    counts, place = (np.concatenate(each) for each in zip(*parts, strict=True))
    section = np.repeat(np.arange(3), 256)
    known = (section != unknown) & (np.arange(768) % 5 > 0)
    found = dpvae.fit(counts, place, section=section, settings=RECOMMENDED.but(**QUICK), known=known)
    # to networks, which are not shown the same spots, too
    assert {each.readout.frames.reference for each in found.members} | {found.frames.reference} == {1}
    for code in range(3):
        mine = (section == code) & ~known
        assert np.sqrt(np.square(found.positions()[mine] - place[mine]).sum(1).mean()) < 4


def test_what_goes_wrong_with_lambda_and_latent_values_is_said():
    counts, place = tissue(side=10)
    fallen = dpvae.fit(logs(counts), place, settings=PAPER.but(alpha2=1e4, beta=1e4, epochs=150, rate=3e-2))
    assert any("lambda" in text for text in fallen.warnings)
    empty = dpvae.fit(logs(counts), place, settings=PAPER.but(alpha2=0.0, beta=1e4, epochs=100, rate=3e-2))
    assert any("collapsed" in text for text in empty.warnings)
    fine = dpvae.fit(logs(counts), place, settings=PAPER.but(alpha2=100.0, epochs=50, rate=3e-3))
    assert not fine.warnings


# -------------------------------------------------------------------------------------------------------- the program


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dpvae")
    parts = [tissue(seed, side=14) for seed in (0, 1)]
    made = ad.AnnData(
        sparse.csr_matrix(np.concatenate([counts for counts, _ in parts])),
        obs=pd.DataFrame({"sample": np.repeat(["a", "b"], 196)}, index=[f"c{number}" for number in range(392)]),
        var=pd.DataFrame(index=[f"g{number}" for number in range(40)]),
    )
    made.obsm["spatial"] = np.concatenate([place * 100 for _, place in parts])
    made.write_h5ad(folder / "raw.h5ad")
    arguments = [str(folder / "raw.h5ad"), "--batch-key", "sample", "-o", str(folder / "data.h5ad")]
    done = CliRunner().invoke(preprocess.main, arguments)
    assert done.exit_code == 0, done.output
    return folder


def run(folder, *arguments: str):
    return CliRunner().invoke(fit_dpvae.main, [*arguments])


def test_the_program_places_unknown_sections_by_anchors_and_applies_its_model_to_fewer_genes(dataset):
    data, out, model = (str(dataset / name) for name in ("data.h5ad", "fit.h5ad", "model"))
    quick = ["--alpha2", "100", "--epochs", "10"]
    done = run(dataset, data, "-o", out, "--model", model, *quick, "--unknown-sections", "b", "--anchors", "20")
    assert done.exit_code == 0, done.output
    fit, true = ad.read_h5ad(out), ad.read_h5ad(data).obsm["spatial"]
    part, found = fit.uns["unbatch"]["part"], fit.obsm["X_dpvae_positions"]
    assert (np.sum(part == "anchor"), np.sum(part == "known")) == (20, 196)
    np.testing.assert_allclose(found[part == "anchor"], true[part == "anchor"], atol=0.1)
    assert np.sqrt(np.square(found - true)[part == "unknown"].sum(1).mean()) < 500
    assert fit.obsm["X_dpvae_radii"].shape == (392, 4)
    fewer = ad.read_h5ad(data)[:, 5:].copy()
    del fewer.obsm["spatial"]
    fewer.write_h5ad(dataset / "fewer.h5ad")
    done = run(dataset, str(dataset / "fewer.h5ad"), "-o", out, "--apply", model)
    assert done.exit_code == 0, done.output
    applied = ad.read_h5ad(out)
    assert set(applied.uns["unbatch"]["genes_missing"]) <= {f"g{number}" for number in range(5)}
    assert disparity(applied.obsm["X_dpvae_positions"][:196], true[:196]) < 0.3
    ad.read_h5ad(data)[:, :6].copy().write_h5ad(dataset / "six.h5ad")
    assert run(dataset, str(dataset / "six.h5ad"), "-o", out, "--apply", model).exit_code == 2


def test_an_applied_model_gives_the_radii_and_distances_of_its_fit_and_wider_radii_to_other_sections(dataset):
    data, out, model = dataset / "data.h5ad", dataset / "folds.h5ad", dataset / "folds"
    quick = ["--alpha2", "100", "--epochs", "10", "--fold", "0"]
    assert run(dataset, str(data), "-o", str(out), "--model", str(model), *quick).exit_code == 0
    fit, apart = ad.read_h5ad(out), ad.read_h5ad(data)
    del apart.obsm["spatial"]
    held = fit.uns["unbatch"]["part"] == "held out"

    def applied(folder):
        apart.write_h5ad(dataset / "apart.h5ad")
        done = run(dataset, str(dataset / "apart.h5ad"), "-o", str(out), "--apply", str(folder))
        assert done.exit_code == 0, done.output
        return ad.read_h5ad(out)

    again = applied(model)
    for name in ("X_dpvae_positions", "X_dpvae_radii"):
        np.testing.assert_allclose(again.obsm[name][held], fit.obsm[name][held], rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(again.uns["unbatch"]["distance"], fit.uns["unbatch"]["distance"], rtol=1e-3)
    assert again.uns["unbatch"]["far"] == fit.uns["unbatch"]["far"]
    assert list(again.uns["unbatch"]["radii_from"]) == ["own section"] * 2
    for name in ("batch", "section"):
        apart.obs[name] = apart.obs[name].cat.rename_categories({"b": "new"})
    other = applied(model)
    assert list(other.uns["unbatch"]["radii_from"]) == ["own section", "sections that were left out"]
    new = (apart.obs["section"] == "new").to_numpy()
    ninety = other.obsm["X_dpvae_radii"][:, 2]
    assert np.median(ninety[new]) > np.median(ninety[~new])
    # a model of an earlier version has neither
    config, weights = io.read_model(model)
    before = {name: np.array(each) for name, each in weights.items() if not name.startswith("trust.")}
    io.write_model(dataset / "before", config, before)
    old = applied(dataset / "before")
    assert "X_dpvae_radii" not in old.obsm
    assert "distance" not in old.uns["unbatch"]
    assert any(str(dataset / "before") in note["text"] for note in json.loads(old.uns["unbatch"]["notes"]))


def test_each_section_predicts_the_others_and_the_latent_space_is_kept_as_it_was_trained(dataset):
    data, out = str(dataset / "data.h5ad"), str(dataset / "transfer.h5ad")
    done = run(dataset, data, "-o", out, "--preset", "paper", "--alpha2", "100", "--epochs", "60", "--transfer")
    assert done.exit_code == 0, done.output
    fit = ad.read_h5ad(out)
    found, snapshots = fit.uns["unbatch"]["transfer"], fit.uns["unbatch"]["snapshots"]
    assert list(zip(found["train"], found["test"], strict=True)) == [("a", "a"), ("a", "b"), ("b", "a"), ("b", "b")]
    assert ((found["disparity"] > 0) & (found["disparity"] < 0.9) & (found["rmse"] > 0)).all()
    assert snapshots["epoch"][0] == 1
    assert snapshots["epoch"][-1] == 60
    np.testing.assert_allclose(snapshots["latent"][-1], fit.obsm["X_dpvae"][snapshots["spots"]], atol=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [
        ["--unknown-sections", "c"],
        ["--unknown-sections", "a,b"],
        ["--fold", "9"],
        ["--mask", "file"],
        ["--mask", "label"],
        ["--anchor-column", "none"],
        ["--unknown-sections", "b", "--anchor-column", "line"],
    ],
    ids=lambda wrong: " ".join(wrong),
)
def test_what_cannot_be_done_ends_with_code_2_and_without_a_file(dataset, wrong):
    path = dataset / "data.h5ad"
    if "line" in wrong:
        data = ad.read_h5ad(path)
        data.obs["line"] = data.obsm["spatial"][:, 0] == 300
        path = dataset / "line.h5ad"
        data.write_h5ad(path)
    out = dataset / "wrong.h5ad"
    quick = ["--alpha2", "10", "--epochs", "1", "--preset", "paper"]
    assert run(dataset, str(path), "-o", str(out), *quick, *wrong).exit_code == 2
    assert not out.exists()
