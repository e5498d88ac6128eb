"""What a notebook calls: fit a method to an AnnData in memory, and score what methods found.

    import unbatch

    unbatch.fit(adata, "harmony", batch_key="sample")
    unbatch.fit(adata, "batchblend", batch_key="sample", params={"metagenes": 12})
    unbatch.score(adata, ["harmony", "batchblend"], batch_key="sample", label_key="cell_type")

Both work on what `preprocess` would make of the AnnData: counts of all its genes, log-normalised, and the highly
variable genes, chosen within batches. The AnnData keeps its own expression.
"""

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from unbatch import contract, methods
from unbatch.contract import Run
from unbatch.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

SOURCE = "adata"
"""How messages name the AnnData."""


def fit(
    adata: "AnnData",
    method: str,
    *,
    batch_key: str,
    label_key: str | None = None,
    section_key: str | None = None,
    counts: str | None = None,
    continuous: bool = False,
    n_top_genes: int = 2000,
    params: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str = "cpu",
    threads: int = 1,
    max_epochs: int | None = None,
    copy: bool = False,
) -> "AnnData | None":
    """Fit a method and write what it found into the AnnData.

    Parameters
    ----------
    adata
        Cells with their counts, and positions in ``obsm["spatial"]`` where a method uses them.
    method
        Name of the method (docs/methods.md).
    batch_key, label_key, section_key
        Columns of obs that name the batch, the cell type or domain, and what has a coordinate system of its own
        (default: the batch).
    counts
        Layer with the counts; None for ``layers["counts"]``, else ``X``.
    continuous
        Take counts that are not whole numbers.
    n_top_genes
        Highly variable genes that the method is fitted to.
    params
        Parameters of the method by name; the others have their defaults.
    seed, device, threads, max_epochs
        See the programs.
    copy
        Return a copy with the results instead of writing into `adata`.

    Returns
    -------
    AnnData or None
        None, or the copy. ``obsm["X_METHOD"]`` holds the embedding (``obsp["METHOD"]`` the graph of a method that
        gives one), ``uns["unbatch"]["METHOD"]`` how it was made; further slots of the method (docs/output.md) are in
        obsm, varm (NaN for genes that were not fitted), layers and that mapping.

    Raises
    ------
    InputError
        If the data or the parameters cannot be used.
    NotApplicable
        If the method has nothing to say about the data, or its library is not installed.
    """
    from threadpoolctl import threadpool_limits

    from unbatch.data import fits
    from unbatch.data.cells import cells_of

    declared = methods.load(method)
    chosen = contract.checked(method, declared.params, params or {})
    run = Run(seed, declared.device(device, threads), threads, max_epochs)
    keys = {"label_key": label_key, "section_key": section_key, "counts": counts, "continuous": continuous}
    dataset = _dataset(adata, batch_key, **keys, n_top_genes=n_top_genes, seed=seed)
    cells = cells_of(dataset, SOURCE)
    start = time.perf_counter()
    with threadpool_limits(threads):
        found = declared.fit(cells, chosen, run)
    result = fits.assemble(cells, declared, found, run, params or {}, time.perf_counter() - start, SOURCE)
    target = adata.copy() if copy else adata
    _take(target, result, found, method)
    return target if copy else None


def score(
    adata: "AnnData",
    embeddings: str | Sequence[str],
    *,
    batch_key: str,
    label_key: str | None = None,
    section_key: str | None = None,
    counts: str | None = None,
    continuous: bool = False,
    n_top_genes: int = 2000,
    targets: str | Sequence[str] = (),
    evidence: bool | None = None,
    max_cells: int = 20_000,
    seed: int = 0,
    threads: int = 1,
) -> "pd.DataFrame":
    """Score embeddings of the AnnData: mixing of batches and, with labels, conservation of biology.

    Parameters
    ----------
    adata
        Cells with their counts and embeddings.
    embeddings
        Names of methods that were fitted, or of slots of obsm.
    batch_key, label_key, section_key, counts, continuous, n_top_genes
        See `fit`. Where there are coordinates, domains and neighbourhoods are scored section by section.
    targets
        Columns of obs to predict from each embedding.
    evidence
        Whether to probe for the batch and predict the label and `targets`, which takes longer; None: where there are
        targets.
    max_cells, seed, threads
        See the program `score`.

    Returns
    -------
    pandas.DataFrame
        A row per embedding: ``total``, ``batch``, ``bio`` and every metric (docs/metrics.md); all of scores.json is in
        ``attrs["scores"]``, probes, predictions and domains in ``attrs["scores"]["rows"]`` (docs/output.md).

    Raises
    ------
    InputError
        If a slot is missing, the data cannot be used, or there are targets and ``evidence=False``.
    """
    import pandas as pd
    from threadpoolctl import threadpool_limits

    from unbatch import scoring

    embeddings = [embeddings] if isinstance(embeddings, str) else list(embeddings)
    targets = [targets] if isinstance(targets, str) else list(targets)
    if targets and evidence is False:
        raise InputError("targets: nothing is predicted with evidence=False, leave one of the two out")
    evidence = bool(targets) if evidence is None else evidence

    keys = {"label_key": label_key, "section_key": section_key, "counts": counts, "continuous": continuous}
    dataset = _dataset(adata, batch_key, **keys, n_top_genes=n_top_genes, seed=seed)
    fitted = adata.uns.get("unbatch", {})
    bare = {"seed": seed, "params": {}, "wall_s": 0.0, "peak_mb": 0.0, "device": "", "versions": {}}
    made = {name: fitted.get(name) or bare | {"method": name, "slot": _slot(adata, name)} for name in embeddings}

    def read(name: str, cells: np.ndarray, tissue: np.ndarray | None) -> scoring.Fitted:
        return scoring.Fitted.of(made[name], adata.obsm, adata.obsp, cells, tissue)

    options = scoring.Options(max_cells, targets=targets, evidence=evidence, seed=seed, threads=threads)
    with threadpool_limits(threads):
        table = scoring.score(dataset, [{"fit": name} for name in embeddings], read, options, source=SOURCE)
    rows = [{key: row[key] for key in ("total", "batch", "bio")} | row["metrics"] for row in table["rows"]]
    frame = pd.DataFrame(rows, index=pd.Index(embeddings, name="embedding"))
    frame.attrs["scores"] = table
    return frame


def _slot(adata: "AnnData", name: str) -> str:
    for slot in (f"X_{name}", name):
        if slot in adata.obsm:
            return slot
    raise InputError(f"{SOURCE}: obsm has neither X_{name} nor {name}, it has {', '.join(adata.obsm) or 'nothing'}")


def _dataset(
    adata: "AnnData",
    batch_key: str,
    *,
    label_key: str | None,
    section_key: str | None,
    counts: str | None,
    continuous: bool,
    n_top_genes: int,
    seed: int,
) -> "AnnData":
    """Make the dataset that `preprocess` would make of one h5ad."""
    import pandas as pd
    from scipy import sparse

    from unbatch.data import preprocess
    from unbatch.data import schema as contract_of_files
    from unbatch.data.notes import Notes
    from unbatch.data.sparse import first_wrong

    layer = counts or ("counts" if "counts" in adata.layers else None)
    if layer is not None and layer not in adata.layers:
        raise InputError(f"{SOURCE}: layers has no {layer!r} for counts, it has {', '.join(adata.layers) or 'nothing'}")
    values = sparse.csr_matrix(adata.X if layer is None else adata.layers[layer], dtype=np.float32)
    if not values.data.all():
        # the matrix may share its arrays with the AnnData
        values = values.copy()
        values.eliminate_zeros()
    wrong = first_wrong(values, continuous)
    if wrong:
        where = "X" if layer is None else f"layers[{layer!r}]"
        raise InputError(f"{SOURCE}: {where} holds values that are {wrong[1]}, expected counts; counts names a layer")
    # they are logged
    notes = Notes()
    batch = preprocess.batches(adata.obs, batch_key, SOURCE, notes)
    obs = pd.DataFrame({"batch": batch}, index=adata.obs_names)
    obs["section"] = preprocess.complete(adata.obs, section_key, SOURCE, "section") if section_key else batch
    if label_key is not None:
        obs["label"] = preprocess.labels(adata.obs, label_key, SOURCE, notes)
    preprocess.require_expressed(values, obs.index, np.asarray(batch), SOURCE)
    sources = {"batch": batch_key, "label": label_key, "section": section_key}
    more, _ = preprocess.free_reserved(preprocess.tidy(adata.obs), sources)
    more = more.drop(columns=[name for name in obs if name in more])
    var = pd.DataFrame(index=adata.var_names)
    dataset = preprocess.assemble(values, obs.join(more), var, n_top_genes=n_top_genes, seed=seed)
    if "spatial" in adata.obsm:
        dataset.obsm["spatial"] = np.asarray(adata.obsm["spatial"], dtype=np.float64)
    parameters = {"batch_key": batch_key, "n_top_genes": n_top_genes, "seed": seed}
    dataset.uns["unbatch"] = {
        "schema": contract_of_files.VERSION,
        "source": SOURCE,
        "parameters": parameters,
        "versions": {},
    }
    return dataset


def _take(adata: "AnnData", result: "AnnData", found: contract.Fit, method: str) -> None:
    """Write the slots of a fit into an AnnData, which may have more genes than were fitted."""
    adata.obsm.update(dict(result.obsm))
    adata.obsp.update(dict(result.obsp))
    place = adata.var_names.get_indexer(result.var_names) if result.n_vars else np.array([], dtype=int)
    for name, values in result.varm.items():
        whole = np.full((adata.n_vars, values.shape[1]), np.nan, dtype=values.dtype)
        whole[place] = values
        adata.varm[name] = whole
    for name, blocks in found.layers.items():
        whole = np.full(adata.shape, np.nan, dtype=np.float32)
        whole[:, place] = np.concatenate(list(blocks))
        adata.layers[name] = whole
    adata.uns.setdefault("unbatch", {})[method] = dict(result.uns["unbatch"])
