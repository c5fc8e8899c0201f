"""Which backend trains and reconstructs.

A backend is an object with `run_cdi_example`, `train_cdi_model` and `load_inference_bundle` (see PytorchBackend for
their arguments). Packages register one under the entry-point group `ptychopinn.backends`: its name is what
`TrainingConfig.backend` says, its value something that is called without arguments and returns the backend. 'pytorch'
is registered by this distribution.
"""

from __future__ import annotations

from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from ptycho import model_manager, params
from ptycho.config.config import InferenceConfig, PyTorchExecutionConfig, TrainingConfig, update_legacy_dict
from ptycho.errors import InputError

if TYPE_CHECKING:
    from ptycho.geometry import Canvas
    from ptycho.raw_data import RawData

__all__ = [
    "BACKENDS",
    "ENTRY_POINT_GROUP",
    "Backend",
    "PytorchBackend",
    "load_backend",
    "load_inference_bundle_with_backend",
    "run_cdi_example_with_backend",
    "train_cdi_model_with_backend",
]

BACKENDS = ("pytorch", "tensorflow")
ENTRY_POINT_GROUP = "ptychopinn.backends"


class Backend(Protocol):
    """What a provider registers."""

    def run_cdi_example(
        self, train_data: Any, test_data: Any, config: TrainingConfig, *, execution_config: Any = None, **options: Any
    ) -> tuple[Any, Any, dict[str, Any]]:
        """(amplitude, phase, results) of training and, with do_stitching, reconstruction."""

    def train_cdi_model(
        self, train_data: Any, test_data: Any, config: TrainingConfig, *, execution_config: Any = None
    ) -> dict[str, Any]:
        """The results of training."""

    def load_inference_bundle(self, bundle_dir: Path, model_name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """(models by name, what was written into params.cfg) of a trained model."""

    def save_bundle(self, results: dict[str, Any], config: TrainingConfig, folder: Path) -> None:
        """Write the model of `results` to `folder`/wts.h5.zip."""

    def reconstruct(self, model: Any, raw: RawData, canvas: Canvas | None) -> npt.NDArray[np.complex64]:
        """The object (H, W) of a whole scan on `canvas`, or on the smallest one, by a trained model."""


class PytorchBackend:
    """The backend of this distribution; torch is imported when one of its functions is called."""

    @staticmethod
    def _components() -> Any:
        try:
            from ptycho_torch.workflows import components
        except (ImportError, RuntimeError) as error:
            raise RuntimeError(
                f"Backend 'pytorch' is unavailable: PyTorch or a package it needs is not installed ({error}). Install "
                "it with: pip install 'torch>=2.2' lightning"
            ) from error
        return components

    def run_cdi_example(
        self, train_data: Any, test_data: Any, config: TrainingConfig, *, execution_config: Any = None, **options: Any
    ) -> tuple[Any, Any, dict[str, Any]]:
        """See ptycho_torch.workflows.components.run_cdi_example_torch."""
        components = self._components()
        execution = PyTorchExecutionConfig() if execution_config is None else execution_config
        found: tuple[Any, Any, dict[str, Any]] = components.run_cdi_example_torch(
            train_data, test_data, config, **options, execution_config=execution
        )
        return found

    def train_cdi_model(
        self, train_data: Any, test_data: Any, config: TrainingConfig, *, execution_config: Any = None
    ) -> dict[str, Any]:
        """See ptycho_torch.workflows.components.train_cdi_model_torch."""
        components = self._components()
        execution = PyTorchExecutionConfig() if execution_config is None else execution_config
        results: dict[str, Any] = components.train_cdi_model_torch(
            train_data, test_data, config, execution_config=execution
        )
        return results

    def load_inference_bundle(self, bundle_dir: Path, model_name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """See ptycho_torch.workflows.components.load_inference_bundle_torch."""
        found: tuple[dict[str, Any], dict[str, Any]] = self._components().load_inference_bundle_torch(
            bundle_dir, model_name=model_name
        )
        return found


    def save_bundle(self, results: dict[str, Any], config: TrainingConfig, folder: Path) -> None:
        """See ptycho_torch.workflows.components.save_torch_bundle."""
        self._components().save_torch_bundle(
            results["models"], folder / "wts.h5", config, results.get("intensity_scale")
        )

    def reconstruct(self, model: Any, raw: RawData, canvas: Canvas | None) -> npt.NDArray[np.complex64]:
        """See ptycho_torch.workflows.reconstruct.infer_with."""
        self._components()  # says how to install torch where it is missing
        from ptycho_torch.workflows.reconstruct import infer_with

        image: npt.NDArray[np.complex64] = infer_with(model, raw, PyTorchExecutionConfig(), canvas).result.object
        return image


def load_backend(name: str) -> Backend:
    """The backend of that name.

    Raises:
        InputError: no backend can have that name.
        RuntimeError: nobody provides it.
    """
    if name not in BACKENDS:
        raise InputError(f"Invalid backend: {name!r}. Expected one of {', '.join(map(repr, BACKENDS))}.")
    for provider in metadata.entry_points(group=ENTRY_POINT_GROUP, name=name):
        backend: Backend = provider.load()()
        return backend
    if name == "pytorch":  # also where this distribution is used from its source, without being installed
        return PytorchBackend()
    raise RuntimeError(
        f"Backend {name!r} is not installed: no package registers it under the entry-point group "
        f"{ENTRY_POINT_GROUP!r}. Install one that does, or say backend='pytorch', which this package brings along."
    )


def run_cdi_example_with_backend(
    train_data: Any,
    test_data: Any,
    config: TrainingConfig,
    flip_x: bool = False,
    flip_y: bool = False,
    transpose: bool = False,
    M: int = 20,
    do_stitching: bool = False,
    torch_execution_config: PyTorchExecutionConfig | None = None,
) -> tuple[Any, Any, dict[str, Any]]:
    """Train, and with `do_stitching` reconstruct the test data, by `config.backend` (CONFIG-001 is seen to first).

    flip_x, flip_y, transpose: orientation of the image. M: pixels of a patch's middle that are used at least.
    torch_execution_config: how the PyTorch backend runs; None builds its defaults. Returns (amplitude, phase, results);
    results['backend'] names the backend. InputError for an unknown one, RuntimeError for one that is not installed.
    """
    update_legacy_dict(params.cfg, config)
    backend = load_backend(config.backend)
    amplitude, phase, results = backend.run_cdi_example(
        train_data,
        test_data,
        config,
        flip_x=flip_x,
        flip_y=flip_y,
        transpose=transpose,
        M=M,
        do_stitching=do_stitching,
        execution_config=torch_execution_config,
    )
    results["backend"] = config.backend
    _remember(backend, results, config)
    return amplitude, phase, results


def _remember(backend: Backend, results: dict[str, Any], config: TrainingConfig) -> None:
    """For ptycho.model_manager.save, which gets no model."""
    if results.get("models"):
        # the data that it was trained on are not kept alive
        kept = {name: results.get(name) for name in ("models", "intensity_scale")}
        model_manager.remember(partial(backend.save_bundle, kept, config))


def train_cdi_model_with_backend(
    train_data: Any,
    test_data: Any,
    config: TrainingConfig,
    torch_execution_config: PyTorchExecutionConfig | None = None,
) -> dict[str, Any]:
    """Train by `config.backend`; errors as of run_cdi_example_with_backend."""
    update_legacy_dict(params.cfg, config)
    backend = load_backend(config.backend)
    results = backend.train_cdi_model(train_data, test_data, config, execution_config=torch_execution_config)
    results["backend"] = config.backend
    _remember(backend, results, config)
    return results


def load_inference_bundle_with_backend(
    bundle_dir: str | Path,
    config: TrainingConfig | InferenceConfig | None = None,
    model_name: str = "diffraction_to_obj",
) -> tuple[Any, dict[str, Any]]:
    """(model, what was written into params.cfg) of a trained model, by the backend that made it.

    config: if given, its backend must be the archive's. MissingFileError or InputError for an archive that is not
    there, is damaged, or is of another backend; RuntimeError where that one is not installed.
    """
    made_by = model_manager.archive_backend(bundle_dir)
    if config is not None and config.backend != made_by:
        raise InputError(
            f"{bundle_dir}: found a model of backend {made_by!r}, the configuration says {config.backend!r}. Say "
            f"backend={made_by!r}, or use another model."
        )
    try:
        backend = load_backend(made_by)
    except RuntimeError as error:
        raise RuntimeError(
            f"{bundle_dir}: the model was made by another backend, and {made_by!r} is not installed. Load a model that "
            "this package has trained, or train one."
        ) from error
    models, restored = backend.load_inference_bundle(Path(bundle_dir), model_name)
    return models[model_name], restored
