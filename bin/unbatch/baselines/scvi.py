"""scVI (Lopez et al. 2018) by scvi-tools, with its defaults."""

import logging
import math
import warnings
from typing import Any

import numpy as np
import pandas as pd
import scvi
from anndata import AnnData

from unbatch.baselines.cells import Cells, Fit

PACKAGES = ("scvi-tools",)
CHOICES = {"likelihood": ("zinb", "nb", "poisson")}


def fit(
    cells: Cells,
    *,
    seed: int,
    device: str = "cpu",
    latent: int = 10,
    layers: int = 1,
    likelihood: str = "zinb",
    max_epochs: int | None = None,
) -> Fit:
    """Return the means of the latent variables.

    Parameters
    ----------
    cells, seed, device
        As of every method.
    latent, layers, likelihood
        Latent dimensions, hidden layers, ``zinb``, ``nb`` or ``poisson``.
    max_epochs
        None for scvi-tools' heuristic: 400, fewer above 20,000 cells.
    """
    model, _data = trained(cells, seed, device, latent, layers, likelihood, max_epochs)
    return Fit(model.get_latent_representation())


def trained(
    cells: Cells, seed: int, device: str, latent: int, layers: int, likelihood: str, max_epochs: int | None
) -> tuple[Any, AnnData]:
    """Train scVI; return the model and its data, in which ``label`` holds names of labels, ``unknown`` for none."""
    quiet()
    scvi.settings.seed = seed
    label = np.full(len(cells.batch), -1) if cells.label is None else cells.label
    obs = pd.DataFrame(
        {
            "batch": pd.Categorical(cells.batch.astype(str)),
            "label": pd.Categorical(np.where(label < 0, "unknown", np.char.add("label ", label.astype(str)))),
        },
        index=np.arange(len(label)).astype(str),
    )
    data = AnnData(cells.whole_counts().astype(np.float32), obs=obs)
    scvi.model.SCVI.setup_anndata(data, batch_key="batch")
    model = scvi.model.SCVI(data, n_latent=latent, n_layers=layers, gene_likelihood=likelihood)
    model.train(max_epochs=max_epochs, **training(device, data.n_obs))
    return model, data


def training(device: str, cells: int) -> dict[str, Any]:
    """Arguments of scvi-tools' training: where, and nothing written to the working directory or the terminal.

    The last minibatch is left out where it has fewer than 3 cells: of one cell, batch normalisation has no variance.
    """
    trained = math.ceil(0.9 * cells)  # scvi-tools' share
    return {
        "datasplitter_kwargs": {"drop_last": True} if 0 < trained % 128 < 3 and trained > 128 else {},
        "accelerator": "gpu" if device == "cuda" else "cpu",
        "devices": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "logger": False,
    }


def quiet() -> None:
    """Leave out advice on workers, GPUs and checkpoints."""
    warnings.filterwarnings("ignore", module=r"(scvi|lightning|torch|mudata)\b")
    for name in ("lightning", "lightning.pytorch", "lightning.fabric", "scvi"):
        logging.getLogger(name).setLevel(logging.ERROR)
