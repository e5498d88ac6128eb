"""scANVI (Xu et al. 2021) by scvi-tools: starts from scVI, then learns from the labels."""

import scvi as scvi_tools

from unbatch.baselines.cells import Cells, Fit
from unbatch.baselines.scvi import CHOICES, trained, training
from unbatch.errors import NotApplicable

__all__ = ["CHOICES", "PACKAGES", "fit"]

PACKAGES = ("scvi-tools",)


def fit(
    cells: Cells,
    *,
    seed: int,
    device: str = "cpu",
    latent: int = 10,
    layers: int = 1,
    likelihood: str = "zinb",
    max_epochs: int | None = None,
    label_epochs: int = 20,
) -> Fit:
    """Return the means of the latent variables.

    Parameters
    ----------
    cells, seed, device, latent, layers, likelihood, max_epochs
        As of scVI, from which it starts.
    label_epochs
        Epochs with labels, 100 cells of each label in an epoch as in scvi-tools' tutorial.

    Raises
    ------
    NotApplicable
        If the dataset has no labels.
    """
    if cells.label is None or cells.label.max() < 0:
        raise NotApplicable("scanvi: the dataset has no labels to learn from")
    start, data = trained(cells, seed, device, latent, layers, likelihood, max_epochs)
    model = scvi_tools.model.SCANVI.from_scvi_model(start, unlabeled_category="unknown", labels_key="label")
    epochs = label_epochs if max_epochs is None else min(label_epochs, max_epochs)
    model.train(max_epochs=epochs, n_samples_per_label=100, **training(device, data.n_obs))
    return Fit(model.get_latent_representation(data))
