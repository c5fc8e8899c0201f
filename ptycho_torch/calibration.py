"""Photon scale and probe, found before anything is trained."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from ptycho.probe import scale_probe_to_counts
from ptycho.raw_data import RawData
from ptycho_torch.data.blocks import PlacedScan
from ptycho_torch.physics.detector import detector_order
from ptycho_torch.solvers.projection import vacuum
from ptycho_torch.solvers.refinement import RefinementOptions, refine

logger = logging.getLogger(__name__)

MAX_FRAMES = 1024
"""A probe is common to all frames: so many neighbouring ones tell it as well as a million."""


def scaled_guess(raw: RawData) -> NDArray[np.complex64]:
    """The scan's probe guess (M, N, N), scaled to the mean counts of its frames."""
    return scale_probe_to_counts(raw.probe, raw.mean_counts_per_frame(), raw.good_pixels)


def _central_part(raw: RawData) -> RawData:
    """The frames nearest to the middle of the scan, at most MAX_FRAMES."""
    if raw.n_frames <= MAX_FRAMES:
        return raw
    distance = (raw.xcoords - np.median(raw.xcoords)) ** 2 + (raw.ycoords - np.median(raw.ycoords)) ** 2
    return raw.subset(np.sort(np.argpartition(distance, MAX_FRAMES)[:MAX_FRAMES]))


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
        seed: of the order of frames.
        on_epoch: called with the number of finished epochs and the relative misfit.

    Returns:
        (M, N, N) complex64 with the guess's power and centroid, tilted so that the object has no ramp.
    """
    scan = PlacedScan.of(_central_part(raw))
    good = None if scan.raw.bad_pixels is None else detector_order(torch.from_numpy(scan.raw.good_pixels))
    probe = torch.from_numpy(np.ascontiguousarray(guess)).to(device)
    refined = refine(
        lambda at: detector_order(scan.counts(at).to(device)).sqrt(),
        scan.starts.to(device),
        scan.fractions.to(device),
        vacuum((), scan.canvas.shape, probe),
        probe,
        RefinementOptions(epochs=epochs),
        good_pixels=None if good is None else good.to(device),
        seed=seed,
        on_epoch=on_epoch,
    )
    if refined.errors and not refined.errors[-1] <= refined.errors[0]:
        logger.warning(
            "Probe calibration did not converge (misfit %.3g after %.3g); the guess is kept.",
            refined.errors[-1], refined.errors[0],
        )  # fmt: skip
        return guess
    return np.asarray(refined.probe.cpu().numpy(), dtype=np.complex64)
