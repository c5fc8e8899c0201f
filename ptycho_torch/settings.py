"""Which settings act: a changed one that would not is refused with a reason, or its job is done otherwise.

A field of a configuration acts, or it is in `REFUSED`, or in `SUPERSEDED` (specs/scaling.md, section 7), or it is an
option of another architecture. Tests hold every field to that.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

from ptycho.config.config import InferenceConfig, ModelConfig, PyTorchExecutionConfig, TrainingConfig
from ptycho.errors import InputError
from ptycho_torch import config_params

logger = logging.getLogger(__name__)

_BLOCKS = "blocks of neighbours are drawn anew every epoch"
_COUNTS = "frames stay in counts and the probe is scaled to them"
_GAUGE = "the refinement fixes what can be moved between probe and object (specs/scaling.md, section 3)"
_MERGE = "patches are merged whole, by their illumination"
_CANVAS = "frames lie on one canvas, with room for every position"
_REFERENCE_SCALES = "belongs to a detector model with learned scales"
_NOT_SHIPPED = "belongs to an architecture that is not shipped"
_EVERY_FRAME = "inference uses every frame once"
_STAGED = "it is a detail of the staged fine-tuning (enable_staged_finetuning)"

SUPERSEDED: dict[type, dict[str, str]] = {
    ModelConfig: {
        "probe_scale": _COUNTS,
        "pad_object": _CANVAS,
        "learned_input_channels": _NOT_SHIPPED,
        "fno_input_transform": _NOT_SHIPPED,
        "generator_output_mode": _NOT_SHIPPED,
    },
    TrainingConfig: {
        "intensity_scale_trainable": _COUNTS,
        "torch_mae_pred_l2_match_target": "rates and counts share one scale",
        "probe_trainable": "the probe is refined before training (calibrate_probe)",
        "neighbor_count": _BLOCKS,
        "enable_oversampling": _BLOCKS,
        "neighbor_pool_size": _BLOCKS,
    },
    InferenceConfig: {
        "n_groups": _EVERY_FRAME,
        "n_images": _EVERY_FRAME,
        "neighbor_count": _EVERY_FRAME,
        "enable_oversampling": _EVERY_FRAME,
        "neighbor_pool_size": _EVERY_FRAME,
        "debug": "messages go through logging, whose level says how much is told",
    },
    PyTorchExecutionConfig: {"middle_trim": _MERGE, "pad_eval": _MERGE},
    config_params.DataConfig: {
        "normalize": _COUNTS,
        "data_scaling": _COUNTS,
        "probe_normalize": _COUNTS,
        "probe_scale": _COUNTS,
        "K": _BLOCKS,
        "scale_contract_version": "what the frames hold is said by measurement_domain",
        "n_subsample": _BLOCKS,
        "neighbor_function": _BLOCKS,
        "min_neighbor_distance": _BLOCKS,
        "max_neighbor_distance": _BLOCKS,
        "K_quadrant": _BLOCKS,
        "scan_pattern": _BLOCKS,
        "phase_subtraction": _GAUGE,
        "probe_ramp_removal": _GAUGE,
    },
    config_params.ModelConfig: {
        "pad_object": _CANVAS,
        "max_position_jitter": _CANVAS,
        "offset": _CANVAS,
        "intensity_scale": _COUNTS,
        "intensity_scale_trainable": _COUNTS,
        "amplitude_physics_gain": _COUNTS,
        "training_patch_weighting": _MERGE,
        "rect_s1s2_trainable": _REFERENCE_SCALES,
        "rect_s1s2_init": _REFERENCE_SCALES,
        "num_datasets": "nothing is learned per scan",
        "decoder_last_amp_channels": "a decoder has as many channels as a group has frames",
        "edge_pad": "patches are merged by their illumination, which fades towards their rim",
        **dict.fromkeys(
            (
                "learned_input_channels", "fno_input_transform", "generator_output_mode", "fno_modes", "fno_width",
                "fno_blocks", "fno_cnn_blocks", "max_hidden_channels", "resnet_width", "spectral_bottleneck_blocks",
                "spectral_bottleneck_modes", "spectral_bottleneck_share_weights", "spectral_bottleneck_gate_init",
                "spectral_bottleneck_gate_mode",
            ),
            _NOT_SHIPPED,
        ),
    },
    config_params.TrainingConfig: {
        "torch_mae_pred_l2_match_target": "rates and counts share one scale",
        "training_directories": "the scans are handed over",
        "framework": "it is always Lightning",
        "orchestrator": "it is always Lightning",
        "physics_weight_schedule": "the likelihood has its full weight from the first epoch",
        "fine_tune_gamma": "it is a detail of epochs_fine_tune",
        **{
            f.name: _STAGED
            for f in dataclasses.fields(config_params.TrainingConfig)
            if f.name.startswith("finetune_")
        },
    },
    config_params.InferenceConfig: {
        "middle_trim": _MERGE,
        "pad_eval": _MERGE,
        "window": _MERGE,
        "patch_weighting": _MERGE,
        "varpro_scaling": _COUNTS,
    },
}  # fmt: skip
"""Configuration -> field -> how its job is done instead."""

_STAGES = "training has one stage"

REFUSED: dict[type, dict[str, str]] = {
    ModelConfig: {"gaussian_smoothing_sigma": "frames are placed exactly, so that there are no steps to smooth"},
    TrainingConfig: {"positions_provided": "positions are always those of the scan"},
    InferenceConfig: {},
    PyTorchExecutionConfig: {},
    config_params.DataConfig: {},
    config_params.ModelConfig: {
        "gaussian_smoothing_sigma": "frames are placed exactly, so that there are no steps to smooth",
        "physics_forward_mode": "only 'amplitude' is available",
        "cnn_output_mode": "only 'amp_phase' is available",
        "use_shared_decoder": "amplitude and phase have decoders of their own",
        "probe_reference_coeff": "losses on the probe are not available",
    },
    config_params.TrainingConfig: {"epochs_fine_tune": _STAGES, "enable_staged_finetuning": _STAGES},
    config_params.InferenceConfig: {},
}
"""Configuration -> field -> why it does not act; a changed value is refused."""

OPTIONS_OF: dict[str, tuple[str, ...]] = {
    # its projections are the figure without the network for every architecture
    "projection_unet": ("unet_channels",),
    "cnn": (
        "n_filters_scale", "amp_activation", "probe_big", "batch_norm", "decoder_last_c_outer_fraction",
        "use_legacy_decoder_channel_override", "use_shared_decoder", "cnn_output_mode",
        "cbam_encoder", "cbam_bottleneck", "cbam_decoder", "eca_encoder", "eca_decoder", "spatial_decoder",
        "decoder_spatial_kernel",
    ),
}  # fmt: skip
"""Architecture -> fields of the model configurations that only it has."""


_FOR_INFERENCE = (
    "accelerator", "devices", "inference_batch_size", "middle_trim", "pad_eval", "enable_progress_bar",
    "logger_backend",
)  # fmt: skip


def _scheduled(config: Any, *names: str) -> bool:
    return getattr(config, "scheduler", None) in names


_ONLY_WITH: dict[str, tuple[Callable[[Any], Any], str]] = {
    "probe_mask_sigma": (lambda c: c.probe_mask, "it is a detail of probe_mask"),
    "probe_mask_diameter": (lambda c: c.probe_mask, "it is a detail of probe_mask"),
    "amp_loss_coeff": (lambda c: c.amp_loss, "there is no amp_loss"),
    "phase_loss_coeff": (lambda c: c.phase_loss, "there is no phase_loss"),
    "amplitude_variance_coeff": (lambda c: c.amplitude_variance_loss, "there is no amplitude_variance_loss"),
    "decoder_last_c_outer_fraction": (
        lambda c: c.use_legacy_decoder_channel_override, "it is a detail of use_legacy_decoder_channel_override",
    ),
    "decoder_spatial_kernel": (lambda c: c.spatial_decoder, "it is a detail of spatial_decoder"),
    "calibration_epochs": (
        lambda c: c.calibrate_probe, "the probe is not refined before training (calibrate_probe=False)"),
    "lr_warmup_epochs": (
        lambda c: _scheduled(c, "WarmupCosine", "Cosine"), "it acts with the schedules WarmupCosine and Cosine"),
    "lr_min_ratio": (
        lambda c: _scheduled(c, "WarmupCosine", "Cosine", "Exponential"),
        "it acts with the schedules WarmupCosine, Cosine and Exponential"),
    **{
        f"plateau_{name}": (
            lambda c: _scheduled(c, "Adaptive", "ReduceLROnPlateau"),
            "it acts with the schedules Adaptive and ReduceLROnPlateau",
        )
        for name in ("factor", "patience", "min_lr", "threshold")
    },
    "momentum": (lambda c: c.optimizer == "sgd", "it acts with the optimizer sgd"),
    "adam_beta1": (lambda c: c.optimizer != "sgd", "it acts with the optimizers adam and adamw"),
    "adam_beta2": (lambda c: c.optimizer != "sgd", "it acts with the optimizers adam and adamw"),
    "gradient_clip_algorithm": (lambda c: c.gradient_clip_val, "no gradient_clip_val is stated"),
    "grad_norm_log_freq": (lambda c: c.log_grad_norm, "it is a detail of log_grad_norm"),
}  # fmt: skip
"""Field of any configuration -> (whether what it needs is stated, why it has no effect otherwise)."""

_OF_CHECKPOINTS = ("checkpoint_save_top_k", "checkpoint_monitor_metric", "checkpoint_mode", "early_stop_patience")
_OF_WORKERS = ("persistent_workers", "prefetch_factor")


def changed_fields(config: Any) -> dict[str, tuple[Any, Any]]:
    """Field -> (value, default) of a dataclass, where they differ; None is the same as an absent False."""
    found = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.default is dataclasses.MISSING:
            continue
        # an optional field may hold an array, which has no single truth when compared
        same = value is None if field.default is None else value == field.default
        if not same and not (value is None and field.default is False):
            found[field.name] = (value, field.default)
    return found


def superseded_reason(config: Any, name: str) -> str | None:
    """Why a field of ``config`` has no effect, or None if it has one (or is refused)."""
    own = getattr(config, "architecture", None)
    for architecture, options in OPTIONS_OF.items():
        if own is not None and own != architecture and name in options:
            return f"it is an option of the architecture {architecture!r}"
    if name in _ONLY_WITH and not isinstance(config, PyTorchExecutionConfig) and not _ONLY_WITH[name][0](config):
        return _ONLY_WITH[name][1]
    if isinstance(config, PyTorchExecutionConfig) and name in _OF_CHECKPOINTS and not config.enable_checkpointing:
        return "there are no checkpoints (enable_checkpointing=False)"
    if isinstance(config, PyTorchExecutionConfig) and name in _OF_WORKERS and config.num_workers == 0:
        return "no process loads batches beside this one (num_workers=0)"
    return SUPERSEDED[type(config)].get(name)


def superseded_settings(*configs: Any) -> dict[str, str]:
    """Field -> a sentence, for every superseded setting that differs from its default; nothing is refused."""
    found = {}
    for config in configs:
        for name, (value, _) in changed_fields(config).items():
            reason = superseded_reason(config, name)
            if reason is not None:
                found[name] = f"{name}={value!r} has no effect: {reason}."
    return found


def training_only(execution: PyTorchExecutionConfig) -> list[str]:
    """A sentence for each setting of an execution config that was changed and that reconstructing does not feel."""
    return [
        f"{name}={value!r} has no effect: it acts in training only."
        for name, value in execution.set_fields().items()
        if name not in _FOR_INFERENCE
    ]


def refuse_settings(*configs: Any) -> None:
    """Refuse settings that would not act.

    Args:
        configs: public dataclasses, or those of :mod:`ptycho_torch.config_params`.

    Raises:
        InputError: a setting that does not act has been changed.
    """
    for config in configs:
        changed = changed_fields(config)
        for name, (value, default) in changed.items():
            if name in REFUSED[type(config)] and superseded_reason(config, name) is None:
                raise InputError(
                    f"{name}={value!r} does not act in this version: {REFUSED[type(config)][name]}. Leave it at "
                    f"{default!r}."
                )
        if isinstance(config, config_params.TrainingConfig):
            _refuse_stages(config, changed)
        if isinstance(config, ModelConfig) and config.stages == 1 and config.later_projection_steps > 0:
            raise InputError(
                f"later_projection_steps={config.later_projection_steps}: acts from the second stage on, found "
                "stages=1. State stages=2 or more, or leave it out."
            )
        if isinstance(config, TrainingConfig) and config.probe_trainable and not config.calibrate_probe:
            raise InputError(
                "probe_trainable=True and calibrate_probe=False contradict each other: the probe is refined before "
                "training (calibrate_probe) or not at all. Leave one of them out."
            )


def _refuse_stages(config: config_params.TrainingConfig, changed: dict[str, Any]) -> None:
    """The lengths of stages belong to one schedule."""
    lengths = sorted({"stage_1_epochs", "stage_2_epochs", "stage_3_epochs", "stage_3_lr_factor"} & set(changed))
    if lengths and config.scheduler != "MultiStage":
        raise InputError(
            f"{', '.join(lengths)}: act with scheduler='MultiStage' only, found scheduler={config.scheduler!r}. State "
            "that schedule, or leave them out."
        )


def check_settings(*configs: Any) -> list[str]:
    """Refuse settings that would not act, and name superseded ones that were changed.

    Returns:
        A sentence for each superseded setting that differs from its default; each is also logged.

    Raises:
        InputError: see :func:`refuse_settings`.
    """
    refuse_settings(*configs)
    return announced(superseded_settings(*configs).values())


def announced(notes: Any) -> list[str]:
    """The notes as a list, each told once in the log."""
    for note in notes:
        logger.info(note)
    return list(notes)
