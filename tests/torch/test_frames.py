"""The two ways of looking at frames, as a block and as a stream, agree."""

import numpy as np
import pytest
import torch
from small_scans import small_scan

from ptycho.metrics import expected_deviance, poisson_deviance
from ptycho_torch import reassembly
from ptycho_torch.calibration import scaled_guess
from ptycho_torch.config_params import ModelConfig
from ptycho_torch.data.scans import PlacedScan
from ptycho_torch.frame_stream import _equal_runs
from ptycho_torch.generators.unet import UNet
from ptycho_torch.model import PtychoPINN_Lightning
from ptycho_torch.physics.batches import fastest_batch, frames_that_fit
from ptycho_torch.physics.detector import centred_order
from ptycho_torch.physics.patches import merge_from_sums, merge_in_place, moved_in_place
from ptycho_torch.reassembly import StreamedFrames
from ptycho_torch.solvers.frames import BlockFrames, relative_to_block
from ptycho_torch.workflows.reconstruct import reconstruct


@pytest.fixture(scope="module")
def scan():
    return PlacedScan.of(small_scan(40))


@pytest.fixture(scope="module")
def probe(scan):
    return torch.from_numpy(scaled_guess(scan.raw))


def whole_block(scan, probe, used=None):
    counts = scan.counts(torch.arange(scan.raw.n_frames))[None]
    good = torch.from_numpy(scan.raw.good_pixels)
    return BlockFrames(counts, probe, scan.starts[None], scan.fractions[None], scan.canvas.shape, good, used)


def stream(scan, probe, batch_size):
    return StreamedFrames(scan, probe, torch.from_numpy(scan.raw.good_pixels), batch_size)


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_a_stream_gives_what_one_block_gives(scan, probe, batch_size):
    block, streamed = whole_block(scan, probe), stream(scan, probe, batch_size)
    torch.testing.assert_close(streamed.illumination(), block.illumination(), rtol=1e-5, atol=1e-6)
    canvas = block.project(block.vacuum(), 4)
    torch.testing.assert_close(streamed.project(streamed.vacuum(), 4), canvas, rtol=1e-4, atol=1e-4)


def counted(monkeypatch):
    """Takes down how many projections each call makes."""
    numbers, project = [], StreamedFrames._project

    def counting(self, canvas, steps, *others):
        numbers.append(steps)
        return project(self, canvas, steps, *others)

    monkeypatch.setattr(StreamedFrames, "_project", counting)
    return numbers


def test_first_projections_are_kept_as_often_as_they_are_asked_for(scan, probe, monkeypatch):
    made = counted(monkeypatch)
    frames = StreamedFrames(scan, probe, torch.from_numpy(scan.raw.good_pixels), begins=2)
    first = frames.begin(3)
    assert frames.spared_s == 0
    expected = first.clone()
    first.zero_()  # whoever asks may write into it
    assert torch.equal(frames.begin(3), expected) and made == [3]
    assert frames.spared_s > 0
    assert torch.equal(frames.begin(3), expected) and made == [3, 3], "nothing is kept any more"
    other = StreamedFrames(scan, probe, torch.from_numpy(scan.raw.good_pixels), begins=2)
    assert not torch.equal(other.begin(2), other.begin(3)) and made == [3, 3, 2, 3]


def test_the_object_without_the_network_takes_no_projections_of_its_own(scan, probe, monkeypatch):
    made = counted(monkeypatch)
    module = PtychoPINN_Lightning(ModelConfig(stages=2, projection_steps=4, later_projection_steps=0))
    with torch.no_grad():
        module.generator.correctors[0].head.weight.normal_(0, 0.1)
    outcome = reconstruct(module, scan, probe.numpy())
    assert sum(made) == 4
    alone = stream(scan, probe, None).begin(4)[0].numpy()
    lit = outcome.coverage > 0
    np.testing.assert_array_equal(outcome.stages["projection"].object[lit], alone[lit])
    assert not np.allclose(outcome.stages["network"].object[lit], alone[lit])
    assert 0 < outcome.stages["projection"].time_s < outcome.stages["network"].time_s


def test_no_projection_is_no_change(scan, probe):
    streamed = stream(scan, probe, 16)
    assert torch.equal(streamed.project(streamed.vacuum(), 0), streamed.vacuum())


@pytest.mark.parametrize("turned", [False, True])
def test_tiles_give_what_the_whole_canvas_gives(scan, probe, monkeypatch, turned):
    torch.manual_seed(1)
    net = UNet(3, 2, (4, 8, 8))
    torch.nn.init.normal_(net.head.weight)
    features, step = torch.randn(1, 3, 301, 233), net.mean_of_turns if turned else net
    whole = step(features)
    monkeypatch.setattr(reassembly, "TILE_PX", 64)
    tiled = stream(scan, probe, 16).apply(step, features, halo_px=net.halo_px)
    torch.testing.assert_close(tiled, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("halo_px", [3, 40])
def test_the_first_map_becomes_the_result_where_that_is_allowed(scan, probe, halo_px, monkeypatch):
    """With a margin beyond the next row of tiles too, which still looks at what was there before."""
    monkeypatch.setattr(reassembly, "TILE_PX", 16)
    blur = torch.nn.AvgPool2d(2 * halo_px + 1, stride=1, padding=halo_px)
    maps = torch.randn(1, 133, 121), torch.randn(1, 133, 121)
    frames = stream(scan, probe, 16)

    def step(a, b):
        return blur(a) + b

    kept = maps[0].clone()
    expected = frames.apply(step, *maps, halo_px=halo_px)
    assert torch.equal(maps[0], kept)
    found = frames.apply(step, *maps, halo_px=halo_px, overwrite=True)
    assert found is maps[0] and torch.equal(found, expected)
    one_value = torch.ones(1, 1, 1).expand(1, 133, 121)
    frames.apply(step, one_value, maps[1], halo_px=halo_px, overwrite=True)
    assert one_value.untyped_storage().nbytes() == 4 and float(one_value[0, 0, 0]) == 1


def a_canvas(rng):
    return torch.from_numpy(rng.normal(size=(150, 70)) + 1j * rng.normal(size=(150, 70))).to(torch.complex64)


def test_merging_in_place_is_merging(rng):
    weighted = a_canvas(rng)
    weight, floor = torch.from_numpy(rng.uniform(0, 3, (150, 70))).float(), torch.tensor(1e-3)
    expected = merge_from_sums(weighted, weight, floor)
    assert merge_in_place(weighted, weight, floor) is weighted
    torch.testing.assert_close(weighted, expected, rtol=1e-6, atol=1e-6)


def test_moving_in_place_goes_towards_the_merge(rng):
    canvas, asked = a_canvas(rng), a_canvas(rng)
    weight, floor = torch.from_numpy(rng.uniform(0, 3, (150, 70))).float(), torch.tensor(1e-2)
    merged = merge_from_sums(asked + weight * canvas, weight, floor)
    for share in (1.0, 0.3):
        moved = asked.clone()
        assert moved_in_place(moved, canvas, weight, floor, share) is moved
        torch.testing.assert_close(moved, canvas + share * (merged - canvas), rtol=1e-5, atol=1e-5)


def test_a_withheld_frame_has_no_say(scan, probe):
    used = torch.ones(1, scan.raw.n_frames, dtype=torch.bool)
    used[0, 5] = False
    without = whole_block(scan, probe, used)
    spoilt = whole_block(scan, probe, used)
    spoilt._amplitudes[0, 5] = 1e3
    torch.testing.assert_close(
        without.project(without.vacuum(), 3), spoilt.project(spoilt.vacuum(), 3), rtol=1e-5, atol=1e-5
    )
    kept = whole_block(scan, probe)
    assert (kept.project(kept.vacuum(), 3) - without.project(without.vacuum(), 3)).abs().max() > 1e-3


def test_the_streamed_deviance_is_that_of_the_rates(scan, probe):
    streamed, block = stream(scan, probe, 11), whole_block(scan, probe)
    canvas = streamed.project(streamed.vacuum(), 3)
    rates = centred_order(block.rates(canvas))[0].numpy()
    counts = scan.raw.diff3d.astype(np.float64)
    misfit = streamed.deviance(canvas)
    assert misfit.deviance == pytest.approx(poisson_deviance(rates, counts), rel=1e-3)
    assert misfit.expected == pytest.approx(expected_deviance(rates), rel=1e-3)


def numpy_rates(scan, probe, canvas):
    """(F, N, N) expected counts, written down with NumPy alone: shift the probe, multiply, transform, add the modes."""
    n = probe.shape[-1]
    frequency = np.fft.fftfreq(n)
    rates = []
    for (top, left), (dy, dx) in zip(scan.starts.numpy(), scan.fractions.numpy(), strict=True):
        turn = np.exp(-2j * np.pi * (frequency[:, None] * dy + frequency[None, :] * dx))
        moved = np.fft.ifft2(np.fft.fft2(probe) * turn)
        wave = moved * canvas[top : top + n, left : left + n]
        far = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(wave, axes=(-2, -1)), norm="ortho"), axes=(-2, -1))
        rates.append((np.abs(far) ** 2).sum(axis=0))
    return np.array(rates)


@pytest.mark.parametrize("batch_size", [1, 7, 40])
@pytest.mark.parametrize("masked", [False, True])
def test_residuals_are_those_of_numpy(batch_size, masked):
    raw = small_scan(40)
    good = np.ones((raw.N, raw.N), bool)
    if masked:
        good[5:9, 20:30] = False
        good[16, 16] = False
        raw = raw.masked(~good)
    placed, guess = PlacedScan.of(raw), scaled_guess(raw)
    streamed = stream(placed, torch.from_numpy(guess), batch_size)
    canvas = streamed.project(streamed.vacuum(), 3)
    rates = numpy_rates(placed, guess.astype(np.complex128), canvas[0].numpy().astype(np.complex128))
    counts = raw.diff3d.astype(np.float64)
    misfit = streamed.deviance(canvas)

    by_frame = [poisson_deviance(rates[i], counts[i], good) for i in range(40)]
    assert misfit.by_frame.shape == (40,) and misfit.by_frame.dtype == np.float32
    np.testing.assert_allclose(misfit.by_frame, by_frame, rtol=2e-3)
    assert misfit.by_frame.mean() == pytest.approx(misfit.deviance, rel=1e-5)
    assert np.ptp(by_frame) > 0.05, "frames differ, so that their order is tested"

    on_detector = ((counts - rates) / np.sqrt(rates + 1)).mean(axis=0)
    assert misfit.on_detector.shape == (raw.N, raw.N) and misfit.on_detector.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(misfit.on_detector), ~good)
    np.testing.assert_allclose(misfit.on_detector[good], on_detector[good], atol=2e-3)
    assert np.abs(on_detector[good]).max() > 0.05


def test_one_pass_over_the_frames_makes_all_residuals(scan, probe, monkeypatch):
    streamed = stream(scan, probe, 16)
    read, counts = [], type(scan).counts
    monkeypatch.setattr(type(scan), "counts", lambda self, at: read.extend(at.tolist()) or counts(self, at))
    streamed.deviance(streamed.vacuum())
    assert sorted(read) == list(range(40))


def smooth_object(shape):
    """A band-limited object that is vacuum towards the rim of the canvas, and a function to evaluate it anywhere."""
    middle = (np.array(shape) - 1) / 2

    def value(rows, columns):
        bump = np.exp(-((rows - middle[0]) ** 2 + (columns - middle[1]) ** 2) / (2 * 9.0**2))
        return 1 + bump * (0.3j + 0.2 * np.cos(0.2 * rows) * np.sin(0.15 * columns))

    rows, columns = np.indices(shape)
    return value, value(rows, columns)


@pytest.fixture(scope="module")
def tagged():
    """A scan whose frames tell their number by two pixels of their corner."""
    raw = small_scan(40)
    raw.diff3d[:, 0, 0] = (np.arange(40) + 1) ** 2
    raw.diff3d[:, 0, 1] = 100**2
    return PlacedScan.of(raw)


def numbers(amplitudes):
    """Which frames these are; only right if zero frequency is in their middle."""
    return (100 * amplitudes[..., 0, 0] / amplitudes[..., 0, 1]).round().long() - 1


@pytest.mark.parametrize("group", [1, 3])
def test_true_patches_merge_to_the_true_object(tagged, group):
    """Each patch is the object round the frame's exact position; it lands there, to a fraction of a pixel."""
    value, truth = smooth_object(tagged.canvas.shape)
    exact = (tagged.starts + tagged.fractions).numpy()
    grid = np.arange(32.0)
    patches = torch.from_numpy(
        np.stack([value(y + grid[:, None], x + grid[None, :]) for y, x in exact]).astype(np.complex64)
    )
    light = torch.from_numpy(scaled_guess(tagged.raw))
    for frames in (whole_block(tagged, light), stream(tagged, light, 7)):
        merged = frames.from_patches(lambda amplitudes: patches[numbers(amplitudes)], group)[0].numpy()
        lit = frames.illumination()[0].numpy() > 0.5
        np.testing.assert_allclose(merged[lit], truth[lit], atol=5e-3)
        assert np.abs(merged[~lit] - truth[~lit]).max() < 0.5, "vacuum or object, nothing else"


def test_networks_are_fed_with_a_fixed_mean_energy(scan, probe):
    for frames in (whole_block(scan, probe), stream(scan, probe, 9)):
        seen = []

        def predict(amplitudes, seen=seen):
            seen.append(amplitudes.square().sum((-2, -1)).flatten())
            return torch.ones_like(amplitudes, dtype=torch.complex64)

        merged = frames.from_patches(predict, 4)
        torch.testing.assert_close(merged, torch.ones_like(merged), rtol=1e-4, atol=1e-4)
        energies = torch.cat(seen)
        assert len(energies) == 40 and energies.mean().item() == pytest.approx(16.0**2, rel=1e-3)


def test_withheld_frames_are_in_no_group(tagged):
    used = torch.ones(1, 40, dtype=torch.bool)
    used[0, ::3] = False
    seen = []

    def predict(amplitudes):
        seen.extend(numbers(amplitudes).flatten().tolist())
        return torch.ones_like(amplitudes, dtype=torch.complex64)

    whole_block(tagged, torch.from_numpy(scaled_guess(tagged.raw)), used).from_patches(predict, 4)
    assert set(seen) == set(torch.nonzero(used[0]).flatten().tolist()) and len(seen) % 4 == 0


def test_every_frame_of_a_stream_counts_once(tagged):
    """Groups of 3 do not divide 40 frames: the one that fills up the last group has its weight once only."""
    light = torch.from_numpy(scaled_guess(tagged.raw))
    one = torch.zeros(40)
    one[17] = 1.0

    def predict(amplitudes):
        return torch.ones_like(amplitudes, dtype=torch.complex64) * (1 + one[numbers(amplitudes)])[..., None, None]

    single = stream(tagged, light, 40).from_patches(predict, 1)
    torch.testing.assert_close(stream(tagged, light, 40).from_patches(predict, 3), single, rtol=1e-4, atol=1e-4)


def test_a_block_keeps_the_relative_placement():
    starts = torch.tensor([[[10, 20], [14, 17]], [[3, 3], [3, 9]]])
    local, shape = relative_to_block(starts, 8)
    assert local.tolist() == [[[0, 3], [4, 0]], [[0, 0], [0, 6]]]
    assert shape == (12, 14)


def test_masked_pixels_may_hold_anything():
    raw = small_scan(20)
    frames = raw.diff3d.astype(np.float32)
    frames[:, 3, 4] = np.nan
    bad = np.zeros((raw.N, raw.N), bool)
    bad[3, 4] = True
    masked = type(raw)(
        raw.xcoords, raw.ycoords, raw.xcoords, raw.ycoords, frames, raw.probeGuess, raw.scan_index,
        bad_pixels=bad, measurement_domain="intensity",
    )  # fmt: skip
    placed = PlacedScan.of(masked)
    assert torch.isfinite(placed.counts(torch.arange(20))).all()
    streamed = stream(placed, torch.from_numpy(scaled_guess(masked)), 8)
    canvas = streamed.project(streamed.vacuum(), 3)
    assert torch.isfinite(canvas.abs()).all()
    misfit = streamed.deviance(canvas)
    assert np.isfinite([misfit.deviance, misfit.expected]).all() and np.isfinite(misfit.by_frame).all()
    assert np.argwhere(np.isnan(misfit.on_detector)).tolist() == [[3, 4]]


@pytest.mark.parametrize("wanted", [1, 4, 32])
def test_runs_of_frames_are_alike(wanted):
    """Equal but for the last, which is shorter by less than a frame for each, and at most a quarter too long."""
    for number in range(1, 200):
        size = _equal_runs(number, wanted)
        runs = -(-number // size)
        assert size <= max(1.25 * wanted, 1) and 0 <= runs * size - number < runs
        assert runs <= -(-number // wanted), "no more runs than of the wanted length"
    assert [_equal_runs(n, 32) for n in (30, 37, 40, 41, 600)] == [30, 37, 40, 21, 32]


def test_a_stream_takes_what_the_caches_hold_and_no_more_than_fits():
    assert [fastest_batch(n, 1, "cpu") for n in (64, 128, 256)] == [32, 8, 4]
    assert [fastest_batch(n, 1, "cuda") for n in (64, 256)] == [256, frames_that_fit(256, 1)]
    assert fastest_batch(64, 4, "cpu") == 8
