"""Projection steps and the joint refinement of object and probe."""

import numpy as np
import pytest
import torch

from laws.oracle import beam, random_complex, rates_at, relative_error, specimen
from ptycho.diffsim import simulate_demo_scan
from ptycho.geometry import Canvas, canvas_for, placements
from ptycho.metrics import compare_objects, illuminated_coverage
from ptycho.probe import probe_mask, scale_probe_to_counts
from ptycho_torch.data.parts import steps_of
from ptycho_torch.physics.backprojection import POISSON_WEIGHT, approach_counts, replace_amplitude
from ptycho_torch.physics.detector import centred_order, detector_order, expected_counts
from ptycho_torch.physics.illumination import exit_waves, merge_weights, shift_probe
from ptycho_torch.physics.likelihood import poisson_nll
from ptycho_torch.physics.patches import extract, place
from ptycho_torch.solvers.frames import BlockFrames, projection_floor, relative_to_block, staying_weight
from ptycho_torch.solvers.projection import project, projected, vacuum
from ptycho_torch.solvers.refinement import RefinementOptions, refine

N = 64


class Block:
    """16 frames of a known specimen, two modes, noise-free, in float64."""

    def __init__(self, seed: int = 2, frames: int = 16) -> None:
        rng = np.random.default_rng(seed)
        sample, light = specimen(), beam(N)
        x, y = rng.uniform(-10, 10, (2, frames))
        canvas = canvas_for(x, y, N)
        starts, fractions = placements(x, y, N, canvas)
        x0, y0 = canvas.origin_xy
        self.shape, self.starts = canvas.shape, torch.from_numpy(starts)
        self.truth = torch.from_numpy(sample(y0 + np.arange(self.shape[0]), x0 + np.arange(self.shape[1])))
        self.probe, self.fractions = torch.from_numpy(light.array(N)), torch.from_numpy(fractions)
        self.probes = shift_probe(self.probe, self.fractions)
        self.counts = torch.from_numpy(rates_at(sample, light, x, y, N))
        self.amplitudes = detector_order(self.counts).sqrt()
        self.floor = 1e-2 * self.probe.abs().square().sum(0).amax()
        self.weight = place(merge_weights(self.probes), self.starts, self.shape)
        self.lit = self.weight > 0.1 * self.weight.max()

    def parts_of(self, batch_size):
        return steps_of((self.starts + self.fractions).numpy(), batch_size)

    def step(self, canvas, steps=1, good=None):
        return project(canvas, self.amplitudes, self.probes, self.starts, self.floor, steps, good)

    def misfit(self, canvas):
        """Mean squared difference of the amplitudes."""
        rates = expected_counts(canvas, self.probes, self.starts)
        return float((rates.sqrt() - self.amplitudes).square().mean())


@pytest.fixture(scope="module")
def block():
    return Block()


def test_the_truth_is_a_fixed_point_where_it_is_lit(block):
    again = project(block.truth, block.amplitudes, block.probes, block.starts, 1e-12 * block.floor, 3)
    assert (again - block.truth)[block.lit].abs().max() < 1e-4
    regular = block.step(block.truth)  # the floor draws the weakly lit towards vacuum, and nothing else does
    expected = (block.weight * block.truth + block.floor) / (block.weight + block.floor)
    assert (regular - expected).abs().max() < 1e-4


@pytest.mark.parametrize(("peak", "floor"), [(100.0, 0.2), (1e4, 2.0), (4.0, 0.04), (1.0, 0.01), (1e-6, 1e-8)])
def test_the_pull_to_vacuum_goes_by_the_light(block, peak, floor):
    modes = block.probe * (peak / block.probe.abs().square().sum(0).max()).sqrt()
    assert float(projection_floor(modes)) == pytest.approx(floor, rel=1e-6)


def test_no_step_is_no_change(block):
    assert block.step(block.truth, 0) is block.truth


def test_steps_bring_the_amplitudes_closer(block):
    start = vacuum((), block.shape, block.probes)
    errors = [block.misfit(block.step(start, steps)) for steps in (0, 1, 2, 3, 5, 8, 12)]
    assert np.all(np.diff(errors) < 0)
    assert errors[-1] < 0.02 * errors[0]


def test_single_steps_never_go_uphill_and_steps_in_a_row_are_faster(block):
    start = canvas = vacuum((), block.shape, block.probes)
    errors = [block.misfit(canvas)]
    for _ in range(12):
        canvas = block.step(canvas)
        errors.append(block.misfit(canvas))
    assert np.all(np.diff(errors) < 0)
    assert block.misfit(block.step(start, 12)) < 0.5 * errors[-1]


def test_the_unlit_is_vacuum(block):
    wide = (block.shape[0] + 40, block.shape[1])
    canvas = project(vacuum((), wide, block.probes), block.amplitudes, block.probes, block.starts, block.floor, 2)
    assert torch.all(canvas[block.shape[0] :] == 1)


def likeliest_amplitude(modelled, counts):
    """Where the derivative of a^2 - I ln a^2 + w (a - A)^2 is zero, by bisection."""
    low, high = np.zeros_like(modelled), np.maximum(modelled, np.sqrt(counts)) + 1e-6
    for _ in range(60):
        a = (low + high) / 2
        rises = a - counts / a + POISSON_WEIGHT * (a - modelled) > 0
        low, high = np.where(rises, low, a), np.where(rises, a, high)
    return a


@pytest.mark.parametrize("counts", [0.0, 1.0, 3.0, 1e4])
def test_the_step_is_towards_likelier_counts(counts, rng):
    """Also where nothing was counted; and at many counts it is the projection onto the measured amplitude."""
    waves = torch.from_numpy(rng.normal(size=(2, N, N)) + 1j * rng.normal(size=(2, N, N)))
    waves *= np.sqrt(max(counts, 1.0) / 4)
    amplitudes = torch.full((N, N), counts, dtype=torch.float64).sqrt()
    found = torch.fft.fft2(approach_counts(waves, amplitudes), norm="ortho")
    spectrum = torch.fft.fft2(waves, norm="ortho")
    before, after = (x.abs().square().sum(0).clamp(min=1e-12) for x in (spectrum, found))
    nll = [rate - counts * rate.log() for rate in (before, after)]
    assert float(nll[1].mean()) < float(nll[0].mean())
    modelled = before.sqrt().numpy()
    expected = modelled + (1 + POISSON_WEIGHT / 2) * (likeliest_amplitude(modelled, np.full((N, N), counts)) - modelled)
    np.testing.assert_allclose(after.sqrt(), np.abs(expected), rtol=1e-4, atol=1e-4)
    close = torch.fft.ifft2(spectrum * (1.01 * amplitudes / before.sqrt()), norm="ortho")
    if counts > 1e3:
        onto = torch.fft.fft2(approach_counts(close, amplitudes), norm="ortho").abs().square().sum(0).sqrt()
        np.testing.assert_allclose(onto, amplitudes, rtol=5e-4)


def test_a_frame_without_light_stays_without():
    dark = torch.zeros(1, N, N, dtype=torch.complex64)
    assert torch.equal(approach_counts(dark, torch.ones(N, N)), dark)


@pytest.mark.parametrize("masked", [False, True])
def test_the_departure_is_what_the_waves_move_by(rng, masked):
    """Also where a gradient is asked for, by which the gain is not made in place."""
    waves = torch.from_numpy(10 * random_complex(rng, 3, 2, N, N)).requires_grad_()
    amplitudes = torch.from_numpy(rng.poisson(80.0, (3, N, N))).double().sqrt()
    good = torch.from_numpy(rng.random((N, N)) > 0.2) if masked else None
    found = approach_counts(waves, amplitudes, good, departure=True)
    expected = approach_counts(waves.detach(), amplitudes, good) - waves.detach()
    torch.testing.assert_close(found.detach(), expected, rtol=1e-9, atol=1e-9)
    assert expected.abs().amax() > 0.1
    found.abs().square().sum().backward()
    assert waves.grad.isfinite().all() and waves.grad.abs().amax() > 0


def test_one_step_by_hand(block):
    """Each frame's waves on the way to likelier amplitudes, and the least-squares object of all of them."""
    above = np.full(block.shape, float(block.floor), dtype=complex)
    below = np.full(block.shape, float(block.floor))
    guess = 0.9 * np.ones((N, N), dtype=complex)
    for j, (row, col) in enumerate(block.starts.tolist()):
        modes = block.probes[j].numpy()
        spectra = np.fft.fft2(modes * guess, norm="ortho")
        modelled = np.sqrt((np.abs(spectra) ** 2).sum(0))
        likeliest = likeliest_amplitude(modelled, block.amplitudes[j].numpy() ** 2)
        moved = modelled + (1 + POISSON_WEIGHT / 2) * (likeliest - modelled)
        revised = np.fft.ifft2(spectra * moved / np.maximum(modelled, 1e-12), norm="ortho")
        above[row : row + N, col : col + N] += (modes.conj() * revised).sum(0)
        below[row : row + N, col : col + N] += (np.abs(modes) ** 2).sum(0)
    found = block.step(0.9 * vacuum((), block.shape, block.probes)).numpy()
    assert relative_error(found, above / below) < 1e-3  # the gain's own floor, 1e-10 of the peak


def test_masked_pixels_keep_the_model(block):
    """What the bad pixels hold makes no difference, and with all of them bad a step only regularises."""
    good = torch.ones(N, N, dtype=torch.bool)
    good[:3, -5:] = False
    start = vacuum((), block.shape, block.probes)
    spoiled = torch.where(good, block.amplitudes, 1e3)
    found = project(start, spoiled, block.probes, block.starts, block.floor, 2, good)
    torch.testing.assert_close(found, block.step(start, 2, good), rtol=0, atol=0)
    assert (found - block.step(start, 2)).abs().max() > 1e-6
    waves = exit_waves(block.probes, extract(block.truth, block.starts, N))
    torch.testing.assert_close(
        replace_amplitude(waves, block.amplitudes, torch.zeros_like(good)), waves, rtol=0, atol=1e-12
    )
    kept = block.step(block.truth, 1, torch.zeros_like(good))
    expected = (block.weight * block.truth + block.floor) / (block.weight + block.floor)
    torch.testing.assert_close(kept, expected, rtol=0, atol=1e-10)


def test_the_sum_of_two_halves_is_the_sum_of_all(block):
    """A canvas of any number of frames can be solved in a stream."""

    def part(at):
        patches = extract(0.8 * block.truth, block.starts[at], N)
        return place(projected(patches, block.amplitudes[at], block.probes[at]), block.starts[at], block.shape)

    halves = part(slice(0, 7)) + part(slice(7, None))
    torch.testing.assert_close(halves, part(slice(None)), rtol=0, atol=1e-9 * float(block.weight.max()))


def test_a_block_of_frames_does_the_same(block):
    good = torch.ones(N, N, dtype=torch.bool)
    good[40:44, 10] = False
    frames = BlockFrames(block.counts[None], block.probe, block.starts[None], block.fractions[None], block.shape, good)
    start = frames.vacuum()
    assert start.shape == (1, *block.shape) and torch.all(start == 1)
    floor = projection_floor(block.probe)
    peak = block.probe.abs().square().sum(0).max()
    expected = project(
        start[0], block.amplitudes, block.probes, block.starts, floor, 2, detector_order(good),
        staying=staying_weight(float(peak)),
    )  # fmt: skip
    torch.testing.assert_close(frames.project(start, 2)[0], expected, rtol=0, atol=1e-12)
    rates = centred_order(frames.rates(block.truth[None]))[0]
    assert relative_error(rates.numpy(), block.counts.numpy()) < 1e-7
    torch.testing.assert_close(frames.illumination()[0], block.weight / peak, rtol=1e-12, atol=0)


def test_withheld_frames_leave_no_trace(block):
    used = torch.ones(1, 16, dtype=torch.bool)
    used[0, 3] = used[0, 9] = False

    def made_of(counts):
        frames = BlockFrames(
            counts[None], block.probe, block.starts[None], block.fractions[None], block.shape, used=used
        )
        return frames.project(frames.vacuum(), 2), frames.illumination(), frames.rates(block.truth[None])

    spoiled = block.counts.clone()
    spoiled[3] = spoiled[9] = 1e6
    for clean, dirty in zip(made_of(block.counts), made_of(spoiled), strict=True):
        torch.testing.assert_close(clean, dirty, rtol=0, atol=0)
    keep = used[0]
    without = project(
        vacuum((), block.shape, block.probes), block.amplitudes[keep], block.probes[keep], block.starts[keep],
        projection_floor(block.probe), 2, staying=staying_weight(float(block.probe.abs().square().sum(0).max())),
    )  # fmt: skip
    torch.testing.assert_close(made_of(block.counts)[0][0], without, rtol=0, atol=1e-12)


def test_the_mean_step_by_few_counts_is_the_step_by_their_mean():
    """The law of the weight; steps by it are those of the amplitude near it, and the less biased the larger it is."""
    assert staying_weight(250.0) == staying_weight(1e6) == POISSON_WEIGHT
    assert staying_weight(250.0 / 16) == pytest.approx(2 * POISSON_WEIGHT)
    assert staying_weight(0.01) == staying_weight(0.0) == 64.0
    waves = torch.randn(3, 1, 8, 8, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    modelled = torch.fft.fft2(waves, norm="ortho")[:, 0].abs()
    near = 1.01 * modelled
    towards = replace_amplitude(waves, near) - waves
    for weight in (16.0, 64.0):
        step = approach_counts(waves, near, None, weight) - waves
        assert float((step - towards).abs().max() / towards.abs().max()) < 0.02
    flat = torch.full((20_000, 1, 1, 1), 0.4**0.5, dtype=torch.complex128)  # 0.4 counts expected
    counted = torch.from_numpy(np.random.default_rng(0).poisson(0.4, (20_000, 1, 1))).double().sqrt()
    bias = [float((approach_counts(flat, counted, None, w) - flat).mean().real) for w in (4.0, 16.0, 64.0)]
    by_amplitude = float((replace_amplitude(flat, counted) - flat).mean().real)
    assert by_amplitude < 2 * bias[0] < 4 * bias[1] < 8 * bias[2] < 0


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -1.0, 4294967295.0])
def test_what_a_detector_writes_into_bad_pixels_reaches_no_gradient(block, poison):
    good = torch.ones(N, N, dtype=torch.bool)
    good[10, 50] = False
    counts = block.counts.float()
    counts[:, 10, 50] = poison
    frames = BlockFrames(
        counts[None], block.probe.to(torch.complex64), block.starts[None], block.fractions[None].float(),
        block.shape, good,
    )  # fmt: skip
    canvas = frames.vacuum().requires_grad_()
    loss = poisson_nll(frames.rates(frames.project(canvas, 2)), frames.counts, detector_order(good))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(torch.view_as_real(canvas.grad)).all()


def test_blocks_move_to_their_own_corner():
    starts = torch.tensor([[[10, 20], [13, 18]], [[0, 5], [9, 5]]])
    local, shape = relative_to_block(starts, 8)
    assert local.tolist() == [[[0, 2], [3, 0]], [[0, 0], [9, 0]]] and shape == (17, 10)


def test_gradients_pass_through_projections_of_withheld_and_dark_frames(block):
    used = torch.ones(1, 16, dtype=torch.bool)
    used[0, 0] = False
    counts = block.counts.clone()
    counts[1] = 0
    frames = BlockFrames(
        counts[None].float(), block.probe.to(torch.complex64), block.starts[None],
        block.fractions[None].float(), block.shape, used=used,
    )  # fmt: skip
    canvas = frames.vacuum().requires_grad_()
    frames.project(canvas, 2).abs().square().sum().backward()
    assert torch.isfinite(torch.view_as_real(canvas.grad)).all()


# Joint refinement


class Scan:
    """100 frames of dead leaves whose probe guess has a defocus 10 % wrong; 1e5 counts per frame."""

    def __init__(self, noisy: bool) -> None:
        raw = simulate_demo_scan(3, n_frames=100, poisson=noisy)
        self.height, self.width = raw.object_truth.shape
        canvas = Canvas((self.height, self.width), ((self.width - 1) / 2, (self.height - 1) / 2))
        starts, fractions = placements(raw.xcoords, raw.ycoords, raw.N, canvas)
        self.truth, self.true_probe = raw.object_truth, raw.probe_truth
        self.guess = scale_probe_to_counts(raw.probeGuess, raw.mean_counts_per_frame())
        self.starts, self.fractions = torch.from_numpy(starts), torch.from_numpy(fractions).float()
        self.xy = starts + fractions
        self.amplitudes = detector_order(torch.from_numpy(raw.counts())).sqrt()
        self.covered = illuminated_coverage(self.guess, starts, canvas.shape) >= 2

    def refine(self, probe=None, amplitudes=None, good=None, seed=0, on_epoch=None, support=None, **options):
        amplitudes = self.amplitudes if amplitudes is None else amplitudes
        start = torch.ones(self.height, self.width, dtype=torch.complex64)
        return refine(
            lambda batch: amplitudes[batch], self.starts, self.fractions, steps_of(self.xy, 25, seed), start,
            torch.from_numpy(self.guess if probe is None else probe), RefinementOptions(**options),
            good_pixels=good, support=support, on_epoch=on_epoch,
        )  # fmt: skip

    def correlation(self, canvas):
        return compare_objects(canvas.numpy(), self.truth, covered=self.covered).phase_correlation


def _likeness(probe, truth):
    """Overlap of two probes after the best integer shift and global phase: 1 for the same."""
    cross = np.fft.ifft2(np.fft.fft2(probe[0]) * np.fft.fft2(truth[0]).conj())
    return np.abs(cross).max() / np.linalg.norm(probe) / np.linalg.norm(truth)


@pytest.fixture(scope="module")
def scan():
    return Scan(noisy=True)


@pytest.fixture(scope="module")
def refined(scan):
    return scan.refine(epochs=20)


def test_refining_the_probe_mends_a_wrong_defocus():
    """Without noise; measured: misfit 1.4e-2 to about 3e-5, against 2.3e-3 with the probe as guessed."""
    scan = Scan(noisy=False)
    refined, fixed = scan.refine(epochs=20), scan.refine(epochs=20, refine_probe=False)
    assert refined.errors[-1] < 0.01 * refined.errors[0]
    assert refined.errors[-1] < 0.1 * fixed.errors[-1]
    assert scan.correlation(refined.canvas) > 0.99 > scan.correlation(fixed.canvas) + 0.005
    assert _likeness(scan.guess, scan.true_probe) < 0.96
    assert _likeness(refined.probe.numpy(), scan.true_probe) > 0.997


def test_it_mends_it_under_noise_too(scan, refined):
    fixed = scan.refine(epochs=20, refine_probe=False)
    assert scan.correlation(refined.canvas) > scan.correlation(fixed.canvas) + 0.01
    assert scan.correlation(refined.canvas) > 0.975
    assert _likeness(refined.probe.numpy(), scan.true_probe) > 0.995


def test_the_probe_is_kept_when_it_is_not_to_be_refined(scan):
    found = scan.refine(epochs=3, refine_probe=False)
    np.testing.assert_array_equal(found.probe.numpy(), scan.guess)


def test_the_refined_probe_keeps_its_power(scan, refined):
    power = (np.abs(scan.guess) ** 2).sum()
    assert float(refined.probe.abs().square().sum()) == pytest.approx(power, rel=1e-4)


def test_the_object_stays_transparent_and_finite(scan, refined):
    """The photon scale lies in the probe, so the object is about 1 in the mean."""
    inside = refined.canvas.numpy()[scan.covered]
    assert np.isfinite(refined.canvas.numpy()).all()
    assert np.mean(np.abs(inside)) == pytest.approx(1.0, abs=0.1)


def test_the_same_seed_gives_the_same_result(scan):
    first, again, other = (scan.refine(epochs=3, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(first.canvas, again.canvas) and torch.equal(first.probe, again.probe)
    assert not torch.equal(first.canvas, other.canvas)


def test_every_epoch_is_told(scan):
    seen = []
    found = scan.refine(epochs=4, on_epoch=lambda epoch, error: seen.append((epoch, error)))
    assert seen == list(enumerate(found.errors, start=1))


def test_bad_pixels_change_nothing_in_a_refinement(scan):
    good = torch.ones(N, N, dtype=torch.bool)
    good[5:8, 60:] = False
    spoiled = torch.where(good, scan.amplitudes, 300.0)
    clean = scan.refine(epochs=3, good=good)
    dirty = scan.refine(epochs=3, good=good, amplitudes=spoiled)
    assert torch.equal(clean.canvas, dirty.canvas) and torch.equal(clean.probe, dirty.probe)
    assert clean.errors == dirty.errors


def test_with_the_true_probe_and_no_noise_the_misfit_goes_away():
    block = Block(frames=24)
    found = refine(
        lambda batch: block.amplitudes[batch], block.starts, block.fractions, block.parts_of(8),
        torch.ones(block.shape, dtype=torch.complex128), block.probe,
        RefinementOptions(epochs=40, refine_probe=False),
    )  # fmt: skip
    assert found.errors[-1] < 1e-3 * found.errors[0]
    inner = block.weight > 0.3 * block.weight.max()
    turn = torch.vdot(block.truth[inner], found.canvas[inner])
    assert (found.canvas * turn.conj() / turn.abs() - block.truth)[inner].abs().max() < 0.05


def test_several_modes_are_refined_together():
    block = Block(frames=24)
    guess = block.probe * torch.tensor([1.0, 0.6], dtype=torch.float64)[:, None, None]
    options, parts = RefinementOptions(epochs=20), block.parts_of(8)
    start = torch.ones(block.shape, dtype=torch.complex128)
    found = refine(lambda batch: block.amplitudes[batch], block.starts, block.fractions, parts, start, guess, options)
    assert found.probe.shape == (2, N, N)
    assert found.errors[-1] < 0.1 * found.errors[0]


def test_a_support_keeps_the_probe_inside(scan):
    """The guess is cut to it first; power is kept, and what is outside stays dark."""
    disk = probe_mask(N, 44.0)
    inside = torch.from_numpy(disk)
    guess = (scan.guess * disk).astype(np.complex64)
    found = scan.refine(probe=guess, support=inside, epochs=6)
    free = scan.refine(probe=guess, epochs=6)
    assert not found.probe[0][inside == 0].any() and free.probe[0][inside == 0].any()
    assert float(found.probe.abs().square().sum()) == pytest.approx((np.abs(guess) ** 2).sum(), rel=1e-4)
    assert _likeness(found.probe.numpy(), scan.true_probe) > _likeness(guess, scan.true_probe)


@pytest.mark.parametrize("errors, stops", [
    ([1.0 * 0.9**k for k in range(30)], False),
    ([0.5] * 9, False),  # not twice the window yet
    ([0.5] * 10, True),
    ([0.5, 0.5] + [0.4, 0.42, 0.41, 0.39, 0.43, 0.405, 0.42, 0.40, 0.415, 0.41], True),  # noise, no course
    ([0.5 - 0.002 * k + 0.01 * (-1) ** k for k in range(14)], False),  # a course beneath the noise
    ([0.3] * 5 + [0.35] * 5, True),  # it grows
    ([0.5] * 10 + [float("nan")], False),
])  # fmt: skip
def test_a_plateau_is_told_from_noise(errors, stops):
    options = RefinementOptions(stop_improvement=0.01, stop_window=5, refine_probe=False)
    assert options.on_plateau(errors) is stops
    assert not RefinementOptions().on_plateau(errors), "without a tolerance nothing stops"


def test_epochs_in_which_something_is_held_do_not_count():
    errors = [0.5] * 14
    options = RefinementOptions(stop_improvement=0.01, stop_window=5, refine_positions=True)
    assert not options.on_plateau(errors) and options.on_plateau([*errors, 0.5])


def test_it_stops_on_a_plateau(scan):
    found = scan.refine(epochs=60, stop_improvement=0.01, stop_window=5)
    assert found.stopped and 10 < len(found.errors) < 60
    again = scan.refine(epochs=60)
    # the last five epochs take smaller steps; until then nothing is different
    assert found.errors[:-5] == again.errors[: len(found.errors) - 5] and not again.stopped
    assert found.errors[-1] < again.errors[len(found.errors) - 1]
