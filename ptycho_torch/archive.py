"""A trained module to the neutral archive and back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ptycho.errors import InputError
from ptycho.model_manager import load_archive, save_archive
from ptycho_torch.config_params import as_plain
from ptycho_torch.model import PtychoPINN_Lightning

BACKEND = "pytorch"
NETWORK, ILLUMINATION = "autoencoder", "diffraction_to_obj"


@dataclass
class TrainedModel:
    """A model as an archive gives it back.

    Attributes:
        module: with its weights and the refined probe.
        probe_guess: (M, N, N) complex64, what the training scan's file said.
        settings: what was stored beside, in plain types.
    """

    module: PtychoPINN_Lightning
    probe_guess: NDArray[np.complex64]
    settings: dict[str, Any]


def _parts(probe: NDArray[Any]) -> NDArray[np.float32]:
    return np.stack((probe.real, probe.imag), axis=-1).astype(np.float32)


def save_model(
    path: Path, module: PtychoPINN_Lightning, probe_guess: NDArray[np.complex64], settings: dict[str, Any]
) -> None:
    """Write ``module`` to an archive.

    Args:
        path: the file, ``.../wts.h5.zip``.
        module: trained.
        probe_guess: (M, N, N), to recognise a scan that comes with the same guess.
        settings: plain JSON types, stored as they are under "settings".
    """
    models = {
        NETWORK: {name: value.cpu().numpy() for name, value in module.generator.state_dict().items()},
        ILLUMINATION: {
            "probe": module.probe_parts.cpu().numpy(),
            "probe_guess": _parts(probe_guess),
            "good_pixels": module.good_pixels.cpu().numpy(),
        },
    }
    configs = {name: as_plain(config) for name, config in module.configs().items()}
    save_archive(path, models, {**configs, "settings": settings}, BACKEND)


def load_model(path: str | Path) -> TrainedModel:
    """Read a model from its archive, or from the folder that holds it.

    Raises:
        MissingFileError, InputError: see :func:`ptycho.model_manager.load_archive`; also for weights that do
            not fit the configuration.
    """
    archive = load_archive(path, backend=BACKEND)
    names = ("model_config", "data_config", "training_config", "inference_config")
    try:
        module = PtychoPINN_Lightning(**{name: archive.config[name] for name in names})
        weights = {name: torch.from_numpy(value) for name, value in archive.models[NETWORK].items()}
        module.generator.load_state_dict(weights, strict=True)
        light = archive.models[ILLUMINATION]
        probe = np.ascontiguousarray(light["probe"]).view(np.complex64)[..., 0]
        guess = np.ascontiguousarray(light["probe_guess"]).view(np.complex64)[..., 0]
        module.set_illumination(probe, light["good_pixels"])
        settings = dict(archive.config["settings"])
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        raise InputError(
            f"{path}: the archive's weights and configuration do not fit this version ({error}). Train the model again."
        ) from error
    module.eval()
    return TrainedModel(module, guess, settings)
