"""Which pairs of spots the distances are of: all of a section, or those of a mask."""

import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree

from unbatch.metrics.spatial import adjacency, nearest
from unbatch.nn.pairs import Edges, Groups

MOST = 200
"""Mean number of neighbours beyond which a radius is refused."""


def all_pairs(
    positions: np.ndarray, section: np.ndarray, k: int, label: np.ndarray | None = None, *, by_all: bool = False
) -> Groups:
    """Take all pairs of a section, or those of its spots that have one label.

    Parameters
    ----------
    positions
        n x p.
    section
        Codes, n.
    k
        Nearest spots that partners are drawn from; 0 for none.
    label
        Codes, n; -1 for a spot without a label, which then has no pair. None for all pairs.
    by_all
        Whether the sum over pairs of one label is divided by the number of all pairs (`normalise` ``"n2"``).

    Raises
    ------
    ValueError
        If no two spots of a section have one label.
    """
    group = section if label is None else _joined(section, label)
    # codes without a spot have no count
    fewest = min(k, int(np.unique(group, return_counts=True)[1].min()) - 1)
    near = nearest(positions, fewest, group) if fewest > 0 and label is None else None
    if label is not None and np.unique(group, return_counts=True)[1].max() < 2:
        raise ValueError("the mask is empty: no two spots of a section have one label, expected labels of several")
    total = float((np.bincount(section).astype(float) ** 2).sum()) if by_all else None
    return Groups.of(group, near, total)


def _joined(section: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Codes of section and label together; a spot without a label is a group of its own."""
    code = section.astype(np.int64) * (int(label.max(initial=0)) + 2) + label + 1
    none = label < 0
    code[none] = code.max(initial=0) + 1 + np.arange(none.sum())
    return np.unique(code, return_inverse=True)[1]


def knn(positions: np.ndarray, section: np.ndarray, k: int) -> sparse.csr_array:
    """Mask of the k nearest spots of each spot in its section, n x n."""
    return adjacency(nearest(positions, k, section, fewer=True))


def within(positions: np.ndarray, section: np.ndarray, radius: float) -> sparse.csr_array:
    """Mask of all pairs of a section that are at most `radius` apart, n x n, both ways.

    Raises
    ------
    ValueError
        If a spot has more than 200 neighbours in the mean.
    """
    pairs = []
    for code in np.unique(section):
        mine = np.flatnonzero(section == code)
        tree = cKDTree(positions[mine])
        mean = tree.count_neighbors(tree, radius) / len(mine) - 1
        if mean > MOST:
            raise ValueError(
                f"within the radius of {radius:g} a spot has {mean:.0f} neighbours in the mean, expected at most {MOST}"
            )
        pairs.append(mine[tree.query_pairs(radius, output_type="ndarray").reshape(-1, 2)])
    both = np.concatenate(pairs)
    both = np.concatenate([both, both[:, ::-1]])
    return sparse.csr_array((np.ones(len(both)), (both[:, 0], both[:, 1])), (len(positions),) * 2)


def listed(mask: sparse.csr_array, section: np.ndarray, *, by_all: bool = False) -> Edges:
    """Take the pairs of a mask.

    Parameters
    ----------
    mask
        n x n; pairs are those that are not 0.
    section
        Codes, n.
    by_all
        Whether the sum over them is divided by the number of all pairs of the sections, as published, which makes the
        term weak where the mask is sparse; else by their number.

    Raises
    ------
    ValueError
        If there is no pair, a spot is its own partner, or the two are of different sections.
    """
    entries = sparse.coo_array(mask)
    entries.eliminate_zeros()
    if entries.shape != (len(section),) * 2:
        raise ValueError(
            f"the mask has shape {entries.shape}, expected a row and a column for each of {len(section)} spots"
        )
    if not entries.nnz:
        raise ValueError("the mask is empty, expected pairs of spots")
    source, target = entries.coords
    if own := int((source == target).sum()):
        raise ValueError(f"the mask joins {own} spots with themselves, expected pairs of different spots")
    if apart := int((section[source] != section[target]).sum()):
        raise ValueError(f"the mask joins {apart} pairs of different sections, whose positions cannot be compared")
    total = float((np.bincount(section).astype(float) ** 2).sum()) if by_all else None
    return Edges.of(entries, total)
