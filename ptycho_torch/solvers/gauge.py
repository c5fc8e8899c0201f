"""What diffraction data cannot tell: how power, position and tilt are shared between probe and object.

A refined probe keeps the guess's total power and the centroid of its intensity, and the object has no mean
phase gradient; the object takes the inverse of whatever the probe is given.  The tilt is not held to the
guess's: a guess that points elsewhere would leave a ramp in the object, which projections from vacuum
cannot find (docs/findings.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ptycho_torch.physics.fourier import fourier_shift


def _centroid(intensity: Tensor) -> Tensor:
    """(2,) centre of mass (row, column) of (N, N) intensities, relative to index N//2."""
    n = intensity.shape[-1]
    axis = torch.arange(n, dtype=intensity.dtype, device=intensity.device) - n // 2
    total = intensity.sum()
    return torch.stack(((intensity.sum(1) * axis).sum() / total, (intensity.sum(0) * axis).sum() / total))


def _mode_sum(field: Tensor) -> Tensor:
    return field.abs().square().sum(0)


def phase_ramp(cycles_per_frame: Tensor, n: int, shape: tuple[int, int]) -> Tensor:
    """exp(2 pi i k.r / n) on a canvas of ``shape``, r from the canvas's own corner; (H, W) complex."""
    rows = torch.arange(shape[0], dtype=cycles_per_frame.dtype, device=cycles_per_frame.device)
    cols = torch.arange(shape[1], dtype=cycles_per_frame.dtype, device=cycles_per_frame.device)
    angle = 2 * torch.pi / n * (cycles_per_frame[0] * rows[:, None] + cycles_per_frame[1] * cols[None, :])
    return torch.polar(torch.ones_like(angle), angle)


def mean_gradient(canvas: Tensor, weight: Tensor) -> Tensor:
    """Mean phase gradient of an object, (2,) radians per pixel (row, column).

    Args:
        canvas: (H, W) complex.
        weight: (H, W) real, >= 0, how much each pixel counts.
    """
    weighted = canvas * weight
    down = (canvas[:-1].conj() * weighted[1:]).sum()
    right = (canvas[:, :-1].conj() * weighted[:, 1:]).sum()
    return torch.stack((down.angle(), right.angle()))


@dataclass(frozen=True)
class ProbeGauge:
    """Power (counts) and centroid (pixels) that a probe is held to."""

    power: Tensor
    centroid_px: Tensor

    @classmethod
    def of(cls, probe: Tensor) -> ProbeGauge:
        """The gauge of a probe (M, N, N)."""
        return cls(_mode_sum(probe).sum(), _centroid(_mode_sum(probe)))

    def power_correction(self, probe: Tensor) -> Tensor:
        """The factor that gives ``probe`` the gauge's power; the object takes its inverse."""
        return torch.sqrt(self.power / _mode_sum(probe).sum())

    def fix(self, probe: Tensor, canvas: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Bring ``probe`` to this gauge and take the mean phase gradient out of the object.

        Args:
            probe: (M, N, N) complex.
            canvas: (H, W) complex object.
            weight: (H, W) real, how strongly each pixel of the object is lit.

        Returns:
            Probe and canvas; their product on every frame changes by a constant phase only.
        """
        n = probe.shape[-1]
        scale = self.power_correction(probe)
        tilt = mean_gradient(canvas, weight) * n / (2 * torch.pi)
        probe = probe * scale * phase_ramp(tilt, n, (n, n))
        move = self.centroid_px - _centroid(_mode_sum(probe))
        # first the shift, then the ramp (they commute but for a phase): a ramp is not periodic, and
        # shifting one by Fourier would ring from the edges
        canvas = shift_canvas(canvas, move) / scale
        return fourier_shift(probe, move), canvas * phase_ramp(-tilt, n, (canvas.shape[-2], canvas.shape[-1]))


def shift_canvas(canvas: Tensor, move: Tensor) -> Tensor:
    """Fourier shift of a rectangular (H, W) canvas by (row, column) pixels."""
    height, width = canvas.shape
    rows = torch.fft.fftfreq(height, dtype=move.dtype, device=move.device)
    cols = torch.fft.fftfreq(width, dtype=move.dtype, device=move.device)
    angle = -2 * torch.pi * (move[0] * rows[:, None] + move[1] * cols[None, :])
    return torch.fft.ifft2(torch.fft.fft2(canvas) * torch.polar(torch.ones_like(angle), angle))
