"""First projections by parts of the frames, against a loop over frames in NumPy, and what they are worth."""

import itertools

import numpy as np
import pytest
import torch
from frame_loops import asked_for, carried_further, scan_of_a_narrow_beam, shifted, with_a_mask
from scipy.ndimage import gaussian_filter
from small_scans import against_truth, small_scan

from ptycho.raw_data import RawData
from ptycho_torch import ordered_subsets
from ptycho_torch.calibration import scaled_guess
from ptycho_torch.data.scans import PlacedScan
from ptycho_torch.generators.base import ByParts
from ptycho_torch.ordered_subsets import FINE_PASSES, MOST_MOMENTUM, PARTS, STEP, project_by_parts
from ptycho_torch.physics import slow_phase
from ptycho_torch.physics.backprojection import POISSON_WEIGHT
from ptycho_torch.physics.slow_phase import SlowPhase
from ptycho_torch.reassembly import StreamedFrames


def streamed(raw, batch_size=None, members=None):
    probe = torch.from_numpy(scaled_guess(raw))
    return StreamedFrames(PlacedScan.of(raw), probe, torch.from_numpy(raw.good_pixels), batch_size, members=members)


def most_lit(scan, lights, groups):
    """The most that the frames of any group light."""
    n, lit = lights[0].shape[-1], np.zeros((len(groups), *scan.canvas.shape))
    for number, members in enumerate(groups):
        for j in members:
            top, left = scan.starts[j].tolist()
            lit[number, top : top + n, left : left + n] += (np.abs(lights[j]) ** 2).sum(axis=0)
    return lit.max(axis=0)


def by_loop(raw, passes, parts):
    """The same frame by frame in double precision; each part is a list of its pieces, which list their frames."""
    scan, modes = PlacedScan.of(raw), scaled_guess(raw).astype(np.complex128)
    n, w, slow = raw.N, POISSON_WEIGHT, SlowPhase.of(torch.from_numpy(modes))
    peak = (np.abs(modes) ** 2).sum(axis=0).max()
    counts = np.fft.ifftshift(raw.diff3d.astype(float), axes=(1, 2))
    good = np.fft.ifftshift(raw.good_pixels)
    where = [tuple(slice(at, at + n) for at in start) for start in scan.starts.tolist()]
    lights = [np.stack([shifted(mode, part) for mode in modes]) for part in scan.fractions.double().numpy()]
    pieces = list(itertools.chain(*parts))
    whole = [list(itertools.chain(*part)) for part in parts]
    current = ahead = np.ones(scan.canvas.shape, complex)
    made, random = 0, torch.Generator().manual_seed(0)
    for number in range(passes):
        groups = pieces if number < FINE_PASSES else whole
        most, floor = most_lit(scan, lights, groups), min(0.02 * np.sqrt(peak), 1e-2 * peak) / len(groups)
        order = torch.randperm(len(groups), generator=random).tolist() if len(groups) > 4 else range(len(groups))
        begun = ahead
        for members in (groups[at] for at in order):
            total = np.zeros_like(ahead)
            for j in members:
                waves = lights[j] * ahead[where[j]]
                change = asked_for(waves, counts[j], good, w)
                total[where[j]] += (np.conj(lights[j]) * change).sum(axis=0)
            turned = 1j * ahead * carried_further(ahead, total, most, slow, begun)
            moved = ahead + STEP * ((total + floor * (1 - ahead)) / (most + floor) + turned)
            ahead = moved + min(MOST_MOMENTUM, made / (made + 3)) * (moved - current)
            current, made = moved, made + 1
    return current


def parts_of(frames):
    """The frames of each piece of each part, as `project_by_parts` takes them."""
    return [[piece.members.tolist() for piece in part] for part in ordered_subsets._parts_of(frames)]


@pytest.mark.parametrize(("masked", "least", "pieces"), [(False, 32, 1), (True, 32, 1), (False, 4, 2), (True, 3, 3)])
def test_it_is_the_loop_over_frames(monkeypatch, rng, masked, least, pieces):
    monkeypatch.setattr(ordered_subsets, "LEAST_FRAMES", least)
    raw = scan_of_a_narrow_beam(rng)
    raw = with_a_mask(raw) if masked else raw
    frames = streamed(raw, batch_size=7)
    parts = parts_of(frames)
    assert [len(part) for part in parts] == PARTS * [pieces]
    assert sorted(member for part in parts for piece in part for member in piece) == list(range(40))
    found = project_by_parts(frames, 4)[0].numpy()
    expected = by_loop(raw, 4, parts)
    assert np.abs(expected - 1).max() > 0.3
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_parts_and_their_pieces_lie_side_by_side():
    """A frame's nearest neighbours are in other parts: each part lights nearly all that all frames light."""
    frames = streamed(small_scan(60))
    lit = frames.light() > 0.5
    for members, *others in parts_of(frames):
        assert 14 <= len(members) <= 16 and not others
        assert (frames.only(torch.tensor(members)).light()[lit] > 0.01).double().mean() > 0.95
    frames = streamed(small_scan(600))
    lit = frames.light() > 10
    for members in (piece for part in parts_of(frames) for piece in part):
        assert 33 <= len(members) <= 42
        assert (frames.only(torch.tensor(members)).light()[lit] > 0.01).double().mean() > 0.95


def deviance_after(frames, passes, fine_passes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ordered_subsets, "FINE_PASSES", fine_passes)
        return frames.deviance(project_by_parts(frames, passes)).deviance


def test_passes_by_pieces_come_nearer():
    """Three passes, of which two go by pieces, are nearer than four that do not; few counts come to the same."""
    frames = streamed(small_scan(300, counts=1e6))
    assert {len(part) for part in parts_of(frames)} == {2}
    assert deviance_after(frames, 3, FINE_PASSES) < deviance_after(frames, 4, 0)
    frames = streamed(small_scan(300, counts=1e3))
    assert deviance_after(frames, 8, FINE_PASSES) < 1.002 * deviance_after(frames, 8, 0)


def test_the_batch_size_changes_nothing():
    raw = small_scan(40)
    few, many = (project_by_parts(streamed(raw, batch_size=n), 3) for n in (3, 256))
    torch.testing.assert_close(few, many, rtol=1e-3, atol=1e-3)


def test_a_pass_is_worth_two_projections():
    """While there is far to go; in the end whole projections come a little further."""
    raw = small_scan(150)
    frames = streamed(raw)
    whole, parts = (
        {steps: against_truth(frames.begin(begin(steps))[0].numpy(), raw).ssim for steps in (3, 6, 24)}
        for begin in (int, ByParts)
    )
    assert parts[3] > whole[6] > 1.2 * whole[3]
    assert 0.99 < parts[24] / whole[24] < 1.01


def test_slow_phases_are_found_soon():
    """Waves over a whole beam and more: after three passes little of them is missing, which was most of them before."""
    raw = small_scan(150, counts=1e6)
    frames = streamed(raw)
    found = {}
    for gain in (0.0, slow_phase.MOST_GAIN):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(slow_phase, "MOST_GAIN", gain)
            found[gain] = [project_by_parts(frames, 3)[0].numpy(), frames.begin(8)[0].numpy()]
    known = project_by_parts(frames, 100)[0].numpy()
    light = frames.illumination()[0].numpy() > 1
    for soon, late in zip(*reversed(found.values()), strict=True):
        assert missing_slowly(soon, known, light) < 0.5 * missing_slowly(late, known, light)


def missing_slowly(image, known, light):
    """Root mean square of the phase that is missing, averaged over 16 px, on what is lit."""
    phase = np.angle(image * known.conj() * np.exp(-1j * np.angle((image * known.conj())[light].sum())))
    slow = gaussian_filter(np.where(light, phase, 0.0), 16) / gaussian_filter(light.astype(float), 16).clip(1e-6)
    return np.sqrt((slow[light] ** 2).mean())


@pytest.mark.parametrize("counts", [300, 1e6])
def test_it_settles(counts):
    """At few counts and at many the steps do not break up: later objects explain the counts better."""
    raw = small_scan(100, counts=counts)
    frames = streamed(raw)
    deviances = [frames.deviance(project_by_parts(frames, passes)).deviance for passes in (2, 6, 12, 24, 48)]
    assert all(later <= 1.001 * earlier for earlier, later in itertools.pairwise(deviances))
    assert deviances[-1] < deviances[0]


def test_fewer_frames_than_parts():
    raw = small_scan(40)
    frames = streamed(raw, members=torch.tensor([5, 11]))
    found = project_by_parts(frames, 4)
    assert found.isfinite().all()
    two = streamed(raw, members=torch.tensor([5, 11]))
    assert two.deviance(found).deviance < frames.deviance(frames.vacuum()).deviance


def test_members_alone_take_part():
    raw = small_scan(40)
    half = torch.arange(0, 40, 2)
    counts = raw.diff3d.copy()
    counts[1::2] = 7
    nonsense = RawData(raw.xcoords, raw.ycoords, diff3d=counts, probeGuess=raw.probeGuess)
    probe, good = torch.from_numpy(scaled_guess(raw)), torch.from_numpy(raw.good_pixels)
    one, other = (
        project_by_parts(StreamedFrames(PlacedScan.of(scan), probe, good, members=half), 2) for scan in (raw, nonsense)
    )
    assert torch.equal(one, other)


def moved_by_pass(frames, number):
    """How far a pass moves the object, over its departure from vacuum, both weighted by the light of all frames."""
    before, after = (project_by_parts(frames, passes)[0].numpy() for passes in (number - 1, number))
    light = frames.illumination()[0].numpy()
    return np.sqrt((light * np.abs(after - before) ** 2).sum() / (light * np.abs(after - 1) ** 2).sum())


def left_after(frames, number):
    """How far it is still to go, if passes move the object less and less by a common share, by adding them up."""
    last, share = moved_by_pass(frames, number), moved_by_pass(frames, number) / moved_by_pass(frames, number - 1)
    return sum(last * min(0.8, share) ** k for k in range(1, 200))


@pytest.mark.parametrize("share", [0.3, 0.1])
def test_it_ends_where_the_object_has_settled(share):
    """What is left is less than the share after the last pass, and was more before it."""
    frames = streamed(small_scan(60))
    found = project_by_parts(frames, 40, settled=share)
    passes = [number for number in range(3, 41) if torch.equal(project_by_parts(frames, number), found)]
    assert len(passes) == 1 and passes[0] < 40
    assert left_after(frames, passes[0]) < 1.15 * share < 1.3 * left_after(frames, passes[0] - 1)


def test_an_object_that_does_not_settle_takes_all_passes():
    frames = streamed(small_scan(60))
    assert torch.equal(project_by_parts(frames, 6, settled=1e-9), project_by_parts(frames, 6))


def test_counts_of_vacuum_leave_vacuum():
    """Nothing departs but by rounding, over all the passes that may be made, and nothing is divided by nothing."""
    raw = small_scan(40)
    frames = streamed(raw)
    rates = frames.rates(frames.vacuum(), torch.arange(40)).numpy()
    empty = RawData(raw.xcoords, raw.ycoords, diff3d=np.sqrt(rates), probeGuess=raw.probeGuess).taken_as("amplitude")
    probe = frames.probe
    of_vacuum = StreamedFrames(PlacedScan.of(empty), probe, torch.from_numpy(raw.good_pixels))
    found = project_by_parts(of_vacuum, 40, settled=0.12)
    torch.testing.assert_close(found, of_vacuum.vacuum(), atol=1e-3, rtol=0)
