"""`attempt`: run a fit and write down how it ended, so that a failure becomes a row and not a hole."""

import collections
import json
import subprocess
import sys
from pathlib import Path

import click

from unbatch.cli.common import OutPath, program, safe_text
from unbatch.errors import NotApplicable

KILLED = frozenset({104, *range(130, 146)})
"""Exit codes of a process that ran out of memory or time, which another try with more may cure."""


@program()
@click.option("-o", "--output", type=OutPath, required=True, help="The outcome (JSON) to write.")
@click.option("--number", type=click.IntRange(1), default=1, help="Which attempt this is.")
@click.option(
    "--record",
    type=click.Choice(["not-applicable", "failures", "all"]),
    default="not-applicable",
    help="Which ends are written down and reported as success: 'failures' adds all but a process that was killed "
    "(another try with more memory may help), 'all' adds that too. Others end with the command's exit code.",
)
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True)
def main(_run: object, output: Path, number: int, record: str, command: tuple[str, ...]) -> None:
    """Run COMMAND, pass its messages on, and write exit code, status and its last message to a JSON file."""
    from unbatch.data import io

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
    recorded = code in (0, NotApplicable.exit_code) or record == "all" or (record == "failures" and code not in KILLED)
    if not recorded:
        sys.exit(code)
    io.write_json(outcome, output)
    click.echo(json.dumps(outcome), err=True)
