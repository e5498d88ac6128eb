"""Parameters: what the pipeline makes of their values, and what it says of wrong ones before any task.

What Nextflow is not needed for is read from one run of checks.nf, which checks all cases.
"""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from harness import ROOT, described, environment, nextflow

WRONG = {
    "simulate": "true",
    "sead": "3",
    # Nextflow hands --batch-key over by both names
    "batch-key": "x",
    "batchKey": "x",
    "seeds": "0",
    "methods": "none,harmny",
    "sim_mix": "sam",
    "sim_share_beta": "2",
    "max_memory": "lots",
    "n_top_genes": "few",
    "max_cpus": "two",
    "max_retries": "no",
    "allow_failed": "maybe",
}
NUMBERS = {"seeds": 0, "sead": 3, "sim_share_beta": 2, "simulate": True}

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
GRIDS = {
    "wrong": WRONG_GRID,
    "no_mapping": "- sigma_beta",
    "not_yaml": "simulate: {mix: [same",
    "good": "simulate: {sigma_beta: [0, 1]}",
}


def usual_values(samplesheet: Path) -> dict[str, Any]:
    """A value that is right for every parameter."""
    usual: dict[str, Any] = {"boolean": True, "integer": 64, "number": 0.25, "string": "2024"}
    values = {name: rule.get("enum", [usual[rule["type"]]])[-1] for name, rule in described().items()}
    del values["sweep"]  # it excludes an input
    values |= {"input": str(samplesheet), "method_params": str(samplesheet), "simulate": False, "allow_failed": False}
    values |= {"methods": "none", "max_memory": "8.GB", "max_time": "2.h", "max_retries": 0}
    return values | {"sim_depth": 2.5, "sim_types": 7, "use": "none"}


def no_numbers() -> dict[str, Any]:
    """Texts where numbers and flags are wanted, and what is neither."""
    wrong = {name: "1 few" for name, rule in described().items() if rule["type"] != "string"}
    return wrong | {"sim_depth": "1e999", "input": "1 few", "targets": ["donor"]}


def as_text(values: dict[str, Any]) -> dict[str, str]:
    return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in values.items()}


@pytest.fixture(scope="module")
def checked(pipeline: Path, samplesheet: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Typed values, their types and the errors of every case."""
    folder = tmp_path_factory.mktemp("checked")
    shutil.copy2(ROOT / "tests" / "pipeline" / "checks.nf", pipeline)
    cases: dict[str, dict[str, Any]] = {
        "wrong": WRONG | NUMBERS,
        "wrong as text": WRONG,
        "usual": usual_values(samplesheet),
        "usual as text": as_text(usual_values(samplesheet)),
        "no numbers": no_numbers(),
        "nothing": {},
        "two sources": {"simulate": True, "input": str(samplesheet)},
        "a sweep of files": {"sweep": "thesis", "input": str(samplesheet)},
        "targets of a sweep": {"sweep": "thesis", "targets": "donor"},
        "colours of a sweep": {"sweep": "thesis", "colour_by": "donor"},
        "no method": {"simulate": True, "methods": " , "},
        "no grid": {"sweep": "gone.yml"},
        "use misspelt": {"simulate": True, "methods": "none,harmony", "use": "harmny"},
        "use of another method": {"simulate": True, "methods": "none,harmony", "use": "combat"},
        "use of a control": {"simulate": True, "methods": "none,harmony", "use": "shuffled"},
        "use without the file": {"simulate": True, "methods": "none,harmony", "use": "harmony", "integrated": False},
        "a calibration of a sweep": {"sweep": "thesis", "calibrate": True},
        "a batch without a calibration": {"simulate": True, "calibrate_batch": "a"},
        "a store of a sweep": {"sweep": "thesis", "integrated_zarr": True},
    }
    for name, text in GRIDS.items():
        (folder / f"{name}.yml").write_text(text)
        cases[f"grid {name}"] = {"sweep": f"{folder}/{name}.yml"}
    (folder / "cases.json").write_text(json.dumps(cases))
    (folder / "notes").mkdir()
    few, other = ({"code": code, "severity": "warning", "text": code} for code in ("few", "warning"))
    scores = {"rows": [{"method": "a", "notes": [few]}, {"method": "b", "notes": [few, other]}, {"method": "c"}]}
    for name, content in {"a": {"columns": ["batch", "depth"]}, "b": {}, "c": scores}.items():
        (folder / "notes" / f"{name}.json").write_text(json.dumps(content))
    command = ["nextflow", "run", str(pipeline / "checks.nf")]
    done = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "found.json").read_text())


def named(errors: list[str]) -> list[str]:
    """What the errors are about: the text before the first colon."""
    return [message.split(":")[0] for message in errors]


def suggested(errors: list[str], name: str) -> bool:
    return any(f"did you mean {name}?" in message for message in errors)


@pytest.mark.parametrize("case", ["wrong", "wrong as text"])
def test_every_wrong_parameter_is_named_with_what_was_meant(checked: dict[str, dict[str, Any]], case: str):
    errors = checked[case]["errors"]
    wrong = {name for name in WRONG if name not in ("simulate", "batchKey")}
    assert sorted(named(errors)) == sorted(f"--{name}" for name in wrong)
    for name in ("--seeds", "--batch_key", "harmony", "same"):
        assert suggested(errors, name), name
    values = {name: value for name, value in WRONG.items() if name not in ("simulate", "sead", "batch-key", "batchKey")}
    for name, value in values.items():
        (message,) = (message for message in errors if message.startswith(f"--{name}:"))
        assert value.split(",")[-1] in message


def test_every_parameter_means_the_same_as_text(checked: dict[str, dict[str, Any]], samplesheet: Path):
    found = checked["usual"]
    assert found["errors"] == []
    assert usual_values(samplesheet).items() <= found["values"].items()
    assert checked["usual as text"] == found


def test_a_text_that_is_no_number_and_no_flag_is_refused_for_what_it_is(checked: dict[str, dict[str, Any]]):
    found = checked["no numbers"]
    assert {f"--{name}" for name in no_numbers()} <= set(named(found["errors"]))
    assert found["values"]["sim_depth"] == "1e999"


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("nothing", ["--input"]),
        ("two sources", ["--simulate and --input"]),
        ("a sweep of files", ["--sweep and --input"]),
        ("targets of a sweep", ["--targets"]),
        ("colours of a sweep", ["--colour_by"]),
        ("no method", ["--methods"]),
        ("no grid", ["--sweep"]),
        ("use misspelt", ["--use"]),
        ("use of another method", ["--use"]),
        ("use of a control", ["--use"]),
        ("use without the file", ["--use"]),
        ("a calibration of a sweep", ["--calibrate"]),
        ("a batch without a calibration", ["--calibrate_batch"]),
        ("a store of a sweep", ["--integrated_zarr"]),
        ("grid good", []),
    ],
)
def test_parameters_that_do_not_go_together_are_named(
    checked: dict[str, dict[str, Any]], case: str, expected: list[str]
):
    assert named(checked[case]["errors"]) == expected


def test_a_calibration_has_three_seeds_and_asks_fits_for_expression_alone(checked: dict[str, dict[str, Any]]):
    found = checked["nulls"]
    assert found["off"] == []
    assert [(job["method"], job["seed"], job["params"], job["model"]) for job in found["on"]] == [
        *(("scmedal", seed, {"latent": 5}, False) for seed in range(3)),
        *(("combat", seed, {"corrected": True}, False) for seed in range(3)),
    ]


def test_a_method_to_go_on_with_that_is_misspelt_is_suggested(checked: dict[str, dict[str, Any]]):
    assert suggested(checked["use misspelt"]["errors"], "harmony")


def test_every_wrong_place_of_a_grid_is_named_with_what_was_meant(checked: dict[str, dict[str, Any]]):
    errors = checked["grid wrong"]["errors"]
    assert all("wrong.yml: " in message for message in errors)
    places = [message.split("wrong.yml: ")[1] for message in errors]
    assert sorted(named(places)) == sorted(
        [
            "simulate.sigma_bata",
            "simulate.share_beta",
            "simulate.mix",
            "simulate.batches",
            "simulate.sigma_gene",
            "simulate.seed",
            "simulate.preset",
            "methods.harmny",
            "methods.none.n_component",
            "methods.batchblend.spatial",
            "methods.batchblend.iterations",
        ]
    )
    for name in ("sigma_beta", "harmony", "n_components"):
        assert suggested(errors, name), name


def test_columns_that_cells_do_not_have_and_warnings_of_fits_are_reported(checked: dict[str, dict[str, Any]]):
    found = checked["notes"]
    assert len(found["absent"]) == 1
    assert all(word in found["absent"][0] for word in ("--colour_by", "'dpeth'", "batch, depth"))
    assert found["fits"] == ["a, b (2 fits): few", "b (1 fit): warning"]


@pytest.mark.parametrize("case", ["no_mapping", "not_yaml"])
def test_a_file_that_is_no_grid_is_refused(checked: dict[str, dict[str, Any]], case: str):
    (message,) = checked[f"grid {case}"]["errors"]
    assert f"{case}.yml: " in message


def test_wrong_parameters_and_grids_end_the_run_before_any_task(pipeline: Path, tmp_path: Path):
    (tmp_path / "grid.yml").write_text(WRONG_GRID)
    wrong = ["--sweep", "grid.yml", "--sead", "3", "--batch-key", "x", "--methods", "none,harmny"]
    # the last three are read by the config, too
    failed = nextflow(pipeline, tmp_path, *wrong, "--max_cpus", "two", "--max_retries", "no", "--allow_failed", "maybe")
    assert failed.code == 2
    for name in ("--sead", "--batch_key", "--methods", "--max_cpus", "--max_retries", "--allow_failed", "grid.yml"):
        assert name in failed.output
    assert "Submitted process" not in failed.output


@pytest.mark.parametrize(
    ("sheet", "name"), [("sample,file\na,x.h5ad\n", "path"), ("sample,path\na,gone.h5ad\n", "gone.h5ad")]
)
def test_a_wrong_samplesheet_stops_before_any_task(pipeline: Path, tmp_path: Path, sheet: str, name: str):
    (tmp_path / "sheet.csv").write_text(sheet)
    failed = nextflow(pipeline, tmp_path, "--input", "sheet.csv")
    assert failed.code == 2
    (message,) = (line for line in failed.output.splitlines() if "ERROR" in line)
    assert "sheet.csv: " in message
    assert name in message.split("sheet.csv: ")[1]
    assert "Submitted process" not in failed.output


@pytest.mark.parametrize("text", [False, True])
def test_names_that_look_like_numbers_and_flags_are_names(pipeline: Path, tmp_path: Path, text: bool):
    options = ["-stub-run", "--simulate", "--methods", "none", "--controls", "false", "--seeds", "1"]
    named = ["--batch_key", "1", "--label_key", "true", "--outdir", "2024", "--publish_mode", "copy"]
    run = nextflow(pipeline, tmp_path, *options, *named, "--max_cpus", "2", text=text)
    assert run.code == 0, run.output
    assert (tmp_path / "2024" / "multiqc" / "multiqc_report.html").exists()
    assert len((tmp_path / "2024" / "pipeline_info" / "trace.txt").read_text().splitlines()) == 8


@pytest.mark.parametrize("parser", ["v1", "v2"])
def test_help_lists_every_parameter_by_section(pipeline: Path, tmp_path: Path, parser: str):
    shown = nextflow(pipeline, tmp_path, "--help", parser=parser)
    assert shown.code == 0
    sections = json.loads((ROOT / "nextflow_schema.json").read_text())["$defs"].values()
    for section in sections:
        assert section["title"] in shown.output
    for name in described():
        assert f"--{name} " in shown.output


def test_every_parameter_is_described_with_its_default(tmp_path: Path):
    command = ["nextflow", "config", "-flat", str(ROOT)]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, env=environment(tmp_path))
    config = dict(
        line.removeprefix("params.").split(" = ", 1) for line in shown.stdout.splitlines() if line.startswith("params.")
    )
    assert set(config) == set(described())
    for name, rule in described().items():
        default = rule.get("default")
        expected = "null" if default is None else str(default).lower() if isinstance(default, bool) else str(default)
        assert config[name].strip("'") == expected, name
