"""The section of the report on spatial domains."""

import json
from pathlib import Path

import pytest
from test_report import CARDS, content, row, run, write_dataset

from unbatch.report.scores import read_scores
from unbatch.report.sections import space

RULES = ("kmeans", "kmeans_voted", "mixture", "mixture_voted")


def domains(start: float, step: float) -> dict:
    rules = {
        rule: {"nmi": start + step * i, "ari": start + step * i, "pas": 0.2, "chaos": 0.05}
        for i, rule in enumerate(RULES)
    }
    return {"kept": 0.125} | rules


def table(names: tuple[str, str]) -> dict:
    first, second = names
    rows = [
        row("harmony", seed, space={first: domains(0.3 + 0.02 * seed, 0.1), second: domains(0.5 + 0.02 * seed, 0.1)})
        for seed in (0, 1)
    ]
    rows.append(row("pca", space={first: domains(0.1, 0.01), second: {"reason": "all the same"}}))
    rows.append(row("bbknn", output="graph"))
    rows.append(row("none", space={first: domains(0.0, 0.0), second: domains(0.0, 0.0)}))
    sections = {name: {"cells": 45, "scored_cells": 45, "clusters": 2, "unlabelled": 3} for name in (first, second)}
    about = {"sections": sections, "left_out": {"<b>tiny": "it has 5 cells"}, "neighbours": 15, "voters": 6}
    return content(rows, space=about | {"starts": 3})


@pytest.fixture
def names() -> tuple[str, str]:
    return "<script>alert(1)</script>", "b"


def test_domains_are_means_over_seeds_and_sections_that_have_them(tmp_path: Path, names: tuple[str, str]):
    (tmp_path / "scores.json").write_text(json.dumps(table(names)))
    entries = {entry.method: entry for entry in read_scores(tmp_path / "scores.json", CARDS).entries}
    assert space.mean(entries["harmony"], names, "mixture", "nmi") == pytest.approx(0.61)
    assert space.mean(entries["harmony"], names[:1], "kmeans", "ari") == pytest.approx(0.31)
    assert space.mean(entries["pca"], names, "kmeans_voted", "nmi") == pytest.approx(0.11)
    assert space.mean(entries["pca"], names, "", "kept") == 0.125
    assert space.mean(entries["bbknn"], names, "kmeans", "nmi") is None


def test_the_page_shows_every_rule_and_escapes_names(tmp_path: Path, names: tuple[str, str]):
    (tmp_path / "scores.json").write_text(json.dumps(table(names)))
    write_dataset(tmp_path / "toy.h5ad")
    done = run(tmp_path / "scores.json", "--dataset", tmp_path / "toy.h5ad", "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    page = json.loads((tmp_path / "out" / "unbatch_space_0_page_mqc.json").read_text())["data"]
    assert "<script>" not in page
    assert "&lt;b&gt;tiny" in page
    assert all(page.count(f">{title}</th>") > 1 for title in space.RULES.values())
    # rules move harmony by 0.3; the embeddings are up to 0.61 + 0.1 - 0.13 apart
    assert "0.30" in page
    assert "0.58" in page
    assert page.count("<details>") == 4
    assert "BBKNN" not in page


def test_without_coordinates_there_is_no_page(tmp_path: Path):
    (tmp_path / "scores.json").write_text(json.dumps(content([row("harmony"), row("pca")])))
    assert run(tmp_path / "scores.json", "-o", tmp_path / "out").exit_code == 0
    assert not list((tmp_path / "out").glob("unbatch_space*"))
