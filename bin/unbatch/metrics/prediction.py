"""What can be predicted from an embedding, from random effects of batches, and from the batch alone.

A classifier that gets random effects is told the batch of a cell. Where a target is a function of the batch, as the
donor or the diagnosis mostly is, that alone solves it for cells of known batches and says nothing about biology. So
every table has the one-hot batch (Z) alone and with the embedding, and held-out batches. Arrays in, numbers out.

Source: the classifier is that of scMEDAL (Andrade et al. 2024): a random forest of 100 trees on standardised features.
With more than 2,500 cells to fit to, features are in 32 bins.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.dummy import DummyClassifier
from sklearn.metrics import accuracy_score
from sklearn.preprocessing import StandardScaler

from unbatch.metrics.evidence import Split, balanced_accuracy, cell_splits
from unbatch.metrics.trees import Forest
from unbatch.metrics.uncertainty import Interval

TREES = 100
MANY_CELLS, BINS = 2500, 32
"""With more cells to fit to than this, features are in bins of equal numbers of cells, which takes half the time and
predicts as well (docs/metrics.md)."""
MAX_BATCH_SPLITS = 5
SOLVED = 0.98
"""Balanced accuracy from which the batch alone is said to solve a target."""


@dataclass(frozen=True)
class Accuracy:
    """How well a target is predicted on what was held out; `by_split` are the balanced accuracies."""

    accuracy: Interval
    balanced: Interval
    by_split: tuple[float, ...] = ()


def batch_splits(batch: np.ndarray, target: np.ndarray, most: int = MAX_BATCH_SPLITS) -> list[Split]:
    """Hold out every batch once, in groups where there are many.

    Parameters
    ----------
    batch, target
        Class of every cell, n codes. A held-out cell of a class that no batch to fit to has is left out.
    most
        Groups to make at most.

    Raises
    ------
    ValueError
        If a class would be missing on a side: a target that is the same in all cells of a batch needs two batches of
        every class, any other two classes in every group and in what is left when it is held out.

    Notes
    -----
    Batches, largest first, go to the group that has fewest cells. Where the target is constant within batches this is
    done for each class: every group has batches of all classes.
    """
    batches, cells = np.unique(batch, return_counts=True)
    held = {int(one): np.unique(target[batch == one]) for one in batches}
    constant = all(len(classes) == 1 for classes in held.values())
    if constant:
        strata = [[b for b in held if held[b][0] == one] for one in np.unique(target)]
        fewest = min(len(stratum) for stratum in strata)
        if len(strata) < 2 or fewest < 2:
            raise ValueError("it is the same in all cells of a batch, and a class of it has one batch only")
    else:
        strata, fewest = [list(held)], len(held)
    size = dict(zip(batches.tolist(), cells.tolist(), strict=True))
    group: dict[int, int] = {}
    for stratum in strata:
        # a class of its own: a batch to every group first, whatever the sizes
        filled = np.zeros((min(most, fewest), 2))
        for one in sorted(stratum, key=lambda b: (-size[b], b)):
            place = int(np.lexsort(filled.T[::-1])[0])
            group[one] = place
            filled[place] += [size[one], 1]
    of_cell = np.array([group[int(one)] for one in batch])
    splits = []
    for held_out in np.unique(of_cell):
        train = np.flatnonzero(of_cell != held_out)
        test = np.flatnonzero((of_cell == held_out) & np.isin(target, target[train]))
        if len(np.unique(target[train])) < 2 or len(np.unique(target[test])) < 2:
            raise ValueError("with a group of batches held out, fewer than two classes are left on a side")
        splits.append((train, test))
    return splits


def one_hot(batch: np.ndarray) -> np.ndarray:
    """Z: a column per batch, n x b."""
    return (batch[:, None] == np.unique(batch)).astype(np.float32)


def forest(features: np.ndarray, target: np.ndarray, splits: list[Split], *, seed: int, threads: int = 1) -> Accuracy:
    """Predict by a random forest on standardised features.

    Parameters
    ----------
    features
        n x d.
    target
        n codes.
    splits
        Cells to fit to and to predict.
    seed
        Seed and threads of the forest; the number of threads changes nothing.
    threads
        To use.
    """
    trees = Forest(TREES, seed, threads)

    def predict(train: np.ndarray, test: np.ndarray) -> np.ndarray:
        scale = (_Bins() if len(train) > MANY_CELLS else StandardScaler()).fit(features[train])
        return trees.fit_predict(scale.transform(features[train]), target[train], scale.transform(features[test]))

    return _accuracy(predict, target, splits)


class _Bins(TransformerMixin, BaseEstimator):
    """Number the bins that hold equal numbers of the cells fitted to; values that are edges have bins of their own."""

    def fit(self, features: np.ndarray, _target: np.ndarray | None = None) -> "_Bins":
        edges = np.quantile(features, np.linspace(0, 1, BINS + 1)[1:-1], axis=0, method="lower")
        self.edges_ = [np.unique(column) for column in edges.T]
        return self

    def transform(self, features: np.ndarray) -> np.ndarray:
        sides = ("left", "right")
        columns = zip(self.edges_, features.T, strict=True)
        found = [sum(np.searchsorted(edges, values, side) for side in sides) for edges, values in columns]
        return np.stack(found, axis=1).astype(np.float32)


def dummy(target: np.ndarray, splits: list[Split], *, seed: int) -> Accuracy:
    """Guess classes as often as they are among the cells to fit to."""
    # one generator for all splits: begun anew, it would guess the same for cells in the same places of each
    guess = DummyClassifier(strategy="stratified", random_state=np.random.RandomState(seed))

    def predict(train: np.ndarray, test: np.ndarray) -> np.ndarray:
        return guess.fit(target[train, None], target[train]).predict(target[test, None])

    return _accuracy(predict, target, splits)


def _accuracy(
    predict: Callable[[np.ndarray, np.ndarray], np.ndarray], target: np.ndarray, splits: list[Split]
) -> Accuracy:
    plain, balanced = [], []
    for train, test in splits:
        predicted = predict(train, test)
        plain.append(accuracy_score(target[test], predicted))
        balanced.append(balanced_accuracy(target[test], predicted))
    return Accuracy(Interval.of(plain), Interval.of(balanced), tuple(balanced))


def solves(batch_alone: Accuracy) -> bool:
    """Whether the batch alone solves the target: then no score of it is evidence of anything else."""
    return batch_alone.balanced.mean >= SOLVED


def explains(batch_alone: Accuracy, embedding: Accuracy, splits: list[Split]) -> bool:
    """Whether it is not shown that an embedding predicts more than the batch alone does.

    Parameters
    ----------
    batch_alone, embedding
        Predictions from the two.
    splits
        Those that both were made on.
    """
    gains = [a - b for a, b in zip(embedding.by_split, batch_alone.by_split, strict=True)]
    held_out = float(np.mean([len(test) / len(train) for train, test in splits]))
    return not Interval.of(gains, held_out).above


@dataclass(frozen=True)
class Question:
    """A target, and how it is held out.

    Attributes
    ----------
    cells
        Positions of the cells that have a value.
    target
        Code of each of those.
    batch
        Code of each of those.
    splits
        By what is held out, ``"cells"`` or ``"batches"``; positions among those cells.
    reasons
        Why one of the two is not there.
    """

    cells: np.ndarray
    target: np.ndarray
    batch: np.ndarray
    splits: dict[str, list[Split]]
    reasons: dict[str, str]

    @classmethod
    def of(cls, target: np.ndarray, batch: np.ndarray, fold: np.ndarray) -> "Question":
        """Ask for the `target`, n codes with -1 where it is missing; `batch` and `fold` are n codes."""
        cells = np.flatnonzero(target >= 0)
        target, batch, fold = target[cells], batch[cells], fold[cells]
        splits, reasons = {}, {}
        for held_out, split, by in (("cells", cell_splits, (fold, target)), ("batches", batch_splits, (batch, target))):
            try:
                splits[held_out] = split(*by)
            except ValueError as error:
                reasons[held_out] = str(error)
        return cls(cells, target, batch, splits, reasons)

    def without_embedding(self, *, seed: int, threads: int = 1) -> dict[str, dict[str, Accuracy]]:
        """Predict without an embedding, by what is held out: ``"batch"``, one-hot, and ``"dummy"``."""
        Z = one_hot(self.batch)
        return {
            held_out: {
                "batch": forest(Z, self.target, splits, seed=seed, threads=threads),
                "dummy": dummy(self.target, splits, seed=seed),
            }
            for held_out, splits in self.splits.items()
        }

    def with_embedding(
        self, embedding: np.ndarray, random_effects: np.ndarray | None, own: bool, *, seed: int, threads: int = 1
    ) -> dict[str, dict[str, Accuracy]]:
        """Predict from an embedding, by what is held out and by features.

        Parameters
        ----------
        embedding
            Embedding of all cells, n x d.
        random_effects
            Random effects of all cells, n x r; None where there are none.
        own
            Whether they are of the same fit: then they are tried alone, too.
        seed, threads
            As in `forest`.

        Returns
        -------
        dict
            Features are ``"embedding"``, ``"embedding + batch"``, and with random effects ``"embedding + re"`` and
            ``"re"``. For held-out batches those with the one-hot batch are left out: no column is theirs.
        """
        fixed = embedding[self.cells]
        features = {"embedding": fixed, "embedding + batch": np.hstack([fixed, one_hot(self.batch)])}
        if random_effects is not None:
            effects = random_effects[self.cells]
            features["embedding + re"] = np.hstack([fixed, effects])
            features |= {"re": effects} if own else {}
        return {
            held_out: {
                name: forest(values, self.target, splits, seed=seed, threads=threads)
                for name, values in features.items()
                if held_out == "cells" or name != "embedding + batch"
            }
            for held_out, splits in self.splits.items()
        }
