"""One batch as two: cells of a single batch in halves that are called batches, between which there is no batch effect.

What a correction does to them it does without cause. Three splits of the same cells and genes are made: ``random``,
``again`` (another random one, the reference of the others) and ``unlike`` (halves of different composition).
"""

import difflib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from unbatch.data.sampling import stratified_sample
from unbatch.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

SPLITS = ("again", "random", "unlike")
"""Names of the splits; `again` is what the two others are compared with."""

SHARE = 0.85
"""Share of the cells of a kind that are in the half that has most of it, of the split `unlike`."""

FEWEST_CELLS = 60
"""Cells that a batch needs to be split; with fewer, neighbourhoods of 15 cells are most of a half."""

FEWEST_OF_KIND = 10
"""Cells that a label needs to count as a kind."""

CLUSTERS = 6
"""Clusters that are the kinds of cells where there are no labels."""

KIND = "unbatch_kind"
"""Column of obs with the kinds of cells that the split `unlike` is made of; missing where a cell is of none."""

HALVES = ("half 1", "half 2")


def random_halves(cells: int, seed: int) -> np.ndarray:
    """Draw two halves of equal size (or one cell apart); a code 0 or 1 for each cell."""
    return np.random.default_rng(seed).permutation(np.arange(cells) % 2)


def unlike_halves(kind: np.ndarray, seed: int, share: float = SHARE) -> np.ndarray:
    """Draw two halves of different composition.

    Parameters
    ----------
    kind
        Kind of each cell, n codes; cells of -1 are drawn into either half.
    seed
        Seed of the draw. Which kind is mostly in which half follows from the sizes alone: the largest first, each to
        the half that has fewer cells.
    share
        Share of the cells of a kind that its half gets.

    Returns
    -------
    np.ndarray
        A code 0 or 1 for each cell.
    """
    rng = np.random.default_rng(seed)
    half = rng.permutation(np.arange(len(kind)) % 2)
    codes, sizes = np.unique(kind[kind >= 0], return_counts=True)
    filled = [0, 0]
    for code in codes[np.argsort(-sizes, kind="stable")]:
        cells = rng.permutation(np.flatnonzero(kind == code))
        own = int(filled[1] < filled[0])
        most = round(share * len(cells))
        half[cells[:most]], half[cells[most:]] = own, 1 - own
        filled[own] += len(cells)
    return half


def splits(kind: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Make all splits of cells of some kinds, n codes each; the two random ones differ."""
    first, second, third = np.random.SeedSequence(seed).generate_state(3).tolist()
    found = (random_halves(len(kind), first), random_halves(len(kind), second), unlike_halves(kind, third))
    return dict(zip(SPLITS, found, strict=True))


def choose_batch(batch: "pd.Series", name: str | None, source: object) -> str:
    """Return the batch to be split: the one that is named, or the largest.

    Raises
    ------
    InputError
        If there is no such batch, or it has too few cells.
    """
    sizes = batch.value_counts()
    if name is None:
        name = str(sizes.index[0])
    named = {str(each): int(size) for each, size in sizes.items() if size}
    if name not in named:
        near = difflib.get_close_matches(name, named, 1)
        meant = f", did you mean {near[0]}?" if near else f"; there are {', '.join(list(named)[:10])}"
        raise InputError(f"{source}: obs/batch has no batch {name!r} (--batch){meant}")
    if named[name] < FEWEST_CELLS:
        raise InputError(
            f"{source}: obs/batch: {name} has {named[name]} cells, {FEWEST_CELLS} or more are needed to split a batch"
        )
    return name


def split_batch(
    adata: "AnnData", batch: str | None, *, max_cells: int, seed: int, source: object
) -> Iterator[tuple[str, "AnnData"]]:
    """Make the datasets of all splits: the cells of one batch, normalised by themselves, with halves for batches.

    Parameters
    ----------
    adata
        A dataset that `preprocess` wrote, with ``layers/counts``.
    batch
        Name of the batch; None for the largest.
    max_cells
        Above this, a sample is split, in which every label keeps its share.
    seed
        Seed of sample, clusters and halves.
    source
        Name of the dataset, for messages.

    Yields
    ------
    tuple of str and AnnData
        Name of the split and its dataset, which differs from the others in ``obs/batch`` and ``uns/unbatch/halves``
        alone. Highly variable genes are as many as in `adata`, chosen anew within the batch.

    Raises
    ------
    InputError
        If there is no such batch, or it is too small.
    """
    import pandas as pd
    from scipy import sparse

    from unbatch.data import preprocess

    name = choose_batch(adata.obs["batch"], batch, source)
    cells = np.flatnonzero((adata.obs["batch"].astype(str) == name).to_numpy())
    of = len(cells)
    label = adata.obs["label"].cat.codes.to_numpy()[cells] if "label" in adata.obs else np.zeros(of, dtype=int)
    cells = cells[stratified_sample(label, max_cells, seed)]
    counts = sparse.csr_matrix(adata.layers["counts"])[cells]
    found = np.asarray(counts.sum(axis=0)).ravel() > 0
    obs = adata.obs.iloc[cells].drop(columns=["size_factor", "split"], errors="ignore").copy()
    for column in obs.columns[obs.dtypes == "category"]:
        obs[column] = obs[column].cat.remove_unused_categories()
    if "section" not in obs:
        obs["section"] = obs["batch"]
    var = adata.var.loc[found].drop(columns="highly_variable")
    n_top = int(adata.var["highly_variable"].sum())
    part = preprocess.assemble(counts[:, np.flatnonzero(found)], obs, var, n_top_genes=n_top, seed=seed)
    if "spatial" in adata.obsm:
        part.obsm["spatial"] = np.asarray(adata.obsm["spatial"])[cells]
    kind, names, made_of = kinds(part, seed)
    part.obs[KIND] = pd.Categorical.from_codes(kind, names)
    about = {key: adata.uns["unbatch"][key] for key in ("schema", "source", "parameters", "versions")}
    for split, half in splits(kind, seed).items():
        part.obs["batch"] = pd.Categorical.from_codes(half, HALVES)
        halves = {"split": split, "batch": name, "cells": of, "kinds": made_of, "share": SHARE, "seed": seed}
        part.uns["unbatch"] = about | {"halves": halves}
        yield split, part


def kinds(adata: "AnnData", seed: int) -> tuple[np.ndarray, list[str], str]:
    """Find the kinds of cells of a dataset: its labels, or clusters where it has not two labels that count.

    Returns
    -------
    code
        Kind of each cell, n; -1 for a cell without a label, or of a label with few cells.
    names
        Name by code.
    made_of
        ``"labels"`` or ``"clusters"``.
    """
    from sklearn.cluster import KMeans

    from unbatch.data.cells import principal_components
    from unbatch.data.labels import about_labels

    if "label" in adata.obs and adata.obs["label"].notna().any():
        label, doubt = adata.obs["label"], about_labels(adata.obs["label"])
        counts = label.value_counts()
        names = [each for each in label.cat.categories if counts[each] >= FEWEST_OF_KIND]
        if len(names) > 1 and not (doubt and doubt.meaningless):
            return label.cat.set_categories(names).cat.codes.to_numpy(), [str(each) for each in names], "labels"
    variable = np.flatnonzero(adata.var["highly_variable"])
    components = principal_components(adata.X[:, variable], 30).embedding
    code = KMeans(CLUSTERS, n_init=3, random_state=seed).fit(components).labels_
    return code.astype(np.int64), [f"cluster {number + 1}" for number in range(CLUSTERS)], "clusters"
