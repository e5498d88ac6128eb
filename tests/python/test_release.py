"""Releases: the version is stated once, the bill of materials is the lock, and a check says what is missing."""

import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "setup"), str(ROOT / "containers")]

import cpu_lock  # noqa: E402
import release  # noqa: E402


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What a release states, in a folder without git."""
    for name in sorted({place.split(",")[0] for place in release.PLACES} | {"CHANGELOG.md"}):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tmp_path / name)
    (tmp_path / "containers").mkdir()
    for name in ("requirements.lock", "environment.yml"):
        shutil.copy2(ROOT / "containers" / name, tmp_path / "containers" / name)
    return tmp_path


def test_every_place_states_the_same_version():
    assert len(set(release.stated().values())) == 1


def test_a_version_is_written_everywhere(clone: Path):
    release.write_version("7.8.9", clone)
    assert set(release.stated(clone).values()) == {"7.8.9"}


def test_what_a_release_lacks_is_named(clone: Path):
    release.write_version("7.8.9", clone)
    config = clone / "nextflow.config"
    config.write_text(config.read_text().replace("unbatch:7.8.9", "unbatch:7.8.8"))
    (clone / "containers" / "environment.yml").write_text("name: other\n")
    found = " ".join(release.problems(clone))
    for what in ("nextflow.config, container: version is 7.8.8", "CHANGELOG.md", "v7.8.9", "environment.yml"):
        assert what in found


def test_the_bill_of_materials_holds_every_package_of_the_lock_with_its_checksums():
    lines = (ROOT / "containers" / "requirements.lock").read_text().splitlines()
    names = {line.split("==")[0] for line in lines if line and line[0] not in " #"}
    made = release.sbom()
    assert {each["name"] for each in made["components"]} == names
    assert sum(len(each["externalReferences"]) for each in made["components"]) == sum(
        "--hash=" in line for line in lines
    )
    torch = next(each for each in made["components"] if each["name"] == "torch")
    assert torch["purl"].startswith("pkg:pypi/torch@2.")


def test_the_lock_without_cuda_lacks_what_only_that_asks_for_and_nothing_else():
    text = (ROOT / "containers" / "requirements.lock").read_text()
    rest, torch = cpu_lock.split(text)
    left, all_names = ({name for name, _version, _sums in release.packages(each)} for each in (rest, text))
    gone = all_names - left
    assert torch.startswith("torch==2.")
    assert {"torch", "triton"} <= gone
    assert all(name in ("torch", "triton") or name.startswith(("nvidia-", "cuda-")) for name in gone)
    assert "numpy" in left
