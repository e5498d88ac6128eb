"""Set-up: what it takes as good enough, when it does nothing, and what it says is missing."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml

ROOT = Path(__file__).parents[2]
NEEDED = ["bash", "cat", "dirname", "env", "grep", "head", "ls", "readlink", "sed", "sha256sum", "sort"]


@pytest.fixture
def tools(tmp_path):
    """Return a folder to be the whole PATH: programs that any machine has, but no python, java or compiler."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for name in NEEDED:
        (folder / name).symlink_to(shutil.which(name))
    return folder


@pytest.fixture
def clone(tmp_path):
    """Return a folder with what set-up reads of a clone."""
    folder = tmp_path / "clone"
    shutil.copytree(ROOT / "setup", folder / "setup")
    (folder / "containers").mkdir()
    (folder / "containers/requirements-dev.lock").write_text("torch==2.15.0\n")
    return folder


def program(path, *lines):
    path.write_text("\n".join(["#!/usr/bin/env bash", *lines, ""]))
    path.chmod(0o755)


def run(command, tools, **environment):
    return subprocess.run(
        ["bash", "-c", command],
        env={"PATH": str(tools), "PYENV_ROOT": "/nowhere", **environment},
        capture_output=True,
        text=True,
    )


def call(function, tools, **environment):
    return run(f"source {ROOT}/setup/setup.sh; {function}", tools, **environment).stdout.strip()


def test_python_that_fails_when_run_is_passed_over(tools):
    program(tools / "python3.13", "exit 127")
    assert call('find_python "$FITS"', tools) == ""
    (tools / "python3").symlink_to(sys.executable)
    found = call('find_python "sys.version_info >= (3, 12)"', tools)
    assert Path(found).samefile(sys._base_executable)


def test_python_in_the_folder_of_pyenv_is_found(tools, tmp_path):
    binaries = tmp_path / "pyenv/versions/3.13.0/bin"
    binaries.mkdir(parents=True)
    program(binaries / "python", "echo found")
    assert call('find_python "$FITS"', tools, PYENV_ROOT=str(tmp_path / "pyenv")) == "found"


@pytest.mark.parametrize(
    ("version", "accepted"),
    [("24.10.9", False), ("25.04.0", True), ("25.10.7", True), ("26.04.6", True), ("", False)],
)
def test_nextflow_on_path_must_be_new_enough(tools, version, accepted):
    program(tools / "nextflow", f"echo '      version {version} build 1'")
    assert call("find_nextflow", tools) == (str(tools / "nextflow") if accepted else "")


def test_launcher_of_a_clone_is_no_nextflow_of_the_machine(tools):
    (tools / "nextflow").symlink_to(ROOT / "setup/nextflow")
    assert call("find_nextflow", tools) == ""


def test_unbatch_runs_the_package_where_it_is(tools, clone, tmp_path):
    (clone / ".venv/bin").mkdir(parents=True)
    (clone / ".venv/bin/python").symlink_to(sys.executable)
    (clone / ".venv/bin/unbatch").symlink_to("../../setup/unbatch")
    (clone / "bin").mkdir()
    (clone / "bin/unbatch").symlink_to(ROOT / "bin/unbatch")
    result = run(f"cd {tmp_path} && {clone}/.venv/bin/unbatch simulate --help", tools, PYTHONPATH=_packages())
    assert result.stdout.startswith("Usage: unbatch simulate [OPTIONS]"), result.stderr


def _packages() -> str:
    return str(Path(click.__file__).parents[1])


def test_does_nothing_until_a_lock_changes(tools, clone):
    (clone / ".venv/bin").mkdir(parents=True)
    (clone / ".tools").mkdir()
    program(clone / ".venv/bin/python", "echo Python 3.13.0")
    setup = clone / "setup/setup.sh"
    run(f'source {setup}; state > "$stamp"', tools)
    assert (run(str(setup), tools).returncode, run(str(setup), tools).stderr) == (0, "")

    (clone / "containers/requirements-dev.lock").write_text("torch==2.16.0\n")
    assert run(str(setup), tools).returncode == 2  # it goes to work, and finds no java


def test_says_what_is_missing(tools, clone):
    setup = str(clone / "setup/setup.sh")
    assert_missing("Java 17 or newer is missing", run(setup, tools))
    program(tools / "java", "echo 'openjdk version \"11.0.2\"' >&2")
    assert_missing("Java 17 or newer is missing (found 11)", run(setup, tools))
    program(tools / "java", "echo 'openjdk version \"21.0.1\"' >&2")
    assert_missing("A C and C++ compiler", run(setup, tools))
    program(tools / "cc")
    program(tools / "c++")
    assert_missing("Python 3.10 or newer is missing", run(setup, tools))
    program(tools / "python3", '[[ "$*" != *ensurepip* ]] && echo /somewhere/python3')
    assert_missing("Python's module venv is missing", run(setup, tools))


def assert_missing(sentence, result):
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)
    assert sentence in result.stderr


def test_settings_for_pip_reach_uv_and_jgo(tools):
    command = 'share_network_settings; echo "$UV_DEFAULT_INDEX $SSL_CERT_FILE $REQUESTS_CA_BUNDLE"'
    given = {"PIP_INDEX_URL": "mirror", "PIP_CERT": "ca.pem"}
    assert call(command, tools, **given) == "mirror ca.pem ca.pem"
    assert call(command, tools, **given, UV_DEFAULT_INDEX="own", SSL_CERT_FILE="own.pem") == "own own.pem own.pem"


def test_jars_are_compared_with_the_lock(tmp_path):
    check = [sys.executable, str(ROOT / "setup/check_jars.py"), str(tmp_path / "lock"), str(tmp_path / "jars")]
    (tmp_path / "jars/modules").mkdir(parents=True)
    jar = tmp_path / "jars/modules/a-1.jar"
    jar.write_bytes(b"")
    digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    (tmp_path / "lock").write_text(f'[[dependencies]]\nartifactId = "a"\nversion = "1"\nsha256 = "{digest}"\n')
    assert subprocess.run(check).returncode == 0

    jar.write_bytes(b"changed")
    damaged = subprocess.run(check, capture_output=True, text=True)
    assert (damaged.returncode, damaged.stderr) == (1, "not as locked: a-1.jar\n")


def test_the_example_names_parameters_and_methods_that_exist():
    known = json.loads((ROOT / "nextflow_schema.json").read_text())["$defs"]
    parameters = {name for group in known.values() for name in group["properties"]}
    example = yaml.safe_load((ROOT / "conf/demo.yml").read_text())
    assert example.keys() <= parameters
    assert set(example["methods"].split(",")) <= yaml.safe_load((ROOT / "assets/methods.yml").read_text()).keys()
