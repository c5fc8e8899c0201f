"""How fast training and inference are, and what the way from the file costs beside the arithmetic: `make bench`.

Everything is a ratio within one run: the whole training loop against the same step on batches that are already made,
streamed inference against projection and network on frames that are already in memory, one architecture against the
other. Medians of five.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from machine import median_time, replace_section, table, write_json

from ptycho.config.config import ModelConfig, PyTorchExecutionConfig, TrainingConfig
from ptycho.diffsim import simulate_demo_scan
from ptycho.raw_data import RawData
from ptycho_torch.config_stated import payload_of
from ptycho_torch.data.module import BlockDataModule
from ptycho_torch.data.scans import PlacedScan
from ptycho_torch.lightning_utils import determinism_restored
from ptycho_torch.model import PtychoPINN_Lightning
from ptycho_torch.reassembly import StreamedFrames
from ptycho_torch.workflows.reconstruct import infer_with
from ptycho_torch.workflows.training import TrainingJob

HERE = Path(__file__).parent
REPEATS = 5
FRAMES = {64: 480, 128: 240}
METHODS: dict[str, dict[str, Any]] = {
    "projection_unet, 1 stage, 1 projection": {"stages": 1, "projection_steps": 1},
    "projection_unet, 1 stage, 10 projections": {"stages": 1, "projection_steps": 10},
    "projection_unet, default": {},
    "cnn": {"architecture": "cnn"},
}
EXECUTION = PyTorchExecutionConfig(accelerator="cpu")


@dataclass(frozen=True)
class ReadyScan(PlacedScan):
    """A scan whose frames are in memory as floats."""

    ready: torch.Tensor

    def counts(self, indices: torch.Tensor) -> torch.Tensor:
        """Some frames."""
        return self.ready[indices]


class ReadyFrames(StreamedFrames):
    """The same arithmetic on batches that are made, and weights that are placed, beforehand."""

    def __init__(self, scan: PlacedScan, probe: torch.Tensor) -> None:
        everything = scan.counts(torch.arange(scan.raw.n_frames))
        in_memory = ReadyScan(scan.raw, scan.canvas, scan.starts, scan.fractions, everything)
        super().__init__(in_memory, probe, torch.ones(probe.shape[-2:], dtype=torch.bool))
        self._made = {int(at[0]): super(ReadyFrames, self)._counts(at) for at in self.batches()}

    def _counts(self, at: torch.Tensor) -> torch.Tensor:
        return self._made[int(at[0])]


class EpochTimes(pl.Callback):
    """When each epoch ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.ends.append(time.perf_counter())


def configured(method: dict[str, Any], side: int) -> TrainingConfig:
    """All frames are trained on, none is withheld, the probe is that of the file."""
    return TrainingConfig(
        ModelConfig(N=side, **method), nepochs=REPEATS + 1, stop_improvement=0.0,
        val_fraction=0.0, calibrate_probe=False,
    )  # fmt: skip


def train(raw: RawData, method: dict[str, Any]) -> tuple[PtychoPINN_Lightning, BlockDataModule, float]:
    """The trained module, its data, and the median time of an epoch of the whole loop, in seconds."""
    with tempfile.TemporaryDirectory() as folder:
        payload = payload_of(configured(method, raw.N), EXECUTION, output_dir=Path(folder))
        job, times = TrainingJob(payload, Path(folder), False), EpochTimes()
        job.trainer.callbacks.append(times)
        scans = job.run(raw).scans
    data = BlockDataModule(
        scans, payload.pt_data_config, payload.pt_model_config, payload.pt_training_config, EXECUTION, None
    )
    data.begin(getattr(job.module.generator, "begin_steps", 0), "cpu")
    # from end to end, with the log and the checkpoints; the first epoch warms up
    return job.module, data, float(np.median(np.diff(times.ends)))


def bare_epoch(module: PtychoPINN_Lightning, data: BlockDataModule) -> float:
    """Median time of the same steps on batches that are made beforehand, in seconds."""
    batches = list(data.train_dataloader())
    optimiser = torch.optim.Adam(module.parameters(), lr=1e-6)
    module.train()

    def epoch() -> None:
        for batch in batches:
            optimiser.zero_grad()
            module.compute_loss(batch).backward()
            optimiser.step()

    return median_time(epoch, REPEATS)


def inference(module: PtychoPINN_Lightning, file: Path) -> tuple[float, float]:
    """Median times of a scan from its file to the canvas, and of projection and network on frames in memory."""

    @torch.no_grad()
    def whole() -> None:
        raw = RawData.from_file(file)
        frames = StreamedFrames(PlacedScan.of(raw), module.probe, torch.from_numpy(raw.good_pixels))
        module.generator(frames)

    ready = ReadyFrames(PlacedScan.of(RawData.from_file(file)), module.probe)

    @torch.no_grad()
    def bare() -> None:
        module.generator(ready)

    module.eval()
    return median_time(whole, REPEATS), median_time(bare, REPEATS)


def measure(side: int, folder: Path) -> list[dict[str, Any]]:
    """Figures of every method at this side of a frame."""
    raw = simulate_demo_scan(0, n_frames=FRAMES[side], N=side, counts_per_frame=25 * side**2)
    file = folder / f"scan_{side}.h5"
    raw.to_file(file)
    found = []
    for name, method in METHODS.items():
        with determinism_restored():  # as every training runs; the bare steps too
            module, data, loop_s = train(raw, method)
            step_s = bare_epoch(module, data)
        infer_with(module, raw, EXECUTION)  # warms up
        whole_s, bare_s = inference(module, file)
        n = raw.n_frames
        found.append({
            "N": side, "method": name, "training_frames_per_s": n / loop_s, "training_to_bare": step_s / loop_s,
            "inference_frames_per_s": n / whole_s, "inference_to_bare": bare_s / whole_s,
        })  # fmt: skip
        print(found[-1], flush=True)
    slowest = found[-1]
    for row in found:
        row["training_to_cnn"] = row["training_frames_per_s"] / slowest["training_frames_per_s"]
        row["inference_to_cnn"] = row["inference_frames_per_s"] / slowest["inference_frames_per_s"]
    return found


HEADER = ["N", "method", "training (frames/s)", "loop / bare step", "over the cnn", "inference (frames/s)",
          "file to canvas / bare", "over the cnn"]  # fmt: skip
INTRODUCTION = """## Speed of training and inference

`python benchmarks/speed.py`. Simulated scans, gridsize 1, one mode of the probe. "Loop / bare step": the rate of the
whole training loop over that of the same steps (projection, network, physics, loss, backward, optimiser) on batches
made beforehand. "File to canvas / bare": the rate from an HDF5 file to the object over that of projection and network
on the same batches made beforehand. Medians of {repeats}.
Measured on {processor}, {cores} cores, {threads} threads, torch {torch}, {date}.
"""


def main() -> None:
    """Run what the command line asks for."""
    from machine import machine

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 128], choices=sorted(FRAMES))
    parser.add_argument("--output", type=Path, default=HERE / "speed.json")
    parser.add_argument("--page", type=Path, default=HERE / "README.md")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("ptycho_torch").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for side in arguments.sides for row in measure(side, Path(folder))]
    write_json(arguments.output, {"results": rows})
    lines = [
        [str(row["N"]), row["method"], f"{row['training_frames_per_s']:.0f}", f"{row['training_to_bare']:.2f}",
         f"{row['training_to_cnn']:.1f}", f"{row['inference_frames_per_s']:.0f}", f"{row['inference_to_bare']:.2f}",
         f"{row['inference_to_cnn']:.1f}"]
        for row in rows
    ]  # fmt: skip
    introduction = INTRODUCTION.format(repeats=REPEATS, **machine())
    replace_section(arguments.page, "speed", f"{introduction}\n{table(HEADER, lines)}")


if __name__ == "__main__":
    main()
