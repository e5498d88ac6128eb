"""Multi-sample spatial transcriptomes with a known batch effect.

The generative model is POPARI's (Alam et al., bioRxiv 2025; its simulation tutorial gives the sizes) with the
additive batch term of the BatchBlend thesis, section 2.1: cell i of batch t has the mean expression
``((x_i + beta_t) M) * f_t``, where ``x_i`` are its amounts of K metagenes, the rows of ``M`` are the metagenes,
``beta_t >= 0`` is the batch effect and ``f_t`` are optional factors per gene.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from unbatch.data.simulation.common import METAGENES, Simulation

if TYPE_CHECKING:
    from anndata import AnnData

# Share of the genes in which a metagene differs from the latest one marked 0, which is drawn afresh.
_REDRAWN = (0, 0.1, 0, 0, 0.1, 0.1, 0.1, 0, 0.1, 0.1, 0.1)

# Mean amounts by metagene. Excitatory types share metagene 0, inhibitory ones metagene 1.
_TYPES: dict[str, dict[int, float]] = {
    **{f"Excitatory L{i + 1}": {0: 0.5, 7 + i: 1.0} for i in range(4)},
    **{f"Inhibitory L{i + 1}": {1: 0.5, 3 + i: 1.0} for i in range(4)},
    "Non-neuron": {2: 1.0},
}

CELL_TYPES = tuple(_TYPES)
"""Names of the cell types, in the order of `Truth.cell_type`."""

LAYERS = ("L1", "L2", "L3", "L4")
"""Names of the layers, in the order of `Truth.layer`."""

# Shares of the cell types in each layer: what every batch has, and what every second one has if the mix is shifted.
_MIX = (
    {"Excitatory L1": 0.53, "Inhibitory L1": 0.2, "Inhibitory L2": 0.2, "Non-neuron": 0.07},
    {"Excitatory L2": 0.53, "Inhibitory L2": 0.2, "Inhibitory L3": 0.2, "Non-neuron": 0.07},
    {"Excitatory L3": 0.53, "Inhibitory L3": 0.2, "Inhibitory L4": 0.2, "Non-neuron": 0.07},
    {"Excitatory L4": 0.53, "Inhibitory L3": 0.2, "Inhibitory L4": 0.2, "Non-neuron": 0.07},
)
_SHIFTED_MIX = (
    {"Excitatory L1": 0.2, "Excitatory L2": 0.2, "Inhibitory L1": 0.53, "Non-neuron": 0.07},
    {"Excitatory L2": 0.2, "Excitatory L3": 0.2, "Inhibitory L2": 0.53, "Non-neuron": 0.07},
    {"Excitatory L3": 0.2, "Excitatory L4": 0.2, "Inhibitory L3": 0.53, "Non-neuron": 0.07},
    {"Excitatory L3": 0.2, "Excitatory L4": 0.2, "Inhibitory L4": 0.53, "Non-neuron": 0.07},
)


class Parameters(Simulation):
    """What to simulate; the defaults are the thesis's."""

    sigma_beta: float = Field(
        2.0,
        ge=0,
        description="strength of the additive batch effect: in each batch a share of the metagenes, drawn at random, "
        "has an effect |N(0, sigma_beta^2)| in the unit of the amounts, of which a cell has 11 in the mean",
    )
    share_beta: float = Field(0.5, ge=0, le=1, description="share of the metagenes with an additive batch effect")
    sigma_gene: float = Field(
        0.0,
        ge=0,
        description="multiplicative batch effect: genes of a batch are multiplied by exp(N(0, this^2))",
    )
    sigma_x: float = Field(
        0.1,
        ge=0,
        description="standard deviation of a cell's amounts around those of its type, before they are scaled to the "
        "cell's size",
    )
    gamma_shape: float = Field(
        8.0, ge=1e-3, description="shape of the genes' weights in a metagene; small values make sparser metagenes"
    )
    size_scale: float = Field(
        1.0, ge=1e-3, description="scale of the gamma distribution of cell sizes, whose mean stays the same"
    )


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """Everything that lies behind the expression values; N cells (batch after batch), K metagenes, T batches.

    Attributes
    ----------
    parameters
        What was asked for.
    batch, layer, cell_type
        Index of each cell's batch, layer (into `LAYERS`) and cell type (into `CELL_TYPES`), each of shape (N,).
    position
        Coordinates in a field of width 1, shape (N, 2).
    amounts
        Amounts of the metagenes in each cell, shape (N, K).
    metagenes
        Weight of each gene in each metagene, shape (K, genes); rows sum to 1.
    beta
        Batch effect on the amounts, shape (T, K).
    gene_factors
        Batch effect on each gene, shape (T, genes).
    scale
        What the mean is multiplied by before the noise: 1 for Gaussian noise, counts per unit of it for counts.
    """

    parameters: Parameters
    batch: np.ndarray
    layer: np.ndarray
    cell_type: np.ndarray
    position: np.ndarray
    amounts: np.ndarray
    metagenes: np.ndarray
    beta: np.ndarray
    gene_factors: np.ndarray
    scale: float

    def mean(self, cells: slice) -> np.ndarray:
        """Return the expected expression of some cells before the noise, shape (cells, genes)."""
        batch = self.batch[cells]
        mean = (self.amounts[cells] + self.beta[batch]) @ self.metagenes
        mean *= self.scale * self.gene_factors[batch]
        return mean


def draw_truth(parameters: Parameters, rng: np.random.Generator) -> Truth:
    """Draw metagenes, cells and batch effects.

    Parameters
    ----------
    parameters
        What to simulate.
    rng
        Source of all random numbers; the same state gives the same result.
    """
    p = parameters
    metagenes = _metagenes(p.genes, p.gamma_shape, rng)
    field = _grid(p.cells)
    # vertical stripes of equal width
    layer = np.minimum((field[:, 0] * len(LAYERS)).astype(np.int8), len(LAYERS) - 1)
    cell_type, amounts, beta = [], [], np.zeros((p.batches, METAGENES))
    for batch in range(p.batches):
        mix = _SHIFTED_MIX if p.mix == "shifted" and batch % 2 else _MIX
        cell_type.append(_cell_types(layer, mix, rng))
        amounts.append(_amounts(cell_type[-1], p.sigma_x, p.size_scale, rng))
        # as many random numbers whatever the parameters: the same seed gives the same cells with another effect
        size, hit = np.abs(rng.normal(0, p.sigma_beta, METAGENES)), rng.permutation(METAGENES)
        hit = hit[: round(p.share_beta * METAGENES)]
        beta[batch, hit] = size[hit]
    batch = np.repeat(np.arange(p.batches), p.cells)
    amounts = np.concatenate(amounts)
    gene_factors = np.exp(rng.normal(0, p.sigma_gene, (p.batches, p.genes)))
    scale = 1.0
    if p.noise == "nb":
        # total of each metagene over the genes, by batch: the mean total needs no cells x genes matrix
        totals = np.einsum("nk,nk->n", amounts + beta[batch], (gene_factors @ metagenes.T)[batch])
        scale = p.depth / totals.mean()
    return Truth(
        parameters=p,
        batch=batch,
        layer=np.tile(layer, p.batches),
        cell_type=np.concatenate(cell_type),
        position=np.tile(field, (p.batches, 1)),
        amounts=amounts,
        metagenes=metagenes,
        beta=beta,
        gene_factors=gene_factors,
        scale=scale,
    )


def annotated(truth: Truth) -> "AnnData":
    """Return the cells, without expression, and with the truth in obs, obsm, varm and uns."""
    import pandas as pd
    from anndata import AnnData

    p = truth.parameters
    batches = [f"batch{i + 1}" for i in range(p.batches)]
    obs = pd.DataFrame(
        {
            "sample": pd.Categorical.from_codes(truth.batch, batches),
            "cell_type": pd.Categorical.from_codes(truth.cell_type, CELL_TYPES),
            "domain": pd.Categorical.from_codes(truth.layer, LAYERS),
        },
        index=[f"{batch}-cell{i + 1}" for batch in batches for i in range(p.cells)],
    )
    known = {"batches": batches, "beta": truth.beta, "gene_factors": truth.gene_factors, "scale": truth.scale}
    return AnnData(
        obs=obs,
        var=pd.DataFrame(index=[f"gene{i + 1}" for i in range(p.genes)]),
        obsm={"spatial": truth.position, "X_true": truth.amounts.astype("float32")},
        varm={"metagenes_true": truth.metagenes.T},
        uns={"unbatch": {"truth": known}},
    )


def _metagenes(genes: int, shape: float, rng: np.random.Generator) -> np.ndarray:
    metagenes = np.empty((METAGENES, genes))
    base = np.empty(genes)
    for row, share in zip(metagenes, _REDRAWN, strict=True):
        if share == 0:
            base = rng.gamma(shape, size=genes)
        row[:] = base
        redrawn = rng.choice(genes, int(share * genes), replace=False)
        row[redrawn] = rng.gamma(shape, size=len(redrawn))
    return metagenes / metagenes.sum(axis=1, keepdims=True)


def _grid(cells: int) -> np.ndarray:
    """Return the first `cells` points, row by row, of the smallest square grid that has so many."""
    side = math.isqrt(cells - 1) + 1
    row, column = np.divmod(np.arange(cells), side)
    return np.column_stack((column, row)) / (side - 1)


def _cell_types(layer: np.ndarray, mix: tuple[dict[str, float], ...], rng: np.random.Generator) -> np.ndarray:
    """Deal out the cells of each layer such that its types have the shares in `mix` up to rounding."""
    cell_type = np.empty(len(layer), dtype=np.int8)
    for number, shares in enumerate(mix):
        cells = rng.permutation(np.flatnonzero(layer == number))
        ends = np.rint(np.cumsum(list(shares.values())) * len(cells)).astype(int)
        for name, part in zip(shares, np.split(cells, ends[:-1]), strict=True):
            cell_type[part] = CELL_TYPES.index(name)
    return cell_type


def _amounts(cell_type: np.ndarray, sigma: float, size_scale: float, rng: np.random.Generator) -> np.ndarray:
    """Draw truncated normal amounts around the type's, scaled to the size of the cell."""
    profiles = np.zeros((len(CELL_TYPES), METAGENES))
    for row, profile in zip(profiles, _TYPES.values(), strict=True):
        row[list(profile)] = list(profile.values())
    amounts = profiles[cell_type]
    present = np.nonzero(amounts)
    amounts[present] = _truncated_normal(amounts[present], sigma, rng)
    sizes = rng.gamma(METAGENES / size_scale, size_scale, (len(amounts), 1))
    return amounts * (sizes / amounts.sum(axis=1, keepdims=True))


def _truncated_normal(mean: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Draw from N(mean, sigma^2) truncated at 0, for means above 0, where at least half of the draws are kept."""
    values = rng.normal(mean, sigma)
    while len(below := np.flatnonzero(values < 0)):
        values[below] = rng.normal(mean[below], sigma)
    return values
