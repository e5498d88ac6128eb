"""Batch effect or composition: how cells differ among themselves, and which batches may be compared gene by gene.

When batches hold different cells, a missing type looks like a factor on its marker genes. A batch effect has no reason
to lie along the axes in which the cells of a batch differ among themselves; what lies there more than by chance is
ambiguous.
"""

from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from unbatch.models.batchblend.evidence import evidence_of_factors
from unbatch.models.batchblend.settings import RULES, Rules
from unbatch.models.batchblend.states import connected
from unbatch.models.batchblend.view import View
from unbatch.models.verdicts import Evidence


@dataclass(frozen=True, kw_only=True)
class Composition:
    """How the cells of a batch differ among themselves: what a difference between batches may be without any effect.

    Attributes
    ----------
    axes
        Principal axes of the profiles within batches, orthonormal in weighted gene space, G x m.
    variance
        Variance of the cells on each axis within batches, noise included, m.
    scale
        Change of the weighted profile of the mean cell by a small log factor, G.
    """

    axes: Tensor
    variance: Tensor
    scale: Tensor

    @property
    def expected(self) -> Tensor:
        """Share of the factors' variance that falls on each axis when genes vary independently, m."""
        return (self.axes * self.scale[:, None]).square().sum(0) / self.scale.square().sum()

    def along(self, logs: Tensor) -> Tensor:
        """Coordinates on the axes, ... x m."""
        return (logs * self.scale) @ self.axes

    def ambiguous(self, logs: Tensor, together: bool = False) -> Tensor:
        """Excess share of each difference (... x G) that composition could make: 0 as by chance, 1 all of it.

        Few cells tell the share of all differences `together` better than that of each.
        """
        along, whole = self.along(logs).square().sum(-1), (logs * self.scale).square().sum(-1)
        if together:
            along, whole = along.sum(), whole.sum()
        by_chance = self.expected.sum()
        return ((along / whole.clamp(min=1e-30) - by_chance) / (1 - by_chance)).clamp(min=0)

    def without(self, logs: Tensor) -> Tensor:
        """Remove all that lies on the axes of composition."""
        return logs - self.along(logs) @ self.axes.T / self.scale

    def batch_part(self, logs: Tensor, error: Tensor, usual_shift: float = RULES.usual_shift) -> tuple[Tensor, Tensor]:
        """Remove the part that is rather composition's than the batch's, and say how sure that is, both T x G.

        On each axis a difference is the sum of two normal variables. A batch effect has no reason to favour these few
        axes: on each it varies as the others tell. Composition varies by `usual_shift` standard deviations of the
        cells, or by what exceeds the batch effect and the error if that is more. What is kept is the mean of the batch
        effect given their sum; its standard deviation is the error that this adds.
        """
        along = self.along(logs)
        rest = logs * self.scale - along @ self.axes.T
        leverage = self.axes.square().sum(1)
        elsewhere = rest.square().sum(-1) / (self.scale.square() * (1 - leverage)).sum()
        lever = self.axes * self.scale[:, None]
        usual = elsewhere[:, None] * lever.square().sum(0)
        excess = along.square() - usual - error.square() @ lever.square()
        composition = torch.maximum(usual_shift**2 * self.variance, excess)
        kept = usual / (usual + composition).clamp(min=1e-30)
        doubt = ((usual * (1 - kept)) @ self.axes.square().T).sqrt() / self.scale
        return logs - (along * (1 - kept)) @ self.axes.T / self.scale, doubt


def composition_of(view: View) -> Composition:
    """Axes in which the profiles of cells differ within batches, larger cells counting more."""
    data, mean_total = view.data, view.totals.mean()
    parts, all_weights = [], 0.0
    for b, cells in enumerate(data.slices):
        weight = (view.totals[cells] / mean_total).clamp(min=view.rules.min_size)[:, None]
        profile = view.axes.own(b, view.scores[cells]) / (weight * mean_total)
        centred = (profile - (weight * profile).sum(0) / weight.sum()) * weight.sqrt()
        values, vectors = torch.linalg.eigh(centred.T @ centred)
        parts.append(view.axes.of_batch(b) @ (vectors * values.clamp(min=0).sqrt()))
        all_weights += float(weight.sum())
    left, values, _ = torch.linalg.svd(torch.cat(parts, 1), full_matrices=False)
    real = min(view.states - 1, int((values > 1e-6 * values[0]).sum()))
    return Composition(
        axes=left[:, :real],
        variance=values[:real].square() / all_weights,
        scale=view.noise.weights * data.mean / data.mean.sum(),
    )


def overlap(
    profiles: Tensor,
    slices: list[slice],
    generator: torch.Generator,
    *,
    max_cells: int = 1000,
    rules: Rules = RULES,
) -> Tensor:
    """Share of a batch's cells that have cells of another batch as near as cells of their own; T x T, row to column.

    As near: the distance to the tenth cell of the other batch exceeds that to the tenth of their own by less than a
    tenth (see `Rules.overlap_neighbours`), with equally many cells drawn from both. The more batches, the fewer of the
    `max_cells` of each are drawn.
    """
    batches = len(slices)
    found = torch.zeros(batches, batches, dtype=torch.float64)
    max_cells = max(100, max_cells // max(1, batches // 8))
    order = [torch.randperm(c.stop - c.start, generator=generator)[:max_cells] + c.start for c in slices]
    for a in range(batches):
        for b in range(a):
            n = min(len(order[a]), len(order[b]))
            k = min(rules.overlap_neighbours, n - 1)
            if k < 1:
                continue
            x, y = profiles[order[a][:n].to(profiles.device)], profiles[order[b][:n].to(profiles.device)]
            across = torch.cdist(x, y)
            for one, other, own, to_other in ((a, b, x, across), (b, a, y, across.T)):
                near = torch.cdist(own, own).kthvalue(k + 1, dim=1).values
                found[one, other] = (
                    (to_other.kthvalue(k, dim=1).values < (1 + rules.overlap_margin) * near).double().mean()
                )
    return found


def comparable_groups(linked: Tensor) -> list[list[int]]:
    """Batches that links (T x T) connect, directly or by way of others, in groups; a batch without any is alone."""
    label = connected(linked)
    return [(label == group).nonzero()[:, 0].tolist() for group in range(int(label.max()) + 1)]


class Comparisons:
    """Which pairs of batches may be compared gene by gene; a pair that is refused once stays so.

    Parameters
    ----------
    sizes
        Cells of each batch, T.
    rules
        The thresholds.
    reference_share
        `last_share` of a search in which nothing was left in the data, if it was decided by it to leave what
        composition could make.

    Attributes
    ----------
    groups
        Batches that are compared with one another, in groups.
    share, last_share
        Largest share of the difference of a pair that composition could make in any round, and that of the last round,
        T x T.
    size
        Spread of the log factors between two batches when `share` was found, T x T.
    overlap
        Share of cells that overlap without what composition could make, in the worse direction, T x T.
    shared_states
        Number of states with cells of both, T x T.
    overlapping
        Batches with factors that overlap another one without what composition could make, T.
    overall
        Share of the differences of these together that composition could make, in the last round.
    left
        Batches in which the part that composition could make was left in the data, T.
    """

    def __init__(self, sizes: Tensor, *, rules: Rules = RULES, reference_share: Tensor | None = None) -> None:
        batches = len(sizes)
        self.sizes, self.rules, self.reference_share = sizes.cpu(), rules, reference_share
        self.share = torch.zeros(batches, batches, dtype=torch.float64)
        self.last_share, self.size, self.overlap = (torch.zeros_like(self.share) for _ in range(3))
        self.shared_states = torch.ones_like(self.share)
        self.overlapping, self.left = torch.zeros(2, batches, dtype=torch.bool)
        self.overall = 0.0
        self.groups = comparable_groups(self.linked)

    @property
    def few(self) -> Tensor:
        """Batches that have too few cells, T."""
        return self.sizes < self.rules.min_batch_cells

    @property
    def linked(self) -> Tensor:
        """Whether two batches may be compared, T x T."""
        return (self.share <= self.rules.max_ambiguous) & ~(self.few[:, None] | self.few)

    def update(self, logs: Tensor, composition: Composition) -> bool:
        """Take note of the log factors found (T x G); return whether groups fell apart by it."""
        for group in self.groups:
            for a, b in combinations(group, 2):
                difference = logs[a] - logs[b]
                size = float(difference.square().mean().sqrt())
                share = float(composition.ambiguous(difference)) if size > self.rules.min_factor_spread else 0.0
                self.last_share[a, b] = self.last_share[b, a] = share
                if share >= self.share[a, b]:
                    self.share[a, b] = self.share[b, a] = share
                    self.size[a, b] = self.size[b, a] = size
        before, self.groups = self.groups, comparable_groups(self.linked)
        return self.groups != before

    def evidence(self, logs: Tensor, max_pairs: int = 100) -> list[Evidence]:
        """Say what was decided for each pair; of many pairs, those of which composition could make most."""
        group_of = {batch: number for number, group in enumerate(self.groups) for batch in group}
        pairs = sorted(combinations(group_of, 2), key=lambda pair: (-float(self.share[pair]), pair))[:max_pairs]
        decided = self.last_share if self.reference_share is None else self.reference_share
        found = []
        for a, b in pairs:
            joined = group_of[a] == group_of[b]
            size = float((logs[a] - logs[b]).square().mean().sqrt()) if joined else float(self.size[a, b])
            found.append(
                evidence_of_factors(
                    (a, b),
                    size=size,
                    composition=float(decided[a, b]),
                    overlap=float(self.overlap[a, b]),
                    joined=joined,
                    left=bool(self.left[a] or self.left[b]),
                    refused_share=float(self.share[a, b]),
                    few_cells=next((int(self.sizes[batch]) for batch in (a, b) if self.few[batch]), None),
                    shared_states=int(self.shared_states[a, b]),
                    rules=self.rules,
                )
            )
        return found
