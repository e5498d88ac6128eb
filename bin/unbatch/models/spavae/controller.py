"""The controller of beta, the weight of the divergences: it holds them near a target (Shao et al. 2020)."""

import math
from collections import deque

LOW, HIGH, START = 4.0, 25.0, 10.0
"""Bounds of beta, and where it starts."""
PROPORTIONAL, INTEGRAL, GAIN = 0.01, 0.005, 5.0
"""Weights of the changes by the error's logistic function and by the error itself, and what the error is times."""
STEPS = 10
"""Steps over which the divergence is averaged."""
COLLAPSED, RESCUE, LEAST = 0.25, 0.97, 1.0
"""Share of the target below which latent values are about to be given up, what beta is then times in each step, and
down to where; not as published. With few genes the counts of a spot tell too little for a beta of 4 or more."""


class Controller:
    """An incremental proportional-integral controller.

    Parameters
    ----------
    target
        Divergence per spot that it aims at.
    clipped
        Whether what it adds up stays within the bounds; as published it does not, and beta stays at a bound long
        after the divergence has come back.
    """

    def __init__(self, target: float, clipped: bool = True) -> None:
        self.target, self.clipped = target, clipped
        self.beta = START
        self._sum, self._error, self._rescue = START, 0.0, 1.0
        self._last: deque[float] = deque(maxlen=STEPS)

    def __call__(self, divergence: float) -> float:
        """Take the divergence per spot of a step, and give beta for the next one."""
        self._last.append(divergence)
        error = GAIN * (self.target - sum(self._last) / len(self._last))
        self._sum += PROPORTIONAL * (_logistic(-error) - _logistic(-self._error))
        if self.clipped or self._sum >= LOW:
            self._sum -= INTEGRAL * error
        self._error = error
        self.beta = min(HIGH, max(LOW, self._sum))
        if self.clipped:
            self._sum = self.beta
            if sum(self._last) / len(self._last) < COLLAPSED * self.target:
                self._rescue = max(LEAST / self.beta, self._rescue * RESCUE)
            self.beta *= self._rescue
        return self.beta


def _logistic(value: float) -> float:
    # far from 0 the exponential would overflow
    return 1 / (1 + math.exp(-max(-500.0, min(500.0, value))))
