"""Train on a scan and reconstruct it; reconstruct another scan with a trained model."""

from __future__ import annotations

import dataclasses
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import pytorch as pl
from numpy.typing import NDArray
from torch import Tensor

from ptycho import params
from ptycho.config.config import (
    InferenceConfig,
    PyTorchExecutionConfig,
    TrainingConfig,
    update_legacy_dict,
    validate_training_config,
)
from ptycho.domain import canonical_domain
from ptycho.errors import InputError
from ptycho.geometry import coverage_map
from ptycho.model_manager import ARCHIVE_NAME
from ptycho.outcome import Outcome, Stage
from ptycho.probe import scale_probe_to_counts
from ptycho.raw_data import RawData
from ptycho_torch import calibration, config_bridge, lightning_utils, settings
from ptycho_torch.archive import TrainedModel, load_model, save_model
from ptycho_torch.data.blocks import PlacedScan
from ptycho_torch.data.module import BlockDataModule
from ptycho_torch.generators.registry import available
from ptycho_torch.model import PtychoPINN_Lightning
from ptycho_torch.reassembly import StreamedFrames

logger = logging.getLogger(__name__)

MIN_FRAMES = 4
SAME_PROBE = 0.9999
"""Two probe guesses that correlate better than this are the same guess."""


def train_scan(
    raw: RawData, config: TrainingConfig, execution: PyTorchExecutionConfig | None = None, *, output_dir: Path
) -> Outcome:
    """Calibrate the probe, train on the scan, and reconstruct it.

    Writes ``wts.h5.zip``, ``checkpoints/`` and ``metrics.csv`` below ``output_dir`` and nothing else.

    Args:
        raw: the scan.
        config: what to compute; ``config.model.N`` follows the frames.
        execution: how to run it; built with its defaults when None.
        output_dir: made if it is not there.

    Returns:
        The object without and with the network, coverage, probe and times.

    Raises:
        InputError: a scan that cannot be trained on, or a setting that does not act.
    """
    started = time.perf_counter()
    execution = PyTorchExecutionConfig() if execution is None else execution
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, N=raw.N))
    execution = config_bridge.merge_execution(config, execution)
    validate_training_config(config, architectures=available())
    notes = settings.check_settings(config.model, config, execution)
    update_legacy_dict(params.cfg, config)
    raw = _chosen_frames(raw, config)
    _check_domain(raw, config)
    notes.append(f"Frames are taken as {raw.measurement_domain}: {raw.domain_reason}")
    guess = calibration.scaled_guess(raw)
    module = _new_module(raw, config, execution, guess)  # first: a setting it refuses should not cost a calibration
    probe, calibration_s = _calibrated(raw, guess, config, execution)
    if config.calibrate_probe:
        notes.append("The probe was refined before training; the result uses the refined one.")
    module.set_illumination(probe, raw.good_pixels)
    remaining = None if config.max_time_s is None else max(1.0, config.max_time_s - calibration_s)
    scan = PlacedScan.of(raw)
    losses, training_s = _fit(module, scan, config, execution, Path(output_dir), remaining)
    if module.collapsed:
        notes.append("The network's output collapsed to a constant: its figures mean nothing.")
    resolved = _settings(config, execution, raw)
    save_model(Path(output_dir) / ARCHIVE_NAME, module, guess, resolved)
    # the Trainer may leave the module on the CPU
    outcome = reconstruct(module.to(_device(execution)), scan)
    outcome.losses, outcome.settings = losses, resolved
    outcome.notes[:0] = notes
    outcome.timings_s = {
        "calibration": calibration_s, "training": training_s, **outcome.timings_s,
        "total": time.perf_counter() - started,
    }  # fmt: skip
    return outcome


def infer_scan(
    model_path: str | Path, raw: RawData, config: InferenceConfig | None = None,
    execution: PyTorchExecutionConfig | None = None,
) -> Outcome:  # fmt: skip
    """Reconstruct a scan with a trained model; writes nothing.

    Args:
        model_path: an archive, or the folder of a training run.
        raw: the scan; its frames must have the side the model was trained with.
        config: only ``n_subsample`` and ``subsample_seed`` matter here; None takes every frame.
        execution: device and ``inference_batch_size``.

    Returns:
        The object without and with the network.

    Raises:
        MissingFileError, InputError: no such archive, a damaged one, or frames that do not fit.
    """
    started = time.perf_counter()
    execution = PyTorchExecutionConfig() if execution is None else execution
    given = () if config is None else (config.model, config)
    notes = settings.check_settings(*given, execution)
    if config is not None:
        update_legacy_dict(params.cfg, config)
    trained = load_model(model_path)
    expected = trained.module.data_config.N
    if raw.N != expected:
        raise InputError(
            f"{raw.source}: frames are {raw.N} x {raw.N} pixels, the model was trained on {expected} x {expected}. "
            f"Crop the scan to {expected} (--crop {expected}) or train a model for {raw.N}."
        )
    if config is not None and config.n_subsample is not None:
        raw = _subsample(raw, config.n_subsample, config.subsample_seed or 0)
    probe, note = _probe_for(raw, trained)
    module = trained.module
    if execution.inference_batch_size is not None:
        module.inference_config = dataclasses.replace(
            module.inference_config, batch_size=execution.inference_batch_size
        )
    module.probe_parts = torch.view_as_real(torch.from_numpy(np.ascontiguousarray(probe)))
    module.good_pixels = torch.from_numpy(raw.good_pixels.copy())
    module.to(_device(execution))
    outcome = reconstruct(module, PlacedScan.of(raw))
    outcome.notes[:0] = [*notes, f"Frames are taken as {raw.measurement_domain}: {raw.domain_reason}", note]
    outcome.settings = trained.settings
    outcome.timings_s["total"] = time.perf_counter() - started
    return outcome


@torch.no_grad()
def reconstruct(module: PtychoPINN_Lightning, scan: PlacedScan) -> Outcome:
    """The object of a whole scan, without and with the network, streamed over its frames."""
    module.eval()
    frames = StreamedFrames(scan, module.probe, module.good_pixels, module.inference_config.batch_size)
    coverage = coverage_map(scan.starts.numpy(), scan.raw.N, scan.canvas.shape)
    stages = {}
    for name, make in (("projection", module.generator.without_network), ("network", module.generator)):
        start = time.perf_counter()
        canvas = make(frames)
        taken = time.perf_counter() - start
        deviance, expected = frames.deviance(canvas)
        stages[name] = Stage(_vacuum_outside(canvas[0], coverage), deviance, expected, taken)
    return Outcome(
        stages=stages,
        coverage=coverage,
        probe=module.probe.cpu().numpy(),
        canvas=scan.canvas,
        xcoords=scan.raw.xcoords,
        ycoords=scan.raw.ycoords,
        timings_s={"reconstruction": stages["network"].time_s},
    )


def _vacuum_outside(canvas: Tensor, coverage: NDArray[np.int32]) -> NDArray[np.complex64]:
    """The canvas as an array, exactly 1 where no frame lies."""
    array = canvas.cpu().numpy().astype(np.complex64)
    return np.where(coverage > 0, array, np.complex64(1))


def _device(execution: PyTorchExecutionConfig) -> str:
    return "cuda" if execution.accelerator in ("cuda", "gpu") else execution.accelerator


def _subsample(raw: RawData, n: int, seed: int) -> RawData:
    if n >= raw.n_frames:
        return raw
    return raw.subset(np.sort(np.random.default_rng(seed).choice(raw.n_frames, n, replace=False)))


def _chosen_frames(raw: RawData, config: TrainingConfig) -> RawData:
    if config.n_subsample is not None:
        seed = config.seed if config.subsample_seed is None else config.subsample_seed
        raw = _subsample(raw, config.n_subsample, seed)
    if raw.n_frames < MIN_FRAMES:
        raise InputError(
            f"{raw.source}: found {raw.n_frames} frame(s), expected at least {MIN_FRAMES} overlapping ones. "
            "A network cannot be trained on so few; take more frames, or reconstruct with a trained model."
        )
    return raw


def _check_domain(raw: RawData, config: TrainingConfig) -> None:
    """A domain stated in the configuration must be the one in which the scan was read."""
    if canonical_domain(config.measurement_domain) not in ("auto", raw.measurement_domain):
        raise InputError(
            f"{raw.source}: read as {raw.measurement_domain} ({raw.domain_reason}), but the training config says "
            f"measurement_domain={config.measurement_domain!r}. State it where the scan is read: "
            f"RawData.from_file(path, measurement_domain={config.measurement_domain!r})."
        )


def _calibrated(
    raw: RawData, guess: NDArray[np.complex64], config: TrainingConfig, execution: PyTorchExecutionConfig
) -> tuple[NDArray[np.complex64], float]:
    start = time.perf_counter()
    if not config.calibrate_probe:
        return guess, 0.0
    probe = calibration.calibrate_probe(
        raw, guess, config.calibration_epochs, device=_device(execution), seed=config.seed,
        on_epoch=lambda epoch, misfit: logger.debug("calibration epoch %d: misfit %.4g", epoch, misfit),
    )  # fmt: skip
    taken = time.perf_counter() - start
    logger.info("Probe calibrated in %.1f s.", taken)
    return probe, taken


def _new_module(
    raw: RawData, config: TrainingConfig, execution: PyTorchExecutionConfig, probe: NDArray[np.complex64]
) -> PtychoPINN_Lightning:
    """A module with fresh weights; the caller's random state is left as it was."""
    data, model, training, inference = config_bridge.create_training_configs(
        config, execution, N=raw.N, probe_modes=len(probe), measurement_domain=raw.measurement_domain
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        module = PtychoPINN_Lightning(
            model_config=model, data_config=data, training_config=training, inference_config=inference
        )
    module.set_illumination(probe, raw.good_pixels)
    return module


class _LossHistory(pl.Callback):
    """Collects the losses of every epoch."""

    def __init__(self, names: dict[str, str]) -> None:
        self._names = names
        self.losses: dict[str, list[float]] = {}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for short, name in self._names.items():
            if name in trainer.callback_metrics:
                self.losses.setdefault(short, []).append(float(trainer.callback_metrics[name]))


def _fit(
    module: PtychoPINN_Lightning, scan: PlacedScan, config: TrainingConfig, execution: PyTorchExecutionConfig,
    output_dir: Path, max_time_s: float | None,
) -> tuple[dict[str, list[float]], float]:  # fmt: skip
    """Train, then take the best weights seen."""
    start = time.perf_counter()
    data = BlockDataModule(
        scan, module.data_config, module.model_config, module.training_config, execution, config.n_groups
    )
    monitor = lightning_utils.monitored_metric(
        execution, module.loss_name, module.val_loss_name, has_val=len(data.val_indices) > 0
    )
    history = _LossHistory({"train": module.loss_name, "val": module.val_loss_name})
    arguments = lightning_utils.trainer_arguments(execution, output_dir, monitor, config.nepochs, max_time_s)
    plateau = lightning_utils.PlateauStop(module.loss_name, config.stop_improvement, config.stop_window)
    arguments["callbacks"] += [history, plateau]
    with lightning_utils.quiet_lightning():
        trainer = pl.Trainer(**arguments)
        trainer.fit(module, datamodule=data)
    # the CSV logger's own copy of the configuration; the archive and metrics.json have it
    (output_dir / "hparams.yaml").unlink(missing_ok=True)
    # of this run, and not whatever an earlier one may have left in the folder
    best = getattr(trainer.checkpoint_callback, "best_model_path", "")
    if best:
        state: dict[str, Any] = torch.load(best, map_location="cpu", weights_only=True)
        module.load_state_dict(state["state_dict"])
    return history.losses, time.perf_counter() - start


def _probe_for(raw: RawData, trained: TrainedModel) -> tuple[NDArray[np.complex64], str]:
    """The probe to reconstruct ``raw`` with, scaled to its counts, and a sentence that says which."""
    mean = raw.mean_counts_per_frame()
    if raw.probeGuess is not None and _correlation(raw.probe, trained.probe_guess) <= SAME_PROBE:
        own = scale_probe_to_counts(raw.probe, mean, raw.good_pixels)
        return own, "The scan's own probe is used; it differs from the training guess."
    # by the ratio of the doses, so that the training scan itself gets the probe it was trained with, to the bit
    ratio = np.float32(np.sqrt(mean / trained.settings["mean_counts_per_frame"]))
    why = "The scan has no probe" if raw.probeGuess is None else "The scan's probe is the training guess"
    scaled = (trained.module.probe.numpy() * ratio).astype(np.complex64)
    return scaled, f"{why}: the one of the trained model is used."


def _correlation(a: NDArray[np.complex64], b: NDArray[np.complex64]) -> float:
    if a.shape != b.shape:
        return 0.0
    return float(abs(np.vdot(a, b)) / (np.linalg.norm(a) * np.linalg.norm(b)))


def _settings(config: TrainingConfig, execution: PyTorchExecutionConfig, raw: RawData) -> dict[str, Any]:
    """The resolved configuration in plain types."""
    values = {**dataclasses.asdict(config), "execution": dataclasses.asdict(execution)}
    values["measurement_domain"] = raw.measurement_domain
    values["mean_counts_per_frame"] = raw.mean_counts_per_frame()
    return {key: _plain(value) for key, value in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value
