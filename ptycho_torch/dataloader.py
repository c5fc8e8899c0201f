"""Readers of scan files under the names of the reference: what is in a file, and its frames, frames first."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho.errors import InputError
from ptycho.io.npz import open_npz, read_entry
from ptycho.io.scan_entries import LAYOUTS
from ptycho.validation import check_positions, fault

_FRAME_KEYS = ("diff3d", "diffraction")
Shape = tuple[int, ...]


def npz_headers(
    path: str | Path, layout: str | None = None
) -> tuple[tuple[int, int, int], NDArray[np.float64], NDArray[np.float64]]:
    """The shape of a scan's frames, and its positions. The frames themselves are not read.

    Args:
        path: NPZ with diff3d or diffraction, xcoords and ycoords.
        layout: 'frames_first' or 'frames_last', for a stack of M = N frames, which fits both.

    Returns:
        (M, N, N), of the legacy layout (N, N, M) too; x (M,) and y (M,), float64, object pixels.

    Raises:
        MissingFileError: no such file.
        InputError: keys that are missing, frames that are not square, not one position per frame.
    """
    source = str(path)
    with open_npz(path) as npz:
        key = _frame_key(npz.files, source)
        positions = [read_entry(npz, name, source) for name in ("xcoords", "ycoords")]
        if any(values is None for values in positions):
            raise fault(source, "keys", ", ".join(sorted(npz.files)), "also xcoords and ycoords", "Add them.")
        marked = _is_of_ptychodus(path, npz.files, source)
    shape = _without_trailing_one(_header(path, key, source)[0])
    if _frames_last(shape, source, key, layout, marked):
        shape = (shape[2], shape[0], shape[1])
    x = check_positions(positions[0], "xcoords", source)
    y = check_positions(positions[1], "ycoords", source, x.size)
    if shape[0] != x.size:
        raise fault(
            source, key, f"{shape[0]} frames for {x.size} positions", "one position per frame",
            "Remove the frames without a position, or the positions without a frame.",
        )  # fmt: skip
    return (shape[0], shape[1], shape[2]), x, y


def _get_diffraction_stack(path: str | Path, layout: str | None = None) -> NDArray[Any]:
    """The frames of a scan file, (M, N, N) in their own dtype; the file needs no positions.

    Args:
        path: NPZ with diff3d or diffraction, (M, N, N) or the legacy (N, N, M), which is transposed.
        layout: see npz_headers.

    Raises:
        MissingFileError, InputError: as npz_headers.
    """
    source = str(path)
    with open_npz(path) as npz:
        key = _frame_key(npz.files, source)
        marked = _is_of_ptychodus(path, npz.files, source)
        _header(path, key, source)  # NumPy hands out the bytes of what has no header
        frames = read_entry(npz, key, source)
    assert frames is not None  # the key is there
    frames = frames.reshape(_without_trailing_one(frames.shape))
    return frames.transpose(2, 0, 1) if _frames_last(frames.shape, source, key, layout, marked) else frames


def _frame_key(keys: list[str], source: str) -> str:
    found = next((key for key in _FRAME_KEYS if key in keys), None)
    if found is None:
        raise fault(
            source, "keys", ", ".join(sorted(keys)) or "none", "also diff3d (or diffraction)",
            "Is this a scan file? Rename or add the frames.",
        )  # fmt: skip
    return found


def _header(path: str | Path, key: str, source: str) -> tuple[Shape, np.dtype[Any]]:
    """Shape and dtype of one array of an NPZ."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(key + ".npy") as stream:
            version = np.lib.format.read_magic(stream)
            first = version == (1, 0)
            read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(stream)
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, KeyError, NotImplementedError, SyntaxError) as error:
        raise fault(
            source, key, f"unreadable data ({error or type(error).__name__})", "an array",
            "The file is damaged: write it again.",
        ) from error  # fmt: skip
    return shape, dtype


def _is_of_ptychodus(path: str | Path, keys: list[str], source: str) -> bool:
    """bad_pixels and a probe with a mode axis: ptychodus writes both, and always frames first."""
    return {"bad_pixels", "probeGuess"} <= set(keys) and len(_header(path, "probeGuess", source)[0]) == 3


def _without_trailing_one(shape: Shape) -> Shape:
    return shape[:-1] if len(shape) == 4 and shape[-1] == 1 else shape


def _frames_last(shape: Shape, source: str, key: str, layout: str | None, marked: bool) -> bool:
    """True for the legacy layout (N, N, M), told by which two axes are equal; the rule of specs/data_contracts.md.

    (RawData also looks at the number of positions; the two agree wherever that number fits the frames.)
    """
    if layout is not None:
        if layout not in LAYOUTS:
            raise InputError(f"layout: found {layout!r}, expected one of {', '.join(LAYOUTS)}.")
        return layout == "frames_last"
    first = len(shape) == 3 and shape[1] == shape[2]
    last = len(shape) == 3 and shape[0] == shape[1]
    if not first and not last:
        raise fault(
            source, key, f"shape {shape}", "square frames, (frames, N, N)",
            "Crop or pad them to a square around the zero frequency.",
        )  # fmt: skip
    if first and last and not marked:
        raise fault(
            source, key, f"shape {shape}, which fits (frames, N, N) and (N, N, frames)", "an unambiguous layout",
            "State layout='frames_first' or layout='frames_last'.",
        )  # fmt: skip
    return last and not first
