"""Bundles of models under the names that callers of the reference use; the archive itself is in `.archive`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ptycho import params
from ptycho.config.config import TrainingConfig
from ptycho.errors import InputError
from ptycho.model_manager import Archive, load_archive
from ptycho_torch import config_params
from ptycho_torch.archive import BACKEND, ILLUMINATION, NETWORK, legacy_entries, module_from, save_model, save_weights
from ptycho_torch.config_bridge import torch_mode
from ptycho_torch.config_params import plain
from ptycho_torch.generators import registry
from ptycho_torch.model import PtychoPINN_Lightning

_REQUIRED = ("N", "gridsize")
_LEGACY_NAMES = {"object.big": "object_big", "probe.big": "probe_big", "probe.mask": "probe_mask"}


def save_torch_bundle(
    models_dict: Mapping[str, Any], base_path: str | Path, config: TrainingConfig, intensity_scale: float | None = None
) -> None:
    """Write ``<base_path>.zip``.

    Args:
        models_dict: "diffraction_to_obj" is the trained module; other entries are parts of it or placeholders. A
            module that is not ours is stored by its weights alone, and can be read but not rebuilt.
        base_path: by convention ``<output folder>/wts.h5``.
        config: of the training run.
        intensity_scale: sqrt(mean counts per frame) / (N/2); None for the module's own.

    Raises:
        InputError: there is no module among ``models_dict``.
        OutputError: the file cannot be written.
    """
    path = Path(f"{base_path}.zip")
    module = models_dict.get(ILLUMINATION)
    legacy = legacy_entries(config, module, intensity_scale)
    if isinstance(module, PtychoPINN_Lightning):
        known = {
            "measurement_domain": module.data_config.measurement_domain,
            "mean_counts_per_frame": float(module.mean_counts),
        }
        save_model(path, module, plain(dataclasses.asdict(config)) | known, legacy)
        return
    modules = {name: part for name, part in models_dict.items() if isinstance(part, nn.Module)}
    if not modules:
        raise InputError(
            f"models: found {sorted(models_dict)} with nothing trained among them, expected a module under "
            f"{ILLUMINATION!r}. Train first."
        )
    save_weights(path, modules, legacy)


def load_torch_bundle(
    base_path: str | Path, model_name: str | None = None
) -> tuple[dict[str, nn.Module], dict[str, Any]]:  # fmt: skip
    """Both models of a bundle, and what it wrote into ``ptycho.params.cfg``, which is restored first.

    Args:
        base_path: the archive, the folder that holds it (or its unpacked members), or its path without ``.zip``.
        model_name: the one that is wanted, for callers that state it; both are loaded in any case.

    Raises:
        MissingFileError, InputError: no archive, a damaged or foreign one, a model that is not in it.
    """
    archive = load_archive(_archive_at(base_path), backend=BACKEND)
    before = dict(params.cfg)
    restored = _restored(archive, base_path)
    try:
        module = module_from(archive, base_path)
    except InputError:
        params.cfg.clear()
        params.cfg.update(before)
        raise
    models: dict[str, nn.Module] = {NETWORK: module.generator, ILLUMINATION: module}
    if model_name is not None and model_name not in models:
        raise InputError(f"{base_path}: found no model {model_name!r}, expected one of {', '.join(models)}.")
    return models, restored


def create_torch_model_with_gridsize(gridsize: int, N: int, params_dict: Mapping[str, Any]) -> PtychoPINN_Lightning:
    """A fresh module for groups of gridsize**2 frames of N x N pixels, from a legacy dictionary.

    Args:
        gridsize, N: decide over what the dictionary says.
        params_dict: legacy keys; those that name fields of the backend's configurations are taken.
    """
    known = {_LEGACY_NAMES.get(name, name): value for name, value in params_dict.items() if value is not None}
    known.setdefault("architecture", "cnn")  # what such dictionaries describe where they do not say it
    C = gridsize**2
    group = {"C_model": C, "C_forward": C, "mode": torch_mode(known.get("model_type", "pinn"))}
    frames = {"N": N, "C": C, "grid_size": (gridsize, gridsize)}
    configs: dict[str, Any] = {
        "model_config": config_params.ModelConfig(**_of(config_params.ModelConfig, known) | group),
        "data_config": config_params.DataConfig(**_of(config_params.DataConfig, known) | frames),
        "training_config": config_params.TrainingConfig(),
        "inference_config": config_params.InferenceConfig(),
    }
    module: PtychoPINN_Lightning = registry.Architecture(configs["model_config"].architecture).build_model(configs)
    return module


def _of(cls: type, known: Mapping[str, Any]) -> dict[str, Any]:
    """Entries that are fields of a configuration."""
    names = {f.name for f in dataclasses.fields(cls)}
    return {name: value for name, value in known.items() if name in names}


def _archive_at(base_path: str | Path) -> Path:
    given = Path(base_path)
    beside = given.with_name(given.name + ".zip")
    return beside if not given.exists() and beside.is_file() else given


def _restored(archive: Archive, source: str | Path) -> dict[str, Any]:
    """Write what the archive remembers into the legacy dictionary; returns it."""
    entries = dict(archive.config.get("legacy") or {})
    missing = [name for name in _REQUIRED if name not in entries]
    if missing:
        raise InputError(
            f"{source}: missing required fields: {', '.join(missing)}. Cannot reconstruct model architecture; train "
            "the model again."
        )
    params.cfg.update(entries)
    return entries
