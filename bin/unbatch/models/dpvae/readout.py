"""Positions of latent values: a map that is learnt from known spots, in the coordinates of their sections.

Each section has coordinates of its own. A map to those of the reference section, the one with most known spots, is
learnt first; it says where the spots of another section would be there, and by which rotation (mirrored where needed)
and shift the coordinates of that section go over into those of the reference. Then the map is learnt again from the
known spots of all sections.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from unbatch.metrics.spatial import Similarity, similarity
from unbatch.nn.ard_gp import ArdGP
from unbatch.nn.ard_gp import fit as fit_process


@dataclass(frozen=True)
class Frames:
    """How coordinates of sections go over into those of the reference: ``s @ rotation + shift``.

    Attributes
    ----------
    rotation
        By code of the section, sections x p x p; NaN of a section without known spots.
    shift
        Sections x p.
    reference
        Code of the reference.
    """

    rotation: np.ndarray
    shift: np.ndarray
    reference: int

    def known(self, section: np.ndarray) -> np.ndarray:
        """Tell of sections whether they have coordinates here; codes beyond those of the fit have none."""
        inside = (section >= 0) & (section < len(self.rotation))
        return inside & np.isfinite(self.rotation[np.where(inside, section, 0), 0, 0])

    def to(self, positions: np.ndarray, section: np.ndarray) -> np.ndarray:
        """Bring positions of known sections into the reference's coordinates."""
        return np.einsum("ni,nij->nj", positions, self.rotation[section]) + self.shift[section]

    def back(self, positions: np.ndarray, section: np.ndarray) -> np.ndarray:
        """Bring positions into the coordinates of their section; they stay where it has none."""
        found, mine = positions.copy(), self.known(section)
        code = section[mine]
        found[mine] = np.einsum("ni,nji->nj", positions[mine] - self.shift[code], self.rotation[code])
        return found


@dataclass(frozen=True)
class Linear:
    """Linear regression with an intercept.

    Attributes
    ----------
    coefficients
        The intercept's first, (1 + f) x p.
    """

    coefficients: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray, positions: np.ndarray) -> Self:
        """Fit by least squares."""
        return cls(np.linalg.lstsq(_design(features), positions, rcond=None)[0])

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Predict, n x p."""
        return _design(features) @ self.coefficients


def _design(features: np.ndarray) -> np.ndarray:
    return np.column_stack([np.ones(len(features)), features])


Map = Similarity | Linear | ArdGP
"""What makes positions of features."""


@dataclass(frozen=True)
class Readout:
    """A map from features of spots to positions of the reference, and the frames of the sections."""

    map: Map
    frames: Frames

    @classmethod
    def of(
        cls,
        kind: str,
        features: np.ndarray,
        positions: np.ndarray,
        section: np.ndarray,
        sections: int,
        *,
        reference: int | None = None,
        seed: int = 0,
    ) -> Self:
        """Learn from known spots.

        Parameters
        ----------
        kind
            ``"similarity"``, of features with as many dimensions as positions, ``"linear"`` or ``"process"``.
        features
            n x f.
        positions
            n x p, finite.
        section
            Codes, n.
        sections
            Number of sections, those without known spots included.
        reference
            Code of the section whose coordinates count; None for the one with most known spots.
        seed
            Seed of what is drawn.
        """
        count = np.bincount(section, minlength=sections)
        reference = int(count.argmax()) if reference is None else reference
        axes = positions.shape[1]
        rotation, shift = np.full((sections, axes, axes), np.nan), np.zeros((sections, axes))
        rotation[reference] = np.eye(axes)
        own = section == reference
        first = _learnt(kind, features[own], positions[own], seed)
        others = np.setdiff1d(np.flatnonzero(count > axes), [reference])
        for code in others:
            mine = section == code
            there = _mapped(first, features[mine])
            rotation[code] = similarity(positions[mine], there).rotation
            shift[code] = there.mean(0) - positions[mine].mean(0) @ rotation[code]
        frames = Frames(rotation, shift, reference)
        if not len(others):
            return cls(first, frames)
        mine = frames.known(section)
        return cls(_learnt(kind, features[mine], frames.to(positions[mine], section[mine]), seed), frames)

    def __call__(self, features: np.ndarray, section: np.ndarray) -> np.ndarray:
        """Give positions in the coordinates of each spot's section, or of the reference where it has none."""
        return self.frames.back(self.place(features), section)

    def place(self, features: np.ndarray) -> np.ndarray:
        """Give positions in the coordinates of the reference."""
        return _mapped(self.map, features)

    def without(self, features: np.ndarray, positions: np.ndarray, section: np.ndarray, part: np.ndarray) -> np.ndarray:
        """Give known spots' positions by a process of the spots of other parts, see `ArdGP.leave_parts_out`."""
        found = self.map.leave_parts_out(features, self.frames.to(positions, section), part)
        return self.frames.back(found, section)


def _learnt(kind: str, features: np.ndarray, positions: np.ndarray, seed: int) -> Map:
    if kind == "similarity":
        return similarity(features, positions)
    if kind == "linear":
        return Linear.of(features, positions)
    return fit_process(features, positions, seed=seed)


def _mapped(found: Map, features: np.ndarray) -> np.ndarray:
    return found.predict(features).mean if isinstance(found, ArdGP) else found(features)


def linear(latent: np.ndarray, positions: np.ndarray, section: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Map latent values to positions for quick comparisons, section by section.

    Parameters
    ----------
    latent, positions, section
        n x d, n x p and n.
    train
        Spots that the map is learnt from, n booleans.

    Returns
    -------
    numpy.ndarray
        n x p: by the best similarity where latent values have as many dimensions as positions, else by least squares.
    """
    found = np.full(positions.shape, np.nan)
    for code in np.unique(section[train]):
        mine, learnt = section == code, (section == code) & train
        if latent.shape[1] == positions.shape[1]:
            found[mine] = similarity(latent[learnt], positions[learnt])(latent[mine])
        else:
            found[mine] = Linear.of(latent[learnt], positions[learnt])(latent[mine])
    return found
