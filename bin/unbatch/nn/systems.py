"""Batches of linear systems, with as many threads as give right results."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_LARGEST = 128
"""Order up to which batches of systems may be solved with several threads."""


def solve(matrices: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Solve a batch of systems, as `torch.linalg.solve` does.

    Parameters
    ----------
    matrices
        Shape (n, K, K).
    right
        Shape (n, K, columns).
    """
    with _sound(matrices):
        return torch.linalg.solve(matrices, right)


def inverse(matrices: torch.Tensor) -> torch.Tensor:
    """Invert a batch of matrices, shape (n, K, K), as `torch.linalg.inv` does."""
    with _sound(matrices):
        return torch.linalg.inv(matrices)


@contextmanager
def _sound(matrices: torch.Tensor) -> Iterator[None]:
    """Use one thread where several would give wrong results.

    With several, PyTorch (2.5 to 2.15 at least) calls MKL's LU decomposition from each of them, which from an order of
    about 150 on returns wrong pivots, prints "Parameter 6 was incorrect on entry to DLASWP", and may go on with wrong
    numbers (https://github.com/pytorch/pytorch/issues/142815).
    """
    threads = torch.get_num_threads()
    if matrices.device.type != "cpu" or matrices.shape[-1] <= _LARGEST or threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
