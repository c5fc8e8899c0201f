"""The part of an object's phase that varies slowly over a beam, which frames hardly see.

A phase that is the same all over the beam changes no count, and a slope of it moves the diffraction pattern a little.
So what the frames ask for is far less than what is missing, and gradient steps and projections find slow phases last.
Here a step is carried further where it turns the phase slowly: a preconditioner for wavelengths above the beam's width.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

MOST_GAIN = 8.0
"""Beyond that little is gained, and frames that hardly overlap break up (docs/findings.md, SLOW-001)."""
GAIN_SEEN = 0.5
"""A gain times the share of a slow phase that is seen: a whole one would leave no room for steps that go too far."""
WIDTH = 1.3
"""Standard deviation of the average, in widths of the beam: with one width, frames that hardly overlap break up."""
_DIM = 0.1
"""Of the greatest light: a pixel that has less is carried less far."""
_PIXELS = 2**18
"""Of a canvas, worked on at a time: whole ones in between would cost memory."""


class SlowPhase(NamedTuple):
    """What is slow for a beam, and how much further it is carried than it is asked for.

    Attributes:
        width_px: standard deviation of the Gaussian over which a phase is averaged.
        gain: see above.
    """

    width_px: float
    gain: float

    @classmethod
    def of(cls, probe: Tensor) -> SlowPhase:
        """For a probe (M, N, N) complex: the less it shows of a slow phase, the further that is carried."""
        width_px = WIDTH * beam_width_px(probe)
        return cls(width_px, min(MOST_GAIN, GAIN_SEEN / max(seen_share(probe, 2 * math.pi * width_px), 1e-6)))

    @property
    def side(self) -> int:
        """Pixels of the squares over which a phase is slow enough to be one number."""
        return max(1, int(self.width_px // 2))

    def rows(self, width: int) -> int:
        """Rows of a canvas of this width that are worked on at a time: those of whole squares."""
        return self.side * max(1, _PIXELS // (self.side * width))


def beam_width_px(probe: Tensor) -> float:
    """Standard deviation of the Gaussian that covers as much as the intensity of a probe (M, N, N) does.

    (sum I)^2 / sum I^2 of a Gaussian is 4 pi sigma^2; dim surroundings move it less than they move second moments.
    """
    intensity = probe.detach().abs().square().sum(0)
    area = intensity.sum().square() / intensity.square().sum().clamp(min=1e-30)
    return max(1.0, math.sqrt(float(area) / (4 * math.pi)))


def seen_share(probe: Tensor, wavelength_px: float) -> float:
    """The share of a weak phase wave behind the probe that shows in the far-field amplitudes, 0 to 1.

    A phase phi changes the waves by i P phi, and the amplitudes A = |F P| to first order by
    Re(conj(F P) F(i P phi)) / A; compared are the sums of their squares, for waves along rows and along columns of all
    positions. Defocus hides slow phases: on a flat bright field they show at its rim alone.

    Args:
        probe: (M, N, N) complex.
        wavelength_px: of phi.
    """
    probe = probe.detach()
    n = probe.shape[-1]
    along = torch.arange(n, dtype=probe.real.dtype, device=probe.device) * (2 * math.pi / wavelength_px)
    far = torch.fft.fft2(probe, norm="ortho")
    amplitude = far.abs().square().sum(0).sqrt()
    amplitude = amplitude.clamp(min=1e-3 * float(amplitude.amax()) + 1e-30)
    seen = changed = 0.0
    for phase in (along.cos()[:, None], along.sin()[:, None], along.cos(), along.sin()):
        change = torch.fft.fft2(1j * probe * phase, norm="ortho")
        seen += float(((far.conj() * change).real.sum(0) / amplitude).square().sum())
        changed += float(change.abs().square().sum())
    return seen / (changed + 1e-30)


def slow_phase(canvas: Tensor, asked: Tensor, light: Tensor, slow: SlowPhase) -> Tensor:
    """How much further the phase of an object is to turn than a step asks for, where it varies slowly.

    The gain times the mean of Im(conj(O) A) / (|O|^2 L) over a Gaussian, with the weights |O|^2 L, the light that comes
    through.

    Args:
        canvas: O, (H, W) complex, the object before the step.
        asked: A, (H, W) complex, the step times ``light``: the sum over frames and modes of conj(P) times the change
            of the waves.
        light: L, (H, W) real, the sum over frames and modes of |P|^2.
        slow: for the probe.

    Returns:
        (H', W') real, radians, for squares of ``slow.side`` pixels; for :func:`carry`.
    """
    side, rows = slow.side, slow.rows(canvas.shape[1])
    sums = [
        _binned(torch.stack(((old.conj() * new).imag, old.abs().square() * lit)), side)
        for old, new, lit in zip(canvas.split(rows), asked.split(rows), light.split(rows), strict=True)
    ]
    turning, through = _blurred(torch.cat(sums, dim=-2), slow.width_px / side)
    return turning.mul_(slow.gain).div_(through + _DIM * through.amax() + 1e-30)


def carry(step: Tensor, canvas: Tensor, phase: Tensor, slow: SlowPhase, share: float = 1.0) -> None:
    """Add i O phi to the step of an object; in place.

    Args:
        step: (H, W) complex, what moves the object, or the moved object.
        canvas: O, (H, W) complex, the object before the step.
        phase: phi, of :func:`slow_phase`; linear between the middles of its squares.
        slow: for the probe.
        share: of phi, that is added.
    """
    side, rows = slow.side, slow.rows(canvas.shape[1])
    for top in range(0, len(canvas), rows):
        # a square more on both sides, to be linear across
        first, last = max(0, top // side - 1), (top + rows) // side + 1
        fine = functional.interpolate(phase[None, None, first:last], scale_factor=side, mode="bilinear")[0, 0]
        old, skipped = canvas[top : top + rows], top - first * side
        step[top : top + rows].add_(old * fine[skipped : skipped + len(old), : old.shape[1]], alpha=1j * share)


def _binned(values: Tensor, side: int) -> Tensor:
    """(C, H, W) to the means over squares, as if zeros lay around."""
    height, width = values.shape[-2:]
    padded = functional.pad(values[None], (0, -width % side, 0, -height % side))
    return functional.avg_pool2d(padded, side)[0]


def _blurred(values: Tensor, width: float) -> Tensor:
    """(C, H, W) convolved with a Gaussian of this standard deviation, up to three of them away; zeros around."""
    reach = math.ceil(3 * width)
    at = torch.arange(-reach, reach + 1, dtype=values.dtype, device=values.device)
    kernel = torch.exp(-0.5 * (at / width).square())
    kernel = kernel / kernel.sum()
    down = functional.conv2d(values[:, None], kernel[None, None, :, None], padding=(reach, 0))
    return functional.conv2d(down, kernel[None, None, None, :], padding=(0, reach))[:, 0]
