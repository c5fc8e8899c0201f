"""From exit waves to expected counts."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ptycho_torch.physics.fourier import at_least_single, fft2c
from ptycho_torch.physics.illumination import exit_waves
from ptycho_torch.physics.modes import mode_intensity
from ptycho_torch.physics.patches import extract


def far_field(waves: Tensor) -> Tensor:
    """Wave on the detector: F = fftshift(fft2(ifftshift(wave)), ortho), (..., N, N) complex."""
    return fft2c(waves)


def detector_order(frames: Tensor) -> Tensor:
    """Reorder centred frames (..., N, N) so that the zero frequency comes first, as :func:`rate` gives it."""
    return torch.fft.ifftshift(frames, dim=(-2, -1))


def centred_order(frames: Tensor) -> Tensor:
    """Inverse of :func:`detector_order`."""
    return torch.fft.fftshift(frames, dim=(-2, -1))


def roots(counts: Tensor) -> Tensor:
    """Square roots of counts, of any shape.

    On a CPU by NumPy: torch's own takes ten times as long for zeros, of which frames are full, as long as half of a
    projection.
    """
    if counts.device.type != "cpu" or counts.requires_grad:
        return counts.sqrt()
    return torch.from_numpy(np.sqrt(counts.numpy()))


def rate(waves: Tensor) -> Tensor:
    """Expected counts of exit waves, modes added in intensity, zero frequency first.

    The shift of the origin that :func:`far_field` does before the transform changes only phases, so
    it is left out here, and the frames are compared in the transform's own order.

    Args:
        waves: (..., M, N, N) complex.

    Returns:
        (..., N, N) real, counts.
    """
    return mode_intensity(torch.fft.fft2(at_least_single(waves), norm="ortho"))


def expected_counts(canvas: Tensor, probes: Tensor, starts: Tensor) -> Tensor:
    """Expected counts of frames on a canvas, zero frequency first.

    Args:
        canvas: (..., H, W) complex object.
        probes: (..., K, M, N, N) complex, already shifted by each frame's sub-pixel part.
        starts: (..., K, 2) int64.

    Returns:
        (..., K, N, N) real, counts.
    """
    patches = extract(canvas, starts, probes.shape[-1])
    return rate(exit_waves(probes, patches))
