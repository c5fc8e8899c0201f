"""What will not work with a scan, or looks wrong, from its figures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ptycho.geometry import MAX_CANVAS_PIXELS
from ptycho.probe import GUESS_REMEDY
from ptycho.validation import LEAST_SPAN_PX

if TYPE_CHECKING:
    from ptycho.inspection.scan import FrameFigures
    from ptycho.raw_data import RawData

__all__ = ["scan_warnings"]

FEW_FRAMES = 64
LEAST_OVERLAP = 0.5
OFF_CENTER = 1 / 16
"""Of the side of a frame."""
DIM = 100.0
"""Counts per frame below which hardly anything can be told of an object."""
MANY_MASKED = 0.2
LARGE_BYTES = 16 * 2**30
EDGE_SHARE = 0.02
"""Of a probe's power in its outermost pixels: with more, the frame is too small for the beam."""
MIN_SIDE = 32

Sections = dict[str, dict[str, Any]]


def scan_warnings(
    sections: Sections,
    raw: RawData,
    probe: npt.NDArray[np.complex64] | None,
    figures: FrameFigures,
    units: Iterable[str] = (),
) -> list[str]:
    """Sentences for people, the gravest first. units: what ptycho.units asks about the scan before it was cropped."""
    return [
        *_about_frames(sections["frames"], figures),
        *_about_center(sections, raw, figures),
        *_about_positions(sections, raw),
        *units,
        *_about_probe(sections["probe_guess"], probe),
        *_about_size(sections),
    ]


def _about_frames(frames: dict[str, Any], figures: FrameFigures) -> Iterator[str]:
    if not figures.totals.sum() > 0:
        yield "The frames hold nothing: check the file, and whether the mask is inverted (True is a bad pixel)."
        return
    if frames["domain"] is None:
        yield f"Counts or amplitudes? {frames['domain_reason']}"
    elif frames["mean_counts_per_frame"] < DIM:
        yield (
            f"Only {frames['mean_counts_per_frame']:.3g} counts per frame: if the frames were scaled, state what they "
            "are (measurement_domain, nphotons)."
        )
    if frames["empty_frames"]:
        yield f"{frames['empty_frames']} frame(s) without beam: they are left out when the scan is used."
    if frames["values_at_the_dtype_limit"]:
        yield (
            f"{frames['values_at_the_dtype_limit']} value(s) equal the largest {frames['dtype']}: saturated or dead "
            f"pixels. Mask them: --saturation {figures.largest:g}."
        )
    bright = figures.totals[figures.totals > 0]
    if bright.max() > 20 * np.median(bright):
        yield "Some frames are more than 20 times as bright as most: look for beam jumps, or leave them out."
    if frames["frames"] < FEW_FRAMES:
        yield f"Only {frames['frames']} frames: too few to train on; `ptychopinn refine` takes them as they are."
    if frames["side_px"] % 2:
        yield (
            f"Frames of an odd side ({frames['side_px']} px): the network `cnn` takes 64, 128 or 256, other "
            "programs an even one. Crop them."
        )
    elif frames["side_px"] < MIN_SIDE:
        yield f"Frames of {frames['side_px']} px are small: expect little of a network."


def _about_center(sections: Sections, raw: RawData, figures: FrameFigures) -> Iterator[str]:
    """Whether the zero frequency is where it should be."""
    if not figures.totals.sum() > 0:
        return
    if sections["detector"]["masked_share"] > MANY_MASKED:
        share = sections["detector"]["masked_share"]
        yield f"{share:.0%} of the detector is masked. Is True a bad pixel in the mask?"
    off = sections["detector"]["center_of_mass_off_center_px"]
    if _spread(np.fft.ifftshift(figures.mean_frame)) < 0.7 * _spread(figures.mean_frame):
        yield (
            "The frames have their zero frequency in the corner, expected at index N//2: apply numpy.fft.fftshift to "
            "both axes of every frame."
        )
    elif off is not None and np.hypot(*off) > OFF_CENTER * raw.N:
        yield (
            f"The frames are not centred: their centre of mass lies {off[0]:+.1f} rows and {off[1]:+.1f} columns from "
            f"index {raw.N // 2}. Cut them round the direct beam."
        )


def _spread(frame: npt.NDArray[np.float64]) -> float:
    """Root mean square distance from index N//2, px."""
    axis = np.arange(len(frame)) - len(frame) // 2
    squares = axis[:, None] ** 2 + axis[None, :] ** 2
    return float(np.sqrt((frame * squares).sum() / frame.sum()))


def _about_positions(sections: Sections, raw: RawData) -> Iterator[str]:
    positions, diameter = sections["positions"], sections["probe_guess"].get("beam_diameter_px")
    span = max(np.ptp(raw.xcoords), np.ptp(raw.ycoords))
    if raw.n_frames > 1 and span < LEAST_SPAN_PX:
        yield (
            f"All positions lie within {span:.3g} px: they look like metres, or another unit of length. "
            "Divide them by the object pixel in the same unit (wavelength * distance / (N * detector pixel))."
        )
        return
    same = positions.get("frames_at_a_place_of_another")
    if same:
        yield f"{same} frames share their position with another one, to the last digit: were all positions read?"
    if raw.n_frames > 2 and min(np.ptp(raw.xcoords), np.ptp(raw.ycoords)) < 1e-3 * span:
        yield "The positions lie on a line: is one of the axes missing?"
    overlap = positions.get("linear_overlap")
    if overlap is not None and overlap < LEAST_OVERLAP:
        yield (
            f"Neighbours overlap by {overlap:.0%} only ({positions['nearest_neighbour_px']:.1f} px apart, the beam "
            f"{diameter:.1f} px across): below {LEAST_OVERLAP:.0%} frames hardly hold each other. Are the positions in "
            "object pixels, and is the probe guess of the right size?"
        )
    elif positions.get("frames_without_overlap"):
        yield f"{positions['frames_without_overlap']} frame(s) lie more than a beam from any other: runaway positions?"


def _about_probe(guess: dict[str, Any], probe: npt.NDArray[np.complex64] | None) -> Iterator[str]:
    if probe is None:
        yield f"No probe guess: add probeGuess, complex N x N. {GUESS_REMEDY}"
        return
    if not guess["power"] > 0:
        yield f"The probe guess is zero. {GUESS_REMEDY}"
        return
    modulus = np.abs(probe)
    if np.ptp(modulus) <= 1e-3 * modulus.max():
        yield f"The probe guess is the same everywhere, as a placeholder is. {GUESS_REMEDY}"
        return
    intensity = (modulus.astype(np.float64) ** 2).sum(axis=0)
    edge = 1 - intensity[2:-2, 2:-2].sum() / intensity.sum()
    if edge > EDGE_SHARE:
        yield f"{edge:.0%} of the probe guess lies in the outermost pixels of the frame: the frame is too small for it."


def _about_size(sections: Sections) -> Iterator[str]:
    facts = sections["reconstruction"]
    height, width = facts["canvas_px"]
    if facts["memory_estimate_bytes"] is None:
        yield (
            f"The positions need a canvas of {height} x {width} px, more than {MAX_CANVAS_PIXELS} pixels in all: are "
            "they in object pixels, and is there a runaway position?"
        )
    elif facts["memory_estimate_bytes"] > LARGE_BYTES:
        size = facts["memory_estimate_bytes"] / 2**30
        yield f"Reconstruction takes about {size:.0f} GiB of memory: crop, or take fewer frames."
