"""Train on a scan and reconstruct it; reconstruct another scan with a trained model."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho import params
from ptycho.config.config import InferenceConfig, PyTorchExecutionConfig, TrainingConfig, update_legacy_dict
from ptycho.errors import InputError
from ptycho.geometry import Canvas, coverage_map
from ptycho.halves import check_enough_frames
from ptycho.memory import hand_back
from ptycho.model_manager import ARCHIVE_NAME
from ptycho.outcome import Outcome, Stage
from ptycho.raw_data import RawData
from ptycho_torch import calibration, processes, settings
from ptycho_torch.archive import legacy_entries, save_model
from ptycho_torch.canvases import Canvases
from ptycho_torch.config_bridge import STREAMED_FRAMES
from ptycho_torch.config_params import InferenceConfig as BackendInferenceConfig
from ptycho_torch.config_params import plain
from ptycho_torch.config_stated import payload_of
from ptycho_torch.data.scans import LitScan, PlacedScan
from ptycho_torch.halves import HalvesSettings
from ptycho_torch.lightning_utils import device_of, processes_of
from ptycho_torch.misfit import Misfit
from ptycho_torch.model import PtychoPINN_Lightning
from ptycho_torch.physics.batches import frames_that_fit
from ptycho_torch.processes import Share
from ptycho_torch.reassembly import StreamedFrames
from ptycho_torch.uncertainty import UncertaintySettings
from ptycho_torch.workflows.afterwards import SHARED_IN_INFERENCE, SHARED_IN_TRAINING, Wanted, finished
from ptycho_torch.workflows.first_projections import loaded
from ptycho_torch.workflows.refinement import RefinementSettings, torch_device
from ptycho_torch.workflows.scans import subsample
from ptycho_torch.workflows.training import TrainingRun, check_run, run_training

logger = logging.getLogger(__name__)


def train_scan(
    raw: RawData, config: TrainingConfig, execution: PyTorchExecutionConfig | None = None, *, output_dir: Path,
    refine: RefinementSettings | None = None, uncertainty: UncertaintySettings | None = None,
    halves: HalvesSettings | None = None,
) -> Outcome:  # fmt: skip
    """Calibrate the probe, train on the scan, and reconstruct it.

    Writes ``wts.h5.zip``, ``checkpoints/`` and ``metrics.csv`` below ``output_dir`` and nothing else.

    Args:
        raw: the scan.
        config: what to compute; ``config.model.N`` follows the frames.
        execution: how to run it; built with its defaults when None.
        output_dir: made if it is not there.
        refine: how to refine object and probe afterwards, from the network's; None for not at all.
        uncertainty: how to find the intervals of the phase; None for not at all.
        halves: how to halve the scan, to hold one half against the other; None for not at all.

    Returns:
        The object without and with the network, and refined where asked for; coverage, probe and times. What was asked
        for and could not be made is left out, with a note that says why.

    Raises:
        InputError: a scan that cannot be trained on, or a setting that does not act.
    """
    return train_scans(
        [raw], config, execution, output_dir=output_dir, refine=refine, uncertainty=uncertainty, halves=halves
    )[0]


def train_scans(
    raws: Sequence[RawData], config: TrainingConfig, execution: PyTorchExecutionConfig | None = None, *,
    output_dir: Path, refine: RefinementSettings | None = None, uncertainty: UncertaintySettings | None = None,
    halves: HalvesSettings | None = None,
) -> list[Outcome]:  # fmt: skip
    """Train one model on several scans, each with its own probe, and reconstruct them all; see :func:`train_scan`.

    The model's own probe is that of the first scan.

    Raises:
        InputError: also for scans whose frames have different sides.
    """
    started = time.perf_counter()
    config, wanted = _fitting(raws, config, halves), Wanted(refine, uncertainty, halves)
    # Path() stands for no folder in a configuration; here one is named
    output_dir = Path(output_dir).resolve()
    payload = payload_of(config, execution, output_dir=output_dir)
    execution = payload.execution_config
    with processes.together(device_of(execution)) as share:
        run = run_training(payload, list(raws))
        resolved = resolved_settings(payload.tf_training_config, execution, run.scans[0].placed.raw)
        if share.number == 0:
            save_model(Path(output_dir) / ARCHIVE_NAME, run.module, resolved, legacy_entries(config, run.module))
        made = [_reconstructed(run, scan, execution, share) for scan in run.scans]
    return [
        _outcome(run, scan, outcome, execution, resolved, started, wanted)
        for scan, outcome in zip(run.scans, made, strict=True)
    ]


def check_training(
    raws: Sequence[RawData], config: TrainingConfig, execution: PyTorchExecutionConfig | None = None, *,
    halves: HalvesSettings | None = None,
) -> None:  # fmt: skip
    """Refuse what :func:`train_scans` refuses before its first step; nothing is calibrated, trained or left.

    Raises:
        InputError: see :func:`train_scans`.
    """
    check_run(payload_of(_fitting(raws, config, halves), execution, output_dir=Path()), list(raws))


def _fitting(raws: Sequence[RawData], config: TrainingConfig, halves: HalvesSettings | None) -> TrainingConfig:
    """The configuration of a training on these scans; InputError for scans that do not go together."""
    sides = {raw.N for raw in raws}
    if len(sides) > 1:
        named = ", ".join(f"{raw.source}: {raw.N} x {raw.N}" for raw in raws)
        raise InputError(f"found frames of different sides ({named}), expected one. Crop them, or leave some out.")
    for raw in raws if halves is not None else ():
        # before anything is trained
        n_frames = min(raw.n_frames, config.n_subsample or raw.n_frames)
        check_enough_frames(raw.source, n_frames, config.model.gridsize**2)
    # the frames are here already: the file they came from need not be looked at again
    return dataclasses.replace(config, model=dataclasses.replace(config.model, N=raws[0].N), train_data_file=None)


def _reconstructed(run: TrainingRun, scan: LitScan, execution: PyTorchExecutionConfig, share: Share) -> Outcome:
    # the Trainer may leave the module on the CPU
    return reconstruct(run.module.to(device_of(execution)), scan.placed, scan.probe.numpy(), share=share)


def _outcome(
    run: TrainingRun, scan: LitScan, outcome: Outcome, execution: PyTorchExecutionConfig, resolved: dict[str, Any],
    started: float, wanted: Wanted,
) -> Outcome:  # fmt: skip
    """What else belongs to a scan of a training run, which began at ``started`` by ``time.perf_counter``."""
    outcome.losses, outcome.settings = run.losses, resolved
    outcome.notes[:0] = run.notes
    outcome.timings_s = {**run.timings_s, **outcome.timings_s}
    outcome = finished(
        scan.placed.raw, outcome, _again(run.module, outcome, execution), wanted, shared=SHARED_IN_TRAINING,
        device=device_of(execution),
    )  # fmt: skip
    outcome.timings_s["total"] = time.perf_counter() - started
    return outcome


def _again(
    module: PtychoPINN_Lightning, outcome: Outcome, execution: PyTorchExecutionConfig, canvases: Canvases | None = None
) -> Callable[[RawData], Outcome]:  # fmt: skip
    """How the network of an outcome reconstructs another scan with the same probe, on the same canvas."""
    return lambda scan: reconstruct(
        module, PlacedScan.of(scan, outcome.canvas), outcome.probe, execution.inference_batch_size, canvases=canvases
    )


def infer_scan(
    model_path: str | Path, raw: RawData, config: InferenceConfig | None = None,
    execution: PyTorchExecutionConfig | None = None, *, refine: RefinementSettings | None = None,
    uncertainty: UncertaintySettings | None = None, halves: HalvesSettings | None = None,
    projections: int | None = None, canvas_folder: Path | None = None,
) -> Outcome:  # fmt: skip
    """Reconstruct a scan with a trained model; writes nothing.

    Args:
        model_path: an archive, or the folder of a training run.
        raw: the scan; its frames must have the side the model was trained with.
        config: only ``n_subsample`` and ``subsample_seed`` matter here; None takes every frame.
        execution: device and ``inference_batch_size``.
        refine: how to refine object and probe afterwards, from the network's; None for not at all.
        uncertainty: how to find the intervals of the phase; None for not at all.
        halves: how to halve the scan, to hold one half against the other; None for not at all.
        projections: >= 1, passes before the network, by parts of the frames in turn
            (:mod:`ptycho_torch.ordered_subsets`): coarser, sooner, for ``refine`` to go on from. None: as in training,
            and with ``refine`` as many such passes as it takes until the object has settled.
        canvas_folder: canvases of the reconstruction are kept in files without a name on this folder's disk, see
            :class:`ptycho_torch.canvases.Canvases`; None for in memory. Those of a refinement stay in memory.

    Returns:
        The object without and with the network, and refined where asked for; see :func:`train_scan`.

    Raises:
        MissingFileError, InputError: no such archive, a damaged one, or frames that do not fit; ``projections`` for an
            architecture that takes none.
    """
    started = time.perf_counter()
    execution = PyTorchExecutionConfig() if execution is None else execution
    torch_device(execution.accelerator)
    wanted = Wanted(refine, uncertainty, halves)
    notes = settings.check_settings(*(() if config is None else (config,)), execution)
    notes += settings.announced(settings.training_only(execution))
    if config is not None:
        update_legacy_dict(params.cfg, config)
    module, trained_with, begins = loaded(model_path, projections, refine is not None)
    if config is not None and config.n_subsample is not None:
        raw = subsample(raw, config.n_subsample, config.subsample_seed or 0)
    if halves is not None:
        check_enough_frames(raw.source, raw.n_frames, module.data_config.C)
    canvases, n = Canvases(canvas_folder), processes_of(execution)
    arguments = model_path, raw, execution, (projections, refine is not None), canvases
    with processes.started(n, _help_to_infer, arguments, device_of(execution)) as share:
        known, outcome = _inferred(module, raw, execution, None, share, canvases)
    outcome = finished(
        known, outcome, _again(module, outcome, execution, canvases), wanted, shared=SHARED_IN_INFERENCE,
        device=device_of(execution),
    )  # fmt: skip
    outcome.notes = [*notes, *outcome.notes, *begins]
    outcome.settings = {**trained_with, **outcome.settings}
    if projections is not None:
        outcome.settings["projections"] = projections
    outcome.timings_s["total"] = time.perf_counter() - started
    return outcome


def check_inference(
    model_path: str | Path, raws: Sequence[RawData], config: InferenceConfig | None = None,
    execution: PyTorchExecutionConfig | None = None, *, refine: RefinementSettings | None = None,
    halves: HalvesSettings | None = None, projections: int | None = None,
) -> None:  # fmt: skip
    """Refuse what :func:`infer_scan` refuses of any of these scans before it reconstructs; arguments as there.

    Raises:
        MissingFileError, InputError: see :func:`infer_scan`.
    """
    torch_device((PyTorchExecutionConfig() if execution is None else execution).accelerator)
    module = loaded(model_path, projections, refine is not None).module
    for raw in raws:
        _check_side(raw, module)
        if halves is not None:
            n_frames = min(raw.n_frames, (config and config.n_subsample) or raw.n_frames)
            check_enough_frames(raw.source, n_frames, module.data_config.C)


def _check_side(raw: RawData, module: PtychoPINN_Lightning) -> None:
    """InputError for frames of another side than the module was trained with."""
    expected = module.data_config.N
    if raw.N != expected:
        raise InputError(
            f"{raw.source}: frames are {raw.N} x {raw.N} pixels, the model was trained on {expected} x {expected}. "
            f"Crop the scan to {expected} (--crop {expected}), load a model for {raw.N}, or train one."
        )


def _help_to_infer(
    share: Share, model_path: str | Path, raw: RawData, execution: PyTorchExecutionConfig,
    begins: tuple[int | None, bool], canvases: Canvases,
) -> None:  # fmt: skip
    """What the other processes of an inference do."""
    _inferred(loaded(model_path, *begins).module, raw, execution, None, share, canvases)


def infer_with(
    module: PtychoPINN_Lightning, raw: RawData, execution: PyTorchExecutionConfig, canvas: Canvas | None = None,
    canvases: Canvases | None = None,
) -> Outcome:  # fmt: skip
    """Reconstruct a scan with a trained module; the module itself is left as it is, but for its device.

    The scan's own probe is used, unless it is the guess that the module's probe was refined from, or there is none;
    then the module's. The notes of the outcome say which. Frames whose domain cannot be told are taken as those that
    the module was trained on, and frames without a mask (None; an empty mask is one) get the module's.

    Args:
        module: trained.
        raw: the scan.
        execution: device and ``inference_batch_size``.
        canvas: where the object is to lie; None for the smallest canvas, centred on the scan.
        canvases: makes the canvases; None for in memory.

    Raises:
        InputError: frames of another side than the module was trained with.
    """
    return _inferred(module, raw, execution, canvas, Share(), canvases)[1]


def _inferred(
    module: PtychoPINN_Lightning, raw: RawData, execution: PyTorchExecutionConfig, canvas: Canvas | None, share: Share,
    canvases: Canvases | None,
) -> tuple[RawData, Outcome]:  # fmt: skip
    """The scan as it was taken, and what came of it; see :func:`infer_with`."""
    _check_side(raw, module)
    raw = _with_known_domain(raw, module.data_config.measurement_domain)
    good = module.good_pixels.cpu().numpy()
    takes_mask = raw.bad_pixels is None and not good.all()
    if takes_mask:
        raw = raw.masked(~good)
    probe, is_trained = calibration.probe_for(
        raw, module.probe.cpu().numpy(), module.probe_guess.cpu().numpy(), float(module.mean_counts),
        module.mask(), good,
    )  # fmt: skip
    placed = PlacedScan.of(raw, canvas)
    batch_size = execution.inference_batch_size
    outcome = reconstruct(module.to(device_of(execution)), placed, probe, batch_size, share, canvases)
    why = "The scan has no probe" if raw.probeGuess is None else "The scan's probe is the training guess"
    outcome.notes = [
        f"Frames are taken as {raw.measurement_domain}: {raw.domain_reason}",
        f"{why}: the one of the trained model is used."
        if is_trained
        else "The scan's own probe is used; it differs from the training guess.",
    ]
    if takes_mask:
        outcome.notes.append("The scan has no mask of bad pixels: the one of the trained model is used.")
    return raw, outcome


def _with_known_domain(raw: RawData, trained_on: str) -> RawData:
    try:
        _ = raw.measurement_domain
    except InputError:
        if trained_on not in ("intensity", "amplitude"):
            raise
        logger.warning("%s: taken as %s, as in training: the domain cannot be told.", raw.source, trained_on)
        return raw.taken_as(trained_on)
    return raw


@torch.no_grad()
def reconstruct(
    module: PtychoPINN_Lightning, scan: PlacedScan, probe: NDArray[np.complex64] | None = None,
    batch_size: int | None = None, share: Share | None = None, canvases: Canvases | None = None,
) -> Outcome:  # fmt: skip
    """The object of a whole scan, without and with the network, streamed over its frames.

    Args:
        module: trained.
        scan: the placed frames.
        probe: (M, N, N) scaled to the counts of ``scan``; None for the module's own.
        batch_size: frames in memory at a time; None for what the module was configured with, or else the fastest.
        share: of this process, where several do it together; each gets the whole outcome.
        canvases: makes the canvases; None for in memory.
    """
    module.eval()
    device = module.probe_parts.device
    light = module.probe if probe is None else torch.from_numpy(probe.copy()).to(device)
    good = torch.from_numpy(scan.raw.good_pixels.copy()).to(device)
    configured = module.inference_config.batch_size
    if batch_size is None and configured not in (STREAMED_FRAMES, BackendInferenceConfig.batch_size):
        batch_size = min(configured, frames_that_fit(scan.raw.N, len(light)))
    frames = StreamedFrames(scan, light, good, batch_size, share, begins=2, canvases=canvases)
    # both begin with the same projections; the second one gets the canvas itself, not a copy
    network = _made(module.generator, frames)
    projection = _made(module.generator.without_network, frames)
    del frames  # its illumination is as large as the coverage
    coverage = coverage_map(scan.starts.numpy(), scan.raw.N, scan.canvas.shape)
    stages = {"projection": projection.stage(coverage), "network": network.stage(coverage)}
    return Outcome(
        stages=stages,
        coverage=coverage,
        probe=light.cpu().numpy(),
        canvas=scan.canvas,
        xcoords=scan.raw.xcoords,
        ycoords=scan.raw.ycoords,
        timings_s={"reconstruction": stages["network"].time_s},
        frame_deviance=network.misfit.by_frame,
        detector_residual=network.misfit.on_detector,
    )


class _Made(NamedTuple):
    """A canvas (H, W), how well it explains the counts, and how long it took."""

    canvas: NDArray[np.complex64]
    misfit: Misfit
    time_s: float

    def stage(self, coverage: NDArray[np.int32]) -> Stage:
        """The canvas, exactly 1 where no frame lies, with its figures; written over, not copied."""
        for rows, covered in zip(self.canvas, coverage, strict=True):
            rows[covered == 0] = 1
        return Stage(self.canvas, self.misfit.deviance, self.misfit.expected, self.time_s)


def _made(make: Callable[[StreamedFrames], Tensor], frames: StreamedFrames) -> _Made:
    start, spared_s = time.perf_counter(), frames.spared_s
    canvas = make(frames)
    taken = time.perf_counter() - start + frames.spared_s - spared_s
    hand_back()
    misfit = frames.deviance(canvas)
    hand_back()
    return _Made(canvas[0].cpu().numpy().astype(np.complex64, copy=False), misfit, taken)


def resolved_settings(config: TrainingConfig, execution: PyTorchExecutionConfig, raw: RawData) -> dict[str, Any]:
    """The resolved configuration of a training run in plain types."""
    values = {**dataclasses.asdict(config), "execution": dataclasses.asdict(execution)}
    values["measurement_domain"] = raw.measurement_domain
    values["mean_counts_per_frame"] = raw.mean_counts_per_frame()
    resolved: dict[str, Any] = plain(values)
    return resolved
