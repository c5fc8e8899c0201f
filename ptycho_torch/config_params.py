"""The backend's own view of a run: what a checkpoint carries so that it can be loaded anywhere.

Plain, mutable dataclasses, constructible without arguments. A default is that of the public dataclass in
:mod:`ptycho.config.config`, except where callers of the reference (ptychodus among them) count on another one; those
are written out as numbers. Which fields act is in :mod:`ptycho_torch.settings`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import PurePath
from typing import Any, TypeVar

import numpy as np

from ptycho.config.config import ModelConfig as PublicModelConfig
from ptycho.config.config import TrainingConfig as PublicTrainingConfig
from ptycho.errors import InputError

_MODEL = PublicModelConfig()
_TRAINING = PublicTrainingConfig(model=_MODEL)

NPHOTONS_UNSET = 1e5
"""The default of ``DataConfig.nphotons``; it means that nobody stated one."""

SCHEDULE_ALIASES = {"warmup_epochs": "lr_warmup_epochs", "min_lr_ratio": "lr_min_ratio"}
"""ptychodus' names of fields of TrainingConfig -> ours."""


@dataclass
class DataConfig:
    """The frames that a model was made for, and how they are grouped.

    ``n_subsample`` here is the reference's number of groups per frame; it has nothing to do with the public field of
    that name. ``measurement_domain`` is what the stored numbers were, see :mod:`ptycho.domain`.
    """

    N: int = _MODEL.N  # side of a frame in pixels
    C: int = 4  # frames of a group, the product of grid_size
    K: int = 6  # neighbours that a group is drawn from
    grid_size: tuple[int, int] = (2, 2)  # (rows, columns) of a group
    nphotons: float = NPHOTONS_UNSET
    measurement_domain: str = "count_intensity"
    scale_contract_version: str = "ci_intensity_v2"
    normalize: str = "Batch"  # Batch, Group, None
    probe_scale: float = _MODEL.probe_scale
    probe_normalize: bool = True
    data_scaling: str = "Parseval"  # Parseval, Max
    n_subsample: int = 7
    subsample_seed: int | None = _TRAINING.subsample_seed
    neighbor_function: str = "Nearest"  # Nearest, Min_dist, 4_quadrant
    min_neighbor_distance: float = 0.0  # object pixels
    max_neighbor_distance: float = 3.0
    K_quadrant: int = 30
    scan_pattern: str = "Isotropic"  # Isotropic, Rectangular
    x_bounds: tuple[float, float] = (0.1, 0.9)  # share of the scan's range in which training centres lie
    y_bounds: tuple[float, float] = (0.1, 0.9)
    phase_subtraction: bool = True
    probe_ramp_removal: bool = False
    # Ours
    probe_modes: int = 1  # incoherent modes of the probe


@dataclass
class ModelConfig:
    """The network and the merge; see the public ModelConfig for the fields that it shares."""

    mode: str = "Unsupervised"  # or Supervised
    architecture: str = _MODEL.architecture
    loss_function: str = "Poisson"  # or MAE
    C_model: int = 4  # frames of a group, as DataConfig.C
    C_forward: int = 4
    object_big: bool = _MODEL.object_big
    probe_big: bool = _MODEL.probe_big
    pad_object: bool = _MODEL.pad_object
    gaussian_smoothing_sigma: float = _MODEL.gaussian_smoothing_sigma
    max_position_jitter: int = 10
    offset: int = 6
    num_datasets: int = 1
    # Scale and probe mask
    intensity_scale: float = 10000.0
    intensity_scale_trainable: bool = False
    probe_mask: bool | None = _MODEL.probe_mask
    probe_mask_tensor: Any = None  # (N, N); never in a checkpoint's hyper-parameters
    probe_mask_sigma: float = _MODEL.probe_mask_sigma
    probe_mask_diameter: float | None = _MODEL.probe_mask_diameter
    # The 'cnn'
    n_filters_scale: float = _MODEL.n_filters_scale
    amp_activation: str = "silu"
    batch_norm: bool = False
    edge_pad: int = 10
    decoder_last_c_outer_fraction: float = 0.125
    decoder_last_amp_channels: int = 1
    use_legacy_decoder_channel_override: bool = False
    use_shared_decoder: bool = False
    cnn_output_mode: str = "amp_phase"  # or real_imag
    cbam_encoder: bool = True
    cbam_bottleneck: bool = False
    cbam_decoder: bool = False
    eca_encoder: bool = False
    eca_decoder: bool = False
    spatial_decoder: bool = False
    decoder_spatial_kernel: int = 7
    # Physics and losses of the reference
    training_patch_weighting: str = "central_mask"  # central_mask, probe, uniform
    physics_forward_mode: str = "amplitude"  # amplitude, rectangular_scaled
    rect_s1s2_trainable: bool = True
    rect_s1s2_init: str = "ones"  # ones, data
    amplitude_physics_gain: float = 1.0
    amp_loss: str | None = None  # Total_Variation, Mean_Deviation
    phase_loss: str | None = None
    amp_loss_coeff: float = 1.0
    phase_loss_coeff: float = 1.0
    probe_reference_coeff: float = 0.0
    amplitude_variance_loss: bool = False
    amplitude_variance_coeff: float = 0.01
    # Architectures of the reference that are not shipped; kept because callers state them
    learned_input_channels: int = _MODEL.learned_input_channels
    fno_input_transform: str = _MODEL.fno_input_transform
    generator_output_mode: str = _MODEL.generator_output_mode
    fno_modes: int = 12
    fno_width: int = 32
    fno_blocks: int = 4
    fno_cnn_blocks: int = 2
    max_hidden_channels: int | None = None
    resnet_width: int | None = None
    spectral_bottleneck_blocks: int = 6
    spectral_bottleneck_modes: int = 12
    spectral_bottleneck_share_weights: bool = True
    spectral_bottleneck_gate_init: float = 0.1
    spectral_bottleneck_gate_mode: str = "shared"
    # Ours
    merge_block: int = _MODEL.merge_block
    stages: int = _MODEL.stages
    projection_steps: int = _MODEL.projection_steps
    later_projection_steps: int = _MODEL.later_projection_steps
    unet_channels: int = _MODEL.unet_channels


@dataclass
class TrainingConfig:
    """Optimiser, schedule and what the run is told; see the public TrainingConfig for the fields that it shares.

    ``warmup_epochs`` and ``min_lr_ratio`` are ptychodus' names of ``lr_warmup_epochs`` and ``lr_min_ratio``: on
    construction a stated one reaches the other; two different statements are an InputError.
    """

    epochs: int = _TRAINING.nepochs
    batch_size: int = _TRAINING.batch_size  # groups of C frames
    learning_rate: float = 1e-3
    n_groups: int | None = _TRAINING.n_groups
    nll: bool = True
    torch_loss_mode: str = _TRAINING.torch_loss_mode
    torch_mae_pred_l2_match_target: bool = _TRAINING.torch_mae_pred_l2_match_target
    # Schedule
    scheduler: str = _TRAINING.scheduler
    lr_warmup_epochs: int = _TRAINING.lr_warmup_epochs
    lr_min_ratio: float = _TRAINING.lr_min_ratio
    warmup_epochs: int = _TRAINING.lr_warmup_epochs
    min_lr_ratio: float = _TRAINING.lr_min_ratio
    plateau_factor: float = _TRAINING.plateau_factor
    plateau_patience: int = _TRAINING.plateau_patience
    plateau_min_lr: float = _TRAINING.plateau_min_lr
    plateau_threshold: float = _TRAINING.plateau_threshold
    # Optimiser
    optimizer: str = _TRAINING.optimizer
    momentum: float = _TRAINING.momentum
    weight_decay: float = _TRAINING.weight_decay
    adam_beta1: float = _TRAINING.adam_beta1
    adam_beta2: float = _TRAINING.adam_beta2
    accum_steps: int = 1
    gradient_clip_val: float | None = _TRAINING.gradient_clip_val
    gradient_clip_algorithm: str = _TRAINING.gradient_clip_algorithm
    log_grad_norm: bool = False
    grad_norm_log_freq: int = 1
    # Machine, as ptychodus states it; PyTorchExecutionConfig is what runs
    device: str = "cuda"
    strategy: str = "ddp_spawn"
    n_devices: int | str = 1
    num_workers: int = 4
    framework: str = "Lightning"
    orchestrator: str = "Lightning"
    # Files and names
    training_directories: list[str] = field(default_factory=list)
    train_data_file: str | None = None
    test_data_file: str | None = None
    output_dir: str = str(_TRAINING.output_dir)
    experiment_name: str = "Synthetic_Runs"
    model_name: str = "PtychoPINNv2"
    notes: str = ""
    # Stages of the reference
    epochs_fine_tune: int = 0
    fine_tune_gamma: float = 0.1
    stage_1_epochs: int = 0
    stage_2_epochs: int = 0
    stage_3_epochs: int = 0
    stage_3_lr_factor: float = 0.1
    physics_weight_schedule: str = "cosine"
    enable_staged_finetuning: bool = False
    finetune_stage1_epochs: int = 7
    finetune_stage2_epochs: int = 7
    finetune_stage3_epochs: int = 5
    finetune_stage1_lr_decoder: float = 0.1
    finetune_stage2_lr_encoder_top: float = 0.01
    finetune_stage2_lr_decoder: float = 0.05
    finetune_stage2_lr_phase_head: float = 0.1
    finetune_stage3_lr_encoder_bottom: float = 0.005
    finetune_stage3_lr_encoder_top: float = 0.01
    finetune_stage3_lr_decoder: float = 0.02
    finetune_stage3_lr_phase_head: float = 0.05
    finetune_skip_stage3: bool = True
    finetune_early_stop_patience: int = 3
    finetune_val_split: float = 0.05
    # Ours
    nll_weight: float = _TRAINING.nll_weight  # of the likelihood; 0 when nll is False
    mae_weight: float = _TRAINING.mae_weight
    realspace_weight: float = _TRAINING.realspace_weight
    realspace_mae_weight: float = _TRAINING.realspace_mae_weight
    sequential_sampling: bool = _TRAINING.sequential_sampling
    val_fraction: float = _TRAINING.val_fraction
    seed: int = _TRAINING.seed

    def __post_init__(self) -> None:
        for other, ours in SCHEDULE_ALIASES.items():
            default, stated = getattr(_TRAINING, ours), getattr(self, other)
            if stated in (default, getattr(self, ours)):
                continue
            if getattr(self, ours) != default:
                raise InputError(f"found {other}={stated!r} and {ours}={getattr(self, ours)!r}; state one of them.")
            setattr(self, ours, stated)


@dataclass
class InferenceConfig:
    """How a whole scan is streamed through the model and merged."""

    batch_size: int = 1000  # frames in memory at a time
    middle_trim: int = 32  # central part of a patch that is used, pixels
    pad_eval: bool = True
    window: int = 20
    patch_weighting: str = "probe"  # probe, uniform
    varpro_scaling: bool = True
    experiment_number: int = 0
    log_patch_stats: bool = False
    patch_stats_limit: int | None = None


@dataclass
class DatagenConfig:
    """Simulation options of the reference; ours are in :mod:`ptycho.diffsim`."""

    objects_per_probe: int = 4
    diff_per_object: int = 7000
    object_class: str = "dead_leaves"
    image_size: tuple[int, int] = (250, 250)
    probe_paths: list[str] = field(default_factory=list)
    beamstop_diameter: int = 4


Config = TypeVar("Config", DataConfig, ModelConfig, TrainingConfig, InferenceConfig, DatagenConfig)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``" (did you mean 'x'?)"`` for the known name nearest to ``name``, or nothing when none is near."""
    near = difflib.get_close_matches(name, sorted(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def as_config(cls: type[Config], value: Config | dict[str, Any] | None) -> Config:
    """A configuration from itself, from the plain dict a checkpoint holds, or from nothing (the defaults).

    Raises:
        ValueError: the dict has keys that ``cls`` does not know; the message names the nearest valid ones.
    """
    if isinstance(value, cls):
        return value
    given = dict(value or {})  # type: ignore[arg-type]
    known = {f.name: f.default for f in fields(cls)}
    unknown = sorted(set(given) - set(known))
    if unknown:
        named = ", ".join(f"{name}{did_you_mean(name, known)}" for name in unknown)
        raise ValueError(f"{cls.__name__}: found unknown {named}; known are {', '.join(sorted(known))}")
    for name, default in known.items():
        if isinstance(default, tuple) and isinstance(given.get(name), list):
            given[name] = tuple(given[name])  # JSON and checkpoints know lists only
    return cls(**given)


def as_plain(config: Any) -> dict[str, Any]:
    """One of the dataclasses above in plain types, for checkpoints and JSON; ``as_config`` reads it back.

    ``probe_mask_tensor`` is left out: a checkpoint has tensors among its weights only.
    """
    return {f.name: plain(getattr(config, f.name)) for f in fields(config) if f.name != "probe_mask_tensor"}


def plain(value: Any) -> Any:
    """Dicts, lists and single values as JSON knows them: tuples become lists, paths text."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, np.generic):
        return value.item()
    return str(value) if isinstance(value, PurePath) else value
