"""scMEDAL (Andrade et al. 2026): see `model` for what is minimised.

recipes.py          settings, presets, weights of the loss, length of the training; every threshold
data.py             codes of batches, moments of the training cells, what is refused
parts.py            training, validation and test cells
random_effects.py   layers with slopes and intercepts of the batch
networks.py         encoders, decoders, heads
model.py            Model, fit, the steps
projection.py       cells as if from another batch, with errors
counterfactual.py   shifts by label, tests between groups of batches, cells for genomaps
probe.py            what a fresh linear classifier finds in an embedding, by which training is stopped
bundle.py           all models of a fit, as they are saved
"""

from unbatch.models.scmedal import counterfactual
from unbatch.models.scmedal.bundle import Models
from unbatch.models.scmedal.data import missing_batches, moments
from unbatch.models.scmedal.model import Fitted, Model, fit
from unbatch.models.scmedal.networks import Network, parameters
from unbatch.models.scmedal.projection import Projection, fit_projection, shift_of_random_effects
from unbatch.models.scmedal.random_effects import RandomEffects
from unbatch.models.scmedal.recipes import (
    Settings,
    decoding_settings,
    limited,
    loss_weights,
    schedule,
)

__all__ = [
    "Fitted",
    "Model",
    "Models",
    "Network",
    "Projection",
    "RandomEffects",
    "Settings",
    "counterfactual",
    "decoding_settings",
    "fit",
    "fit_projection",
    "limited",
    "loss_weights",
    "missing_batches",
    "moments",
    "parameters",
    "schedule",
    "shift_of_random_effects",
]
