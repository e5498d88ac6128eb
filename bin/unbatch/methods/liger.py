"""LIGER (Welch et al. 2019) by pyliger: shared and own factors of every batch, then quantiles made equal."""

import contextlib
import io

import numpy as np
from pydantic import Field

from unbatch.contract import Fit, Needs, Parameters, Run
from unbatch.data.cells import Cells
from unbatch.errors import NotApplicable, UnbatchError

PACKAGES = ("pyliger",)
EXTRA = "liger"
NEEDS = Needs(integers=True)


class Params(Parameters):
    """Parameters of `fit`."""

    factors: int = Field(20, ge=1, description="shared factors")
    penalty: float = Field(5.0, ge=0, description="penalty of factors that are a batch's own (lambda)")


def fit(cells: Cells, params: Params, run: Run) -> Fit:
    """Return the quantile-normalised factor loadings; factors that no cell uses are left out.

    Raises
    ------
    NotApplicable
        If a batch has not more cells than factors.
    UnbatchError
        If pyliger dropped cells.

    Notes
    -----
    pyliger's own steps but for the choice of genes, which all methods share. Results are put back in order by the
    cells' names: pyliger sorts them by batch.
    """
    import pandas as pd
    import pyliger
    from anndata import AnnData
    from scipy import sparse

    smallest = np.bincount(cells.batch).min()
    if smallest <= params.factors:
        raise NotApplicable(
            f"liger: the smallest batch has {smallest} cells, more than {params.factors} factors needed"
        )
    counts = cells.whole_counts().astype(np.float64)
    names = np.array([f"cell{i}" for i in range(len(cells.batch))])
    parts = []
    for code in range(cells.n_batches):
        mine = cells.batch == code
        part = AnnData(
            sparse.csr_matrix(counts[mine]),
            obs=pd.DataFrame(index=pd.Index(names[mine], name="cell")),
            var=pd.DataFrame(index=pd.Index(cells.genes, name="gene")),
        )
        part.uns["sample_name"] = f"batch{code}"
        parts.append(part)
    # it draws progress bars whatever it is told
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        data = pyliger.create_liger(parts, remove_missing=False)
        pyliger.normalize(data, remove_missing=False)
        for part in data.adata_list:
            part.uns["var_gene_idx"] = np.arange(part.n_vars)
        data.var_genes = data.adata_list[0].var_names
        pyliger.scale_not_center(data, remove_missing=False)
        pyliger.optimize_ALS(data, k=params.factors, value_lambda=params.penalty, rand_seed=run.seed + 1)
        pyliger.quantile_norm(data, rand_seed=run.seed + 1)
    loadings = pd.concat([pd.DataFrame(part.obsm["H_norm"], index=part.obs_names) for part in data.adata_list])
    lost = len(names) - loadings.index.isin(names).sum()
    if lost:
        raise UnbatchError(f"liger: pyliger dropped {lost} of {len(names)} cells")
    embedding = loadings.loc[names].to_numpy()
    return Fit(embedding[:, np.ptp(embedding, axis=0) > 0])
