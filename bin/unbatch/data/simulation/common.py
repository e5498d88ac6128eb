"""What the simulations share: parameters, noise, and drawing expression in blocks."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import batched
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from pydantic import Field

from unbatch.contract import Parameters

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

METAGENES = 11
"""Number of metagenes of the thesis's simulation, and the amounts that a cell has in the mean."""

# Values in a block: 32 MB as float64. The values depend on it, as every block has its own random numbers.
_BLOCK = 2**22


class Simulation(Parameters):
    """Parameters of every preset; the defaults are those of ``thesis``."""

    batches: int = Field(2, ge=1, description="batches")
    cells: int = Field(225, ge=3, description="cells in each batch")
    # with fewer than 10, metagenes that should differ in a tenth of the genes would be the same
    genes: int = Field(100, ge=10, description="genes")
    mix: Literal["same", "shifted"] = Field(
        "same", description="cell types of the batches: the same mix in all, or another one in every second batch"
    )
    noise: Literal["gaussian", "nb"] = Field(
        "gaussian",
        description="noise; gaussian: continuous values |mean + N(0, (sigma_y / genes)^2)|, a folded "
        "Gaussian as in POPARI's code; nb: negative binomial counts",
    )
    sigma_y: float = Field(
        1.0, ge=0, description="standard deviation of the noise times the number of genes (gaussian)"
    )
    depth: float = Field(1000.0, ge=1e-3, description="mean counts of a cell (nb)")
    dispersion: float = Field(
        0.1, ge=0, description="overdispersion: the variance is m + this x m^2 at mean m; 0 is Poisson (nb)"
    )


class Truth(Protocol):
    """What a preset draws before the noise; N cells."""

    parameters: Simulation
    batch: np.ndarray

    def mean(self, cells: slice) -> np.ndarray:
        """Return the expected expression of some cells, shape (cells, genes)."""


def draw_expression(truth: Truth, rng: np.random.Generator, threads: int = 1) -> Iterator["np.ndarray | csr_matrix"]:
    """Draw the expression values, some cells at a time, as memory should not grow with the data.

    Parameters
    ----------
    truth
        What the `draw_truth` of a preset returned.
    rng
        Source of all random numbers.
    threads
        Blocks that are drawn at the same time; the values do not depend on it.

    Yields
    ------
    np.ndarray or scipy.sparse.csr_matrix
        Float32 blocks of shape (cells, genes) in the order of the cells: dense for Gaussian noise, whose values are
        never 0, and CSR for counts.
    """
    from scipy.sparse import csr_matrix

    p = truth.parameters

    def draw(cells: slice, rng: np.random.Generator) -> "np.ndarray | csr_matrix":
        mean = truth.mean(cells)
        if p.noise == "gaussian":
            return np.abs(mean + rng.normal(0, p.sigma_y / p.genes, mean.shape)).astype(np.float32)
        return csr_matrix(_counts(mean, p.dispersion, rng), dtype=np.float32)

    parts = list(blocks(len(truth.batch), p.genes))
    with ThreadPoolExecutor(threads) as pool:
        for jobs in batched(zip(parts, rng.spawn(len(parts)), strict=True), threads):
            yield from pool.map(draw, *zip(*jobs, strict=True))


def blocks(cells: int, genes: int) -> Iterator[slice]:
    """Yield the cells in blocks whose expression takes little memory."""
    size = max(1, _BLOCK // genes)
    return (slice(start, start + size) for start in range(0, cells, size))


def _counts(mean: np.ndarray, dispersion: float, rng: np.random.Generator) -> np.ndarray:
    if dispersion:
        # a Poisson draw whose mean is gamma distributed is negative binomial
        mean = mean * rng.gamma(1 / dispersion, dispersion, mean.shape)
    return rng.poisson(mean)
