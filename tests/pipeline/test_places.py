"""Profiles of containers, clusters and clouds: what they set, and what they need before any task."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from harness import ROOT, described, environment, nextflow

IMAGE = "ghcr.io/lab/unbatch:1"
GIVEN = """
params {
    queue = 'long'
    queue_size = '20'
    submit_rate = '10/1min'
    array_size = '4'
    scratch = 'true'
    before_script = 'module load apptainer'
    cluster_account = 'lab'
    cluster_qos = 'night'
    cluster_options = '--constraint=avx2'
    aws_region = 'eu-west-1'
    aws_cli = '/opt/aws/bin/aws'
    google_project = 'lab-1'
    google_location = 'europe-west4'
    gpu_type = 'nvidia-tesla-t4'
    k8s_claim = 'data'
    k8s_namespace = 'lab'
    k8s_user = '1234'
}
"""
"""What a command line of Nextflow 26.04 hands over: text."""

USER = "-u $(id -u):$(id -g)"
CLUSTER = ["--account=lab", "--qos=night", "--constraint=avx2"]
GPU = "process.'withName:FIT_GPU'"


def config(folder: Path, profiles: str, given: str = "") -> dict[str, str]:
    """The configuration of some profiles, as text by name."""
    (folder / "nextflow.config").write_text(f"{given}\nincludeConfig '{ROOT}/nextflow.config'\n")
    command = ["nextflow", "config", "-flat", "-profile", profiles]
    # plugins of clouds are fetched when they are needed, which a configuration does not
    more = {"NXF_PLUGINS_DEFAULT": "false"}
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, env=environment(folder) | more
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARN" not in done.stdout + done.stderr
    return dict(line.split(" = ", 1) for line in done.stdout.splitlines() if " = " in line)


def text(value: Any) -> str:
    """A value as Nextflow prints it."""
    if isinstance(value, bool | int):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(text, value))}]"
    return f"'{value}'"


RESOLVED: dict[str, dict[str, Any]] = {
    # without any parameter: one fit at a time has the GPU
    "docker,arm64,gpu,test": {
        "docker.enabled": True,
        "docker.runOptions": f"{USER} --platform=linux/arm64",
        "process.arch": "arm64",
        "process.container": described()["container"]["default"],
        # not false: clouds would not choose the machine's own disk
        "process.scratch": None,
        "params.gpu": True,
        "params.custom_config_base": None,
        f"{GPU}.maxForks": 1,
        f"{GPU}.accelerator": 1,
        "params.max_memory": "6.GB",
    },
    "podman,singularity,conda,test_full": {
        "podman.enabled": True,
        "podman.runOptions": '$([ "$(id -u)" = 0 ] && echo "-u 0:0" || echo "--userns=keep-id")',
        "singularity.enabled": True,
        "singularity.autoMounts": True,
        "conda.enabled": True,
        "process.conda": "FOLDER/containers/environment.yml",
        "params.simulate": True,
        "params.sim_cells": 1000,
    },
    "slurm,apptainer,gpu": {
        "apptainer.enabled": True,
        "apptainer.autoMounts": True,
        "process.executor": "slurm",
        "process.queue": "long",
        "process.array": 4,
        "process.scratch": True,
        "process.clusterOptions": CLUSTER,
        f"{GPU}.clusterOptions": [*CLUSTER, "--gres=gpu:1"],
        f"{GPU}.maxForks": 0,
        "executor.queueSize": 20,
        "executor.submitRateLimit": "10/1min",
    },
    "awsbatch,gpu": {
        "process.executor": "awsbatch",
        "process.queue": "long",
        "aws.region": "eu-west-1",
        "aws.batch.cliPath": "/opt/aws/bin/aws",
        f"{GPU}.maxForks": 0,
        # without a limit Kubernetes refuses the pod
        f"{GPU}.accelerator.limit": 1,
        f"{GPU}.accelerator.type": "nvidia-tesla-t4",
    },
    "google-batch": {
        "process.executor": "google-batch",
        "google.project": "lab-1",
        "google.location": "europe-west4",
        "google.batch.gcsfuseOptions": ["-o rw", "-implicit-dirs", "-o allow_other", "--uid=1000", "--gid=1000"],
    },
    "k8s": {
        "process.executor": "k8s",
        "k8s.storageClaimName": "data",
        "k8s.storageMountPath": "/workspace",
        "k8s.namespace": "lab",
        "k8s.securityContext.runAsUser": 1234,
        "k8s.securityContext.fsGroup": 1234,
    },
}


@pytest.mark.parametrize(
    "profiles",
    [pytest.param(name, marks=pytest.mark.slow if name in ("google-batch", "k8s") else ()) for name in RESOLVED],
)
def test_a_profile_resolves_to_what_its_place_needs(tmp_path: Path, profiles: str):
    places = {"slurm", "awsbatch", "google-batch", "k8s"}
    found = config(tmp_path, profiles, GIVEN if places & set(profiles.split(",")) else "")
    expected = {name: "null" if value is None else text(value) for name, value in RESOLVED[profiles].items()}
    assert {name: found.get(name, "none").replace(str(tmp_path), "FOLDER") for name in expected} == expected
    assert found["process.beforeScript"].startswith("'trap '' INT")
    assert ("; module load apptainer" in found["process.beforeScript"]) == bool(places & set(profiles.split(",")))


def test_the_configuration_can_be_shown_as_json(tmp_path: Path):
    # as linters and other tools read it: closures are called without what they expect
    command = ["nextflow", "config", "-o", "json", str(ROOT)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["manifest"]["name"] == "unbatch/unbatch"


@pytest.fixture(scope="module")
def known(pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What is said of every case before any task, and what tasks ask for."""
    folder = tmp_path_factory.mktemp("places")
    shutil.copy2(ROOT / "tests" / "pipeline" / "places.nf", pipeline)
    (folder / "unbatch.sif").touch()
    aws = {"queue": "q", "aws_region": "eu-west-1", "container": IMAGE}
    claimed = {"k8s_claim": "data", "outdir": "/workspace/out"}
    cases = {
        "laptop": [{}, "standard", "/work"],
        "slurm": [{}, "slurm", "/work"],
        "slurm, whole": [{"queue": "q", "array_size": 4}, "test, slurm", "/work"],
        "no slurm": [{"array_size": 4}, "slurmy", "/work"],
        "awsbatch": [{}, "awsbatch", "/work"],
        "awsbatch, whole": [aws, "awsbatch", "s3://lab/work"],
        "google-batch": [{}, "google-batch", "s3://lab/work"],
        "k8s": [{}, "k8s", "/workspaces/work", "/workspace/unbatch"],
        "k8s, whole": [claimed, "k8s", "/workspace/work", "/workspace/unbatch"],
        "k8s, bucket": [claimed | {"outdir": "s3://lab/out"}, "k8s", "/workspace/work", "/workspace/unbatch"],
        "k8s, pipeline": [claimed, "k8s", "/workspace/work"],
        "k8s, data": [claimed | {"input": "/data/a.h5ad"}, "k8s", "/workspace/work", "/workspace/unbatch"],
        "k8s, data there": [claimed | {"input": "s3://lab/a.h5ad"}, "k8s", "/workspace/work", "/workspace/unbatch"],
        "k8s, no mount": [{"k8s_claim": "data", "k8s_mount": "data"}, "k8s", "/data"],
        "apptainer": [{}, "apptainer", "/work"],
        "apptainer, whole": [{"container": "unbatch.sif"}, "apptainer", "/work"],
        "singularity, gone": [{"container": "/gone/unbatch.sif"}, "singularity", "/work"],
        "singularity, whole": [{"container": IMAGE}, "singularity", "/work"],
    }
    (folder / "cases.json").write_text(json.dumps(cases))
    for name, size in (("large", 2 * 10**9), ("small", 10**9)):
        with (folder / f"{name}.bin").open("wb") as file:
            file.truncate(size)
    command = ["nextflow", "run", str(pipeline / "places.nf")]
    done = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in ("found", "folders", "asked", "full")}


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("laptop", []),
        ("slurm", ["--queue"]),
        ("slurm, whole", []),
        ("no slurm", ["--array_size"]),
        ("awsbatch", ["--queue", "--aws_region", "-work-dir", "--container"]),
        ("awsbatch, whole", []),
        ("google-batch", ["--google_project", "--google_location", "-work-dir", "--container"]),
        ("k8s", ["--k8s_claim", "-work-dir", "--outdir"]),
        ("k8s, whole", []),
        ("k8s, bucket", []),
        ("k8s, pipeline", ["pipeline"]),
        ("k8s, data", ["--input"]),
        ("k8s, data there", []),
        ("k8s, no mount", ["--k8s_mount"]),
        ("apptainer", ["--container"]),
        ("apptainer, whole", []),
        ("singularity, gone", ["--container"]),
        ("singularity, whole", []),
    ],
)
def test_what_a_place_needs_is_named(known: dict[str, Any], case: str, expected: list[str]):
    assert [message.split(":")[0] for message in known["found"][case]] == expected


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system without space, /proc")
def test_a_full_disk_is_named(known: dict[str, Any]):
    full, rest = known["full"]
    assert [message.split(" MB")[0] for message in full] == ["--outdir: /proc: 0"]
    assert rest == []


def test_a_bucket_that_cannot_be_written_to_is_named(known: dict[str, Any]):
    (message,) = known["folders"]
    assert message.startswith("--outdir: nowhere://lab/out: ")


def test_tasks_ask_for_memory_and_time_by_the_size_of_their_data(known: dict[str, Any]):
    asked = known["asked"]
    base = 4 * 2**30
    # datasets are of one after the other, samples are read together
    largest, together = asked["memory, largest"] - base, asked["memory, together"] - base
    assert largest > 2e9
    assert together == pytest.approx(1.5 * largest)
    assert asked["memory, again"] == 2 * asked["memory, largest"]
    assert asked["memory, card"] == base + 90 * 2e9
    # more than a machine has would not be run there at all
    assert asked["memory, here"] == asked["machine"]
    assert asked["memory, array"] == base
    assert asked["time"] > 3
    assert asked["time, twice"] == pytest.approx(asked["time"] + 1)
    assert asked["time, again"] == pytest.approx(3 * asked["time"])
    assert asked["time, array"] == 1


def test_a_run_without_what_its_place_needs_ends_before_any_task(pipeline: Path, tmp_path: Path):
    failed = nextflow(pipeline, tmp_path, "-profile", "test,slurm")
    assert failed.code == 2
    assert "--queue: missing" in failed.output
    assert "Submitted process" not in failed.output


def test_the_environment_of_conda_is_made_from_the_lock():
    lock = (ROOT / "containers" / "requirements.lock").read_bytes()
    first, *rest = (ROOT / "containers" / "environment.yml").read_text().splitlines()
    assert first.endswith(hashlib.sha256(lock).hexdigest())
    assert {"      - --require-hashes", "      - --requirement requirements.lock"} <= set(rest)
