"""Photon scale and probe, found before anything is trained."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ptycho import progress
from ptycho.errors import InputError
from ptycho.probe import probe_mask, scale_probe_to_counts
from ptycho.raw_data import RawData
from ptycho_torch.config_params import ModelConfig
from ptycho_torch.data.parts import frames_per_step, steps_of
from ptycho_torch.data.scans import PlacedScan
from ptycho_torch.physics.detector import detector_order, roots
from ptycho_torch.solvers.projection import vacuum
from ptycho_torch.solvers.refinement import RefinementOptions, refine

logger = logging.getLogger(__name__)

MAX_FRAMES = 1024
"""A probe is common to all frames: so many neighbouring ones tell it as well as a million."""


SAME_PROBE = 0.9999
"""Two probe guesses that correlate better than this are the same guess."""


def scaled_guess(raw: RawData, mask: NDArray[np.float32] | None = None) -> NDArray[np.complex64]:
    """The scan's probe guess (M, N, N) times ``mask`` (N, N), scaled to the mean counts of its frames."""
    return masked_probe(raw, raw.probe, mask)


def masked_probe(raw: RawData, probe: NDArray[Any], mask: NDArray[np.float32] | None) -> NDArray[np.complex64]:
    """A probe (M, N, N) times ``mask`` (N, N), scaled to the mean counts of the scan's frames."""
    seen = probe if mask is None else probe * mask
    return scale_probe_to_counts(seen, raw.mean_counts_per_frame(), raw.good_pixels)


def mask_of(config: ModelConfig, N: int) -> NDArray[np.float32] | None:
    """The probe's mask (N, N) in [0, 1] that a configuration asks for, or None.

    Raises:
        InputError: a mask of another shape.
    """
    if config.probe_mask_tensor is not None:
        given = np.asarray(config.probe_mask_tensor, dtype=np.float32).squeeze()
        if given.shape != (N, N):
            raise InputError(f"probe_mask_tensor: found shape {given.shape}, expected {(N, N)} as the frames have.")
        return np.clip(given, 0, None)
    return probe_mask(N, config.probe_mask_diameter, config.probe_mask_sigma) if config.probe_mask else None


def probe_for(
    raw: RawData, trained: NDArray[np.complex64], guess: NDArray[np.complex64], mean_counts: float,
    mask: NDArray[np.float32] | None = None, good_pixels: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.complex64], bool]:
    """The probe to look at another scan with, and whether it is the trained one.

    Args:
        raw: the scan.
        trained: (M, N, N) probe of a trained model, scaled to the counts of its scan.
        guess: (M, N, N) what it was refined from.
        mean_counts: per frame of the scan that the model was trained on.
        mask: (N, N) with which the model's probes are masked.
        good_pixels: (N, N) of the scan that the model was trained on; None for all.

    Returns:
        (M, N, N) scaled to the counts of ``raw``: its own, unless that is the guess or there is none.
    """
    if raw.probeGuess is not None:
        own = scaled_guess(raw, mask)
        if not same_guess(own, guess):
            return own, False
    known = np.ones_like(raw.good_pixels) if good_pixels is None else good_pixels
    if not np.array_equal(known, raw.good_pixels):
        # mean counts behind different masks are no measure of the dose
        return masked_probe(raw, trained, None), True
    # by the ratio of the doses, so that the training scan itself gets the probe it was trained with, to the bit
    ratio = np.float32(np.sqrt(np.float32(raw.mean_counts_per_frame()) / np.float32(mean_counts)))
    return (trained * ratio).astype(np.complex64), True


def same_guess(a: NDArray[np.complex64], b: NDArray[np.complex64]) -> bool:
    """True if two guesses of a probe (M, N, N), in any scale, are one and the same."""
    return _correlation(a, b) > SAME_PROBE


def _correlation(a: NDArray[np.complex64], b: NDArray[np.complex64]) -> float:
    if a.shape != b.shape:
        return 0.0
    return float(abs(np.vdot(a, b)) / (np.linalg.norm(a) * np.linalg.norm(b)))


def central_part(raw: RawData, most: int = MAX_FRAMES) -> RawData:
    """The frames nearest to the middle of the scan, at most ``most``."""
    if raw.n_frames <= most:
        return raw
    distance = (raw.xcoords - np.median(raw.xcoords)) ** 2 + (raw.ycoords - np.median(raw.ycoords)) ** 2
    return raw.subset(np.sort(np.argpartition(distance, most)[:most]))


def calibrate_probe(
    raw: RawData, guess: NDArray[np.complex64], epochs: int, *, device: str | torch.device = "cpu",
    seed: int = 0, on_epoch: Callable[[int, float], None] | None = None,
) -> NDArray[np.complex64]:  # fmt: skip
    """Refine the probe together with the object, from vacuum; the object is thrown away.

    Args:
        raw: the scan; its middle is used if it is large.
        guess: (M, N, N) scaled to counts.
        epochs: passes over the frames.
        device: where to compute.
        seed: of which frames make a step together.
        on_epoch: called with the number of finished epochs and the relative misfit.

    Returns:
        (M, N, N) complex64 with the guess's power and, to the pixel, its centroid; tilted so that the object has no
        ramp.
    """
    scan = PlacedScan.of(central_part(raw))
    good = None if scan.raw.bad_pixels is None else detector_order(torch.from_numpy(scan.raw.good_pixels))
    probe = torch.from_numpy(np.ascontiguousarray(guess)).to(device)
    with progress.task("Calibrating the probe", epochs, "epoch") as step:
        refined = refine(
            lambda at: roots(detector_order(scan.counts(at).to(device))),
            scan.starts.to(device),
            scan.fractions.to(device),
            steps_of(scan.xy, frames_per_step(scan.raw.n_frames, raw.N, len(probe)), seed),
            vacuum((), scan.canvas.shape, probe),
            probe,
            RefinementOptions(epochs=epochs),
            good_pixels=None if good is None else good.to(device),
            on_epoch=progress.by_epoch(step, also=on_epoch),
        )
    if refined.errors and not refined.errors[-1] <= refined.errors[0]:
        logger.warning(
            "Probe calibration did not converge (misfit %.3g after %.3g); the guess is kept.",
            refined.errors[-1], refined.errors[0],
        )  # fmt: skip
        return guess
    return np.asarray(refined.probe.cpu().numpy(), dtype=np.complex64)
