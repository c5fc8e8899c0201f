"""Centred, orthonormal Fourier transforms and sub-pixel shifts.

Reference: J. W. Goodman, Introduction to Fourier Optics, 3rd ed., ch. 4 (far field).
"""

from __future__ import annotations

import torch
from torch import Tensor

_HALF_TO_SINGLE = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.complex32: torch.complex64,
}


def at_least_single(x: Tensor) -> Tensor:
    """Return ``x`` in single precision or better: half-precision FFTs are inexact or absent."""
    return x.to(_HALF_TO_SINGLE.get(x.dtype, x.dtype))


def fft2c(field: Tensor) -> Tensor:
    """Centred orthonormal FFT of the last two axes.

    Args:
        field: (..., N, N) real or complex, index N//2 is the origin.

    Returns:
        (..., N, N) complex, zero frequency at index N//2; the sum of |x|^2 is unchanged (Parseval).
    """
    shifted = torch.fft.ifftshift(at_least_single(field), dim=(-2, -1))
    return torch.fft.fftshift(torch.fft.fft2(shifted, norm="ortho"), dim=(-2, -1))


def ifft2c(spectrum: Tensor) -> Tensor:
    """Inverse (and adjoint) of :func:`fft2c`."""
    shifted = torch.fft.ifftshift(at_least_single(spectrum), dim=(-2, -1))
    return torch.fft.fftshift(torch.fft.ifft2(shifted, norm="ortho"), dim=(-2, -1))


def shift_ramp(shift_px: Tensor, n: int) -> Tensor:
    """Fourier multiplier that moves an image of side ``n`` by ``shift_px``.

    Args:
        shift_px: (..., 2) real, (row, column) in pixels; the content moves towards higher indices.
        n: side of the image in pixels.

    Returns:
        (..., n, n) complex of modulus 1 in the order of ``torch.fft.fft2`` (zero frequency first): a
        shift keeps the power of a wave, also at the Nyquist frequency of an even side.
    """
    shift_px = at_least_single(shift_px)
    freq = torch.fft.fftfreq(n, dtype=shift_px.dtype, device=shift_px.device)
    ramps = []
    for axis in (0, 1):
        angle = -2 * torch.pi * shift_px[..., axis, None] * freq
        ramps.append(torch.polar(torch.ones_like(angle), angle))
    return ramps[0][..., :, None] * ramps[1][..., None, :]


def fourier_shift(image: Tensor, shift_px: Tensor) -> Tensor:
    """Move ``image`` by a sub-pixel amount (periodic boundary).

    Args:
        image: (..., N, N) complex.
        shift_px: (..., 2), (row, column) in pixels, broadcast against the leading axes of ``image``.

    Returns:
        (..., N, N) complex.
    """
    ramp = shift_ramp(shift_px, image.shape[-1])
    return torch.fft.ifft2(torch.fft.fft2(at_least_single(image)) * ramp)
