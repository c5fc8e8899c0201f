"""The five configurations of a run in one place, and the payload that they amount to."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ptycho.config.config import PyTorchExecutionConfig, TrainingConfig
from ptycho.errors import InputError
from ptycho_torch import config_bridge, settings
from ptycho_torch.config_factory import TrainingPayload, populate_legacy_params
from ptycho_torch.config_params import (
    NPHOTONS_UNSET,
    DataConfig,
    DatagenConfig,
    InferenceConfig,
    ModelConfig,
    as_config,
)
from ptycho_torch.config_params import TrainingConfig as TorchTrainingConfig

logger = logging.getLogger(__name__)

_CLASSES: dict[str, Any] = {
    "data_config": DataConfig,
    "model_config": ModelConfig,
    "training_config": TorchTrainingConfig,
    "inference_config": InferenceConfig,
    "datagen_config": DatagenConfig,
}
_FROZEN = {
    "data_config": ("N", "C", "grid_size", "probe_modes"),
    "model_config": tuple(f.name for f in dataclasses.fields(ModelConfig) if f.name != "probe_mask_tensor"),
}
"""What a trained model cannot be used with other values of."""


class ConfigManager:
    """The configurations that a run, or a loaded model, is described by.

    Args:
        data_config, model_config, training_config, inference_config, datagen_config: dataclasses of
            :mod:`ptycho_torch.config_params`, or plain dicts of their fields; None for the defaults.
    """

    data_config: DataConfig
    model_config: ModelConfig
    training_config: TorchTrainingConfig
    inference_config: InferenceConfig
    datagen_config: DatagenConfig

    def __init__(
        self, data_config: Any = None, model_config: Any = None, training_config: Any = None,
        inference_config: Any = None, datagen_config: Any = None,
    ) -> None:  # fmt: skip
        given = (data_config, model_config, training_config, inference_config, datagen_config)
        for (name, cls), value in zip(_CLASSES.items(), given, strict=True):
            setattr(self, name, as_config(cls, value))

    @classmethod
    def from_configs(cls, **configs: Any) -> ConfigManager:
        """The same as the constructor, by keyword."""
        return cls(**configs)

    @classmethod
    def from_loaded_model(cls, ptycho_model: Any) -> ConfigManager:
        """The configurations that a loaded model was trained with."""
        return cls(**ptycho_model.model.configs())

    def validate_arch_compatibility(self, ptycho_model: Any) -> None:
        """Compare with a loaded model.

        Raises:
            InputError: fields that the model fixes differ; each is named with both values.
        """
        theirs = ptycho_model.model.configs()
        different = [
            f"{name}={getattr(getattr(self, part), name)!r} (the model: {getattr(theirs[part], name)!r})"
            for part, names in _FROZEN.items()
            for name in names
            if getattr(getattr(self, part), name) != getattr(theirs[part], name)
        ]
        if different:
            raise InputError(
                f"The configuration does not fit the loaded model: found {', '.join(different)}. Use the model's own "
                "settings, or train a model with these."
            )

    def to_tuple(self) -> tuple[Any, ...]:
        """(data, model, training, inference, datagen)."""
        return tuple(getattr(self, name) for name in _CLASSES)

    def update(self, **changes: dict[str, Any] | None) -> None:
        """Change fields: data_config={'N': 64}, and so on."""
        for name, fields in changes.items():
            setattr(self, name, dataclasses.replace(getattr(self, name), **(fields or {})))


def completed(configs: ConfigManager) -> ConfigManager:
    """The same configurations, with what follows from others filled in.

    Raises:
        InputError: a number of channels that is not that of the grid; an unknown mode or loss, or nothing to train by.
    """
    data, model, training = configs.data_config, configs.model_config, configs.training_config
    rows, columns = data.grid_size
    if rows * columns != data.C:
        raise InputError(
            f"found {data.C} channels (C, in ptychodus: num_channels) for a grid of {rows} x {columns} (grid_size_y, "
            f"grid_size_x), expected {rows * columns}. Change one of them."
        )
    if not training.nll and model.mode != "Supervised" and model.loss_function == "Poisson" and not training.mae_weight:
        raise InputError(
            "found loss_function='Poisson' without the likelihood (nll=False, in ptychodus: "
            "use_negative_log_likelihood_loss), which leaves nothing to train by. Switch it on, or choose the loss "
            "'MAE'."
        )
    loss = config_bridge.loss_function(model.mode, config_bridge.loss_mode(model.loss_function))
    model = dataclasses.replace(model, C_model=data.C, C_forward=data.C, loss_function=loss)
    return ConfigManager(data, model, configs.training_config, configs.inference_config, configs.datagen_config)


def payload_of_configs(configs: ConfigManager, output_dir: Path) -> TrainingPayload:
    """The payload of a training run; the legacy dictionary is filled on the way (CONFIG-001).

    Args:
        configs: of the run, see :func:`completed`; machine settings that are not to be had here are reduced, with a
            warning.
        output_dir: of the run.

    Raises:
        InputError: settings that contradict each other.
    """
    data, model, training, inference, _ = configs.to_tuple()
    execution = _execution(training)
    public = config_bridge.to_training_config(
        config_bridge.to_model_config(data, model), data, model, training,
        {
            "n_groups": config_bridge.ALL_GROUPS,
            "nphotons": TrainingConfig.nphotons if data.nphotons == NPHOTONS_UNSET else data.nphotons,
            "train_data_file": Path(), "test_data_file": None, "output_dir": output_dir,
            # a step takes C times as many frames as in the public default, so that an epoch brings less
            "stop_window": TrainingConfig.stop_window * data.C,
        },
    )  # fmt: skip
    public.train_data_file = None
    populate_legacy_params(public)
    notes = settings.superseded_settings(data, model, training, inference) | _more_notes(training, inference)
    if model.decoder_last_amp_channels == data.C:
        notes.pop("decoder_last_amp_channels", None)  # it is what happens
    applied = {"sources": {}, "superseded": list(notes.values())}
    return TrainingPayload(public, data, model, training, inference, execution, applied)


def _more_notes(training: TorchTrainingConfig, inference: InferenceConfig) -> dict[str, str]:
    """What this way of running leaves without effect, beside the superseded settings."""
    notes = {}
    if training.strategy not in ("auto", TorchTrainingConfig.strategy):
        notes["strategy"] = f"strategy={training.strategy!r} has no effect: one process trains on one device."
    if inference.experiment_number != InferenceConfig.experiment_number:
        notes["experiment_number"] = (
            f"experiment_number={inference.experiment_number!r} has no effect: the scan that is reconstructed is the "
            "one that is handed over."
        )
    return notes


def _execution(training: TorchTrainingConfig) -> PyTorchExecutionConfig:
    """How to run on this machine: one device, CUDA if it is asked for and there."""
    if training.n_devices not in (1, "1"):
        logger.warning(
            "n_devices=%s: this process trains on one device. Several take the command line: ptychopinn train "
            "--devices %s --strategy ddp.", training.n_devices, training.n_devices,
        )  # fmt: skip
    workers = _workers(training.num_workers)
    return PyTorchExecutionConfig(
        accelerator=device_here(training.device),
        devices=1,
        strategy="auto",
        learning_rate=training.learning_rate,
        scheduler=training.scheduler,
        gradient_clip_val=training.gradient_clip_val,
        gradient_clip_algorithm=training.gradient_clip_algorithm,
        accum_steps=training.accum_steps,
        num_workers=workers,
        # workers that start anew every epoch take longer than what they do
        persistent_workers=workers > 0,
    )


def _workers(asked: int) -> int:
    """As many loading processes as there are CPU cores to run them, at most."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if asked > cores:
        logger.info("num_workers=%d (num_dataloader_workers): %d are used, one per CPU core.", asked, cores)
    return min(asked, cores)


def device_here(asked: str) -> str:
    """The device that was asked for, or the CPU with one warning where it is not there.

    Raises:
        InputError: no kind of device. Which of several GPUs is used is a matter of CUDA_VISIBLE_DEVICES.
    """
    wanted = {"gpu": "cuda", "cuda:0": "cuda", "auto": "cuda"}.get(asked, asked)
    available: dict[str, Callable[[], bool]] = {
        "cpu": lambda: True, "cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available,
    }  # fmt: skip
    if wanted not in available:
        raise InputError(
            f"device: found {asked!r}, expected 'cuda', 'cpu', 'mps' or 'auto'. Which of several GPUs is used is said "
            "by CUDA_VISIBLE_DEVICES (in ptychodus: visible_gpu_indices)."
        )
    if available[wanted]():
        return wanted
    if asked != "auto":
        logger.warning("device=%r: there is no such device here; the CPU is used.", asked)
    return "cpu"
