"""Whether an embedding still tells the batch, and the label without help of the batch: probes on held-out cells.

A probe is a logistic regression fitted afresh to an embedding: it owes nothing to a loss that the method was
trained with. Arrays in, numbers out; what a probe can't say is a ValueError that says why.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import recall_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from unbatch.metrics import jackknife
from unbatch.metrics.integration import Metric, Scene
from unbatch.metrics.uncertainty import widened

NEIGHBOURS = 11
"""Cells that vote on a label; odd, as two labels must not tie."""

PERMUTATIONS = 5
"""Permutations of batches within labels. Five suffice: on 10,000 cells, one differs from the next by about 0.001."""

MIN_CELLS = 10
"""Cells that a group must have to be told from others within a part of the data: two in every fold of five."""

Split = tuple[np.ndarray, np.ndarray]
"""Positions of the cells to fit to and of those to predict."""


def cell_splits(fold: np.ndarray, target: np.ndarray) -> list[Split]:
    """Hold out every fold of cells once.

    Parameters
    ----------
    fold
        Code of every cell, n.
    target
        What is predicted, n codes. A held-out cell of a class that no cell to fit to has is left out.

    Raises
    ------
    ValueError
        If no fold leaves two classes to fit to and a cell to predict.
    """
    splits = [_split(fold == held_out, target) for held_out in np.unique(fold)]
    splits = [(train, test) for train, test in splits if len(test) and len(np.unique(target[train])) > 1]
    if not splits:
        raise ValueError("no fold of obs/split leaves two classes to learn from and a cell to predict")
    return splits


def _split(held_out: np.ndarray, target: np.ndarray) -> Split:
    train = np.flatnonzero(~held_out)
    return train, np.flatnonzero(held_out & np.isin(target, target[train]))


def balanced_accuracy(true: np.ndarray, predicted: np.ndarray) -> float:
    """Mean over the true classes of the share of their cells that are predicted to be of them."""
    # scikit-learn's own warns when a class is predicted that a fold has no cell of, as rare ones will be
    return float(recall_score(true, predicted, labels=np.unique(true), average="macro", zero_division=0))


Predicted = list[tuple[np.ndarray, np.ndarray]]
"""For each fold, positions of the held-out cells and whether their class was told."""


def logistic_predictions(features: np.ndarray, target: np.ndarray, fold: np.ndarray) -> Predicted:
    """Predict held-out cells by a logistic regression.

    Parameters
    ----------
    features
        n x d; brought to mean 0 and variance 1 by the cells to fit to.
    target
        n codes.
    fold
        n codes.

    Raises
    ------
    ValueError
        If the folds leave nothing to predict.
    """
    return _predictions(
        lambda: make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)), features, target, fold
    )


def neighbour_predictions(features: np.ndarray, target: np.ndarray, fold: np.ndarray, k: int = NEIGHBOURS) -> Predicted:
    """Predict by the k nearest cells of the other folds, with distances as they are.

    Parameters and errors are those of `logistic_predictions`.
    """
    return _predictions(lambda: KNeighborsClassifier(k), features, target, fold)


def _predictions(
    classifier: Callable[[], object], features: np.ndarray, target: np.ndarray, fold: np.ndarray
) -> Predicted:
    return [
        (test, classifier().fit(features[train], target[train]).predict(features[test]) == target[test])
        for train, test in cell_splits(fold, target)
    ]


def accuracy(predicted: Predicted, target: np.ndarray) -> float:
    """Balanced accuracy, mean over folds; `target` are the n codes that were predicted."""
    return float(accuracies(predicted, target, np.zeros(len(target), dtype=np.int64), 1)[-1])


def accuracies(predicted: Predicted, target: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """Balanced accuracy, mean over folds, without the held-out cells of each group.

    The fits are not done anew: what their chance adds is made up for by `uncertainty.widened`.

    Parameters
    ----------
    predicted
        By fold.
    target
        n codes.
    group
        n codes from 0.
    groups
        Number of groups, g.

    Returns
    -------
    np.ndarray
        Without each group, and last of all cells, g + 1.
    """
    found = []
    for test, right in predicted:
        counts = _counts(test, right, target, group, groups)
        found.append(_balanced(*(jackknife.without(each, axis=1) for each in counts)))
    told = sum(len(test) for test, _ in predicted)
    held_out = np.mean([len(test) / max(told - len(test), 1) for test, _ in predicted])
    found = np.mean(found, axis=0)
    found[:-1] = widened(found[:-1], len(predicted), float(held_out))
    return found


def _counts(
    test: np.ndarray, right: np.ndarray, target: np.ndarray, group: np.ndarray, groups: int
) -> tuple[np.ndarray, np.ndarray]:
    """Count held-out cells, and those of them that were told, by class and group; c x g."""
    codes = int(target.max()) + 1
    cell = target[test] * groups + group[test]
    cells, told = (np.bincount(cell, weight, codes * groups).reshape(codes, groups) for weight in (None, right))
    return cells, told


def _balanced(cells: np.ndarray, told: np.ndarray) -> np.ndarray:
    """Mean over the classes that have cells of the share that was told; g."""
    return (told / np.maximum(cells, 1)).sum(axis=0) / np.maximum((cells > 0).sum(axis=0), 1)


def parts(group: np.ndarray, target: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the cells of each group that has two classes of `MIN_CELLS` cells or more, without its smaller classes."""
    for one in np.unique(group):
        inside = group == one
        classes, cells = np.unique(target[inside], return_counts=True)
        large = classes[cells >= MIN_CELLS]
        if len(large) > 1:
            yield np.flatnonzero(inside & np.isin(target, large))


Within = list[tuple[np.ndarray, Predicted]]
"""For each group, its cells and what was predicted of them."""


def predict_within(features: np.ndarray, target: np.ndarray, group: np.ndarray, fold: np.ndarray) -> Within:
    """Predict by `logistic_predictions` fitted within each group alone that has two classes to tell.

    A label within batches can't be told by the batch, nor a batch within labels by the mix of labels.

    Raises
    ------
    ValueError
        If no group has two classes of `MIN_CELLS` cells.
    """
    found = [
        (inside, logistic_predictions(features[inside], target[inside], fold[inside]))
        for inside in parts(group, target)
    ]
    if not found:
        raise ValueError(f"no group has two classes of {MIN_CELLS} cells or more")
    return found


def accuracies_within(predicted: Within, target: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """Compute `accuracies`, mean over the groups of `predict_within`; `target` are the codes of all cells."""
    return np.mean([accuracies(each, target[cells], group[cells], groups) for cells, each in predicted], axis=0)


def chance_within(target: np.ndarray, group: np.ndarray) -> float:
    """Balanced accuracy of a guess in `accuracy_within`; NaN where it does not apply."""
    found = [1 / len(np.unique(target[inside])) for inside in parts(group, target)]
    return float(np.mean(found)) if found else float("nan")


def permuted_within(batch: np.ndarray, label: np.ndarray, times: int, seed: int) -> np.ndarray:
    """Permute the batches of the cells of each label, n x `times`: the same mix of labels, no other batch effect."""
    rng = np.random.default_rng(seed)
    permuted = np.repeat(batch[:, None], times, axis=1)
    for one in np.unique(label):
        cells = np.flatnonzero(label == one)
        for column in range(times):
            permuted[cells, column] = batch[rng.permutation(cells)]
    return permuted


def silhouette_excess(
    embedding: np.ndarray,
    batch: np.ndarray,
    label: np.ndarray,
    seed: int,
    group: np.ndarray,
    groups: int,
    times: int = PERMUTATIONS,
) -> np.ndarray:
    """Silhouette width of batches less its mean with batches permuted within labels.

    The pooled width alone falls with the overlap of labels and the mix of labels in batches, not with the batch effect
    only: compared between methods it misleads.

    Parameters
    ----------
    embedding
        n x d.
    batch, label
        Codes 0, 1, ..., n.
    seed
        Seed of the permutations.
    group, groups
        Groups of cells that are left out in turn, n codes, and their number.
    times
        How many permutations; without a group of cells the first alone is taken, which makes the interval wider.

    Returns
    -------
    np.ndarray
        Without each group, and last of all cells, g + 1.
    """
    codings = [batch, *permuted_within(batch, label, times, seed).T]
    found = jackknife.silhouettes(embedding, codings, group, groups, grouped=2)
    own, first, *others = (sums.sum(axis=1) / cells.sum(axis=1) for sums, cells in found)
    excess = own - first
    excess[-1] = own[-1] - np.mean([first[-1], *(each[-1] for each in others)])
    return excess


def silhouette_within(
    embedding: np.ndarray, batch: np.ndarray, label: np.ndarray, group: np.ndarray, groups: int
) -> np.ndarray:
    """Silhouette width of the batches among the cells of each label, mean over labels weighted by their cells.

    Returns
    -------
    np.ndarray
        Without each group, and last of all cells, g + 1.

    Raises
    ------
    ValueError
        If no label has two batches of `MIN_CELLS` cells.
    """
    found = []
    for inside in parts(label, batch):
        code = np.unique(batch[inside], return_inverse=True)[1]
        sums, cells = jackknife.silhouettes(embedding[inside], [code], group[inside], groups)[0]
        found.append([sums.sum(axis=1), cells.sum(axis=1)])
    if not found:
        raise ValueError(f"no label has two batches of {MIN_CELLS} cells or more")
    widths, cells = np.sum(found, axis=0)
    return widths / cells


@dataclass(frozen=True, eq=False)
class Level:
    """What a score of `metrics` is read against; None where there is nothing.

    Attributes
    ----------
    chance
        Value of a guess, or without any batch effect.
    label
        Value of the labels alone, in place of an embedding: what is above it is more than composition.
    left_out
        The latter with each group of cells left out, g.
    """

    chance: float | None
    label: float | None = None
    left_out: np.ndarray | None = None


def metrics(cells: np.ndarray, fold: np.ndarray, seed: int) -> list[Metric]:
    """List the scores of this file, of a kind of their own: they enter no mean.

    Parameters
    ----------
    cells
        Positions of the cells of a scene to use.
    fold
        Fold of each of those.
    seed
        Seed of the permutations.
    """

    def of(scene: Scene, *names: str) -> list[np.ndarray]:
        return [getattr(scene, name)[cells] for name in names]

    def groups(scene: Scene) -> tuple[np.ndarray, int]:
        group, number = scene.groups
        return group[cells], number

    def pooled(name: str, predict: Callable[..., Predicted], target: str) -> Metric:
        def compute(scene: Scene) -> np.ndarray:
            features, code = of(scene, "embedding", target)
            return accuracies(predict(features, code, fold), code, *groups(scene))

        needs_label = target == "label"
        return Metric(name, "evidence", compute, needs_label, needs_batches=not needs_label)

    def within(name: str, target: str, inside: str) -> Metric:
        def compute(scene: Scene) -> np.ndarray:
            features, code, part = of(scene, "embedding", target, inside)
            return accuracies_within(predict_within(features, code, part, fold), code, *groups(scene))

        return Metric(name, "evidence", compute, needs_batches=target == "batch")

    def silhouette(name: str, of_batches: Callable[..., np.ndarray], **options: int) -> Metric:
        def compute(scene: Scene) -> np.ndarray:
            group, number = groups(scene)
            return of_batches(*of(scene, "embedding", "batch", "label"), group=group, groups=number, **options)

        return Metric(name, "evidence", compute, needs_batches=True)

    return [
        pooled("batch_probe", logistic_predictions, "batch"),
        within("batch_probe_within", "batch", "label"),
        silhouette("batch_asw_excess", silhouette_excess, seed=seed),
        silhouette("batch_asw_within", silhouette_within),
        within("label_probe_within", "label", "batch"),
        pooled("label_knn", neighbour_predictions, "label"),
    ]


def levels(
    batch: np.ndarray, label: np.ndarray | None, fold: np.ndarray, group: np.ndarray, groups: int
) -> dict[str, Level]:
    """Compute what the scores of `metrics` are read against, by name; of a single batch, nothing of batches.

    Parameters
    ----------
    batch
        n codes.
    label
        n codes; None when there are no labels.
    fold
        n codes.
    group
        n codes of the groups that are left out in turn.
    groups
        Number of groups, g.
    """
    batches = len(np.unique(batch))
    of_label = {}
    if label is not None:
        of_label = {
            "label_probe_within": Level(chance_within(label, batch)),
            "label_knn": Level(1 / len(np.unique(label))),
        }
    if batches < 2:
        return of_label
    if label is None:
        return {"batch_probe": Level(1 / batches)}
    one_hot = (label[:, None] == np.unique(label)).astype(np.float64)
    found = accuracies(logistic_predictions(one_hot, batch, fold), batch, group, groups)
    return {
        "batch_probe": Level(1 / batches, float(found[-1]), found[:-1]),
        "batch_probe_within": Level(chance_within(batch, label)),
        "batch_asw_excess": Level(0.0),
        "batch_asw_within": Level(0.0),
        **of_label,
    }
