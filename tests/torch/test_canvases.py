"""Canvases in memory and on disk."""

import os

import numpy as np
import pytest
import torch

from ptycho.diffsim import simulate_demo_scan
from ptycho.errors import InputError
from ptycho_torch import canvases
from ptycho_torch.canvases import Canvases
from ptycho_torch.config_params import ModelConfig
from ptycho_torch.data.scans import PlacedScan
from ptycho_torch.generators.registry import build_generator
from ptycho_torch.reassembly import StreamedFrames

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128, torch.float32])
def test_one_on_disk_is_as_one_in_memory(tmp_path, dtype):
    made = Canvases(tmp_path).zeros((30, 50), dtype, CPU)
    assert made.dtype == dtype and made.shape == (30, 50) and made.is_contiguous() and not made.any()
    made[3:5, 7] = 2
    again = Canvases(tmp_path).copy(made)
    made[0, 0] = 1
    assert again.sum() == 4 and made.sum() == 5


def test_no_file_is_left_and_none_is_shared(tmp_path):
    one, other = (Canvases(tmp_path).zeros((40, 40), torch.float32, CPU) for _ in range(2))
    assert os.listdir(tmp_path) == []
    one += 1
    assert not other.any()
    kept = one.numpy()
    del one
    assert kept.sum() == 1600, "an array of it holds the mapping"


def test_a_disk_without_room_is_told_of(tmp_path, monkeypatch):
    def full(file, n_bytes):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(canvases, "_take_room", full)
    with pytest.raises(InputError, match=r"a canvas of 8 MiB could not be kept there.*No space left.*Free room"):
        Canvases(tmp_path).zeros((1024, 2048), torch.float32, CPU)
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="could not be kept there"):
        Canvases(tmp_path / "none").zeros((4, 4), torch.float32, CPU)


def test_a_device_with_memory_of_its_own_is_refused(tmp_path):
    with pytest.raises(InputError, match="device 'meta'.*expected the CPU"):
        Canvases(tmp_path).zeros((4, 4), torch.float32, torch.device("meta"))


MODELS = {
    "projection_unet": ModelConfig(stages=2, projection_steps=3, later_projection_steps=2),
    "cnn": ModelConfig(architecture="cnn"),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_stream_makes_the_same_object_on_disk(tmp_path, monkeypatch, name):
    raw = simulate_demo_scan(0, n_frames=12, N=64)
    scan = PlacedScan.of(raw)
    probe = torch.from_numpy(np.asarray(raw.probeGuess, np.complex64)).reshape(1, raw.N, raw.N)
    probe = probe * (raw.mean_counts_per_frame() / probe.abs().square().sum()) ** 0.5
    generator = build_generator(MODELS[name], raw.N).eval()
    monkeypatch.setattr("ptycho_torch.reassembly.TILE_PX", 16)  # tiles, which are put together on a canvas
    found = []
    for where in (Canvases(), Canvases(tmp_path)):
        frames = StreamedFrames(scan, probe, torch.from_numpy(raw.good_pixels), begins=2, canvases=where)
        with torch.no_grad():
            found.append((generator(frames), generator.without_network(frames), frames.illumination()))
    for in_memory, on_disk in zip(*found, strict=True):
        assert torch.equal(in_memory, on_disk)
    assert os.listdir(tmp_path) == []
