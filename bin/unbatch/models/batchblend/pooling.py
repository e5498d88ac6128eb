"""What shares are expected of a cell: those of its state, as its batch has it, and of its neighbours."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from unbatch.models.batchblend.decoder import Decoder
from unbatch.models.batchblend.effect import Effect
from unbatch.models.batchblend.expression import Batches, inner_products, means_by_group
from unbatch.models.batchblend.neighbour_prior import draw_to_expected
from unbatch.models.batchblend.nnls import solve_amounts
from unbatch.models.batchblend.settings import Settings
from unbatch.models.popari.affinity import affinities, permuted_affinities
from unbatch.models.popari.amounts import Problem, no_edges, shares
from unbatch.models.popari.field import hmrf

Edges = tuple[Tensor, Tensor]
"""Source and target of the edges between cells of a fit, both directions of each."""


@dataclass(frozen=True)
class Affinity:
    """Spatial affinities of the metagenes before the last phase, and what chance makes of them.

    Attributes
    ----------
    affinity
        L x K x K, L = 1 (shared) or T; negative where two metagenes lie side by side.
    permuted, permuted_sd
        Mean and standard deviation of the same after the cells of each batch change places.
    """

    affinity: np.ndarray
    permuted: np.ndarray
    permuted_sd: np.ndarray


def edges_between(edges: tuple[np.ndarray, np.ndarray], kept: np.ndarray, *, cells: int, device: torch.device) -> Edges:
    """Edges between the cells of the fit, by their place in it, sorted by source, then target."""
    place = np.full(cells, -1)
    place[kept] = np.arange(len(kept))
    source, target = place[edges[0]], place[edges[1]]
    real = (source >= 0) & (target >= 0)
    source, target = source[real], target[real]
    order = np.lexsort((target, source))
    return torch.as_tensor(source[order], device=device), torch.as_tensor(target[order], device=device)


def spatial_affinity(amounts: Tensor, batch: Tensor, edges: Edges, *, shared: bool, seed: int) -> Affinity:
    """Estimate which metagenes (of amounts, n x K) lie side by side, and what chance makes of that."""
    z = shares(amounts.double())
    found = affinities(z, *edges, batch, shared=shared, seed=seed)
    by_chance = permuted_affinities(z, *edges, batch, shared=shared, seed=seed)
    return Affinity(found.cpu().numpy(), by_chance.mean.cpu().numpy(), by_chance.sd.cpu().numpy())


def with_expectations(
    decoder: Decoder, amounts: Tensor, data: Batches, effect: Effect, *, pooling: float, seed: int
) -> Decoder:
    """Find what shares are expected of a cell by its batch and state, and how far it may differ from that.

    The mean of the state, and in each batch as much of its difference from it as exceeds chance: what batches disagree
    in is not removed here. The variance within states is what two halves of the genes agree on, as noise is in one or
    the other.

    Parameters
    ----------
    decoder, amounts
        What the factorisation found.
    data, effect
        The cells, their batch effect and states.
    pooling
        Weight of what is expected.
    seed
        Seed of the random numbers.
    """
    K, batches, cluster = len(decoder.metagenes), data.count, effect.clusters[effect.state]
    z, clusters = shares(amounts).double(), int(effect.clusters.max()) + 1
    some = amounts.sum(1) > 0
    z, cluster, batch = z[some], cluster[some], data.batch[some]
    both = batch * clusters + cluster
    count = torch.bincount(cluster, minlength=clusters).double()
    middle = torch.where(count[:, None] > 0, means_by_group(z, cluster, clusters), z.mean(0))
    variance = means_by_group((z - middle[cluster]).square(), cluster, clusters)
    in_batch = torch.bincount(both, minlength=batches * clusters).view(batches, clusters, 1).double()
    change = means_by_group(z, both, batches * clusters).view(batches, clusters, K) - middle
    # of a mean over part of those in the mean that it is compared with
    chance = variance * (1 / in_batch.clamp(min=1) - 1 / count.clamp(min=1)[:, None])
    # a state of one batch alone disagrees with nobody
    known = (in_batch > 1) & (in_batch < count[:, None])
    expected = expected_shares(middle, change, chance, known)
    share = _variance_of_shares(decoder, data, effect, seed=seed)
    spread = share * middle * (1 - middle) + effect.rules.min_share_variance
    return replace(decoder, expected=expected[:, effect.clusters], spread=spread[effect.clusters], pooling=pooling)


def expected_shares(middle: Tensor, change: Tensor, chance: Tensor, known: Tensor) -> Tensor:
    """Keep as much of a change of mean shares as exceeds chance.

    Parameters
    ----------
    middle
        Mean shares m of each state, ... x K.
    change, chance
        What a batch differs in from that, and the variance of it by chance.
    known
        Whether it can be told.

    Returns
    -------
    Tensor
        Shares to expect, if true changes are as large, against m (1 - m), in all states.
    """
    scale = middle * (1 - middle)
    states = tuple(range(change.ndim - 1))
    excess = torch.where(known, change.square() - chance, 0).sum(states)
    prior = scale * (excess / torch.where(known, scale, 0).sum(states).clamp(min=1e-9)).clamp(min=0)
    kept = torch.where(known, prior / (prior + chance).clamp(min=1e-12), 0)
    return (middle + kept * change).clamp(min=0)


def _variance_of_shares(decoder: Decoder, data: Batches, effect: Effect, *, seed: int, repeats: int = 2) -> Tensor:
    """Variance of shares within the states of each batch, over the m (1 - m) of shares of mean m; K."""
    generator = torch.Generator().manual_seed(seed + 3)
    device, cluster, most = data.batch.device, effect.clusters[effect.state], effect.rules.max_cells_halved
    if len(cluster) > most:
        places = torch.randperm(len(cluster), generator=generator)[:most].sort().values.to(device)
        data, cluster = data.sample(places), cluster[places]
    group, K = data.batch * (int(cluster.max()) + 1) + cluster, len(decoder.metagenes)
    groups = int(group.max()) + 1
    top, bottom = torch.zeros(2, K, dtype=torch.float64, device=device)
    for _ in range(repeats):
        half = (torch.randperm(len(data.mean), generator=generator) < len(data.mean) // 2).to(device)
        halves = []
        for chosen in (half, ~half):
            parts = []
            for b, matrix in enumerate(data.matrices):
                scaled = decoder.metagenes * (decoder.factors[b] * decoder.weights[b] * chosen)
                target = inner_products(matrix, scaled * decoder.weights[b], decoder.offset[b])
                parts.append(shares(solve_amounts(target, scaled @ scaled.T)))
            halves.append(torch.cat(parts))
        some = (halves[0].sum(1) > 0) & (halves[1].sum(1) > 0)
        one, other, of_cell = halves[0][some], halves[1][some], group[some]
        means = [means_by_group(z, of_cell, groups)[of_cell] for z in (one, other)]
        middle = (means[0] + means[1]) / 2
        top += ((one - means[0]) * (other - means[1])).sum(0)
        bottom += (middle * (1 - middle)).sum(0)
    return (top / bottom.clamp(min=1e-9)).clamp(0, 1)


def last_phase(
    decoder: Decoder,
    amounts: Tensor,
    data: Batches,
    *,
    state: Tensor,
    edges: Edges | None,
    settings: Settings,
    seed: int,
) -> tuple[Tensor, dict[str, list[float]]]:
    """Renew the amounts given those of the neighbours and the state.

    Returns
    -------
    tuple
        Amounts, n x K, and the terms of the objective per value of the matrix.
    """
    linear, variance = [], []
    for b, (matrix, cells) in enumerate(zip(data.matrices, data.slices, strict=True)):
        linear.append(decoder.linear(matrix, data.totals[cells], state[cells], b))
        variance.append(decoder.cell_variance(data.totals[cells], b))
    source, target = edges or no_edges(amounts.device)
    problem = Problem(
        X=amounts.double(),
        linear=torch.cat(linear).double(),
        design=torch.stack([decoder.design(b) for b in range(data.count)]),
        batch=data.batch,
        variance=torch.cat(variance),
        source=source,
        target=target,
        expected=decoder.expected[data.batch, state] if decoder.pooling else None,
        spread=decoder.spread[state] if decoder.pooling else None,
    )
    if edges is not None and settings.spatial == "hmrf":
        found = hmrf(problem, weight=settings.spatial_weight, shared=settings.shared_affinity, seed=seed)
    else:
        # neighbours add to what is expected of a cell, not to how firmly
        found = draw_to_expected(problem, weight=decoder.pooling or settings.spatial_weight)
    values = len(data.totals) * len(data.mean)
    return found.X.float(), {name: [x / values for x in found.history[name]] for name in ("data", "spatial")}


def append_phase(history: dict[str, list[float]], terms: dict[str, list[float]]) -> None:
    """Add the last phase, whose data term holds the sparse prior, to continue the course of the sum."""
    before, after = len(history["data"]), len(terms["data"])
    start = history["data"][-1] + history["sparsity"][-1] - terms["data"][0] if after and before else 0.0
    history["data"] += [x + start - history["sparsity"][-1] for x in terms["data"]]
    history["sparsity"] += [history["sparsity"][-1]] * after
    history["spatial"] = [0.0] * before + terms["spatial"]
    history["phase"] += [1.0] * after
