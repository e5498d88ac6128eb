"""The negative binomial likelihood of counts, with a gradient written out and few gamma functions."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

LARGEST = 12.0
"""Largest logarithm of a mean, and of its inverse: beyond, a first bad step would overflow."""


class _Means(torch.autograd.Function):
    """Sum over spots and genes of the terms of -log NB that have the mean: gradients in one pass over the matrix."""

    @staticmethod
    def forward(ctx: Any, rate: Tensor, size: Tensor, counts: Tensor, dispersion: Tensor) -> Tensor:
        theta = dispersion.exp()
        # the gradient ignores the limit, which draws a value beyond it back
        log_mean = torch.add(rate, size).clamp_(-LARGEST, LARGEST)
        loss = -torch.dot(log_mean.flatten(), counts.flatten())
        mean = log_mean.exp_()
        total = mean + theta
        both = counts + theta
        share = both / total
        logs = total.log_()
        loss = loss + torch.dot(both.flatten(), logs.flatten()) - len(counts) * (theta * dispersion).sum()
        of_theta = logs.sum(0) + share.sum(0) - len(counts) * (dispersion + 1)
        ctx.save_for_backward(share.mul_(mean).sub_(counts), of_theta * theta)
        return loss

    @staticmethod
    def backward(ctx: Any, given: Tensor) -> tuple[Tensor | None, ...]:
        of_rate, of_dispersion = ctx.saved_tensors
        return of_rate * given, None, None, of_dispersion * given


MOST_ROWS = 65_536
"""Spots whose counts are tabulated at once."""


class GammaTerms:
    """The terms of -log NB with gamma functions, over all spots: one for each different pair of gene and count.

    Parameters
    ----------
    counts
        n x G, a scipy CSR matrix or a numpy array of whole numbers, or blocks of its rows one after another.
    group
        Which dispersions hold for each spot, codes 0 ... K-1, n.
    groups
        K.
    device
        Where to hold the table.

    Notes
    -----
    In a minibatch these terms are replaced by their mean over all spots: they depend on the dispersions alone, so
    that costs no accuracy and saves counting in each step.
    """

    def __init__(self, counts: Any, group: np.ndarray, groups: int, device: torch.device | str = "cpu") -> None:
        column, value, number = (np.zeros(0, dtype=np.int64) for _ in range(3))
        self.spots, genes = 0, 0
        for block in _pieces(counts):
            rows, genes = group[self.spots : self.spots + block.shape[0]], block.shape[1]
            parts = zip((column, value, number), _tabulated(block, rows, groups), strict=True)
            column, value, number = _merged(*(np.concatenate(pair) for pair in parts))
            self.spots += block.shape[0]
        columns = np.bincount(column, weights=number, minlength=groups * genes)
        place = {"dtype": torch.float32, "device": device}
        self.column = torch.as_tensor(column, device=device)
        self.value = torch.as_tensor(value, **place)
        self.number = torch.as_tensor(number, **place)
        self.positive = torch.as_tensor(columns, **place)
        logs = torch.lgamma(torch.as_tensor(value, dtype=torch.float64) + 1)
        self.constant = float((logs * torch.as_tensor(number, dtype=torch.float64)).sum())

    def __call__(self, dispersion: Tensor) -> Tensor:
        """Mean over spots of lgamma(theta) - lgamma(theta + y) + lgamma(y + 1), summed over genes.

        Parameters
        ----------
        dispersion
            log theta, K x G.
        """
        theta = dispersion.flatten().exp()
        total = (self.positive * torch.lgamma(theta)).sum()
        total = total - (self.number * torch.lgamma(theta[self.column] + self.value)).sum()
        return (total + self.constant) / self.spots


def row_blocks(counts: Any) -> Iterable[Any]:
    """Give a matrix as the only block of its rows, and blocks as they are."""
    return [counts] if hasattr(counts, "shape") else counts


def _pieces(counts: Any) -> Iterator[Any]:
    """Yield blocks of at most `MOST_ROWS` rows."""
    for block in row_blocks(counts):
        for start in range(0, block.shape[0], MOST_ROWS):
            yield block if block.shape[0] <= MOST_ROWS else block[start : start + MOST_ROWS]


def _tabulated(counts: Any, group: np.ndarray, groups: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give the different pairs of a group's gene and a count above 0, in order, and how often each is there."""
    if hasattr(counts, "indptr"):
        counts = counts.tocsr()
        row, gene, value = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr)), counts.indices, counts.data
    else:
        row, gene = np.nonzero(counts)
        value = counts[row, gene]
    there = value > 0
    value = value[there].astype(np.int64)
    column = group[row[there]].astype(np.int64) * counts.shape[1] + gene[there]
    width = int(value.max(initial=0)) + 1
    code = column * width + value
    places = groups * counts.shape[1] * width
    if places <= max(10_000_000, 4 * len(code)):
        number = np.bincount(code, minlength=1)
        different = np.flatnonzero(number)
        number = number[different]
    else:
        different, number = np.unique(code, return_counts=True)
    return different // width, different % width, number


def _merged(column: np.ndarray, value: np.ndarray, number: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Add up what tables of several blocks have of the same pair."""
    width = int(value.max(initial=0)) + 1
    different, where = np.unique(column * width + value, return_inverse=True)
    total = np.zeros(len(different), dtype=np.int64)
    np.add.at(total, where, number)
    return different // width, different % width, total


def mean_terms(rate: Tensor, size: Tensor, counts: Tensor, dispersion: Tensor) -> Tensor:
    """Sum the terms of -log NB that have the mean over spots and genes; with `GammaTerms`, it is all of it.

    Parameters
    ----------
    rate
        Logarithm of the mean at size factor 1, b x G, float32.
    size
        Logarithms of size factors, b x 1.
    counts
        b x G.
    dispersion
        log theta, G; the variance is ``mean + mean^2 / theta``.
    """
    return _Means.apply(rate, size, counts, dispersion)


def negative_log_likelihood(rate: Tensor, size: Tensor, counts: Tensor, dispersion: Tensor) -> Tensor:
    """Give all terms of -log NB of every spot and gene, b x G; `dispersion` is G or b x G. See `mean_terms`."""
    log_mean = (rate + size).clamp(-LARGEST, LARGEST)
    theta = dispersion.exp()
    total = torch.log(theta + log_mean.exp())
    gammas = torch.lgamma(theta) + torch.lgamma(counts + 1) - torch.lgamma(theta + counts)
    return gammas + (theta + counts) * total - theta * dispersion - counts * log_mean


def residuals(counts: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Pearson residuals of counts under a negative binomial with one rate per gene, scaled to mean 0 and variance 1.

    Parameters
    ----------
    counts
        n x G, dense.
    size
        Size factors, n.

    Returns
    -------
    np.ndarray
        n x G, float64; of genes without counts 0. Residuals beyond the root of n are set to it: no single spot
        may make up a gene's variance.
    """
    rate = counts.sum(0) / size.sum()
    mean = size[:, None] * rate
    found = counts - mean
    # in place where it can be: each matrix of a large tissue takes as much memory as all else
    excess = np.square(found)
    excess -= mean
    excess = excess.sum(0)
    squares = np.square(mean)
    # dispersion of method of moments; no excess is a Poisson variance
    inverse = np.clip(excess, 0, None) / np.maximum(squares.sum(0), 1e-12)
    squares *= np.minimum(inverse, 20.0)
    squares += mean
    np.maximum(squares, 1e-12, out=squares)
    found /= np.sqrt(squares, out=squares)
    limit = np.sqrt(len(counts))
    np.clip(found, -limit, limit, out=found)
    found -= found.mean(0)
    spread = found.std(0)
    found /= np.where(spread > 1e-9, spread, np.inf)
    return found
