"""One table of scan readers. A reader is chosen by what the file is, not by what it is called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptycho.errors import InputError, MissingFileError
from ptycho.io.hdf5 import read_scan_hdf5
from ptycho.io.npz import read_scan_npz

__all__ = ["ScanReader", "READERS", "reader_for", "read_scan", "HDF5_MAGIC", "ZIP_MAGIC"]

ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_HEAD = 16


@dataclass(frozen=True)
class ScanReader:
    """A file format: its name, its usual suffixes, a test on the file and its first bytes, and its reader.

    read(path, **stated) returns keyword arguments of RawData; `stated` is what the caller states over the
    file.
    """

    name: str
    suffixes: tuple[str, ...]
    matches: Callable[[Path, bytes], bool]
    read: Callable[..., dict[str, Any]]


# The first reader that matches is used: put special layouts before general ones. A new format is one more
# entry.
READERS: tuple[ScanReader, ...] = (
    ScanReader("NPZ", (".npz",), lambda _path, head: head.startswith(ZIP_MAGIC), read_scan_npz),
    ScanReader("HDF5", (".h5", ".hdf5"), lambda _path, head: head.startswith(HDF5_MAGIC), read_scan_hdf5),
)


def reader_for(path: str | Path) -> ScanReader:
    """The reader of a scan file; MissingFileError or InputError with what is wrong with the path."""
    file = Path(path)
    if not file.exists():
        raise MissingFileError(
            f"{file}: no such file{_found_beside(file)}. Check the path of the scan, or export it under that name."
        )
    if file.is_dir():
        raise InputError(f"{file}: found a folder, expected a scan file. Name the file inside it.")
    try:
        with open(file, "rb") as stream:
            head = stream.read(_HEAD)
    except OSError as error:
        raise InputError(
            f"{file}: cannot be read: {error.strerror or error}. Check its permissions."
        ) from error
    for reader in READERS:
        if reader.matches(file, head):
            return reader
    kinds = ", ".join(f"{r.name} ({' '.join(r.suffixes)})" for r in READERS)
    found = "an unknown format" if head else "an empty file"
    raise InputError(
        f"{file}: found {found}, expected a scan file: {kinds}. Convert it, or check that it is complete."
    )


def _found_beside(file: Path) -> str:
    """What the folder of a missing file has instead."""
    if not file.parent.is_dir():
        return ""
    names = sorted(other.name for other in file.parent.glob("*" + file.suffix) if other.is_file())
    return f"; the folder has {', '.join(names[:5]) + (', ...' if len(names) > 5 else '') or 'no *' + file.suffix}"


def read_scan(path: str | Path, **stated: Any) -> dict[str, Any]:
    """The entries of a scan file as keyword arguments of RawData."""
    return reader_for(path).read(path, **stated)
