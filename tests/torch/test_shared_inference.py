"""Inference by several processes: the canvas of one, whatever the number."""

import dataclasses

import numpy as np
import pytest
import torch
from small_scans import small_scan

from ptycho.config.config import ModelConfig, PyTorchExecutionConfig, TrainingConfig
from ptycho.diffsim import simulate_demo_scan
from ptycho.errors import InputError
from ptycho_torch import processes, reassembly
from ptycho_torch.data.scans import PlacedScan
from ptycho_torch.halves import HalvesSettings
from ptycho_torch.ordered_subsets import project_by_parts
from ptycho_torch.processes import Share
from ptycho_torch.reassembly import StreamedFrames
from ptycho_torch.workflows.reconstruct import infer_scan, train_scan


def test_the_work_is_dealt_out_once():
    items = list(range(11))
    for n in (1, 2, 3, 20):
        parts = [Share(k, n).mine(items) for k in range(n)]
        assert sorted(item for part in parts for item in part) == items


def test_alone_a_sum_is_the_values_themselves():
    values = torch.ones(3, dtype=torch.complex64)
    assert Share().total(values) is values


def test_tiles_are_dealt_out_once(monkeypatch):
    """What the processes compute adds up to the whole; with fewer tiles than processes, each computes all."""
    raw = small_scan(40)
    monkeypatch.setattr(reassembly, "TILE_PX", 24)
    monkeypatch.setattr(Share, "total", lambda _, values: values)
    scan, good = PlacedScan.of(raw), torch.from_numpy(raw.good_pixels)

    def tiles(share):
        frames = reassembly.StreamedFrames(scan, torch.from_numpy(raw.probe), good, None, share)
        return frames.apply(lambda x: 2 * x, torch.ones(1, *scan.canvas.shape), halo_px=2)

    whole = tiles(Share())
    assert torch.equal(whole, 2 * torch.ones(1, *scan.canvas.shape))
    assert torch.equal(tiles(Share(0, 2)) + tiles(Share(1, 2)), whole) and not torch.equal(tiles(Share(0, 2)), whole)
    assert torch.equal(tiles(Share(400, 500)), whole)


def scan_of(architecture, seed=0):
    side, n_frames = (64, 30) if architecture == "cnn" else (32, 60)
    return simulate_demo_scan(seed, n_frames=n_frames, N=side)


@pytest.mark.parametrize("architecture", ["projection_unet", "cnn"])
def test_three_processes_give_the_object_of_one(architecture, tmp_path):
    raw = scan_of(architecture)
    model = ModelConfig(N=raw.N, architecture=architecture, merge_block=12)
    config = TrainingConfig(model, nepochs=1, calibrate_probe=False, val_fraction=0.0)
    train_scan(raw, config, PyTorchExecutionConfig(accelerator="cpu"), output_dir=tmp_path)
    other = scan_of(architecture, seed=1)
    one, three = (
        infer_scan(tmp_path, other, execution=PyTorchExecutionConfig(accelerator="cpu", devices=n)) for n in (1, 3)
    )
    for name, stage in one.stages.items():
        np.testing.assert_allclose(three.stages[name].object, stage.object, atol=1e-5)
        assert three.stages[name].deviance == pytest.approx(stage.deviance, rel=1e-5)
        assert three.stages[name].expected_deviance == pytest.approx(stage.expected_deviance, rel=1e-5)
    np.testing.assert_allclose(three.frame_deviance, one.frame_deviance, rtol=1e-4)
    np.testing.assert_allclose(three.detector_residual, one.detector_residual, atol=1e-4)
    assert not torch.distributed.is_initialized()


def test_projections_by_parts_of_the_frames(tmp_path):
    """Those of `ordered_subsets`, in one process and in two, and in the halves of the scan too."""
    raw, execution = scan_of("projection_unet"), PyTorchExecutionConfig(accelerator="cpu")
    config = TrainingConfig(ModelConfig(N=raw.N, projection_steps=5), nepochs=0, calibrate_probe=False)
    train_scan(raw, config, execution, output_dir=tmp_path)
    trained = infer_scan(tmp_path, raw, execution=execution)
    halves = HalvesSettings()
    one, two = (
        infer_scan(tmp_path, raw, execution=dataclasses.replace(execution, devices=n), halves=halves, projections=2)
        for n in (1, 2)
    )
    placed = PlacedScan.of(raw)
    frames = StreamedFrames(placed, torch.from_numpy(one.probe), torch.from_numpy(raw.good_pixels))
    expected = project_by_parts(frames, 2)[0].numpy()
    lit = one.coverage > 0
    np.testing.assert_allclose(one.stages["projection"].object[lit], expected[lit], atol=1e-5)
    for name, stage in one.stages.items():
        np.testing.assert_allclose(two.stages[name].object, stage.object, atol=1e-5)
        assert np.abs(stage.object - trained.stages[name].object).max() > 0.01
        assert two.halves.stages[name].deviance == pytest.approx(one.halves.stages[name].deviance, rel=1e-4)
    assert one.settings["projections"] == 2 and "projections" not in trained.settings
    assert "Projections before the network: 2, by parts of the frames, as asked for." in one.notes
    with pytest.raises(InputError, match="projections=0: found less than 1"):
        infer_scan(tmp_path, raw, execution=execution, projections=0)


def test_projections_of_an_architecture_that_takes_none_are_refused(tmp_path):
    raw, execution = scan_of("cnn"), PyTorchExecutionConfig(accelerator="cpu")
    model = ModelConfig(N=raw.N, architecture="cnn", projection_steps=2)
    train_scan(raw, TrainingConfig(model, nepochs=0, calibrate_probe=False), execution, output_dir=tmp_path)
    with pytest.raises(InputError, match="projections=3: the architecture 'cnn' takes no projections"):
        infer_scan(tmp_path, raw, execution=execution, projections=3)


def fails(share):
    raise ValueError(f"process {share.number}")


def test_a_process_that_fails_is_told(tmp_path):
    """And nobody waits for it for ever."""
    threads = torch.get_num_threads()
    with pytest.raises(Exception, match=r"process 1|[Cc]onnection|gloo"), processes.started(
        2, fails, (), "cpu"
    ) as share:
        share.total(torch.ones(2))
    assert torch.get_num_threads() == threads
