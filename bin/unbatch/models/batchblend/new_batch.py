"""A batch that a model does not know: its effect against the cells of the fit, with all else as it is."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from unbatch.models.batchblend.cell_matrix import CellMatrix
from unbatch.models.batchblend.expression import Batches, gather, means_by_group, totals_of
from unbatch.models.batchblend.nmf import gene_weights
from unbatch.models.batchblend.nnls import solve_amounts
from unbatch.models.batchblend.noise import estimate_noise, projector
from unbatch.models.batchblend.pooling import expected_shares
from unbatch.models.batchblend.search import find_batch_effect
from unbatch.models.batchblend.settings import Settings
from unbatch.models.popari.amounts import shares

if TYPE_CHECKING:
    from unbatch.models.batchblend.model import BatchBlend


def add_batch(
    model: "BatchBlend", expression: Any, settings: Settings, *, seed: int, log: Callable[[str], None]
) -> "BatchBlend":
    """Add a batch to a model; see `BatchBlend.with_batch`."""
    if settings.offset == "annealed":
        raise ValueError("offset annealed finds one in any cells, those of the fit too: choose rays or none")
    decoder, rules = model.decoder, model.decoder.rules
    K, G = decoder.metagenes.shape
    totals = totals_of(expression)
    kept = np.flatnonzero(totals > rules.min_cell_total * totals.mean())
    if expression.shape[1] != G or len(kept) < K:
        raise ValueError(f"a new batch needs {G} genes (found {expression.shape[1]}) and {K} cells ({len(kept)})")
    drawn = _drawn_anew(model, torch.Generator().manual_seed(seed + 2))
    data = _two_batches(drawn, expression[kept], totals[kept] * decoder.scale, decoder.scale)
    log("noise model")
    noise, bases = estimate_noise(data, K, rules)
    settings = replace(settings, metagenes=K)
    effect = find_batch_effect(data, noise, bases, settings, seed=seed, log=log, rules=rules, clean=(0,))

    # relative to the reference, which has no factors; one of the two is minus the other, and so are their errors
    g, frame = (effect.log_factors[1] - effect.log_factors[0]).exp(), effect.factors[0]
    offset = effect.offset[1] * frame
    weights = gene_weights(data, noise, effect)[1]
    # in the unit of the other batches: the noise of the new one is then its variance
    usual = decoder.weights.log().mean(0).exp()
    weights = weights * (usual / weights).median()
    # of the new noise model, in the frame of the reference
    precision = noise.precision(data.mean, g) * noise.weights.square()
    b, matrix, sizes = len(decoder.factors), data.matrices[1], data.totals[data.slices[1]]
    larger = replace(
        decoder,
        factors=_with_row(decoder.factors, g),
        offset=_with_row(decoder.offset, offset * g),
        weights=_with_row(decoder.weights, weights),
        variance=_with_row(decoder.variance, decoder.variance.mean()),
        on_directions=_with_row(decoder.on_directions, offset @ projector(decoder.directions, precision)),
        precision=_with_row(decoder.precision, precision),
        total=_with_row(decoder.total, offset.sum()),
        expected=_with_row(decoder.expected, decoder.expected.mean(0)),
    )
    amounts = larger.amounts(matrix, sizes, b, pooled=False)
    variance = larger.residual_variance(matrix, sizes, amounts, b)
    larger = replace(larger, variance=_with_row(decoder.variance, variance))
    if larger.pooling:
        expected = _expected_of_states(larger.expected[b], amounts, larger.states(matrix, b))
        larger = replace(larger, expected=_with_row(decoder.expected, expected))
    right = larger.metagenes * (g * weights.square()) @ larger.offset[b]
    beta = solve_amounts(right[None], larger.design(b))[0]

    def extended(values: np.ndarray, row: Tensor, unit: float = 1.0) -> np.ndarray:
        return np.concatenate([values, (row / unit).cpu().numpy()[None]])

    scale = decoder.scale
    return replace(
        model,
        offset=extended(model.offset, larger.offset[b], scale),
        offset_error=extended(model.offset_error, effect.offset_se[1] * frame * g, scale),
        total_offset=extended(model.total_offset, larger.total[b], scale),
        total_offset_error=extended(model.total_offset_error, effect.total_se[1], scale),
        factors=extended(model.factors, g),
        log_error=extended(model.log_error, effect.log_factors_se.sum(0)),
        beta=extended(model.beta, beta, scale),
        sigma=extended(model.sigma, larger.variance[b].sqrt()),
        evidence=model.evidence + [replace(each, batches=(b,)) for each in effect.evidence if 1 in each.batches],
        decoder=larger,
    )


def _with_row(values: Tensor, row: Tensor) -> Tensor:
    return torch.cat([values, row[None]])


def _drawn_anew(model: "BatchBlend", generator: torch.Generator) -> Tensor:
    """Draw the cells of the reference without batch effect, in the unit of the fit, n x G.

    Values below 0 are left: without them the genes that are hardly expressed would have an offset.
    """
    decoder, batch = model.decoder, model.reference.batch
    mean = model.reference.amounts.double() @ decoder.metagenes
    noise = torch.randn(mean.shape, generator=generator, dtype=torch.float64).to(mean.device)
    for b in range(len(decoder.factors)):
        cells = (batch == b).nonzero()[:, 0]
        totals = (mean[cells] * decoder.factors[b] + decoder.offset[b]).sum(1)
        sd = decoder.cell_variance(totals, b).sqrt()[:, None] / (decoder.weights[b] * decoder.factors[b])
        noise[cells] *= sd
    return mean + noise


def _two_batches(drawn: Tensor, new: Any, new_totals: np.ndarray, scale: float) -> Batches:
    """Put the drawn cells and the new ones (in the unit of the input; their totals in that of the fit) side by side."""
    device, reference = drawn.device, drawn.cpu().numpy()
    totals = torch.cat([drawn.sum(1), torch.as_tensor(new_totals, device=device)])

    def source(places: Tensor) -> Batches:
        is_new = places >= len(drawn)
        old_rows, new_rows = places[~is_new].cpu().numpy(), places[is_new].cpu().numpy() - len(drawn)
        matrices = [CellMatrix(reference[old_rows], 1.0, device), CellMatrix(new[new_rows], scale, device)]
        return gather(matrices, totals[places], source)

    return source(torch.arange(len(totals), device=device))


def _expected_of_states(middle: Tensor, amounts: Tensor, state: Tensor) -> Tensor:
    """Shares to expect in each state of the new batch, from those of the other batches in the mean; C x K."""
    z, states = shares(amounts).double(), len(middle)
    count = torch.bincount(state, minlength=states)[:, None].double()
    change = means_by_group(z, state, states) - middle
    chance = means_by_group((z - middle[state]).square(), state, states) / count.clamp(min=1)
    return expected_shares(middle, change, chance, count > 1)
