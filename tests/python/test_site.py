"""The documentation site and the workflow files of a forge: nothing is fetched elsewhere, all that is named exists."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from PIL import Image

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs"))

from screenshots import LARGEST, PICTURES  # noqa: E402

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


class Fetched(HTMLParser):
    """Collects addresses on other machines that a browser fetches for a page, not links that a reader may follow."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        follows = tag == "a" or (tag == "link" and given.get("rel") in ("canonical", "author"))
        addresses = [given.get(name) or "" for name in ("src", "href", "srcset", "data", "poster")]
        self.found += [each for each in addresses if re.match(r"(https?:)?//", each) and not follows]


def fetched(html):
    parser = Fetched()
    parser.feed(html)
    return parser.found


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-c", "docs", "-b", "html", "-W", "--keep-going", "-q"]
    built = subprocess.run(
        [*command, "-d", str(folder / "pages"), ".", str(folder / "html")], cwd=ROOT, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    return folder / "html"


def test_the_site_loads_nothing_from_elsewhere(site):
    for page in site.rglob("*.html"):
        assert not fetched(page.read_text(encoding="utf-8")), page
    for file in [*site.rglob("*.css"), *site.rglob("*.js")]:
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"""(@import|url\()\s*["']?(https?:)?//""", text), file
        assert not re.search(r"""\.src\s*=\s*["'`](https?:)?//|import\(\s*["'`]https?://""", text), file


@pytest.mark.parametrize(
    "html",
    [
        '<script src="https://example.org/a.js"></script>',
        '<link rel="stylesheet" href="//example.org/a.css">',
        '<img src="http://example.org/a.png">',
    ],
)
def test_what_is_loaded_from_elsewhere_is_found(html):
    assert len(fetched(html)) == 1
    assert not fetched('<a href="https://example.org">x</a><script src="_static/a.js"></script>')


def test_the_site_has_tutorials_guide_and_reference(site):
    assert (site / "index.html").read_bytes() == (site / "README.html").read_bytes()
    first = (site / "index.html").read_text(encoding="utf-8")
    pages = [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "tutorials").glob("*.md")]
    for page in pages:
        assert f'href="{page.relative_to(ROOT).with_suffix(".html")}"' in first, page
    reference = "".join(path.read_text(encoding="utf-8") for path in (site / "docs" / "api").glob("*.html"))
    for name in (
        "api.fit",
        "api.score",
        "models.batchblend.fit",
        "models.scmedal.model.fit",
        "metrics.groups.mixed_model",
    ):
        assert f'id="unbatch.{name}"' in reference


def test_pictures_have_the_size_that_their_script_gives_them_and_are_small():
    for picture in PICTURES.values():
        path = ROOT / "docs" / picture.path
        assert Image.open(path).size == (picture.width, picture.height), path
        assert path.stat().st_size < LARGEST


def commands(workflow):
    return "\n".join(step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step)


def test_there_is_a_workflow_for_tests_lint_images_and_docs():
    assert [path.stem for path in WORKFLOWS] == ["docs", "images", "lint", "tests"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_name_targets_and_files_that_exist_and_ask_for_little(path):
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z-]+)", commands(workflow)))
    assert named
    assert named <= targets
    for file in re.findall(r"(?<![\w./-])((?:docs|containers|setup|benchmarks|tests)/[\w./-]+)", path.read_text()):
        assert (ROOT / file).exists(), file
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"]
        assert "permissions" not in job
        for step in job["steps"]:
            if "uses" in step:
                assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step["uses"]), step["uses"]
            # what others write, such as titles, reaches no shell as text
            assert "${{" not in step.get("run", "")


def test_tests_run_on_both_ends_of_the_supported_nextflow():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8"))
    versions = workflow["jobs"]["test"]["strategy"]["matrix"]["nextflow"]
    assert [".".join(version.split(".")[:2]) for version in versions] == ["25.04", "26.04"]
    assert f"nextflowVersion = '!>={versions[0][:5]}" in (ROOT / "nextflow.config").read_text(encoding="utf-8")


def test_images_are_built_for_a_release_or_by_hand_only():
    # the key `on` is true in YAML 1.1
    when = yaml.safe_load((ROOT / ".github" / "workflows" / "images.yml").read_text(encoding="utf-8"))[True]
    assert set(when) == {"push", "workflow_dispatch"}
    assert set(when["push"]) == {"tags"}
