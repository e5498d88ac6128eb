"""Regression by a Gaussian process that learns how much each input matters.

With inputs of mean 0 and variance 1, the covariance of two spots is::

    k(a, b) = s exp(-1/2 sum_d w_d^2 (a_d - b_d)^2) + l a'b / D

and outputs have noise of one variance v. The logarithms of s, l, v and all w_d maximise the marginal likelihood of
random samples of the spots, a new one in each step. Predictions then stand on all spots through M of them (Titsias'
features): with L L' = k(Z, Z), phi(x) = L^-1 k(Z, x) and A = v I + sum_i phi_i phi_i'::

    mean        phi(x)' A^-1 sum_i phi_i y_i
    variance    k(x, x) - |phi(x)|^2 + v phi(x)' A^-1 phi(x) + v

which is the exact process where M is the number of spots. Memory is linear in the number of spots.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unbatch.nn.kernels import squared_distances

MOST_POINTS = 1_500
"""Spots through which predictions stand, at most."""
SAMPLE, STEPS, RATE = 500, 60, 0.1
"""Spots in a step of the search for scales, steps, and their size."""
PART = 2_000
"""Spots that are left out together, at most."""
ROWS = 4_096
"""Spots that are computed at a time."""
JITTER = 1e-8
"""Added to the diagonal of a covariance, relative to its mean."""


@dataclass(frozen=True)
class Gaussian:
    """What is predicted: ``mean`` (n x p) and ``variance`` of one output at each spot, noise included (n)."""

    mean: np.ndarray
    variance: np.ndarray


@dataclass(frozen=True, eq=False)
class ArdGP:
    """A fitted process; `weights` are all that it holds, float64.

    Attributes
    ----------
    centre, spread
        What inputs are standardised with, D each.
    logs
        Logarithms of s, l, v and the D numbers w.
    points
        Standardised inputs of M spots, M x D.
    root, inverse
        L, and that of A, M x M each.
    coefficients
        A^-1 sum_i phi_i y_i, M x p.
    offset, unit
        Mean of the outputs (p numbers) and their common scale (one number).
    """

    centre: Tensor
    spread: Tensor
    logs: Tensor
    points: Tensor
    root: Tensor
    inverse: Tensor
    coefficients: Tensor
    offset: Tensor
    unit: Tensor

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """All arrays by name, for a saved model."""
        return {name: value.numpy() for name, value in vars(self).items()}

    @classmethod
    def of(cls, weights: Mapping[str, np.ndarray]) -> "ArdGP":
        """Make the process of saved arrays.

        Raises
        ------
        ValueError
            If one is missing.
        """
        names = cls.__dataclass_fields__
        if absent := [name for name in names if name not in weights]:
            raise ValueError(f"a process lacks the arrays {', '.join(absent)}")
        return cls(**{name: torch.as_tensor(np.asarray(weights[name]), dtype=torch.float64) for name in names})

    @property
    def relevance(self) -> np.ndarray:
        """How much each input matters: w of standardised inputs, D numbers."""
        return self.logs[3:].exp().numpy()

    def predict(self, x: np.ndarray) -> Gaussian:
        """Predict outputs at inputs, n x D.

        Raises
        ------
        ValueError
            If there are not D inputs.
        """
        x = np.asarray(x, dtype=np.float64)
        if x.ndim != 2 or x.shape[1] != len(self.centre):
            raise ValueError(f"inputs have shape {x.shape}, expected n x {len(self.centre)}")
        means, variances = [], []
        noise = self.logs[2].exp()
        for start in range(0, len(x), ROWS):
            inputs = (torch.as_tensor(x[start : start + ROWS]) - self.centre) / self.spread
            features = _features(self.root, self.points, inputs, self.logs)
            left = _variance(inputs, self.logs) - features.square().sum(1)
            within = torch.linalg.solve_triangular(self.inverse, features.T, upper=False).square().sum(0)
            means.append(features @ self.coefficients * self.unit + self.offset)
            variances.append((left.clamp(min=0) + noise * within + noise) * self.unit.square())
        if not means:
            return Gaussian(np.zeros((0, len(self.offset))), np.zeros(0))
        return Gaussian(torch.cat(means).numpy(), torch.cat(variances).numpy())

    def leave_one_out(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Predict the spots of the fit, each without its own output, as if the scales were known before.

        Parameters
        ----------
        x, y
            What was fitted, n x D and n x p.

        Returns
        -------
        numpy.ndarray
            n x p.
        """
        y, found = np.asarray(y, dtype=np.float64), []
        for start in range(0, len(y), ROWS):
            inputs = (
                torch.as_tensor(np.asarray(x[start : start + ROWS], dtype=np.float64)) - self.centre
            ) / self.spread
            features = _features(self.root, self.points, inputs, self.logs)
            fitted = (features @ self.coefficients * self.unit + self.offset).numpy()
            own = torch.linalg.solve_triangular(self.inverse, features.T, upper=False).square().sum(0).numpy()[:, None]
            # the residual without a spot is that with it over 1 less its leverage
            found.append(y[start : start + ROWS] - (y[start : start + ROWS] - fitted) / (1 - own))
        return np.concatenate(found)

    def leave_parts_out(self, x: np.ndarray, y: np.ndarray, part: np.ndarray) -> np.ndarray:
        """Predict the spots of the fit, each without the outputs of its part, as if the scales were known before.

        Parameters
        ----------
        x, y
            What was fitted, n x D and n x p.
        part
            Codes, n. The cost grows with the cube of the spots of a part: one of more than 2,000 is cut in pieces.

        Returns
        -------
        numpy.ndarray
            n x p.
        """
        y, found = np.asarray(y, dtype=np.float64), np.empty(np.shape(y))
        for code in np.unique(part):
            every = np.flatnonzero(part == code)
            for rows in np.array_split(every, -(-len(every) // PART)):
                inputs = (torch.as_tensor(np.asarray(x[rows], dtype=np.float64)) - self.centre) / self.spread
                features = _features(self.root, self.points, inputs, self.logs)
                fitted = (features @ self.coefficients * self.unit + self.offset).numpy()
                half = torch.linalg.solve_triangular(self.inverse, features.T, upper=False).numpy()
                # residuals without the part: those with it, times the inverse of 1 less the part's leverages
                found[rows] = y[rows] - np.linalg.solve(np.eye(len(rows)) - half.T @ half, y[rows] - fitted)
        return found


def fit(
    x: np.ndarray,
    y: np.ndarray,
    *,
    points: int = MOST_POINTS,
    sample: int = SAMPLE,
    steps: int = STEPS,
    rate: float = RATE,
    seed: int = 0,
) -> ArdGP:
    """Fit the process.

    Parameters
    ----------
    x
        Inputs, n x D, n of 2 or more; an input that is constant does not matter.
    y
        Outputs, n x p, in one unit.
    points
        M at most.
    sample, steps, rate
        Spots in a step of the search for scales, number of steps, and learning rate of Adam.
    seed
        Seed of the samples.

    Raises
    ------
    ValueError
        If the arrays do not belong together, hold a value that is not finite, or all outputs are the same.
    """
    inputs, outputs = (torch.as_tensor(np.asarray(each), dtype=torch.float64) for each in (x, y))
    if inputs.ndim != 2 or outputs.ndim != 2 or len(inputs) != len(outputs) or len(inputs) < 2 or not inputs.shape[1]:
        raise ValueError(
            f"inputs and outputs have shapes {tuple(inputs.shape)} and {tuple(outputs.shape)}, expected n x D and "
            "n x p with n of 2 or more"
        )
    if not (inputs.isfinite().all() and outputs.isfinite().all()):
        raise ValueError("inputs or outputs hold NaN or infinite values, expected finite numbers")
    offset = outputs.mean(0)
    unit = (outputs - offset).square().mean().sqrt()
    if unit == 0:
        raise ValueError("all outputs are the same, expected several values")
    outputs = (outputs - offset) / unit
    centre, spread = inputs.mean(0), inputs.std(0, correction=0)
    # constant but for rounding: new spots would be millions of deviations away
    spread[spread <= 1e-6 * spread.max()] = 1
    inputs = (inputs - centre) / spread
    generator = torch.Generator().manual_seed(seed)
    logs = _scales(inputs, outputs, sample, steps, rate, generator)
    chosen = torch.randperm(len(inputs), generator=generator)[:points].sort().values
    held = inputs[chosen]
    covariance = _covariance(held, held, logs)
    covariance.diagonal().add_(JITTER * covariance.diagonal().mean())
    root = torch.linalg.cholesky(covariance)
    precision = logs[2].exp() * torch.eye(len(held), dtype=torch.float64)
    target = torch.zeros(len(held), outputs.shape[1], dtype=torch.float64)
    for start in range(0, len(inputs), ROWS):
        features = _features(root, held, inputs[start : start + ROWS], logs)
        precision += features.T @ features
        target += features.T @ outputs[start : start + ROWS]
    inverse = torch.linalg.cholesky(precision)
    return ArdGP(centre, spread, logs, held, root, inverse, torch.cholesky_solve(target, inverse), offset, unit)


def _scales(
    inputs: Tensor, outputs: Tensor, sample: int, steps: int, rate: float, generator: torch.Generator
) -> Tensor:
    """Search the logarithms of s, l, v and w; the mean of the last quarter of the steps, as each has its own sample."""
    width = inputs.shape[1]
    # squared distances between standardised inputs are about 2 D: half of that in the exponent at first
    start = torch.cat((torch.tensor([0.0, -2.3, -0.9]), torch.full((width,), -0.5 * float(np.log(width)) - 0.3)))
    logs = start.double().requires_grad_()
    optimiser = torch.optim.Adam([logs], lr=rate)
    kept, number = [], 0
    for step in range(steps):
        rows = torch.randperm(len(inputs), generator=generator)[:sample]
        covariance = _covariance(inputs[rows], inputs[rows], logs)
        covariance = covariance + (logs[2].exp() + JITTER) * torch.eye(len(rows), dtype=torch.float64)
        root = torch.linalg.cholesky(covariance)
        target = outputs[rows]
        misfit = (target * torch.cholesky_solve(target, root)).sum() / 2
        loss = (misfit + target.shape[1] * root.diagonal().log().sum()) / len(rows)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            # outside of these nothing changes but the condition of the matrices
            logs.clamp_(-9.0, 4.0)
            logs[2].clamp_(min=-7.0)
        if 4 * step >= 3 * steps - 3:
            kept.append(logs.detach().clone())
            number += 1
    return torch.stack(kept).mean(0) if number else start.double()


def _covariance(first: Tensor, second: Tensor, logs: Tensor) -> Tensor:
    weight = logs[3:].exp()
    near = torch.exp(-0.5 * squared_distances(first * weight, second * weight))
    return logs[0].exp() * near + logs[1].exp() * (first @ second.T) / first.shape[1]


def _variance(inputs: Tensor, logs: Tensor) -> Tensor:
    return logs[0].exp() + logs[1].exp() * inputs.square().sum(1) / inputs.shape[1]


def _features(root: Tensor, points: Tensor, inputs: Tensor, logs: Tensor) -> Tensor:
    return torch.linalg.solve_triangular(root, _covariance(points, inputs, logs), upper=False).T
