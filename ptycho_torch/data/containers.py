"""From whatever a caller calls his data to a scan: a scan itself, or groups of frames made elsewhere."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ptycho.carried import GroupedScan, carried
from ptycho.errors import InputError
from ptycho.loader import PtychoDataContainer
from ptycho.raw_data import RawData

logger = logging.getLogger(__name__)

_MISSING = object()


def entry(container: Any, name: str, default: Any = None) -> Any:
    """An entry of a container, which is an object with attributes or a mapping; ``default`` where it is None."""
    value = getattr(container, name, _MISSING)
    if value is _MISSING and isinstance(container, dict):
        value = container.get(name)
    return default if value is _MISSING or value is None else value


def known_scan(source: Any) -> RawData | None:
    """The scan behind ``source`` if there is one: a RawData, its wrapper, or a container made of one."""
    if isinstance(source, RawData):
        return source
    found = (entry(source, name) for name in ("scan", "raw"))
    known = next((raw for raw in found if isinstance(raw, RawData)), None)
    if known is None and isinstance(source, PtychoDataContainer):
        grouped = carried(source.X, GroupedScan)
        known = None if grouped is None else grouped.scan
    return known


def number_of_frames(source: Any) -> int | None:
    """Frames of the scan that ``source`` is or describes; None where positions are known within groups only."""
    raw = known_scan(source)
    if raw is not None:
        return raw.n_frames
    frames, indices = entry(source, "X"), entry(source, "nn_indices")
    if entry(source, "global_offsets") is None or not isinstance(frames, (np.ndarray, Tensor)):
        return None
    if isinstance(indices, (np.ndarray, Tensor)):
        return len(np.unique(np.asarray(indices)))
    return int(np.prod(frames.shape)) // int(frames.shape[1] * frames.shape[2])


def scan_of(source: Any, *, object_big: bool = True, nphotons: float = 1e9) -> tuple[RawData, NDArray[np.int64] | None]:
    """A scan, and its groups of frames where positions are known within a group only.

    A container of groups (an object or a dict) has

    - ``X`` (n, N, N, C) or (n, N, N), amplitudes, zero frequency at N//2;
    - ``coords_relative`` (n, 1, 2, C) pixels, [x, y] = centre of the group - position;
    - if known, ``global_offsets`` (n, 1, 2, 1), the centres; with ``nn_indices`` (n, C), frames that stand in
      several groups are taken once;
    - if known, ``probe`` (or ``probeGuess``), ``Y`` (true patches), ``physics_scaling_constant`` (``X`` times it is
      sqrt(counts)).

    Args:
        source: see above, or a RawData or what holds one.
        object_big: False allows ``coords_relative`` to be missing: frames are then taken one by one.
        nphotons: mean counts per frame, where the container does not say what its amplitudes are in.

    Returns:
        The scan, and (n, C) int64 or None.

    Raises:
        InputError: no ``X``, no ``coords_relative``, shapes that do not fit.
    """
    raw = known_scan(source)
    if raw is not None:
        return raw, None
    frames = entry(source, "X")
    if frames is None:
        raise InputError(
            f"found {type(source).__name__} without X, expected a scan (RawData) or groups of frames with X "
            "(n, N, N, C) and coords_relative (n, 1, 2, C)."
        )
    stack = np.asarray(frames, dtype=np.float32)
    stack = stack[..., None] if stack.ndim == 3 else stack
    if stack.ndim != 4 or stack.shape[1] != stack.shape[2]:
        raise InputError(f"X: found shape {stack.shape}, expected (groups, N, N, channels) with square frames.")
    n, side, _, C = stack.shape
    flat = np.ascontiguousarray(stack.transpose(0, 3, 1, 2)).reshape(n * C, side, side)
    positions, absolute = _positions(source, n, C, object_big)
    raw = RawData.from_coords_without_pc(
        positions[:, 0], positions[:, 1], flat, _probe(source, side), np.zeros(n * C, np.int64),
        Y=_true_patches(source, n, side, C), measurement_domain="normalized_amplitude",
        nphotons=_photons(source, flat, nphotons), source="container",
    )  # fmt: skip
    if absolute:
        return _whole(raw, source, n, C), None
    return raw, np.arange(n * C).reshape((n, C) if object_big else (n * C, 1))


def _positions(source: Any, n: int, C: int, object_big: bool) -> tuple[NDArray[np.float64], bool]:
    """(n * C, 2) positions (x, y), and whether groups are placed against each other."""
    relative = entry(source, "coords_relative")
    if relative is None:
        if object_big:
            raise InputError(
                "coords_relative is required where frames are merged (object_big=True): found none, expected "
                "(groups, 1, 2, channels) pixels. State it, or object_big=False."
            )
        relative = np.zeros((n, 1, 2, C))
    relative = np.asarray(relative, dtype=np.float64)
    if relative.shape != (n, 1, 2, C):
        raise InputError(f"coords_relative: found shape {relative.shape}, expected {(n, 1, 2, C)} as X has it.")
    centres = entry(source, "global_offsets")
    absolute = -relative if centres is None else np.asarray(centres, dtype=np.float64).reshape(n, 1, 2, 1) - relative
    return absolute[:, 0].transpose(0, 2, 1).reshape(n * C, 2), centres is not None


def _whole(raw: RawData, source: Any, n: int, C: int) -> RawData:
    """The scan with every frame once: by its number, or where no numbers are given by its position."""
    indices = entry(source, "nn_indices")
    if indices is not None and np.shape(indices) == (n, C):
        first = np.unique(np.asarray(indices).reshape(-1), return_index=True)[1]
    else:
        places = np.round(np.stack((raw.xcoords, raw.ycoords), axis=1), 6)
        first = np.sort(np.unique(places, axis=0, return_index=True)[1])
    return raw if len(first) == raw.n_frames else raw.subset(first)


def _probe(source: Any, side: int) -> NDArray[Any]:
    probe = entry(source, "probe", entry(source, "probeGuess"))
    if probe is None:
        logger.warning("The container has no probe: a plane wave is assumed, which is hardly ever right.")
        return np.ones((side, side), dtype=np.complex64)
    return np.asarray(probe)


def _photons(source: Any, frames: NDArray[np.float32], nphotons: float) -> float:
    scale = entry(source, "physics_scaling_constant")
    if scale is None:
        return nphotons
    factor = float(np.asarray(scale, dtype=np.float64).reshape(-1)[0])
    return factor**2 * float(np.square(frames, dtype=np.float64).sum(axis=(1, 2)).mean())


def _true_patches(source: Any, n: int, side: int, C: int) -> NDArray[np.complex64] | None:
    patches = entry(source, "Y") if entry(source, "has_labels", True) else None
    if patches is None or np.size(patches) != n * side * side * C:
        return None
    stack = np.asarray(patches, dtype=np.complex64).reshape(n, side, side, C)
    return np.ascontiguousarray(stack.transpose(0, 3, 1, 2)).reshape(n * C, side, side)
