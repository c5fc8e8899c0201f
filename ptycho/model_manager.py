"""The model archive `wts.h5.zip`: a plain zip of JSON and HDF5, loaded strictly and without running anything from it.

Members:
    manifest.json   format, format version, backend, model names, package versions, SHA-256 of every other member
    config.json     configurations, scaling and measurement domain
    weights.h5      one group per model, one dataset per weight
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import platform
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ptycho.errors import InputError, MissingFileError
from ptycho.io.atomic import atomic_path

ARCHIVE_NAME = "wts.h5.zip"
FORMAT = "ptychopinn-archive"
FORMAT_VERSION = 1
_MANIFEST = "manifest.json"
_MEMBERS = ("config.json", "weights.h5")
_PACKAGES = ("ptychopinn", "torch", "lightning", "numpy", "h5py")
_PICKLES = (".dill", ".pkl", ".pickle", ".pth")
_PICKLED = (
    "{}: an archive of the older, pickled kind. It could run code when loaded and is refused; train the model again "
    "with this version."
)
_TIMESTAMP = (2000, 1, 1, 0, 0, 0)

Weights = dict[str, NDArray[Any]]

_trained: dict[str, Callable[[Path], None]] = {}


@dataclass
class Archive:
    """Contents of a model archive.

    Attributes:
        models: weights by model name.
        config: everything else, in plain JSON types.
        backend: the package that made it ("pytorch").
    """

    models: dict[str, Weights]
    config: dict[str, Any]
    backend: str


def archive_path(path: str | Path) -> Path:
    """The archive itself, from its path or from the folder that holds it; a folder where it was unpacked.

    Raises:
        MissingFileError: there is none.
        InputError: the folder holds a model of the older, pickled kind.
    """
    given = Path(path)
    # an unpacked archive may have come with a folder of its own round it
    inner = [entry for entry in given.iterdir() if entry.is_dir()] if given.is_dir() else []
    for folder in (given, *(inner if len(inner) == 1 else ())):
        if (folder / ARCHIVE_NAME).is_file():
            return folder / ARCHIVE_NAME
        if (folder / _MANIFEST).is_file():
            return folder
    if given.is_file():
        return given
    if given.is_dir() and any(file.suffix in _PICKLES for file in given.rglob("*")):
        raise InputError(_PICKLED.format(given))
    raise MissingFileError(
        f"Model archive not found at {given}. Give an archive, or the folder of a training run that holds "
        f"{ARCHIVE_NAME}."
    )


def save_archive(path: str | Path, models: dict[str, Weights], config: dict[str, Any], backend: str) -> None:
    """Write an archive; the file is complete or not there at all.

    Args:
        path: file to write, by convention named ``wts.h5.zip``.
        models: weights by model name; real arrays.
        config: plain JSON types.
        backend: who can load it.
    """
    contents = {
        "config.json": json.dumps(config, indent=1, sort_keys=True).encode("ascii"),
        "weights.h5": _weights_to_bytes(models),
    }
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "backend": backend,
        "models": sorted(models),
        "versions": _versions(),
        "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()},
    }
    contents[_MANIFEST] = json.dumps(manifest, indent=1, sort_keys=True).encode("ascii")
    # not compressed: weights hardly shrink, and in a deflated stream some bits could change without being noticed
    with atomic_path(Path(path)) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as target:
        for name in (_MANIFEST, *_MEMBERS):
            # a fixed date: the same model gives the same bytes
            target.writestr(zipfile.ZipInfo(name, _TIMESTAMP), contents[name], zipfile.ZIP_STORED)


def load_archive(path: str | Path, backend: str | None = None) -> Archive:
    """Read an archive and check every byte of it.

    Args:
        path: the archive, or the folder that holds it or its unpacked members.
        backend: refuse an archive of any other backend.

    Raises:
        MissingFileError: there is no such file.
        InputError: it is not an archive of ours, is damaged, newer than this version, or of another backend.
    """
    file = archive_path(path)
    contents = _read_members(file)
    manifest = _parse_json(contents[_MANIFEST], file, _MANIFEST)
    _check_manifest(manifest, contents, file, backend)
    config = _parse_json(contents["config.json"], file, "config.json")
    try:
        models = _weights_from_bytes(contents["weights.h5"])
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f"{file}: weights.h5 cannot be read ({error}). Train or copy the model again.") from error
    if sorted(models) != manifest["models"]:
        raise InputError(f"{file}: found models {sorted(models)}, the manifest says {manifest['models']}.")
    return Archive(models, config, manifest["backend"])


def remember(write: Callable[[Path], None]) -> None:
    """Keep the way to write the model that was just trained, for `save`. The one piece of state of this package."""
    _trained["write"] = write


def save(output_path: str | Path) -> None:
    """Write the model that was trained last in this process to `output_path`/wts.h5.zip.

    A legacy entry point, without the model as an argument; callers that hold the model save that instead. InputError
    when nothing was trained yet.
    """
    if "write" not in _trained:
        raise InputError(
            "There is no model to save: nothing was trained in this process. Call run_cdi_example or train_cdi_model "
            "first."
        )
    _trained["write"](Path(output_path))


def archive_backend(path: str | Path) -> str:
    """The backend that made an archive; errors as of :func:`load_archive`, but the weights are not looked at."""
    file = archive_path(path)
    contents = _read_members(file)
    manifest = _parse_json(contents[_MANIFEST], file, _MANIFEST)
    _check_manifest(manifest, contents, file, None)
    return str(manifest["backend"])


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _read_members(file: Path) -> dict[str, bytes]:
    if file.is_dir():
        # of a folder only what belongs to it: others may have put more there
        names = [entry.name for entry in file.iterdir() if entry.name in (_MANIFEST, *_MEMBERS)]
        _check_names(names, file)
        return {name: (file / name).read_bytes() for name in names}
    try:
        with zipfile.ZipFile(file) as source:
            _check_names(source.namelist(), file)
            return {name: source.read(name) for name in source.namelist()}
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, NotImplementedError, OSError, RuntimeError) as error:
        raise InputError(f"{file}: not a readable zip archive ({error}). Copy or train the model again.") from error
    except Exception as error:
        # zlib.error of a damaged member has no common base with the errors above
        if isinstance(error, InputError) or type(error).__module__ != "zlib":
            raise
        raise InputError(f"{file}: damaged ({error}). Copy or train the model again.") from error


def _check_names(names: list[str], file: Path) -> None:
    expected = {_MANIFEST, *_MEMBERS}
    if any(name.endswith(_PICKLES) for name in names):
        raise InputError(_PICKLED.format(file))
    if set(names) != expected or len(names) != len(expected):
        raise InputError(
            f"{file}: found members {sorted(names)}, expected {sorted(expected)}. Is it a model archive?"
        )


def _parse_json(data: bytes, file: Path, member: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: {member} is not JSON ({error}). Copy or train the model again.") from error
    if not isinstance(value, dict):
        raise InputError(f"{file}: {member} holds {type(value).__name__}, expected an object.")
    return value


def _check_manifest(manifest: dict[str, Any], contents: dict[str, bytes], file: Path, backend: str | None) -> None:
    if manifest.get("format") != FORMAT:
        raise InputError(f"{file}: found format {manifest.get('format')!r}, expected {FORMAT!r}.")
    version = manifest.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise InputError(
            f"{file}: found format version {version!r}, this program reads up to {FORMAT_VERSION}. Update ptychopinn."
        )
    sums = manifest.get("sha256")
    for name in _MEMBERS:
        found = hashlib.sha256(contents[name]).hexdigest()
        if not isinstance(sums, dict) or sums.get(name) != found:
            raise InputError(f"{file}: {name} does not match its checksum, the file is damaged. Copy it again.")
    if not isinstance(manifest.get("backend"), str) or not isinstance(manifest.get("models"), list):
        raise InputError(f"{file}: the manifest lacks 'backend' or 'models'. Copy or train the model again.")
    if backend is not None and manifest["backend"] != backend:
        raise InputError(
            f"{file}: made by backend {manifest['backend']!r}, expected {backend!r}. Load it with that backend."
        )


def _weights_to_bytes(models: dict[str, Weights]) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", track_order=True) as target:
        for model, weights in models.items():
            group = target.create_group(model, track_order=True)
            for name, value in weights.items():
                group.create_dataset(name, data=value)
    return buffer.getvalue()


def _weights_from_bytes(data: bytes) -> dict[str, Weights]:
    with h5py.File(io.BytesIO(data), "r") as source:
        return {model: {name: np.asarray(group[name]) for name in group} for model, group in source.items()}
