"""How far off positions are in sections that a model has not seen: each section left out in turn."""

from collections.abc import Callable
from typing import Any

import numpy as np

from unbatch.metrics.spatial import similarity
from unbatch.models.dpvae.fitting import Fitted, fit
from unbatch.models.dpvae.model import Mask
from unbatch.models.dpvae.settings import FEWEST

MOST = 5
"""Fits at most; where there are more sections, several are left out together."""
MEMBERS = 2
"""Networks of these fits: as few as the process on their positions needs, as more change positions little."""
LEAST = 10
"""Known spots of a section below which its coordinates cannot be laid over predicted ones."""


def left_out(
    x: Any,
    positions: np.ndarray,
    *,
    section: np.ndarray,
    group: np.ndarray,
    fitted: Fitted,
    batch: np.ndarray | None = None,
    mask: Mask | None = None,
    seed: int = 0,
    device: str = "cpu",
    tell: Callable[[str], None] = lambda text: None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Predict known spots by fits to the known spots of other groups of sections, with the settings of a fit.

    Parameters
    ----------
    x, positions, section, batch, mask, device
        As of `fitting.fit`.
    group
        What is left out together, codes, n: a section, or a donor with several whole ones.
    fitted
        The fit, whose settings are used, and in whose reference's coordinates positions are given.
    seed
        Seed of the fits, and of which groups are left out together where there are more than 5.
    tell
        Called with lines of progress.

    Returns
    -------
    list of (predicted, true)
        For each fit, m x p in the coordinates of the reference. The true ones are turned, mirrored where needed and
        shifted onto the predicted ones, section by section, as a section that is not known has no coordinates of its
        own. Empty where fewer than two groups have known spots.
    """
    known = np.flatnonzero(fitted.known)
    groups = np.random.default_rng(seed).permutation(np.unique(group[known]))
    settings = fitted.settings.but(members=min(MEMBERS, fitted.settings.members))
    results = []
    for number, out in enumerate(np.array_split(groups, min(MOST, len(groups))) if len(groups) > 1 else []):
        shown = fitted.known & ~np.isin(group, out)
        if shown.sum() < FEWEST:
            continue
        tell(f"left out {number + 1} of {min(MOST, len(groups))}")
        found = fit(
            x, np.where(shown[:, None], positions, np.nan), section=section, settings=settings, batch=batch, mask=mask,
            seed=seed, device=device,
        )  # fmt: skip
        rows = np.flatnonzero(fitted.known & np.isin(group, out))
        there = np.full(len(rows), found.frames.reference)
        placed = fitted.frames.to(found.predicted[rows], there)
        predicted, true = [], []
        for code in np.unique(section[rows]):
            mine = section[rows] == code
            if mine.sum() < LEAST:
                continue
            own, aim = positions[rows[mine]], placed[mine]
            rotation = similarity(own, aim).rotation
            predicted.append(aim)
            true.append((own - own.mean(axis=0)) @ rotation + aim.mean(axis=0))
        if predicted:
            results.append((np.concatenate(predicted), np.concatenate(true)))
    return results
