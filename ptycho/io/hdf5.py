"""Scans as HDF5 files: the entries of the NPZ format as datasets, with frames that stay on disk."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ptycho.errors import InputError, MissingFileError
from ptycho.io.atomic import atomic_path
from ptycho.io.scan_entries import FRAME_KEYS, entries_of, entries_to_write, missing_keys
from ptycho.validation import fault

if TYPE_CHECKING:
    from ptycho.raw_data import RawData

__all__ = ["StoredFrames", "read_scan_hdf5", "write_scan_hdf5"]

_GAP = 4
"""Frames that are not wanted are read along where fewer than these lie between two that are."""

_CHUNK_FRAMES = 8
_MOST_LISTED = 20


class StoredFrames:
    """Frames (M, N, N) of a dataset in chunks, read when they are asked for, and cut to a window of the detector.

    The file is opened anew in every process that reads (a handle does not survive a fork), and an object of this
    class can be pickled. Slices and index arrays of the first axis are allowed, in any order and with repetitions.

    Attributes:
        shape, dtype, ndim, nbytes: as of an array.
    """

    ndim = 3

    def __init__(self, path: Path, key: str, window: tuple[slice, slice] = (slice(None), slice(None))) -> None:
        self._path, self._key, self._window = path, key, window
        self._dataset: Any = None
        self._pid = -1
        stored = self._opened()
        rows, columns = (len(range(*part.indices(n))) for part, n in zip(window, stored.shape[1:], strict=True))
        self.shape = (int(stored.shape[0]), rows, columns)
        self.dtype: np.dtype[Any] = stored.dtype

    @property
    def nbytes(self) -> int:
        """Of all frames, as they are on disk without compression."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_dataset": None, "_pid": -1}

    def cropped(self, rows: slice, columns: slice) -> StoredFrames:
        """The same frames, of which this part is read."""
        inner = []
        for have, want, n in zip(self._window, (rows, columns), self._opened().shape[1:], strict=True):
            kept = range(*have.indices(n))[want]
            inner.append(slice(kept.start, kept.stop))
        return StoredFrames(self._path, self._key, (inner[0], inner[1]))

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        """Frames by number, slice, index array or mask."""
        if isinstance(index, (int, np.integer)):
            return self._read(range(self.shape[0])[index])
        if isinstance(index, slice):
            start, stop, step = index.indices(self.shape[0])
            if step == 1:
                return self._read(slice(start, max(start, stop)))
        return self._gathered(np.arange(self.shape[0])[index])

    def _gathered(self, wanted: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Frames in this order, read in runs of neighbours: the library is slow at picking single ones."""
        found = np.empty((*wanted.shape, *self.shape[1:]), dtype=self.dtype)
        flat = found.reshape(-1, *self.shape[1:])
        order = np.argsort(wanted, axis=None, kind="stable")
        numbers = wanted.reshape(-1)[order]
        ends = np.flatnonzero(np.diff(numbers) > _GAP) + 1
        for places in np.split(order, ends) if order.size else []:
            run = wanted.reshape(-1)[places]
            block = self._read(slice(int(run[0]), int(run[-1]) + 1))
            flat[places] = block[run - run[0]]
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.asarray(self[:], dtype=dtype)

    def _read(self, frames: int | slice) -> npt.NDArray[Any]:
        try:
            found: npt.NDArray[Any] = self._opened()[(frames, *self._window)]
        except (OSError, RuntimeError) as error:
            raise fault(
                str(self._path), self._key, f"frames that cannot be read ({error})",
                "whole ones, in a known compression",
                "Install hdf5plugin, which knows those of detectors, or write the file again.",
            ) from error  # fmt: skip
        return found

    def _opened(self) -> Any:
        if self._pid != os.getpid():
            self._dataset, self._pid = _open(self._path)[self._key], os.getpid()
        return self._dataset


class _Datasets:
    """The datasets of a file under the names that an NPZ would have."""

    def __init__(self, file: Any) -> None:
        import h5py

        self._file = file
        self.files = [name for name, entry in file.items() if isinstance(entry, h5py.Dataset)]

    def __getitem__(self, key: str) -> npt.NDArray[Any]:
        stored = self._file[key]
        if stored.dtype.kind == "O":  # text of any length
            text = stored.asstr()[()]
            return np.array(text) if isinstance(text, str) else np.asarray(text, dtype=str)
        return np.asarray(stored[()])


def _within_groups(file: Any) -> str:
    """The datasets of a file with their shapes, the largest first, for people; empty where all are in its root."""
    import h5py

    found: list[tuple[float, str]] = []
    nested = False

    def add(name: str, entry: Any) -> None:
        nonlocal nested
        if isinstance(entry, h5py.Dataset):
            nested = nested or "/" in name
            shape = " x ".join(str(side) for side in entry.shape or ())
            found.append((entry.size or 0, f"{name} ({f'{shape} {entry.dtype}'.strip()})"))
            return
        for inner in entry:
            link = entry.get(inner, getlink=True)
            if isinstance(link, h5py.ExternalLink):  # which a visit passes over
                nested = nested or bool(name)
                found.append((1.5, f"{name}/{inner} (in {link.filename})".lstrip("/")))

    add("", file)
    file.visititems(add)
    texts = [text for _, text in sorted(found, key=lambda item: -item[0])]
    more = f", and {len(texts) - _MOST_LISTED} more" if len(texts) > _MOST_LISTED else ""
    return ", ".join(texts[:_MOST_LISTED]) + more if nested else ""


def _open(path: Path) -> Any:
    """The file, for reading; with the filters that detectors compress by, where that package is installed."""
    import h5py

    with contextlib.suppress(ImportError):
        import hdf5plugin  # noqa: F401  # registers its filters

    try:
        return h5py.File(path, "r", rdcc_nbytes=2**24)
    except OSError as error:
        raise InputError(
            f"{path}: found something that cannot be read as HDF5 ({error}), expected a scan. Is it complete?"
        ) from error


def _frames(path: Path, file: Any, key: str) -> Any:
    """Frames as a memory map where they lie in one piece in the file, else as :class:`StoredFrames`."""
    stored = file[key]
    if stored.ndim != 3:
        return np.asarray(stored[()])
    offset = stored.id.get_offset()
    if stored.chunks is None and offset is not None and stored.size:
        # a link may have led into another file
        return np.memmap(stored.file.filename, stored.dtype, "r", offset, stored.shape)
    return StoredFrames(path, key)


def read_scan_hdf5(path: str | Path, **stated: Any) -> dict[str, Any]:
    """The entries of a scan file as keyword arguments of RawData; `stated` is what the caller states over the file.

    Raises:
        MissingFileError, InputError: no such file; not HDF5; datasets that are missing or cannot be read.
    """
    file = Path(path).resolve()
    if not file.exists():
        raise MissingFileError(f"{path}: no such file. Check the path.")
    with _open(file) as opened:
        store = _Datasets(opened)
        if {"object", "probe"} & set(opened) and not set(FRAME_KEYS) & set(store.files):
            raise fault(
                str(path), "entries", ", ".join(sorted(opened)), "a scan with diff3d, xcoords and ycoords",
                "A product holds a result, not frames: name the scan it was made of.",
            )  # fmt: skip
        if (missing := missing_keys(store.files)) and (within := _within_groups(opened)):
            raise fault(
                str(path), "keys", within, f"{', '.join(missing)} in the root of the file",
                "Copy them there, or write a new file whose root has links: "
                f"file[{missing[0].split()[0]!r}] = h5py.ExternalLink({file.name!r}, '/path/of/the/dataset').",
            )  # fmt: skip
        return entries_of(store, str(path), lambda key: _frames(file, opened, key), **stated)


def write_scan_hdf5(path: str | Path, raw: RawData, *, compressed: bool = False) -> None:
    """Write a scan, atomically; frames go from one file to the other in pieces.

    compressed: in chunks of a few frames by gzip, which every reader knows. Uncompressed frames are the fastest to
    read: they lie in one piece.
    """
    import h5py

    entries = entries_to_write(raw)
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        for key, value in entries.items():
            if key != "diff3d":
                is_text = np.asarray(value).dtype.kind == "U"
                file[key] = str(value) if is_text else value
                continue
            chunks = (min(_CHUNK_FRAMES, value.shape[0]), *value.shape[1:])
            options: dict[str, Any] = {"chunks": chunks, "compression": "gzip", "shuffle": True} if compressed else {}
            target = file.create_dataset(key, shape=value.shape, dtype=value.dtype, **options)
            for first in range(0, value.shape[0], 256):
                target[first : first + 256] = value[first : first + 256]
