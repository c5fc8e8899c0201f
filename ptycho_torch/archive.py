"""A trained module to the neutral archive and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ptycho.config.config import TrainingConfig, dataclass_to_legacy_dict
from ptycho.errors import InputError
from ptycho.model_manager import Archive, load_archive, save_archive
from ptycho_torch.config_params import as_plain, plain
from ptycho_torch.model import PtychoPINN_Lightning

BACKEND = "pytorch"
NETWORK, ILLUMINATION = "autoencoder", "diffraction_to_obj"
_CONFIGS = ("model_config", "data_config", "training_config", "inference_config")
_LIGHT = ("probe_parts", "guess_parts", "good_pixels", "mean_counts", "probe_mask_map")


def save_model(
    path: Path, module: PtychoPINN_Lightning, settings: dict[str, Any], legacy: dict[str, Any]
) -> None:  # fmt: skip
    """Write ``module`` to an archive.

    Args:
        path: the file, ``.../wts.h5.zip``.
        module: trained.
        settings: of the run, in plain JSON types.
        legacy: what loading it writes into ``ptycho.params.cfg``, in plain JSON types.
    """
    models = {
        NETWORK: _arrays(module.generator.state_dict()),
        ILLUMINATION: _arrays({name: getattr(module, name) for name in _LIGHT}),
    }
    configs = {name: as_plain(config) for name, config in module.configs().items()}
    save_archive(path, models, {**configs, "settings": settings, "legacy": legacy}, BACKEND)


def legacy_entries(config: TrainingConfig, module: Any, intensity_scale: float | None = None) -> dict[str, Any]:
    """What loading a model writes into ``ptycho.params.cfg``, in plain JSON types; None is left out.

    Args:
        config: of the training run.
        module: whose ``intensity_scale`` is written where the next argument is None.
        intensity_scale: sqrt(mean counts per frame) / (N/2), or None.
    """
    scale = getattr(module, "intensity_scale", None) if intensity_scale is None else intensity_scale
    entries = {**dataclass_to_legacy_dict(config), "intensity_scale": scale}
    return {name: plain(value) for name, value in entries.items() if value is not None}


def save_weights(path: Path, models: dict[str, torch.nn.Module], legacy: dict[str, Any]) -> None:
    """Write the bare weights of modules that are not ours; nothing but ``load_archive`` reads them back."""
    arrays = {name: _arrays(module.state_dict()) for name, module in models.items()}
    save_archive(path, arrays, {"settings": {}, "legacy": legacy}, BACKEND)


def module_from(archive: Archive, source: str | Path) -> PtychoPINN_Lightning:
    """The module of an archive, with its weights, its probe and the training scan's guess; in evaluation mode.

    Raises:
        InputError: weights that are missing, left over, or of another shape than the configuration says.
    """
    try:
        module = PtychoPINN_Lightning(**{name: archive.config[name] for name in _CONFIGS})
        weights = {name: torch.from_numpy(value) for name, value in archive.models[NETWORK].items()}
        module.generator.load_state_dict(weights, strict=True)
        _restore(module, archive.models[ILLUMINATION])
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        raise InputError(
            f"{source}: the archive's weights and configuration do not fit this version ({error}). Train the model "
            "again."
        ) from error
    module.eval()
    return module


def load_model(path: str | Path) -> tuple[PtychoPINN_Lightning, dict[str, Any]]:
    """The module of an archive (the file, or the folder that holds it) and the settings stored beside it.

    Raises:
        MissingFileError, InputError: see :func:`ptycho.model_manager.load_archive`; also for weights that do
            not fit the configuration.
    """
    archive = load_archive(path, backend=BACKEND)
    return module_from(archive, path), dict(archive.config.get("settings", {}))


def _arrays(state: dict[str, Any]) -> dict[str, NDArray[Any]]:
    return {name: value.detach().cpu().numpy() for name, value in state.items()}


def _restore(module: PtychoPINN_Lightning, light: dict[str, NDArray[Any]]) -> None:
    if sorted(light) != sorted(_LIGHT):
        raise InputError(f"found {sorted(light)} in the group {ILLUMINATION}, expected {sorted(_LIGHT)}")
    with torch.no_grad():
        for name, value in light.items():
            buffer = getattr(module, name)
            if tuple(value.shape) != tuple(buffer.shape):
                raise InputError(f"{name} has shape {tuple(value.shape)}, expected {tuple(buffer.shape)}")
            buffer.copy_(torch.from_numpy(np.asarray(value)))
