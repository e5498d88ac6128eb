"""Hostile names of columns and files through a real run: no shell runs them, and no page shows them as HTML."""

from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from harness import nextflow

COLUMN = "la'bel $(touch harm); <b>x"
VALUE = '"><script>alert(7)</script>`touch harm`'


@pytest.mark.slow
def test_hostile_columns_and_folders_do_no_harm(pipeline: Path, samplesheet: Path, tmp_path: Path):
    parts = [ad.read_h5ad(path) for path in sorted(samplesheet.parent.glob("*/my counts.h5ad"))]
    data = ad.concat(parts, join="inner", index_unique="-")
    data.obs[COLUMN] = np.where(np.arange(data.n_obs) % 2, VALUE, "plain")
    data.obs["b`touch harm`"] = data.obs["sample"].astype(str)
    source = tmp_path / "co'unts $(touch harm).h5ad"
    data.write_h5ad(source)
    options = ["--input", str(source), "--batch_key", "b`touch harm`", "--label_key", COLUMN, "--targets", COLUMN]
    options += ["--methods", "none", "--controls", "false", "--seeds", "1", "--max_cpus", "2"]
    done = nextflow(pipeline, tmp_path / "run", *options, "--outdir", "o'ut $(touch harm) <b>")
    assert done.code == 0, done.output
    assert not list(tmp_path.rglob("harm"))
    html = (tmp_path / "run" / "o'ut $(touch harm) <b>" / "multiqc" / "multiqc_report.html").read_text()
    assert "<script>alert(7)" not in html
    assert "<b>x" not in html
