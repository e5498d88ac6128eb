"""The multiplicative effect: factors per gene and batch, from the profiles of the states that batches share."""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from unbatch.models.batchblend.composition import Difference, composition_of, kinds, overlap
from unbatch.models.batchblend.expression import Batches
from unbatch.models.batchblend.offset import Offset, is_certain, rays_of
from unbatch.models.batchblend.settings import Rules
from unbatch.models.batchblend.two_way import two_way
from unbatch.models.batchblend.view import View

_MEDIAN_OF_SQUARES = 0.455
"""Median square of a normal variable over its mean square."""


class Profiles(NamedTuple):
    """States as each batch has them.

    Attributes
    ----------
    mean, variance
        Profile of each state in each batch, per unit of size, and its variance, T x C x G.
    count
        Cells in each state and batch, T x C.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor

    def of(self, batches: list[int]) -> "Profiles":
        """Return the profiles in some batches."""
        return Profiles(self.mean[batches], self.variance[batches], self.count[batches])

    def shared_states(self, min_cells: int) -> Tensor:
        """Return the number of states with cells of both of two batches, T x T."""
        present = (self.count >= min_cells).double()
        return present @ present.T


@dataclass(frozen=True, kw_only=True)
class Factors:
    """Factors of genes, T x G.

    Attributes
    ----------
    logs
        Logarithms, mean 0 over batches; 0 where there are none.
    se
        Standard errors of these, without what the error of the offset makes.
    doubt
        Part of the error that comes of what composition may have made.
    found, found_error
        Logarithms before they are shrunk, and all of their error (infinite of a gene that is not seen).
    """

    logs: Tensor
    se: Tensor
    doubt: Tensor
    found: Tensor
    found_error: Tensor

    @classmethod
    def none(cls, view: View) -> "Factors":
        """No factors in any batch."""
        zeros = torch.zeros_like(view.factors)
        return cls(logs=zeros, se=zeros, doubt=zeros, found=zeros, found_error=zeros)


def estimate_factors(profiles: Profiles, log_factors: Tensor, view: View, offset: Offset) -> Factors:
    """Move the log factors by what the profiles tell, and shrink them; 0 for batches with too few cells.

    Parameters
    ----------
    profiles
        States as each batch has them, after division by the factors so far.
    log_factors
        Logarithms of the factors so far, T x G.
    view, offset
        The cells and their offset, whose error is one of the factors, too.
    """
    large, none = comparable(view), Factors.none(view)
    if len(large) < 2:
        return none
    step, error = gene_factors(profiles.of(large), _floor(view.data, view.rules), view.rules)
    whole = error
    if offset.genes.any():
        whole = torch.hypot(error, error_by_offset(view, offset)[large])
    logs, se, found, found_error = (none.logs.clone() for _ in range(4))
    found[large], found_error[large] = log_factors[large] + step, whole
    logs[large], se[large] = shrink(found[large], whole, floor=view.rules.min_factor_spread)
    # the part that is the offset's is added in the end (`calibrate`)
    se[large] *= torch.where(error.isfinite(), error / whole, 1.0)
    return replace(none, logs=logs, se=se, found=found, found_error=found_error)


def comparable(view: View) -> list[int]:
    """Batches with enough cells to be compared gene by gene."""
    return (view.data.sizes >= view.rules.min_batch_cells).nonzero()[:, 0].tolist()


def difference_of(
    factors: Factors, view: View, offset: Offset, shared_states: Tensor, *, strength: float, generator: torch.Generator
) -> Difference:
    """Weigh what the factors that were found may be.

    Parameters
    ----------
    factors
        What was found, removing all.
    view, offset
        The cells in which composition is looked for, and their offset.
    shared_states
        See `Difference`.
    strength
        See `kinds`.
    generator
        Source of the sample of cells by which it is judged whether batches overlap.
    """
    composition, rules = composition_of(view), view.rules
    # composition can be what tells batches apart only if they overlap without it
    rest = view.divided_by(composition.without(factors.logs).exp())
    on_axes = (offset.genes * view.noise.weights) @ rest.axes.shared
    share = overlap(rest.profiles(on_axes, offset.total), view.data.slices, generator, rules=rules)
    share = torch.minimum(share, share.T)
    weighed = kinds(
        composition.concentration(factors.found, factors.found_error),
        share.max(1).values,
        strength=strength,
        rules=rules,
    )
    compared = torch.zeros(view.data.count, dtype=torch.bool)
    compared[comparable(view)] = True
    return Difference(
        logs=factors.logs,
        error=factors.se,
        compared=compared,
        composition=composition,
        overlap=share,
        shared_states=shared_states,
        kinds=weighed,
    )


def profiles_by_batch(view: View, offset: Offset) -> Profiles:
    """Profile of each state in each batch: by rays where an offset is certain, else as ratios of sums."""
    batches, states = view.data.count, view.states
    count = torch.bincount(view.separate_state, minlength=batches * states).view(batches, states)
    if offset.sought:
        problem = rays_of(view, separate=True)
        rays = problem.fit()
        if is_certain(rays, view).any():
            bases, weights = [view.axes.padded(b) for b in range(batches)], view.noise.weights
            mean = torch.einsum("bcr,bgr->bcg", rays.profile.view(batches, states, -1), torch.stack(bases))
            variance = problem.profile_variance(rays, bases).view(batches, states, -1)
            return Profiles(mean / weights, variance / weights.square(), count)
    member = torch.nn.functional.one_hot(view.state, states)
    return Profiles(*_ratios_of_sums(view, offset.genes, member), count)


def _ratios_of_sums(view: View, offset: Tensor, member: Tensor) -> tuple[Tensor, Tensor]:
    """Profiles as ratios of sums by batch and state (n x C, 0 or 1), and their variance; T x C x G."""
    data, factors = view.data, view.factors
    size = view.sizes(offset.sum(1))
    profiles, variances = [], []
    for b, (matrix, cells) in enumerate(zip(data.matrices, data.slices, strict=True)):
        in_state = member[cells].double()
        sized = in_state * size[cells, None]
        count, total, total_squares = in_state.sum(0), sized.sum(0), (sized * size[cells, None]).sum(0)
        expression = matrix.transposed_times(in_state).T / factors[b]
        with_size = matrix.transposed_times(sized).T / factors[b] - total[:, None] * offset[b]
        squares = matrix.squares_transposed_times(in_state).T / factors[b].square()
        squares += count[:, None] * offset[b].square() - 2 * offset[b] * expression
        profile = (expression - count[:, None] * offset[b]) / total.clamp(min=1e-9)[:, None]
        residual = squares - 2 * profile * with_size + profile.square() * total_squares[:, None]
        profiles.append(profile)
        variances.append(residual.clamp(min=0) / total.clamp(min=1e-9).square()[:, None])
    return torch.stack(profiles), torch.stack(variances)


def gene_factors(profiles: Profiles, floor: Tensor, rules: Rules) -> tuple[Tensor, Tensor]:
    """Compare the profiles of the same states between batches, gene by gene, robustly.

    Parameters
    ----------
    profiles
        States of the batches that are compared.
    floor
        Smallest expression that is compared, G.
    rules
        The thresholds.

    Returns
    -------
    tuple of Tensor
        Logarithm of the factors (mean 0 over batches) and their standard errors, T x G.
    """
    profile, variance, count = profiles
    known = (count >= rules.min_state_cells)[..., None] & (profile > floor)
    known &= known.sum(0) >= 2
    positive = profile.clamp(min=1e-12)
    variance = torch.where(known, (variance / positive.square()).clamp(max=25) + 1e-6, math.inf)
    logs = torch.where(known, positive.log(), 0.0)
    factors, error, _ = two_way(logs, variance, huber=rules.outlying_state)
    missing = torch.tensor(math.nan, dtype=logs.dtype, device=logs.device)
    for _ in range(2):
        # profiles are shares: that of a state falls in all genes where one is much too high
        left = torch.where(known, logs - factors[:, None], missing)
        common = (left - left.nanmean(0)).nanmedian(-1).values.nan_to_num()
        logs = torch.where(known, logs - common[..., None], 0.0)
        factors, error, _ = two_way(logs, variance, huber=rules.outlying_state)
    return factors, error


def _floor(data: Batches, rules: Rules) -> Tensor:
    """Smallest expression that is compared, per unit of size, G."""
    return rules.min_expression * data.mean / data.mean.sum()


def shrink(logs: Tensor, error: Tensor, floor: float = 0.0) -> tuple[Tensor, Tensor]:
    """Shrink log factors towards 0 by empirical Bayes.

    Parameters
    ----------
    logs, error
        Log factors and their standard errors, T x G. A factor of infinite error, of a gene that is not seen in a batch,
        becomes 1 with the prior's deviation.
    floor
        Standard deviation of log factors that other errors make; the prior's variance is lower by its square.

    Returns
    -------
    tuple of Tensor
        The shrunken log factors and their posterior standard deviation, T x G.
    """
    known = error.isfinite()
    error = torch.where(known, error, math.inf)
    if not known.any():
        return torch.zeros_like(logs), torch.zeros_like(error)
    square = error[known].square()
    weight = 1 / (square + square.median())
    prior = float((weight * (logs[known].square() - square)).sum() / weight.sum())
    prior = max(0.0, prior - floor**2)
    kept = prior / (prior + error.square())
    logs = torch.where(known, logs * kept, 0.0)
    mean = logs.sum(0) / known.sum(0).clamp(min=1)
    return torch.where(known, logs - mean, 0.0), (prior * (1 - kept)).sqrt()


def calibrate(factors: Factors, view: View, offset: Offset, *, generator: torch.Generator) -> Factors:
    """Scale the errors of the factors to what random halves of the cells, fitted apart, differ by.

    The doubt of composition, on which halves of the same batches agree, and the error of the offset are added.
    """
    found, expected = torch.zeros_like(offset.total), torch.zeros_like(offset.total)
    for halves in view.halves(generator):
        (one, one_se), (other, other_se) = (_steps_of_half(half, offset, view) for half in halves)
        known = one_se.isfinite() & other_se.isfinite()
        difference = torch.where(known, one - other, 0.0)
        difference = difference - difference.median(1, keepdim=True).values
        found += difference.square().median(1).values
        expected += (one_se.square() + other_se.square()).median(1).values
    ratio = found / (_MEDIAN_OF_SQUARES * expected.clamp(min=1e-12))
    se = torch.hypot(factors.se * ratio.clamp(0.1, 100).sqrt()[:, None], factors.doubt)
    if offset.genes.any():
        se = torch.hypot(se, error_by_offset(view, offset))
    return replace(factors, se=se)


def _steps_of_half(half: View, offset: Offset, whole: View) -> tuple[Tensor, Tensor]:
    """Increments of the log factors in half of the cells, and their errors, T x G."""
    profiles, floor = profiles_by_batch(half, offset), _floor(whole.data, whole.rules)
    found, errors = torch.zeros_like(offset.genes), torch.zeros_like(offset.genes)
    large = comparable(whole)
    found[large], errors[large] = gene_factors(profiles.of(large), floor, whole.rules)
    return found, errors


def error_by_offset(view: View, offset: Offset) -> Tensor:
    """Carry the errors of the offset over to the log factors, T x G: what one has too much, the other lacks."""
    data, share = view.data, 1 / view.data.count
    ones = torch.ones(len(view.totals), 1, dtype=torch.float64, device=view.totals.device)
    parts = zip(data.matrices, data.slices, strict=True)
    mean = torch.stack([matrix.transposed_times(ones[cells])[:, 0] for matrix, cells in parts])
    mean = mean / data.sizes[:, None] / view.factors
    signal = (mean - offset.genes).clamp(min=0.1 * mean)
    # of a gene that a batch does not have, there is no factor
    variance = torch.where(mean > 0, (offset.genes_se / signal.clamp(min=1e-30)).square(), 0.0)
    # less the mean over batches, as the logarithms are
    return ((1 - 2 * share) * variance + share**2 * variance.sum(0)).sqrt()
