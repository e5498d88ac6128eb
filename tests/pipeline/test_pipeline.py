"""The pipeline, run by Nextflow for real on tiny data.

The runs share one copy of the pipeline, to which two methods are added as any method is: a card and a file each.
"""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import anndata as ad
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner

from unbatch.cli import simulate

ROOT = Path(__file__).parents[2]
PIPELINE = (
    "main.nf",
    "nextflow.config",
    "nextflow_schema.json",
    "assets",
    "bin",
    "conf",
    "functions",
    "modules",
    "workflows",
)

HOSTILE_TYPE = "\x1b[2JTags<script>alert(2)</script>"

HEAD = """
from unbatch.contract import Fit, Parameters, Run
from unbatch.data.cells import Cells
from unbatch.errors import NotApplicable

class Params(Parameters):
    pass

def fit(cells: Cells, params: Params, run: Run) -> Fit:
"""
ADDED = {
    "picky": """
    raise NotApplicable("picky wants three batches or more")
""",
    # killed at its first try, as by a scheduler; wrong at the second
    "greedy": """
    import os, signal
    from pathlib import Path
    tried = Path(os.environ["GREEDY_TRIED"])
    if not tried.exists():
        tried.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    raise ValueError("greedy got <b>lost</b>")
""",
    # wrong at its first try
    "moody": """
    import os
    from pathlib import Path
    tried = Path(os.environ["GREEDY_TRIED"])
    if not tried.exists():
        tried.touch()
        raise ValueError("moody is not in the mood")
    return Fit(cells.X.toarray()[:, :2])
""",
    "slow": """
    import time
    time.sleep(120)
""",
}


class Run(NamedTuple):
    """A finished run."""

    code: int
    output: str
    outdir: Path

    def tasks(self) -> dict[str, str]:
        """Status of the last attempt of every task, by name."""
        with (self.outdir / "pipeline_info" / "trace.txt").open() as file:
            rows = sorted(csv.DictReader(file, delimiter="\t"), key=lambda row: int(row["attempt"].strip("-") or 1))
        return {row["name"].removeprefix("UNBATCH:"): row["status"] for row in rows}

    def rows(self, dataset: str) -> dict[str, dict]:
        """Rows of the score table, by method."""
        table = json.loads((self.outdir / "scores" / f"{dataset}.scores.json").read_text())
        return {row["method"]: row for row in table["rows"]}


def nextflow(pipeline: Path, folder: Path, *options: str, parser: str = "v2", text: bool = False) -> Run:
    """Run the pipeline in a folder of its own, by the strict parser; -resume finds what ran there before.

    With `text` older Nextflows, too, hand over the values of the command line as text.
    """
    folder.mkdir(exist_ok=True)
    command = ["nextflow", "run", str(pipeline), "--outdir", "out", *options]
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment(folder, parser, text),
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    return Run(done.returncode, done.stdout + done.stderr, folder / "out")


def environment(folder: Path, parser: str = "v2", text: bool = False) -> dict[str, str]:
    more = {"NXF_DISABLE_PARAMS_TYPE_DETECTION": "true"} if text else {}
    return {
        **os.environ,
        "NXF_SYNTAX_PARSER": parser,
        "NXF_OFFLINE": "true",
        "NXF_ANSI_LOG": "false",
        "GREEDY_TRIED": str(folder / "tried"),
        **more,
    }


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("nextflow") is None:
        pytest.fail("no nextflow on PATH: run `make test`, which sets it up")
    folder = tmp_path_factory.mktemp("pipeline")
    for name in PIPELINE:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, folder / name)
    cards = yaml.safe_load((folder / "assets" / "methods.yml").read_text())
    for name, text in ADDED.items():
        (folder / "bin" / "unbatch" / "methods" / f"{name}.py").write_text(HEAD + text.strip("\n"))
        cards[name] = {**cards["none"], "label": name.title(), "kind": "correction"}
    (folder / "assets" / "methods.yml").write_text(yaml.safe_dump(cards, sort_keys=False))
    return folder


@pytest.fixture(scope="module")
def samplesheet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two samples whose names and labels would do harm where they are not quoted or escaped."""
    folder = tmp_path_factory.mktemp("sam ples")
    result = CliRunner().invoke(
        simulate.main, ["--cells", "60", "--genes", "60", "--noise", "nb", "-o", str(folder / "all.h5ad")]
    )
    assert result.exit_code == 0, result.output
    data = ad.read_h5ad(folder / "all.h5ad")
    data.obs["cell type"] = data.obs["cell_type"].astype(str).replace("Non-neuron", "<script>alert('label')</script>")
    lines = ["sample,path"]
    for name, part in zip(["$(touch${IFS}harm)", "<script>alert(1)"], data.obs["sample"].cat.categories, strict=True):
        (folder / part).mkdir()
        cells = data[data.obs["sample"] == part].copy()
        if len(lines) == 2:
            # of the second sample, some features are no genes, and others have names that the first does not know
            cells.var["feature_types"] = pd.Categorical(["Gene Expression"] * 58 + [HOSTILE_TYPE] * 2)
            cells.var_names = [f"other{i}" if i < 10 else name for i, name in enumerate(cells.var_names)]
        # the same file name twice, with a space, as from folders of samples
        cells.write_h5ad(folder / part / "my counts.h5ad")
        lines.append(f"{name},{part}/my counts.h5ad")
    (folder / "my sheet.csv").write_text("\n".join(lines) + "\n")
    return folder / "my sheet.csv"


@pytest.fixture(scope="module")
def full(pipeline: Path, samplesheet: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run in which some fits succeed, one does not apply, and one is killed and then fails."""
    return nextflow(pipeline, tmp_path_factory.mktemp("full"), *full_options(samplesheet))


def full_options(samplesheet: Path) -> list[str]:
    options = [
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
        "pipeline_info/dag.mmd",
        "pipeline_info/unbatch_mqc_versions.yml",
    } <= published
    assert not [name for name in published if name.endswith((".outcome.json", "picky.default.s0.fit.h5ad"))]
    assert "3 of 5 fits done" in full.output
    assert f"Report: {full.outdir}/multiqc/multiqc_report.html" in full.output


def test_a_run_ends_with_one_file_to_go_on_with_and_says_what_is_chosen(full: Run):
    data = ad.read_h5ad(full.outdir / "integrated.h5ad")
    dataset = ad.read_h5ad(full.outdir / "dataset" / "my_sheet.h5ad")
    assert data.obs_names.equals(dataset.obs_names)
    assert {"X_none", "X_harmony", "X_batchblend", "X_umap"} <= set(data.obsm)
    assert {"leiden", "cell type"} <= set(data.obs)
    # of one seed there is no interval: the highest total, with a warning
    rows = full.rows("my_sheet")
    highest = max(("none", "harmony", "batchblend"), key=lambda method: rows[method]["total"])
    about = data.uns["unbatch"]["integrated"]
    assert (about["method"], about["reason"]) == (highest, "highest")
    assert f"WARN: my_sheet: {about['text']}" in full.output
    assert not (full.outdir / "integrated.zarr").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--use", "harmny"], "--use: 'harmny' is no method of this run to go on with, did you mean harmony?"),
        (["--use", "combat"], "there are none, harmony"),
        (["--use", "shuffled"], "--use: 'shuffled' is no method of this run"),
        (
            ["--use", "harmony", "--integrated", "false"],
            "--use: no file to go on with is written with --integrated false",
        ),
        (["--integrated_zarr", "--sweep", "thesis"], "--integrated_zarr: no file to go on with is written in a sweep"),
    ],
)
def test_a_method_that_cannot_be_used_is_refused_before_any_task(
    pipeline: Path, tmp_path: Path, options: list[str], message: str
):
    simulate = [] if "--sweep" in options else ["--simulate"]
    failed = nextflow(pipeline, tmp_path, *simulate, "--methods", "none,harmony", *options)
    assert failed.code == 2
    assert message in failed.output
    assert "Submitted process" not in failed.output


def test_the_one_file_can_be_left_out_or_be_a_zarr_store_too(pipeline: Path, tmp_path: Path):
    options = ["-profile", "test", "-stub-run", "--methods", "none,harmony", "--controls", "false"]
    without = nextflow(pipeline, tmp_path / "without", *options, "--integrated", "false")
    assert (without.code, "INTEGRATE (simulated)" in without.tasks()) == (0, False)
    store = nextflow(pipeline, tmp_path / "store", *options, "--integrated_zarr", "--use", "harmony", text=True)
    assert store.code == 0, store.output
    assert {path.name for path in store.outdir.glob("integrated.*")} == {"integrated.h5ad", "integrated.zarr"}


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
    assert "BatchBlend, 1. What was found" in html


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
    assert "What to know about the data" in html
    assert "2 ?[2JTags&lt;script&gt;alert(2)&lt;/script&gt;" in html


def test_versions_of_every_step_are_collated(full: Run):
    found = yaml.safe_load((full.outdir / "pipeline_info" / "unbatch_mqc_versions.yml").read_text())
    assert {"PREPROCESS", "fit-baseline", "fit-batchblend", "SCORE", "REPORT", "Workflow"} <= set(found)
    assert found["SCORE"]["scib-metrics"]
    assert found["Workflow"]["Nextflow"]


def test_resume_runs_only_what_failed(pipeline: Path, samplesheet: Path, full: Run):
    again = nextflow(pipeline, full.outdir.parent, *full_options(samplesheet), "-resume")
    assert again.code == 0, again.output
    run_again = {name for name, status in again.tasks().items() if status != "CACHED"}
    assert "FIT (my_sheet.greedy.default.s0)" in run_again
    # its row now says one attempt, as it was not killed this time: what depends on the row runs again, and no more
    assert run_again - {"SCORE (my_sheet)", "INTEGRATE (my_sheet)", "REPORT (report)", "MULTIQC (report)"} == {
        "FIT (my_sheet.greedy.default.s0)"
    }
    assert warnings(again) == warnings(full)


def test_an_edited_package_runs_again(pipeline: Path, tmp_path: Path):
    options = ["-profile", "test", "-stub-run", "--methods", "none", "--controls", "false", "-resume"]
    assert nextflow(pipeline, tmp_path, *options).code == 0
    resumed = nextflow(pipeline, tmp_path, *options)
    assert set(resumed.tasks().values()) == {"CACHED"}
    module = pipeline / "bin" / "unbatch" / "metrics" / "separability.py"
    original = module.read_text()
    try:
        module.write_text(original + "# edited\n")
        edited = nextflow(pipeline, tmp_path, *options)
    finally:
        module.write_text(original)
    assert set(edited.tasks().values()) == {"COMPLETED"}


def test_a_failing_fit_stops_the_run_and_is_named(pipeline: Path, tmp_path: Path):
    # two parameters that do not go together, which only the program sees
    (tmp_path / "own.yml").write_text("batchblend: {graph: radius}\n")
    options = ["-profile", "test", "--methods", "batchblend", "--method_params", str(tmp_path / "own.yml")]
    # each of the two is true as a text
    failed = nextflow(pipeline, tmp_path, *options, "--allow_failed", "false", "--max_retries", "0", text=True)
    assert failed.code != 0
    assert "batchblend: graph radius needs parameter radius" in failed.output
    assert "The run failed" in failed.output
    assert (failed.outdir / "simulated" / "simulated.raw.h5ad").exists()
    assert not (failed.outdir / "scores").exists()


@pytest.mark.parametrize("text", [False, True])
def test_wrong_parameters_are_all_named_before_any_task(pipeline: Path, tmp_path: Path, text: bool):
    wrong = ["--simulate", "--sead", "3", "--batch-key", "x", "--seeds", "0", "--methods", "none,harmny"]
    wrong += ["--sim_mix", "sam", "--max_memory", "lots", "--n_top_genes", "few", "--max_cpus", "two"]
    failed = nextflow(pipeline, tmp_path, *wrong, "--max_retries", "no", "--allow_failed", "maybe", text=text)
    assert failed.code == 2
    for message in (
        "--sead: no such parameter, did you mean --seeds?",
        "did you mean --batch_key?",
        "--seeds: found 0, expected 1 or more",
        "no method 'harmny', did you mean harmony?",
        "--sim_mix: found 'sam', expected one of same, shifted, did you mean same?",
        "--max_memory: found 'lots'",
        "--n_top_genes: found 'few', a whole number was expected",
        "--max_cpus: found 'two', a whole number was expected",
        "--max_retries: found 'no', a whole number was expected",
        "--allow_failed: found 'maybe', true or false was expected",
    ):
        assert message in failed.output
    assert "Submitted process" not in failed.output


def described() -> dict[str, dict[str, Any]]:
    """Parameters of the schema, by name."""
    sections = json.loads((ROOT / "nextflow_schema.json").read_text())["$defs"].values()
    return {name: rule for section in sections for name, rule in section["properties"].items()}


def typed(pipeline: Path, folder: Path, values: dict[str, Any]) -> dict[str, Any]:
    """What the pipeline makes of the values of a parameter file."""
    shutil.copy2(ROOT / "tests" / "pipeline" / "typed.nf", pipeline)
    folder.mkdir()
    (folder / "values.json").write_text(json.dumps(values))
    command = ["nextflow", "run", str(pipeline / "typed.nf"), "-params-file", "values.json"]
    done = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "typed.json").read_text())


def test_every_parameter_means_the_same_as_text(pipeline: Path, samplesheet: Path, tmp_path: Path):
    usual: dict[str, Any] = {"boolean": True, "integer": 64, "number": 0.25, "string": "2024"}
    values = {name: rule.get("enum", [usual[rule["type"]]])[-1] for name, rule in described().items()}
    del values["sweep"]  # it excludes an input
    values |= {"input": str(samplesheet), "method_params": str(samplesheet), "simulate": False, "allow_failed": False}
    values |= {"methods": "none", "max_memory": "8.GB", "max_time": "2.h", "max_retries": 0}
    values |= {"sim_depth": 2.5, "sim_types": 7, "use": "none"}
    as_text = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in values.items()}
    found = typed(pipeline, tmp_path / "typed", values)
    assert found["errors"] == []
    assert values.items() <= found["values"].items()
    assert typed(pipeline, tmp_path / "text", as_text) == found


def test_a_text_that_is_no_number_and_no_flag_is_refused_for_what_it_is(pipeline: Path, tmp_path: Path):
    wrong = {name: "1 few" for name, rule in described().items() if rule["type"] != "string"}
    wrong |= {"sim_depth": "1e999", "input": "1 few", "targets": ["donor"]}
    found = typed(pipeline, tmp_path / "wrong", wrong)
    named = {message.split(":")[0] for message in found["errors"]}
    assert {f"--{name}" for name in wrong} <= named
    assert found["values"]["sim_depth"] == "1e999"


@pytest.mark.parametrize("text", [False, True])
def test_names_that_look_like_numbers_and_flags_are_names(pipeline: Path, tmp_path: Path, text: bool):
    options = ["-stub-run", "--simulate", "--methods", "none", "--controls", "false", "--seeds", "1"]
    named = ["--batch_key", "1", "--label_key", "true", "--outdir", "2024", "--publish_mode", "copy"]
    run = nextflow(pipeline, tmp_path, *options, *named, "--max_cpus", "2", text=text)
    assert run.code == 0, run.output
    assert (tmp_path / "2024" / "multiqc" / "multiqc_report.html").exists()
    assert len((tmp_path / "2024" / "pipeline_info" / "trace.txt").read_text().splitlines()) == 8


def processes_in(folder: Path) -> dict[int, str]:
    """Command lines of the processes that work in a folder."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink().is_relative_to(folder):
                found[int(process.name)] = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # it has ended, or is another user's
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="finds processes by /proc")
@pytest.mark.parametrize(
    ("program", "stop", "options"),
    [
        # simulate, which `each` runs
        ("each", "Ctrl-C", ["--sim_cells", "500000"]),
        ("fit-baseline", "Ctrl-C", ["--methods", "slow"]),
        ("fit-baseline", "SIGTERM", ["--methods", "slow"]),
    ],
)
def test_an_interrupted_run_leaves_no_process_behind(
    pipeline: Path, tmp_path: Path, program: str, stop: str, options: list[str]
):
    # a shell's background job, as these tests may be, ignores Ctrl-C, and so would what it starts
    command = ["env", "--default-signal=INT", "nextflow", "run", str(pipeline), "-profile", "test"]
    command += ["--controls", "false", *options]
    with (tmp_path / "log").open("w") as log:
        run = subprocess.Popen(
            command,
            cwd=tmp_path,
            env=environment(tmp_path),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    work = tmp_path / "work"
    try:
        start = time.monotonic()
        while not any(f"/bin/{program} " in line for line in processes_in(work).values()):
            assert run.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() - start < 120
            time.sleep(0.2)
        time.sleep(1)
        if stop == "Ctrl-C":
            os.killpg(run.pid, signal.SIGINT)
        else:
            run.send_signal(signal.SIGTERM)
        assert run.wait(60) != 0
        end = time.monotonic()
        while processes_in(work) and time.monotonic() - end < 5:
            time.sleep(0.2)
        assert not processes_in(work)
    finally:
        run.kill()
        for process in processes_in(work):
            os.kill(process, signal.SIGKILL)


@pytest.mark.parametrize(
    ("sheet", "message"),
    [
        ("sample,file\na,x.h5ad\n", "column path missing in the samplesheet; found sample, file"),
        ("sample,path\na,gone.h5ad\n", "gone.h5ad: no such file"),
    ],
)
def test_a_wrong_samplesheet_stops_before_any_task(pipeline: Path, tmp_path: Path, sheet: str, message: str):
    (tmp_path / "sheet.csv").write_text(sheet)
    failed = nextflow(pipeline, tmp_path, "--input", "sheet.csv")
    assert failed.code == 2
    assert "sheet.csv" in failed.output
    assert message in failed.output
    assert "Submitted process" not in failed.output


SWEEP = ["--methods", "harmony,greedy", "--sim_cells", "60", "--sim_genes", "60", "--max_cpus", "2"]


def test_a_sweep_scores_every_setting_and_reports_on_the_grid(pipeline: Path, tmp_path: Path):
    (tmp_path / "grid.yml").write_text("simulate: {sigma_beta: [0, 2.5], seed: [0, 1]}")
    # greedy, killed at its first fit, fails in all others
    options = ["--sweep", "grid.yml", *SWEEP, "--allow_failed", "--max_retries", "0"]
    run = nextflow(pipeline, tmp_path, *options, text=True)
    assert run.code == 0, run.output
    assert "Sweep: 2 settings, 4 datasets, 8 fits, 12 tasks" in run.output
    assert "4 of 8 fits done" in run.output
    assert len(run.tasks()) == 12
    for setting, sigma in (("sigma_beta0", 0), ("sigma_beta2p5", 2.5)):
        for seed in (0, 1):
            name = f"{setting}-seed{seed}"
            table = json.loads((run.outdir / "scores" / f"{name}.scores.json").read_text())
            simulation = table["dataset"]["simulation"]
            assert (simulation["sigma_beta"], simulation["seed"], simulation["cells"]) == (sigma, seed, 60)
            rows = run.rows(name)
            assert (rows["harmony"]["status"], rows["greedy"]["status"]) == ("ok", "failed")
            assert rows["harmony"]["total"] > 0
    with (run.outdir / "scores" / "sweep.csv").open() as file:
        assert [(row["sigma_beta"], row["method"], row["seeds"]) for row in csv.DictReader(file)] == [
            (sigma, *rest) for sigma in ("0.0", "2.5") for rest in (("harmony", "2"), ("greedy", "0"))
        ]
    html = (run.outdir / "multiqc" / "multiqc_report.html").read_text()
    assert "Harmony is the only correction" in html
    assert "greedy got &lt;b&gt;lost&lt;/b&gt;" in html
    assert not (run.outdir / "fits").exists()


def test_a_sweep_that_grows_runs_only_what_is_new(pipeline: Path, tmp_path: Path):
    grid = tmp_path / "grid.yml"
    grid.write_text("simulate: {sigma_beta: [0], seed: [0, 1]}\nmethods: {harmony: {n_components: [10]}}")
    options = ["--sweep", "grid.yml", *SWEEP, "--methods", "none,harmony", "-stub-run", "-resume"]
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


def test_a_failed_fit_of_a_sweep_is_tried_again_by_resume_and_others_are_not(pipeline: Path, tmp_path: Path):
    (tmp_path / "grid.yml").write_text("simulate: {seed: [0, 1]}")
    options = ["--sweep", "grid.yml", *SWEEP, "--methods", "none,moody", "--allow_failed", "--max_retries", "0"]
    first = nextflow(pipeline, tmp_path, *options)
    assert "3 of 4 fits done" in first.output
    assert "moody is not in the mood" in first.output
    path = pipeline / "assets" / "methods.yml"
    cards = path.read_text()
    try:
        # what a task may take is no part of what it does
        path.write_text(
            yaml.safe_dump(yaml.safe_load(cards) | {"none": yaml.safe_load(cards)["none"] | {"memory": "5 GB"}})
        )
        again = nextflow(pipeline, tmp_path, *options, "-resume")
    finally:
        path.write_text(cards)
    assert "4 of 4 fits done" in again.output
    fits = {name: status for name, status in again.tasks().items() if name.startswith("FIT")}
    assert fits == {"FIT (simulated.none.default)": "CACHED", "FIT (simulated.moody.default)": "COMPLETED"}


WRONG_GRID = """
simulate:
  sigma_bata: [0, 1]
  share_beta: [0.5, 2]
  mix: []
  batches: [2, 2.5]
  sigma_gene: [0, .inf]
  seed: [1, 1]
  preset: [thesis, donors]
methods:
  harmny: {n_components: [10]}
  none: {n_component: 10}
  batchblend: {spatial: [linaer, none], iterations: [many]}
"""


@pytest.mark.parametrize(
    ("grid", "messages"),
    [
        (
            WRONG_GRID,
            [
                "grid.yml: simulate.sigma_bata: no such parameter, did you mean sigma_beta?",
                "grid.yml: simulate.share_beta: found 2, expected 1 or less",
                "grid.yml: simulate.mix: the list is empty, expected one value or more",
                "grid.yml: simulate.batches: found '2.5', a whole number was expected",
                "grid.yml: simulate.sigma_gene: found 'Infinity', a number was expected",
                "grid.yml: simulate.seed: 1 stands there twice",
                "grid.yml: simulate.preset: found several, expected one",
                "grid.yml: methods.harmny: no such method, did you mean harmony?",
                "grid.yml: methods.none.n_component: no such parameter, did you mean n_components?",
                "grid.yml: methods.batchblend.spatial: found 'linaer', expected one of auto, none, linear, hmrf",
                "grid.yml: methods.batchblend.iterations: found 'many', expected a whole number, 1 or more",
            ],
        ),
        ("- sigma_beta", ["grid.yml: expected lists of values under simulate and methods"]),
        ("simulate: {mix: [same", ["grid.yml: not YAML"]),
    ],
)
def test_a_wrong_grid_stops_before_any_task(pipeline: Path, tmp_path: Path, grid: str, messages: list[str]):
    (tmp_path / "grid.yml").write_text(grid)
    failed = nextflow(pipeline, tmp_path, "--sweep", "grid.yml")
    assert failed.code == 2
    for message in messages:
        assert message in failed.output
    assert "Submitted process" not in failed.output


@pytest.mark.parametrize("parser", ["v1", "v2"])
def test_help_lists_every_parameter_by_section(pipeline: Path, tmp_path: Path, parser: str):
    shown = nextflow(pipeline, tmp_path, "--help", parser=parser)
    assert shown.code == 0
    sections = json.loads((ROOT / "nextflow_schema.json").read_text())["$defs"].values()
    for section in sections:
        assert section["title"] in shown.output
    for name in described():
        assert f"--{name} " in shown.output


def test_every_parameter_is_described_with_its_default():
    command = ["nextflow", "config", "-flat", str(ROOT)]
    shown = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "NXF_SYNTAX_PARSER": "v2"}
    )
    config = dict(
        line.removeprefix("params.").split(" = ", 1) for line in shown.stdout.splitlines() if line.startswith("params.")
    )
    assert set(config) == set(described())
    for name, rule in described().items():
        default = rule.get("default")
        expected = "null" if default is None else str(default).lower() if isinstance(default, bool) else str(default)
        assert config[name].strip("'") == expected, name


TOY = '''
"""A toy model of our own: the first genes, scaled."""

import numpy as np
from pydantic import Field

from unbatch.contract import Fit, Needs, Parameters, Run, SavedModel, Slot
from unbatch.data.cells import Cells

NEEDS = Needs(batches=1)
SLOTS = {"obsm/toy_double": Slot("twice the embedding"), "uns/gene": Slot("the first gene", "any")}


class Params(Parameters):
    """Parameters of `fit`."""

    genes: int = Field(3, ge=1, description="genes of the embedding")


def fit(cells: Cells, params: Params, run: Run) -> Fit:
    """Return the first genes."""
    return found(cells, {"scale": np.full(params.genes, 2.0)})


def apply(model: SavedModel, cells: Cells, run: Run) -> Fit:
    """Return those of other cells."""
    return found(cells, model.weights)


def found(cells: Cells, weights: dict) -> Fit:
    """Scale the first genes."""
    embedding = cells.X[:, : len(weights["scale"])].toarray() * weights["scale"]
    slots = {"obsm/toy_double": 2 * embedding, "uns/gene": cells.genes[0]}
    return Fit(embedding, weights=weights, config={"scaled": True}, slots=slots)


def sections():
    """Return the section of the report over its fits."""
    from unbatch.report.section import FitSection, Page, Sections

    def pages(gene, _shown):
        yield Page("First gene", f"<p>The toy saw {gene}.</p>")

    toys = FitSection("toys", "Toys", "What the toy saw.", pages)
    return Sections(lambda fit, _dataset: str(fit.about["gene"]), (toys,))
'''
"""All of a new model: this file, and a card."""


@pytest.fixture(scope="module")
def with_toy(pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pipeline with one more card and one more file, and what `make docs` generates of them."""
    folder = tmp_path_factory.mktemp("toy") / "pipeline"
    shutil.copytree(pipeline, folder)
    (folder / "bin" / "unbatch" / "methods" / "toy.py").write_text(TOY)
    cards = yaml.safe_load((folder / "assets" / "methods.yml").read_text())
    cards = {name: card for name, card in cards.items() if name not in ADDED}
    card = {"label": "Toy", "program": "fit-baseline", "kind": "correction", "summary": "A toy.", "package": None}
    cards["toy"] = card | {
        "licence": "MIT",
        "citation": "None.",
        "doi": None,
        "extra": None,
        "image": None,
        "run": "asked",
    }
    (folder / "assets" / "methods.yml").write_text(yaml.safe_dump(cards, sort_keys=False))
    for name in ("docs", "README.md", "CITATIONS.md"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, folder / name)
    written = subprocess.run([sys.executable, str(folder / "docs" / "cards.py")], capture_output=True, text=True)
    assert written.returncode == 0, written.stderr
    return folder


def test_a_new_model_is_a_card_and_a_file_and_reaches_the_report(with_toy: Path, tmp_path: Path):
    (tmp_path / "params.yml").write_text("toy: {genes: 2}\n")
    options = ["-profile", "test", "--methods", "toy", "--method_params", str(tmp_path / "params.yml")]
    run = nextflow(with_toy, tmp_path, *options, "--controls", "false", "--evidence", "false")
    assert run.code == 0, run.output
    (row,) = run.rows("simulated").values()
    assert (row["status"], row["params"]) == ("ok", {"genes": 2})
    fit = ad.read_h5ad(run.outdir / "fits" / f"{row['id']}.fit.h5ad")
    assert fit.obsm["X_toy"].shape == fit.obsm["toy_double"].shape == (fit.n_obs, 2)
    config = json.loads((run.outdir / "models" / f"{row['id']}.model" / "config.json").read_text())
    assert config["scaled"]
    assert "The toy saw gene1." in (run.outdir / "multiqc" / "multiqc_report.html").read_text()
    assert "#### `toy`" in (with_toy / "docs" / "methods.md").read_text()


def test_values_of_a_new_model_are_checked_before_any_task(with_toy: Path, tmp_path: Path):
    (tmp_path / "params.yml").write_text("toy: {genes: 0}\n")
    options = ["-profile", "test", "--methods", "toy", "--method_params", str(tmp_path / "params.yml")]
    run = nextflow(with_toy, tmp_path, *options)
    assert run.code == 2
    assert "toy.genes: found '0'" in run.output
    assert "Submitted process" not in run.output


STUBS = {
    "simulate": "[[id: 'a'], [[name: 'a', options: [:]], [name: 'b', options: [:]]]]",
    "preprocess": "[[id: 'a'], file('IN'), [], ['a'], [:]]",
    "fit": "[[id: 'a'], file('IN'), [program: 'fit-baseline', method: 'none', params: [:], model: true], "
    "[[id: 'a.none', dataset: 'a', seed: 0]]]",
    "score": "[[id: 'a'], file('IN'), [], [a: []], [:]]",
    "integrate": "[[id: 'a'], file('IN'), [], [], file('IN.yml'), [zarr: true]]",
    "report": "[file('IN'), [], [], file('IN.yml'), [:]]",
    "multiqc": "[file('IN'), [], []]",
}
"""Inputs of the stubs of all modules."""


def test_the_stub_of_every_module_makes_its_outputs(pipeline: Path, tmp_path: Path):
    assert {path.parent.name for path in (pipeline / "modules").glob("*/main.nf")} == set(STUBS)
    for name in ("in.h5ad", "in.h5ad.yml"):
        (tmp_path / name).touch()
    lines = [f"include {{ {name.upper()} }} from '{pipeline}/modules/{name}/main'" for name in STUBS]
    calls = [f"    {name.upper()}(channel.of({value}))" for name, value in STUBS.items()]
    script = "\n".join([*lines, "workflow {", *calls, "}"]).replace("'IN", f"'{tmp_path}/in.h5ad")
    # in the pipeline's folder, whose bin/ is then on the PATH of the tasks
    (pipeline / "stubs.nf").write_text(script + "\n")
    command = ["nextflow", "run", str(pipeline / "stubs.nf"), "-stub-run"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("Submitted process") == len(STUBS)
