"""What a beamline knows of a scan beside its file: masks, saturation, dead-pixel values, background, geometry."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho.errors import InputError
from ptycho.io.mask_files import read_mask
from ptycho.raw_data import RawData
from ptycho.units import tell_of_units
from ptycho.validation import check_bad_pixels, chunks, wrong_values

__all__ = ["Preparation", "object_pixel_size_m", "read_prepared_scan", "without_empty_frames"]

logger = logging.getLogger(__name__)

PLANCK_TIMES_C_EV_M = 1.239841984e-6  # photon energy in eV times wavelength in m
EMPTY = 1e-3
"""A frame with less than this share of the median frame's counts was taken without beam."""
_MANY = 0.2


@dataclass(frozen=True)
class Preparation:
    """What is stated about a scan; None and False leave the file as it is.

    mask: file of bad pixels, see ptycho.io.mask_files. saturation: pixels that reach this stored value in any frame
    are masked. sentinel: stored values that stand for pixels that did not work. mask_invalid: mask pixels that in any
    frame are NaN, infinite, negative, the largest of an 8- or 16-bit type, or a whole number from 2**31 - 1 on.
    background: constant, in counts per pixel, taken off. keep_empty: do not leave out frames without beam.
    pixel_size_m: of the object; or it follows from photon_energy_ev, detector_distance_m and detector_pixel_m.
    """

    mask: Path | None = None
    saturation: float | None = None
    sentinel: tuple[float, ...] = ()
    mask_invalid: bool = False
    background: float | None = None
    keep_empty: bool = False
    pixel_size_m: float | None = None
    photon_energy_ev: float | None = None
    detector_distance_m: float | None = None
    detector_pixel_m: float | None = None


def read_prepared_scan(path: str | Path, preparation: Preparation, **stated: Any) -> RawData:
    """A scan with everything applied; what was masked, left out or looks like another unit is logged.

    stated: see RawData.from_file. Raises InputError or MissingFileError, for the scan and for the mask.
    """
    from ptycho.io.registry import read_scan

    entries = read_scan(path, **stated)
    source = str(path)
    frames = entries["diff3d"]
    if preparation.mask is not None or _looks_at_values(preparation):
        entries["bad_pixels"] = _mask(frames, entries.get("bad_pixels"), preparation, source)
    if preparation.background:
        entries["background_counts"] = preparation.background
    entries.update(_geometry(entries, preparation, np.shape(frames)[-1], source))
    raw = RawData(**entries)
    tell_of_units(raw, preparation.detector_pixel_m)
    return raw if preparation.keep_empty else without_empty_frames(raw)


def _looks_at_values(preparation: Preparation) -> bool:
    return preparation.saturation is not None or bool(preparation.sentinel) or preparation.mask_invalid


def _mask(frames: Any, known: Any, preparation: Preparation, source: str) -> npt.NDArray[np.bool_]:
    """The file's own mask with everything that is stated, bool (N, N), True = bad."""
    if np.ndim(frames) != 3 or np.shape(frames)[1] != np.shape(frames)[2]:
        raise InputError(f"{source}: diff3d: found shape {np.shape(frames)}, expected (frames, N, N) square frames.")
    N = np.shape(frames)[-1]
    bad = np.zeros((N, N), dtype=bool) if known is None else check_bad_pixels(known, N, source)
    if preparation.mask is not None:
        bad = bad | read_mask(preparation.mask, N)
    if _looks_at_values(preparation):
        found = _found_in_values(frames, preparation)
        for what, pixels in found.items():
            new = int((pixels & ~bad).sum())
            logger.info("%s: %d detector pixel(s) masked: %s.", source, new, what)
        bad = np.logical_or.reduce([bad, *found.values()])
    share = float(bad.mean())
    if share > _MANY:
        logger.warning("%s: %.0f %% of the detector is masked.", source, 100 * share)
    return check_bad_pixels(bad, N, source)


def _found_in_values(frames: Any, preparation: Preparation) -> dict[str, npt.NDArray[np.bool_]]:
    """Why -> bool (N, N): pixels that are so in any frame."""
    found: dict[str, npt.NDArray[np.bool_]] = {}

    def add(what: str, wrong: npt.NDArray[np.bool_]) -> None:
        found[what] = found.get(what, np.zeros(wrong.shape[1:], dtype=bool)) | wrong.any(axis=0)

    for part in chunks(frames):
        block = np.asarray(frames[part])
        if preparation.saturation is not None:
            add(f"saturated (>= {preparation.saturation:g})", block >= preparation.saturation)
        for value in preparation.sentinel:
            add(f"value {value:g}", block == value)
        if preparation.mask_invalid and block.dtype.kind in "fiu":
            wrong, full = wrong_values(block)
            add("not finite, negative or impossibly large", wrong)
            add(f"the largest {block.dtype}", full)
    return found


def _geometry(entries: dict[str, Any], preparation: Preparation, N: int, source: str) -> dict[str, float]:
    """Lengths and energy: what is stated, over what the file has."""
    names = ("pixel_size_m", "photon_energy_ev", "detector_distance_m")
    known = {name: getattr(preparation, name) for name in names if getattr(preparation, name) is not None}
    if preparation.detector_pixel_m is None:
        lengths = [name for name in names[1:] if name in known]
        if lengths and (known.get(names[0]) or entries.get(names[0])) is None:
            logger.info(
                "%s: %s: kept with the results, but with no effect on the size of the object pixel. State energy, "
                "distance and detector pixel (--detector-pixel), or the object pixel itself (--pixel-size).",
                source, " and ".join(f"{name}={known[name]:g}" for name in lengths),
            )  # fmt: skip
        return known
    energy, distance = (known.get(name) or entries.get(name) for name in names[1:])
    if energy is None or distance is None:
        raise InputError(
            f"{source}: the detector pixel is stated, but not the photon energy and the distance of the detector, with "
            "which it gives the object pixel. State all three, or the object pixel itself."
        )
    size = object_pixel_size_m(energy, distance, N, preparation.detector_pixel_m)
    stated = known.get("pixel_size_m")
    if stated is not None and abs(stated / size - 1) > 1e-3:
        raise InputError(
            f"{source}: object pixel stated as {stated:.4g} m, but energy, distance and detector pixel give {size:.4g} "
            f"m for frames of {N} pixels. State one of the two."
        )
    return known | {"pixel_size_m": size}


def object_pixel_size_m(photon_energy_ev: float, detector_distance_m: float, N: int, detector_pixel_m: float) -> float:
    """Side of an object pixel in m: wavelength * distance / (N * detector pixel), in the far field."""
    for name, value in (("photon energy", photon_energy_ev), ("distance", detector_distance_m),
                        ("detector pixel", detector_pixel_m)):  # fmt: skip
        if not value > 0:
            raise InputError(f"{name}: found {value!r}, expected a positive number (eV and m).")
    return PLANCK_TIMES_C_EV_M / photon_energy_ev * detector_distance_m / (N * detector_pixel_m)


def without_empty_frames(raw: RawData) -> RawData:
    """The scan without frames that were taken without beam; which they are is logged.

    InputError when no frame holds anything.
    """
    good = raw.good_pixels
    totals = np.concatenate(
        [np.asarray(raw.diff3d[part])[:, good].sum(axis=1, dtype=np.float64) for part in chunks(raw.diff3d)]
    )
    empty = totals <= EMPTY * np.median(totals)
    if empty.all() or not totals.max() > 0:
        raise InputError(
            f"{raw.source}: diff3d: found frames without a single count, expected photon counts. Check the file and "
            "the mask (True is a bad pixel)."
        )
    if not empty.any():
        return raw
    logger.warning(
        "%s: %d of %d frames are empty and left out: %s.", raw.source, int(empty.sum()), raw.n_frames,
        _listed(np.flatnonzero(empty)),
    )  # fmt: skip
    return raw.subset(~empty)


def _listed(numbers: Iterable[int], most: int = 8) -> str:
    chosen = list(numbers)
    return ", ".join(map(str, chosen[:most])) + (", ..." if len(chosen) > most else "")


def stated_preparation(values: dict[str, Any]) -> Preparation:
    """A preparation from those of `values` that are its fields and not None."""
    names = {f.name for f in dataclasses.fields(Preparation)}
    return Preparation(**{name: value for name, value in values.items() if name in names and value is not None})
