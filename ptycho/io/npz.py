"""Scans as NPZ files. The contract is specs/data_contracts.md; nothing is ever unpickled."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ptycho import progress
from ptycho.errors import InputError, MissingFileError
from ptycho.io.atomic import atomic_path
from ptycho.io.scan_entries import UNREADABLE, entries_of, entries_to_write, read_entry, read_number

if TYPE_CHECKING:
    from ptycho.raw_data import RawData

__all__ = ["open_npz", "read_entry", "read_number", "read_scan_npz", "write_scan_npz"]

# Frames larger than this that are stored without compression are mapped from the file instead of read.
_MAP_BYTES = 2**28
_PIECE_BYTES = 2**23


def open_npz(path: str | Path) -> Any:
    """Open an NPZ file for reading (a numpy NpzFile, to be used in a `with`); pickles stay closed."""
    file = Path(path)
    if not file.exists():
        raise MissingFileError(f"{file}: no such file. Check the path.")
    try:
        opened = np.load(file, allow_pickle=False)
    except UNREADABLE as error:
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


def _header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether the order is Fortran's, and dtype of an array in NumPy's format; the data come next."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be loaded.")
    return shape, fortran, dtype


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
        shape, fortran, dtype = _header(stream)
        return np.memmap(path, dtype, "r", stream.tell(), shape, "F" if fortran else "C")


def _inflated(path: Path, key: str) -> npt.NDArray[Any]:
    """A member, piece by piece, for those who watch."""
    with zipfile.ZipFile(path) as archive, archive.open(key + ".npy") as stream:
        shape, fortran, dtype = _header(stream)
        array = np.empty(shape[::-1] if fortran else shape, dtype)
        flat = array.reshape(-1).view(np.uint8)
        with progress.task("Reading the file", array.nbytes / 2**20, "MiB") as step:
            done = 0
            while done < flat.size:
                piece = stream.read(min(_PIECE_BYTES, flat.size - done))
                if not piece:
                    raise EOFError("the data end too early")
                flat[done : done + len(piece)] = np.frombuffer(piece, np.uint8)
                done += len(piece)
                step(len(piece) / 2**20)
        stream.read()  # to its end, where the checksum is compared
    return array.T if fortran else array


def read_scan_npz(path: str | Path, **stated: Any) -> dict[str, Any]:
    """The entries of a scan file as keyword arguments of RawData; `stated` is what the caller states over the file."""
    file = Path(path)
    source = str(file)
    with open_npz(file) as npz:

        def frames_of(key: str) -> Any:
            try:
                mapped = _mapped(file, key)
                return _inflated(file, key) if mapped is None else mapped
            except UNREADABLE:
                return read_entry(npz, key, source)  # which says what is wrong

        return entries_of(npz, source, frames_of, **stated)


def write_scan_npz(path: str | Path, raw: RawData, *, compressed: bool = False) -> None:
    """Write a scan, atomically. Entries that are None are left out; there are no object arrays."""
    entries = entries_to_write(raw)
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        (np.savez_compressed if compressed else np.savez)(stream, **entries)
