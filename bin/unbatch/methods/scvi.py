"""scVI (Lopez et al. 2018) by scvi-tools, with its defaults."""

import logging
import math
import warnings
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from unbatch.contract import Fit, Needs, Parameters, Run
from unbatch.data.cells import Cells

if TYPE_CHECKING:
    from anndata import AnnData

PACKAGES = ("scvi-tools",)
EXTRA = "scvi"
NEEDS = Needs(integers=True, gpu=True)


class Params(Parameters):
    """Parameters of `fit`."""

    latent: int = Field(10, ge=1, description="latent dimensions")
    layers: int = Field(1, ge=1, description="hidden layers")
    likelihood: Literal["zinb", "nb", "poisson"] = Field("zinb", description="distribution of the counts")
    max_epochs: int | None = Field(None, ge=1, description="training epochs; null: 400, fewer above 20,000 cells")


def fit(cells: Cells, params: Params, run: Run) -> Fit:
    """Return the means of the latent variables."""
    model, _data, epochs = trained(cells, params, run)
    return Fit(model.get_latent_representation(), used=params.model_copy(update={"max_epochs": epochs}))


def trained(cells: Cells, params: Params, run: Run) -> "tuple[Any, AnnData, int]":
    """Train scVI; return the model, its data and its epochs.

    In the data ``label`` holds names of labels, ``unknown`` for none.
    """
    import pandas as pd
    import scvi
    from anndata import AnnData
    from scvi.model import get_max_epochs_heuristic

    quiet()
    scvi.settings.seed = run.seed
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
    model = scvi.model.SCVI(data, n_latent=params.latent, n_layers=params.layers, gene_likelihood=params.likelihood)
    # as scvi-tools chooses them
    epochs = params.max_epochs or get_max_epochs_heuristic(data.n_obs)
    epochs = min(epochs, run.max_epochs or epochs)
    model.train(max_epochs=epochs, **training(run.device, data.n_obs))
    return model, data, epochs


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
