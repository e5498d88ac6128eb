"""Sweeps: scores put on their grid, what follows from them, the pages, and `each`, which runs programs in turn."""

import csv
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from unbatch.cli import each
from unbatch.cli.report import main
from unbatch.errors import InputError
from unbatch.metrics.uncertainty import over_seeds
from unbatch.report.scores import failures, read_cards, read_scores
from unbatch.report.sections.methods import parameters_of_fits
from unbatch.report.sections.sweep.curves import whiskers
from unbatch.report.sections.sweep.summary import ranked_first, verdict
from unbatch.report.sweep import collect, curve, grid, leads, limits, means, standings

ASSETS = Path(__file__).parents[2] / "assets"
CARDS = read_cards(ASSETS / "methods.yml")
BATCH, BIO = ["ilisi", "kbet"], ["nmi", "ari"]


def write_scores(folder, totals, x=(0.0, 2.0), y=(0.5, 1.0), mix=("same",), seeds=(0, 1, 2), **more):
    """Scores of every dataset of a grid; `totals` maps a method to a function of its parameters, None for a failure."""
    paths = []
    for number, (a, b, c, seed) in enumerate(itertools.product(x, y, mix, seeds)):
        setting = {"batches": 2, "sigma_beta": a, "share_beta": b, "mix": c, "noise": "gaussian", "seed": seed}
        name, rows = f"toy{number}", []
        for method, score in totals.items():
            value = score(setting)
            lost = value is None
            rows.append(
                {
                    "id": f"{name}.{method}.default.s0",
                    "method": method,
                    "params_id": "default",
                    "seed": 0,
                    "status": "failed" if lost else "ok",
                    "exit_code": 1 if lost else 0,
                    "message": "it <b>broke</b>" if lost else None,
                    "metrics": {} if lost else dict.fromkeys([*BATCH, *BIO], value),
                    **dict.fromkeys(("batch", "bio", "total"), value),
                    "params": {"n_components": 30},
                }
            )
        dataset = {"name": name, "cells": 90, "genes": 50, "batches": {"a": 45, "b": 45}, "labels": {"T": 90}}
        content = {
            "schema": 1,
            "dataset": dataset | {"simulation": setting},
            "metrics": {"batch": BATCH, "bio": BIO, "weights": {"batch": 0.4, "bio": 0.6}},
            "rows": rows,
            "settings": {"seed": 0},
        }
        paths.append(folder / f"{name}.scores.json")
        paths[-1].write_text(json.dumps(content | more))
    return paths


def read(paths):
    return [read_scores(path, CARDS) for path in paths]


@pytest.fixture
def swept(tmp_path):
    """Harmony falls with the batch effect, ComBat does not; None is between them at the strongest."""
    paths = write_scores(
        tmp_path,
        {
            "none": lambda s: 0.5 + 0.01 * s["seed"],
            "harmony": lambda s: 0.9 - 0.2 * s["sigma_beta"] * s["share_beta"] + 0.01 * s["seed"],
            "combat": lambda s: 0.7 + 0.01 * s["seed"],
            "shuffled": lambda s: 0.99,
        },
        mix=("same", "shifted"),
    )
    return collect(read(paths))


# the grid


def test_numbers_span_the_maps_and_the_rest_makes_panels():
    settings = itertools.product((3.0, 0.0), (1.0, 0.5), ("same", "shifted"), (2, 4), (0, 1))
    names = ("sigma_beta", "share_beta", "mix", "batches", "seed")
    x, y, panels = grid([dict(zip(names, values, strict=True)) for values in settings])
    assert (x.name, x.values) == ("sigma_beta", [0.0, 3.0])
    assert (y.name, y.values) == ("share_beta", [0.5, 1.0])
    assert panels == [{"mix": m, "batches": b} for m in ("same", "shifted") for b in (2, 4)]


def test_a_sweep_of_other_numbers_spans_its_maps_by_them():
    fixed = {"sigma_beta": 2.0, "share_beta": 0.5}
    x, y, panels = grid([{**fixed, "sigma_gene": g, "seed": 0} for g in (0.3, 0.0)])
    assert (x.name, x.values, y.name, y.values) == ("sigma_gene", [0.0, 0.3], "sigma_beta", [2.0])
    assert panels == [{}]
    donors = {"preset": "donors", "sigma_common": 0.3, "sigma_type": 0.2, "cells": 60, "seed": 0}
    x, y, _ = grid([{**donors, "cells": cells} for cells in (60, 90)])
    assert (x.name, y.name, y.values) == ("cells", "sigma_common", [0.3])


def test_every_score_is_at_its_place(swept):
    harmony = swept.lines.index(next(line for line in swept.lines if line.method == "harmony"))
    # line, panel, y, x, seed
    assert swept.values["total"].shape == (4, 2, 2, 2, 3)
    assert swept.values["total"][harmony, 0, 1, 1].tolist() == pytest.approx([0.5, 0.51, 0.52])
    assert swept.setting(1, 0, 1) == {"sigma_beta": 2.0, "share_beta": 0.5, "mix": "shifted"}


def test_corrections_come_first_by_their_mean_total(swept):
    assert [line.method for line in swept.lines] == ["harmony", "combat", "shuffled", "none"]


def test_means_over_fewer_metrics_are_left_out_and_counted(tmp_path):
    paths = write_scores(tmp_path, {"harmony": lambda s: 0.5})
    content = json.loads(paths[0].read_text())
    content["rows"][0]["metrics"]["kbet"] = None
    paths[0].write_text(json.dumps(content))
    found = collect(read(paths))
    assert found.partial == 1
    assert np.isnan(found.values["batch"]).sum() == 1


def test_data_that_were_not_simulated_are_no_sweep(tmp_path):
    paths = write_scores(tmp_path, {"harmony": lambda s: 0.5})
    content = json.loads(paths[0].read_text())
    content["dataset"]["simulation"] = None
    paths[0].write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"toy0.scores.json: dataset has no simulation"):
        collect(read(paths))


def test_the_same_setting_twice_is_refused(tmp_path):
    results = read(write_scores(tmp_path, {"harmony": lambda s: 0.5}))
    with pytest.raises(InputError, match="has the same parameters and seed"):
        collect([*results, results[0]])


# what follows from it


def test_intervals_are_students_t_over_the_values_that_are_there():
    mean, half, count = over_seeds(np.array([[1.0, 2.0, 3.0], [4.0, np.nan, np.nan], [np.nan] * 3]))
    assert mean[:2].tolist() == [2.0, 4.0]
    assert count.tolist() == [3, 1, 0]
    # t(0.975, 2) = 4.30265
    assert half[0] == pytest.approx(4.30265 / np.sqrt(3), abs=1e-4)
    assert np.isnan([half[1], half[2], mean[2]]).all()


def test_a_curve_averages_only_over_seeds_that_have_all_settings():
    values = np.ones((1, 2, 2, 3))
    values[0, 1, 0, 0] = np.nan
    values[0, :, 0, 1] = 3
    mean, _, count = curve(values, -2)
    assert count.tolist() == [[2, 3]]
    assert mean.tolist() == [[2.0, 1.0]]


def test_a_method_is_first_where_its_difference_to_all_others_is_above_0(swept):
    found = {s.line.method: s for s in standings(swept)}
    # where sigma_beta 2 meets share_beta 0.5 harmony and combat tie, where it meets 1 harmony is at the level of none
    assert (found["harmony"].first, found["combat"].first, found["shuffled"].first) == (2, 2, 0)
    assert {s.line.method for s in ranked_first(swept, list(found.values()))} == {"harmony", "combat"}
    assert (found["harmony"].not_above, found["combat"].not_above) == (2, 0)
    value, setting = found["harmony"].lowest
    assert value == pytest.approx(0.51)
    assert (setting["sigma_beta"], setting["share_beta"]) == (2.0, 1.0)
    assert verdict(swept, list(found.values()))


def test_two_equal_methods_are_first_nowhere(tmp_path):
    rng = np.random.default_rng(0)
    equal = {name: lambda s: 0.6 + rng.normal(0, 0.01) for name in ("harmony", "combat")}
    found = collect(read(write_scores(tmp_path, equal, seeds=range(5))))
    assert ranked_first(found, standings(found)) == []
    assert not any(leads(found, *lines) for lines in ((a, [b]) for a, b in (found.lines, found.lines[::-1])))


def test_a_single_seed_ranks_nothing(tmp_path):
    found = collect(read(write_scores(tmp_path, {"harmony": lambda s: 0.9, "combat": lambda s: 0.2}, seeds=(0,))))
    assert [s.first for s in standings(found)] == [0, 0]


def test_a_mean_over_fewer_settings_does_not_lead(tmp_path):
    paths = write_scores(
        tmp_path,
        {"harmony": lambda s: 0.6, "combat": lambda s: 0.9 if s == {**s, "sigma_beta": 2.0, "share_beta": 1} else None},
    )
    found = collect(read(paths))
    assert "combat" in {s.line.method for s in standings(found) if s.lost == 2}
    assert not leads(found, found.lines[1], [found.lines[0]])


def test_without_a_batch_effect_its_share_makes_no_setting_of_its_own(swept):
    assert (len(swept.places), swept.settings) == (8, 6)
    # sigma_beta 0 at share_beta 0.5, in each of the two mixes
    assert [swept.places[i] for i in swept.distinct] == [(m, y, x) for m in (0, 1) for y, x in ((0, 0), (0, 1), (1, 1))]


def test_parameters_that_the_fits_chose_have_their_range(tmp_path):
    paths = write_scores(tmp_path, {"harmony": lambda s: 0.5}, seeds=(0, 1))
    for number, path in enumerate(paths):
        scores = json.loads(path.read_text())
        offset = ["rays", "none"][number % 2]
        scores["rows"][0]["params"] = {"metagenes": 11 + number % 3, "spatial": "auto", "offset": offset}
        path.write_text(json.dumps(scores))
    found = parameters_of_fits(read(paths))
    assert found == {
        ("harmony", "default"): {"metagenes": "11 to 13, by fit", "spatial": "auto", "offset": "rays, none, by fit"}
    }


def test_bars_end_where_scores_do():
    values, halves = np.array([0.9, 0.1, np.nan]), np.array([0.3, np.nan, np.nan])
    np.testing.assert_allclose(whiskers(values, halves), [[0.3, 0, np.nan], [0.1, 0, np.nan]])


def test_the_table_has_a_row_for_every_setting_and_method(swept):
    rows = means(swept)
    assert len(rows) == 8 * 4
    first = next(row for row in rows if row["method"] == "combat")
    assert (first["total"], first["seeds"]) == (pytest.approx(0.71), 3)
    assert first["total_low"] < first["total"] < first["total_high"]


def test_fits_that_failed_alike_are_one_line(tmp_path):
    results = read(write_scores(tmp_path, {"harmony": lambda s: None if s["sigma_beta"] else 0.5}))
    (row,) = failures(results)
    assert (row.label, len(row.rows), len(row.datasets)) == ("Harmony", 6, 6)


# the report


def report(folder, paths, *more):
    arguments = [*paths, "--methods", ASSETS / "methods.yml", "--threads", 1, *more, "-o", folder / "report"]
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_a_sweep_has_pages_of_its_own_and_none_per_dataset(tmp_path):
    paths = write_scores(
        tmp_path,
        {"none": lambda s: 0.5, "harmony": lambda s: None if s["share_beta"] == 1 else 0.7},
        mix=("same", "shifted"),
    )
    outcome = report(tmp_path, paths, "--sweep", tmp_path / "sweep.csv")
    assert outcome.exit_code == 0, outcome.output
    pages = {
        p.name.removesuffix("_page_mqc.json"): json.loads(p.read_text()) for p in (tmp_path / "report").glob("*.json")
    }
    assert sorted(name.removeprefix("unbatch_") for name in pages) == [
        "curves",
        "data",
        "means_file",
        "means_table",
        "methods_compared",
        "methods_metrics",
        "methods_paper",
        "methods_parameters",
        "summary",
        *(f"sweep_{panel}_{name}" for panel in (0, 1) for name in ("batch", "bio", "total")),
        "warnings",
    ]
    assert "it &lt;b&gt;broke&lt;/b&gt;" in pages["unbatch_warnings"]["data"]
    assert "24 datasets were simulated" in pages["unbatch_methods_paper"]["data"]
    with (tmp_path / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8 * 2
    assert {row["total"] for row in rows if row["method"] == "harmony"} == {"0.7", ""}
    again = report(tmp_path, paths, "--sweep", tmp_path / "again.csv")
    assert again.exit_code == 0
    for path in (tmp_path / "report").glob("*.json"):
        assert json.loads(path.read_text()) == pages[path.name.removesuffix("_page_mqc.json")]


def test_heat_maps_have_a_row_for_every_method_and_value(tmp_path):
    bad = "<img src=x onerror=alert(1)>"
    cards = {name: {"label": f"{bad}{end}", "kind": "correction"} for name, end in (("harmony", "<"), ("combat", ">"))}
    (tmp_path / "methods.yml").write_text(json.dumps(cards))
    paths = write_scores(
        tmp_path, {"harmony": lambda s: None if s["share_beta"] == 1 else 0.7, "combat": lambda s: 0.5}
    )
    given = [*paths, "--methods", tmp_path / "methods.yml", "--sweep", tmp_path / "sweep.csv", "-o", tmp_path / "out"]
    outcome = CliRunner().invoke(main, [str(a) for a in given])
    assert outcome.exit_code == 0, outcome.output
    page = json.loads((tmp_path / "out" / "unbatch_sweep_0_total_page_mqc.json").read_text())
    assert page["data"] == [[0.7, 0.7], [None, None], [0.5, 0.5], [0.5, 0.5]]
    assert page["xcats"] == ["sigma_beta 0", "sigma_beta 2"]
    assert len(set(page["ycats"])) == 4
    assert not set("".join(page["ycats"])) & set("<>&\"'")


def test_the_data_of_a_sweep_are_what_was_swept_and_what_was_fixed(tmp_path):
    paths = write_scores(tmp_path, {"none": lambda s: 0.5}, mix=("same", "<b>shifted</b>"))
    assert report(tmp_path, paths, "--sweep", tmp_path / "sweep.csv").exit_code == 0
    page = json.loads((tmp_path / "report" / "unbatch_data_page_mqc.json").read_text())["data"]
    swept, fixed = page.split("<details>")
    assert "24 datasets" in swept
    assert [name for name in ("sigma_beta", "share_beta", "mix", "seed", "noise") if f"<code>{name}<" in swept] == [
        "sigma_beta",
        "share_beta",
        "mix",
        "seed",
    ]
    assert "same, &lt;b&gt;shifted" in swept
    # titles, too, name the settings
    titles = [json.loads(path.read_text())["section_name"] for path in (tmp_path / "report").glob("*.json")]
    assert "mix _b_shifted__b_: Total" in titles
    assert "gaussian" in fixed


def test_a_sweep_without_any_result_is_reported_not_an_error(tmp_path):
    paths = write_scores(tmp_path, {"harmony": lambda s: None}, x=(1.0,), y=(0.5,), seeds=(0,))
    outcome = report(tmp_path, paths, "--sweep", tmp_path / "sweep.csv")
    assert outcome.exit_code == 0, outcome.output
    assert "No correction method has a total" in (tmp_path / "report" / "unbatch_summary_page_mqc.json").read_text()


def test_one_colour_scale_holds_all_maps():
    assert limits([np.array([0.31, np.nan]), np.array([0.92])]) == (pytest.approx(0.3), pytest.approx(1))
    assert limits([np.array([np.nan])]) == (0, 1)


# each


def run_each(folder, jobs):
    (folder / "jobs.json").write_text(json.dumps(jobs))
    return CliRunner().invoke(each.main, [str(folder / "jobs.json")])


def test_each_runs_programs_in_turn(tmp_path):
    jobs = [["simulate", "--seed", s, "--cells", 30, "--genes", 20, "-o", str(tmp_path / f"{s}.h5ad")] for s in (0, 1)]
    assert run_each(tmp_path, jobs).exit_code == 0
    assert (tmp_path / "0.h5ad").read_bytes() != (tmp_path / "1.h5ad").read_bytes()


def test_each_gives_what_the_program_alone_gives(tmp_path):
    import anndata as ad

    from unbatch.cli import simulate

    jobs = [["simulate", "--seed", s, "--cells", 30, "--genes", 20, "-o", str(tmp_path / f"{s}.h5ad")] for s in (0, 1)]
    assert run_each(tmp_path, jobs).exit_code == 0
    alone = [*jobs[1][:-1], str(tmp_path / "alone.h5ad")]
    assert CliRunner().invoke(simulate.main, [str(a) for a in alone[1:]]).exit_code == 0
    together, single = (ad.read_h5ad(tmp_path / name) for name in ("1.h5ad", "alone.h5ad"))
    assert np.array_equal(together.X, single.X)


@pytest.mark.parametrize(
    ("jobs", "code", "message"),
    [
        ([["simulate", "--cells", "1", "-o", "x.h5ad"], ["simulate"]], 2, "parameter cells is 1"),
        ([["simulate", "--sead", "1", "-o", "x.h5ad"]], 2, "--sead"),
        ([["simulat", "-o", "x.h5ad"]], 2, "no program 'simulat'"),
        ({"simulate": 1}, 2, "expected a list of command lines"),
    ],
)
def test_each_ends_at_the_first_failure_with_its_code(tmp_path, monkeypatch, jobs, code, message):
    monkeypatch.chdir(tmp_path)
    result = run_each(tmp_path, jobs)
    assert result.exit_code == code
    assert message in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["jobs.json"]
