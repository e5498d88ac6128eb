"""The report's sections on metagenes and batch effect, of fits made from the truth of a simulation and noise."""

import json
import re
from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from test_report import Tags, content, pages_of, row

from unbatch.cli.report import main
from unbatch.errors import InputError
from unbatch.models.verdicts import RETIRED, Verdict, sentence
from unbatch.report.fits.batchblend import SECTIONS, effect, metagenes
from unbatch.report.fits.batchblend.effect import confounded, sentences
from unbatch.report.fits.batchblend.metagenes import gloss, telling
from unbatch.report.fits.batchblend.read import Affinity, Effect, Factorisation, read_factorisation
from unbatch.report.read import Cells, FitFile, read_dataset
from unbatch.report.section import Shown
from unbatch.report.sections import embeddings
from unbatch.report.text import amount, share, times

CARDS = {"none": {"label": "None", "kind": "control"}, "batchblend": {"label": "BatchBlend", "kind": "correction"}}
K = 12
EFFECT = ("beta", "offset", "offset_se", "total_offset", "total_offset_se", "factor", "log_factor_se")
REASON = sentence("offset", Verdict.REFUSED_SE, error=0.31).rstrip(".").replace("Hardly", "hardly")
REASON = REASON[:1].lower() + REASON[1:]


def fit_of(dataset: ad.AnnData, spatial: bool = True, offset: bool = True) -> ad.AnnData:
    """What fit-batchblend writes, if it found the truth up to noise, with one dead metagene in addition."""
    rng = np.random.default_rng(0)
    truth = dataset.uns["unbatch"]["truth"]
    batches = list(dataset.obs["batch"].cat.categories)
    # metagenes in another order than the true ones, the last one dead
    order = rng.permutation(K - 1)
    metagenes = np.column_stack([dataset.varm["metagenes_true"][:, order], np.full(dataset.n_vars, 1 / dataset.n_vars)])
    amounts = np.column_stack([dataset.obsm["X_true"][:, order] * truth["scale"], np.zeros(dataset.n_obs)])
    beta = np.column_stack([truth["beta"][:, order] * truth["scale"], np.zeros(len(batches))]) * offset
    shape = (len(batches), dataset.n_vars)
    se = 0.5 * np.ones(shape) * offset
    found = beta @ metagenes.T + rng.normal(size=shape) * se
    factor = np.exp(rng.normal(0, 0.3, shape))
    steps = [(batch, step) for batch in batches for step in ("offset", "factors")]
    accepted = np.array([offset or step == "factors" for _, step in steps])
    about = {
        "schema": 1,
        "method": "batchblend",
        "seed": 0,
        "params": {"n_metagenes": K},
        "batches": np.array(batches),
        "dead_metagenes": np.arange(K) == K - 1,
        "batch_effect": {
            "beta": beta,
            "offset": found,
            "offset_se": se,
            "total_offset": found.sum(axis=1),
            "total_offset_se": np.full(len(batches), 5.0),
            "factor": factor / np.exp(np.log(factor).mean(axis=0)),
            "log_factor_se": np.full(shape, 0.05),
        },
        "evidence": {
            "batch": np.array([batch for batch, _ in steps]),
            "step": np.array([step for _, step in steps]),
            "verdict": np.array(["accepted" if good else "refused_se" for good in accepted]),
            "error": np.full(len(steps), 0.31),
            "z": np.where(accepted, 6.5, np.nan),
        },
        "history": {
            "objective": 1 / np.arange(1, 21),
            "data": 0.9 / np.arange(1, 21),
            "spatial": np.r_[np.full(12, np.nan), np.linspace(-1, -2, 8)],
            "phase": np.repeat([0, 1], [12, 8]),
        },
    }
    if spatial:
        affinity = rng.normal(size=(1, K, K))
        about["spatial"] = {
            "affinity": affinity + affinity.transpose(0, 2, 1),
            "affinity_permuted": np.zeros((1, K, K)),
            "affinity_permuted_sd": np.full((1, K, K), 1.0),
            "mode": "hmrf",
        }
    return ad.AnnData(
        obs=dataset.obs[[]],
        var=dataset.var[[]],
        obsm={
            # a metagene that no cell has is not in the embedding
            "X_batchblend": (amounts / amounts.sum(axis=1, keepdims=True)).astype(np.float32)[:, :-1],
            "X_batchblend_amount": amounts.astype(np.float32),
        },
        varm={"metagenes": metagenes.astype(np.float32)},
        uns={"unbatch": about},
    )


def text_of(page: dict) -> str:
    """All that a page shows: HTML, or what MultiQC makes a plot of."""
    return page["data"] if page["plot_type"] == "html" else page["description"] + json.dumps(page)


def report(folder: Path, dataset: ad.AnnData, fit: ad.AnnData) -> dict[str, str]:
    """Content of the pages, by the middle of their file's name."""
    (folder / "methods.yml").write_text(json.dumps(CARDS))
    (folder / "s.json").write_text(json.dumps(content([row("batchblend")], cells=dataset.n_obs)))
    dataset.write_h5ad(folder / "d.h5ad")
    fit.write_h5ad(folder / "f.h5ad")
    given = ("--dataset", folder / "d.h5ad", "--fit", folder / "f.h5ad", "--methods", folder / "methods.yml")
    with pytest.MonkeyPatch.context() as patch:
        # UMAPs take longest and are tested elsewhere
        patch.setattr(embeddings.SECTION, "most", 0)
        outcome = CliRunner().invoke(main, [str(a) for a in (folder / "s.json", *given, "-o", folder / "out")])
    assert outcome.exit_code == 0, outcome.output
    return {
        name.removeprefix("unbatch_").removesuffix("_page_mqc.json"): text_of(page)
        for name, page in pages_of(folder / "out").items()
        if name.startswith(("unbatch_effect", "unbatch_metagenes", "unbatch_truth"))
    }


@pytest.fixture
def dataset(dataset_path: Path) -> ad.AnnData:
    return ad.read_h5ad(dataset_path)


@pytest.fixture(scope="module")
def found(dataset_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Pages on a fit that has everything."""
    dataset = ad.read_h5ad(dataset_path)
    return report(tmp_path_factory.mktemp("found"), dataset, fit_of(dataset))


def small(**changes) -> Factorisation:
    """Fit of 6 cells in 2 batches, 4 genes and 2 metagenes that holds nothing but these changes."""
    given = {
        "genes": ["a", "b", "c", "d"],
        "metagenes": np.array([[0.6, 0.5], [0.3, 0.1], [0.1, 0.35], [0, 0.05]]),
        "shares": np.full((6, 2), 0.5),
        "amounts": np.full((6, 2), 50.0),
        "dead": np.zeros(2, dtype=bool),
        "batches": ["one", "two"],
        "effect": None,
        "evidence": {},
        "history": {},
        "affinity": None,
    }
    return Factorisation(**given | changes)


def cells_of(batches: int, each: int) -> Cells:
    batch = np.repeat(np.arange(batches), each)
    positions = np.random.default_rng(0).random((len(batch), 2))
    names = pd.Index([f"c{i}" for i in range(len(batch))])
    return Cells(names, [f"batch{i}" for i in range(batches)], batch, None, None, positions)


def test_every_part_of_a_fit_has_a_page(found):
    assert set(found) == {
        *(f"effect_0_0_{key}" for key in ("found", "metagenes", "offsets", "factors")),
        *(f"metagenes_0_0_{key}" for key in ("genes", "maps", "affinities", "course")),
        "truth_0_0",
    }
    assert found["metagenes_0_0_maps"].count("<img") == (K - 1) * 2
    assert found["truth_0_0"].count("<img") == 2 * 2
    assert sum(map(len, found.values())) < 1_000_000


def test_a_dead_metagene_is_named_and_not_drawn(found):
    assert f'<b>{K}</b></td>\n<td colspan="3"><span class="ub-pill ub-na">dead</span>' in found["metagenes_0_0_genes"]
    assert "1 of the metagenes is dead" in found["metagenes_0_0_genes"]
    assert f"Metagene {K}<" not in found["metagenes_0_0_maps"]


def test_genes_that_set_a_metagene_apart_come_before_those_frequent_everywhere():
    fit = small()
    assert [fit.genes[g] for g in telling(fit)[:, 0]] == ["b", "a", "d", "c"]
    assert gloss(fit, 1) == ["b", "c"]
    # with one metagene there is nothing to set it apart from
    alone = small(metagenes=np.array([[0.2], [0.5], [0.3], [0]]), shares=np.ones((6, 1)), amounts=np.ones((6, 1)))
    assert [alone.genes[g] for g in telling(alone)[:, 0]] == ["b", "c", "a", "d"]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (times(2), "× 2"),
        (times(1 / 1.44), "÷ 1.4"),
        (times(0.999), "× 1"),
        (times(1e9), "× more than 99"),
        (share(0.1234), "12%"),
        (share(0.004), "0.4%"),
        (share(1e-9), "< 0.1%"),
        (share(0), "0%"),
        (amount(1234.5), "1,230"),
        (amount(0.01234), "0.0123"),
    ],
)
def test_numbers_are_written_for_people(written, expected):
    assert written.replace("\u00a0", " ") == expected


def test_the_batch_effect_is_said_in_words(dataset):
    fit = fit_of(dataset)
    effect = fit.uns["unbatch"]["batch_effect"]
    effect["offset"][:] = np.where(np.arange(60) == 7, 30.0, 0.1)
    effect["offset"][1] = 0
    effect["total_offset"] = np.array([100.0, 0])
    effect["factor"][:] = 1
    effect["factor"][0, :2] = 2, 0.5
    effect["log_factor_se"][:] = 0.1
    evidence = fit.uns["unbatch"]["evidence"]
    evidence["verdict"] = np.array(["accepted", "accepted", "refused_se", "refused_apart"])
    about = fit.uns["unbatch"]
    mean = fit.obsm["X_batchblend_amount"][:100].sum() / 100
    read = small(
        genes=list(dataset.var_names),
        amounts=np.asarray(fit.obsm["X_batchblend_amount"]),
        batches=list(about["batches"]),
        evidence=evidence,
        effect=Effect(*(effect[key] for key in EFFECT)),
    )
    said = sentences(read, replace(cells_of(2, 100), batches=["batch1", "batch2"]))
    first, second = (text.replace("\u00a0", " ") for _, text in said)
    of_all = f"{100 * 100 / (100 + mean):.0f}%"
    for value in ("100 (90% interval 91.8 to 108)", of_all, "gene8, gene1 and gene2", "2 of 60 genes", "some 3"):
        assert value in first
    assert all(factor in first for factor in ("gene1 (× 2)", "gene2 (÷ 2)", "gene3 (× 1)"))
    assert REASON in second
    apart = sentence("factors", Verdict.REFUSED_APART).rstrip(".").removeprefix("Not corrected: ")
    assert apart in second


def test_an_offset_that_is_not_shown_is_not_said_to_be_in_every_cell():
    none = np.zeros((2, 4))
    effect = Effect(np.zeros((2, 2)), none + 2, none + 9, np.array([8.0, 8]), np.array([30.0, 2]), none + 1, none + 0.1)
    steps = {
        "batch": np.array(["one", "two"]),
        "step": np.array(["offset"] * 2),
        "verdict": np.array(["nothing", "accepted_partly"]),
        "removed": np.array([0.06, 0.9]),
    }
    said = sentences(small(effect=effect, evidence=steps), replace(cells_of(2, 3), batches=["one", "two"]))
    assert "6.0% of its estimate is removed, 8 counts" in said[0][1].replace("\u00a0", " ")
    assert "90%" in said[1][1]


def test_a_refusal_is_plain_to_see(dataset, tmp_path):
    fit = fit_of(dataset, spatial=False, offset=False)
    del dataset.obsm["spatial"], dataset.uns["unbatch"]["truth"]
    pages = report(tmp_path, dataset, fit)
    assert "2 of 4 mostly left" in pages["effect_0_0_found"]
    assert f"No additive offset was removed: {REASON}." in pages["effect_0_0_found"]
    table = pages["effect_0_0_found"].split("<table")[1]
    assert table.index(">left<") < table.index(">removed<")
    # nothing is drawn of what was left
    assert not any("ambient RNA" in text for text in pages.values())


def test_nothing_found_is_no_refusal(dataset, tmp_path):
    fit = fit_of(dataset, offset=False)
    evidence = fit.uns["unbatch"]["evidence"]
    evidence["verdict"] = np.array(["refused_se", "accepted", "nothing", "accepted"])
    evidence["threshold"] = np.full(4, 3.0)
    page = report(tmp_path, dataset, fit)["effect_0_0_found"]
    assert "1 of 4 mostly left" in page
    assert "2 of 4 mostly or fully removed" in page
    assert page.count(">not shown<") == 1
    assert f"No additive offset was removed: {REASON}." in page
    assert "No additive offset was found:" in page


def test_a_verdict_that_is_none_is_refused(dataset, tmp_path):
    fit = fit_of(dataset)
    fit.uns["unbatch"]["evidence"]["verdict"] = np.array(["accepted", "Accepted whole, though"] * 2)
    fit.write_h5ad(tmp_path / "fit.h5ad")
    dataset.write_h5ad(tmp_path / "dataset.h5ad")
    with pytest.raises(InputError, match=r"fit.h5ad: evidence has the verdict 'Accepted whole, though', expected one"):
        read_factorisation(FitFile(tmp_path / "fit.h5ad"), read_dataset(tmp_path / "dataset.h5ad"))


def test_labels_of_one_batch_are_named_where_they_may_have_been_taken_for_its_effect():
    evidence = {
        "batch": np.array(["one", "one | two", "one | three"]),
        "step": np.array(["offset", "factors", "factors"]),
        "verdict": np.array(["accepted", "accepted_partly", "left"]),
        "composition": np.array([np.nan, 0.36, 0.5]),
        "removed": np.array([1, 0.98, 0.05]),
    }
    fit = small(evidence=evidence)
    (said,) = confounded(fit, [("Glia", "two", 12), ("Neurons", "three", 30)])
    assert said.startswith("one and two: ")
    assert "36%" in said
    assert "98%" in said
    assert "Glia (only in two, 12 cells)." in said
    assert confounded(fit, [("Neurons", "three", 30)]) == []


def test_a_model_without_a_term_for_the_batch_says_so(dataset, tmp_path):
    fit = fit_of(dataset, offset=False)
    about = fit.uns["unbatch"]
    del about["evidence"]
    for name in ("offset", "offset_se", "total_offset", "total_offset_se", "beta", "log_factor_se"):
        about["batch_effect"][name][:] = 0
    about["batch_effect"]["factor"][:] = 1
    pages = report(tmp_path, dataset, fit)
    assert "This model has no term for the batch" in pages["effect_0_0_found"]
    assert "once the batch effect is removed" not in pages["metagenes_0_0_genes"]
    assert "Evidence" not in pages["effect_0_0_found"]


def test_factors_refused_for_some_pairs_only_are_said_to_be(dataset):
    steps = {
        "batch": np.array(["one | two", "one | three"]),
        "step": np.array(["factors"] * 2),
        "verdict": np.array(["accepted", "refused_apart"]),
    }
    none, factor = np.zeros((2, 4)), np.array([[2.0, 1, 1, 1], [0.5, 1, 1, 1]])
    effect = Effect(np.zeros((2, 2)), none, none, np.zeros(2), np.zeros(2), factor, none + 0.1)
    said = sentences(small(effect=effect, evidence=steps), replace(cells_of(2, 3), batches=["one", "two"]))
    assert said[0][1].endswith("left in the data against three, in 1 of 2 comparisons.")
    assert "No additive offset was looked for." in said[0][1]
    assert "left in the data" not in said[1][1]


def test_what_was_removed_of_each_pair_is_drawn_with_its_interval(dataset, tmp_path):
    fit = fit_of(dataset)
    evidence = fit.uns["unbatch"]["evidence"]
    pair = evidence["step"] == "factors"
    evidence["verdict"] = np.where(pair, "accepted_partly", "accepted")
    evidence |= {"size": np.full(len(pair), 0.2), "removed": np.where(pair, 0.7, 1), "removed_error": 0.1 * pair}
    page = report(tmp_path, dataset, fit)["effect_0_0_pairs"]
    assert "width:70.0%" in page
    assert "left:53.5%;width:32.9%" in page
    assert "70% removed (54% to 86%)" in page


@pytest.mark.parametrize("code", sorted(RETIRED))
def test_a_fit_of_an_earlier_version_is_said_to_be_one(dataset, tmp_path, code):
    fit = fit_of(dataset)
    fit.uns["unbatch"]["evidence"]["verdict"] = np.array(["accepted", code] * 2)
    fit.write_h5ad(tmp_path / "fit.h5ad")
    dataset.write_h5ad(tmp_path / "dataset.h5ad")
    with pytest.raises(InputError, match=rf"fit.h5ad: evidence has the verdict '{code}', .* earlier version"):
        read_factorisation(FitFile(tmp_path / "fit.h5ad"), read_dataset(tmp_path / "dataset.h5ad"))


def test_without_coordinates_space_or_truth_their_pages_are_left_out(dataset, tmp_path):
    fit = fit_of(dataset, spatial=False)
    del dataset.obsm["spatial"], dataset.uns["unbatch"]["truth"]
    pages = report(tmp_path, dataset, fit)
    assert not any("<img" in text for text in pages.values())
    assert set(pages) == {
        *(f"effect_0_0_{key}" for key in ("found", "metagenes", "offsets", "factors")),
        *(f"metagenes_0_0_{key}" for key in ("genes", "course")),
    }


def test_the_course_of_a_fit_has_a_line_for_each_phase():
    history = {
        "objective": np.array([3.0, 2.0, -1.0]),
        "spatial": np.array([0.0, 0.0, -2.0]),
        "phase": np.array([0, 0, 1]),
    }
    *_, page = metagenes.SECTION.pages(small(history=history), Shown(replace(cells_of(2, 3), positions=None)))
    objective, spatial = page.plot["data"]
    assert list(objective.values()) == [[[1, 3.0], [2, 2.0]], [[3, -1.0]]]
    # a term without a part in a phase has no line there
    assert list(spatial.values()) == [[[3, -2.0]]]


def test_hostile_names_of_genes_and_batches_stay_text(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(metagenes, "MAX_MAPS", K)
    bad = "<script>alert(1)<"
    fit = fit_of(dataset)
    genes = [f"{bad}$x_{i}$\n" for i in range(dataset.n_vars)]
    dataset.var_names, fit.var_names = genes, genes
    batches = ["<img src=x onerror=alert(1)>", '"><b onmouseover=alert(1)>']
    dataset.obs["batch"] = dataset.obs["batch"].cat.rename_categories(batches)
    about = fit.uns["unbatch"]
    about["evidence"] = about["evidence"] | {"batch": np.repeat(batches, 2), "note": np.array([bad] * 4)}
    about["batches"] = dataset.uns["unbatch"]["truth"]["batches"] = np.array(batches)
    about["evidence"][bad] = np.ones(4)
    about["history"][f"{bad}$"] = np.ones(20)
    pages = report(tmp_path, dataset, fit)
    assert len(pages) == 9
    for text in pages.values():
        for tag, attributes in Tags(text).found:
            assert tag != "script"
            assert not [name for name in attributes if name.startswith("on")]
            assert tag != "img" or attributes["src"].startswith("data:image/")
    assert "&lt;script&gt;alert(1)&lt;" in pages["effect_0_0_offsets"]
    assert "&lt;img src=x" in pages["effect_0_0_found"]


def test_the_truth_of_a_simulation_is_compared_in_numbers(found, dataset):
    text = found["truth_0_0"]
    truth = dataset.uns["unbatch"]["truth"]
    # factors that all batches share are 1 here: the true offset is that of the simulation
    for total in (truth["beta"] * truth["scale"]).sum(axis=1):
        assert f'<td class="ub-num">{amount(total)}</td>' in text
    assert re.search(r"cosine</td><td class=\"ub-num\">(0\.9[5-9]|1\.)", text)
    assert text.count('<td class="ub-num">1.00</td><td class="ub-num">1.00</td>') == K - 1


def test_affinities_beyond_permutation_are_counted(found, dataset):
    spatial = fit_of(dataset).uns["unbatch"]["spatial"]
    living = np.abs(spatial["affinity"][0, : K - 1, : K - 1]) > 2
    pairs = np.triu_indices(K - 1)
    assert f"{living[pairs].sum()} of {len(pairs[0])} pairs exceed permutation" in found["metagenes_0_0_affinities"]


def test_many_metagenes_and_batches_keep_the_pages_small(monkeypatch):
    for limit in ("MAX_TISSUES", "OPEN_AFFINITIES"):
        monkeypatch.setattr(metagenes, limit, 2)
    monkeypatch.setattr(metagenes, "MAX_MAPS", 13)
    rng = np.random.default_rng(0)
    t, k, g = 40, 12, 500
    cells = cells_of(t, 20)
    amounts = rng.gamma(0.3, size=(len(cells.names), k))
    positive = rng.random((t, g)) + 0.5
    fit = small(
        genes=[f"gene{i}" for i in range(g)],
        metagenes=rng.dirichlet(np.ones(g), k).T,
        shares=amounts / amounts.sum(axis=1, keepdims=True),
        amounts=amounts,
        dead=np.zeros(k, dtype=bool),
        batches=cells.batches,
        effect=Effect(rng.random((t, k)), positive, positive, np.ones(t), np.ones(t), positive, positive),
        affinity=Affinity(*rng.random((3, t, k, k))),
    )
    pages = [page for section in (metagenes, effect) for page in section.SECTION.pages(fit, Shown(cells))]
    text = {page.title: page.content for page in pages}
    assert text["On the tissue"].count("<img") == 12
    assert "Shown are 1 of 40 sections." in text["On the tissue"]
    assert text["Neighbours"].count("<img") == 2
    assert "38 further batches are not drawn" in text["Neighbours"]
    assert "The first 12 of 40 batches." in text["Added counts by gene"]
    assert sum(map(len, text.values())) < 3_000_000


def test_fits_beyond_the_limit_are_counted_not_shown(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(SECTIONS, "most", 0)
    assert report(tmp_path, dataset, fit_of(dataset)) == {}
    warnings = pages_of(tmp_path / "out")["unbatch_warnings_page_mqc.json"]["data"]
    assert "batch effect are not shown, as they are too many: 1." in warnings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda fit: fit.uns["unbatch"]["batch_effect"].update(beta=np.ones((2, 3))), "expected numbers 2 x 12"),
        (lambda fit: fit.uns["unbatch"]["batch_effect"].pop("offset_se"), "offset_se is missing"),
        (
            lambda fit: fit.uns["unbatch"]["batch_effect"].update(factor=np.zeros((2, 60))),
            "does not hold finite numbers above 0",
        ),
        (lambda fit: fit.obsm.pop("X_batchblend_amount"), "X_batchblend_amount is missing"),
    ],
)
def test_a_fit_that_breaks_the_contract_is_refused(dataset, tmp_path, change, message):
    fit, path = fit_of(dataset), tmp_path / "fit.h5ad"
    change(fit)
    fit.write_h5ad(path)
    dataset.write_h5ad(tmp_path / "d.h5ad")
    with pytest.raises(InputError, match=message):
        read_factorisation(FitFile(path), read_dataset(tmp_path / "d.h5ad"))
