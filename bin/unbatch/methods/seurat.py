"""Seurat v4 (Stuart et al. 2019) in R: ``seurat.R``, run by the program ``fit-seurat``; only declared here."""

from pydantic import Field

from unbatch.contract import Parameters

PROGRAM = "fit-seurat"


class Params(Parameters):
    """Parameters of ``seurat.R``."""

    n_components: int = Field(30, ge=1, description="canonical and principal components")
    anchors: int = Field(5, ge=1, description="neighbours among which anchors are mutual")
    weighting: int = Field(100, ge=1, description="anchors that weigh in on a cell's correction")
