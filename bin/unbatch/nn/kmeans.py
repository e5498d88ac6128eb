"""k-means on a device."""

import math

import torch
from torch import Tensor

_SAMPLE = 30_000
_BLOCK_VALUES = 2**24


def kmeans(points: Tensor, clusters: int, generator: torch.Generator, starts: int = 3, steps: int = 300) -> Tensor:
    """Place centres such that the squared distances of points to the nearest one are small.

    Parameters
    ----------
    points
        n x d.
    clusters
        Number of centres; no more than n are made.
    generator
        Source of all random numbers, on the CPU, as every device is to draw the same.
    starts
        Starts by greedy k-means++ (Arthur & Vassilvitskii 2007), run side by side; the best is kept.
    steps
        Most steps of Lloyd's algorithm.

    Returns
    -------
    Tensor
        The centres, k x d. With more than 30,000 points they are those of a random sample of that many, as their
        error falls with the root of the number of points.
    """
    if len(points) > _SAMPLE:
        points = points[torch.randperm(len(points), generator=generator)[:_SAMPLE].to(points.device)]
    middle = points.mean(0)
    given, points = points, (points - middle).float()
    centres = _seeds(points, min(clusters, len(points)), starts, generator)
    numbers = torch.arange(centres.shape[1], device=points.device)
    tolerance = 1e-4 * float(points.var(0, correction=0).mean())
    lengths = points.square().sum(1)
    for _ in range(steps):
        closeness, label = _closeness(points, centres).max(-1)
        member = (label.unsqueeze(-1) == numbers).float()
        size = member.sum(1)
        moved = (member.transpose(1, 2) @ points) / size.clamp(min=1).unsqueeze(-1)
        for start, empty in (size == 0).nonzero().tolist():
            far = (lengths - 2 * closeness[start]).argmax()
            moved[start, empty], closeness[start, far] = points[far], lengths[far] / 2
        shift = (moved - centres).square().sum((1, 2)).max()
        centres = moved
        if shift <= tolerance:
            break
    gain = _closeness(points, centres).max(-1).values.double().sum(-1)
    return centres[gain.argmax()].to(given.dtype) + middle


def nearest(points: Tensor, centres: Tensor) -> Tensor:
    """Return the index of the nearest centre of each point, n."""
    block = max(1, _BLOCK_VALUES // len(centres))
    middle = centres.mean(0)
    around = (centres - middle).float()
    return torch.cat([_closeness((part - middle).float(), around).argmax(-1) for part in points.split(block)])


def _seeds(points: Tensor, clusters: int, starts: int, generator: torch.Generator) -> Tensor:
    """Greedy k-means++: of a few candidates drawn by squared distance, the one that lowers the cost most."""
    n = len(points)
    candidates = 2 + int(math.log(clusters))
    lengths = points.square().sum(1)
    first = torch.randint(n, (starts,), generator=generator).to(points.device)
    chosen = [points[first]]
    closest = (lengths - 2 * _closeness(points, points[first].unsqueeze(1)).squeeze(-1)).clamp(min=0)
    rows = torch.arange(starts, device=points.device)
    for _ in range(clusters - 1):
        heights = torch.rand(starts, candidates, generator=generator, dtype=torch.float64).to(points.device)
        steps = closest.double().cumsum(-1)
        drawn = torch.searchsorted(steps, heights * steps[:, -1:]).clamp(max=n - 1)
        distances = (lengths[:, None] - 2 * _closeness(points, points[drawn])).clamp(min=0)
        distances = torch.minimum(distances, closest.unsqueeze(-1))
        best = distances.sum(1).argmin(-1)
        closest = distances[rows, :, best]
        chosen.append(points[drawn[rows, best]])
    return torch.stack(chosen, dim=1)


def _closeness(points: Tensor, centres: Tensor) -> Tensor:
    """Half of what the squared length of each point exceeds its squared distances to the centres by, ... x n x k."""
    return points @ centres.transpose(-1, -2) - centres.square().sum(-1).unsqueeze(-2) / 2
