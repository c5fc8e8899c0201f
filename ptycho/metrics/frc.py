"""Fourier ring correlation with the half-bit threshold (van Heel and Schatz, J. Struct. Biol. 2005)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from ptycho.errors import InputError

FIRST_RING = 2  # rings 0 and 1 hold the mean and the plane, which alignment has taken away


@dataclass(frozen=True)
class RingCorrelation:
    """frequency: ring centres, cycles/px, up to 0.5.  correlation: FRC of each ring.  threshold: half-bit
    curve.  samples: independent Fourier samples of each ring.  crossing: cycles/px where the FRC falls below
    the threshold (0.5 if it never does, 0 if it starts below)."""

    frequency: NDArray[np.float64]
    correlation: NDArray[np.float64]
    threshold: NDArray[np.float64]
    samples: NDArray[np.float64]
    crossing: float

    @property
    def resolution_px(self) -> float:
        """Half period at the crossing in px: 1 at the detector's edge; infinite when the FRC starts below."""
        return 0.5 / self.crossing if self.crossing > 0 else float("inf")


def soft_window(shape: tuple[int, int], edge: float = 0.25) -> NDArray[np.float64]:
    """Separable raised-cosine (Tukey) window, falling to 0 over the outer `edge` of each half side."""
    sides = []
    for side in shape:
        depth = (np.minimum(np.arange(side), np.arange(side)[::-1]) + 0.5) / max(edge * side / 2, 0.5)
        sides.append(np.sin(0.5 * np.pi * np.minimum(depth, 1)) ** 2)
    return sides[0][:, None] * sides[1][None, :]


def half_bit(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """The half-bit threshold for rings of so many independent samples."""
    root = np.sqrt(np.maximum(samples, 1.0))
    return (0.2071 + 1.9102 / root) / (1.2071 + 0.9102 / root)


def fourier_ring_correlation(
    first: NDArray[Any], second: NDArray[Any], window: NDArray[np.float64] | None = None
) -> RingCorrelation:
    """FRC of two registered images (H, W), real or complex.

    window: weights (H, W), default `soft_window`; each image's weighted mean is taken away first.  Rings are
    1/min(H, W) cycles/px wide.  The number of independent samples counts conjugate pairs of real images once
    and is reduced by what the window leaves of the area.  InputError for unequal shapes or sides below 8 px.
    """
    if first.shape != second.shape or first.ndim != 2 or min(first.shape) < 8:
        raise InputError(
            f"FRC of images {first.shape} and {second.shape}; expected one 2-D shape, sides >= 8 px"
        )
    weight = soft_window(first.shape) if window is None else np.asarray(window, dtype=np.float64)
    if weight.shape != first.shape or not weight.sum() > 0:
        raise InputError(
            f"FRC: window of shape {weight.shape} for images {first.shape}; expected the same, not empty"
        )
    spectra = [
        fft.fft2((image - np.sum(weight * image) / weight.sum()) * weight) for image in (first, second)
    ]
    width = 1 / min(first.shape)
    radius = np.hypot(fft.fftfreq(first.shape[0])[:, None], fft.fftfreq(first.shape[1])[None, :])
    ring = np.rint(radius / width).astype(np.int64).ravel()
    n_rings = int(np.floor(0.5 / width)) + 1
    cross = np.bincount(ring, (spectra[0] * spectra[1].conj()).real.ravel())[:n_rings]
    power = [np.bincount(ring, np.abs(spectrum).ravel() ** 2)[:n_rings] for spectrum in spectra]
    scale = np.sqrt(power[0] * power[1])
    correlation = np.divide(cross, scale, out=np.zeros_like(cross), where=scale > 0)
    covered = np.sum(weight**2) ** 2 / np.sum(weight**4) / weight.size
    pairs = 1.0 if np.iscomplexobj(first) or np.iscomplexobj(second) else 0.5
    samples = np.bincount(ring)[:n_rings] * covered * pairs
    frequency = np.arange(n_rings) * width
    threshold = half_bit(samples)
    return RingCorrelation(
        frequency, correlation, threshold, samples, _crossing(frequency, correlation - threshold)
    )


def _crossing(frequency: NDArray[np.float64], above: NDArray[np.float64]) -> float:
    """Where the curve first goes below 0 for two rings in a row, linearly interpolated.

    One ring alone may dip by chance where few samples make the correlation noisy.
    """
    below = above < 0
    twice = below & np.append(below[1:], below[-1])
    twice[:FIRST_RING] = False
    if not twice.any():
        return 0.5
    index = int(np.argmax(twice))
    if index == FIRST_RING:
        return 0.0
    left, right = above[index - 1], above[index]
    return float(frequency[index - 1] + (frequency[index] - frequency[index - 1]) * left / (left - right))
