"""The one training loop: a payload and a scan go in, a trained module comes out."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from numpy.typing import NDArray

from ptycho import params
from ptycho.config.config import PyTorchExecutionConfig, TrainingConfig
from ptycho.domain import canonical_domain
from ptycho.errors import InputError
from ptycho.raw_data import RawData
from ptycho_torch import calibration, config_factory, lightning_utils, settings
from ptycho_torch.config_factory import TrainingPayload
from ptycho_torch.data.containers import known_scan, scan_of
from ptycho_torch.data.labels import labels_for
from ptycho_torch.data.module import BlockDataModule
from ptycho_torch.data.scans import LitScan, PlacedScan
from ptycho_torch.generators import registry
from ptycho_torch.objective import needs_labels
from ptycho_torch.workflows.recon_log import ReconstructionLog

logger = logging.getLogger(__name__)

MIN_FRAMES = 4


@dataclass
class TrainingRun:
    """What training leaves.

    Attributes:
        module: with the best weights seen and, if it is ours, the probe.
        scan: what it was trained on.
        losses: per epoch, by name ("train", "val").
        timings_s: "calibration", "training".
        notes: what a reader should know, a sentence each.
    """

    module: Any
    scan: LitScan
    losses: dict[str, list[float]]
    timings_s: dict[str, float]
    notes: list[str] = field(default_factory=list)


def run_training(payload: TrainingPayload, source: Any, validation: Any = None) -> TrainingRun:
    """Build the module, calibrate the probe, train, and take the best weights.

    Everything that can be refused without the frames is refused before they are looked at. Writes below
    ``payload.tf_training_config.output_dir``: checkpoints and the log of the losses.

    Args:
        payload: from :mod:`ptycho_torch.config_factory`.
        source: a scan or groups of frames, see :func:`ptycho_torch.data.containers.scan_of`.
        validation: the same, to validate with; None withholds some frames of ``source``.

    Raises:
        InputError: settings that do not act, frames that cannot be trained on, a device that is not there.
        RuntimeError: accumulation with a module that steps its optimiser itself.
    """
    started = time.monotonic()
    config, execution = payload.tf_training_config, payload.execution_config
    settings.refuse_settings(config.model, config, *payload.named_configs().values())
    # only what the caller stated is worth a sentence: the backend's own defaults are not always the public ones
    notes = settings.announced(payload.overrides_applied["superseded"])
    module = _built(payload)
    history = _LossHistory(module)
    output_dir = Path(config.output_dir)
    arguments = _trainer_arguments(module, history, payload, validation is not None or _withholds(source, config))
    if config.max_time_s is not None:
        arguments["callbacks"].append(lightning_utils.TimeLimit(started + config.max_time_s))
    recon_log = ReconstructionLog.asked_by(execution, output_dir)
    arguments["callbacks"] += [] if recon_log is None else [recon_log]
    with lightning_utils.quiet_lightning():
        trainer = lightning_utils.make_trainer(arguments)
        scan, calibration_s = lit_scan(payload, source, notes)
        _remember(module, scan)
        if recon_log is not None:
            recon_log.scan = scan.placed
        beside = None if validation is None else _validation_scan(payload, validation, scan)
        data = BlockDataModule(
            scan, payload.pt_data_config, payload.pt_model_config, payload.pt_training_config, execution,
            config.n_groups, beside,
        )  # fmt: skip
        start = time.monotonic()
        lightning_utils.clear_checkpoints(output_dir)
        trainer.fit(module, train_dataloaders=data.train_dataloader(), val_dataloaders=data.val_dataloader())
    _take_best(module, trainer, output_dir)
    taken = {"calibration": calibration_s, "training": time.monotonic() - start}
    if getattr(module, "collapsed", False):
        notes.append("The network's output collapsed to a constant: its figures mean nothing.")
    return TrainingRun(module, scan, history.losses, taken, notes)


def lit_scan(payload: TrainingPayload, source: Any, notes: list[str]) -> tuple[LitScan, float]:
    """The scan to train on with its calibrated probe and, where they are needed, its labels.

    Args:
        payload: of the run.
        source: see :func:`run_training`.
        notes: gets what a reader should know.

    Returns:
        The scan, and the wall time of the calibration in seconds.
    """
    config, model = payload.tf_training_config, payload.pt_model_config
    raw, groups = scan_of(source, object_big=model.object_big, nphotons=config.nphotons)
    config_factory.check_frame_size(payload.pt_data_config.N, raw.N, raw.source)
    if groups is None:
        raw = chosen_frames(raw, config)
        _check_domain(raw, config)
    notes.append(f"Frames are taken as {raw.measurement_domain}: {raw.domain_reason}")
    placed = PlacedScan.of(raw)
    labels = labels_for(placed) if needs_labels(model, payload.pt_training_config) else None
    mask = calibration.mask_of(model, raw.N)
    guess = calibration.scaled_guess(raw, mask)
    probe, taken = guess, 0.0
    if config.calibrate_probe and groups is None:
        probe, taken = _calibrated(raw, guess, config, payload.execution_config)
        probe = probe if mask is None else calibration.masked_probe(raw, probe, mask)
        notes.append("The probe was refined before training; the result uses the refined one.")
    elif config.calibrate_probe:
        notes.append("The probe was not refined: positions are known within groups only.")
    return LitScan(placed, torch.from_numpy(probe.copy()), torch.from_numpy(guess.copy()), labels, groups), taken


def chosen_frames(raw: RawData, config: TrainingConfig) -> RawData:
    """The frames that ``n_subsample`` leaves.

    Raises:
        InputError: too few to train on.
    """
    if config.n_subsample is not None:
        seed = config.seed if config.subsample_seed is None else config.subsample_seed
        raw = subsample(raw, config.n_subsample, seed)
    if raw.n_frames < MIN_FRAMES:
        raise InputError(
            f"{raw.source}: found {raw.n_frames} frame(s), expected at least {MIN_FRAMES} overlapping ones. "
            "A network cannot be trained on so few; take more frames, or reconstruct with a trained model."
        )
    return raw


def subsample(raw: RawData, n: int, seed: int) -> RawData:
    """``n`` frames drawn at random, in the order of the file; all of them where there are no more."""
    if n >= raw.n_frames:
        return raw
    return raw.subset(np.sort(np.random.default_rng(seed).choice(raw.n_frames, n, replace=False)))


def _built(payload: TrainingPayload) -> Any:
    """A fresh module by the name of its architecture, its networks compiled where that is asked for."""
    module = registry.resolve_generator(payload.tf_training_config).build_model(payload.named_configs())
    if payload.execution_config.compile:
        for network in module.generator.networks():
            network.compile(dynamic=True)
    return module


def _trainer_arguments(
    module: Any, history: _LossHistory, payload: TrainingPayload, validates: bool
) -> dict[str, Any]:  # fmt: skip
    config, execution = payload.tf_training_config, payload.execution_config
    monitor = lightning_utils.monitored_metric(execution, history.names["train"], history.names["val"], validates)
    arguments = lightning_utils.trainer_arguments(
        execution, Path(config.output_dir), monitor, config.nepochs,
        manual=not getattr(module, "automatic_optimization", True),
    )  # fmt: skip
    plateau = lightning_utils.PlateauStop(history.names["train"], config.stop_improvement, config.stop_window)
    arguments["callbacks"] += [history, plateau]
    return arguments


def _withholds(source: Any, config: TrainingConfig) -> bool:
    """Whether frames of the scan will be withheld; asked before the frames are looked at."""
    raw = known_scan(source)
    if raw is None:
        return False
    n_frames = raw.n_frames if config.n_subsample is None else min(raw.n_frames, config.n_subsample)
    return round(config.val_fraction * n_frames) > 0


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
    probe = calibration.calibrate_probe(
        raw, guess, config.calibration_epochs, device=lightning_utils.device_of(execution), seed=config.seed,
        on_epoch=lambda epoch, misfit: logger.debug("calibration epoch %d: misfit %.4g", epoch, misfit),
    )  # fmt: skip
    taken = time.perf_counter() - start
    logger.info("Probe calibrated in %.1f s.", taken)
    return probe, taken


def _validation_scan(payload: TrainingPayload, source: Any, trained: LitScan) -> LitScan:
    """Another scan, lit by the training scan's refined probe where the two have one guess."""
    config, model = payload.tf_training_config, payload.pt_model_config
    raw, groups = scan_of(source, object_big=model.object_big, nphotons=config.nphotons)
    config_factory.check_frame_size(payload.pt_data_config.N, raw.N, raw.source)
    placed = PlacedScan.of(raw)
    labels = labels_for(placed) if needs_labels(model, payload.pt_training_config) else None
    probe, _ = calibration.probe_for(
        raw, trained.probe.numpy(), trained.guess.numpy(), trained.placed.raw.mean_counts_per_frame(),
        calibration.mask_of(model, raw.N),
    )  # fmt: skip
    return LitScan(placed, torch.from_numpy(probe.copy()), torch.from_numpy(probe.copy()), labels, groups)


def _remember(module: Any, scan: LitScan) -> None:
    """The module takes along what it was lit with, and the legacy dictionary its scale."""
    raw = scan.placed.raw
    params.cfg["intensity_scale"] = raw.intensity_scale()
    if hasattr(module, "set_illumination"):
        module.set_illumination(
            scan.probe.numpy(), scan.guess.numpy(), raw.good_pixels, raw.mean_counts_per_frame(),
            raw.measurement_domain,
        )  # fmt: skip


def _take_best(module: Any, trainer: Any, output_dir: Path) -> None:
    # the CSV logger's own copy of the configuration; the archive and metrics.json have it
    (output_dir / "hparams.yaml").unlink(missing_ok=True)
    best = getattr(getattr(trainer, "checkpoint_callback", None), "best_model_path", "")
    if best:
        state: dict[str, Any] = torch.load(best, map_location="cpu", weights_only=True)
        module.load_state_dict(state["state_dict"])


class _LossHistory(pl.Callback):
    """Collects the losses of every epoch under the names "train" and "val"."""

    def __init__(self, module: Any) -> None:
        self.names = {
            "train": getattr(module, "loss_name", "train_loss"),
            "val": getattr(module, "val_loss_name", "val_loss"),
        }
        self.losses: dict[str, list[float]] = {}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take what the epoch has logged."""
        for short, name in self.names.items():
            if name in trainer.callback_metrics:
                self.losses.setdefault(short, []).append(float(trainer.callback_metrics[name]))
