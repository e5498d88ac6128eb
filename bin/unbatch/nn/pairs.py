"""Pairs of spots drawn at random, with weights by which their weighted sum estimates a mean over all pairs."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

Drawn = tuple[Tensor, Tensor, Tensor]
"""Pairs, m of them: their first spots, their second spots (positions in the arrays) and their weights, m each."""


@dataclass(frozen=True)
class Groups:
    """All ordered pairs of different spots of one group, such as a section: all pairs where there is one group.

    They are not listed: partners are other spots of a minibatch, or drawn from the nearest spots.

    Attributes
    ----------
    group
        Code of each spot, n.
    near
        The nearest spots of each spot, which are of its group, n x k; k may be 0.
    total
        What the sum over pairs is divided by.
    """

    group: Tensor
    near: Tensor
    total: float

    @classmethod
    def of(
        cls, group: np.ndarray, near: np.ndarray | None = None, total: float | None = None, device: str = "cpu"
    ) -> "Groups":
        """Take the group of each spot (codes, n), its nearest spots (n x k) and the divisor.

        Without a divisor it is the number of pairs, those of a spot with itself included: n^2 where there is one group.
        """
        counts = np.unique(group, return_counts=True)[1].astype(np.float64)
        near = np.empty((len(group), 0), np.int64) if near is None else near
        total = float((counts**2).sum()) if total is None else total
        return cls(torch.as_tensor(group, device=device), torch.as_tensor(near, device=device), total)

    def to(self, device: str) -> "Groups":
        """Give the same on a device."""
        return replace(self, group=self.group.to(device), near=self.near.to(device))

    def draw(self, first: Tensor, near: int, uniform: int) -> Drawn:
        """Draw partners of the spots of a minibatch.

        Parameters
        ----------
        first
            Different spots, a uniform sample of all, b of 2 or more.
        near, uniform
            Partners of each: among its nearest spots, and among the others of the minibatch.

        Notes
        -----
        A pair's weight is one over its expected number of draws (the balance heuristic of Veach and Guibas 1995): a
        near pair can be drawn in both ways, another one in one of them.
        """
        (spots, k), b, device = self.near.shape, len(first), first.device
        near = near if k else 0
        shuffled = first[torch.randperm(b, device=device)]
        shift = torch.randint(1, b, (uniform, 1), device=device)
        others = shuffled[(torch.arange(b, device=device) + shift) % b]
        one, second = shuffled.repeat(uniform), others.flatten()
        if near:
            close = self.near[first].gather(1, torch.randint(k, (b, near), device=device))
            one = torch.cat([one, first.repeat_interleave(near)])
            second = torch.cat([second, close.flatten()])
        same = self.group[one] == self.group[second]
        one, second = one[same], second[same]
        times = torch.full(one.shape, uniform / max(spots - 1, 1), device=device)
        if near:
            times = times + (self.near[one] == second[:, None]).any(1) * (near / k)
        return one, second, spots / b / self.total / times


@dataclass(frozen=True)
class Edges:
    """Listed pairs of spots.

    Attributes
    ----------
    source, target
        The two spots of each pair, m.
    total
        What the sum over pairs is divided by.
    """

    source: Tensor
    target: Tensor
    total: float

    @classmethod
    def of(cls, mask: sparse.csr_array, total: float | None = None, device: str = "cpu") -> "Edges":
        """Take the pairs that are not 0 in an n x n mask, and the divisor (None: their number)."""
        entries = sparse.coo_array(mask)
        source, target = (torch.as_tensor(each.astype(np.int64), device=device) for each in entries.coords)
        return cls(source, target, float(entries.nnz if total is None else total))

    def to(self, device: str) -> "Edges":
        """Give the same on a device."""
        return replace(self, source=self.source.to(device), target=self.target.to(device))

    def draw(self, first: Tensor, near: int, uniform: int) -> Drawn:
        """Draw ``b * (near + uniform)`` pairs, b spots being asked for, uniformly among all."""
        count = len(first) * (near + uniform)
        chosen = torch.randint(len(self.source), (count,), device=self.source.device)
        weight = torch.full((count,), len(self.source) / (count * self.total), device=self.source.device)
        return self.source[chosen], self.target[chosen], weight


def lengths(points: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Distances of pairs of points, m, whose gradient is 0 between points on one position."""
    squared = (points[first] - points[second]).square().sum(1)
    apart = squared > 0
    return torch.where(apart, torch.where(apart, squared, 1.0).sqrt(), 0.0)


def weighted_median(values: Tensor, weights: Tensor) -> Tensor:
    """Smallest value with half the weight at or below it; it minimises the weighted sum of absolute differences."""
    order = values.argsort()
    total = weights[order].double().cumsum(0)
    return values[order[torch.searchsorted(total, total[-1] / 2).clamp(max=len(values) - 1)]]
