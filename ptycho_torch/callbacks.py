"""What happens beside training, as callbacks of Lightning's Trainer: the newest checkpoint, when to stop, progress."""

from __future__ import annotations

import logging
import math
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch import callbacks as pl_callbacks

from ptycho import progress

logger = logging.getLogger(__name__)

LAST_CHECKPOINT = "last.ckpt"


class LastCheckpoint(pl_callbacks.Callback):
    """Keep the newest epoch as ``last.ckpt``.

    ModelCheckpoint's own ``save_last`` follows its best one and stays behind when nothing gets better.

    Args:
        folder: where it lies.
        every_s: epochs that end sooner after the last writing are passed over, but for the last one: writing takes as
            long as a few steps.
    """

    def __init__(self, folder: Path, every_s: float = 5.0) -> None:
        self.folder, self.every_s = folder, every_s
        self._written = -math.inf
        self._behind = False

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the checkpoint, if it is time."""
        due = time.monotonic() - self._written >= self.every_s
        # all processes write together
        self._behind = not trainer.strategy.reduce_boolean_decision(due, all=False)
        if not self._behind:
            self._write(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what the last epoch left."""
        if self._behind:
            self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.folder / LAST_CHECKPOINT)
        self._written, self._behind = time.monotonic(), False


class PlateauStop(pl_callbacks.Callback):
    """Stop when training no longer pays.

    Args:
        monitor: name of the training loss.
        improvement: relative decrease of the best loss that ``window`` epochs must bring; 0 never stops.
        window: in epochs.
        first_epoch: earlier ones do not count, as those in which the learning rate rises.
    """

    def __init__(self, monitor: str, improvement: float, window: int, first_epoch: int = 0) -> None:
        self.monitor, self.improvement, self.window, self.first_epoch = monitor, improvement, window, first_epoch
        self._best: list[float] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare the best loss so far with the best of ``window`` epochs ago."""
        if self.monitor not in trainer.callback_metrics:  # a module that logs nothing
            return
        if trainer.current_epoch < self.first_epoch:
            return
        loss = float(trainer.callback_metrics[self.monitor])
        self._best.append(min([loss, *self._best[-1:]]))
        if self.improvement <= 0 or len(self._best) <= self.window:
            return
        before, now = self._best[-1 - self.window], self._best[-1]
        if before - now < self.improvement * abs(before):
            logger.info("Training stops after %d epochs: the loss no longer falls.", len(self._best))
            trainer.should_stop = True


class TimeLimit(pl_callbacks.Callback):
    """Stop when the time is up.

    Args:
        ends_at: on the clock of ``time.monotonic``, seconds. A whole run has one limit, of which calibration takes
            its part before the Trainer's own clock starts.
    """

    def __init__(self, ends_at: float) -> None:
        self.ends_at = ends_at

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Look at the clock; at least one step is taken."""
        # all processes leave after the same step
        if trainer.strategy.reduce_boolean_decision(time.monotonic() >= self.ends_at, all=False) and (
            not trainer.should_stop
        ):
            logger.info("Training stops: the time is up.")
            trainer.should_stop = True


class _Report(pl_callbacks.Callback):
    """Tells whoever watches (:mod:`ptycho.progress`) of a task, from the beginning to the end of a fit."""

    def __init__(self) -> None:
        self._task = ExitStack()
        self._step: progress.Step | None = None

    def _begin(
        self, trainer: Trainer, what: str, total: float | None, unit: str, limit_s: float | None = None
    ) -> None:  # fmt: skip
        """Of several processes the first one tells."""
        if trainer.is_global_zero:
            self._step = self._task.enter_context(progress.task(what, total, unit, limit_s=limit_s))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End."""
        self._end()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """End, whatever happened."""
        self._end()

    def _end(self) -> None:
        self._step = None
        self._task.close()


class ProgressReport(_Report):
    """Tell how far training has come, with the newest losses.

    Args:
        losses: logged metrics by what they are to be called.
        ends_at: as of :class:`TimeLimit`, or None.
    """

    def __init__(self, losses: dict[str, str], ends_at: float | None = None) -> None:
        super().__init__()
        self.losses, self.ends_at = losses, ends_at
        self._done = 0.0  # in epochs

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin."""
        limit_s = None if self.ends_at is None else max(0.0, self.ends_at - time.monotonic())
        total = None if trainer.max_epochs is None or trainer.max_epochs < 0 else trainer.max_epochs
        self._done = 0.0
        self._begin(trainer, "Training", total, "epoch", limit_s)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Part of an epoch: on a large scan a single one takes minutes."""
        batches = trainer.num_training_batches
        if isinstance(batches, int) and batches > 0:
            within = (batch_idx + 1) / batches
            # the rest of an epoch is its validation
            self._come_to(trainer.current_epoch + min(within, 0.99))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A whole epoch, with its losses."""
        known = {name: trainer.callback_metrics.get(metric) for name, metric in self.losses.items()}
        text = ", ".join(f"{name} {float(value):.4g}" for name, value in known.items() if value is not None)
        self._come_to(trainer.current_epoch + 1, text)

    def _come_to(self, epochs: float, text: str = "") -> None:
        if self._step is not None:
            self._step(epochs - self._done, text)
            self._done = epochs


class StepReport(_Report):
    """Tell how many steps have been taken of those that there will be.

    Args:
        what: is done, in words.
        steps: how many there will be.
        metric: logged metric that is shown.
    """

    def __init__(self, what: str, steps: int, metric: str) -> None:
        super().__init__()
        self.what, self.steps, self.metric = what, steps, metric

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin."""
        self._begin(trainer, self.what, self.steps, "step")

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """A step."""
        if self._step is not None:
            value = trainer.callback_metrics.get(self.metric)
            self._step(1, "" if value is None else f"error {float(value):.4g}")
