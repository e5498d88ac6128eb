"""How well expression as if from another batch is predicted, against the truth of a simulation. Arrays in, numbers out.

A *shift* is what changes in a cell's log-normalised expression when its batch is taken to be another, the cell staying
the same: predicted, decoded as if from batch k less decoded as from its own. N cells, G genes, C types.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from unbatch.data.simulation.donors import Truth

# Nodes of the trapezoid rule over the logarithm of t; on an analytic integrand it errs by exp(-pi^2 / step)
_STEP = 0.5
_NODES = np.arange(-24, 4.01, _STEP)
# Values at a time
_BLOCK = 2**20


def expected_log1p(mean: np.ndarray, size_factor: np.ndarray, dispersion: float) -> np.ndarray:
    """Return the expectation of ``log(1 + Y / s)`` for negative binomial counts Y.

    The logarithm of the mean is another, larger number: the expectation is what a model fitted by squared errors
    learns. ``log(1 + y)`` is the integral of ``(1 - exp(-t y)) exp(-t) / t`` over t; hence the Laplace transform of
    Y, which is ``(1 + dispersion m (1 - exp(-u)))^(-1 / dispersion)``, is all that is needed.

    Parameters
    ----------
    mean
        Expected counts m, N x G.
    size_factor
        s of each cell, N.
    dispersion
        The variance of the counts is ``m + dispersion m^2``; 0 is Poisson.

    Returns
    -------
    np.ndarray
        N x G.
    """
    mean = np.asarray(mean, dtype=np.float64)
    result = np.zeros(mean.shape)
    t = np.exp(_NODES)
    weight = np.exp(-t) * _STEP
    block = max(1, _BLOCK // mean.shape[1])
    for start in range(0, len(mean), block):
        cells = slice(start, start + block)
        for node, share in zip(t, weight, strict=True):
            drop = -np.expm1(-node / np.asarray(size_factor)[cells, None]) * mean[cells]
            log_laplace = -np.log1p(dispersion * drop) / dispersion if dispersion else -drop
            result[cells] -= np.expm1(log_laplace) * share
    return result


def expected_shift(
    truth: "Truth", size_factor: np.ndarray, donor: int | np.ndarray, cells: np.ndarray, swap_condition: bool = False
) -> np.ndarray:
    """Return the true shift of the log-normalised expression of some cells, as if they were from another donor.

    With the expected counts of a cell its size factor changes, too, in the proportion of their sum.

    Parameters
    ----------
    truth
        Truth of the simulation, from `unbatch.data.simulation.donors.truth_in` for the genes of the dataset.
    size_factor
        Columns of all cells of `truth`, as in obs of the dataset, N.
    donor
        Index of the donor, or one for each of `cells`.
    cells
        Indices of the n cells.
    swap_condition
        Whether the cells take over the donor's condition, too: what a model can at best know of a donor of the other
        condition, where donors are nested in conditions.

    Returns
    -------
    np.ndarray
        n x G.
    """
    own, other = truth.mean(cells), truth.mean(cells, donor, swap_condition)
    size = np.asarray(size_factor)[cells]
    return _log_normalised(truth, other, size * other.sum(axis=1) / own.sum(axis=1)) - _log_normalised(truth, own, size)


def _log_normalised(truth: "Truth", mean: np.ndarray, size_factor: np.ndarray) -> np.ndarray:
    p = truth.parameters
    if p.noise == "nb":
        return expected_log1p(mean, size_factor, p.dispersion)
    # Gauss-Hermite; the values are folded at 0, which few of the nodes reach
    nodes, weights = np.polynomial.hermite_e.hermegauss(15)
    parts = zip(nodes * p.sigma_y / p.genes, weights / weights.sum(), strict=True)
    return sum(share * np.log1p(np.abs(mean + noise) / size_factor[:, None]) for noise, share in parts)


def batch_mean_shift(expression: np.ndarray, batch: np.ndarray, cell_batch: np.ndarray, to: int) -> np.ndarray:
    """Return the shift by batch means: that of batch `to` less that of the cell's own. What others have to beat.

    Parameters
    ----------
    expression, batch
        Log-normalised expression of the training cells, any number x G, and the index of their batch.
    cell_batch
        Batch of the n cells to shift.
    to
        Batch that they are taken to be from.

    Returns
    -------
    np.ndarray
        n x G.
    """
    means = {k: np.asarray(expression[batch == k].mean(axis=0), dtype=np.float64).ravel() for k in {to, *cell_batch}}
    return np.stack([means[to] - means[k] for k in cell_batch])


def shift_error(predicted: np.ndarray, truth: np.ndarray, cell_type: np.ndarray) -> dict[str, float | np.ndarray]:
    """Compare predicted with true shifts.

    Parameters
    ----------
    predicted, truth
        N x G; may be of several batches, one after another.
    cell_type
        Code of each cell, 0 to C - 1, N.

    Returns
    -------
    dict
        ``mse``, over cells and genes; ``mse_no_change``, that of predicting no shift; ``relative``, the one over the
        other, NaN where nothing changes; ``mse_by_gene`` (C x G), within each type; ``predicted`` and ``truth``
        (C x G), mean shifts by type and gene, with ``mse_of_means`` between these, in which the noise of single cells
        is not. Types without cells are NaN.
    """
    predicted, truth = (np.asarray(each, dtype=np.float64) for each in (predicted, truth))
    squared = (predicted - truth) ** 2
    nothing = float(np.mean(truth**2))
    means = [_by_type(values, cell_type) for values in (predicted, truth)]
    return {
        "mse": float(squared.mean()),
        "mse_no_change": nothing,
        "relative": float(squared.mean() / nothing) if nothing else float("nan"),
        "mse_by_gene": _by_type(squared, cell_type),
        "predicted": means[0],
        "truth": means[1],
        "mse_of_means": float(np.nanmean((means[0] - means[1]) ** 2)),
    }


def _by_type(values: np.ndarray, cell_type: np.ndarray) -> np.ndarray:
    sums = np.zeros((cell_type.max() + 1, values.shape[1]))
    np.add.at(sums, cell_type, values)
    count = np.bincount(cell_type)[:, None]
    return np.where(count > 0, sums / np.maximum(count, 1), np.nan)
