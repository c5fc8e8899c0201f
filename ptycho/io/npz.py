"""Scans as NPZ files. The contract is specs/data_contracts.md; nothing is ever unpickled."""

from __future__ import annotations

import json
import logging
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from ptycho.errors import InputError, MissingFileError
from ptycho.io.atomic import atomic_path
from ptycho.validation import fault

if TYPE_CHECKING:
    from ptycho.raw_data import RawData

__all__ = ["open_npz", "read_entry", "read_number", "read_scan_npz", "write_scan_npz", "LAYOUTS"]

logger = logging.getLogger(__name__)

LAYOUTS = ("frames_first", "frames_last")
_FRAME_KEYS = ("diff3d", "diffraction")
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
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    NotImplementedError,
    KeyError,
    SyntaxError,
)

# Frames larger than this that are stored without compression are mapped from the file instead of read.
_MAP_BYTES = 2**28


def open_npz(path: str | Path) -> Any:
    """Open an NPZ file for reading (a numpy NpzFile, to be used in a `with`); pickles stay closed."""
    file = Path(path)
    if not file.exists():
        raise MissingFileError(f"{file}: no such file. Check the path.")
    try:
        opened = np.load(file, allow_pickle=False)
    except _BROKEN as error:
        raise InputError(
            f"{file}: found something that cannot be read as NPZ ({error or type(error).__name__}), expected "
            "a file written "
            "by numpy.savez. Is it complete?"
        ) from error
    if not isinstance(opened, np.lib.npyio.NpzFile):
        raise InputError(
            f"{file}: found a single array (.npy), expected an NPZ with named arrays. Save it by numpy.savez."
        )
    return opened


def read_entry(npz: Any, key: str, source: str, *, optional: bool = False) -> npt.NDArray[Any] | None:
    """One array. An object array (a pickle) is refused, or for an optional key ignored with a warning."""
    if key not in npz.files:
        return None
    try:
        value: npt.NDArray[Any] = npz[key]
    except _BROKEN as error:
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


def _mapped(path: Path, key: str) -> npt.NDArray[Any] | None:
    """A large uncompressed member as a read-only memory map, or None when it is small or compressed."""
    with zipfile.ZipFile(path) as archive, open(path, "rb") as stream:
        info = archive.getinfo(key + ".npy")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size < _MAP_BYTES:
            return None
        # The local header: 30 bytes, the last four of which are the lengths of the name and of the extra
        # field.
        stream.seek(info.header_offset + 26)
        lengths = np.frombuffer(stream.read(4), dtype="<u2")
        stream.seek(info.header_offset + 30 + int(lengths.sum()))
        version = np.lib.format.read_magic(stream)
        read_header = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, fortran, dtype = read_header(stream)
        if dtype.hasobject:
            return None
        return np.memmap(path, dtype, "r", stream.tell(), shape, "F" if fortran else "C")


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
        return frames.transpose(2, 0, 1)
    return frames


def _scalar(npz: Any, key: str, source: str) -> Any:
    value = read_entry(npz, key, source, optional=True)
    if value is None:
        return None
    if value.size != 1 or value.dtype.kind not in "fiuUS":
        raise fault(
            source, key, f"shape {value.shape}, dtype {value.dtype}", "a single number", "Store one value."
        )
    item = value.reshape(()).item()
    return item.decode("utf-8", "replace") if isinstance(item, bytes) else item


def read_number(npz: Any, key: str, source: str) -> float | None:
    """A single number of a file, or None if the key is not there; InputError for anything else."""
    value = _scalar(npz, key, source)
    if value is not None and not isinstance(value, (int, float)):
        raise fault(source, key, repr(value), "a number", "Store one number.")
    return None if value is None else float(value)


def _metadata(npz: Any, source: str) -> dict[str, Any] | None:
    """The JSON text of `_metadata`, when it is stored as text."""
    value = read_entry(npz, "_metadata", source, optional=True)
    if value is None:
        return None
    try:
        content = json.loads(str(value.reshape(()).item()))
    except ValueError as error:
        logger.warning("%s: _metadata is not JSON (%s); it is ignored.", source, error)
        return None
    return content if isinstance(content, dict) else None


def read_scan_npz(
    path: str | Path,
    *,
    layout: str | None = None,
    measurement_domain: str | None = None,
    nphotons: float | None = None,
) -> dict[str, Any]:
    """The entries of a scan file as keyword arguments of RawData; what the caller states wins."""
    file = Path(path)
    source = str(file)
    with open_npz(file) as npz:
        frame_key = next((key for key in _FRAME_KEYS if key in npz.files), None)
        missing = [key for key in ("xcoords", "ycoords") if key not in npz.files]
        if frame_key is None:
            missing.insert(0, "diff3d (or diffraction)")
        if missing:
            raise fault(
                source,
                "keys",
                ", ".join(sorted(npz.files)) or "none",
                f"also {', '.join(missing)}",
                "Is this a scan file? Rename or add the missing arrays.",
            )
        entries: dict[str, Any] = {"source": source}
        for key in ("xcoords", "ycoords", "probeGuess"):
            entries[key] = read_entry(npz, key, source)
        for key in _OPTIONAL:
            entries[key] = read_entry(npz, key, source, optional=True)
        for key in _SCALARS:
            entries[key] = read_number(npz, key, source)
        stored_domain = _scalar(npz, "measurement_domain", source)
        entries["metadata"] = _metadata(npz, source)
        try:
            frames = _mapped(file, str(frame_key))
        except _BROKEN:
            frames = None
        if frames is None:
            frames = cast("npt.NDArray[Any]", read_entry(npz, str(frame_key), source))
    probe = entries["probeGuess"]
    canonical = entries["bad_pixels"] is not None and probe is not None and probe.ndim == 3
    entries["diff3d"] = _frames_first(
        frames, int(np.size(entries["xcoords"])), source, str(frame_key), layout, canonical
    )
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


def _stored(raw: RawData) -> dict[str, Any]:
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
            entries[key] = np.asarray(value)
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


def write_scan_npz(path: str | Path, raw: RawData, *, compressed: bool = False) -> None:
    """Write a scan, atomically. Entries that are None are left out; there are no object arrays."""
    entries = _stored(raw)
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        (np.savez_compressed if compressed else np.savez)(stream, **entries)
