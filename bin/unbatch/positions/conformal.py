"""Radii around predicted positions that hold the true one as often as they say (split-conformal prediction).

Spots whose position is known but was not seen by what predicted it are the calibration. An error is divided by a scale
that is local: the root mean squared error of the nearest calibration spots, by where they were put. One half of the
calibration gives the scale, the other the quantile of the scaled errors, which makes the promise hold for any
predictor, in the mean over spots that are exchangeable with the calibration: those of the same section. For a section
of another donor they are not, and the coverage there has to be measured (`coverage`) or doubted.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.spatial import cKDTree

LEVELS = (0.5, 0.8, 0.9, 0.95)
"""Shares of the spots whose true position is within the radius."""
NEAREST = 50
"""Calibration spots that a local scale is the mean of."""
FEWEST = 40
"""Calibration spots below which there are no radii."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """What radii are made of; `weights` are all that it holds.

    Attributes
    ----------
    places, squares
        Predicted positions (m x p) and squared errors (m) of the spots that give the local scale.
    scores
        Sorted errors over their scale of the other spots.
    """

    places: np.ndarray
    squares: np.ndarray
    scores: np.ndarray

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """All arrays by name, for a saved model."""
        return dict(vars(self))

    def scale(self, predicted: np.ndarray) -> np.ndarray:
        """Root mean squared error near predicted positions, n x p: n numbers."""
        k = min(NEAREST, len(self.places))
        near = cKDTree(self.places).query(predicted, k)[1].reshape(len(predicted), k)
        return np.sqrt(np.maximum(self.squares[near].mean(axis=1), np.finfo(float).tiny))

    def radii(self, predicted: np.ndarray, levels: tuple[float, ...] = LEVELS) -> np.ndarray:
        """Give radii around predicted positions.

        Returns
        -------
        numpy.ndarray
            n x levels, in the unit of the positions; infinite where there are too few calibration spots for a level.
        """
        size = len(self.scores)
        ranks = [int(np.ceil((size + 1) * level)) for level in levels]
        quantiles = [self.scores[rank - 1] if rank <= size else np.inf for rank in ranks]
        return self.scale(np.asarray(predicted, dtype=np.float64))[:, None] * np.array(quantiles)


def calibrate(predicted: np.ndarray, true: np.ndarray, seed: int = 0) -> Calibration:
    """Learn radii from spots that what predicted them had not seen.

    Parameters
    ----------
    predicted, true
        Positions, n x p each, in one unit.
    seed
        Seed of the halves.

    Raises
    ------
    ValueError
        If there are fewer than 40 spots.
    """
    predicted, true = np.asarray(predicted, dtype=np.float64), np.asarray(true, dtype=np.float64)
    if len(predicted) < FEWEST:
        raise ValueError(f"{len(predicted)} calibration spots are too few for radii, expected {FEWEST} or more")
    order = np.random.default_rng(seed).permutation(len(predicted))
    one, other = np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :])
    squares = ((predicted - true) ** 2).sum(axis=1)
    found = Calibration(predicted[one], squares[one], np.zeros(0))
    scores = np.sort(np.sqrt(squares[other]) / found.scale(predicted[other]))
    return Calibration(found.places, found.squares, scores)


@dataclass(frozen=True, eq=False)
class Radii:
    """Radii of several sections; `weights` are all that it holds.

    Attributes
    ----------
    own
        Calibration by code of the section, of sections with enough spots of their own.
    rest
        That of all other sections: the one of the section with most spots, or of all spots together.
    elsewhere
        Those of errors in sections that were left out, for sections without enough spots of their own, which have the
        largest of these radii; where there are none, `rest`.
    """

    own: dict[int, Calibration]
    rest: Calibration
    elsewhere: tuple[Calibration, ...] = ()

    @classmethod
    def of(
        cls,
        predicted: np.ndarray,
        true: np.ndarray,
        section: np.ndarray,
        given: np.ndarray,
        seed: int = 0,
        elsewhere: tuple[Calibration, ...] = (),
    ) -> Self:
        """Learn radii by section, see `calibrate`.

        Parameters
        ----------
        predicted, true
            Positions, n x p each.
        section
            Codes, n.
        given
            Spots to calibrate by, n booleans.
        seed
            Seed of the halves.
        elsewhere
            For sections with fewer than 40 given spots.

        Raises
        ------
        ValueError
            If fewer than 40 spots are given.
        """
        count = np.bincount(section[given])

        def learnt(rows: np.ndarray) -> Calibration:
            return calibrate(predicted[rows], true[rows], seed)

        own = {int(code): learnt(given & (section == code)) for code in np.flatnonzero(count >= FEWEST)}
        largest = int(count.argmax())
        return cls(own, own[largest] if largest in own else learnt(given), elsewhere)

    def radii(self, predicted: np.ndarray, section: np.ndarray) -> np.ndarray:
        """Give radii around predicted positions (n x p) in sections (codes, n): n x levels, in the positions' unit."""
        found = np.zeros((len(predicted), len(LEVELS)))
        for code in np.unique(section):
            mine = section == code
            by = (self.own[int(code)],) if int(code) in self.own else self.elsewhere or (self.rest,)
            found[mine] = np.max([each.radii(predicted[mine]) for each in by], axis=0)
        return found

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """All arrays by name, for a saved model."""
        every = {str(code): each for code, each in self.own.items()} | {"rest": self.rest}
        every |= {f"elsewhere{number}": each for number, each in enumerate(self.elsewhere)}
        return {f"{key}.{name}": value for key, each in every.items() for name, value in each.weights.items()}

    @classmethod
    def from_weights(cls, weights: dict[str, np.ndarray]) -> Self:
        """Make them of their `weights`.

        Raises
        ------
        ValueError
            If they are not such arrays.
        """
        parts: dict[str, dict[str, np.ndarray]] = {}
        for key, value in weights.items():
            of, _, name = key.partition(".")
            parts.setdefault(of, {})[name] = value
        try:
            made = {key: Calibration(**part) for key, part in parts.items()}
            rest = made.pop("rest")
            elsewhere = tuple(made.pop(key) for key in sorted(made) if key.startswith("elsewhere"))
            own = {int(key): each for key, each in made.items()}
        except (LookupError, TypeError, ValueError) as error:
            raise ValueError(f"the calibration of radii is incomplete ({error})") from error
        for each in (rest, *elsewhere, *own.values()):
            if not (each.places.ndim == 2 and len(each.places) == len(each.squares) > 0):
                raise ValueError("the calibration of radii has arrays that do not belong together")
        return cls(own, rest, elsewhere)


def coverage(radii: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Share of spots whose true position is within each radius.

    Parameters
    ----------
    radii
        n x levels.
    predicted, true
        n x p each.
    """
    error = np.linalg.norm(np.asarray(predicted, dtype=np.float64) - np.asarray(true, dtype=np.float64), axis=1)
    return (error[:, None] <= radii).mean(axis=0)
