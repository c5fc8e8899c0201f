"""Options for what a beamline knows of a scan beside its file; see ptycho.preparation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ptycho.cli.options import FROM_ZERO, POSITIVE, HeadedOption, Numbers

__all__ = ["BEAMLINE_NAMES", "beamline_options"]

F = TypeVar("F", bound=Callable[..., Any])

_DETECTOR, _GEOMETRY = "Detector", "Geometry (in file keys, or here)"

# Flag, field of Preparation, kind (None: a switch), heading, text.
_OPTIONS: tuple[tuple[str, str, Any, str, str], ...] = (
    ("--mask", "mask", click.Path(path_type=Path), _DETECTOR,
     "Bad pixels, N x N, true or not 0 where bad: NPY, NPZ, HDF5, PNG or TIFF. Joined with the scan's own."),
    ("--saturation", "saturation", POSITIVE, _DETECTOR,
     "Mask detector pixels that reach this stored value in any frame."),
    ("--sentinel", "sentinel", Numbers(), _DETECTOR,
     "Mask detector pixels that hold one of these stored values in any frame, as 4294967295 or -1,65535."),
    ("--mask-invalid", "mask_invalid", None, _DETECTOR,
     "Mask detector pixels that in any frame are NaN, infinite, negative, or the largest their integer type can hold."),
    ("--background", "background", FROM_ZERO, _DETECTOR,
     "Constant background in counts per pixel; it is taken off."),
    ("--keep-empty", "keep_empty", None, _DETECTOR,
     "Keep frames without beam, which are left out otherwise."),
    ("--pixel-size", "pixel_size_m", POSITIVE, _GEOMETRY,
     "Side of an object pixel in m, of the frames as stored, before --crop."),
    ("--energy", "photon_energy_ev", POSITIVE, _GEOMETRY, "Photon energy in eV."),
    ("--distance", "detector_distance_m", POSITIVE, _GEOMETRY, "From sample to detector in m."),
    ("--detector-pixel", "detector_pixel_m", POSITIVE, _GEOMETRY,
     "Side of a detector pixel in m; with energy and distance it gives the object pixel."),
)  # fmt: skip

BEAMLINE_NAMES = tuple(field for _, field, _, _, _ in _OPTIONS)


def beamline_options(function: F) -> F:
    """Add the options, in this order in the help text."""
    for flag, field, kind, heading, text in reversed(_OPTIONS):
        kinds: dict[str, Any] = {"is_flag": True} if kind is None else {"type": kind}
        function = click.option(flag, field, help=text, cls=HeadedOption, heading=heading, **kinds)(function)
    return function
