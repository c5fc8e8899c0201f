"""Free-space propagation of a wave over a short distance, in pixel units.

The distance is dimensionless but for pixels: z = wavelength * distance / pixel^2, in px^2, so that neither wavelength
nor pixel size need to be known.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ptycho_torch.physics.fourier import at_least_single


def _squared_frequency(n: int, like: Tensor) -> Tensor:
    """(n, n) real |q|^2 in (cycles/px)^2, zero frequency first."""
    axis = torch.fft.fftfreq(n, dtype=like.real.dtype, device=like.device).square()
    return axis[:, None] + axis[None, :]


def fresnel(field: Tensor, distance_px2: float) -> Tensor:
    """A wave further along the axis, in the paraxial approximation (periodic boundary).

    psi_z = iFT( FT(psi) exp(-i pi z |q|^2) ), q in cycles/px: Fresnel's transfer function (J. W. Goodman, Introduction
    to Fourier Optics, 3rd ed., section 4.2.3) without the constant phase. Sampled on n pixels it is right for
    ``|distance_px2| <= n``; waves that spread beyond the frame come in from the other side.

    Args:
        field: (..., N, N) complex.
        distance_px2: wavelength * distance / pixel^2, positive downstream.

    Returns:
        (..., N, N) complex of the same power.
    """
    field = at_least_single(field)
    angle = -torch.pi * distance_px2 * _squared_frequency(field.shape[-1], field)
    return torch.fft.ifft2(torch.fft.fft2(field) * torch.polar(torch.ones_like(angle), angle))


def focal_depth_px2(probe: Tensor) -> float:
    """Distance over which propagation changes a probe: the phases of its spectrum then differ by 1 rad (rms).

    Args:
        probe: (M, N, N) complex, not zero.

    Returns:
        1 / (pi * std of |q|^2 weighted by the power of the spectrum), px^2; infinite for a plane wave.
    """
    probe = at_least_single(probe)
    power = torch.fft.fft2(probe).abs().square().sum(0)
    share = power / power.sum()
    squared = _squared_frequency(probe.shape[-1], probe)
    spread = float((share * (squared - (share * squared).sum()).square()).sum().sqrt())
    return 1 / (torch.pi * spread) if spread > 0 else float("inf")
