"""What `fit-scmedal` asks of its models: names of batches and cells become codes, and codes names again."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unbatch.cli.common import log
from unbatch.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData

    from unbatch.models.scmedal import Models
    from unbatch.models.scmedal.counterfactual import Groups, Labels, Move
    from unbatch.nn.minibatches import Source

WAYS = ("batch-free", "published", "decoder")
"""How cells are put into another batch: those of `models.scmedal.counterfactual`, which takes seconds to import."""
AVERAGE = "average"
"""Name of the batch that is the average of all, in `--counterfactual`; see `WAYS`."""


@dataclass(frozen=True)
class Data:
    """What the models see of a dataset.

    Attributes
    ----------
    adata
        Cells, without their expression where that is streamed.
    source
        Expression of `genes`.
    genes
        Their names.
    own, names
        Code of each cell's batch, n, and names of the batches.
    batch, known
        The same for the models: -1 for a batch that they don't know.
    label, labels
        Code of each cell's label, -1 for none; None and no names without labels.
    fold
        Folds of obs/split, n.
    depth
        Sum of the normalised expression of a cell over all genes of the dataset.
    """

    adata: "AnnData"
    source: "Source"
    genes: list[str]
    own: "np.ndarray"
    names: list[str]
    batch: "np.ndarray"
    known: list[str]
    label: "np.ndarray | None"
    labels: list[str]
    fold: "np.ndarray"
    depth: float


@dataclass(frozen=True)
class Asked:
    """What is to be found: codes of batches to put cells into, the column of groups and these, positions of cells."""

    into: dict[str, int]
    column: str | None
    between: "Groups | None"
    cells: "np.ndarray"

    def __bool__(self) -> bool:
        """Tell whether anything is asked."""
        return bool(self.into or self.between)


def asked(path: Path, data: Data, counterfactual: str | None, groups: str | None, *, query: str | None) -> Asked:
    """Read `--counterfactual`, `--groups` and `--cells`.

    Raises
    ------
    InputError
        If there is no such batch, column or cell, or the batches are not two groups of two or more.
    """
    from unbatch.models.scmedal.counterfactual import target_batches

    wanted = [part.strip() for part in (counterfactual or "").split(",") if part.strip()]
    try:
        into = target_batches(wanted, data.known, unseen=data.names)
    except ValueError as error:
        raise InputError(f"{path}: obs/batch, --counterfactual: {error}") from error
    return Asked(into, groups, _groups(path, data, groups), _chosen(path, data, query))


def _chosen(path: Path, data: Data, query: str | None) -> "np.ndarray":
    """Positions of the cells that a condition on obs names; all without one."""
    import numpy as np

    if query is None:
        return np.arange(data.adata.n_obs)
    obs = data.adata.obs.reset_index(drop=True)
    try:
        found = obs.query(query, engine="python").index.to_numpy()
    except Exception as error:  # a condition may fail in any way
        said = " ".join(str(error).split())[:200]
        raise InputError(f"--cells {query!r}: {said}; expected a condition on the columns of obs in {path}") from error
    if not len(found):
        raise InputError(f"--cells {query!r}: no cell of {path} is such, expected one or more")
    return found.astype(np.int64)


def _groups(path: Path, data: Data, column: str | None) -> "Groups | None":
    """Divide the batches that have cells and that the models know by a column of obs."""
    from unbatch.models.scmedal.counterfactual import listed, two_groups

    if column is None:
        return None
    if column not in data.adata.obs:
        raise InputError(f"{path}: obs has no column {column!r} for --groups, it has {listed([*data.adata.obs])}")
    values = data.adata.obs[column]
    text = values.astype(str).astype(object).where(values.notna(), None).to_numpy()
    try:
        return two_groups(text, data.batch, data.known)
    except ValueError as error:
        raise InputError(f"{path}: obs/{column}, --groups: {error}") from error


def answers(
    data: Data, models: "Models", question: Asked, way: str, *, embedding: "np.ndarray", seed: int
) -> dict[str, Any]:
    """Give what was asked, and the cells of genomaps where there are random effects, for ``uns/unbatch``.

    Parameters
    ----------
    data, models, question
        The cells, what moves them into other batches, and which of both.
    way
        One of `WAYS`; genomaps show random effects as published, unless something else was asked for.
    embedding
        Embedding in which the medoids of genomaps are sought, n x L.
    seed
        Seed of all draws.
    """
    from unbatch.models.scmedal import counterfactual

    if not question and "re" not in models.by_kind:
        return {}
    way = way if question else WAYS[1]
    move, labels = models.mover(way, seed), counterfactual.Labels(data.label, data.labels)
    named = {"labels": labels, "cells": question.cells}
    found: dict[str, Any] = {}
    if question.into:
        table = counterfactual.shifts(data.source, data.batch, move, question.into, **named)
        found["counterfactual"] = {"way": way, **table}
    if question.between:
        table = counterfactual.group_tests(data.source, data.batch, move, question.between, **named, seed=seed)
        log.info(
            "%s: %d labels tested between %s",
            question.column,
            len(table["labels"]),
            " and ".join(question.between.names),
        )
        found["groups"] = {"way": way, "column": question.column, **table}
    return found | {"panel": {"way": way, **_panel(data, models, move, labels, embedding=embedding, seed=seed)}}


def _panel(
    data: Data, models: "Models", move: "Move", labels: "Labels", *, embedding: "np.ndarray", seed: int
) -> dict[str, Any]:
    import numpy as np

    from unbatch.models.scmedal import counterfactual

    batches = len(data.known)
    cells, first = counterfactual.panel_cells(embedding, data.own, labels=labels, batches=batches, seed=seed)
    values, own = data.source.take(cells), data.batch[cells]
    kept: dict[str, Any] = counterfactual.panel(values, own, batches=batches, fixed=models.fixed, move=move)
    code, names = labels.of(cells)
    return kept | {
        "cells": data.adata.obs_names.to_numpy().astype(object)[cells],
        "labels": np.array(names, dtype=object)[code],
        "own": np.array(data.names, dtype=object)[data.own[cells]],
        "medoids": first,
        "genes": np.array(data.genes, dtype=object)[kept["genes"]],
        "batches": np.array(data.known, dtype=object),
    }
