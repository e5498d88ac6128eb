"""`each`: run programs one after another in one process, which loads and compiles libraries once."""

from pathlib import Path

import click

from unbatch.cli.common import InPath, program
from unbatch.errors import InputError


@program()
@click.argument("jobs", type=InPath)
def main(_run: object, jobs: Path) -> None:
    """Run the command lines of JOBS, a JSON list of lists such as ["simulate", "--seed", "0", "-o", "raw.h5ad"].

    The first one that fails ends the rest, with its exit code.
    """
    from unbatch.cli import main as programs

    context = click.Context(programs)
    known = [name for name in programs.list_commands(context) if name != "each"]
    commands = _read_jobs(jobs)
    unknown = next((name for name, *_ in commands if name not in known), None)
    if unknown:
        raise InputError(f"{jobs}: no program {unknown!r}; there are {', '.join(known)}")
    for name, *arguments in commands:
        programs.get_command(context, name).main(arguments, prog_name=name, standalone_mode=False)


def _read_jobs(path: Path) -> list[list[str]]:
    from unbatch.data.io import read_json

    expected = "a list of command lines, each a list of program and arguments"
    content = read_json(path, expected)
    if not isinstance(content, list) or not all(isinstance(job, list) and job for job in content):
        raise InputError(f"{path}: found something else, expected {expected}")
    return [[str(part) for part in job] for job in content]
