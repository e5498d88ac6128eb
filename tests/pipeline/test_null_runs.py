"""Runs with a null calibration: halves of one batch are fitted as the dataset is, and nothing of them is published."""

import json
from pathlib import Path

import pytest
from harness import nextflow

OPTIONS = ["-profile", "test", "--calibrate", "--controls", "false", "--integrated", "false"]


def test_a_calibration_adds_a_task_for_each_method_and_publishes_its_table_alone(pipeline: Path, tmp_path: Path):
    done = nextflow(pipeline, tmp_path, *OPTIONS, "--methods", "combat,none", "-stub-run")
    assert done.code == 0, done.output
    tasks = set(done.tasks())
    assert {"HALVE (simulated.null)", "CALIBRATE (simulated.null)"} <= tasks
    assert {name for name in tasks if name.startswith("FIT")} == {
        "FIT (simulated.combat.default.s0)",
        "FIT (simulated.none.default.s0)",
        "FIT (simulated.null.combat.default)",
        "FIT (simulated.null.none.default)",
    }
    # two fits, and three seeds of each method for each of three splits
    assert "20 of 20 fits done" in done.output
    published = [path.name for path in done.outdir.rglob("*") if path.is_file()]
    assert "simulated.calibration.json" in published
    assert not [name for name in published if ".null." in name]


@pytest.mark.slow
def test_a_calibration_of_real_fits_is_a_table_and_a_section(pipeline: Path, tmp_path: Path):
    done = nextflow(pipeline, tmp_path, *OPTIONS, "--methods", "combat", "--calibrate_batch", "batch2", text=True)
    assert done.code == 0, done.output
    found = json.loads((done.outdir / "scores" / "simulated.calibration.json").read_text())
    assert (found["dataset"]["name"], found["dataset"]["batch"]) == ("simulated", "batch2")
    (row,) = found["rows"]
    assert (row["method"], row["status"], row["seeds"]) == ("combat", "ok", [0, 1, 2])
    assert row["genes"]["slot"] == "layers/corrected_log"
    assert "Null calibration" in (done.outdir / "multiqc" / "multiqc_report.html").read_text()
