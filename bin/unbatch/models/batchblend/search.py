"""The search for the batch effect: factors, axes, offset and states in turns."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from unbatch.models.batchblend.annealed import annealed_offset
from unbatch.models.batchblend.composition import Comparisons
from unbatch.models.batchblend.effect import Effect, effect_of
from unbatch.models.batchblend.expression import Batches
from unbatch.models.batchblend.factors import Factors, calibrate, estimate_factors
from unbatch.models.batchblend.noise import Noise
from unbatch.models.batchblend.offset import Offset, estimate_offset, is_certain, rays_of
from unbatch.models.batchblend.settings import RULES, Rules, Settings
from unbatch.models.batchblend.states import first_states
from unbatch.models.batchblend.view import Axes, View, scores_and_totals
from unbatch.nn.kmeans import kmeans, nearest


def find_batch_effect(
    data: Batches,
    noise: Noise,
    bases: list[Tensor],
    settings: Settings,
    *,
    seed: int,
    log: Callable[[str], None],
    rules: Rules = RULES,
    clean: tuple[int, ...] = (),
) -> Effect:
    """Search for the batch effect as the settings want it.

    Later rounds see ever less of what is left in the data: states are those of cells that differ by it. So ``auto``
    decides on what a search finds that has removed all, and searches anew if it is to be left.

    Parameters
    ----------
    data, noise, bases
        The cells, their noise, and principal axes of each batch.
    settings
        What is sought.
    seed
        Seed of all random numbers.
    log
        Called with a line of progress now and then.
    rules
        The thresholds.
    clean
        Batches that are known to have no offset.
    """
    start = (data, noise, Axes(tuple(bases)))
    options = {"seed": seed, "log": log, "rules": rules, "clean": clean}
    if settings.offset == "annealed":
        return search_annealed(*start, settings, seed=seed, log=log, rules=rules)
    if settings.ambiguous != "auto":
        return search(*start, settings, **options)[0]
    effect, comparisons = search(*start, replace(settings, ambiguous="remove"), **options)
    if not comparisons.overlapping.any() or comparisons.overall > rules.small_ambiguity:
        return effect
    log("composition could make a small part of the batch effect: that part is left, the rest sought anew")
    # what is held of the cells is not needed twice
    del effect
    reference = comparisons.last_share
    return search(*start, replace(settings, ambiguous="leave"), **options, reference_share=reference)[0]


def search(
    data: Batches,
    noise: Noise,
    axes: Axes,
    settings: Settings,
    *,
    seed: int,
    log: Callable[[str], None],
    rules: Rules,
    clean: tuple[int, ...] = (),
    reference_share: Tensor | None = None,
) -> tuple[Effect, Comparisons]:
    """Find factors, axes, offset and states in turns.

    Parameters
    ----------
    data, noise, axes, settings, seed, log, rules, clean
        See `find_batch_effect`.
    reference_share
        See `Comparisons`.
    """
    # what is drawn to judge the batch effect must not change the states: refused, it leaves the fit untouched
    of_states, of_effect = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 1)
    comparisons = Comparisons(data.sizes, rules=rules, reference_share=reference_share)
    is_clean = torch.zeros(data.count, dtype=torch.bool, device=data.mean.device)
    is_clean[list(clean)] = True
    by_rays = settings.offset == "rays"
    with_factors = settings.factors and data.count > 1
    what = "batch effect" if settings.factors or by_rays else "states"

    view = first_view(data, noise, axes, of_states, states=settings.metagenes, rules=rules)
    if by_rays:
        view = without_certain_offsets(view, of_states, ~is_clean)
    offset, factors = Offset.none(view, sought=by_rays), Factors.none(view)
    for number in range(settings.rounds):
        log(f"{what}, round {number + 1} of {settings.rounds}")
        last = number == settings.rounds - 1
        if with_factors:
            leave = settings.ambiguous == "leave"
            factors = estimate_factors(view, offset, factors.logs, comparisons, generator=of_effect, leave=leave)
        view = view.divided_by(factors.logs.exp())
        offset = estimate_offset(view, of_effect, clean=is_clean, last=last) if by_rays else Offset.none(view)
        profiles = view.profiles(offset.on_axes, offset.total)
        centres = kmeans(profiles, view.states, of_states)
        view = replace(view, state=nearest(profiles, centres))
    if factors.logs.any():
        factors = calibrate(factors, view, offset, comparisons.groups, generator=of_effect)
    evidence = offset.evidence + (comparisons.evidence(factors.logs) if settings.factors else [])
    return effect_of(view, offset, factors, centres=centres, evidence=evidence), comparisons


def search_annealed(
    data: Batches,
    noise: Noise,
    axes: Axes,
    settings: Settings,
    *,
    seed: int,
    log: Callable[[str], None],
    rules: Rules,
) -> Effect:
    """Find the offset by a prior on the amounts, then the states; see `find_batch_effect`."""
    generator = torch.Generator().manual_seed(seed)
    view = first_view(data, noise, axes, generator, states=settings.metagenes, rules=rules)
    log("batch effect (annealed)")
    view, offset = annealed_offset(view)
    profiles = view.profiles(offset.on_axes, offset.total)
    centres = kmeans(profiles, view.states, generator)
    view = replace(view, state=nearest(profiles, centres))
    return effect_of(view, offset, Factors.none(view), centres=centres, evidence=offset.evidence)


def first_view(
    data: Batches, noise: Noise, axes: Axes, generator: torch.Generator, *, states: int, rules: Rules
) -> View:
    """See the cells before anything is known of the batch effect, on the axes of each batch, in their first states."""
    scores, totals = scores_and_totals(data, noise, data.ones(), axes)
    return View(
        data=data,
        noise=noise,
        rules=rules,
        factors=data.ones(),
        axes=axes,
        scores=scores,
        totals=totals,
        state=first_states(data, noise, axes, generator, states=states, rules=rules),
        states=states,
        mean_total=float(totals.mean()),
    )


def without_certain_offsets(view: View, generator: torch.Generator, possible: Tensor) -> View:
    """Find the first states anew where an offset is certain, whatever the states of other batches.

    An offset makes the cells of a batch alike. Next to cells without one they are all near the centre, and where no
    state has cells of both there would be nothing to tell factors by.
    """
    rays = rays_of(view, separate=True).fit()
    certain = is_certain(rays, view) & possible
    if not certain.any() or view.data.count == 1:
        return view
    offset = rays.offset * certain[:, None], rays.total * certain
    state = first_states(
        view.data, view.noise, view.axes, generator, states=view.states, offset=offset, rules=view.rules
    )
    return replace(view, state=state)
