"""Two halves of a scan, split by scan point and reconstructed apart: what tells how far an object can be trusted where
there is no other to compare with.

The Fourier ring correlation of the two objects tells down to which period they agree.  Its threshold is the half-bit
curve of M. van Heel and M. Schatz (J. Struct. Biol. 151, 250 (2005)), which is made for two halves of the data: where
the correlation crosses it each half has a signal-to-noise ratio of 0.2071, and their average, which stands for the
object of all frames, of 0.4142: half a bit of information.  The frames of one half under the object of the other tell
whether noise was fitted: their deviance is above what photon noise leaves, for the object has not seen them.

What both halves get wrong in the same way (positions, a probe that is common to them, what has not converged) shows in
the deviance alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from ptycho.errors import InputError
from ptycho.geometry import Canvas, placements
from ptycho.grouping import compact_blocks
from ptycho.metrics.comparison import compare_with_images, scan_center
from ptycho.metrics.frc import RingCorrelation

__all__ = [
    "LIT_SHARE",
    "MIN_FRAMES",
    "Halves",
    "HalvesFigures",
    "agreement",
    "check_enough_frames",
    "light_on",
    "split_in_halves",
]

MIN_FRAMES = 8
"""Frames of a scan that can be halved."""

LIT_SHARE = 0.95
"""A withheld frame is scored where at least so much of its beam falls on pixels that the other half lights."""

MAX_SHIFT_PX = 4.0
"""Both objects lie on one canvas: no farther than this are they moved onto each other, along an axis."""


@dataclass(frozen=True)
class HalvesFigures:
    """What the two halves say of one stage of a reconstruction.

    Attributes:
        frc: ring correlation of the two objects; None where they could not be compared.
        shift_px: (row, column) between the two objects, as the registration found it; None as above.
        deviance: mean Poisson deviance per unmasked pixel of the frames of each half under the object of the other;
            None where no frame could be scored.
        expected_deviance: what photon noise alone would leave at those rates; None as above.
        n_scored: frames, of both halves, in that mean.
    """

    frc: RingCorrelation | None
    shift_px: tuple[float, float] | None
    deviance: float | None
    expected_deviance: float | None
    n_scored: int

    @property
    def resolution_px(self) -> float | None:
        """Half period at which the objects cease to agree, in pixels; None where they never agree."""
        return None if self.frc is None or self.frc.crossing <= 0 else self.frc.resolution_px

    def to_dict(self, pixel_size_m: float | None = None) -> dict[str, Any]:
        """The figures under the names that metrics.json has for them."""
        resolution = self.resolution_px
        known = resolution is not None and pixel_size_m is not None
        return {
            "halves_frc_crossing_cycles_per_px": None if self.frc is None else self.frc.crossing,
            "halves_frc_resolution_px": resolution,
            "halves_frc_resolution_m": resolution * pixel_size_m if known else None,  # type: ignore[operator]
            "halves_shift_px": None if self.shift_px is None else list(self.shift_px),
            "heldout_deviance": self.deviance,
            "heldout_expected_deviance": self.expected_deviance,
            "heldout_frames_scored": self.n_scored,
        }


@dataclass(frozen=True)
class Halves:
    """Two halves of a scan, reconstructed apart.

    Attributes:
        stages: figures by the name of the stage.
        n_frames: how many frames each half has.
        shared: what the two objects have in common beside the sample, in words.
    """

    stages: dict[str, HalvesFigures]
    n_frames: tuple[int, int]
    shared: str

    def to_dict(self) -> dict[str, Any]:
        """What is common to all stages, and their curves, in plain types."""
        curves = {name: figures.frc for name, figures in self.stages.items() if figures.frc is not None}
        return {
            "frames": list(self.n_frames),
            "shared": self.shared,
            "heldout_lit_share": LIT_SHARE,
            "frc": {
                name: {
                    "frequency_cycles_per_px": curve.frequency.tolist(),
                    "correlation": curve.correlation.tolist(),
                    "half_bit_threshold": curve.threshold.tolist(),
                }
                for name, curve in curves.items()
            },
        }


def check_enough_frames(source: str, n_frames: int, group: int = 1) -> None:
    """InputError for a scan of too few frames to be halved.

    group: frames that a network sees as one sample (gridsize**2): each half must hold a group.
    """
    least = max(MIN_FRAMES, 2 * group)
    if n_frames < least:
        why = "" if least == MIN_FRAMES else f", as the network takes them in groups of {group}"
        raise InputError(
            f"{source}: halves: found {n_frames} frame(s), expected at least {least} for two halves{why}. "
            "Take more frames, or leave the halves out."
        )


def split_in_halves(
    xcoords: NDArray[np.float64], ycoords: NDArray[np.float64], seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Frame indices of two halves, sorted; each covers the whole field.

    The frames are paired with a neighbour, and a coin decides which of the two goes where, so that no regular pattern
    of the scan comes back in a half.  Every frame is in exactly one half; their numbers differ by one at most.
    """
    rng = np.random.default_rng(seed)
    blocks, is_new = compact_blocks(xcoords, ycoords, 2, rng=rng)
    # the last of an odd number comes with a frame that stands in another pair already
    first, second, alone = blocks[:, 0], blocks[:, 1], ~is_new[:, 1]
    swapped = (rng.random(len(blocks)) < 0.5) & ~alone
    one, other = np.where(swapped, second, first), np.where(swapped, first, second)
    return np.sort(one), np.sort(other[~alone])


def light_on(
    pixels: NDArray[np.bool_], probe: NDArray[np.complexfloating], starts: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The share of each frame's beam that falls on some pixels of a canvas, (F,), 0 to 1.

    pixels: (H, W).  probe: (modes, N, N); the intensity is summed over the modes.  starts: (F, 2), [row, column] of
    each frame's first pixel; sub-pixel parts are not looked at.
    """
    beam = (np.abs(probe) ** 2).sum(axis=0, dtype=np.float64)
    inside = signal.fftconvolve(pixels.astype(np.float64), beam[::-1, ::-1], mode="valid")
    return np.clip(inside[starts[:, 0], starts[:, 1]] / beam.sum(), 0, 1)


def frames_to_score(
    pixels: NDArray[np.bool_], probe: NDArray[np.complexfloating], xcoords: NDArray[np.float64],
    ycoords: NDArray[np.float64], canvas: Canvas,
) -> NDArray[np.int64]:  # fmt: skip
    """Indices of the frames with at least `LIT_SHARE` of their beam on some pixels of the canvas."""
    starts, _ = placements(xcoords, ycoords, probe.shape[-1], canvas)
    return np.flatnonzero(light_on(pixels, probe, starts) >= LIT_SHARE)


def agreement(
    images: tuple[NDArray[np.complexfloating], NDArray[np.complexfloating]],
    lit: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    center: tuple[float, float],
    half: int | None = None,
) -> tuple[RingCorrelation, tuple[float, float]]:
    """Ring correlation of two objects on one canvas over what both halves light, and the (row, column) shift found.

    images: complex (H, W).  lit: bool (H, W).  center: (row, column) of the middle of the scan.  half: only the central
    square of 2*half pixels.  The crossing is 0 where a phase is flat.  InputError where the region is too small.
    """
    comparison, compared = compare_with_images(
        *images, a_center=center, b_center=center, half=half, a_covered=lit[0], covered=lit[0] & lit[1],
        max_shift=MAX_SHIFT_PX,
    )  # fmt: skip
    return replace(compared.frc, crossing=comparison.frc_crossing), comparison.shift_px


def middle_of_scan(xcoords: NDArray[np.float64], ycoords: NDArray[np.float64], canvas: Canvas) -> tuple[float, float]:
    """(row, column) on the canvas of the midpoint of the bounding box of the positions."""
    left, top = canvas.origin_xy
    return scan_center(xcoords - left, ycoords - top)
