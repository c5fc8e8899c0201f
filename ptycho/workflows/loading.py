"""`load_data`: a scan file, or a random part of it, with its positions put right on the way."""

from __future__ import annotations

import logging
import operator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho.errors import InputError
from ptycho.io.registry import read_scan
from ptycho.raw_data import RawData
from ptycho.validation import check_positions, positive_number

__all__ = ["load_data"]

logger = logging.getLogger(__name__)


def load_data(
    file_path: str | Path,
    n_images: int | None = None,
    n_subsample: int | None = None,
    flip_x: bool = False,
    flip_y: bool = False,
    swap_xy: bool = False,
    n_samples: int = 1,
    coord_scale: float = 1.0,
    subsample_seed: int | None = None,
) -> RawData:
    """Read a scan file (specs/data_contracts.md), all of its frames or a random part of them. Nothing is written.

    Args:
        file_path: any format that ptycho.io.registry knows; NPZ frames are called diff3d or diffraction, and the
            legacy layout (rows, columns, frames) is transposed.
        n_images: older name of n_subsample, which wins where both are given.
        n_subsample: number of frames to draw without repetition, in the order of the file; None, or more than
            there are, takes every frame. True patches `Y` go with their frames.
        flip_x, flip_y: negate the x or y positions of the file.
        swap_xy: exchange x and y, after the flips.
        n_samples: must be 1. It was an option of grouping, which is RawData.generate_grouped_data's business.
        coord_scale: factor on all positions, > 0, for files whose positions are not in object pixels.
        subsample_seed: >= 0; the same seed draws the same frames. None draws others each time.

    Returns:
        The scan. Its `sample_indices` (int64, sorted) are the numbers of its frames in the file, its
        `subsample_seed` is the argument. Positions that were flipped, swapped or scaled no longer are in the
        pixels of `objectGuess` and `object_truth`: these are then left out, with a warning.

    Raises:
        MissingFileError, InputError: no such file, an unusable scan, or an argument out of range.
    """
    if n_samples != 1:
        raise InputError(
            f"n_samples: found {n_samples!r}, expected 1. It was the number of groups per frame; loading makes no "
            "groups. State nsamples of RawData.generate_grouped_data, or n_groups of the configuration."
        )
    # The older name is checked too: a wrong value should not go unnoticed because another one wins.
    older = _whole(n_images, "n_images", 1)
    newer = _whole(n_subsample, "n_subsample", 1)
    seed = _whole(subsample_seed, "subsample_seed", 0)
    factor = positive_number(coord_scale, "coord_scale", "load_data")
    entries = read_scan(file_path)
    if flip_x or flip_y or swap_xy or (factor is not None and factor != 1):
        _move_positions(entries, -1 if flip_x else 1, -1 if flip_y else 1, 1.0 if factor is None else factor, swap_xy)
    raw = _drawn(RawData(**entries), older if newer is None else newer, seed)
    raw.subsample_seed = seed
    return raw


def _whole(value: Any, name: str, least: int) -> int | None:
    """A whole number, or None."""
    if value is None:
        return None
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least or isinstance(value, bool):
        raise InputError(f"{name}: found {value!r}, expected a whole number of at least {least}, or None.")
    return number


def _drawn(raw: RawData, wanted: int | None, seed: int | None) -> RawData:
    n = raw.n_frames
    if wanted is None or wanted >= n:
        if wanted is not None and wanted > n:
            logger.info("%s: %d frames asked for, %d there: all are taken.", raw.source, wanted, n)
        raw.sample_indices = np.arange(n)
        return raw
    chosen = np.sort(np.random.default_rng(seed).choice(n, wanted, replace=False))
    logger.info("%s: %d of %d frames drawn at random, seed %s.", raw.source, wanted, n, seed)
    return raw.subset(chosen)


def _move_positions(entries: dict[str, Any], sign_x: int, sign_y: int, factor: float, swap: bool) -> None:
    """Flip, scale and swap the positions, and the nominal ones where the file has any, in place.

    Done before the scan is made, so that its own checks see positions in pixels.
    """
    source = str(entries.get("source", "scan"))

    def vector(key: str, otherwise: str) -> npt.NDArray[np.float64]:
        value = entries.get(key)
        return check_positions(entries[otherwise] if value is None else value, key, source)

    start = ("xcoords_start", "ycoords_start")
    pairs = [("xcoords", "ycoords"), *([start] if any(entries.get(key) is not None for key in start) else [])]
    moved: dict[str, Any] = {}
    for x_key, y_key in pairs:
        x = vector(x_key, "xcoords") * sign_x * factor
        y = vector(y_key, "ycoords") * sign_y * factor
        moved[x_key], moved[y_key] = (y, x) if swap else (x, y)
    entries.update(moved)
    for key in ("objectGuess", "object_truth"):
        if entries.pop(key, None) is not None:
            logger.warning(
                "%s: %s is left out: its pixels are the positions of the file, and these were changed.", source, key
            )
