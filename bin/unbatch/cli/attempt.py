"""`attempt`: run a fit and write down how it ended, so that a failure becomes a row and not a hole."""

import collections
import json
import subprocess
import sys
from pathlib import Path

import click

from unbatch.cli.common import OutPath, program, safe_text
from unbatch.errors import NotApplicable, StorageError

KILLED = frozenset({104, *range(130, 146)})
"""Exit codes of a process that ran out of memory or time, which another try with more may cure."""


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
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace")
    except OSError as error:
        raise click.UsageError(f"cannot start {command[0]!r}: {error.strerror}") from error
    assert process.stderr is not None
    # a progress bar writes without end of line: split there too, so that it never becomes the last message
    last = collections.deque(maxlen=1)
    for line in process.stderr:
        sys.stderr.write(line)
        last.extend(part for part in line.replace("\r", "\n").splitlines() if part.strip())
    code = process.wait()
    code = 128 - code if code < 0 else code
    outcome = {
        "exit_code": code,
        "status": {0: "ok", NotApplicable.exit_code: "not applicable"}.get(code, "failed"),
        "message": None if code == 0 else safe_text(last[0] if last else "no message")[:500],
        "attempts": number,
    }
    again = code in KILLED and number <= retries
    # a full disk is no failure of the method: recorded, it would outlast the mend in -resume's cache
    if outcome["status"] == "failed" and (not allow_failed or again or code == StorageError.exit_code):
        sys.exit(code)
    io.write_json(outcome, output)
    click.echo(json.dumps(outcome), err=True)
