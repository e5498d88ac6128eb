"""A run of the pipeline: what it publishes, what it says of fits that fail, what -resume runs again."""

import hashlib
import json
from pathlib import Path
from urllib.parse import unquote

import anndata as ad
import pytest
import yaml
from harness import Run, nextflow


@pytest.fixture(scope="module")
def full(pipeline: Path, samplesheet: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run in which some fits succeed, one does not apply, and one is killed and then fails."""
    folder = tmp_path_factory.mktemp("full")
    return nextflow(pipeline, folder, *full_options(samplesheet, folder))


def full_options(samplesheet: Path, folder: Path) -> list[str]:
    options = [
        # in full, as a folder of the machine that is not to be published
        "--outdir",
        str(folder / "out"),
        "--input",
        str(samplesheet),
        "--label_key",
        "cell type",
        "--methods",
        "none,harmony,batchblend,picky,greedy",
    ]
    return [*options, "--controls", "false", "--seeds", "1", "--allow_failed", "--max_retries", "1", "--max_cpus", "2"]


def test_a_run_publishes_every_step_and_ends_with_the_report(full: Run):
    assert full.code == 0, full.output
    published = {path.relative_to(full.outdir).as_posix() for path in full.outdir.rglob("*") if path.is_file()}
    assert {
        "dataset/my_sheet.h5ad",
        "fits/my_sheet.none.default.s0.fit.h5ad",
        "fits/my_sheet.harmony.default.s0.fit.h5ad",
        "fits/my_sheet.batchblend.default.s0.fit.h5ad",
        "models/my_sheet.batchblend.default.s0.model/config.json",
        "models/my_sheet.batchblend.default.s0.model/weights.safetensors",
        "scores/my_sheet.scores.json",
        "integrated.h5ad",
        "multiqc/multiqc_report.html",
        "pipeline_info/trace.txt",
        "pipeline_info/report.html",
        "pipeline_info/timeline.html",
        "pipeline_info/dag.html",
        "pipeline_info/unbatch_mqc_versions.yml",
        "pipeline_info/params.json",
        "ro-crate-metadata.json",
    } <= published
    assert not [name for name in published if name.endswith((".outcome.json", "picky.default.s0.fit.h5ad"))]
    assert "5 of 5 fits have ended" in full.output
    assert "3 of 5 fits done" in full.output
    assert f"Report: {full.outdir}/multiqc/multiqc_report.html" in full.output


def test_a_run_ends_with_one_file_to_go_on_with_and_says_what_is_chosen(full: Run):
    data = ad.read_h5ad(full.outdir / "integrated.h5ad")
    dataset = ad.read_h5ad(full.outdir / "dataset" / "my_sheet.h5ad")
    assert data.obs_names.equals(dataset.obs_names)
    assert {"X_none", "X_harmony", "X_batchblend", "X_umap"} <= set(data.obsm)
    assert {"leiden", "cell type"} <= set(data.obs)
    # one seed gives no interval: the highest total, with a warning
    rows = full.rows("my_sheet")
    highest = max(("none", "harmony", "batchblend"), key=lambda method: rows[method]["total"])
    about = data.uns["unbatch"]["integrated"]
    assert (about["method"], about["reason"]) == (highest, "highest")
    assert f"WARN: my_sheet: {about['text']}" in full.output
    assert not (full.outdir / "integrated.zarr").exists()


def test_the_one_file_can_be_left_out_or_be_a_zarr_store_too(pipeline: Path, tmp_path: Path):
    options = ["-profile", "test", "-stub-run", "--methods", "none,harmony", "--controls", "false"]
    without = nextflow(pipeline, tmp_path / "without", *options, "--integrated", "false")
    assert (without.code, "INTEGRATE (simulated)" in without.tasks()) == (0, False)
    store = nextflow(pipeline, tmp_path / "store", *options, "--integrated_zarr", "--use", "harmony", text=True)
    assert store.code == 0, store.output
    assert {path.name for path in store.outdir.glob("integrated.*")} == {"integrated.h5ad", "integrated.zarr"}


def test_a_crate_names_inputs_by_checksum_and_results_by_their_place(full: Run, samplesheet: Path):
    crate = json.loads((full.outdir / "ro-crate-metadata.json").read_text())["@graph"]
    about = {each["@id"]: each for each in crate}
    run = about["#run"]
    inputs = {about[each["@id"]]["sha256"] for each in run["object"] if each["@id"].startswith("#input")}
    assert inputs == {
        hashlib.sha256(path.read_bytes()).hexdigest()
        for path in [samplesheet, *samplesheet.parent.glob("*/my counts.h5ad")]
    }
    assert about["#parameter-seeds"]["value"] == "1"
    results = [each["@id"] for each in run["result"]]
    assert "scores/my_sheet.scores.json" in results
    assert all((full.outdir / unquote(name)).is_file() for name in results)
    assert set(results) == {each["@id"] for each in about["./"]["hasPart"]}


def test_what_is_published_names_no_folder_of_the_machine(full: Run, samplesheet: Path):
    # but where a parameter names one elsewhere, and in Nextflow's own report
    files = {path.relative_to(full.outdir).as_posix(): path for path in full.outdir.rglob("*") if path.is_file()}
    del files["pipeline_info/report.html"]
    texts = {name: path.read_bytes().replace(bytes(samplesheet), b"") for name, path in files.items()}
    own = [str(full.outdir.parent), str(full.outdir.parent.resolve()), str(samplesheet.parent), "/site-packages/"]
    assert not [(name, folder) for name, text in texts.items() for folder in own if folder.encode() in text]


def test_parameters_are_published_as_they_can_be_given_again(full: Run, samplesheet: Path):
    stated = json.loads((full.outdir / "pipeline_info" / "params.json").read_text())
    assert (stated["outdir"], stated["input"], stated["seeds"]) == ("out", str(samplesheet), 1)
    assert "help" not in stated


def test_every_planned_fit_is_a_row_whatever_became_of_it(full: Run):
    rows = full.rows("my_sheet")
    assert {name: row["status"] for name, row in rows.items()} == {
        "none": "ok",
        "harmony": "ok",
        "batchblend": "ok",
        "picky": "not applicable",
        "greedy": "failed",
    }
    assert rows["harmony"]["total"] > 0
    assert rows["batchblend"]["total"] > 0
    assert rows["picky"]["exit_code"] == 99
    assert "picky wants three batches or more" in rows["picky"]["message"]
    assert len({row["code"] for row in rows.values()}) == 1


def test_a_killed_fit_is_tried_again_and_then_reported_with_its_last_message(full: Run):
    row = full.rows("my_sheet")["greedy"]
    assert (row["exit_code"], row["attempts"]) == (1, 2)
    assert "greedy got <b>lost</b>" in row["message"]
    assert "my_sheet.greedy.default.s0: failed (exit 1)" in full.output


def test_names_and_labels_do_no_harm(full: Run):
    assert not list(full.outdir.parent.rglob("harm"))
    dataset = ad.read_h5ad(full.outdir / "dataset" / "my_sheet.h5ad")
    assert set(dataset.obs["batch"].cat.categories) == {"$(touch${IFS}harm)", "<script>alert(1)"}
    html = (full.outdir / "multiqc" / "multiqc_report.html").read_text()
    assert "<script>alert(" not in html
    assert "<b>lost</b>" not in html
    assert "Greedy" in html
    assert "BatchBlend: What was found" in html


def warnings(run: Run) -> list[str]:
    """What the terminal shows of what preprocess warned of."""
    return [line for line in run.output.splitlines() if line.startswith("WARN: my_sheet: ")]


def test_what_preprocess_warned_of_is_in_the_terminal_and_in_the_report(full: Run):
    shown = " ".join(warnings(full))
    assert "2 ?[2JTags<script>alert(2)</script>" in shown
    assert "10 of 58 of <script>alert(1)" in shown
    assert "my_sheet: 120 of 120 cells and 48 genes are kept" in full.output
    assert "\x1b[2J" not in full.output
    notes = json.loads((full.outdir / "dataset" / "my_sheet.notes.json").read_text())["notes"]
    assert {"not-genes", "genes-not-shared"} <= {note["code"] for note in notes}
    html = (full.outdir / "multiqc" / "multiqc_report.html").read_text()
    assert "unbatch_data_warnings" in html
    assert "2 ?[2JTags&lt;script&gt;alert(2)&lt;/script&gt;" in html


def test_versions_of_every_step_are_collated(full: Run):
    found = yaml.safe_load((full.outdir / "pipeline_info" / "unbatch_mqc_versions.yml").read_text())
    assert {"PREPROCESS", "fit-baseline", "fit-batchblend", "SCORE", "REPORT", "Workflow"} <= set(found)
    assert found["SCORE"]["scib-metrics"]
    assert found["Workflow"]["Nextflow"]


def test_resume_runs_only_what_failed(pipeline: Path, samplesheet: Path, full: Run):
    # as a run that was killed while it copied leaves a file
    cut = full.outdir / "fits" / "my_sheet.none.default.s0.fit.h5ad"
    whole = cut.read_bytes()
    cut.write_bytes(whole[:1000])
    again = nextflow(pipeline, full.outdir.parent, *full_options(samplesheet, full.outdir.parent), "-resume")
    assert again.code == 0, again.output
    assert cut.read_bytes() == whole
    run_again = {name for name, status in again.tasks().items() if status != "CACHED"}
    assert "FIT (my_sheet.greedy.default.s0)" in run_again
    # its row now says one attempt, as it was not killed this time: what depends on the row runs again, and no more
    assert run_again - {"SCORE (my_sheet)", "INTEGRATE (my_sheet)", "REPORT (report)", "MULTIQC (report)"} == {
        "FIT (my_sheet.greedy.default.s0)"
    }
    assert warnings(again) == warnings(full)
