"""From parsed arguments to an execution config, for scripts that use argparse and for the entry points here."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any
from warnings import warn

from ptycho.config.config import PyTorchExecutionConfig
from ptycho.errors import InputError, MissingFileError, OutputError

_MODES = ("training", "inference")
_DEVICES = {"cpu": "cpu", "cuda": "gpu", "gpu": "gpu"}
"""Values of the deprecated --device and what they are called now."""
_ATTRIBUTES = {
    "accum_steps": "accumulate_grad_batches",
    "checkpoint_monitor_metric": "checkpoint_monitor",
    "logger_backend": "logger",
}
"""Fields whose flag has another name, under which argparse keeps the value."""


def resolve_accelerator(accelerator: str = "auto", device: str | None = None) -> str:
    """The accelerator to run on, from --accelerator and the deprecated --device.

    Args:
        accelerator: 'auto' takes a CUDA device if there is one; any other is kept as it is.
        device: 'cpu' or 'cuda', which counts where the accelerator is 'auto'; or None.

    Returns:
        'cpu', 'gpu', 'cuda' or 'mps'.

    Raises:
        InputError: an accelerator or a device that is not known.
    """
    if accelerator == "auto" and device is None:
        return PyTorchExecutionConfig().accelerator
    if accelerator != "auto":
        if device is not None:
            warn(
                f"--device is deprecated. Ignoring --device value {device!r}: --accelerator {accelerator} was given "
                "too.", DeprecationWarning, stacklevel=2,
            )  # fmt: skip
        return PyTorchExecutionConfig(accelerator=accelerator).accelerator
    if device not in _DEVICES:
        raise InputError(f"--device: found {device!r}, expected one of {', '.join(_DEVICES)}. Better: --accelerator.")
    warn(f"--device is deprecated; say --accelerator {_DEVICES[device]}.", DeprecationWarning, stacklevel=2)
    return _DEVICES[device]


def build_execution_config_from_args(args: argparse.Namespace, mode: str = "training") -> PyTorchExecutionConfig:
    """The execution config that parsed arguments describe.

    Args:
        args: may have any field of PyTorchExecutionConfig as an attribute (or the name of its flag: logger,
            accumulate_grad_batches, checkpoint_monitor), and ``device``, ``disable_mlflow``, ``quiet``. What is not
            there, or None, has its default. ``enable_progress_bar`` defaults to neither quiet nor disable_mlflow.
        mode: 'training' or 'inference'.

    Raises:
        InputError: another mode, or a value that the execution config refuses.
    """
    if mode not in _MODES:
        raise InputError(f"Invalid mode: {mode}. Expected one of {', '.join(_MODES)}.")
    disable_mlflow = bool(getattr(args, "disable_mlflow", False))
    values: dict[str, Any] = {"enable_progress_bar": not (getattr(args, "quiet", False) or disable_mlflow)}
    for field in dataclasses.fields(PyTorchExecutionConfig):
        value = getattr(args, field.name, None)
        if value is None:
            value = getattr(args, _ATTRIBUTES.get(field.name, field.name), None)
        if value is not None:
            values[field.name] = value
    device = getattr(args, "device", None)
    if device is not None:
        values["accelerator"] = resolve_accelerator(values.get("accelerator", "auto"), device)
    if disable_mlflow:
        warn("--disable_mlflow is deprecated; say --logger none.", DeprecationWarning, stacklevel=2)
        values["logger_backend"] = None
    config = PyTorchExecutionConfig(**values)
    if mode == "training" and config.deterministic is True and config.num_workers > 0:
        warn(
            f"deterministic=True with num_workers={config.num_workers}: expect a performance degradation. Say "
            "--no-deterministic, or --num-workers 0.", UserWarning, stacklevel=2,
        )  # fmt: skip
    return config


def check_files(train_file: Path | None, test_file: Path | None) -> None:
    """See that the files are there; None stands for none.

    Raises:
        MissingFileError: one is not.
    """
    for file, what in ((train_file, "Training"), (test_file, "Test")):
        if file is not None and not Path(file).is_file():
            raise MissingFileError(f"{what} data file not found: {file}. Check the path of the scan.")


def validate_paths(train_file: Path | None, test_file: Path | None, output_dir: Path) -> None:
    """See that the files are there, and make the output folder and its parents; None stands for no file.

    Raises:
        MissingFileError: a file is not there.
        OutputError: the folder cannot be made.
    """
    check_files(train_file, test_file)
    try:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"Output folder {output_dir} cannot be used: {error.strerror}. Choose a folder that can be made."
        ) from error
