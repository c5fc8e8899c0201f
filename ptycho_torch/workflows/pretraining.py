"""A network learns from simulated scans before it sees the measured one.

What is simulated are other objects under the same probe, at the same positions and with as many counts. There the
object is known, so that the network learns what the first projections get wrong: where few frames overlap, the counts
alone do not tell it. The measured scan is then trained on as ever, from these weights.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from numpy.typing import NDArray
from torch import Tensor

from ptycho import launch, progress
from ptycho.diffsim import make_object, object_shape_for, on_object, simulate_scan
from ptycho.errors import InputError
from ptycho.grouping import compact_blocks
from ptycho.raw_data import RawData
from ptycho_torch import callbacks, lightning_utils
from ptycho_torch.config_factory import TrainingPayload
from ptycho_torch.data.blocks import Batch
from ptycho_torch.data.labels import labels_for
from ptycho_torch.data.module import BlockDataModule
from ptycho_torch.data.scans import LitScan, PlacedScan
from ptycho_torch.physics.illumination import confidence, merge_weights
from ptycho_torch.physics.patches import merge_from_sums, place
from ptycho_torch.physics.realspace import edge_mae
from ptycho_torch.solvers.frames import MERGE_FLOOR

logger = logging.getLogger(__name__)

OBJECTS = ("dead_leaves", "lines", "gaussian_random_field")
"""What specimens look like, each kind in turn: things that hide each other, wires and cuts, smooth matter."""
LEAST_AMPLITUDE = (0.4, 0.95)
"""Bounds of the darkest amplitude of an object; the brightest is 1."""
PHASE_SPAN_RAD = (0.3, 1.8)
MOST_FRAMES = 200
"""A simulated scan has no more frames, neighbours of each other: larger objects teach the same."""
LEAST_COUNTS = 100.0
"""Per frame: with fewer, a simulated frame may have none at all."""
LOSS = "pretraining_loss"
STEPS = 800
BLOCKS_PER_STEP = 1
LEARNING_RATE = 2e-3


def pretrain(
    module: Any, payload: TrainingPayload, scans: Sequence[LitScan], output_dir: Path, ends_at: float | None = None
) -> str:  # fmt: skip
    """Train the network of ``module`` on ``pretrain_scans`` simulated scans, with the known objects as labels.

    Args:
        module: with a generator; its probe and its configuration are left as they are.
        payload: of the run.
        scans: that will be trained on afterwards: their probes, positions, counts and masks are what is simulated.
        output_dir: nothing is left there.
        ends_at: stop at that time by ``time.monotonic``, or None.

    Returns:
        What a reader should know, in a sentence.

    Raises:
        InputError: a module without a generator, or positions that are known within groups only.
    """
    config, execution = payload.tf_training_config, payload.execution_config
    if not hasattr(module, "generator"):
        raise InputError(
            f"pretrain_scans={config.pretrain_scans}: found a module of another kind ({type(module).__name__}), "
            "expected one with a generator. Leave pretrain_scans out."
        )
    started = time.monotonic()
    simulated = simulated_scans(scans, config.pretrain_scans, config.seed)
    trainer = _trainer(payload, output_dir, ends_at)
    data = BlockDataModule(
        simulated,
        dataclasses.replace(payload.pt_data_config, x_bounds=(0.0, 1.0), y_bounds=(0.0, 1.0)),
        dataclasses.replace(payload.pt_model_config, mode="Supervised"),
        dataclasses.replace(
            payload.pt_training_config, val_fraction=0.0, sequential_sampling=False,
            batch_size=-(-BLOCKS_PER_STEP * payload.pt_model_config.merge_block // payload.pt_data_config.C),
        ),
        execution,
    )  # fmt: skip
    data.begin(getattr(module.generator, "begin_steps", 0), lightning_utils.device_of(execution))
    with lightning_utils.quiet_lightning(), lightning_utils.stopped_by_interrupt(trainer):
        trainer.fit(_Pretraining(module), train_dataloaders=data.train_dataloader())
    logger.info("Trained on %d simulated scans in %.1f s.", len(simulated), time.monotonic() - started)
    return (
        f"Before the scan, the network was trained on {len(simulated)} simulated scans of other objects under the same "
        "probe: where the counts say little, the result leans on what such objects look like."
    )


def simulated_scans(scans: Sequence[LitScan], n: int, seed: int) -> list[LitScan]:
    """``n`` scans of made-up objects, in turn under the probe, at the positions and with the counts of each scan.

    Args:
        scans: what is imitated; at most `MOST_FRAMES` neighbouring frames of each.
        n: how many are made.
        seed: of objects and noise.

    Raises:
        InputError: positions that are known within groups only, or frames with hardly a count.
    """
    for scan in scans:
        light = float(np.square(np.abs(scan.probe.numpy())).sum())
        if light < LEAST_COUNTS:
            raise InputError(
                f"{scan.placed.raw.source}: pretrain_scans simulates frames with as many counts; found {light:.3g} per "
                f"frame, expected photon counts, at least {LEAST_COUNTS:g}. Multiply frames that were scaled to what "
                "the detector has counted, or leave pretrain_scans out."
            )
        if scan.groups is not None:
            raise InputError(
                f"{scan.placed.raw.source}: pretrain_scans needs the positions of the whole scan; found positions that "
                "are known within groups only. Leave pretrain_scans out."
            )
    rng = np.random.default_rng([seed, 3])
    found = []
    with progress.task("Simulating scans", n, "scan") as step:
        for number in range(n):
            found.append(_imitated(scans[number % len(scans)], OBJECTS[number % len(OBJECTS)], rng))
            step()
    return found


def _imitated(scan: LitScan, kind: str, rng: np.random.Generator) -> LitScan:
    raw, probe = scan.placed.raw, scan.probe.numpy()
    x, y = _neighbours(raw, rng)
    shape = object_shape_for(x, y, raw.N)
    image = make_object(
        kind, shape, int(rng.integers(2**31)), amplitude_range=(rng.uniform(*LEAST_AMPLITUDE), 1.0),
        phase_range=(0.0, rng.uniform(*PHASE_SPAN_RAD)),
    )  # fmt: skip
    x, y = on_object(x, y, shape)
    # the probe is scaled to the light that has passed the object
    light = float(np.square(np.abs(probe)).sum())
    made = simulate_scan(
        image, probe, x, y, light, seed=int(rng.integers(2**31)), probe_guess=probe, bad_pixels=raw.bad_pixels
    )
    assert made.probe_truth is not None
    made.objectGuess = image * np.complex64(np.sqrt(np.square(np.abs(made.probe_truth)).sum() / light))
    placed = PlacedScan.of(made)
    return LitScan(placed, scan.probe, scan.probe, labels_for(placed))


def _neighbours(raw: RawData, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Positions (x, y) of some frames that lie together, about the middle of their range."""
    x, y = raw.xcoords, raw.ycoords
    if raw.n_frames > MOST_FRAMES:
        blocks, _ = compact_blocks(x, y, MOST_FRAMES, rng=rng)
        at = blocks[rng.integers(len(blocks))]
        x, y = x[at], y[at]
    return x - (x.min() + x.max()) / 2, y - (y.min() + y.max()) / 2


def _trainer(payload: TrainingPayload, output_dir: Path, ends_at: float | None) -> Any:
    """A Trainer for so many steps, which leaves no file.

    Of several processes each takes all of them: it is a minute's work.
    """
    execution = dataclasses.replace(
        payload.execution_config, enable_checkpointing=False, enable_progress_bar=False, logger_backend=None,
        accum_steps=1, gradient_clip_val=None,
    )  # fmt: skip
    arguments = lightning_utils.trainer_arguments(execution, output_dir, LOSS, -1)
    on_gpu = lightning_utils.device_of(execution) == "cuda"
    arguments |= {
        "max_steps": STEPS, "devices": [launch.place().on_node] if on_gpu else 1, "num_nodes": 1, "strategy": "auto",
        "plugins": [LightningEnvironment()],  # not that of a launcher, which would count on its other processes
    }  # fmt: skip
    arguments["callbacks"].append(callbacks.StepReport("Training on simulated scans", STEPS, LOSS))
    if ends_at is not None:
        arguments["callbacks"].append(callbacks.TimeLimit(ends_at))
    with lightning_utils.quiet_lightning():
        return lightning_utils.make_trainer(arguments)


class _Pretraining(pl.LightningModule):
    """What a Trainer needs to train the network of a module against known objects."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        fields, frames = batch[0], self.module.frames_of(batch)
        canvas = self.module.generator(frames)
        known, lit = known_object(fields, frames.probes, frames.starts, frames.shape)
        loss = edge_mae(canvas, known, confidence(lit))
        self.log(LOSS, loss.detach(), on_step=True, on_epoch=False, batch_size=1)
        return loss

    def configure_optimizers(self) -> Any:
        rate = LEARNING_RATE * self.module.generator.learning_rate_share
        optimiser = torch.optim.AdamW(self.module.generator.parameters(), lr=rate, weight_decay=1e-4)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=STEPS, pct_start=0.1)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def known_object(
    fields: dict[str, Tensor], probes: Tensor, starts: Tensor, shape: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """The labels of a batch on the blocks' canvases, and how strongly the frames of each block light it.

    Args:
        fields: of the batch, with labels.
        probes: (B, K, M, N, N) complex.
        starts: (B, K, 2) int64.
        shape: (H, W) of the canvases.

    Returns:
        (B, H, W) complex, 1 in the dark; (B, H, W) real, in units of the greatest intensity of a frame.
    """
    weights = merge_weights(probes)
    weights = weights / weights.amax()
    lit = place(weights, starts, shape)
    labels = torch.polar(fields["label_amp"], fields["label_phase"])
    return merge_from_sums(place(labels * weights, starts, shape), lit, lit.new_tensor(MERGE_FLOOR)), lit
