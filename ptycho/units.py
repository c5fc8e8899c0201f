"""Whether positions, lengths and energies look as if they were stated in another unit: questions, not refusals.

A dense scan of large pixels, or a source of another kind, may be meant as it is. Positions that nothing can be
reconstructed from are refused elsewhere (ptycho.validation.check_positions_differ).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ptycho.validation import LEAST_SPAN_PX

if TYPE_CHECKING:
    from ptycho.raw_data import RawData

__all__ = ["tell_of_units", "unit_cautions"]

logger = logging.getLogger(__name__)

LEAST_STEP_PX = 1.0
LEAST_SPAN_OF_BEAM = 0.25
OBJECT_PIXEL_M = (1e-12, 1e-5)
LEAST_ENERGY_EV = 50.0
LARGEST_DETECTOR_PIXEL_M = 1e-3


def unit_cautions(raw: RawData, detector_pixel_m: float | None = None) -> list[str]:
    """What to ask about a scan as it is stored: cropping divides its steps, which says nothing of their unit.

    detector_pixel_m: as stated, if it is.
    """
    return [*_of_positions(raw), *_of_geometry(raw, detector_pixel_m)]


def tell_of_units(raw: RawData, detector_pixel_m: float | None = None) -> None:
    """Log the cautions."""
    for caution in unit_cautions(raw, detector_pixel_m):
        logger.warning("%s: %s", raw.source, caution)


def _of_positions(raw: RawData) -> Iterator[str]:
    height, width = float(np.ptp(raw.ycoords)), float(np.ptp(raw.xcoords))
    span = max(height, width)
    if raw.n_frames < 2 or span < LEAST_SPAN_PX:
        return
    step, beam = _step(raw), _beam(raw)
    if step >= LEAST_STEP_PX and (beam is None or span >= LEAST_SPAN_OF_BEAM * beam):
        return
    lit = "" if beam is None else f", with a beam {beam:.3g} px across"
    here = "" if raw.pixel_size_m is None else f" ({raw.pixel_size_m * 1e6:.4g} here)"
    yield (
        f"The positions span {height:.3g} x {width:.3g} px, {step:.2g} px from neighbour to neighbour{lit}: are they "
        f"in object pixels? Micrometres are divided by the side of the object pixel in micrometres{here}, metres by "
        "that in metres."
    )


def _step(raw: RawData) -> float:
    """Median distance of a place to the nearest other one, px; several frames at one place count once."""
    from ptycho.simulation.figures import nearest_distances

    places = np.unique(np.stack([raw.xcoords, raw.ycoords], axis=1), axis=0)
    return float(np.median(nearest_distances(places[:, 0], places[:, 1])))


def _beam(raw: RawData) -> float | None:
    """Diameter of the beam of the probe guess, px; None where there is none."""
    from ptycho.probe import normalise_probe, probe_power
    from ptycho.simulation.figures import probe_diameter

    if raw.probeGuess is None:
        return None
    probe = normalise_probe(raw.probeGuess)
    return probe_diameter(probe) if probe_power(probe) > 0 else None


def _of_geometry(raw: RawData, detector_pixel_m: float | None) -> Iterator[str]:
    causes = [*_of_energy(raw.photon_energy_ev), *_of_detector(detector_pixel_m)]
    yield from causes
    smallest, largest = OBJECT_PIXEL_M
    # one that was worked out of an energy or a detector pixel in another unit is wrong for that reason
    if not causes and raw.pixel_size_m is not None and not smallest <= raw.pixel_size_m <= largest:
        yield (
            f"An object pixel of {raw.pixel_size_m:.3g} m: are lengths in metres and the energy in eV? It is "
            "wavelength * distance / (N * detector pixel)."
        )


def _of_energy(energy_ev: float | None) -> Iterator[str]:
    if energy_ev is not None and energy_ev < LEAST_ENERGY_EV:
        yield f"A photon energy of {energy_ev:g} eV: is it in keV? State it in eV."


def _of_detector(pixel_m: float | None) -> Iterator[str]:
    if pixel_m is not None and pixel_m > LARGEST_DETECTOR_PIXEL_M:
        yield f"A detector pixel of {pixel_m:g} m: is it in micrometres? State it in metres, as 75e-6."
