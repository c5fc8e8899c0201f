"""`ModelConfig`, `TrainingConfig`, `InferenceConfig`: what is computed.

Mutable, constructible with placeholders (`ModelConfig(N=0)`, `Path()`), not validated on construction:
callers build them before the data is seen and fill in `model.N` afterwards. `ptycho.config.validation`
validates. This is the one table of defaults of the project; torch-side and command-line defaults are derived
from it.

Names are those that callers of the reference implementation use; the last block of each class is ours.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["ModelConfig", "TrainingConfig", "InferenceConfig"]


@dataclass
class ModelConfig:
    """The network and the physics around it. Lengths are in pixels."""

    N: int = 64  # side of a frame, and of the patch of object it sees
    gridsize: int = 1  # a group has gridsize**2 frames
    n_filters_scale: float = 2  # width of the 'cnn'
    model_type: str = "pinn"  # 'pinn' (self-supervised) or 'supervised'
    architecture: str = "projection_unet"  # or 'cnn'
    amp_activation: str = "sigmoid"  # of the 'cnn': sigmoid, swish, silu, softplus, relu
    object_big: bool = True  # merge neighbouring frames before the detector model
    probe_big: bool = True
    probe_mask: bool = False
    probe_mask_sigma: float = 1.0
    probe_mask_diameter: float | None = None  # None: N / 2
    pad_object: bool = True
    probe_scale: float = 4.0
    gaussian_smoothing_sigma: float = 0.0
    # Options of architectures of the reference that are not shipped; kept because callers state them.
    learned_input_channels: int = 1
    fno_input_transform: str = "none"
    generator_output_mode: str = "real_imag"
    # Ours
    merge_block: int = 24  # neighbouring frames merged before the detector model
    stages: int = 1  # project-and-correct stages of 'projection_unet'
    projection_steps: int = 48  # accelerated projections before the first correction; 1 is the back-projection
    later_projection_steps: int = 0  # of each stage after the first
    unet_channels: int = 16  # of the finest level; the coarser two have two and three times as many


def _alias_n_images(config: TrainingConfig | InferenceConfig) -> None:
    """`n_images` without `n_groups` is the older spelling: it sets n_groups and keeps its own value."""
    if config.n_images is not None and config.n_groups is None:
        warnings.warn(
            "n_images is deprecated; say n_groups (the number of groups of neighbouring frames).",
            DeprecationWarning,
            stacklevel=4,
        )
        config.n_groups = config.n_images


@dataclass
class TrainingConfig:
    """One training run. The learning rate is a field of PyTorchExecutionConfig."""

    model: ModelConfig
    train_data_file: Path | None = None
    test_data_file: Path | None = None
    batch_size: int = 16
    nepochs: int = 50
    mae_weight: float = 0.0
    nll_weight: float = 1.0
    realspace_mae_weight: float = 0.0
    realspace_weight: float = 0.0
    nphotons: float = 1e9  # used by simulation and by 'normalized_amplitude' data only
    n_groups: int | None = None  # None: every frame once per epoch
    n_images: int | None = None  # deprecated alias of n_groups
    n_subsample: int | None = None
    subsample_seed: int | None = None
    neighbor_count: int = 4
    enable_oversampling: bool = False
    neighbor_pool_size: int | None = None
    positions_provided: bool = True
    probe_trainable: bool = False
    intensity_scale_trainable: bool = True
    output_dir: Path = field(default_factory=lambda: Path("training_outputs"))
    sequential_sampling: bool = False
    backend: str = "pytorch"  # or 'tensorflow' (needs a provider; none is shipped)
    torch_loss_mode: str = "poisson"  # or 'mae'
    torch_mae_pred_l2_match_target: bool = False
    gradient_clip_val: float | None = None
    gradient_clip_algorithm: str = "norm"
    optimizer: str = "adam"  # adam, adamw, sgd
    momentum: float = 0.9
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    scheduler: str = "Default"
    lr_warmup_epochs: int = 0
    lr_min_ratio: float = 0.1
    plateau_factor: float = 0.5
    plateau_patience: int = 2
    plateau_min_lr: float = 5e-5
    plateau_threshold: float = 0.0
    # Ours
    measurement_domain: str = "auto"  # see ptycho.domain
    calibrate_probe: bool = True  # refine the probe guess before training
    calibration_epochs: int = 60
    val_fraction: float = 0.05  # of the scan points
    init_from: Path | None = None  # archive, or folder of a run, whose network training starts from
    pretrain_scans: int = 0  # simulated scans that the network is trained on first
    max_time_s: float | None = None
    stop_improvement: float = 0.001  # stop when stop_window epochs lower the training loss by less; 0: never
    stop_window: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        _alias_n_images(self)


@dataclass
class InferenceConfig:
    """One reconstruction with a trained model."""

    model: ModelConfig
    model_path: Path
    test_data_file: Path
    n_groups: int | None = None  # None: every frame
    n_images: int | None = None  # deprecated alias of n_groups
    n_subsample: int | None = None
    subsample_seed: int | None = None
    neighbor_count: int = 4
    enable_oversampling: bool = False
    neighbor_pool_size: int | None = None
    debug: bool = False
    output_dir: Path = field(default_factory=lambda: Path("inference_outputs"))
    backend: str = "pytorch"

    def __post_init__(self) -> None:
        _alias_n_images(self)
