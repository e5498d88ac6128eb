"""Whether batch and biology can be told apart in a dataset: labels and other columns counted by batch."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from unbatch.data.preprocess import RESERVED
from unbatch.report.read import Cells, Dataset
from unbatch.report.text import cut, first, share

FEW = 10
"""A label with fewer cells than this outside its main batch counts as almost confined to that batch."""

_LISTED = 5


class Kind(StrEnum):
    """How batches and biology go together."""

    ONE_BATCH = "one_batch"
    NO_LABELS = "no_labels"
    ONE_LABEL = "one_label"
    NO_SHARED_LABEL = "no_shared_label"
    CONFINED = "confined"
    ALMOST_CONFINED = "almost_confined"
    PARTED = "parted"
    SAME_AS_BATCH = "same_as_batch"
    NESTED = "nested"
    CROSSED = "crossed"

    @property
    def heading(self) -> str:
        """What it is called in the report."""
        return _HEADINGS.get(self, "confounded")


_HEADINGS = {
    Kind.ONE_BATCH: "one batch",
    Kind.NO_LABELS: "no labels",
    Kind.ONE_LABEL: "one label",
    Kind.ALMOST_CONFINED: "nearly confounded",
    Kind.SAME_AS_BATCH: "same as batch",
    Kind.NESTED: "nested",
    Kind.CROSSED: "not confounded",
}


@dataclass(frozen=True)
class Finding:
    """One thing to know about batches and biology.

    Attributes
    ----------
    kind
        What it is.
    text
        A sentence; names in it are those of the data.
    share
        Share of the labelled cells that it concerns.
    columns
        Columns of obs that it is about.
    """

    kind: Kind
    text: str
    share: float = 0.0
    columns: tuple[str, ...] = ()

    @property
    def confounded(self) -> bool:
        """Whether it limits what can be told apart."""
        return self.kind is not Kind.CROSSED


def examine(dataset: Dataset) -> list[Finding]:
    """Say where batch and biology are confounded in a dataset.

    Parameters
    ----------
    dataset
        The dataset; columns that are constant within every batch are looked at in addition to the label.

    Returns
    -------
    list of Finding
        At least one; `Kind.CROSSED` where every label is in several batches.
    """
    cells = dataset.cells
    if len(cells.batches) < 2:
        return [Finding(Kind.ONE_BATCH, "There is one batch: no difference between batches can be estimated.")]
    return [*_of_labels(cells), *_of_columns(cells, other_columns(dataset))]


def _of_labels(cells: Cells) -> list[Finding]:
    table = cells.by_label()
    if table is None:
        return [
            Finding(
                Kind.NO_LABELS,
                "There are no labels: whether batches differ in composition is not known, and biology is not scored.",
            )
        ]
    if len(table) == 1:
        return [
            Finding(
                Kind.ONE_LABEL, f"All cells have the label {cut(cells.labels[0], 40)}: there is no biology to score."
            )
        ]
    total = int(table.sum())
    in_batches = (table > 0).sum(axis=1)
    if (in_batches <= 1).all():
        return [
            Finding(
                Kind.NO_SHARED_LABEL,
                "No label occurs in two batches: any difference between batches can be biology, and no method and no "
                "score can tell the two apart.",
                1.0,
            )
        ]
    confined = np.flatnonzero(in_batches == 1)
    outside = table.sum(axis=1) - table.max(axis=1)
    almost = np.flatnonzero((in_batches > 1) & (outside < FEW) & (table.max(axis=1) >= FEW))
    found = []
    if len(confined):
        size = float(table[confined].sum() / total)
        found.append(
            Finding(
                Kind.CONFINED,
                f"{_counted(len(confined))} with {share(size)} of the cells occur{_s(len(confined))} in one batch only "
                f"({_where(cells, table, confined)}): for these, batch and biology cannot be told apart.",
                size,
            )
        )
    if len(almost):
        size = float(table[almost].sum() / total)
        found.append(
            Finding(
                Kind.ALMOST_CONFINED,
                f"{_counted(len(almost))} with {share(size)} of the cells {'has' if len(almost) == 1 else 'have'} "
                f"fewer than {FEW} cells outside one batch ({_where(cells, table, almost)}): little to compare.",
                size,
            )
        )
    there = (table > 0).astype(int)
    groups, group = connected_components(csr_array(there.T @ there), directed=False)
    if groups > 1:
        largest = np.bincount(group, table.sum(axis=0)).max()
        found.append(
            Finding(
                Kind.PARTED,
                f"The batches are {groups} groups without a label in common (a batch without labelled cells is a group "
                "of its own): between the groups, batch and biology cannot be told apart.",
                float(1 - largest / total),
            )
        )
    if not found:
        least = int(in_batches.min())
        text = (
            "Every label occurs in every batch"
            if least == len(cells.batches)
            else f"Every label occurs in at least {least} of the {len(cells.batches)} batches"
        )
        found.append(Finding(Kind.CROSSED, f"{text}: batches can be compared within labels."))
    return found


def _where(cells: Cells, table: np.ndarray, codes: np.ndarray) -> str:
    """Name labels and the batches that they are in, the largest labels first."""
    order = codes[np.argsort(-table[codes].sum(axis=1), kind="stable")]
    named = (f"{cut(cells.labels[code], 30)} in {cut(cells.batches[table[code].argmax()], 30)}" for code in order)
    return first(named, _LISTED, "; ")


def _counted(count: int) -> str:
    return f"{count} label{'' if count == 1 else 's'}"


def _s(count: int) -> str:
    return "s" if count == 1 else ""


def other_columns(dataset: Dataset) -> pd.DataFrame:
    """Columns of categories that are neither batch, label nor section, nor what these were made of."""
    obs, parameters = dataset.data.obs, dataset.about.parameters
    keys = [str(parameters.get(key, "")) for key in ("batch_key", "label_key", "section_key")]
    used = {*RESERVED, "sample", *keys, *(name.strip() for key in keys for name in key.split(","))}
    return obs[[name for name in obs if name not in used and obs[name].dtype.kind not in "iufcmM"]]


def _of_columns(cells: Cells, columns: pd.DataFrame) -> list[Finding]:
    """Find the columns that have one value within every batch, and fewer values than batches or as many."""
    same, nested = [], {}
    for name in columns:
        pairs = pd.DataFrame({"batch": cells.batch, "value": columns[name].to_numpy()}).dropna().drop_duplicates()
        values = pairs["value"].nunique()
        if values < 2 or pairs["batch"].duplicated().any():
            continue
        if values == len(pairs) == len(cells.batches):
            same.append(str(name))
        elif values < len(pairs):
            nested[str(name)] = pairs["value"].astype(str).value_counts(sort=False).to_dict()
    found = []
    if nested:
        name, counts = next(iter(nested.items()))
        each = first((f"{cut(value, 30)}: {_batches(count)}" for value, count in counts.items()), _LISTED, "; ")
        others = [cut(other, 30) for other in list(nested)[1:]]
        more = f" The same holds for {first(others, _LISTED)}." if others else ""
        found.append(
            Finding(
                Kind.NESTED,
                f"Batches are nested in {cut(name, 30)} ({each}): a difference between its values is also one between "
                "batches, and a correction may remove part of it. Test it with batches as replicates, on uncorrected "
                f"counts.{more}",
                columns=tuple(nested),
            )
        )
    if same:
        found.append(
            Finding(
                Kind.SAME_AS_BATCH,
                f"Every batch has a value of its own in {first((cut(name, 30) for name in same), _LISTED)}: what is "
                "recorded there cannot be told apart from the batch effect.",
                columns=tuple(same),
            )
        )
    return found


def _batches(count: int) -> str:
    return f"{count} batch{'' if count == 1 else 'es'}"


def kinds(findings: Iterable[Finding]) -> set[Kind]:
    """Kinds that occur."""
    return {finding.kind for finding in findings}
