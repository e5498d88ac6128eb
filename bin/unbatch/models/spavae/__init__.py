"""spaVAE (Tian et al. 2024): dependency-aware embeddings of spots; see `model`."""

from unbatch.models.spavae.data import Spots, require
from unbatch.models.spavae.model import Fitted, Latent, Model, fit
from unbatch.models.spavae.saved import config, model_of, weights
from unbatch.models.spavae.settings import PRESETS, Settings, schedule

__all__ = [
    "PRESETS",
    "Fitted",
    "Latent",
    "Model",
    "Settings",
    "Spots",
    "config",
    "fit",
    "model_of",
    "require",
    "schedule",
    "weights",
]
