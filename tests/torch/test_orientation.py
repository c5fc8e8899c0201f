"""The eight orientations: their algebra, what turning frames does, and the ranking on simulated and real scans."""

import os
from pathlib import Path

import numpy as np
import pytest

from ptycho.diffsim import (
    ZonePlate,
    diffraction_rates,
    make_object,
    make_probe,
    make_scan,
    object_shape_for,
    on_object,
    probe_diameter,
    simulate_scan,
)
from ptycho.errors import InputError
from ptycho.raw_data import RawData
from ptycho_torch.orientation import (
    ORIENTATIONS,
    Contrast,
    Orientation,
    Tried,
    central_frames,
    guess_symmetry,
    rank_orientations,
    turned_frames,
)

STORED, FLIPPED = ORIENTATIONS[0], ORIENTATIONS[3]


def inverse_of(orientation):
    matrix = np.rint(np.linalg.inv(np.array(orientation.matrix))).astype(int)
    return next(o for o in ORIENTATIONS if np.array_equal(o.matrix, matrix))


def beams(kind, N):
    """(true probe, guess) whose defocus or curvature has the right sign and the wrong size."""
    if kind == "zone plate":
        optics = ZonePlate(defocus=38 * N / 64)
        return (make_probe("zone_plate", N, optics=o) for o in (optics, optics.with_defocus_error(0.1)))
    if kind == "virtual focus":
        optics = ZonePlate(defocus=-38 * N / 64)
        return (make_probe("zone_plate", N, optics=o) for o in (optics, optics.with_defocus_error(0.1)))
    if kind == "astigmatic, two modes":
        optics = ZonePlate(defocus=30 * N / 64, astigmatism=8 * N / 64)
        return (
            make_probe("zone_plate", N, optics=optics, mode_powers=(0.85, 0.15)),
            make_probe("zone_plate", N, optics=optics.with_defocus_error(-0.1)),
        )
    if kind == "gaussian":
        return (make_probe("gaussian", N, fwhm=f * N, curvature=c) for f, c in ((0.25, 1.5), (0.28, 1.2)))
    return (make_probe("disk", N, diameter=0.4 * N, curvature=c) for c in (3.0, 2.3))


KINDS = ("zone plate", "gaussian", "disk", "virtual focus", "astigmatic, two modes")
OBJECTS = ("dead_leaves", "lines", "grf", "star")
PATTERNS = ("fermat", "raster", "random")


def turned_scan(number):
    """A scan whose stored positions are turned at random, and the orientation that puts them right."""
    rng = np.random.default_rng(number)
    N = (32, 48, 64)[number % 3]
    probe, guess = beams(KINDS[number % 5], N)
    step = rng.uniform(0.15, 0.3) * probe_diameter(probe)
    x, y = make_scan(PATTERNS[(number // 2) % 3], int(rng.integers(150, 400)), step, seed=number)
    shape = object_shape_for(x, y, N)
    image = make_object(OBJECTS[number % 4], shape, number)
    raw = simulate_scan(image, probe, *on_object(x, y, shape), 10 ** rng.uniform(3.5, 5.5), seed=number,
                        probe_guess=guess)  # fmt: skip
    wrong = ORIENTATIONS[int(rng.integers(8))]
    raw.xcoords, raw.ycoords = wrong.positions(raw.xcoords, raw.ycoords)
    return raw, inverse_of(wrong)


def symmetric_scan(seed=1):
    """A scan through a disk with a flat phase, which is its own twin."""
    N = 32
    probe = make_probe("disk", N, diameter=14)
    x, y = make_scan("fermat", 150, 2.5)
    shape = object_shape_for(x, y, N)
    return simulate_scan(make_object("dead_leaves", shape, seed), probe, *on_object(x, y, shape), 2e4, seed=seed)


def whole(probe):
    """Without the first row and column of an even side: turned about pixel N//2 they have no place to go."""
    result = probe.copy()
    result[..., 0, :] = result[..., :, 0] = 0
    return result


# ---------------------------------------------------------------------- algebra


def test_the_eight_are_the_symmetries_of_the_square():
    matrices = [np.array(o.matrix) for o in ORIENTATIONS]
    assert len({o.matrix for o in ORIENTATIONS}) == 8 and len({o.name for o in ORIENTATIONS}) == 8
    for matrix in matrices:
        np.testing.assert_array_equal(matrix @ matrix.T, np.eye(2))
        for other in matrices:
            assert any(np.array_equal(matrix @ other, third) for third in matrices)


@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=lambda o: o.name)
def test_the_line_of_code_does_what_the_matrix_does(orientation, rng):
    x, y = rng.normal(size=(2, 9))
    scope = {"xcoords": x, "ycoords": y}
    exec(orientation.code, scope)
    np.testing.assert_array_equal(orientation.positions(x, y), [scope["xcoords"], scope["ycoords"]])
    assert (orientation.code == "") == (orientation is STORED) == (orientation.of_frames == "")


def test_twins():
    for orientation in ORIENTATIONS:
        np.testing.assert_array_equal(np.array(orientation.twin.matrix), -np.array(orientation.matrix))
        assert orientation.twin.twin is orientation


@pytest.mark.parametrize("N", [16, 15])
@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=lambda o: o.name)
def test_turned_frames_against_an_index_map(orientation, N, rng):
    """new[qx, qy] = old[B (qx, qy)], indices from N//2, the edge of an even side wrapped round."""
    frames = rng.normal(size=(2, N, N))
    qy, qx = np.indices((N, N)) - N // 2
    (a, b), (c, d) = orientation.matrix
    old_x, old_y = (a * qx + b * qy + N // 2) % N, (c * qx + d * qy + N // 2) % N
    np.testing.assert_array_equal(turned_frames(frames, orientation), frames[:, old_y, old_x])


@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=lambda o: o.name)
def test_turning_frames_and_probe_is_as_good_as_turning_positions(orientation, rng):
    """With positions t that need B, frames(B q), probe P(B r) and object O(B r) fit t itself: the noise-free rates of
    the simulator, which knows nothing of all this."""
    N = 16
    probe = make_probe("gaussian", N, fwhm=5.0, curvature=1.0).astype(complex)
    probe = whole(np.roll(probe, 1, axis=-1) + 0.3j * np.roll(probe, -2, axis=-2))
    image = make_object("grf", 41, 3)  # an odd side: its middle is a pixel
    x, y = rng.integers(-10, 11, (2, 12)).astype(float)
    stored = inverse_of(orientation).positions(x, y)
    middle, half = 20.0, 0.5  # the centre of a frame's patch is half a pixel before pixel N//2 of the probe
    frames = diffraction_rates(image, probe, x + middle - half, y + middle - half)
    turned_image = turned_frames(image, orientation)
    expected = diffraction_rates(
        turned_image, turned_frames(probe, orientation), stored[0] + middle - half, stored[1] + middle - half
    )
    np.testing.assert_allclose(turned_frames(frames, orientation), expected, rtol=1e-6, atol=1e-9 * frames.max())


def test_the_twin_of_everything_gives_the_same_frames(rng):
    """conj(P(-r)), conj(O(-r)), -s: the claim that four of the eight cannot be told from the others."""
    N = 16
    probe = whole(make_probe("zone_plate", N, defocus=8.0).astype(complex))
    image = make_object("dead_leaves", 41, 5)
    x, y = rng.integers(-10, 11, (2, 9)).astype(float)
    frames = diffraction_rates(image, probe, x + 19.5, y + 19.5)
    twin = diffraction_rates(
        turned_frames(image, FLIPPED).conj(), turned_frames(probe, FLIPPED).conj(), -x + 19.5, -y + 19.5
    )
    np.testing.assert_allclose(twin, frames, rtol=1e-6, atol=1e-9 * frames.max())


# ---------------------------------------------------------------------- parts


def test_how_symmetric_a_guess_is():
    def pair(**known):
        probe = make_probe("gaussian", 64, fwhm=14.0, **known)
        return guess_symmetry(probe), guess_symmetry(np.roll(probe, (3, -5), axis=(1, 2)))

    assert pair() == pytest.approx((1, 1), abs=1e-4)
    # exp(-r^2 (1 - i c) / (2 s^2)): the correlation with its conjugate is 1 / sqrt(1 + c^2); amplitude and phase of the
    # beam are exp(-ln2/2 u) and c u with u = (2 r / fwhm)^2
    c = 2 * 1.5 / np.log(2)
    assert pair(curvature=1.5) == pytest.approx((1 / np.hypot(1, c),) * 2, rel=0.02)


def test_the_middle_of_a_scan(rng):
    raw = symmetric_scan()
    part = central_frames(raw, 40)
    distance = np.hypot(raw.xcoords - np.median(raw.xcoords), raw.ycoords - np.median(raw.ycoords))
    assert set(part.sample_indices) == set(np.argsort(distance)[:40]) and np.all(np.diff(part.sample_indices) > 0)
    assert central_frames(raw, 1000) is raw


def test_verdicts():
    def contrast(ratio, noise):
        base = np.ones(100)
        second = base * ratio + noise * (-1.0) ** np.arange(100)
        return Contrast.of(Tried(STORED, base, 1.0), Tried(FLIPPED, second, 1.0))

    assert contrast(1.5, 0.1).verdict == "sure" and contrast(1.03, 0.01).verdict == "likely"
    assert contrast(1.5, 3.0).verdict == "open" and contrast(1.001, 1e-6).verdict == "open"
    assert contrast(1.5, 0.1).sigma == pytest.approx(0.5 / (0.1 / np.sqrt(99)), rel=1e-6)


# ---------------------------------------------------------------------- ranking


def test_a_turned_scan_is_put_right_and_the_others_are_far():
    raw, right = turned_scan(3)
    told = []
    ranking = rank_orientations(raw, frames=120, epochs=6, on_orientation=told.append)
    assert ranking.best is right and ranking.verdict == "sure"
    assert [tried.orientation for tried in told] == list(ORIENTATIONS)
    deviances = [tried.deviance for tried in ranking.tried]
    assert deviances == sorted(deviances) and len(set(deviances)) == 8
    again = rank_orientations(raw, frames=120, epochs=6)
    assert [tried.deviance for tried in again.tried] == deviances


def test_a_guess_that_is_its_own_twin_decides_nothing():
    """As worked out on paper: pairs alike, and the frames sure of the pair."""
    raw = symmetric_scan()
    raw.xcoords, raw.ycoords = FLIPPED.positions(raw.xcoords, raw.ycoords)
    ranking = rank_orientations(raw, frames=100)
    assert ranking.guess_symmetry > 0.999
    assert ranking.pair.verdict == "sure" and ranking.twin.verdict == "open" and ranking.verdict == "open"
    assert ranking.best is STORED, "of the two that which changes nothing"
    by_name = {tried.orientation: tried.deviance for tried in ranking.tried}
    for orientation in ORIENTATIONS:
        assert by_name[orientation] == pytest.approx(by_name[orientation.twin], rel=0.02)


def test_masked_pixels_take_no_part():
    raw, right = turned_scan(0)
    bad = np.random.default_rng(1).random((raw.N, raw.N)) < 0.05
    frames = raw.diff3d.copy()
    frames[:, bad] = 60000
    masked = RawData(raw.xcoords, raw.ycoords, diff3d=frames, probeGuess=raw.probeGuess, bad_pixels=bad)
    ranking = rank_orientations(masked, frames=120, epochs=6)
    assert ranking.best is right and ranking.tried[0].deviance < 2


def test_too_few_frames():
    raw = symmetric_scan()
    with pytest.raises(InputError, match="found 5 frames, expected at least 8"):
        rank_orientations(raw.subset(slice(5)))
    bare = RawData(raw.xcoords, raw.ycoords, diff3d=raw.diff3d)
    with pytest.raises(InputError, match="probeGuess"):
        rank_orientations(bare)


def test_an_orientation_that_breaks_down_is_the_worst(monkeypatch):
    from ptycho_torch import orientation as module

    def refined(*args, **kwargs):
        result = real(*args, **kwargs)
        if len(calls) == 2:
            result.canvas = result.canvas * float("nan")
        calls.append(1)
        return result

    real, calls = module.refine, []
    monkeypatch.setattr(module, "refine", refined)
    ranking = rank_orientations(symmetric_scan(), frames=60, epochs=1)
    assert ranking.tried[-1].orientation is ORIENTATIONS[2] and np.isfinite(ranking.pair.ratio)


@pytest.mark.slow
def test_twenty_scans():
    """Objects, beams, patterns, doses and sizes of all kinds, turned at random."""
    found = []
    for number in range(20):
        raw, right = turned_scan(number)
        ranking = rank_orientations(raw)
        found.append((number, ranking.best is right, ranking.verdict, ranking.pair.ratio, ranking.twin.ratio))
    assert all(is_right for _, is_right, *_ in found), found
    assert all(verdict == "sure" for _, _, verdict, *_ in found), found


def test_the_real_scan_is_the_right_way_round():
    star = os.environ.get("SIEMENS_STAR_DIR")
    if not star:
        pytest.skip("SIEMENS_STAR_DIR is not set: the real scan is not here")
    raw = RawData.from_file(Path(star) / "scan.npz").crop(64)
    ranking = rank_orientations(raw)
    assert ranking.best is STORED and ranking.verdict == "sure"
    wrong: Orientation = ORIENTATIONS[5]
    raw.xcoords, raw.ycoords = wrong.positions(raw.xcoords, raw.ycoords)
    assert rank_orientations(raw, frames=100).best is inverse_of(wrong)
