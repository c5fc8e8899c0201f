"""Two halves of a scan: the split, which frames are scored, the ring correlation of two objects, the figures."""

import numpy as np
import pytest
from runs import small_scan

from ptycho.diffsim import make_probe, make_scan
from ptycho.errors import InputError
from ptycho.geometry import canvas_for, placements
from ptycho.halves import (
    LIT_SHARE,
    Halves,
    HalvesFigures,
    agreement,
    check_enough_frames,
    frames_to_score,
    light_on,
    middle_of_scan,
    split_in_halves,
)
from ptycho.metrics.frc import half_bit
from ptycho.placed import lit_frames


def raster(side):
    x, y = np.meshgrid(4.0 * np.arange(side), 4.0 * np.arange(side))
    return x.ravel(), y.ravel()


SCANS = {"fermat": make_scan("fermat", 201, 4.0), "raster": raster(14), "line": (np.arange(40.0), np.zeros(40))}


# ---------------------------------------------------------------------- the split


@pytest.mark.parametrize("name", SCANS)
def test_every_frame_is_in_one_half(name):
    x, y = SCANS[name]
    halves = split_in_halves(x, y)
    assert sorted(np.concatenate(halves).tolist()) == list(range(len(x)))
    assert abs(len(halves[0]) - len(halves[1])) == len(x) % 2
    for half in halves:
        assert (np.diff(half) > 0).all()


@pytest.mark.parametrize("name", ["fermat", "raster"])
def test_both_halves_cover_the_field(name):
    x, y = SCANS[name]
    probe = make_probe("gaussian", 32, fwhm=12.0)
    canvas = canvas_for(x, y, 32)
    whole = lit_frames(probe, x, y, canvas) >= 2
    for half in split_in_halves(x, y):
        # the bound: what falls out is the rim, and a hole here and there
        assert (lit_frames(probe, x[half], y[half], canvas) > 0)[whole].mean() > 0.97
        assert abs(x[half].mean() - x.mean()) < 2 and abs(y[half].mean() - y.mean()) < 2


def test_the_split_follows_its_seed():
    x, y = SCANS["fermat"]
    first, again, other = (split_in_halves(x, y, seed)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert len(np.intersect1d(first, other)) < 0.8 * len(first)


def test_no_row_of_a_raster_goes_to_one_half():
    """A split by turns would send every other row, or column, to one half."""
    side = 14
    mine = np.zeros(side * side, bool)
    mine[split_in_halves(*raster(side))[0]] = True
    for lines in (mine.reshape(side, side), mine.reshape(side, side).T):
        assert (lines.sum(axis=1) > 0).all() and (lines.sum(axis=1) < side).all()


@pytest.mark.parametrize(("n", "group", "least"), [(7, 1, 8), (0, 1, 8), (17, 9, 18), (31, 16, 32)])
def test_too_few_frames_are_refused(n, group, least):
    with pytest.raises(InputError, match=rf"star: halves: found {n} frame.*at least {least}.*leave the halves out"):
        check_enough_frames("star", n, group)
    check_enough_frames("star", least, group)


# ---------------------------------------------------------------------- parts that stay where they are


def test_a_part_that_stays_where_it_is_holds_the_same_frames():
    scan, at = small_scan(20), np.array([7, 3, 11, 4])
    part, copied = scan.subset(at, copy=False), scan.subset(at)
    assert np.shares_memory(part.diff3d._frames, scan.diff3d) and not np.shares_memory(copied.diff3d, scan.diff3d)
    for wanted in (None, slice(1, 3), np.array([2, 0])):
        np.testing.assert_array_equal(part.counts(wanted), copied.counts(wanted))
    np.testing.assert_array_equal(part.xcoords, scan.xcoords[at])
    np.testing.assert_array_equal(np.asarray(part.diff3d), scan.diff3d[at])
    assert part.mean_counts_per_frame() == pytest.approx(copied.mean_counts_per_frame())
    assert len(part.diff3d) == part.n_frames == 4 and part.diff3d.nbytes == copied.diff3d.nbytes
    # a part of a part
    np.testing.assert_array_equal(part.subset([3, 1], copy=False).counts(), scan.counts(np.array([4, 3])))
    np.testing.assert_array_equal(part.crop(16).counts(), copied.crop(16).counts())


# ---------------------------------------------------------------------- which frames are scored


def test_the_light_on_some_pixels_is_a_sum_over_them():
    rng = np.random.default_rng(4)
    probe = rng.standard_normal((2, 8, 8)) + 1j * rng.standard_normal((2, 8, 8))
    pixels, starts = rng.random((20, 23)) < 0.6, np.array([[0, 0], [12, 15], [5, 3]])
    found = light_on(pixels, probe, starts)
    for share, (top, left) in zip(found, starts, strict=True):
        inside = whole = 0.0
        for row in range(8):
            for column in range(8):
                light = abs(probe[0, row, column]) ** 2 + abs(probe[1, row, column]) ** 2
                whole += light
                inside += light * pixels[top + row, left + column]
        assert share == pytest.approx(inside / whole, abs=1e-12)


def test_frames_in_the_dark_are_not_scored():
    x, y = SCANS["fermat"]
    probe = make_probe("gaussian", 32, fwhm=12.0)
    canvas = canvas_for(x, y, 32)
    pixels = np.zeros(canvas.shape, bool)
    pixels[:, : canvas.shape[1] // 2] = True
    scored = frames_to_score(pixels, probe, x, y, canvas)
    starts, _ = placements(x, y, 32, canvas)
    inside = [
        (np.abs(probe[0]) ** 2)[:, np.arange(32) + left < canvas.shape[1] // 2].sum() / (np.abs(probe) ** 2).sum()
        for _, left in starts
    ]
    np.testing.assert_array_equal(scored, np.flatnonzero(np.array(inside) >= LIT_SHARE))
    assert 0 < len(scored) < len(x)


# ---------------------------------------------------------------------- the ring correlation


def pair_of_objects(signal_to, noise, side=128, seed=0):
    """Two objects of one phase, whose spectrum is flat up to `signal_to` cycles/px, each with its own white noise."""
    rng = np.random.default_rng(seed)
    radius = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None, :])
    phase = np.fft.ifft2(np.fft.fft2(rng.standard_normal((side, side))) * (radius < signal_to)).real
    phase *= 0.05 / phase.std()  # small, so that exp adds hardly anything beyond
    grain = noise * rng.standard_normal((2, side, side))
    return tuple(np.exp(1j * (phase + part)).astype(np.complex64) for part in grain)


def test_two_halves_agree_down_to_where_their_signal_ends():
    """Above its end nothing but noise is left, which falls below the threshold at once."""
    lit = np.ones((128, 128), bool)
    for end in (0.15, 0.3):
        curve, shift = agreement(pair_of_objects(end, 0.03), (lit, lit), (63.5, 63.5))
        assert curve.crossing == pytest.approx(end, abs=3 / 128)  # of rings, over two of which the window blurs
        assert curve.resolution_px == 0.5 / curve.crossing
        assert np.abs(shift).max() < 0.05
        inside = (curve.frequency > 0.03) & (curve.frequency < end - 0.02)
        # variance of the signal per sample over that of the noise
        ratio = 0.05**2 / (np.pi * end**2) / 0.03**2
        assert curve.correlation[inside].mean() == pytest.approx(ratio / (1 + ratio), abs=0.03)


def test_only_what_both_halves_light_is_compared():
    first, second = (image.copy() for image in pair_of_objects(0.3, 0.005))
    lit = np.ones((2, 128, 128), bool)
    lit[0, :, :30] = lit[1, :, 100:] = False
    clean, _ = agreement((first, second), tuple(lit), (63.5, 63.5))
    first[:, :30], second[:, 100:] = 1, np.exp(3j * np.arange(28))
    spoiled, _ = agreement((first, second), tuple(lit), (63.5, 63.5))
    np.testing.assert_allclose(spoiled.correlation, clean.correlation, atol=0.02)


def test_a_flat_half_agrees_with_nothing():
    lit = np.ones((64, 64), bool)
    flat = np.ones((64, 64), np.complex64)
    curve, _ = agreement((flat, flat), (lit, lit), (31.5, 31.5))
    assert curve.crossing == 0 and HalvesFigures(curve, (0.0, 0.0), None, None, 0).resolution_px is None


def test_too_little_in_common_is_refused():
    lit = np.zeros((2, 64, 64), bool)
    lit[0, :, :30] = lit[1, :, 34:] = True
    with pytest.raises(InputError, match="region to compare"):
        agreement(pair_of_objects(0.3, 0.1, 64), tuple(lit), (31.5, 31.5))


def test_the_threshold_is_that_of_two_halves():
    """Half a bit in the average of both: log2(1 + 2 snr) = 1/2, and a correlation of snr / (1 + snr)."""
    snr = (np.sqrt(2) - 1) / 2
    assert half_bit(np.array([1e12]))[0] == pytest.approx(snr / (1 + snr), abs=1e-4)


# ---------------------------------------------------------------------- the figures


def test_figures_bear_their_units():
    curve, shift = agreement(pair_of_objects(0.25, 0.01), (np.ones((128, 128), bool),) * 2, (63.5, 63.5))
    figures = HalvesFigures(curve, shift, 1.5, 0.9, 40)
    found = figures.to_dict(2e-8)
    assert found["halves_frc_resolution_m"] == pytest.approx(2e-8 * found["halves_frc_resolution_px"])
    assert found["halves_frc_crossing_cycles_per_px"] == pytest.approx(0.5 / found["halves_frc_resolution_px"])
    assert (found["heldout_deviance"], found["heldout_expected_deviance"], found["heldout_frames_scored"]) == (
        1.5, 0.9, 40,
    )  # fmt: skip
    assert figures.to_dict()["halves_frc_resolution_m"] is None
    nothing = HalvesFigures(None, None, None, None, 0).to_dict(2e-8)
    assert nothing.pop("heldout_frames_scored") == 0 and set(nothing.values()) == {None}
    common = Halves({"network": figures}, (31, 30), "The probe.").to_dict()
    assert common["frames"] == [31, 30] and common["shared"] == "The probe." and common["heldout_lit_share"] == 0.95
    assert {len(values) for values in common["frc"]["network"].values()} == {len(curve.frequency)}


def test_the_middle_of_a_scan_on_its_canvas():
    x, y = SCANS["fermat"]
    canvas = canvas_for(x, y, 32)
    assert middle_of_scan(x, y, canvas) == pytest.approx([(n - 1) / 2 for n in canvas.shape])
