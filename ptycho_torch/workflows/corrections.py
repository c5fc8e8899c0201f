"""What a refinement corrects beside object and probe: the focus of the probe guess, and the positions."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho import progress
from ptycho.geometry import Canvas
from ptycho.raw_data import RawData
from ptycho.simulation.probes import HC_EV_M
from ptycho_torch.calibration import central_part
from ptycho_torch.data.parts import frames_per_step, steps_of
from ptycho_torch.data.scans import PlacedScan
from ptycho_torch.physics.detector import detector_order, roots
from ptycho_torch.physics.propagation import focal_depth_px2, fresnel
from ptycho_torch.solvers.defocus import Defocus, find_defocus
from ptycho_torch.solvers.positions import LIMIT_PX
from ptycho_torch.solvers.projection import vacuum
from ptycho_torch.solvers.refinement import Refined, RefinementOptions, refine

logger = logging.getLogger(__name__)

FOCUS_FRAMES = 256
"""Frames in the middle of the scan that judge a focus."""

FOCUS_EPOCHS = 3
"""Passes over them for each trial: enough to tell which of two is better."""

ROOM_PX = int(LIMIT_PX) + 1
"""Margin of a canvas on which frames are moved."""


def refocused(
    raw: RawData, probe: NDArray[np.complex64], device: str | torch.device, seed: int
) -> tuple[NDArray[np.complex64], dict[str, Any], str]:
    """A probe propagated to where it explains the frames best.

    Args:
        raw: the scan; its middle is used.
        probe: (M, N, N) scaled to counts.
        device: where to compute.
        seed: of which frames make a step together.

    Returns:
        (M, N, N) complex64 of the same power; the correction in plain types; a note on it.
    """
    scan = PlacedScan.of(central_part(raw, FOCUS_FRAMES))
    counts = detector_order(scan.counts(torch.arange(scan.raw.n_frames))).to(device)
    masked = raw.bad_pixels is not None
    good = detector_order(torch.from_numpy(raw.good_pixels.copy())).to(device) if masked else None
    guess = torch.from_numpy(np.ascontiguousarray(probe)).to(device)
    parts = steps_of(scan.xy, frames_per_step(scan.raw.n_frames, raw.N, len(probe)), seed)
    with progress.task("Focusing the probe", None, "trial") as step:

        def misfit_at(distance_px2: float) -> float:
            tried = refine(
                lambda at: roots(counts[at]), scan.starts.to(device), scan.fractions.to(device), parts,
                vacuum((), scan.canvas.shape, guess), fresnel(guess, distance_px2),
                RefinementOptions(epochs=FOCUS_EPOCHS, refine_probe=False), good_pixels=good,
            )  # fmt: skip
            step()
            return tried.errors[-1]

        # farther than the side of the frame the propagator itself would be sampled too coarsely
        found = find_defocus(misfit_at, focal_depth_px2(guess), float(raw.N))
    result = fresnel(guess, found.distance_px2).cpu().numpy().astype(np.complex64)
    return result, *_told(found, raw)


def _told(found: Defocus, raw: RawData) -> tuple[dict[str, Any], str]:
    facts: dict[str, Any] = {"distance_px2": found.distance_px2, "tried": [list(pair) for pair in found.tried]}
    text = f"{found.distance_px2:+.3g} px^2 (wavelength * distance / pixel^2)"
    if raw.pixel_size_m and raw.photon_energy_ev:
        facts["distance_m"] = found.distance_px2 * raw.pixel_size_m**2 * raw.photon_energy_ev / HC_EV_M
        text = f"{facts['distance_m'] * 1e6:+.3g} um, {text}"
    note = f"The probe guess was propagated along the axis to where it explains the frames best: {text}."
    if found.at_edge:
        note += " The search ended there with the misfit still falling: look at the probe guess."
        logger.warning("%s", note)
    return facts, note


def with_room(scan: PlacedScan, image: NDArray[np.complex64] | None) -> tuple[PlacedScan, NDArray[np.complex64] | None]:
    """The scan, and an object (H, W) on its canvas, on a larger canvas around the same centre; vacuum in the margin."""
    height, width = scan.canvas.shape
    canvas = Canvas((height + 2 * ROOM_PX, width + 2 * ROOM_PX), scan.canvas.center_xy)
    wide = dataclasses.replace(scan, canvas=canvas, starts=scan.starts + ROOM_PX)
    return wide, None if image is None else np.pad(image, ROOM_PX, constant_values=np.complex64(1))


def moved(scan: PlacedScan, refined: Refined) -> tuple[PlacedScan, NDArray[np.float64], NDArray[np.float64]]:
    """The scan where its frames lie after a refinement, and their positions x and y, (F,) float64 object pixels."""
    placed = dataclasses.replace(scan, starts=refined.starts.cpu(), fractions=refined.fractions.cpu())
    by = refined.moved_px.cpu().numpy().astype(np.float64)
    return placed, scan.raw.xcoords + by[:, 1], scan.raw.ycoords + by[:, 0]


def told_of_moves(moved_px: Tensor, at_limit: int) -> tuple[dict[str, Any], str]:
    """How far frames were moved, (F, 2) pixels, in plain types and as a note; and how many as far as they may."""
    by = moved_px.cpu().numpy().astype(np.float64)
    distance = np.hypot(by[:, 0], by[:, 1])
    facts = {
        "rms_px": float(np.sqrt(np.mean(distance**2))), "largest_px": float(distance.max()), "at_limit": at_limit,
        "limit_px": LIMIT_PX,
    }  # fmt: skip
    note = (
        f"Positions were refined: frames moved by {facts['rms_px']:.3g} px (rms), at most {facts['largest_px']:.3g} "
        f"px; the mean move, {by[:, 0].mean():.2g} rows and {by[:, 1].mean():.2g} columns, cannot be told from one of "
        "the object."
    )
    if at_limit:
        note += f" {at_limit} of {len(by)} moved as far as they may, {LIMIT_PX:g} px along an axis: not to be trusted."
        logger.warning("%s", note)
    return facts, note
