"""Measured values as rows, and the pages that are made of them."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEADER = "benchmark,dataset,method,seed,metric,value,commit,date,machine,command\n"
TARGETS = """
- {claim: fast enough, page: toy, operator: "<=", target: 2, unit: s, digits: 1, source: thesis,
   find: {benchmark: toy, dataset: small, method: ours, metric: wall_s}}
- {claim: best of all, page: toy, operator: ">", target: 0, source: issue,
   find: {benchmark: toy, dataset: "*", method: ours, metric: total}, against: {by: difference, method: theirs}}
- {claim: never measured, page: toy, operator: ">=", target: 0.5, source: paper,
   find: {benchmark: toy, dataset: large, method: ours, metric: total}}
"""


@pytest.fixture
def modules(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import record
    import render

    yield record, render
    for name in ("record", "render"):
        sys.modules.pop(name)


@pytest.fixture
def source(tmp_path):
    """A folder as benchmarks/ is one, without results."""
    (tmp_path / "pages").mkdir()
    (tmp_path / "results").mkdir()
    (tmp_path / "targets.yml").write_text(TARGETS)
    (tmp_path / "pages" / "index.md").write_text(
        "# All\n\n{{ count(True) }} {{ count(False) }} {{ count(none) }}\n\n{{ targets() }}\n"
    )
    page = '{{ table("toy", [("s", "wall_s", 1), ("total", "total")], dataset="small") }}\n\n{{ repeat("toy") }}\n'
    (tmp_path / "pages" / "toy.md").write_text(f"# Toy\n\n{page}")
    return tmp_path


def row(dataset="small", method="ours", seed="0", metric="total", value="0.5", commit="aaaaaaa", date="2026-01-01"):
    return f"toy,{dataset},{method},{seed},{metric},{value},{commit},{date},a machine,run it\n"


def write(source, *rows, name="toy"):
    (source / "results" / f"{name}.csv").write_text(HEADER + "".join(rows))


def test_pages_are_what_the_results_and_targets_make():
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "render.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_recorded_values_are_appended_with_what_made_them(modules, tmp_path, monkeypatch):
    record, _ = modules
    monkeypatch.setenv("BENCH_RESULTS", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [str(ROOT / "benchmarks" / "x.py"), "/home/me/dlpfc.h5ad", "--keep=/home/me/k"])
    record.record("toy", "small, 5 cells", "ours", {"total": 0.25, "cells": 5, "pcr": float("nan")}, seed=3)
    record.record("toy", "small, 5 cells", "ours", {"total": 0.75}, seed="0-4")
    with (tmp_path / "toy.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == record.FIELDS
    assert [(r["seed"], r["metric"], r["value"]) for r in rows] == [
        ("3", "total", "0.250000"),
        ("3", "cells", "5"),
        ("0-4", "total", "0.750000"),
    ]
    assert rows[0]["command"] == "python benchmarks/x.py $DLPFC --keep=$K"
    assert "/" not in rows[0]["machine"]
    head = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    if head.returncode == 0:
        assert rows[0]["commit"].removesuffix("-dirty") == head.stdout.strip()


@pytest.mark.parametrize("wrong", [{"benchmark": "../toy"}, {"dataset": " "}, {"seed": "1,2"}, {"method": "a\nb"}])
def test_a_bad_name_is_not_recorded(modules, tmp_path, monkeypatch, wrong):
    record, _ = modules
    monkeypatch.setenv("BENCH_RESULTS", str(tmp_path))
    given = {"benchmark": "toy", "dataset": "small", "method": "ours", "values": {"total": 1.0}} | wrong
    with pytest.raises(ValueError, match=next(iter(wrong))):
        record.record(**given)
    assert not list(tmp_path.iterdir())


def test_a_command_that_fails_leaves_no_rows(modules, tmp_path, monkeypatch):
    record, _ = modules
    monkeypatch.setenv("BENCH_RESULTS", str(tmp_path))
    assert record.main(["measure", "toy", "none", "fails", "--", sys.executable, "-c", "exit(3)"]) == 3
    assert not list(tmp_path.iterdir())
    assert record.main(["measure", "toy", "none", "works", "--", sys.executable, "-c", ""]) == 0
    with (tmp_path / "toy.csv").open(newline="") as file:
        assert {r["metric"] for r in csv.DictReader(file)} == {"wall_s", "cpu_s", "peak_gb", "load"}


def test_targets_are_met_missed_or_not_measured(modules, source):
    _, render = modules
    totals = [row(metric="total", value="0.9"), row("other", value="0.3"), row(method="theirs", value="0.8")]
    write(source, row(metric="wall_s", value="1.5"), *totals, row("other", "theirs", value="0.4"))
    text = render.rendered(source)["index.md"]
    assert text.splitlines()[2] == "1 1 1"
    said = {line.split(" | ")[0]: [cell.strip() for cell in line.split(" | ")[1:4]] for line in text.splitlines()[4:]}
    assert said["| [fast enough](toy.md)"] == ["at most 2 s", "1.5 s", "yes"]
    # ahead on one of two datasets: the other one decides
    assert said["| [best of all](toy.md)"] == ["above 0", "-0.1", "**no**"]
    assert said["| [never measured](toy.md)"] == ["at least 0.5", "", "not measured"]


def test_the_newest_row_of_a_seed_counts(modules, source):
    _, render = modules
    old = [row(seed=seed, value="0.100") for seed in "01"]
    write(source, *old, row(seed="1", value="0.300", commit="bbbbbbb", date="2026-01-02"))
    page = render.rendered(source)["toy.md"]
    assert "| ours |  | 0.200 |" in page
    assert "`aaaaaaa` (2026-01-01), `bbbbbbb` (2026-01-02) on a machine" in page


def test_a_mean_over_seeds_counts_until_all_of_them_are_measured_again(modules, source):
    _, render = modules
    carried = row(seed="0-1", value="0.52"), row(seed="0-1", metric="total (sd)", value="0.01")
    new = [row(seed=seed, value=value, date="2026-01-02") for seed, value in (("0", "0.700"), ("1", "0.800"))]
    write(source, *carried, new[0])
    assert "| ours |  | 0.52 |" in render.rendered(source)["toy.md"]
    write(source, *carried, row(seed="1-2", value="0.900", date="2026-01-03"))
    assert "| ours |  | 0.900 |" in render.rendered(source)["toy.md"]
    write(source, *carried, *new)
    assert "| ours |  | 0.750 |" in render.rendered(source)["toy.md"]


def test_values_keep_the_precision_that_they_were_recorded_with(modules):
    _, render = modules
    rows = render.Results(
        [render.Row("toy", "d", "m", "", "a", text, "c", "2026-01-01", "m", "r") for text in ["0.25"]]
    )
    assert rows.value("toy", "d", "m", "a").text(3) == "0.25"
    assert rows.value("toy", "d", "m", "a").text(1) == "0.2"
    assert rows.value("toy", "d", "m", "b") is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("results/toy.csv", "benchmark,value\ntoy,1\n"),
        ("results/toy.csv", HEADER + row(value="fast")),
        ("results/toy.csv", HEADER + row().replace("toy,", "other,", 1)),
        ("targets.yml", "- {claim: x}"),
        ("targets.yml", TARGETS.replace("page: toy", "page: nowhere", 1)),
        ("targets.yml", TARGETS.replace("thesis", "thesis, colour: red", 1)),
        ("pages/toy.md", "# Toy\n\n{{ table('toy', [('s', 'wall_s')], dataset='large') }}\n"),
        ("pages/toy.md", "# Toy\n\nnothing of the results\n"),
        ("pages/toy.md", "no heading\n"),
    ],
)
def test_bad_input_ends_with_code_2_and_writes_nothing(modules, source, name, text, capsys):
    _, render = modules
    write(source, row())
    (source / "targets.yml").write_text("[]")
    (source / name).write_text(text)
    assert render.main(["--source", str(source), "--out", str(source / "out")]) == 2
    assert Path(name).name in capsys.readouterr().err
    assert not (source / "out").exists()


def test_check_names_pages_that_are_stale(modules, source, capsys):
    _, render = modules
    given = ["--source", str(source), "--out", str(source / "out")]
    write(source, row())
    assert render.main(given) == 0
    assert render.main([*given, "--check"]) == 0
    write(source, row(value="0.6"))
    (source / "out" / "gone.md").write_text("a page that no template makes\n")
    assert render.main([*given, "--check"]) == 1
    said = capsys.readouterr().err
    assert "toy.md" in said
    assert "gone.md" in said
    assert render.main(given) == 0
    assert render.main([*given, "--check"]) == 0
