"""States: clusters of the cells of all batches, by which batches are compared."""

import torch
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from unbatch.models.batchblend.expression import Batches
from unbatch.models.batchblend.noise import Noise
from unbatch.models.batchblend.settings import RULES, Rules
from unbatch.models.batchblend.view import Axes, scores_and_totals
from unbatch.nn.kmeans import kmeans, nearest

_MAX_CELLS, _MAX_VALUES = 20_000, 40_000_000
"""Cells that the first states are found from, unless they have so few genes that more fit in so many values."""


def first_states(
    data: Batches,
    noise: Noise,
    axes: Axes,
    generator: torch.Generator,
    *,
    states: int,
    offset: tuple[Tensor, Tensor] | None = None,
    rules: Rules = RULES,
) -> Tensor:
    """Cluster the logarithms of profiles, centred by batch to keep a batch effect from deciding the state.

    Parameters
    ----------
    data, noise, axes
        The cells, their noise, and principal axes of each batch.
    generator
        Source of the random numbers.
    states
        Number of clusters.
    offset
        Offset of each batch that is removed before, if it is known: on its axes (T x width), and in total (T).
    rules
        The thresholds.

    Returns
    -------
    Tensor
        State of each cell, n.
    """
    share = data.mean / data.mean.sum()
    scores, _ = scores_and_totals(data, noise, data.ones(), axes)
    size = data.totals
    if offset is not None:
        scores = scores - offset[0][data.batch]
        size = (size - offset[1][data.batch]).clamp(min=rules.min_size * data.mean_total)

    means = []
    for b, cells in enumerate(data.slices):
        basis = axes.of_batch(b)
        total = axes.own(b, scores[cells].sum(0)[None])[0] @ basis.T / noise.weights
        means.append((total / size[cells].sum()).clamp(min=rules.min_mean_profile * share))

    def log_profiles(cells: Tensor, b: int) -> Tensor:
        profile = axes.own(b, scores[cells]) @ axes.of_batch(b).T / noise.weights
        profile = profile.clamp(min=0) / size[cells, None]
        # by the batch's own mean, lest a strong factor bring a gene to where the logarithm is flat
        return (profile / means[b] + rules.log_profile_floor).log() * (share * noise.weights)

    everyone = torch.arange(len(data.totals), device=data.totals.device)
    limit = max(_MAX_CELLS, _MAX_VALUES // len(share))
    chosen = everyone
    if len(everyone) > limit:
        chosen = torch.randperm(len(everyone), generator=generator)[:limit].sort().values.to(everyone.device)
    middles, rows = [], []
    for b in range(data.count):
        of_batch = chosen[data.batch[chosen] == b]
        of_batch = everyone[data.slices[b]] if len(of_batch) < 10 else of_batch
        part = log_profiles(of_batch, b)
        middles.append(part.mean(0))
        rows.append(part - middles[-1])
    centred = torch.cat(rows)
    # clusters live on few axes, where distances cost less
    few = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -2 * states :]
    centres = kmeans(centred @ few, states, generator)
    if chosen is everyone:
        return nearest(centred @ few, centres)
    found = []
    for b in range(data.count):
        for part in everyone[data.slices[b]].split(limit // 4 + 1):
            found.append(nearest((log_profiles(part, b) - middles[b]) @ few, centres))
    return torch.cat(found)


def merged_clusters(
    points: Tensor,
    label: Tensor,
    weights: Tensor,
    *,
    clusters: int,
    distance: float = RULES.cluster_distance,
    valley: float = RULES.cluster_valley,
) -> Tensor:
    """Merge clusters that are parts of one cloud of points, or pieces of a continuum.

    Parameters
    ----------
    points
        n x d.
    label
        Cluster of each, n; 0 to `clusters` - 1.
    weights
        Inverse variances of the noise of the points, up to a factor, n.
    clusters
        Number of clusters, C.
    distance
        Smallest distance of two clusters that are two clouds: that of their means over the standard deviation about
        these, along the line that joins them.
    valley
        Most points of two clouds where they are fewest between their means, over those near the mean of the emptier.

    Returns
    -------
    Tensor
        The new cluster of each given one, C, numbered from 0 on.

    Notes
    -----
    Halves of a normal cloud are 2.65 apart, with 1.4 times as many points midway. Pieces of an even continuum are 3.46
    apart if of one length, and midway there are as many points as elsewhere. What others connect becomes one.
    """
    points, weights = points.double(), weights.double()
    sums = points.new_zeros(clusters, points.shape[1]).index_add_(0, label, points * weights[:, None])
    count = weights.new_zeros(clusters).index_add_(0, label, weights)
    mean = sums / count.clamp(min=1e-300)[:, None]
    between = mean[None] - mean[:, None]
    squared = between.square().sum(-1)
    # of the points of the first along the line to the second, which is at 1
    scatter, peak = torch.zeros(2, clusters, clusters, dtype=points.dtype, device=points.device)
    places = torch.tensor([0.3, 0.4, 0.5, 0.6, 0.7], dtype=points.dtype, device=points.device)
    midway = peak.repeat(len(places), 1, 1)
    for k in range(clusters):
        mine = label == k
        along = (points[mine] - mean[k]) @ between[k].T / squared[k].clamp(min=1e-300)
        own = weights[mine, None]
        scatter[k] = (own * along.square()).sum(0)
        for at, place in enumerate(places):
            midway[at, k] = (own * ((along - place).abs() < 0.15)).sum(0)
        peak[k] = (own * (along.abs() < 0.15)).sum(0)
    # a cluster without points joins none
    present = (count > 0)[:, None] & (count > 0)
    within = (scatter + scatter.T) / (count[:, None] + count).clamp(min=1e-300)
    near = (distance**2 * within > 1) | (squared <= 0)
    # what is at .3 for one is at .7 for the other; the tail of a large cloud fills all but the valley of a small one
    fewest = (midway + midway.flip(0).transpose(1, 2)).amin(0)
    near |= fewest > valley * torch.minimum(peak, peak.T)
    near &= present
    return connected(near)


def connected(links: Tensor) -> Tensor:
    """Return the connected component of each row of a symmetric C x C matrix of links, numbered from 0 on, C."""
    labels = connected_components(links.cpu().numpy(), directed=False)[1]
    return torch.as_tensor(labels, dtype=torch.int64, device=links.device)
