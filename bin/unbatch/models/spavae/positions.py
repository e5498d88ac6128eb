"""Where spots are: one unit of length for all sections, and what cannot be used as positions."""

import math

import numpy as np
from scipy.spatial import cKDTree

from unbatch.metrics.spatial import pitch

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


def is_hexagonal(points: np.ndarray) -> bool:
    """Tell whether positions are indices (row, column) of a hexagonal array, whose neighbours are 2 columns apart.

    Then they are whole numbers whose sums are all even or all odd, and some spots touch across rows: on a square grid
    of step 2, whose sums are even, too, none do.
    """
    if points.shape[1] != 2 or (points != np.rint(points)).any():
        return False
    parity = points.sum(1) % 2
    if (parity != parity[0]).any():
        return False
    row, column = (points - points.min(0)).astype(np.int64).T
    code = row * (int(column.max()) + 3) + column
    return bool(np.isin(code + int(column.max()) + 4, code).any())


def units(points: np.ndarray, section: np.ndarray, box: float | None = None) -> np.ndarray:
    """Find what coordinates are multiplied by, for each section and axis.

    Parameters
    ----------
    points, section
        As of `require`.
    box
        Length to which each axis is brought, as published, which changes the shape of the tissue; None for spot
        pitches: the distance of neighbours on a hexagonal array, or else the median distance to the nearest spot.

    Returns
    -------
    np.ndarray
        Sections x axes.
    """
    found = np.ones((int(section.max()) + 1, points.shape[1]))
    for code in np.unique(section):
        own = np.unique(points[section == code], axis=0)
        extent = np.ptp(own, axis=0)
        if box is not None:
            found[code] = box / np.where(extent > 0, extent, 1.0)
        elif is_hexagonal(own):
            found[code] = math.sqrt(3) / 2, 1 / 2
        else:
            found[code] = 1 / pitch(own)
    return found


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
