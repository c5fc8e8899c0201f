"""Stitching of patches under its legacy name; NumPy inside."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho.carried import Stitched, carried
from ptycho.errors import InputError
from ptycho.geometry import canvas_for, placements

__all__ = ["reassemble_position"]


def reassemble_position(obj: Any, global_offsets: npt.ArrayLike, M: int = 10) -> npt.NDArray[np.complex64]:
    """One object from patches, complex64 (H, W, 1).

    What `predict` has made of a whole scan brings the finished object along, and that is returned: on the canvas of
    the scan's objectGuess if it had one. Other patches are averaged over their central squares, placed on the nearest
    pixel of the smallest canvas, centred on the middle of all offsets; 1 where none lies.

    obj: complex (n, N, N, C). global_offsets: (n, 1, 2, C) or (n, 1, 2, 1), positions (x, y) of the patches' centres,
    pixels. M: side of the central square that is used at least; it is widened where squares of that side would leave
    gaps. InputError for shapes that do not fit.
    """
    finished = carried(obj, Stitched)
    if finished is not None:
        image: npt.NDArray[np.complex64] = finished.image[..., None]
        return image
    patches = np.asarray(obj, dtype=np.complex64)
    offsets = np.asarray(global_offsets, dtype=np.float64)
    if patches.ndim != 4 or offsets.ndim != 4 or offsets.shape[:3] != (len(patches), 1, 2):
        raise InputError(
            f"reassemble_position: found patches of shape {patches.shape} and offsets of shape {offsets.shape}, "
            "expected (n, N, N, C) and (n, 1, 2, C) or (n, 1, 2, 1)."
        )
    n, N, _, C = patches.shape
    x, y = np.broadcast_to(offsets[:, 0], (n, 2, C)).transpose(1, 0, 2).reshape(2, -1)
    stack = patches.transpose(0, 3, 1, 2).reshape(-1, N, N)
    canvas = canvas_for(x, y, N)
    starts, _ = placements(x, y, N, canvas)
    return _averaged(stack, starts, canvas.shape, _used_side(M, N, x, y))[..., None]


def _used_side(M: int, N: int, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> int:
    """M, widened to twice the greatest distance between neighbours, at most N; of the parity of N."""
    if len(x) > 1:
        from scipy.spatial import cKDTree

        points = np.column_stack((x, y))
        gap = float(cKDTree(points).query(points, k=2)[0][:, 1].max())
        M = max(M, int(np.ceil(2 * gap)))
    side = min(max(1, M), N)
    return side + (N - side) % 2


def _averaged(
    patches: npt.NDArray[np.complex64], starts: npt.NDArray[np.int64], shape: tuple[int, int], side: int
) -> npt.NDArray[np.complex64]:
    rim = (patches.shape[-1] - side) // 2
    grid = np.arange(side) + rim
    rows = (starts[:, 0, None] + grid)[:, :, None]
    columns = (starts[:, 1, None] + grid)[:, None, :]
    flat = np.broadcast_to(rows * shape[1] + columns, (len(patches), side, side)).reshape(-1)
    inner = patches[:, rim : rim + side, rim : rim + side].reshape(-1)
    size = shape[0] * shape[1]
    count = np.bincount(flat, minlength=size)
    total = np.bincount(flat, inner.real, size) + 1j * np.bincount(flat, inner.imag, size)
    image = np.where(count > 0, total / np.maximum(count, 1), 1.0)
    return image.reshape(shape).astype(np.complex64)
