"""The deviance of tensors, and what it is in the mean."""

import numpy as np
import pytest
import torch
from scipy import stats

from ptycho.metrics import deviance as exact
from ptycho_torch.misfit import deviance_per_pixel, expected_deviance_per_pixel


@pytest.fixture
def single(rng):
    """Rates over fifteen decades and their counts, in single precision."""
    rate = (10 ** rng.uniform(-9, 6, (20, 32, 32))).astype(np.float32)
    rate[0, 0] = 0.0
    return rate, rng.poisson(rate).astype(np.float32)


def test_the_deviance_of_tensors_is_that_of_the_law(single):
    rate, counts = single
    counts[1, 0, 0], rate[1, 0, 0] = 3.0, 0.0  # what a rate of nothing cannot explain
    found = deviance_per_pixel(torch.from_numpy(rate), torch.from_numpy(counts)).numpy()
    # twice the logarithm of the likelihood ratio against a rate that equals the count
    low, k = np.maximum(rate.astype(np.float64), exact.RATE_FLOOR), counts.astype(np.float64)
    law = 2 * (stats.poisson.logpmf(k, np.where(k > 0, k, 0.0)) - stats.poisson.logpmf(k, low))
    law[k == 0] = 2 * low[k == 0]
    np.testing.assert_allclose(found, law, rtol=1e-3, atol=1e-3)
    assert found.mean(dtype=np.float64) == pytest.approx(law.mean(), rel=1e-5)


def test_the_expected_deviance_of_tensors_is_that_of_drawn_counts(rng):
    for rate in (0.003, 0.2, 3.0, 80.0, 5e4):
        drawn = torch.from_numpy(rng.poisson(rate, 200_000).astype(np.float32))
        expected = float(expected_deviance_per_pixel(torch.tensor(rate)))
        found = deviance_per_pixel(torch.full_like(drawn, rate), drawn).numpy()
        assert found.mean() == pytest.approx(expected, abs=5 * float(found.std()) / len(found) ** 0.5)


def test_the_expected_deviance_of_tensors_is_tabulated_closely(single):
    rate, _ = single
    found = expected_deviance_per_pixel(torch.from_numpy(rate)).numpy()
    np.testing.assert_allclose(found, exact.expected_deviance_per_pixel(rate), atol=3e-6)
    odd = expected_deviance_per_pixel(torch.tensor([np.nan, 0.0, 1e30]))
    assert odd[0].isnan() and float(odd[1]) < 1e-6 and float(odd[2]) == 1.0
