"""Penalties that make an embedding tell nothing of the batch."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


def hsic(embedding: Tensor, batch: Tensor, batches: int) -> Tensor:
    """Hilbert-Schmidt independence criterion of an embedding and the batch, scaled to at most about 1.

    Parameters
    ----------
    embedding
        n x d; a dimension is divided by its standard deviation, through which no gradient goes.
    batch
        Codes, n.
    batches
        Number of batches, K.

    Returns
    -------
    Tensor
        Sum over pairs of different cells of the products of a Gaussian kernel of the embedding (mean squared distance
        as its width) and the linear one of the batch, both centred, divided by the norms of both, through which no
        gradient goes. Its expectation without dependence is about 0 (Song et al. 2012, eq. 5, up to terms in 1 / n).
    """
    scaled = _standardised(embedding)
    squares = scaled.square().sum(1)
    distance = (squares[:, None] + squares - 2 * scaled @ scaled.T).clamp(min=0)
    kernel = torch.exp(-distance / distance.detach().mean())
    kernel = kernel - kernel.mean(0, keepdim=True)
    kernel = kernel - kernel.mean(1, keepdim=True)
    codes = F.one_hot(batch, batches).to(scaled.dtype)
    codes = codes - codes.mean(0)
    same = codes @ codes.T
    products = kernel * same
    return (products.sum() - products.diagonal().sum()) / (kernel.norm() * same.norm()).detach().clamp(min=1e-12)


def mean_matching(
    embedding: Tensor, batch: Tensor, batches: int, group: Tensor, groups: int, least: int = 20
) -> Tensor:
    """Squared distance of the means of batches within groups, in units of the variance in the group.

    Parameters
    ----------
    embedding
        n x d.
    batch
        Codes, n.
    batches
        Number of batches.
    group
        Codes, such as labels, n; -1 for cells without one, which do not count.
    groups
        Number of groups.
    least
        Groups of fewer cells do not count.

    Returns
    -------
    Tensor
        Mean over dimensions and cells, less what it would be of means that differ by chance.
    """
    known = (group >= 0).to(embedding.dtype)
    group = group.clamp(min=0)

    def sums(values: Tensor, codes: Tensor, number: int) -> Tensor:
        return values.new_zeros(number, values.shape[1]).index_add(0, codes, values * known[:, None])

    ones = torch.ones_like(known)[:, None]
    size = sums(ones, group, groups)
    mean = sums(embedding, group, groups) / size.clamp(min=1)
    centred = embedding - mean[group]
    spread = (sums(centred.detach().square(), group, groups) / (size - 1).clamp(min=1)).sqrt() + 1e-3
    scaled = centred / spread[group]
    both = group * batches + batch
    in_batch = sums(ones, both, groups * batches)
    distance = sums(scaled, both, groups * batches) / in_batch.clamp(min=1)
    by_chance = (in_batch > 0).to(distance.dtype) - in_batch / size.repeat_interleave(batches, 0).clamp(min=1)
    excess = in_batch * distance.square() - by_chance
    counted = (size > least).to(distance.dtype)
    weight = counted.repeat_interleave(batches, 0)
    return (weight * excess).sum() / ((counted * size).sum() * embedding.shape[1]).clamp(min=1)


_WIDTHS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1, 5, 10, 15, 20, 25, 30, 35, 100, 1e3, 1e4, 1e5, 1e6)


def mean_discrepancy(embedding: Tensor, batch: Tensor, batches: int) -> Tensor:
    """Maximum mean discrepancy between the first batch and each other one, as SAUCIE has it.

    Parameters
    ----------
    embedding
        n x d.
    batch
        Codes, n; 0 is the reference.
    batches
        Number of batches.

    Returns
    -------
    Tensor
        Sum over batches of the biased estimate of the squared discrepancy (Gretton et al. 2012, eq. 5) with the mean of
        Gaussian kernels of many widths of the squared distances, which are divided by the largest of them; 0 where
        the reference or all others are absent.
    """
    squares = embedding.square().sum(1)
    distance = (squares[:, None] + squares - 2 * embedding @ embedding.T).clamp(min=0)
    distance = distance / distance.max().clamp(min=1e-12)
    kernel = torch.stack([torch.exp(-distance / (2 * width)) for width in _WIDTHS]).mean(0)
    codes = F.one_hot(batch, batches).to(kernel.dtype)
    size = codes.sum(0)
    means = codes.T @ kernel @ codes / (size[:, None] * size).clamp(min=1)
    there = (size > 0).to(kernel.dtype) * (size[0] > 0)
    return (there * (means[0, 0] + means.diagonal() - 2 * means[0])).sum()


def _standardised(embedding: Tensor) -> Tensor:
    return (embedding - embedding.mean(0)) / (embedding.std(0).detach() + 1e-3)
