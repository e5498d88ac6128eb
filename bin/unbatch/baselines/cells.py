"""What every outside method is given and gives back."""

from dataclasses import dataclass, field

import numpy as np
from scipy import sparse


@dataclass(frozen=True)
class Cells:
    """The data of a fit, cells in rows.

    Attributes
    ----------
    X
        Log-normalised expression of the highly variable genes, n x g CSR float32; None for a method of counts alone.
    counts
        Raw counts of the same genes, n x g CSR.
    genes
        Names of the g genes.
    batch
        Batch of each cell as a code 0 ... b-1, n.
    label
        Label of each cell as a code, -1 where it is missing, n; None when the dataset has no labels.
    coordinates
        Positions, n x 2 or n x 3; None when the dataset has none.
    sections
        Code 0 ... s-1 of what has a coordinate system of its own, n: only cells of one section can be neighbours. A
        batch may hold several, and a section several batches; the batches if not given.
    section_names
        Names of the sections by code, for messages; None when nobody named them.
    """

    X: sparse.csr_matrix | None
    counts: sparse.csr_matrix
    genes: list[str]
    batch: np.ndarray
    label: np.ndarray | None = None
    coordinates: np.ndarray | None = None
    sections: np.ndarray | None = None
    section_names: list[str] | None = None

    def __post_init__(self) -> None:
        """Take the batches for sections where there are no others."""
        if self.sections is None:
            object.__setattr__(self, "sections", self.batch)

    @property
    def n_batches(self) -> int:
        """Number of batches."""
        return int(self.batch.max()) + 1

    def whole_counts(self) -> sparse.csr_matrix:
        """Return the counts for methods whose model is one of whole numbers.

        Values that are not whole, as of simulations with continuous noise, are brought to a mean total of 20 counts per
        gene and rounded: as they are, most of them are far below 1.
        """
        values = self.counts.data
        if not values.size or np.array_equal(values, np.rint(values)):
            return self.counts
        scaled = self.counts * (20 * len(self.genes) * len(self.batch) / self.counts.sum())
        whole = sparse.csr_matrix(scaled)
        whole.data = np.rint(whole.data)
        whole.eliminate_zeros()
        return whole


@dataclass(frozen=True)
class Fit:
    """What a method found.

    Attributes
    ----------
    embedding
        n x d; None of a method that gives a graph.
    weights
        What is needed to embed new cells, by name; empty for a method that knows only the cells it saw.
    graph
        How strongly cells are joined, n x n CSR, symmetric; None of a method that gives an embedding.
    """

    embedding: np.ndarray | None
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    graph: sparse.csr_matrix | None = None


def principal_components(X: np.ndarray | sparse.csr_matrix, n_components: int) -> Fit:
    """Principal components of centred genes, exact.

    Parameters
    ----------
    X
        n x g, dense or sparse; a sparse matrix that would take more than 1 GB stays sparse.
    n_components
        Capped at what n cells and g genes allow.

    Notes
    -----
    In float64, as the covariance of genes is a difference of large sums. The eigenvectors of a dense covariance cost
    a tenth of sparse iterations (15,769 cells x 653 genes, half of the values not 0: 0.6 s against 5.6 s of CPU
    time), which are for what does not fit. Components without variance (a matrix of lower rank) are left out: they
    would hold rounding noise.
    """
    from sklearn.decomposition import PCA

    most = min(n_components, X.shape[0] - 1, X.shape[1])
    large = sparse.issparse(X) and 8 * X.shape[0] * X.shape[1] > 1e9
    values = X.toarray() if sparse.issparse(X) and not large else X
    if large:
        most = min(most, X.shape[1] - 1)
    pca = PCA(most, svd_solver="arpack" if large else "covariance_eigh", random_state=0).fit(values.astype(np.float64))
    real = pca.explained_variance_ > 1e-10 * pca.explained_variance_[0]
    components = pca.components_[real]
    embedding = np.asarray(X @ components.T) - pca.mean_ @ components.T
    return Fit(
        embedding.astype(np.float32),
        {"mean": pca.mean_.astype(np.float32), "components": components.astype(np.float32)},
    )
