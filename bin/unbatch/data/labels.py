"""Whether a column of labels holds labels: kinds that many cells share."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

LEAST_SHARED = 2.0
"""Cells that a label has on average, at least; with fewer, most labels name a single cell."""

MOST_FRACTIONS = 30
"""Different numbers with fractions that can be labels, such as the clusters 1.1 and 1.2; more are a measurement."""


@dataclass(frozen=True)
class Doubt:
    """What is wrong with a column of labels.

    Attributes
    ----------
    code
        ``one-label`` (all cells have the same), ``label-per-cell`` (most labels name one cell) or ``label-measured``
        (numbers with fractions).
    text
        A sentence with what was found and what would be right.
    labels, cells
        Numbers of different labels, and of cells that have one.
    meaningless
        Whether nothing can be scored by it; else it may be a column of labels.
    """

    code: Literal["one-label", "label-per-cell", "label-measured"]
    text: str
    labels: int
    cells: int
    meaningless: bool = True


def about_labels(label: pd.Series | pd.Categorical, key: str = "obs/label") -> Doubt | None:
    """Say why a column is no column of labels.

    Parameters
    ----------
    label
        The label of every cell; missing where a cell has none, and in one cell at least not.
    key
        Name of the column, for the sentence.

    Returns
    -------
    Doubt or None
        None where nothing speaks against it. Text that is a number counts as one; whole numbers can name clusters.
    """
    counts = pd.Series(label).value_counts()
    counts = counts[counts > 0]
    labels, cells = len(counts), int(counts.sum())
    wanted = "cell types, domains or clusters were expected (--label-key)"
    if labels < 2:
        only = "".join(map(str, counts.index))
        text = f"All labels in {key} are {only}: nothing can be said about biology, {wanted}."
        return Doubt("one-label", text, labels, cells)
    fractions = _fractions(counts.index)
    if fractions > MOST_FRACTIONS or (fractions and cells < LEAST_SHARED * labels):
        text = f"{key} holds numbers with fractions ({labels:,} different ones, such as {counts.index[0]}): {wanted}."
        return Doubt("label-measured", text, labels, cells)
    if cells < LEAST_SHARED * labels:
        text = f"{key} has {labels:,} labels for {cells:,} cells, so most name a single cell: {wanted}."
        return Doubt("label-per-cell", text, labels, cells)
    if fractions:
        text = f"{key} holds numbers with fractions, such as {counts.index[0]}: if they measure something, {wanted}."
        return Doubt("label-measured", text, labels, cells, meaningless=False)
    return None


def _fractions(values: pd.Index) -> int:
    """Count numbers that are not whole; 0 where one value is no number."""
    try:
        numbers = np.asarray([float(str(value)) for value in values])
    except ValueError:
        return 0
    return sum(math.isfinite(number) and number != round(number) for number in numbers.tolist())
