"""The tutorials run as they are written, and print what they show."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs"))

import run_tutorials  # noqa: E402
from run_tutorials import FOLDERS, IN_CLONE, TUTORIALS, differences, run  # noqa: E402


def check(ran):
    assert [each for each in ran if each.shown is not None]
    found = [difference for each in ran for difference in differences(each)]
    assert not found, "\n".join(found)


def test_every_tutorial_asks_a_question_and_ends_with_decisions():
    pages = {path.stem: path.read_text(encoding="utf-8") for path in TUTORIALS.glob("*.md")}
    assert set(pages) == set(FOLDERS)
    for name, text in pages.items():
        first, *_, last = (part.strip() for part in text.split("\n## "))
        assert "**The question.**" in first, name
        assert last.startswith("What to decide"), name


@pytest.mark.parametrize("name", ["own-data", "another-batch"])
def test_a_tutorial_prints_what_it_shows(name, tmp_path):
    check(run(TUTORIALS / f"{name}.md", tmp_path))


@pytest.mark.parametrize("name", IN_CLONE)
def test_a_tutorial_that_edits_the_repository_prints_what_it_shows(name, tmp_path):
    folder = run_tutorials.clone(tmp_path / "clone")
    check(run(TUTORIALS / f"{name}.md", folder, folder))


@pytest.mark.slow
def test_the_study_is_run_by_nextflow_and_its_report_says_what_the_tutorials_show(tmp_path):
    for name in ("own-data", "reading-the-report"):
        check(run(TUTORIALS / f"{name}.md", tmp_path, slow=True))
    assert (tmp_path / "results" / "multiqc" / "multiqc_report.html").stat().st_size > 1e6


@pytest.mark.parametrize(
    ("shown", "found"),
    [("a 0.50 x\n", 0), ("a 0.51\nx\n", 0), ("a 0.60 x\n", 1), ("b 0.50 x\n", 1), ("a 0.50\n", 1)],
)
def test_other_words_and_other_numbers_are_differences(shown, found, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f'```python\nprint("a", 0.5, "x")\n```\n\n```text\n{shown}```\n')
    (ran,) = run(page, tmp_path)
    assert len(differences(ran)) == found


def test_a_failing_command_is_an_error_that_names_the_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```bash\nfalse\n```\n")
    with pytest.raises(RuntimeError, match=r"page\.md, line 1: exit code 1"):
        run(page, tmp_path)
