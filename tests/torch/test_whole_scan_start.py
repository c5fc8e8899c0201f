"""What blocks start from: the whole scan, without the frames that they are scored on."""

import numpy as np
import pytest
import torch
from small_scans import small_scan
from torch.testing import assert_close

from ptycho.config.config import PyTorchExecutionConfig
from ptycho_torch.calibration import scaled_guess
from ptycho_torch.config_params import DataConfig, ModelConfig, TrainingConfig
from ptycho_torch.data.module import FOLDS, BlockDataModule, split_of_beside
from ptycho_torch.data.parts import spread_folds
from ptycho_torch.data.samplers import TrainingBlocks
from ptycho_torch.data.scans import LitScan, PlacedScan
from ptycho_torch.reassembly import StreamedFrames
from ptycho_torch.solvers.frames import BlockFrames

STEPS = 3


def lit(raw):
    probe = torch.from_numpy(scaled_guess(small_scan(70)))
    return LitScan(PlacedScan.of(raw), probe, probe)


def data_of(scan, steps=STEPS, validation=(), **model):
    found = BlockDataModule(
        scan, DataConfig(N=32, x_bounds=(0.0, 1.0), y_bounds=(0.0, 1.0)), ModelConfig(merge_block=12, **model),
        TrainingConfig(batch_size=12, val_fraction=0.1, seed=3), PyTorchExecutionConfig(accelerator="cpu"), None,
        validation,
    )  # fmt: skip
    found.begin(steps, "cpu")
    return found


def starts(loader):
    """By fold the start of a scan."""
    return loader.dataset.begun[0]


def with_other_counts(raw, frames):
    """The same scan, but for the counts of some frames."""
    counts = np.array(raw.diff3d)
    counts[frames] = np.roll(counts[frames], 5, axis=-1)
    other = small_scan(70)
    other.diff3d = counts
    return other


@pytest.fixture(scope="module")
def raw():
    return small_scan(70)


def test_folds_are_spread_evenly(rng):
    xy, members = rng.uniform(0, 100, (81, 2)), np.arange(1, 81)
    folds = spread_folds(xy, members, 4, 0)
    assert folds[0] == -1 and np.ptp(np.bincount(folds[members])) <= 1
    nearest = [np.argsort(np.hypot(*(xy - xy[i]).T))[1:6] for i in members]
    assert np.mean([len(set(folds[near])) for near in nearest]) > 3, "neighbours are in different ones"


def test_what_is_scored_makes_no_object(raw):
    data = data_of(lit(raw))
    blocks = data.train_dataloader().sampler
    scored = []
    for epoch in range(60):
        blocks.set_epoch(epoch)
        for request in blocks:
            if request.fold is None:  # made of frames that other blocks score
                assert not request.scored.any()
                continue
            assert request.scored.any() and not (request.scored & request.used).any()
            assert set(blocks.folds[request.indices[~request.used]]) == {request.fold}
            scored += list(request.indices[request.scored])
    assert set(scored) == set(data.train_indices)


def test_no_start_has_seen_the_counts_that_are_scored_on_it(raw):
    """The frames of a fold, and those withheld for validation, may hold anything."""
    data = data_of(lit(raw))
    folds, loader = data.train_dataloader().sampler.folds, data.train_dataloader()
    for fold in (0, FOLDS - 1, None):
        hidden = data.val_indices if fold is None else np.flatnonzero(folds == fold)
        changed = starts(data_of(lit(with_other_counts(raw, hidden))).train_dataloader())
        assert torch.equal(changed[fold].canvas, starts(loader)[fold].canvas)
        assert not torch.equal(changed[1].canvas, starts(loader)[1].canvas) or fold is None


def test_nor_has_that_of_a_scan_for_validation(raw):
    scored = split_of_beside(lit(raw), 3)[1]
    one, other = (data_of(lit(raw), validation=lit(r)) for r in (raw, with_other_counts(raw, scored)))
    assert set(np.concatenate([r.indices[r.scored] for r in one.val_dataloader().sampler])) <= set(scored)
    assert torch.equal(starts(one.val_dataloader())[None].canvas, starts(other.val_dataloader())[None].canvas)


def test_a_block_starts_as_the_whole_scan_does(raw):
    """Cut from the scan's canvas at the block's place; beyond the canvas there is vacuum, and no light."""
    data = data_of(lit(raw))
    placed, loader = lit(raw).placed, data.train_dataloader()
    request = next(iter(loader.sampler))
    fields = loader.dataset[request][0]
    whole, (top, left) = starts(loader)[request.fold], placed.starts[request.indices].amin(0).tolist()
    height, width = fields["shape"].tolist()
    inside = whole.canvas[top : top + height, left : left + width]
    rows, columns = inside.shape
    assert torch.equal(fields["begun"][0, :rows, :columns], inside)
    assert (fields["begun"][0, rows:] == 1).all() and (fields["begun"][0, :, columns:] == 1).all()
    assert (fields["lit"][0, rows:] == 0).all() and (fields["lit"][0, :, columns:] == 0).all()
    kept = np.setdiff1d(data.train_indices, np.flatnonzero(loader.sampler.folds == request.fold))
    by_hand = torch.zeros(placed.canvas.shape)
    for frame in kept:
        row, col = placed.starts[frame].tolist()
        spectrum = np.fft.fft2(lit(raw).probe[0].numpy())
        freq = np.fft.fftfreq(32)
        dy, dx = placed.fractions[frame].numpy()
        moved = np.fft.ifft2(spectrum * np.exp(-2j * np.pi * (freq[:, None] * dy + freq * dx)))
        by_hand[row : row + 32, col : col + 32] += torch.from_numpy(np.abs(moved) ** 2).float()
    assert_close(whole.lit, by_hand, rtol=1e-3, atol=1e-3 * float(by_hand.max()))


def test_frames_outside_hold_the_canvas(raw):
    """A block of all frames goes on as the stream of the scan does; of one frame it moves less where others see."""
    placed, probe = lit(raw).placed, lit(raw).probe
    stream = StreamedFrames(placed, probe, torch.from_numpy(raw.good_pixels))
    canvas = stream.begin(2)
    weight = stream.illumination() * probe.abs().square().sum(0).amax()

    def block(frames):
        counts = placed.counts(torch.arange(70)[frames])[None]
        return BlockFrames(
            counts, probe, placed.starts[frames][None], placed.fractions[frames][None], placed.canvas.shape,
            begun=(canvas, weight),
        )  # fmt: skip

    whole = block(slice(None))
    assert torch.equal(whole.begin(2), canvas)
    assert_close(whole.project(canvas, 2), stream.project(canvas, 2), rtol=1e-3, atol=1e-3)
    single, alone = (b.project(canvas, 1) - canvas for b in (block(slice(30, 31)), _alone(placed, probe, 30)))
    lights = stream.illumination()[0] > 2
    assert single[0][lights].abs().mean() < 0.5 * alone[0][lights].abs().mean()


def _alone(placed, probe, frame):
    at = slice(frame, frame + 1)
    return BlockFrames(
        placed.counts(torch.tensor([frame]))[None], probe, placed.starts[at][None], placed.fractions[at][None],
        placed.canvas.shape,
    )  # fmt: skip


def test_where_others_see_nothing_all_frames_are_used(raw):
    """Frames that lie apart: without a part of them nothing is known where it was."""
    apart = small_scan(70)
    apart.xcoords, apart.ycoords = 3 * apart.xcoords, 3 * apart.ycoords
    data = data_of(lit(apart))
    blocks = data.train_dataloader().sampler
    assert isinstance(blocks, TrainingBlocks) and blocks.folds is None
    assert list(starts(data.train_dataloader())) == [None]


@pytest.mark.parametrize("model", [{"mode": "Supervised"}, {"object_big": False}])
def test_labels_and_single_frames_take_all_frames(raw, model):
    data = data_of(lit(raw), **model)
    assert data.train_dataloader().sampler.folds is None
    assert (starts(data.train_dataloader()) is None) == ("object_big" in model)
