"""scANVI (Xu et al. 2021) by scvi-tools: starts from scVI, then learns from the labels."""

from pydantic import Field

from unbatch.contract import Fit, Needs, Run
from unbatch.data.cells import Cells
from unbatch.methods import scvi

PACKAGES = scvi.PACKAGES
EXTRA = scvi.EXTRA
NEEDS = Needs(integers=True, labels=True, gpu=True)


class Params(scvi.Params):
    """Parameters of `fit`: those of scVI, from which it starts, and one of its own."""

    label_epochs: int = Field(
        20, ge=1, description="epochs with labels, 100 cells of each label in an epoch as in scvi-tools' tutorial"
    )


def fit(cells: Cells, params: Params, run: Run) -> Fit:
    """Return the means of the latent variables."""
    from scvi.model import SCANVI

    start, data, first_epochs = scvi.trained(cells, params, run)
    model = SCANVI.from_scvi_model(start, unlabeled_category="unknown", labels_key="label")
    most = min(params.max_epochs or params.label_epochs, run.max_epochs or params.label_epochs)
    epochs = min(params.label_epochs, most)
    model.train(max_epochs=epochs, n_samples_per_label=100, **scvi.training(run.device, data.n_obs))
    used = params.model_copy(update={"max_epochs": first_epochs, "label_epochs": epochs})
    return Fit(model.get_latent_representation(data), used=used)
