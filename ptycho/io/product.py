"""The ptychodus product: one HDF5 file with object, probe, positions and losses, lengths in metres.

Today's names (ptychodus 1.7) are written; today's and older ones are read. See specs/data_contracts.md.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho.errors import InputError, MissingFileError
from ptycho.io.atomic import atomic_path
from ptycho.probe import normalise_probe
from ptycho.reconstruction import Reconstruction
from ptycho.validation import check_coverage, check_object, check_positions, check_real, fault

__all__ = ["save_product", "load_product"]

logger = logging.getLogger(__name__)

# Ours: set when the pixel size was not known and lengths are in pixels.
_PIXEL_UNITS = "lengths_in_pixels"
_PIXEL_NOTE = "The object pixel size was not known: one pixel is written as 1.0 m, so lengths are in pixels."


def save_product(path: str | Path, rec: Reconstruction, comments: str = "") -> None:
    """Write a product, atomically. Without a pixel size one pixel is written as 1.0 m, and the file says so.

    Photon energy and distance that are not known are written as 0, as ptychodus does.
    """
    import h5py

    pixel = rec.pixel_size_m
    if pixel is None:
        logger.warning("%s: %s", path, _PIXEL_NOTE)
        comments = f"{comments} {_PIXEL_NOTE}".strip()
        pixel = 1.0
    losses = np.zeros(0) if rec.losses is None else np.asarray(rec.losses, dtype=np.float64)
    roots: dict[str, Any] = {
        "name": rec.name,
        "comments": comments,
        "detector_object_distance_m": float(rec.detector_distance_m or 0.0),
        "focus_object_distance_m": 0.0,
        "photon_energy_eV": float(rec.photon_energy_ev or 0.0),
        "probe_photon_count": float(np.sum(np.abs(rec.probe.astype(np.complex128)) ** 2)),
        "exposure_time_s": 0.0,
        "mass_attenuation_m2_per_kg": 0.0,
        "tomography_angle_deg": 0.0,
        "tilt_angle_deg": 0.0,
        "far_field": True,
        _PIXEL_UNITS: rec.pixel_size_m is None,
    }
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs.update(roots)
        file["probe_position_indexes"] = np.arange(rec.xcoords.size, dtype=np.int64)
        file["probe_position_x_m"] = np.asarray(rec.xcoords, dtype=np.float64) * pixel
        file["probe_position_y_m"] = np.asarray(rec.ycoords, dtype=np.float64) * pixel
        for axis, given in (("x", rec.xcoords_start), ("y", rec.ycoords_start)):
            if given is not None:  # ours, as coverage is
                file[f"probe_position_start_{axis}_m"] = np.asarray(given, dtype=np.float64) * pixel
        file["probe"] = np.asarray(rec.probe, dtype=np.complex64)
        file["object"] = np.asarray(rec.object, dtype=np.complex64)[None]
        for name in ("probe", "object"):
            file[name].attrs.update({"pixel_width_m": pixel, "pixel_height_m": pixel})
        file["object"].attrs.update(
            {"center_x_m": rec.center_xy[0] * pixel, "center_y_m": rec.center_xy[1] * pixel}
        )
        file["object_layer_spacing_m"] = np.zeros(0)
        file["loss_epochs"] = np.arange(losses.size, dtype=np.int64)
        file["loss_values"] = losses
        file["coverage"] = rec.coverage  # ours, as what follows; other readers pass over it
        if rec.phase_interval_90_rad is not None:
            file["phase_interval_90_rad"] = np.asarray(rec.phase_interval_90_rad, dtype=np.float32)


def load_product(path: str | Path) -> Reconstruction:
    """Read a product into pixels. Of a probe that varies (OPR) the first is taken, of a layered object the
    only one.
    """
    import h5py

    source = Path(path)
    if not source.exists():
        raise MissingFileError(f"{source}: no such file. Check the path of the product.")
    try:
        with h5py.File(source, "r") as file:
            return _read(file, str(source))
    except InputError:
        raise
    except (OSError, KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        raise InputError(
            f"{source}: found something that cannot be read as a ptychodus product ({error}), expected an "
            "HDF5 "
            "file with object, probe and positions. Is it complete?"
        ) from error


def _dataset(file: Any, name: str, source: str) -> npt.NDArray[Any]:
    import h5py

    entry = file.get(name)
    if not isinstance(entry, h5py.Dataset):
        raise fault(
            source,
            name,
            f"the entries {', '.join(sorted(file))}",
            f"a dataset {name}",
            "Is this a ptychodus product?",
        )
    return np.asarray(entry[()])


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _number(attrs: Any, name: str, source: str, default: float = 0.0) -> float:
    """An attribute that is a number."""
    if name not in attrs:
        return default
    value = np.asarray(attrs[name])
    if value.size != 1 or value.dtype.kind not in "fiub":
        raise fault(source, name, repr(value.tolist()), "a number", "Correct the attribute.")
    return float(value.reshape(())[()])


def _known(file: Any, source: str, *names: str) -> float | None:
    """The first of these root attributes that is there, None if it is 0 (unknown)."""
    return next((_number(file.attrs, name, source) or None for name in names if name in file.attrs), None)


def _optional(file: Any, source: str, *names: str) -> npt.NDArray[Any] | None:
    """The first of these datasets of real numbers that is there."""
    return next((check_real(_dataset(file, name, source), name, source) for name in names if name in file), None)


def _positions(file: Any, source: str) -> list[npt.NDArray[np.float64]]:
    """x and y in metres."""
    found: list[npt.NDArray[np.float64]] = []
    for name in ("probe_position_x_m", "probe_position_y_m"):
        found.append(check_positions(_dataset(file, name, source), name, source, found[0].size if found else None))
    return found


def _probe(file: Any, source: str) -> npt.NDArray[np.complex64]:
    """Of (OPR mode, incoherent mode, rows, columns) the first, which carries the mean probe."""
    probe = _dataset(file, "probe", source)
    if probe.ndim == 4 and len(probe):
        probe = probe[0]
    return normalise_probe(probe, source=f"{source}: probe")


def _read(file: Any, source: str) -> Reconstruction:
    image = check_object(_dataset(file, "object", source), "object", source).astype(np.complex64)
    attrs = file["object"].attrs
    missing = [name for name in ("pixel_width_m", "pixel_height_m") if name not in attrs]
    if missing:
        raise fault(
            source,
            "object",
            f"no attribute {', '.join(missing)}",
            "the pixel size in metres",
            "Is this a ptychodus product?",
        )
    width, height = (_number(attrs, name, source) for name in ("pixel_width_m", "pixel_height_m"))
    if not (np.isfinite([width, height]).all() and width > 0 and height > 0):
        raise fault(
            source,
            "object",
            f"a pixel of {width} m x {height} m",
            "a positive size",
            "Correct the attributes.",
        )
    if abs(width - height) > 1e-6 * width:
        logger.warning(
            "%s: object pixels are %g m wide and %g m high; each axis is converted by its own.",
            source,
            width,
            height,
        )
    x, y = _positions(file, source)
    losses = _optional(file, source, "loss_values", "costs")
    seen = _optional(file, source, "coverage")
    interval = _optional(file, source, "phase_interval_90_rad")
    center = _number(attrs, "center_x_m", source) / width, _number(attrs, "center_y_m", source) / height
    if not np.isfinite(center).all():
        raise fault(source, "object", f"its middle at {center} px", "finite numbers", "Correct center_x_m, center_y_m.")
    return Reconstruction(
        object=image,
        coverage=np.zeros(image.shape, np.int32) if seen is None else check_coverage(seen, image.shape, source),
        probe=_probe(file, source),
        xcoords=x / width,
        ycoords=y / height,
        center_xy=center,
        pixel_size_m=None if _number(file.attrs, _PIXEL_UNITS, source) else width,
        photon_energy_ev=_known(file, source, "photon_energy_eV", "probe_energy_eV"),
        detector_distance_m=_known(file, source, "detector_object_distance_m"),
        losses=None if losses is None or losses.size == 0 else losses.astype(np.float64).reshape(-1),
        name=_text(file.attrs.get("name", "Unnamed")),
        phase_interval_90_rad=None if interval is None else np.asarray(interval, dtype=np.float32),
    )
