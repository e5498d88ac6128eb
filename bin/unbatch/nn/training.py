"""The loop that trains a network: every loss term by epoch, early stopping, and what a loss that breaks leaves."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from unbatch.nn.minibatches import Source

Step = Callable[[Tensor, Tensor, float], dict[str, Tensor]]
"""Takes positions and expression of a minibatch and the share of the training that is over; returns its loss terms."""
Judge = Callable[[bool], tuple[float, dict[str, float]]]
"""Takes whether the epoch can be the best; returns a score, of which less is better, and what of it goes into the
history: NaN for what was not computed in an epoch that cannot be the best."""


class Diverged(ValueError):
    """A loss term is not finite.

    Attributes
    ----------
    term
        Its name.
    epoch
        In which it was so, from 1 on.
    network
        The network, with the weights of the best epoch before, or those of the start.
    """

    def __init__(self, term: str, value: float, *, epoch: int, kept: int, network: nn.Module) -> None:
        of = f"epoch {kept}" if kept else "the start"
        super().__init__(
            f"loss term {term} is {value} in epoch {epoch}, expected a finite number: a smaller learning rate or "
            f"weight of that term may help; the weights of {of} are kept"
        )
        self.term, self.epoch, self.network = term, epoch, network


@dataclass(frozen=True)
class Plan:
    """How long and in what steps to train.

    Attributes
    ----------
    epochs
        At most.
    size
        Cells of a minibatch, at most.
    patience
        Epochs without a better score after which training ends.
    first
        Epochs (as a share of all) at the start that cannot be the best, as penalties are not at their weight yet.
    cosine
        Whether the learning rate falls to 0 as a cosine.
    most
        Cells of an epoch at most: where there are more, each epoch takes a fresh random sample. None: all.
    """

    epochs: int
    size: int
    patience: int
    first: float = 0.0
    cosine: bool = False
    most: int | None = None

    def drawn(self, cells: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Give the cells of an epoch, sorted, of all cells to train on."""
        if self.most is None or len(cells) <= self.most:
            return cells
        return np.sort(rng.choice(cells, self.most, replace=False))

    def steps(self, cells: int) -> int:
        """Count the steps of an epoch, of so many cells to train on."""
        return math.ceil(min(cells, self.most or cells) / self.size)


@dataclass
class History:
    """What happened.

    Attributes
    ----------
    terms
        Mean of each loss term, and what the judge said, by epoch.
    best
        Epoch whose weights were kept, from 1 on.
    """

    terms: dict[str, list[float]] = field(default_factory=dict)
    best: int = 0


def train(
    network: nn.Module,
    source: Source,
    cells: np.ndarray,
    step: Step,
    judge: Judge,
    plan: Plan,
    *,
    optimisers: tuple[torch.optim.Optimizer, ...] = (),
    rng: np.random.Generator,
    tell: Callable[[str], None] = lambda text: None,
) -> History:
    """Train a network and leave it with the weights of its best epoch.

    Parameters
    ----------
    network
        What is trained; put into training mode for `step` and into evaluation mode for `judge`.
    source, cells
        The expression and the sorted positions of the cells to train on.
    step
        Takes one step of the optimisers.
    judge
        Scores the network after each epoch.
    plan
        How long and in what steps.
    optimisers
        Those whose learning rate follows the plan.
    rng
        Shuffles the cells.
    tell
        Called with a line after each epoch.

    Raises
    ------
    Diverged
        If the mean of a loss term over an epoch, or the score, is not finite.

    Notes
    -----
    Terms are added up on the device and read once in an epoch, as no step is to wait for it; hence what is not finite
    is noticed at the end of its epoch.
    """
    history = History()
    rates = [[group["lr"] for group in optimiser.param_groups] for optimiser in optimisers]
    kept, lowest, since = _copy(network), math.inf, 0
    first = min(plan.epochs, math.floor(plan.first * plan.epochs) + 1)
    for epoch in range(1, plan.epochs + 1):
        began = time.perf_counter()
        if plan.cosine:
            share = (epoch - 1) / plan.epochs
            for optimiser, of_groups in zip(optimisers, rates, strict=True):
                for group, rate in zip(optimiser.param_groups, of_groups, strict=True):
                    group["lr"] = rate * (0.5 + 0.5 * math.cos(math.pi * share))
        network.train()
        sums: dict[str, Tensor] = {}
        finite: dict[str, Tensor] = {}
        seen = 0
        chosen = plan.drawn(cells, rng)
        for position, expression in source.minibatches(chosen, plan.size, rng):
            terms = step(position, expression, (epoch - 1 + seen / len(chosen)) / plan.epochs)
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value.detach() * len(position)
                finite[name] = finite.get(name, 0) + torch.isfinite(value.detach())
            seen += len(position)
        means = dict(zip(sums, (torch.stack(list(sums.values())) / seen).tolist(), strict=True))
        # one step after a term broke, all do: the first one was finite in the fewest steps
        steps = torch.stack(list(finite.values())).tolist()
        order = [name for _, name in sorted(zip(steps, means, strict=True), key=lambda item: item[0])]
        _check({name: means[name] for name in order}, network, kept, epoch, history)
        network.eval()
        with torch.no_grad():
            score, more = judge(epoch >= first)
        known = more if epoch >= first else {name: value for name, value in more.items() if not math.isnan(value)}
        _check({**known, "score": score}, network, kept, epoch, history)
        for name, value in (means | more).items():
            history.terms.setdefault(name, []).append(value)
        said = ", ".join(f"{name} {value:.4g}" for name, value in (means | known).items())
        tell(f"epoch {epoch}/{plan.epochs}: {said} ({time.perf_counter() - began:.1f} s)")
        since += 1
        # before `first`, weights are kept only for the case that nothing better comes
        if epoch <= first or score < lowest:
            kept, history.best, since = _copy(network), epoch, 0
            lowest = score if epoch >= first else math.inf
        if since >= plan.patience:
            break
    network.load_state_dict(kept)
    network.eval()
    return history


def _copy(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def _check(terms: dict[str, float], network: nn.Module, kept: dict[str, Tensor], epoch: int, history: History) -> None:
    for name, value in terms.items():
        if not math.isfinite(value):
            network.load_state_dict(kept)
            network.eval()
            raise Diverged(name, value, epoch=epoch, kept=history.best, network=network)
