"""BatchBlend: non-negative metagenes with an additive and a multiplicative batch effect (see `model`)."""

from unbatch.models.batchblend.model import (
    OF_CELLS,
    OF_SPOTS,
    SMALLEST,
    Affinity,
    BatchBlend,
    Evidence,
    Fitted,
    Settings,
    choose_metagenes,
    fit,
    shares,
)

__all__ = [
    "OF_CELLS",
    "OF_SPOTS",
    "SMALLEST",
    "Affinity",
    "BatchBlend",
    "Evidence",
    "Fitted",
    "Settings",
    "choose_metagenes",
    "fit",
    "shares",
]
