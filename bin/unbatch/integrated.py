"""One file to go on with: a dataset with what all methods found, and neighbours, UMAP and clusters of one of them.

Which one is for the verdict of the report to say (`unbatch.report.verdict.judge`), with one rule added: where it names
no correction as better than no correction, the cells as they are, are taken.
"""

import difflib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from unbatch.data.notes import Notes
from unbatch.errors import InputError
from unbatch.report import embedding
from unbatch.report.scores import Entry, Result
from unbatch.report.text import join
from unbatch.report.verdict import Code, judge, verdict

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

CLUSTERS = "leiden"
"""Column of obs with the clusters."""

CORRECTED = "corrected"
"""Slot of obsm with corrected expression, and column of var with the genes that it has."""

RESOLUTION, ITERATIONS = 1.0, 2
"""Settings of Leiden."""


class Reason(StrEnum):
    """Why a method was chosen."""

    ASKED = "asked"
    FIRST = "first"
    TIED = "tied"
    ALONE = "alone"
    HIGHEST = "highest"
    UNCORRECTED = "uncorrected"
    NOT_SHOWN = "not_shown"
    NO_FIT = "no_fit"


@dataclass(frozen=True)
class Choice:
    """The method whose neighbours, UMAP and clusters are in the file.

    Attributes
    ----------
    entry
        The method; None where no fit can be taken.
    reason, text
        Why, as a code and in a sentence.
    """

    entry: Entry | None
    reason: Reason
    text: str

    @property
    def doubtful(self) -> bool:
        """Whether the user should look at the choice."""
        return self.reason not in (Reason.ASKED, Reason.FIRST, Reason.TIED, Reason.ALONE)


def eligible(entry: Entry) -> bool:
    """Whether the embedding of a method is one to go on with: it has scores, and is no control but the uncorrected."""
    return entry.status == "ok" and (entry.kind != "control" or entry.uncorrected)


def choose(result: Result, use: str | None = None) -> Choice:
    """Choose the method to go on with.

    Parameters
    ----------
    result
        Scores of the dataset.
    use
        Name of the method that the user wants; None for the one that the scores speak for.

    Raises
    ------
    InputError
        If `use` is no method of the scores that can be chosen.
    """
    if use is not None:
        return _asked(result, use)
    found = judge(result)
    able = [entry for entry in result.entries if eligible(entry)]
    uncorrected = sorted((entry for entry in able if entry.uncorrected and _is_embedding(entry)), key=_least)
    leader = found.leader
    if found.code is Code.FIRST:
        return Choice(leader, Reason.FIRST, f"{leader.label} is chosen, as it ranks first.")
    if found.code is Code.ALONE:
        return Choice(leader, Reason.ALONE, f"{leader.label} is chosen, as nothing else has a full set of scores.")
    if found.code is Code.TIED:
        tied = join(entry.label for entry in found.tied)
        text = f"{leader.label} is chosen for its total, the highest one, but it cannot be told from {tied}."
        return Choice(leader, Reason.TIED, text)
    if found.code is Code.UNKNOWN:
        highest = max((e for e in able if e.total and e.complete), key=lambda entry: entry.total.mean)
        text = (
            f"{highest.label} is chosen for its total, the highest one, which may be chance: without an interval over "
            "seeds and cells nothing is known of the differences."
        )
        return Choice(highest, Reason.HIGHEST, text)
    if uncorrected:
        text = (
            f"{uncorrected[0].label}, which corrects nothing, is chosen, as no correction is shown to be better on "
            "this data; --use METHOD takes one all the same."
        )
        return Choice(uncorrected[0], Reason.UNCORRECTED, text)
    if able:
        text = f"{able[0].label} is chosen, but not shown to be better than no correction; --use METHOD takes another."
        return Choice(able[0], Reason.NOT_SHOWN, text)
    return Choice(None, Reason.NO_FIT, "No method is chosen, as none has a fit: there are no UMAP and no clusters.")


def _asked(result: Result, use: str) -> Choice:
    entries = [entry for entry in result.entries if entry.method == use]
    names = sorted({entry.method for entry in result.entries if entry.kind != "control" or entry.uncorrected})
    if not entries:
        near = difflib.get_close_matches(use, names, n=1)
        meant = f", did you mean {near[0]}?" if near else ""
        raise InputError(f"--use: no method {use!r} in {result.source}{meant}; there are {', '.join(names)}")
    if use not in names:
        raise InputError(f"--use: {use} is a control, expected one of {', '.join(names)}")
    # ranked ones stand first
    entry = entries[0]
    if entry.status != "ok":
        message = entry.rows[0].get("message") or "no message"
        text = f"{entry.label}, which --use names, has no fit ({entry.status}: {message}): no UMAP and no clusters."
        return Choice(None, Reason.NO_FIT, text)
    return Choice(entry, Reason.ASKED, f"{entry.label} is chosen, as --use names it.")


def _is_embedding(entry: Entry) -> bool:
    return all(row.get("output") != "graph" for row in entry.compared)


def _least(entry: Entry) -> float:
    """Key that sorts methods by the best mean that they have; controls first where there is none."""
    score = entry.total or entry.bio or entry.batch
    return -score.mean if score else -float(entry.kind == "control")


@dataclass(frozen=True)
class Taken:
    """A fit whose embedding, or graph, is in the file.

    Attributes
    ----------
    entry
        The method.
    path
        File of the fit.
    row
        Its row of scores.json.
    slot
        Where it is in the file, such as ``"obsm/X_harmony"``.
    inside
        Where it is in its own file.
    """

    entry: Entry
    path: Path
    row: dict[str, Any]
    slot: str
    inside: str


def take(result: Result, fits: Mapping[str, Path]) -> list[Taken]:
    """List the fits to put into the file: of each method the first seed with the full set of scores.

    Parameters
    ----------
    result
        Scores of the dataset.
    fits
        Files by the id of the row. A method without a file is left out.
    """
    found = []
    entries = [entry for entry in result.entries if eligible(entry)]
    several = Counter(entry.method for entry in entries)
    for entry in entries:
        row = next((row for row in entry.compared if row["id"] in fits), None)
        if row is None:
            continue
        variant = "" if several[entry.method] == 1 else "_" + entry.params_id.replace("/", "_")
        # the same seed as in the report's pictures
        group, prefix = ("obsp", "") if row.get("output") == "graph" else ("obsm", "X_")
        place = f"{group}/{prefix}{entry.method}"
        found.append(Taken(entry, fits[row["id"]], row, place + variant, place))
    return found


def describe(taken: Sequence[Taken], choice: Choice, result: Result) -> dict[str, Any]:
    """Say which method was chosen and why, and where every embedding is from, for ``uns["unbatch"]["integrated"]``."""
    table = pd.DataFrame(
        {
            "slot": [each.slot for each in taken],
            "method": [each.entry.method for each in taken],
            "label": [each.entry.label for each in taken],
            "kind": [each.entry.kind for each in taken],
            "fit": [str(each.row["id"]) for each in taken],
            "seed": [int(each.row["seed"]) for each in taken],
            "rank": [float(each.entry.rank or np.nan) for each in taken],
            "total": [each.entry.total.mean if each.entry.total else np.nan for each in taken],
            "params": [json.dumps(each.row.get("params") or {}, sort_keys=True) for each in taken],
        },
        index=pd.Index([each.slot.partition("/")[2] for each in taken], dtype=object),
    )
    chosen = next((each for each in taken if each.entry is choice.entry), None)
    about = {"method": chosen.entry.method, "slot": chosen.slot, "fit": str(chosen.row["id"])} if chosen else {}
    return about | {
        "reason": str(choice.reason),
        "text": choice.text,
        "verdict": np.array(verdict(result), dtype=object),
        "embeddings": table,
    }


def free_columns(adata: AnnData, notes: Notes) -> None:
    """Rename columns of the input that the file has a use for, as `preprocess` does."""
    for table, name in ((adata.obs, CLUSTERS), (adata.var, CORRECTED)):
        if name in table:
            table.drop(columns=f"{name}_input", errors="ignore", inplace=True)  # noqa: PD002 (a property of AnnData)
            table.rename(columns={name: f"{name}_input"}, inplace=True)  # noqa: PD002
            notes.tell("columns-renamed", f"The column {name} of the input is kept as {name}_input.")


def add_neighbours(
    adata: AnnData, slot: str, values: "np.ndarray | csr_matrix", seed: int, tell: Callable[..., None] | None = None
) -> None:
    """Add neighbours, UMAP and Leiden clusters in the slots of scanpy, whose functions go on from there.

    Parameters
    ----------
    adata
        The cells.
    slot
        Name of the embedding (in obsm) or graph (in obsp) in the file.
    values
        The embedding (n x d), or the graph (n x n CSR, how strongly cells are joined).
    seed
        Seed of the layout and the clusters.
    tell
        Told what is done, one line each.
    """
    import scanpy as sc

    say = tell or (lambda *_: None)
    about: dict[str, Any] = {"connectivities_key": "connectivities"}
    params: dict[str, Any] = {"method": "umap", "random_state": seed}
    say("Laying out %d cells by %s", adata.n_obs, slot)
    if hasattr(values, "indptr"):
        adata.obsp["connectivities"] = values
        adata.obsm["X_umap"] = embedding.lay_out_graph(values, seed)
    else:
        layout = embedding.lay_out(values, seed)
        adata.obsp["connectivities"], adata.obsp["distances"] = layout.connectivities, layout.distances
        adata.obsm["X_umap"] = layout.positions
        about["distances_key"] = "distances"
        params |= {"n_neighbors": layout.neighbours, "metric": "euclidean", "use_rep": slot}
    adata.uns["neighbors"] = about | {"params": params}
    adata.uns["umap"] = {"params": {"min_dist": embedding.MIN_DIST, "n_epochs": embedding.EPOCHS, "random_state": seed}}
    say("Clustering")
    settings = {"flavor": "igraph", "directed": False, "n_iterations": ITERATIONS, "resolution": RESOLUTION}
    sc.tl.leiden(adata, random_state=seed, key_added=CLUSTERS, **settings)
