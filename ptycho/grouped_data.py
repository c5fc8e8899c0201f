"""The legacy dictionaries of grouped frames, and the helpers that older callers import from ptycho.raw_data.

A group has C = gridsize**2 frames. Arrays with a channel axis are (group, row, column, channel); coordinate
arrays are (group, 1, 2, channel) with axis 2 = [x, y]. Offsets are the mean position of a group, and relative
coordinates are offset - position (the sign of the reference).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ptycho.errors import InputError

if TYPE_CHECKING:
    from ptycho.raw_data import RawData

__all__ = [
    "grouped_dataset",
    "normalize_data",
    "get_neighbor_indices",
    "get_relative_coords",
    "get_image_patches",
    "cut_patches",
]

logger = logging.getLogger(__name__)


def normalize_data(dset: dict[str, Any], N: int) -> npt.NDArray[np.float32]:
    """dset['diffraction'] (amplitudes, (B, N, N, C)) scaled to a mean energy of (N/2)**2 per frame, float32.

    a * sqrt((N/2)**2 / mean(sum over pixels of a**2)), the mean over groups and channels; cast before
    squaring.
    """
    amplitude = np.asarray(dset["diffraction"]).astype(np.float32)
    energy = float(np.mean(np.sum(np.square(amplitude, dtype=np.float64), axis=(1, 2))))
    if not energy > 0:
        return amplitude
    amplitude *= np.float32(np.sqrt((N / 2) ** 2 / energy))
    return amplitude


def get_neighbor_indices(xcoords: npt.ArrayLike, ycoords: npt.ArrayLike, K: int = 3) -> npt.NDArray[np.int64]:
    """The K nearest neighbours of every position and the position itself, int64 (M, K + 1), nearest first."""
    from scipy.spatial import cKDTree

    points = np.column_stack([np.asarray(xcoords, dtype=float), np.asarray(ycoords, dtype=float)])
    _, found = cKDTree(points).query(points, k=min(K + 1, len(points)))
    return np.asarray(found, dtype=np.int64).reshape(len(points), -1)


def get_relative_coords(
    coords_nn: npt.NDArray[Any],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """From positions (B, 1, 2, C): offsets (B, 1, 2, 1), the mean over C; relative (B, 1, 2, C) = offset -
    position.
    """
    coords = np.asarray(coords_nn, dtype=np.float64)
    if coords.ndim != 4 or coords.shape[1:3] != (1, 2):
        raise InputError(
            f"Grouped coordinates: found shape {coords.shape}, expected (groups, 1, 2, channels)."
        )
    offsets = coords.mean(axis=3, keepdims=True)
    return offsets, offsets - coords


def cut_patches(
    image: npt.NDArray[Any], x: npt.NDArray[Any], y: npt.NDArray[Any], N: int
) -> npt.NDArray[np.complex64]:
    """Patches of N x N pixels centred at (x, y), complex64 (M, N, N), bilinear between pixels, 1 outside the
    image.

    Centre convention as everywhere: patch pixel j lies at position - (N-1)/2 + j in the image's pixel
    coordinates.
    """
    padded = np.pad(np.asarray(image, dtype=np.complex64), N + 1, constant_values=1)
    corners, weights = [], []
    for values, size in ((np.asarray(y), image.shape[0]), (np.asarray(x), image.shape[1])):
        # A patch wholly outside sees vacuum wherever it is, so its start may be clipped to the margin.
        start = np.clip(values - (N - 1) / 2, -N, size) + (N + 1)
        corners.append(np.floor(start).astype(np.int64))
        weights.append((start - np.floor(start)).astype(np.float32))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (N, N))
    (row, col), (wy, wx) = corners, (w[:, None, None] for w in weights)
    out = (1 - wy) * (1 - wx) * windows[row, col]
    out += (1 - wy) * wx * windows[row, col + 1]
    out += wy * (1 - wx) * windows[row + 1, col]
    out += wy * wx * windows[row + 1, col + 1]
    return out.astype(np.complex64, copy=False)


def get_image_patches(
    gt_image: npt.NDArray[Any],
    global_offsets: npt.NDArray[Any],
    local_offsets: npt.NDArray[Any],
    N: int,
    gridsize: int,
) -> npt.NDArray[np.complex64]:
    """Patches of an object for grouped coordinates: complex64 (B, N, N, C), centred at global - local =
    position.

    global_offsets (B, 1, 2, 1) and local_offsets (B, 1, 2, C) as get_relative_coords gives them. (The
    reference adds the two, which mirrors the patches of a group at its centre.)
    """
    positions = np.asarray(global_offsets) - np.asarray(local_offsets)
    groups, channels = positions.shape[0], positions.shape[3]
    if channels != gridsize**2:
        raise InputError(f"Image patches: found {channels} channels, expected gridsize**2 = {gridsize**2}.")
    x, y = positions[:, 0, 0, :].reshape(-1), positions[:, 0, 1, :].reshape(-1)
    patches = cut_patches(np.asarray(gt_image), x, y, N).reshape(groups, channels, N, N)
    return np.ascontiguousarray(patches.transpose(0, 2, 3, 1))


def _amplitudes(raw: RawData, frames: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Stored frames as amplitudes (up to a factor), with bad pixels set to zero."""
    try:
        domain = raw.measurement_domain
    except InputError as error:
        # Older callers hand over amplitudes in arbitrary units and never say so (DATA-001). The dictionary is
        # scaled to a fixed energy, so the unknown factor does not matter here; counts() would still refuse.
        logger.warning("%s Grouping takes them as amplitudes.", error)
        domain = "amplitude"
    values = frames.astype(np.float32)
    if raw.bad_pixels is not None:
        values[:, raw.bad_pixels] = 0
    return np.sqrt(values) if domain == "intensity" else values


def _channels_last(stack: npt.NDArray[Any], group_size: int) -> npt.NDArray[Any]:
    """(B * C, N, N) as (B, N, N, C)."""
    N = stack.shape[-1]
    return np.ascontiguousarray(stack.reshape(-1, group_size, N, N).transpose(0, 2, 3, 1))


def _true_patches(raw: RawData, groups: npt.NDArray[np.int32]) -> npt.NDArray[np.complex64] | None:
    """The scan's true patches, else patches cut from its objectGuess, complex64 (B, N, N, C); else None."""
    flat = groups.reshape(-1)
    if raw.Y is not None:
        N = raw.Y.shape[1]
        return _channels_last(raw.Y[flat].reshape(-1, N, N), groups.shape[1]).astype(np.complex64)
    if raw.objectGuess is not None:
        patches = cut_patches(raw.objectGuess, raw.xcoords[flat], raw.ycoords[flat], raw.N)
        return _channels_last(patches, groups.shape[1])
    return None


def grouped_dataset(
    raw: RawData,
    *,
    K: int,
    n_groups: int,
    group_size: int,
    seed: int | None,
    sequential: bool,
    enable_oversampling: bool,
    neighbor_pool_size: int | None,
) -> dict[str, Any]:
    """The legacy dictionary of groups of C = group_size frames.

    Keys: diffraction (B, N, N, C) source dtype; X_full the same as normalised amplitudes, float32; Y
    complex64 (B, N, N, C) from the scan's Y, else cut from its objectGuess, else None; coords_nn,
    coords_start_nn (B, 1, 2, C); coords_offsets, coords_start_offsets (B, 1, 2, 1); coords_relative,
    coords_start_relative (B, 1, 2, C); nn_indices int32 (B, C); objectGuess; scan, the RawData itself;
    sample_indices when the scan is a subset.
    """
    from ptycho.grouping import neighbour_groups

    groups = neighbour_groups(
        raw.xcoords,
        raw.ycoords,
        n_groups,
        K,
        group_size,
        seed=seed,
        sequential=sequential,
        enable_oversampling=enable_oversampling,
        neighbor_pool_size=neighbor_pool_size,
    )
    frames = raw.diff3d[groups.reshape(-1)]
    coords = np.stack([raw.xcoords[groups], raw.ycoords[groups]], axis=1)[:, None]
    coords_start = np.stack([raw.xcoords_start[groups], raw.ycoords_start[groups]], axis=1)[:, None]
    offsets, relative = get_relative_coords(coords)
    start_offsets, start_relative = get_relative_coords(coords_start)
    result = {
        "diffraction": _channels_last(frames, group_size),
        "X_full": normalize_data(
            {"diffraction": _channels_last(_amplitudes(raw, frames), group_size)}, raw.N
        ),
        "Y": _true_patches(raw, groups),
        "coords_nn": coords,
        "coords_offsets": offsets,
        "coords_relative": relative,
        "coords_start_nn": coords_start,
        "coords_start_offsets": start_offsets,
        "coords_start_relative": start_relative,
        "nn_indices": groups,
        "objectGuess": raw.objectGuess,
        "scan": raw,
    }
    if raw.sample_indices is not None:
        result["sample_indices"] = raw.sample_indices.copy()
    return result
