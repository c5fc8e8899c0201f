"""What diffraction data cannot tell: how power, position and tilt are shared between probe and object.

A refined probe keeps the guess's total power and, to the pixel, the centroid of its intensity, and the object has no
mean phase gradient; the object takes the inverse of whatever the probe is given.  The tilt is not held to the guess's:
a guess that points elsewhere would leave a ramp in the object, which projections from vacuum cannot find.  Nothing is
moved by parts of a pixel: an object with sharp edges would ring (docs/findings.md, GAUGE-001 and GAUGE-002).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def centroid(intensity: Tensor) -> Tensor:
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
    """Power (counts) and centroid (pixels) that a probe is held to, the latter to within half a pixel."""

    power: Tensor
    centroid_px: Tensor

    @classmethod
    def of(cls, probe: Tensor) -> ProbeGauge:
        """The gauge of a probe (M, N, N)."""
        return cls(_mode_sum(probe).sum(), centroid(_mode_sum(probe)))

    def power_correction(self, probe: Tensor) -> Tensor:
        """The factor that gives ``probe`` the gauge's power; the object takes its inverse."""
        return torch.sqrt(self.power / _mode_sum(probe).sum())

    def fix(self, probe: Tensor, canvas: Tensor, weight: Tensor, *, place: bool = True) -> tuple[Tensor, Tensor]:
        """Bring ``probe`` to this gauge and take the mean phase gradient out of the object.

        Args:
            probe: (M, N, N) complex.
            canvas: (H, W) complex object.
            weight: (H, W) real, how strongly each pixel of the object is lit.
            place: False leaves the probe where it is.

        Returns:
            Probe and canvas; their product on every frame changes by a constant phase only.
        """
        n = probe.shape[-1]
        scale = self.power_correction(probe)
        tilt = mean_gradient(canvas, weight) * n / (2 * torch.pi)
        move_px = whole(self.centroid_px - centroid(_mode_sum(probe))) if place else (0, 0)
        # first the move, then the ramp (they commute but for a phase): a ramp is not periodic
        probe = torch.roll(probe, move_px, (-2, -1)) * scale * phase_ramp(tilt, n, (n, n))
        canvas = torch.roll(canvas, move_px, (-2, -1)) / scale
        return probe, canvas * phase_ramp(-tilt, n, (canvas.shape[-2], canvas.shape[-1]))


def whole(move_px: Tensor) -> tuple[int, int]:
    """The nearest whole pixels, (row, column)."""
    row, column = move_px.round().long().tolist()
    return row, column
