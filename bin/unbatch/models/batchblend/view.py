"""Cells as a round of the search sees them: divided by the factors, on principal axes, in states."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unbatch.models.batchblend.expression import Batches
from unbatch.models.batchblend.noise import Noise, principal_axes, projector
from unbatch.models.batchblend.settings import Rules


@dataclass(frozen=True)
class Axes:
    """Principal axes in weighted gene space: one basis for all batches, or one for each.

    Attributes
    ----------
    bases
        One or T of them, orthonormal, G x r. A small batch has fewer axes than others.
    """

    bases: tuple[Tensor, ...]

    @property
    def shared(self) -> Tensor:
        """The basis of all batches, G x r."""
        (basis,) = self.bases
        return basis

    @property
    def width(self) -> int:
        """Number of axes of the batch that has most."""
        return max(basis.shape[1] for basis in self.bases)

    def of_batch(self, b: int) -> Tensor:
        """Return the basis of a batch, G x r."""
        return self.bases[b] if len(self.bases) > 1 else self.bases[0]

    def padded(self, b: int) -> Tensor:
        """Return the basis of a batch behind columns of 0, which leave lengths as they are; G x width."""
        basis = self.of_batch(b)
        return torch.nn.functional.pad(basis, (self.width - basis.shape[1], 0))

    def own(self, b: int, scores: Tensor) -> Tensor:
        """Cut scores of cells of a batch (n x width) to its own axes, n x r."""
        return scores[:, self.width - self.of_batch(b).shape[1] :]


def scores_and_totals(data: Batches, noise: Noise, factors: Tensor, axes: Axes) -> tuple[Tensor, Tensor]:
    """Scores of the cells on the axes (n x width) and totals (n), after expression is divided by the factors."""
    precision = noise.precision(data.mean, factors)
    rights = []
    for b in range(data.count):
        right = projector(axes.of_batch(b), precision[b]) * (noise.weights / factors[b])[:, None]
        right = torch.cat([right, 1 / factors[b, :, None]], 1)
        rights.append(torch.nn.functional.pad(right, (axes.width + 1 - right.shape[1], 0)))
    product = data.times(rights)
    return product[:, :-1], product[:, -1]


@dataclass(frozen=True, kw_only=True)
class View:
    """Cells of a search, or some of them, once the factors are divided out.

    Attributes
    ----------
    data, noise, rules
        The cells, their noise, and the thresholds.
    factors
        What expression is divided by, T x G.
    axes, scores, totals
        Principal axes, scores of the cells on them (n x r), and their totals (n), all after division.
    state, states
        State of each cell, n, and the number of states, C.
    mean_total
        Mean total of all cells of the search.
    """

    data: Batches
    noise: Noise
    rules: Rules
    factors: Tensor
    axes: Axes
    scores: Tensor
    totals: Tensor
    state: Tensor
    states: int
    mean_total: float

    @property
    def separate_state(self) -> Tensor:
        """State of each cell, numbered apart in each batch, n."""
        return self.data.batch * self.states + self.state

    def sizes(self, total_offset: Tensor) -> Tensor:
        """Return what is left of the total of each cell without the offset (T) of its batch, n."""
        left = self.totals - total_offset[self.data.batch]
        return left.clamp(min=self.rules.min_size * self.mean_total)

    def profiles(self, offset: Tensor, total_offset: Tensor) -> Tensor:
        """Profiles of the cells: scores without the offset (T x r, total T), divided by what is left of their size."""
        return (self.scores - offset[self.data.batch]) / self.sizes(total_offset)[:, None]

    def divided_by(self, factors: Tensor) -> "View":
        """See all cells divided by other factors, on new axes that all batches share."""
        view = self._on_new_axes(self.data, self.state, factors)
        return replace(view, mean_total=float(view.totals.mean()))

    def halves(self, generator: torch.Generator, repeats: int = 3) -> Iterator[tuple["View", "View"]]:
        """Draw random halves of each batch, each on axes of its own, which all batches share."""
        for _ in range(repeats):
            rows: tuple[list[Tensor], list[Tensor]] = ([], [])
            for cells in self.data.slices:
                order = self._drawn(cells, generator)
                middle = (len(order) + 1) // 2
                rows[0].append(order[:middle].sort().values)
                rows[1].append(order[middle:].sort().values)
            one, other = (self._on_new_axes(*self._at(torch.cat(half)), self.factors) for half in rows)
            yield one, other

    def sample(self, generator: torch.Generator) -> "View":
        """Draw some of the cells of large batches, on the same axes; view all cells where none is large."""
        if int(self.data.sizes.max()) <= self.rules.max_cells_halved:
            return self
        places = torch.cat([self._drawn(cells, generator).sort().values for cells in self.data.slices])
        data, state = self._at(places)
        places = places.to(state.device)
        return replace(self, data=data, state=state, scores=self.scores[places], totals=self.totals[places])

    def _drawn(self, cells: slice, generator: torch.Generator) -> Tensor:
        """Places of cells of a batch in random order, of a large one of some."""
        order = torch.randperm(cells.stop - cells.start, generator=generator)
        return order[: self.rules.max_cells_halved] + cells.start

    def _at(self, places: Tensor) -> tuple[Batches, Tensor]:
        """Cells at some places, and their states."""
        places = places.to(self.state.device)
        return self.data.sample(places), self.state[places]

    def _on_new_axes(self, data: Batches, state: Tensor, factors: Tensor) -> "View":
        axes = Axes((principal_axes(data, self.noise, factors, rank=self.states),))
        scores, totals = scores_and_totals(data, self.noise, factors, axes)
        return replace(self, data=data, state=state, factors=factors, axes=axes, scores=scores, totals=totals)
