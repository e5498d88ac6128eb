"""The cells of a dataset as methods take them: codes for names, highly variable genes, matrices read when asked for."""

import copy
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from unbatch.errors import InputError

if TYPE_CHECKING:
    import h5py
    import pandas as pd
    from anndata import AnnData
    from scipy import sparse


log = logging.getLogger("unbatch")

ROWS = 4096
"""Cells whose counts are read at once where all are read one after another."""


class Source(Protocol):
    """Where the matrices of a dataset are, all genes of it.

    Attributes
    ----------
    genes
        Names of all genes.
    n_stored
        Values of the expression that are stored.
    """

    genes: list[str]
    n_stored: int

    def expression(self) -> "sparse.csr_matrix":
        """Read the log-normalised expression, cells x genes."""

    def counts(self) -> "sparse.csr_matrix":
        """Read the raw counts, cells x genes."""

    def rows(self, start: int, stop: int) -> "sparse.csr_matrix | np.ndarray":
        """Read the expression of the cells from one position up to another."""

    def count_rows(self, start: int, stop: int) -> "sparse.csr_matrix":
        """Read the raw counts of the cells from one position up to another."""


class Cells:
    """The data of a fit, cells in rows.

    Parameters
    ----------
    X
        Log-normalised expression of the g genes, n x g CSR float32; None to read it from `source` when it is used.
    counts
        Raw counts of the same genes, n x g CSR; None to read them from `source` when they are used.
    genes
        Names of the g genes: the highly variable ones of a dataset, or those of a model that is applied.
    batch
        Batch of each cell as a code 0 ... b-1, n.
    label
        Label of each cell as a code, -1 where it is missing, n; None when the dataset has no labels.
    coordinates
        Positions, n x 2 or n x 3; None when the dataset has none.
    section
        Section of each cell as a code, n: what has a coordinate system of its own; only its cells can be
        neighbours. A batch may hold several, and a section several batches; by default the batch.
    batches, labels, sections
        Names by code; by default numbers.
    fold
        Fold of each cell, 0 to 4, n.
    obs
        All columns of the cells, with their names as index.
    var
        All columns of all genes of `source`, with their names as index.
    name
        Where the cells are from, for messages.
    source
        Where matrices are read from.
    """

    def __init__(
        self,
        X: "sparse.csr_matrix | None",
        counts: "sparse.csr_matrix | None",
        genes: list[str],
        batch: np.ndarray,
        *,
        label: np.ndarray | None = None,
        coordinates: np.ndarray | None = None,
        section: np.ndarray | None = None,
        batches: list[str] | None = None,
        labels: list[str] | None = None,
        sections: list[str] | None = None,
        fold: np.ndarray | None = None,
        obs: "pd.DataFrame | None" = None,
        var: "pd.DataFrame | None" = None,
        name: str = "cells",
        source: Source | None = None,
    ) -> None:
        self.genes, self.batch, self.label, self.coordinates = genes, batch, label, coordinates
        self.section = batch if section is None else section
        self.batches = _names(batch) if batches is None else batches
        self.labels = _names(label) if labels is None else labels
        self.sections = (self.batches if section is None else _names(section)) if sections is None else sections
        self.fold, self.obs, self.var, self.name, self.source = fold, obs, var, name, source
        # what was not given is read by the properties below
        if X is not None:
            self.X = X
        if counts is not None:
            self.counts = counts

    def __len__(self) -> int:
        return len(self.batch)

    @property
    def n_batches(self) -> int:
        """Number of batches."""
        return int(self.batch.max()) + 1

    @cached_property
    def X(self) -> "sparse.csr_matrix":  # noqa: N802
        """Log-normalised expression of `genes`, n x g CSR float32."""
        return self._required().expression()[:, self.columns]

    @cached_property
    def counts(self) -> "sparse.csr_matrix":
        """Raw counts of `genes`, n x g CSR."""
        return self.all_counts[:, self.columns]

    @cached_property
    def all_counts(self) -> "sparse.csr_matrix":
        """Raw counts of all genes of the source; those of `genes` where there is none."""
        return self.counts if self.source is None else self.source.counts()

    @cached_property
    def columns(self) -> np.ndarray:
        """Positions of `genes` among all genes of the source, g."""
        place = {gene: number for number, gene in enumerate(self._required().genes)}
        return np.array([place[gene] for gene in self.genes])

    def of_model(self, genes: list[str], folder: Path, *, partial: bool = False) -> "Cells":
        """Return the same cells with the genes of a model, in its order; with `partial`, with those that are there.

        Raises
        ------
        InputError
            If the dataset lacks some of them, or with `partial` all.
        """
        known = set(self._required().genes)
        absent = [gene for gene in genes if gene not in known]
        if absent and not (partial and len(absent) < len(genes)):
            raise InputError(
                f"{self.name}: var_names lack {len(absent)} of the {len(genes)} genes of the model in {folder}, the "
                f"first is {absent[0]}; expected all of them"
            )
        return self.but(genes=[gene for gene in genes if gene in known])

    def but(self, **changes: Any) -> "Cells":
        """Return the same cells with other values of some attributes; of other genes, matrices are read anew."""
        other = copy.copy(self)
        for name in ("X", "counts", "columns") if "genes" in changes else ():
            other.__dict__.pop(name, None)
        other.__dict__ |= changes
        return other

    def whole_counts(self) -> "sparse.csr_matrix":
        """Return the counts for methods whose model is one of whole numbers.

        Values that are not whole, as of simulations with continuous noise, are brought to a mean total of 20 counts per
        gene and rounded: as they are, most of them are far below 1.
        """
        scale = self._scale_to_whole([self.counts])
        return self.counts if scale is None else _rounded(self.counts, scale)

    def whole_count_rows(self) -> "Callable[[int, int], sparse.csr_matrix]":
        """Return what reads the counts of the cells from one position up to another, as in `whole_counts`.

        All counts are read once, some cells at a time, to know whether they are whole.
        """
        source, cells = self._required(), len(self)

        def read(start: int, stop: int) -> "sparse.csr_matrix":
            return source.count_rows(start, stop)[:, self.columns]

        scale = self._scale_to_whole(read(start, min(start + ROWS, cells)) for start in range(0, cells, ROWS))
        return read if scale is None else lambda start, stop: _rounded(read(start, stop), scale)

    def streams(self, in_memory: str, device: str = "cpu") -> bool:
        """Tell whether matrices are to be read from the file some cells at a time, by a parameter `contract.InMemory`.

        Parameters
        ----------
        in_memory
            ``"yes"``, ``"no"``, or ``"auto"``: streamed where values take too large a share of the memory.
        device
            Where the method works.
        """
        from unbatch.data import expression

        if self.source is None or in_memory == "yes":
            return False
        if in_memory == "auto" and not expression.is_large(self.source.n_stored, device):
            return False
        if isinstance(self.source, _File):
            log.info("%s: the matrix is read from the file, some cells at a time", self.name)
        return True

    def _scale_to_whole(self, blocks: "Iterable[sparse.csr_matrix]") -> float | None:
        """Give what counts are multiplied by before they are rounded; None where they are whole. Warn of it."""
        whole, total = True, 0.0
        for block in blocks:
            whole = whole and np.array_equal(block.data, np.rint(block.data))
            total += block.sum()
        if whole:
            return None
        text = "%s: layers/counts are not whole numbers; they are scaled and rounded for the model"
        log.warning(text, self.name, extra={"code": "counts-scaled"})
        return 20 * len(self.genes) * len(self.batch) / total

    def _required(self) -> Source:
        if self.source is None:
            raise InputError(f"{self.name}: these cells have neither such a matrix nor a file to read it from")
        return self.source


def _rounded(counts: "sparse.csr_matrix", scale: float) -> "sparse.csr_matrix":
    whole = (counts * scale).tocsr()
    whole.data = np.rint(whole.data)
    whole.eliminate_zeros()
    return whole


def _names(codes: np.ndarray | None) -> list[str]:
    return [] if codes is None else [str(code) for code in range(int(codes.max(initial=-1)) + 1)]


@dataclass(frozen=True)
class _File:
    """A dataset in a file, of which only what is asked for is read."""

    path: Path
    genes: list[str]
    cells: int

    @property
    def n_stored(self) -> int:
        from unbatch.data import io

        with io.open_hdf5(self.path) as file:
            return file["X/data"].size if "X/data" in file else file["X"].size

    def expression(self) -> "sparse.csr_matrix":
        return self._read("X").X

    def counts(self) -> "sparse.csr_matrix":
        return self._read("layers/counts").layers["counts"]

    def rows(self, start: int, stop: int) -> "sparse.csr_matrix | np.ndarray":
        return self._stored("X")[start:stop]

    def count_rows(self, start: int, stop: int) -> "sparse.csr_matrix":
        from unbatch.data import schema

        rows = self._stored("layers/counts")[start:stop]
        schema.validate_rows(rows, "layers/counts", self.path)
        return rows

    @cached_property
    def _opened(self) -> "h5py.File":
        import h5py

        return h5py.File(self.path, "r")

    @cached_property
    def _matrices(self) -> dict[str, Any]:
        return {}

    def _stored(self, name: str) -> Any:
        """Open a matrix to read rows of, which must have a row for each cell and a column for each gene."""
        import h5py
        from anndata.io import sparse_dataset

        if name not in self._matrices:
            if name not in self._opened:
                raise InputError(f"{self.path}: {name} is missing; a dataset file of unbatch was expected")
            found = self._opened[name]
            matrix = sparse_dataset(found) if isinstance(found, h5py.Group) else found
            if tuple(matrix.shape) != (self.cells, len(self.genes)):
                rows, columns = matrix.shape
                raise InputError(
                    f"{self.path}: {name} is {rows} x {columns}, expected {self.cells} x {len(self.genes)}: a row for "
                    "each cell of obs and a column for each gene of var"
                )
            self._matrices[name] = matrix
        return self._matrices[name]

    def _read(self, slot: str) -> "AnnData":
        """Read one matrix, checked against the contract."""
        from unbatch.data import io, schema

        adata = io.read_h5ad(self.path, [slot, "uns/unbatch"])
        schema.validate(adata, "dataset", self.path, unread={"X", "layers/counts"} - {slot})
        return adata


@dataclass(frozen=True)
class _Memory:
    """A dataset in memory."""

    adata: "AnnData"

    @property
    def genes(self) -> list[str]:
        return self.adata.var_names.tolist()

    @property
    def n_stored(self) -> int:
        return self.adata.X.data.size if hasattr(self.adata.X, "indptr") else self.adata.X.size

    def expression(self) -> "sparse.csr_matrix":
        return self.adata.X

    def counts(self) -> "sparse.csr_matrix":
        return self.adata.layers["counts"]

    def rows(self, start: int, stop: int) -> "sparse.csr_matrix":
        return self.adata.X[start:stop]

    def count_rows(self, start: int, stop: int) -> "sparse.csr_matrix":
        return self.adata.layers["counts"][start:stop]


def read_cells(path: Path) -> Cells:
    """Read the cells of a dataset; matrices stay in the file until they are used.

    Raises
    ------
    InputError
        If the dataset breaks the contract.
    """
    from unbatch.data import io, schema

    adata = io.read_h5ad(path, ["obsm/spatial", "uns/unbatch"])
    schema.validate(adata, "dataset", path, unread=("X", "layers/counts"))
    return _cells(adata, str(path), _File(path, adata.var_names.tolist(), adata.n_obs))


def cells_of(adata: "AnnData", name: str = "adata") -> Cells:
    """Take the cells of a dataset in memory, as `preprocess` makes it.

    Raises
    ------
    InputError
        If the dataset breaks the contract.
    """
    from unbatch.data import schema

    schema.validate(adata, "dataset", name)
    return _cells(adata, name, _Memory(adata))


def _cells(adata: "AnnData", name: str, source: Source) -> Cells:
    variable = adata.var["highly_variable"].to_numpy()
    if not variable.any():
        raise InputError(f"{name}: var/highly_variable marks no gene; run preprocess with a larger --n-top-genes")
    batch, label = adata.obs["batch"].cat.remove_unused_categories(), adata.obs.get("label")
    label = None if label is None else label.cat.remove_unused_categories()
    # datasets that were written before sections were known have none
    section = adata.obs.get("section", batch).cat.remove_unused_categories()
    return Cells(
        None,
        None,
        adata.var_names[variable].tolist(),
        batch.cat.codes.to_numpy().astype(np.int64),
        label=None if label is None else label.cat.codes.to_numpy().astype(np.int64),
        coordinates=adata.obsm.get("spatial"),
        section=section.cat.codes.to_numpy().astype(np.int64),
        batches=[str(each) for each in batch.cat.categories],
        sections=[str(each) for each in section.cat.categories],
        labels=None if label is None else [str(each) for each in label.cat.categories],
        fold=np.asarray(adata.obs["split"]).astype(np.int64),
        obs=adata.obs,
        var=adata.var,
        name=name,
        source=source,
    )


@dataclass(frozen=True)
class Components:
    """Principal components of cells (n x d), and what embeds others: ``mean`` of genes (g), ``components`` (d x g)."""

    embedding: np.ndarray
    weights: dict[str, np.ndarray]


def principal_components(X: "np.ndarray | sparse.csr_matrix", n_components: int) -> Components:
    """Principal components of centred genes, exact.

    Parameters
    ----------
    X
        n x g, dense or sparse; a sparse matrix that would take more than 1 GB stays sparse.
    n_components
        At most; fewer, with a warning, where n cells and g genes have no more.

    Notes
    -----
    In float64, as the covariance of genes is a difference of large sums. The eigenvectors of a dense covariance cost
    a tenth of sparse iterations (docs/decisions/0011-exact-searches-in-scores.md), which are for what does not fit.
    Components without variance (a matrix of lower rank) are left out: they would hold rounding noise.
    """
    from scipy import sparse
    from sklearn.decomposition import PCA

    most = min(n_components, X.shape[0] - 1, X.shape[1])
    if most < n_components:
        log.warning("%d of %d components: %d cells x %d genes have no more", most, n_components, *X.shape)
    large = sparse.issparse(X) and 8 * X.shape[0] * X.shape[1] > 1e9
    values = X.toarray() if sparse.issparse(X) and not large else X
    if large:
        most = min(most, X.shape[1] - 1)
    pca = PCA(most, svd_solver="arpack" if large else "covariance_eigh", random_state=0).fit(values.astype(np.float64))
    real = pca.explained_variance_ > 1e-10 * pca.explained_variance_[0]
    components = pca.components_[real]
    embedding = np.asarray(X @ components.T) - pca.mean_ @ components.T
    return Components(
        embedding.astype(np.float32),
        {"mean": pca.mean_.astype(np.float32), "components": components.astype(np.float32)},
    )


def project(weights: dict[str, np.ndarray], X: "sparse.csr_matrix") -> np.ndarray:
    """Embed cells by saved ``components`` (d x g) after the ``mean`` of genes (g) is subtracted; n x d float32."""
    return (np.asarray(X @ weights["components"].T) - weights["mean"] @ weights["components"].T).astype(np.float32)
