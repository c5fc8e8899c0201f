"""Everything that is handed to Lightning's Trainer, and what it leaves behind."""

from __future__ import annotations

import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import callbacks as pl_callbacks
from lightning.pytorch import loggers as pl_loggers

from ptycho import launch
from ptycho.config.config import PyTorchExecutionConfig
from ptycho.errors import InputError
from ptycho_torch.callbacks import LAST_CHECKPOINT, LastCheckpoint

logger = logging.getLogger(__name__)

CHECKPOINT_FOLDER = "checkpoints"
BEST = "best"
_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


def device_of(execution: PyTorchExecutionConfig) -> str:
    """torch's name of the device on which everything outside the Trainer runs."""
    return "cuda" if execution.accelerator in ("cuda", "gpu") else execution.accelerator


def processes_of(execution: PyTorchExecutionConfig) -> int:
    """How many processes stream a scan together: one per device that was asked for; "auto" takes all GPUs."""
    if execution.devices != "auto":
        return int(execution.devices)
    return max(1, torch.cuda.device_count()) if device_of(execution) == "cuda" else 1


def monitored_metric(execution: PyTorchExecutionConfig, loss_name: str, val_loss_name: str, has_val: bool) -> str:
    """The logged metric that checkpoints and early stopping watch.

    The generic name "val_loss" stands for the model's own; without frames to validate with, the training loss takes
    its place. Modules of ours log "train_loss" beside their own name.
    """
    asked = execution.checkpoint_monitor_metric
    if asked in ("val_loss", val_loss_name):
        return val_loss_name if has_val else loss_name
    return asked


def strategy_of(execution: PyTorchExecutionConfig) -> str:
    """Lightning's strategy. Processes that nobody has started yet are started by the training itself.

    Lightning's own way for "ddp" runs the caller's script again for each of them, results and all.
    """
    launched = "TORCHELASTIC_RUN_ID" in os.environ or int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1
    several = execution.devices not in (1, "auto") and execution.strategy in ("auto", "ddp")
    return "ddp_spawn" if several and not launched else execution.strategy


def _processes(execution: PyTorchExecutionConfig) -> dict[str, Any]:
    """How many processes train: as many as a launcher has started, else one per device.

    Raises:
        InputError: a launcher has started another number on this node than was asked for.
    """
    here = launch.place()
    if here.of == 1:
        return {"devices": execution.devices}
    if execution.devices not in (1, "auto", here.per_node):
        raise InputError(
            f"devices={execution.devices}: found {here.per_node} processes that a launcher has started on this node, "
            "expected one for each device. Leave devices out, or start as many."
        )
    return {"devices": here.per_node, "num_nodes": here.nodes}


def _precision(execution: PyTorchExecutionConfig) -> str:
    """What the device can do of what was asked for."""
    if execution.precision == "16-mixed" and device_of(execution) == "cpu":
        logger.warning("precision='16-mixed' needs a GPU; 'bf16-mixed' is used on the CPU.")
        return "bf16-mixed"
    return execution.precision


def make_callbacks(execution: PyTorchExecutionConfig, output_dir: Path, monitor: str) -> list[pl_callbacks.Callback]:
    """Checkpoints (best and last), early stopping and the progress bar, as the execution config asks."""
    made: list[pl_callbacks.Callback] = []
    if execution.enable_checkpointing:
        made.append(
            pl_callbacks.ModelCheckpoint(
                dirpath=output_dir / CHECKPOINT_FOLDER,
                filename=f"{BEST}-{monitor.removesuffix('_loss')}",
                monitor=monitor,
                mode=execution.checkpoint_mode,
                save_top_k=execution.checkpoint_save_top_k,
                enable_version_counter=execution.checkpoint_save_top_k > 1,
            )
        )
        made.append(LastCheckpoint(output_dir / CHECKPOINT_FOLDER))
        # patience waits for a better state, which is worth it only where the best one is kept
        made.append(
            pl_callbacks.EarlyStopping(
                monitor=monitor, mode=execution.checkpoint_mode, patience=execution.early_stop_patience,
                check_on_train_epoch_end=True, strict=False,
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
            f"Install it with: pip install {backend}, or choose 'csv'."
        ) from error


def trainer_arguments(
    execution: PyTorchExecutionConfig, output_dir: Path, monitor: str, max_epochs: int, manual: bool = False
) -> dict[str, Any]:
    """Keyword arguments of ``lightning.pytorch.Trainer``.

    Adaptive clipping ("agc") is the module's own work, see :func:`clip_adaptively`; the Trainer then only
    hands it the value.

    Args:
        execution: says nearly all of it.
        output_dir: where checkpoints and logs go.
        monitor: the metric that checkpoints and early stopping watch.
        max_epochs: when to end at the latest.
        manual: the module steps its optimiser itself: it clips itself too, and cannot accumulate.

    Raises:
        RuntimeError: a manual module, and accum_steps above 1 (EXEC-ACCUM-001).
    """
    if manual and execution.accum_steps > 1:
        raise RuntimeError(
            f"EXEC-ACCUM-001: accum_steps={execution.accum_steps} becomes the Trainer's accumulate_grad_batches, which "
            "does not work with a module that steps its optimiser itself (automatic_optimization=False). Use "
            "accum_steps=1, or automatic optimisation."
        )
    adaptive = execution.gradient_clip_algorithm == "agc"
    strategy = strategy_of(execution)
    return {
        "max_epochs": max_epochs,
        "accelerator": execution.accelerator,
        **_processes(execution),
        "strategy": strategy,
        # within a batch job of one task the job's own environment would ask for as many tasks as processes
        "plugins": [LightningEnvironment()] if strategy == "ddp_spawn" else None,
        # batches know the process that they are for, see ptycho_torch.data.samplers
        "use_distributed_sampler": False,
        "precision": _precision(execution),
        "deterministic": execution.deterministic,
        "gradient_clip_val": None if manual else execution.gradient_clip_val,
        "gradient_clip_algorithm": None if adaptive or manual else execution.gradient_clip_algorithm,
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


def make_trainer(arguments: dict[str, Any]) -> Any:
    """``lightning.pytorch.Trainer``, looked up now.

    Raises:
        InputError: it refuses, as it does an accelerator that is not there; the message says what to do.
    """
    try:
        return lightning.pytorch.Trainer(**arguments)
    except (MisconfigurationException, ValueError) as error:
        raise InputError(
            f"accelerator={arguments['accelerator']!r}, devices={arguments['devices']!r}, strategy="
            f"{arguments['strategy']!r}, precision={arguments['precision']!r} cannot be had on this machine: {error} "
            "Say accelerator='cpu' or 'auto', or run where there is such a device."
        ) from error


def clear_run(output_dir: Path) -> None:
    """Remove checkpoints, pictures and event files of an earlier run, so that none is taken for this run's."""
    for pattern in (f"{CHECKPOINT_FOLDER}/*.ckpt", "reconstructions/epoch_*.png", "tensorboard/events.*"):
        for file in output_dir.glob(pattern):
            file.unlink()


def find_best_checkpoint(run_dir: str | Path) -> Path | None:
    """The best checkpoint below a run's folder, else the last one, else any, else None."""
    folder = Path(run_dir) / CHECKPOINT_FOLDER
    best = sorted(folder.glob(f"{BEST}*.ckpt"), key=lambda file: file.stat().st_mtime_ns)
    if len(best) > 1:
        return _named_best(best)
    if best:
        return best[0]
    last = folder / LAST_CHECKPOINT
    found = sorted(folder.glob("*.ckpt"))
    return last if last.is_file() else (found[0] if found else None)


def _named_best(files: list[Path]) -> Path:
    """Of several good ones the best, as the newest of them says: it was written knowing all the others."""
    callbacks = torch.load(files[-1], map_location="cpu", weights_only=True).get("callbacks", {})
    named = (state.get("best_model_path") for state in callbacks.values() if isinstance(state, dict))
    names = {Path(path).name for path in named if path}
    return next((file for file in files if file.name in names), files[-1])


@contextmanager
def determinism_restored() -> Iterator[None]:
    """Give torch's process-wide switches and their environment variable back as they were; a Trainer sets them.

    Meanwhile memory that nothing is written to yet is left as it is. By default a deterministic torch fills it, so that
    a reading of it shows: a twentieth of the time of a step on a CPU, a fifth of its calls on a GPU.
    """
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    on, warn_only = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    variable = os.environ.get(_WORKSPACE)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
        torch.use_deterministic_algorithms(on, warn_only=warn_only)
        if variable is None:
            os.environ.pop(_WORKSPACE, None)


@contextmanager
def stopped_by_interrupt(trainer: Any) -> Iterator[None]:
    """Ctrl-C ends training after the current step, so that the best state is kept; the second time it acts as ever."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_signal: int, _frame: Any) -> None:
        logger.warning("Training stops after this step and keeps the best model; interrupt again to quit at once.")
        trainer.should_stop = True
        signal.signal(signal.SIGINT, before)

    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


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
