"""Maps of cells and of other positions on the sections of a dataset."""

from dataclasses import dataclass
from typing import Self

import matplotlib as mpl
import numpy as np

from unbatch.report import draw, embedding
from unbatch.report.read import Cells

SPOT = "#E4E7EB"
"""Colour of cells that a map is not about."""
LEVELS = 32
"""Shades of a map; few, or its file is large."""
MAX_SPOTS = 10_000
"""Cells in a map, which is too small to show more."""
PIXELS = 300
"""Width of a map."""


@dataclass(frozen=True, eq=False)
class Tissue:
    """Sections as they are drawn.

    Attributes
    ----------
    names
        Names of all sections.
    members
        Cells that are drawn, by code of the section.
    positions
        Positions of all cells, n x 2.
    extent
        Width and height of the largest section.
    caption
        Sentences on directions, and on what is left out.
    array
        Whether coordinates are rows and columns of an array.
    """

    names: list[str]
    members: dict[int, np.ndarray]
    positions: np.ndarray
    extent: np.ndarray
    caption: str
    array: bool

    @classmethod
    def of(cls, cells: Cells, most: int, seed: int) -> Self:
        """Prepare at most so many sections of cells that have positions."""
        sections = embedding.sections(cells.positions, cells.batches_of_sections(), cells.section, most)
        members, caption = sections.thinned(MAX_SPOTS, seed)
        array = embedding.tissue(cells.positions)[1]
        return cls(cells.sections, members, sections.positions, sections.extent, caption, array)

    def placed(self, coordinates: np.ndarray) -> np.ndarray:
        """Bring other coordinates (m x 2 or more) to where cells with such coordinates are drawn, m x 2."""
        xy = np.asarray(coordinates, dtype=np.float64)[:, :2]
        return embedding.array_distances(xy) if self.array else xy

    def coloured(self, code: int, colours: np.ndarray, known: np.ndarray, pixels: int = PIXELS) -> str:
        """Draw the cells of a section in their colours (n x 4, of all cells); `known` are all that can occur."""
        rows = self.members[code]
        return draw.tissue(self.positions[rows], colours[rows], self.extent, known, pixels=pixels)

    def around(self, code: int, positions: np.ndarray, colours: np.ndarray, known: np.ndarray | None = None) -> str:
        """Draw other positions (m x 2) in their colours (m x 4) on the cells of a section, which are pale."""
        rows = self.members[code]
        pale = np.tile(mpl.colors.to_rgba(SPOT), (len(rows), 1))
        every = np.concatenate([pale, colours])
        table = np.concatenate([pale[:1], colours if known is None else known])
        return draw.tissue(np.concatenate([self.positions[rows], positions]), every, self.extent, table, pixels=PIXELS)

    def inside(self, code: int, positions: np.ndarray) -> np.ndarray:
        """Say which positions (m x 2) are within the box around a section's cells, m."""
        own = self.positions[self.members[code]]
        margin = 0.03 * self.extent
        return ((positions >= own.min(0) - margin) & (positions <= own.max(0) + margin)).all(1)


def shaded(values: np.ndarray, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Give values the colours of viridis (m x 4) between two ends, and all the colours that there can be."""
    shades = mpl.colormaps["viridis"](np.linspace(0, 1, LEVELS))
    scaled = (np.asarray(values, dtype=float) - low) / (high - low if high > low else 1.0)
    return shades[np.minimum((np.clip(scaled, 0, 1) * LEVELS).astype(int), LEVELS - 1)], shades


def ends(values: np.ndarray) -> tuple[float, float]:
    """Give what 1 % of values are below and what 1 % are above."""
    low, high = np.percentile(values, [1, 99])
    # what 99 of 100 cells have not still has a scale
    return float(low), float(high if high > low else np.max(values))
