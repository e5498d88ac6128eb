"""ComBat (Johnson, Li & Rabinovic 2007) by scanpy, then principal components."""

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData

from unbatch.baselines.cells import Cells, Fit, principal_components

PACKAGES = ("scikit-learn",)


def fit(cells: Cells, *, seed: int, n_components: int = 30) -> Fit:
    """Return the principal components of the expression without each batch's shift and scale.

    Genes that do not vary within some batch are left as they are: their scale cannot be estimated there and
    ComBat would divide by it.
    """
    X = cells.X.toarray()
    varies = np.all([np.ptp(X[cells.batch == b], axis=0) > 0 for b in range(cells.n_batches)], axis=0)
    obs = pd.DataFrame({"batch": pd.Categorical(cells.batch.astype(str))}, index=np.arange(len(X)).astype(str))
    X[:, varies] = sc.pp.combat(AnnData(X[:, varies], obs=obs), key="batch", inplace=False)
    return Fit(principal_components(X, n_components).embedding)
