"""A fresh probe: what a linear classifier that was not part of the training finds in an embedding."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


def balanced_probe(embedding: Tensor, code: Tensor, codes: int, folds: int = 2, most: int = 20_000) -> float:
    """Balanced accuracy of a multinomial logistic regression on cells that it was not fitted to.

    Parameters
    ----------
    embedding
        n x d.
    code
        What to tell, such as the batch, n; -1 where unknown, which do not count.
    codes
        Number of codes.
    folds
        Cells are fitted to and tested on in turns, cell i in fold ``i % folds``.
    most
        Cells that are used at most, evenly spread.

    Returns
    -------
    float
        Mean over codes of the share of their cells that is told, 1 / codes by chance; codes without cells do not count.
    """
    kept = torch.nonzero(code >= 0)[:, 0]
    kept = kept[:: -(-len(kept) // most)]
    embedding, code = embedding[kept].detach().float(), code[kept]
    fold = torch.arange(len(code), device=code.device) % folds
    told = torch.zeros_like(code, dtype=torch.bool)
    for held in range(folds):
        fitted = fold != held
        mean, sd = embedding[fitted].mean(0), embedding[fitted].std(0) + 1e-6
        scaled = (embedding - mean) / sd
        weights = logistic(scaled[fitted], code[fitted], codes)
        guess = (scaled[~fitted] @ weights[:-1] + weights[-1]).argmax(1)
        told[~fitted] = guess == code[~fitted]
    size = torch.bincount(code, minlength=codes)
    right = torch.bincount(code[told], minlength=codes)
    return float((right[size > 0] / size[size > 0]).mean())


def logistic(values: Tensor, code: Tensor, codes: int, penalty: float = 1.0, iterations: int = 50) -> Tensor:
    """Fit a multinomial logistic regression with an L2 penalty; (d + 1) x codes, the intercept in the last row.

    Parameters
    ----------
    values
        n x d, standardised.
    code
        n.
    codes
        Number of codes.
    penalty
        Half the weight of the squared coefficients against the sum of the losses of cells.
    iterations
        Iterations of L-BFGS, at most.
    """
    with torch.enable_grad():
        weights = values.new_zeros(values.shape[1] + 1, codes, requires_grad=True)
        optimiser = torch.optim.LBFGS([weights], max_iter=iterations, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimiser.zero_grad()
            scores = values @ weights[:-1] + weights[-1]
            value = F.cross_entropy(scores, code) + penalty / 2 * weights[:-1].square().sum() / len(values)
            value.backward()
            return value

        optimiser.step(loss)
    return weights.detach()
