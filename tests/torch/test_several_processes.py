"""Training by two processes: the steps of one, every frame once."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_scans import small_scan

from ptycho.config.config import ModelConfig, PyTorchExecutionConfig, TrainingConfig
from ptycho_torch import lightning_utils
from ptycho_torch.config_stated import payload_of
from ptycho_torch.data import samplers
from ptycho_torch.data.samplers import BlockRequest, MixedBatches, TrainingBlocks
from ptycho_torch.workflows.training import _LossHistory, run_training


@pytest.fixture
def blocks(rng):
    """Nine blocks of six frames, the last one of five and a neighbour."""
    return TrainingBlocks(rng.uniform(0, 100, (53, 2)), np.arange(53), 6, 0)


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("size", [2, 4])
def test_an_epoch_is_split_without_loss_or_duplication(blocks, world, size, monkeypatch):
    steps, seen = [], []
    for rank in range(world):
        monkeypatch.setattr(samplers, "place_among_processes", lambda rank=rank: (rank, world))
        loader = MixedBatches([(blocks, size)], 0)
        found = list(loader)
        assert len(found) == len(loader)
        steps.append(found)
        seen += [frame for step in found for request in step for frame in request.indices[request.scored]]
    assert sorted(seen) == list(range(53))
    # and the mean over processes is the mean over frames
    for parts in zip(*steps, strict=True):
        scored = [sum(int(request.scored.sum()) for request in part) for part in parts]
        assert all(len({request.share for request in part}) == 1 for part in parts)
        np.testing.assert_allclose([part[0].share for part in parts], world * np.array(scored) / sum(scored))


def test_alone_a_process_takes_the_steps_as_they_are(blocks):
    (first, *_) = MixedBatches([(blocks, 4)], None)
    assert len(first) == 4 and isinstance(first[0], BlockRequest) and first[0].share == 1.0


def trained(folder, devices):
    """Five steps of two blocks; the last step has a block for the first process only.

    Plain gradient steps: Adam divides by the size of a gradient, also where that is rounding alone.
    """
    config = TrainingConfig(
        ModelConfig(N=32, merge_block=6, stages=2, projection_steps=2, later_projection_steps=1),
        nepochs=1, batch_size=12, calibrate_probe=False, val_fraction=0.1, optimizer="sgd",
    )  # fmt: skip
    strategy = "ddp" if devices > 1 else "auto"
    execution = PyTorchExecutionConfig(accelerator="cpu", devices=devices, strategy=strategy, learning_rate=2e-3)
    return run_training(payload_of(config, execution, output_dir=folder), small_scan(60))


def test_two_processes_train_as_one(tmp_path, monkeypatch):
    for name, value in (("NTASKS", "1"), ("JOB_NAME", "job"), ("NTASKS_PER_NODE", "1"), ("JOB_ID", "1")):
        monkeypatch.setenv(f"SLURM_{name}", value)  # as in a batch job of one task
    one, two = trained(tmp_path / "one", 1), trained(tmp_path / "two", 2)
    for (name, expected), found in zip(one.module.state_dict().items(), two.module.state_dict().values(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6, msg=name)
    moved = {name: float(value.abs().max()) for name, value in one.module.state_dict().items() if "head" in name}
    assert min(moved.values()) > 1e-4 and max(moved.values()) > 1e-2  # they begin at zero
    for name in ("train", "val"):
        assert two.losses[name] == pytest.approx(one.losses[name], rel=1e-4) and len(one.losses[name]) == 1
    assert (tmp_path / "two/checkpoints/last.ckpt").is_file()


def test_processes_are_started_by_the_training_unless_somebody_has(monkeypatch):
    two = PyTorchExecutionConfig(accelerator="cpu", devices=2)
    assert lightning_utils.strategy_of(two) == "ddp_spawn"
    assert lightning_utils.strategy_of(dataclasses.replace(two, devices=1)) == "auto"
    assert lightning_utils.strategy_of(dataclasses.replace(two, strategy="fsdp")) == "fsdp"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    assert lightning_utils.strategy_of(dataclasses.replace(two, strategy="ddp")) == "ddp"


def test_a_loss_that_is_no_number_is_kept():
    """In the memory that processes share, what was not logged must not look like it."""
    history = _LossHistory(object(), 3)
    for epoch, loss in enumerate((1.5, math.nan)):
        history.on_train_epoch_end(
            SimpleNamespace(is_global_zero=True, current_epoch=epoch, callback_metrics={"train_loss": loss}), None
        )
    assert list(history.losses) == ["train"]
    assert history.losses["train"] == pytest.approx([1.5, math.nan], nan_ok=True)
