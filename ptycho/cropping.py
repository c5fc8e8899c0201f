"""Cutting a scan to the central part of its detector: what happens to probe, positions and objects.

Keeping the central n of N detector pixels keeps the low spatial frequencies: the same fields on a grid
coarser by s = N/n. Three conventions fix where the new grid lies (specs/coordinates.md).

1. Zero frequency and probe centre are at index N//2. A probe pixel j stands for the offset t = j - N//2 from
the
   probe's centre; on the new grid the same offset is t' = t / s, at index n//2 + t'.
2. A frame at position p sees object coordinate u = p - (N-1)/2 + j = p + d(N) + t, where
   d(N) = N//2 - (N-1)/2 is 1/2 for even and 0 for odd N. On the new grid u' = p' + d(n) + t'.
3. Positions are scaled exactly: p' = p / s. (A common shift of all positions cannot be observed, so this is a
choice.)

Eliminating p and t: u = s * (u' - d(n)) + d(N). That is where the new object pixel u' has to be sampled, and
for N, n even and s = 2 it is u = 2u' - 1/2: a quarter of a new pixel away from plain decimation at even
indices (u = 2u'), and half a new pixel from averaging pairs (u = 2u' + 1/2). Objects are resampled
accordingly, so that a reconstruction of the cropped scan and the cropped truth lie exactly on each other.

Far fields: with ortho norms F[k] = (1/N) sum P O exp(...), so for F to stay the same at the pixels that are
kept the product P O must grow by s. The probe takes that factor (it is cropped in Fourier space with the
ortho norm) and the values of the object stay what they are. Cropping the two separately is exact when their
product has no frequencies beyond the new edge; else it is the usual approximation, and a reconstruction
absorbs the difference.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ptycho.errors import InputError
from ptycho.probe import far_field, near_field, normalise_probe

if TYPE_CHECKING:
    from ptycho.raw_data import RawData

__all__ = ["crop_frames", "crop_probe", "crop_object", "crop_patches", "cropped_entries"]


def _check(N: int, n: int) -> None:
    if not 0 < n <= N:
        raise InputError(f"Crop: found {n} pixels, expected 1 to {N}, the side of the frames.")


def crop_frames(frames: Any, n: int) -> Any:
    """The central n x n pixels of the last two axes, a view; index N//2 becomes index n//2.

    Frames that stay on disk stay there.
    """
    N = frames.shape[-1]
    _check(N, n)
    first = N // 2 - n // 2
    if hasattr(frames, "cropped"):
        return frames.cropped(slice(first, first + n), slice(first, first + n))
    return frames[..., first : first + n, first : first + n]


def crop_probe(probe: npt.NDArray[Any], n: int) -> npt.NDArray[np.complex64]:
    """A probe (modes, N, N) on the coarser grid, complex64 (modes, n, n): its far field is cut."""
    modes = normalise_probe(probe).astype(np.complex128)
    return near_field(crop_frames(far_field(modes), n)).astype(np.complex64)


def crop_object(image: npt.NDArray[Any], N: int, n: int) -> npt.NDArray[np.complex64]:
    """An object (H, W) on the coarser grid, complex64 (ceil(H n/N), ceil(W n/N)); values are kept, not power.

    New pixel u' holds the band-limited object at u = s (u' - d(n)) + d(N), see the head of this module.
    """
    _check(N, n)
    scale = N / n
    offset = _half_pixel(N) - scale * _half_pixel(n)
    result = np.asarray(image, dtype=np.complex128)
    for axis in (0, 1):
        result = _resample(result, axis, N, n, offset)
    return result.astype(np.complex64)


def crop_patches(patches: npt.NDArray[Any], n: int) -> npt.NDArray[np.complex64]:
    """True patches (M, N, N) or (M, N, N, 1) on the coarser grid, of the same rank.

    A patch is indexed like the probe: its index N//2 becomes n//2, without the half pixels of object
    coordinates.
    """
    N = patches.shape[1]
    _check(N, n)
    result = np.asarray(patches, dtype=np.complex64)
    for axis in (1, 2):
        result = _resample(result, axis, N, n, N // 2 - (N / n) * (n // 2))
    return result.astype(np.complex64)


def cropped_entries(raw: RawData, n: int) -> dict[str, Any]:
    """The attributes of `raw` that change when its frames are cropped to n x n pixels."""
    N = raw.N
    ratio = n / N
    cut = crop_frames(raw.diff3d, n)
    entries: dict[str, Any] = {
        "diff3d": np.ascontiguousarray(cut) if type(cut) is np.ndarray else cut,
        "bad_pixels": None if raw.bad_pixels is None else crop_frames(raw.bad_pixels, n).copy(),
        "pixel_size_m": None if raw.pixel_size_m is None else raw.pixel_size_m / ratio,
        "Y": None if raw.Y is None else crop_patches(raw.Y, n),
    }
    if entries["bad_pixels"] is not None and entries["bad_pixels"].all():
        raise InputError(
            f"{raw.source}: bad_pixels: every pixel of the central {n} x {n} is marked bad, expected good "
            "pixels to "
            "fit. Choose a larger crop."
        )
    for name in ("xcoords", "ycoords", "xcoords_start", "ycoords_start"):
        entries[name] = getattr(raw, name) * ratio
    for name in ("probeGuess", "probe_truth"):
        probe = getattr(raw, name)
        entries[name] = None if probe is None else crop_probe(probe, n)
    for name in ("objectGuess", "object_truth"):
        image = getattr(raw, name)
        entries[name] = None if image is None else crop_object(image, N, n)
    return entries


def _half_pixel(N: int) -> float:
    """d(N) = N//2 - (N-1)/2: the probe's centre index, seen from the middle of the patch."""
    return N // 2 - (N - 1) / 2


def _resample(values: npt.NDArray[Any], axis: int, N: int, n: int, offset: float) -> npt.NDArray[Any]:
    """Band-limit to n/N of the frequencies along an axis and sample at N/n * u' + offset, u' = 0 ... ceil(H
    n/N) - 1.

    The data are mirrored at their end before the Fourier transform: the periodic continuation then has no
    jumps, and so no ringing runs into the field from its edges.
    """
    moved = np.moveaxis(values, axis, -1)
    length = moved.shape[-1]
    kept = math.ceil(length * n / N)
    multiple = N // math.gcd(N, n)
    padded = -(-length // multiple) * multiple
    edge = [(0, 0)] * (moved.ndim - 1) + [(0, padded - length)]
    moved = np.pad(moved, edge, mode="edge")
    moved = np.concatenate([moved, moved[..., ::-1]], axis=-1)
    size, new_size = 2 * padded, 2 * padded * n // N
    spectrum = np.fft.fft(moved, axis=-1)
    frequency = np.rint(np.fft.fftfreq(size) * size)
    # Both edges of an even band are left out unless nothing is cut: they have no partner to be real with.
    inside = np.abs(frequency) < new_size / 2 if new_size < size else np.ones(size, dtype=bool)
    shifted = spectrum[..., inside] * np.exp(2j * np.pi * frequency[inside] * (offset / size))
    new_spectrum = np.zeros((*moved.shape[:-1], new_size), dtype=np.complex128)
    new_spectrum[..., frequency[inside].astype(np.int64) % new_size] = shifted
    fine = np.fft.ifft(new_spectrum, axis=-1) * (new_size / size)
    return np.moveaxis(fine[..., :kept], -1, axis)
