"""From counts to what the fits take: filters, size factors, log-normalisation, variable genes, folds."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from unbatch.data import names
from unbatch.data.labels import about_labels
from unbatch.data.notes import Notes
from unbatch.data.portable import categories_of_text
from unbatch.data.sparse import cells_per_gene, genes_per_cell, log_normalise, subset, totals
from unbatch.errors import InputError
from unbatch.text import some

if TYPE_CHECKING:
    from anndata import AnnData
    from scipy.sparse import csr_matrix

MIN_BATCH = 3
"""Cells that a batch needs; with fewer, no spread within a batch can be told."""

_FEW_CELLS = 20
"""Labelled cells from which on a label for nearly each is none."""

RESERVED = ("batch", "label", "section", "size_factor", "split")
"""Columns that preprocess writes; those of the input are renamed to end in ``_input``."""


def batches(obs: pd.DataFrame, key: str, source: Path, notes: Notes | None = None) -> pd.Categorical:
    """Take the batch of every cell from a column, or from several that are separated by commas.

    Raises
    ------
    InputError
        If a column or the batch of a cell is missing, or a batch has too few cells.
    """
    batch = complete(obs, key, source, "batch", notes)
    require_batches(batch, key, source)
    return batch


def columns_of(obs: pd.DataFrame, key: str) -> list[str]:
    """Columns that a key names: one, or several separated by commas."""
    return [key] if key in obs else [name.strip() for name in key.split(",") if name.strip()] or [key]


def complete(obs: pd.DataFrame, key: str, source: Path, what: names.What, notes: Notes | None = None) -> pd.Categorical:
    """Take the batch or the section (`what`) of every cell from a column, or from several separated by commas.

    Raises
    ------
    InputError
        If a column or a cell's value is missing.
    """
    found = {}
    for name in columns_of(obs, key):
        settled = names.settle(column(obs, name, source, f"{what}-key"), what)
        lost = settled.chosen.isna()
        if lost.any():
            spelt = some(f"{count} {word!r}" for word, count in settled.words.items())
            words = f", {spelt} among them: rename these if they name a {what}" if spelt else ""
            raise InputError(
                f"{source}: {name} (--{what}-key) is missing in {lost.sum()} cells (the first is "
                f"{obs.index[lost.argmax()]}{words}), expected the {what} of every cell"
            )
        if notes is not None:
            names.tell(settled, name, what, notes)
        found[name] = settled.chosen
    if len(found) == 1:
        return next(iter(found.values()))
    try:
        return names.combine(found)
    except ValueError as error:
        raise InputError(
            f"{source}: {key} (--{what}-key): {error}, expected columns without ' | ' in their values"
        ) from error


def require_batches(batch: pd.Categorical, key: str, source: Path, dropped: str = "") -> None:
    """Check that every batch has enough cells.

    Parameters
    ----------
    batch
        Batch of every cell.
    key, source
        Column and file that it is from.
    dropped
        What was done to the cells before, for the message.

    Raises
    ------
    InputError
        If not.
    """
    sizes = batch.value_counts()
    small = sizes[sizes < MIN_BATCH]
    if len(small):
        raise InputError(
            f"{source}: batch {small.index[0]} of {key} has {small.iloc[0]} cells{dropped}, expected {MIN_BATCH} or "
            "more"
        )


def labels(obs: pd.DataFrame, key: str, source: Path, notes: Notes | None = None) -> pd.Categorical:
    """Take the label of every cell from a column; cells without one (`names.NO_LABEL`) are missing in the result.

    Raises
    ------
    InputError
        If the column is missing, no cell has a label, or it is a measurement or a name of each cell.
    """
    values = column(obs, key, source, "label-key")
    settled = names.settle(values, "label")
    label = settled.chosen
    known = int(label.notna().sum())
    if not known:
        raise InputError(f"{source}: {key} has no label in any cell, expected cell types or domains")
    doubt = about_labels(label, key)
    if doubt and doubt.meaningless and doubt.labels > 1 and known >= _FEW_CELLS:
        raise InputError(f"{source}: {doubt.text}")
    if notes is not None:
        names.tell(settled, key, "label", notes)
    return label


def column(obs: pd.DataFrame, key: str, source: Path, option: str) -> pd.Series:
    """Return a column that an option names.

    Raises
    ------
    InputError
        If there is none.
    """
    if key not in obs:
        raise InputError(
            f"{source}: the cells have no column {key} (--{option}), found {', '.join(map(str, obs)) or 'none'}"
        )
    return obs[key]


def free_reserved(obs: pd.DataFrame, sources: dict[str, str | None]) -> tuple[pd.DataFrame, dict[str, str]]:
    """Rename the columns of the input that preprocess would overwrite or that would be taken for its own.

    Parameters
    ----------
    obs
        Table of the cells.
    sources
        Column that a reserved one is made of, which may have its name.

    Returns
    -------
    tuple
        The table, and new names by old ones.
    """
    renamed = {name: f"{name}_input" for name in RESERVED if name in obs and sources.get(name) != name}
    return obs.drop(columns=list(renamed.values()), errors="ignore").rename(columns=renamed), renamed


def tidy(table: pd.DataFrame) -> pd.DataFrame:
    """Make a table that h5ad can hold: what is neither number nor truth value becomes categories of text.

    A ``/`` in the name of a column, which anndata used to allow, becomes ``_``, with a number where there is such a
    column already; so do columns of one name.
    """
    columns: dict[str, Any] = {}
    taken = {str(name) for name in table if "/" not in str(name)}
    for position, name in enumerate(map(str, table.columns)):
        new = name if name not in columns else f"{name}_2"
        if "/" in name:
            new = name.replace("/", "_")
        number = 2
        while new in columns or (new in taken and new != name):
            new, number = f"{name.replace('/', '_')}_{number}", number + 1
        values = table.iloc[:, position]
        columns[new] = values if values.dtype.kind in "biuf" else categories_of_text(values)
    return pd.DataFrame(columns, index=table.index.rename(None))


def renamed_columns(table: pd.DataFrame) -> dict[str, str]:
    """Return the new names, by the old ones, of columns that `tidy` renames."""
    new = tidy(table.iloc[:0]).columns
    return {str(old): name for old, name in zip(table.columns, new, strict=True) if str(old) != name}


def filters(
    counts: "csr_matrix", min_counts: float = 0, min_genes: int = 0, min_cells: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Choose genes that are found in enough cells, then cells that have enough of these genes and of their counts.

    Parameters
    ----------
    counts
        Shape (cells, genes), without stored zeros.
    min_counts, min_genes
        What a cell needs.
    min_cells
        What a gene needs.

    Returns
    -------
    tuple of np.ndarray
        Truth values of shape (cells,) and (genes,).
    """
    genes = cells_per_gene(counts) >= min_cells
    counts = subset(counts, np.ones(counts.shape[0], dtype=bool), genes)
    return (totals(counts) >= min_counts) & (genes_per_cell(counts) >= min_genes), genes


def require_expressed(counts: "csr_matrix", cells: pd.Index, group: np.ndarray, source: Path) -> None:
    """Check that there are genes and that every cell has counts.

    Parameters
    ----------
    counts
        Shape (cells, genes), without stored zeros.
    cells, group
        Names of the cells and of their samples, each of shape (cells,), for the message.
    source
        File that they are from.

    Raises
    ------
    InputError
        If not.
    """
    if not counts.shape[1]:
        raise InputError(f"{source}: no gene is left by --min-cells, expected a smaller number")
    empty = np.flatnonzero(genes_per_cell(counts) == 0)
    if len(empty):
        sizes = pd.Series(group[empty]).value_counts()
        where = ", ".join(f"{size} in {name}" for name, size in sizes.items())
        raise InputError(
            f"{source}: cells without any counts in the shared genes: {where} (the first is {cells[empty[0]]}), "
            "expected counts in every cell; --min-counts 1 drops them"
        )


def losses(group: np.ndarray, kept: np.ndarray, genes: dict[str, int], shared: int) -> pd.DataFrame:
    """Say what each sample lost.

    Parameters
    ----------
    group
        Name of each cell's sample before filtering, shape (cells,).
    kept
        Which cells are kept, shape (cells,).
    genes
        Number of genes in the file of each sample.
    shared
        Number of genes that all samples have.

    Returns
    -------
    pd.DataFrame
        ``genes``, ``genes_not_shared``, ``cells`` and ``cells_dropped`` by sample.
    """
    table = pd.DataFrame({"genes": genes})
    table["genes_not_shared"] = table["genes"] - shared
    dropped = pd.Series(~kept).groupby(group)
    return table.assign(cells=dropped.size(), cells_dropped=dropped.sum())


def size_factors(counts: "csr_matrix") -> np.ndarray:
    """Total of each cell over the mean of all cells, float64, shape (cells,)."""
    total = totals(counts)
    return total / total.mean()


def highly_variable(X: "csr_matrix", batch: pd.Categorical, n_top: int) -> np.ndarray:
    """Choose genes that are variable within batches: a batch effect makes no gene variable.

    Scanpy's ``highly_variable_genes`` with flavor ``seurat`` (Satija et al. 2015): genes are ranked by the number of
    batches in which they are among the most variable, then by their normalised dispersion.

    Parameters
    ----------
    X
        Log-normalised expression, shape (cells, genes).
    batch
        Batch of every cell.
    n_top
        Number of genes; all are chosen if there are no more than this.

    Returns
    -------
    np.ndarray
        Truth values of shape (genes,).

    Raises
    ------
    InputError
        If no gene varies in one of the batches.
    """
    if X.shape[1] <= n_top:
        return np.ones(X.shape[1], dtype=bool)
    import scanpy as sc
    from anndata import AnnData

    cells = pd.DataFrame({"batch": batch}, index=np.arange(X.shape[0]).astype(str))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            table = sc.pp.highly_variable_genes(
                AnnData(X, obs=cells), n_top_genes=n_top, flavor="seurat", batch_key="batch", inplace=False
            )
        except IndexError as error:
            # scanpy takes the n-th of the dispersions that are numbers, and there are none
            raise InputError(
                "--n-top-genes: variable genes cannot be chosen, no gene varies in one of the batches; expected other "
                f"counts, or {X.shape[1]} to keep all genes"
            ) from error
    return table["highly_variable"].to_numpy(dtype=bool)


def assemble(counts: "csr_matrix", obs: pd.DataFrame, var: pd.DataFrame, *, n_top_genes: int, seed: int) -> "AnnData":
    """Normalise counts and choose genes: the dataset that methods are fitted to, without ``uns`` and ``obsm``.

    Parameters
    ----------
    counts
        Shape (cells, genes), every cell with counts.
    obs
        Table of the cells with ``batch``, ``section`` and, where there is one, ``label``, all categorical.
    var
        Table of the genes.
    n_top_genes
        Number of highly variable genes.
    seed
        Seed of the folds.
    """
    from anndata import AnnData

    batch, label = obs["batch"].array, obs["label"].array if "label" in obs else None
    size_factor = size_factors(counts)
    split = folds(batch, label, np.random.default_rng(seed))
    X = log_normalise(counts, size_factor)
    var = var.assign(highly_variable=highly_variable(X, batch, n_top_genes))
    return AnnData(X, obs=obs.assign(size_factor=size_factor, split=split), var=var, layers={"counts": counts})


def folds(batch: pd.Categorical, label: pd.Categorical | None, rng: np.random.Generator, n: int = 5) -> np.ndarray:
    """Deal cells into folds such that every label of every batch is spread as evenly as it can be.

    Parameters
    ----------
    batch, label
        Label of every cell; cells without a label are a label of their own.
    rng
        Source of the random order of cells of the same batch and label.
    n
        Number of folds.

    Returns
    -------
    np.ndarray
        Fold of each cell, 0 to n - 1, int8, shape (cells,). Fold sizes differ by 1 at most.
    """
    strata = [batch.codes] if label is None else [label.codes, batch.codes]
    order = np.lexsort((rng.random(len(batch)), *strata))
    fold = np.empty(len(batch), dtype=np.int8)
    # dealing goes on from one stratum to the next: small ones must not all fill the first folds
    fold[order] = np.arange(len(batch)) % n
    return fold
