"""Sweeps: every setting is scored, and -resume runs what is new or failed."""

import csv
import json
from pathlib import Path

import pytest
import yaml
from harness import Run, nextflow

SMALL = ["--sim_cells", "60", "--sim_genes", "60", "--max_cpus", "2"]
# greedy, killed at its first fit, fails in all others; moody fails at its first fit alone
OPTIONS = ["--sweep", "grid.yml", *SMALL, "--methods", "harmony,greedy,moody", "--allow_failed", "--max_retries", "0"]
STATUS = {"harmony": "ok", "greedy": "failed", "moody": "ok"}


@pytest.fixture(scope="module")
def swept(pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A sweep of two settings and two seeds, in which some fits fail."""
    folder = tmp_path_factory.mktemp("swept")
    (folder / "grid.yml").write_text("simulate: {sigma_beta: [0, 2.5], seed: [0, 1]}")
    return nextflow(pipeline, folder, *OPTIONS, text=True)


def status_by_fit(run: Run) -> dict[tuple[str, str], str]:
    """Status of every fit of a sweep, by dataset and method."""
    tables = (json.loads(path.read_text()) for path in (run.outdir / "scores").glob("*.scores.json"))
    return {
        (f"{simulation['sigma_beta']:g}-{simulation['seed']}", row["method"]): row["status"]
        for table in tables
        for simulation in [table["dataset"]["simulation"]]
        for row in table["rows"]
    }


def test_a_sweep_scores_every_setting_and_reports_on_the_grid(swept: Run):
    assert swept.code == 0, swept.output
    assert "Sweep: 2 settings, 4 datasets, 12 fits, 14 tasks" in swept.output
    assert "7 of 12 fits done" in swept.output
    assert len(swept.tasks()) == 14
    found = status_by_fit(swept)
    assert set(found) == {(f"{sigma}-{seed}", name) for sigma in ("0", "2.5") for seed in (0, 1) for name in STATUS}
    lost = [key for key, status in found.items() if status != STATUS[key[1]]]
    # which task of moody is the first is chance
    assert len(lost) == 1
    assert lost[0][1] == "moody"
    for sigma in ("0", "2p5"):
        for seed in (0, 1):
            name = f"sigma_beta{sigma}-seed{seed}"
            assert json.loads((swept.outdir / "scores" / f"{name}.scores.json").read_text())["dataset"]["cells"] == 120
            assert swept.rows(name)["harmony"]["total"] > 0
    with (swept.outdir / "scores" / "sweep.csv").open() as file:
        rows = [(row["sigma_beta"], row["method"], row["seeds"]) for row in csv.DictReader(file)]
    assert [row for row in rows if row[1] != "moody"] == [
        (sigma, *rest) for sigma in ("0.0", "2.5") for rest in (("harmony", "2"), ("greedy", "0"))
    ]
    assert sorted(row[2] for row in rows if row[1] == "moody") == ["1", "2"]
    html = (swept.outdir / "multiqc" / "multiqc_report.html").read_text()
    assert "greedy got &lt;b&gt;lost&lt;/b&gt;" in html
    assert not (swept.outdir / "fits").exists()


def test_resume_tries_the_failed_fits_of_a_sweep_again_and_no_others(pipeline: Path, swept: Run):
    (unlucky,) = (key[0] for key, status in status_by_fit(swept).items() if key[1] == "moody" and status != "ok")
    path = pipeline / "assets" / "methods.yml"
    cards = path.read_text()
    # what a task may take is no part of what it does
    more = {"harmony": yaml.safe_load(cards)["harmony"] | {"memory": "5 GB"}}
    try:
        path.write_text(yaml.safe_dump(yaml.safe_load(cards) | more))
        again = nextflow(pipeline, swept.outdir.parent, *OPTIONS, "-resume", text=True)
    finally:
        path.write_text(cards)
    assert "8 of 12 fits done" in again.output
    tried = {name for name, status in again.tasks().items() if name.startswith("FIT") and status != "CACHED"}
    setting = "sigma_beta" + unlucky.split("-")[0].replace(".", "p")
    assert tried == {f"FIT ({setting}.moody.default)"} | {f"FIT (sigma_beta{s}.greedy.default)" for s in ("0", "2p5")}
    assert {status for key, status in status_by_fit(again).items() if key[1] == "moody"} == {"ok"}


def test_a_sweep_that_grows_runs_only_what_is_new(pipeline: Path, tmp_path: Path):
    grid = tmp_path / "grid.yml"
    grid.write_text("simulate: {sigma_beta: [0], seed: [0, 1]}\nmethods: {harmony: {n_components: [10]}}")
    options = ["--sweep", "grid.yml", *SMALL, "--methods", "none,harmony", "-stub-run", "-resume"]
    assert nextflow(pipeline, tmp_path, *options).code == 0
    grid.write_text("simulate: {sigma_beta: [0, 1], seed: [0, 1]}\nmethods: {harmony: {n_components: [10, 20]}}")
    grown = nextflow(pipeline, tmp_path, *options)
    assert grown.code == 0, grown.output
    assert "12 of 12 fits done" in grown.output
    assert {name for name, status in grown.tasks().items() if status == "CACHED"} == {
        "SIMULATE (sigma_beta0)",
        "PREPROCESS (sigma_beta0)",
        "FIT (sigma_beta0.none.default)",
        "FIT (sigma_beta0.harmony.n_components=10)",
    }
