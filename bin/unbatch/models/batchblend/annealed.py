"""Additive batch effects by a prior on the amounts: what the sizes of cells need not tell, but no test either.

In ``Y = (X + beta) M + noise`` a constant can be moved from the amounts X of all cells of a batch to its beta, and
nothing in the data says how much of it. Here a prior on X decides: an L1 penalty, strong at first, when what all
cells of a batch share goes to beta, and weak at the end, when the amounts are given back.
"""

import torch
from torch import Tensor

from unbatch.models.batchblend.cell_matrix import CellMatrix
from unbatch.models.batchblend.evidence import evidence_of_annealed_offset
from unbatch.models.batchblend.nnls import sweep_amounts, sweep_metagenes
from unbatch.models.batchblend.offset import Offset
from unbatch.models.batchblend.view import View

STRONGEST, WEAKEST = 50.0, 2.0
"""Weight of the L1 prior on amounts at the start and the end, geometric in between."""


def annealed_offset(view: View) -> tuple[View, Offset]:
    """Find the offset of each batch by the prior; return it, and the cells on axes that all batches share."""
    data = view.data
    beta, metagenes = factorise_with_offset(data.matrices, view.noise.weights, _mean_expression(view))
    genes = beta @ metagenes
    total = genes.sum(1)
    view = view.divided_by(view.factors)
    offset = Offset(
        genes=genes,
        # a prior gives no errors
        genes_se=torch.full_like(genes, torch.nan),
        total=total,
        total_se=torch.full_like(total, torch.nan),
        on_axes=(genes * view.noise.weights) @ view.axes.shared,
        sought=False,
        evidence=[evidence_of_annealed_offset(b, float(total[b]) / view.mean_total) for b in range(data.count)],
    )
    return view, offset


def _mean_expression(view: View) -> Tensor:
    """Mean expression of the states, C x G, rows sum to 1."""
    data, member = view.data, torch.nn.functional.one_hot(view.state, view.states).double()
    parts = zip(data.matrices, data.slices, strict=True)
    sums = sum(matrix.transposed_times(member[cells]).T for matrix, cells in parts)
    # a state without cells starts from the mean of all
    sums = torch.where(sums.sum(1, keepdim=True) > 0, sums, data.mean) + 1e-9 * data.mean
    return sums / sums.sum(1, keepdim=True)


def factorise_with_offset(
    matrices: list[CellMatrix], weights: Tensor, metagenes: Tensor, iterations: int = 80
) -> tuple[Tensor, Tensor]:
    """Factorise expression with an additive term for each batch, by coordinate descent.

    Parameters
    ----------
    matrices
        Expression of each batch, scaled such that a cell has a total of about K in the mean.
    weights
        Inverse standard deviation of the noise of each gene, G.
    metagenes
        Metagenes to start from, K x G, rows sum to 1.
    iterations
        Rounds of amounts, beta, metagenes and noise.

    Returns
    -------
    tuple of Tensor
        beta (T x K) and metagenes (K x G, rows sum to 1).
    """
    K, batches = len(metagenes), len(matrices)
    metagenes, squared = metagenes.clone(), weights.square()
    device, n_genes = metagenes.device, metagenes.shape[1]
    ones = [torch.ones(matrix.shape[0], 1, device=device) for matrix in matrices]
    means = [m.transposed_times(one)[:, 0] / m.shape[0] for m, one in zip(matrices, ones, strict=True)]
    squares = [
        float((m.squares_transposed_times(one)[:, 0] * squared).sum()) for m, one in zip(matrices, ones, strict=True)
    ]
    sizes = [matrix.times(torch.ones(n_genes, 1, device=device)) for matrix in matrices]
    amounts = [(size / K).repeat(1, K) for size in sizes]
    beta = metagenes.new_zeros(batches, K)
    variance = [0.0] * batches
    for iteration in range(iterations + 1):
        # at first only the noise of the start is found
        strength = STRONGEST * (WEAKEST / STRONGEST) ** ((iteration - 1) / max(iterations - 1, 1))
        weighted = metagenes * squared
        gram = weighted @ metagenes.T
        small_gram = gram.float()
        design = metagenes.new_zeros(batches, K, K)
        linear = torch.zeros_like(metagenes)
        for b, matrix in enumerate(matrices):
            x, n = amounts[b], matrix.shape[0]
            product = matrix.times(weighted.T)
            # amounts and beta in close turns: what one gives up, the other has to take
            for _ in range(3 if iteration else 0):
                target = product - (gram @ beta[b]).float()
                sweep_amounts(x, target - strength * variance[b], small_gram, 1)
                row = beta[b : b + 1].clone()
                sweep_amounts(row, (weighted @ means[b] - gram @ x.double().mean(0))[None], gram, 1)
                beta[b] = row[0]
            whole = x + beta[b].float()
            inner = whole.double().T @ whole.double()
            explained = 2 * float((whole * product).double().sum()) - float((inner * gram).sum())
            variance[b] = max(squares[b] - explained, 1e-12 * squares[b]) / (n * n_genes)
            floor = max(variance[b], 1e-3 * max(variance))
            design[b] = inner / floor
            linear += (matrix.transposed_times(x).T + n * beta[b, :, None] * means[b]) / floor
        if iteration:
            alike = torch.ones(batches, n_genes, dtype=gram.dtype, device=device)
            sweep_metagenes(metagenes, design, alike, linear, sweeps=3)
            total = metagenes.sum(1).clamp(min=1e-12)
            metagenes /= total[:, None]
            beta *= total
            for x in amounts:
                x *= total.float()
    return beta, metagenes
