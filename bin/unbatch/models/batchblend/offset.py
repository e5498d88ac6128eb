"""The additive effect: where the rays of a batch meet, how sure that is, and how likely it is that there is one.

Within a state, a cell of total T_i lies on the ray ``F_b + g_b * p_c (T_i - S_b)``; all rays of a batch meet in its
offset F_b, whose total is S_b (`rays`). What is removed is the estimate, shrunk by its error,
times the probability that there is an offset at all (`weigh_offsets`).
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from unbatch.models.batchblend.evidence import evidence_of_offset
from unbatch.models.batchblend.expression import means_by_group
from unbatch.models.batchblend.noise import projector
from unbatch.models.batchblend.rays import RayFit, Rays, quadratic
from unbatch.models.batchblend.settings import Rules
from unbatch.models.batchblend.view import View
from unbatch.models.verdicts import Evidence
from unbatch.nn.kmeans import nearest

_WORTH_HALVES = 0.1
"""Probability of an offset below which its error is not found from halves of the cells, which would only lower it."""
_NO_OFFSET = 0.001
"""Share of the mean total. A smaller offset changes nothing that is measured, and is left in the data."""


@dataclass(frozen=True, kw_only=True)
class Offset:
    """Offset of each batch, before factors; 0 where there hardly is one.

    Attributes
    ----------
    genes, genes_se
        What is removed as the offset of each gene, and its standard deviation, T x G.
    total, total_se
        The same of the sum of the offset over genes, T.
    on_axes
        The offset on the axes of the view that it was found in, T x r.
    sought
        Whether the search asks the rays of the cells for one.
    evidence
        How large the offset of each batch is, and how likely.
    """

    genes: Tensor
    genes_se: Tensor
    total: Tensor
    total_se: Tensor
    on_axes: Tensor
    sought: bool
    evidence: list[Evidence] = field(default_factory=list)

    @classmethod
    def none(cls, view: View, *, sought: bool = False) -> "Offset":
        """No offset in any batch, or none yet."""
        genes = torch.zeros_like(view.factors)
        total = genes[:, 0].clone()
        on_axes = view.scores.new_zeros(len(total), view.scores.shape[1])
        return cls(genes=genes, genes_se=genes, total=total, total_se=total, on_axes=on_axes, sought=sought)


def rays_of(view: View, *, separate: bool = False) -> RayFit:
    """Rays of the states of a view, with one profile of each for all batches, or `separate` ones."""
    count = view.data.count if separate else 1
    return RayFit(
        view.scores,
        view.totals,
        batch=view.data.batch,
        state=view.separate_state if separate else view.state,
        states=count * view.states,
        genes=len(view.data.mean),
        offset_scale=float((view.data.mean * view.noise.weights).square().mean()),
        rules=view.rules,
    )


def is_certain(rays: Rays, view: View) -> Tensor:
    """Whether the offset of each batch is beyond doubt, T."""
    rules = view.rules
    return (rays.total > rules.certain_offset_errors * rays.error) & (rays.error < rules.usual_offset * view.mean_total)


class Weighed(NamedTuple):
    """What is known of the offset of each batch.

    Attributes
    ----------
    likely
        Probability that there is one, T.
    kept
        Share of the estimate that is the mean of the offset if there is one, T.
    """

    likely: Tensor
    kept: Tensor

    @property
    def removed(self) -> Tensor:
        """Share of the estimate that is removed, T."""
        return self.likely * self.kept

    def variance(self, estimate: Tensor, noise: Tensor) -> Tensor:
        """Posterior variance of an offset (T x ...), from its estimate and the variance of that."""
        likely, kept = (each.view(-1, *[1] * (estimate.dim() - 1)) for each in self)
        return likely * kept * noise + likely * (1 - likely) * (kept * estimate).square()


def estimate_offset(view: View, generator: torch.Generator, *, clean: Tensor, last: bool) -> Offset:
    """Find the offset of each batch, and shrink it by the probability that there is one.

    Parameters
    ----------
    view
        The cells, on axes that all batches share.
    generator
        Source of random halves of cells and genes.
    clean
        Batches that are known to have no offset, T.
    last
        Whether this is the last round. Before it an offset is judged by less, as it is not kept.
    """
    rules, basis, unit = view.rules, view.axes.shared, view.mean_total
    rays = rays_of(view).fit()
    se = rays.error
    covariance = rays.covariance
    if (view.factors != 1).any():
        # with factors as given an offset looks more certain than it is: both come from the same rays
        covariance = rays_of(view, separate=True).fit(start=rays.total).covariance
    variance = quadratic(basis, covariance).clamp(min=0)
    if (weigh_offsets(rays.total / unit, se / unit, ~clean, rules).likely > _WORTH_HALVES).any():
        of_total, of_genes = _variance_of_halves(view, rays.total, generator, repeats=3 if last else 1)
        se = torch.maximum(se, of_total.sqrt())
        variance = variance * (of_genes / variance.mean(1)).clamp(min=1)[:, None]
    by_size = se
    likely = weigh_offsets(rays.total / unit, se / unit, ~clean, rules).likely
    worth = (se < rules.usual_offset * unit) | (likely > _WORTH_HALVES)
    if last and worth.any() and len(basis) > 2 * basis.shape[1]:
        # what depends on the genes that choose the states is not known better than that
        change = _change_across_genes(view, generator)
        se = torch.hypot(by_size, change)
        variance = variance * (se / by_size).square()[:, None]
    weighed = weigh_offsets(rays.total / unit, se / unit, ~clean, rules)
    some = weighed.removed * rays.total > _NO_OFFSET * unit
    weighed = weighed._replace(likely=weighed.likely * some)
    removed = weighed.removed
    on_axes, estimate = rays.offset * removed[:, None], rays.offset @ basis.T
    evidence = [
        evidence_of_offset(
            b,
            size=float(rays.total[b]) / unit,
            error=float(se[b]) / unit,
            error_by_size=float(by_size[b]) / unit,
            probability=float(weighed.likely[b]),
            removed=float(removed[b]),
            none_known_by_size=bool((by_size >= rules.usual_offset * unit).all()),
            rules=rules,
        )
        for b in range(view.data.count)
    ]
    return Offset(
        genes=estimate * removed[:, None] / view.noise.weights,
        genes_se=weighed.variance(estimate, variance).sqrt() / view.noise.weights,
        total=rays.total * removed,
        total_se=weighed.variance(rays.total, se.square()).sqrt(),
        on_axes=on_axes,
        sought=True,
        evidence=evidence,
    )


def weigh_offsets(total: Tensor, error: Tensor, possible: Tensor, rules: Rules, rates: int = 200) -> Weighed:
    """Weigh how likely an offset is in each batch, and how large if there is one.

    Without an offset the estimate is an error around 0; with one it is, before it is seen, as likely to be any share of
    the mean total. The share of batches that have an offset is itself unknown: it has a beta distribution before the
    data are seen, as if half a batch with one and `Rules.batches_without_offset` without had been, and is integrated
    over. If there is an offset, the estimate is shrunk by a prior of its own, a normal one whose
    variance is the square of `Rules.usual_offset` and what the square of the estimate exceeds that of its error by.

    Parameters
    ----------
    total, error
        Total of the offset and its standard error, as shares of the mean total, T.
    possible
        Batches that may have an offset, T; others neither have one nor tell of the rest.
    rules
        The constants.
    rates
        Number of values that the share of batches with an offset is integrated over.
    """
    error = error.nan_to_num(nan=1e3).clamp(1e-6, 1e3)
    noise = error.square()
    spread = rules.usual_offset**2 + (total.square() - noise).clamp(min=0)
    kept = spread / (spread + noise)
    distance = total / error
    inside = torch.special.ndtr(distance) - torch.special.ndtr(distance - 1 / error)
    log_bayes = (error * math.sqrt(2 * math.pi) * inside.clamp(min=1e-300)).log() + distance.square() / 2
    rate = (torch.arange(rates, dtype=total.dtype, device=total.device) + 0.5) / rates
    likely = torch.sigmoid(log_bayes[:, None] + torch.logit(rate))
    prior = (rules.batches_without_offset - 1) * (1 - rate).log() - rate.log() / 2
    fits = torch.logaddexp(log_bayes[:, None] + rate.log(), (1 - rate).log())
    weight = torch.softmax(prior + fits[possible].sum(0), 0)
    return Weighed(torch.where(possible, likely @ weight, 0.0), kept)


def _variance_of_halves(view: View, start: Tensor, generator: torch.Generator, repeats: int) -> tuple[Tensor, Tensor]:
    """Variance of the total of the offset (T), and its mean over weighted genes (T), from random halves of the cells.

    Axes are found anew in each half: their error is in the difference, too.
    """
    totals, genes = [], []
    # halves are of a sample where batches are large, and their variance falls with the number of cells
    drawn = (view.rules.max_cells_halved / view.data.sizes).clamp(max=1)
    for halves in view.halves(generator, repeats):
        (one, one_total), (other, other_total) = (rays_of(half).intersections(start) for half in halves)
        one, other = one @ halves[0].axes.shared.T, other @ halves[1].axes.shared.T
        totals.append(drawn * (one_total - other_total).square() / 4)
        genes.append(drawn * (one - other).square().mean(1) / 4)
    return torch.stack(totals).mean(0), torch.stack(genes).mean(0)


def _change_across_genes(view: View, generator: torch.Generator) -> Tensor:
    """Change of the total offset when no gene chooses the states of the cells that its rays are drawn through, T.

    A cell goes to a state by the noise of its genes, too, and the smaller it is, the more by noise: the cells of a
    state seem to lie on a line that does not point to the offset. With states by half of the genes, the rays of the
    other half are free of that. Counts with a dispersion of 0.1 in 100 genes made offsets a quarter too small.
    """
    view = view.sample(generator)
    data, basis, weights = view.data, view.axes.shared, view.noise.weights
    precision = view.noise.precision(data.mean, view.factors)
    offset, total = rays_of(view).intersections(torch.zeros_like(view.factors[:, 0]))
    centres = means_by_group(view.profiles(offset, total), view.state, view.states)[view.state.unique()]
    of_total = (basis / weights[:, None]).sum(0)
    changes = []
    for _ in range(view.rules.gene_splits):
        half = torch.randperm(len(basis), generator=generator).to(basis.device) < len(basis) // 2
        change = -total
        for chosen, other in ((half, ~half), (~half, half)):
            across = torch.zeros_like(basis)
            across[other] = torch.linalg.qr(basis[other]).Q
            rights = [
                torch.cat(
                    [
                        projector(basis, h * chosen) * (weights / g)[:, None],
                        projector(across, h * other) * (weights / g)[:, None],
                        (other / g)[:, None],
                    ],
                    1,
                )
                for g, h in zip(view.factors, precision, strict=True)
            ]
            scores, of_others, totals_of_others = data.times(rights).split([basis.shape[1], basis.shape[1], 1], dim=1)
            size = (scores @ of_total - total[data.batch]).clamp(min=view.rules.min_size * view.mean_total)
            problem = RayFit(
                of_others,
                totals_of_others[:, 0],
                batch=data.batch,
                state=nearest((scores - offset[data.batch]) / size[:, None], centres),
                states=len(centres),
                genes=int(other.sum()),
                offset_scale=float((data.mean * weights)[other].square().mean()),
                rules=view.rules,
            )
            change = change + problem.intersections(total / 2)[1]
        changes.append(change)
    return torch.stack(changes).mean(0)
