"""What a model archive says about its configuration, and whether overrides agree with it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from ptycho.errors import InputError, MissingFileError
from ptycho.model_manager import ARCHIVE_NAME, load_archive
from ptycho_torch import config_params
from ptycho_torch.config_bridge import ACTIVATIONS
from ptycho_torch.config_overrides import Knobs

_OF_THE_FRAMES = ("N", "grid_size", "C")
"""Fields of DataConfig that a trained model fixes. The domain, the dose and the probe belong to each scan."""


def archive_file(model_path: Path) -> Path:
    """The archive in a folder, or the file itself.

    Raises:
        MissingFileError: there is no such path.
        InputError: the folder holds no archive.
    """
    if not model_path.exists():
        raise MissingFileError(f"Model path not found: {model_path}. Name the output folder of a training run.")
    file = model_path / ARCHIVE_NAME if model_path.is_dir() else model_path
    if not file.is_file():
        raise InputError(
            f"Model archive not found: folder {model_path} holds no {ARCHIVE_NAME}. Name the output folder of a "
            "training run."
        )
    return file


def trained_configs(
    archive: Path, knobs: Knobs
) -> tuple[config_params.DataConfig, config_params.ModelConfig, float | None]:
    """The configurations a model was trained with, and its photon scale (``intensity_scale``) if it is known.

    Args:
        archive: the file.
        knobs: overrides, which may repeat what the archive says but not contradict it.

    Raises:
        InputError: a damaged, foreign or newer archive, or an override that contradicts it (both values are named).
    """
    stored = load_archive(archive, backend="pytorch").config
    scale = dict(stored.get("legacy") or {}).get("intensity_scale")
    try:
        data = config_params.as_config(config_params.DataConfig, stored["data_config"])
        model = config_params.as_config(config_params.ModelConfig, stored["model_config"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{archive}: its configuration does not fit this version ({error}). Train again.") from error
    archived = {f.name: getattr(model, f.name) for f in dataclasses.fields(model) if f.name != "probe_mask_tensor"}
    archived |= {name: getattr(data, name) for name in _OF_THE_FRAMES}
    for name, value in knobs.values.items():
        if name in archived and _canonical(name, value) != _canonical(name, archived[name]):
            raise InputError(
                f"{archive}: the model was trained with {name}={archived[name]!r}, found the override "
                f"{name}={value!r}. Leave it out, or use another model."
            )
    return data, model, scale


def _canonical(name: str, value: Any) -> Any:
    if name == "amp_activation":
        return ACTIVATIONS.get(value, value)
    return bool(value) if name == "probe_mask" else value
