"""The partition function of an exponential density on the simplex."""

import math

import torch

_CHUNK = 200_000
"""Values of `eta` that are worked on at once: the arrays of the series then stay in the processor's cache."""

_TOLERANCE = 1e-13

_LARGEST_RANGE = 1e6
"""Largest difference within a row: the series has twice as many terms."""


def log_partition(eta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Integrate ``exp(-eta . z)`` over the simplex ``{z >= 0, sum(z) = 1}``.

    Parameters
    ----------
    eta
        Finite values, shape (n, K), any floating type; those of a row differ by 10^6 at most.

    Returns
    -------
    log_z : torch.Tensor
        Logarithm of the integral over K - 1 of the coordinates (at eta 0: of 1 / (K - 1)!), float64, shape (n,).
    mean : torch.Tensor
        Mean of z under the density, float64, shape (n, K); ``-mean`` is the gradient of `log_z`.

    Raises
    ------
    ValueError
        If `eta` is not a matrix of finite values, or those of a row are too far apart.

    Notes
    -----
    With ``a = max(eta) - eta`` and the complete homogeneous symmetric polynomials h_m, the integral is
    ``exp(-max(eta)) sum_m h_m(a) / (m + K - 1)!`` and the mean of z_k is ``sum_m h_m(a, a_k) / (m + K)!`` over
    ``sum_m h_m(a) / (m + K - 1)!``. All terms are positive, so nothing cancels and ties need no care, unlike in the
    closed form with products of differences, which POPARI sums. The number of terms grows with the range of a row:
    rows are sorted by it and summed in chunks.
    """
    if eta.ndim != 2 or not eta.shape[1] or not torch.isfinite(eta).all():
        raise ValueError(f"eta of shape {tuple(eta.shape)} is not a matrix of finite values")
    eta = eta.detach().double()
    n, K = eta.shape
    top = eta.amax(dim=1)
    a = top[:, None] - eta
    if n and float(a.max()) > _LARGEST_RANGE:
        raise ValueError(
            f"eta has values that differ by {float(a.max()):.3g} in a row, at most {_LARGEST_RANGE:g} can be summed"
        )
    order = torch.argsort(a.amax(dim=1))
    log_z, mean = torch.empty_like(top), torch.empty_like(eta)
    for rows in order.split(max(1, _CHUNK // K)) if n else ():
        log_z[rows], mean[rows] = _series(a[rows])
    return log_z - top - math.lgamma(K), mean


def _series(a: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum the series of a >= 0 times (K - 1)!; return its logarithm and the mean."""
    n, K = a.shape
    largest = float(a.max())
    # column k of `partial` is h_m of the first k + 1 values; `with_k` is h_m with value k twice
    partial = torch.ones_like(a)
    with_k = torch.full_like(a, 1 / K)
    total, total_k = a.new_ones(n), with_k.clone()
    log_scale = a.new_zeros(n)
    m = 0
    while True:
        m += 1
        partial.mul_(a)
        partial = partial.cumsum(dim=1).mul_(1 / (m + K - 1))
        h = partial[:, -1]
        total += h
        with_k.mul_(a).add_(h[:, None]).mul_(1 / (m + K))
        total_k += with_k
        if m % 16 == 0:
            # from here on each term is less than half of the one before
            if largest < 0.5 * (m + 1) and bool((h <= _TOLERANCE * total).all()):
                break
            log_scale += total.log()
            for values in (partial, with_k, total_k):
                values.div_(total[:, None])
            total.fill_(1)
    return log_scale + total.log(), total_k / total[:, None]
