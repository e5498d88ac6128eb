"""Spatial affinities of metagenes: POPARI's hidden Markov random field on the simplex, by pseudo-likelihood."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from unbatch.models.popari.graph import adjacency
from unbatch.models.popari.simplex import log_partition

RIDGE = 1e-3
"""Weight of the squared affinities, against the mean over cells of the negative log pseudo-likelihood."""

MAX_CELLS = 20_000
"""Cells of a batch (or of all, if shared) whose conditional densities are used; more are sampled."""

MAX_PULL = 500.0
"""Bound of an affinity times the largest number of neighbours: the series of the partition function, whose length grows
with the differences that neighbours make, stays short. Sections of tissue have about a fifth of it."""

_EVALUATIONS = 200
_SMALL_GAIN = 1e-8
"""Relative change of the objective at which the minimisation ends."""


@dataclass(frozen=True)
class Permuted:
    """Affinities of cells that were permuted within their batch.

    Attributes
    ----------
    mean, sd
        Over the permutations, shape (L, K, K).
    """

    mean: torch.Tensor
    sd: torch.Tensor


def affinities(
    z: torch.Tensor,
    source: torch.Tensor,
    target: torch.Tensor,
    batch: torch.Tensor,
    *,
    shared: bool = False,
    start: torch.Tensor | None = None,
    most: int = MAX_CELLS,
    seed: int = 0,
) -> torch.Tensor:
    """Estimate which metagenes neighbour one another.

    Given its neighbours j, the amounts of cell i have the density ``exp(-sum_j z_i' L z_j) / Zint``: a negative
    ``L[k, l]`` means that metagenes k and l attract each other.

    Parameters
    ----------
    z
        Amounts divided by their sum, rows of 0 for cells without any, shape (n, K).
    source, target
        Both directions of every edge, int64, shape (edges,), sorted by source.
    batch
        Code of each cell's batch, 0 to T - 1, int64, shape (n,).
    shared
        One matrix for all batches in place of one for each.
    start
        Result of an earlier call, to start from.
    seed
        Seed of the sample where there are more than `MAX_CELLS`.

    Returns
    -------
    torch.Tensor
        Symmetric, float64, shape (1 or T, K, K); 0 for a batch without neighbours.

    Notes
    -----
    Minimises ``<L, Z'N> / n + mean(log Zint(L N_i)) + RIDGE / 2 |L|^2`` over symmetric L by L-BFGS, N_i being the sum
    over the neighbours: convex, so the start matters for the time only. No element of L exceeds `MAX_PULL` over the
    largest number of neighbours. What a metagene's abundance alone explains is in L, too: compare with
    `permuted_affinities`.
    """
    cells = _samples(z, source, target, batch, shared, most, seed)
    return _fit_all(cells, z.shape[1], start)


def _samples(
    z: torch.Tensor,
    source: torch.Tensor,
    target: torch.Tensor,
    batch: torch.Tensor,
    shared: bool,
    most: int,
    seed: int,
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return the cells of each affinity matrix, and the sums over their neighbours."""
    z = z.double()
    sums = adjacency(source, target, len(z)) @ z
    used = (z.sum(dim=1) > 0) & (sums.sum(dim=1) > 0)
    groups = [used] if shared else [used & (batch == code) for code in range(int(batch.max()) + 1)]
    generator = torch.Generator().manual_seed(seed)
    found = []
    for group in groups:
        cells = group.nonzero()[:, 0]
        if len(cells) > most:
            cells = cells[torch.randperm(len(cells), generator=generator)[:most].to(cells.device)]
        found.append((z[cells], sums[cells]))
    return found


def permuted_affinities(
    z: torch.Tensor,
    source: torch.Tensor,
    target: torch.Tensor,
    batch: torch.Tensor,
    *,
    shared: bool = False,
    permutations: int = 4,
    most: int = 2000,
    seed: int = 0,
) -> Permuted:
    """Estimate affinities of the same cells at the places of other cells of their batch.

    Parameters
    ----------
    z, source, target, batch, shared
        See `affinities`.
    permutations
        How many, 2 or more.
    most
        Cells of each batch that enter an estimate; with fewer than `affinities` takes, chance looks larger than it is.
    seed
        Seed of the permutations.
    """
    generator = torch.Generator().manual_seed(seed)
    home = torch.argsort(batch, stable=True)
    cells = []
    for _ in range(permutations):
        mixed = torch.randperm(len(z), generator=generator).to(batch.device)
        moved = torch.empty_like(z)
        moved[home] = z[mixed[torch.argsort(batch[mixed], stable=True)]]
        cells += _samples(moved, source, target, batch, shared, most, seed)
    stacked = _fit_all(cells, z.shape[1]).view(permutations, -1, z.shape[1], z.shape[1])
    return Permuted(stacked.mean(dim=0), stacked.std(dim=0))


def pseudo_likelihood(z: torch.Tensor, sums: torch.Tensor, affinity: torch.Tensor) -> torch.Tensor:
    """Negative logarithm of each cell's density given its neighbours, less that of the uniform density, shape (n,).

    Parameters
    ----------
    z, sums
        Cells and the sums over their neighbours, shape (n, K).
    affinity
        Shape (K, K).
    """
    eta = sums @ affinity
    return (z * eta).sum(dim=1) + log_partition(eta)[0] + math.lgamma(z.shape[1])


def _fit_all(cells: list[tuple[torch.Tensor, torch.Tensor]], K: int, start: torch.Tensor | None = None) -> torch.Tensor:
    """Fit one matrix to each set of cells; 0 where there are none."""
    result = torch.zeros(len(cells), K, K, dtype=torch.float64, device=cells[0][0].device)
    for number, (z, sums) in enumerate(cells):
        if len(z):
            result[number] = _fit(z, sums, None if start is None else start[number])
    return result


def _fit(z: torch.Tensor, sums: torch.Tensor, start: torch.Tensor | None) -> torch.Tensor:
    """Minimise the objective in the upper triangle of one matrix."""
    K, device = z.shape[1], z.device
    row, column = torch.triu_indices(K, K, device=device)
    # elements off the diagonal stand for two of the matrix
    often = 1.0 + (row != column).double()
    product = z.T @ sums / len(z)

    def matrix(upper: np.ndarray) -> torch.Tensor:
        affinity = product.new_empty(K, K)
        affinity[row, column] = affinity[column, row] = torch.as_tensor(upper, device=device)
        return affinity

    def objective(upper: np.ndarray) -> tuple[float, np.ndarray]:
        affinity = matrix(upper)
        log_z, mean = log_partition(sums @ affinity)
        slope = product - mean.T @ sums / len(z) + RIDGE * affinity
        value = (affinity * product).sum() + log_z.mean() + RIDGE / 2 * affinity.square().sum()
        return float(value), (often * (slope + slope.T)[row, column] / 2).cpu().numpy()

    bound = MAX_PULL / float(sums.sum(dim=1).max())
    first = np.zeros(len(row)) if start is None else start[row, column].cpu().numpy()
    # takes 0.4 s to import, and not every fit has affinities
    from scipy.optimize import minimize

    found = minimize(
        objective,
        first.clip(-bound, bound),
        jac=True,
        method="L-BFGS-B",
        bounds=[(-bound, bound)] * len(row),
        options={"maxfun": _EVALUATIONS, "maxiter": _EVALUATIONS, "ftol": _SMALL_GAIN, "gtol": 1e-6},
    )
    return matrix(found.x)
