"""Data that several tests share, made by the programs themselves."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from unbatch.cli import preprocess, simulate


@pytest.fixture(scope="session")
def simulated_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Simulated counts: 2 batches of 100 cells, 60 genes, labels, coordinates and truth; not to be changed."""
    path = tmp_path_factory.mktemp("simulated") / "simulated.h5ad"
    options = ["--cells", "100", "--genes", "60", "--noise", "nb", "-o", str(path)]
    result = CliRunner().invoke(simulate.main, options)
    assert result.exit_code == 0, result.output
    return path


@pytest.fixture(scope="session")
def dataset_path(simulated_path: Path) -> Path:
    """`simulated_path` after preprocess, batches by sample and labels by cell type; not to be changed."""
    path = simulated_path.with_name("dataset.h5ad")
    result = CliRunner().invoke(preprocess.main, [str(simulated_path), "--label-key", "cell_type", "-o", str(path)])
    assert result.exit_code == 0, result.output
    return path
