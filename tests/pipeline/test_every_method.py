"""Methods of every kind, run by the pipeline."""

from pathlib import Path

import pytest
import yaml
from harness import ROOT, nextflow

CARDS = yaml.safe_load((ROOT / "assets" / "methods.yml").read_text())
# the plainest, one whose result is a graph, two programs of our own, and one that needs another image
KINDS = ["pca", "bbknn", "popari", "scmedal", "seurat"]
ALL = [name for name, card in CARDS.items() if card["kind"] != "control"]


@pytest.mark.parametrize(
    "methods", [pytest.param(KINDS, id="a method of each kind"), pytest.param(ALL, id="all", marks=pytest.mark.slow)]
)
def test_methods_run_where_what_they_need_is_installed(pipeline: Path, tmp_path: Path, methods: list[str]):
    options = ["-profile", "test", "--methods", ",".join(methods), "--max_epochs", "1", "--sim_noise", "nb"]
    run = nextflow(pipeline, tmp_path, *options, "--evidence", "false")
    assert run.code == 0, run.output
    rows = run.rows("simulated")
    assert set(rows) == {*methods, "none", "shuffled", "label_leak"}
    for name, row in rows.items():
        if row["status"] == "not applicable":
            assert "not installed" in row["message"], name
        else:
            assert (row["status"], row["metrics"]["ilisi"] is None) == ("ok", False), name
    outside = {name for name, card in CARDS.items() if card["image"] or card["extra"] == "liger"}
    assert all(rows[name]["status"] == "ok" for name in set(methods) - outside)
    assert rows["bbknn"]["output"] == "graph"
