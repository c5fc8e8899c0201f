"""What becomes of every setting that ptychodus 1.7 offers; the tables of docs/ptychodus.md are made from here.

`python -m ptycho_torch.api.offered docs/ptychodus.md` writes them anew. Whether a setting acts, and why not, says
:mod:`ptycho_torch.settings`; here stands which of our fields a setting is, and what those that act do.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from ptycho import documents
from ptycho.config import config as public
from ptycho_torch import config_params, settings

_MODEL = public.ModelConfig()
_CENTRES = "share of the scan's range in which frames are scored in training; all frames are reconstructed"
_LABEL = "kept with the model"
_OBJECT_TERM = "adds a term on the object to the loss"

OFFERED: dict[str, tuple[Any, dict[str, str]]] = {
    "PtychoPINNModel": (
        _MODEL,
        {
            "GridSize": "a group has GridSize^2 frames; BatchSize counts groups; to reconstruct, that of the model",
            "NumFiltersScale": "=n_filters_scale",
            "AmpActivation": "=amp_activation",
            "ObjectBig": "off: training does not merge neighbouring frames",
            "ProbeBig": "=probe_big",
            "ProbeMask": "the probe is multiplied by a soft disk of half the frame's width",
            "PadObject": "=pad_object",
            "ProbeScale": "=probe_scale",
            "GaussianSmoothingSigma": "=gaussian_smoothing_sigma",
        },
    ),
    "PtychoPINNTraining": (
        public.TrainingConfig(model=_MODEL),
        {
            "NumPhotons": "no effect: frames are counts",
            "BatchSize": "groups per step, in blocks of 24 frames, at least one",
            "NumEpochs": "passes over the scan, at most: training stops when three of them change little",
            "MAEWeight": "weight of the mean difference of the amplitudes in the loss",
            "NLLWeight": "weight of the likelihood of the counts",
            "RealspaceMAEWeight": "times RealspaceWeight: weight of the difference from the object guess; state both",
            "RealspaceWeight": "see RealspaceMAEWeight",
            "PositionsProvided": "=positions_provided",
            "ProbeTrainable": "=probe_trainable",
            "IntensityScaleTrainable": "=intensity_scale_trainable",
        },
    ),
    "PtychoPINNInference": (
        None,
        {
            "ModelPath": "ptychodus itself does not use it",
            "NumNearestNeighbors": "no effect, but at least GridSize^2: every frame is used once",
            "NumSamples": "no effect: every frame is used once",
        },
    ),
    "PtychoPINNTorchData": (
        config_params.DataConfig(),
        {
            "model_size": "no effect: the frames say their size",
            "num_channels": "frames of a group, grid_size_x * grid_size_y; batch_size counts groups",
            "data_normalization_mode": "=normalize",
            "neighbor_lookup_method": "=neighbor_function",
            "scan_pattern": "=scan_pattern",
            "normalize_probe": "=probe_normalize",
            "x_lower_bound": _CENTRES,
            "x_upper_bound": _CENTRES,
            "y_lower_bound": _CENTRES,
            "y_upper_bound": _CENTRES,
            "min_neighbor_distance": "=min_neighbor_distance",
            "max_neighbor_distance": "=max_neighbor_distance",
            "num_nearest_neighbors_for_quadrant_lookup": "=K_quadrant",
            "coordinate_subsampling_factor": "=n_subsample",
            "probe_scale": "=probe_scale",
            "num_nearest_neighbors_for_lookup": "=K",
            "grid_size_x": "grid_size_x = grid_size_y; a group has as many frames as their product",
            "grid_size_y": "see grid_size_x",
            "probe_ramp_removal": "=probe_ramp_removal",
            "data_scaling_method": "=data_scaling",
            "subtract_mean_phase": "=phase_subtraction",
        },
    ),
    "PtychoPINNTorchModel": (
        config_params.ModelConfig(),
        {
            "object_big": "off: training does not merge neighbouring frames",
            "probe_big": "=probe_big",
            "loss_function": "Poisson: likelihood of the counts; MAE: mean difference of the amplitudes",
            "amplitude_activation_function": "=amp_activation",
            "cbam_encoder": "=cbam_encoder",
            "use_shared_decoder": "=use_shared_decoder",
            "intensity_scale_trainable": "=intensity_scale_trainable",
            "intensity_scale": "=intensity_scale",
            "max_position_jitter": "=max_position_jitter",
            "num_datasets": "=num_datasets",
            "auxiliary_amplitude_loss": _OBJECT_TERM,
            "auxiliary_phase_loss": _OBJECT_TERM,
            "auxiliary_amplitude_loss_coeff": "weight of auxiliary_amplitude_loss",
            "auxiliary_phase_loss_coeff": "weight of auxiliary_phase_loss",
            "num_filters_scale": "=n_filters_scale",
            "eca_decoder": "=eca_decoder",
            "use_batch_normalization": "=batch_norm",
            "edge_pad": "=edge_pad",
            "decoder_last_c_outer_fraction": "=decoder_last_c_outer_fraction",
            "cbam_bottleneck": "=cbam_bottleneck",
            "cbam_decoder": "=cbam_decoder",
            "spatial_decoder": "=spatial_decoder",
            "decoder_spatial_kernel": "=decoder_spatial_kernel",
            "eca_encoder": "=eca_encoder",
            "offset": "=offset",
            "probe_reference_loss_coeff": "=probe_reference_coeff",
            "amplitude_variance_loss": _OBJECT_TERM,
            "amplitude_variance_coeff": "weight of amplitude_variance_loss",
        },
    ),
    "PtychoPINNTorchTraining": (
        config_params.TrainingConfig(),
        {
            "epochs": "passes over the scan, at most: training stops when many of them change little",
            "batch_size": "groups of num_channels frames per step, in blocks of 24 frames, at least one",
            "learning_rate": "of the optimiser",
            "num_dataloader_workers": "processes that load batches, at most one per CPU core; 0 is often fastest",
            "gradient_accumulation_steps": "batches whose gradients make one step",
            "epochs_finetune": "=epochs_fine_tune",
            "finetune_gamma": "=fine_tune_gamma",
            "gradient_clip_val": "norm at which gradients are clipped; 0 does not",
            "use_negative_log_likelihood_loss": "must be on with loss_function Poisson",
            "device": "cuda, cpu, mps or auto; without such a device the CPU is used, with a warning",
            "n_devices": "training runs on one; more are told in the log",
            "distributed_strategy": "no effect: training runs in one process",
            "visible_gpu_indices": "which GPU is used (ptychodus sets CUDA_VISIBLE_DEVICES)",
            "learning_rate_scheduler": "Default: constant; Exponential and Cosine fall",
            "learning_rate_warmup_epochs": "epochs in which the rate rises (Cosine)",
            "minimum_learning_rate_ratio": "last rate over the first (Exponential, Cosine)",
            "notes": _LABEL,
            "model_name": _LABEL,
            "enable_staged_finetuning": "=enable_staged_finetuning",
            **{
                f"finetune_{name}": f"=finetune_{name}"
                for name in (
                    "stage1_epochs", "stage2_epochs", "stage3_epochs", "stage1_lr_decoder", "stage2_lr_encoder_top",
                    "stage2_lr_decoder", "stage2_lr_phase_head", "stage3_lr_encoder_bottom", "stage3_lr_encoder_top",
                    "stage3_lr_decoder", "stage3_lr_phase_head", "skip_stage3", "early_stop_patience", "val_split",
                )
            },
        },
    ),
    "PtychoPINNTorchInference": (
        config_params.InferenceConfig(),
        {
            "batch_size": "frames in memory at a time; changes memory and speed, not the result",
            "middle_trim": "=middle_trim",
            "experiment_number": "no effect: the scan is the one that is reconstructed",
            "patch_weighting_method": "=patch_weighting",
            "pad_eval": "=pad_eval",
            "window": "=window",
        },
    ),
}  # fmt: skip
"""Group of settings -> (our configuration, setting -> what it does, or "=" and the field of ours that it is)."""


def fate(config: Any, text: str) -> str:
    """What a setting does, or that it is refused or without effect, and why."""
    if not text.startswith("="):
        return text
    name = text[1:]
    superseded = settings.superseded_reason(config, name)
    if superseded is not None:
        return f"no effect: {superseded}"
    return f"refused: {settings.REFUSED[type(config)][name]}"


def table_of(group: str) -> str:
    """The settings of a group; those that share their fate share a row."""
    config, known = OFFERED[group]
    rows: dict[str, list[str]] = {}
    for name, text in known.items():
        rows.setdefault(fate(config, text), []).append(name)
    # what acts comes first
    order = sorted(rows, key=lambda told: ("no effect: ", "refused: ").count(told.partition(": ")[0] + ": "))
    return documents.table(("setting", "what it does"), ((documents.code(rows[told]), told) for told in order))


TABLES: documents.Tables = {group: partial(table_of, group) for group in OFFERED}


def main(pages: Sequence[str]) -> None:
    """Put the tables into these pages."""
    for page in pages:
        documents.rewrite(page, TABLES)


if __name__ == "__main__":
    main(sys.argv[1:])
