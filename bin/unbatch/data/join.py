"""Joining samples: shared genes, cells below each other."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from unbatch.data import preprocess
from unbatch.data.genes import case_differs
from unbatch.data.notes import Notes
from unbatch.data.samples import Sample, read_counts
from unbatch.data.samplesheet import Row
from unbatch.errors import InputError
from unbatch.text import some

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


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
        case = case_differs(samples, genes)
        hint = ", which differ in case: of two species, they cannot be joined" if case else ""
        hint = hint or "; ids can stand in var['gene_ids'], symbols in var['feature_name']"
        raise InputError(f"{source}: no gene is in all samples ({found}), expected the same gene names{hint}")
    return genes


def cells(samples: list[Sample], rows: list[Row], keys: dict[str, str], notes: Notes) -> pd.DataFrame:
    """Put the tables of the cells below each other.

    Cells are renamed ``<sample>/<name>``, which is unique, as names of samples have no ``/``. The samplesheet's
    columns win over those of the same name in a file, but an empty cell of it leaves the file's values; columns that a
    file lacks are missing for its cells.

    Parameters
    ----------
    samples, rows
        All samples, and their lines of the samplesheet.
    keys
        Columns that batch, label and section are taken from: a line of the sheet may name another one for its file
        (`unbatch.data.samplesheet.PLACES`), whose values are then in this one.
    notes
        Takes what was replaced.
    """
    tables = []
    used = {place for row in rows for place in row.places}
    for sample, row in zip(samples, rows, strict=True):
        table = sample.obs.copy()
        for place, common in keys.items():
            theirs = row.places.get(place)
            if theirs is None:
                if place in used and common in ("batch", "section"):
                    table[common] = row.sample
                continue
            table[common] = _named(sample, row.sample, place, theirs, notes)
        table.index = row.sample + "/" + table.index
        for key, value in {"sample": row.sample, **row.extra}.items():
            if key in table and not value:
                continue
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
    for place in used & set(keys):
        _warn_of_shared(tables, rows, place, keys[place], notes)
    return pd.concat(tables)


def _named(sample: Sample, name: str, place: str, theirs: str, notes: Notes) -> pd.Series:
    """Values of the column that a line of the samplesheet names; batches and sections may be in several together."""
    columns = [theirs] if place == "label_key" else preprocess.columns_of(sample.obs, theirs)
    absent = [column for column in columns if column not in sample.obs]
    if absent:
        raise InputError(
            f"{sample.path}: the cells of {name} have no column {' and '.join(absent)} ({place} in the samplesheet), "
            f"found {some(map(str, sample.obs), 20) or 'none'}"
        )
    if len(columns) == 1:
        return sample.obs[columns[0]]
    what = "section" if place == "section_key" else "batch"
    joined = preprocess.complete(sample.obs, theirs, sample.path, what, notes)
    return pd.Series(np.asarray(joined, dtype=object), sample.obs.index)


def _warn_of_shared(tables: list[pd.DataFrame], rows: list[Row], place: str, common: str, notes: Notes) -> None:
    """Warn where batches or sections of several files have one name: a number, say, that each file starts with."""
    if place == "label_key":
        return
    of: dict[str, list[str]] = {}
    for table, row in zip(tables, rows, strict=True):
        if place in row.places:
            for value in pd.unique(table[common].dropna()):
                of.setdefault(str(value), []).append(row.sample)
    shared = {value: names for value, names in of.items() if len(names) > 1}
    if shared:
        listed = some((f"{value} in {some(names, 3)}" for value, names in shared.items()), 3)
        what = place.removesuffix("_key")
        notes.warn(
            "values-shared",
            f"The same {what} is in several files ({listed}) and counts as one; if these are different, name "
            "them differently.",
            what=what,
            values=len(shared),
        )


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
            f"Coordinates are left out, they are NaN or infinite in {lost.sum()} cells of {where}. Leave these cells "
            "out of the files to keep the coordinates of the others; in a file of their own, a model of the others "
            "places them (fit-dpvae --apply).",
            cells=int(lost.sum()),
        )
        return None
    return joined


def counts(samples: Iterable[Sample], genes: pd.Index, continuous: bool = False) -> "csr_matrix":
    """Read the counts of all samples (`read_counts`) and put them below each other."""
    from scipy.sparse import vstack

    parts = [read_counts(sample, genes, continuous) for sample in samples]
    return parts[0] if len(parts) == 1 else vstack(parts, format="csr")


def same_cells(counts: "csr_matrix", group: np.ndarray, least_genes: int = 10) -> list[tuple[str, str, int]]:
    """Find samples that hold the same cells, by their counts.

    Parameters
    ----------
    counts
        Counts of all cells, n x g.
    group
        Sample of each cell, n.
    least_genes
        Genes that a cell must have: of small cells some are the same by chance.

    Returns
    -------
    list of tuple
        Two samples and how many cells they share, for pairs that share more than a twentieth of the smaller one.
    """
    codes, found = pd.factorize(group)
    if len(found) < 2:
        return []
    # columns are in one order: equal rows have equal sums, and others differ in float64, nearly surely
    marks = counts @ np.random.default_rng(0).standard_normal(counts.shape[1])
    large = np.flatnonzero(np.diff(counts.indptr) >= min(least_genes, max(1, counts.shape[1] // 2)))
    order = large[np.lexsort((codes[large], marks[large]))]
    same = (marks[order[1:]] == marks[order[:-1]]) & (codes[order[1:]] != codes[order[:-1]])
    met = pd.DataFrame({"first": codes[order[:-1]][same], "second": codes[order[1:]][same]})
    pairs = met.groupby(["first", "second"]).size()
    sizes = np.bincount(codes)
    return [
        (str(found[first]), str(found[second]), count)
        for (first, second), count in pairs.items()
        if count > max(1, 0.05 * min(sizes[first], sizes[second]))
    ]
