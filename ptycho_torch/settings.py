"""Which settings act: a changed one that would not is refused with a reason, or its job is done otherwise.

A setting acts, or it is in `NOT_YET` and refused here, or it is in `SUPERSEDED` (specs/scaling.md) and a changed
value is reported. The same for the backend's own dataclasses in `TORCH_NOT_YET` and `TORCH_SUPERSEDED`.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

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


_BLOCKS = "blocks of neighbours are drawn anew every epoch"
_COUNTS = "frames stay in counts and the probe is scaled to them"
_GAUGE = "the refinement fixes what can be moved between probe and object (specs/scaling.md, section 3)"
_MERGE = "patches are merged whole, by their illumination"
_REFERENCE_SCALES = "belongs to a detector model with learned scales"

TORCH_SUPERSEDED = {
    "normalize": _COUNTS,
    "data_scaling": _COUNTS,
    "probe_normalize": _COUNTS,
    "intensity_scale": _COUNTS,
    "amplitude_physics_gain": _COUNTS,
    "n_subsample": _BLOCKS,
    "neighbor_function": _BLOCKS,
    "min_neighbor_distance": _BLOCKS,
    "max_neighbor_distance": _BLOCKS,
    "K_quadrant": _BLOCKS,
    "scan_pattern": _BLOCKS,
    "phase_subtraction": _GAUGE,
    "probe_ramp_removal": _GAUGE,
    "max_position_jitter": "frames lie on one canvas, with room for every position",
    "offset": "frames lie on one canvas, with room for every position",
    "training_patch_weighting": _MERGE,
    "middle_trim": _MERGE,
    "pad_eval": _MERGE,
    "window": _MERGE,
    "patch_weighting": _MERGE,
    "varpro_scaling": _COUNTS,
    "rect_s1s2_trainable": _REFERENCE_SCALES,
    "rect_s1s2_init": _REFERENCE_SCALES,
    "num_datasets": "nothing is learned per scan",
    "framework": "it is always Lightning",
    "orchestrator": "it is always Lightning",
    **dict.fromkeys(
        (
            "batch_norm", "edge_pad", "decoder_last_c_outer_fraction", "decoder_last_amp_channels",
            "use_legacy_decoder_channel_override", "use_shared_decoder", "cnn_output_mode", "cbam_encoder",
            "cbam_bottleneck", "cbam_decoder", "eca_encoder", "eca_decoder", "spatial_decoder",
            "decoder_spatial_kernel", "fno_modes", "fno_width", "fno_blocks", "fno_cnn_blocks",
            "max_hidden_channels", "resnet_width", "spectral_bottleneck_blocks", "spectral_bottleneck_modes",
            "spectral_bottleneck_share_weights", "spectral_bottleneck_gate_init", "spectral_bottleneck_gate_mode",
        ),
        _OTHER_ARCHITECTURE,
    ),
}  # fmt: skip
"""As SUPERSEDED, for fields that only the backend's own dataclasses have."""

_STAGES = "training has one stage"

TORCH_NOT_YET = {
    "x_bounds": "every frame is trained on",
    "y_bounds": "every frame is trained on",
    "physics_forward_mode": "only 'amplitude' is available",
    "amp_loss": "losses on the object are not available",
    "phase_loss": "losses on the object are not available",
    "probe_reference_coeff": "losses on the probe are not available",
    "amplitude_variance_loss": "losses on the object are not available",
    "log_grad_norm": "gradients are not logged",
    "log_patch_stats": "patches are not logged",
    "epochs_fine_tune": _STAGES,
    "stage_1_epochs": _STAGES,
    "stage_2_epochs": _STAGES,
    "stage_3_epochs": _STAGES,
    "enable_staged_finetuning": _STAGES,
}
"""As NOT_YET, for fields that only the backend's own dataclasses have."""

_TORCH_CONFIGS = (
    config_params.DataConfig,
    config_params.ModelConfig,
    config_params.TrainingConfig,
    config_params.InferenceConfig,
)


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


def superseded_settings(*configs: Any) -> dict[str, str]:
    """Field -> a sentence, for every superseded setting that differs from its default; nothing is refused."""
    found = {}
    for config in configs:
        table = TORCH_SUPERSEDED if isinstance(config, _TORCH_CONFIGS) else SUPERSEDED
        for name, (value, _) in changed_fields(config).items():
            if name in table:
                found[name] = f"{name}={value!r} has no effect: {table[name]}."
    return found


def check_settings(*configs: Any) -> list[str]:
    """Refuse settings that would not act, and name superseded ones that were changed.

    Args:
        configs: public dataclasses, or those of :mod:`ptycho_torch.config_params`.

    Returns:
        A sentence for each superseded setting that differs from its default.

    Raises:
        InputError: a setting that does not act has been changed.
    """
    for config in configs:
        table = TORCH_NOT_YET if isinstance(config, _TORCH_CONFIGS) else NOT_YET
        for name, (value, default) in changed_fields(config).items():
            if name in table:
                raise InputError(
                    f"{name}={value!r} does not act in this version: {table[name]}. Leave it at {default!r}."
                )
    notes = list(superseded_settings(*configs).values())
    for note in notes:
        logger.info(note)
    return notes
