"""Domains: clusters of spots by their place in an embedding, with and without a vote of neighbouring spots."""

import logging
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.linalg import cho_factor, cho_solve

from unbatch.errors import out_of_memory
from unbatch.metrics import spatial
from unbatch.nn.kmeans import kmeans, nearest

LEAST = 30
"""Fewest cells of a section whose domains are scored: twice the neighbours that are compared."""
NEAR = 15
"""Nearest cells that are compared between tissue and embedding."""
STARTS = 3
"""Starts of each clusterer where every method of a run is scored."""
log = logging.getLogger("unbatch")

NEIGHBOURS = 6
"""Spots around one whose majority it takes where domains are refined."""
REGULARISATION = 1e-4
"""What is added to the covariance of a mixture, in units of the mean variance."""

MOST_CLUSTERS = 100
"""Labels of a section above which no clusters are made: so many are no domains, and a mixture of them takes hours."""


def by_kmeans(values: np.ndarray, clusters: int, seed: int = 0, starts: int = 10) -> np.ndarray:
    """Cluster by k-means (the best of some starts): codes, n, of values n x d."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.as_tensor(values, dtype=torch.float64)
    return nearest(points, kmeans(points, clusters, generator, starts)).numpy()


@dataclass(frozen=True)
class Mixture:
    """A Gaussian mixture whose components share one covariance (mclust's EEE).

    Attributes
    ----------
    labels
        Most probable component of each spot, n.
    log_likelihood
        Mean over spots.
    """

    labels: np.ndarray
    log_likelihood: float


def by_mixture(values: np.ndarray, clusters: int, seed: int = 0, starts: int = 10, steps: int = 200) -> Mixture:
    """Fit a mixture with a shared covariance by expectation and maximisation, from k-means; the best of some starts.

    Unlike k-means it knows that a latent space is stretched, and it does not cut it into parts of one size.

    Parameters
    ----------
    values
        n x d.
    clusters
        Number of components.
    seed
        Seed of the starts.
    starts
        Number of starts.
    steps
        Most steps of a start.
    """
    values = np.asarray(values, dtype=np.float64)
    found = [_mixture(values, by_kmeans(values, clusters, seed + start, 1), clusters, steps) for start in range(starts)]
    return max(found, key=lambda each: each.log_likelihood)


def _mixture(values: np.ndarray, labels: np.ndarray, clusters: int, steps: int) -> Mixture:
    values = values - values.mean(0)
    spots, width = values.shape
    share = np.zeros((spots, clusters))
    share[np.arange(spots), labels] = 1
    floor = REGULARISATION * values.var(0).mean() * np.eye(width)
    second = values.T @ values
    last = -np.inf
    for _ in range(steps):
        weight = share.sum(0) + 1e-10
        centre = share.T @ values / weight[:, None]
        covariance = (second - (weight * centre.T) @ centre) / spots + floor
        factor = cho_factor(covariance, lower=True)
        towards = cho_solve(factor, centre.T)
        # less the square that all components have in common, whose mean is enough
        logs = np.log(weight / spots) + values @ towards - (centre.T * towards).sum(0) / 2
        top = logs.max(1, keepdims=True)
        share = np.exp(logs - top)
        total = share.sum(1, keepdims=True)
        share /= total
        common = np.trace(cho_solve(factor, second)) / spots / 2
        constant = width * np.log(2 * np.pi) / 2 + np.log(np.diag(factor[0])).sum()
        now = float((np.log(total) + top).mean() - common - constant)
        if now - last < 1e-5:
            break
        last = now
    return Mixture(share.argmax(1), now)


def refined(labels: np.ndarray, positions: np.ndarray, section: np.ndarray) -> np.ndarray:
    """Give each spot the label of more than half of its six nearest spots, where there is one.

    Parameters
    ----------
    labels
        Codes, n.
    positions, section
        Positions (n x d) and codes of sections (n).
    """
    near = spatial.nearest(positions, NEIGHBOURS, section, fewer=True)
    there = near >= 0
    votes = np.stack([((labels[near] == code) & there).sum(1) for code in range(int(labels.max()) + 1)], 1)
    first = votes.argmax(1)
    return np.where(2 * votes.max(1) > there.sum(1), first, labels)


@dataclass(frozen=True, eq=False)
class Section:
    """A section that is scored.

    Attributes
    ----------
    cells
        Positions of its cells in the dataset, m.
    place
        Their coordinates in spot pitches, m x p.
    label
        Codes of their labels, -1 without one, m; None where there are none to score by.
    of
        Cells that the section has in all: more than m where they were sampled.
    """

    cells: np.ndarray
    place: np.ndarray
    label: np.ndarray | None
    of: int

    @property
    def clusters(self) -> int:
        """As many as labels; 0 where these are too many."""
        found = 0 if self.label is None else len(np.unique(self.label[self.label >= 0]))
        return found if found <= MOST_CLUSTERS else 0


@dataclass(frozen=True, eq=False)
class Tissue:
    """The sections whose domains are scored, by name, and why others are not."""

    sections: dict[str, Section] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def cells(self) -> np.ndarray:
        """Positions of all its cells in the dataset, section by section."""
        return np.concatenate([np.empty(0, np.int64), *(each.cells for each in self.sections.values())])

    @classmethod
    def of(
        cls,
        points: np.ndarray,
        section: np.ndarray,
        names: list[str],
        label: np.ndarray | None,
        most: int,
        seed: int = 0,
    ) -> "Tissue":
        """Choose whole sections, in their order, as long as they have no more than `most` cells together.

        Parameters
        ----------
        points
            Coordinates, n x p.
        section
            Code of the section of each cell, n.
        names
            Names of the sections by code.
        label
            Codes of labels, -1 without one, n; None where there are none to score by.
        most
            Cells at most; where a section has more, that many are drawn.
        seed
            Seed of the draw.
        """
        found = cls()
        left = most
        for code, name in enumerate(names):
            cells = np.flatnonzero(section == code)
            if not len(cells):
                continue
            reason = _reason(points[cells])
            if not reason and len(cells) > left and found.sections:
                reason = f"the sections before it have used up the {most:,} cells that are scored"
            if reason:
                found.reasons[name] = reason
                continue
            of = len(cells)
            if of > left:
                cells = np.sort(np.random.default_rng(seed).choice(cells, left, replace=False))
            left -= len(cells)
            place = points[cells] * spatial.units(points[cells], np.zeros(len(cells), np.int64))[0]
            found.sections[name] = Section(cells, place, None if label is None else label[cells], of)
        return found

    def score(self, embedding: np.ndarray, seed: int = 0) -> dict[str, dict]:
        """Score an embedding of its cells.

        Parameters
        ----------
        embedding
            Rows in the order of `cells`.
        seed
            Seed of the clusterers.

        Returns
        -------
        dict
            By section ``kept``, and for each of ``kmeans``, ``kmeans_voted``, ``mixture``, ``mixture_voted`` its
            ``nmi``, ``ari``, ``pas`` and ``chaos``; or ``reason``.
        """
        found, start = {}, 0
        for name, section in self.sections.items():
            values = np.asarray(embedding[start : start + len(section.cells)], dtype=np.float64)
            start += len(section.cells)
            try:
                found[name] = _scores(section, values, seed)
            except Exception as error:
                if out_of_memory(error):
                    raise
                log.warning("domains of a section could not be scored: %s", error)
                found[name] = {"reason": str(error)}
        return found


def _reason(points: np.ndarray) -> str:
    """Say why a section can't be scored; nothing if it can."""
    if len(points) < LEAST:
        return f"it has {len(points)} cells, {LEAST} or more are needed"
    missing = int((~np.isfinite(points).all(1)).sum())
    if missing:
        return f"{missing} of its {len(points)} cells have no position"
    return "" if (np.ptp(points, axis=0) > 0).any() else "all its cells are on one position"


def _scores(section: Section, values: np.ndarray, seed: int) -> dict:
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    if not (np.ptp(values, axis=0) > 0).any():
        raise ValueError("the embedding is the same for all cells of the section")
    found: dict = {"kept": spatial.neighbourhood_kept(values, section.place, NEAR)}
    if section.clusters < 2:
        return found
    none = np.zeros(len(values), np.int64)
    known = section.label >= 0
    labels = {
        "kmeans": by_kmeans(values, section.clusters, seed, STARTS),
        "mixture": by_mixture(values, section.clusters, seed, STARTS).labels,
    }
    for name in list(labels):
        labels[f"{name}_voted"] = refined(labels[name], section.place, none)
    for name, each in labels.items():
        both = section.label[known], each[known]
        found[name] = {
            "nmi": float(normalized_mutual_info_score(*both)),
            "ari": float(adjusted_rand_score(*both)),
            "pas": spatial.abnormal_spots(each, section.place),
            "chaos": float(spatial.chaos(each, section.place)),
        }
    return found
