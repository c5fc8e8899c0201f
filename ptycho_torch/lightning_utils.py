"""Everything that is handed to Lightning's Trainer, and what it leaves behind."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch import callbacks as pl_callbacks
from lightning.pytorch import loggers as pl_loggers

from ptycho.config.config import PyTorchExecutionConfig
from ptycho.errors import InputError

logger = logging.getLogger(__name__)

CHECKPOINT_FOLDER = "checkpoints"
BEST_CHECKPOINT, LAST_CHECKPOINT = "best.ckpt", "last.ckpt"
_ACCELERATORS = {"cuda": "gpu"}


def monitored_metric(execution: PyTorchExecutionConfig, loss_name: str, val_loss_name: str, has_val: bool) -> str:
    """The logged metric that checkpoints and early stopping watch.

    The generic names "val_loss" and "train_loss" stand for the model's own; without withheld frames the
    training loss takes the place of the validation loss.
    """
    asked = execution.checkpoint_monitor_metric
    if asked == "val_loss":
        return val_loss_name if has_val else loss_name
    return loss_name if asked == "train_loss" else asked


class LastCheckpoint(pl_callbacks.Callback):
    """Keep the newest epoch as ``last.ckpt``.

    ModelCheckpoint's own ``save_last`` follows its best one and stays behind when nothing gets better.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the checkpoint."""
        trainer.save_checkpoint(self.folder / LAST_CHECKPOINT)


class PlateauStop(pl_callbacks.Callback):
    """Stop when training no longer pays.

    Args:
        monitor: name of the training loss.
        improvement: relative decrease of the best loss that ``window`` epochs must bring; 0 never stops.
        window: in epochs.
    """

    def __init__(self, monitor: str, improvement: float, window: int) -> None:
        self.monitor, self.improvement, self.window = monitor, improvement, window
        self._best: list[float] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare the best loss so far with the best of ``window`` epochs ago."""
        loss = float(trainer.callback_metrics[self.monitor])
        self._best.append(min([loss, *self._best[-1:]]))
        if self.improvement <= 0 or len(self._best) <= self.window:
            return
        before, now = self._best[-1 - self.window], self._best[-1]
        if before - now < self.improvement * abs(before):
            logger.info("Training stops after %d epochs: the loss no longer falls.", len(self._best))
            trainer.should_stop = True


def make_callbacks(execution: PyTorchExecutionConfig, output_dir: Path, monitor: str) -> list[pl_callbacks.Callback]:
    """Checkpoints (best and last), early stopping and the progress bar, as the execution config asks."""
    made: list[pl_callbacks.Callback] = []
    if execution.enable_checkpointing:
        made.append(
            pl_callbacks.ModelCheckpoint(
                dirpath=output_dir / CHECKPOINT_FOLDER,
                filename=BEST_CHECKPOINT.removesuffix(".ckpt"),
                monitor=monitor,
                mode=execution.checkpoint_mode,
                save_top_k=execution.checkpoint_save_top_k,
                enable_version_counter=execution.checkpoint_save_top_k > 1,
            )
        )
        made.append(LastCheckpoint(output_dir / CHECKPOINT_FOLDER))
    made.append(
        pl_callbacks.EarlyStopping(
            monitor=monitor, mode=execution.checkpoint_mode, patience=execution.early_stop_patience,
            check_on_train_epoch_end=True,
        )
    )  # fmt: skip
    if execution.enable_progress_bar:
        made.append(pl_callbacks.TQDMProgressBar())
    return made


def make_logger(execution: PyTorchExecutionConfig, output_dir: Path) -> Any:
    """The logger for ``execution.logger_backend``, writing below ``output_dir``; False for none.

    Raises:
        InputError: the package that the logger needs is not installed.
    """
    backend = execution.logger_backend
    if backend is None:
        return False
    if backend == "csv":
        return pl_loggers.CSVLogger(save_dir=output_dir, name="", version="")
    try:
        if backend == "tensorboard":
            return pl_loggers.TensorBoardLogger(save_dir=output_dir, name="tensorboard", version="")
        return pl_loggers.MLFlowLogger(
            experiment_name="ptychopinn", tracking_uri=(output_dir / "mlruns").resolve().as_uri()
        )
    except ImportError as error:
        raise InputError(
            f"logger_backend {backend!r} needs a package that is not installed ({error}). "
            f"Install it with: pip install 'ptychopinn[{backend}]', or choose 'csv'."
        ) from error


def trainer_arguments(
    execution: PyTorchExecutionConfig, output_dir: Path, monitor: str, max_epochs: int, max_time_s: float | None
) -> dict[str, Any]:
    """Keyword arguments of ``lightning.pytorch.Trainer``.

    Adaptive clipping ("agc") is the module's own work, see :func:`clip_adaptively`; the Trainer then only
    hands it the value.
    """
    adaptive = execution.gradient_clip_algorithm == "agc"
    return {
        "max_epochs": max_epochs,
        "max_time": None if max_time_s is None else timedelta(seconds=max_time_s),
        "accelerator": _ACCELERATORS.get(execution.accelerator, execution.accelerator),
        "devices": execution.devices,
        "strategy": execution.strategy,
        "precision": execution.precision,
        "deterministic": execution.deterministic,
        "gradient_clip_val": execution.gradient_clip_val,
        "gradient_clip_algorithm": None if adaptive else execution.gradient_clip_algorithm,
        "accumulate_grad_batches": execution.accum_steps,
        "enable_progress_bar": execution.enable_progress_bar,
        "enable_checkpointing": execution.enable_checkpointing,
        "enable_model_summary": False,
        "logger": make_logger(execution, output_dir),
        "callbacks": make_callbacks(execution, output_dir, monitor),
        "default_root_dir": output_dir,
        "log_every_n_steps": 1,
        "num_sanity_val_steps": 0,
    }


def find_best_checkpoint(run_dir: str | Path) -> Path | None:
    """The best checkpoint below a run's folder, else the last one, else None."""
    folder = Path(run_dir) / CHECKPOINT_FOLDER
    for name in (BEST_CHECKPOINT, LAST_CHECKPOINT):
        if (folder / name).is_file():
            return folder / name
    found = sorted(folder.glob("*.ckpt"))
    return found[0] if found else None


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keep Lightning's banners and advice out of a run that has its own messages."""
    names = ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")
    levels = {name: logging.getLogger(name).level for name in names}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\..*")
        for name in names:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
