"""Poisson likelihood and amplitude error."""

import numpy as np
import pytest
import torch
from scipy import stats

from ptycho_torch.physics.likelihood import RATE_FLOOR, amplitude_mae, poisson_nll


@pytest.fixture
def measured(rng):
    """True rates from 0.01 to 1000 counts, counts drawn from them, and a wrong description of them."""
    rate = 10 ** rng.uniform(-2, 3, (5, 8, 8))
    return rate, rng.poisson(rate).astype(np.float64), rate * rng.uniform(0.5, 2.0, rate.shape)


def _nll(rate, counts, good=None, **options):
    good = None if good is None else torch.from_numpy(good)
    return float(poisson_nll(torch.from_numpy(rate), torch.from_numpy(counts), good, **options))


def test_differences_are_those_of_the_poisson_law(measured):
    rate, counts, wrong = measured
    found = _nll(wrong, counts) - _nll(rate, counts)
    # the law of the floored rates, for counts that carry the floor as well
    low, high = wrong + RATE_FLOOR, rate + RATE_FLOOR
    expected = np.mean(stats.poisson.logpmf(counts, high) - stats.poisson.logpmf(counts, low))
    slack = RATE_FLOOR * np.mean(np.abs(np.log(low / high)))
    assert abs(found - expected) <= slack
    seen = np.maximum(counts, 1)  # without a floor the law is exact; zero counts need one
    exact = -np.mean(stats.poisson.logpmf(seen, wrong) - stats.poisson.logpmf(seen, rate))
    assert _nll(wrong, seen, floor=0.0) - _nll(rate, seen, floor=0.0) == pytest.approx(exact, rel=1e-10)


def test_it_is_half_the_deviance(measured):
    rate, counts, _ = measured
    terms = rate - counts + np.where(counts > 0, counts * np.log(np.maximum(counts, 1) / rate), 0.0)
    assert _nll(rate, counts) == pytest.approx(terms.mean(), abs=0.02)
    assert _nll(rate, counts, floor=1e-9) == pytest.approx(terms.mean(), abs=1e-6)


def test_zero_for_a_perfect_description_and_positive_otherwise(measured):
    rate, _, wrong = measured
    rate[0, 0, 0] = 0.0
    assert _nll(rate, rate) == 0.0
    assert _nll(wrong, rate) > 0


def test_the_best_rate_is_the_mean_count(rng):
    """The floor that is added to rate and data must not move the minimum."""
    counts = rng.poisson(0.02, (1000, 1, 1)).astype(np.float64)
    mean = counts.mean()
    best = _nll(np.full_like(counts, mean), counts)
    for factor in (0.8, 0.95, 1.05, 1.25):
        assert _nll(np.full_like(counts, factor * mean), counts) > best


@pytest.mark.parametrize("loss", [poisson_nll, amplitude_mae])
def test_masked_pixels_are_left_out(measured, rng, loss):
    _, counts, wrong = measured
    good = rng.uniform(size=(8, 8)) > 0.3
    found = float(loss(torch.from_numpy(wrong), torch.from_numpy(counts), torch.from_numpy(good)))
    by_hand = float(loss(torch.from_numpy(wrong[:, good]), torch.from_numpy(counts[:, good])))
    assert found == pytest.approx(by_hand, rel=1e-12)
    counts[:, ~good] = 1e9
    assert float(loss(torch.from_numpy(wrong), torch.from_numpy(counts), torch.from_numpy(good))) == found


@pytest.mark.parametrize("loss", [poisson_nll, amplitude_mae])
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -1.0])
def test_what_a_masked_pixel_holds_reaches_neither_loss_nor_gradient(measured, loss, poison):
    _, counts, wrong = (torch.from_numpy(a) for a in measured)
    good = torch.ones(8, 8, dtype=torch.bool)
    good[2, 3] = False
    counts[:, 2, 3] = poison
    wrong.requires_grad_()
    value = loss(wrong, counts, good)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(wrong.grad).all() and torch.all(wrong.grad[:, 2, 3] == 0)


@pytest.mark.parametrize("loss", [poisson_nll, amplitude_mae])
def test_no_light_and_no_counts_are_finite(loss):
    rate = torch.zeros(2, 4, 4, requires_grad=True)
    counts = torch.zeros(2, 4, 4)
    counts[0, 0, 0] = 5.0  # a photon where none is expected
    value = loss(rate, counts)
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(rate.grad).all()


def test_amplitude_error_by_hand(measured):
    _, counts, wrong = measured
    found = float(amplitude_mae(torch.from_numpy(wrong), torch.from_numpy(counts), floor=0.0))
    assert found == pytest.approx(np.abs(np.sqrt(wrong) - np.sqrt(counts)).mean(), rel=1e-12)
    assert float(amplitude_mae(torch.from_numpy(counts), torch.from_numpy(counts))) == 0.0


@pytest.mark.parametrize("loss", [poisson_nll, amplitude_mae])
@pytest.mark.parametrize("masked", [False, True])
def test_gradients(measured, rng, loss, masked):
    _, counts, wrong = measured
    good = torch.from_numpy(rng.uniform(size=(8, 8)) > 0.3) if masked else None
    rate = torch.from_numpy(wrong[:2] + 0.1).requires_grad_()
    assert torch.autograd.gradcheck(lambda r: loss(r, torch.from_numpy(counts[:2]), good), rate)


def test_single_precision_keeps_the_digits_that_matter(rng):
    """At 1e5 counts a pixel the deviance of good data is 1 per pixel: a difference of large numbers."""
    rate = rng.uniform(5e4, 2e5, (4, 32, 32))
    counts = rng.poisson(rate).astype(np.float64)
    exact = _nll(rate, counts)
    single = float(poisson_nll(torch.from_numpy(rate).float(), torch.from_numpy(counts).float()))
    assert single == pytest.approx(exact, rel=2e-2)
