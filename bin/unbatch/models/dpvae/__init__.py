"""dp-VAE (Zhou and Du): positions from expression by latent distances; see `model`."""

from unbatch.models.dpvae.elsewhere import left_out
from unbatch.models.dpvae.fitting import Fitted, Model, fit
from unbatch.models.dpvae.reconstruction import AnchorError, reconstruct
from unbatch.models.dpvae.saved import config, model_of, weights
from unbatch.models.dpvae.settings import PRESETS, Settings

__all__ = [
    "PRESETS",
    "AnchorError",
    "Fitted",
    "Model",
    "Settings",
    "config",
    "fit",
    "left_out",
    "model_of",
    "reconstruct",
    "weights",
]
