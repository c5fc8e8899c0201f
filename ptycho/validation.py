"""Checks of scan data. Every fault becomes an InputError: file, key, found, expected, remedy."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho import progress
from ptycho.errors import InputError

__all__ = [
    "LEAST_SPAN_PX",
    "fault",
    "check_positions",
    "check_positions_differ",
    "check_frames_shape",
    "check_frame_values",
    "check_bad_pixels",
    "wrong_values",
    "check_object",
    "check_real",
    "check_coverage",
    "check_index_vector",
    "chunks",
    "positive_number",
    "metadata_nphotons",
]

logger = logging.getLogger(__name__)

LEAST_SPAN_PX = 0.5
"""Positions that span less than this say nothing: all frames were taken at one place, or they are in metres."""

_CHUNK_BYTES = 2**26
_IMPOSSIBLE_COUNT = 2**31 - 1  # what 32-bit detectors write for pixels that did not work


def fault(source: str, key: str, found: str, expected: str, remedy: str) -> InputError:
    """The error for one unusable entry of a scan, in the fixed form of all such messages."""
    return InputError(f"{source}: {key}: found {found}, expected {expected}. {remedy}")


def chunks(frames: Any, what: str = "Reading the frames") -> Iterator[slice]:
    """Slices over the frames (M, N, N) of about 64 MiB as float64 each, so that memory stays bounded.

    what: is done with them, for those who watch.
    """
    per_frame = 8 * max(1, int(np.prod(frames.shape[1:])))
    size = max(1, _CHUNK_BYTES // per_frame)
    with progress.task(what, frames.shape[0], "frame") as step:
        for first in range(0, frames.shape[0], size):
            part = slice(first, min(first + size, frames.shape[0]))
            yield part
            step(part.stop - part.start)


def check_positions(values: Any, key: str, source: str, n: int | None = None) -> npt.NDArray[np.float64]:
    """One coordinate vector as float64 (M,)."""
    array = np.asarray(values)
    if array.dtype.kind not in "fiu":
        raise fault(
            source, key, f"dtype {array.dtype}", "real numbers", "Store the positions as numbers."
        )
    if array.ndim != 1:
        raise fault(
            source, key, f"shape {array.shape}", "one value per frame, shape (M,)", "Flatten the positions."
        )
    if array.size == 0:
        raise fault(source, key, "no positions", "at least one frame", "The scan is empty.")
    if n is not None and array.size != n:
        raise InputError(
            f"{source}: {key}: found {array.size} values, expected {n} like xcoords. "
            "Coordinate arrays must have matching shapes."
        )
    bad = ~np.isfinite(array)
    if bad.any():
        raise fault(
            source,
            key,
            f"{int(bad.sum())} NaN or infinite values (the first at frame {int(np.argmax(bad))})",
            "finite numbers",
            "Remove those frames from the scan.",
        )
    return array.astype(np.float64)


def check_positions_differ(source: str, x: npt.NDArray[np.floating[Any]], y: npt.NDArray[np.floating[Any]]) -> None:
    """InputError for several frames (positions (M,) in px) that have all been taken at one place.

    Positions in metres look like that, and nothing can be reconstructed from them.
    """
    spans = np.ptp(x), np.ptp(y)
    if len(x) > 1 and max(spans) < LEAST_SPAN_PX:
        raise fault(
            source, "xcoords, ycoords", f"positions that span {spans[0]:.3g} x {spans[1]:.3g} px",
            "object pixels, and frames that overlap in part",
            "Positions in metres are divided by the side of the object pixel in metres, those in micrometres by the "
            "same in micrometres.",
        )  # fmt: skip


def check_frames_shape(frames: Any, n_positions: int, source: str, key: str = "diff3d") -> None:
    """Frames must be real, (M, N, N), square, and as many as positions."""
    kind = np.dtype(frames.dtype).kind
    if kind == "c":
        raise fault(
            source,
            key,
            f"complex frames ({frames.dtype})",
            "photon counts or amplitudes (real)",
            "Store |F|^2 (counts) or |F|; complex far fields are not a measurement.",
        )
    if kind not in "fiub":
        raise fault(source, key, f"dtype {frames.dtype}", "numbers", "Store the frames as a numeric array.")
    if frames.ndim != 3:
        raise fault(
            source,
            key,
            f"an array of rank {frames.ndim} and shape {tuple(frames.shape)}",
            "(frames, N, N)",
            "Stack the frames along the first axis.",
        )
    if frames.shape[0] == 0 or frames.shape[1] == 0:
        raise fault(source, key, f"shape {tuple(frames.shape)}", "at least one frame", "The scan is empty.")
    if frames.shape[1] != frames.shape[2]:
        raise fault(
            source,
            key,
            f"frames of {frames.shape[1]} x {frames.shape[2]} pixels",
            "square frames",
            "Crop or pad them to a square around the zero frequency.",
        )
    if frames.shape[0] != n_positions:
        raise fault(
            source,
            key,
            f"{frames.shape[0]} frames for {n_positions} positions",
            "one position per frame",
            "Remove the frames without a position, or the positions without a frame.",
        )


def check_bad_pixels(mask: Any, N: int, source: str) -> npt.NDArray[np.bool_]:
    """A detector mask as bool (N, N), True = bad; at least one pixel must be good."""
    array = np.asarray(mask)
    if array.shape != (N, N):
        raise fault(
            source,
            "bad_pixels",
            f"shape {array.shape}",
            f"({N}, {N}) like the frames",
            "Give one mask for all frames.",
        )
    if array.dtype.kind not in "biu" or (array.dtype.kind != "b" and not np.isin(array, (0, 1)).all()):
        raise fault(
            source,
            "bad_pixels",
            f"dtype {array.dtype} with values other than 0 and 1",
            "booleans, True for a bad pixel",
            "Convert the mask.",
        )
    result = array.astype(bool)
    if result.all():
        raise fault(
            source,
            "bad_pixels",
            "every pixel marked bad",
            "good pixels to fit",
            "True marks a BAD pixel: is the mask inverted?",
        )
    return result


def check_object(array: Any, key: str, source: str) -> npt.NDArray[Any]:
    """An object as a 2-D complex array; a single leading layer axis is dropped."""
    result = np.asarray(array)
    if result.dtype.kind not in "cfiu":
        raise fault(source, key, f"dtype {result.dtype}", "a complex array", "Store the object as complex64.")
    if result.ndim == 3 and result.shape[0] == 1:
        result = result[0]
    if result.ndim != 2 or result.size == 0:
        raise fault(
            source,
            key,
            f"shape {np.shape(array)}",
            "(rows, columns)",
            "Only single-layer objects are supported.",
        )
    if not np.isfinite(result).all():
        raise fault(
            source,
            key,
            "NaN or infinite values",
            "finite numbers",
            "Replace them, for instance by 1 (vacuum).",
        )
    return result if result.dtype.kind == "c" else result.astype(np.complex64)


def check_real(
    values: Any, key: str, source: str, shape: tuple[int, ...] | None = None
) -> npt.NDArray[np.floating[Any] | np.integer[Any]]:
    """An array of real numbers, of this shape if one is given; NaN passes."""
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise fault(source, key, f"dtype {array.dtype}", "real numbers", "Store numbers, or leave it out.")
    if shape is not None and array.shape != shape:
        raise fault(source, key, f"shape {array.shape}", str(shape), "Write it again, or leave it out.")
    return array


def check_coverage(
    values: Any, shape: tuple[int, ...], source: str
) -> npt.NDArray[np.floating[Any] | np.integer[Any]]:
    """How many frames have seen each pixel of an object of this shape."""
    array = check_real(values, "coverage", source)
    if array.shape != shape:
        raise fault(source, "coverage", f"shape {array.shape}", f"{shape} like the object", "Write it again.")
    if not (np.isfinite(array).all() and (array >= 0).all()):
        raise fault(source, "coverage", "NaN, infinite or negative values", "numbers of frames", "Write it again.")
    return array


def check_index_vector(values: Any, key: str, n: int, source: str) -> npt.NDArray[np.int64]:
    """An integer per frame, int64 (M,)."""
    array = np.asarray(values)
    if array.shape != (n,):
        raise fault(
            source, key, f"shape {array.shape}", f"({n},), one value per frame", "Store one value per frame."
        )
    if array.dtype.kind not in "iub" and not (array.dtype.kind == "f" and np.all(array == np.rint(array))):
        raise fault(source, key, f"dtype {array.dtype}", "integers", "Store whole numbers.")
    return array.astype(np.int64)


def check_frame_values(
    frames: Any, bad_pixels: npt.NDArray[np.bool_] | None, source: str, key: str = "diff3d"
) -> None:
    """Counts and amplitudes are finite and not negative, and no pixel holds a "not working" value.

    Pixels in bad_pixels may hold anything. Unsigned integers need only the test of the largest value.
    """
    dtype = np.dtype(frames.dtype)
    if dtype.kind == "b":
        return
    bad_frames = bad_total = saturated = 0
    first: tuple[int, int, int] | None = None
    always = np.ones(frames.shape[1:], dtype=bool)  # pixels that are wrong in every frame that is wrong
    for part in chunks(frames, "Checking the frames"):
        block = np.asarray(frames[part])
        wrong, full = wrong_values(block)
        if bad_pixels is not None:
            wrong &= ~bad_pixels
            full &= ~bad_pixels
        saturated += int(full.sum())
        hit = wrong.any(axis=(1, 2))
        if hit.any():
            if first is None:
                index = int(np.argmax(hit))
                row, col = (int(v) for v in np.argwhere(wrong[index])[0])
                first = (part.start + index, row, col)
            bad_frames += int(hit.sum())
            bad_total += int(wrong.sum())
            always &= wrong[hit].all(axis=0)
    if saturated:
        logger.warning(
            "%s: %s: %d values equal the largest %s; saturated pixels spoil the fit: mask them (--mask-invalid, or "
            "bad_pixels).",
            source,
            key,
            saturated,
            dtype,
        )
    if first is None:
        return
    value = np.asarray(frames[first[0]])[first[1], first[2]]
    what = "NaN, infinite or negative" if dtype.kind == "f" else "negative or impossibly large"
    fixed = int(always.sum()) if bad_frames > 1 else 0
    hint = f" The same {fixed} pixel(s) are wrong in all of them, as dead pixels are." if fixed else ""
    raise fault(
        source,
        key,
        f"{bad_total} {what} values in {bad_frames} of {frames.shape[0]} frames (the first at frame "
        f"{first[0]}, row {first[1]}, column {first[2]}: {value})",
        "counts or amplitudes that are zero or more",
        f"Mask those detector pixels: {_flags_against(value)} on the command line, or a boolean (N, N) array "
        "bad_pixels (True = bad)"
        f"{', or remove the frames' if bad_frames < frames.shape[0] else ''}.{hint}",
    )


def _flags_against(value: Any) -> str:
    """The flags that mask pixels with a value that cannot be measured."""
    counted = isinstance(value, np.integer) and value >= 0
    return f"--sentinel {value} or --mask-invalid" if counted else "--mask-invalid"


def wrong_values(block: npt.NDArray[Any]) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Where values cannot be counts or amplitudes, and where 8- and 16-bit counters stand at their end."""
    if block.dtype.kind == "f":
        return ~(block >= 0) | np.isinf(block), np.zeros(block.shape, dtype=bool)
    top = int(np.iinfo(block.dtype).max)
    wrong = block < 0 if block.dtype.kind == "i" else np.zeros(block.shape, dtype=bool)
    if top >= _IMPOSSIBLE_COUNT:
        return wrong | (block >= _IMPOSSIBLE_COUNT), np.zeros(block.shape, dtype=bool)
    return wrong, block == top


def positive_number(value: Any, key: str, source: str) -> float | None:
    """A scalar greater than zero as float; None stays None."""
    if value is None:
        return None
    array = np.asarray(value)
    number = float(array.reshape(-1)[0]) if array.size == 1 and array.dtype.kind in "fiu" else math.nan
    if not (math.isfinite(number) and number > 0):
        raise fault(source, key, repr(value), "a positive number", "Correct it or leave it out.")
    return number


def metadata_nphotons(metadata: dict[str, Any] | None) -> float | None:
    """nphotons of the metadata's section physics_parameters, if there is a usable one."""
    section = (metadata or {}).get("physics_parameters", {})
    value = section.get("nphotons") if isinstance(section, dict) else None
    return float(value) if isinstance(value, (int, float)) and value > 0 else None
