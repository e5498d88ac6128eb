"""k-means on a device."""

import math

import torch
from torch import Tensor

_SAMPLE = 50_000
_BLOCK_VALUES = 2**24


def kmeans(points: Tensor, clusters: int, generator: torch.Generator, starts: int = 3, steps: int = 300) -> Tensor:
    """Place centres so that the squared distances of points to the nearest one are small.

    Parameters
    ----------
    points
        n x d.
    clusters
        Number of centres; no more than n are made.
    generator
        Source of all random numbers, on the CPU, so that every device draws the same.
    starts
        Starts by greedy k-means++ (Arthur & Vassilvitskii 2007), run side by side; the best is kept.
    steps
        Most steps of Lloyd's algorithm.

    Returns
    -------
    Tensor
        The centres, k x d. With more than 50,000 points they are those of a random sample of that many, as their
        error falls with the root of the number of points.
    """
    if len(points) > _SAMPLE:
        points = points[torch.randperm(len(points), generator=generator)[:_SAMPLE].to(points.device)]
    middle = points.mean(0)
    points = points - middle
    centres = _seeds(points, min(clusters, len(points)), starts, generator)
    tolerance = 1e-4 * float(points.var(0, correction=0).mean())
    for _ in range(steps):
        distances = _squared_distances(points, centres)
        nearest_distance, label = distances.min(-1)
        member = torch.nn.functional.one_hot(label, centres.shape[1]).to(points.dtype)
        size = member.sum(1)
        moved = (member.transpose(1, 2) @ points) / size.clamp(min=1).unsqueeze(-1)
        for start, empty in (size == 0).nonzero().tolist():
            far = nearest_distance[start].argmax()
            moved[start, empty], nearest_distance[start, far] = points[far], 0
        shift = (moved - centres).square().sum((1, 2)).max()
        centres = moved
        if shift <= tolerance:
            break
    cost = _squared_distances(points, centres).min(-1).values.sum(-1)
    return centres[cost.argmin()] + middle


def nearest(points: Tensor, centres: Tensor) -> Tensor:
    """Return the index of the nearest centre of each point, n."""
    block = max(1, _BLOCK_VALUES // len(centres))
    middle = centres.mean(0)
    return torch.cat([_squared_distances(part - middle, centres - middle).argmin(-1) for part in points.split(block)])


def _seeds(points: Tensor, clusters: int, starts: int, generator: torch.Generator) -> Tensor:
    """Greedy k-means++: of a few candidates drawn by squared distance, the one that lowers the cost most."""
    n = len(points)
    candidates = 2 + int(math.log(clusters))
    first = torch.randint(n, (starts,), generator=generator).to(points.device)
    chosen = [points[first]]
    closest = _squared_distances(points, points[first].unsqueeze(1)).squeeze(-1).clamp(min=0)
    for _ in range(clusters - 1):
        heights = torch.rand(starts, candidates, generator=generator, dtype=torch.float64).to(points.device)
        steps = closest.double().cumsum(-1)
        drawn = torch.searchsorted(steps, heights * steps[:, -1:]).clamp(max=n - 1)
        distances = _squared_distances(points, points[drawn]).clamp(min=0)
        distances = torch.minimum(distances, closest.unsqueeze(-1))
        best = distances.sum(1).argmin(-1)
        rows = torch.arange(starts, device=points.device)
        closest = distances[rows, :, best]
        chosen.append(points[drawn[rows, best]])
    return torch.stack(chosen, dim=1)


def _squared_distances(points: Tensor, centres: Tensor) -> Tensor:
    """... x n x k, up to the rounding of a difference of squares."""
    cross = points @ centres.transpose(-1, -2)
    return points.square().sum(-1, keepdim=True) - 2 * cross + centres.square().sum(-1).unsqueeze(-2)
