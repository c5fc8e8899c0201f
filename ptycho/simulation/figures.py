"""Spacing and size, the figures that overlap is made of.  NumPy alone, so that looking at a scan stays quick."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ptycho.errors import InputError

__all__ = ["nearest_distances", "probe_diameter"]

_ALL_PAIRS = 2048  # points up to which all pairs are compared; beyond it a tree pays for its import


def nearest_distances(xcoords: NDArray[np.float64], ycoords: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance (px) of every point to its nearest neighbour, float64 (M,); needs at least two points."""
    points = np.stack([xcoords, ycoords], axis=1)
    if len(points) < 2:
        raise InputError(f"nearest neighbours of {len(points)} scan point(s); expected at least 2 points")
    if len(points) > _ALL_PAIRS:
        from scipy.spatial import cKDTree

        return np.asarray(cKDTree(points).query(points, k=2)[0][:, 1])
    distances = np.empty(len(points))
    for begin in range(0, len(points), 256):
        part = slice(begin, begin + 256)
        rows = np.hypot(xcoords[part, None] - xcoords, ycoords[part, None] - ycoords)
        rows[np.arange(len(rows)), np.arange(begin, begin + len(rows))] = np.inf
        distances[part] = rows.min(axis=1)
    return distances


def probe_diameter(probe: NDArray[np.complexfloating], power: float = 0.9) -> float:
    """Diameter (px) of the smallest circle about the beam's centroid that holds `power` of the intensity.

    `probe` is (N, N) or (modes, N, N).  A uniform disk of diameter d gives sqrt(power) * d.
    """
    intensity = np.abs(probe.reshape(-1, *probe.shape[-2:])).astype(np.float64) ** 2
    total = intensity.sum(axis=0)
    if not np.isfinite(total).all() or not total.sum() > 0:
        raise InputError("probe diameter: the probe is zero or not finite; expected a beam")
    total /= total.sum()
    rows, cols = np.arange(total.shape[0])[:, None], np.arange(total.shape[1])[None, :]
    radius = np.hypot(rows - (total * rows).sum(), cols - (total * cols).sum()).ravel()
    order = np.argsort(radius)
    return float(2 * np.interp(power, np.cumsum(total.ravel()[order]), radius[order]))
