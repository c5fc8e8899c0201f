"""Measured amplitudes in a wave, and the object they speak for."""

import numpy as np
import pytest
import torch

from laws.oracle import beam, dft2, random_complex, relative_error
from ptycho_torch.physics.backprojection import backproject, divide_by_probe, replace_amplitude
from ptycho_torch.physics.detector import detector_order, rate

N = 16


@pytest.fixture
def waves(rng):
    return torch.from_numpy(random_complex(rng, 4, 2, N, N))


@pytest.fixture
def amplitudes(rng):
    return torch.from_numpy(rng.uniform(0, 3, (4, N, N)))


def _bad(good_at=()):
    good = torch.ones(N, N, dtype=torch.bool)
    for row, col in good_at:
        good[row, col] = False
    return good


def test_the_far_field_gets_the_measured_amplitudes(waves, amplitudes):
    found = rate(replace_amplitude(waves, amplitudes))
    torch.testing.assert_close(found, amplitudes.square(), rtol=1e-6, atol=1e-8)


def test_masked_pixels_keep_the_amplitudes_of_the_model(waves, amplitudes):
    good = _bad([(0, 0), (3, 5), (7, 7)])
    found = rate(replace_amplitude(waves, amplitudes, good))
    torch.testing.assert_close(found[:, good], amplitudes.square()[:, good], rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(found[:, ~good], rate(waves)[:, ~good], rtol=1e-12, atol=0)


def test_modes_share_in_proportion_and_keep_their_phases(waves, amplitudes):
    found = replace_amplitude(waves, amplitudes).numpy()
    centred = torch.fft.fftshift(amplitudes, dim=(-2, -1)).numpy()
    for k in range(4):
        before = np.stack([dft2(mode) for mode in waves[k].numpy()])
        after = np.stack([dft2(mode) for mode in found[k]])
        gain = centred[k] / np.sqrt((np.abs(before) ** 2).sum(0))  # one real factor for all modes
        np.testing.assert_allclose(after, before * gain, rtol=1e-6, atol=1e-9)


def test_it_is_a_projection(waves, amplitudes):
    once = replace_amplitude(waves, amplitudes)
    assert relative_error(replace_amplitude(once, amplitudes).numpy(), once.numpy()) < 1e-4


def test_it_is_the_nearest_wave_with_these_amplitudes(waves, amplitudes, rng):
    nearest = (replace_amplitude(waves, amplitudes) - waves).abs().square().sum()
    for _ in range(10):
        other = replace_amplitude(waves + torch.from_numpy(random_complex(rng, 4, 2, N, N)), amplitudes)
        assert (other - waves).abs().square().sum() > nearest


def test_darkness_gives_finite_waves_and_gradients():
    waves = torch.zeros(1, 1, N, N, dtype=torch.complex64, requires_grad=True)
    found = replace_amplitude(waves, torch.full((1, N, N), 10.0))
    found.abs().square().sum().backward()
    assert torch.isfinite(torch.view_as_real(found)).all()
    assert torch.isfinite(torch.view_as_real(waves.grad)).all()


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_what_a_masked_pixel_holds_reaches_neither_wave_nor_gradient(waves, amplitudes, poison):
    good = _bad([(2, 3)])
    amplitudes[:, 2, 3] = poison
    waves.requires_grad_()
    found = replace_amplitude(waves, amplitudes, good)
    found.abs().square().sum().backward()
    assert torch.isfinite(torch.view_as_real(found)).all()
    assert torch.isfinite(torch.view_as_real(waves.grad)).all()


def test_gradients(rng):
    waves = torch.from_numpy(random_complex(rng, 1, 2, 4, 4)).requires_grad_()
    amplitudes = torch.from_numpy(rng.uniform(0.5, 3, (1, 4, 4)))
    good = torch.ones(4, 4, dtype=torch.bool)
    good[1, 2] = False
    # gradcheck sees the floor's own detached maximum as a constant, so keep well above it
    assert torch.autograd.gradcheck(lambda w: replace_amplitude(w, amplitudes, good), waves, atol=1e-4)


def test_least_squares_object_of_exit_waves(rng):
    probes = torch.from_numpy(random_complex(rng, 3, 2, N, N))
    patches = torch.from_numpy(random_complex(rng, 3, N, N))
    found = divide_by_probe(probes * patches[:, None], probes, relative_floor=0.0)
    torch.testing.assert_close(found, patches, rtol=1e-12, atol=1e-12)
    weight = probes.abs().square().sum(1)
    damped = patches * weight / (weight + 0.1 * weight.amax((-2, -1), keepdim=True))
    torch.testing.assert_close(divide_by_probe(probes * patches[:, None], probes, 0.1), damped, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("modes", [1, 3])
def test_the_empty_beam_gives_nothing(modes):
    n = 64
    light = beam(n, modes).array(n)
    intensity = sum(np.abs(dft2(mode)) ** 2 for mode in light)
    amplitudes = detector_order(torch.from_numpy(np.sqrt(intensity)))[None]
    assert backproject(amplitudes, torch.from_numpy(light)[None]).abs().max() < 1e-3


def test_a_fully_masked_detector_says_nothing(rng):
    probes = torch.from_numpy(random_complex(rng, 1, 1, N, N))
    amplitudes = torch.from_numpy(rng.uniform(0, 3, (1, N, N)))
    assert backproject(amplitudes, probes, torch.zeros(N, N, dtype=torch.bool)).abs().max() < 1e-12


def test_a_uniform_absorber_is_seen_as_one():
    """Amplitudes of 0.8 P everywhere: the departure from vacuum is -0.2 where the beam is."""
    n = 64
    light = beam(n, 1).array(n)
    amplitudes = detector_order(torch.from_numpy(0.8 * np.abs(dft2(light[0]))))[None]
    found = backproject(amplitudes, torch.from_numpy(light)[None], relative_floor=1e-6)[0]
    lit = torch.from_numpy(np.abs(light[0]) > 0.3 * np.abs(light[0]).max())
    torch.testing.assert_close(found[lit], torch.full_like(found[lit], -0.2), rtol=0, atol=1e-3)
