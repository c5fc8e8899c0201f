"""A block of frames on a shared canvas, as a generator sees it in training."""

from __future__ import annotations

from torch import Tensor, nn

from ptycho_torch.physics.detector import detector_order, expected_counts
from ptycho_torch.physics.illumination import merge_weights, shift_probe
from ptycho_torch.physics.patches import place
from ptycho_torch.solvers.projection import project, vacuum

PROJECTION_FLOOR = 1e-2
"""Regularisation of the merge during projections, in units of the probe's greatest intensity."""


def projection_floor(probe: Tensor) -> Tensor:
    """The merge's floor for a probe (M, N, N): a constant of the probe, not of the batch."""
    return PROJECTION_FLOOR * probe.detach().abs().square().sum(0).amax()


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
    """

    def __init__(
        self, counts: Tensor, probe: Tensor, starts: Tensor, fractions: Tensor, shape: tuple[int, int],
        good_pixels: Tensor | None = None, used: Tensor | None = None,
    ) -> None:  # fmt: skip
        self.counts = detector_order(counts)
        self.good_pixels = None if good_pixels is None else detector_order(good_pixels)
        self.starts, self.shape = starts, shape
        self._amplitudes = self.counts.sqrt()
        self.probes = shift_probe(probe, fractions)
        self._floor = projection_floor(probe)
        self._peak = probe.detach().abs().square().sum(0).amax()
        # a withheld frame lights nothing: it takes part in no merge
        self._lighting = self.probes if used is None else self.probes * used[..., None, None, None]

    def vacuum(self) -> Tensor:
        """(B, H, W) complex ones."""
        return vacuum((self.starts.shape[0],), self.shape, self.probes)

    def project(self, canvas: Tensor, steps: int) -> Tensor:
        """See :func:`ptycho_torch.solvers.projection.project`."""
        return project(canvas, self._amplitudes, self._lighting, self.starts, self._floor, steps, self.good_pixels)

    def illumination(self) -> Tensor:
        """(B, H, W) real, in units of the probe's greatest intensity."""
        return place(merge_weights(self._lighting), self.starts, self.shape) / self._peak

    def apply(self, network: nn.Module, features: Tensor) -> Tensor:
        """``network`` on the whole of (B, C, H, W) features."""
        result: Tensor = network(features)
        return result

    def rates(self, canvas: Tensor) -> Tensor:
        """(B, K, N, N) expected counts of all frames, zero frequency first."""
        return expected_counts(canvas, self.probes, self.starts)


def relative_to_block(starts: Tensor, n: int) -> tuple[Tensor, tuple[int, int]]:
    """Starts (B, K, 2) on each block's own smallest canvas, and one canvas shape that holds them all."""
    local = starts - starts.amin(dim=-2, keepdim=True)
    height, width = (local.reshape(-1, 2).amax(0) + n).tolist()
    return local, (int(height), int(width))
