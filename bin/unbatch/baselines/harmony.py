"""Harmony (Korsunsky et al. 2019) by harmonypy, on the principal components of `none`."""

import harmonypy
import numpy as np
import pandas as pd

from unbatch.baselines.cells import Cells, Fit, principal_components

PACKAGES = ("harmonypy",)


def fit(cells: Cells, *, seed: int, n_components: int = 30) -> Fit:
    """Return the corrected principal components."""
    components = principal_components(cells.X, n_components).embedding
    batch = pd.DataFrame({"batch": cells.batch.astype(str)})
    corrected = np.asarray(harmonypy.run_harmony(components, batch, "batch", random_state=seed, verbose=False).Z_corr)
    # the result has been cells x components in one release of harmonypy and its transpose in another
    return Fit(corrected if corrected.shape == components.shape else corrected.T)
