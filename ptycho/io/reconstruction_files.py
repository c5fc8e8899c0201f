"""`reconstruction.npz`, and `load_any`: the object in whatever file `evaluate` is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho.errors import InputError, MissingFileError
from ptycho.io.atomic import atomic_path
from ptycho.io.npz import open_npz, read_entry, read_number
from ptycho.io.product import load_product
from ptycho.io.registry import HDF5_MAGIC, ZIP_MAGIC
from ptycho.probe import normalise_probe
from ptycho.reconstruction import Reconstruction
from ptycho.validation import check_coverage, check_object, check_positions, check_real, fault

__all__ = ["LoadedObject", "save_reconstruction_npz", "load_reconstruction_npz", "load_any"]

_INTERVAL = "phase_interval_90_rad"
_SCALARS = ("pixel_size_m", "photon_energy_ev", "detector_distance_m")
_GIVEN = ("xcoords_start", "ycoords_start")
# In this order: what a reconstruction holds, then what a scan file holds.
_OBJECT_KEYS = ("object", "object_truth", "objectGuess")


@dataclass
class LoadedObject:
    """An object from a file, with what else the file says about it; None where it says nothing.

    object: complex64 (H, W). kind: 'reconstruction', 'product' or 'scan'. key: the entry it came from.
    center_xy: object coordinates (x, y) of the array's middle, the frame of xcoords and ycoords.
    """

    object: npt.NDArray[np.complex64]
    path: Path
    kind: str
    key: str
    probe: npt.NDArray[np.complex64] | None = None
    coverage: npt.NDArray[np.generic] | None = None
    xcoords: npt.NDArray[np.float64] | None = None
    ycoords: npt.NDArray[np.float64] | None = None
    center_xy: tuple[float, float] | None = None
    pixel_size_m: float | None = None


def save_reconstruction_npz(path: str | Path, rec: Reconstruction) -> None:
    """Write a reconstruction as NPZ, atomically; entries that are None are left out."""
    entries: dict[str, Any] = {
        "object": np.asarray(rec.object, dtype=np.complex64),
        "coverage": rec.coverage,
        "probe": np.asarray(rec.probe, dtype=np.complex64),
        "xcoords": np.asarray(rec.xcoords, dtype=np.float64),
        "ycoords": np.asarray(rec.ycoords, dtype=np.float64),
        "center_xy": np.asarray(rec.center_xy, dtype=np.float64),
        "name": np.array(rec.name),
    }
    for key in (*_SCALARS, "losses", *_GIVEN):
        if getattr(rec, key) is not None:
            entries[key] = np.asarray(getattr(rec, key), dtype=np.float64)
    if rec.phase_interval_90_rad is not None:
        entries[_INTERVAL] = np.asarray(rec.phase_interval_90_rad, dtype=np.float32)
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.savez(stream, **entries)


def load_reconstruction_npz(path: str | Path) -> Reconstruction:
    """Read what save_reconstruction_npz wrote; InputError names what is missing."""
    loaded = load_any(path)
    if (
        loaded.kind != "reconstruction"
        or loaded.probe is None
        or loaded.xcoords is None
        or loaded.center_xy is None
    ):
        raise InputError(
            f"{path}: found an incomplete reconstruction, expected object, probe, xcoords, ycoords and "
            "center_xy. "
            "Was it written by ptychopinn?"
        )
    source = str(path)
    with open_npz(path) as npz:
        numbers = {key: read_number(npz, key, source) for key in _SCALARS}
        losses = read_entry(npz, "losses", source, optional=True)
        starts = {key: read_entry(npz, key, source, optional=True) for key in _GIVEN}
        name = read_entry(npz, "name", source, optional=True)
        interval = read_entry(npz, _INTERVAL, source, optional=True)
    n = loaded.xcoords.size
    given = {key: None if v is None else check_positions(v, key, source, n) for key, v in starts.items()}
    coverage = np.zeros(loaded.object.shape, dtype=np.int32) if loaded.coverage is None else loaded.coverage
    return Reconstruction(
        object=loaded.object,
        coverage=coverage,
        probe=loaded.probe,
        xcoords=loaded.xcoords,
        ycoords=loaded.ycoords if loaded.ycoords is not None else np.zeros_like(loaded.xcoords),
        center_xy=loaded.center_xy,
        losses=None if losses is None else check_real(losses, "losses", source).astype(np.float64).reshape(-1),
        name="reconstruction" if name is None else str(name),
        xcoords_start=given["xcoords_start"],
        ycoords_start=given["ycoords_start"],
        phase_interval_90_rad=None if interval is None else check_real(interval, _INTERVAL, source).astype(np.float32),
        **numbers,
    )


def load_any(path: str | Path) -> LoadedObject:
    """The object of a reconstruction (NPZ with `object`), of a product (HDF5), or of a scan file (NPZ with
    `object_truth` or `objectGuess`). The kind is told from the content."""
    file = Path(path)
    if file.is_dir() and (file / "reconstruction.npz").is_file():
        file = file / "reconstruction.npz"  # the output folder of a run
    if not file.exists():
        raise MissingFileError(f"{file}: no such file. Check the path of the object to load.")
    if file.is_dir():
        raise InputError(
            f"{file}: found a folder without a reconstruction.npz, expected a file. Name the file."
        )
    with open(file, "rb") as stream:
        head = stream.read(8)
    if head == HDF5_MAGIC:
        rec = load_product(file)
        return LoadedObject(
            rec.object,
            file,
            "product",
            "object",
            rec.probe,
            rec.coverage if rec.coverage.any() else None,
            rec.xcoords,
            rec.ycoords,
            rec.center_xy,
            rec.pixel_size_m,
        )
    if not head.startswith(ZIP_MAGIC):
        raise InputError(
            f"{file}: found neither NPZ nor HDF5, expected a reconstruction, a product or a scan. Is it "
            "complete?"
        )
    return _from_npz(file)


def _from_npz(file: Path) -> LoadedObject:
    source = str(file)
    with open_npz(file) as npz:
        image, key = None, ""
        for name in _OBJECT_KEYS:
            # An objectGuess of None was stored as a pickle by older writers: then there is no object.
            image = read_entry(npz, name, source, optional=name != "object")
            if image is not None:
                key = name
                break
        if image is None:
            raise fault(
                source,
                "keys",
                ", ".join(sorted(npz.files)) or "none",
                f"one of {', '.join(_OBJECT_KEYS)}",
                "Name a reconstruction, or a scan that carries its object.",
            )
        image = check_object(image, key, source).astype(np.complex64)
        coords = {name: read_entry(npz, name, source, optional=True) for name in ("xcoords", "ycoords")}
        if any(value is None for value in coords.values()):
            coords = dict.fromkeys(coords)
        n = None if coords["xcoords"] is None else int(np.size(coords["xcoords"]))
        positions = {k: None if v is None else check_positions(v, k, source, n) for k, v in coords.items()}
        is_scan = key != "object"
        probe = read_entry(
            npz,
            {"object": "probe", "object_truth": "probe_truth"}.get(key, "probeGuess"),
            source,
            optional=True,
        )
        coverage = None if is_scan else read_entry(npz, "coverage", source, optional=True)
        center = None if is_scan else read_entry(npz, "center_xy", source, optional=True)
        if center is not None and not np.isfinite(check_real(center, "center_xy", source, (2,))).all():
            raise fault(source, "center_xy", "NaN or infinite values", "x and y in pixels", "Write it again.")
        pixel = read_number(npz, "pixel_size_m", source)
    height, width = image.shape
    middle = ((width - 1) / 2, (height - 1) / 2) if is_scan else None
    return LoadedObject(
        object=image,
        path=file,
        kind="scan" if is_scan else "reconstruction",
        key=key,
        probe=None if probe is None else normalise_probe(probe, source=f"{source}: probe"),
        coverage=None if coverage is None else check_coverage(coverage, image.shape, source),
        center_xy=middle if center is None else (float(center[0]), float(center[1])),
        pixel_size_m=pixel,
        **positions,
    )
