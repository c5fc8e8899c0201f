"""From what a caller hands over to scans that are ready to be trained on: chosen, checked, calibrated, labelled."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ptycho.config.config import PyTorchExecutionConfig, TrainingConfig
from ptycho.domain import canonical_domain
from ptycho.errors import InputError
from ptycho.raw_data import RawData
from ptycho_torch import calibration, config_factory, lightning_utils
from ptycho_torch.config_factory import TrainingPayload
from ptycho_torch.data.containers import number_of_frames, scan_of
from ptycho_torch.data.labels import labels_for
from ptycho_torch.data.scans import LitScan, PlacedScan
from ptycho_torch.objective import needs_labels

logger = logging.getLogger(__name__)

MIN_FRAMES = 4


def as_sources(source: Any) -> list[Any]:
    """One scan or container, or several of them, as a list."""
    return list(source) if isinstance(source, (list, tuple)) else [source]


def lit_scans(payload: TrainingPayload, source: Any, notes: list[str]) -> tuple[list[LitScan], float]:
    """The scans to train on with their calibrated probes and, where they are needed, their labels.

    Scans that come with the same guess of the probe share one calibration, scaled to the counts of each.

    Args:
        payload: of the run.
        source: see :func:`ptycho_torch.workflows.training.run_training`.
        notes: gets what a reader should know.

    Returns:
        The scans, and the wall time of the calibrations in seconds.

    Raises:
        InputError: frames that cannot be trained on; DATA-SUP-001 for labels that are missing.
    """
    start = time.perf_counter()
    found: list[LitScan] = []
    for part in as_sources(source):
        found.append(_lit(payload, part, notes, found))
    return found, time.perf_counter() - start if payload.tf_training_config.calibrate_probe else 0.0


def validation_scans(payload: TrainingPayload, source: Any, trained: Sequence[LitScan]) -> list[LitScan]:
    """Scans to validate with, lit by a training scan's refined probe where the two have one guess."""
    return [_placed(payload, part, trained) for part in as_sources(source)]


def withholds(source: Any, config: TrainingConfig) -> bool:
    """Whether frames of the scans will be withheld to validate with; asked before the frames are looked at."""
    for part in as_sources(source):
        total = number_of_frames(part)
        if total is not None:
            n_frames = total if config.n_subsample is None else min(total, config.n_subsample)
            if round(config.val_fraction * n_frames) > 0:
                return True
    return False


def subsample(raw: RawData, n: int, seed: int) -> RawData:
    """``n`` frames drawn at random, in the order of the file; all of them where there are no more."""
    if n >= raw.n_frames:
        return raw
    return raw.subset(np.sort(np.random.default_rng(seed).choice(raw.n_frames, n, replace=False)))


def _lit(payload: TrainingPayload, source: Any, notes: list[str], before: Sequence[LitScan]) -> LitScan:
    config, model = payload.tf_training_config, payload.pt_model_config
    raw, groups = scan_of(source, object_big=model.object_big, nphotons=config.nphotons)
    config_factory.check_frame_size(payload.pt_data_config.N, raw.N, raw.source)
    if groups is None:
        raw = _chosen_frames(_as_stated(raw, config), config)
        _check_domain(raw, config)
    _note(notes, f"Frames are taken as {raw.measurement_domain}: {raw.domain_reason}")
    _note_nphotons(notes, payload, raw)
    placed = PlacedScan.of(raw)
    labels = labels_for(placed, groups is not None) if needs_labels(model, payload.pt_training_config) else None
    mask = calibration.mask_of(model, raw.N)
    guess = calibration.scaled_guess(raw, mask)
    probe = guess
    if config.calibrate_probe and groups is None:
        known = _same_guess(raw, before, mask)
        if known is None:
            probe = _calibrated(raw, guess, config, payload.execution_config)
            probe = probe if mask is None else calibration.masked_probe(raw, probe, mask)
        else:  # it was masked when it was calibrated
            probe = known
        _note(notes, "The probe was refined before training; the result uses the refined one.")
    elif config.calibrate_probe:
        _note(notes, "The probe was not refined: positions are known within groups only.")
    return LitScan(placed, torch.from_numpy(probe.copy()), torch.from_numpy(guess.copy()), labels, groups)


def _placed(payload: TrainingPayload, source: Any, trained: Sequence[LitScan]) -> LitScan:
    config, model = payload.tf_training_config, payload.pt_model_config
    raw, groups = scan_of(source, object_big=model.object_big, nphotons=config.nphotons)
    config_factory.check_frame_size(payload.pt_data_config.N, raw.N, raw.source)
    if groups is None:
        raw = _as_stated(raw, config)
        _check_domain(raw, config)
    placed = PlacedScan.of(raw)
    labels = labels_for(placed, groups is not None) if needs_labels(model, payload.pt_training_config) else None
    mask = calibration.mask_of(model, raw.N)
    known = _same_guess(raw, trained, mask)
    probe = torch.from_numpy((calibration.scaled_guess(raw, mask) if known is None else known).copy())
    return LitScan(placed, probe, probe, labels, groups)


def _same_guess(
    raw: RawData, scans: Sequence[LitScan], mask: NDArray[np.float32] | None
) -> NDArray[np.complex64] | None:  # fmt: skip
    """The refined probe of the first scan that had the same guess, scaled to the counts of ``raw``; else None."""
    for scan in scans:
        probe, is_known = calibration.probe_for(
            raw, scan.probe.numpy(), scan.guess.numpy(), scan.placed.raw.mean_counts_per_frame(), mask,
            scan.placed.raw.good_pixels,
        )  # fmt: skip
        if is_known:
            return probe
    return None


def _note(notes: list[str], text: str) -> None:
    if text not in notes:
        notes.append(text)


def _note_nphotons(notes: list[str], payload: TrainingPayload, raw: RawData) -> None:
    """A dose that the caller stated acts in one domain only."""
    stated = payload.overrides_applied.get("sources", {}).get("nphotons") in ("config", "overrides")
    text = (
        f"nphotons={payload.tf_training_config.nphotons:g} has no effect: frames taken as {raw.measurement_domain} say "
        "themselves how many counts they hold."
    )
    if stated and raw.measurement_domain != "normalized_amplitude" and text not in notes:
        notes.append(text)
        logger.info(text)


def _chosen_frames(raw: RawData, config: TrainingConfig) -> RawData:
    """The frames that ``n_subsample`` leaves.

    Raises:
        InputError: too few to train on.
    """
    if config.n_subsample is not None:
        seed = config.seed if config.subsample_seed is None else config.subsample_seed
        raw = subsample(raw, config.n_subsample, seed)
    least = max(MIN_FRAMES, config.model.gridsize**2)
    if raw.n_frames < least:
        raise InputError(
            f"{raw.source}: found {raw.n_frames} frame(s), expected at least {least} overlapping ones. "
            "A network cannot be trained on so few; take more frames, or reconstruct with a trained model."
        )
    return raw


def _as_stated(raw: RawData, config: TrainingConfig) -> RawData:
    """The scan, its domain and dose from the configuration where the scan itself does not say them."""
    stated = canonical_domain(config.measurement_domain)
    if stated == "auto":
        return raw
    try:
        _ = raw.measurement_domain
    except InputError:
        raw = raw.taken_as(stated)
        if raw.nphotons is None:
            raw.nphotons = config.nphotons
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
) -> NDArray[np.complex64]:
    start = time.perf_counter()
    probe = calibration.calibrate_probe(
        raw, guess, config.calibration_epochs, device=lightning_utils.device_of(execution), seed=config.seed,
        on_epoch=lambda epoch, misfit: logger.debug("calibration epoch %d: misfit %.4g", epoch, misfit),
    )  # fmt: skip
    logger.info("Probe calibrated in %.1f s.", time.perf_counter() - start)
    return probe
