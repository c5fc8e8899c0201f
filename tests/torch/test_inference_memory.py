"""The memory of inference: what it grows by when the canvas grows."""

import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from ptycho.memory import hand_back
from ptycho.raw_data import RawData
from ptycho_torch.canvases import Canvases
from ptycho_torch.config_params import ModelConfig
from ptycho_torch.data.scans import PlacedScan
from ptycho_torch.model import PtychoPINN_Lightning
from ptycho_torch.workflows.reconstruct import reconstruct

N = 32
LARGE_PX = 3000
"""Side of a canvas whose maps of real numbers, half as large, are over 32 MiB: of smaller ones the C library may keep
what was freed."""


def anonymous_bytes():
    """Anonymous memory of this process."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))


class Peak:
    """The greatest anonymous memory within, over that before."""

    def __enter__(self):
        hand_back()
        self.before = self.most = anonymous_bytes()
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self):
        while not self.ended.wait(0.002):
            self.most = max(self.most, anonymous_bytes())

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()
        self.bytes = self.most - self.before


def scattered(rng, side_px):
    """A few frames, far apart on a canvas of so many pixels."""
    y, x = rng.uniform(0, side_px - N, (2, 300))
    y[:2], x[:2] = (0, side_px - N), (0, side_px - N)
    rows = np.arange(N) - N // 2
    probe = np.exp(-(rows[:, None] ** 2 + rows[None] ** 2) / 60).astype(np.complex64)
    return RawData(x, y, diff3d=rng.poisson(20, (300, N, N)).astype(np.uint16), probeGuess=probe)


def growth(stages, steps, later, folder=None):
    """By how many canvases the peak grows from a small to a large one; those on disk are in ``folder``."""
    config = ModelConfig(stages=stages, projection_steps=steps, later_projection_steps=later)
    module = PtychoPINN_Lightning(config)
    for corrector in module.generator.correctors:
        corrector.forward = lambda features: torch.zeros_like(features[:, :2])  # the network takes the same everywhere
    module.set_illumination(*[np.ones((1, N, N), np.complex64)] * 2, np.ones((N, N), bool), 1.0, "intensity", None)
    rng = np.random.default_rng(0)

    def peak(side_px):
        scan = PlacedScan.of(scattered(rng, side_px))
        with Peak() as found:
            outcome = reconstruct(module, scan, scan.raw.probe, canvases=Canvases(folder))
        return found.bytes, outcome.result.object.nbytes

    peak(300)  # what is made once
    small, large = peak(300), peak(LARGE_PX)
    return (large[0] - small[0]) / large[1]


CASES = {"1 1 0": 3.3, "2 3 0": 3.8, "2 3 3": 6.6}
ON_DISK = "2 3 3"


@pytest.fixture(scope="module")
def growths():
    """In a process of its own: the heap of one that has run much has gaps as large as canvases, and keeps them."""
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=True, timeout=300)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("case", CASES)
def test_the_canvases_that_exist_at_a_time(growths, case):
    """A map of real numbers, half as large as a canvas, and two results, or three canvases while projections are
    extrapolated: 3.5 at most; projections that follow have the first ones beside them. The case: stages, first and
    later projections."""
    assert 2 < growths[case] < CASES[case]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_canvas_on_disk_takes_memory(growths):
    """What is left is the number of frames that see each pixel, half of a canvas."""
    assert growths["on disk"] < 0.7


if __name__ == "__main__":
    found = {case: growth(*map(int, case.split())) for case in CASES}
    with tempfile.TemporaryDirectory() as disk:
        found["on disk"] = growth(*map(int, ON_DISK.split()), Path(disk))
    sys.stdout.write(json.dumps(found))
