"""The workflow functions that scripts and the backend selector call; the work lives in the modules they name.

Factories, generators, Lightning's classes and the functions of this module are looked up when they are called, so that
a caller may put others in their place.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, TensorDataset

from ptycho import params
from ptycho.config.config import InferenceConfig, PyTorchExecutionConfig, TrainingConfig, update_legacy_dict
from ptycho.errors import InputError
from ptycho_torch import calibration, config_params
from ptycho_torch.config_bridge import create_training_configs
from ptycho_torch.config_factory import TrainingPayload
from ptycho_torch.config_stated import payload_of
from ptycho_torch.data.blocks import Batch
from ptycho_torch.data.containers import entry, known_scan, scan_of
from ptycho_torch.data.labels import labels_for
from ptycho_torch.data.module import BlockDataModule, loader_arguments
from ptycho_torch.data.scans import LitScan, PlacedScan
from ptycho_torch.data_container_bridge import PtychoDataContainerTorch
from ptycho_torch.lightning_utils import device_of
from ptycho_torch.model_manager import load_torch_bundle, save_torch_bundle
from ptycho_torch.objective import needs_labels
from ptycho_torch.workflows import stitching
from ptycho_torch.workflows.training import run_training

logger = logging.getLogger(__name__)

DEFAULT_BATCH = 16
Images = tuple[NDArray[np.float32] | None, NDArray[np.float32] | None, dict[str, Any]]


def run_cdi_example_torch(
    train_data: Any, test_data: Any, config: TrainingConfig, flip_x: bool = False, flip_y: bool = False,
    transpose: bool = False, M: int = 20, do_stitching: bool = False,
    execution_config: PyTorchExecutionConfig | None = None, overrides: Mapping[str, Any] | None = None,
) -> Images:  # fmt: skip
    """Train, reconstruct the test data if that is asked for, and save the model.

    Args:
        train_data, test_data: a RawData, or what :func:`_ensure_container` takes; no test data validates with
            withheld frames.
        config: what to compute. The model goes to ``config.output_dir``.
        flip_x, flip_y, transpose, M: see :func:`_reassemble_cdi_image_torch`.
        do_stitching: reconstruct ``test_data``.
        execution_config: how to run it; its defaults when None.
        overrides: as in :func:`ptycho_torch.config_factory.create_training_payload`.

    Returns:
        (amplitude, phase, results): (H, W) float32 or None; results as of :func:`train_cdi_model_torch`, with those of
        the reconstruction and "backend".
    """
    update_legacy_dict(params.cfg, config)
    given: dict[str, Any] = {"execution_config": execution_config, "overrides": overrides}
    stated = {name: value for name, value in given.items() if value is not None}
    results = train_cdi_model_torch(train_data, test_data, config, **stated)
    amplitude = phase = None
    if do_stitching and test_data is not None:
        amplitude, phase, more = _reassemble_cdi_image_torch(
            test_data, config, flip_x, flip_y, transpose, M, train_results=results
        )
        results.update(more)
    models = results.get("models")
    if models and Path(config.output_dir) != Path():
        payload = results.get("payload")
        run_config = config if overrides is None or payload is None else payload.tf_training_config
        save_torch_bundle(models, str(Path(config.output_dir) / "wts.h5"), run_config, results.get("intensity_scale"))
    results["backend"] = "pytorch"
    return amplitude, phase, results


def train_cdi_model_torch(
    train_data: Any, test_data: Any, config: TrainingConfig,
    execution_config: PyTorchExecutionConfig | None = None, overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train a model; arguments as of :func:`run_cdi_example_torch`.

    Returns:
        "history" ("train_loss", "val_loss": per epoch, or None), "models" ("diffraction_to_obj": the trained module,
        "autoencoder": its network), "train_container", "test_container", "intensity_scale", "timings_s", "notes",
        "payload".
    """
    train_container = _ensure_container(train_data, config)
    test_container = None if test_data is None else _ensure_container(test_data, config)
    stated = {} if overrides is None else {"overrides": overrides}
    results = _train_with_lightning(train_container, test_container, config, execution_config, **stated)
    results.setdefault("train_container", train_container)
    results.setdefault("test_container", test_container)
    return results


def load_inference_bundle_torch(
    bundle_dir: str | Path, model_name: str = "diffraction_to_obj"
) -> tuple[dict[str, Any], dict[str, Any]]:  # fmt: skip
    """(models, what was written into ``ptycho.params.cfg``) of a trained model; see :func:`.load_torch_bundle`."""
    return load_torch_bundle(str(bundle_dir), model_name=model_name)


def _ensure_container(data: Any, config: TrainingConfig | InferenceConfig) -> Any:
    """A container of grouped frames: made lazily from a scan, passed through if it is one already.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(data, PtychoDataContainerTorch):
        return data
    raw = known_scan(data)
    if raw is not None:
        return PtychoDataContainerTorch.of_scan(raw, config)
    if entry(data, "X") is not None:
        return data
    raise TypeError(f"data must be RawData, RawDataTorch, or PtychoDataContainerTorch, got {type(data).__name__}")


def _train_with_lightning(
    train_container: Any, test_container: Any, config: TrainingConfig,
    execution_config: PyTorchExecutionConfig | None = None, overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Configure by the factory, train; see :func:`train_cdi_model_torch`."""
    payload = payload_of(config, execution_config, overrides)
    run = run_training(payload, train_container, test_container)
    module = run.module
    return {
        "history": {"train_loss": run.losses.get("train", []), "val_loss": run.losses.get("val")},
        "models": {
            "diffraction_to_obj": module,
            "autoencoder": getattr(module, "generator", {"_sentinel": "autoencoder"}),
        },
        "train_container": train_container,
        "test_container": test_container,
        "intensity_scale": run.scans[0].placed.raw.intensity_scale(),
        "timings_s": run.timings_s,
        "notes": run.notes,
        "payload": payload,
    }


def _build_lightning_dataloaders(
    train_container: Any, test_container: Any, config: Any, payload: TrainingPayload | None = None
) -> tuple[DataLoader[Batch], DataLoader[Batch] | None]:
    """The loaders that training uses, lit by the unrefined probe.

    Args:
        train_container, test_container: see :func:`ptycho_torch.data.containers.scan_of`.
        config: a TrainingConfig, or any object with ``model``.
        payload: decides over ``config`` where it is given.

    Returns:
        (training, validation or None); for their batches see :class:`ptycho_torch.data.blocks.Batch`.
    """
    data, model, training = _torch_configs(config, payload)
    scan = _lit(train_container, config, model, training)
    beside = [] if test_container is None else [_lit(test_container, config, model, training)]
    execution = PyTorchExecutionConfig(accelerator="cpu") if payload is None else payload.execution_config
    module = BlockDataModule(scan, data, model, training, execution, getattr(config, "n_groups", None), beside)
    validation = module.val_dataloader()
    return module.train_dataloader(), None if isinstance(validation, list) else validation


def _torch_configs(
    config: Any, payload: TrainingPayload | None
) -> tuple[config_params.DataConfig, config_params.ModelConfig, config_params.TrainingConfig]:
    if payload is not None:
        return payload.pt_data_config, payload.pt_model_config, payload.pt_training_config
    if isinstance(config, TrainingConfig):
        return create_training_configs(
            config, PyTorchExecutionConfig(accelerator="cpu"), N=config.model.N, probe_modes=1,
            measurement_domain=config.measurement_domain,
        )[:3]  # fmt: skip
    side = config.model.gridsize
    data = config_params.DataConfig(
        N=config.model.N, C=side**2, grid_size=(side, side), x_bounds=(0.0, 1.0), y_bounds=(0.0, 1.0)
    )  # fmt: skip
    known = {f: getattr(config.model, f) for f in ("object_big", "merge_block") if hasattr(config.model, f)}
    training = config_params.TrainingConfig(
        batch_size=getattr(config, "batch_size", DEFAULT_BATCH),
        val_fraction=getattr(config, "val_fraction", 0.0),
        sequential_sampling=getattr(config, "sequential_sampling", False),
        seed=getattr(config, "subsample_seed", None) or 0,
    )
    return data, config_params.ModelConfig(**known), training


def _lit(
    container: Any, config: Any, model: config_params.ModelConfig, training: config_params.TrainingConfig
) -> LitScan:  # fmt: skip
    raw, groups = scan_of(
        container, object_big=model.object_big, nphotons=getattr(config, "nphotons", TrainingConfig.nphotons)
    )
    placed = PlacedScan.of(raw)
    probe = torch.from_numpy(calibration.scaled_guess(raw, calibration.mask_of(model, raw.N)))
    labels = labels_for(placed, groups is not None) if needs_labels(model, training) else None
    return LitScan(placed, probe, probe, labels, groups)


def _build_inference_dataloader(
    container: Any, config: Any, execution_config: PyTorchExecutionConfig | None = None
) -> DataLoader[tuple[torch.Tensor, ...]]:
    """Batches (X, positions) of a container in its own order, float32.

    Args:
        container: with ``X`` (n, ...) and ``coords_relative``, else ``coords_nominal``.
        config: its ``batch_size`` counts where the execution config states no ``inference_batch_size``.
        execution_config: batch size and workers; the defaults when None.

    Raises:
        InputError: no ``X``, or no positions.
    """
    execution = PyTorchExecutionConfig(accelerator="cpu") if execution_config is None else execution_config
    parts = []
    for names in (("X",), ("coords_relative", "coords_nominal")):
        found = next((value for name in names if (value := entry(container, name)) is not None), None)
        if found is None:
            raise InputError(f"the container has no {' or '.join(names)}: expected frames and their positions.")
        parts.append(torch.as_tensor(np.asarray(found), dtype=torch.float32))
    batch_size = execution.inference_batch_size or getattr(config, "batch_size", DEFAULT_BATCH)
    return DataLoader(
        TensorDataset(*parts), batch_size=batch_size, shuffle=False, drop_last=False, **loader_arguments(execution)
    )


def run_inference_with_lightning(
    model: Any, container: Any, config: Any, execution_config: PyTorchExecutionConfig | None = None
) -> NDArray[np.complex64]:
    """Object patches of a container's groups.

    A module of ours that knows the whole scan reconstructs it as a stream, and the patches are cut from that object,
    on whole pixels; groups without a scan, and other modules, go through ``model.forward_predict`` batch by batch.

    Args:
        model: our module, or one with ``forward_predict(X, positions, probe, input_scale_factor)``.
        container: see :func:`_ensure_container`.
        config: see :func:`_build_inference_dataloader`.
        execution_config: device, batch size and workers.

    Returns:
        (groups, C, N, N) complex64.
    """
    execution = PyTorchExecutionConfig() if execution_config is None else execution_config
    container = _ensure_container(container, config)
    if stitching.streams(model, container):
        return stitching.streamed(model, container, execution)[1]
    loader = _build_inference_dataloader(container, config, execution)
    return stitching.predicted(model, loader, entry(container, "X"), entry(container, "probe"), device_of(execution))


def _reassemble_cdi_image_torch(
    test_data: Any, config: TrainingConfig | InferenceConfig, flip_x: bool, flip_y: bool, transpose: bool, M: int,
    train_results: Mapping[str, Any] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32], dict[str, Any]]:  # fmt: skip
    """Reconstruct test data with a trained model on one canvas.

    Args:
        test_data: see :func:`_ensure_container`.
        config: groups and batch size.
        flip_x, flip_y: mirror the image along x (columns), y (rows).
        transpose: exchange its axes, after that.
        M: pixels of each patch's middle that are used at least. Patches are merged whole, by their illumination, which
            is more (specs/scaling.md).
        train_results: of :func:`train_cdi_model_torch`.

    Returns:
        (amplitude, phase, results), (H, W) float32; results hold "obj_tensor_full" (patches, N, N, 1) complex64,
        "global_offsets" (patches, 1, 2, 1) pixels, "recon_amp", "recon_phase", "containers".

    Raises:
        NotImplementedError: no ``train_results``; callers of the reference expect this type.
        InputError: results without a trained module.
    """
    if train_results is None:
        raise NotImplementedError(
            "Reconstruction is not yet fully implemented without train_results: it needs a trained module. Pass the "
            "results of train_cdi_model_torch, or load a bundle and call run_inference_with_lightning."
        )
    model = (train_results.get("models") or {}).get("diffraction_to_obj")
    if model is None:
        raise InputError("train_results: found no models['diffraction_to_obj'], expected the trained module.")
    container = _ensure_container(test_data, config)
    payload = train_results.get("payload")
    execution = PyTorchExecutionConfig(accelerator="cpu") if payload is None else payload.execution_config
    if stitching.streams(model, container):
        image, patches = stitching.streamed(model, container, execution)
    else:
        patches = run_inference_with_lightning(model, container, config, execution)
        image = stitching.merged(container, patches)
    image = image[:, ::-1] if flip_x else image
    image = image[::-1] if flip_y else image
    image = image.T if transpose else image
    amplitude, phase = np.abs(image).astype(np.float32), np.angle(image).astype(np.float32)
    return amplitude, phase, {
        "obj_tensor_full": patches.reshape(-1, *patches.shape[2:])[..., None],
        "global_offsets": stitching.positions_of(container)[:, None, :, None],
        "recon_amp": amplitude,
        "recon_phase": phase,
        "containers": {"test": container},
    }  # fmt: skip
