"""A new model: a card and a file, and it reaches the report."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import anndata as ad
import pytest
import yaml
from harness import ADDED, ROOT, nextflow

TOY = '''
"""A toy model of our own: the first genes, scaled."""

import numpy as np
from pydantic import Field

from unbatch.contract import Fit, Needs, Parameters, Run, SavedModel, Slot
from unbatch.data.cells import Cells

NEEDS = Needs(batches=1)
SLOTS = {"obsm/toy_double": Slot("twice the embedding"), "uns/gene": Slot("the first gene", "any")}


class Params(Parameters):
    """Parameters of `fit`."""

    genes: int = Field(3, ge=1, description="genes of the embedding")


def fit(cells: Cells, params: Params, run: Run) -> Fit:
    """Return the first genes."""
    return found(cells, {"scale": np.full(params.genes, 2.0)})


def apply(model: SavedModel, cells: Cells, run: Run) -> Fit:
    """Return those of other cells."""
    return found(cells, model.weights)


def found(cells: Cells, weights: dict) -> Fit:
    """Scale the first genes."""
    embedding = cells.X[:, : len(weights["scale"])].toarray() * weights["scale"]
    slots = {"obsm/toy_double": 2 * embedding, "uns/gene": cells.genes[0]}
    return Fit(embedding, weights=weights, config={"scaled": True}, slots=slots)


def sections():
    """Return the section of the report over its fits."""
    from unbatch.report.section import FitSection, Page, Sections

    def pages(gene, _shown):
        yield Page("First gene", f"<p>The toy saw {gene}.</p>")

    toys = FitSection("toys", "Toys", "What the toy saw.", pages)
    return Sections(lambda fit, _dataset: str(fit.about["gene"]), (toys,))
'''
"""All of a new model: this file, and a card."""


@pytest.fixture(scope="module")
def with_toy(pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pipeline with one more card and one more file, and what `make docs` generates of them."""
    folder = tmp_path_factory.mktemp("toy") / "pipeline"
    shutil.copytree(pipeline, folder)
    (folder / "bin" / "unbatch" / "methods" / "toy.py").write_text(TOY)
    cards = yaml.safe_load((folder / "assets" / "methods.yml").read_text())
    cards = {name: card for name, card in cards.items() if name not in ADDED}
    card = {"label": "Toy", "program": "fit-baseline", "kind": "correction", "summary": "A toy.", "package": None}
    cards["toy"] = card | {
        "licence": "MIT",
        "citation": "None.",
        "doi": None,
        "extra": None,
        "image": None,
        "run": "asked",
    }
    (folder / "assets" / "methods.yml").write_text(yaml.safe_dump(cards, sort_keys=False))
    for name in ("docs", "README.md", "CITATIONS.md"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, folder / name)
    written = subprocess.run([sys.executable, str(folder / "docs" / "cards.py")], capture_output=True, text=True)
    assert written.returncode == 0, written.stderr
    return folder


def test_a_new_model_is_a_card_and_a_file_and_reaches_the_report(with_toy: Path, tmp_path: Path):
    (tmp_path / "params.yml").write_text("toy: {genes: 2}\n")
    options = ["-profile", "test", "--methods", "toy", "--method_params", str(tmp_path / "params.yml")]
    run = nextflow(with_toy, tmp_path, *options, "--controls", "false", "--evidence", "false")
    assert run.code == 0, run.output
    (row,) = run.rows("simulated").values()
    assert (row["status"], row["params"]) == ("ok", {"genes": 2})
    fit = ad.read_h5ad(run.outdir / "fits" / f"{row['id']}.fit.h5ad")
    assert fit.obsm["X_toy"].shape == fit.obsm["toy_double"].shape == (fit.n_obs, 2)
    config = json.loads((run.outdir / "models" / f"{row['id']}.model" / "config.json").read_text())
    assert config["scaled"]
    assert "The toy saw gene1." in (run.outdir / "multiqc" / "multiqc_report.html").read_text()
    assert "#### `toy`" in (with_toy / "docs" / "methods.md").read_text()


def test_values_of_a_new_model_are_checked_before_any_task(with_toy: Path, tmp_path: Path):
    (tmp_path / "params.yml").write_text("toy: {genes: 0}\n")
    options = ["-profile", "test", "--methods", "toy", "--method_params", str(tmp_path / "params.yml")]
    run = nextflow(with_toy, tmp_path, *options)
    assert run.code == 2
    assert "toy.genes: found '0'" in run.output
    assert "Submitted process" not in run.output
