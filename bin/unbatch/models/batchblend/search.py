"""The search for the batch effect: factors, axes, offset and states in turns."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unbatch.models.batchblend.annealed import annealed_offset
from unbatch.models.batchblend.composition import Difference
from unbatch.models.batchblend.effect import Effect, effect_of
from unbatch.models.batchblend.expression import Batches
from unbatch.models.batchblend.factors import Factors, calibrate, difference_of, estimate_factors, profiles_by_batch
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
    if settings.offset == "annealed":
        return search_annealed(*start, settings, seed=seed, log=log, rules=rules)
    found = search(*start, settings, seed=seed, log=log, rules=rules, clean=clean)
    if found.difference is not None and found.factors.logs.any():
        found = found.weighed(found.difference, settings, seed=seed, clean=clean)
    return found.effect(seed)


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search ends with.

    Attributes
    ----------
    view, offset, factors
        The cells divided by the factors, their offset, and the factors.
    centres
        Centres of the states.
    difference
        What the factors may be; None if none were sought.
    """

    view: View
    offset: Offset
    factors: Factors
    centres: Tensor
    difference: Difference | None

    def effect(self, seed: int) -> Effect:
        """Put the batch effect together, and calibrate its errors."""
        factors, evidence = self.factors, self.offset.evidence
        if self.difference is not None:
            view = self.view
            evidence = evidence + self.difference.evidence(factors.logs, view.data.sizes, view.rules)
        if factors.logs.any():
            generator = torch.Generator().manual_seed(seed + 1)
            factors = calibrate(factors, self.view, self.offset, generator=generator)
        return effect_of(self.view, self.offset, factors, centres=self.centres, evidence=evidence)

    def weighed(self, difference: Difference, settings: Settings, *, seed: int, clean: tuple[int, ...]) -> "Found":
        """Take the mean of the factors over what they may be, and find offset and states with it."""
        of_states, of_effect = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 1)
        logs, doubt = difference.mean(self.view.rules)
        view = self.view.divided_by(logs.exp())
        offset = _offset(view, settings, of_effect, clean, last=True)
        view, centres = _states(view, offset, of_states)
        factors = replace(self.factors, logs=logs, doubt=doubt)
        return replace(self, view=view, offset=offset, factors=factors, centres=centres)


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
) -> Found:
    """Find factors, axes, offset and states in turns, removing all differences that are found.

    What is left in the data is hardly found again by later rounds, as states are then those of cells that differ by it.

    Parameters
    ----------
    data, noise, axes, settings, seed, log, rules, clean
        See `find_batch_effect`.
    """
    # what is drawn to judge the batch effect must not change the states: without an effect it leaves the fit untouched
    of_states, of_effect = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 1)
    with_factors = settings.factors and data.count > 1
    what = "batch effect" if settings.factors or settings.offset == "rays" else "states"

    view = first_view(data, noise, axes, of_states, states=settings.metagenes, rules=rules)
    if settings.offset == "rays":
        view = without_certain_offsets(view, of_states, ~_is_clean(view, clean))
    offset, factors, difference = Offset.none(view, sought=settings.offset == "rays"), Factors.none(view), None
    for number in range(settings.rounds):
        log(f"{what}, round {number + 1} of {settings.rounds}")
        last = number == settings.rounds - 1
        if with_factors:
            profiles = profiles_by_batch(view, offset)
            factors = estimate_factors(profiles, factors.logs, view, offset)
            if last:
                shared = profiles.shared_states(rules.min_state_cells)
                difference = difference_of(
                    factors, view, offset, shared, strength=settings.strength, generator=of_effect
                )
        view = view.divided_by(factors.logs.exp())
        offset = _offset(view, settings, of_effect, clean, last=last)
        view, centres = _states(view, offset, of_states)
    return Found(view=view, offset=offset, factors=factors, centres=centres, difference=difference)


def _is_clean(view: View, clean: tuple[int, ...]) -> Tensor:
    """Whether each batch is known to have no offset, T."""
    found = torch.zeros(view.data.count, dtype=torch.bool, device=view.totals.device)
    found[list(clean)] = True
    return found


def _offset(
    view: View, settings: Settings, generator: torch.Generator, clean: tuple[int, ...], *, last: bool
) -> Offset:
    if settings.offset != "rays":
        return Offset.none(view)
    return estimate_offset(view, generator, clean=_is_clean(view, clean), last=last)


def _states(view: View, offset: Offset, generator: torch.Generator) -> tuple[View, Tensor]:
    """Find the states anew; return the cells in them and the centres."""
    points = view.profiles(offset.on_axes, offset.total)
    centres = kmeans(points, view.states, generator)
    return replace(view, state=nearest(points, centres)), centres


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
    view, centres = _states(view, offset, generator)
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
