"""What of the expression is encoded: genes, their scale, components."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

BLOCK = 4096
"""Spots that are made dense at a time."""
THETA, LARGEST = 100.0, 8.0
"""Dispersion of the residuals of counts, and what they are cut at."""
FEW = 30
"""Spots of a new section below which its own means and deviations of genes are not worth using."""


@dataclass(frozen=True)
class Inputs:
    """Arrays that make inputs of expression.

    Attributes
    ----------
    genes
        Columns of the expression that are used, G.
    mean, spread
        Mean and spread of these genes, G; the spread of a constant gene is 0.
    components
        D x G; None where genes are encoded.
    own
        Whether a section is standardised by its own means and deviations, and sections need not agree in depth.
    depth
        Molecules of the median spot, to which counts are scaled before their logarithm; None where expression comes
        as logarithms.
    share
        Share of each gene in the counts, G; None without residuals.
    residual
        Components of the Pearson residuals of the counts, D x G; None without.
    average
        Mean of the genes where these are not standardised, which a gene that is not known has, G.
    """

    genes: np.ndarray
    mean: np.ndarray
    spread: np.ndarray
    components: np.ndarray | None
    own: bool
    depth: float | None
    share: np.ndarray | None = None
    residual: np.ndarray | None = None
    average: np.ndarray | None = None

    @property
    def size(self) -> int:
        """Number of inputs, D."""
        both = [each for each in (self.components, self.residual) if each is not None]
        return sum(map(len, both)) if both else len(self.genes)

    @classmethod
    def of(
        cls, x: Any, section: np.ndarray, known: np.ndarray, *, genes: int | None, standardised: bool,
        components: int | None, counts: bool, residuals: bool = False,
    ) -> Self:  # fmt: skip
        """Choose genes and components by the known spots.

        Parameters
        ----------
        x
            Expression, n x G, a CSR matrix or an array: logarithms, or counts.
        section
            Codes, n.
        known
            Positions in `x` of the spots to learn from.
        genes, standardised, components
            As of `Settings`.
        counts, residuals
            Whether `x` are counts, and whether their residuals are inputs, too.
        """
        depth = float(np.median(np.asarray(x[known].sum(1)))) if counts else None
        every = cls(np.arange(x.shape[1]), np.zeros(x.shape[1]), np.ones(x.shape[1]), None, own=False, depth=depth)
        mean, variance = every._moments(x, known)
        varying = np.flatnonzero(variance > 0)
        if not len(varying):
            raise ValueError("no gene varies over the known spots, expected some that do")
        chosen, most = varying, len(varying)
        if genes is not None and genes < most:
            most = genes
            level, squared = every._moments(x, known, np.expm1)
            dispersion = standardised_dispersion(level[varying], squared[varying])
            chosen = np.sort(varying[np.argsort(-dispersion, kind="stable")[:most]])
        spread = np.sqrt(variance[chosen])
        mean = mean[chosen]
        average = None if standardised else mean
        if not standardised:
            mean, spread = np.zeros(most), np.ones(most)
        found = cls(chosen, mean, spread, None, own=standardised, depth=depth, average=average)
        if components is None:
            return found
        found = replace(found, components=_components(lambda rows: found(x, section, rows, known), known, components))
        if not residuals:
            return found
        share = found._share(x, known)
        made = replace(found, share=share)
        vectors = _components(lambda rows: made._residuals_of(x, section, rows, known), known, components)
        return replace(made, residual=vectors)

    def __call__(self, x: Any, section: np.ndarray, rows: np.ndarray | None = None, every: Any = None) -> np.ndarray:
        """Make inputs, n x D float32.

        Parameters
        ----------
        x
            Expression of all genes of the fit, n x G; columns of NaN are genes that are not known, which count as
            average.
        section
            Codes, n.
        rows
            Spots to make inputs of; None for all.
        every
            Spots by which a section's genes are standardised; None for all of the section.
        """
        rows = np.arange(x.shape[0]) if rows is None else rows
        first = len(self.genes) if self.components is None else len(self.components)
        found = np.empty((len(rows), self.size), np.float32)
        for code in np.unique(section[rows]):
            mine = np.flatnonzero(section[rows] == code)
            mean, spread = self.mean, self.spread
            if self.own:
                members = np.flatnonzero(section == code) if every is None else every[section[every] == code]
                if len(members) >= FEW:
                    mean, variance = self._moments(x, members)
                    spread = np.sqrt(variance)
            scale = np.where(spread > 1e-6, spread, np.inf)
            for block in _blocks(mine):
                values = self._logs(x, rows[block])
                if self.average is not None:
                    values = np.where(np.isnan(values), self.average, values)
                values = (values - mean) / scale
                values = np.nan_to_num(values, nan=0.0)
                found[block, :first] = values if self.components is None else values @ self.components.T
        if self.residual is not None:
            for block in _blocks(np.arange(len(rows))):
                found[block, first:] = self._residuals_of(x, section, rows[block], every) @ self.residual.T
        return found

    def _residuals_of(self, x: Any, section: np.ndarray, rows: np.ndarray, every: Any = None) -> np.ndarray:
        """Pearson residuals of counts, by the gene shares of a spot's own section, 0 where a gene is not known."""
        found = np.empty((len(rows), len(self.genes)))
        for code in np.unique(section[rows]):
            mine = np.flatnonzero(section[rows] == code)
            members = np.flatnonzero(section == code) if every is None else every[section[every] == code]
            share = self._share(x, members) if len(members) >= FEW else self.share
            counts, total = self._counts(x, rows[mine])
            mean = total * share
            with np.errstate(invalid="ignore", divide="ignore"):
                values = (counts - mean) / np.sqrt(mean + mean**2 / THETA)
            found[mine] = np.nan_to_num(np.clip(values, -LARGEST, LARGEST), nan=0.0)
        return found

    def _share(self, x: Any, rows: np.ndarray) -> np.ndarray:
        both = [self._counts(x, block) for block in _blocks(rows)]
        return sum(counts.sum(0) for counts, _ in both) / max(sum(float(total.sum()) for _, total in both), 1e-12)

    def _counts(self, x: Any, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        part = x[rows]
        part = part.toarray() if hasattr(part, "toarray") else part
        return np.asarray(part[:, self.genes], float), np.nansum(part, axis=1, dtype=float)[:, None]

    def _logs(self, x: Any, rows: np.ndarray) -> np.ndarray:
        values, total = self._counts(x, rows)
        return values if self.depth is None else np.log1p(values * (self.depth / np.maximum(total, 1.0)))

    def _moments(
        self, x: Any, rows: np.ndarray, change: Callable[[np.ndarray], np.ndarray] = np.asarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of the genes over some spots, of logarithms or of what they are changed to."""
        total, squares = np.zeros(len(self.genes)), np.zeros(len(self.genes))
        for block in _blocks(rows):
            values = change(self._logs(x, block))
            total += values.sum(0)
            squares += np.square(values).sum(0)
        mean = total / len(rows)
        return mean, np.maximum(squares / len(rows) - mean**2, 0.0)


def _components(values_of: Callable[[np.ndarray], np.ndarray], rows: np.ndarray, number: int) -> np.ndarray:
    """Principal components of values that are made a block of spots at a time, D x G."""
    products, total = 0.0, 0.0
    for block in _blocks(rows):
        values = values_of(block).astype(np.float64)
        products, total = products + values.T @ values, total + values.sum(0)
    covariance = products / len(rows) - np.outer(total, total) / len(rows) ** 2
    number = min(number, len(covariance), len(rows) - 1)
    vectors = np.linalg.eigh(covariance)[1][:, ::-1][:, :number].T
    # signs are arbitrary: the largest loading is positive
    return vectors * np.sign(vectors[np.arange(number), np.abs(vectors).argmax(1)])[:, None]


def standardised_dispersion(mean: np.ndarray, variance: np.ndarray, bins: int = 20) -> np.ndarray:
    """Compare each gene's dispersion with genes of like mean, by which variable genes are chosen (Satija et al. 2015).

    The variance of logarithms would choose the abundant genes, which tell less about positions.

    Parameters
    ----------
    mean, variance
        Moments of normalised expression, not of its logarithm, G.
    bins
        Bins of the logarithm of the mean, of equal width.

    Returns
    -------
    numpy.ndarray
        Logarithm of variance over mean, as deviations from the mean of the bin in its standard deviations, G; of a gene
        that is alone in its bin, 1.
    """
    level = np.log1p(mean)
    dispersion = np.log(np.maximum(variance, 1e-12) / np.maximum(mean, 1e-12))
    edges = np.linspace(level.min(), level.max(), bins + 1)[1:-1]
    code = np.searchsorted(edges, level)
    count = np.bincount(code, minlength=bins)
    centre = np.bincount(code, dispersion, bins) / np.maximum(count, 1)
    away = dispersion - centre[code]
    spread = np.sqrt(np.bincount(code, away**2, bins) / np.maximum(count - 1, 1))
    alone = (count[code] < 2) | (spread[code] == 0)
    return np.where(alone, 1.0, away / np.where(alone, 1.0, spread[code]))


def _blocks(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)]
