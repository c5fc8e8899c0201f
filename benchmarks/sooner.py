"""How much sooner projections and a small network reach what the published network has learned after ten minutes.

Both architectures train on the same scan in the same run; the object is compared with the true one after each epoch,
and the time that takes is not counted.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from machine import machine, replace_section, table, write_json

from ptycho.config.config import ModelConfig, PyTorchExecutionConfig, TrainingConfig
from ptycho.diffsim import simulate_demo_scan
from ptycho.placed import compare_placed, place_outcome, place_truth
from ptycho.raw_data import RawData
from ptycho_torch.config_stated import payload_of
from ptycho_torch.data.scans import PlacedScan
from ptycho_torch.workflows.reconstruct import reconstruct
from ptycho_torch.workflows.training import TrainingJob

HERE = Path(__file__).parent
EXECUTION = PyTorchExecutionConfig(accelerator="cpu")


class Curve(pl.Callback):
    """The figure of the whole scan after each epoch, with the time of training until then.

    Attributes:
        points: pairs of seconds and phase correlation.
        alone: phase correlation of the projections without a network.
    """

    def __init__(self, raw: RawData) -> None:
        self.points: list[tuple[float, float]] = []
        self._scan, self._truth = PlacedScan.of(raw), place_truth(raw)
        self.alone = self._paused = 0.0
        self._start = time.perf_counter()  # the first projections are made before the first step

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reconstruct, compare, and take that time off."""
        now = time.perf_counter()
        outcome = reconstruct(pl_module, self._scan)
        pl_module.train()
        self.alone, found = (
            compare_placed(place_outcome(outcome, stage), self._truth, None)[0].phase_correlation
            for stage in ("projection", "network")
        )
        self.points.append((now - self._start - self._paused, found))
        print(f"{pl_module.model_config.architecture}: {self.points[-1][0]:.1f} s {found:.4f}", flush=True)
        self._paused += time.perf_counter() - now


class Until(pl.Callback):
    """Ends the training when the curve is as long as wanted, in time or in height."""

    def __init__(self, curve: Curve, seconds: float, figure: float) -> None:
        self._curve, self._seconds, self._figure = curve, seconds, figure

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the last point."""
        seconds, figure = self._curve.points[-1]
        trainer.should_stop = seconds >= self._seconds or figure >= self._figure


def trained(raw: RawData, model: dict[str, Any], seconds: float, figure: float = 1.0) -> Curve:
    """The curve of one training run, until its time is up or the figure is reached."""
    config = TrainingConfig(
        ModelConfig(N=raw.N, **model), nepochs=1000, stop_improvement=0.0, val_fraction=0.0, calibrate_probe=False
    )
    with tempfile.TemporaryDirectory() as folder:
        job = TrainingJob(payload_of(config, EXECUTION, output_dir=Path(folder)), Path(folder), False)
        curve = Curve(raw)
        job.trainer.callbacks += [curve, Until(curve, seconds, figure)]
        job.run(raw)
    return curve


HEADER = ["scan", "cnn, phase correlation", "after (s)", "projection_unet reaches it after (s)", "it then has",
          "sooner"]  # fmt: skip
INTRODUCTION = """## How much sooner

`python benchmarks/sooner.py`. Simulated scans with the true probe, default settings, frames of {side} x {side}. Both
train in the same run, and are compared with the true object after each epoch; that time is not counted. The first
epoch is the first that is compared. Times from the beginning of the run, the first projections included.
In brackets: the projections of that run without its network.
Measured on {processor}, {cores} cores, {threads} threads, torch {torch}, {date}; single runs.
"""


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="how long the cnn may train")
    parser.add_argument("--objects", nargs="+", default=["lines"])
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--output", type=Path, default=HERE / "sooner.json")
    parser.add_argument("--page", type=Path, default=HERE / "README.md")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("ptycho_torch").setLevel(logging.ERROR)
    results, rows = [], []
    for name in arguments.objects:
        raw = simulate_demo_scan(1, n_frames=600, N=arguments.side, counts_per_frame=1e5, object_name=name)
        slow = trained(raw, {"architecture": "cnn"}, arguments.seconds)
        best = max(figure for _, figure in slow.points)
        fast = trained(raw, {"architecture": "projection_unet"}, arguments.seconds, best)
        results.append(
            {"object": name, "projection alone": fast.alone, "cnn": slow.points, "projection_unet": fast.points}
        )
        rows.append([
            name, f"{best:.3f}", f"{slow.points[-1][0]:.0f}", f"{fast.points[-1][0]:.1f}",
            f"{fast.points[-1][1]:.3f} ({fast.alone:.3f})", f"{slow.points[-1][0] / fast.points[-1][0]:.0f} times",
        ])  # fmt: skip
    write_json(arguments.output, {"side": arguments.side, "curves_s_and_phase_correlation": results})
    introduction = INTRODUCTION.format(side=arguments.side, **machine())
    replace_section(arguments.page, "sooner", f"{introduction}\n{table(HEADER, rows)}")


if __name__ == "__main__":
    main()
