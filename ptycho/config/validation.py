"""Validators of the public configuration.

Each raises InputError (a ValueError) at the first fault it finds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Real
from pathlib import Path

from ptycho.config.execution import CLIP_ALGORITHMS, SCHEDULERS, is_whole
from ptycho.config.models import InferenceConfig, ModelConfig, TrainingConfig
from ptycho.errors import InputError

__all__ = [
    "validate_model_config",
    "validate_training_config",
    "validate_inference_config",
    "ARCHITECTURES",
    "AMP_ACTIVATIONS",
    "MODEL_ARCHIVE_NAME",
]

ARCHITECTURES = ("projection_unet", "cnn")
AMP_ACTIVATIONS = ("sigmoid", "swish", "silu", "softplus", "relu")
MODEL_ARCHIVE_NAME = "wts.h5.zip"


def _choice(name: str, value: object, allowed: Iterable[str]) -> None:
    names = tuple(allowed)
    if not isinstance(value, str) or value not in names:
        raise InputError(
            f"Invalid {name}: {value!r}. Expected one of " + ", ".join(repr(n) for n in names) + "."
        )


def check_whole_number(name: str, value: object, least: int, optional: bool = False) -> None:
    """InputError unless a setting is a whole number from `least` on, or None where it is optional."""
    if not (is_whole(value, least) or (optional and value is None)):
        what = "positive" if least == 1 else f"at least {least}"
        raise InputError(
            f"{name} must be {what} (a whole number{' or None' if optional else ''}), found {value!r}."
        )


def check_number(name: str, value: object, *, above: float | None = None, least: float | None = None) -> None:
    """InputError unless a setting is a finite number within the one bound that is given."""
    ok = not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)
    if ok and above is not None:
        ok = value > above  # type: ignore[operator]
    if ok and least is not None:
        ok = value >= least  # type: ignore[operator]
    if not ok:
        bound = f"greater than {above:g}" if above is not None else f"at least {least:g}"
        raise InputError(f"{name} must be {bound}, found {value!r}.")


def _fraction(name: str, value: object) -> None:
    check_number(name, value, least=0.0)
    if value > 1:  # type: ignore[operator]
        raise InputError(f"{name} must be between 0 and 1, found {value!r}.")


def validate_model_config(config: ModelConfig, architectures: Iterable[str] = ARCHITECTURES) -> None:
    """Check a ModelConfig; `architectures` widens the accepted names, for generators registered by other
    code.
    """
    _choice("architecture", config.architecture, architectures)
    _choice("model_type", config.model_type, ("pinn", "supervised"))
    _choice("amp_activation", config.amp_activation, AMP_ACTIVATIONS)
    check_whole_number("N", config.N, 1)
    check_whole_number("gridsize", config.gridsize, 1)
    check_number("n_filters_scale", config.n_filters_scale, above=0.0)
    # ptychodus lets its users set probe_scale = 0, and the setting is superseded here: no reason to refuse
    # it.
    check_number("probe_scale", config.probe_scale, least=0.0)
    check_number("gaussian_smoothing_sigma", config.gaussian_smoothing_sigma, least=0.0)
    check_number("probe_mask_sigma", config.probe_mask_sigma, least=0.0)
    if config.probe_mask_diameter is not None:
        check_number("probe_mask_diameter", config.probe_mask_diameter, above=0.0)
    check_whole_number("merge_block", config.merge_block, 1)
    check_whole_number("stages", config.stages, 1)
    # one step from vacuum is the merged back-projection of single frames; with none the network would see no data
    check_whole_number("projection_steps", config.projection_steps, 1)
    check_whole_number("later_projection_steps", config.later_projection_steps, 0)
    check_whole_number("unet_channels", config.unet_channels, 1)


def _validate_sampling(config: TrainingConfig | InferenceConfig) -> None:
    check_whole_number("n_groups", config.n_groups, 1, optional=True)
    check_whole_number("n_subsample", config.n_subsample, 1, optional=True)
    check_whole_number("subsample_seed", config.subsample_seed, 0, optional=True)
    check_whole_number("neighbor_count", config.neighbor_count, 1)
    check_whole_number("neighbor_pool_size", config.neighbor_pool_size, 1, optional=True)
    _choice("backend", config.backend, ("pytorch", "tensorflow"))


def _validate_optimiser(config: TrainingConfig) -> None:
    if config.gradient_clip_val is not None:
        check_number("gradient_clip_val", config.gradient_clip_val, least=0.0)
    _choice("gradient_clip_algorithm", config.gradient_clip_algorithm, CLIP_ALGORITHMS)
    _choice("optimizer", config.optimizer, ("adam", "adamw", "sgd"))
    _choice("scheduler", config.scheduler, SCHEDULERS)
    for name in ("momentum", "adam_beta1", "adam_beta2", "lr_min_ratio", "plateau_factor"):
        _fraction(name, getattr(config, name))
    for name in ("weight_decay", "plateau_min_lr", "plateau_threshold"):
        check_number(name, getattr(config, name), least=0.0)
    check_whole_number("lr_warmup_epochs", config.lr_warmup_epochs, 0)
    check_whole_number("plateau_patience", config.plateau_patience, 0)


def validate_training_config(config: TrainingConfig, architectures: Iterable[str] = ARCHITECTURES) -> None:
    """Check a TrainingConfig and its model; data paths are not looked at.

    nepochs = 0 is valid: the object without the network's training.
    """
    from ptycho.domain import DOMAIN_NAMES

    validate_model_config(config.model, architectures)
    check_whole_number("batch_size", config.batch_size, 1)
    check_whole_number("nepochs", config.nepochs, 0)
    for name in ("mae_weight", "nll_weight"):
        _fraction(name, getattr(config, name))
    for name in ("realspace_mae_weight", "realspace_weight"):
        check_number(name, getattr(config, name), least=0.0)
    check_number("nphotons", config.nphotons, above=0.0)
    _validate_sampling(config)
    _choice("torch_loss_mode", config.torch_loss_mode, ("poisson", "mae"))
    _validate_optimiser(config)
    _choice("measurement_domain", config.measurement_domain, DOMAIN_NAMES)
    check_whole_number("calibration_epochs", config.calibration_epochs, 0)
    check_whole_number("pretrain_scans", config.pretrain_scans, 0)
    _fraction("val_fraction", config.val_fraction)
    if config.val_fraction >= 1:
        raise InputError(
            f"val_fraction must be below 1 (something must be left to train on), found "
            f"{config.val_fraction!r}."
        )
    if config.max_time_s is not None:
        check_number("max_time_s", config.max_time_s, above=0.0)
    check_number("stop_improvement", config.stop_improvement, least=0.0)
    check_whole_number("stop_window", config.stop_window, 1)
    check_whole_number("seed", config.seed, 0)


def validate_inference_config(config: InferenceConfig, architectures: Iterable[str] = ARCHITECTURES) -> None:
    """Check an InferenceConfig and that its model archive (the file, or a folder that holds it) is there."""
    validate_model_config(config.model, architectures)
    path = Path(config.model_path)
    if path.is_dir():
        if not (path / MODEL_ARCHIVE_NAME).is_file():
            raise InputError(
                f"Model archive not found: folder {path} holds no {MODEL_ARCHIVE_NAME}. Name the output "
                "folder of a training run."
            )
    elif not (path.is_file() or path.with_name(path.name + ".zip").is_file()):
        raise InputError(
            f"Model archive not found: {path}. Name the output folder of a training run, or its "
            f"{MODEL_ARCHIVE_NAME}."
        )
    _validate_sampling(config)
