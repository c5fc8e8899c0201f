"""Detector masks in files of their own: NPY, NPZ, HDF5 or an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho.errors import InputError, MissingFileError
from ptycho.validation import check_bad_pixels

__all__ = ["read_mask"]

_NAMES = ("bad_pixels", "mask", "data")
_IMAGES = (".png", ".tif", ".tiff")


def read_mask(path: str | Path, N: int) -> npt.NDArray[np.bool_]:
    """A mask as bool (N, N), True = bad pixel.

    NPY: one array. NPZ and HDF5: the array `bad_pixels`, `mask` or `data`, or the only one. PNG and TIFF: whatever is
    not 0 is bad. Larger masks are refused, as it cannot be known which part the frames are. Raises MissingFileError or
    InputError with what is wrong with the file.
    """
    file = Path(path)
    if not file.is_file():
        raise MissingFileError(f"{file}: no such file. Check the path of the mask.")
    try:
        array = _read(file)
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise InputError(
            f"{file}: found no readable mask ({error}), expected an NPY, NPZ, HDF5, PNG or TIFF file with one (N, N) "
            "array. Convert it."
        ) from error
    return check_bad_pixels(array, N, str(file))


def _read(file: Path) -> npt.NDArray[Any]:
    suffix = file.suffix.lower()
    if suffix in _IMAGES:
        import imageio.v3 as imageio

        image = np.asarray(imageio.imread(file))
        return (image if image.ndim == 2 else image[..., :3].max(axis=-1)) != 0
    if suffix in (".h5", ".hdf5", ".hdf", ".nxs"):
        import h5py

        with h5py.File(file, "r") as stored:
            return _only({name: stored[name] for name in stored if isinstance(stored[name], h5py.Dataset)})
    loaded = np.load(file, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return loaded
    with loaded:
        return _only({name: loaded[name] for name in loaded.files})


def _only(arrays: dict[str, Any]) -> npt.NDArray[Any]:
    """The array that is the mask."""
    named = next((name for name in _NAMES if name in arrays), None)
    if named is None and len(arrays) != 1:
        raise ValueError(f"arrays {', '.join(sorted(arrays)) or 'none'}; name one of them bad_pixels")
    return np.asarray(arrays[named if named is not None else next(iter(arrays))])
