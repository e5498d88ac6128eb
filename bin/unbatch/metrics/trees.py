"""A random forest that is grown from scikit-learn's trees without what its estimators repeat for every tree.

On a few hundred cells, RandomForestClassifier spends more time on checks and copies of estimators than on splits, and a
comparison of methods grows thousands of trees. Classes that are predicted are the same, and those of its estimators are
used where the parts of scikit-learn are not those that are known here.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from sklearn.ensemble import RandomForestClassifier

Grow = Callable[[np.ndarray, np.ndarray, int, int], Callable[[np.ndarray], np.ndarray]]
"""Features (float32), classes as numbers from 0 (a column), how many, seed: to a function that predicts shares."""


class Forest:
    """A classifier with the defaults of RandomForestClassifier; one tree after another, or in threads.

    Parameters
    ----------
    trees
        How many.
    seed
        Seed of all random numbers.
    threads
        To use; they change nothing.
    """

    def __init__(self, trees: int, seed: int, threads: int = 1) -> None:
        self.trees, self.seed, self.threads = trees, seed, threads

    def fit_predict(self, features: np.ndarray, target: np.ndarray, held_out: np.ndarray) -> np.ndarray:
        """Fit to some cells and predict others.

        Parameters
        ----------
        features, target
            n x d finite numbers, and n codes.
        held_out
            m x d.

        Returns
        -------
        np.ndarray
            m codes.
        """
        grow = _parts()
        if grow is None:
            forest = RandomForestClassifier(self.trees, n_jobs=self.threads, random_state=self.seed)
            return forest.fit(features, target).predict(held_out)
        features, held_out = (np.ascontiguousarray(each, dtype=np.float32) for each in (features, held_out))
        classes, codes = np.unique(target, return_inverse=True)
        column = codes.astype(np.float64)[:, None]
        rng = np.random.RandomState(self.seed)
        seeds = [rng.randint(np.iinfo(np.int32).max) for _ in range(self.trees)]

        def shares(seed: int) -> np.ndarray:
            return grow(features, column, len(classes), seed)(held_out)

        # summed in the order of the trees, whichever ends first
        if self.threads > 1:
            with ThreadPoolExecutor(self.threads) as pool:
                total = sum(pool.map(shares, seeds))
        else:
            total = sum(map(shares, seeds))
        return classes[np.argmax(total, axis=1)]


def _parts() -> Grow | None:
    """Return what grows a tree, or None where scikit-learn's parts take other arguments."""
    try:
        from sklearn.tree._criterion import Gini
        from sklearn.tree._splitter import BestSplitter
        from sklearn.tree._tree import DepthFirstTreeBuilder, Tree
    except ImportError:
        return None
    deepest = np.iinfo(np.int32).max

    def grow(features: np.ndarray, target: np.ndarray, classes: int, seed: int) -> Callable[[np.ndarray], np.ndarray]:
        cells, columns = features.shape
        drawn = np.random.RandomState(seed).randint(0, cells, cells)
        weight = np.bincount(drawn, minlength=cells).astype(np.float64)
        counts = np.array([classes], dtype=np.intp)
        tree = Tree(columns, counts, 1)
        rng = np.random.RandomState(seed)
        splitter = BestSplitter(Gini(1, counts), max(1, int(np.sqrt(columns))), 1, 0.0, rng, None)
        DepthFirstTreeBuilder(splitter, 2, 1, 0.0, deepest, 0.0).build(tree, features, target, weight, None)
        return tree.predict

    try:
        shares = grow(np.array([[0], [1]], dtype=np.float32), np.array([[0.0], [1.0]]), 2, 0)(
            np.zeros((1, 1), np.float32)
        )
    except (TypeError, ValueError):
        return None
    return grow if shares.shape == (1, 2) else None
