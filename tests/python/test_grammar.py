"""What newer Nextflows refuse, or what is null when it runs, and `nextflow lint` of 25.04 lets pass."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [
    path
    for pattern in (
        "*.nf",
        "*.config",
        "conf/*.config",
        "functions/*.nf",
        "workflows/*.nf",
        "modules/**/*.nf",
        "tests/**/*.nf",
    )
    for path in ROOT.glob(pattern)
]
SECTIONS = json.loads((ROOT / "nextflow_schema.json").read_text())["$defs"].values()
PARAMETERS = {name for section in SECTIONS for name in section["properties"]}


def code_of(text: str) -> str:
    """The text without its comments; `//` in a text, as in an address, is none."""
    return re.sub(r"(?<!:)//.*", "", text)


def emitted(texts: list[str]) -> dict[str, set[str]]:
    """Names of the outputs of every process and workflow."""
    found: dict[str, set[str]] = {}
    for text in texts:
        for _kind, name, body in re.findall(r"^(process|workflow) (\w+) \{\n(.*?)^\}", text, re.M | re.S):
            plain = re.search(r"^    emit:\n(.*)", body, re.M | re.S)
            found[name] = {*re.findall(r"emit: (\w+)", body), *(plain[1].split() if plain else [])}
    for text in texts:
        for name, alias in re.findall(r"\b([A-Z]\w*) as ([A-Z]\w*)", text):
            found[alias] = found.get(name, set())
    return found


def traps(text: str, outputs: dict[str, set[str]]) -> list[str]:
    text = code_of(text)
    # from 25.10 on `Type ?` is the type of a value that may be null
    found = re.findall(r"\b(?:instanceof|as)\s+[\w.]*\b[A-Z]\w*(?:<[^>]*>)?(?:\[\])*\s*\?.*", text)
    # what is followed by a bracket is called; params.yml and params.json are files
    names = re.findall(r"\b(?:params|given)\.(?!(?:yml|json)\b)(\w+)\b(?!\s*[({])", text)
    found += [f"--{name}" for name in names if name not in PARAMETERS]
    found += [
        f"{name}.out.{output}"
        for name, output in re.findall(r"\b([A-Z]\w*)\.out\.(\w+)", text)
        if output not in outputs.get(name, set())
    ]
    # inside this closure both are null
    closures = re.findall(r"\bonComplete\s*=?\s*\{(.*?)\}", text, re.S)
    found += [closure for closure in closures if re.search(r"\b(?:workflow|params)\b", closure)]
    # an error in 26.04, a download, and no longer known
    return found + re.findall(r"\bnextflow\.preview\.\w+|^\s*plugins\s*\{|\baddParams\b", text, re.M)


OUTPUTS = emitted([path.read_text() for path in FILES])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_file_has_what_another_nextflow_reads_otherwise(path: Path):
    assert traps(path.read_text(), OUTPUTS) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("values instanceof List ? values : [values]", True),
        ("(values instanceof List ? values : [values])", True),
        ("value as java.util.List<String> ?: []", True),
        ("(values instanceof List) ? values : [values]", False),
        ("value as int ? 1 : 2 // values instanceof List ? 1 : 2", False),
        ("given.sead + params.seeds", True),
        ("given.subMap(['seeds']) + params.seeds", False),
        ("SIMULATE.out.dataset", True),
        ("SIMULATE.out.datasets.mix(PREPROCESS.out.notes)", False),
        ("workflow.onComplete = { log.info(workflow.success) }", True),
        ("workflow.onComplete = { log.info(run.success) }", False),
        ("nextflow.preview.topic = true", True),
        ("plugins {\n    id 'nf-schema'\n}", True),
    ],
)
def test_the_check_finds_what_it_looks_for(text: str, found: bool):
    assert bool(traps(text, OUTPUTS)) == found
