"""Joining samples: shared genes, cells below each other."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from unbatch.data.notes import Notes
from unbatch.data.samples import Sample, read_counts
from unbatch.data.samplesheet import Row
from unbatch.errors import InputError
from unbatch.text import some

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


def name_genes(samples: list[Sample], notes: Notes) -> list[Sample]:
    """Name the genes of 10x files by symbol if that is unique in every one of them, and by gene id otherwise.

    The choice is one for all files, as they are joined by these names; h5ad files keep theirs.
    """
    tenx = [sample for sample in samples if sample.slot == "matrix"]
    if not tenx:
        return samples
    unique = all(sample.var["gene_symbol"].is_unique for sample in tenx)
    named = "symbol" if unique else "gene id, as several genes share a symbol"
    notes.tell("gene-names", f"Genes of 10x files are named by {named}.", by="symbol" if unique else "id")
    if not unique:
        return samples

    def by_symbol(sample: Sample) -> Sample:
        var = sample.var.rename_axis("gene_id").reset_index().set_index("gene_symbol").rename_axis(None)
        return replace(sample, var=var)

    return [by_symbol(sample) if sample.slot == "matrix" else sample for sample in samples]


def shared_genes(samples: list[Sample], source: Path) -> pd.Index:
    """Names of the genes that all samples have, in the order of the first one.

    Raises
    ------
    InputError
        If there are none.
    """
    genes = samples[0].var.index
    for sample in samples[1:]:
        genes = genes[genes.isin(sample.var.index)]
    if not len(genes):
        found = "; ".join(f"{sample.name} has {some(sample.var.index, 2)}" for sample in samples)
        raise InputError(f"{source}: no gene is in all samples ({found}), expected the same gene names")
    return genes


def cells(samples: list[Sample], rows: list[Row], notes: Notes) -> pd.DataFrame:
    """Put the tables of the cells below each other.

    Cells are renamed ``<sample>/<name>``, which is unique, as names of samples have no ``/``. The samplesheet's
    columns win over those of the same name in a file; columns that a file lacks are missing for its cells.
    """
    tables = []
    for sample, row in zip(samples, rows, strict=True):
        table = sample.obs.copy()
        table.index = row.sample + "/" + table.index
        for key, value in {"sample": row.sample, **row.extra}.items():
            theirs = table[key].astype(str) if key in table else None
            if theirs is not None and (theirs != value).any():
                values = theirs.unique()
                text = f"{sample.name}: the samplesheet's {key} replaces the one in the file"
                # of one value, no cells are told apart by it
                add = notes.warn if len(values) > 1 else notes.tell
                text += f", which has {len(values)} values ({some(values, 3)})." if len(values) > 1 else "."
                add("column-replaced", text, sample=row.sample, column=key, values=len(values))
            table[key] = value or np.nan
        tables.append(table)
    return pd.concat(tables)


def coordinates(samples: list[Sample], group: np.ndarray, notes: Notes) -> np.ndarray | None:
    """Coordinates of all cells, or None (the notes say why) unless every cell has them in as many dimensions.

    Parameters
    ----------
    samples
        All samples.
    group
        Name of each cell's sample, shape (cells,), to say which of them lack coordinates.
    notes
        Takes why there are none: a warning where some samples have coordinates.
    """
    lacking = [f"{sample.name} {sample.lacks}" for sample in samples if sample.coordinates is None]
    if lacking:
        add = notes.tell if len(lacking) == len(samples) else notes.warn
        text = f"There are no coordinates: {some(lacking)}."
        add("no-coordinates", text, samples=len(samples), without=len(lacking))
        return None
    dimensions = {sample.name: sample.coordinates.shape[1] for sample in samples}
    if len(set(dimensions.values())) > 1:
        listed = some(f"{name} has {count}" for name, count in dimensions.items())
        notes.warn(
            "coordinates-differ",
            f"Coordinates are left out, their dimensions differ: {listed}.",
            two=sum(count == 2 for count in dimensions.values()),
            three=sum(count == 3 for count in dimensions.values()),
        )
        return None
    joined = np.concatenate([sample.coordinates for sample in samples])
    lost = ~np.isfinite(joined).all(axis=1)
    if lost.any():
        where = some(pd.unique(group[lost]))
        notes.warn(
            "coordinates-not-finite",
            f"Coordinates are left out, they are NaN or infinite in {lost.sum()} cells of {where}.",
            cells=int(lost.sum()),
        )
        return None
    return joined


def counts(samples: Iterable[Sample], genes: pd.Index, continuous: bool = False) -> "csr_matrix":
    """Read the counts of all samples (`read_counts`) and put them below each other."""
    from scipy.sparse import vstack

    parts = [read_counts(sample, genes, continuous) for sample in samples]
    return parts[0] if len(parts) == 1 else vstack(parts, format="csr")
