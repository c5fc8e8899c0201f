"""Figures of merit: what they must see through, and what they must not be fooled by."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from ptycho.diffsim import make_object
from ptycho.errors import InputError
from ptycho.metrics import (
    compare_objects,
    compare_with_images,
    expected_deviance,
    fourier_ring_correlation,
    illuminated_coverage,
    poisson_deviance,
)
from ptycho.metrics.alignment import find_slopes
from ptycho.metrics.deviance import bunch_size
from ptycho.metrics.image_quality import PSNR_LIMIT, psnr, ssim


def moved(obj, shift):
    """The periodic image moved by +shift (row, col): new(r) = old(r - shift)."""
    turn = np.exp(
        -2j
        * np.pi
        * (
            np.fft.fftfreq(obj.shape[0])[:, None] * shift[0]
            + np.fft.fftfreq(obj.shape[1])[None, :] * shift[1]
        )
    )
    return np.fft.ifft2(np.fft.fft2(obj) * turn)


def ramped(obj, slopes, constant=0.0):
    rows, cols = np.indices(obj.shape)
    return obj * np.exp(1j * (slopes[0] * rows + slopes[1] * cols + constant))


def smooth_object(seed=0, phase=1.0, shape=(140, 132)):
    return make_object("gaussian_random_field", shape, seed, feature_size=4.0, phase_range=(0, phase))


@pytest.fixture(scope="module")
def leaves():
    return make_object("dead_leaves", (140, 132), 3, smooth=0.8)


# ---- registration and alignment


@pytest.mark.parametrize("shift", [(0.0, 0.0), (3.4, -2.7), (-0.35, 0.5), (9.2, 7.7)])
@pytest.mark.parametrize("slopes", [(0.0, 0.0), (0.21, -0.13), (-0.9, 1.1)])
def test_shift_ramp_and_constant_are_found_and_removed(leaves, shift, slopes):
    other = ramped(moved(leaves, shift), slopes, 2.0) * 3.0
    found = compare_objects(other, leaves, half=45)
    assert found.shift_px == pytest.approx(shift, abs=1e-2)
    assert found.phase_correlation > 0.9999 and found.ssim > 0.999 and found.amplitude_correlation > 0.99
    assert found.contrast_ratio == pytest.approx(1, abs=1e-3)
    assert found.frc_crossing == 0.5 and found.frc_resolution_px == 1.0
    assert found.n_pixels == 90 * 90 and not found.flat


def test_what_is_left_after_registration_tells_whether_it_converged(leaves):
    """Nothing where the shift was found; much where it lies beyond what was looked for, or there is none."""
    other = moved(leaves, (9.2, 7.7))
    assert compare_objects(other, leaves, half=45).registration_residual_px < 1e-3
    assert compare_objects(other, leaves, half=45, max_shift=1).registration_residual_px > 0.1
    unlike = make_object("dead_leaves", leaves.shape, 5, smooth=0.8)
    assert compare_objects(unlike, leaves, half=45).registration_residual_px > 0.03


def test_registration_withstands_noise(leaves):
    rng = np.random.default_rng(0)
    noise = 0.15 * (rng.standard_normal(leaves.shape) + 1j * rng.standard_normal(leaves.shape))
    found = compare_objects(ramped(moved(leaves, (3.4, -2.7)), (0.2, -0.1)) + noise, leaves, half=45)
    assert found.shift_px == pytest.approx((3.4, -2.7), abs=0.1)  # noise alone allows 0.03
    assert 0.6 < found.phase_correlation < 0.95 and 0.1 < found.frc_crossing < 0.5


def test_meaningless_edges_do_not_spoil_the_figures(leaves):
    rng = np.random.default_rng(1)
    covered = np.zeros(leaves.shape, dtype=bool)
    covered[25:110, 30:100] = True
    dirty = [
        np.where(covered, image, rng.standard_normal(leaves.shape) + 1j * rng.standard_normal(leaves.shape))
        for image in (leaves, leaves)
    ]
    dirty[0][0, 0] = np.nan
    shifted = np.roll(ramped(dirty[0], (0.1, 0.2)), (2, -3), axis=(0, 1))
    found = compare_objects(shifted, dirty[1], covered=covered)
    assert found.shift_px == pytest.approx((2, -3), abs=1e-2)
    assert found.phase_correlation > 0.999 and found.n_pixels == covered.sum()
    either = compare_objects(shifted, dirty[1], a_covered=np.roll(covered, (2, -3), axis=(0, 1)))
    assert either.shift_px == pytest.approx((2, -3), abs=1e-2) and either.phase_correlation > 0.999


def test_arrays_of_other_size_are_laid_on_each_other_by_their_centres(leaves):
    cut = leaves[11:-11, 6:-6]
    assert compare_objects(cut, leaves, half=40).shift_px == pytest.approx((0, 0), abs=1e-2)
    aside = leaves[40:, 30:]  # centres differ by (20, 15): the scan positions say so
    x, y = np.array([50.0, 80.0]), np.array([60.0, 90.0])
    found = compare_objects(aside, leaves, a_positions=(x - 30, y - 40), b_positions=(x, y), half=25)
    assert found.shift_px == pytest.approx((0, 0), abs=1e-2) and found.phase_correlation > 0.9999
    same = compare_objects(aside, leaves, a_center=(10.0, 20.0), b_center=(50.0, 50.0), half=30)
    assert same.shift_px == pytest.approx((0, 0), abs=1e-2) and same.phase_correlation > 0.9999


def test_slopes_are_found_without_unwrapping():
    rng = np.random.default_rng(0)
    field = ramped(np.exp(0.6j * rng.standard_normal((70, 50))), (2.31, -1.77), 1.0)
    found = find_slopes(field, np.ones(field.shape))
    assert found == pytest.approx((2.31, -1.77), abs=3e-3)


# ---- what a figure means


def test_correlation_is_that_of_the_phases_without_plane():
    """Against a plain calculation, for objects that need neither shift nor unwrapping."""
    rng = np.random.default_rng(2)
    one, two = smooth_object(1), smooth_object(1)
    phase_one = np.angle(one) + 0.03 * rng.standard_normal(one.shape)
    found, images = compare_with_images(np.exp(1j * phase_one), two, half=40)
    rows, cols = np.indices((80, 80))
    design = np.stack([np.ones(6400), rows.ravel(), cols.ravel()], axis=1)
    cut = (slice(30, 110), slice(26, 106))
    flat = [
        p[cut].ravel() - design @ np.linalg.lstsq(design, p[cut].ravel(), rcond=None)[0]
        for p in (phase_one, np.angle(two))
    ]
    assert found.phase_correlation == pytest.approx(np.corrcoef(flat)[0, 1], abs=2e-3)
    assert found.contrast_ratio == pytest.approx(flat[0].std() / flat[1].std(), abs=5e-3)
    assert found.data_range == pytest.approx(np.ptp(flat[1]), rel=1e-6)
    assert found.psnr == pytest.approx(
        10 * np.log10(np.ptp(flat[1]) ** 2 / np.mean((flat[0] - flat[1]) ** 2)), abs=0.2
    )
    assert images.corner == (30, 26) and images.phase.shape == (80, 80)


def test_phase_range_beyond_a_turn():
    wide = smooth_object(4, phase=11.0)
    found = compare_objects(ramped(moved(wide, (1.3, 2.6)), (0.2, 0.1), 1.0), wide, half=45)
    assert found.phase_correlation > 0.999 and found.ssim > 0.99 and found.data_range > 2 * np.pi
    assert found.shift_px == pytest.approx((1.3, 2.6), abs=1e-2)
    rng = np.random.default_rng(0)
    for nonsense in (
        np.ones(wide.shape, complex),
        np.exp(2j * np.pi * rng.random(wide.shape)),
        smooth_object(5, phase=11.0),
    ):
        assert compare_objects(nonsense, wide, half=45).phase_correlation < 0.25
        assert compare_objects(nonsense, wide, half=45).ssim < 0.25


@pytest.mark.parametrize("phase", [0.2, 1.0, 5.0, 12.0])
@pytest.mark.parametrize(
    "make",
    [
        lambda obj: np.ones(obj.shape, complex),
        lambda obj: np.full(obj.shape, 0.8 * np.exp(0.4j)),
        lambda obj: ramped(np.ones(obj.shape, complex), (0.3, -0.2)),
        lambda obj: np.exp(1e-3j * np.angle(obj)),
    ],
    ids=["ones", "constant", "ramp", "a breath of contrast"],
)
def test_a_constant_image_fails_every_metric(phase, make):
    obj = smooth_object(1, phase=phase)
    for found in (compare_objects(make(obj), obj, half=45), compare_objects(obj, make(obj), half=45)):
        assert found.phase_correlation < 0.05 and found.ssim < 0.05
        assert (
            found.psnr == 0
            and found.flat
            and found.frc_crossing < 0.05
            and found.amplitude_correlation < 0.05
        )


def test_a_noisy_constant_and_another_object_get_no_good_figure(leaves):
    rng = np.random.default_rng(0)
    noise = 1 + 0.05 * (rng.standard_normal(leaves.shape) + 1j * rng.standard_normal(leaves.shape))
    other = make_object("dead_leaves", leaves.shape, 4, smooth=0.8)
    for image in (noise, other):
        found = compare_objects(image, leaves, half=45)
        assert abs(found.phase_correlation) < 0.3 and found.ssim < 0.3 and found.frc_crossing < 0.1
    conjugate = compare_objects(leaves.conj(), leaves, half=45)
    assert conjugate.phase_correlation < 0.3


def test_comparison_is_plain_json(leaves):
    for image in (leaves, np.ones_like(leaves)):
        text = json.dumps(compare_objects(image, leaves, half=45).to_dict(), allow_nan=False)
        assert set(json.loads(text)) >= {
            "phase_correlation",
            "ssim",
            "psnr",
            "frc_crossing",
            "shift_px",
            "registration_residual_px",
            "flat",
        }


def test_impossible_comparisons_are_refused(leaves):
    with pytest.raises(InputError, match="half"):
        compare_objects(leaves[:8, :8], leaves)
    with pytest.raises(InputError, match="complex 2-D"):
        compare_objects(np.abs(leaves), leaves)
    with pytest.raises(InputError, match="coverage"):
        compare_objects(leaves, leaves, covered=np.ones((3, 3), bool))
    with pytest.raises(InputError, match="region"):
        compare_objects(leaves, leaves, covered=np.zeros(leaves.shape, bool))


# ---- FRC, SSIM, PSNR


def test_frc_of_independent_noise_is_zero_and_of_equal_images_one():
    rng = np.random.default_rng(0)
    one, two = rng.standard_normal((2, 96, 80))
    noise = fourier_ring_correlation(one, two)
    assert np.abs(noise.correlation[5:]).max() < 0.4 and abs(noise.correlation[5:].mean()) < 0.05
    assert noise.crossing == 0 and noise.resolution_px == np.inf
    same = fourier_ring_correlation(one, one)
    assert np.allclose(same.correlation[1:], 1) and same.crossing == 0.5
    assert same.frequency[0] == 0 and same.frequency[-1] <= 0.5 and len(same.frequency) == 41


def test_frc_crossing_lies_where_the_signal_ends():
    """Two images that share only the frequencies below 0.2 cycles/px."""
    rng = np.random.default_rng(0)
    radius = np.hypot(np.fft.fftfreq(160)[:, None], np.fft.fftfreq(160)[None, :])
    signal, first, second = (np.fft.fft2(rng.standard_normal((160, 160))) for _ in range(3))
    images = [np.fft.ifft2(np.where(radius < 0.2, signal, noise)).real for noise in (first, second)]
    assert fourier_ring_correlation(*images).crossing == pytest.approx(0.2, abs=0.015)


def test_frc_follows_the_signal_to_noise_ratio():
    rng = np.random.default_rng(0)
    signal = rng.standard_normal((128, 128))
    images = [signal + 0.5 * rng.standard_normal(signal.shape) for _ in range(2)]
    assert fourier_ring_correlation(*images).correlation[8:].mean() == pytest.approx(1 / 1.25, abs=0.02)


def test_half_bit_threshold_known_values():
    from ptycho.metrics.frc import half_bit

    assert half_bit(np.array([1e12]))[0] == pytest.approx(0.17157, abs=1e-4)  # 0.2071 / 1.2071
    assert half_bit(np.array([100.0]))[0] == pytest.approx((0.2071 + 0.19102) / (1.2071 + 0.09102), rel=1e-9)


def test_ssim_and_psnr_over_a_region():
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    rng = np.random.default_rng(0)
    reference = np.angle(smooth_object(0))[:60, :64]
    image = reference + 0.05 * rng.standard_normal(reference.shape)
    everywhere = np.ones(reference.shape, dtype=bool)
    span = float(np.ptp(reference))
    assert ssim(image, reference, everywhere, span) == pytest.approx(
        structural_similarity(image, reference, data_range=span), abs=1e-9
    )
    assert psnr(image, reference, everywhere, span) == pytest.approx(
        peak_signal_noise_ratio(reference, image, data_range=span), abs=1e-9
    )
    part = everywhere.copy()
    part[:, 40:] = False
    spoiled = image.copy()
    spoiled[:, 40:] = 100.0
    assert ssim(spoiled, reference, part, span) == pytest.approx(
        ssim(image, reference, part, span), abs=1e-12
    )
    assert psnr(reference, reference, everywhere, span) == pytest.approx(PSNR_LIMIT)


# ---- deviance


@pytest.mark.parametrize(
    "rate, rounded",
    [
        (1e-4, None),
        (0.01, 0.09),
        (0.1, 0.47),
        (0.5, None),
        (1.0, None),
        (7.3, None),
        (60.0, 1.0),
        (900.0, 1.0),
        (2500.0, 1.0),
    ],
)
def test_expected_deviance_against_enumeration(rate, rounded):
    k = np.arange(0, int(rate + 15 * np.sqrt(rate) + 40))
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = 2 * (rate - k + np.where(k > 0, k * np.log(k / rate), 0))
    enumerated = np.sum(stats.poisson.pmf(k, rate) * terms)
    assert expected_deviance(np.full((2, 3), rate)) == pytest.approx(enumerated, rel=2e-4)
    if rounded is not None:
        assert enumerated == pytest.approx(rounded, abs=5e-3)


def test_deviance_of_poisson_counts_is_as_expected():
    rng = np.random.default_rng(0)
    rate = np.exp(rng.uniform(np.log(1e-3), np.log(300), (6, 64, 64)))
    counts = rng.poisson(rate).astype(np.uint16)
    good = rng.random((64, 64)) > 0.2
    assert poisson_deviance(rate, counts, good) == pytest.approx(expected_deviance(rate, good), abs=0.03)
    assert poisson_deviance(1.3 * rate, counts) > 1.5 * expected_deviance(1.3 * rate)
    spoiled = np.where(good, counts, 60000)
    assert poisson_deviance(rate, spoiled, good) == poisson_deviance(rate, counts, good)


@pytest.mark.parametrize("size", [0.01, 0.3, 1.0, 3.0, 30.0, 300.0])
def test_the_size_of_bunches_is_found_from_the_deviance(size):
    """Counts drawn in bunches, at rates far below one bunch and far above."""
    rng = np.random.default_rng(3)
    rate = rng.lognormal(0, 3, (32, 64, 64))
    counts = size * rng.poisson(rate / size)
    assert bunch_size(poisson_deviance(rate, counts), rate) == pytest.approx(size, rel=0.05)


def test_bunches_have_bounds():
    assert bunch_size(1e-30, np.ones(9)) == pytest.approx(1e-9) and bunch_size(1e30, np.ones(9)) == pytest.approx(1e9)


def test_deviance_bounds_and_errors():
    counts = np.arange(12).reshape(3, 4)
    assert poisson_deviance(counts, counts) == pytest.approx(0, abs=1e-6)
    assert np.isfinite(poisson_deviance(np.zeros((3, 4)), counts))
    with pytest.raises(InputError, match="shape"):
        poisson_deviance(np.ones((3, 3)), counts)
    with pytest.raises(InputError, match="mask"):
        poisson_deviance(np.ones((3, 4)), counts, np.zeros((3, 4), bool))
    with pytest.raises(InputError, match="negative"):
        poisson_deviance(-np.ones((3, 4)), counts)


# ---- coverage and the real scan


def test_illuminated_coverage_of_a_beam_with_holes(rng):
    probe, starts = rng.normal(size=(3, 12, 12)), rng.integers(0, 30, (50, 2))
    intensity = (probe**2).sum(axis=0)
    expected = np.zeros((41, 44), dtype=int)
    for row, col in starts.tolist():
        expected[row : row + 12, col : col + 12] += intensity > 0.1 * intensity.max()
    assert np.array_equal(illuminated_coverage(probe, starts, (41, 44)), expected)


def test_illuminated_coverage_counts_frames_that_light_a_pixel():
    probe = np.zeros((2, 8, 8), complex)
    probe[0, 2:5, 3], probe[1, 6, 6] = 1.0, 0.9
    probe[0, 0, 0] = 0.1  # 1 % of the brightest: dark
    starts = np.array([[0, 0], [0, 0], [5, 9], [12, 12]])
    expected = np.zeros((20, 20), dtype=int)
    for row, col in starts:
        expected[row + 2 : row + 5, col + 3] += 1
        expected[row + 6, col + 6] += 1
    assert np.array_equal(illuminated_coverage(probe, starts, (20, 20)), expected)
    with pytest.raises(InputError, match="beyond"):
        illuminated_coverage(probe, starts + 1, (20, 20))


@pytest.mark.skipif("SIEMENS_STAR_DIR" not in os.environ, reason="SIEMENS_STAR_DIR is not set")
def test_reference_reconstructions_of_the_real_scan_agree():
    folder = Path(os.environ["SIEMENS_STAR_DIR"])
    coarse, fine = (np.load(folder / f"lsqml_200_n{n}.npz", allow_pickle=False)["object"] for n in (64, 128))
    spectrum = np.fft.fftshift(np.fft.fft2(fine))
    rows, cols = (side // 2 for side in fine.shape)
    top, left = rows - rows // 2, cols - cols // 2
    halved = np.fft.ifft2(np.fft.ifftshift(spectrum[top : top + rows, left : left + cols]))
    assert compare_objects(halved, coarse, half=62).phase_correlation > 0.98
    itself = compare_objects(ramped(moved(coarse, (3.4, -2.7)), (0.2, -0.13)), coarse, half=62)
    assert itself.phase_correlation > 0.999 and itself.shift_px == pytest.approx((3.4, -2.7), abs=1e-2)
    assert compare_objects(np.ones_like(coarse), coarse, half=62).flat
