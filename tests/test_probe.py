"""Probe shapes, masks, scale, modes, diameter; oracles written with plain loops or closed forms."""

import numpy as np
import pytest

from ptycho import params
from ptycho.errors import InputError
from ptycho.probe import (
    far_field,
    mode_powers,
    near_field,
    normalise_probe,
    orthogonalise_modes,
    probe_diameter,
    probe_mask,
    probe_power,
    scale_probe_to_counts,
    set_probe_guess,
)


def random_modes(rng, modes=3, N=16):
    return (rng.normal(size=(modes, N, N)) + 1j * rng.normal(size=(modes, N, N))).astype(np.complex64)


def slow_far_field(field):
    """The definition, as a double sum over centred indices."""
    N = field.shape[-1]
    k = np.arange(N) - N // 2
    kernel = np.exp(-2j * np.pi * np.outer(k, k) / N) / np.sqrt(N)
    return kernel @ field @ kernel.T


@pytest.mark.parametrize("N", [8, 9])
def test_far_field_is_the_centred_sum_and_keeps_power(rng, N):
    field = random_modes(rng, 2, N).astype(np.complex128)
    expected = np.stack([slow_far_field(f) for f in field])
    np.testing.assert_allclose(far_field(field), expected, atol=1e-12)
    np.testing.assert_allclose(near_field(far_field(field)), field, atol=1e-12)
    np.testing.assert_allclose(mode_powers(far_field(field)), mode_powers(field))


def test_every_accepted_shape_becomes_mode_row_column(rng):
    flat = random_modes(rng, 1, 8)[0]
    for given in (flat, flat[:, :, None], flat[None], flat.astype(np.complex128)):
        probe = normalise_probe(given)
        assert probe.shape == (1, 8, 8) and probe.dtype == np.complex64
        np.testing.assert_allclose(probe[0], flat, rtol=1e-6)
    modes = random_modes(rng, 8, 8)  # as many modes as pixels must not be mistaken for (N, N, 1)
    np.testing.assert_array_equal(normalise_probe(modes), modes)


@pytest.mark.parametrize(
    ("probe", "N", "what"),
    [
        (np.ones((8, 9)), None, "square"),
        (np.ones(8), None, r"\(8,\)"),
        (np.ones((8, 8)), 16, "8 x 8 pixels, expected 16 x 16"),
        (np.full((4, 4), np.nan), None, "NaN"),
        (np.array([["a"]]), None, "dtype"),
    ],
)
def test_unusable_probes_are_refused(probe, N, what):
    with pytest.raises(InputError, match=what):
        normalise_probe(probe, N)


def test_set_probe_guess_records_the_probe(rng):
    probe = random_modes(rng, 1, 8)[0]
    set_probe_guess(None, probe)
    np.testing.assert_array_equal(params.get("probe")[0], probe)
    assert set_probe_guess(None) is None


def test_mask_is_a_disk_between_pixels_with_a_soft_edge():
    hard = probe_mask(16, sigma=0)
    inside = sum((r - 7.5) ** 2 + (c - 7.5) ** 2 <= 16 for r in range(16) for c in range(16))
    assert hard.dtype == np.float32 and hard.sum() == inside  # default diameter N/2: radius 4
    soft = probe_mask(64, diameter=24, sigma=1.5)
    assert soft.max() == 1 and soft.min() == 0
    np.testing.assert_array_equal(soft, soft[::-1])
    np.testing.assert_array_equal(soft, soft.T)
    edge = soft[31, 31 + 12 : 31 + 14]  # radius 12 lies halfway between two pixels' centres, 11.5 and 12.5
    assert edge[0] > 0.5 > edge[1] > 0
    assert soft[31, 31 + 18] == 0  # cut at 3 sigma, rounded up
    with pytest.raises(InputError):
        probe_mask(16, diameter=0.1)


def test_scaled_probe_puts_the_mean_counts_on_the_good_pixels(rng):
    probe = random_modes(rng)
    good = rng.random((16, 16)) > 0.3
    scaled = scale_probe_to_counts(probe, 1.7e5, good)
    total = sum((np.abs(slow_far_field(m)) ** 2)[good].sum() for m in scaled.astype(np.complex128))
    assert total == pytest.approx(1.7e5, rel=1e-5)
    ratio = scaled / probe
    np.testing.assert_allclose(ratio, ratio.flat[0], rtol=1e-5)
    assert abs(ratio.flat[0].imag) < 1e-6 * abs(ratio.flat[0])
    assert probe_power(scale_probe_to_counts(probe, 50.0)) == pytest.approx(50.0, rel=1e-5)


def test_a_probe_of_zeros_and_empty_frames_cannot_be_scaled():
    with pytest.raises(InputError, match="zero"):
        scale_probe_to_counts(np.zeros((1, 8, 8)), 10.0)
    with pytest.raises(InputError, match="mean counts"):
        scale_probe_to_counts(np.ones((1, 8, 8)), 0.0)
    with pytest.raises(InputError, match="zero"):
        probe_diameter(np.zeros((1, 8, 8)))


def test_orthogonal_modes_give_the_same_diffraction(rng):
    probe = random_modes(rng, 4, 12)
    probe[2] = 0.7 * probe[0] + 0.1 * probe[2]
    modes = orthogonalise_modes(probe)
    gram = np.einsum("iab,jab->ij", modes.conj(), modes)
    powers = np.diag(gram).real
    np.testing.assert_allclose(gram - np.diag(np.diag(gram)), 0, atol=1e-4 * powers[0])
    assert (np.diff(powers) <= 0).all()
    exit_wave = rng.normal(size=(12, 12)) + 1j * rng.normal(size=(12, 12))
    before = (np.abs(far_field(probe * exit_wave)) ** 2).sum(axis=0)
    after = (np.abs(far_field(modes * exit_wave)) ** 2).sum(axis=0)
    np.testing.assert_allclose(after, before, rtol=1e-4)


def test_a_single_mode_stays_as_it_is(rng):
    probe = random_modes(rng, 1, 12)
    np.testing.assert_allclose(orthogonalise_modes(probe), probe, atol=1e-5)


def test_diameter_of_disk_and_gaussian():
    r2 = sum(np.meshgrid((np.arange(128) - 64.0) ** 2, (np.arange(128) - 64.0) ** 2))
    disk = (r2 <= 20**2).astype(complex)
    assert probe_diameter(disk) == pytest.approx(40 * np.sqrt(0.9), rel=0.01)
    # |P|^2 = exp(-r^2 / s^2) holds 1 - exp(-R^2 / s^2) within R.
    gaussian = np.exp(-r2 / (2 * 12.0**2))
    assert probe_diameter(gaussian) == pytest.approx(2 * 12 * np.sqrt(np.log(10)), rel=0.01)
    assert probe_diameter(np.stack([disk, disk])) == pytest.approx(probe_diameter(disk))
