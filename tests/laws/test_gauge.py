"""What is moved between probe and object cannot be seen on the detector."""

import numpy as np
import pytest
import torch

from laws.oracle import beam, dft2, relative_error
from ptycho_torch.physics.detector import expected_counts
from ptycho_torch.physics.fourier import fourier_shift
from ptycho_torch.physics.illumination import shift_probe
from ptycho_torch.solvers.gauge import ProbeGauge, mean_gradient, phase_ramp

N = 64
SHAPE = (150, 158)


def _compact_object():
    """Vanishes, with all its derivatives that matter, well inside the canvas."""
    rows, cols = np.arange(SHAPE[0])[:, None], np.arange(SHAPE[1])[None, :]
    envelope = np.exp(-((rows - 70) ** 2) / (2 * 9.0**2) - (cols - 82) ** 2 / (2 * 8.0**2))
    phase = 0.6 * np.sin(0.2 * rows) + 0.4 * np.cos(0.17 * cols + 0.1 * rows)
    return torch.from_numpy(envelope * np.exp(1j * phase))


def _centre(intensity):
    """(row, col) centre of mass from index n // 2."""
    index = np.arange(len(intensity)) - len(intensity) // 2
    return np.array([intensity.sum(1) @ index, intensity.sum(0) @ index]) / intensity.sum()


def _measures(probe):
    """Power, centroid and far-field centroid of a probe (M, N, N), computed here."""
    near = (np.abs(probe) ** 2).sum(0)
    far = sum(np.abs(dft2(mode)) ** 2 for mode in probe)
    return near.sum(), _centre(near), _centre(far)


@pytest.fixture
def guess():
    return torch.from_numpy(beam(N).array(N))


@pytest.fixture
def drifted(guess):
    """The same beam after a refinement that has let all three go."""
    shape = fourier_shift(guess, torch.tensor([1.7, -0.6], dtype=torch.float64))
    return 1.3 * shape * phase_ramp(torch.tensor([-2.4, 1.1], dtype=torch.float64), N, (N, N))


@pytest.fixture
def lit():
    """Where the object is looked at for its ramp."""
    weight = torch.zeros(SHAPE, dtype=torch.float64)
    weight[30:110, 40:125] = 1
    return weight


def test_the_gauge_is_what_it_says(guess):
    gauge = ProbeGauge.of(guess)
    power, centre, _ = _measures(guess.numpy())
    assert float(gauge.power) == pytest.approx(power, rel=1e-12)
    np.testing.assert_allclose(gauge.centroid_px.numpy(), centre, atol=1e-9)


def test_fixing_restores_the_power_and_to_the_pixel_the_centroid(guess, drifted, lit):
    before, after = _measures(guess.numpy()), _measures(drifted.numpy())
    assert abs(after[0] / before[0] - 1.69) < 0.01
    np.testing.assert_allclose(after[1] - before[1], [1.7, -0.6], atol=1e-6)
    probe, _ = ProbeGauge.of(guess).fix(drifted, _compact_object(), lit)
    power, centre, _ = _measures(probe.numpy())
    assert power == pytest.approx(before[0], rel=1e-9)
    np.testing.assert_allclose(centre - before[1], [1.7 - 2, -0.6 + 1], atol=1e-6)


def test_nothing_is_moved_by_parts_of_a_pixel(guess, drifted, lit, rng):
    """Every pixel of the object stays what it was, but for the ramp and the scale; one with sharp edges would ring."""
    image = torch.from_numpy(rng.uniform(0.2, 1, SHAPE)).to(guess.dtype)
    gauge = ProbeGauge.of(guess)
    _, moved = gauge.fix(drifted, image, lit)
    there = np.roll(image.numpy(), (-2, 1), (0, 1))
    np.testing.assert_allclose(np.abs(moved.numpy()) * float(gauge.power_correction(drifted)), there, rtol=1e-12)


def test_a_ramp_of_the_object_goes_to_the_probe(guess, lit):
    """An object times exp(i g.r) and a probe times exp(-i g.r) are told apart by the object's mean slope."""
    rows, cols = np.arange(SHAPE[0])[:, None], np.arange(SHAPE[1])[None, :]
    slope = np.array([0.05, -0.11])  # radians per pixel
    ramp = torch.from_numpy(np.exp(1j * (slope[0] * rows + slope[1] * cols)))
    np.testing.assert_allclose(mean_gradient(ramp, lit).numpy(), slope, atol=1e-12)
    tilted = guess * torch.from_numpy(np.exp(-1j * (slope[0] * rows + slope[1] * cols)))[:N, :N]
    probe, flat = ProbeGauge.of(guess).fix(tilted, ramp, lit)
    inside = flat[40:100, 50:110]
    assert (inside / inside[0, 0] - 1).abs().max() < 1e-3
    np.testing.assert_allclose(_measures(probe.numpy())[2], _measures(guess.numpy())[2], atol=1e-6)


def test_fixing_changes_no_frame(guess, drifted, lit, rng):
    starts = torch.from_numpy(np.stack([rng.integers(25, 60, 8), rng.integers(30, 65, 8)], axis=1))
    fractions = torch.from_numpy(rng.uniform(-0.5, 0.5, (8, 2)))
    image = _compact_object()
    before = expected_counts(image, shift_probe(drifted, fractions), starts)
    probe, moved = ProbeGauge.of(guess).fix(drifted, image, lit)
    after = expected_counts(moved, shift_probe(probe, fractions), starts)
    assert relative_error(after.numpy(), before.numpy()) < 1e-12
    without = expected_counts(image, shift_probe(probe, fractions), starts)  # the probe alone fixed
    assert relative_error(without.numpy(), before.numpy()) > 0.1


def test_fixing_what_is_right_changes_nothing(guess, lit):
    image = torch.from_numpy(np.exp(-0.3 * np.outer(np.hanning(SHAPE[0]), np.hanning(SHAPE[1])))).to(guess.dtype)
    probe, same = ProbeGauge.of(guess).fix(guess, image, lit)
    torch.testing.assert_close(probe, guess, rtol=0, atol=1e-8)
    torch.testing.assert_close(same, image, rtol=0, atol=1e-10)


def test_the_margin_of_a_canvas_stays_vacuum_in_modulus(guess, drifted, lit):
    """What no frame has seen is 1 before, and has to be a plane wave of modulus 1 (over the scale) after."""
    image = torch.ones(SHAPE, dtype=torch.complex128)
    image[40:100, 50:110] = 0.7 + 0.2j
    gauge = ProbeGauge.of(guess)
    _, moved = gauge.fix(drifted, image, lit)
    margin = moved[:8].abs() * float(gauge.power_correction(drifted))
    assert (margin - 1).abs().max() < 1e-9


def test_power_alone(guess):
    assert float(ProbeGauge.of(guess).power_correction(3 * guess)) == pytest.approx(1 / 3, rel=1e-12)


def test_single_precision(guess, drifted, lit):
    before = _measures(guess.numpy())
    probe, moved = ProbeGauge.of(guess.to(torch.complex64)).fix(
        drifted.to(torch.complex64), _compact_object().to(torch.complex64), lit.float()
    )
    assert probe.dtype == moved.dtype == torch.complex64
    power, centre, _ = _measures(probe.numpy())
    assert power == pytest.approx(before[0], rel=1e-5)
    np.testing.assert_allclose(centre - before[1], [-0.3, 0.4], atol=1e-4)
