"""Reconstructions: NPZ files of ours, and products (HDF5)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho.errors import InputError
from ptycho.geometry import placements
from ptycho.inspection.data import Facts, Inspection, probe_facts, shape_text
from ptycho.reconstruction import Reconstruction

__all__ = ["inspect_product", "inspect_reconstruction"]

FLAT = 1e-4  # standard deviation below which an image is called constant (phase in rad, amplitude relative)


def inspect_reconstruction(path: Path) -> Inspection:
    """Look at an NPZ with an object: one of this program in full, another one as far as it goes."""
    from ptycho.io.reconstruction_files import load_any, load_reconstruction_npz

    loaded = load_any(path)
    if loaded.probe is not None and loaded.xcoords is not None and loaded.center_xy is not None:
        found = _inspect(path, "reconstruction", load_reconstruction_npz(path))
    else:
        found = Inspection(path, "reconstruction", {"object": _object_facts(loaded.object, None)})
        if loaded.probe is not None:
            found.sections["probe"] = probe_facts(loaded.probe)
        if loaded.xcoords is not None and loaded.ycoords is not None:
            found.sections["positions"] = _position_facts(loaded.xcoords, loaded.ycoords)
        missing = [name for name in ("probe", "xcoords", "center_xy") if getattr(loaded, name) is None]
        found.warnings = _about_object(found.sections["object"])
        found.warnings.append(f"No {', '.join(missing)}: where the scan lies in the object is guessed.")
    found.sections["arrays"] = _npz_entries(path)
    found.size_bytes = path.stat().st_size
    return found


def inspect_product(path: Path) -> Inspection:
    """Look at a product."""
    import h5py

    from ptycho.io.product import load_product

    found = _inspect(path, "product", load_product(path))
    with h5py.File(path, "r") as file:
        entries = {name: shape_text(entry) for name, entry in file.items() if isinstance(entry, h5py.Dataset)}
        comments = file.attrs.get("comments", "")
    text = comments.decode("utf-8", "replace") if isinstance(comments, bytes) else str(comments)
    found.sections["object"]["comments"] = text or None
    found.sections["arrays"] = entries
    found.size_bytes = path.stat().st_size
    return found


def _npz_entries(path: Path) -> Facts:
    from ptycho.io.npz import open_npz, read_entry

    with open_npz(path) as npz:
        arrays = {name: read_entry(npz, name, str(path), optional=True) for name in npz.files}
    return {name: shape_text(array) for name, array in arrays.items() if array is not None}


def _inspect(path: Path, kind: str, rec: Reconstruction) -> Inspection:
    coverage = rec.coverage if np.any(rec.coverage) else None
    found = Inspection(
        path,
        kind,
        {
            "object": {
                "name": rec.name,
                **_object_facts(rec.object, coverage),
                "center_x_px": rec.center_xy[0],
                "center_y_px": rec.center_xy[1],
                "pixel_size_m": rec.pixel_size_m,
                "photon_energy_ev": rec.photon_energy_ev,
                "detector_distance_m": rec.detector_distance_m,
            },
            "probe": probe_facts(rec.probe),
            "positions": _position_facts(rec.xcoords, rec.ycoords),
        },
    )
    if rec.losses is not None and rec.losses.size:
        losses: Facts = {"epochs": int(rec.losses.size), "first": float(rec.losses[0]), "last": float(rec.losses[-1])}
        found.sections["losses"] = losses
        if rec.losses.size > 1 and not losses["last"] <= losses["first"]:
            found.warnings.append("The loss is no lower at the end than at the beginning: the run did not converge.")
    found.warnings += _about_object(found.sections["object"])
    if rec.pixel_size_m is None:
        found.warnings.append("No pixel size: lengths are in pixels.")
    if not found.sections["probe"]["power"] > 0:
        found.warnings.append("The probe is zero.")
    try:
        placements(rec.xcoords, rec.ycoords, rec.probe.shape[-1], rec.canvas)
    except InputError as error:
        found.warnings.append(f"Positions and object do not belong together: {error}")
    return found


def _object_facts(image: npt.NDArray[np.complex64], coverage: npt.NDArray[Any] | None) -> Facts:
    seen = image if coverage is None else image[coverage > 0]
    amplitude, phase = np.abs(seen), np.angle(seen)
    return {
        "shape_px": list(image.shape),
        "dtype": str(image.dtype),
        "seen_share": None if coverage is None else float(np.mean(coverage > 0)),
        "most_frames_on_a_pixel": None if coverage is None else int(coverage.max()),
        "amplitude_range": [float(amplitude.min()), float(amplitude.max())],
        "amplitude_mean": float(amplitude.mean()),
        "amplitude_spread": float(amplitude.std()),
        "phase_range_rad": [float(phase.min()), float(phase.max())],
        "phase_spread_rad": float(phase.std()),
    }


def _position_facts(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> Facts:
    return {
        "frames": int(x.size),
        "x_range_px": [float(x.min()), float(x.max())],
        "y_range_px": [float(y.min()), float(y.max())],
    }


def _about_object(facts: Facts) -> list[str]:
    warnings = []
    if facts["phase_spread_rad"] < FLAT and facts["amplitude_spread"] < FLAT * max(facts["amplitude_mean"], FLAT):
        warnings.append("The object is constant: nothing was reconstructed.")
    elif facts["amplitude_range"][1] > 10 * max(facts["amplitude_mean"], 1e-12):
        warnings.append(
            "Some pixels of the object are more than 10 times as bright as its mean: hot pixels at the rim of the "
            "scan, or a probe that is too weak."
        )
    return warnings
