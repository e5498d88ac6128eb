"""What is asked of cells in other batches: mean shifts by label, tests between groups of batches, a panel to look at.

Arrays in, arrays out. Cells are positions in a `Source`; the code -1 is that of a batch that the models do not know and
that of a cell without a label. What is wrong is a ValueError whose sentence the caller prefixes with the file.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unbatch.data.sampling import medoids, stratified_sample
from unbatch.metrics.groups import mann_whitney, mixed_model, smallest_p
from unbatch.models.scmedal.data import BLOCK
from unbatch.models.scmedal.model import Model
from unbatch.models.scmedal.projection import Counterfactual, Projection, shift_of_random_effects
from unbatch.nn.minibatches import Source

WAYS = ("batch-free", "published", "decoder")
"""How cells are put into another batch: through a `Projection`, or through RE in one of its two ways."""
AVERAGE = "average"
"""Name of the batch that is the average of all."""


@dataclass(frozen=True)
class Limits:
    """How much is drawn, tested and kept.

    Attributes
    ----------
    draws
        Draws of the posterior for the standard errors of shifts: 30 tell an error to 13%.
    tested
        Cells of a label that are put into every batch for the tests, as in the scMEDAL paper, and observed cells of a
        label and batch; of more, so many are drawn.
    values
        Cells times batches times genes that the tests of a label take at most, for memory: with many batches and genes,
        fewer cells than `tested`.
    shown_labels
        Labels that have a cell of their own in the panel, the most frequent ones.
    shown_cells, shown_rows
        Cells of the panel, and rows of its stack (cells times batches) at most: with many batches, fewer cells.
    shown_genes
        Genes of the panel at most, those that vary most: 32 x 32 pixels.
    """

    draws: int = 30
    tested: int = 300
    values: int = 10**8
    shown_labels: int = 12
    shown_cells: int = 60
    shown_rows: int = 1500
    shown_genes: int = 1024


LIMITS = Limits()

Move = Callable[[Any, np.ndarray, int, int], Iterator[Counterfactual]]
"""Takes expression, codes of own batches, the code of another batch, and a number of draws for standard errors; yields
the cells in the other batch, a block after the other."""


def mover(way: str, *, projection: Projection | None = None, random: Model | None = None, seed: int = 0) -> Move:
    """Give the function that puts cells into another batch in one of the `WAYS`.

    Parameters
    ----------
    way
        One of `WAYS`.
    projection, random
        What the first way needs, and what the others need, a fitted RE.
    seed
        Seed of the draws.

    Raises
    ------
    ValueError
        If what the way needs is not given.
    """
    if (projection if way == WAYS[0] else random) is None:
        raise ValueError(f"way {way} needs {'a projection' if way == WAYS[0] else 'random effects'}, there are none")

    def move(cells: Any, own: np.ndarray, target: int, samples: int) -> Iterator[Counterfactual]:
        if way == WAYS[0]:
            return projection.counterfactual(cells, own, target, samples=samples, seed=seed)
        return shift_of_random_effects(random, cells, own, target, way=way, samples=samples, seed=seed)

    return move


@dataclass(frozen=True)
class Labels:
    """Labels of all cells.

    Attributes
    ----------
    code
        Codes, n; -1 for a cell without. None where there are no labels: all cells are then one group.
    names
        Their names.
    """

    code: np.ndarray | None = None
    names: Sequence[str] = ()

    def of(self, cells: np.ndarray) -> tuple[np.ndarray, list[str]]:
        """Codes of some cells, and names; the last one is that of cells without."""
        if self.code is None:
            return np.zeros(len(cells), dtype=np.int64), ["all cells"]
        code = self.code[cells]
        return np.where(code < 0, len(self.names), code), [*self.names, ""]


@dataclass(frozen=True)
class Groups:
    """Two groups of batches: their names, and of each batch that is tested its code and its group, 0 or 1."""

    names: list[str]
    batches: list[int]
    group: list[int]


def target_batches(wanted: Sequence[str], known: Sequence[str], unseen: Sequence[str] = ()) -> dict[str, int]:
    """Find the batches that cells are to be put into.

    Parameters
    ----------
    wanted
        Their names; `AVERAGE` is the average of all.
    known
        Names of the batches of the models, by code.
    unseen
        Names of batches that the models were not fitted to.

    Returns
    -------
    dict
        Codes by name, -1 for the average.

    Raises
    ------
    ValueError
        If there is no such batch, or the models were not fitted to it.
    """
    found = {}
    for name in dict.fromkeys(wanted):
        if name in known:
            found[name] = list(known).index(name)
        elif name == AVERAGE:
            found[name] = -1
        elif name in unseen:
            raise ValueError(
                f"batch {name!r} was not seen by the model, which cannot put cells into it; expected some of "
                f"{listed(known)} or {AVERAGE}"
            )
        else:
            raise ValueError(f"there is no batch {name!r}, expected some of {listed(known)} or {AVERAGE}")
    return found


def two_groups(values: np.ndarray, batch: np.ndarray, known: Sequence[str]) -> Groups:
    """Divide the batches that have cells and that the models know by a value of their cells.

    Parameters
    ----------
    values
        Values of the cells as text, n, an array of objects; None where missing.
    batch
        Codes, n; -1 for a batch that the models do not know.
    known
        Names of the batches by code.

    Raises
    ------
    ValueError
        If a batch has no value or more than one, or they are not two groups of two batches or more.
    """
    batches, found = [code for code in range(len(known)) if (batch == code).any()], []
    for code in batches:
        own = set(values[batch == code].tolist())
        if None in own or len(own) != 1:
            what = "missing values" if None in own else listed(sorted(own))
            raise ValueError(f"batch {known[code]} has cells of {what}, expected one group a batch")
        found += own
    names, group, count = np.unique(np.array(found, dtype=str), return_inverse=True, return_counts=True)
    if len(names) != 2 or count.min() < 2:
        held = listed([f"{name} ({n} batches)" for name, n in zip(names, count, strict=True)])
        raise ValueError(f"found {held}, expected two groups of two batches or more")
    return Groups(names.tolist(), batches, group.tolist())


def listed(names: Sequence[str]) -> str:
    """Write names for a message, the first ones of many."""
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def shifts(
    source: Source, batch: np.ndarray, move: Move, into: dict[str, int], *, labels: Labels, cells: np.ndarray
) -> dict[str, np.ndarray]:
    """Put cells into other batches, and sum up by label how expression shifts and how sure that is.

    Parameters
    ----------
    source, batch
        Expression (n x G) and codes of own batches, n.
    move
        How to put cells into another batch; see `mover`.
    into
        Codes of the other batches by name; T of them.
    labels
        Labels of all cells.
    cells
        Positions of the cells to move.

    Returns
    -------
    dict
        ``batches`` (names, T), ``labels`` (names, C) and ``cells`` (number by label, C), ``shift`` and ``shift_se``
        (T x C x G): mean shift of the cells of a label, and its standard error, where cells err together.
    """
    label, names = labels.of(cells)
    count = np.bincount(label, minlength=len(names))
    kept = count > 0
    shift = np.zeros((len(into), len(names), source.shape[1]))
    sd = np.zeros_like(shift)
    for number, target in enumerate(into.values()):
        start = 0
        for low in range(0, len(cells), BLOCK):
            rows = cells[low : low + BLOCK]
            for block in move(source.take(rows), batch[rows], target, LIMITS.draws):
                mine = label[start : start + len(block.shift)]
                np.add.at(shift[number], mine, block.shift)
                # cells of one batch and label err together
                np.add.at(sd[number], mine, block.sd)
                start += len(block.shift)
    per_cell = np.maximum(count, 1)[:, None]
    return {
        "batches": np.array(list(into), dtype=object),
        "labels": np.array(names, dtype=object)[kept],
        "cells": count[kept],
        "shift": (shift / per_cell)[:, kept].astype(np.float32),
        "shift_se": (sd / per_cell)[:, kept].astype(np.float32),
    }


def group_tests(
    source: Source,
    batch: np.ndarray,
    move: Move,
    between: Groups,
    *,
    labels: Labels,
    cells: np.ndarray,
    seed: int,
) -> dict[str, Any]:
    """Test by label and gene whether the same cells, put into every batch, differ between two groups of batches.

    The same test on the observed cells of the label, which owes nothing to a model, is given with it.

    Parameters
    ----------
    source, batch, move, labels, cells
        See `shifts`; observed cells are drawn from all.
    between
        The groups.
    seed
        Seed of the draws of cells.

    Returns
    -------
    dict
        ``names`` and ``batches`` of the groups (2), ``smallest_p`` of the rank test, ``labels`` (C), ``cells`` (C),
        ``observed_batches`` (C x 2), and C x G each, NaN where nothing can be said: ``difference``, ``se``, ``p``,
        ``fdr`` of the mixed model, ``rank_p``, ``rank_fdr``, and ``observed_difference``, ``observed_p``,
        ``observed_fdr``.
    """
    label, names = labels.of(cells)
    of_all, _ = labels.of(np.arange(len(batch)))
    group, genes = np.array(between.group), source.shape[1]
    most = max(2, min(LIMITS.tested, LIMITS.values // (len(group) * genes)))
    rng = np.random.default_rng(seed)
    columns = ("difference", "se", "p", "fdr", "rank_p", "rank_fdr")
    columns += tuple(f"observed_{name}" for name in ("difference", "p", "fdr"))
    found = {name: np.full((len(names), genes), np.nan) for name in columns}
    used, observed_batches = np.zeros(len(names), dtype=int), np.zeros((len(names), 2), dtype=int)
    for place in range(len(names)):
        mine = cells[label == place]
        if len(mine) < 2:
            continue
        mine = np.sort(rng.choice(mine, min(len(mine), most), replace=False))
        used[place] = len(mine)
        values = np.concatenate(_moved(move, source.take(mine), batch[mine], between.batches))
        of_rows = np.repeat(np.arange(len(group)), len(mine))
        table, ranks = mixed_model(values, of_rows, group[of_rows]), mann_whitney(values, of_rows, group[of_rows])
        for name in ("difference", "se", "p", "fdr"):
            found[name][place] = table[name]
        found["rank_p"][place], found["rank_fdr"][place] = ranks["p"], ranks["fdr"]

        drawn = [_some(np.flatnonzero((of_all == place) & (batch == code)), most, rng) for code in between.batches]
        present = np.array([len(each) > 1 for each in drawn])
        observed_batches[place] = np.bincount(group[present], minlength=2)
        if observed_batches[place].min() < 2:
            continue
        of_rows = np.repeat(np.flatnonzero(present), [len(each) for each in drawn if len(each) > 1])
        observed = source.take(np.concatenate([each for each in drawn if len(each) > 1]))
        table = mixed_model(observed, of_rows, group[of_rows])
        for name in ("difference", "p", "fdr"):
            found[f"observed_{name}"][place] = table[name]
    kept = used > 0
    count = np.bincount(group, minlength=2)
    return {
        "names": np.array(between.names, dtype=object),
        "batches": count,
        "smallest_p": smallest_p(*count.tolist()),
        "labels": np.array(names, dtype=object)[kept],
        "cells": used[kept],
        "observed_batches": observed_batches[kept],
        **{name: values[kept].astype(np.float32) for name, values in found.items()},
    }


def panel_cells(
    embedding: np.ndarray, own: np.ndarray, *, labels: Labels, batches: int, seed: int
) -> tuple[np.ndarray, int]:
    """Choose cells to look at: medoids of the most frequent labels (of batches without labels), then a sample.

    Parameters
    ----------
    embedding
        Embedding of all cells, n x L, in which medoids are sought.
    own
        Codes of the cells' own batches, n.
    labels
        Labels of all cells.
    batches
        Number of batches that each cell will be put into.
    seed
        Seed of the sample, which makes correlations of genes surer.

    Returns
    -------
    tuple
        Positions of the cells, medoids first, and the number of medoids.
    """
    known = np.zeros(len(own), dtype=bool) if labels.code is None else labels.code >= 0
    of = labels.of(np.arange(len(own)))[0] if known.any() else own
    frequent = np.argsort(-np.bincount(of[known] if known.any() else of), kind="stable")[: LIMITS.shown_labels]
    group = np.where(np.isin(of, frequent) & (known | ~known.any()), of, -1)
    first = medoids(embedding, group)
    wanted = min(LIMITS.shown_cells, LIMITS.shown_rows // (batches + 2))
    more = np.setdiff1d(stratified_sample(of, max(wanted - len(first), 0), seed), first) if wanted > len(first) else []
    cells = np.concatenate([first, np.asarray(more, dtype=np.int64)])[: max(wanted, len(first))]
    return cells, len(first)


def panel(
    values: np.ndarray, own: np.ndarray, *, batches: int, fixed: Model | None = None, move: Move | None = None
) -> dict[str, np.ndarray]:
    """Keep what genomaps are drawn of: cells as they are, reconstructed, and as if from each batch.

    Parameters
    ----------
    values, own
        Expression (m x G) and codes of own batches of the cells.
    batches
        Number of batches of the models, K.
    fixed
        Model that reconstructs the cells.
    move
        How to put cells into another batch; see `mover`.

    Returns
    -------
    dict
        ``genes`` (positions, g), ``input`` (m x g), and where there are such models ``fixed`` (m x g) and ``random``
        (K x m x g).
    """
    genes = np.sort(np.argsort(-values.std(axis=0), kind="stable")[: LIMITS.shown_genes])
    kept = {"genes": genes, "input": values[:, genes]}
    if fixed is not None:
        kept["fixed"] = np.concatenate(list(fixed.reconstruct(values, own)))[:, genes]
    if move is not None:
        kept["random"] = np.stack([each[:, genes] for each in _moved(move, values, own, range(batches))])
    return kept


def _moved(move: Move, values: np.ndarray, own: np.ndarray, batches: Sequence[int]) -> list[np.ndarray]:
    """Expression of the same cells in each of some batches, without errors."""
    return [np.concatenate([block.expression for block in move(values, own, code, 0)]) for code in batches]


def _some(cells: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    return cells if len(cells) <= most else np.sort(rng.choice(cells, most, replace=False))
