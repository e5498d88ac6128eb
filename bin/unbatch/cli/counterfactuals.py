"""What `fit-scmedal` asks of its models: cells in other batches, tests between groups of these, cells for genomaps."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unbatch.cli.common import log
from unbatch.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData

    from unbatch.models.scmedal import Counterfactual, Model, Projection
    from unbatch.nn.minibatches import Source

WAYS = ("batch-free", "published", "decoder")
"""How cells are put into another batch."""
AVERAGE = "average"
"""Name of the batch that is the average of all, in `--counterfactual`."""

_SAMPLES = 30
_BLOCK = 4096
_TESTED = 300
"""Cells of a label that are put into every batch for the tests, as in the scMEDAL paper, and observed ones a batch."""
_VALUES = 10**8
"""Values that the tests of a label take at most: fewer cells where there are many batches and genes."""
SHOWN_LABELS = 12
"""Labels with a cell of their own in the panel of genomaps, the most frequent ones."""
_SHOWN_CELLS, _SHOWN_ROWS, _SHOWN_GENES = 60, 1500, 1024
"""Cells of that panel, rows of its stack (cells by batches) that allow for so many, and genes: 32 x 32 pixels."""


@dataclass(frozen=True)
class Data:
    """What the models see of a dataset.

    Attributes
    ----------
    adata
        Cells, without their expression where that is streamed.
    source
        Expression of `genes`.
    own, names
        Code of each cell's batch, n, and names of the batches.
    batch, known
        The same for the models: -1 for a batch that they don't know.
    label, labels
        Code of each cell's label, -1 for none; None and no names without labels.
    fold
        Of obs/split, n.
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
class Models:
    """Fitted models by kind, and what the default counterfactual is decoded with, if that was fitted."""

    by_kind: dict[str, "Model"]
    projection: "Projection | None"


@dataclass(frozen=True)
class Groups:
    """Two groups of batches: the column of obs, its values, and by batch that is tested its code and its group."""

    column: str
    names: list[str]
    batches: list[int]
    group: list[int]


Move = Callable[["np.ndarray", "np.ndarray", int, int], Iterator["Counterfactual"]]
"""Takes expression, codes of own batches, that of another one, and draws; yields the cells in the other batch."""


def listed(names: list[str]) -> str:
    """Write names for a message, the first ones of many."""
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def targets(path: Path, data: Data, text: str | None) -> dict[str, int]:
    """Codes of the batches that cells are put into, by name.

    Raises
    ------
    InputError
        If there is no such batch, or the models don't know it.
    """
    found = {}
    for name in dict.fromkeys(part.strip() for part in (text or "").split(",") if part.strip()):
        if name in data.known:
            found[name] = data.known.index(name)
        elif name == AVERAGE:
            found[name] = -1
        elif name in data.names:
            raise InputError(
                f"{path}: batch {name} was not seen by the model, which cannot put cells into it; expected another "
                f"--counterfactual, some of {listed(data.known)} or {AVERAGE}"
            )
        else:
            raise InputError(
                f"{path}: obs/batch has no {name!r} for --counterfactual, expected some of {listed(data.known)} or "
                f"{AVERAGE}"
            )
    return found


def chosen(path: Path, data: Data, query: str | None) -> "np.ndarray":
    """Positions of the cells that a condition on obs names; all without one.

    Raises
    ------
    InputError
        If the condition can't be read or holds for no cell.
    """
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


def groups(path: Path, data: Data, column: str | None) -> Groups | None:
    """Divide the batches that have cells and that the models know by a column of obs.

    Raises
    ------
    InputError
        If there is no such column, or it does not divide batches into two groups of two or more.
    """
    import numpy as np

    if column is None:
        return None
    if column not in data.adata.obs:
        raise InputError(f"{path}: obs has no column {column!r} for --groups, it has {listed([*data.adata.obs])}")
    values = data.adata.obs[column]
    batches, found = [code for code in range(len(data.known)) if (data.batch == code).any()], []
    for code in batches:
        mine = values[data.batch == code]
        if mine.isna().any() or mine.nunique() != 1:
            what = "missing values" if mine.isna().any() else listed(sorted(mine.astype(str).unique()))
            raise InputError(
                f"{path}: obs/{column}: batch {data.known[code]} has cells of {what}, --groups needs one group a batch"
            )
        found.append(str(mine.iloc[0]))
    names, group, count = np.unique(found, return_inverse=True, return_counts=True)
    if len(names) != 2 or count.min() < 2:
        held = listed([f"{name} ({n} batches)" for name, n in zip(names, count, strict=True)])
        raise InputError(f"{path}: obs/{column} holds {held}, --groups needs two groups of two batches or more")
    return Groups(column, names.tolist(), batches, group.tolist())


def mover(models: Models, way: str, seed: int) -> Move:
    """Give the function that puts cells into another batch in one of the `WAYS`."""
    from unbatch.models import scmedal

    def move(cells: "np.ndarray", own: "np.ndarray", target: int, samples: int) -> Iterator["Counterfactual"]:
        if way == WAYS[0]:
            return models.projection.counterfactual(cells, own, target, samples=samples, seed=seed)
        random = models.by_kind["re"]
        return scmedal.shift_of_random_effects(random, cells, own, target, way=way, samples=samples, seed=seed)

    return move


def shifts(data: Data, move: Move, way: str, into: dict[str, int], cells: "np.ndarray") -> dict[str, Any]:
    """Put cells into other batches, and sum up by label how expression shifts and how sure that is."""
    import numpy as np

    label, names = _labels(data, cells)
    count = np.bincount(label, minlength=len(names))
    kept = count > 0
    shift = np.zeros((len(into), len(names), len(data.genes)))
    sd = np.zeros_like(shift)
    for number, target in enumerate(into.values()):
        start = 0
        for low in range(0, len(cells), _BLOCK):
            rows = cells[low : low + _BLOCK]
            for block in move(rows_of(data.source, rows), data.batch[rows], target, _SAMPLES):
                mine = label[start : start + len(block.shift)]
                np.add.at(shift[number], mine, block.shift)
                # cells of one batch and label err together
                np.add.at(sd[number], mine, block.sd)
                start += len(block.shift)
    per_cell = np.maximum(count, 1)[:, None]
    return {
        "way": way,
        "batches": np.array(list(into), dtype=object),
        "labels": np.array(names, dtype=object)[kept],
        "cells": count[kept],
        "shift": (shift / per_cell)[:, kept].astype(np.float32),
        "shift_se": (sd / per_cell)[:, kept].astype(np.float32),
    }


def tests(
    data: Data, move: Move, way: str, between: Groups, cells: "np.ndarray", seed: int
) -> dict[str, "str | np.ndarray"]:
    """Test by label and gene whether the same cells, put into every batch, differ between two groups of batches.

    Beside it stands the same test on the observed cells of the label, which owes nothing to a model.
    """
    import numpy as np

    from unbatch.metrics.groups import mann_whitney, mixed_model, smallest_p

    label, names = _labels(data, cells)
    of_all, _ = _labels(data, np.arange(len(data.batch)))
    group, genes = np.array(between.group), len(data.genes)
    most = max(2, min(_TESTED, _VALUES // (len(group) * genes)))
    rng = np.random.default_rng(seed)
    columns = ("difference", "se", "p", "fdr", "rank_p", "rank_fdr")
    found = {name: np.full((len(names), genes), np.nan) for name in columns}
    found |= {f"observed_{name}": np.full((len(names), genes), np.nan) for name in ("difference", "p", "fdr")}
    used, observed_batches = np.zeros(len(names), dtype=int), np.zeros((len(names), 2), dtype=int)
    for place in range(len(names)):
        mine = cells[label == place]
        if len(mine) < 2:
            continue
        mine = np.sort(rng.choice(mine, min(len(mine), most), replace=False))
        used[place] = len(mine)
        values = rows_of(data.source, mine)
        moved = [[block.expression for block in move(values, data.batch[mine], code, 0)] for code in between.batches]
        values = np.concatenate([block for blocks in moved for block in blocks])
        batch = np.repeat(np.arange(len(group)), len(mine))
        table, ranks = mixed_model(values, batch, group[batch]), mann_whitney(values, batch, group[batch])
        for name in ("difference", "se", "p", "fdr"):
            found[name][place] = table[name]
        found["rank_p"][place], found["rank_fdr"][place] = ranks["p"], ranks["fdr"]

        drawn = [_some(np.flatnonzero((of_all == place) & (data.batch == code)), most, rng) for code in between.batches]
        present = np.array([len(each) > 1 for each in drawn])
        observed_batches[place] = np.bincount(group[present], minlength=2)
        if observed_batches[place].min() < 2:
            continue
        batch = np.repeat(np.flatnonzero(present), [len(each) for each in drawn if len(each) > 1])
        values = rows_of(data.source, np.concatenate([each for each in drawn if len(each) > 1]))
        table = mixed_model(values, batch, group[batch])
        for name in ("difference", "p", "fdr"):
            found[f"observed_{name}"][place] = table[name]
    kept = used > 0
    count = np.bincount(group, minlength=2)
    log.info("%s: %d labels tested between %s", between.column, kept.sum(), " and ".join(between.names))
    return {
        "way": way,
        "column": between.column,
        "names": np.array(between.names, dtype=object),
        "batches": count,
        "smallest_p": smallest_p(*count.tolist()),
        "labels": np.array(names, dtype=object)[kept],
        "cells": used[kept],
        "observed_batches": observed_batches[kept],
        **{name: values[kept].astype(np.float32) for name, values in found.items()},
    }


def panel(
    data: Data, models: Models, move: Move | None, way: str, embedding: "np.ndarray", seed: int
) -> dict[str, "str | np.ndarray"]:
    """Keep what genomaps are drawn of: some cells as they are, reconstructed, and as if from each batch.

    First come the medoids, in the embedding, of the most frequent labels (of batches without labels), then a sample,
    which makes correlations of genes surer. Of more than 1,024 genes those are kept that vary most.
    """
    import numpy as np

    from unbatch.data.sampling import medoids, stratified_sample

    label, names = _labels(data, np.arange(len(data.batch)))
    known = label < len(data.labels)
    of = label if known.any() else data.own
    frequent = np.argsort(-np.bincount(of[known] if known.any() else of), kind="stable")[:SHOWN_LABELS]
    group = np.where(np.isin(of, frequent) & (known | ~known.any()), of, -1)
    first = medoids(embedding, group)
    wanted = min(_SHOWN_CELLS, _SHOWN_ROWS // (len(data.known) + 2))
    more = np.setdiff1d(stratified_sample(of, max(wanted - len(first), 0), seed), first) if wanted > len(first) else []
    cells = np.concatenate([first, np.asarray(more, dtype=np.int64)])[: max(wanted, len(first))]
    values = rows_of(data.source, cells)
    genes = np.sort(np.argsort(-values.std(axis=0), kind="stable")[:_SHOWN_GENES])
    own = data.batch[cells]
    kept: dict[str, Any] = {
        "way": way,
        "cells": data.adata.obs_names.to_numpy().astype(object)[cells],
        "labels": np.array(names, dtype=object)[label[cells]],
        "own": np.array(data.names, dtype=object)[data.own[cells]],
        "medoids": len(first),
        "genes": np.array(data.genes, dtype=object)[genes],
        "input": values[:, genes],
    }
    fixed = next((models.by_kind[kind] for kind in ("fe", "fec") if kind in models.by_kind), None)
    if fixed is not None:
        kept["fixed"] = np.concatenate(list(fixed.reconstruct(values, own)))[:, genes]
    if move is not None:
        moved = [[block.expression for block in move(values, own, code, 0)] for code in range(len(data.known))]
        kept["batches"] = np.array(data.known, dtype=object)
        kept["random"] = np.stack([np.concatenate(blocks)[:, genes] for blocks in moved])
    return kept


def rows_of(source: "Source", rows: "np.ndarray") -> "np.ndarray":
    """Dense expression of some cells, in their order."""
    import numpy as np

    order = np.argsort(rows)
    found = np.concatenate([x.cpu().numpy() for _, x in source.minibatches(rows[order], _BLOCK)])
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return found[back]


def _labels(data: Data, cells: "np.ndarray") -> tuple["np.ndarray", list[str]]:
    """Code of the label of some cells, and names; the last one is that of cells without."""
    import numpy as np

    if data.label is None:
        return np.zeros(len(cells), dtype=np.int64), ["all cells"]
    label = data.label[cells]
    return np.where(label < 0, len(data.labels), label), [*data.labels, ""]


def _some(cells: "np.ndarray", most: int, rng: "np.random.Generator") -> "np.ndarray":
    import numpy as np

    return cells if len(cells) <= most else np.sort(rng.choice(cells, most, replace=False))
