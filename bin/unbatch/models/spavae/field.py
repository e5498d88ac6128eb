"""The Gaussian processes over sections: inducing points, features of spots, and posteriors by section."""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from unbatch.models.spavae.settings import Settings
from unbatch.nn import inducing
from unbatch.nn.sparse_gp import Moments, Posterior, moments

MOST_KEPT = 50_000_000
"""Features of spots, in numbers, up to which they are computed once where the kernel is frozen."""
SPOTS_OF_SCALE = 17.0
"""Spots of the largest section over the kernel's scale in squared pitches, where sections are small: the reach of the
kernel is then about a fifth of the tissue's width."""
GROWTH = 1.5
"""By what a scale is raised that needs too many inducing points."""
FEW = 128
"""Inducing points of a section that a scale may need which was not asked for: beyond, the processes take longer than
the networks."""


class Chosen(NamedTuple):
    """Inducing points of all sections: scale of the kernel, points by section, mean and largest residual variance."""

    scale: float
    points: list[Tensor]
    residual: list[float]
    largest: list[float]


def choose(positions: np.ndarray, section: np.ndarray, settings: Settings, scale: float | None, seed: int) -> Chosen:
    """Choose inducing points for each section, and the scale of the kernel where none is given.

    Parameters
    ----------
    positions, section
        Positions of spots in the unit of the kernel, n x d, and codes of sections, n.
    settings
        How.
    scale
        Scale of the kernel; None for the preset's, less in a small tissue, more where it would take more than
        `FEW` inducing points.
    seed
        Seed of samples of spots and of k-means.
    """
    given = scale is not None or settings.learns_scale
    if not given:
        settings = settings.but(most_points=min(FEW, settings.most_points))
    largest = int(np.bincount(section).max())
    value = float(scale) if scale is not None else settings.default_scale
    if not given and settings.box is None:
        value = min(value, largest / SPOTS_OF_SCALE)
    own = [torch.as_tensor(positions[section == code]) for code in range(int(section.max()) + 1)]
    while True:
        found = [_of_section(each, settings, value, seed) for each in own]
        enough = all(each.residual <= settings.tolerance for each in found)
        if enough or given or settings.inducing != "auto":
            break
        value *= GROWTH
    return Chosen(
        value, [each.points for each in found], [each.residual for each in found], [each.largest for each in found]
    )


def _of_section(points: Tensor, settings: Settings, scale: float, seed: int) -> inducing.Inducing:
    common = (points, settings.kernel, scale)
    if settings.inducing == "grid":
        return inducing.grid(*common, settings.grid_steps, seed)
    if settings.inducing == "kmeans":
        return inducing.centres(*common, min(settings.points, len(points)), seed)
    return inducing.greedy(*common, settings.tolerance, settings.most_points, seed)


class Field(nn.Module):
    """Independent Gaussian processes for each section and latent dimension, which share a kernel.

    Spots of two sections are independent: the kernel is block-diagonal. One section is a block of its own.

    Parameters
    ----------
    points
        Inducing points of each section, M x d; blocks of fewer points are filled up with features that are 0.
    kind, scale
        Kind and scale of the kernel.
    trained
        Whether each section's scale is learnt, from `scale` on.
    """

    def __init__(self, points: list[Tensor], kind: str, scale: float, trained: bool) -> None:
        super().__init__()
        self.kind, self.trained = kind, trained
        most = max(len(each) for each in points)
        filled = torch.zeros(len(points), most, points[0].shape[1], dtype=torch.float64)
        used = torch.zeros(len(points), most, dtype=torch.bool)
        for code, each in enumerate(points):
            filled[code, : len(each)], used[code, : len(each)] = each, True
        self.register_buffer("inducing", filled)
        self.register_buffer("used", used)
        # inverse of the softplus that keeps it above 0
        raw = torch.full((len(points),), scale, dtype=torch.float64)
        raw = raw + torch.log(-torch.expm1(-raw))
        if trained:
            self.raw = nn.Parameter(raw)
        else:
            self.register_buffer("raw", raw)

    @property
    def sections(self) -> int:
        """Number of sections."""
        return len(self.used)

    @property
    def scale(self) -> Tensor:
        """Scale of each section's kernel."""
        return F.softplus(self.raw).clamp(1e-10, 1e6)

    def features(self, positions: Tensor, section: Tensor) -> Tensor:
        """Features of spots in their sections, n x M."""
        scale = self.scale
        parts = [
            inducing.whitened(self.inducing[code], positions[rows], self.kind, scale[code], self.used[code])
            for code, rows in self._rows(section)
        ]
        return self._joined(parts, section)

    def moments(self, features: Tensor, mean: Tensor, variance: Tensor, section: Tensor, spots: Tensor) -> Moments:
        """Sum over the spots of each section.

        Parameters
        ----------
        features, mean, variance
            n x M, n x L, n x L, float64.
        section
            Codes, n.
        spots
            Spots that each section has in all; its sums are multiplied by their number over that in `section`.

        Returns
        -------
        Moments
            Sections x L x M x M and sections x L x M; 0 of a section without spots.
        """
        latent, points = mean.shape[1], features.shape[1]
        empty = Moments(features.new_zeros(latent, points, points), features.new_zeros(latent, points))
        found = {
            code: moments(features[rows], mean[rows], variance[rows], float(spots[code]) / len(features[rows]))
            for code, rows in self._rows(section)
        }
        every = [found.get(code, empty) for code in range(self.sections)]
        return Moments(*(torch.stack([getattr(each, part) for each in every]) for part in ("precision", "weighted")))

    def values(self, posterior: Posterior, features: Tensor, section: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior means and variances at spots, each n x L."""
        parts = []
        for code, rows in self._rows(section):
            own = Posterior(posterior.root[code], posterior.coefficients[code])
            parts.append(torch.cat([own.mean(features[rows]), own.variance(features[rows])], 1))
        return self._joined(parts, section).chunk(2, 1)

    def _rows(self, section: Tensor) -> list[tuple[int, Tensor | slice]]:
        """Codes of the sections that have spots, in order, and which spots these are."""
        if self.sections == 1:
            return [(0, slice(None))]
        found = [(code, (section == code).nonzero()[:, 0]) for code in range(self.sections)]
        return [(code, rows) for code, rows in found if len(rows)]

    def _joined(self, parts: list[Tensor], section: Tensor) -> Tensor:
        """Put rows of sections, one after another, into the order of the spots."""
        if self.sections == 1:
            return parts[0]
        return torch.cat(parts)[torch.argsort(torch.argsort(section, stable=True))]


class Running:
    """Averages of the moments of minibatches, by section.

    The posterior that one minibatch gives is biased, as it is not linear in its moments; an average over past
    minibatches takes most of that away. Its gradient is that of the minibatch, at full weight.

    Parameters
    ----------
    rate
        Weight of a minibatch; with 1, each stands alone.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.known: Moments | None = None
        self.seen: Tensor | None = None

    def __call__(self, new: Moments, section: Tensor) -> Moments:
        """Average in the moments of a minibatch; of a section without spots in it the average stays as it is."""
        sections = len(new.weighted)
        present = torch.bincount(section, minlength=sections) > 0
        if self.known is None:
            self.known, self.seen = new.detached(), torch.zeros_like(present)
        rate = torch.where(self.seen, torch.where(present, self.rate, 0.0), torch.where(present, 1.0, 0.0))
        self.seen = self.seen | present
        rate = rate.to(new.weighted.dtype)
        mixed = Moments(
            _mixed(new.precision, self.known.precision, rate[:, None, None, None]),
            _mixed(new.weighted, self.known.weighted, rate[:, None, None]),
        )
        self.known = mixed.detached()
        return mixed


def _mixed(new: Tensor, old: Tensor, rate: Tensor) -> Tensor:
    return new + ((1 - rate) * old + (rate - 1) * new.detach())
