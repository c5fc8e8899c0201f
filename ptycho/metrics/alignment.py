"""Constant and plane of a phase, found before wrapping can do harm.

A plane is (constant rad, slope along rows rad/px, slope along columns rad/px); pixel indices count from
[0, 0] of the array at hand.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft

FloatMap = NDArray[np.float64]
ComplexMap = NDArray[np.complex128]
Slopes = tuple[float, float]


def unit_modulus(field: NDArray[np.complexfloating]) -> ComplexMap:
    """field / |field|, and 1 where field is 0."""
    size = np.abs(field)
    return np.where(size > 0, field / np.where(size > 0, size, 1), 1.0).astype(np.complex128)


def ramp(shape: tuple[int, int], slopes: Slopes) -> ComplexMap:
    """exp(i * (slopes[0] * row + slopes[1] * col)) on an array of `shape`."""
    return (
        np.exp(1j * slopes[0] * np.arange(shape[0]))[:, None]
        * np.exp(1j * slopes[1] * np.arange(shape[1]))[None]
    )


def find_slopes(field: NDArray[np.complexfloating], weight: FloatMap) -> Slopes:
    """Slopes (rad/px along rows, cols) that maximise |sum weight*u*exp(-i slopes.r)|, u = field/|field|.

    Works on the phase factors, so the number of turns of the plane over the array does not matter.  The peak
    of the zero-padded Fourier transform is refined by Newton steps on the squared modulus.
    """
    unit = unit_modulus(field) * weight
    size = [fft.next_fast_len(2 * side) for side in unit.shape]
    spectrum = np.abs(fft.fft2(unit, s=size))
    peak = np.unravel_index(int(np.argmax(spectrum)), spectrum.shape)
    slopes = np.array([2 * np.pi * fft.fftfreq(n)[p] for n, p in zip(size, peak, strict=True)])
    for _ in range(4):
        slopes = slopes + _newton_step(unit, slopes, weight)
    return float(slopes[0]), float(slopes[1])


def _newton_step(unit: ComplexMap, slopes: NDArray[np.float64], weight: FloatMap) -> NDArray[np.float64]:
    """One ascent step for the plane: least squares of the remaining (wrapped) phase about its mean."""
    flat = unit * ramp(unit.shape, (-slopes[0], -slopes[1]))
    residual = np.angle(flat * np.conj(flat.sum()))
    # A pixel far from the plane says nothing of it and gets no weight.
    trust = weight * np.maximum(np.cos(residual), 0)
    return np.asarray(fit_plane(residual, trust)[1:])


def fit_plane(values: FloatMap, weight: FloatMap) -> tuple[float, float, float]:
    """Weighted least squares of constant + row slope + column slope to real values (H, W)."""
    rows, cols = np.arange(values.shape[0])[:, None], np.arange(values.shape[1])[None, :]
    total = weight.sum()
    if total <= 0:
        return 0.0, 0.0, 0.0
    row0, col0 = (weight * rows).sum() / total, (weight * cols).sum() / total
    dr, dc = rows - row0, cols - col0
    mean = (weight * values).sum() / total
    matrix = np.array(
        [
            [(weight * dr * dr).sum(), (weight * dr * dc).sum()],
            [(weight * dr * dc).sum(), (weight * dc * dc).sum()],
        ]
    )
    right = np.array([(weight * dr * values).sum(), (weight * dc * values).sum()])
    slopes = np.linalg.lstsq(matrix, right, rcond=1e-10)[0]
    return float(mean - slopes @ [row0, col0]), float(slopes[0]), float(slopes[1])


def without_plane(values: FloatMap, weight: FloatMap) -> FloatMap:
    """values minus their weighted least-squares plane."""
    constant, along_rows, along_cols = fit_plane(values, weight)
    rows, cols = np.arange(values.shape[0])[:, None], np.arange(values.shape[1])[None, :]
    return values - (constant + along_rows * rows + along_cols * cols)
