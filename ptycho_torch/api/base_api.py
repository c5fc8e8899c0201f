"""The classes that ptychodus 1.7 calls: a thin facade over the same machinery as the command line.

One training loop (:class:`ptycho_torch.workflows.training.TrainingJob`), one way to reconstruct
(:func:`ptycho_torch.workflows.reconstruct.infer_with`). Nothing is written but below the output folder.
"""

from __future__ import annotations

import enum
import logging
import pickle
import zipfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ptycho.config.config import PyTorchExecutionConfig
from ptycho.errors import InputError, MissingFileError
from ptycho.model_manager import ARCHIVE_NAME
from ptycho.raw_data import RawData
from ptycho_torch.api.configuration import ConfigManager, completed, device_here, payload_of_configs
from ptycho_torch.archive import legacy_entries, save_model
from ptycho_torch.generators.registry import build_module
from ptycho_torch.workflows import reconstruct
from ptycho_torch.workflows.scans import withholds
from ptycho_torch.workflows.training import TrainingJob

__all__ = ["ConfigManager", "DataloaderFormats", "InferenceEngine", "PtychoDataLoader", "PtychoModel", "Trainer"]

logger = logging.getLogger(__name__)

_FRAMES = {"diff3d", "diffraction"}
_CONFIG_NAMES = ("data_config", "model_config", "training_config", "inference_config")


class DataloaderFormats(enum.Enum):
    """How data are handed to training; all mean the same here: scans, from which batches are cut."""

    LIGHTNING_MODULE = "lightning_module"
    LIGHTNING_ONLY_MODULE = "lightning_only_module"
    TENSORDICT = "tensordict"
    NUMPY = "numpy"


class PtychoDataLoader:
    """The scans of a folder, or one in memory.

    Args:
        data_dir: every ``*.npz`` in it that holds frames is a scan; other files are left alone.
        config_manager: of the run.
        data_format: see :class:`DataloaderFormats`.
        output_dir: a folder of its own is made for the run below it.

    Attributes:
        scans: the scans.
        output_dir: the folder of the run; made when something is written to it. None in memory.

    Raises:
        MissingFileError: there is no such folder.
        InputError: no scan in it, or scans with frames of different sides.
    """

    output_dir: Path | None

    def __init__(
        self, data_dir: str | Path, config_manager: ConfigManager | None = None,
        data_format: DataloaderFormats = DataloaderFormats.LIGHTNING_MODULE, output_dir: str | Path | None = None,
    ) -> None:  # fmt: skip
        self.data_format = DataloaderFormats(data_format)
        self.config_manager = config_manager or ConfigManager()
        self.scans = _scans_in(Path(data_dir))
        _take_side(self.config_manager, self.scans[0].N)
        self.output_dir = None if output_dir is None else _new_run(Path(output_dir))

    @classmethod
    def from_np(
        cls, diff_patterns: npt.NDArray[Any], probe: npt.NDArray[Any], positions: npt.NDArray[Any],
        config_manager: ConfigManager | None = None,
    ) -> PtychoDataLoader:  # fmt: skip
        """A scan in memory.

        Args:
            diff_patterns: (frames, N, N), photon counts in any dtype.
            probe: (modes, N, N) or (N, N) complex.
            positions: (frames, 2), [y, x] of the patches' centres in object pixels.
            config_manager: of the run.

        Raises:
            InputError: shapes that do not fit, frames that are not square.
        """
        loader = cls.__new__(cls)
        loader.data_format = DataloaderFormats.NUMPY
        loader.config_manager = config_manager or ConfigManager()
        places = np.asarray(positions, dtype=np.float64)
        if places.ndim != 2 or places.shape[1] != 2:
            raise InputError(f"positions: found shape {places.shape}, expected (frames, 2), [y, x] of each frame.")
        y, x = places.T
        loader.scans = [
            RawData.from_coords_without_pc(
                x, y, diff_patterns, probe, np.zeros(len(x), np.int64), measurement_domain="intensity", source="scan"
            )
        ]
        loader.output_dir = None
        return loader


def _scans_in(folder: Path) -> list[RawData]:
    if not folder.is_dir():
        raise MissingFileError(f"Training data folder not found: {folder}. Choose the folder of the exported scans.")
    files = sorted(folder.glob("*.npz"))
    scans = []
    for file in files:
        if not _FRAMES & _entries(file):
            logger.warning("%s holds no frames (diff3d) and is left out.", file.name)
            continue
        scans.append(RawData.from_file(file))
    if not scans:
        raise InputError(
            f"{folder}: found {len(files)} *.npz file(s) and none with frames (diff3d), expected at least one scan. "
            "Export the training data into this folder first."
        )
    sides = {raw.N for raw in scans}
    if len(sides) > 1:
        named = ", ".join(f"{Path(raw.source).name}: {raw.N}" for raw in scans)
        raise InputError(f"{folder}: found frames of different sides ({named}), expected one. Move the others away.")
    return scans


def _entries(file: Path) -> set[str]:
    """Names of what an NPZ holds."""
    try:
        with np.load(file, allow_pickle=False) as stored:
            return set(stored.files)
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{file}: not a readable NPZ file ({error}). Every *.npz in the folder is taken for a scan: move it away, "
            "or export it again."
        ) from error


def _take_side(configs: ConfigManager, N: int) -> None:
    """The frames say how large they are, whatever a setting says."""
    if configs.data_config.N != N:
        logger.info("N=%d is taken from the frames; the setting (model_size) said %d.", N, configs.data_config.N)
        configs.update(data_config={"N": N})


def _new_run(parent: Path) -> Path:
    """A folder name that is not taken yet."""
    name = datetime.now().strftime("run_%Y%m%d_%H%M%S")
    taken = [parent / name, *(parent / f"{name}_{i}" for i in range(1, 1000))]
    return next(path for path in taken if not path.exists())


class PtychoModel:
    """A model and its configurations. ``model`` is the Lightning module, which callers may assign."""

    def __init__(
        self, model_config: Any = None, data_config: Any = None, training_config: Any = None,
        inference_config: Any = None,
    ) -> None:  # fmt: skip
        self.config_manager = ConfigManager(data_config, model_config, training_config, inference_config)
        self.model: Any = None

    @classmethod
    def _new_model(cls, model: Callable[..., Any], config_manager: ConfigManager) -> PtychoModel:
        """A fresh module of class ``model``, for frames of the side that ``config_manager`` says."""
        configs = completed(config_manager)
        made = cls(configs.model_config, configs.data_config, configs.training_config, configs.inference_config)
        made.model = build_module(model, {name: getattr(configs, name) for name in _CONFIG_NAMES})
        return made

    @staticmethod
    def _extract_configs_from_checkpoint(path: str) -> tuple[Any, Any, Any, Any]:
        """(data, model, training, inference), plain dicts, of a checkpoint.

        Raises:
            MissingFileError, InputError: no such file, no checkpoint, or one without configurations.
        """
        stored = _read_checkpoint(Path(path)).get("hyper_parameters") or {}
        missing = [name for name in _CONFIG_NAMES if stored.get(name) is None]
        if missing:
            raise InputError(
                f"{path}: found no {', '.join(missing)} in the checkpoint, so that nobody knows what its weights are "
                "of. Load a .ckpt that training with this package has written, or train the model again."
            )
        data, model, training, inference = (stored[name] for name in _CONFIG_NAMES)
        return data, model, training, inference


def _read_checkpoint(file: Path) -> dict[str, Any]:
    """A checkpoint's contents; no code in it is run."""
    if not file.is_file():
        raise MissingFileError(f"Checkpoint not found: {file}. Train a model first, or load another file.")
    try:
        stored = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{file}: found no checkpoint that can be loaded safely ({str(error).splitlines()[0]}). Checkpoints of the "
            "reference implementation hold pickled objects and are not read; train the model again."
        ) from error
    if not isinstance(stored, dict) or "state_dict" not in stored:
        raise InputError(f"{file}: found no state_dict, expected a Lightning checkpoint (.ckpt) of this package.")
    return stored


class Trainer:
    """Trains a model on the scans of a loader; see :class:`ptycho_torch.workflows.training.TrainingJob`.

    Attributes:
        _trainer: the Lightning Trainer, to whose callbacks the caller may add. (The name is the caller's.)
    """

    def __init__(self, model: PtychoModel, dataloader: PtychoDataLoader, config_manager: ConfigManager) -> None:
        if dataloader.output_dir is None:
            raise InputError("the loader has no output_dir, which training needs. Name one when it is made.")
        self.dataloader, self.model = dataloader, model
        self.output_dir = dataloader.output_dir
        self._payload = payload_of_configs(completed(config_manager), self.output_dir)
        validates = withholds(dataloader.scans, self._payload.tf_training_config)
        self._job = TrainingJob(self._payload, self.output_dir, validates, model.model)
        self._trainer = self._job.trainer

    @classmethod
    def _from_lightning(
        cls, model: PtychoModel, dataloader: PtychoDataLoader, orchestration: str = "lightning",
        config_manager: ConfigManager | None = None,
    ) -> Trainer:  # fmt: skip
        """A trainer; ``orchestration`` other than 'lightning' is refused.

        Raises:
            InputError: settings that do not act or contradict each other.
        """
        _check_orchestration(orchestration)
        return cls(model, dataloader, config_manager or model.config_manager)

    def train(self, orchestration: str = "lightning", experiment_name: str = "") -> Path:
        """Train; the folder of the run, which holds the checkpoints, the losses and ``wts.h5.zip``.

        Args:
            orchestration: 'lightning'.
            experiment_name: kept with the settings of the model.
        """
        _check_orchestration(orchestration)
        self._payload.pt_training_config.experiment_name = experiment_name
        run = self._job.run(self.dataloader.scans)
        config, raw = self._payload.tf_training_config, run.scans[0].placed.raw
        resolved = reconstruct.resolved_settings(config, self._payload.execution_config, raw)
        save_model(self.output_dir / ARCHIVE_NAME, run.module, resolved, legacy_entries(config, run.module))
        told = self._payload.overrides_applied["superseded"]
        for note in run.notes:
            if note not in told:
                logger.info(note)
        return self.output_dir


def _check_orchestration(name: str) -> None:
    if name != "lightning":
        raise InputError(f"orchestration: found {name!r}, expected 'lightning'.")


class InferenceEngine:
    """Reconstructs with a loaded model; its settings are those that the model was trained with."""

    def __init__(self, config_manager: ConfigManager, ptycho_model: PtychoModel) -> None:
        self.config_manager, self.ptycho_model = config_manager, ptycho_model

    def predict_and_stitch(self, data_loader: PtychoDataLoader) -> npt.NDArray[np.complex64]:
        """The object of the loader's first scan, (H, W) complex64.

        Its middle is that of the bounding box of all positions, and it is as large as the frames reach; 1 where none
        does.

        Raises:
            InputError: frames of another side than the model's.
        """
        training = self.config_manager.training_config
        outcome = reconstruct.infer_with(
            self.ptycho_model.model, data_loader.scans[0],
            PyTorchExecutionConfig(accelerator=device_here(training.device)),
        )  # fmt: skip
        for note in outcome.notes:
            logger.info(note)
        for name, stage in outcome.stages.items():
            logger.info(
                "Deviance per pixel of the object by %s: %.4f (%.4f by Poisson statistics alone).",
                name, stage.deviance, stage.expected_deviance,
            )  # fmt: skip
        return outcome.result.object
