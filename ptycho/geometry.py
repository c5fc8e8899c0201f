"""Where frames lie on the object: canvas, integer placement, sub-pixel remainder, coverage.

Conventions (specs/coordinates.md). Arrays are (row, column) = (y, x). Positions and lengths are in object
pixels; +x is +column, +y is +row. The position of a frame is the centre of its patch: a frame at (x, y) sees
rows y - (N-1)/2 ... y + (N-1)/2. A pixel index stands for the centre of that pixel, so the middle of an array
of H rows is row (H-1)/2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ptycho.errors import InputError

__all__ = [
    "Canvas",
    "canvas_for",
    "canvas_over",
    "placements",
    "coverage_map",
    "checked_positions",
    "MAX_CANVAS_PIXELS",
]

# A canvas of 2**30 complex64 pixels takes 8 GiB. Larger ones come from positions in the wrong unit, or from a
# runaway position, and would otherwise end in a MemoryError that explains nothing.
MAX_CANVAS_PIXELS = 2**30

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Canvas:
    """A rectangular array of object pixels and where it lies in object coordinates.

    shape: (rows, columns).
    center_xy: object coordinates (x, y) of the array point ((W-1)/2, (H-1)/2).
    """

    shape: tuple[int, int]
    center_xy: tuple[float, float]

    @property
    def origin_xy(self) -> tuple[float, float]:
        """Object coordinates (x, y) of the centre of pixel [0, 0]."""
        height, width = self.shape
        return self.center_xy[0] - (width - 1) / 2, self.center_xy[1] - (height - 1) / 2


def checked_positions(xcoords: npt.ArrayLike, ycoords: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Positions as two float64 (M,) arrays; InputError if empty, unequal in length or not finite."""
    x = np.asarray(xcoords, dtype=np.float64)
    y = np.asarray(ycoords, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise InputError(
            f"Positions: found x of shape {x.shape} and y of shape {y.shape}, expected two vectors of the "
            "same "
            "length. Give one x and one y per frame."
        )
    if x.size == 0:
        raise InputError("Positions: found none, expected at least one. Is the scan empty?")
    bad = ~(np.isfinite(x) & np.isfinite(y))
    if bad.any():
        raise InputError(
            f"Positions: {int(bad.sum())} of {x.size} are NaN or infinite (the first is frame "
            f"{int(np.argmax(bad))}), expected finite numbers. Remove those frames."
        )
    return x, y


def canvas_for(
    xcoords: npt.ArrayLike,
    ycoords: npt.ArrayLike,
    N: int,
    center_xy: tuple[float, float] | None = None,
    shape: tuple[int, int] | None = None,
) -> Canvas:
    """The canvas on which frames of N x N pixels at these positions are stitched.

    center_xy: its centre in object coordinates; default the midpoint of the bounding box of all positions.
    shape: (rows, columns) to use instead of the smallest one that is sure to hold every frame, which is
        ceil(2 * (largest distance from the centre) + N) per axis, i.e. ceil(range + N) for the default
        centre.
    Raises InputError if positions or N are unusable, or if a given shape does not hold every frame.
    """
    x, y = checked_positions(xcoords, ycoords)
    if int(N) != N or N < 1:
        raise InputError(f"Canvas: found frame side N={N!r}, expected a positive integer.")
    if center_xy is None:
        center_xy = (0.5 * (x.min() + x.max()), 0.5 * (y.min() + y.max()))
    cx, cy = float(center_xy[0]), float(center_xy[1])
    if shape is None:
        # A range that is whole except for round-off must not cost a row: 1e-6 px is far below any meaning,
        # and the rounding of placements() takes it up.
        shape = tuple(  # type: ignore[assignment]
            math.ceil(2 * float(np.abs(v - c).max()) - 1e-6) + int(N) for v, c in ((y, cy), (x, cx))
        )
    height, width = int(shape[0]), int(shape[1])  # type: ignore[index]
    if height * width > MAX_CANVAS_PIXELS:
        raise InputError(
            f"Canvas: the positions span {np.ptp(x):.6g} x {np.ptp(y):.6g} pixels, which needs a canvas of "
            f"{height} x "
            f"{width}; at most {MAX_CANVAS_PIXELS} pixels are supported. Are the positions in object pixels, "
            "and is "
            "there a runaway position?"
        )
    canvas = Canvas((height, width), (cx, cy))
    placements(x, y, N, canvas)
    return canvas


def canvas_over(shape: tuple[int, int], xcoords: npt.ArrayLike, ycoords: npt.ArrayLike, N: int) -> Canvas:
    """The canvas of an object array whose pixel coordinates the positions are in, made larger where frames reach
    beyond it.

    shape: (rows, columns) of that array. The centre stays at its middle, and rows and columns grow by even
    numbers, so that pixel (r, c) of the canvas lies on a pixel of the array. InputError as of `canvas_for`.
    """
    height, width = shape
    center = ((width - 1) / 2, (height - 1) / 2)
    least = canvas_for(xcoords, ycoords, N, center_xy=center).shape
    grown = tuple(own + 2 * max(0, math.ceil((need - own) / 2)) for own, need in zip(shape, least, strict=True))
    return canvas_for(xcoords, ycoords, N, center_xy=center, shape=(grown[0], grown[1]))


def placements(
    xcoords: npt.ArrayLike, ycoords: npt.ArrayLike, N: int, canvas: Canvas
) -> tuple[npt.NDArray[np.int64], FloatArray]:
    """Integer placement and sub-pixel remainder of every frame on a canvas.

    start = position - (N-1)/2 in canvas indices = (y - cy) + (H-N)/2 for rows, the same with x for columns.
    Returns starts, int64 (M, 2) as [row, column] of the patch's first pixel, rint(start); and fractions,
    float64 (M, 2) as [row, column], start - rint(start) in [-0.5, 0.5]: the amount by which the probe is
    moved (+fraction) inside the patch. Raises InputError if a patch lies outside the canvas.
    """
    x, y = checked_positions(xcoords, ycoords)
    height, width = canvas.shape
    exact = np.stack(
        [(y - canvas.center_xy[1]) + (height - N) / 2, (x - canvas.center_xy[0]) + (width - N) / 2], axis=1
    )
    whole = np.rint(exact)
    outside = np.any((whole < 0) | (whole > np.array([height - N, width - N])), axis=1)
    if outside.any():
        first = int(np.argmax(outside))
        raise InputError(
            f"Placement: {int(outside.sum())} of {x.size} frames of {N} x {N} pixels lie outside the canvas "
            "of "
            f"{height} x {width} pixels centred at x={canvas.center_xy[0]:.6g}, y={canvas.center_xy[1]:.6g} "
            "(the first "
            f"is frame {first} at x={x[first]:.6g}, y={y[first]:.6g}). Use a larger canvas or positions in "
            "its "
            "coordinates."
        )
    return whole.astype(np.int64), exact - whole


def coverage_map(starts: npt.ArrayLike, N: int, shape: tuple[int, int]) -> npt.NDArray[np.int32]:
    """Number of frames that see each pixel, int32 (H, W).

    starts: integer (M, 2) as [row, column] of each patch's first pixel, all inside. Works through the corners
    of the patches: their signs in a 2-D difference array, summed up along both axes, give the count.
    """
    corners = np.asarray(starts, dtype=np.int64).reshape(-1, 2)
    height, width = shape
    if corners.size and (
        corners.min() < 0 or np.any(corners.max(axis=0) > np.array([height - N, width - N]))
    ):
        raise InputError(
            f"Coverage: a patch of {N} x {N} pixels lies outside the canvas of {height} x {width} pixels."
        )
    # a corner beyond the last row or column would change nothing that is kept
    counted = np.zeros((height, width), dtype=np.int32)
    for down, right, sign in ((0, 0, 1), (0, N, -1), (N, 0, -1), (N, N, 1)):
        rows, columns = corners[:, 0] + down, corners[:, 1] + right
        inside = (rows < height) & (columns < width)
        np.add.at(counted.reshape(-1), rows[inside] * width + columns[inside], np.int32(sign))
    for axis in (0, 1):  # in place: canvases are what memory grows with
        np.cumsum(counted, axis=axis, dtype=np.int32, out=counted)
    return counted
