"""Genomaps: expression of a cell as an image in which genes that vary together lie on one ring.

After Islam & Xing, Nature Communications 14, 679 (2023), as scMEDAL uses it: genes lie on a grid such that distances
between genes, 1 - Pearson correlation, agree with distances between pixels, by Gromov-Wasserstein optimal transport.
The transport is POT's.

Every pixel holds one gene, and images are expression values in another order: nothing is lost, added or blended.
One transform is fitted to a stack of values (input, reconstructions, projections) and applied to all of it; thus the
same pixel is the same gene throughout. Distances between pixels are those of their radii, and their logarithm is taken:
what counts by far is which genes share a ring. Which ring that is says little, and the angle nothing.
"""

import os
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Genomap:
    """Where each gene is in the image.

    Attributes
    ----------
    side
        Rows and columns of the image: the smallest square that holds all G genes.
    pixel
        Pixel of each gene, counted by rows, shape (G,). The pixels farthest from the centre stay empty where G is not a
        square number.
    """

    side: int
    pixel: np.ndarray

    def images(self, values: np.ndarray, empty: float = np.nan) -> np.ndarray:
        """Make images of expression values.

        Parameters
        ----------
        values
            Expression, shape (..., G).
        empty
            What pixels without a gene hold.

        Returns
        -------
        np.ndarray
            Shape (..., side, side).

        Raises
        ------
        ValueError
            If there is another number of genes.
        """
        values = np.asarray(values)
        if values.shape[-1] != len(self.pixel):
            raise ValueError(
                f"values of {values.shape[-1]} genes were given, expected the {len(self.pixel)} of the map"
            )
        images = np.full((*values.shape[:-1], self.side**2), empty, dtype=np.result_type(values, np.float32))
        images[..., self.pixel] = values
        return images.reshape(*values.shape[:-1], self.side, self.side)

    def values(self, images: np.ndarray) -> np.ndarray:
        """Turn images, (..., side, side), back into expression values, (..., G)."""
        return np.asarray(images).reshape(*images.shape[:-2], -1)[..., self.pixel]

    def places(self, genes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows and columns of some genes, given by their indices."""
        return np.divmod(self.pixel[genes], self.side)


def standardise(stack: np.ndarray) -> np.ndarray:
    """Bring every gene to mean 0 and standard deviation 1 (of n - 1) over a whole stack; constant genes to 0.

    Parameters
    ----------
    stack
        Shape (..., G): all that will be drawn, as one colour means one value throughout.
    """
    stack = np.asarray(stack, dtype=np.float64)
    rows = stack.reshape(-1, stack.shape[-1])
    spread = rows.std(axis=0, ddof=1)
    varies = spread > 1e-9 * np.abs(rows).max(axis=0)
    return np.where(varies, (stack - rows.mean(axis=0)) / np.where(varies, spread, 1), 0.0)


def fit_genomap(stack: np.ndarray, max_rounds: int = 200) -> Genomap:
    """Find the place of each gene.

    Minimises the Gromov-Wasserstein discrepancy with Kullback-Leibler loss and uniform weights (Peyré, Cuturi &
    Solomon, ICML 2016) between genes and pixels, from a start where all genes are everywhere. Correlations are positive
    semidefinite, and so is minus the logarithm of the distances between radii, but for a constant. So the objective is
    concave, and its local minimum, which is found, gives every gene a pixel of its own.

    Parameters
    ----------
    stack
        Expression, (..., G), three genes or more; scaling of a gene does not matter.
    max_rounds
        Most rounds of the conditional gradient; each takes an assignment of G genes to G pixels.

    Raises
    ------
    ValueError
        If there are fewer than two rows or three genes, or a value is not finite.
    """
    # POT imports every library of arrays that is installed; numpy is all that is used
    for library in ("PYTORCH", "JAX", "CUPY", "TENSORFLOW"):
        os.environ.setdefault(f"POT_BACKEND_DISABLE_{library}", "1")
    import ot
    from scipy.optimize import linear_sum_assignment

    stack = np.asarray(stack)
    rows = stack.reshape(-1, stack.shape[-1])
    if len(rows) < 2 or rows.shape[1] < 3:
        raise ValueError(f"a stack of {len(rows)} rows x {rows.shape[1]} genes was given, expected 2 x 3 or more")
    if not np.isfinite(rows).all():
        raise ValueError("the stack holds NaN or infinite values, expected finite numbers")
    side, pixels, radius = _grid(rows.shape[1])
    even = np.full(len(pixels), 1 / len(pixels))
    plan = ot.gromov.gromov_wasserstein(
        gene_distances(rows),
        np.abs(radius[:, None] - radius),
        even,
        even,
        loss_fun="kl_loss",
        max_iter=max_rounds,
        tol_rel=1e-9,
    )
    # a permutation but for rounding
    return Genomap(side, pixels[linear_sum_assignment(-plan)[1]])


def gene_distances(rows: np.ndarray) -> np.ndarray:
    """1 - Pearson correlation of the columns, G x G; a constant column correlates with no other."""
    scaled = standardise(rows)
    correlation = scaled.T @ scaled / (len(scaled) - 1)
    np.fill_diagonal(correlation, 1)
    return 1 - np.clip(correlation, -1, 1)


def top_genes(projections: np.ndarray, number: int = 10) -> np.ndarray:
    """Choose the genes that a batch changes most: largest mean over cells of the standard deviation over batches.

    Parameters
    ----------
    projections
        The same cells as if from each of the batches, batches x cells x G.
    number
        How many.

    Returns
    -------
    np.ndarray
        Indices, the most changed first.
    """
    spread = np.asarray(projections, dtype=np.float64).std(axis=0, ddof=1).mean(axis=0)
    return np.argsort(-spread, kind="stable")[:number]


def _grid(genes: int) -> tuple[int, np.ndarray, np.ndarray]:
    """Return the side, the `genes` pixels nearest to the centre, and their distances from it."""
    side = int(np.ceil(np.sqrt(genes)))
    row, column = np.divmod(np.arange(side**2), side)
    # four times the squared radius is a whole number, by which equal radii are known as equal
    square = (2 * row - side + 1) ** 2 + (2 * column - side + 1) ** 2
    pixels = np.sort(np.argsort(square, kind="stable")[:genes])
    return side, pixels, np.sqrt(square[pixels]) / 2
