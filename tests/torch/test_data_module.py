"""Blocks, batches and the split."""

import numpy as np
import pytest
import torch
from small_scans import small_scan

from ptycho.config.config import PyTorchExecutionConfig
from ptycho_torch.calibration import scaled_guess
from ptycho_torch.config_params import DataConfig, ModelConfig, TrainingConfig
from ptycho_torch.data.blocks import BlockDataset
from ptycho_torch.data.module import BlockDataModule
from ptycho_torch.data.samplers import TrainingBlocks, split_frames, within_bounds
from ptycho_torch.data.scans import LitScan, PlacedScan

CPU = PyTorchExecutionConfig(accelerator="cpu")


def lit(raw, **fields):
    probe = torch.from_numpy(scaled_guess(raw))
    return LitScan(PlacedScan.of(raw), probe, probe, **fields)


@pytest.fixture(scope="module")
def scan():
    return lit(small_scan(70))


def module(
    scan, *, block=12, batch=24, val=0.1, n_groups=None, execution=CPU, object_big=True, C=1, bounds=(0.0, 1.0),
    sequential=False, validation=(),
):  # fmt: skip
    return BlockDataModule(
        scan, DataConfig(N=32, C=C, x_bounds=bounds, y_bounds=bounds),
        ModelConfig(merge_block=block, object_big=object_big),
        TrainingConfig(batch_size=batch, val_fraction=val, seed=3, sequential_sampling=sequential), execution, n_groups,
        validation,
    )  # fmt: skip


def requests(data):
    return list(data.train_dataloader().sampler)


def test_every_training_frame_is_scored_once_per_epoch(scan):
    data = module(scan)
    scored = np.concatenate([r.indices[r.scored] for r in requests(data)])
    assert sorted(scored) == list(data.train_indices)


def test_withheld_frames_are_scored_once_and_never_used(scan):
    data = module(scan)
    assert len(data.val_indices) == 7 and not set(data.val_indices) & set(data.train_indices)
    scored = []
    for r in data.val_dataloader().sampler:
        scored += list(r.indices[r.scored])
        assert not set(r.indices[r.used]) & set(data.val_indices)
        assert r.scored[0], "the frame at the centre is scored"
    assert len(scored) == len(set(scored)) >= 3
    assert set(scored) <= set(data.val_indices)
    assert len(data.val_dataloader()) <= max(1, len(data.train_dataloader().sampler.members) // 12 // 2 + 1)
    assert not any(set(r.indices.ravel()) & set(data.val_indices) for r in requests(data))


def test_no_withheld_frames_no_validation(scan):
    assert module(scan, val=0.0).val_dataloader() == []


def test_epochs_differ_and_are_reproducible(scan):
    first, second = module(scan), module(scan)
    sampler = first.train_dataloader().sampler
    epoch0 = [r.indices for r in sampler]
    sampler.set_epoch(1)
    epoch1 = [r.indices for r in sampler]
    assert not all(np.array_equal(a, b) for a, b in zip(epoch0, epoch1, strict=True))
    again = [r.indices for r in second.train_dataloader().sampler]
    assert all(np.array_equal(a, b) for a, b in zip(epoch0, again, strict=True))


def test_the_global_random_state_is_left_alone(scan):
    np.random.seed(5)  # noqa: NPY002
    torch.manual_seed(5)
    before = np.random.get_state()[1].copy(), torch.get_rng_state().clone()  # noqa: NPY002
    requests(module(scan))
    split_frames(50, 0.2, 1)
    assert np.array_equal(before[0], np.random.get_state()[1]) and torch.equal(before[1], torch.get_rng_state())  # noqa: NPY002


@pytest.mark.parametrize(
    ("settings", "blocks_per_batch", "size"),
    [
        ({"batch": 24}, 2, 12),
        ({"batch": 1}, 1, 12),
        ({"batch": 6, "C": 4}, 2, 12),
        ({"object_big": False, "batch": 16}, 16, 1),
    ],
)
def test_batch_size_counts_groups_in_whole_blocks(scan, settings, blocks_per_batch, size):
    data = module(scan, **settings)
    assert [data.train_dataloader().batch_size] == data.blocks_per_step == [blocks_per_batch]
    assert {r.indices.shape for r in requests(data)} == {(size,)}


def test_n_groups_limits_the_epoch(scan):
    assert sum(r.indices.size for r in requests(module(scan, n_groups=24))) == 24


def test_batches_hold_the_frames_at_their_places(scan):
    placed = scan.placed
    sampler = TrainingBlocks(placed.xy, np.arange(70), 10, seed=0)
    asked = list(sampler)[:3]
    fields, probe, _ = BlockDataset([scan]).__getitems__(asked)
    indices = np.stack([r.indices for r in asked])
    assert fields["images"].shape == (3, 10, 32, 32) and fields["images"].dtype == torch.float32
    np.testing.assert_array_equal(fields["images"].numpy(), placed.raw.diff3d[indices])
    exact = fields["starts"] + fields["fractions"]
    for k in range(3):
        relative = placed.xy[indices[k]][:, ::-1] - placed.xy[indices[k, 0]][::-1]
        np.testing.assert_allclose((exact[k] - exact[k, :1]).numpy(), relative, atol=1e-4)
        centre = placed.xy[indices[k]].mean(0)
        np.testing.assert_allclose(fields["coords_relative"][k, :, 0], centre - placed.xy[indices[k]], atol=1e-4)
    height, width = fields["shape"].tolist()
    starts = fields["starts"]
    assert starts.min() == 0
    assert starts[..., 0].max() + 32 <= height and starts[..., 1].max() + 32 <= width
    assert torch.equal(probe, scan.probe)


def test_batches_bring_their_photon_scale(scan):
    fields, _, scaling = next(iter(module(scan).train_dataloader()))
    frames = scan.placed.raw.diff3d.astype(float)
    expected = np.sqrt(frames.sum() / 70) / 16
    assert fields["physics_scaling_constant"].shape == fields["rms_scaling_constant"].shape == (2, 1, 1, 1)
    np.testing.assert_allclose(scaling.numpy(), expected, rtol=1e-5)
    np.testing.assert_allclose(fields["physics_scaling_constant"].numpy(), expected, rtol=1e-5)
    scaled = np.sqrt(frames) * fields["rms_scaling_constant"][0].numpy()
    assert (scaled**2).sum() / 70 == pytest.approx(16.0**2, rel=1e-4), "a mean energy of (N/2)^2"


def test_bounds_select_what_is_scored_and_not_what_is_used(scan):
    data = module(scan, bounds=(0.25, 0.75), val=0.0)
    xy = scan.placed.xy
    share = (xy - xy.min(0)) / np.ptp(xy, axis=0)
    inside = {i for i in range(70) if all(0.25 <= s <= 0.75 for s in share[i])}
    assert 0 < len(inside) < 70
    assert {i for r in requests(data) for i in r.indices[r.scored]} == inside
    assert {i for r in requests(data) for i in r.indices[r.used]} == set(range(70))
    assert within_bounds(xy, (0.5, 0.5), (0.5, 0.5)).sum() == 1, "something is always left"


def test_sequential_sampling_takes_the_first_frames_in_one_order(scan):
    data = module(scan, sequential=True, val=0.0, n_groups=36)
    first = requests(data)
    data.train_dataloader().sampler.set_epoch(5)
    again = requests(data)
    assert all(np.array_equal(a.indices, b.indices) for a, b in zip(first, again, strict=True))
    assert {i for r in first for i in r.indices} == set(range(36))
    lowest = [r.indices.min() for r in first]
    assert lowest == sorted(lowest)


def test_fixed_groups_stay_together(scan):
    groups = np.arange(40).reshape(10, 4)
    grouped = lit(scan.placed.raw.subset(slice(0, 40)), groups=groups)
    data = module(grouped, batch=3, C=4)
    assert data.train_dataloader().batch_size == 3 and not data.validates
    epoch = [tuple(r.indices) for r in requests(data)]
    assert sorted(epoch) == [tuple(g) for g in groups] and epoch != sorted(epoch)
    assert [tuple(r.indices) for r in requests(module(grouped, C=4, sequential=True))] == [tuple(g) for g in groups]
    sizes = [fields["images"].shape[0] for fields, _, _ in data.train_dataloader()]
    assert sizes == [3, 3, 3, 1]


def test_another_scan_validates_on_withheld_frames_of_its_own(scan):
    other = lit(small_scan(30, seed=4))
    data = module(scan, validation=other)
    assert len(data.train_indices) == 70 and len(data.val_indices) == 0 and data.validates
    scored = set()
    for r in data.val_dataloader().sampler:
        assert not set(r.indices[r.used]) & set(r.indices[r.scored])
        scored |= set(r.indices[r.scored])
    assert 0 < len(scored) <= 6, "a fifth of the thirty frames"
    fields, _, _ = next(iter(data.val_dataloader()))
    assert fields["images"].shape[0] == 1


def test_loaders_take_the_execution_config(scan):
    execution = PyTorchExecutionConfig(
        accelerator="cpu", num_workers=2, pin_memory=True, persistent_workers=True, prefetch_factor=3
    )
    loader = module(scan, execution=execution).train_dataloader()
    assert (loader.num_workers, loader.pin_memory, loader.persistent_workers, loader.prefetch_factor) == (
        2,
        True,
        True,
        3,
    )
    idle = module(scan).train_dataloader()
    assert (idle.num_workers, idle.persistent_workers, idle.prefetch_factor) == (0, False, None)


def test_workers_give_what_the_main_process_gives(scan):
    with_workers = module(scan, execution=PyTorchExecutionConfig(accelerator="cpu", num_workers=2))
    for a, b in zip(with_workers.train_dataloader(), module(scan).train_dataloader(), strict=True):
        assert torch.equal(a[0]["images"], b[0]["images"]) and torch.equal(a[0]["starts"], b[0]["starts"])
