"""Spatial affinities of metagenes: POPARI's hidden Markov random field on the simplex, by pseudo-likelihood."""

import math
from dataclasses import dataclass

import torch

from unbatch.models.popari.graph import adjacency
from unbatch.models.popari.simplex import covariance, log_partition

RIDGE = 1e-3
"""Weight of the squared affinities, against the mean over cells of the negative log pseudo-likelihood."""

MAX_CELLS = 20_000
"""Cells of a batch (or of all, if shared) whose conditional densities are used; more are sampled."""

_MOST_FOR_CURVATURE = 2000
"""Cells that the curvature of an objective is found from."""

_BLOCK_VALUES = 2**22
"""Values of a curvature, by elements, that are held at once."""

_STEPS = 30
_HALVINGS = 30

_SMALL_GAIN = 1e-4
"""Twice what a step gains by its slope: after a smaller one, the matrices stand."""


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
    Minimises ``<L, Z'N> / n + mean(log Zint(L N_i)) + RIDGE / 2 |L|^2`` over symmetric L by Newton's method, N_i
    being the sum over the neighbours: convex, so the start does not matter. What a metagene's abundance alone explains
    is in L, too: compare with `permuted_affinities`.
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
    """Fit one matrix to each set of cells, small sets together: their series then take the same steps."""
    result = torch.zeros(len(cells), K, K, dtype=torch.float64, device=cells[0][0].device)
    if start is not None:
        result = start.clone()
    bundle: list[int] = []
    for number, (z, _) in enumerate(cells):
        if not len(z):
            result[number] = 0
            continue
        if bundle and sum(len(cells[other][0]) for other in bundle) + len(z) > MAX_CELLS:
            result[bundle] = _fit([cells[other] for other in bundle], result[bundle])
            bundle = []
        bundle.append(number)
    if bundle:
        result[bundle] = _fit([cells[other] for other in bundle], result[bundle])
    return result


def _fit(cells: list[tuple[torch.Tensor, torch.Tensor]], start: torch.Tensor) -> torch.Tensor:
    """Take Newton's steps in the upper triangle of each matrix, halved where its objective would rise."""
    K, device = start.shape[1], start.device
    row, column = torch.triu_indices(K, K, device=device)
    # which parameter each element of a matrix is, and how often it is there
    place = torch.empty(K, K, dtype=torch.int64, device=device)
    place[row, column] = place[column, row] = torch.arange(len(row), device=device)
    often = 1.0 + (row != column).double()
    product = torch.stack([z.T @ sums / len(z) for z, sums in cells])
    sizes = [len(z) for z, _ in cells]

    def gathered(values: torch.Tensor) -> torch.Tensor:
        """Add up what belongs to one parameter, over the first dimension of K * K elements."""
        return values.new_zeros(len(row), *values.shape[1:]).index_add_(0, place.flatten(), values)

    def look(upper: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
        """Objectives (L) and their slopes (L x parameters), eta and mean of the cells of each."""
        affinity = upper[:, place]
        eta = torch.cat([sums @ one for (_, sums), one in zip(cells, affinity, strict=True)])
        log_z, mean = log_partition(eta)
        fields = list(zip(eta.split(sizes), mean.split(sizes), strict=True))
        slope = product - torch.stack([m.T @ sums / len(m) for (_, m), (_, sums) in zip(fields, cells, strict=True)])
        value = (affinity * product).sum((1, 2)) + torch.stack([part.mean() for part in log_z.split(sizes)])
        value += RIDGE / 2 * (often * upper.square()).sum(1)
        return value, gathered(slope.flatten(1).T).T + RIDGE * often * upper, fields

    def curvature(sums: torch.Tensor, eta: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        sample = slice(None, None, -(-len(sums) // _MOST_FOR_CURVATURE))
        sums, spread = sums[sample], covariance(eta[sample], mean[sample])
        pairs = (sums[:, :, None] * sums[:, None, :]).flatten(1)
        found = torch.zeros(len(row), len(row), dtype=sums.dtype, device=device)
        for some in torch.arange(K, device=device).split(max(1, _BLOCK_VALUES // K**3)):
            # elements k m of the covariance and l p of the sums are those of the elements k l and m p of the matrix
            part = (pairs.T @ spread[:, some].flatten(1) / len(sums)).view(K, K, len(some), K)
            by_column = gathered(part.permute(3, 1, 2, 0).reshape(K * K, -1)).T
            found.index_add_(0, place[some].flatten(), by_column)
        return found + RIDGE * often.diag()

    upper = start[:, row, column]
    value, slope, fields = look(upper)
    for _ in range(_STEPS):
        matrices = [curvature(sums, *field) for (_, sums), field in zip(cells, fields, strict=True)]
        step = torch.linalg.solve(torch.stack(matrices), slope)
        gain = (step * slope).sum(1)
        for _ in range(_HALVINGS):
            trial, *rest = upper - step, *look(upper - step)
            risen = ~(rest[0] <= value + 1e-12 * value.abs())
            if not risen.any():
                break
            step = torch.where(risen[:, None], step / 2, step)
        else:
            trial = torch.where(risen[:, None], upper, trial)
            rest = look(trial)
        upper, (value, slope, fields) = trial, rest
        if float(gain.max()) < _SMALL_GAIN:
            break
    return upper[:, place]
