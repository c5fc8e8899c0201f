"""Blocks, batches and the split."""

import numpy as np
import pytest
import torch
from small_scans import small_scan

from ptycho.config.config import PyTorchExecutionConfig
from ptycho_torch.config_params import DataConfig, ModelConfig, TrainingConfig
from ptycho_torch.data.blocks import BlockDataset, PlacedScan, TrainingBlocks, split_frames
from ptycho_torch.data.module import BlockDataModule

CPU = PyTorchExecutionConfig(accelerator="cpu")


@pytest.fixture(scope="module")
def scan():
    return PlacedScan.of(small_scan(70))


def module(scan, *, block=12, batch=24, val=0.1, n_groups=None, execution=CPU, object_big=True, C=1):
    return BlockDataModule(
        scan, DataConfig(N=32, C=C), ModelConfig(merge_block=block, object_big=object_big),
        TrainingConfig(batch_size=batch, val_fraction=val, seed=3), execution, n_groups,
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
        assert r.scored[0, 0], "the frame at the centre is scored"
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
    shapes = {r.indices.shape for r in requests(module(scan, **settings))}
    assert max(shapes)[0] == blocks_per_batch and {s[1] for s in shapes} == {size}


def test_n_groups_limits_the_epoch(scan):
    assert sum(r.indices.size for r in requests(module(scan, n_groups=24))) == 24


def test_batches_hold_the_frames_at_their_places(scan):
    xy = np.stack((scan.raw.xcoords, scan.raw.ycoords), 1)
    sampler = TrainingBlocks(xy, np.arange(70), 10, 3, seed=0)
    request = next(iter(sampler))
    batch = BlockDataset(scan)[request]
    assert batch.counts.shape == (3, 10, 32, 32) and batch.counts.dtype == torch.float32
    np.testing.assert_array_equal(batch.counts.numpy(), scan.raw.diff3d[request.indices])
    exact = batch.starts + batch.fractions
    for k in range(3):
        relative = xy[request.indices[k]][:, ::-1] - xy[request.indices[k, 0]][::-1]
        np.testing.assert_allclose((exact[k] - exact[k, :1]).numpy(), relative, atol=1e-4)
    height, width = batch.shape.tolist()
    assert batch.starts.min() == 0
    assert batch.starts[..., 0].max() + 32 <= height and batch.starts[..., 1].max() + 32 <= width


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
        assert torch.equal(a.counts, b.counts) and torch.equal(a.starts, b.starts)
