"""The additive effect: where the rays of a batch meet, how sure that is, and whether it is accepted.

Within a state, a cell of total T_i lies on the ray ``F_b + g_b * p_c (T_i - S_b)``; all rays of a batch meet in its
offset F_b, whose total is S_b (`rays`).
"""

from dataclasses import dataclass, field

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


@dataclass(frozen=True, kw_only=True)
class Offset:
    """Offset of each batch, before factors; 0 where none is accepted.

    Attributes
    ----------
    genes, genes_se
        Offset of each gene and its standard error, T x G.
    total, total_se
        Sum of the offset over genes and its standard error, T.
    on_axes
        The offset on the axes of the view that it was found in, T x r.
    sought
        Whether the search asks the rays of the cells for one.
    evidence
        Why the offset of each batch was accepted or not.
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
    return (rays.total > rules.certain_offset_errors * rays.error) & (
        rays.error < rules.max_offset_error * view.mean_total
    )


def estimate_offset(view: View, generator: torch.Generator, *, clean: Tensor, last: bool) -> Offset:
    """Find the offset of each batch, and accept it where it is certain.

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
    rules, basis = view.rules, view.axes.shared
    rays = rays_of(view).fit()
    se = rays.error
    covariance = rays.covariance
    if (view.factors != 1).any():
        # with factors as given an offset looks more certain than it is: both come from the same rays
        covariance = rays_of(view, separate=True).fit(start=rays.total).covariance
    variance = quadratic(basis, covariance).clamp(min=0)
    if (rays.total > rules.min_offset_errors * se).any():
        of_total, of_genes = _variance_of_halves(view, rays.total, generator, repeats=3 if last else 1)
        se = torch.maximum(se, of_total.sqrt())
        variance = variance * (of_genes / variance.mean(1)).clamp(min=1)[:, None]
    known = known_by_size = se < rules.max_offset_error * view.mean_total
    if last and known.any() and len(basis) > 2 * basis.shape[1]:
        # what depends on the genes that choose the states is not known better than that
        change = _change_across_genes(view, generator)
        chance = se.square()
        se = (chance + change.square()).sqrt()
        variance = variance * (1 + change.square() / chance)[:, None]
        known = se < rules.max_offset_error * view.mean_total
    possible = known & ~clean
    min_errors = _min_errors(rays.total, se, possible, rules)
    accepted = (rays.total > min_errors * se) & possible
    on_axes = rays.offset * accepted[:, None]
    evidence = [
        evidence_of_offset(
            b,
            size=float(rays.total[b]) / view.mean_total,
            error=float(se[b]) / view.mean_total,
            accepted=bool(accepted[b]),
            min_errors=float(min_errors[b]),
            known_by_size=bool(known_by_size[b]),
            none_known_by_size=not known_by_size.any(),
            rules=rules,
        )
        for b in range(view.data.count)
    ]
    return Offset(
        genes=on_axes @ basis.T / view.noise.weights,
        genes_se=variance.sqrt() / view.noise.weights * accepted[:, None],
        total=rays.total * accepted,
        total_se=se,
        on_axes=on_axes,
        sought=True,
        evidence=evidence,
    )


def _min_errors(total: Tensor, se: Tensor, possible: Tensor, rules: Rules) -> Tensor:
    """Return how many standard errors from 0 the offset of each batch is accepted, T.

    Fewer where the offsets of most other batches are certain: then one is likely, and 0 is no safe guess.
    """
    certain = (total > rules.certain_offset_errors * se) & possible
    others_certain = int(certain.sum()) - certain.int()
    most = 2 * others_certain > len(total) - 1
    return torch.where(most, rules.offset_errors_next_to_certain, rules.min_offset_errors)


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
