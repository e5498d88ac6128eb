"""How many metagenes there are, by what they predict of held-out entries."""

from typing import Any

import numpy as np
import torch

from unbatch.models.batchblend.expression import prepare, totals_of
from unbatch.models.batchblend.held_out import held_out_errors
from unbatch.models.batchblend.noise import estimate_noise
from unbatch.models.batchblend.settings import RULES, Rules

_BATCHES, _CELLS, _GENES, _FOLDS = 8, 2000, 1000, 5
"""Batches, cells of each, genes, and parts of both cells and genes that are held out in turns."""


def choose_metagenes(
    expression: Any,
    batch: np.ndarray,
    seed: int = 0,
    *,
    fewest: int = 5,
    most: int = 30,
    device: str = "cpu",
    rules: Rules = RULES,
) -> int:
    """Choose the number of metagenes by what they predict of held-out entries.

    Parameters
    ----------
    expression, batch
        See `fit`.
    seed
        Seed of the sample of cells and of the blocks that are held out.
    fewest, most
        Smallest and largest number; less than `fewest` if genes or cells do not allow as many.
    device
        Where to compute.
    rules
        The thresholds.

    Returns
    -------
    int
        Two more than the rank of the least error.

    Notes
    -----
    Bi-cross-validation with 5 x 5 blocks (see `held_out_errors`) in each batch alone; what tells batches apart
    takes no rank: of up to 8 batches, 2,000 cells each and the 1,000 genes that vary most, all weighted by their noise.
    The error falls by little for metagenes of few cells, and the blocks are fitted to 64% of the entries, which puts
    the rank on the low side; metagenes beyond the truth do little harm, while with fewer, states are lost. At most half
    as many as genes and a third as many as cells in the smallest of these batches are chosen, and no more than the
    smallest batch has cells.
    """
    rng = np.random.default_rng(seed)
    codes, sizes = np.unique(batch, return_counts=True)
    large = codes[sizes >= rules.min_cells_for_rank]
    smallest = int(sizes[sizes >= rules.min_cells_for_rank].min()) if len(large) else 0
    limit = min(most, expression.shape[1] // 2, smallest // 3)
    if limit <= fewest:
        return max(1, min(fewest, expression.shape[1], int(sizes.min())))
    chosen = np.sort(rng.permutation(large)[:_BATCHES])
    cells = np.concatenate([np.sort(rng.permutation(np.flatnonzero(batch == code))[:_CELLS]) for code in chosen])
    sample, code = expression[cells], np.searchsorted(chosen, batch[cells])
    totals = totals_of(sample)
    kept = np.flatnonzero(totals > rules.min_cell_total * totals.mean())
    scale = limit / totals[kept].mean()
    data = prepare(sample, code, kept=kept, totals=totals, scale=scale, device=torch.device(device))
    noise, _ = estimate_noise(data, limit, rules)
    generator = torch.Generator().manual_seed(seed)
    variance = (data.squares.sum(0) / len(kept) - data.mean.square()) * noise.weights.square()
    genes = variance.argsort(descending=True)[:_GENES]
    weighted = torch.zeros(len(variance), len(genes), dtype=torch.float64, device=variance.device)
    weighted[genes, torch.arange(len(genes), device=variance.device)] = noise.weights[genes]
    errors = []
    for matrix, of_batch in zip(data.matrices, data.slices, strict=True):
        spread = noise.of_cells(data.totals[of_batch], data.mean_total).sqrt()
        values = matrix.times(weighted).double() / spread[:, None]
        errors.append(held_out_errors(values, limit, _FOLDS, generator))
    width = min(each.shape[1] for each in errors)
    # batches count alike whatever their noise
    error = torch.cat([each[:, :width] / each.min(1).values.mean() for each in errors])
    least = int(error.mean(0).argmin())
    return min(max(fewest, min(least + 3, limit)), int(sizes.min()))
