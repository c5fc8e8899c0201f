"""The one training loop: a payload and scans go in, a trained module comes out."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from ptycho import params
from ptycho.errors import InputError
from ptycho_torch import calibration, callbacks, lightning_utils, processes, settings
from ptycho_torch.archive import load_model
from ptycho_torch.config_factory import TrainingPayload
from ptycho_torch.data.module import BlockDataModule
from ptycho_torch.data.scans import LitScan
from ptycho_torch.generators import registry
from ptycho_torch.optimisers import warm_up
from ptycho_torch.workflows.pretraining import pretrain
from ptycho_torch.workflows.recon_log import ReconstructionLog
from ptycho_torch.workflows.scans import lit_scans, validation_scans, withholds

logger = logging.getLogger(__name__)

AFTER_PRETRAINING = 0.3
"""Share of the learning rate at which a network that has learned from simulated scans goes on."""


@dataclass
class TrainingRun:
    """What training leaves.

    Attributes:
        module: with the best weights seen and, if it is ours, the probe.
        scans: what it was trained on.
        losses: per epoch, by name ("train", "val").
        timings_s: "calibration", "training".
        notes: what a reader should know, a sentence each.
    """

    module: Any
    scans: list[LitScan]
    losses: dict[str, list[float]]
    timings_s: dict[str, float]
    notes: list[str] = field(default_factory=list)


def run_training(payload: TrainingPayload, source: Any, validation: Any = None) -> TrainingRun:
    """Build the module, calibrate the probe, train, and take the best weights.

    Everything that can be refused without the frames is refused before they are looked at. Writes below
    ``payload.tf_training_config.output_dir``: checkpoints and the log of the losses. ``Path()`` there means that
    nothing is to be left: a temporary folder is used.

    Args:
        payload: from :mod:`ptycho_torch.config_factory`.
        source: a scan or groups of frames, see :func:`ptycho_torch.data.containers.scan_of`, or a list of them.
        validation: the same, to validate with; None withholds some frames of ``source``.

    Raises:
        InputError: settings that do not act, frames that cannot be trained on, a device that is not there.
        RuntimeError: accumulation with a module that steps its optimiser itself.
    """
    with _folder(Path(payload.tf_training_config.output_dir)) as folder, lightning_utils.determinism_restored():
        job = TrainingJob(payload, folder, validation is not None or withholds(source, payload.tf_training_config))
        return job.run(source, validation)


def check_run(payload: TrainingPayload, source: Any) -> None:
    """Refuse what :func:`run_training` refuses before its first step; nothing is calibrated, trained or left.

    Args:
        payload: from :mod:`ptycho_torch.config_factory`; its output_dir is left alone.
        source: see :func:`run_training`.

    Raises:
        InputError, RuntimeError: see :func:`run_training`.
    """
    config = payload.tf_training_config
    with _folder(Path()) as folder, lightning_utils.determinism_restored():
        job = TrainingJob(payload, folder, withholds(source, config))
        as_given = dataclasses.replace(config, calibrate_probe=False)
        scans, _ = lit_scans(dataclasses.replace(payload, tf_training_config=as_given), source, [])
        job.data(scans)


@contextlib.contextmanager
def _folder(stated: Path) -> Iterator[Path]:
    if stated != Path():
        yield stated
        return
    with tempfile.TemporaryDirectory(prefix="ptychopinn_") as folder:
        yield Path(folder)


class TrainingJob:
    """A module and the Trainer that will train it, made before any frame is looked at.

    Args:
        payload: what to compute and how.
        output_dir: where checkpoints and logs go.
        validates: whether there will be frames to validate with.
        module: to be trained; None builds one by the name of its architecture.

    Attributes:
        module: see above.
        trainer: a Lightning Trainer, to whose callbacks a caller may add.
    """

    def __init__(self, payload: TrainingPayload, output_dir: Path, validates: bool, module: Any = None) -> None:
        self._started = time.monotonic()
        self.payload, self.output_dir = payload, output_dir
        config, execution = payload.tf_training_config, payload.execution_config
        settings.refuse_settings(config.model, config, *payload.named_configs().values())
        # only what the caller stated is worth a sentence: the backend's own defaults are not always the public ones
        self.notes = settings.announced(payload.overrides_applied["superseded"])
        self.module = _prepared(payload, module)
        if config.init_from is not None:
            _start_from(self.module, config.init_from, self.notes)
        self.history = _LossHistory(self.module, config.nepochs)
        self._start: dict[str, Any] | None = None  # weights that have been learned before the first epoch
        self._recon_log = ReconstructionLog.asked_by(execution, output_dir)
        with lightning_utils.quiet_lightning():
            self.trainer = lightning_utils.make_trainer(self._trainer_arguments(validates))

    def _trainer_arguments(self, validates: bool) -> dict[str, Any]:
        config, execution = self.payload.tf_training_config, self.payload.execution_config
        names = self.history.names
        monitor = lightning_utils.monitored_metric(execution, names["train"], names["val"], validates)
        self._monitor = monitor
        # what was learned before the first epoch may be best: it is scored as well
        sanity = {"num_sanity_val_steps": -1} if config.pretrain_scans > 0 else {}
        arguments = lightning_utils.trainer_arguments(
            execution, self.output_dir, monitor, config.nepochs,
            manual=not getattr(self.module, "automatic_optimization", True),
        ) | sanity  # fmt: skip
        arguments["callbacks"] += [
            self.history,
            callbacks.PlateauStop(names["train"], config.stop_improvement, config.stop_window, warm_up(config)),
        ]
        ends_at = None if config.max_time_s is None else self._started + config.max_time_s
        if ends_at is not None:
            arguments["callbacks"].append(callbacks.TimeLimit(ends_at))
        if not execution.enable_progress_bar:  # else Lightning draws a bar of its own
            losses = {"loss": names["train"], "validation": names["val"]}
            arguments["callbacks"].append(callbacks.ProgressReport(losses, ends_at))
        if self._recon_log is not None:
            arguments["callbacks"].append(self._recon_log)
        return arguments

    def run(self, source: Any, validation: Any = None) -> TrainingRun:
        """Train; arguments and errors as of :func:`run_training`."""
        payload = self.payload
        scans, calibration_s = lit_scans(payload, source, self.notes)
        share = processes.now()
        for scan in scans:  # each process has refined it, and on different processors not to the bit
            scan.probe.copy_(share.common(scan.probe))
        _remember(self.module, scans[0])
        if self._recon_log is not None:
            self._recon_log.scan = scans[0].placed
        data = self.data(scans, validation)
        start = time.monotonic()
        self._pretrain(scans)
        generator = getattr(self.module, "generator", None)
        data.begin(getattr(generator, "begin_steps", 0), lightning_utils.device_of(payload.execution_config))
        if share.number == 0:
            lightning_utils.clear_run(self.output_dir)
        self._fit(data)
        self._take_best()
        if getattr(self.module, "collapsed", False):
            self.notes.append("The network's output collapsed to a constant: its figures mean nothing.")
        taken = {"calibration": calibration_s, "training": time.monotonic() - start}
        return TrainingRun(self.module, scans, self.history.losses, taken, self.notes)

    def data(self, scans: list[LitScan], validation: Any = None) -> BlockDataModule:
        """The frames as the Trainer gets them; arguments and errors as of :func:`run_training`."""
        payload = self.payload
        return BlockDataModule(
            scans, payload.pt_data_config, payload.pt_model_config, payload.pt_training_config,
            payload.execution_config, payload.tf_training_config.n_groups,
            [] if validation is None else validation_scans(payload, validation, scans),
            getattr(self.trainer, "world_size", 1),
        )  # fmt: skip

    def _pretrain(self, scans: list[LitScan]) -> None:
        payload, config = self.payload, self.payload.tf_training_config
        if config.pretrain_scans == 0:
            return
        # the scan itself gets half of the time at least
        ends_at = None if config.max_time_s is None else self._started + config.max_time_s / 2
        self.notes.append(pretrain(self.module, payload, scans, self.output_dir, ends_at))
        gentle = payload.pt_training_config.learning_rate * AFTER_PRETRAINING
        self.module.configure_for(
            dataclasses.replace(payload.pt_training_config, learning_rate=gentle), payload.pt_inference_config
        )
        learned = {name: value.cpu().clone() for name, value in self.module.state_dict().items()}
        self._start = processes.now().common(learned)  # on different processors not the same to the bit
        self.module.load_state_dict(self._start)

    def _fit(self, data: BlockDataModule) -> None:
        loaders = {"train_dataloaders": data.train_dataloader(), "val_dataloaders": data.val_dataloader()}
        try:
            with lightning_utils.quiet_lightning(), lightning_utils.stopped_by_interrupt(self.trainer):
                self.trainer.fit(self.module, **loaders)
        except MisconfigurationException as error:
            raise InputError(
                f"The training loop refuses its settings: {error} Check checkpoint_monitor_metric, strategy, devices "
                "and precision."
            ) from error

    def _start_is_best(self) -> bool:
        """Whether no epoch has predicted the withheld frames better than the network did before the first."""
        before = self.history.start.get(self._monitor)
        if self._start is None or before is None:
            return False
        sign = -1 if self.payload.execution_config.checkpoint_mode == "max" else 1
        return not any(sign * loss < sign * before for loss in self.history.losses.get("val", []))

    def _take_best(self) -> None:
        share, state = processes.now(), None
        best = getattr(getattr(self.trainer, "checkpoint_callback", None), "best_model_path", "")
        if share.number == 0:
            # the CSV logger's own copy of the configuration; the archive and metrics.json have it
            (self.output_dir / "hparams.yaml").unlink(missing_ok=True)
            state = torch.load(best, map_location="cpu", weights_only=True)["state_dict"] if best else None
            if best and self._start_is_best():
                state = self._start
                logger.info("No epoch predicts the withheld frames better than the network did before.")
        state = share.common(state)  # another node may not see the file
        if state is not None:
            self.module.load_state_dict(state)


def _prepared(payload: TrainingPayload, module: Any) -> Any:
    """The module, or a fresh one; its networks compiled where that is asked for."""
    if module is None:
        module = registry.resolve_generator(payload.tf_training_config).build_model(payload.named_configs())
    elif hasattr(module, "configure_for"):
        module.configure_for(payload.pt_training_config, payload.pt_inference_config)
    if payload.execution_config.compile:
        networks = module.generator.networks() if hasattr(module, "generator") else []
        for network in networks:
            network.compile(dynamic=True)
    return module


def _start_from(module: Any, archive: Path, notes: list[str]) -> None:
    """Give a module the network of a trained one; probe and scale are the scan's own."""
    other, _ = load_model(archive)
    theirs, ours = other.generator.state_dict(), module.generator.state_dict()
    shapes = [{name: tuple(value.shape) for name, value in state.items()} for state in (theirs, ours)]
    if shapes[0] != shapes[1]:
        raise InputError(
            f"init_from={str(archive)!r}: the network there is another one (architecture "
            f"{other.model_config.architecture!r}) than the one that is to be trained "
            f"({module.model_config.architecture!r}). Train with the settings of that model, or start anew."
        )
    module.generator.load_state_dict(theirs)
    notes.append(f"Training started from the network of {archive}.")


def _remember(module: Any, scan: LitScan) -> None:
    """The module takes along what it was lit with, and the legacy dictionary its scale."""
    raw = scan.placed.raw
    params.cfg["intensity_scale"] = raw.intensity_scale()
    if hasattr(module, "set_illumination"):
        module.set_illumination(
            scan.probe.numpy(), scan.guess.numpy(), raw.good_pixels, raw.mean_counts_per_frame(),
            raw.measurement_domain, calibration.mask_of(module.model_config, raw.N),
        )  # fmt: skip


_NOT_LOGGED = -math.inf  # which no loss is; NaN is one that has to be seen


class _LossHistory(pl.Callback):
    """Collects the losses of every epoch under the names "train" and "val", also out of other processes.

    Args:
        module: logs the losses.
        max_epochs: as many are kept.
    """

    def __init__(self, module: Any, max_epochs: int) -> None:
        self.names = {
            "train": getattr(module, "loss_name", "train_loss"),
            "val": getattr(module, "val_loss_name", "val_loss"),
        }
        # memory that a process which is started for the training shares with this one
        context = torch.multiprocessing.get_context("spawn")
        self._shared = context.RawArray("d", [_NOT_LOGGED] * (max_epochs * len(self.names)))
        self._before = context.RawValue("d", _NOT_LOGGED)

    @property
    def losses(self) -> dict[str, list[float]]:
        """Values by name; a name without any is left out."""
        table = np.array(self._shared).reshape(-1, len(self.names))
        found = {name: column[column != _NOT_LOGGED].tolist() for name, column in zip(self.names, table.T, strict=True)}
        return {name: values for name, values in found.items() if values}

    @property
    def start(self) -> dict[str, float]:
        """The loss of the withheld frames before the first epoch, by the name of the metric; empty if not looked at."""
        return {} if self._before.value == _NOT_LOGGED else {self.names["val"]: self._before.value}

    def on_sanity_check_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the score of what training starts from, where the Trainer was asked to look at all of it."""
        found = trainer.callback_metrics.get(self.names["val"])
        if trainer.is_global_zero and found is not None:
            self._before.value = float(found)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take what the epoch has logged."""
        if not trainer.is_global_zero:
            return
        for column, name in enumerate(self.names.values()):
            place = trainer.current_epoch * len(self.names) + column
            if name in trainer.callback_metrics and place < len(self._shared):
                self._shared[place] = float(trainer.callback_metrics[name])
