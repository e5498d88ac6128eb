"""POPARI (Alam et al., bioRxiv 2025): metagenes with a random field over neighbouring cells, and no batch effect.

The same program and model as BatchBlend, with neither offset nor factors (`unbatch.models.batchblend.Settings.popari`).
"""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from unbatch.contract import Fit, Needs, Run, SavedModel, Slot
from unbatch.data.cells import Cells
from unbatch.methods import batchblend

if TYPE_CHECKING:
    from unbatch.report.section import Sections

PROGRAM = batchblend.PROGRAM
PACKAGES = batchblend.PACKAGES
NEEDS = Needs(batches=1, gpu=True)
EPOCHS = batchblend.EPOCHS
SLOTS = {
    "obsm/X_popari_amount": Slot("amounts of the metagenes in each cell, in counts"),
    **{name: slot for name, slot in batchblend.SLOTS.items() if not name.startswith("obsm/")},
}


class Params(batchblend.Spatial):
    """Parameters of `fit`."""

    iterations: int = Field(60, ge=1, description="iterations of the factorisation")
    spatial: Literal["auto", "none", "linear", "hmrf"] = Field("hmrf", description="as of batchblend")
    spatial_weight: float | None = Field(1.0, ge=0, description="weight of the neighbours against the counts")


def fit(cells: Cells, params: Params, run: Run) -> Fit:
    """Fit the metagenes."""
    return batchblend.fit_model(cells, params, run, "popari")


def apply(model: SavedModel, cells: Cells, run: Run) -> Fit:
    """Embed other cells with a model."""
    return batchblend.apply_model(model, cells, run)


def sections() -> "Sections":
    """Return the sections of the report over its fits."""
    from unbatch.report.fits.batchblend import SECTIONS

    return SECTIONS
