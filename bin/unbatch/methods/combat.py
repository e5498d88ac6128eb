"""ComBat (Johnson, Li & Rabinovic 2007) by scanpy, then principal components."""

import numpy as np
from pydantic import Field

from unbatch.contract import Fit, Parameters, Run, Slot
from unbatch.data.cells import Cells, principal_components

PACKAGES = ("scikit-learn",)
SLOTS = {
    "layers/corrected_log": Slot("log-normalised expression without each batch's shift and scale (with `corrected`)")
}


class Params(Parameters):
    """Parameters of `fit`."""

    n_components: int = Field(30, ge=1, description="principal components")
    corrected: bool = Field(
        False,
        description="also write layers/corrected_log: expression without each batch's shift and scale",
        json_schema_extra={"applies": True},
    )


def fit(cells: Cells, params: Params, run: Run) -> Fit:
    """Return the principal components of the expression without each batch's shift and scale.

    Genes that do not vary within some batch are left as they are: their scale cannot be estimated there and
    ComBat would divide by it.
    """
    import pandas as pd
    import scanpy as sc
    from anndata import AnnData

    X = cells.X.toarray()
    varies = np.all([np.ptp(X[cells.batch == b], axis=0) > 0 for b in range(cells.n_batches)], axis=0)
    obs = pd.DataFrame({"batch": pd.Categorical(cells.batch.astype(str))}, index=np.arange(len(X)).astype(str))
    X[:, varies] = sc.pp.combat(AnnData(X[:, varies], obs=obs), key="batch", inplace=False)
    embedding = principal_components(X, params.n_components).embedding
    layers = {"corrected_log": [X.astype(np.float32)]} if params.corrected else {}
    return Fit(embedding, used=params.using(n_components=embedding.shape[1]), layers=layers)
