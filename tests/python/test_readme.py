"""What README and docs state is what the project has."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from unbatch import __version__
from unbatch.report.confounding import FEW
from unbatch.report.probes import LEAST_EXCESS
from unbatch.report.recommend import MARGIN, MAX_CONFINED, NEGLIGIBLE

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def badge(name):
    return re.search(r"<title>.*?: (.*?)</title>", (ROOT / "docs" / "badges" / f"{name}.svg").read_text())[1]


def test_badges_say_what_the_project_declares():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert badge("licence") == project["license"]
    low, high = re.findall(r"\d+\.(\d+)", project["requires-python"])
    assert badge("python") == " | ".join(f"3.{minor}" for minor in range(int(low), int(high)))
    assert badge("nextflow").split()[-1] in (ROOT / "nextflow.config").read_text()


@pytest.mark.parametrize("page", ["README.md", *sorted(path.name for path in (ROOT / "docs").glob("*.md"))])
def test_links_to_files_and_headings_of_the_docs_lead_somewhere(page):
    path = ROOT / page if page == "README.md" else ROOT / "docs" / page
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        linked = path.parent / file if file else path
        assert linked.exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}, target


def test_the_rules_of_recommendations_have_the_numbers_of_the_code():
    rules = (ROOT / "docs" / "report.md").read_text(encoding="utf-8")
    for value in (f"{MAX_CONFINED:.0%} of", f"less than {MARGIN}", f"below {NEGLIGIBLE}", f"more than {LEAST_EXCESS}"):
        assert value in rules
    assert f"{FEW} or more cells" in rules


def test_the_version_to_cite_is_that_of_the_package():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (cited["version"], cited["license"]) == (__version__, "MIT")


def test_methods_have_one_table():
    assert not re.search(r"^\|", README, re.MULTILINE)
