"""Every method, run by the pipeline."""

from pathlib import Path

import yaml
from harness import ROOT, nextflow


def test_every_method_runs_where_what_it_needs_is_installed(pipeline: Path, tmp_path: Path):
    cards = yaml.safe_load((ROOT / "assets" / "methods.yml").read_text())
    methods = [name for name, card in cards.items() if card["kind"] != "control"]
    options = [
        "-profile",
        "test",
        "--methods",
        ",".join(methods),
        "--max_epochs",
        "1",
        "--sim_noise",
        "nb",
        "--evidence",
        "false",
    ]
    run = nextflow(pipeline, tmp_path / "outside", *options)
    assert run.code == 0, run.output
    rows = run.rows("simulated")
    assert set(rows) == {*methods, "none", "shuffled", "label_leak"}
    for name, row in rows.items():
        if row["status"] == "not applicable":
            assert "not installed" in row["message"], name
        else:
            assert (row["status"], row["metrics"]["ilisi"] is None) == ("ok", False), name
    outside = {name for name, card in cards.items() if card["image"] or card["extra"] == "liger"}
    assert all(rows[name]["status"] == "ok" for name in set(methods) - outside)
    assert rows["bbknn"]["output"] == "graph"
