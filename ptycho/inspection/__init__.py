"""What a file is and holds, as data, with warnings of what will not work: scans, models, checkpoints, results.

`inspect_file` tells the kind from the content.  Scans take NumPy only; torch is imported for checkpoints alone.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from ptycho.errors import InputError, MissingFileError
from ptycho.inspection.data import Inspection
from ptycho.inspection.models import compare_scan_with_model, inspect_archive, inspect_checkpoint
from ptycho.inspection.results import inspect_product, inspect_reconstruction
from ptycho.inspection.scan import inspect_scan
from ptycho.io.registry import HDF5_MAGIC, ZIP_MAGIC, reader_for
from ptycho.model_manager import ARCHIVE_NAME
from ptycho.preparation import Preparation

__all__ = ["Inspection", "inspect_file", "kind_of"]

RECONSTRUCTION = "reconstruction.npz"
FRAME_KEYS = ("diff3d", "diffraction")
_MANIFEST = "manifest.json"
_READERS = {
    "model archive": inspect_archive,
    "checkpoint": inspect_checkpoint,
    "reconstruction": inspect_reconstruction,
    "product": inspect_product,
}
KINDS = ("scan", *_READERS)


def inspect_file(
    path: str | Path,
    *,
    preparation: Preparation | None = None,
    crop: int | None = None,
    model: str | Path | None = None,
    **stated: Any,
) -> Inspection:
    """Look at a file, or at the output folder of a run, of which the model is taken, else the reconstruction.

    preparation, crop, stated (measurement_domain, nphotons): what is said about a scan beside its file.
    model: an archive or checkpoint with which the scan is to be reconstructed; adds warnings where the two do not fit.
    Raises MissingFileError, or InputError for a file that cannot be read or is of no known kind, and for statements
    about a scan when the file is none.
    """
    kind, file = kind_of(path)
    if kind == "scan":
        found = inspect_scan(file, preparation or Preparation(), crop, stated)
        if model is not None:
            compare_scan_with_model(found, inspect_file(model))
        return found
    given = {"crop": crop, "model": model, **stated}
    said = [name for name, value in given.items() if value is not None]
    if preparation not in (None, Preparation()):
        said.append("mask, background or geometry")
    if said:
        raise InputError(
            f"{file}: found a {kind}, but {', '.join(said)} is stated, which is about scans. Leave it out, or "
            "name a scan."
        )
    return _READERS[kind](file)


def kind_of(path: str | Path) -> tuple[str, Path]:
    """The kind of a file, one of KINDS, and the file itself; of a folder what it was written for.

    Raises MissingFileError or InputError when there is none, or when it is of no known kind.
    """
    file = Path(path)
    if not file.exists():
        raise MissingFileError(
            f"{file}: no such file or folder. Name a scan, a model (wts.h5.zip), a checkpoint (.ckpt), a "
            "reconstruction or a product."
        )
    if file.is_dir():
        return _kind_of_folder(file)
    try:
        with open(file, "rb") as stream:
            head = stream.read(8)
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror or error}. Check its permissions.") from error
    if head.startswith(ZIP_MAGIC):
        return _kind_of_zip(file), file
    if head == HDF5_MAGIC and _is_product(file):
        return "product", file
    reader_for(file)  # says what is wrong with a file that is no scan either
    return "scan", file


def _kind_of_folder(folder: Path) -> tuple[str, Path]:
    if (folder / ARCHIVE_NAME).is_file():
        return "model archive", folder / ARCHIVE_NAME
    if (folder / _MANIFEST).is_file():
        return "model archive", folder
    if (folder / RECONSTRUCTION).is_file():
        return "reconstruction", folder / RECONSTRUCTION
    raise InputError(
        f"{folder}: found a folder without {ARCHIVE_NAME} and {RECONSTRUCTION}, expected a file or the output folder "
        "of a run. Name the file inside it."
    )


def _kind_of_zip(file: Path) -> str:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        raise InputError(
            f"{file}: found a damaged zip file ({error}), expected a scan, a model, a checkpoint or a reconstruction. "
            "Copy it again."
        ) from error
    if any(name.endswith("data.pkl") for name in names):
        return "checkpoint"
    if _MANIFEST in names or not all(name.endswith(".npy") for name in names):
        return "model archive"
    is_scan = any(f"{name}.npy" in names for name in FRAME_KEYS)
    return "reconstruction" if "object.npy" in names and not is_scan else "scan"


def _is_product(file: Path) -> bool:
    """True for an HDF5 file with the parts of a product; one that is damaged is taken for one, and refused there."""
    import h5py

    try:
        with h5py.File(file, "r") as content:
            return "object" in content or "probe" in content
    except OSError:
        return True
