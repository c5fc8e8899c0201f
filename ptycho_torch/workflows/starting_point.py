"""An earlier reconstruction laid on the canvas of a scan, to go on from."""

from __future__ import annotations

import logging

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho.errors import InputError
from ptycho.geometry import Canvas, canvas_for, placements
from ptycho.io.reconstruction_files import LoadedObject
from ptycho.outcome import Outcome
from ptycho.placed import PlacedObject, lit_frames, place_loaded
from ptycho.raw_data import RawData
from ptycho_torch.data.scans import PlacedScan
from ptycho_torch.physics.detector import centred_order, expected_counts
from ptycho_torch.physics.illumination import shift_probe
from ptycho_torch.reassembly import StreamedFrames
from ptycho_torch.solvers.positions import LIMIT_PX

logger = logging.getLogger(__name__)

_SAME_PIXEL = 1e-3  # relative difference of pixel sizes that still counts as equal
_SAME_SPAN = 0.1  # the same for the lengths that the positions span
_LEAST_OVERLAP = 0.5
_SAME_PLACES_PX = 0.05  # positions that differ by less are the scan's own, but for rounding
_MOST_MOVED_PX = 2 * LIMIT_PX  # along an axis; what is farther apart is in another order, or another scan

Start = tuple[PlacedScan, NDArray[np.complex64] | None, NDArray[np.complex64], list[str]]


def placed_start(raw: RawData, loaded: LoadedObject | Outcome | None) -> Start:
    """The scan on its canvas, the object of ``loaded`` on it, the probe to begin with, and what a reader should know.

    The canvas has the pixels of the loaded object, so that nothing is resampled; what that object does not cover is
    vacuum, 1. Frames lie where that reconstruction has them, if it has moved them: its object belongs to those places.

    Args:
        raw: the scan.
        loaded: an earlier reconstruction of it, from a file or of this very run; None for vacuum.

    Returns:
        The placed scan; (H, W) complex64 or None for vacuum; (M, N, N) complex64 in any scale; notes.

    Raises:
        InputError: a probe or pixels of another size, or an object that lies elsewhere.
    """
    if loaded is None:
        return PlacedScan.of(raw), None, raw.probe, ["It started from vacuum and the scan's own probe guess."]
    if isinstance(loaded, Outcome):
        return PlacedScan.of(raw, loaded.canvas), loaded.result.object, loaded.probe, []
    note = f"It started from {loaded.path}"
    if loaded.probe is None:
        probe, note = raw.probe, f"{note}, which has no probe, with the scan's own guess."
    else:
        probe, note = loaded.probe, f"{note} and its probe."
    if probe.shape[-1] != raw.N:
        raise InputError(
            f"{loaded.path}: found a probe of {probe.shape[-1]} x {probe.shape[-1]} pixels, expected {raw.N} x {raw.N} "
            f"like the frames of {raw.source}. Refine with the --crop of that reconstruction."
        )
    middle = _middle_in(loaded, raw)
    raw, moves = _where_it_has_them(raw, loaded)
    canvas = _aligned_canvas(raw, middle)
    starts, fractions = placements(raw.xcoords, raw.ycoords, raw.N, canvas)
    scan = PlacedScan(raw, canvas, torch.from_numpy(starts), torch.from_numpy(fractions.astype(np.float32)))
    image, known = _cut(loaded.object, middle, canvas, raw)
    lit = lit_frames(probe, raw.xcoords, raw.ycoords, canvas) > 0
    share = float(known[lit].mean()) if lit.any() else 0.0
    if share < _LEAST_OVERLAP:
        raise InputError(
            f"{loaded.path}: found an object that covers {share:.0%} of what the scan {raw.source} lights, expected "
            "one that covers it. Name a reconstruction of this scan."
        )
    return scan, image, probe, [note, *moves]


def _where_it_has_them(raw: RawData, loaded: LoadedObject) -> tuple[RawData, list[str]]:
    """The scan with the positions of ``loaded`` but for a common shift, where those differ; a note on it."""
    if loaded.xcoords is None or loaded.ycoords is None or len(loaded.xcoords) != raw.n_frames:
        return raw, []
    apart = np.stack((loaded.xcoords - raw.xcoords, loaded.ycoords - raw.ycoords))
    apart -= apart.mean(axis=1, keepdims=True)
    rms_px = float(np.sqrt(np.mean(np.sum(apart**2, axis=0))))
    if rms_px <= _SAME_PLACES_PX:
        return raw, []
    if np.abs(apart).max() > _MOST_MOVED_PX:
        note = (
            f"{loaded.path} has positions that differ from those of the scan by {rms_px:.3g} px (rms) and up to "
            f"{np.abs(apart).max():.3g} px along an axis; the scan's own are used: those may be other frames."
        )
        logger.warning("%s", note)
        return raw, [note]
    note = f"Frames lie where {loaded.path} has them, {rms_px:.3g} px (rms) from where the scan does."
    logger.info("%s", note)
    return raw.placed_at(raw.xcoords + apart[0], raw.ycoords + apart[1]), [note]


def _middle_in(loaded: LoadedObject, raw: RawData) -> tuple[float, float]:
    """(row, column) in the loaded object of the midpoint of the scan's bounding box."""
    placed = place_loaded(loaded)
    _check_pixels(loaded, placed, raw)
    if placed.extent is None or placed.extent[0] == raw.n_frames or loaded.center_xy is None:
        # the same frames, whatever the origins; or nothing better is known
        return placed.center
    height, width = loaded.object.shape
    x, y = (float(v.min() + v.max()) / 2 for v in (raw.xcoords, raw.ycoords))
    return y - loaded.center_xy[1] + (height - 1) / 2, x - loaded.center_xy[0] + (width - 1) / 2


def _check_pixels(loaded: LoadedObject, placed: PlacedObject, raw: RawData) -> None:
    """InputError when the pixels differ in size, by what the files say or by what the positions span."""
    remedy = "expected equal pixels. Refine with the --crop of that reconstruction."
    one, two = loaded.pixel_size_m, raw.pixel_size_m
    if one and two and abs(one / two - 1) > _SAME_PIXEL:
        raise InputError(f"{loaded.path}: found pixels of {one:.4g} m, the scan {raw.source} has {two:.4g} m; {remedy}")
    if placed.extent is None or placed.extent[0] != raw.n_frames:
        return
    spans = placed.extent[1:], (float(np.ptp(raw.ycoords)), float(np.ptp(raw.xcoords)))
    if all(b > 0 and abs(a / b - 1) > _SAME_SPAN for a, b in zip(*spans, strict=True)):
        texts = [f"{rows:.1f} x {columns:.1f} px" for rows, columns in spans]
        raise InputError(
            f"{loaded.path}: found positions that span {texts[0]}, those of the scan {raw.source} span {texts[1]}; "
            f"{remedy}"
        )


def _aligned_canvas(raw: RawData, middle: tuple[float, float]) -> Canvas:
    """A canvas that holds the scan and whose pixels are those of an object in which the scan's middle is ``middle``."""
    smallest = canvas_for(raw.xcoords, raw.ycoords, raw.N)
    # two more, so that the centre may move by half a pixel
    shape = smallest.shape[0] + 2, smallest.shape[1] + 2
    corners = [at - (side - 1) / 2 for at, side in zip(middle, shape, strict=True)]
    moves = [float(np.rint(corner)) - corner for corner in corners]
    x, y = smallest.center_xy
    return canvas_for(raw.xcoords, raw.ycoords, raw.N, center_xy=(x + moves[1], y + moves[0]), shape=shape)


def _cut(
    image: NDArray[np.complex64], middle: tuple[float, float], canvas: Canvas, raw: RawData
) -> tuple[NDArray[np.complex64], NDArray[np.bool_]]:
    """The object on the canvas, and where it is known."""
    x, y = (float(v.min() + v.max()) / 2 for v in (raw.xcoords, raw.ycoords))
    offsets = canvas.center_xy[1] - y, canvas.center_xy[0] - x
    first = [
        round(at + offset - (side - 1) / 2) for at, offset, side in zip(middle, offsets, canvas.shape, strict=True)
    ]
    result = np.ones(canvas.shape, dtype=np.complex64)
    known = np.zeros(canvas.shape, dtype=bool)
    there = [slice(max(0, begin), max(0, min(begin + side, whole))) for begin, side, whole
             in zip(first, canvas.shape, image.shape, strict=True)]  # fmt: skip
    here = [slice(part.start - begin, part.stop - begin) for part, begin in zip(there, first, strict=True)]
    if all(part.stop > part.start for part in there):
        result[here[0], here[1]] = image[there[0], there[1]]
        known[here[0], here[1]] = True
    return result, known


def mean_rate(frames: StreamedFrames, canvas: Tensor, good_pixels: NDArray[np.bool_]) -> float:
    """Mean over the frames of the rates of (H, W) ``canvas`` on the good pixels, in counts.

    Raises:
        InputError: no light comes through that object.
    """
    good = torch.from_numpy(good_pixels.copy()).to(canvas.device)
    total = 0.0
    for at in frames.batches():
        probes = shift_probe(frames.probe, frames.scan.fractions[at].to(canvas.device))
        rates = centred_order(expected_counts(canvas, probes, frames.scan.starts[at].to(canvas.device)))
        total += float(rates[:, good].sum(dtype=torch.float64))
    if not (np.isfinite(total) and total > 0):
        raise InputError(
            f"{frames.scan.raw.source}: the object to start from lets no light through, expected a transparent one. "
            "Start from another."
        )
    return total / frames.scan.raw.n_frames
