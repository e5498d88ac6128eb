#!/usr/bin/env python3
"""Run the tutorials in docs/tutorials, and write what they print into them.

A tutorial is Markdown. Its blocks of bash and python are run one after another in one folder; a block of text that
follows is what the block printed. A comment above a block says what else it is:

    <!-- slow -->            run only where slow blocks are asked for: it starts Nextflow or reads what a run wrote
    <!-- not run -->         shown, not run
    <!-- file: PATH -->      written to a file
    <!-- append: PATH -->    appended to a file

``python docs/run_tutorials.py FOLDER NAME...`` runs tutorials in a folder and writes what they print into their pages.
"""

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[1]
TUTORIALS = ROOT / "docs" / "tutorials"
FOLDERS = {
    "own-data": "study",
    "reading-the-report": "study",
    "another-batch": "donors",
    "adding-a-method": "clone",
}
"""Tutorials in the order of reading, and the folder of each; the second one reads the run of the first."""
IN_CLONE = ("adding-a-method",)
"""Tutorials that edit the repository, and are run in a copy of it."""

BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>[a-z ]+)(?:: (?P<path>[^ ]+))? -->\n+)?^```(?P<language>bash|python|yaml)\n(?P<code>.*?)^```\n"
    r"(?:\n```text\n(?P<printed>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)
NUMBER = re.compile(r"[-+]?\d[\d,]*\.?\d*(?:e[-+]?\d+)?")


@dataclass(frozen=True)
class Ran:
    """A block and what it printed.

    Attributes
    ----------
    where
        Page and line.
    code, shown, printed
        The block, what the page says that it prints (None: nothing is said), and what it printed.
    """

    where: str
    code: str
    shown: str | None
    printed: str


def blocks(page: Path) -> Iterator[re.Match[str]]:
    """Find the blocks of a page."""
    return BLOCK.finditer(page.read_text(encoding="utf-8"))


def run(page: Path, folder: Path, root: Path = ROOT, *, slow: bool = False) -> list[Ran]:
    """Run a tutorial.

    Parameters
    ----------
    page
        The tutorial.
    folder
        Where it is run; what it writes stays there.
    root
        The clone whose programs and package are used.
    slow
        Whether to run the blocks that are marked so.

    Returns
    -------
    list of Ran
        The blocks that were run.

    Raises
    ------
    RuntimeError
        If a shell command fails; whatever a Python block raises is not caught.
    """
    environment = environment_of(root, folder)
    names: dict[str, Any] = {"__name__": "tutorial"}
    ran = []
    for block in blocks(page):
        mark, code = block["mark"], block["code"]
        where = f"{page.name}, line {block.string.count(chr(10), 0, block.start('code'))}"
        if mark == "not run" or (mark == "slow" and not slow):
            continue
        if mark in ("file", "append"):
            path = folder / block["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w" if mark == "file" else "a", encoding="utf-8") as file:
                file.write(code)
            continue
        if mark not in (None, "slow"):
            raise ValueError(f"{where}: {mark!r} is no mark of a block, expected slow, not run, file or append")
        if block["language"] == "bash":
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", code], cwd=folder, env=environment, capture_output=True, text=True
            )
            if done.returncode:
                raise RuntimeError(f"{where}: exit code {done.returncode}\n{code}\n{done.stdout}\n{done.stderr}")
            printed = done.stdout
        else:
            out = io.StringIO()
            here = {"UNBATCH": str(root)}
            with contextlib.chdir(folder), contextlib.redirect_stdout(out), patch.dict(os.environ, here):
                exec(compile(code, where, "exec"), names)
            printed = out.getvalue()
        ran.append(Ran(where, code, block["printed"], printed))
    return ran


def clone(folder: Path) -> Path:
    """Copy the repository, for a tutorial that edits it."""
    left_out = shutil.ignore_patterns(".*", "__pycache__", "build", "results*", "work")
    return shutil.copytree(ROOT, folder, ignore=left_out)


def environment_of(root: Path, folder: Path) -> dict[str, str]:
    """Return an environment in which `unbatch` is the one of a clone, as after `source .venv/bin/activate`."""
    programs = folder / ".programs"
    programs.mkdir(exist_ok=True)
    start = 'import sys; sys.path.insert(0, sys.argv.pop(1)); from unbatch.cli import main; main(prog_name="unbatch")'
    command = programs / "unbatch"
    command.write_text(f"#!/usr/bin/env bash\nexec {sys.executable} -c '{start}' '{root}/bin' \"$@\"\n")
    command.chmod(0o755)
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    nextflow = {"NXF_SYNTAX_PARSER": "v2", "NXF_OFFLINE": "true", "NXF_ANSI_LOG": "false"}
    return {**os.environ, **nextflow, "PATH": path, "UNBATCH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}


def differences(ran: Ran) -> list[str]:
    """Say where a block printed something else than its page shows: other words, or numbers beyond 5% and 0.02."""
    if ran.shown is None:
        return []
    shown, printed = ran.shown.split(), ran.printed.split()
    if len(shown) != len(printed):
        return [f"{ran.where}: shows {len(shown)} words and prints {len(printed)}:\n{ran.printed}"]
    return [
        f"{ran.where}: shows {one}, prints {other}"
        for one, other in zip(shown, printed, strict=True)
        if not _alike(one, other)
    ]


def _alike(one: str, other: str) -> bool:
    if NUMBER.sub("#", one) != NUMBER.sub("#", other):
        return False
    pairs = zip(NUMBER.findall(one), NUMBER.findall(other), strict=True)
    values = ((float(a.replace(",", "")), float(b.replace(",", ""))) for a, b in pairs)
    return all(abs(a - b) <= max(0.05 * abs(a), 0.02) for a, b in values)


def write(page: Path, ran: list[Ran]) -> None:
    """Write what blocks printed into their page, where it shows what they print."""
    text = page.read_text(encoding="utf-8")
    printed = {each.where: each for each in ran}

    def renewed(block: re.Match[str]) -> str:
        where = f"{page.name}, line {text.count(chr(10), 0, block.start('code'))}"
        if block["printed"] is None or where not in printed:
            return block[0]
        start, end = block.start("printed") - block.start(), block.end("printed") - block.start()
        lines = "".join(f"{line.rstrip()}\n" for line in printed[where].printed.splitlines())
        return block[0][:start] + lines + block[0][end:]

    page.write_text(BLOCK.sub(renewed, text), encoding="utf-8")


def main() -> None:
    """Run tutorials in a folder and write what they print into their pages."""
    base = Path(sys.argv[1]).resolve()
    sys.path.insert(0, str(ROOT / "bin"))
    for name in sys.argv[2:]:
        page, folder = TUTORIALS / f"{name}.md", base / FOLDERS[name]
        if name in IN_CLONE:
            write(page, run(page, clone(folder), folder, slow=True))
        else:
            folder.mkdir(parents=True, exist_ok=True)
            write(page, run(page, folder, slow=True))


if __name__ == "__main__":
    main()
