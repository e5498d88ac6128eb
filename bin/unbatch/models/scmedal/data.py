"""What a fit is told of the cells: codes, moments of the training cells, and what is refused."""

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from unbatch.models.scmedal.parts import Parts
from unbatch.models.scmedal.recipes import OF_BATCHES, Settings
from unbatch.nn.minibatches import Resident, Source

BLOCK = 4096
"""Cells that are worked on at once where nothing is trained."""


@dataclass(frozen=True)
class TrainingData:
    """Cells that a network is trained on.

    Attributes
    ----------
    source
        Log-normalised expression, n x G.
    parts
        Which cells train, and which choose when to stop.
    batch, label
        Codes on the device, n; None without labels.
    embedding
        What is encoded in place of the expression, n x L; None for the expression.
    """

    source: Source
    parts: Parts
    batch: Tensor
    label: Tensor | None = None
    embedding: Tensor | None = None

    @classmethod
    def on_device(
        cls,
        source: Source,
        parts: Parts,
        batch: np.ndarray,
        label: np.ndarray | None = None,
        *,
        embedding: Tensor | None = None,
    ) -> Self:
        """Bring codes to the device of the expression."""
        codes = [
            None if each is None else torch.as_tensor(each.astype(np.int64), device=source.device)
            for each in (batch, label)
        ]
        return cls(source, parts, *codes, embedding=embedding)

    def inputs(self, position: Tensor, scaled: Tensor) -> Tensor:
        """Give what is encoded of some cells whose scaled expression is given."""
        return scaled if self.embedding is None else self.embedding[position]


@dataclass(frozen=True)
class Moments:
    """Moments of the scaled training cells, in float64.

    Attributes
    ----------
    low, high
        Minimum and maximum, unscaled.
    mean, covariance
        G and G x G.
    """

    low: float
    high: float
    mean: Tensor
    covariance: Tensor

    @property
    def variance(self) -> Tensor:
        """Variance of each gene, G."""
        return self.covariance.diagonal().clamp(min=0)

    @property
    def unexplained(self) -> float:
        """Mean squared error of the genes' means."""
        return float(self.variance.mean())

    def components(self, rank: int) -> tuple[Tensor, Tensor]:
        """Variances (rank) and principal components (G x rank)."""
        # up to so many genes the exact ones take no longer
        if len(self.mean) <= 1000:
            values, vectors = torch.linalg.eigh(self.covariance)
            return values[-rank:].flip(0), vectors[:, -rank:].flip(1)
        vectors, values, _ = torch.svd_lowrank(self.covariance, min(rank + 20, len(self.mean)), niter=6)
        return values[:rank], vectors[:, :rank]


def moments(source: Source, cells: np.ndarray) -> Moments:
    """Go through the training cells once.

    Raises
    ------
    ValueError
        If a value is not finite, or all are the same.
    """
    genes = source.shape[1]
    total = torch.zeros(genes, dtype=torch.float64, device=source.device)
    gram = torch.zeros(genes, genes, dtype=torch.float64, device=source.device)
    low = torch.full((), math.inf, device=source.device)
    high = -low
    for _, values in source.minibatches(cells, BLOCK):
        total += values.sum(0, dtype=torch.float64)
        gram += (values.T @ values).double()
        low, high = torch.minimum(low, values.min()), torch.maximum(high, values.max())
    least, most = float(low), float(high)
    if not (math.isfinite(least) and math.isfinite(most) and most > least):
        raise ValueError(
            f"expression of the training cells is from {least} to {most}, expected finite numbers that differ"
        )
    mean = total / len(cells)
    covariance = (gram / len(cells) - mean[:, None] * mean) / (most - least) ** 2
    return Moments(least, most, (mean - least) / (most - least), covariance)


def as_source(cells: Any, device: torch.device) -> Source:
    """Bring expression (a `Source`, a scipy CSR matrix or a numpy array) to a device."""
    return cells if isinstance(cells, Source) else Resident(cells, device)


def as_codes(batch: np.ndarray, source: Source, batches: int) -> Tensor:
    """Bring the codes of the cells' batches to the device of their expression.

    Raises
    ------
    ValueError
        If there is no code of -1 to `batches` - 1 for each cell.
    """
    code = np.asarray(batch).astype(np.int64)
    if code.shape != (source.shape[0],) or code.max(initial=-1) >= batches or code.min(initial=0) < -1:
        raise ValueError(
            f"batch: expected a code of -1 to {batches - 1} for each of {source.shape[0]} cells, found "
            f"{code.min(initial=0)} to {code.max(initial=-1)} for {len(code)}"
        )
    return torch.as_tensor(code, device=source.device)


def missing_batches(batch: np.ndarray, parts: Parts) -> list[int]:
    """Codes of batches that have cells, but none in the training part; -1, a batch held out, is none of them."""
    known = np.unique(batch[batch >= 0])
    return sorted(set(known.tolist()) - set(batch[parts.train].tolist()))


def require_fit(
    source: Source, batch: np.ndarray, parts: Parts, settings: Settings, *, label: np.ndarray | None
) -> None:
    """Refuse what cannot be fitted; for the arguments see `model.fit`.

    Raises
    ------
    ValueError
        If a batch has no training cells, there are labels or batches too few, or the latent space is too large.
    """
    for name, codes in (("batch", batch), ("label", label)):
        if codes is not None and codes.shape != (source.shape[0],):
            raise ValueError(f"{name} has shape {codes.shape}, expected a code for each of {source.shape[0]} cells")
    if len(parts.train) < 4 or not len(parts.validation):
        raise ValueError(
            f"{len(parts.train)} cells to train on and {len(parts.validation)} to validate, expected 4 and 1 or more"
        )
    if settings.model in OF_BATCHES:
        if batch.max() < 1:
            raise ValueError(f"{settings.model} needs two batches or more")
        if (batch[parts.train] < 0).any():
            raise ValueError("the training part has cells of a batch that is held out (code -1)")
        missing = missing_batches(batch, parts)
        if missing:
            raise ValueError(
                f"batch {missing[0]} has no cells in the training part; it must have some, or be held out (code -1)"
            )
    if settings.uses_labels and (label is None or len(np.unique(label[parts.train][label[parts.train] >= 0])) < 2):
        raise ValueError(f"{settings.model} needs labels, two or more among the training cells")
    if settings.model == "re" and not settings.recipe.closed_form and settings.shared_draw is False:
        raise ValueError(f"shared_draw is False: preset {settings.preset} takes the divergence from the shared draw")
    least = min(source.shape[1], len(parts.train))
    if settings.recipe.starts_from_data and settings.latent > least:
        raise ValueError(
            f"latent space of {settings.latent}: there are {least} genes or training cells, expected at most that"
        )
