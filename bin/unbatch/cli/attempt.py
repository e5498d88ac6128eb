"""`attempt`: run a fit and write down how it ended: a failure becomes a row."""

import collections
import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from unbatch.cli.common import OutPath, program, safe_text
from unbatch.errors import NotApplicable

KILLED = frozenset({104, *range(130, 146)})
"""Exit codes of a process that ran out of memory or time, which another try with more may cure."""

GRACE = 3.0
"""Seconds that a command has to end after a signal that was passed on to it."""


class _GraceOverError(Exception):
    """The command, or what it has started, did not end in time."""


@program()
@click.option("-o", "--output", type=OutPath, required=True, help="The outcome (JSON) to write.")
@click.option("--number", type=click.IntRange(1), default=1, help="Which attempt this is.")
@click.option(
    "--allow-failed",
    type=bool,
    default=False,
    envvar="UNBATCH_ALLOW_FAILED",
    show_envvar=True,
    help="Write a failure down and report success, instead of ending with the command's exit code.",
)
@click.option(
    "--retries",
    type=click.IntRange(0),
    default=0,
    envvar="UNBATCH_MAX_RETRIES",
    show_envvar=True,
    help="Attempts that follow the first if the command is killed; only the last one's end is written down.",
)
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True)
def main(_run: object, output: Path, number: int, allow_failed: bool, retries: int, command: tuple[str, ...]) -> None:
    """Run COMMAND, pass its messages on, and write exit code, status and its last message to a JSON file.

    That it does not apply to the data (exit code 99) is always written down. The pipeline gives the two options below
    by the environment, as a task's script would carry them into -resume's comparison.
    """
    from unbatch.data import io

    io.require_place(output, [])
    try:
        # a group of its own, to end what the command has started together with it
        process = subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            process_group=0,
            preexec_fn=_before_command(),
        )
    except OSError as error:
        raise click.UsageError(f"cannot start {command[0]!r}: {error.strerror}") from error
    assert process.stderr is not None
    # a progress bar writes without end of line: split there too, as it must not become the last message
    last = collections.deque(maxlen=1)
    with _signals_passed_on(process) as received, contextlib.suppress(_GraceOverError):
        for line in process.stderr:
            sys.stderr.write(line)
            last.extend(part for part in line.replace("\r", "\n").splitlines() if part.strip())
        process.wait()
    code = process.wait()
    if received:
        # told to stop, which says nothing of the fit: no outcome
        sys.exit(128 + received[0])
    code = 128 - code if code < 0 else code
    outcome = {
        "exit_code": code,
        "status": {0: "ok", NotApplicable.exit_code: "not applicable"}.get(code, "failed"),
        "message": None if code == 0 else safe_text(last[0] if last else "no message")[:500],
        "attempts": number,
    }
    again = code in KILLED and number <= retries
    if outcome["status"] == "failed" and (not allow_failed or again):
        sys.exit(code)
    io.write_json(outcome, output)
    click.echo(json.dumps(outcome), err=True)


def _before_command() -> Callable[[], None]:
    """Return what the new process does before it becomes the command."""
    # what dlopen does is nothing for a process that has just been forked
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
    die_with_parent = 1  # PR_SET_PDEATHSIG

    def prepare() -> None:
        # a task of Nextflow runs in the background of a shell, which has it ignore Ctrl-C
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if prctl is not None:
            prctl(die_with_parent, signal.SIGKILL)

    return prepare


@contextlib.contextmanager
def _signals_passed_on(process: subprocess.Popen) -> Iterator[list[int]]:
    """Pass SIGTERM and SIGINT on to the group of a process, and kill what is still there after the time of grace.

    Yields
    ------
    list of int
        The signals that were received, the first one first.

    Raises
    ------
    _GraceOverError
        In the block, once the process was killed.
    """
    received: list[int] = []

    def pass_on(number: int, _frame: object) -> None:
        if not received:
            signal.setitimer(signal.ITIMER_REAL, GRACE)
        received.append(number)
        _signal_group(process, number)

    def end(_number: int, _frame: object) -> None:
        _signal_group(process, signal.SIGKILL)
        # without waiting for anything else that may hold its stderr open
        raise _GraceOverError

    handlers = {signal.SIGTERM: pass_on, signal.SIGINT: pass_on, signal.SIGALRM: end}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield received
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _signal_group(process: subprocess.Popen, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
