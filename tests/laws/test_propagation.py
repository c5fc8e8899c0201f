"""Free-space propagation, and the search for the distance by which a probe is wrong."""

import math

import numpy as np
import pytest
import torch

from ptycho.simulation.probes import make_probe
from ptycho_torch.physics.propagation import focal_depth_px2, fresnel
from ptycho_torch.solvers.defocus import find_defocus

N = 64


def gaussian_beam(z, waist=6.0, n=N):
    """exp(-pi r^2 / a^2) after a distance z: a^2 / (a^2 + i z) exp(-pi r^2 / (a^2 + i z)), the paraxial solution."""
    index = np.arange(n) - n // 2
    squared = index[:, None] ** 2 + index[None, :] ** 2
    q = waist**2 + 1j * z
    return waist**2 / q * np.exp(-np.pi * squared / q)


@pytest.mark.parametrize("z", [0.0, 7.3, -22.0, 40.0])
def test_a_gaussian_beam_spreads_as_it_does_in_closed_form(z):
    found = fresnel(torch.from_numpy(gaussian_beam(0.0))[None], z)
    np.testing.assert_allclose(found[0].numpy(), gaussian_beam(z), atol=2e-6)
    # the sign counts: the beam upstream has the opposite curvature
    if z:
        assert np.abs(found[0].numpy() - gaussian_beam(-z)).max() > 0.1


def test_distances_add_up_and_power_is_kept():
    probe = torch.from_numpy(make_probe("zone_plate", N, mode_powers=(0.8, 0.2)))
    far = fresnel(fresnel(probe, 12.5), -30.0)
    torch.testing.assert_close(far, fresnel(probe, -17.5), atol=1e-6, rtol=0)
    np.testing.assert_allclose(far.abs().square().sum((-2, -1)), probe.abs().square().sum((-2, -1)), rtol=1e-5)


def test_it_is_the_defocus_of_the_simulated_zone_plate():
    near = torch.from_numpy(make_probe("zone_plate", N, defocus=38.0))
    np.testing.assert_allclose(
        fresnel(near, -7.6).numpy(), make_probe("zone_plate", N, defocus=30.4), atol=1e-6
    )


def test_focal_depth_of_two_plane_waves():
    """Of equal power: |q|^2 is either of two values, its deviation half their difference."""
    index = np.arange(N)
    first = np.exp(2j * np.pi * 3 * index[None, :] / N) * np.ones((N, 1))
    second = np.exp(2j * np.pi * (10 * index[:, None] - 4 * index[None, :]) / N)
    deviation = ((10**2 + 4**2) - 3**2) / N**2 / 2
    assert focal_depth_px2(torch.from_numpy(first + second)[None]) == pytest.approx(1 / (np.pi * deviation), rel=1e-6)
    assert focal_depth_px2(torch.ones(1, N, N, dtype=torch.complex128)) > 1e9, "a plane wave has no focus"


@pytest.mark.parametrize("truth", [0.0, 3.0, -7.6, 29.0, -55.0])
def test_the_valley_is_found_from_its_slope(truth):
    trials = []

    def misfit(z):
        trials.append(z)
        return 1.0 - math.exp(-(((z - truth) / 25.0) ** 2)) + 1e-3 * math.cos(z)

    found = find_defocus(misfit, 11.0, 64.0)
    assert found.distance_px2 == pytest.approx(truth, abs=2.0) and not found.at_edge
    assert len(trials) == len(set(trials)) == len(found.tried) <= 20
    assert found.tried == sorted(found.tried)
    assert dict(found.tried)[found.distance_px2] == min(value for _, value in found.tried)


def test_a_valley_that_is_too_far_away_is_said():
    found = find_defocus(lambda z: -z, 11.0, 64.0)
    assert found.at_edge and found.distance_px2 == 64.0


def test_a_trial_that_breaks_down_is_not_taken():
    found = find_defocus(lambda z: math.nan if z < -5 else (z + 4) ** 2, 11.0, 64.0)
    assert found.distance_px2 == pytest.approx(-4, abs=1.2)
    flat = find_defocus(lambda z: 1.0, math.inf, 64.0)
    assert not flat.at_edge and all(abs(z) <= 64 for z, _ in flat.tried)
