"""spaVAE (Tian et al. 2024): dependency-aware embeddings of spots; see `model`."""

from unbatch.models.spavae.data import Spots, Stored, require
from unbatch.models.spavae.model import Fitted, Latent, Model, finished, fit
from unbatch.models.spavae.saved import config, model_of, weights
from unbatch.models.spavae.sections import with_sections
from unbatch.models.spavae.settings import PRESETS, Settings, schedule

__all__ = [
    "PRESETS",
    "Fitted",
    "Latent",
    "Model",
    "Settings",
    "Spots",
    "Stored",
    "config",
    "finished",
    "fit",
    "model_of",
    "require",
    "schedule",
    "weights",
    "with_sections",
]
