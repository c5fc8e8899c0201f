"""The part of an object's phase that varies slowly over a beam, which frames hardly see.

A phase that is the same all over the beam changes no count, and a slope of it moves the diffraction pattern a little.
So what the frames ask for is far less than what is missing, and gradient steps and projections find slow phases last.
Here a step is carried further where it turns the phase slowly: a preconditioner for wavelengths above the beam's width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ptycho_torch.physics.patches import moved_in_place

MOST_GAIN = 8.0
"""Beyond that little is gained, and frames that hardly overlap break up (docs/findings.md, SLOW-001)."""
GAIN_SEEN = 0.5
"""A gain times the share of a slow phase that is seen: a whole one would leave no room for steps that go too far."""
WIDTH = 1.3
"""Of the average, in widths of the beam: with one width, frames that hardly overlap break up."""
_ROUNDS = 3
"""Averages over 3 x 3 squares, one after the other: nearly a Gaussian."""
_DIM = 0.1
"""Of the greatest light that comes through: what is averaged where there is less counts less."""
_UNLIT = 0.01
"""Of the greatest light: a pixel that has less is carried less far, and one without light not at all."""
_PIXELS = 2**17
"""Of a canvas, worked on at a time: whole ones in between would cost memory."""


class SlowPhase(NamedTuple):
    """What is slow for a beam, and how much further it is carried than it is asked for.

    Attributes:
        width_px: standard deviation of the weights with which a phase is averaged, nearly a Gaussian.
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
        """Pixels of the squares over which a phase is one number; the averages over 3 x 3 of them have ``width_px``."""
        return max(1, round(self.width_px / math.sqrt(2 / 3 * _ROUNDS)))

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


def light_through(canvas: Tensor, light: Tensor, slow: SlowPhase) -> Tensor:
    """(H', W') real, what :func:`slow_phase` divides by: |O|^2 L averaged, and a tenth of the most of it.

    It changes little from step to step.

    Args:
        canvas: O, (H, W) complex.
        light: L, (H, W) real, the sum over frames and modes of |P|^2.
        slow: for the probe.
    """
    rows = slow.rows(canvas.shape[1])
    parts = zip(canvas.split(rows), light.split(rows), strict=True)
    passed = ((old.real.square() + old.imag.square()) * lit for old, lit in parts)
    through = _averaged(passed, canvas, slow.side)
    return through.add_(_DIM * through.amax() + 1e-30)


def slow_phase(canvas: Tensor, asked: Tensor, through: Tensor, slow: SlowPhase) -> Tensor:
    """How much further the phase of an object is to turn than a step asks for, where it varies slowly.

    The gain times the mean of Im(conj(O) A) / (|O|^2 L), with the weights |O|^2 L; less where those are small.

    Args:
        canvas: O, (H, W) complex, the object before the step.
        asked: A, (H, W) complex, the step times L: the sum over frames and modes of conj(P) times the change of the
            waves.
        through: see :func:`light_through`.
        slow: for the probe.

    Returns:
        (H', W') real, radians, for squares of ``slow.side`` pixels; for :func:`carry`.
    """
    rows = slow.rows(canvas.shape[1])
    parts = zip(canvas.split(rows), asked.split(rows), strict=True)
    turning = _averaged(((old.conj() * new).imag for old, new in parts), canvas, slow.side)
    return turning.mul_(slow.gain).div_(through)


def carry(step: Tensor, canvas: Tensor, phase: Tensor, light: Tensor, slow: SlowPhase, share: float = 1.0) -> None:
    """Add i O phi to the step of an object, where there is light; in place.

    Args:
        step: (H, W) complex, what moves the object, or the moved object.
        canvas: O, (H, W) complex, the object before the step.
        phase: phi, of :func:`slow_phase`; linear between the middles of its squares.
        light: L, (H, W) real, of :func:`light_through`; phi fades where it is below a hundredth of the most.
        slow: for the probe.
        share: of phi, that is added.
    """
    side, rows, dim = slow.side, slow.rows(canvas.shape[1]), _UNLIT * light.amax() + 1e-30
    for top in range(0, len(canvas), rows):
        # a square more on both sides, to be linear across
        first, last = max(0, top // side - 1), (top + rows) // side + 1
        fine = functional.interpolate(phase[None, None, first:last], scale_factor=side, mode="bilinear")[0, 0]
        old, lit, skipped = canvas[top : top + rows], light[top : top + rows], top - first * side
        phi = fine[skipped : skipped + len(old), : old.shape[1]] * (lit / (lit + dim))
        step[top : top + rows].add_(old * torch.complex(torch.zeros_like(phi), phi), alpha=share)


def move_further(
    asked: Tensor, canvas: Tensor, light: Tensor, floor: Tensor, through: Tensor, slow: SlowPhase, share: float = 1.0
) -> Tensor:  # fmt: skip
    """:func:`ptycho_torch.physics.patches.moved_in_place`, with slow phases carried further.

    Args:
        asked, canvas, light, floor, share: as there, the light being the weight; ``asked`` is changed and returned.
        through: of :func:`light_through`.
        slow: for the probe.
    """
    phase = slow_phase(canvas, asked, through, slow)  # before what is asked for is written over
    moved = moved_in_place(asked, canvas, light, floor, share)
    carry(moved, canvas, phase, light, slow, share)
    return moved


def _averaged(rows: Iterable[Tensor], canvas: Tensor, side: int) -> Tensor:
    """The mean over squares of a real map of the size of a canvas, of which some rows come at a time, and over squares
    nearby; zeros around."""
    height, width = canvas.shape
    # at once: small results that are kept between large ones in the memory would keep gaps of their size open
    squares = canvas.real.new_empty((1, 1, -(-height // side), -(-width // side)))
    top = 0
    for values in rows:
        padded = functional.pad(values[None, None], (0, -width % side, 0, -len(values) % side))
        means = functional.avg_pool2d(padded, side)
        squares[..., top : top + means.shape[-2], :] = means
        top += means.shape[-2]
    for _ in range(_ROUNDS):
        squares = functional.avg_pool2d(squares, 3, stride=1, padding=1)
    return squares[0, 0]
