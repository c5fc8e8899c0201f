"""`PyTorchExecutionConfig`: how a run is executed (device, precision, workers, logging), not what is
computed.

It never enters the legacy dictionary `ptycho.params.cfg` (CONFIG-002). torch is imported only when the
accelerator has to be resolved, inside `__post_init__`.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from ptycho.errors import InputError

__all__ = [
    "PyTorchExecutionConfig",
    "ACCELERATORS",
    "PRECISIONS",
    "SCHEDULERS",
    "CLIP_ALGORITHMS",
    "LOGGER_BACKENDS",
    "is_whole",
]

ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")
PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")
SCHEDULERS = (
    "Default",
    "Exponential",
    "MultiStage",
    "Adaptive",
    "ReduceLROnPlateau",
    "WarmupCosine",
    "Cosine",
)
CLIP_ALGORITHMS = ("norm", "value", "agc")
LOGGER_BACKENDS = ("csv", "tensorboard", "mlflow")
_ALWAYS_SHOWN = ("accelerator", "devices", "precision", "deterministic")


def is_whole(value: object, least: int) -> bool:
    """True for a whole number (not a bool; NumPy's too) that is at least `least`."""
    return not isinstance(value, bool) and isinstance(value, Integral) and int(value) >= least


def _is_real(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)


@dataclass(repr=False)
class PyTorchExecutionConfig:
    """Runtime options of the PyTorch backend. Validated on construction (InputError, a ValueError).

    Change it with `dataclasses.replace`. accelerator 'auto' is replaced by 'cuda' or 'cpu' on construction;
    an explicit accelerator is kept as given and reaches the Trainer unchanged. Names and defaults are those
    that callers of the reference implementation use; `compile` is ours.
    """

    # Device and arithmetic
    accelerator: str = "auto"
    devices: int | str = 1
    strategy: str = "auto"
    deterministic: bool | str = True  # True, False or 'warn'
    precision: str = "32-true"
    compile: bool = False
    # Optimisation
    learning_rate: float = 1e-3
    scheduler: str = "Default"
    gradient_clip_val: float | None = None
    gradient_clip_algorithm: str = "norm"
    accum_steps: int = 1
    # Data loading
    num_workers: int = 0
    pin_memory: bool = False
    persistent_workers: bool = False
    prefetch_factor: int | None = None
    # Progress, checkpoints, stopping
    enable_progress_bar: bool = False
    enable_checkpointing: bool = True
    checkpoint_save_top_k: int = 1
    checkpoint_monitor_metric: str = "val_loss"
    checkpoint_mode: str = "min"
    early_stop_patience: int = 100
    # Logging
    logger_backend: str | None = "csv"  # None or 'none' turns logging off
    recon_log_every_n_epochs: int | None = None
    recon_log_num_patches: int = 4
    recon_log_fixed_indices: Sequence[int] | None = None
    recon_log_stitch: bool = False
    recon_log_max_stitch_samples: int | None = None
    # Inference
    inference_batch_size: int | None = None
    middle_trim: int = 0
    pad_eval: bool = False

    def __post_init__(self) -> None:
        _check_device(self)
        _check_optimisation(self)
        _check_running(self)
        _check_logging(self)
        if self.logger_backend == "none":
            self.logger_backend = None
        # Not a field: remembered so that set_fields() can tell a resolved 'auto' from an explicit choice.
        self._accelerator_was_auto = self.accelerator == "auto"
        if self._accelerator_was_auto:
            self.accelerator = _resolve_accelerator()

    def set_fields(self) -> dict[str, Any]:
        """The fields that differ from their defaults; an accelerator resolved from 'auto' does not count."""
        return {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if getattr(self, f.name) != f.default
            and not (f.name == "accelerator" and self._accelerator_was_auto)
        }

    def __repr__(self) -> str:
        """The device fields and whatever differs from its default, as constructor arguments."""
        changed = self.set_fields()
        shown = [
            f"{f.name}={getattr(self, f.name)!r}"
            for f in dataclasses.fields(self)
            if f.name in _ALWAYS_SHOWN or f.name in changed
        ]
        return f"{type(self).__name__}({', '.join(shown)})"


def _resolve_accelerator() -> str:
    """'cuda' if torch sees a CUDA device, else 'cpu' with one warning (POLICY-001)."""
    try:
        import torch
    except ImportError as error:
        raise RuntimeError(
            "POLICY-001: PyTorch is not installed, and the backend needs it (torch >= 2.2). Install it with: "
            "pip install 'torch>=2.2' lightning"
        ) from error
    if torch.cuda.is_available():
        return "cuda"
    warnings.warn(
        "POLICY-001: No CUDA device detected; running on the CPU. Say accelerator='cpu' to choose it without "
        "this "
        "warning.",
        UserWarning,
        stacklevel=4,  # the line that constructs the config, past __post_init__ and the generated __init__
    )
    return "cpu"


def _one_of(name: str, value: object, allowed: Sequence[object]) -> None:
    # A list is compared, not hashed: an unhashable value must give this error and not a TypeError.
    if not any(value is a or (isinstance(value, type(a)) and value == a) for a in allowed):
        expected = ", ".join(repr(a) for a in allowed)
        raise InputError(f"Invalid {name}: {value!r}. Expected one of {expected}.")


def _check_device(c: PyTorchExecutionConfig) -> None:
    if c.accelerator == "tpu":
        raise InputError(
            "Invalid accelerator: 'tpu'. Torch-XLA (TPU) is unsupported. Expected one of "
            + ", ".join(ACCELERATORS)
        )
    _one_of("accelerator", c.accelerator, ACCELERATORS)
    if not (c.devices == "auto" or is_whole(c.devices, 1)):
        raise InputError(f"Invalid devices: {c.devices!r}. Expected a positive integer or 'auto'.")
    if not (isinstance(c.strategy, str) and c.strategy):
        raise InputError(
            f"Invalid strategy: {c.strategy!r}. Expected the name of a Lightning strategy, such as 'auto'."
        )
    _one_of("deterministic", c.deterministic, (True, False, "warn"))
    _one_of("precision", c.precision, PRECISIONS)


def _check_optimisation(c: PyTorchExecutionConfig) -> None:
    if not (_is_real(c.learning_rate) and c.learning_rate > 0):
        raise InputError(f"learning_rate must be positive, found {c.learning_rate!r}.")
    _one_of("scheduler", c.scheduler, SCHEDULERS)
    if c.gradient_clip_val is not None and not (_is_real(c.gradient_clip_val) and c.gradient_clip_val >= 0):
        raise InputError(f"gradient_clip_val must be None or non-negative, found {c.gradient_clip_val!r}.")
    _one_of("gradient_clip_algorithm", c.gradient_clip_algorithm, CLIP_ALGORITHMS)
    if not is_whole(c.accum_steps, 1):
        raise InputError(f"accum_steps must be positive (a whole number), found {c.accum_steps!r}.")


def _check_running(c: PyTorchExecutionConfig) -> None:
    switches = (field.name for field in dataclasses.fields(c) if field.type in (bool, "bool"))
    for name in switches:
        if type(getattr(c, name)).__name__ not in ("bool", "bool_"):  # bool_ is NumPy's
            raise InputError(f"{name} must be True or False, found {getattr(c, name)!r}.")
    if not is_whole(c.num_workers, 0):
        raise InputError(f"num_workers must be non-negative (a whole number), found {c.num_workers!r}.")
    if c.prefetch_factor is not None and not is_whole(c.prefetch_factor, 1):
        raise InputError(f"prefetch_factor must be None or positive, found {c.prefetch_factor!r}.")
    if not is_whole(c.checkpoint_save_top_k, 0):
        raise InputError(f"checkpoint_save_top_k must be non-negative, found {c.checkpoint_save_top_k!r}.")
    _one_of("checkpoint_mode", c.checkpoint_mode, ("min", "max"))
    if not (isinstance(c.checkpoint_monitor_metric, str) and c.checkpoint_monitor_metric):
        raise InputError(
            f"Invalid checkpoint_monitor_metric: {c.checkpoint_monitor_metric!r}. Expected a metric's name."
        )
    if not is_whole(c.early_stop_patience, 1):
        raise InputError(f"early_stop_patience must be positive, found {c.early_stop_patience!r}.")
    if c.inference_batch_size is not None and not is_whole(c.inference_batch_size, 1):
        raise InputError(f"inference_batch_size must be positive or None, found {c.inference_batch_size!r}.")
    if not is_whole(c.middle_trim, 0):
        raise InputError(f"middle_trim must be non-negative, found {c.middle_trim!r}.")


def _check_logging(c: PyTorchExecutionConfig) -> None:
    _one_of("logger_backend", c.logger_backend, (*LOGGER_BACKENDS, "none", None))
    for name in ("recon_log_every_n_epochs", "recon_log_max_stitch_samples"):
        value = getattr(c, name)
        if value is not None and not is_whole(value, 1):
            raise InputError(f"{name} must be None or positive, found {value!r}.")
    if not is_whole(c.recon_log_num_patches, 0):
        raise InputError(f"recon_log_num_patches must be non-negative, found {c.recon_log_num_patches!r}.")
    indices = c.recon_log_fixed_indices
    if indices is not None and not (
        isinstance(indices, (list, tuple)) and all(is_whole(i, 0) for i in indices)
    ):
        raise InputError(
            f"recon_log_fixed_indices must be None or a sequence of frame numbers, found {indices!r}."
        )
