"""Pearson correlation, SSIM and PSNR of two registered real images over a region."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ptycho.errors import InputError

SSIM_WINDOW = 7  # px, the default of scikit-image and of the literature's uniform-filter variant
PSNR_LIMIT = 150.0  # dB; reported for images equal to rounding, so that figures stay finite


def pearson(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Pearson correlation of two vectors; 0 when either is constant."""
    one, two = first - first.mean(), second - second.mean()
    norm = np.linalg.norm(one) * np.linalg.norm(two)
    return float(np.clip(np.vdot(one, two) / norm, -1, 1)) if norm > 0 else 0.0


def ssim(
    image: NDArray[np.float64], reference: NDArray[np.float64], region: NDArray[np.bool_], data_range: float
) -> float:
    """Structural similarity (Wang et al. 2004; scikit-image, 7 px uniform window), mean over the windows that
    lie wholly inside `region`.  data_range: of the reference over the region.  InputError when no window
    fits."""
    from skimage.metrics import structural_similarity  # imported here: slow to load

    inner = ndimage.binary_erosion(region, np.ones((SSIM_WINDOW, SSIM_WINDOW)))
    if not inner.any():
        raise InputError(
            f"SSIM: no {SSIM_WINDOW} px window fits the region of {int(region.sum())} px; enlarge it"
        )
    filled = [np.where(region, values, 0.0) for values in (image, reference)]
    _, local = structural_similarity(*filled, data_range=data_range, win_size=SSIM_WINDOW, full=True)
    return float(local[inner].mean())


def psnr(
    image: NDArray[np.float64], reference: NDArray[np.float64], region: NDArray[np.bool_], data_range: float
) -> float:
    """10 * log10(data_range**2 / mean squared difference over region), dB, at most PSNR_LIMIT."""
    error = float(np.mean((image[region] - reference[region]) ** 2))
    floor = data_range**2 * 10 ** (-PSNR_LIMIT / 10)
    return float(10 * np.log10(data_range**2 / max(error, floor))) if data_range > 0 else 0.0
