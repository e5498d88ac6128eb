"""A copy of the pipeline with methods that fail, and samples with names that would do harm.

The methods are added as any method is: a card and a file each.
"""

import shutil
from pathlib import Path

import anndata as ad
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner
from harness import ADDED, HEAD, ROOT

from unbatch.cli import simulate

PIPELINE = (
    "main.nf",
    "nextflow.config",
    "nextflow_schema.json",
    "assets",
    "bin",
    "conf",
    "functions",
    "modules",
    "workflows",
)

HOSTILE_TYPE = "\x1b[2JTags<script>alert(2)</script>"


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("nextflow") is None:
        pytest.fail("no nextflow on PATH: run `make test`, which sets it up")
    folder = tmp_path_factory.mktemp("pipeline")
    for name in PIPELINE:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, folder / name)
    cards = yaml.safe_load((folder / "assets" / "methods.yml").read_text())
    for name, text in ADDED.items():
        (folder / "bin" / "unbatch" / "methods" / f"{name}.py").write_text(HEAD + text.strip("\n"))
        cards[name] = {**cards["none"], "label": name.title(), "kind": "correction"}
    (folder / "assets" / "methods.yml").write_text(yaml.safe_dump(cards, sort_keys=False))
    return folder


@pytest.fixture(scope="session")
def samplesheet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two samples whose names and labels would do harm where they are not quoted or escaped."""
    folder = tmp_path_factory.mktemp("sam ples")
    result = CliRunner().invoke(
        simulate.main, ["--cells", "60", "--genes", "60", "--noise", "nb", "-o", str(folder / "all.h5ad")]
    )
    assert result.exit_code == 0, result.output
    data = ad.read_h5ad(folder / "all.h5ad")
    data.obs["cell type"] = data.obs["cell_type"].astype(str).replace("Non-neuron", "<script>alert('label')</script>")
    lines = ["sample,path"]
    for name, part in zip(["$(touch${IFS}harm)", "<script>alert(1)"], data.obs["sample"].cat.categories, strict=True):
        (folder / part).mkdir()
        cells = data[data.obs["sample"] == part].copy()
        if len(lines) == 2:
            # the second sample has features that are no genes, and names that the first does not know
            cells.var["feature_types"] = pd.Categorical(["Gene Expression"] * 58 + [HOSTILE_TYPE] * 2)
            cells.var_names = [f"other{i}" if i < 10 else name for i, name in enumerate(cells.var_names)]
        # the same file name twice, with a space, as from folders of samples
        cells.write_h5ad(folder / part / "my counts.h5ad")
        lines.append(f"{name},{part}/my counts.h5ad")
    (folder / "my sheet.csv").write_text("\n".join(lines) + "\n")
    return folder / "my sheet.csv"
