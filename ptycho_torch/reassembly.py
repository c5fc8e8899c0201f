"""A whole scan on its canvas, streamed: memory grows with the canvas, not with the number of frames."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ptycho import progress
from ptycho.errors import InputError
from ptycho.grouping import compact_blocks
from ptycho_torch.canvases import Canvases
from ptycho_torch.data.scans import PlacedScan
from ptycho_torch.frame_stream import FrameStream
from ptycho_torch.generators.base import ByParts
from ptycho_torch.misfit import Misfit, deviance_per_pixel, expected_deviance_per_pixel
from ptycho_torch.ordered_subsets import project_by_parts
from ptycho_torch.physics.detector import centred_order, expected_counts, roots
from ptycho_torch.physics.illumination import merge_weights
from ptycho_torch.physics.patches import add_patches, merge_in_place, moved_in_place
from ptycho_torch.physics.slow_phase import SlowPhase, light_through, move_further
from ptycho_torch.processes import Share
from ptycho_torch.solvers.frames import MERGE_FLOOR, input_scale, placed_patches
from ptycho_torch.solvers.projection import momentum, vacuum

TILE_PX = 256
"""Side of the tiles in which a network runs over a large canvas, before its margin is added."""


@dataclass(frozen=True)
class _Begun:
    """What the first projections have made, (1, H, W), how, and how long they took; or nothing yet."""

    canvas: Tensor | None = None
    steps: int | ByParts = 0
    time_s: float = 0.0


class StreamedFrames(FrameStream):
    """All frames of a scan on one canvas, as a generator sees them in inference.

    The operations are those of :class:`ptycho_torch.solvers.frames.BlockFrames` with a leading axis of one,
    and sum over batches of frames; the batch size changes memory and speed, not the result. :meth:`begin` carries slow
    phases further (:mod:`ptycho_torch.physics.slow_phase`), for which a block alone is too small.

    Args:
        scan, probe, good_pixels, batch_size, share, members, canvases: see :class:`FrameStream`.
        begins: how often :meth:`begin` will be asked for the same; what it has made is kept so long.

    Attributes:
        spared_s: seconds that :meth:`begin` did not take since what it has made was kept.
    """

    def __init__(
        self, scan: PlacedScan, probe: Tensor, good_pixels: Tensor, batch_size: int | None = None,
        share: Share | None = None, members: Tensor | None = None, begins: int = 1, canvases: Canvases | None = None,
    ) -> None:  # fmt: skip
        super().__init__(scan, probe, good_pixels, batch_size, share, members, canvases)
        self._more_begins, self._begun = begins - 1, _Begun()
        self.spared_s = 0.0
        self._weight = self.light()

    def rates(self, canvas: Tensor, at: Tensor) -> Tensor:
        """(n, N, N) counts that (1, H, W) ``canvas`` makes expect in some frames, zero frequency at N//2."""
        return centred_order(expected_counts(canvas[0], self._probes(at), self._starts(at)))

    def vacuum(self) -> Tensor:
        """(1, H, W) complex ones, which take no memory: not to be written into."""
        return vacuum((), (1, 1), self.probe).expand(1, *self.scan.canvas.shape)

    def begin(self, steps: int | ByParts) -> Tensor:
        """See :class:`ptycho_torch.generators.base.FramesOnCanvas`."""
        begun, self._begun = self._begun, _Begun()
        if begun.canvas is None or begun.steps != steps:
            start = time.perf_counter()
            if isinstance(steps, ByParts):
                canvas = project_by_parts(self, steps.passes, steps.settled)
            else:
                # a single step is the back-projection, and nothing else
                canvas = self._project(self.vacuum(), steps, 0, SlowPhase.of(self.probe) if steps > 1 else None)
            begun = _Begun(canvas, steps, time.perf_counter() - start)
        else:
            canvas = begun.canvas
            self.spared_s += begun.time_s
        if self._more_begins > 0:  # the caller may write into the canvas
            self._more_begins -= 1
            self._begun = dataclasses.replace(begun, canvas=self._canvases.copy(canvas))
        return canvas

    def project(self, canvas: Tensor, steps: int, made: int = 0) -> Tensor:
        """See :func:`ptycho_torch.solvers.projection.project`; one pass over the frames per step."""
        return self._project(canvas, steps, made)

    def _project(self, canvas: Tensor, steps: int, made: int, slow: SlowPhase | None = None) -> Tensor:
        """The same, with slow phases carried further if need be."""
        ahead = current = canvas[0]
        with progress.task("Projecting onto the counts", steps * len(self.members), "frame") as done:
            for step in range(steps):
                if step == steps - 1:
                    current = ahead  # nothing is extrapolated any more: one canvas less
                moved = self._moved(ahead, slow, partial(done, text=f"step {step + 1} of {steps}"))
                ahead, beyond = moved, momentum(made + step)
                if beyond > 0 and step < steps - 1:
                    # the canvas that was given stays as it is
                    own = self._canvases.copy(current) if step == 0 else current
                    ahead = own.mul_(-beyond).add_(moved, alpha=1 + beyond)
                current = moved
                del moved  # a name for a canvas that would outlive its use
        return current[None]

    def _moved(self, canvas: Tensor, slow: SlowPhase | None, done: Callable[[int], None]) -> Tensor:
        """(H, W): where one projection moves (H, W) ``canvas``; in place, for canvases are what memory grows with."""
        asked = self.departures(canvas, done=done)
        if slow is None:
            return moved_in_place(asked, canvas, self._weight, self.floor)
        through = light_through(canvas, self._weight, slow)
        return move_further(asked, canvas, self._weight, self.floor, through, slow)

    def from_patches(self, predict: Callable[[Tensor], Tensor], group: int) -> Tensor:
        """See :class:`ptycho_torch.generators.base.FramesOnCanvas`; every frame is in one group of neighbours."""
        raw = self.scan.raw
        # one generator of its own: the same scan is always grouped in the same way
        blocks, is_new = compact_blocks(raw.xcoords, raw.ycoords, group, rng=np.random.default_rng(0))
        size = blocks.shape[1]
        if size < group:
            raise InputError(
                f"{raw.source}: found {size} frame(s), expected at least {group}, the frames of a group (gridsize^2)."
            )
        scale, floor = input_scale(self.probe, self._good), MERGE_FLOOR * self._peak
        total, weight = self.empty_canvas(), self._zeros(torch.float32)
        with progress.task("Applying the network", len(blocks) * group, "frame") as step:
            for part in self._share.mine(torch.arange(len(blocks)).split(max(1, self.batch_size // group))):
                at = torch.from_numpy(blocks[part.numpy()]).flatten()
                once = torch.from_numpy(is_new[part.numpy()]).flatten().to(self.probe.device)
                amplitudes = roots(self.scan.counts(at).to(self.probe.device)) * scale
                moved = placed_patches(predict, amplitudes, self.scan.fractions[at].to(self.probe.device), group)
                weights = merge_weights(self._probes(at)) * once[:, None, None]
                add_patches(total, moved * weights, self._starts(at))
                add_patches(weight, weights, self._starts(at))
                step(len(at))
        return merge_in_place(self._share.total(total), self._share.total(weight), floor)[None]

    def illumination(self) -> Tensor:
        """(1, H, W) real, in units of the probe's greatest intensity."""
        return self._weight[None]

    def apply(
        self, step: Callable[..., Tensor], *maps: Tensor, halo_px: int | None, overwrite: bool = False
    ) -> Tensor:  # fmt: skip
        """See :class:`ptycho_torch.generators.base.FramesOnCanvas`; the margin of a tile is ``halo_px`` wide."""
        height, width = maps[0].shape[-2:]
        if halo_px is None or max(height, width) <= TILE_PX + 2 * halo_px:
            return step(*maps)
        corners = [(top, left) for top in range(0, height, TILE_PX) for left in range(0, width, TILE_PX)]
        share = self._share if len(corners) >= self._share.of else Share()
        mine = share.mine(corners)
        # a canvas of one value, as vacuum, cannot be written into
        result = maps[0] if overwrite and maps[0].is_contiguous() else None
        waiting: list[tuple[int, Tensor | None]] = []
        with progress.task("Applying the network", len(mine), "tile") as done:
            for top in range(0, height, TILE_PX):
                # rows wait until no tile looks at what they are written over
                while result is not None and waiting and waiting[0][0] + TILE_PX <= top - halo_px:
                    _write_rows(result, *waiting.pop(0))
                rows: Tensor | None = None
                for left in (left for above, left in mine if above == top):
                    tile = _tile(step, maps, top, left, halo_px)
                    rows = tile.new_zeros((*tile.shape[:-1], width)) if rows is None else rows
                    rows[..., left : left + TILE_PX] = tile
                    if result is None:
                        result = self._canvases.zeros((*rows.shape[:-2], height, width), rows.dtype, rows.device)
                    done()
                waiting.append((top, rows))
        if result is None:
            raise ValueError(f"maps of shape {tuple(maps[0].shape)} have no pixels")
        for top, rows in waiting:
            _write_rows(result, top, rows)
        return share.total(result)

    def deviance(self, canvas: Tensor) -> Misfit:
        """How well (1, H, W) ``canvas`` explains the counts; one pass over the frames."""
        n, frames = self.probe.shape[-1], self.scan.raw.n_frames
        good = torch.ones((n, n), dtype=torch.bool, device=canvas.device) if self._good is None else self._good
        pixels = int(good.sum())
        by_frame, sums = torch.zeros(frames), torch.zeros(2, dtype=torch.float64)
        residual = torch.zeros((n, n), dtype=torch.float64)
        with progress.task("Comparing with the counts", frames, "frame") as step:
            for at in self.batches():
                rate = expected_counts(canvas[0], self._run_probes(at), self._starts(at))
                counts = self._counts(at)
                found = deviance_per_pixel(rate, counts) * good
                by_frame[at] = found.mean(dim=(-2, -1)).cpu() * (n * n / pixels)
                residual += ((counts - rate) / torch.sqrt(rate + 1)).sum(0).cpu()
                expected = expected_deviance_per_pixel(rate) * good
                sums += torch.stack((found.sum(), expected.sum())).cpu()
                step(len(at))
        if self._share.of > 1:  # also spares a device that knows no double precision
            for values in (by_frame, residual, sums):
                values.copy_(self._share.total(values.to(canvas.device)))
        on_detector = torch.where(good.cpu(), residual / frames, torch.nan)
        deviance, expectation = (sums / (frames * pixels)).tolist()
        return Misfit(deviance, expectation, by_frame.numpy(), centred_order(on_detector).float().numpy())


def _tile(step: Callable[..., Tensor], maps: Sequence[Tensor], top: int, left: int, halo_px: int) -> Tensor:
    """One tile of what ``step`` makes of ``maps``, which it sees with a margin."""
    r0, c0 = max(0, top - halo_px), max(0, left - halo_px)
    window = (..., slice(r0, top + TILE_PX + halo_px), slice(c0, left + TILE_PX + halo_px))
    made = step(*(values[window] for values in maps))
    return made[..., top - r0 : top - r0 + TILE_PX, left - c0 : left - c0 + TILE_PX]


def _write_rows(result: Tensor, top: int, rows: Tensor | None) -> None:
    """Put a row of tiles where it belongs; None, of another process, is zero here."""
    target = result[..., top : top + TILE_PX, :]
    if rows is None:
        target.zero_()
    else:
        target.copy_(rows)
