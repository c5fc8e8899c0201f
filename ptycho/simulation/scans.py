"""Scan patterns: patch centres (xcoords, ycoords), float64 in object pixels, centred on 0 (the midpoint of
their bounding box), +x along columns and +y along rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ptycho.errors import InputError
from ptycho.simulation.figures import nearest_distances

FloatVector = NDArray[np.float64]
Coordinates = tuple[FloatVector, FloatVector]


def raster(
    n_frames: int, step: float, rng: np.random.Generator, *, jitter: float = 0.2, n_columns: int | None = None
) -> Coordinates:
    """Row by row on a square grid of pitch `step` px, each point moved by up to +-jitter*step on each axis.

    Jitter breaks the periodicity that causes raster-grid artefacts.  `n_columns` defaults to the squarest
    grid. Neighbours lie at least (1 - 2*jitter) * step apart.
    """
    if not 0 <= jitter < 0.5:
        raise InputError(f"raster: jitter is {jitter}; expected a fraction of the step, 0 <= jitter < 0.5")
    columns = n_columns if n_columns is not None else int(np.ceil(np.sqrt(n_frames)))
    if columns < 1:
        raise InputError(f"raster: n_columns is {n_columns}; expected at least 1")
    index = np.arange(n_frames)
    points = np.stack([index % columns, index // columns], axis=1).astype(np.float64)
    points += rng.uniform(-jitter, jitter, points.shape)
    return _centred(points * step)


def fermat(n_frames: int, step: float, rng: np.random.Generator, *, turn: float = 0.0) -> Coordinates:
    """Fermat spiral with the golden angle: r = c*sqrt(n), theta = n*pi*(3 - sqrt(5)) + `turn` (rad).

    c is chosen so that the smallest distance between two points is exactly `step` px.  Deterministic: `rng`
    is not used.
    """
    index = np.arange(n_frames) + 0.5
    radius = np.sqrt(index)
    theta = index * np.pi * (3 - np.sqrt(5)) + turn
    points = np.stack([radius * np.cos(theta), radius * np.sin(theta)], axis=1)
    if n_frames > 1:
        points *= step / nearest_distances(points[:, 0], points[:, 1]).min()
    return _centred(points)


def random(n_frames: int, step: float, rng: np.random.Generator, *, spread: float = 1.4) -> Coordinates:
    """Random points in a square of side spread*step*sqrt(n_frames), no two closer than `step` px.

    `spread` below about 1.25 leaves no room for the points.
    """
    side = spread * step * np.sqrt(n_frames)
    accepted = np.empty((0, 2))
    for _ in range(2000):
        wanted = n_frames - len(accepted)
        if wanted == 0:
            return _centred(accepted)
        candidates = rng.uniform(0, side, (max(64, 2 * wanted), 2))
        if len(accepted):
            candidates = candidates[cKDTree(accepted).query(candidates)[0] >= step]
        accepted = np.concatenate([accepted, _thin(candidates, step)[:wanted]])
    raise InputError(
        f"random scan: found room for {len(accepted)} of {n_frames} points {step} px apart with "
        f"spread {spread}; use a spread of 1.4 or more"
    )


def _thin(points: FloatVector, step: float) -> FloatVector:
    """Drop the later point of every pair closer than `step`, in order."""
    keep = np.ones(len(points), dtype=bool)
    if len(points) > 1:
        pairs = cKDTree(points).query_pairs(step, output_type="ndarray")
        for first, second in pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]:
            if keep[first]:
                keep[second] = False
    return points[keep]


def _centred(points: FloatVector) -> Coordinates:
    middle = 0.5 * (points.min(axis=0) + points.max(axis=0))
    moved = points - middle
    return np.ascontiguousarray(moved[:, 0]), np.ascontiguousarray(moved[:, 1])


SCANS: dict[str, Callable[..., Coordinates]] = {"fermat": fermat, "random": random, "raster": raster}


def make_scan(name: str, n_frames: int, step: float, *, seed: int = 0, **parameters: Any) -> Coordinates:
    """Positions of a scan by name.

    `step` (px) is the smallest distance of two points for "fermat" and "random", the pitch of the grid for
    "raster".  Returns (xcoords, ycoords), float64 (n_frames,), centred on 0; add the index of the object's
    centre, ((W-1)/2, (H-1)/2), to use them on an object array (`ptycho.diffsim.on_object` does).  InputError
    for an unknown name, no frames, or a step that is not positive.
    """
    if name not in SCANS:
        raise InputError(f"unknown scan pattern {name!r}; expected one of {', '.join(sorted(SCANS))}")
    if n_frames < 1 or not (np.isfinite(step) and step > 0):
        raise InputError(
            f"scan of {n_frames} frames with step {step} px; expected at least 1 frame and a step > 0"
        )
    try:
        return SCANS[name](int(n_frames), float(step), np.random.default_rng(seed), **parameters)
    except TypeError as error:
        raise InputError(
            f"scan {name!r} does not take these parameters {sorted(parameters)}: {error}"
        ) from error
