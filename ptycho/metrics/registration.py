"""Sub-pixel registration of two complex images that may differ by a global phase and a phase ramp.

Three steps, each needing only what the one before it gives:
1. whole pixels: cross-correlation of the phase *gradients*.  A constant does not reach a gradient, a ramp
   only its mean, which is taken away; and what is left has no large mean that would tie the peak to the
   window.
2. a fraction of a pixel: the same correlation on a fine grid about the peak, by a matrix-multiply
   Fourier transform (Guizar-Sicairos, Thurman, Fienup, Opt. Lett. 33, 156, 2008).
3. shift and ramp together: Gauss-Newton on the phase difference, which to first order is
   constant + slopes.r - shift.gradient(phase of the reference).
Pixels outside the region take no part.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from ptycho.errors import InputError
from ptycho.metrics.alignment import ComplexMap, FloatMap, find_slopes, ramp, unit_modulus

BoolMap = NDArray[np.bool_]
PAD = 16  # px of surroundings taken along, so that a Fourier shift has no seam inside the region
MIN_SIDE, MIN_PIXELS = 12, 144
UPSAMPLE = 20


@dataclass(frozen=True)
class Registered:
    """Two images on one grid: the bounding box of the region in the reference.

    image: first image, shifted, its phase constant and ramp relative to the reference removed, complex128
        (h, w).
    reference: second image without its own ramp, complex128 (h, w).
    region: bool (h, w), the pixels to compare.
    corner: (row, col) of [0, 0] in the reference array.
    shift_px: (row, col); what lies at r in the reference lies at r + offset + shift_px in the first image.
    slopes: (row, col) rad/px of the ramp removed from the image beyond that removed from the reference.
    residual_px: length of the shift by which the registered images still seem to be apart, by least squares on their
        phase difference; near 0 where the registration has converged.
    """

    image: ComplexMap
    reference: ComplexMap
    region: BoolMap
    corner: tuple[int, int]
    shift_px: tuple[float, float]
    slopes: tuple[float, float]
    residual_px: float


def register(
    image: NDArray[np.complexfloating],
    reference: NDArray[np.complexfloating],
    region: BoolMap,
    *,
    offset: tuple[float, float] = (0.0, 0.0),
    image_valid: BoolMap | None = None,
    max_shift: float | None = None,
) -> Registered:
    """Bring `image` onto the grid of `reference`.

    image, reference: complex, 2-D, sizes may differ.  region: bool, of reference's shape: where to compare.
    offset: first guess, (row, col) px: pixel r of the reference is at r + offset in the image.
    image_valid: bool, of image's shape: pixels that mean something.
    max_shift: largest shift (px, per axis, beyond offset) of one search; default a quarter of the region's
    smaller side.
    InputError when the region, or what both images share of it, is too small.
    """
    _check_region(region)
    rows, cols = (np.flatnonzero(region.any(axis=axis)) for axis in (1, 0))
    corner = np.array([rows[0], cols[0]])
    box = (slice(rows[0], rows[-1] + 1), slice(cols[0], cols[-1] + 1))
    inside, target = region[box], np.asarray(reference[box], dtype=np.complex128)
    reach = max_shift if max_shift is not None else min(inside.shape) / 4
    valid = np.ones(image.shape, dtype=bool) if image_valid is None else image_valid
    source = _Source(np.asarray(image), valid, corner, inside.shape)
    start = np.asarray(offset, dtype=np.float64)
    shift = _coarse(source, target, inside, start, reach)
    own = find_slopes(target, soft_weight(inside))
    target = target * ramp(target.shape, (-own[0], -own[1]))
    return _refine(source, target, inside, start, shift, own)


class _Source:
    """Cuts of the first image on the reference's grid, at any offset."""

    def __init__(
        self,
        image: NDArray[np.complexfloating],
        valid: BoolMap,
        corner: NDArray[np.int64],
        shape: tuple[int, ...],
    ) -> None:
        self.image, self.valid, self.corner, self.shape = image, valid & np.isfinite(image), corner, shape

    def cut(self, whole: NDArray[np.int64], pad: int = 0) -> tuple[ComplexMap, BoolMap]:
        """The crop (plus pad) at an integer offset, and which of its pixels mean something (others are 1)."""
        out = np.ones([side + 2 * pad for side in self.shape], dtype=np.complex128)
        known = np.zeros(out.shape, dtype=bool)
        begin = self.corner + whole - pad
        low = np.maximum(begin, 0)
        high = np.minimum(begin + out.shape, self.image.shape)
        if np.all(high > low):
            here = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
            there = tuple(slice(a, b) for a, b in zip(low - begin, high - begin, strict=True))
            known[there] = self.valid[here]
            out[there] = np.where(self.valid[here], self.image[here], 1)
        return out, known

    def shifted(self, shift: NDArray[np.float64], slopes: NDArray[np.float64]) -> tuple[ComplexMap, BoolMap]:
        """The crop at a fractional offset, without the ramp `slopes`; and where no invalid pixel is near."""
        whole = np.rint(shift).astype(np.int64)
        fraction = shift - whole
        field, known = self.cut(whole, PAD)
        field = field * ramp(field.shape, (-slopes[0], -slopes[1])) * np.exp(1j * PAD * slopes.sum())
        mean = field[known].mean() if known.any() else 1.0
        window = _pad_window(field.shape)
        spectrum = fft.fft2(np.where(known, field - mean, 0) * window)
        for axis, part in enumerate(fraction):
            turn = np.exp(2j * np.pi * part * fft.fftfreq(field.shape[axis]))
            spectrum = spectrum * (turn[:, None] if axis == 0 else turn[None, :])
        inner = (slice(PAD, -PAD), slice(PAD, -PAD))
        if not known.all():
            known = ndimage.binary_erosion(known, iterations=2, border_value=1)
        return fft.ifft2(spectrum)[inner] + mean, known[inner]


def _pad_window(shape: tuple[int, ...]) -> FloatMap:
    """1 on the crop and 4 px around it, falling smoothly to 0 at the border of the padding."""
    sides = []
    for side in shape:
        depth = np.minimum(np.arange(side), np.arange(side)[::-1]) / (PAD - 4)
        sides.append(np.sin(0.5 * np.pi * np.minimum(depth, 1)) ** 2)
    return sides[0][:, None] * sides[1][None, :]


def soft_weight(region: BoolMap, edge: float = 0.1) -> FloatMap:
    """1 deep inside the region, falling smoothly to 0 at its edge, over `edge` of its smaller side."""
    depth = ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    return np.sin(0.5 * np.pi * np.minimum(depth / max(2.0, edge * min(region.shape)), 1)) ** 2


def _check_region(region: BoolMap, what: str = "the region to compare") -> None:
    rows, cols = (np.flatnonzero(region.any(axis=axis)) for axis in (1, 0))
    height, width = (int(np.ptp(found)) + 1 if len(found) else 0 for found in (rows, cols))
    if min(height, width) < MIN_SIDE or np.count_nonzero(region) < MIN_PIXELS:
        raise InputError(
            f"registration: {what} has {np.count_nonzero(region)} px in a box of {height} x {width}; "
            f"expected at least {MIN_PIXELS} px and {MIN_SIDE} x {MIN_SIDE}. Do both objects cover the "
            "same area, and is --half small enough for them?"
        )


def _gradients(field: ComplexMap, weight: FloatMap) -> list[FloatMap]:
    """Phase gradients along rows and columns, rad/px, means taken away, lightly smoothed, weighted."""
    unit = unit_modulus(field)
    out = []
    for axis in (0, 1):
        step = np.roll(unit, -1, axis) * unit.conj()
        step[(-1, slice(None)) if axis == 0 else (slice(None), -1)] = 1
        mean = np.sum(weight * step)
        slope = np.angle(step * np.conj(mean)) if abs(mean) > 0 else np.angle(step)
        slope = slope - np.sum(weight * slope) / max(weight.sum(), 1e-30)
        out.append(ndimage.gaussian_filter(slope, 1.0) * weight)
    return out


def _coarse(
    source: _Source, target: ComplexMap, region: BoolMap, start: NDArray[np.float64], reach: float
) -> NDArray[np.float64]:
    """Total offset (row, col) to about 1/UPSAMPLE px."""
    whole = np.rint(start).astype(np.int64)
    size = [fft.next_fast_len(int(side + reach) + 1, real=False) for side in region.shape]
    peak = np.zeros(2)
    for _ in range(4):  # repeated: the crops overlap fully only once the shift is known
        cut, known = source.cut(whole)
        shared = region & known
        _check_region(shared, "what both objects share of the region to compare")
        weight = soft_weight(shared)
        pairs = zip(_gradients(cut, weight), _gradients(target, weight), strict=True)
        cross = np.sum([fft.fft2(one, s=size) * np.conj(fft.fft2(two, s=size)) for one, two in pairs], axis=0)
        correlation = fft.ifft2(cross).real
        for axis in (0, 1):
            moves = fft.fftfreq(size[axis], 1 / size[axis])
            far = (np.abs(moves) > reach) | (np.abs(moves + whole[axis] - start[axis]) > reach + 0.5)
            correlation[far if axis == 0 else (slice(None), far)] = -np.inf
        index = np.unravel_index(int(np.argmax(correlation)), correlation.shape)
        peak = np.array([fft.fftfreq(n, 1 / n)[i] for n, i in zip(size, index, strict=True)])
        moved = np.rint(peak).astype(np.int64)
        whole = whole + moved
        if not moved.any():
            break
    else:
        return whole.astype(np.float64)
    return whole + _upsampled_peak(cross)


def _upsampled_peak(cross: ComplexMap) -> NDArray[np.float64]:
    """Peak of the correlation within +-1 px of zero shift, on a grid of 1/UPSAMPLE px."""
    steps = np.arange(-UPSAMPLE, UPSAMPLE + 1) / UPSAMPLE
    kernels = [np.exp(2j * np.pi * np.outer(steps, fft.fftfreq(side))) for side in cross.shape]
    fine = (kernels[0] @ cross @ kernels[1].T).real
    if not fine.max() > 0:  # nothing in common at all, as with a flat image
        return np.zeros(2)
    index = np.unravel_index(int(np.argmax(fine)), fine.shape)
    return np.array([steps[index[0]], steps[index[1]]])


def _refine(
    source: _Source,
    target: ComplexMap,
    region: BoolMap,
    start: NDArray[np.float64],
    shift: NDArray[np.float64],
    own: tuple[float, float],
) -> Registered:
    """Gauss-Newton on shift and ramp; the state with the best agreement of phases wins."""
    slopes = np.array(own)
    gradient = _central_gradient(target)
    best: tuple[float, NDArray[np.float64], NDArray[np.float64], float] | None = None
    for step in range(12):
        image, known = source.shifted(shift, slopes)
        weight = soft_weight(region & known)
        ratio = unit_modulus(image) * unit_modulus(target).conj()
        if step == 0:  # the first ramp may wind many times: found without unwrapping
            relative = np.array(find_slopes(ratio, weight))
            slopes = slopes + relative
            ratio = ratio * ramp(ratio.shape, (-relative[0], -relative[1]))
        score = float(np.abs(np.sum(weight * ratio)) / max(weight.sum(), 1e-30))
        change, tilt = _step(ratio, gradient, weight)
        if best is None or score > best[0]:
            best = (score, shift, slopes, float(np.hypot(*change)))
        shift, slopes = shift + np.clip(change, -0.5, 0.5), slopes + tilt
        if np.abs(change).max() < 2e-4 and np.abs(tilt * target.shape).max() < 2e-4:
            break
    assert best is not None
    _, shift, slopes, residual = best
    image, known = source.shifted(shift, slopes)
    region = region & known
    _check_region(region, "what both objects share of the region to compare")
    constant = np.sum((unit_modulus(image) * unit_modulus(target).conj())[region])
    image = image * np.exp(-1j * np.angle(constant))
    corner = (int(source.corner[0]), int(source.corner[1]))
    found = shift - start
    return Registered(
        image,
        target,
        region,
        corner,
        (float(found[0]), float(found[1])),
        (float(slopes[0] - own[0]), float(slopes[1] - own[1])),
        residual,
    )


def _central_gradient(field: ComplexMap) -> list[FloatMap]:
    unit = np.pad(unit_modulus(field), 1, mode="edge")
    return [
        np.angle(unit[2:, 1:-1] * unit[:-2, 1:-1].conj()) / 2,
        np.angle(unit[1:-1, 2:] * unit[1:-1, :-2].conj()) / 2,
    ]


def _step(
    ratio: ComplexMap, gradient: list[FloatMap], weight: FloatMap
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Least-squares change of shift (px) and slopes (rad/px) that explains the phase of `ratio`."""
    residual = np.angle(ratio * np.conj(np.sum(weight * ratio)))
    weight = weight * np.maximum(np.cos(residual), 0)
    rows, cols = np.indices(ratio.shape, dtype=np.float64)
    centred = [rows / ratio.shape[0] - 0.5, cols / ratio.shape[1] - 0.5]
    columns = [np.ones(ratio.shape), *centred]
    # A reference without phase structure says nothing of the shift.
    moving = all(np.sum(weight * part**2) > 1e-12 * max(weight.sum(), 1e-30) for part in gradient)
    columns += gradient if moving else []
    design = np.stack([column.ravel() for column in columns], axis=1)
    weighted = design * weight.ravel()[:, None]
    normal = weighted.T @ design
    solution = np.linalg.lstsq(normal, weighted.T @ residual.ravel(), rcond=1e-10)[0]
    tilt = solution[1:3] / np.array(ratio.shape)
    return (-solution[3:5] if moving else np.zeros(2)), tilt
