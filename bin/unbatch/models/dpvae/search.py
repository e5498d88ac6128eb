"""Inner validation: alpha2 and the number of epochs, chosen on known spots alone."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from unbatch.models.dpvae.model import Mask, Spots, encoded, train_network
from unbatch.models.dpvae.networks import Network
from unbatch.models.dpvae.readout import linear
from unbatch.models.dpvae.settings import HELD, Settings


@dataclass(frozen=True)
class Tried:
    """What was looked at, a row each.

    Attributes
    ----------
    alpha2, epoch
        The setting.
    random, block
        Root mean squared error of the spots that were held out at random and as a block, in the unit of the positions.
    """

    alpha2: np.ndarray
    epoch: np.ndarray
    random: np.ndarray
    block: np.ndarray

    @property
    def error(self) -> np.ndarray:
        """Root of the mean of both squared errors, by which is chosen."""
        return np.sqrt((self.random**2 + self.block**2) / 2)

    @property
    def best(self) -> tuple[float, int]:
        """Chosen alpha2 and epochs."""
        row = int(self.error.argmin())
        return float(self.alpha2[row]), int(self.epoch[row])


def held_out(positions: np.ndarray, section: np.ndarray, share: float, rng: np.random.Generator) -> list[np.ndarray]:
    """Choose spots of each section, at random and as a block: the nearest ones of a spot drawn at random.

    Returns
    -------
    list of numpy.ndarray
        Two masks, n booleans each, which do not overlap.
    """
    random, block = np.zeros(len(section), bool), np.zeros(len(section), bool)
    for code in np.unique(section):
        mine = np.flatnonzero(section == code)
        count = max(1, round(share * len(mine)))
        centre = positions[rng.choice(mine)]
        block[mine[np.argsort(np.square(positions[mine] - centre).sum(1), kind="stable")[:count]]] = True
        random[rng.permutation(mine[~block[mine]])[:count]] = True
    return [random, block]


def choose(
    spots: Spots,
    settings: Settings,
    mask: Mask,
    *,
    unit: float = 1.0,
    batches: int = 1,
    seed: int = 0,
    device: str = "cpu",
    tell: Callable[[str], None] = lambda text: None,
) -> Tried:
    """Try each alpha2 of the grid (or the one that is set), and look at the errors as training goes on.

    Parameters
    ----------
    spots
        Known spots.
    settings
        What is set is not tried.
    mask
        Makes the pairs.
    unit
        What positions of `spots` are multiplied by to be in the unit of the errors.
    batches, seed, device, tell
        As of `train_network`.
    """
    rng = np.random.default_rng(seed)
    random, block = held_out(spots.positions, spots.section, HELD, rng)
    train = ~(random | block)
    rows: list[tuple[float, int, float, float]] = []
    candidates = settings.grid if settings.alpha2 is None else (settings.alpha2,)
    most = settings.most_epochs if settings.epochs is None else settings.epochs
    for alpha2 in candidates:
        own = settings.but(alpha2=alpha2, epochs=most)

        def judge(network: Network, epoch: int, alpha2: float = alpha2) -> float | None:
            due = epoch == most if settings.epochs is not None else epoch % settings.check == 0 or epoch == most
            if not due:
                return None
            found = linear(encoded(network, spots.inputs), spots.positions, spots.section, train)
            squares = np.square(found - spots.positions).sum(1) * unit**2
            rows.append((alpha2, epoch, *(float(np.sqrt(squares[held].mean())) for held in (random, block))))
            return float(np.sqrt((rows[-1][2] ** 2 + rows[-1][3] ** 2) / 2))

        chosen = np.flatnonzero(train)
        train_network(spots.take(chosen), own, mask, judge=judge, batches=batches, seed=seed, device=device)
        best = min((row for row in rows if row[0] == alpha2), key=lambda row: row[2] ** 2 + row[3] ** 2)
        tell(
            f"alpha2 {alpha2:g}: smallest error {best[2]:.3g} (at random) and {best[3]:.3g} (block) at epoch {best[1]}"
        )
    return Tried(*(np.array(column) for column in zip(*rows, strict=True)))
