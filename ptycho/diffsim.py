"""Simulation of ptychographic scans: objects, probes, positions, and the photon counts they give.

The detector model is that of specs/scaling.md: F = fftshift(fft2(ifftshift(P * O), norm="ortho")), rate = sum
over modes of |F|^2, counts drawn from a Poisson law.  NumPy only; written on its own, without the code that
later reconstructs, so that each can be tested against the other.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from ptycho.errors import InputError
from ptycho.geometry import checked_positions
from ptycho.raw_data import RawData
from ptycho.simulation.detector import beamstop, dead_pixels, without_pixels
from ptycho.simulation.figures import nearest_distances, probe_diameter
from ptycho.simulation.objects import make_object
from ptycho.simulation.probes import ZonePlate, make_probe
from ptycho.simulation.scans import make_scan

logger = logging.getLogger(__name__)

__all__ = [
    "ZonePlate",
    "beamstop",
    "dead_pixels",
    "diffraction_rates",
    "make_object",
    "make_probe",
    "make_scan",
    "nearest_distances",
    "object_shape_for",
    "on_object",
    "probe_diameter",
    "simulate_demo_scan",
    "simulate_scan",
]

_CHUNK_PIXELS = 2**21  # complex values worked on at once: 32 MiB


def object_shape_for(
    xcoords: NDArray[np.float64], ycoords: NDArray[np.float64], N: int, margin: int = 2
) -> tuple[int, int]:
    """(H, W) of an object that every frame of a scan fits on, with `margin` px to spare on each side."""
    height, width = (int(np.ceil(np.ptp(values))) + N + 2 * margin for values in (ycoords, xcoords))
    return height, width


def on_object(
    xcoords: NDArray[np.float64], ycoords: NDArray[np.float64], shape: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Positions centred on 0 as pixel indices of an object array (H, W): 0 goes to ((W-1)/2, (H-1)/2)."""
    return np.asarray(xcoords) + (shape[1] - 1) / 2, np.asarray(ycoords) + (shape[0] - 1) / 2


def _as_modes(probe: NDArray[np.complexfloating], what: str) -> NDArray[np.complex128]:
    field = np.asarray(probe)
    if field.ndim == 3 and field.shape[-1] == 1 and field.shape[0] != 1:
        field = field[..., 0]  # legacy (N, N, 1)
    if field.ndim == 2:
        field = field[None]
    if field.ndim != 3 or field.shape[1] != field.shape[2]:
        raise InputError(f"{what} has shape {np.shape(probe)}; expected (N, N) or (modes, N, N)")
    if not np.all(np.isfinite(field)) or not np.any(field):
        raise InputError(f"{what} is zero or not finite; expected a beam")
    return field.astype(np.complex128)


def _starts(
    xcoords: NDArray[np.float64], ycoords: NDArray[np.float64], N: int, shape: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """First pixel (row, col) of every patch and the sub-pixel remainder in [-0.5, 0.5]."""
    exact = np.stack([ycoords, xcoords], axis=1) - (N - 1) / 2
    starts = np.rint(exact).astype(np.int64)
    outside = np.any((starts < 0) | (starts + N > np.asarray(shape)), axis=1)
    if outside.any():
        first = int(np.flatnonzero(outside)[0])
        raise InputError(
            f"{int(outside.sum())} of {len(exact)} frames reach beyond the object of shape {shape}; the "
            f"first is frame {first} at x = {xcoords[first]:.2f}, y = {ycoords[first]:.2f} with N = {N}. "
            "Positions are pixel indices of the object: use on_object() for positions centred on 0, "
            "object_shape_for() for a large enough object"
        )
    return starts, exact - starts


def _exit_waves(
    obj: NDArray[np.complexfloating],
    probe: NDArray[np.complex128],
    starts: NDArray[np.int64],
    fractions: NDArray[np.float64],
) -> Iterator[NDArray[np.complex128]]:
    """Chunks (frames, modes, N, N) of probe times patch; the probe is moved by +fraction (Fourier shift)."""
    modes, N = probe.shape[0], probe.shape[-1]
    chunk = max(1, _CHUNK_PIXELS // (modes * N * N))
    spectrum = fft.fft2(probe)
    frequency = fft.fftfreq(N)
    patches = np.lib.stride_tricks.sliding_window_view(obj, (N, N))
    for begin in range(0, len(starts), chunk):
        part = slice(begin, begin + chunk)
        angle = np.exp(-2j * np.pi * fractions[part, :, None] * frequency)  # (frames, 2, N)
        shift = angle[:, 0, :, None] * angle[:, 1, None, :]
        moved = fft.ifft2(spectrum[None] * shift[:, None])
        yield moved * patches[starts[part, 0], starts[part, 1]][:, None]


def diffraction_rates(
    obj: NDArray[np.complexfloating],
    probe: NDArray[np.complexfloating],
    xcoords: NDArray[np.float64],
    ycoords: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Expected counts (frames, N, N), float64, zero frequency at [N//2, N//2], of an absolutely scaled probe.

    obj: complex (H, W).  probe: complex (N, N) or (modes, N, N).  Positions: patch centres in pixel index
    coordinates of obj.  InputError when a frame reaches beyond the object.
    """
    field = _as_modes(probe, "probe")
    image = _checked_object(obj)
    starts, fractions = _starts(*checked_positions(xcoords, ycoords), field.shape[-1], image.shape)
    return np.concatenate([_far_field_rates(waves) for waves in _exit_waves(image, field, starts, fractions)])


def _far_field_rates(waves: NDArray[np.complex128]) -> NDArray[np.float64]:
    far = fft.fft2(fft.ifftshift(waves, axes=(-2, -1)), norm="ortho")
    return fft.fftshift(np.sum(far.real**2 + far.imag**2, axis=1), axes=(-2, -1))


def _checked_object(obj: NDArray[np.complexfloating]) -> NDArray[np.complex128]:
    image = np.asarray(obj)
    if image.ndim != 2 or not np.all(np.isfinite(image)) or not np.any(image):
        raise InputError(
            f"object has shape {image.shape}; expected a finite complex (H, W) array that is not zero"
        )
    return image.astype(np.complex128)


def simulate_scan(
    obj: NDArray[np.complexfloating],
    probe: NDArray[np.complexfloating],
    xcoords: NDArray[np.float64],
    ycoords: NDArray[np.float64],
    counts_per_frame: float | None,
    *,
    seed: int,
    poisson: bool = True,
    probe_guess: NDArray[np.complexfloating] | None = None,
    bad_pixels: NDArray[np.bool_] | None = None,
    pixel_size_m: float | None = None,
    photon_energy_ev: float | None = None,
    detector_distance_m: float | None = None,
) -> RawData:
    """Simulate a scan.

    Parameters
    ----------
    obj: complex (H, W), the transmission function.
    probe: complex (N, N) or (modes, N, N); modes add in intensity.
    xcoords, ycoords: (M,) patch centres in pixel index coordinates of `obj` (px); the sub-pixel remainder
        moves the probe by a Fourier shift.
    counts_per_frame: mean over the frames of the expected total counts.  The probe is scaled by one factor to
        reach it (absorption included, so that sum |P|^2 is larger than counts_per_frame where the object
        absorbs).  None: the probe is taken as absolutely scaled.
    seed: of the Poisson noise.
    poisson: True draws counts, stored as uint16, or uint32 where that is too small; False stores the
        noise-free rates as float32.
    probe_guess: what the scan carries as its probe guess, rescaled to the power of the true probe; default
        the truth.
    bad_pixels: bool (N, N), True = does not count; such pixels read 0, and the scan carries the mask.  The dose
        is that of the whole detector.

    Returns RawData in the domain "intensity" with object_truth (complex64, the given object), probe_truth
    (complex64 (modes, N, N), absolutely scaled) and positions in index coordinates of object_truth.
    InputError for bad shapes, values, or frames beyond the object.
    """
    image = _checked_object(obj)
    field = _as_modes(probe, "probe")
    x, y = checked_positions(xcoords, ycoords)
    N = field.shape[-1]
    starts, fractions = _starts(x, y, N, image.shape)
    if counts_per_frame is not None:
        # Parseval: the power on the detector is that of the exit wave; the first pass needs no transform.
        waves = _exit_waves(image, field, starts, fractions)
        power = sum(float(np.sum(np.abs(wave) ** 2)) for wave in waves) / len(x)
        field = field * _dose_factor(power, counts_per_frame)
    frames = _draw(_exit_waves(image, field, starts, fractions), (len(x), N, N), seed if poisson else None)
    if bad_pixels is not None:
        frames = without_pixels(frames, bad_pixels)
    truth = field.astype(np.complex64)
    guess = truth if probe_guess is None else _guess_of_power(probe_guess, field)
    logger.debug("simulated %d frames of %d px, %d probe mode(s)", len(x), N, len(field))
    return RawData(
        x,
        y,
        x.copy(),
        y.copy(),
        frames,
        guess,
        np.zeros(len(x), dtype=np.int64),
        bad_pixels=bad_pixels,
        measurement_domain="intensity",
        object_truth=image.astype(np.complex64),
        probe_truth=truth,
        pixel_size_m=pixel_size_m,
        photon_energy_ev=photon_energy_ev,
        detector_distance_m=detector_distance_m,
        source="simulation",
    )


def _dose_factor(power: float, counts_per_frame: float) -> float:
    if not (np.isfinite(counts_per_frame) and counts_per_frame > 0):
        raise InputError(f"counts_per_frame is {counts_per_frame}; expected a number > 0, or None")
    if power <= 0:
        raise InputError("no light passes the object at these positions; expected a transparent part")
    return float(np.sqrt(counts_per_frame / power))


def _guess_of_power(
    probe_guess: NDArray[np.complexfloating], probe: NDArray[np.complex128]
) -> NDArray[np.complex64]:
    guess = _as_modes(probe_guess, "probe_guess")
    if guess.shape[-1] != probe.shape[-1]:
        raise InputError(
            f"probe_guess has N = {guess.shape[-1]}, the probe N = {probe.shape[-1]}; expected the same"
        )
    return (guess * (np.linalg.norm(probe) / np.linalg.norm(guess))).astype(np.complex64)


def _draw(
    chunks: Iterator[NDArray[np.complex128]], shape: tuple[int, int, int], seed: int | None
) -> NDArray[np.uint16] | NDArray[np.uint32] | NDArray[np.float32]:
    """Rates of all frames as float32 (no seed), or Poisson counts in the smallest unsigned type."""
    rng = None if seed is None else np.random.default_rng(seed)
    frames = np.empty(shape, dtype=np.float32 if rng is None else np.uint16)
    done = 0
    for waves in chunks:
        values: NDArray[Any] = _far_field_rates(waves)
        if rng is not None:
            values = rng.poisson(values)
            brightest = int(values.max())
            if brightest > np.iinfo(np.uint32).max:
                raise InputError(
                    f"a pixel counts {brightest} photons; uint32 is too small: lower counts_per_frame"
                )
            if frames.dtype == np.uint16 and brightest > np.iinfo(np.uint16).max:
                frames = frames.astype(np.uint32)
        frames[done : done + len(values)] = values
        done += len(values)
    return frames


def simulate_demo_scan(
    seed: int = 0,
    *,
    n_frames: int = 600,
    N: int = 64,
    counts_per_frame: float = 1e5,
    object_name: str = "dead_leaves",
    defocus_error: float = 0.1,
    spacing: float = 0.17,
    poisson: bool = True,
) -> RawData:
    """The scan of `ptychopinn demo`: Fermat frames of dead leaves with a probe guess whose defocus is wrong.

    `spacing` is the smallest distance of two positions as a fraction of the probe's diameter (90 % of its
    power); `defocus_error` the relative error of the guess (probe_truth is the true probe).  N other than 64
    scales the diameter of the probe along.  Different seeds give different objects and noise, the same probe
    and positions.
    """
    optics = ZonePlate()
    optics = ZonePlate(defocus=optics.defocus * N / 64)
    probe = make_probe("zone_plate", N, optics=optics)
    guess = make_probe("zone_plate", N, optics=optics.with_defocus_error(defocus_error))
    xcoords, ycoords = make_scan("fermat", n_frames, spacing * probe_diameter(probe))
    shape = object_shape_for(xcoords, ycoords, N)
    object_seed, noise_seed = (int(value) for value in np.random.SeedSequence(seed).generate_state(2))
    obj = make_object(object_name, shape, object_seed)
    x, y = on_object(xcoords, ycoords, shape)
    return simulate_scan(
        obj, probe, x, y, counts_per_frame, seed=noise_seed, poisson=poisson, probe_guess=guess
    )
