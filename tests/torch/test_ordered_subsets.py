"""First projections by parts of the frames, against a loop over frames in NumPy, and what they are worth."""

import itertools

import numpy as np
import pytest
import torch
from frame_loops import asked_for, scan_of_a_narrow_beam, shifted, with_a_mask
from small_scans import against_truth, small_scan

from ptycho.raw_data import RawData
from ptycho_torch.calibration import scaled_guess
from ptycho_torch.data.scans import PlacedScan
from ptycho_torch.generators.base import ByParts
from ptycho_torch.ordered_subsets import MOST_MOMENTUM, PARTS, STEP, project_by_parts
from ptycho_torch.physics.backprojection import POISSON_WEIGHT
from ptycho_torch.reassembly import StreamedFrames


def streamed(raw, batch_size=None, members=None):
    probe = torch.from_numpy(scaled_guess(raw))
    return StreamedFrames(PlacedScan.of(raw), probe, torch.from_numpy(raw.good_pixels), batch_size, members=members)


def by_loop(raw, passes, members_of_parts):
    """The same frame by frame in double precision, and the parts as they were made."""
    scan, modes = PlacedScan.of(raw), scaled_guess(raw).astype(np.complex128)
    n, w = raw.N, POISSON_WEIGHT
    peak = (np.abs(modes) ** 2).sum(axis=0).max()
    floor = min(0.02 * np.sqrt(peak), 1e-2 * peak) / len(members_of_parts)
    counts = np.fft.ifftshift(raw.diff3d.astype(float), axes=(1, 2))
    good = np.fft.ifftshift(raw.good_pixels)
    where = [tuple(slice(at, at + n) for at in start) for start in scan.starts.tolist()]
    lights = [np.stack([shifted(mode, part) for mode in modes]) for part in scan.fractions.double().numpy()]
    lit = np.zeros((len(members_of_parts), *scan.canvas.shape))
    for number, members in enumerate(members_of_parts):
        for j in members:
            lit[number][where[j]] += (np.abs(lights[j]) ** 2).sum(axis=0)
    most = lit.max(axis=0)
    current = ahead = np.ones(scan.canvas.shape, complex)
    made = 0
    for _ in range(passes):
        for members in members_of_parts:
            total = np.zeros_like(ahead)
            for j in members:
                waves = lights[j] * ahead[where[j]]
                change = asked_for(waves, counts[j], good, w)
                total[where[j]] += (np.conj(lights[j]) * change).sum(axis=0)
            moved = ahead + STEP * (total + floor * (1 - ahead)) / (most + floor)
            ahead = moved + min(MOST_MOMENTUM, made / (made + 3)) * (moved - current)
            current, made = moved, made + 1
    return current


def parts_of(frames, monkeypatch):
    """The frames of each part, as `project_by_parts` makes them."""
    seen, only = [], StreamedFrames.only

    def noted(self, members):
        seen.append(members.tolist())
        return only(self, members)

    monkeypatch.setattr(StreamedFrames, "only", noted)
    project_by_parts(frames, 1)
    monkeypatch.undo()
    return seen


@pytest.mark.parametrize("masked", [False, True])
def test_it_is_the_loop_over_frames(monkeypatch, rng, masked):
    raw = scan_of_a_narrow_beam(rng)
    raw = with_a_mask(raw) if masked else raw
    frames = streamed(raw, batch_size=7)
    parts = parts_of(frames, monkeypatch)
    assert len(parts) == PARTS and sorted(member for part in parts for member in part) == list(range(40))
    found = project_by_parts(frames, 3)[0].numpy()
    expected = by_loop(raw, 3, parts)
    assert np.abs(expected - 1).max() > 0.3
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_parts_lie_side_by_side(monkeypatch):
    """A frame's nearest neighbours are in other parts: each part lights nearly all that all frames light."""
    frames = streamed(small_scan(60))
    lit = frames.illumination()[0] > 0.5
    for members in parts_of(frames, monkeypatch):
        assert 14 <= len(members) <= 16
        assert (frames.only(torch.tensor(members)).illumination()[0][lit] > 0.01).double().mean() > 0.95


def test_the_batch_size_changes_nothing():
    raw = small_scan(40)
    few, many = (project_by_parts(streamed(raw, batch_size=n), 3) for n in (3, 256))
    torch.testing.assert_close(few, many, rtol=1e-3, atol=1e-3)


def test_a_pass_is_worth_three_projections():
    raw = small_scan(150)
    frames = streamed(raw)
    whole = {steps: against_truth(frames.begin(steps)[0].numpy(), raw).ssim for steps in (8, 24)}
    parts = against_truth(frames.begin(ByParts(8))[0].numpy(), raw).ssim
    assert parts > 0.95 * whole[24] > 1.1 * whole[8]


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
    assert frames.only(torch.tensor([5, 11])).deviance(found).deviance < frames.deviance(frames.vacuum()).deviance


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


@pytest.mark.parametrize("share", [0.2, 0.05])
def test_it_ends_where_the_object_has_settled(share):
    """The share is that of the last pass; the passes before it moved the object farther."""
    frames = streamed(small_scan(60))
    found = project_by_parts(frames, 40, settled=share)
    passes = [number for number in range(2, 41) if torch.equal(project_by_parts(frames, number), found)]
    assert len(passes) == 1 and passes[0] < 40
    assert moved_by_pass(frames, passes[0]) < 1.15 * share < 1.3 * moved_by_pass(frames, passes[0] - 1)


def test_an_object_that_does_not_settle_takes_all_passes():
    frames = streamed(small_scan(60))
    assert torch.equal(project_by_parts(frames, 3, settled=1e-9), project_by_parts(frames, 3))


def test_vacuum_has_settled_at_once():
    """Counts that are those of vacuum: nothing departs, and nothing is divided by nothing."""
    raw = small_scan(40)
    frames = streamed(raw)
    rates = frames.rates(frames.vacuum(), torch.arange(40)).numpy()
    empty = RawData(raw.xcoords, raw.ycoords, diff3d=np.sqrt(rates), probeGuess=raw.probeGuess).taken_as("amplitude")
    probe = frames.probe
    of_vacuum = StreamedFrames(PlacedScan.of(empty), probe, torch.from_numpy(raw.good_pixels))
    torch.testing.assert_close(project_by_parts(of_vacuum, 3, settled=0.02), of_vacuum.vacuum(), atol=1e-3, rtol=0)
