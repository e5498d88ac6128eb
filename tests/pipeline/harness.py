"""Nextflow, run for real on a copy of the pipeline, and what a run left."""

import csv
import json
import os
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
JAVA = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
"""For a Java that runs for seconds: to start Nextflow takes 6 CPU seconds in place of 15."""

HEAD = """
from unbatch.contract import Fit, Parameters, Run
from unbatch.data.cells import Cells
from unbatch.errors import NotApplicable

class Params(Parameters):
    pass

def fit(cells: Cells, params: Params, run: Run) -> Fit:
"""
ADDED = {
    "picky": """
    raise NotApplicable("picky wants three batches or more")
""",
    # killed at its first try, as by a scheduler; wrong at the second
    "greedy": """
    import os, signal
    from pathlib import Path
    tried = Path(os.environ["TRIED"] + ".greedy")
    if not tried.exists():
        tried.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    raise ValueError("greedy got <b>lost</b>")
""",
    # wrong at its first try
    "moody": """
    import os
    from pathlib import Path
    try:
        # one alone makes it, of those that run at once
        Path(os.environ["TRIED"] + ".moody").touch(exist_ok=False)
    except FileExistsError:
        return Fit(cells.X.toarray()[:, :2])
    raise ValueError("moody is not in the mood")
""",
    "slow": """
    import time
    time.sleep(120)
""",
}
"""Methods that fail, each in its way."""


class Run(NamedTuple):
    """A finished run."""

    code: int
    output: str
    outdir: Path

    def tasks(self) -> dict[str, str]:
        """Status of the last attempt of every task, by name."""
        with (self.outdir / "pipeline_info" / "trace.txt").open() as file:
            rows = sorted(csv.DictReader(file, delimiter="\t"), key=lambda row: int(row["attempt"].strip("-") or 1))
        return {row["name"].removeprefix("UNBATCH:"): row["status"] for row in rows}

    def rows(self, dataset: str) -> dict[str, dict]:
        """Rows of the score table, by method."""
        table = json.loads((self.outdir / "scores" / f"{dataset}.scores.json").read_text())
        return {row["method"]: row for row in table["rows"]}


def nextflow(pipeline: Path, folder: Path, *options: str, parser: str = "v2", text: bool = False) -> Run:
    """Run the pipeline in a folder of its own, by the strict parser; -resume finds what ran there before.

    With `text` older Nextflows, too, hand over the values of the command line as text.
    """
    folder.mkdir(exist_ok=True)
    command = ["nextflow", "run", str(pipeline), "--outdir", "out", *options]
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment(folder, parser, text),
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    return Run(done.returncode, done.stdout + done.stderr, folder / "out")


def environment(folder: Path, parser: str = "v2", text: bool = False) -> dict[str, str]:
    more = {"NXF_DISABLE_PARAMS_TYPE_DETECTION": "true"} if text else {}
    return {
        **os.environ,
        "NXF_SYNTAX_PARSER": parser,
        "NXF_OFFLINE": "true",
        "NXF_ANSI_LOG": "false",
        "NXF_JVM_ARGS": f"{JAVA} {os.environ.get('NXF_JVM_ARGS', '')}".strip(),
        "TRIED": str(folder / "tried"),
        **more,
    }


def described() -> dict[str, dict[str, Any]]:
    """Parameters of the schema, by name."""
    sections = json.loads((ROOT / "nextflow_schema.json").read_text())["$defs"].values()
    return {name: rule for section in sections for name, rule in section["properties"].items()}
