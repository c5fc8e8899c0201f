"""A scan: its frames, positions, mask and probe guess, and what reconstructing it will meet."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho.errors import InputError
from ptycho.geometry import MAX_CANVAS_PIXELS
from ptycho.inspection.cautions import scan_warnings
from ptycho.inspection.data import Facts, Inspection, probe_facts, shape_text
from ptycho.preparation import EMPTY, Preparation, read_prepared_scan
from ptycho.probe import normalise_probe
from ptycho.raw_data import RawData
from ptycho.simulation.figures import nearest_distances
from ptycho.units import unit_cautions
from ptycho.validation import chunks

__all__ = ["FrameFigures", "inspect_scan"]

SAME_PLACE_PX = 1e-6
_STREAM_BYTES = 2**30  # what a batch of frames may take while a scan is reconstructed
_WAVES = 10 * 8  # bytes per detector pixel and mode of a frame that is worked on: about ten complex numbers
_CANVASES = 5  # complex arrays of the size of the canvas that exist at a time
_BASE_BYTES = 400 * 2**20  # Python and torch themselves


@dataclass(frozen=True)
class FrameFigures:
    """Sums over all frames, in counts; or in stored values where their domain cannot be told.

    totals: (M,) over the good pixels of each frame. mean_frame: (N, N), 0 where masked. largest: stored value.
    zero_share: of the good values. at_top: values that equal the largest of an 8- or 16-bit dtype.
    """

    totals: npt.NDArray[np.float64]
    mean_frame: npt.NDArray[np.float64]
    largest: float
    zero_share: float
    at_top: int


def inspect_scan(path: Path, preparation: Preparation, crop: int | None, stated: dict[str, Any]) -> Inspection:
    """Look at a scan file. InputError for one that cannot be used at all."""
    kept = {name: value for name, value in stated.items() if value is not None}
    # what is empty is to be seen here
    raw = read_prepared_scan(path, dataclasses.replace(preparation, keep_empty=True), **kept)
    if raw.diff3d is None:
        raise InputError(f"{path}: diff3d: found no frames, expected diffraction frames. Name a scan.")
    units = unit_cautions(raw, preparation.detector_pixel_m)
    if crop is not None:
        raw = raw.crop(crop)
    domain, reason = _domain(raw)
    figures = _frame_figures(raw, known=domain is not None)
    probe = None if raw.probeGuess is None else normalise_probe(raw.probeGuess, source=f"{path}: probeGuess")
    probe_part: Facts = {"found": False} if probe is None else {"found": True, **probe_facts(probe)}
    found = Inspection(
        path,
        "scan",
        {
            "frames": _frame_facts(raw, figures, domain, reason),
            "positions": _position_facts(raw, probe_part.get("beam_diameter_px")),
            "detector": _detector_facts(raw, figures),
            "probe_guess": probe_part,
            "reconstruction": _reconstruction_facts(raw, probe_part.get("modes") or 1),
            "arrays": _array_facts(raw),
        },
        size_bytes=path.stat().st_size,
    )
    found.warnings = scan_warnings(found.sections, raw, probe, figures, units)
    return found


def _domain(raw: RawData) -> tuple[str | None, str]:
    """The decided domain and why, or None and what to state."""
    try:
        domain = raw.measurement_domain
        raw.counts(slice(0, 1))
    except InputError as error:
        return None, str(error)
    return domain, raw.domain_reason


def _frame_figures(raw: RawData, known: bool) -> FrameFigures:
    """One pass over the frames. known: the domain is, so that there are counts."""
    frames, good = raw.diff3d, raw.good_pixels
    dtype = np.dtype(frames.dtype)
    top = np.iinfo(dtype).max if dtype.kind in "iu" and dtype.itemsize <= 2 else None
    totals = np.empty(raw.n_frames)
    total_frame = np.zeros((raw.N, raw.N))
    largest, zeros, at_top = 0.0, 0, 0
    for part in chunks(frames):
        block = np.asarray(frames[part])
        values = block if raw.bad_pixels is None else np.where(good, block, np.zeros((), dtype))
        counts = values.astype(np.float32) if not known else np.where(good, raw.counts(part), np.float32(0))
        totals[part] = counts.sum(axis=(1, 2), dtype=np.float64)
        total_frame += counts.sum(axis=0, dtype=np.float64)
        largest = max(largest, float(values.max()))
        zeros += values.size - int(np.count_nonzero(values)) - len(values) * int((~good).sum())
        at_top += 0 if top is None else int(np.count_nonzero(values == top))
    return FrameFigures(totals, total_frame / raw.n_frames, largest, zeros / (raw.n_frames * int(good.sum())), at_top)


def _frame_facts(raw: RawData, figures: FrameFigures, domain: str | None, reason: str) -> Facts:
    frames = raw.diff3d
    mean = float(figures.totals.mean())
    return {
        "frames": raw.n_frames,
        "side_px": raw.N,
        "dtype": str(frames.dtype),
        "domain": domain,
        "domain_reason": reason,
        "mean_counts_per_frame": mean if domain is not None else None,
        "mean_counts_per_pixel": mean / int(raw.good_pixels.sum()) if domain is not None else None,
        "mean_stored_per_frame": None if domain is not None else mean,
        "frame_counts_range": [float(figures.totals.min()), float(figures.totals.max())],
        "largest_stored_value": figures.largest,
        "share_of_zeros": figures.zero_share,
        "values_at_the_dtype_limit": figures.at_top,
        "empty_frames": int(np.count_nonzero(figures.totals <= EMPTY * np.median(figures.totals))),
        "background_counts_per_pixel": raw.background_counts,
        "intensity_scale": math.sqrt(mean) / (raw.N / 2) if domain is not None and mean > 0 else None,
    }


def _position_facts(raw: RawData, diameter: float | None) -> Facts:
    x, y = raw.xcoords, raw.ycoords
    facts: Facts = {
        "x_range_px": [float(x.min()), float(x.max())],
        "y_range_px": [float(y.min()), float(y.max())],
    }
    if raw.n_frames < 2:
        return facts
    nearest = nearest_distances(x, y)
    median = float(np.median(nearest))
    facts.update(
        nearest_neighbour_px=median,
        nearest_neighbour_range_px=[float(nearest.min()), float(nearest.max())],
        beam_diameter_px=diameter,
        linear_overlap=None if not diameter else max(0.0, 1 - median / diameter),
        frames_at_a_place_of_another=int(np.count_nonzero(nearest <= SAME_PLACE_PX)),
        frames_without_overlap=None if not diameter else int(np.count_nonzero(nearest >= diameter)),
        nominal_positions_differ_px=_rms(x - raw.xcoords_start, y - raw.ycoords_start),
    )
    return facts


def _rms(dx: npt.NDArray[np.float64], dy: npt.NDArray[np.float64]) -> float | None:
    """Root mean square distance, without a common shift; None where there is none."""
    distance = float(np.sqrt(np.mean((dx - dx.mean()) ** 2 + (dy - dy.mean()) ** 2)))
    return distance or None


def _detector_facts(raw: RawData, figures: FrameFigures) -> Facts:
    masked = int((~raw.good_pixels).sum())
    return {
        "masked_pixels": masked,
        "masked_share": masked / raw.N**2,
        "center_of_mass_off_center_px": _off_center(figures.mean_frame),
        "pixel_size_m": raw.pixel_size_m,
        "photon_energy_ev": raw.photon_energy_ev,
        "detector_distance_m": raw.detector_distance_m,
    }


def _off_center(mean_frame: npt.NDArray[np.float64]) -> list[float] | None:
    """(row, column) of the centre of mass of the mean frame, from index N//2; None where nothing was counted."""
    total = mean_frame.sum()
    if not total > 0:
        return None
    axis = np.arange(len(mean_frame)) - len(mean_frame) // 2
    return [float((mean_frame.sum(axis=1) * axis).sum() / total), float((mean_frame.sum(axis=0) * axis).sum() / total)]


def _reconstruction_facts(raw: RawData, modes: int) -> Facts:
    """The canvas, and about how much memory reconstruction takes."""
    spans = float(np.ptp(raw.ycoords)), float(np.ptp(raw.xcoords))
    height, width = (math.ceil(span - 1e-6) + raw.N for span in spans)
    too_large = height * width > MAX_CANVAS_PIXELS
    canvas = height * width * 8
    batch = min(_STREAM_BYTES, 256 * _WAVES * modes * raw.N**2)
    frames = int(raw.diff3d.nbytes)
    return {
        "canvas_px": [height, width],
        "canvas_memory_bytes": canvas,
        "frames_memory_bytes": frames,
        "memory_estimate_bytes": None if too_large else _BASE_BYTES + frames + _CANVASES * canvas + batch,
    }


def _array_facts(raw: RawData) -> Facts:
    """Shape and dtype of what the scan has, as it is used."""
    parts = {"diff3d": raw.diff3d, "probeGuess": raw.probeGuess, "bad_pixels": raw.bad_pixels,
             "objectGuess": raw.objectGuess, "object_truth": raw.object_truth, "probe_truth": raw.probe_truth,
             "Y": raw.Y}  # fmt: skip
    return {name: shape_text(array) for name, array in parts.items() if array is not None}
