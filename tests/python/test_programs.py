"""What all programs share: help, versions, messages, and `attempt`, which records how one ended."""

import ast
import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from unbatch import __version__
from unbatch.cli import attempt, common, main
from unbatch.errors import InputError

ROOT = Path(__file__).parents[2]
# fit-seurat is in R and has its tests in test_baselines.py
PROGRAMS = sorted(path.name for path in (ROOT / "bin").iterdir() if path.is_file() and path.name != "fit-seurat")


def run_program(name: str, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "bin" / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_program_has_an_entry_file_and_a_place_in_the_group():
    assert sorted(main.modules) == PROGRAMS


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_has_help(name: str):
    result = run_program(name, "--help")
    assert result.returncode == 0
    assert result.stdout.startswith("Usage:")


def test_heavy_libraries_are_not_imported_for_help():
    code = (
        "import sys; sys.path.insert(0, 'bin'); from unbatch.cli import main; import click;"
        "[main.get_command(click.Context(main), name) for name in main.modules];"
        "print([m for m in ('scipy', 'sklearn', 'scanpy', 'torch', 'anndata', 'jax', 'pandas') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("given", "environment", "expected"),
    [
        (None, {"OMP_NUM_THREADS": "3"}, {"OMP": "3", "OPENBLAS": "3", "NUMBA": "3"}),
        (None, {"OMP_NUM_THREADS": "2,1", "NUMBA_NUM_THREADS": "1"}, {"OMP": "2,1", "OPENBLAS": "2", "NUMBA": "1"}),
        (5, {"OMP_NUM_THREADS": "3"}, {"OMP": "5", "OPENBLAS": "5", "NUMBA": "5"}),
    ],
)
def test_threads_are_those_asked_for_then_those_of_the_environment(given, environment, expected):
    code = (
        "import os, sys; sys.path.insert(0, 'bin'); from unbatch.cli import common;"
        "program = common.program()(lambda run: print(run.threads, *(os.environ[f'{n}_NUM_THREADS'] for n in "
        "('OMP', 'OPENBLAS', 'NUMBA'))));"
        "program.main(sys.argv[1:])"
    )
    unset = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    options = [] if given is None else ["--threads", str(given)]
    result = subprocess.run(
        [sys.executable, "-c", code, *options], env=unset | environment, capture_output=True, text=True, cwd=ROOT
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [expected["OPENBLAS"], *expected.values()]


def threads_in(environment: dict[str, str], *options: str) -> dict:
    """Settings that a program finds in its environment, and the threads of libraries that it then imports."""
    code = (
        "import json, os, sys; sys.path.insert(0, 'bin'); from unbatch import machine\n"
        "from unbatch.cli import common, fit\n"
        "def function(run):\n"
        "    assert not {'torch', 'jax', 'numba'} & set(sys.modules)\n"
        "    found = {name: os.environ.get(name) for name in (*common.PATIENCE, 'PJRT_NPROC')}\n"
        "    machine.torch_device(run.device, run.threads)\n"
        "    from unbatch.nn.threads import use_threads\n"
        "    import numpy, threadpoolctl, torch\n"
        "    found['torch'] = torch.get_num_threads()\n"
        "    found['pools'] = sorted({pool['num_threads'] for pool in threadpoolctl.threadpool_info()})\n"
        "    found['worth'] = [use_threads(run.threads, values, 100) for values in (0, 199, 200, 299, 10**9)]\n"
        "    found['then'] = torch.get_num_threads()\n"
        "    print(json.dumps(found))\n"
        "common.program()(function).main(sys.argv[1:])"
    )
    settings = ("_NUM_THREADS", "NPROC", "WAIT_POLICY", "BLOCKTIME", "THREAD_TIMEOUT")
    unset = {name: value for name, value in os.environ.items() if not name.endswith(settings)}
    result = subprocess.run(
        [sys.executable, "-c", code, *options], env=unset | environment, capture_output=True, text=True, cwd=ROOT
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_threads_wait_asleep_and_are_as_many_as_the_work_is_worth():
    found = threads_in({}, "--threads", "3")
    assert found["OMP_WAIT_POLICY"] == "PASSIVE"
    assert (found["KMP_BLOCKTIME"], found["OPENBLAS_THREAD_TIMEOUT"], found["PJRT_NPROC"]) == ("0", "4", "3")
    assert found["torch"] == 3
    # a library has no more threads than there are cores
    assert max(found["pools"]) <= 3
    assert found["worth"] == [1, 1, 2, 2, 3]
    assert found["then"] == 3
    assert threads_in({}, "--threads", "1")["worth"] == [1, 1, 1, 1, 1]


def test_how_threads_wait_can_be_set_by_the_environment():
    found = threads_in({"OMP_WAIT_POLICY": "ACTIVE", "PJRT_NPROC": "7"})
    assert (found["OMP_WAIT_POLICY"], found["KMP_BLOCKTIME"], found["PJRT_NPROC"]) == ("ACTIVE", "0", "7")


def test_versions_are_json():
    found = json.loads(run_program("score", "--version").stdout)
    assert {"unbatch", "python", "scib-metrics", "torch"} <= set(found)


@pytest.mark.parametrize("content", ["[" * 100_000, "{", "3"])
def test_a_list_of_jobs_that_is_none_is_refused(tmp_path: Path, content: str):
    from unbatch.cli import each

    (tmp_path / "jobs.json").write_text(content)
    found = CliRunner().invoke(each.main, [str(tmp_path / "jobs.json")])
    assert (found.exit_code, "jobs.json" in found.output) == (2, True)


@pytest.mark.parametrize("name", ["preprocess", "score", "fit-baseline", "report", "integrate"])
def test_a_missing_file_is_one_sentence_and_exit_code_2(name: str, tmp_path: Path):
    more = {"fit-baseline": ["--method", "none"], "score": ["no.fit.h5ad"]}.get(name, [])
    if name == "integrate":
        more = ["--scores", str(tmp_path / "absent.file"), "--methods", str(ROOT / "assets" / "methods.yml")]
    if name == "report":
        more = ["--dataset", "no.h5ad", "--fit", "no.h5ad", "--methods", str(ROOT / "assets" / "methods.yml")]
    result = run_program(name, str(tmp_path / "absent.file"), *more, "-o", str(tmp_path / "out"))
    assert result.returncode == 2
    assert "absent.file" in result.stderr
    assert "no such file" in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_program_whose_disk_is_full_ends_with_a_sentence_and_a_code_of_its_own(tmp_path: Path):
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    command = [sys.executable, str(ROOT / "bin" / "simulate"), "--quiet", "-o", "out.h5ad", "--genes", "40"]
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=environment, preexec_fn=limit, check=False
    )
    assert result.returncode == 74, result.stderr
    # the folder by its name, though the output was given without one
    assert result.stderr.startswith(f"Error: {tmp_path}: cannot write out.h5ad")
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def _wrapped(error: Exception) -> Exception:
    sentence = InputError("weights do not fit")
    sentence.__cause__ = error
    return sentence


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), 137),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), 137),
        (_wrapped(torch.OutOfMemoryError("CUDA out of memory.")), 137),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), 137),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes."), 137),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1407 bytes."), 137),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), 137),
        (OSError(errno.ENOSPC, "No space left on device", "cache/file"), 74),
        (RuntimeError("Can't close (file write failed: errno = 28, error message = 'No space left')"), 74),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), 74),
        (InputError("wrong"), 2),
        (RuntimeError("a bug"), 1),
        (OSError(errno.ENOENT, "no such file"), 1),
    ],
)
def test_memory_and_disks_that_are_too_small_have_exit_codes_of_their_own(error: Exception, code: int):
    @common.program()
    def fails(_run: common.Run) -> None:
        raise error

    result = CliRunner().invoke(fails, [])
    assert result.exit_code == code
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("writable", [True, False])
def test_a_cache_that_cannot_be_written_to_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writable: bool):
    (tmp_path / "umap").write_text("compiled")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.delitem(sys.modules, "numba", raising=False)
    if not writable:
        # root may write to any folder, but not to one that is mounted read-only
        monkeypatch.setattr(common, "_writable", lambda _folder: False)
    common._use_writable_cache()
    cache = Path(os.environ["NUMBA_CACHE_DIR"])
    assert (cache == tmp_path) == writable
    assert (cache / "umap").read_text() == "compiled"


def test_a_place_that_takes_no_files_is_distinguished_from_one_that_does(tmp_path: Path):
    (tmp_path / "file").touch()
    assert common._writable(tmp_path / "new")
    assert not common._writable(tmp_path / "file" / "below")


def outcome(tmp_path: Path, script: str, *options: str) -> tuple[int, dict | None]:
    out = tmp_path / "outcome.json"
    command = ["--", sys.executable, "-c", script]
    result = CliRunner().invoke(attempt.main, [*options, "-o", str(out), *command])
    return result.exit_code, json.loads(out.read_text()) if out.exists() else None


def test_attempt_needs_no_more_than_the_python_and_click_of_seurats_image(tmp_path: Path):
    script = (
        "import sys; from unbatch.cli import attempt\n"
        "try: attempt.main(['-o', 'outcome.json', '--', 'true'])\n"
        "except SystemExit: pass\n"
        "own = [each.__file__ for name, each in sys.modules.items() if name.split('.')[0] == 'unbatch']\n"
        "print(*own, sep='\\n')\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules} - sys.stdlib_module_names))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT / "bin")},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    *files, packages = done.stdout.splitlines()
    assert (tmp_path / "outcome.json").exists()
    for file in files:
        # that of Debian 12
        ast.parse(Path(file).read_text(encoding="utf-8"), feature_version=(3, 11))
    assert {"numpy", "h5py", "anndata", "yaml", "pydantic"}.isdisjoint(packages.split())


def test_attempt_records_success(tmp_path: Path):
    assert outcome(tmp_path, "print('fine')") == (
        0,
        {"exit_code": 0, "status": "ok", "message": None, "attempts": 1},
    )


def test_attempt_records_what_is_not_applicable_with_its_reason(tmp_path: Path):
    code, found = outcome(tmp_path, "import sys; print('Error: no labels', file=sys.stderr); sys.exit(99)")
    assert code == 0
    assert (found["status"], found["message"]) == ("not applicable", "Error: no labels")


def test_attempt_passes_a_failure_on_unless_it_is_to_record_it(tmp_path: Path):
    script = "import sys; print('first\\nlast \\x1b[2J', file=sys.stderr); sys.exit(3)"
    assert outcome(tmp_path, script) == (3, None)
    code, found = outcome(tmp_path, script, "--allow-failed", "true", "--number", "2")
    assert code == 0
    assert found == {"exit_code": 3, "status": "failed", "message": "last ?[2J", "attempts": 2}


def test_attempt_lets_a_killed_fit_be_tried_again_and_records_the_last_try(tmp_path: Path):
    script = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    allowed = ["--allow-failed", "true", "--retries", "2"]
    assert outcome(tmp_path, script, *allowed, "--number", "2") == (137, None)
    code, found = outcome(tmp_path, script, *allowed, "--number", "3")
    assert code == 0
    assert (found["exit_code"], found["attempts"], found["message"]) == (137, 3, "no message")


@pytest.fixture
def attempted(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen, list[int]]]]:
    """Start `attempt`, with a short grace, on a process that starts another one; gives it and these two.

    All of them ignore Ctrl-C at first, as in a task of Nextflow.
    """
    started: list[tuple[subprocess.Popen, list[int]]] = []
    found = tmp_path / "found"

    def start(stubborn: bool) -> tuple[subprocess.Popen, list[int]]:
        script = "import os, pathlib, signal, time\n"
        if stubborn:
            script += "for number in (signal.SIGTERM, signal.SIGINT): signal.signal(number, signal.SIG_IGN)\n"
        script += "other = os.fork()\n"
        script += f"if other: pathlib.Path({str(found)!r}).write_text(f'{{os.getpid()}} {{other}} .')\n"
        script += "time.sleep(60)"
        run = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        run += "from unbatch.cli import attempt; attempt.GRACE = 0.3; attempt.main()"
        options = ["--allow-failed", "true", "-o", str(tmp_path / "outcome.json"), "--", sys.executable, "-c", script]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "bin")}
        process = subprocess.Popen([sys.executable, "-c", run, *options], env=environment)
        while not (found.exists() and found.read_text().endswith(".")):
            assert process.poll() is None
            time.sleep(0.02)
        started.append((process, [int(number) for number in found.read_text().split()[:2]]))
        return started[-1]

    yield start
    for process, others in started:
        process.kill()
        process.wait()
        for other in filter(alive, others):
            os.kill(other, signal.SIGKILL)


def alive(process: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True, check=False)
    # one that has ended stays in the table until its parent asks for its code
    return state.stdout.strip()[:1] not in ("", "Z")


def gone(process: int) -> bool:
    end = time.monotonic() + 10
    while alive(process) and time.monotonic() < end:
        time.sleep(0.02)
    return not alive(process)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("stubborn", [False, True])
def test_attempt_that_is_told_to_stop_leaves_no_process_behind(
    attempted: Callable, tmp_path: Path, number: int, stubborn: bool
):
    process, others = attempted(stubborn)
    process.send_signal(number)
    assert process.wait(30) == 128 + number
    assert all(gone(other) for other in others)
    assert not (tmp_path / "outcome.json").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell a process that its parent is gone")
def test_a_killed_attempt_takes_its_command_along(attempted: Callable):
    process, others = attempted(False)
    process.kill()
    process.wait()
    assert gone(others[0])


def test_the_version_is_the_same_everywhere():
    schema = json.loads((ROOT / "nextflow_schema.json").read_text())
    image = schema["$defs"]["generic"]["properties"]["container"]["default"]
    assert image == f"unbatch:{__version__}"
    assert f"version = '{__version__}'" in (ROOT / "nextflow.config").read_text()
