"""BatchBlend: non-negative metagenes with an additive and a multiplicative batch effect; see `model`."""

from unbatch.models.batchblend.model import BatchBlend, Fitted, fit, shares
from unbatch.models.batchblend.pooling import Affinity
from unbatch.models.batchblend.rank import choose_metagenes
from unbatch.models.batchblend.settings import OF_CELLS, OF_SPOTS, RULES, SMALLEST, Rules, Settings
from unbatch.models.verdicts import Evidence

__all__ = [
    "OF_CELLS",
    "OF_SPOTS",
    "RULES",
    "SMALLEST",
    "Affinity",
    "BatchBlend",
    "Evidence",
    "Fitted",
    "Rules",
    "Settings",
    "choose_metagenes",
    "fit",
    "shares",
]
