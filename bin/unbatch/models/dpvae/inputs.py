"""What of the expression is encoded: genes, their scale, components."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

BLOCK = 4096
"""Spots that are made dense at a time."""
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
        Of these genes, G; of spread 0 where a gene is constant.
    components
        D x G; None where genes are encoded.
    own
        Whether a section is standardised by its own means and deviations, so that sections need not agree in depth.
    depth
        Molecules of the median spot, to which counts are scaled before their logarithm; None where expression comes
        as logarithms.
    """

    genes: np.ndarray
    mean: np.ndarray
    spread: np.ndarray
    components: np.ndarray | None
    own: bool
    depth: float | None

    @classmethod
    def of(
        cls, x: Any, section: np.ndarray, known: np.ndarray, *, genes: int | None, standardised: bool,
        components: int | None, counts: bool,
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
        counts
            Whether `x` are counts.
        """
        depth = float(np.median(np.asarray(x[known].sum(1)))) if counts else None
        every = cls(np.arange(x.shape[1]), np.zeros(x.shape[1]), np.ones(x.shape[1]), None, own=False, depth=depth)
        mean, variance = every._moments(x, known)
        varying = np.flatnonzero(variance > 0)
        if not len(varying):
            raise ValueError("no gene varies over the known spots, expected some that do")
        most = len(varying) if genes is None else min(genes, len(varying))
        chosen = np.sort(varying[np.argsort(-variance[varying], kind="stable")[:most]])
        spread = np.sqrt(variance[chosen])
        mean = mean[chosen]
        if not standardised:
            mean, spread = np.zeros(most), np.ones(most)
        found = cls(chosen, mean, spread, None, own=standardised, depth=depth)
        if components is None:
            return found
        covariance = np.zeros((most, most))
        centre = np.zeros(most)
        for rows in _blocks(known):
            values = found(x, section, rows, every=known).astype(np.float64)
            covariance += values.T @ values
            centre += values.sum(0)
        covariance = covariance / len(known) - np.outer(centre, centre) / len(known) ** 2
        number = min(components, most, len(known) - 1)
        vectors = np.linalg.eigh(covariance)[1][:, ::-1][:, :number].T
        # signs are arbitrary: the largest loading is positive
        signs = np.sign(vectors[np.arange(number), np.abs(vectors).argmax(1)])
        return cls(chosen, mean, spread, vectors * signs[:, None], own=standardised, depth=depth)

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
        size = len(self.genes) if self.components is None else len(self.components)
        found = np.empty((len(rows), size), np.float32)
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
                values = (self._logs(x, rows[block]) - mean) / scale
                values = np.nan_to_num(values, nan=0.0)
                found[block] = values if self.components is None else values @ self.components.T
        return found

    def _logs(self, x: Any, rows: np.ndarray) -> np.ndarray:
        part = x[rows]
        values = np.asarray(part[:, self.genes].todense() if hasattr(part, "todense") else part[:, self.genes], float)
        if self.depth is None:
            return values
        total = np.asarray(part.sum(1), dtype=np.float64).reshape(-1, 1)
        return np.log1p(values * (self.depth / np.maximum(total, 1.0)))

    def _moments(self, x: Any, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of the genes over some spots."""
        total, squares = np.zeros(len(self.genes)), np.zeros(len(self.genes))
        for block in _blocks(rows):
            values = self._logs(x, block)
            total += values.sum(0)
            squares += np.square(values).sum(0)
        mean = total / len(rows)
        return mean, np.maximum(squares / len(rows) - mean**2, 0.0)


def _blocks(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)]
