"""Detectors that are not perfect: pixels that do not count, and a beamstop. Masks are bool (N, N), True = bad."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho.errors import InputError

__all__ = ["beamstop", "dead_pixels", "without_pixels"]

Mask = NDArray[np.bool_]


def dead_pixels(N: int, fraction: float, seed: int) -> Mask:
    """A random choice of round(fraction * N**2) detector pixels that never count."""
    if not 0 <= fraction < 1:
        raise InputError(f"dead pixels: found a share of {fraction}, expected 0 <= share < 1.")
    bad = np.zeros(N * N, dtype=bool)
    bad[np.random.default_rng(seed).permutation(N * N)[: round(fraction * N * N)]] = True
    return bad.reshape(N, N)


def beamstop(N: int, diameter: float, arm_width: float = 0.0) -> Mask:
    """A disk of `diameter` px round the zero frequency at [N//2, N//2], on an arm of `arm_width` px down to the edge.

    Diameter 0 is no beamstop, and then there is no arm either.
    """
    if not 0 <= diameter < N or not 0 <= arm_width < N:
        raise InputError(
            f"beamstop: found a diameter of {diameter} px and an arm of {arm_width} px, expected both from 0 to less "
            f"than N = {N}."
        )
    axis = np.arange(N) - N // 2
    rows, cols = axis[:, None], axis[None, :]
    bad = np.hypot(rows, cols) < diameter / 2
    if diameter > 0:
        bad = bad | ((rows >= 0) & (np.abs(cols) < arm_width / 2))
    return bad


def without_pixels(frames: NDArray[Any], bad: Mask) -> NDArray[Any]:
    """Frames (M, N, N) in which bad pixels read 0; a copy."""
    if frames.shape[-2:] != bad.shape:
        raise InputError(f"bad pixels: found shape {bad.shape}, expected {frames.shape[-2:]} like the frames.")
    if bad.all():
        raise InputError("bad pixels: found every pixel marked bad, expected some that count.")
    return np.where(bad, np.zeros((), dtype=frames.dtype), frames)
