"""Rivals, splits, radii and tables of predicted positions: right by construction, and honest about what they saw."""

import numpy as np
import pytest
import torch

from unbatch.metrics import spatial
from unbatch.nn import ard_gp
from unbatch.positions import baselines, conformal, evaluation, isometry, markers, novelty, splits


def tissue(spots: int = 400, genes: int = 30, noise: float = 0.5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw positions in a square of 20 pitches and expression that codes them, bent and noisy."""
    rng = np.random.default_rng(seed)
    places = rng.uniform(0, 20, (spots, 2))
    fields = np.column_stack((places / 10 - 1, np.sin(places / 5), np.cos(places.sum(1) / 8)))
    # the same genes in every tissue
    weights = np.random.default_rng(99).normal(size=(fields.shape[1], genes))
    return fields @ weights + rng.normal(scale=noise, size=(spots, genes)), places


def test_expression_is_standardised_in_each_section_and_a_constant_gene_is_0():
    x = np.random.default_rng(0).normal(3, 2, (60, 4)).astype(np.float32)
    x[30:] += 10
    x[:30, 2] = 7
    section = np.repeat([0, 1], 30)
    found = baselines.standardised(x, section)
    for code in (0, 1):
        np.testing.assert_allclose(found[section == code].mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(found[:30].std(axis=0), [1, 1, 0, 1], atol=1e-5)
    assert not np.array_equal(found, x)


def test_pearson_residuals_are_those_of_scanpy_but_for_the_limit():
    import anndata
    import scanpy as sc

    counts = np.random.default_rng(0).poisson(np.linspace(0.2, 9, 12), (50, 12)).astype(float)
    theirs = sc.experimental.pp.normalize_pearson_residuals(anndata.AnnData(counts), clip=8, inplace=False)["X"]
    np.testing.assert_allclose(baselines.pearson(counts), theirs, atol=1e-5)


RIVALS = baselines.BASELINES | baselines.STRONGER


@pytest.mark.parametrize("name", RIVALS)
def test_rivals_learn_positions_and_repeat_themselves(name: str):
    x, places = tissue()
    train = np.arange(400) < 300
    predict = RIVALS[name](x[train], places[train], seed=1)
    errors = spatial.position_errors(predict(x[~train]), places[~train])
    again = RIVALS[name](x[train], places[train], seed=1)(x[~train])
    np.testing.assert_array_equal(predict(x[~train]), again)
    assert errors.rmse == pytest.approx(8.1, abs=0.8) if name == "mean" else errors.rmse < 4


def test_a_rival_has_no_use_for_the_positions_of_the_spots_that_it_predicts():
    x, places = tissue()
    places[300:] = np.nan
    for make in baselines.BASELINES.values():
        assert np.isfinite(make(x[:300], places[:300])(x[300:])).all()


def test_components_are_those_of_sklearn_for_many_genes_and_for_few():
    from sklearn.decomposition import PCA

    for shape in ((50, 20), (20, 50)):
        x = np.random.default_rng(1).normal(size=shape) * np.linspace(1, 3, shape[1])
        own, theirs = baselines.components(x, 5)(x), PCA(5).fit_transform(x)
        np.testing.assert_allclose(np.abs(own), np.abs(theirs), atol=1e-8)


def test_a_random_split_takes_its_share_of_each_section_and_blocks_are_in_one_piece():
    _, places = tissue(500)
    section = np.repeat([0, 1], [400, 100])
    held = splits.random_split(section, 0.2, seed=3)
    assert [held[section == code].sum() for code in (0, 1)] == [80, 20]
    blocks = splits.block_split(places, section, 0.2, seed=3)
    assert blocks[section == 0].mean() == pytest.approx(0.2, abs=0.02)
    near = spatial.nearest(places, 5, section)

    def alone(mask: np.ndarray) -> float:
        return mask[near][mask].mean()

    # one in five neighbours of a spot held out at random is held out, too
    assert alone(held) < 0.35 < 0.6 < alone(blocks)
    assert splits.random_split(np.zeros(2, int), 0.9).sum() == 1


def test_radii_hold_as_many_spots_as_they_say_where_errors_differ_over_the_tissue():
    levels, shares, widths = np.array(conformal.LEVELS), [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        predicted = rng.uniform(0, 20, (2000, 2))
        # errors grow along the first axis
        true = predicted + rng.normal(size=(2000, 2)) * (0.2 + predicted[:, :1] / 10)
        found = conformal.calibrate(predicted[:1000], true[:1000], seed)
        radii = found.radii(predicted[1000:])
        shares.append(conformal.coverage(radii, predicted[1000:], true[1000:]))
        widths.append(np.corrcoef(radii[:, 2], predicted[1000:, 0])[0, 1])
    np.testing.assert_allclose(np.mean(shares, axis=0), levels, atol=0.012)
    assert min(widths) > 0.9
    assert (np.diff(radii, axis=1) > 0).all()


def test_radii_of_sections_come_back_from_their_arrays_and_unseen_sections_have_their_own():
    rng = np.random.default_rng(0)
    section = np.repeat([0, 1, 2, 3], [200, 100, 10, 50])
    true = rng.random((360, 2))
    predicted = true + rng.normal(size=(360, 2)) * np.array([0.1, 0.2, 0.1, 0.1])[section, None]
    across = tuple(conformal.calibrate(predicted * times, true * times) for times in (9, 1))
    made = conformal.Radii.of(predicted, true, section, section < 3, elsewhere=across)
    ninety = conformal.Radii.from_weights(made.weights).radii(predicted, section)[:, 2]
    np.testing.assert_array_equal(ninety, made.radii(predicted, section)[:, 2])
    median = [np.median(ninety[section == code]) for code in range(4)]
    assert median[1] > 1.5 * median[0]
    # too few spots of one's own, and none
    np.testing.assert_array_equal(ninety[section > 1], across[0].radii(predicted[section > 1])[:, 2])
    rest = conformal.Radii.of(predicted, true, section, section < 3).radii(predicted, section)[:, 2]
    np.testing.assert_array_equal(rest[section == 3], made.own[0].radii(predicted[section == 3])[:, 2])
    with pytest.raises(ValueError, match="incomplete"):
        conformal.Radii.from_weights({"0.places": true})


def test_radii_need_calibration_and_are_infinite_beyond_what_it_can_tell():
    predicted, true = np.random.default_rng(0).random((2, 40, 2))
    with pytest.raises(ValueError, match="39"):
        conformal.calibrate(predicted[:39], true[:39])
    # the 95th of 100 spots, of 20 the 20th: a level of 0.99 would be beyond them
    radii = conformal.calibrate(predicted, true).radii(predicted, (0.95, 0.99))
    assert np.isfinite(radii[:, 0]).all()
    assert np.isinf(radii[:, 1]).all()


def test_spots_of_another_kind_are_far_in_expression():
    x, _ = tissue(noise=1.0)
    odd = x[:20].copy()
    odd[:, :15] = np.random.default_rng(5).normal(0, 12, (20, 15))
    distance, far = novelty.expression_distance(x[:300], np.concatenate((x[300:], odd)))
    assert (distance[:100] > far).mean() < 0.1
    assert (distance[100:] > far).all()
    assert np.median(distance[:100]) == pytest.approx(1, abs=0.15)


def test_ellipses_are_those_of_the_decoders_derivative():
    latent = np.random.default_rng(0).normal(size=(500, 2))
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(7, 2)))[0]

    def flat(z: np.ndarray) -> np.ndarray:
        return z @ (np.array([[2.0, 0.0], [0.0, 0.5]]) @ turn.T)

    found = isometry.ellipses(flat, latent)
    np.testing.assert_allclose(found.condition, 4, rtol=1e-6)
    np.testing.assert_allclose(np.abs(found.axes[0]), [[0, 2], [0.5, 0]], atol=1e-6)
    assert found.spread < 1e-6
    # by its formula: x -> exp(x) has the metric exp(2x)
    bent = isometry.pullback(np.exp, latent[:5])
    np.testing.assert_allclose(bent, [np.diag(np.exp(2 * z)) for z in latent[:5]], rtol=1e-4, atol=1e-8)
    assert isometry.ellipses(lambda z: np.exp(2 * z), latent).spread > 0.5
    with pytest.raises(ValueError, match="two columns"):
        isometry.ellipses(flat, np.zeros((5, 3)))


def test_genes_are_where_they_were_only_if_positions_are_right():
    rng = np.random.default_rng(0)
    places = rng.uniform(0, 20, (900, 2))
    x = np.column_stack((places[:, 0], rng.normal(size=900), np.sin(places[:, 1] / 3), np.ones(900)))
    right = markers.markers(x, places, places, genes=2)
    assert right.genes.tolist() == [0, 2]
    np.testing.assert_allclose(right.correlation[:3], 1)
    assert np.isnan(right.correlation[3])
    assert right.spots.sum() == 1800
    # half a tile is half of 20 / 12
    assert np.nanmax(np.abs(right.true[0] - (np.arange(12)[:, None] + 0.5) * 20 / 12)) < 1
    wrong = markers.markers(x, places, rng.permutation(places), genes=2)
    assert np.abs(wrong.correlation[:3]).max() < 0.3


def test_a_process_is_the_exact_one_and_ignores_inputs_that_say_nothing():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 4))
    y = np.column_stack((np.sin(2 * x[:, 0]), x[:, 1])) + rng.normal(scale=0.1, size=(300, 2))
    found = ard_gp.fit(x[:200], y[:200], sample=150, steps=60)
    assert np.sqrt(((found.predict(x[200:]).mean - y[200:]) ** 2).mean()) < 0.25
    assert found.relevance[:1] > 5 * found.relevance[2:].max()
    # by the formulas of an exact process in the standardised inputs and outputs
    inputs = [(each - x[:200].mean(0)) / x[:200].std(0) for each in (x[:200], x[200:])]
    s, l, v = found.logs[:3].exp().numpy()  # noqa: E741

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        apart = ((a[:, None] - b) ** 2 * found.relevance**2).sum(-1)
        return s * np.exp(-apart / 2) + l * a @ b.T / 4

    unit = np.sqrt(((y[:200] - y[:200].mean(0)) ** 2).mean())
    solve = np.linalg.inv(kernel(inputs[0], inputs[0]) + v * np.eye(200))
    across = kernel(inputs[1], inputs[0])
    mean = across @ solve @ (y[:200] - y[:200].mean(0)) + y[:200].mean(0)
    variance = kernel(inputs[1], inputs[1]).diagonal() - (across @ solve * across).sum(1) + v
    predicted = found.predict(x[200:])
    np.testing.assert_allclose(predicted.mean, mean, atol=1e-4)
    np.testing.assert_allclose(predicted.variance, variance * unit**2, atol=1e-4)
    # a spot without its own output: the others' posterior
    rest = np.arange(200) != 7
    alone = np.linalg.inv(kernel(inputs[0][rest], inputs[0][rest]) + v * np.eye(199))
    offset = y[:200].mean(0)
    expected = kernel(inputs[0][7:8], inputs[0][rest]) @ alone @ (y[:200][rest] - offset) + offset
    np.testing.assert_allclose(found.leave_one_out(x[:200], y[:200])[7], expected[0], atol=1e-4)
    again = ard_gp.ArdGP.of(found.weights)
    np.testing.assert_array_equal(again.predict(x[200:]).mean, predicted.mean)


def test_a_part_is_predicted_as_if_its_outputs_were_not_there():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((90, 3))
    y = np.column_stack([np.sin(x[:, 0]), x[:, 1]]) + 0.1 * rng.standard_normal((90, 2))
    found, part = ard_gp.fit(x, y, seed=0), np.arange(90) % 3
    np.testing.assert_allclose(found.leave_parts_out(x, y, np.arange(90)), found.leave_one_out(x, y), atol=1e-8)
    # by the normal equations of the other parts alone
    inputs = (torch.as_tensor(x) - found.centre) / found.spread
    features = ard_gp._features(found.root, found.points, inputs, found.logs).numpy()
    rest, noise = features[part != 1], float(found.logs[2].exp())
    target = ((torch.as_tensor(y) - found.offset) / found.unit).numpy()[part != 1]
    weights = np.linalg.solve(noise * np.eye(features.shape[1]) + rest.T @ rest, rest.T @ target)
    expected = features[part == 1] @ weights * float(found.unit) + found.offset.numpy()
    np.testing.assert_allclose(found.leave_parts_out(x, y, part)[part == 1], expected, atol=1e-6)


def test_tables_score_held_out_spots_and_new_sections_against_rivals():
    x, places = tissue(900)
    section = np.repeat([0, 1, 2], 300)
    known = section < 2
    known[:150] = False
    true = places.copy()
    true[section == 2] += 1
    true[890:] = np.nan
    predicted = places + np.random.default_rng(3).normal(size=places.shape)
    found = evaluation.evaluate(
        x,
        true,
        predicted,
        section,
        known,
        sections=["a", "b", "c"],
        latent=predicted,
        rivals=("mean", "ridge"),
        genes=np.arange(30) + 500,
    )
    table = found["baselines"]
    assert list(zip(table["section"], table["kind"], table["method"], strict=True)) == [
        (name, kind, method)
        for name, kind in (("a", "held out"), ("c", "new section"))
        for method in ("dpvae", "mean", "ridge")
    ]
    assert table["spots"].tolist() == [150] * 3 + [290] * 3
    own = table["method"] == "dpvae"
    assert table["rmse"][own] == pytest.approx([np.sqrt(2), 2], rel=0.15)
    assert table["disparity"][table["method"] == "mean"].tolist() == [1, 1]
    assert found["radii"].shape == (900, 4)
    cover = found["coverage"]
    nine = cover["level"] == 0.9
    assert cover["share"][nine][0] == pytest.approx(0.9, abs=0.07)
    # the positions of the new section are shifted by what no radius knows of
    assert cover["share"][nine][1] < 0.8
    assert set(found["spatial"]["space"]) == {"expression", "latent", "positions"}
    assert (found["spatial"]["p"] < 0.01).all()
    assert found["markers"]["section"].tolist() == ["a", "c"]
    assert 500 <= found["markers"]["genes"].min() < found["markers"]["genes"].max() < 530
    assert found["distance"].shape == (900,)


def test_without_held_out_spots_known_ones_are_scored_as_predicted_by_others():
    x, places = tissue(300)
    section, known = np.zeros(300, dtype=int), np.ones(300, dtype=bool)
    predicted = places + np.random.default_rng(3).normal(size=places.shape)
    given = {"sections": ["a"], "rivals": ("mean",)}
    found = evaluation.evaluate(x, places, predicted, section, known, **given)
    assert set(found["baselines"]["kind"]) == {"out of fold"}
    assert found["baselines"]["spots"].tolist() == [60, 60]
    assert found["coverage"]["share"][2] == pytest.approx(0.9, abs=0.07)
    # positions that the model was fitted to say nothing of its errors
    fitted = evaluation.evaluate(x, places, places, section, known, out_of_fold=False, **given)
    assert not {"radii", "coverage", "baselines"} & fitted.keys()
    with pytest.raises(ValueError, match="known"):
        evaluation.evaluate(x, np.full_like(places, np.nan), predicted, section, known, **given)


def test_anchors_are_not_scored_and_place_a_section_for_rivals_too():
    rng = np.random.default_rng(0)
    section = np.repeat([0, 1], 200)
    true = rng.random((400, 2)) * 20
    x = np.column_stack([true, -true]) + 0.1 * rng.standard_normal((400, 4))
    # the second section has coordinates of its own
    true[200:] = true[200:, ::-1] * [-1, 1] + 100
    anchors = np.isin(np.arange(400), np.arange(200, 230))
    tables = evaluation.evaluate(
        x, true, true, section, section == 0, sections=["a", "b"], rivals=("ridge",), anchors=anchors, out_of_fold=False
    )["baselines"]
    ridge = tables["method"] == "ridge"
    assert tables["spots"].tolist() == [170, 170]
    assert tables["rmse"][ridge][0] < 1
