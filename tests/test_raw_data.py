"""RawData: counts, domains, parts of a scan, cropping (against analytic objects), legacy dictionaries."""

import os
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from ptycho import params
from ptycho.cropping import crop_frames, crop_object, crop_patches, crop_probe
from ptycho.errors import InputError
from ptycho.raw_data import (
    RawData,
    get_image_patches,
    get_neighbor_indices,
    get_relative_coords,
    normalize_data,
)


def make(arrays, **changes):
    return RawData(**{**arrays, **changes})


# ---- basics


def test_attributes_and_properties(scan_arrays):
    raw = make(scan_arrays)
    assert (raw.n_frames, raw.N) == (12, 16)
    assert raw.diff3d.dtype == np.uint16  # the source dtype is kept
    assert raw.probe.shape == (1, 16, 16) and raw.probe.dtype == np.complex64
    assert raw.probeGuess.shape == (16, 16)  # as given
    np.testing.assert_array_equal(raw.xcoords_start, raw.xcoords)
    assert raw.good_pixels.all() and raw.good_pixels.shape == (16, 16)
    assert "12 frames of 16 x 16 (uint16)" in str(raw)


def test_from_coords_without_pc_takes_ptychodus_arrays(scan_arrays):
    raw = RawData.from_coords_without_pc(
        xcoords=scan_arrays["xcoords"],
        ycoords=scan_arrays["ycoords"],
        diff3d=scan_arrays["diff3d"].astype(np.int32),
        probeGuess=np.ones((3, 16, 16), dtype=np.complex128),
        scan_index=np.zeros(12, dtype=np.int64),
        objectGuess=np.ones((60, 60), dtype=np.complex128),
    )
    assert raw.probe.shape == (3, 16, 16)
    assert raw.measurement_domain == "intensity"


def test_positions_in_metres_are_noticed(scan_arrays, caplog):
    make(scan_arrays, xcoords=scan_arrays["xcoords"] * 1e-8, ycoords=scan_arrays["ycoords"] * 1e-8)
    assert "metres" in caplog.text


# ---- domain and counts


def test_integers_are_counts_and_do_not_wrap(scan_arrays):
    frames = scan_arrays["diff3d"].copy()
    frames[0, 0, 0] = 60_000
    raw = make(scan_arrays, diff3d=frames)
    assert raw.measurement_domain == "intensity" and "integer" in raw.domain_reason
    counts = raw.counts()
    assert counts.dtype == np.float32
    np.testing.assert_array_equal(counts, frames.astype(float))
    stated = make(scan_arrays, diff3d=frames, measurement_domain="amplitude")
    assert stated.counts([0])[0, 0, 0] == pytest.approx(3.6e9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_square_roots_of_counts_are_recognised(scan_arrays, dtype):
    counts = scan_arrays["diff3d"].astype(dtype) * 37
    raw = make(scan_arrays, diff3d=np.sqrt(counts))
    assert raw.measurement_domain == "amplitude"
    np.testing.assert_allclose(raw.counts(), counts, rtol=1e-5)


def test_whole_floats_are_counts(scan_arrays):
    raw = make(scan_arrays, diff3d=scan_arrays["diff3d"].astype(np.float32))
    assert raw.measurement_domain == "intensity" and "whole" in raw.domain_reason


def test_marks_of_ptychodus_settle_fractional_floats(scan_arrays, rng):
    frames = rng.uniform(0, 50, (12, 16, 16)).astype(np.float32)
    with_mask = make(scan_arrays, diff3d=frames, bad_pixels=np.zeros((16, 16), dtype=bool))
    assert with_mask.measurement_domain == "intensity" and "bad_pixels" in with_mask.domain_reason
    with_modes = make(scan_arrays, diff3d=frames, probeGuess=np.ones((2, 16, 16)))
    assert with_modes.measurement_domain == "intensity"
    legacy_axis = make(scan_arrays, diff3d=frames, probeGuess=np.ones((16, 16, 1)))
    with pytest.raises(InputError, match="measurement_domain='intensity'"):
        _ = legacy_axis.measurement_domain


def test_contradicting_evidence_is_an_error(scan_arrays):
    raw = make(scan_arrays, diff3d=np.sqrt(scan_arrays["diff3d"]), bad_pixels=np.zeros((16, 16), dtype=bool))
    with pytest.raises(InputError, match="unclear"):
        raw.counts()


@pytest.mark.parametrize("factor", [1e-3, 0.37])
def test_scaled_amplitudes_are_never_guessed(scan_arrays, factor):
    raw = make(scan_arrays, diff3d=np.sqrt(scan_arrays["diff3d"]) * factor)
    with pytest.raises(InputError, match="normalized_amplitude"):
        raw.counts()


def test_normalized_amplitude_gets_its_scale_from_nphotons(scan_arrays):
    counts = scan_arrays["diff3d"].astype(float)
    mask = np.zeros((16, 16), dtype=bool)
    mask[3, 4] = True
    good_mean = counts[:, ~mask].sum() / 12
    raw = make(
        scan_arrays,
        diff3d=np.sqrt(counts) * 0.01,
        bad_pixels=mask,
        measurement_domain="normalized_amplitude",
        nphotons=good_mean,
    )
    np.testing.assert_allclose(raw.counts()[:, ~mask], counts[:, ~mask], rtol=1e-4)
    assert raw.mean_counts_per_frame() == pytest.approx(good_mean, rel=1e-6)
    # A part of the scan keeps the factor of the whole.
    np.testing.assert_allclose(raw.subset([5, 2]).counts(), raw.counts([5, 2]), rtol=1e-6)
    np.testing.assert_allclose(raw.crop(8).counts(), raw.counts()[:, 4:12, 4:12], rtol=1e-6)
    missing = make(scan_arrays, diff3d=np.sqrt(counts), measurement_domain="normalized_amplitude")
    with pytest.raises(InputError, match="nphotons"):
        missing.counts()


def test_nphotons_comes_from_metadata_too(scan_arrays):
    raw = make(scan_arrays, metadata={"physics_parameters": {"nphotons": 5e8}})
    assert raw.nphotons == 5e8


def test_older_domain_names_are_understood(scan_arrays):
    assert make(scan_arrays, measurement_domain="count_intensity").measurement_domain == "intensity"
    with pytest.raises(InputError, match="'flux'"):
        make(scan_arrays, measurement_domain="flux")


def test_mean_counts_leave_bad_pixels_out(scan_arrays):
    mask = np.zeros((16, 16), dtype=bool)
    mask[:3] = True
    frames = scan_arrays["diff3d"].astype(np.float64)
    frames[:, 0] = -1
    frames[:, 1] = np.nan
    raw = make(scan_arrays, diff3d=frames, bad_pixels=mask)
    expected = sum(scan_arrays["diff3d"][i, 3:].sum() for i in range(12)) / 12
    assert raw.mean_counts_per_frame() == pytest.approx(expected)
    assert np.isnan(raw.counts()[:, 1]).all()  # bad pixels are left as they are


# ---- subset


def test_subset_keeps_everything_together(scan_arrays, rng):
    raw = make(scan_arrays, Y=rng.normal(size=(12, 16, 16)) + 0j)
    part = raw.subset([7, 3])
    again = part.subset(np.array([False, True]))
    for name in ("xcoords", "ycoords", "xcoords_start", "diff3d", "Y", "scan_index"):
        np.testing.assert_array_equal(getattr(part, name), getattr(raw, name)[[7, 3]])
    assert again.scan_index.tolist() == [3] and again.sample_indices.tolist() == [3]
    with pytest.raises(InputError, match="no frames"):
        raw.subset([])


def test_subset_does_not_decide_the_domain_anew(scan_arrays):
    frames = np.sqrt(scan_arrays["diff3d"]).astype(np.float32)
    frames[3] = 0
    assert make(scan_arrays, diff3d=frames).subset([3]).measurement_domain == "amplitude"


# ---- crop


def smooth_object(rows, cols, height, width):
    """An analytic object without high frequencies: Gaussians on vacuum, at real coordinates."""
    rng = np.random.default_rng(5)
    out = np.ones(np.broadcast_shapes(rows.shape, cols.shape), dtype=complex)
    for _ in range(25):
        height_of = 0.3 * (rng.standard_normal() + 1j * rng.standard_normal())
        row, col = rng.uniform(28, height - 29), rng.uniform(28, width - 29)
        out = out + height_of * np.exp(-((rows - row) ** 2 + (cols - col) ** 2) / (2 * 5.0**2))
    return out


CROPS = [(64, 32, 130, 141), (64, 48, 130, 140), (65, 33, 130, 140), (64, 33, 131, 140), (63, 32, 130, 140)]


@pytest.mark.parametrize(("N", "n", "height", "width"), CROPS)
def test_cropped_object_and_probe_give_the_cropped_diffraction(N, n, height, width):
    """The whole convention at once: positions times n/N, object values kept, far field unchanged."""
    image = smooth_object(np.arange(height)[:, None], np.arange(width)[None], height, width)
    offsets = np.arange(N) - N // 2
    r2 = offsets[:, None] ** 2 + 1.3 * offsets[None, :] ** 2
    probe = (np.exp(-r2 / (2 * (N / 9) ** 2)) * np.exp(0.002j * r2))[None]
    small_image, small_probe = crop_object(image, N, n), crop_probe(probe, n)
    assert small_image.shape == (int(np.ceil(height * n / N)), int(np.ceil(width * n / N)))

    def frame(field, p, obj_at, side):
        rows = p[0] - (side - 1) / 2 + np.arange(side)
        cols = p[1] - (side - 1) / 2 + np.arange(side)
        wave = np.fft.ifftshift(field * obj_at(rows[:, None], cols[None, :]))
        return np.abs(np.fft.fftshift(np.fft.fft2(wave, norm="ortho"))) ** 2

    def small_at(rows, cols):
        where = np.broadcast_arrays(rows, cols)
        return map_coordinates(small_image.real, where, order=5) + 1j * map_coordinates(
            small_image.imag, where, order=5
        )

    for p in ([height / 2 + 1.37, width / 2 - 2.21], [height / 2 - 7.5, width / 2 + 4.0]):
        p = np.array(p)
        full = frame(probe[0], p, lambda r, c: smooth_object(r, c, height, width), N)
        first = N // 2 - n // 2
        expected = full[first : first + n, first : first + n]
        assert expected.sum() > 0.999999 * full.sum()  # the case is band-limited
        found = frame(small_probe[0], p * n / N, small_at, n)
        np.testing.assert_allclose(found, expected, atol=1e-5 * expected.max())


def test_cropped_object_is_not_plain_decimation():
    """For even sides and N/n = 2 the new pixel u' is the old coordinate 2u' - 1/2 (see ptycho.cropping)."""
    image = smooth_object(np.arange(130.0)[:, None], np.arange(130.0)[None], 130, 130)
    found = crop_object(image, 64, 32)
    at = 2 * np.arange(65.0) - 0.5
    np.testing.assert_allclose(found, smooth_object(at[:, None], at[None], 130, 130), atol=1e-5)
    assert np.abs(found - image[::2, ::2]).max() > 0.01


def test_crop_of_constant_objects_and_of_nothing():
    np.testing.assert_allclose(crop_object(np.full((50, 41), 2 - 1j), 64, 24), 2 - 1j, atol=1e-6)
    image = smooth_object(np.arange(70.0)[:, None], np.arange(71.0)[None], 70, 71)
    np.testing.assert_allclose(crop_object(image, 64, 64), image, atol=1e-5)


def test_cropped_probe_keeps_its_far_field(rng):
    probe = rng.normal(size=(2, 20, 20)) + 1j * rng.normal(size=(2, 20, 20))

    def far(p):
        return np.fft.fftshift(
            np.fft.fft2(np.fft.ifftshift(p, axes=(1, 2)), axes=(1, 2), norm="ortho"), axes=(1, 2)
        )

    np.testing.assert_allclose(far(crop_probe(probe, 13)), far(probe)[:, 4:17, 4:17], atol=1e-5)


def test_crop_of_frames_keeps_the_zero_frequency():
    for N, n in ((16, 8), (16, 7), (15, 8), (15, 7)):
        frame = np.zeros((1, N, N))
        frame[0, N // 2, N // 2] = 1
        small = crop_frames(frame, n)
        assert small.shape == (1, n, n) and small[0, n // 2, n // 2] == 1


def test_crop_of_a_scan(scan_arrays):
    mask = np.zeros((16, 16), dtype=bool)
    mask[5, 9] = True
    raw = make(
        scan_arrays,
        bad_pixels=mask,
        pixel_size_m=1e-8,
        objectGuess=np.ones((60, 61), dtype=complex),
        object_truth=np.full((60, 61), 1j),
        probe_truth=np.ones((2, 16, 16)),
    )
    small = raw.crop(8)
    np.testing.assert_array_equal(small.diff3d, scan_arrays["diff3d"][:, 4:12, 4:12])
    np.testing.assert_array_equal(small.bad_pixels, mask[4:12, 4:12])
    np.testing.assert_allclose(small.xcoords, raw.xcoords / 2)
    np.testing.assert_allclose(small.ycoords_start, raw.ycoords_start / 2)
    assert small.pixel_size_m == pytest.approx(2e-8)
    assert small.objectGuess.shape == small.object_truth.shape == (30, 31)
    assert small.probe.shape == (1, 8, 8) and small.probe_truth.shape == (2, 8, 8)
    assert small.mean_counts_per_frame() < raw.mean_counts_per_frame()
    assert raw.N == 16 and raw.crop(16) is raw
    for wrong in (0, 17, 8.0):
        with pytest.raises(InputError, match="crop"):
            raw.crop(wrong)


def test_true_patches_are_cropped_like_the_probe():
    """A patch of the object around a position, cropped, is the patch of the cropped object there."""
    N, n, side = 64, 32, 150
    image = smooth_object(np.arange(side)[:, None], np.arange(side)[None], side, side)
    p = np.array([75.25, 71.75])
    at = [v - (N - 1) / 2 + np.arange(N) for v in p]
    patch = smooth_object(at[0][:, None], at[1][None], side, side)
    small = crop_patches(patch[None], n)[0]
    small_image = crop_object(image, N, n)
    where = np.meshgrid(*(v * n / N - (n - 1) / 2 + np.arange(n) for v in p), indexing="ij")
    expected = map_coordinates(small_image.real, where, order=5) + 1j * map_coordinates(
        small_image.imag, where, order=5
    )
    np.testing.assert_allclose(small[6:-6, 6:-6], expected[6:-6, 6:-6], atol=0.02)


# ---- legacy dictionaries


def test_grouped_data_has_the_legacy_shapes(scan_arrays):
    raw = make(scan_arrays, objectGuess=np.ones((70, 70), dtype=complex))
    params.cfg["gridsize"] = 2
    grouped = raw.generate_grouped_data(16, K=6, nsamples=5, seed=4)
    groups = grouped["nn_indices"]
    assert grouped["diffraction"].shape == (5, 16, 16, 4) and grouped["diffraction"].dtype == np.uint16
    assert grouped["X_full"].shape == (5, 16, 16, 4) and grouped["X_full"].dtype == np.float32
    assert grouped["Y"].shape == (5, 16, 16, 4) and grouped["Y"].dtype == np.complex64
    assert grouped["coords_offsets"].shape == (5, 1, 2, 1)
    assert grouped["coords_relative"].shape == grouped["coords_nn"].shape == (5, 1, 2, 4)
    for b in range(5):
        for c in range(4):
            frame = groups[b, c]
            np.testing.assert_array_equal(grouped["diffraction"][b, :, :, c], scan_arrays["diff3d"][frame])
            assert grouped["coords_nn"][b, 0, 0, c] == raw.xcoords[frame]
            assert grouped["coords_nn"][b, 0, 1, c] == raw.ycoords[frame]
    mean = np.mean([raw.xcoords[f] for f in groups[0]])
    assert grouped["coords_offsets"][0, 0, 0, 0] == pytest.approx(mean)
    # relative = offset - position, the sign of the reference
    assert grouped["coords_relative"][0, 0, 0, 1] == pytest.approx(mean - raw.xcoords[groups[0, 1]])


def test_counts_are_normalised_as_amplitudes(scan_arrays):
    raw = make(scan_arrays)
    from_counts = raw.generate_grouped_data(16, nsamples=12, gridsize=1)["X_full"]
    amplitudes = make(scan_arrays, diff3d=np.sqrt(scan_arrays["diff3d"].astype(np.float32)))
    from_amplitudes = amplitudes.generate_grouped_data(16, nsamples=12, gridsize=1)["X_full"]
    np.testing.assert_allclose(from_counts, from_amplitudes, rtol=1e-5)
    energy = [float((frame.astype(float) ** 2).sum()) for frame in from_counts[..., 0]]
    assert np.mean(energy) == pytest.approx(64.0, rel=1e-5)  # (N/2)**2


def test_undecidable_frames_are_grouped_as_amplitudes(scan_arrays, rng, caplog):
    frames = rng.random((12, 16, 16)).astype(np.float32)
    raw = make(scan_arrays, diff3d=frames)
    grouped = raw.generate_grouped_data(16, K=4, nsamples=3, gridsize=2, seed=0)
    ratio = grouped["X_full"] / grouped["diffraction"]
    np.testing.assert_allclose(ratio, ratio.flat[0], rtol=1e-5)
    assert "as amplitudes" in caplog.text


def test_normalize_data_does_not_wrap():
    frames = np.full((2, 4, 4, 1), 60_000, dtype=np.uint16)
    out = normalize_data({"diffraction": frames}, 4)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, 0.5)  # 16 equal pixels of energy 4 in all


def test_grouping_refuses_another_N(scan_arrays):
    with pytest.raises(InputError, match=r"16 x 16.*64 x 64"):
        make(scan_arrays).generate_grouped_data(64, gridsize=1)


def test_legacy_helpers(scan_arrays):
    x, y = scan_arrays["xcoords"], scan_arrays["ycoords"]
    near = get_neighbor_indices(x, y, K=3)
    assert near.shape == (12, 4) and (near[:, 0] == np.arange(12)).all()
    coords = np.stack([x[near], y[near]], axis=1)[:, None]
    offsets, relative = get_relative_coords(coords)
    np.testing.assert_allclose(offsets - relative, coords)
    ramp = np.arange(80)[:, None] * 1.0 + 1j * np.arange(90)[None, :]
    patches = get_image_patches(ramp, offsets, relative, 8, 2)
    assert patches.shape == (12, 8, 8, 4)
    # On a linear ramp bilinear interpolation is exact: value = row + i col at position - (N-1)/2 + index.
    rows = y[near[5, 2]] - 3.5 + np.arange(8)
    cols = x[near[5, 2]] - 3.5 + np.arange(8)
    np.testing.assert_allclose(patches[5, :, :, 2], rows[:, None] + 1j * cols[None, :], rtol=1e-5)


def test_groups_efficiently_is_capped(scan_arrays):
    groups = make(scan_arrays)._generate_groups_efficiently(500, 6, 4, seed=1)
    assert groups.shape == (12, 4) and groups.dtype == np.int32


# ---- a real scan


@pytest.mark.skipif("SIEMENS_STAR_DIR" not in os.environ, reason="SIEMENS_STAR_DIR is not set")
def test_real_scan_loads_and_crops():
    raw = RawData.from_file(Path(os.environ["SIEMENS_STAR_DIR"]) / "scan.npz")
    assert raw.measurement_domain == "intensity"
    assert raw.mean_counts_per_frame() == pytest.approx(4.6e5, rel=0.01)
    small = raw.crop(64)
    with np.load(Path(os.environ["SIEMENS_STAR_DIR"]) / "lsqml_200_n64.npz") as reference:
        for mine, theirs in ((small.xcoords, reference["xcoords"]), (small.ycoords, reference["ycoords"])):
            np.testing.assert_allclose(mine - mine.mean(), theirs - theirs.mean(), atol=1e-4)
