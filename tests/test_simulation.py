"""Simulation: objects, probes, scans, and the counts of a scan against an independent transform."""

from __future__ import annotations

import imageio.v3 as imageio
import numpy as np
import pytest

from ptycho import diffsim
from ptycho.errors import InputError, MissingFileError
from ptycho.simulation.objects import OBJECTS
from ptycho.simulation.probes import PROBES
from ptycho.simulation.scans import SCANS

N = 16


def small_scan(**changes):
    settings = {"counts_per_frame": 2e4, "seed": 5} | changes
    obj = diffsim.make_object("dead_leaves", (48, 44), 1, radius=(2.0, 8.0))
    probe = diffsim.make_probe("gaussian", N, curvature=2.0, mode_powers=(0.7, 0.3))
    x, y = diffsim.make_scan("fermat", 30, 2.3)
    return diffsim.simulate_scan(obj, probe, *diffsim.on_object(x, y, obj.shape), **settings)


# ---- objects


@pytest.mark.parametrize("name", sorted(set(OBJECTS) - {"file"}))
def test_objects_keep_their_ranges_and_their_seed(name):
    made = diffsim.make_object(name, (60, 72), 3, amplitude_range=(0.6, 0.9), phase_range=(-0.4, 0.8))
    assert made.shape == (60, 72) and made.dtype == np.complex64
    assert 0.6 - 1e-5 <= np.abs(made).min() and np.abs(made).max() <= 0.9 + 1e-5
    assert -0.4 - 1e-5 <= np.angle(made).min() and np.angle(made).max() <= 0.8 + 1e-5
    assert np.ptp(np.angle(made)) > 0.5 and np.angle(made).std() > 0.05
    again = diffsim.make_object(name, (60, 72), 3, amplitude_range=(0.6, 0.9), phase_range=(-0.4, 0.8))
    assert np.array_equal(made, again)
    other = diffsim.make_object(name, (60, 72), 4, amplitude_range=(0.6, 0.9), phase_range=(-0.4, 0.8))
    assert not np.array_equal(made, other)


def test_phase_range_may_exceed_a_turn():
    wide = diffsim.make_object("gaussian_random_field", 96, 0, phase_range=(0, 12.0), feature_size=20.0)
    steps = np.angle(wide[:, 1:] * wide[:, :-1].conj())  # smooth: the steps give the phase without wrapping
    assert np.ptp(np.cumsum(steps, axis=1)) > 2 * np.pi


def test_gaussian_random_field_has_the_stated_correlation_length():
    field = np.angle(diffsim.make_object("gaussian_random_field", 256, 0, feature_size=6.0))
    field = field - field.mean()
    lag = 6
    measured = np.mean(field[:, lag:] * field[:, :-lag]) / np.mean(field**2)
    # Filtering by exp(-(pi s q)^2) doubles in the power spectrum, so the correlation
    # is exp(-lag^2 / (2 s^2)).
    assert measured == pytest.approx(np.exp(-0.5), abs=0.06)


def test_object_from_image_file(tmp_path):
    grey = np.tile(np.linspace(0, 10, 32), (32, 1))
    np.save(tmp_path / "grey.npy", grey)
    made = diffsim.make_object("file", (32, 32), 0, path=tmp_path / "grey.npy", phase_range=(0, 1))
    assert np.allclose(np.angle(made), grey / 10, atol=1e-5)
    imageio.imwrite(tmp_path / "grey.png", (grey * 25).astype(np.uint8))
    from_png = diffsim.make_object("image", (64, 64), 0, path=tmp_path / "grey.png")
    assert np.corrcoef(np.angle(from_png)[::2, ::2].ravel(), grey.ravel())[0, 1] > 0.999
    with pytest.raises(MissingFileError, match="does not exist"):
        diffsim.make_object("file", 32, 0, path=tmp_path / "none.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="cannot be read"):
        diffsim.make_object("file", 32, 0, path=tmp_path / "broken.png")


def test_unknown_names_list_the_valid_ones():
    with pytest.raises(InputError, match="dead_leaves.*siemens_star"):
        diffsim.make_object("leafs", 32, 0)
    with pytest.raises(InputError, match="disk.*zone_plate"):
        diffsim.make_probe("square", 32)
    with pytest.raises(InputError, match="fermat.*raster"):
        diffsim.make_scan("spiral", 10, 1.0)
    with pytest.raises(InputError, match="does not take"):
        diffsim.make_object("lines", 32, 0, raduis=3)
    with pytest.raises(InputError, match="defocus"):
        diffsim.make_probe("zone_plate", 64, defcous=3.0)


# ---- probes


@pytest.mark.parametrize("name", sorted(set(PROBES) - {"file"}))
def test_probes_have_unit_power_and_lie_inside_the_frame(name):
    probe = diffsim.make_probe(name, 64)
    assert probe.shape == (1, 64, 64) and probe.dtype == np.complex64
    intensity = np.abs(probe[0]) ** 2
    assert intensity.sum() == pytest.approx(1, rel=1e-5)
    rows, cols = np.indices((64, 64))
    assert (intensity * rows).sum() == pytest.approx(32, abs=0.05)
    assert (intensity * cols).sum() == pytest.approx(32, abs=0.05)
    assert intensity[8:-8, 8:-8].sum() > 0.99
    assert 15 < diffsim.probe_diameter(probe) < 35


def test_default_zone_plate_is_a_ring_of_useful_size():
    probe = diffsim.make_probe("zone_plate", 64)[0]
    assert 20 < diffsim.probe_diameter(probe) < 30
    amplitude = np.abs(probe)
    assert amplitude[32, 22:28].max() > 1.5 * amplitude[32, 32]
    far = np.abs(np.fft.fftshift(np.fft.fft2(probe)))
    assert far[32, 32] < 1e-3 * far.max() and far[0].max() < 1e-3 * far.max()


def test_defocus_can_be_made_wrong_by_a_fraction():
    optics = diffsim.ZonePlate()
    wrong = optics.with_defocus_error(0.1)
    assert wrong.defocus == pytest.approx(1.1 * optics.defocus)
    true, guess = (diffsim.make_probe("zone_plate", 64, optics=o)[0] for o in (optics, wrong))
    # Only the phase of the far field differs, by pi * (change of defocus) * q^2.
    far = [np.fft.fft2(np.fft.ifftshift(field)) for field in (true, guess)]
    q = np.fft.fftfreq(64)
    expected = -np.pi * 0.1 * optics.defocus * (q[:, None] ** 2 + q[None, :] ** 2)
    bright = np.abs(far[0]) > 0.1 * np.abs(far[0]).max()
    found = np.angle(far[1] * far[0].conj())[bright]
    assert np.allclose(np.exp(1j * (found - expected[bright])), 1, atol=1e-3)
    assert 0.85 < abs(np.vdot(true, guess)) < 0.98


def test_zone_plate_from_si_units():
    optics = diffsim.ZonePlate.from_si(
        photon_energy_ev=8800.0, outermost_zone_width_m=50e-9, pixel_size_m=30e-9, defocus_m=300e-6
    )
    assert optics.outer_frequency == pytest.approx(0.3)
    wavelength = 12.39841984 / 8.8 * 1e-10
    assert optics.defocus == pytest.approx(wavelength * 300e-6 / 30e-9**2, rel=1e-6)
    # The geometric spot: 2 * NA * defocus / pixel.
    assert 2 * optics.outer_frequency * optics.defocus == pytest.approx(
        wavelength / 50e-9 * 300e-6 / 30e-9, rel=1e-6
    )
    with pytest.raises(InputError, match="does not fit"):
        diffsim.make_probe("zone_plate", 64, defocus=120.0)


def test_modes_are_orthogonal_with_the_stated_powers():
    probe = diffsim.make_probe("zone_plate", 64, mode_powers=(6, 3, 1))
    gram = np.einsum("aij,bij->ab", probe, probe.conj())
    assert np.allclose(gram, np.diag([0.6, 0.3, 0.1]), atol=1e-5)
    alone = diffsim.make_probe("zone_plate", 64)[0]
    assert abs(np.vdot(alone, probe[0])) ** 2 == pytest.approx(0.6, rel=1e-4)


def test_probe_from_file(tmp_path):
    probe = diffsim.make_probe("gaussian", N, mode_powers=(0.8, 0.2))
    np.savez(tmp_path / "p.npz", probeGuess=3 * probe)
    np.save(tmp_path / "p.npy", probe[0][..., None])
    assert np.allclose(diffsim.make_probe("file", N, path=tmp_path / "p.npz"), probe, atol=1e-6)
    assert diffsim.make_probe("file", N, path=tmp_path / "p.npy").shape == (1, N, N)
    with pytest.raises(InputError, match=r"expected \(32, 32\)"):
        diffsim.make_probe("file", 32, path=tmp_path / "p.npz")
    with pytest.raises(InputError, match="keys"):
        diffsim.make_probe("file", N, path=tmp_path / "p.npz", key="psi")


# ---- scans


@pytest.mark.parametrize("name", sorted(SCANS))
@pytest.mark.parametrize("count", [1, 7, 300])
def test_scans_are_centred_and_reproducible(name, count):
    x, y = diffsim.make_scan(name, count, 3.5, seed=2)
    assert x.shape == y.shape == (count,) and x.dtype == y.dtype == np.float64
    assert x.min() + x.max() == pytest.approx(0, abs=1e-9) and y.min() + y.max() == pytest.approx(0, abs=1e-9)
    again = diffsim.make_scan(name, count, 3.5, seed=2)
    assert np.array_equal(x, again[0]) and np.array_equal(y, again[1])


def brute_force_nearest(x, y):
    distance = np.hypot(x[:, None] - x, y[:, None] - y)
    np.fill_diagonal(distance, np.inf)
    return distance.min(axis=1)


def test_spacing_of_scans():
    fermat = brute_force_nearest(*diffsim.make_scan("fermat", 400, 3.5))
    assert fermat.min() == pytest.approx(3.5, rel=1e-9) and np.median(fermat) < 1.2 * 3.5
    assert brute_force_nearest(*diffsim.make_scan("random", 400, 3.5, seed=1)).min() >= 3.5
    grid = brute_force_nearest(*diffsim.make_scan("raster", 400, 3.5, jitter=0.0))
    assert np.allclose(grid, 3.5)
    jittered = brute_force_nearest(*diffsim.make_scan("raster", 400, 3.5, jitter=0.2, seed=1))
    assert 0.6 * 3.5 <= jittered.min() < jittered.max()
    with pytest.raises(InputError, match="spread"):
        diffsim.make_scan("random", 400, 3.5, spread=0.8)


# ---- the detector


def slow_rate(obj, modes, x, y):
    """The rate of one frame from the definition: explicit sums, no FFT, shift by Dirichlet interpolation."""
    n = modes.shape[-1]
    index = np.arange(n)
    k = np.arange(n) - n // 2
    start = np.array([y - (n - 1) / 2, x - (n - 1) / 2])
    corner = np.rint(start).astype(int)
    rest = start - corner
    total = np.zeros((n, n))
    # dft[a, j] = exp(-2 pi i (a - n/2)(j - n/2) / n) / sqrt(n): zero frequency and origin both at n // 2
    dft = np.exp(-2j * np.pi * np.outer(k, k) / n) / np.sqrt(n)
    for mode in modes.astype(complex):
        moved = mode
        for axis in (0, 1):
            kernel = np.array(
                [
                    [np.sum(np.exp(2j * np.pi * k * (i - j - rest[axis]) / n)) / n for j in index]
                    for i in index
                ]
            )
            moved = kernel @ moved if axis == 0 else moved @ kernel.T
        wave = np.empty((n, n), complex)
        for i in range(n):
            for j in range(n):
                wave[i, j] = moved[i, j] * obj[corner[0] + i, corner[1] + j]
        total += np.abs(dft @ wave @ dft.T) ** 2
    return total


def test_rates_agree_with_explicit_sums_including_the_subpixel_shift():
    scan = small_scan(poisson=False)
    frames = scan.counts()
    for frame in (0, 7, 29):
        expected = slow_rate(scan.object_truth, scan.probe_truth, scan.xcoords[frame], scan.ycoords[frame])
        assert np.allclose(frames[frame], expected, rtol=1e-4, atol=1e-4 * expected.max())
    fractions = (scan.xcoords - (N - 1) / 2) % 1
    assert np.ptp(fractions) > 0.5  # the frames looked at do have sub-pixel parts


def test_a_bright_object_pixel_is_found_where_the_position_says():
    """Row and column, sign and half pixel: only frames whose patch contains the pixel see it."""
    obj = np.full((40, 50), 1e-6, dtype=complex)
    obj[11, 31] = 1.0
    probe = np.ones((1, 8, 8))
    x, y = np.meshgrid(np.arange(3.5, 46), np.arange(3.5, 36))
    power = diffsim.diffraction_rates(obj, probe, x.ravel(), y.ravel()).sum(axis=(1, 2)).reshape(x.shape)
    seen = (np.abs(y - 11) <= 3.5) & (np.abs(x - 31) <= 3.5)
    assert np.array_equal(power > 0.5, seen)


def test_modes_add_in_intensity():
    obj = diffsim.make_object("lines", 40, 0)
    probe = diffsim.make_probe("gaussian", N, mode_powers=(0.6, 0.4)).astype(complex)
    x, y = np.array([19.3, 20.0]), np.array([18.8, 21.4])
    both = diffsim.diffraction_rates(obj, probe, x, y)
    parts = sum(diffsim.diffraction_rates(obj, mode, x, y) for mode in probe)
    assert np.allclose(both, parts)


def test_counts_follow_the_stated_dose_and_poisson_statistics():
    scan, rates = small_scan(seed=9), small_scan(seed=9, poisson=False)
    assert scan.diff3d.dtype == np.uint16 and rates.diff3d.dtype == np.float32
    assert scan.measurement_domain == "intensity" and rates.measurement_domain == "intensity"
    assert rates.counts().sum(axis=(1, 2)).mean() == pytest.approx(2e4, rel=1e-5)
    assert scan.counts().sum(axis=(1, 2)).mean() == pytest.approx(2e4, abs=5 * np.sqrt(2e4 / 30))
    rate = rates.counts().astype(float)
    bright = rate > 5
    pulls = (scan.counts()[bright] - rate[bright]) / np.sqrt(rate[bright])
    assert pulls.mean() == pytest.approx(0, abs=5 / np.sqrt(pulls.size))
    assert pulls.var() == pytest.approx(1, abs=0.1)
    # The probe that goes with the scan is the one that makes these rates, scaled as it stands.
    again = diffsim.diffraction_rates(scan.object_truth, scan.probe_truth, scan.xcoords, scan.ycoords)
    assert np.allclose(again, rate, rtol=1e-3, atol=1e-3)
    assert np.sum(np.abs(scan.probe_truth) ** 2) > 2e4  # the object absorbs


def test_many_counts_are_stored_in_a_wider_type():
    assert small_scan(counts_per_frame=1e8).diff3d.dtype == np.uint32


def test_absolute_probe_is_not_rescaled():
    obj = np.ones((32, 32), complex)
    probe = 30 * diffsim.make_probe("gaussian", N)
    scan = diffsim.simulate_scan(obj, probe, np.array([15.5]), np.array([15.5]), None, seed=0, poisson=False)
    assert scan.counts().sum() == pytest.approx(900, rel=1e-4)
    assert np.array_equal(scan.probe_truth, probe)


def test_seed_decides_and_the_global_generator_is_left_alone():
    before = np.random.get_state()[1].copy()
    one, two, other = small_scan(seed=1), small_scan(seed=1), small_scan(seed=2)
    assert np.array_equal(one.diff3d, two.diff3d) and not np.array_equal(one.diff3d, other.diff3d)
    assert np.array_equal(before, np.random.get_state()[1])


def test_counts_do_not_depend_on_the_size_of_the_chunks(monkeypatch):
    whole = small_scan(seed=1).diff3d
    monkeypatch.setattr(diffsim, "_CHUNK_PIXELS", 1500)
    assert np.array_equal(whole, small_scan(seed=1).diff3d)


def test_bad_input_is_refused_with_a_remedy():
    obj, probe = np.ones((32, 32), complex), diffsim.make_probe("disk", N)
    inside, outside = np.array([15.5]), np.array([2.0])
    with pytest.raises(InputError, match="on_object"):
        diffsim.simulate_scan(obj, probe, outside, inside, 1e3, seed=0)
    with pytest.raises(InputError, match="zero or not finite"):
        diffsim.simulate_scan(obj, 0 * probe, inside, inside, 1e3, seed=0)
    with pytest.raises(InputError, match="counts_per_frame"):
        diffsim.simulate_scan(obj, probe, inside, inside, -1, seed=0)
    with pytest.raises(InputError):
        diffsim.simulate_scan(obj, probe, inside, np.array([15.5, 16.0]), 1e3, seed=0)
    with pytest.raises(InputError):
        diffsim.simulate_scan(obj, probe, inside, np.array([np.nan]), 1e3, seed=0)


def test_demo_scan_is_what_the_demo_states():
    scan = diffsim.simulate_demo_scan(1)
    assert scan.diff3d.shape == (600, 64, 64)
    assert scan.mean_counts_per_frame() == pytest.approx(1e5, rel=1e-3)
    spacing = brute_force_nearest(scan.xcoords, scan.ycoords).min()
    assert spacing >= 0.15 * diffsim.probe_diameter(scan.probe_truth)
    assert np.sum(np.abs(scan.probe) ** 2) == pytest.approx(np.sum(np.abs(scan.probe_truth) ** 2), rel=1e-4)
    overlap = abs(np.vdot(scan.probe, scan.probe_truth)) / np.sum(np.abs(scan.probe) ** 2)
    assert 0.85 < overlap < 0.98
    height, width = scan.object_truth.shape
    assert scan.xcoords.min() >= 31.5 and scan.xcoords.max() <= width - 1 - 31.5
    assert scan.ycoords.min() >= 31.5 and scan.ycoords.max() <= height - 1 - 31.5
    other = diffsim.simulate_demo_scan(2)
    assert not np.array_equal(other.object_truth, scan.object_truth)
    assert np.allclose(other.xcoords, scan.xcoords) and not np.array_equal(other.diff3d, scan.diff3d)
