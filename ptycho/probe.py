"""Probes: shapes, modes, masks, photon scale.

Inside the package a probe is complex64 (modes, N, N), axes (mode, row, column), centred at index N//2, mode 0
the strongest. Modes are incoherent: they add in intensity. Far fields are F = fftshift(fft2(ifftshift(P)))
with the ortho norm, so power is the same on both sides.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho.errors import InputError

__all__ = [
    "GUESS_REMEDY",
    "normalise_probe",
    "mode_axis_first",
    "set_probe_guess",
    "probe_mask",
    "far_field",
    "near_field",
    "mode_powers",
    "probe_power",
    "orthogonalise_modes",
    "scale_probe_to_counts",
    "probe_diameter",
]

GUESS_REMEDY = (
    'Give a guess of about the right width and defocus: make_probe("zone_plate", N, optics=ZonePlate.from_si(...)) or '
    'make_probe("disk", N, diameter=..., curvature=...) of ptycho.diffsim, see docs/common_mistakes.md.'
)

ComplexArray = npt.NDArray[np.complex64]


def mode_axis_first(shape: tuple[int, ...]) -> bool:
    """True if a probe of this shape is (modes, N, N) and not the legacy (N, N, 1) or (N, N)."""
    return len(shape) == 3 and shape[1] == shape[2] and not (shape[2] == 1 and shape[0] > 1)


def normalise_probe(probe: npt.ArrayLike, N: int | None = None, source: str = "probeGuess") -> ComplexArray:
    """A probe as complex64 (modes, N, N), a copy. Accepts (N, N), (N, N, 1) and (modes, N, N).

    N: the side it must have, if known. Raises InputError for other shapes, for another side, and for values
    that are not finite. A probe of zeros passes here; scaling it does not.
    """
    array = np.asarray(probe)
    if array.dtype.kind not in "cfiub":
        raise InputError(f"{source}: found dtype {array.dtype}, expected a numeric (complex) array.")
    if array.ndim == 3 and array.shape[2] == 1 and array.shape[0] == array.shape[1]:
        array = array[None, :, :, 0]
    elif array.ndim == 2:
        array = array[None]
    if array.ndim != 3 or array.shape[1] != array.shape[2] or array.size == 0:
        raise InputError(
            f"{source}: found shape {np.shape(probe)}, expected (N, N), (modes, N, N) or (N, N, 1). The "
            "frames and the "
            "probe must be square and of the same size."
        )
    if N is not None and array.shape[-1] != N:
        raise InputError(
            f"{source}: found a probe of {array.shape[-1]} x {array.shape[-1]} pixels, expected {N} x {N} "
            "like the "
            "frames. Crop or pad so that the two agree."
        )
    result = array.astype(np.complex64)
    if not np.isfinite(result).all():
        raise InputError(
            f"{source}: found NaN or infinite values, expected finite ones. Repair the probe guess."
        )
    return result


def set_probe_guess(X_trn: Any = None, probe_guess: npt.ArrayLike | None = None) -> ComplexArray | None:
    """Legacy entry point: record a probe guess in `ptycho.params.cfg['probe']`.

    Returns it as complex64 (modes, N, N). Without one (the reference then estimated a probe from the frames
    X_trn) nothing is recorded and None is returned.
    """
    from ptycho import params

    if probe_guess is None:
        return None
    probe = normalise_probe(probe_guess)
    params.set("probe", probe)
    return probe


def probe_mask(N: int, diameter: float | None = None, sigma: float = 1.0) -> npt.NDArray[np.float32]:
    """A disk with a Gaussian edge, float32 (N, N) in [0, 1].

    diameter: of the hard disk, in pixels, default N/2. sigma: of the Gaussian that softens it, in pixels; 0
    leaves the hard disk. As in the reference: coordinates arange(N) - N//2 + 0.5 (the disk is centred between
    pixels), a separable Gaussian cut at 3 sigma with zeros outside, then divided by the maximum.
    """
    if N < 1 or sigma < 0 or (diameter is not None and diameter <= 0):
        raise InputError(
            f"Probe mask: found N={N}, diameter={diameter}, sigma={sigma}; expected N >= 1, diameter > 0, "
            "sigma >= 0."
        )
    radius = (N / 2 if diameter is None else diameter) / 2
    axis = np.arange(N) - N // 2 + 0.5
    mask = (axis[:, None] ** 2 + axis[None, :] ** 2 <= radius**2).astype(np.float64)
    if sigma > 0:
        from scipy.ndimage import gaussian_filter

        mask = gaussian_filter(mask, sigma, mode="constant", radius=math.ceil(3 * sigma))
    peak = mask.max()
    if peak <= 0:
        raise InputError(f"Probe mask: a diameter of {diameter} pixels covers no pixel. Use a larger one.")
    return np.clip(mask / peak, 0, 1).astype(np.float32)


def far_field(field: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Centred ortho FFT over the last two axes: fftshift(fft2(ifftshift(field)))."""
    axes = (-2, -1)
    return np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(field, axes=axes), norm="ortho"), axes=axes)


def near_field(field: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The inverse of `far_field`."""
    axes = (-2, -1)
    return np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(field, axes=axes), norm="ortho"), axes=axes)


def mode_powers(probe: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """sum |P|^2 of each mode, float64 (modes,)."""
    return np.sum(np.abs(probe.astype(np.complex128)) ** 2, axis=(-2, -1))


def probe_power(probe: npt.NDArray[Any]) -> float:
    """sum |P|^2 over all modes and pixels: the photons per frame of a probe scaled to counts."""
    return float(mode_powers(probe).sum())


def orthogonalise_modes(probe: npt.NDArray[Any]) -> ComplexArray:
    """Mutually orthogonal modes, strongest first, that give the same diffraction: complex64 (modes, N, N).

    The incoherent sum depends on the modes only through sum_m P_m(r) conj(P_m(r')), which a unitary mixture
    of the modes leaves alone; the mixture of the singular value decomposition makes them orthogonal.
    """
    modes = np.asarray(probe)
    flat = modes.reshape(modes.shape[0], -1).astype(np.complex128)
    # The decomposition of the small Gram matrix; a full SVD of (modes, N*N) gives the same modes.
    _, vectors = np.linalg.eigh(flat.conj() @ flat.T)
    mixed = vectors.T[::-1] @ flat
    # The global phase of each mode is free; keep that of the strongest overlap so that one mode stays as it
    # is.
    overlap = np.einsum("ip,ip->i", mixed.conj(), flat[np.argsort(-mode_powers(modes), kind="stable")])
    phase = np.where(np.abs(overlap) > 0, overlap / np.maximum(np.abs(overlap), 1e-300), 1.0)
    return (mixed * phase[:, None]).reshape(modes.shape).astype(np.complex64)


def scale_probe_to_counts(
    probe: npt.NDArray[Any], mean_counts: float, good_pixels: npt.NDArray[np.bool_] | None = None
) -> ComplexArray:
    """The probe times a real factor such that sum over good pixels and modes of |F P|^2 = mean_counts.

    probe: (modes, N, N). mean_counts: mean over frames of the counts summed over good pixels. good_pixels:
    bool (N, N), default all. With that, a transparent object has |O| = 1. Raises InputError for a probe that
    puts nothing on the good pixels, and for mean_counts that is not positive.
    """
    if not (math.isfinite(mean_counts) and mean_counts > 0):
        raise InputError(
            f"Probe scale: found {mean_counts} mean counts per frame, expected a positive number. Do the "
            "frames hold "
            "any counts outside the bad pixels?"
        )
    modes = normalise_probe(probe).astype(np.complex128)
    intensity = np.sum(np.abs(far_field(modes)) ** 2, axis=0)
    total = float(intensity.sum() if good_pixels is None else intensity[good_pixels].sum())
    if not total > 0:
        raise InputError(
            "probeGuess: the probe is zero, or puts nothing on the good detector pixels; expected a probe "
            "with some "
            f"power. {GUESS_REMEDY}"
        )
    return (modes * math.sqrt(mean_counts / total)).astype(np.complex64)


def probe_diameter(probe: npt.NDArray[Any], fraction: float = 0.9) -> float:
    """Equivalent diameter in pixels: that of a disk with the area of the smallest set of pixels that holds
    the given fraction of the power, 2 * sqrt(area / pi). All modes together. A uniform disk of diameter d
    gives d * sqrt(fraction), a ring the diameter of a disk of the same area.
    """
    intensity = np.sort(np.sum(np.abs(normalise_probe(probe).astype(np.complex128)) ** 2, axis=0), axis=None)[
        ::-1
    ]
    cumulative = np.cumsum(intensity)
    if not cumulative[-1] > 0:
        raise InputError(
            "probeGuess: the probe is zero, so it has no diameter. Give a probe guess with some power."
        )
    # The power between two pixels is interpolated, so that the area changes smoothly with the probe.
    target = fraction * cumulative[-1]
    index = int(np.searchsorted(cumulative, target))
    before = cumulative[index - 1] if index else 0.0
    area = index + (target - before) / intensity[index]
    return float(2 * math.sqrt(area / math.pi))
