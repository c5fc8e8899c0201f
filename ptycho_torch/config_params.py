"""The backend's own view of a run: what a checkpoint carries so that it can be loaded anywhere.

Plain, mutable dataclasses whose defaults come from the public ones in :mod:`ptycho.config.config`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, TypeVar

from ptycho.config.config import ModelConfig as PublicModelConfig
from ptycho.config.config import TrainingConfig as PublicTrainingConfig

_MODEL = PublicModelConfig()
_TRAINING = PublicTrainingConfig(model=_MODEL)


@dataclass
class DataConfig:
    """The frames a model was made for.

    Attributes:
        N: side of a frame in pixels.
        grid_size: (rows, columns) of a group of frames.
        C: frames of a group, the product of ``grid_size``.
        probe_modes: incoherent modes of the probe.
        measurement_domain: what the stored numbers were ("intensity", "amplitude", "normalized_amplitude").
    """

    N: int = _MODEL.N
    grid_size: tuple[int, int] = (_MODEL.gridsize, _MODEL.gridsize)
    C: int = _MODEL.gridsize**2
    probe_modes: int = 1
    measurement_domain: str = "intensity"


@dataclass
class ModelConfig:
    """The network and the merge; see the public ModelConfig for the meaning of each field."""

    architecture: str = _MODEL.architecture
    object_big: bool = _MODEL.object_big
    merge_block: int = _MODEL.merge_block
    stages: int = _MODEL.stages
    projection_steps: int = _MODEL.projection_steps
    later_projection_steps: int = _MODEL.later_projection_steps
    unet_channels: int = _MODEL.unet_channels
    loss_function: str = "Poisson"


@dataclass
class TrainingConfig:
    """Optimiser and schedule; see the public TrainingConfig for the meaning of each field."""

    epochs: int = _TRAINING.nepochs
    batch_size: int = _TRAINING.batch_size
    learning_rate: float = 1e-3
    scheduler: str = _TRAINING.scheduler
    lr_warmup_epochs: int = _TRAINING.lr_warmup_epochs
    lr_min_ratio: float = _TRAINING.lr_min_ratio
    plateau_factor: float = _TRAINING.plateau_factor
    plateau_patience: int = _TRAINING.plateau_patience
    plateau_min_lr: float = _TRAINING.plateau_min_lr
    plateau_threshold: float = _TRAINING.plateau_threshold
    optimizer: str = _TRAINING.optimizer
    momentum: float = _TRAINING.momentum
    weight_decay: float = _TRAINING.weight_decay
    adam_beta1: float = _TRAINING.adam_beta1
    adam_beta2: float = _TRAINING.adam_beta2
    val_fraction: float = _TRAINING.val_fraction
    seed: int = _TRAINING.seed


@dataclass
class InferenceConfig:
    """How a whole scan is streamed through the model.

    Attributes:
        batch_size: frames in memory at a time.
    """

    batch_size: int = 256


Config = TypeVar("Config", DataConfig, ModelConfig, TrainingConfig, InferenceConfig)


def as_config(cls: type[Config], value: Config | dict[str, Any] | None) -> Config:
    """A configuration from itself, from the plain dict a checkpoint holds, or from nothing (the defaults).

    Raises:
        ValueError: the dict has keys that ``cls`` does not know.
    """
    if isinstance(value, cls):
        return value
    given = dict(value or {})  # type: ignore[arg-type]
    known = {f.name for f in fields(cls)}
    unknown = sorted(set(given) - known)
    if unknown:
        raise ValueError(f"{cls.__name__}: found unknown {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    if "grid_size" in given:
        given["grid_size"] = tuple(given["grid_size"])
    return cls(**given)
