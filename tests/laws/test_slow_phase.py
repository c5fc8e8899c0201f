"""Slow phases: how much of them the counts show, and how far a step is carried."""

import numpy as np
import pytest
import torch
from frame_loops import carried_further

from ptycho_torch.physics import slow_phase as module
from ptycho_torch.physics.slow_phase import (
    GAIN_SEEN,
    MOST_GAIN,
    SlowPhase,
    beam_width_px,
    carry,
    light_through,
    seen_share,
    slow_phase,
)


def gaussian(n, sigma, defocus=0.0):
    """(n, n) complex, of which the intensity is a Gaussian of this standard deviation."""
    r = np.arange(n) - n // 2
    squares = r[:, None] ** 2 + r[None] ** 2
    return np.exp(-squares / (4 * sigma**2)) * np.exp(1j * defocus * squares)


def as_probe(*modes):
    return torch.from_numpy(np.stack(modes).astype(np.complex128))


@pytest.mark.parametrize("sigma", [3.0, 6.5])
def test_the_width_of_a_gaussian_is_its_standard_deviation(sigma):
    assert beam_width_px(as_probe(gaussian(64, sigma))) == pytest.approx(sigma, rel=1e-3)
    assert beam_width_px(as_probe(7j * gaussian(64, sigma, 0.03))) == pytest.approx(sigma, rel=1e-3)


def test_dim_surroundings_hardly_widen_a_beam():
    dim = gaussian(64, 3.0) + 0.01
    assert beam_width_px(as_probe(dim)) < 1.1 * 3.0


def by_differences(modes, wavelength):
    """The same share from amplitudes of waves that a phase of 1e-4 has turned."""
    seen = changed = 0.0
    at = np.arange(modes.shape[-1]) * 2 * np.pi / wavelength
    for phase in (np.cos(at)[:, None], np.sin(at)[:, None], np.cos(at)[None], np.sin(at)[None]):
        amplitudes = [
            np.sqrt((np.abs(np.fft.fft2(modes * np.exp(1j * part * phase), norm="ortho")) ** 2).sum(axis=0))
            for part in (0, 1e-4)
        ]
        seen += ((amplitudes[1] - amplitudes[0]) ** 2).sum() / 1e-8
        changed += (np.abs(modes * phase) ** 2).sum()
    return seen / changed


@pytest.mark.parametrize("defocus", [0.0, 0.02, 0.08])
@pytest.mark.parametrize("wavelength", [25.0, 60.0])
def test_what_is_seen_of_a_phase(defocus, wavelength):
    """No pixel of these far fields is dark enough for the floor of the amplitudes to act on."""
    modes = np.stack((gaussian(32, 2.0, defocus), 0.5 * gaussian(32, 2.5, -defocus)))
    expected = by_differences(modes, wavelength)
    assert seen_share(as_probe(*modes), wavelength) == pytest.approx(expected, rel=2e-2)


@pytest.mark.parametrize("wavelength", [400.0, 100.0, 50.0, 25.0])
def test_what_a_real_gaussian_shows(wavelength):
    """A phase that is odd about the beam moves two lobes apart in the far field, which overlap by exp(-2 k^2 sigma^2);
    one that is even shows nothing."""
    overlap = np.exp(-2 * (2 * np.pi / wavelength * 4.0) ** 2)
    assert seen_share(as_probe(gaussian(64, 4.0)), wavelength) == pytest.approx((1 - overlap) / 2, rel=2e-2)


def test_the_gain_follows_what_is_seen():
    clear, hidden = as_probe(gaussian(64, 5.0)), as_probe(gaussian(64, 5.0, 0.05))
    for probe in (clear, hidden):
        slow = SlowPhase.of(probe)
        share = seen_share(probe, 2 * np.pi * slow.width_px)
        assert slow.gain == pytest.approx(min(MOST_GAIN, GAIN_SEEN / share), rel=1e-6)
    assert SlowPhase.of(clear).gain < 3 < SlowPhase.of(hidden).gain
    assert SlowPhase.of(3j * clear) == pytest.approx(SlowPhase.of(clear))
    assert SlowPhase.of(torch.zeros_like(clear)).gain == MOST_GAIN


@pytest.mark.parametrize("width_px", [1.7, 5.0, 8.3])
@pytest.mark.parametrize("pixels", [2**18, 300])
def test_carrying_is_the_sum_over_pixels(monkeypatch, rng, width_px, pixels):
    """On a canvas of no whole number of squares, at once and a few rows at a time."""
    monkeypatch.setattr(module, "_PIXELS", pixels)
    slow, shape = SlowPhase(width_px, 6.0), (53, 47)
    canvas, asked, step = rng.normal(size=(3, *shape)) + 1j * rng.normal(size=(3, *shape))
    light = rng.uniform(0, 2, shape)
    light[:10] = 0
    expected = step + 0.7j * canvas * carried_further(canvas, asked, light, slow)
    old, moved = torch.from_numpy(canvas), torch.from_numpy(step.copy())
    through = light_through(old, torch.from_numpy(light), slow)
    carry(moved, old, slow_phase(old, torch.from_numpy(asked), through, slow), torch.from_numpy(light), slow, 0.7)
    np.testing.assert_allclose(moved.numpy(), expected, atol=1e-9)


def test_a_turn_of_the_whole_object_is_carried_by_the_gain():
    """Asked for a phase of 0.01 everywhere, in the middle it becomes 0.01 times one and the gain, but for the dim."""
    slow, shape = SlowPhase(6.0, 5.0), (90, 90)
    canvas = torch.polar(torch.full(shape, 0.8), torch.full(shape, 0.4)).to(torch.complex64)
    light = torch.full(shape, 3.0)
    step = 0.01j * canvas
    carry(step, canvas, slow_phase(canvas, light * step, light_through(canvas, light, slow), slow), light, slow)
    middle = (step / (1j * canvas))[40:50, 40:50]
    torch.testing.assert_close(middle.real, torch.full((10, 10), 0.01 * (1 + 5 / 1.1 / 1.01)), rtol=1e-3, atol=0)
    assert middle.imag.abs().max() < 1e-6


def test_what_has_no_light_is_not_carried():
    """Half of the canvas is dark, the other half asks for a turn; of a canvas that is all dark nothing is asked."""
    slow, shape = SlowPhase(4.0, 8.0), (40, 40)
    canvas, light = torch.ones(shape, dtype=torch.complex64), torch.ones(shape)
    light[:, 20:] = 0
    asked = 0.01j * light * canvas
    step = torch.zeros_like(canvas)
    carry(step, canvas, slow_phase(canvas, asked, light_through(canvas, light, slow), slow), light, slow)
    assert not step[:, 20:].any() and (step[:, :20].imag > 0.01).all()
    dark = torch.zeros(shape)
    found = slow_phase(canvas, torch.zeros_like(canvas), light_through(canvas, dark, slow), slow)
    carry(step.zero_(), canvas, found, dark, slow)
    assert torch.equal(step, torch.zeros_like(canvas))
