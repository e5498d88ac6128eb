"""Sums and checks on CSR counts, some values at a time: temporary arrays as long as the data would double memory."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

_BLOCK = 2**22


def _blocks(values: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, len(values), _BLOCK):
        yield start, values[start : start + _BLOCK]


def first_wrong(counts: "csr_matrix", continuous: bool = False) -> tuple[int, str] | None:
    """Find a value that no count can have.

    Parameters
    ----------
    counts
        Any real numbers.
    continuous
        Let numbers pass that are not whole.

    Returns
    -------
    tuple of int and str, or None
        The position of the first one in ``counts.data`` and what it is, or None if there is no such value. Values that
        are not finite are looked for first, then negative ones, then those that are not whole.
    """
    for kind, is_wrong in (
        ("NaN or infinite", lambda values: ~np.isfinite(values)),
        ("negative", lambda values: values < 0),
        ("not whole", _has_fraction),
    ):
        if continuous and is_wrong is _has_fraction:
            continue
        for start, values in _blocks(counts.data):
            wrong = np.flatnonzero(is_wrong(values))
            if len(wrong):
                return start + int(wrong[0]), kind
    return None


def _has_fraction(values: np.ndarray) -> np.ndarray:
    return values != np.rint(values)


def are_whole(counts: "csr_matrix") -> bool:
    """Tell if all values are whole numbers."""
    return not any(_has_fraction(values).any() for _, values in _blocks(counts.data))


def totals(counts: "csr_matrix") -> np.ndarray:
    """Total of each cell as float64, shape (cells,); scipy's sum would make a float64 copy of all values."""
    result = np.zeros(counts.shape[0])
    filled = np.diff(counts.indptr) > 0
    if filled.any():
        result[filled] = np.add.reduceat(counts.data, counts.indptr[:-1][filled], dtype=np.float64)
    return result


def cells_per_gene(counts: "csr_matrix") -> np.ndarray:
    """Count the cells in which each gene is found, shape (genes,), where `counts` stores no zeros."""
    result = np.zeros(counts.shape[1], dtype=np.int64)
    for _, genes in _blocks(counts.indices):
        result += np.bincount(genes, minlength=len(result))
    return result


def genes_per_cell(counts: "csr_matrix") -> np.ndarray:
    """Count the genes that are found in each cell, shape (cells,), where `counts` stores no zeros."""
    return np.diff(counts.indptr)


def subset(counts: "csr_matrix", cells: np.ndarray, genes: np.ndarray) -> "csr_matrix":
    """Keep cells and genes, given as truth values, without a copy where all are kept."""
    if not cells.all():
        counts = counts[cells]
    return counts if genes.all() else counts[:, genes]


def log_normalise(counts: "csr_matrix", size_factor: np.ndarray) -> "csr_matrix":
    """Divide by the size factor of each cell and take log(1 + x).

    Parameters
    ----------
    counts
        Shape (cells, genes), float32.
    size_factor
        Above 0, shape (cells,).

    Returns
    -------
    scipy.sparse.csr_matrix
        Float32, with the index arrays of `counts`, not copies of them.
    """
    from scipy.sparse import csr_matrix
    from sklearn.utils.sparsefuncs import inplace_csr_row_scale

    result = csr_matrix((counts.data.copy(), counts.indices, counts.indptr), shape=counts.shape)
    inplace_csr_row_scale(result, (1 / size_factor).astype(np.float32))
    np.log1p(result.data, out=result.data)
    return result


def logarithm(values: "csr_matrix", rows: int = 200) -> str | None:
    """Tell whether values are logarithms of counts, which may have been divided by the sizes of the cells before.

    Parameters
    ----------
    values
        Non-negative, shape (cells, genes), without stored zeros.
    rows
        Cells that are looked at, spread over all.

    Returns
    -------
    str or None
        How they were made, such as ``"log1p"``; None for counts, and for values that have no trace of a logarithm.

    Notes
    -----
    With b the base, ``b ** value - 1`` is ``count / size``: in a cell these are whole multiples of one number. Values
    that were divided only are such multiples themselves. For all genes together, ``b ** value - 1``
    sums to the same number in every cell, where sizes are their totals; that shows in counts too high for the first
    test. Logarithms of values that were continuous before show in neither.
    """
    if are_whole(values) or not values.nnz or values.data.max() > _LARGEST_LOGARITHM:
        return None
    chosen = np.unique(np.linspace(0, values.shape[0] - 1, rows).astype(int))
    cells = [values.data[values.indptr[i] : values.indptr[i + 1]].astype(np.float64) for i in chosen]
    cells = [cell[cell > 0] for cell in cells]
    for name, base in _LOGARITHMS.items():
        votes = [_is_lattice(np.power(base, cell) - 1, cell) for cell in cells if len(np.unique(cell)) > 1]
        if len(votes) >= 5 and np.mean(votes) > 0.5:
            return name
        sums = np.array([((np.power(base, cell) - 1).sum(), cell.sum()) for cell in cells if len(cell)])
        if len(sums) >= 5:
            same, plain = np.ptp(sums, axis=0) / sums.mean(axis=0)
            # small shares sum to 1 either way
            if same < 1e-3 and plain > 0.02:
                return name
    return None


_LOGARITHMS = {"log1p": np.e, "log2(1 + x)": 2.0, "log10(1 + x)": 10.0}
_LARGEST_LOGARITHM = 30.0
"""No logarithm of a count is larger."""


def _is_lattice(found: np.ndarray, plain: np.ndarray) -> bool:
    """Whether values of a cell are whole multiples of one number and, as they stood (`plain`), are not."""

    def fits(values: np.ndarray) -> np.ndarray:
        multiples = least[:, None] * (values / values[0])
        return (np.abs(multiples - np.round(multiples)) < 0.02 + 1e-5 * multiples).mean(axis=1) > 0.95

    found, plain = np.unique(found), np.unique(plain)
    # the least count of a cell: of few values, a large one would fit anything
    least = np.arange(1, 31 if len(found) > 5 else 3)
    least = np.append(least, max(1, np.round(found[0])))
    return bool((fits(found) & ~fits(plain)).any())
