"""Positions of the frames as unknowns of a refinement.

A frame that lies elsewhere is lit by a probe moved against the same patch of the object, so the derivative of its
exit wave is that of the shifted probe. Of each frame's misfit of amplitudes, linearised in (row, column), the two
by two normal equations are solved (Gauss-Newton); the square root of a count has a variance of 1/4 whatever the
count, so that their matrix is four times smaller than Fisher's information.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ptycho_torch.physics.illumination import shift_probe_slopes
from ptycho_torch.physics.modes import mode_intensity
from ptycho_torch.solvers.gauge import whole

VARIANCE_OF_ROOT = 0.25
"""Variance of the square root of a Poisson count."""

LIMIT_PX = 8.0
"""Frames move at most so far from where the scan says, along each axis; the canvas has room for that."""
NEAR_LIMIT_PX = 0.5
"""A frame this near to the limit is taken to have been stopped by it."""


class Positions:
    """Where frames lie on a canvas, as integer starts and sub-pixel fractions, and how far they have been moved.

    Args:
        starts: (F, 2) int64 placement (row, column).
        fractions: (F, 2) real sub-pixel remainders.
        shape: (H, W) of the canvas.
        n: side of a frame.
    """

    def __init__(self, starts: Tensor, fractions: Tensor, shape: tuple[int, int], n: int) -> None:
        self.starts, self.fractions = starts, fractions
        self._given = starts, fractions
        self._last_start = torch.tensor([shape[0] - n, shape[1] - n], device=starts.device)
        self.correction = torch.zeros_like(fractions)

    def move(self, at: Tensor, by_px: Tensor) -> None:
        """Move the frames ``at`` (n,) by (n, 2) pixels, as far as `LIMIT_PX` lets."""
        self._set(at, (self.correction[at] + by_px).clamp(-LIMIT_PX, LIMIT_PX))

    def at_limit(self) -> int:
        """How many frames have been moved as far as they may."""
        return int((self.correction.abs() > LIMIT_PX - NEAR_LIMIT_PX).any(-1).sum())

    def without_mean(self) -> tuple[int, int]:
        """Take the mean of all corrections out, in whole pixels, and return it: the object is to be moved by its
        negative. Where that would move a frame beyond the limit, as much of the mean as may be."""
        least, most = (self.correction.amax(0) - LIMIT_PX).ceil(), (self.correction.amin(0) + LIMIT_PX).floor()
        mean_px = whole(self.correction.mean(0).clamp(least, most))
        everyone = torch.arange(len(self.starts), device=self.starts.device)
        self._set(everyone, self.correction - torch.tensor(mean_px, device=self.starts.device))
        return mean_px

    def _set(self, at: Tensor, correction: Tensor) -> None:
        starts, fractions = self._given[0][at], self._given[1][at] + correction
        # at the rim of the canvas the start stays, and the fraction, which is exact for any shift, takes the rest
        moved = torch.minimum((starts + fractions.round().long()).clamp(min=0), self._last_start)
        self.correction = self.correction.index_copy(0, at, correction)
        self.starts = self.starts.index_copy(0, at, moved)
        self.fractions = self.fractions.index_copy(0, at, fractions - (moved - starts))


def position_steps(
    probe: Tensor, fractions: Tensor, patches: Tensor, waves: Tensor, misfit: Tensor, *, longest_px: float,
    good_pixels: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """How far each frame has to be moved to explain its own misfit best, the object held.

    Args:
        probe: (M, N, N) complex, not shifted.
        fractions: (F, 2) sub-pixel remainders.
        patches: (F, N, N) complex, the object seen by each frame.
        waves: (F, M, N, N) complex exit waves.
        misfit: (F, M, N, N) complex, what brings them to the measured counts.
        longest_px: no step is longer along an axis.
        good_pixels: (N, N) bool, zero frequency first, or None.

    Returns:
        (F, 2) real, (row, column) in pixels; small where the frame says little about its position.
    """
    far = torch.fft.fft2(waves, norm="ortho")
    modulus = mode_intensity(far).sqrt()
    slopes, gradient = [], []
    for slope in shift_probe_slopes(probe, fractions):
        by_position = slope * patches[:, None]
        gradient.append((by_position.conj() * misfit).real.sum((-3, -2, -1)))
        change = (far.conj() * torch.fft.fft2(by_position, norm="ortho")).real.sum(-3) / (modulus + 1e-20)
        slopes.append(change if good_pixels is None else change * good_pixels)
    rows, columns = (slope.square().sum((-2, -1)) for slope in slopes)
    cross = (slopes[0] * slopes[1]).sum((-2, -1))
    # a frame that could not tell its position to within a pixel hardly moves
    rows, columns = rows + VARIANCE_OF_ROOT, columns + VARIANCE_OF_ROOT
    determinant = rows * columns - cross.square()
    down = (columns * gradient[0] - cross * gradient[1]) / determinant
    right = (rows * gradient[1] - cross * gradient[0]) / determinant
    return torch.stack((down, right), dim=-1).clamp(-longest_px, longest_px)
