"""Which pixels of an object a scan has really seen."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ptycho.errors import InputError


def illuminated_coverage(
    probe: NDArray[np.complexfloating],
    starts: NDArray[np.int64],
    shape: tuple[int, int],
    *,
    threshold: float = 0.1,
) -> NDArray[np.int32]:
    """Number of frames whose beam lights each pixel of a canvas, int32 (H, W).

    A frame of N x N pixels is mostly dark: a pixel counts for a frame where the intensity, summed over the
    probe's modes, exceeds `threshold` of its maximum.  probe: (N, N) or (modes, N, N).  starts: int (M, 2),
    [row, col] of each frame's first pixel (`ptycho.geometry.placements`).  Sub-pixel parts are not looked at.
    InputError when a frame reaches beyond the canvas or the probe is zero.
    """
    field = np.asarray(probe)
    intensity = (np.abs(field.reshape(-1, *field.shape[-2:])) ** 2).sum(axis=0)
    N = intensity.shape[-1]
    if not np.isfinite(intensity).all() or not intensity.max() > 0 or not 0 <= threshold < 1:
        raise InputError(
            f"coverage: threshold {threshold}, brightest probe pixel {intensity.max()}; expected "
            "0 <= threshold < 1 and a probe that is finite and not zero"
        )
    if starts.size and (starts.min() < 0 or np.any(starts.max(axis=0) + N > np.asarray(shape))):
        raise InputError(
            f"coverage: frames reach beyond the canvas of shape {shape}; place them with its geometry"
        )
    lit = np.pad(intensity > threshold * intensity.max(), ((0, 0), (1, 1))).astype(np.int8)
    # where a lit run of a row begins the count goes up, and behind its end down: nothing but the result is as large as
    # the canvas, of which a convolution would make several
    steps = np.diff(lit, axis=1)
    counted = np.zeros((shape[0], shape[1] + 1), dtype=np.int32)
    first = starts[:, 0].astype(np.int64) * counted.shape[1] + starts[:, 1]
    for row, column in np.argwhere(steps).tolist():
        np.add.at(counted.reshape(-1), first + (row * counted.shape[1] + column), np.int32(steps[row, column]))
    np.cumsum(counted, axis=1, dtype=np.int32, out=counted)
    return counted[:, :-1]
