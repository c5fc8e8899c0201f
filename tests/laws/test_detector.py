"""From object and probe to expected counts."""

import numpy as np
import pytest
import torch

from laws.oracle import beam, random_complex, random_starts, rates_of_array, relative_error, specimen
from ptycho_torch.physics.detector import centred_order, detector_order, expected_counts, far_field, rate, roots
from ptycho_torch.physics.illumination import (
    exit_waves,
    merge_weights,
    probe_to_complex,
    probe_to_real,
    shift_probe,
    unshift_probe_sum,
)


def _scene(n, frames=5, modes=3):
    """Object (H, W), beam, starts and fractions that include both signs, zero and one half."""
    rng = np.random.default_rng(11)
    shape = (n + 9, n + 14)
    image = specimen()(np.arange(shape[0]), np.arange(shape[1]))
    fractions = rng.uniform(-0.5, 0.5, (frames, 2))
    fractions[:2] = (0.0, 0.0), (0.5, -0.5)
    return image, beam(n, modes), random_starts(rng, frames, n, shape), fractions


@pytest.mark.parametrize("n", [32, 33, 64])
def test_expected_counts_are_those_of_a_loop_over_frames_and_modes(n):
    image, light, starts, fractions = _scene(n)
    expected = rates_of_array(image, light, starts, fractions, n)
    probes = shift_probe(torch.from_numpy(light.array(n)), torch.from_numpy(fractions))
    found = expected_counts(torch.from_numpy(image), probes, torch.from_numpy(starts))
    tolerance = 1e-10 if n >= 64 else 1e-5  # a beam that fits a small frame reaches the Nyquist frequency
    assert relative_error(centred_order(found).numpy(), expected) < tolerance


def test_single_precision_is_enough():
    n = 64
    image, light, starts, fractions = _scene(n)
    expected = rates_of_array(image, light, starts, fractions, n)
    probe = torch.from_numpy(light.array(n)).to(torch.complex64)
    probes = shift_probe(probe, torch.from_numpy(fractions))
    found = expected_counts(torch.from_numpy(image).to(torch.complex64), probes, torch.from_numpy(starts))
    assert found.dtype == torch.float32
    assert relative_error(centred_order(found).numpy(), expected) < 3e-6


def test_roots_of_counts(rng):
    counts = torch.from_numpy(rng.poisson(0.7, (3, 5, 4))).float()
    assert torch.equal(roots(counts), counts.sqrt())
    roots(counts.requires_grad_() + 1).sum().backward()
    np.testing.assert_allclose(counts.grad, 0.5 / np.sqrt(counts.detach().numpy() + 1), rtol=1e-6)


def test_modes_add_in_intensity(rng):
    waves = torch.from_numpy(random_complex(rng, 2, 3, 16, 16))
    parts = sum(rate(waves[:, m : m + 1]) for m in range(3))
    torch.testing.assert_close(rate(waves), parts, rtol=1e-13, atol=0)
    turned = waves * torch.exp(1j * torch.tensor([0.3, 1.7, -2.0], dtype=torch.float64))[:, None, None]
    torch.testing.assert_close(rate(turned), parts, rtol=1e-13, atol=0)


@pytest.mark.parametrize("n", [16, 17])
def test_rate_is_the_far_field_intensity_in_another_order(rng, n):
    waves = torch.from_numpy(random_complex(rng, 2, n, n))
    intensity = far_field(waves).abs().square().sum(0)
    torch.testing.assert_close(centred_order(rate(waves)), intensity, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(rate(waves), detector_order(intensity), rtol=1e-12, atol=1e-13)
    assert detector_order(intensity)[0, 0] == intensity[n // 2, n // 2]


def test_no_photon_is_lost(rng):
    waves = torch.from_numpy(random_complex(rng, 2, 16, 16))
    torch.testing.assert_close(rate(waves).sum(), waves.abs().square().sum(), rtol=1e-13, atol=0)


@pytest.mark.parametrize("shift", [(0.5, 0.0), (-0.3, 0.45), (0.0, -0.5)])
def test_probe_moves_by_its_fraction(shift):
    light = beam(64)
    moved = shift_probe(torch.from_numpy(light.array(64)), torch.tensor([shift], dtype=torch.float64))
    assert moved.shape == (1, 2, 64, 64)
    assert relative_error(moved[0].numpy(), light.array(64, shift)) < 1e-8


@pytest.mark.parametrize("n", [15, 16])
def test_moving_back_and_summing_is_the_adjoint_of_moving(rng, n):
    probe = torch.from_numpy(random_complex(rng, 2, n, n))
    fractions = torch.from_numpy(rng.uniform(-0.5, 0.5, (7, 2)))
    updates = torch.from_numpy(random_complex(rng, 7, 2, n, n))
    left = torch.vdot(shift_probe(probe, fractions).flatten(), updates.flatten())
    right = torch.vdot(probe.flatten(), unshift_probe_sum(updates, fractions).flatten())
    assert abs(complex(left - right)) < 1e-12 * abs(complex(left))


def test_exit_wave_and_weights_by_hand(rng):
    probes, patches = random_complex(rng, 3, 2, 4, 4), random_complex(rng, 3, 4, 4)
    waves = exit_waves(torch.from_numpy(probes), torch.from_numpy(patches)).numpy()
    for k in range(3):
        for m in range(2):
            np.testing.assert_allclose(waves[k, m], probes[k, m] * patches[k])
    weights = merge_weights(torch.from_numpy(probes).requires_grad_())
    assert not weights.requires_grad
    np.testing.assert_allclose(weights.numpy(), np.abs(probes[:, 0]) ** 2 + np.abs(probes[:, 1]) ** 2)


def test_a_probe_survives_its_real_form(rng):
    probe = torch.from_numpy(random_complex(rng, 2, 4, 4))
    parts = probe_to_real(probe.conj())  # a lazily conjugated tensor has no real view
    assert parts.dtype == torch.float64 and parts.shape == (2, 4, 4, 2)
    torch.testing.assert_close(probe_to_complex(parts), probe.conj().resolve_conj(), rtol=0, atol=0)


def test_gradients(rng):
    n = 4
    starts = torch.tensor([[0, 1], [2, 0]])
    canvas = torch.from_numpy(random_complex(rng, 6, 5)).requires_grad_()
    probe = torch.from_numpy(random_complex(rng, 2, n, n)).requires_grad_()
    fractions = torch.from_numpy(rng.uniform(-0.5, 0.5, (2, 2))).requires_grad_()

    def counts(canvas, probe, fractions):
        return expected_counts(canvas, shift_probe(probe, fractions), starts)

    assert torch.autograd.gradcheck(counts, (canvas, probe, fractions))


def test_darkness_has_a_finite_gradient():
    waves = torch.zeros(1, 4, 4, dtype=torch.complex64, requires_grad=True)
    rate(waves).sum().backward()
    assert torch.equal(waves.grad, torch.zeros_like(waves))
