"""Batch effect or composition: how cells differ among themselves, and how log factors are divided between the two.

When batches hold different cells, a missing type looks like a factor on its marker genes. Which of the two a difference
is shows in how much more of it lies on the axes in which the cells of a batch differ among themselves than off them
(`Composition.concentration`): 1 for an effect that hits genes independently; dozens and more for composition, little of
which lies off the axes; batch effects of tissue, which favour the genes that cells differ in, lie in between
(docs/decisions/0019-what-tells-composition-from-a-batch-effect.md). What is removed is the mean over the three, by
their posterior probabilities.
"""

from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from unbatch.models.batchblend.evidence import evidence_of_factors
from unbatch.models.batchblend.settings import RULES, Rules
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

    def ambiguous(self, logs: Tensor) -> Tensor:
        """Excess share of each difference (... x G) that composition could make: 0 as by chance, 1 all of it."""
        along, whole = self.along(logs).square().sum(-1), (logs * self.scale).square().sum(-1)
        by_chance = self.expected.sum()
        return ((along / whole.clamp(min=1e-30) - by_chance) / (1 - by_chance)).clamp(min=0)

    def without(self, logs: Tensor) -> Tensor:
        """Remove all that lies on the axes of composition."""
        return logs - self.along(logs) @ self.axes.T / self.scale

    def _energies(self, logs: Tensor, error: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Squares on each axis, what chance makes of them, and what they would be were they as off the axes; T x m."""
        along = self.along(logs)
        rest = (logs * self.scale - along @ self.axes.T).square().sum(-1)
        lever, leverage = (self.axes * self.scale[:, None]).square(), self.axes.square().sum(1)
        elsewhere = rest / (self.scale.square() * (1 - leverage)).sum()
        return along.square(), error.square() @ lever, (elsewhere[:, None] * lever.sum(0)).clamp(min=1e-30)

    def concentration(self, logs: Tensor, error: Tensor) -> Tensor:
        """How many times more each difference varies on the axes than off them, T: 1 if alike.

        Parameters
        ----------
        logs, error
            Differences before they are shrunk, and their standard errors (infinite of a gene that is not known), T x G.
            What error makes of both variances is subtracted; where nothing is left off the axes, it is infinite.
        """
        known = error.isfinite()
        logs, noise = torch.where(known, logs, 0.0), torch.where(known, error, 0.0).square()
        along = self.along(logs)
        lever, off = (self.axes * self.scale[:, None]).square(), 1 - self.axes.square().sum(1)
        rest = (logs * self.scale - along @ self.axes.T).square().sum(1) - noise @ (self.scale.square() * off)
        elsewhere = rest.clamp(min=0) / (known.to(logs) @ (self.scale.square() * off))
        excess = (along.square() - noise @ lever).sum(1).clamp(min=0)
        return torch.where(excess > 0, excess / (elsewhere * (known.to(logs) @ lever.sum(1))), 1.0)

    def kept(
        self, logs: Tensor, error: Tensor, shifts: tuple[float, ...] = RULES.usual_shifts
    ) -> tuple[Tensor, Tensor]:
        """Share of each difference on each axis that is the batch's, if its effect hits genes independently.

        On each axis a difference is the sum of two normal variables. Such a batch effect varies on each as the others
        tell; composition by some standard deviations of the cells, any of `shifts` alike. What is kept is the mean of
        the batch effect given their sum; with it comes the variance of that, on the axis. Both are T x m.
        """
        squares, chance, batch = (each[..., None] for each in self._energies(logs, error))
        shift = torch.tensor(shifts, dtype=batch.dtype, device=batch.device)
        composition = self.variance[:, None] * shift.square()
        variance = batch + chance + composition
        fits = -0.5 * (variance.log() + squares / variance)
        weight = torch.softmax(fits, -1)
        share = batch / (batch + composition)
        kept = (weight * share).sum(-1)
        left = weight * (batch * (1 - share) + squares * (share - kept[..., None]).square())
        return kept, left.sum(-1)

    def batch_part(
        self, logs: Tensor, error: Tensor, shifts: tuple[float, ...] = RULES.usual_shifts
    ) -> tuple[Tensor, Tensor]:
        """Remove the part that is rather composition's (see `kept`); with it comes the error that this adds; T x G."""
        kept, variance = self.kept(logs, error, shifts)
        return self.keep(logs, kept), (variance @ self.axes.square().T).sqrt() / self.scale

    def keep(self, logs: Tensor, kept: Tensor) -> Tensor:
        """Keep shares of each difference on each axis (T x m), and all that lies off them; T x G."""
        return logs - (self.along(logs) * (1 - kept)) @ self.axes.T / self.scale


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


class Kinds(NamedTuple):
    """Probabilities of what the difference of each batch from the others is, T, by what is done with it.

    Attributes
    ----------
    whole
        A batch effect alone: all of the difference is removed.
    divided
        A batch effect that hits genes independently, and some composition: divided by `Composition.batch_part`.
    nothing
        Composition alone: nothing is removed.
    """

    whole: Tensor
    divided: Tensor
    nothing: Tensor


def kinds(concentration: Tensor, overlap: Tensor, *, strength: float, rules: Rules) -> Kinds:
    """Weigh what the difference of each batch from the others may be.

    Parameters
    ----------
    concentration
        See `Composition.concentration`, T. Its logarithm is normal, with the same standard deviation around that of 1
        if the batch effect hits genes independently, of `Rules.of_tissue` if it favours those that cells differ in, and
        of `Rules.of_composition`, as which more counts, without any batch effect.
    overlap
        Share of the cells of each batch that have cells of another as near as their own once what composition could not
        make is removed, T. Next to a batch effect that hits genes independently, composition is a small part of the
        difference; cells that are still apart without the rest are apart by the batch effect.
    strength
        0.5 gives the probabilities. Towards 1 all is removed, towards 0 what composition could make is left in any
        case; in between the three are mixed in proportion.
    rules
        The constants.
    """
    at = concentration.to(overlap).clamp(1.0, rules.of_composition).log()
    centres = at.new_tensor([rules.of_tissue, 1.0, rules.of_composition]).log()
    density = torch.softmax(-0.5 * ((at[:, None] - centres) / rules.concentration_spread).square(), 1)
    _, independent, composition = density.unbind(1)
    # a batch effect of independent genes is alone where the batches do not overlap
    both = independent * overlap.square() / (overlap.square() + rules.usual_overlap**2)
    whole, nothing = 1 - both - composition, composition
    if strength > 0.5:
        whole, nothing = 1 - (2 - 2 * strength) * (1 - whole), (2 - 2 * strength) * nothing
    elif strength < 0.5:
        # what is too unlike composition to be it alone is divided, where it is not removed
        whole = 2 * strength * whole
    return Kinds(whole, (1 - whole - nothing).clamp(min=0), nothing)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Log factors that a search found, removing all, and what they may be.

    Attributes
    ----------
    logs, error
        What was found and its standard error, T x G.
    compared
        Batches with enough cells, T.
    composition
        How cells differ within batches.
    overlap
        Share of cells that overlap without what composition could make, in the worse direction, T x T.
    shared_states
        Number of states with cells of both of two batches, T x T.
    kinds
        Probabilities of what it is.
    """

    logs: Tensor
    error: Tensor
    compared: Tensor
    composition: Composition
    overlap: Tensor
    shared_states: Tensor
    kinds: Kinds

    def mean(self, rules: Rules) -> tuple[Tensor, Tensor]:
        """Mean of the batch's part and its standard deviation over what it may be, T x G."""
        whole, part, nothing = (each[:, None].to(self.logs) for each in self.kinds)
        divided, doubt = self.composition.batch_part(self.logs, self.error, rules.usual_shifts)
        mean = whole * self.logs + part * divided
        squares = whole * (self.logs - mean).square() + nothing * mean.square()
        sd = (squares + part * ((divided - mean).square() + doubt.square())).sqrt()
        # batches differ in what is left of their difference: the mean of the rest is no longer 0
        compared = self.compared.to(mean)[:, None]
        return mean - compared * (mean * compared).sum(0) / compared.sum().clamp(min=1), sd

    def evidence(self, kept: Tensor, sizes: Tensor, rules: Rules, max_pairs: int = 100) -> list[Evidence]:
        """Say what was found of each pair of batches; of many pairs, those of which composition could make most.

        Parameters
        ----------
        kept
            What is removed, T x G.
        sizes
            Cells of each batch, T.
        rules
            The constants.
        max_pairs
            Most pairs.
        """
        found, weight = [], torch.stack(self.kinds, 1).to(self.logs)
        share, variance = self.composition.kept(self.logs, self.error, rules.usual_shifts)
        divided, doubt = self.composition.keep(self.logs, share), (weight[:, 1:2] * variance).sqrt()
        # of each batch: all of its difference, the divided part, nothing
        parts = torch.stack([self.logs, divided, torch.zeros_like(divided)], 1) * self.composition.scale
        for a, b in combinations(range(len(sizes)), 2):
            whole = (self.logs[a] - self.logs[b]) * self.composition.scale
            square = whole.square().sum().clamp(min=1e-30)
            removed = float(((kept[a] - kept[b]) * self.composition.scale) @ whole / square)
            shares = parts[[a, b]] @ whole / square
            mean = (weight[[a, b]] * shares).sum(1, keepdim=True)
            # the batches of a pair are likely to be of one kind, and the doubts of axes are each other's mirror
            of_kind = (weight[[a, b]] * (shares - mean).square()).sum(1).sqrt().sum()
            by_axis = self.composition.along(self.logs[a] - self.logs[b]) * (doubt[a] + doubt[b]) / square
            few = next((int(sizes[batch]) for batch in (a, b) if not self.compared[batch]), None)
            found.append(
                evidence_of_factors(
                    (a, b),
                    size=float((self.logs[a] - self.logs[b]).square().mean().sqrt()),
                    composition=float(self.composition.ambiguous(self.logs[a] - self.logs[b])),
                    removed=min(max(removed, 0.0), 1.0),
                    removed_error=float(torch.hypot(of_kind, by_axis.norm())),
                    overlap=float(self.overlap[a, b]),
                    few_cells=few,
                    shared_states=int(self.shared_states[a, b]),
                    rules=rules,
                )
            )
        return sorted(found, key=lambda each: (-each.composition, each.batches))[:max_pairs]
