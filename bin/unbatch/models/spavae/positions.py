"""Where spots are: one unit of length for all sections, and what cannot be used as positions."""

import numpy as np
from scipy.spatial import cKDTree

from unbatch.metrics.spatial import is_hexagonal, units

__all__ = ["is_hexagonal", "nearest_spots", "require", "units"]

LEAST = 20
"""Fewest spots of a section: of fewer, neither the process nor the network learns anything."""
MOST_SHARED = 0.01
"""Share of a section's spots that may stand on the position of another spot."""
FAR = 2.0
"""Spot pitches from the nearest spot beyond which a position is called outside the tissue."""


def require(points: np.ndarray, section: np.ndarray, names: list[str] | None = None) -> None:
    """Refuse positions that no field can be fitted over.

    Parameters
    ----------
    points
        Coordinates, n x 2 or n x 3, any unit.
    section
        Code of the section of each spot, n.
    names
        Names of the sections by code, for messages.

    Raises
    ------
    ValueError
        If there are no positions, some are missing, a section has fewer than `LEAST` spots, too many spots share a
        position, or all spots of a section stand on one.
    """
    if points.ndim != 2 or points.shape[1] not in (2, 3) or len(points) != len(section):
        raise ValueError(
            f"positions have shape {points.shape}, expected 2 or 3 columns and a row for each of {len(section)} spots"
        )
    for code in np.unique(section):
        name = f"section {names[code] if names else code}"
        own = points[section == code]
        missing = int((~np.isfinite(own).all(1)).sum())
        if missing:
            raise ValueError(f"{name}: {missing} of {len(own)} spots have no position, expected one for each")
        if len(own) < LEAST:
            raise ValueError(
                f"{name} has {len(own)} spots, expected {LEAST} or more: a spatial model learns nothing of fewer"
            )
        shared = len(own) - len(np.unique(own, axis=0))
        if shared > max(1, MOST_SHARED * len(own)):
            raise ValueError(
                f"{name}: {shared} of {len(own)} spots are at the position of another spot, expected a position of its "
                "own for each; if these are several sections, preprocess --section-key tells them apart"
            )


def nearest_spots(
    positions: np.ndarray, section: np.ndarray, at: np.ndarray, at_section: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Find the spots nearest to other positions of their sections.

    Returns
    -------
    tuple of np.ndarray
        Distances (m x count), infinite where there are too few spots, and numbers of the spots (m x count).
    """
    distance = np.full((len(at), count), np.inf)
    number = np.zeros((len(at), count), dtype=np.int64)
    for code in np.unique(at_section):
        own, asked = np.flatnonzero(section == code), np.flatnonzero(at_section == code)
        most = min(count, len(own))
        found = cKDTree(positions[own]).query(at[asked], [*range(1, most + 1)])
        distance[asked, :most], number[asked, :most] = found[0], own[found[1]]
    return distance, number
