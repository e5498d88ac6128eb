"""What a fit starts from: moments of the genes, components, and the linear parts of encoder and decoder."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unbatch.models.spavae.networks import Inputs, Network
from unbatch.models.spavae.settings import Settings
from unbatch.nn.minibatches import Source

BLOCK = 4096
"""Spots that are worked on at once where nothing is trained."""
MOST = 20_000
"""Most spots that moments of genes are taken of: a random sample where there are more."""
MOST_SEEN = 100_000
"""Most spots that the linear parts start from: a random sample where there are more."""
EXACT = 2000
"""Genes up to which all components are computed exactly."""
FIELD_RIDGE, LOADING_RIDGE = 5.0, 50.0
"""Ridge of what is projected onto the features of the field, and of the loadings of genes."""
LEAST_VARIANCE, VARIANCE = 0.05, 0.5
"""Variance of the encoder at the start: at least of field dimensions, and of the others."""
SPREAD = 0.3
"""Standard deviation of the Gaussian dimensions at the start."""


def sampled(spots: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Give sorted positions of spots: all, or a random sample of `most`."""
    if len(spots) <= most:
        return spots
    return np.sort(np.random.default_rng(seed).choice(spots, most, replace=False))


def inputs_of(source: Source, train: np.ndarray, settings: Settings, depth: float, seed: int) -> Inputs:
    """Take moments of the genes of training spots, and their components where these are encoded."""
    chosen = sampled(train, MOST, seed)
    genes = source.shape[1]
    total = torch.zeros(genes, dtype=torch.float64, device=source.device)
    squares = torch.zeros_like(total)
    pairs = settings.inputs != "genes"
    gram = torch.zeros(genes, genes, dtype=torch.float64, device=source.device) if pairs else None
    for _, counts in source.minibatches(chosen, BLOCK):
        values = torch.log1p(counts / (counts.sum(1, keepdim=True) / depth).clamp(min=1e-4))
        total += values.sum(0, dtype=torch.float64)
        if gram is None:
            squares += values.double().square().sum(0)
        else:
            gram += (values.T @ values).double()
    mean, unbiased = total / len(chosen), len(chosen) / (len(chosen) - 1)
    variance = ((squares if gram is None else gram.diagonal()) / len(chosen) - mean * mean) * unbiased
    spread = variance.clamp(min=0).sqrt()
    # a gene that never varies tells nothing: its standardised value is 0
    spread = torch.where(spread > 1e-6, spread, torch.inf)
    if gram is None:
        return Inputs(depth, mean, spread, None)
    correlation = (gram / len(chosen) - mean[:, None] * mean) * unbiased / spread[:, None] / spread
    rank = min(settings.components, genes, len(chosen) - 1)
    if genes <= EXACT:
        values, vectors = torch.linalg.eigh(correlation)
        values, vectors = values[-rank:].flip(0), vectors[:, -rank:].flip(1)
    else:
        vectors, values, _ = torch.svd_lowrank(correlation, min(rank + 20, genes), niter=6)
        values, vectors = values[:rank], vectors[:, :rank]
    real = values > 1e-9 * values[0]
    return Inputs(depth, mean, spread, vectors[:, real] / values[real].sqrt())


@dataclass(frozen=True)
class Seen:
    """What training spots are to the start: inputs (n x width), features of the field (n x M), section codes (n)."""

    inputs: Tensor
    features: Tensor
    section: Tensor


@torch.no_grad()
def start_from_data(network: Network, source: Source, train: np.ndarray, seen: Seen) -> None:
    """Start the linear parts; the rest of the encoder starts small and that of the decoder as it is.

    The dimensions of the field are the leading directions of the inputs' projection onto its features, by section; the
    others are components of what these leave. Loadings are a ridge regression of relative rates on all of them, and
    what the decoder adds at first is the logarithm of the mean rate.
    """
    settings = network.settings
    values = seen.inputs.double()
    smooth = _smooth(values, seen)
    field = _leading(smooth.T @ smooth, settings.latent)
    field = field / (smooth @ field).std(0, correction=0).clamp(min=1e-9)
    of_field, smooth = values @ field, smooth @ field
    variance = (of_field - smooth).var(0, correction=0).clamp(min=LEAST_VARIANCE)
    rest = values - of_field @ torch.linalg.lstsq(of_field, values).solution
    other = _leading(rest.T @ rest, settings.gaussian)
    if settings.gaussian:
        other = other / (values @ other).std(0, correction=0).clamp(min=1e-9) * SPREAD
    latent = torch.cat([smooth, values @ other], 1)
    loadings, rate = _loadings(latent, source, train, network.inputs)
    loadings[settings.latent :] *= 0.5
    latents = settings.latent + settings.gaussian
    network.skip.copy_(torch.cat([field, other], 1))
    network.linear[:latents] = loadings.clamp(-1, 1).float()
    network.out.bias.copy_(rate.log())
    network.mean.bias.zero_()
    network.log_variance.weight.zero_()
    network.log_variance.bias[: settings.latent] = variance.log().float()
    network.log_variance.bias[settings.latent :] = float(np.log(VARIANCE))


def _smooth(values: Tensor, seen: Seen) -> Tensor:
    """Project inputs onto the features of the field, by ridge regression within each section."""
    found = torch.empty_like(values)
    codes = torch.unique(seen.section).tolist()
    for code in codes:
        rows = (seen.section == code).nonzero()[:, 0]
        features, own = seen.features[rows], values[rows]
        if len(codes) > 1:
            # what a whole section has more of is none of its field's business
            own = own - own.mean(0)
        gram = features.T @ features
        gram.diagonal().add_(FIELD_RIDGE)
        found[rows] = features @ torch.linalg.solve(gram, features.T @ own)
    return found


def _leading(matrix: Tensor, count: int) -> Tensor:
    """Eigenvectors of the largest eigenvalues, as columns."""
    vectors = torch.linalg.eigh(matrix)[1]
    return vectors[:, vectors.shape[1] - count :].flip(1)


def _loadings(latent: Tensor, source: Source, train: np.ndarray, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Regress rates over their mean, less 1, on latents (n x K): K x G; also give the mean rates, G."""
    products = torch.zeros(latent.shape[1], source.shape[1], dtype=torch.float64, device=latent.device)
    counted = torch.zeros(source.shape[1], dtype=torch.float64, device=latent.device)
    sizes, done = 0.0, 0
    rates = torch.zeros_like(counted)
    for _, counts in source.minibatches(train, BLOCK):
        size = inputs.size(counts)
        rate = counts / size
        products += (latent[done : done + len(counts)].T.float() @ rate).double()
        rates += rate.sum(0, dtype=torch.float64)
        counted += counts.sum(0, dtype=torch.float64)
        sizes += float(size.sum())
        done += len(counts)
    mean = rates / len(latent) + 1e-3
    gram = latent.T @ latent
    gram.diagonal().add_(LOADING_RIDGE)
    loadings = torch.linalg.solve(gram, products / mean - latent.sum(0)[:, None])
    return loadings, counted / sizes + 1e-6
