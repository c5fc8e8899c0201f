"""The probe on the object: sub-pixel shifts, exit waves and merge weights."""

from __future__ import annotations

import torch
from torch import Tensor

from ptycho_torch.physics.fourier import at_least_single, shift_ramp
from ptycho_torch.physics.modes import mode_intensity

DIM = 0.5
"""Illumination, in units of the maximum of one frame, at which :func:`confidence` is a half."""


def shift_probe(probe: Tensor, fractions_px: Tensor) -> Tensor:
    """Move the probe by each frame's sub-pixel remainder.

    Args:
        probe: (M, N, N) complex.
        fractions_px: (..., 2) real, (row, column), the part of the position that integer placement left over.

    Returns:
        (..., M, N, N) complex.
    """
    spectrum = torch.fft.fft2(at_least_single(probe))
    ramp = shift_ramp(fractions_px.to(probe.real.dtype), probe.shape[-1])
    return torch.fft.ifft2(spectrum * ramp[..., None, :, :])


def shift_probe_slopes(probe: Tensor, fractions_px: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives of :func:`shift_probe` by the row and the column of each fraction, exact for its Fourier shift.

    Args:
        probe: (M, N, N) complex.
        fractions_px: (..., 2) real, (row, column).

    Returns:
        Two (..., M, N, N) complex, per pixel.
    """
    n = probe.shape[-1]
    ramp = shift_ramp(fractions_px.to(probe.real.dtype), n)
    spectrum = torch.fft.fft2(at_least_single(probe)) * ramp[..., None, :, :]
    factor = -2j * torch.pi * torch.fft.fftfreq(n, dtype=spectrum.real.dtype, device=spectrum.device)
    return torch.fft.ifft2(spectrum * factor[:, None]), torch.fft.ifft2(spectrum * factor)


def unshift_probe_sum(updates: Tensor, fractions_px: Tensor) -> Tensor:
    """Adjoint of :func:`shift_probe`: move each frame's update back and sum over frames.

    Args:
        updates: (F, M, N, N) complex, one per frame.
        fractions_px: (F, 2).

    Returns:
        (M, N, N) complex.
    """
    ramp = shift_ramp(fractions_px.to(updates.real.dtype), updates.shape[-1]).conj()
    spectrum = torch.fft.fft2(updates) * ramp[..., None, :, :]
    return torch.fft.ifft2(spectrum.sum(0))


def exit_waves(probe: Tensor, patches: Tensor) -> Tensor:
    """(..., M, N, N) waves behind the object from probes (..., M, N, N) and object patches (..., N, N)."""
    return probe * patches[..., None, :, :]


def merge_weights(probe: Tensor) -> Tensor:
    """Illumination sum over modes |P|^2: (..., N, N) from (..., M, N, N), detached."""
    return mode_intensity(probe.detach())


def confidence(illumination: Tensor) -> Tensor:
    """How far an object pixel can be told from its light, 0 to 1: as L^2 / (L^2 + DIM^2).

    Args:
        illumination: any shape, real, in units of the maximum of one frame.
    """
    brightness = illumination.square()
    return brightness / (brightness + DIM**2)


def probe_to_real(probe: Tensor) -> Tensor:
    """Complex (..., N, N) to real (..., N, N, 2): trainable parameters and buffers are kept real."""
    return torch.view_as_real(probe.resolve_conj().contiguous())


def probe_to_complex(probe: Tensor) -> Tensor:
    """Inverse of :func:`probe_to_real`."""
    return torch.view_as_complex(probe.contiguous())
