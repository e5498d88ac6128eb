"""resolVI (Ergen & Yosef 2025) by scvi-tools, with its defaults: tells a cell's counts from those of its neighbours.

Made for technologies that see single cells; its authors say that it does not work with spots of several.
"""

import contextlib
import io
import logging
import warnings
from typing import Literal

import numpy as np
from pydantic import Field

from unbatch.contract import Fit, Needs, Parameters, Run
from unbatch.data.cells import Cells
from unbatch.errors import InputError, NotApplicable
from unbatch.methods.scvi import quiet, training

PACKAGES = ("scvi-tools",)
EXTRA = "scvi"
NEEDS = Needs(batches=1, coordinates=True, integers=True, gpu=True)
EPOCHS = "epochs"

MINIBATCH = 512
FAR = 1e6
"""Distance of a neighbour that is not there, as scvi-tools has it: the weight of such a neighbour is nothing."""
SMALL = 50
"""One gene in so many tells the background; scvi-tools takes none of fewer."""


class Params(Parameters):
    """Parameters of `fit`."""

    latent: int = Field(10, ge=1, description="latent dimensions")
    neighbours: int = Field(10, ge=6, description="nearest cells that counts may have come from")
    likelihood: Literal["nb", "poisson"] = Field("nb", description="distribution of the counts")
    epochs: int = Field(50, ge=1, description="training epochs")


def fit(cells: Cells, params: Params, run: Run) -> Fit:
    """Return the means of the latent variables.

    Raises
    ------
    InputError
        If the coordinates can't be used, or a cell has no count.
    NotApplicable
        If the installed scvi-tools does not have it.

    Notes
    -----
    scvi-tools looks for neighbours in the cells of a batch; here they are given, those of a section. A section of fewer
    cells than neighbours has the cell itself in their place, at a distance at which it has no weight.
    """
    import pandas as pd
    import scvi
    from anndata import AnnData

    try:
        from scvi.external import RESOLVI
    except ModuleNotFoundError:
        raise
    except ImportError as error:
        # announced for scvi-tools 1.6, which moves it to another package
        raise NotApplicable(f"resolvi: scvi-tools {scvi.__version__} does not have it, expected 1.3 to 1.5") from error

    from unbatch.data.graph import neighbours

    quiet()
    logging.getLogger("pyro").setLevel(logging.ERROR)
    scvi.settings.seed = run.seed
    # checks the coordinates
    neighbours(cells.coordinates, cells.section, "knn", k=1, names=cells.sections)
    counts = cells.whole_counts().astype(np.float32)
    total = np.asarray(counts.sum(1)).ravel()
    if (total == 0).any():
        raise InputError(
            f"{cells.name}: layers/counts: {(total == 0).sum()} of {len(total)} cells have no count of the "
            f"{counts.shape[1]} genes, resolvi needs one of each"
        )
    obs = pd.DataFrame({"batch": pd.Categorical(cells.batch.astype(str))}, index=np.arange(len(total)).astype(str))
    data = AnnData(counts, obs=obs)
    index, distance = _surroundings(cells.coordinates, cells.section, params.neighbours)
    data.obsm["index_neighbor"], data.obsm["distance_neighbor"] = index, distance
    # the distance of the sixth neighbour, as scvi-tools takes it
    known = distance[(distance[:, 5] < FAR) & (distance[:, 5] > 0), 5]
    unit = float(np.median(known)) if len(known) else 1.0

    class Model(RESOLVI):
        """With priors that few genes and few neighbours have, too."""

        def compute_dataset_dependent_priors(self, n_small_genes: int | None = None) -> dict[str, float]:
            found = super().compute_dataset_dependent_priors(max(1, counts.shape[1] // SMALL))
            return found | {"median_distance": unit, "std_log_counts": max(float(found["std_log_counts"]), 1e-3)}

    # it announces what it does by print, warns that it will move to another package, and shows a tip of lightning's
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Model.setup_anndata(data, batch_key="batch", prepare_data=False)
        model = Model(data, n_latent=params.latent, gene_likelihood=params.likelihood)
        own = {name: value for name, value in training(run.device, len(total)).items() if name != "devices"}
        # batch normalisation has no variance of one cell
        own["datasplitter_kwargs"] = {"drop_last": 0 < len(total) % MINIBATCH < 3 and len(total) > MINIBATCH}
        model.train(max_epochs=params.epochs, batch_size=MINIBATCH, **own)
        embedding = model.get_latent_representation()
    return Fit(np.asarray(embedding, dtype=np.float32))


def _surroundings(coordinates: np.ndarray, section: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest cells of each cell in its section, n x k, and the squared distances, as scvi-tools has them."""
    from unbatch.metrics.spatial import nearest, units

    place = coordinates * units(coordinates, section, lone=True)[section]
    near = nearest(place, k, section, fewer=True)
    there = near >= 0
    near = np.where(there, near, np.arange(len(near))[:, None])
    squared = ((place[near] - place[:, None]) ** 2).sum(2)
    return near, np.where(there, squared, FAR)
