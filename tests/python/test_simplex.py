import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import special

from unbatch.models.popari.simplex import log_partition


def divided_difference(eta: np.ndarray) -> tuple[float, np.ndarray]:
    """The textbook sum over distinct values, ties moved apart, in 1,000 digits, as digits cancel.

    Returns the logarithm and the means of every K // 3rd coordinate.
    """
    with mpmath.workdps(1000):
        x = [mpmath.mpf(float(value)) + mpmath.mpf(10) ** -25 * k for k, value in enumerate(eta)]

        def integral(x: list) -> mpmath.mpf:
            return mpmath.fsum(
                mpmath.exp(-own) / mpmath.fprod(other - own for j, other in enumerate(x) if j != k)
                for k, own in enumerate(x)
            )

        z = integral(x)
        # the density of z_k integrated against z_k is that of a simplex in which coordinate k is there twice
        twice = [integral([*x, value + mpmath.mpf(10) ** -28]) for value in x[:: len(x) // 3]]
        return float(mpmath.log(z)), np.array([float(value / z) for value in twice])


@pytest.mark.parametrize("K", [3, 11, 50])
@pytest.mark.parametrize("spread", [1e-7, 1.0, 40.0])
def test_integral_and_mean_match_high_precision(K, spread):
    eta = np.random.default_rng(K).normal(scale=spread, size=K)
    eta[: K // 3] = eta[0]  # ties
    eta[-1] = eta[0] + 1e-9  # near-tie
    log_z, mean = log_partition(torch.tensor(eta[None]))
    expected, expected_mean = divided_difference(eta)
    assert log_z.item() == pytest.approx(expected, rel=1e-12, abs=1e-12)
    np.testing.assert_allclose(mean[0, :: K // 3], expected_mean, rtol=1e-10)


def test_two_values_have_a_closed_form():
    a, b = np.array([0.0, 3.0, -500.0]), np.array([1.0, 3.0 + 1e-8, 700.0])
    log_z, mean = log_partition(torch.tensor(np.column_stack((a, b))))
    gap = b - a
    np.testing.assert_allclose(log_z, -a + np.log(-np.expm1(-gap) / gap), rtol=1e-13)
    np.testing.assert_allclose(mean.sum(dim=1), 1, rtol=1e-13)


def test_one_large_value_is_kummer_s_function():
    """All values but one equal: z_k is beta distributed a priori, and the integral 1F1."""
    K, gap = 20, 300.0
    log_z, _ = log_partition(torch.tensor([[0.0] * (K - 1) + [gap], [0.0] * (K - 1) + [-gap]]))
    exact = [math.log(special.hyp1f1(1, K, -gap)), gap + math.log(special.hyp1f1(K - 1, K, -gap))]
    np.testing.assert_allclose(log_z, np.array(exact) - math.lgamma(K), rtol=1e-11)


def test_the_mean_is_the_gradient_in_rows_of_very_different_range():
    rng = np.random.default_rng(0)
    eta = torch.tensor(rng.normal(size=(7, 6)) * 10.0 ** rng.uniform(-3, 2, (7, 1)))
    _, mean = log_partition(eta)
    step = 1e-5
    for k in range(6):
        shift = step * torch.eye(6, dtype=torch.float64)[k]
        slope = (log_partition(eta + shift)[0] - log_partition(eta - shift)[0]) / (2 * step)
        np.testing.assert_allclose(-slope, mean[:, k], atol=1e-8)


def test_a_single_coordinate_and_no_rows():
    log_z, mean = log_partition(torch.tensor([[2.5]]))
    assert (log_z.item(), mean.item()) == (-2.5, 1)
    assert log_partition(torch.empty(0, 4))[1].shape == (0, 4)


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="finite"):
        log_partition(torch.tensor([[0.0, math.nan]]))


def test_values_too_far_apart_for_the_series_are_refused():
    with pytest.raises(ValueError, match="differ by"):
        log_partition(torch.tensor([[0.0, 1.0], [0.0, 1e9]]))
