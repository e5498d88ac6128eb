"""How many components a matrix has, by what is predicted of entries that were held out."""

import torch
from torch import Tensor


def held_out_errors(values: Tensor, largest: int, folds: int, generator: torch.Generator) -> Tensor:
    """Bi-cross-validate truncated singular value decompositions (Owen & Perry 2009).

    A block of rows and columns is predicted from all others: with ``D`` the rows and columns outside of the block,
    ``D_k`` its best approximation of rank k, ``B`` and ``C`` what shares rows and columns with the block, the
    prediction is ``B D_k^+ C``. No entry of the block or of its own fit is in it.

    Parameters
    ----------
    values
        n x g, of noise that is equal everywhere.
    largest
        Largest rank.
    folds
        Parts of the rows, and of the columns; each of their pairs is a block.
    generator
        Source of the random numbers, on the CPU.

    Returns
    -------
    Tensor
        Mean squared error of each block (rows) for the ranks 1 to `largest`, or to what the blocks allow.
    """
    n, g = values.shape
    device = values.device
    row_fold = (torch.randperm(n, generator=generator) % folds).to(device)
    column_fold = (torch.randperm(g, generator=generator) % folds).to(device)
    # with a fold left out; a fold has at most this many
    largest = min(largest, n - -(-n // folds), g - -(-g // folds))
    gram = values.T @ values
    errors = []
    for row in range(folds):
        part = values[row_fold == row]
        outside = gram - part.T @ part
        for column in range(folds):
            held = column_fold == column
            size, basis = torch.linalg.eigh(outside[~held][:, ~held])
            size, basis = size[-largest:].flip(0), basis[:, -largest:].flip(1)
            # D_k^+ C = sum over the first k of basis (basis' D'C) / size
            loading = (basis.T @ outside[~held][:, held]) / size.clamp(min=1e-12 * float(size[0]))[:, None]
            score = part[:, ~held] @ basis
            left = part[:, held].clone()
            of_block = []
            for k in range(largest):
                left.addr_(score[:, k], loading[k], alpha=-1)
                of_block.append(left.square().mean())
            errors.append(torch.stack(of_block))
    return torch.stack(errors)
