"""Several fits of one recipe that differ by their seed alone, of which the one that predicts best is kept.

Spots that no fit is trained on score them, by the likelihood of their counts given their positions. That compares seeds
of one recipe; it does not compare recipes, as it favours more dimensions and finer kernels, whose domains are worse.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from unbatch.models.spavae.data import Spots
from unbatch.models.spavae.model import Fitted, fit
from unbatch.models.spavae.positions import LEAST
from unbatch.models.spavae.prediction import agreement, predict
from unbatch.models.spavae.settings import Settings

SHARE, MOST = 0.05, 20_000
"""Share of the spots that score the fits, and about how many at most."""


@dataclass(frozen=True)
class Restarts:
    """Fits by seed.

    Attributes
    ----------
    seeds, fits
        Seeds, and a fit for each.
    loss
        Minus log likelihood per scoring spot of each.
    scoring
        Sorted positions of the spots that scored them.
    """

    seeds: list[int]
    fits: list[Fitted]
    loss: np.ndarray
    scoring: np.ndarray

    @property
    def best(self) -> int:
        """Number of the fit that is kept."""
        return int(np.argmin(self.loss))


def fit_several(
    spots: Spots,
    settings: Settings,
    number: int,
    *,
    train_on: np.ndarray,
    seed: int = 0,
    tell: Callable[[str], None] = lambda text: None,
) -> Restarts:
    """Fit with the seeds `seed`, `seed` + 1, ...

    Parameters
    ----------
    spots, settings, train_on, seed, tell
        As of `fit`.
    number
        How many fits, 2 or more.

    Raises
    ------
    ValueError
        As of `fit`, or if no section has spots to spare.
    Diverged
        If a fit breaks; the others are given up, too.
    """
    scoring = spared(spots, train_on, seed)
    if not len(scoring):
        raise ValueError(
            f"{len(train_on)} spots are too few to spare some that choose among {number} fits, expected a section of "
            f"{LEAST + 1} or more with {round(1 / SHARE)} or more of a batch"
        )
    learnt = np.setdiff1d(train_on, scoring)
    counts = spots.array(scoring)
    seeds, fits, loss = list(range(seed, seed + number)), [], []
    for own in seeds:
        fitted = fit(spots, settings, train_on=learnt, seed=own, tell=tell)
        latent = predict(fitted.model, spots.points[scoring], spots.section[scoring]).latent
        rates = np.concatenate(list(fitted.model.rates(latent.embedding, spots.batch[scoring])))
        size = counts.sum(1) / float(fitted.model.network.inputs.depth)
        loss.append(agreement(rates, counts, size)[0])
        fits.append(fitted)
        tell(f"seed {own}: minus log likelihood {loss[-1]:.1f} per spot of {len(scoring)} that score it")
    return Restarts(seeds, fits, np.array(loss), scoring)


def spared(spots: Spots, train_on: np.ndarray, seed: int) -> np.ndarray:
    """Choose spots that score the fits at random, of each batch in each section alike; leave sections enough to fit."""
    rng, found, share = np.random.default_rng(seed), [], min(SHARE, MOST / max(len(train_on), 1))
    for section in np.unique(spots.section[train_on]):
        own = train_on[spots.section[train_on] == section]
        parts = [own[spots.batch[own] == batch] for batch in np.unique(spots.batch[own])]
        chosen = np.concatenate([rng.permutation(rows)[: int(share * len(rows))] for rows in parts])
        found.append(rng.permutation(chosen)[: max(len(own) - LEAST, 0)])
    return np.sort(np.concatenate(found))
