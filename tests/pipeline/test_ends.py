"""Runs that end before their time."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from harness import described, environment, nextflow


def test_a_failing_fit_stops_the_run_and_is_named(pipeline: Path, tmp_path: Path):
    # two parameters that do not go together, which only the program sees
    (tmp_path / "own.yml").write_text("batchblend: {graph: radius}\n")
    options = ["-profile", "test", "--methods", "batchblend", "--method_params", str(tmp_path / "own.yml")]
    # each of the two is true as a text
    failed = nextflow(pipeline, tmp_path, *options, "--allow_failed", "false", "--max_retries", "0", text=True)
    assert failed.code != 0
    assert "batchblend: graph radius needs parameter radius" in failed.output
    assert "-resume" in failed.output
    assert (failed.outdir / "simulated" / "simulated.raw.h5ad").exists()
    assert not (failed.outdir / "scores").exists()


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


def test_folders_that_take_no_files_are_named_before_any_task(pipeline: Path, tmp_path: Path):
    (tmp_path / "taken").touch()
    failed = nextflow(pipeline, tmp_path, "-profile", "test", "--outdir", "taken")
    assert failed.code == 2
    assert f"--outdir: {tmp_path}/taken: cannot be written to" in failed.output
    assert "Submitted process" not in failed.output


def test_an_edited_package_runs_again(pipeline: Path, tmp_path: Path):
    options = ["-profile", "test", "-stub-run", "--methods", "none", "--controls", "false", "-resume"]
    assert nextflow(pipeline, tmp_path, *options).code == 0
    module = pipeline / "bin" / "unbatch" / "metrics" / "separability.py"
    original = module.read_text()
    try:
        module.write_text(original + "# edited\n")
        edited = nextflow(pipeline, tmp_path, *options)
    finally:
        module.write_text(original)
    assert set(edited.tasks().values()) == {"COMPLETED"}


DIGEST = "sha256:" + "1a" * 32

DOCKER = f"""#!/bin/bash
[[ $1 == image ]] && echo lab/image@{DIGEST}
[[ $1 == run ]] || exit 0
echo "$@" > .asked
while [[ $1 != /bin/bash ]]; do shift; done
exec "$@"
"""
"""Writes down what it is asked for, and runs the task without a container."""


def test_fits_that_can_use_a_gpu_get_one_and_no_other_task(pipeline: Path, tmp_path: Path, monkeypatch):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "docker").write_text(DOCKER)
    (tmp_path / "bin" / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    options = ["-profile", "test,docker", "-stub-run", "--gpu", "--controls", "false", "--methods", "harmony,scmedal"]
    done = nextflow(pipeline, tmp_path / "run", *options)
    assert done.code == 0, done.output
    asked = list((tmp_path / "run" / "work").glob("*/*/.asked"))
    with_gpu = [path.parent for path in asked if "--gpus all" in path.read_text()]
    assert len(asked) > 2
    assert [path.name for folder in with_gpu for path in folder.glob("*.fit.h5ad")] == [
        "simulated.scmedal.default.s0.fit.h5ad"
    ]
    images = json.loads((done.outdir / "pipeline_info" / "containers.json").read_text())
    assert images == {"engine": "docker", "images": [{"name": described()["container"]["default"], "digest": DIGEST}]}


STUBS = {
    "simulate": "[[id: 'a'], [[name: 'a', options: [:]], [name: 'b', options: [:]]]]",
    "preprocess": "[[id: 'a'], file('IN'), [], ['a'], [:]]",
    "fit": "[[id: 'a'], file('IN'), [program: 'fit-baseline', method: 'none', params: [:], model: true], "
    "[[id: 'a.none', dataset: 'a', seed: 0]]]",
    "score": "[[id: 'a'], file('IN'), [], [a: []], [:]]",
    "integrate": "[[id: 'a'], file('IN'), [], [], file('IN.yml'), [zarr: true]]",
    "halve": "[[id: 'a.null'], file('IN'), [max_cells: 60]]",
    "calibrate": "[[id: 'a.null'], [file('IN')], [], []]",
    "report": "[file('IN'), [], [], [], file('IN.yml'), [:]]",
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
