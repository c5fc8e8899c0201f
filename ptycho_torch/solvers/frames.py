"""A block of frames on a shared canvas, as a generator sees it in training."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ptycho_torch.physics.backprojection import POISSON_WEIGHT
from ptycho_torch.physics.detector import centred_order, detector_order, expected_counts, rate, roots
from ptycho_torch.physics.fourier import fourier_shift
from ptycho_torch.physics.illumination import merge_weights, shift_probe
from ptycho_torch.physics.patches import merge_from_sums, place
from ptycho_torch.solvers.projection import project, vacuum

PROJECTION_FLOOR = 0.02
"""Regularisation of the merge during projections, times the square root of the probe's greatest intensity in counts."""
PROJECTION_FLOOR_SHARE = 1e-2
"""No more than this share of that intensity: few counts, and data that are not in counts, get less."""


def projection_floor(probe: Tensor) -> Tensor:
    """The merge's floor for a probe (M, N, N), scaled to counts: a constant of the probe, not of the batch.

    The merged object is that of least squares, with a pull to vacuum as if each pixel had been lit once more with so
    many counts. The pull that serves best falls against the light with the dose, and grows in counts
    (docs/findings.md, FLOOR-001).
    """
    peak = probe.detach().abs().square().sum(0).amax()
    return torch.minimum(PROJECTION_FLOOR * peak.sqrt(), PROJECTION_FLOOR_SHARE * peak)


BRIGHT = 250.0
"""Counts per pixel at the probe's peak, on the object, from which on projections take the weight as it is."""
MOST_STAYING = 64.0


def staying_weight(peak: float) -> float:
    """The weight of staying where the waves are (:func:`.approach_counts`) for a probe of this peak, in counts.

    The larger it is, the nearer is a step to linear in the counts, so that the mean over their noise is the step by
    their mean; where they are few that matters, where they are many a bounded step is safer. It grows as the fourth
    root of the light that is missing (docs/findings.md, POISSON-001).
    """
    return min(MOST_STAYING, POISSON_WEIGHT * max(1.0, BRIGHT / max(peak, 1e-30)) ** 0.25)


MERGE_FLOOR = 1e-6
"""Regularisation of the merge of predicted patches, in units of the probe's greatest intensity."""


def input_scale(probe: Tensor, good_pixels: Tensor | None = None) -> Tensor:
    """Factor that brings square roots of counts to a mean energy of (N/2)^2 per frame.

    Args:
        probe: (M, N, N) complex, scaled to counts: what it puts on the good pixels are the mean counts.
        good_pixels: (N, N) bool, zero frequency first, or None for all.
    """
    light = rate(probe.detach())
    power = light.sum() if good_pixels is None else light[good_pixels].sum()
    return probe.shape[-1] / 2 / power.sqrt()


def placed_patches(predict: Callable[[Tensor], Tensor], amplitudes: Tensor, fractions: Tensor, group: int) -> Tensor:
    """Patches predicted from amplitudes, moved from their positions onto the canvas's own pixels.

    Args:
        predict: see :class:`ptycho_torch.generators.base.FramesOnCanvas`.
        amplitudes: (F, N, N), zero frequency at N//2; F is a multiple of ``group``, and groups stand together.
        fractions: (F, 2) sub-pixel remainders.
        group: frames of a group.

    Returns:
        (F, N, N) complex.
    """
    patches = predict(amplitudes.unflatten(0, (-1, group))).flatten(0, 1)
    # the departure from vacuum is moved: it is what is small at the rim, where a Fourier shift wraps round
    return 1 + fourier_shift(patches - 1, fractions)


class BlockFrames:
    """Frames in memory that share canvases, one canvas per block.

    Args:
        counts: (B, K, N, N) photon counts, zero frequency at N//2.
        probe: (M, N, N) complex, scaled to counts.
        starts: (B, K, 2) int64 placement on the block's canvas.
        fractions: (B, K, 2) sub-pixel remainders.
        shape: (H, W) of the canvases.
        good_pixels: (N, N) bool, zero frequency at N//2, or None for all.
        used: (B, K) bool; frames that are False are withheld from the object, or None for all.
        begun: (B, H, W) complex, the object after the first projections by all frames of the scan, and (B, H, W) real,
            the sum over those frames and modes of |P|^2; None where the frames here are all that is known.
    """

    def __init__(
        self, counts: Tensor, probe: Tensor, starts: Tensor, fractions: Tensor, shape: tuple[int, int],
        good_pixels: Tensor | None = None, used: Tensor | None = None, begun: tuple[Tensor, Tensor] | None = None,
    ) -> None:  # fmt: skip
        self.counts = detector_order(counts)
        self.good_pixels = None if good_pixels is None else detector_order(good_pixels)
        self.starts, self.fractions, self.shape, self.used = starts, fractions, shape, used
        self._amplitudes = roots(self.counts)
        self.probes = shift_probe(probe, fractions)
        self._floor = projection_floor(probe)
        self._peak = probe.detach().abs().square().sum(0).amax()
        # a withheld frame lights nothing: it takes part in no merge
        self._lighting = self.probes if used is None else self.probes * used[..., None, None, None]
        self._begun, self._held = begun, None
        if begun is not None:
            self._held = (begun[1] - place(merge_weights(self._lighting), starts, shape)).clamp(min=0)

    def vacuum(self) -> Tensor:
        """(B, H, W) complex ones."""
        return vacuum((self.starts.shape[0],), self.shape, self.probes)

    def begin(self, steps: int | tuple[int, float]) -> Tensor:
        """See :class:`ptycho_torch.generators.base.FramesOnCanvas`; a block has too few frames for parts, and where it
        is all that is known, these are plain projections."""
        if not isinstance(steps, int):
            raise ValueError("found a block of frames, which cannot begin by parts; expected a whole scan")
        return self.project(self.vacuum(), steps) if self._begun is None else self._begun[0]

    def project(self, canvas: Tensor, steps: int, made: int = 0) -> Tensor:
        """See :func:`ptycho_torch.solvers.projection.project`; frames outside of the block hold the canvas."""
        return project(
            canvas, self._amplitudes, self._lighting, self.starts, self._floor, steps, self.good_pixels, self._held,
            made, staying_weight(float(self._peak)) if steps > 0 else POISSON_WEIGHT,
        )

    def illumination(self) -> Tensor:
        """(B, H, W) real, in units of the probe's greatest intensity."""
        if self._begun is not None:
            return self._begun[1] / self._peak
        return place(merge_weights(self._lighting), self.starts, self.shape) / self._peak

    def from_patches(self, predict: Callable[[Tensor], Tensor], group: int) -> Tensor:
        """See :class:`ptycho_torch.generators.base.FramesOnCanvas`; withheld frames are in no group."""
        blocks, size = self.starts.shape[:2]
        order, counts_once = self._filled_up(-(-size // group) * group)

        def chosen(values: Tensor) -> Tensor:
            return torch.stack([part[at] for part, at in zip(values, order, strict=True)])

        amplitudes = centred_order(chosen(self._amplitudes)) * input_scale(self.probes[0, 0], self.good_pixels)
        moved = placed_patches(predict, amplitudes.flatten(0, 1), chosen(self.fractions).flatten(0, 1), group)
        weights = chosen(merge_weights(self._lighting)) * counts_once[..., None, None]
        starts = chosen(self.starts)
        weighted = place(moved.unflatten(0, (blocks, -1)) * weights, starts, self.shape)
        return merge_from_sums(weighted, place(weights, starts, self.shape), MERGE_FLOOR * self._peak)

    def _filled_up(self, size: int) -> tuple[Tensor, Tensor]:
        """(B, size) used frames of each block, repeated to fill it, and whether each stands there the first time."""
        used = torch.ones(self.starts.shape[:2], dtype=torch.bool, device=self.starts.device)
        used = used if self.used is None else self.used
        number = used.sum(1, keepdim=True).clamp(min=1)
        at = torch.arange(size, device=used.device)
        first = (~used).long().argsort(dim=1, stable=True)
        return first.gather(1, at % number), at < number

    def apply(
        self, step: Callable[..., Tensor], *maps: Tensor, halo_px: int | None, overwrite: bool = False
    ) -> Tensor:  # fmt: skip
        """See :class:`ptycho_torch.generators.base.FramesOnCanvas`; blocks are small, and taken whole."""
        return step(*maps)

    def rates(self, canvas: Tensor) -> Tensor:
        """(B, K, N, N) expected counts of all frames, zero frequency first."""
        return expected_counts(canvas, self.probes, self.starts)


def relative_to_block(starts: Tensor, n: int) -> tuple[Tensor, tuple[int, int]]:
    """Starts (B, K, 2) on each block's own smallest canvas, and one canvas shape that holds them all."""
    local = starts - starts.amin(dim=-2, keepdim=True)
    height, width = (local.reshape(-1, 2).amax(0) + n).tolist()
    return local, (int(height), int(width))
