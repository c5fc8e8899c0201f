"""The entries of a scan file, in whatever container they are stored. The contract is specs/data_contracts.md."""

from __future__ import annotations

import json
import logging
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ptycho.errors import InputError
from ptycho.validation import fault

if TYPE_CHECKING:
    from ptycho.raw_data import RawData

__all__ = [
    "FRAME_KEYS",
    "LAYOUTS",
    "UNREADABLE",
    "entries_of",
    "entries_to_write",
    "missing_keys",
    "read_entry",
    "read_number",
]

logger = logging.getLogger(__name__)

LAYOUTS = ("frames_first", "frames_last")
FRAME_KEYS = ("diff3d", "diffraction")
_OPTIONAL = (
    "xcoords_start",
    "ycoords_start",
    "scan_index",
    "objectGuess",
    "Y",
    "bad_pixels",
    "object_truth",
    "probe_truth",
)
_SCALARS = ("nphotons", "pixel_size_m", "photon_energy_ev", "detector_distance_m", "background_counts")

UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    NotImplementedError,
    KeyError,
    SyntaxError,
)
"""What reading a damaged file raises."""


def read_entry(store: Any, key: str, source: str, *, optional: bool = False) -> npt.NDArray[Any] | None:
    """One array. An object array (a pickle) is refused, or for an optional key ignored with a warning."""
    if key not in store.files:
        return None
    try:
        value: npt.NDArray[Any] = store[key]
    except UNREADABLE as error:
        if "bject array" not in str(error):
            raise fault(
                source,
                key,
                f"unreadable data ({error or type(error).__name__})",
                "an array",
                "The file is damaged: write it again.",
            ) from error
        if not optional:
            raise fault(
                source,
                key,
                "an object array (a pickle)",
                "a numeric array",
                "Pickles are never loaded: save the key with its own dtype.",
            ) from error
        logger.warning("%s: %s: an object array (a pickle) is never loaded; the key is ignored.", source, key)
        return None
    if not isinstance(value, np.ndarray):  # NumPy hands out the bytes of a member that is none of its arrays
        raise fault(source, key, "a member that is no array", "an array", "The file is damaged: write it again.")
    return value


def _frames_first(
    frames: npt.NDArray[Any], n: int, source: str, key: str, layout: str | None, canonical: bool
) -> npt.NDArray[Any]:
    """Frames as (M, rows, columns); a legacy (rows, columns, M) stack is recognised by the number of
    positions.

    layout: what the caller states, or None. canonical: the file bears the marks of ptychodus, which always
    stores frames first. A stack that fits both ways is refused unless one of these settles it.
    """
    if layout is not None and layout not in LAYOUTS:
        raise InputError(f"layout: found {layout!r}, expected one of {', '.join(LAYOUTS)}.")
    if frames.ndim == 4 and frames.shape[-1] == 1:
        frames = frames[..., 0]
    if frames.ndim != 3:
        return frames  # RawData names the fault
    first = frames.shape[0] == n and frames.shape[1] == frames.shape[2]
    last = frames.shape[2] == n and frames.shape[0] == frames.shape[1]
    if layout is None and first and last and not canonical:
        raise fault(
            source,
            key,
            f"shape {frames.shape} with {n} positions, which fits (frames, rows, columns) and (rows, "
            "columns, "
            "frames)",
            "an unambiguous layout",
            "State layout='frames_first' or layout='frames_last'.",
        )
    if layout == "frames_last" or (layout is None and last and not first):
        if layout is None:
            logger.info(
                "%s: %s: legacy layout (rows, columns, frames) recognised and transposed.", source, key
            )
        whole = frames if isinstance(frames, np.ndarray) else np.asarray(frames)  # those on disk have no other order
        return whole.transpose(2, 0, 1)
    return frames


def _scalar(store: Any, key: str, source: str) -> Any:
    value = read_entry(store, key, source, optional=True)
    if value is None:
        return None
    if value.size != 1 or value.dtype.kind not in "fiuUS":
        raise fault(
            source, key, f"shape {value.shape}, dtype {value.dtype}", "a single number", "Store one value."
        )
    item = value.reshape(()).item()
    return item.decode("utf-8", "replace") if isinstance(item, bytes) else item


def read_number(store: Any, key: str, source: str) -> float | None:
    """A single number of a file, or None if the key is not there; InputError for anything else."""
    value = _scalar(store, key, source)
    if value is not None and not isinstance(value, (int, float)):
        raise fault(source, key, repr(value), "a number", "Store one number.")
    return None if value is None else float(value)


def _metadata(store: Any, source: str) -> dict[str, Any] | None:
    """The JSON text of `_metadata`, when it is stored as text."""
    value = read_entry(store, "_metadata", source, optional=True)
    if value is None:
        return None
    try:
        content = json.loads(str(value.reshape(()).item()))
    except ValueError as error:
        logger.warning("%s: _metadata is not JSON (%s); it is ignored.", source, error)
        return None
    return content if isinstance(content, dict) else None


def missing_keys(names: Sequence[str]) -> list[str]:
    """What a scan needs and these names do not have, for people."""
    frames = [] if set(FRAME_KEYS) & set(names) else ["diff3d (or diffraction)"]
    return [*frames, *(key for key in ("xcoords", "ycoords") if key not in names)]


def entries_of(
    store: Any,
    source: str,
    frames_of: Callable[[str], Any],
    *,
    layout: str | None = None,
    measurement_domain: str | None = None,
    nphotons: float | None = None,
) -> dict[str, Any]:
    """The entries of a scan as keyword arguments of RawData; what the caller states wins.

    store: has the names of its arrays in `files`, and gives an array by its name. frames_of(key): the frames, which may
    be left on disk.
    """
    frame_key = next((key for key in FRAME_KEYS if key in store.files), None)
    if missing := missing_keys(store.files):
        raise fault(
            source,
            "keys",
            ", ".join(sorted(store.files)) or "none",
            f"also {', '.join(missing)}",
            "Is this a scan file? Rename or add the missing arrays.",
        )
    entries: dict[str, Any] = {"source": source}
    for key in ("xcoords", "ycoords", "probeGuess"):
        entries[key] = read_entry(store, key, source)
    for key in _OPTIONAL:
        entries[key] = read_entry(store, key, source, optional=True)
    for key in _SCALARS:
        entries[key] = read_number(store, key, source)
    stored_domain = _scalar(store, "measurement_domain", source)
    entries["metadata"] = _metadata(store, source)
    probe = entries["probeGuess"]
    canonical = entries["bad_pixels"] is not None and probe is not None and probe.ndim == 3
    n = int(np.size(entries["xcoords"]))
    entries["diff3d"] = _frames_first(frames_of(str(frame_key)), n, source, str(frame_key), layout, canonical)
    entries["measurement_domain"] = _stated_domain(measurement_domain, stored_domain, source)
    if nphotons is not None:
        entries["nphotons"] = nphotons
    return entries


def _stated_domain(stated: str | None, stored: Any, source: str) -> str:
    if stated in (None, "auto"):
        return "auto" if stored is None else str(stored)
    if stored not in (None, "auto", stated):
        logger.warning("%s: measurement_domain %r is stated over %r of the file.", source, stated, stored)
    return str(stated)


def entries_to_write(raw: RawData) -> dict[str, Any]:
    """The entries to write. A domain that cannot be decided is not written, so that reading asks again."""
    entries: dict[str, Any] = {
        "xcoords": raw.xcoords,
        "ycoords": raw.ycoords,
        "xcoords_start": raw.xcoords_start,
        "ycoords_start": raw.ycoords_start,
        "scan_index": raw.scan_index,
    }
    for key in (
        "diff3d",
        "probeGuess",
        "objectGuess",
        "Y",
        "bad_pixels",
        "object_truth",
        "probe_truth",
        *_SCALARS,
    ):
        value = getattr(raw, key)
        if value is not None:
            # frames may be on disk, and need not all come into memory
            entries[key] = value if key == "diff3d" else np.asarray(value)
    if raw.diff3d is not None:
        try:
            entries["measurement_domain"] = np.array(raw.measurement_domain)
        except InputError as error:
            logger.warning("%s", error)
        else:
            if raw.measurement_domain == "normalized_amplitude":
                # The factor belongs to the whole scan; for a part of it the mean is another one.
                entries["nphotons"] = np.array(raw.mean_counts_per_frame())
    if raw.metadata is not None:
        entries["_metadata"] = np.array(json.dumps(raw.metadata))
    return entries
