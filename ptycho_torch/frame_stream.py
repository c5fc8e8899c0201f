"""Frames of a scan that come by in batches, with their probes and amplitudes, and what they add to a canvas."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ptycho import progress
from ptycho_torch.canvases import Canvases
from ptycho_torch.data.scans import PlacedScan
from ptycho_torch.physics.batches import fastest_batch
from ptycho_torch.physics.detector import detector_order, roots
from ptycho_torch.physics.illumination import merge_weights, shift_probe
from ptycho_torch.physics.patches import add_patches, extract
from ptycho_torch.processes import Share
from ptycho_torch.solvers.frames import projection_floor, staying_weight
from ptycho_torch.solvers.projection import projected

_KEPT_BYTES = 2**27  # of the probes of all frames, and as many of their amplitudes


def _equal_runs(number: int, wanted: int) -> int:
    """The length of equal runs into which so many frames are split, at most a quarter longer than the wanted one.

    A run of a few frames that are left over costs nearly as much as a whole one.
    """
    return max(1, -(-number // max(1, math.ceil(number / wanted - 0.25))))


class FrameStream:
    """Some frames of a scan, in batches; sums over them do not depend on the size of the batches.

    Args:
        scan: the placed frames; they are read and converted batch by batch.
        probe: (M, N, N) complex, scaled to counts; its device is where the work is done.
        good_pixels: (N, N) bool, zero frequency at N//2.
        batch_size: frames in memory at a time; None for :func:`fastest_batch`, or up to a quarter more.
        share: of this process, where several stream the scan together; each of them gets the whole result.
        members: (n,) int64, the frames that take part; None for all.
        canvases: makes them; None for in memory.

    Attributes:
        members: (n,) int64, see above.
        floor: of the merge in projections, in units of the probe's greatest intensity.
    """

    def __init__(
        self, scan: PlacedScan, probe: Tensor, good_pixels: Tensor, batch_size: int | None = None,
        share: Share | None = None, members: Tensor | None = None, canvases: Canvases | None = None,
    ) -> None:  # fmt: skip
        self.scan, self.probe, self._share, self._canvases = scan, probe, share or Share(), canvases or Canvases()
        self.members = torch.arange(scan.raw.n_frames) if members is None else members
        self.batch_size = batch_size or _equal_runs(
            len(self.members), fastest_batch(scan.raw.N, len(probe), probe.device)
        )
        self._given_batch_size = batch_size
        self._given_good, self._good = good_pixels, None if bool(good_pixels.all()) else detector_order(good_pixels)
        self._peak = probe.abs().square().sum(0).amax()
        self._staying = staying_weight(float(self._peak))
        # the merge in units of the peak, so that one map serves as weight and as illumination
        self.floor = projection_floor(probe) / self._peak
        self._kept: dict[int, Tensor] | None = {} if scan.raw.n_frames * probe.nbytes <= _KEPT_BYTES else None
        self._amplitudes: dict[int, Tensor] = {}

    def batches(self) -> Sequence[Tensor]:
        """Frame indices in runs of ``batch_size``, those of this process."""
        return self._share.mine(self.members.split(self.batch_size))

    def only(self, members: Tensor) -> FrameStream:
        """Some of these frames, on the same canvas."""
        return FrameStream(
            self.scan, self.probe, self._given_good, self._given_batch_size, self._share, members, self._canvases
        )

    def _zeros(self, dtype: torch.dtype) -> Tensor:
        return self._canvases.zeros(self.scan.canvas.shape, dtype, self.probe.device)

    def empty_canvas(self) -> Tensor:
        """(H, W) complex zeros."""
        return self._zeros(self.probe.dtype)

    def copy_of(self, canvas: Tensor) -> Tensor:
        """Another canvas with the same values."""
        return self._canvases.copy(canvas)

    def _probes(self, at: Tensor) -> Tensor:
        return shift_probe(self.probe, self.scan.fractions[at].to(self.probe.device))

    def _run_probes(self, at: Tensor) -> Tensor:
        """The probes of one of :meth:`batches`; of a scan that is not too large they are moved once."""
        if self._kept is None:
            return self._probes(at)
        first = int(at[0])
        if first not in self._kept:
            self._kept[first] = self._probes(at)
        return self._kept[first]

    def _run_amplitudes(self, at: Tensor) -> Tensor:
        """Square roots of counts of one of :meth:`batches`, zero frequency first; kept where the probes are."""
        if self._kept is None:
            return roots(self._counts(at))
        first = int(at[0])
        if first not in self._amplitudes:
            self._amplitudes[first] = roots(self._counts(at))
        return self._amplitudes[first]

    def _starts(self, at: Tensor) -> Tensor:
        return self.scan.starts[at].to(self.probe.device)

    def _counts(self, at: Tensor) -> Tensor:
        return detector_order(self.scan.counts(at).to(self.probe.device))

    def light(self) -> Tensor:
        """(H, W) real: sum over frames and modes of |P|^2, in units of the probe's greatest intensity; one pass."""
        light = self._zeros(torch.float32)
        with progress.task("Placing the frames", len(self.members), "frame") as step:
            for at in self.batches():
                add_patches(light, merge_weights(self._run_probes(at)) / self._peak, self._starts(at))
                step(len(at))
        return self._share.total(light)

    def _departures(self, canvas: Tensor, at: Tensor) -> Tensor:
        """What the frames of one of :meth:`batches` add to :meth:`departures`; see :func:`projected`."""
        patches = extract(canvas, self._starts(at), self.probe.shape[-1])
        amplitudes, probes = self._run_amplitudes(at), self._run_probes(at)
        return projected(patches, amplitudes, probes, self._good, self._staying, departure=True)

    def departures(
        self, canvas: Tensor, others: Sequence[FrameStream] = (), done: Callable[[int], None] | None = None
    ) -> Tensor:
        """By how much the counts ask for another object than (H, W) ``canvas``, times the illumination; one pass.

        ``others`` are summed with these frames: more of the same scan, on the same canvas. ``done`` is called with the
        number of frames of each batch.
        """
        total = self.empty_canvas()
        for frames in (self, *others):
            for at in frames.batches():
                add_patches(total, frames._departures(canvas, at), frames._starts(at))
                if done is not None:
                    done(len(at))
        return self._share.total(total).div_(self._peak)
