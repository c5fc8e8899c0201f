"""What the factories need to know of a scan file before it is read: the probe's shape and the dose.

Only the headers of the arrays, and small ones, are read; nothing is unpickled. A file that cannot be read here gives
no information instead of an error: the error belongs to whoever reads the scan.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from ptycho.errors import PtychoError
from ptycho.io.npz import open_npz, read_entry
from ptycho.validation import metadata_nphotons

_UNREADABLE = (zipfile.BadZipFile, EOFError, OSError, ValueError, KeyError, NotImplementedError, SyntaxError)


def probe_layout(path: str | Path) -> tuple[int, int] | str:
    """(modes, side in pixels) of ``probeGuess`` of an NPZ; a text that says why not when it cannot be told.

    (N, N) and (N, N, 1) are one mode, (modes, N, N) several.
    """
    try:
        with zipfile.ZipFile(path) as archive, archive.open("probeGuess.npy") as stream:
            shape, is_object = _array_header(stream)
    except _UNREADABLE as error:
        return f"probeGuess cannot be read ({error or type(error).__name__})"
    if is_object:
        return "probeGuess is an object array (a pickle), which is never loaded"
    if len(shape) == 3 and shape[2] == 1 and shape[0] == shape[1]:
        shape = shape[:2]
    if len(shape) not in (2, 3) or shape[-1] != shape[-2] or shape[-1] < 1:
        return f"probeGuess has shape {shape}, expected (N, N), (modes, N, N) or (N, N, 1)"
    return (shape[0] if len(shape) == 3 else 1), shape[-1]


def stored_nphotons(path: str | Path) -> float | None:
    """Mean photons per frame that an NPZ states, by its own entry or by its metadata; None if it does not."""
    try:
        with open_npz(path) as npz:
            own = read_entry(npz, "nphotons", str(path), optional=True)
            if own is not None and own.size == 1 and float(own.item()) > 0:
                return float(own.item())
            text = read_entry(npz, "_metadata", str(path), optional=True)
            return None if text is None else metadata_nphotons(json.loads(str(text.item())))
    except (PtychoError, *_UNREADABLE, TypeError, AttributeError):
        return None


def _array_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    return shape, bool(dtype.hasobject)
