"""Harmony (Korsunsky et al. 2019) by harmonypy, on the principal components of `none`."""

import numpy as np
from pydantic import Field

from unbatch.contract import Fit, Parameters, Run
from unbatch.data.cells import Cells, principal_components

PACKAGES = ("harmonypy",)


class Params(Parameters):
    """Parameters of `fit`."""

    n_components: int = Field(30, ge=1, description="principal components that are corrected")


def fit(cells: Cells, params: Params, run: Run) -> Fit:
    """Return the corrected principal components."""
    import harmonypy
    import pandas as pd

    components = principal_components(cells.X, params.n_components).embedding
    batch = pd.DataFrame({"batch": cells.batch.astype(str)})
    found = harmonypy.run_harmony(components, batch, "batch", random_state=run.seed, verbose=False)
    corrected = np.asarray(found.Z_corr)
    # the result has been cells x components in one release of harmonypy and its transpose in another
    corrected = corrected if corrected.shape == components.shape else corrected.T
    return Fit(corrected, used=params.using(n_components=components.shape[1]))
