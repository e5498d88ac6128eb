"""The results of `-profile test` are those whose checksums docs/reproducibility.md states."""

import re
import sys
from pathlib import Path

import pytest
from harness import ROOT, nextflow

sys.path.insert(0, str(ROOT / "tests" / "drills"))

import same

PAGE = (ROOT / "docs" / "reproducibility.md").read_text()


def processor() -> str:
    """What the processor calls itself and whether it has AVX-512; last digits depend on both."""
    about = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    found = re.search(r"^model name\s*: (.*)", about, re.M)
    return f"{found[1].strip() if found else 'unknown'}, {'with' if 'avx512f' in about else 'without'} AVX-512"


@pytest.mark.slow
@pytest.mark.skipif(f"`{processor()}`" not in PAGE, reason="checksums are of another kind of processor")
def test_the_tiny_run_gives_what_is_documented(pipeline: Path, tmp_path: Path):
    done = nextflow(pipeline, tmp_path, "-profile", "test", "--evidence", "false", "--integrated", "false")
    assert done.code == 0, done.output
    stated = {
        (name, slot): checksum
        for name, slot, checksum in re.findall(r"^\| `(.*?)` \| `(.*?)` \| `(\w{32})` \|$", PAGE, re.M)
    }
    assert stated
    assert {key: checksum[:32] for key, checksum in same.table(done.outdir).items()} == stated
