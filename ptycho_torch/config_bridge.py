"""From the public configuration to the backend's own, with nothing lost on the way.

A public setting acts, or it is refused here with a reason, or its job is done otherwise (superseded,
specs/scaling.md) and a changed value is reported.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

from ptycho.config.config import ModelConfig, PyTorchExecutionConfig, TrainingConfig
from ptycho.errors import InputError
from ptycho_torch import config_params

logger = logging.getLogger(__name__)

_OTHER_ARCHITECTURE = "belongs to another architecture than 'projection_unet'"

SUPERSEDED = {
    "probe_scale": "the probe is scaled to the measured counts",
    "intensity_scale_trainable": "the probe is scaled to the measured counts",
    "n_filters_scale": _OTHER_ARCHITECTURE,
    "amp_activation": _OTHER_ARCHITECTURE,
    "probe_big": _OTHER_ARCHITECTURE,
    "pad_object": _OTHER_ARCHITECTURE,
    "learned_input_channels": _OTHER_ARCHITECTURE,
    "fno_input_transform": _OTHER_ARCHITECTURE,
    "generator_output_mode": _OTHER_ARCHITECTURE,
    "torch_mae_pred_l2_match_target": "rates and counts share one scale",
}
"""Settings whose job is done otherwise, with the reason."""

NOT_YET = {
    "model_type": "only 'pinn' (training without labels) is available",
    "probe_mask": "the probe is used as it is",
    "gaussian_smoothing_sigma": "the object is not smoothed",
    "mae_weight": "choose the loss by torch_loss_mode",
    "nll_weight": "choose the loss by torch_loss_mode",
    "realspace_mae_weight": "real-space losses are not available",
    "realspace_weight": "real-space losses are not available",
    "probe_trainable": "the probe is refined before training (calibrate_probe)",
    "enable_oversampling": "blocks of neighbours are drawn anew every epoch instead",
    "neighbor_pool_size": "blocks of neighbours are drawn anew every epoch instead",
    "sequential_sampling": "frames are always drawn at random",
    "positions_provided": "positions are always needed",
    "compile": "the model is not compiled",
    "recon_log_every_n_epochs": "reconstructions are not logged during training",
    "recon_log_fixed_indices": "reconstructions are not logged during training",
    "recon_log_stitch": "reconstructions are not logged during training",
    "recon_log_max_stitch_samples": "reconstructions are not logged during training",
    "recon_log_num_patches": "reconstructions are not logged during training",
    "middle_trim": "patches are merged whole, by their illumination",
    "pad_eval": "patches are merged whole, by their illumination",
}
"""Settings that do not act in this version: a changed value is refused."""


def check_settings(*configs: Any) -> list[str]:
    """Refuse settings that would not act, and name superseded ones that were changed.

    Args:
        configs: public dataclasses.

    Returns:
        A sentence for each superseded setting that differs from its default.

    Raises:
        InputError: a setting that does not act has been changed.
    """
    notes = []
    for config in configs:
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            if field.default is dataclasses.MISSING or value == field.default:
                continue
            if field.name in NOT_YET:
                raise InputError(
                    f"{field.name}={value!r} does not act in this version: {NOT_YET[field.name]}. "
                    f"Leave it at {field.default!r}."
                )
            if field.name in SUPERSEDED:
                notes.append(f"{field.name}={value!r} has no effect: {SUPERSEDED[field.name]}.")
                logger.info(notes[-1])
    return notes


def _same_fields(target: type, source: Any) -> dict[str, Any]:
    names = {f.name for f in dataclasses.fields(target)}
    return {f.name: getattr(source, f.name) for f in dataclasses.fields(source) if f.name in names}


def torch_model_config(model: ModelConfig, loss_mode: str = "poisson") -> config_params.ModelConfig:
    """The backend's model configuration.

    Raises:
        InputError: unknown loss mode.
    """
    losses = {"poisson": "Poisson", "mae": "MAE"}
    if loss_mode not in losses:
        raise InputError(f"torch_loss_mode: found {loss_mode!r}, expected 'poisson' or 'mae'.")
    shared = _same_fields(config_params.ModelConfig, model)
    return config_params.ModelConfig(**{**shared, "loss_function": losses[loss_mode]})


def torch_training_config(config: TrainingConfig, execution: PyTorchExecutionConfig) -> config_params.TrainingConfig:
    """The backend's training configuration; the execution config's scheduler wins when it was set.

    Raises:
        InputError: the scheduler is named twice, differently.
    """
    shared = _same_fields(config_params.TrainingConfig, config)
    asked = {s for s in (config.scheduler, execution.scheduler) if s != "Default"}
    if len(asked) > 1:
        raise InputError(
            f"scheduler: found {config.scheduler!r} in the training config and {execution.scheduler!r} in the "
            "execution config. State it once."
        )
    shared["scheduler"] = asked.pop() if asked else "Default"
    shared["epochs"] = config.nepochs
    return config_params.TrainingConfig(**{**shared, "learning_rate": execution.learning_rate})


def torch_data_config(model: ModelConfig, N: int, probe_modes: int, domain: str) -> config_params.DataConfig:
    """The backend's data configuration for frames of side ``N``."""
    side = model.gridsize
    return config_params.DataConfig(
        N=N, grid_size=(side, side), C=side**2, probe_modes=probe_modes, measurement_domain=domain
    )
