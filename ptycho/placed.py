"""Objects with the place of their scan, ready to be compared: from a run, from a simulation, from a file.

Two reconstructions of one scan differ in the size of their arrays and in the origin of their positions. What
they share is the scan: its middle (the midpoint of the bounding box of the positions) is laid on the other's,
and only pixels that at least two beams have lit are compared.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ptycho.errors import InputError
from ptycho.geometry import Canvas, placements
from ptycho.metrics import illuminated_coverage

if TYPE_CHECKING:
    from ptycho.io.reconstruction_files import LoadedObject
    from ptycho.metrics.comparison import ComparedImages, Comparison
    from ptycho.outcome import Outcome
    from ptycho.raw_data import RawData

__all__ = ["PlacedObject", "compare_placed", "lit_frames", "place_loaded", "place_outcome", "place_truth"]

logger = logging.getLogger(__name__)

_MIN_FRAMES = 2  # a pixel that one frame alone has seen is not held by any overlap
_SAME_PIXEL = 1e-3  # relative difference of pixel sizes that still counts as equal
_SAME_SPAN = 0.1  # the same for the lengths that two scans of equally many frames span; crops differ by more


@dataclass(frozen=True)
class PlacedObject:
    """An object and where its scan lies in it.

    object: complex (H, W). center: (row, column) of the middle of the scan, in pixel indices of the array.
    seen: bool (H, W), True where it can be trusted, or None when nothing is known. label: what to call it.
    pixel_size_m: side of a pixel, None if unknown. extent: number of frames and the (rows, columns) in pixels
    that their positions span, None if unknown.
    """

    object: npt.NDArray[np.complex64]
    center: tuple[float, float]
    seen: npt.NDArray[np.bool_] | None
    label: str
    pixel_size_m: float | None = None
    extent: tuple[int, float, float] | None = None


def lit_frames(
    probe: npt.NDArray[np.complexfloating[Any, Any]],
    xcoords: npt.NDArray[np.float64],
    ycoords: npt.NDArray[np.float64],
    canvas: Canvas,
) -> npt.NDArray[np.int32]:
    """Number of frames whose beam (above a tenth of its peak) lights each pixel of a canvas, int32 (H, W).

    probe: (modes, N, N). Frames may reach over the edge by up to N pixels, as after a crop of an object that
    fitted exactly. InputError when they lie further out.
    """
    side = probe.shape[-1]
    height, width = canvas.shape
    wide = Canvas((height + 2 * side, width + 2 * side), canvas.center_xy)
    starts, _ = placements(xcoords, ycoords, side, wide)
    return illuminated_coverage(probe, starts, wide.shape)[side:-side, side:-side]


def _trusted(frames: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    return frames >= min(_MIN_FRAMES, max(1, int(frames.max())))


def _middle(values: npt.NDArray[np.float64]) -> float:
    return float(values.min() + values.max()) / 2


def _placed(
    image: npt.NDArray[np.complex64],
    probe: npt.NDArray[np.complexfloating[Any, Any]] | None,
    xcoords: npt.NDArray[np.float64],
    ycoords: npt.NDArray[np.float64],
    center_xy: tuple[float, float],
    label: str,
    pixel_size_m: float | None,
) -> PlacedObject:
    height, width = image.shape
    canvas = Canvas((height, width), center_xy)
    left, top = canvas.origin_xy
    seen = None if probe is None else _trusted(lit_frames(probe, xcoords, ycoords, canvas))
    center = (_middle(ycoords) - top, _middle(xcoords) - left)
    extent = (xcoords.size, float(np.ptp(ycoords)), float(np.ptp(xcoords)))
    return PlacedObject(image, center, seen, label, pixel_size_m, extent)


def place_outcome(outcome: Outcome, stage: str, pixel_size_m: float | None = None) -> PlacedObject:
    """The object of one stage of a run."""
    return _placed(
        outcome.stages[stage].object, outcome.probe, outcome.xcoords, outcome.ycoords,
        outcome.canvas.center_xy, stage, pixel_size_m,
    )  # fmt: skip


def place_truth(raw: RawData) -> PlacedObject:
    """The true object that a simulated scan carries; its positions are pixel indices of that array."""
    from ptycho.probe import normalise_probe

    if raw.object_truth is None:
        raise InputError(f"{raw.source}: found no object_truth, expected a simulated scan.")
    truth = np.asarray(raw.object_truth, dtype=np.complex64)
    probe = raw.probe if raw.probe_truth is None else normalise_probe(raw.probe_truth)
    middle = ((truth.shape[1] - 1) / 2, (truth.shape[0] - 1) / 2)
    return _placed(truth, probe, raw.xcoords, raw.ycoords, middle, "true object", raw.pixel_size_m)


def place_loaded(loaded: LoadedObject) -> PlacedObject:
    """The object of a file. Without positions, or with positions that do not fit, its middle counts."""
    image, label = loaded.object, _label(loaded.path)
    height, width = image.shape
    if loaded.xcoords is not None and loaded.ycoords is not None:
        center = loaded.center_xy or _guess_center(loaded.xcoords, loaded.ycoords, image.shape)
        try:
            return _placed(
                image, loaded.probe, loaded.xcoords, loaded.ycoords, center, label, loaded.pixel_size_m
            )
        except InputError as error:
            logger.warning(
                "%s: the positions do not fit the object and are not used (%s)", loaded.path, error
            )
    seen = None if loaded.coverage is None else _trusted(np.asarray(loaded.coverage, dtype=np.int32))
    return PlacedObject(image, ((height - 1) / 2, (width - 1) / 2), seen, label, loaded.pixel_size_m)


def _label(path: Path) -> str:
    """The file's name; of what every run writes under the same name with the folder of the run."""
    return f"{Path(os.path.abspath(path)).parent.name}/{path.name}" if path.stem == "reconstruction" else path.name


def _guess_center(
    xcoords: npt.NDArray[np.float64], ycoords: npt.NDArray[np.float64], shape: tuple[int, ...]
) -> tuple[float, float]:
    """Object coordinates of the array's middle for a file that does not state them.

    Positions that lie inside the array and keep a distance from its corner are pixel indices; otherwise they
    count from the middle of the array.
    """
    height, width = shape
    inside = xcoords.min() > 0 and ycoords.min() > 0 and xcoords.max() < width and ycoords.max() < height
    return ((width - 1) / 2, (height - 1) / 2) if inside else (0.0, 0.0)


def compare_placed(
    image: PlacedObject, reference: PlacedObject, half: int | None = None
) -> tuple[Comparison, ComparedImages]:
    """Figures of an object against a reference, and the registered images behind them.

    half: compare the central square of 2*half pixels only. InputError when the pixels differ in size, or when
    too little is left to compare.
    """
    from ptycho.metrics.comparison import compare_with_images

    _check_pixels(image, reference)
    return compare_with_images(
        image.object, reference.object, a_center=image.center, b_center=reference.center, half=half,
        a_covered=image.seen, covered=reference.seen,
    )  # fmt: skip


def _check_pixels(image: PlacedObject, reference: PlacedObject) -> None:
    """InputError when the pixels differ in size, by what the files say or by what the scans span."""
    sizes = image.pixel_size_m, reference.pixel_size_m
    remedy = "expected equal pixels. Reconstruct with the same --crop."
    if sizes[0] and sizes[1] and abs(sizes[0] / sizes[1] - 1) > _SAME_PIXEL:
        raise InputError(
            f"Comparison: {image.label} has pixels of {sizes[0]:.4g} m, {reference.label} of "
            f"{sizes[1]:.4g} m; {remedy}"
        )
    one, two = image.extent, reference.extent
    # Scans of equally many frames are taken for the same one; refined positions change its span by little.
    if one is None or two is None or one[0] != two[0] or min(*one[1:], *two[1:]) <= 0:
        return
    ratios = one[1] / two[1], one[2] / two[2]
    if all(abs(ratio - 1) > _SAME_SPAN for ratio in ratios) and abs(ratios[0] / ratios[1] - 1) < _SAME_SPAN:
        raise InputError(
            f"Comparison: the scan spans {one[1]:.1f} x {one[2]:.1f} px in {image.label}, {two[1]:.1f} x "
            f"{two[2]:.1f} px in {reference.label}; {remedy}"
        )
