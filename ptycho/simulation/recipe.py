"""A whole simulated scan from one description: object, probe and its guess, pattern, dose, and a detector's faults."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho.diffsim import (
    ZonePlate,
    beamstop,
    dead_pixels,
    make_object,
    make_probe,
    make_scan,
    object_shape_for,
    on_object,
    probe_diameter,
    simulate_scan,
)
from ptycho.errors import InputError
from ptycho.geometry import Canvas, canvas_for, coverage_map, placements
from ptycho.raw_data import RawData
from ptycho.reconstruction import Reconstruction

__all__ = ["Recipe", "Simulated", "default_mode_powers", "simulate"]

DEFOCUS_ERROR = 0.1
"""Relative error of the guess's defocus where nothing is said: probe guesses are never right."""

MAX_VALUES = 2**34
"""Most detector values that one scan may have: its frames are made in memory."""

_MODE_STEP = 0.25  # a probe of several modes: each next one has this share of the one before


@dataclass(frozen=True)
class Recipe:
    """What to simulate; the defaults are the scan of `ptychopinn demo`.

    object_name, probe_name, scan_name, and their parameters: see make_object, make_probe, make_scan of ptycho.diffsim.
    modes, mode_powers: incoherent modes of the probe and their shares of the power; one of the two is enough.
    defocus_error: relative error of the defocus of the probe guess, for zone plates; None is 0.1 for those, 0 else.
    overlap: of neighbours, 1 - step / diameter of the beam (90 % of its power); step: the same in px, and wins.
    counts_per_frame: mean, on the whole detector. poisson: False keeps the noise-free rates.
    position_error: standard deviation (px) of what the scan says of its positions.
    dead_fraction: share of dead detector pixels. beamstop_diameter, beamstop_arm: px on the detector.
    """

    object_name: str = "dead_leaves"
    object_parameters: dict[str, Any] = field(default_factory=dict)
    amplitude_range: tuple[float, float] = (0.7, 1.0)
    phase_range: tuple[float, float] = (0.0, 1.0)
    smooth: float = 0.0
    probe_name: str = "zone_plate"
    probe_parameters: dict[str, Any] = field(default_factory=dict)
    modes: int | None = None
    mode_powers: tuple[float, ...] | None = None
    defocus_error: float | None = None
    scan_name: str = "fermat"
    scan_parameters: dict[str, Any] = field(default_factory=dict)
    n_frames: int = 600
    overlap: float = 0.83
    step: float | None = None
    N: int = 64
    counts_per_frame: float = 1e5
    poisson: bool = True
    position_error: float = 0.0
    dead_fraction: float = 0.0
    beamstop_diameter: float = 0.0
    beamstop_arm: float = 0.0
    pixel_size_m: float | None = None
    photon_energy_ev: float | None = None
    detector_distance_m: float | None = None
    seed: int = 0


@dataclass(frozen=True)
class Simulated:
    """A simulated scan and what is true of it.

    raw: the scan as it would be measured, with object_truth and probe_truth; its positions have their error.
    xcoords, ycoords: float64 (M,), the true positions in pixel indices of object_truth.
    """

    raw: RawData
    xcoords: NDArray[np.float64]
    ycoords: NDArray[np.float64]

    @property
    def truth(self) -> Reconstruction:
        """The truth as a reconstruction would be written, on its own canvas."""
        raw = self.raw
        if raw.object_truth is None or raw.probe_truth is None:
            raise InputError(f"{raw.source}: found no object_truth or probe_truth, expected a simulated scan.")
        height, width = raw.object_truth.shape
        canvas = Canvas((height, width), ((width - 1) / 2, (height - 1) / 2))
        starts, _ = placements(self.xcoords, self.ycoords, raw.N, canvas)
        return Reconstruction(
            object=raw.object_truth, coverage=coverage_map(starts, raw.N, canvas.shape), probe=raw.probe_truth,
            xcoords=self.xcoords, ycoords=self.ycoords, center_xy=canvas.center_xy, pixel_size_m=raw.pixel_size_m,
            photon_energy_ev=raw.photon_energy_ev, detector_distance_m=raw.detector_distance_m, name="truth",
        )  # fmt: skip


def default_mode_powers(modes: int) -> tuple[float, ...]:
    """Shares of the power of so many modes, each a quarter of the one before; they add up to 1."""
    if modes < 1:
        raise InputError(f"modes: found {modes}, expected at least 1.")
    powers = _MODE_STEP ** np.arange(modes)
    return tuple(float(power) for power in powers / powers.sum())


def simulate(recipe: Recipe) -> Simulated:
    """Simulate what a recipe says; equal recipes give equal scans. InputError for what cannot be simulated.

    The scan's metadata hold the recipe. Object, noise, pattern, position error and dead pixels have random numbers of
    their own: changing one of them leaves the others.
    """
    if recipe.n_frames * recipe.N**2 > MAX_VALUES:
        raise InputError(
            f"simulation: found {recipe.n_frames} frames of {recipe.N} x {recipe.N} pixels, expected at most "
            f"{MAX_VALUES:.3g} values in all. Ask for fewer or smaller frames."
        )
    # The first two as simulate_demo_scan draws them.
    seeds = [int(value) for value in np.random.SeedSequence(recipe.seed).generate_state(5)]
    probe, guess = _probes(recipe)
    x, y = make_scan(recipe.scan_name, recipe.n_frames, _step(recipe, probe), seed=seeds[2], **recipe.scan_parameters)
    shape = object_shape_for(x, y, recipe.N)
    canvas_for(x, y, recipe.N)  # says what is wrong with positions that span too much, before anything is made of them
    image = make_object(
        recipe.object_name, shape, seeds[0], amplitude_range=recipe.amplitude_range, phase_range=recipe.phase_range,
        smooth=_length("smooth", recipe.smooth), **recipe.object_parameters,
    )  # fmt: skip
    x, y = on_object(x, y, shape)
    raw = simulate_scan(
        image, probe, x, y, recipe.counts_per_frame, seed=seeds[1], poisson=recipe.poisson, probe_guess=guess,
        bad_pixels=_bad_pixels(recipe, seeds[4]), pixel_size_m=recipe.pixel_size_m,
        photon_energy_ev=recipe.photon_energy_ev, detector_distance_m=recipe.detector_distance_m,
    )  # fmt: skip
    raw.metadata = {"simulation": dataclasses.asdict(recipe)}
    if recipe.position_error:
        wrong = np.random.default_rng(seeds[3]).normal(0, _length("position_error", recipe.position_error), (2, x.size))
        raw.xcoords, raw.ycoords = x + wrong[0], y + wrong[1]
        raw.xcoords_start, raw.ycoords_start = raw.xcoords.copy(), raw.ycoords.copy()
    return Simulated(raw, x, y)


def _length(name: str, value: float) -> float:
    if not (np.isfinite(value) and value >= 0):
        raise InputError(f"{name}: found {value}, expected a length in px, 0 or more.")
    return value


def _probes(recipe: Recipe) -> tuple[NDArray[np.complex64], NDArray[np.complex64]]:
    """The true probe and the guess, (modes, N, N)."""
    parameters = dict(recipe.probe_parameters)
    powers = recipe.mode_powers
    if powers is None and recipe.modes is not None and recipe.modes != 1:
        powers = default_mode_powers(recipe.modes)
    if powers is not None and recipe.modes is not None and len(powers) != recipe.modes:
        raise InputError(f"modes: found {recipe.modes} and {len(powers)} mode powers, expected one power per mode.")
    if recipe.probe_name != "zone_plate":
        if recipe.defocus_error:
            raise InputError(
                f"defocus_error: found {recipe.defocus_error} for the probe {recipe.probe_name!r}, expected 0: only "
                "the zone_plate has a defocus. Leave it out, or choose the zone plate."
            )
        probe = make_probe(recipe.probe_name, recipe.N, mode_powers=powers, **parameters)
        return probe, probe
    # The beam grows with the frame.
    parameters.setdefault("defocus", ZonePlate().defocus * recipe.N / 64)
    error = DEFOCUS_ERROR if recipe.defocus_error is None else recipe.defocus_error
    defocus = parameters["defocus"]
    if not isinstance(defocus, (int, float)) or isinstance(defocus, bool):
        raise InputError(f"zone plate: found defocus {defocus!r}, expected a number (px^2).")
    probe = make_probe("zone_plate", recipe.N, mode_powers=powers, **parameters)
    wrong = parameters | {"defocus": defocus * (1 + error)}
    return probe, make_probe("zone_plate", recipe.N, mode_powers=powers, **wrong)


def _step(recipe: Recipe, probe: NDArray[np.complex64]) -> float:
    """Smallest distance of two positions, px."""
    if recipe.step is not None:
        return recipe.step
    if not 0 <= recipe.overlap < 1:
        raise InputError(f"overlap: found {recipe.overlap}, expected 0 <= overlap < 1 (0.8 is 80 %).")
    return round(1 - recipe.overlap, 12) * probe_diameter(probe)


def _bad_pixels(recipe: Recipe, seed: int) -> NDArray[np.bool_] | None:
    bad = dead_pixels(recipe.N, recipe.dead_fraction, seed)
    bad = bad | beamstop(recipe.N, recipe.beamstop_diameter, recipe.beamstop_arm)
    return bad if bad.any() else None
