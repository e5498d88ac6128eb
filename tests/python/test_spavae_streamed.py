"""spaVAE of counts that stay in their file: the same refusals, sums, fits and answers as of counts in memory."""

import shutil

import anndata as ad
import h5py
import numpy as np
import pytest
from anndata.io import read_elem, write_elem
from scipy import sparse
from test_spavae import SETTINGS, SHORT, small, spots_of, tissue  # noqa: F401
from test_spavae_program import run, section_path  # noqa: F401

from unbatch.models import spavae
from unbatch.models.spavae import PRESETS, Spots, Stored, linear, spatial_genes
from unbatch.models.spavae.differential import mean_rates
from unbatch.models.spavae.prediction import neighbour_rates
from unbatch.nn.negative_binomial import GammaTerms

CHUNK = 64


@pytest.fixture(autouse=True)
def blocks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let blocks be small; the rows of each block that is read."""
    monkeypatch.setattr("unbatch.models.spavae.data.CHUNK", CHUNK)
    return []


def streamed_of(given: dict[str, np.ndarray], blocks: list[int]) -> Spots:
    counts = sparse.csr_matrix(given["counts"])

    def read(start: int, stop: int) -> sparse.csr_matrix:
        blocks.append(stop - start)
        return counts[start:stop]

    return Spots.of(Stored(read, counts.shape), given["points"], given["section"])


def test_a_streamed_fit_is_the_held_one_bit_by_bit(small, blocks):  # noqa: F811
    """Where all spots are in one window of the file, so sums are added up in the same order."""
    held, streamed = spots_of(small), streamed_of(small, blocks)
    settings = SETTINGS.but(**SHORT, validation=0.1)
    first, second = (spavae.fit(spots, settings, seed=3) for spots in (held, streamed))
    assert max(blocks) == CHUNK
    assert second.history == first.history
    for name, values in spavae.weights(first.model).items():
        np.testing.assert_array_equal(spavae.weights(second.model)[name], values)


def test_a_fitted_model_embeds_from_the_file_as_from_memory(small, blocks, monkeypatch):  # noqa: F811
    monkeypatch.setattr("unbatch.models.spavae.data.CHUNK", 13)
    held, streamed = spots_of(small), streamed_of(small, blocks)
    model = spavae.fit(held, SETTINGS.but(**SHORT)).model
    latent, other = (model.embed(spots) for spots in (held, streamed))
    assert max(blocks) == 13
    np.testing.assert_allclose(other.embedding, latent.embedding, atol=1e-5)
    found, _ = model.exact(streamed, np.arange(len(held)))
    for name in ("precision", "weighted"):
        np.testing.assert_allclose(getattr(found, name), getattr(model.moments, name), rtol=1e-6, atol=1e-6)


def test_sums_over_blocks_are_those_of_the_matrix(small, blocks):  # noqa: F811
    held, streamed = spots_of(small), streamed_of(small, blocks)
    cells = np.flatnonzero(np.arange(len(held)) % 7 > 1)
    np.testing.assert_array_equal(streamed.totals, small["counts"].sum(1))
    np.testing.assert_array_equal(streamed.of_genes(cells), small["counts"][cells].sum(0))
    np.testing.assert_array_equal(streamed.array(cells, np.array([5, 2])), small["counts"][cells][:, [5, 2]])
    np.testing.assert_array_equal(streamed.only(cells).only(np.arange(3, 70)).array(), small["counts"][cells[3:70]])
    group = small["layer"] % 2
    whole = GammaTerms(small["counts"], group, 2)
    parts = GammaTerms((found for _, found in streamed.blocks()), group, 2)
    for name in ("column", "value", "number", "positive"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))
    assert (parts.constant, parts.spots) == (whole.constant, whole.spots)
    number = np.random.default_rng(0).integers(0, len(cells), (40, 5))
    parts = (found for _, found in streamed.blocks(cells))
    means = [neighbour_rates(counts, streamed.totals[cells], number) for counts in (small["counts"][cells], parts)]
    np.testing.assert_allclose(means[1], means[0], rtol=1e-10)
    groups = [np.flatnonzero(small["layer"] == code) for code in (0, 3)]
    for mean, expected in zip(mean_rates(streamed, groups), mean_rates(held, groups), strict=True):
        np.testing.assert_allclose(mean, expected, rtol=1e-5)


def test_gene_tests_of_a_file_are_those_of_the_matrix(small, blocks, monkeypatch):  # noqa: F811
    """By blocks of genes, and with features of a large tissue, which are in float32."""
    held, streamed = spots_of(small), streamed_of(small, blocks)
    place = small["points"] / 100
    expected = spatial_genes.spatial_genes(held.counts, place, small["section"], small["section"])
    monkeypatch.setattr(spatial_genes, "ENTRIES", 25 * len(held))
    monkeypatch.setattr(spatial_genes, "ROWS", 100)
    found = spatial_genes.spatial_genes(streamed.counts, place, small["section"], small["section"])
    assert max(blocks) == CHUNK
    np.testing.assert_allclose(np.log(found.p_value), np.log(expected.p_value), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found.moran, expected.moran, atol=1e-9)
    shares = [linear.spatial_share(spots, epochs=1, seed=0).share for spots in (held, streamed)]
    np.testing.assert_allclose(shares[1], shares[0], rtol=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x["counts"] + 0.5,
        lambda x: np.where(x["counts"] > 8, -1, x["counts"]),
        lambda x: np.where(np.arange(100)[:, None] == 73, 0, x["counts"]),
    ],
)
def test_the_same_is_refused_with_the_same_sentence(change, blocks):
    given = tissue(side=10)
    given["counts"] = change(given).astype(np.float32)
    said = []
    for spots in (spots_of(given), streamed_of(given, blocks)):
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            spavae.fit(spots, SETTINGS)
        said.append(str(caught.value))
    assert said[0] == said[1]


def test_an_epoch_of_many_spots_takes_a_part_of_them():
    """So the steps of a fit have an upper limit, and a section has as many as ever."""
    plans = {spots: spavae.schedule(SETTINGS, spots) for spots in (4226, 15_769, 16_385, 1_000_000)}
    steps = {spots: (plan.epochs, plan.steps(spots)) for spots, plan in plans.items()}
    assert steps == {4226: (20, 9), 15_769: (12, 31), 16_385: (12, 32), 1_000_000: (12, 32)}
    # a minibatch that is asked for leaves the number of steps, and the published recipe takes all spots
    assert spavae.schedule(SETTINGS.but(minibatch=2048), 1_000_000).epochs == 23
    assert spavae.schedule(PRESETS["paper"], 1_000_000).steps(1_000_000) == 1954


def test_a_fit_of_more_spots_than_an_epoch_takes_finds_the_layers(monkeypatch, small, blocks):  # noqa: F811
    monkeypatch.setattr("unbatch.models.spavae.settings.MOST", 128)
    monkeypatch.setattr("unbatch.models.spavae.model.MOST_SEEN", 128)
    spots = streamed_of(small, blocks)
    fitted = spavae.fit(spots, SETTINGS)
    assert fitted.plan.steps(len(spots)) == 2
    assert len(fitted.model.known[0]) == len(spots)
    scores = fitted.model.embed(spots).mean
    explained = np.linalg.lstsq(np.c_[scores, np.ones(len(spots))], small["layer"], rcond=None)[1][0]
    assert 1 - explained / (len(spots) * small["layer"].var()) > 0.6


def test_the_program_answers_from_the_file_what_it_answers_from_memory(section_path, tmp_path, caplog):  # noqa: F811
    asked = [
        "--max-epochs",
        "2",
        "--fold",
        "1",
        "--denoised",
        "--spatial-genes",
        "--differential",
        "label",
        "--enhance",
    ]
    found, model = {}, tmp_path / "model"
    for way in ("yes", "no"):
        output = tmp_path / f"{way}.h5ad"
        options = [*asked, "--in-memory", way, "--model", str(model)]
        result = run(section_path, output, *options)
        assert result.exit_code == 0, result.output
        assert ("is read from the file" in result.stderr) == (way == "no")
        result = run(section_path, tmp_path / "applied.h5ad", "--apply", str(model), "--in-memory", way)
        assert result.exit_code == 0, result.output
        found[way] = ad.read_h5ad(output), ad.read_h5ad(tmp_path / "applied.h5ad")
    for held, streamed in zip(found["yes"], found["no"], strict=True):
        np.testing.assert_allclose(streamed.obsm["X_spavae"], held.obsm["X_spavae"], atol=1e-4)
    held, streamed = (found[way][0] for way in ("yes", "no"))
    np.testing.assert_allclose(streamed.layers["denoised"], held.layers["denoised"], rtol=1e-3)
    a, b = (each.uns["unbatch"] for each in (held, streamed))
    np.testing.assert_allclose(b["held_out"]["nb_per_spot"], a["held_out"]["nb_per_spot"], rtol=1e-4)
    np.testing.assert_allclose(b["spatial_genes"]["p_value"], a["spatial_genes"]["p_value"], rtol=1e-6)
    np.testing.assert_allclose(b["differential"]["first"], a["differential"]["first"], rtol=1e-4)
    np.testing.assert_allclose(b["maps"]["raw"], a["maps"]["raw"], rtol=1e-6)


def _no_counts(file: h5py.File) -> None:
    del file["layers/counts"]


def _first_row_twice(file: h5py.File) -> None:
    counts = read_elem(file["layers/counts"])
    del file["layers/counts"]
    write_elem(file["layers"], "counts", sparse.vstack([counts[:1], counts], format="csr"))


def _first_gene_twice(file: h5py.File) -> None:
    counts = read_elem(file["layers/counts"])
    del file["layers/counts"]
    write_elem(file["layers"], "counts", sparse.hstack([counts[:, :1], counts], format="csr"))


@pytest.mark.parametrize("change", [_no_counts, _first_row_twice, _first_gene_twice])
def test_counts_that_do_not_belong_to_the_cells_are_refused_from_the_file_too(section_path, tmp_path, change):  # noqa: F811
    bad = tmp_path / "bad.h5ad"
    shutil.copy(section_path, bad)
    with h5py.File(bad, "r+") as file:
        change(file)
    codes = [run(bad, tmp_path / "fit.h5ad", "--in-memory", way).exit_code for way in ("yes", "no")]
    assert codes == [2, 2]
    assert not (tmp_path / "fit.h5ad").exists()


@pytest.mark.parametrize("way", ["yes", "no"])
def test_a_fold_without_counts_is_refused_before_the_fit(section_path, tmp_path, way):  # noqa: F811
    adata = ad.read_h5ad(section_path)
    counts = adata.layers["counts"].tolil()
    counts[(adata.obs["split"] == 1).to_numpy()] = 0
    adata.layers["counts"] = counts.tocsr()
    adata.write_h5ad(tmp_path / "bad.h5ad")
    result = run(tmp_path / "bad.h5ad", tmp_path / "fit.h5ad", "--fold", "1", "--in-memory", way)
    assert (result.exit_code, "epoch" in result.stderr) == (2, False)


@pytest.mark.parametrize("value", [np.nan, -2.0])
def test_counts_that_break_the_contract_are_refused_from_the_file_too(section_path, tmp_path, value):  # noqa: F811
    adata = ad.read_h5ad(section_path)
    adata.layers["counts"].data[40] = value
    adata.write_h5ad(tmp_path / "bad.h5ad")
    results = [run(tmp_path / "bad.h5ad", tmp_path / "fit.h5ad", "--in-memory", way) for way in ("yes", "no")]
    assert [result.exit_code for result in results] == [2, 2]
    assert results[0].stderr.splitlines()[-1].partition(" ")[2] == results[1].stderr.splitlines()[-1].partition(" ")[2]
    assert not (tmp_path / "fit.h5ad").exists()
