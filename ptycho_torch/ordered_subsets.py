"""First projections by parts of the frames in turn: a coarse object, three times as soon.

Ordered subsets (H. M. Hudson and R. S. Larkin, IEEE Trans. Med. Imaging 13, 601 (1994)) with momentum (D. Kim,
S. Ramani and J. A. Fessler, IEEE Trans. Med. Imaging 34, 167 (2015)): each part of the frames, spread evenly over the
scan, moves the object by itself, so that one pass over all frames moves it as often as there are parts.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ptycho import progress
from ptycho_torch.data.parts import spread_parts
from ptycho_torch.physics.patches import ROWS
from ptycho_torch.solvers.projection import momentum

if TYPE_CHECKING:
    from ptycho_torch.reassembly import StreamedFrames

logger = logging.getLogger(__name__)

PARTS = 4
"""With 6 parts the same steps break up from the tenth pass on where frames are few (docs/findings.md, FEWER-001)."""
STEP = 0.7
"""Of the way that a part asks for. A whole one is too far, as with 6 parts."""
MOST_MOMENTUM = 0.9


def project_by_parts(frames: StreamedFrames, passes: int, settled: float = 0.0) -> Tensor:
    """The object after so many passes over the frames from vacuum, or fewer, once it has settled.

    Where a part lights less than another, its step is the shorter: all divide by the most that any of them lights, so
    that no pixel is moved further than its frames ask for.

    Args:
        frames: a scan; their illumination by parts takes two canvases while this runs.
        passes: >= 1; each moves the object `PARTS` times.
        settled: ends once a pass moves the object by less than this share of its departure from vacuum, both as root
            mean squares over the illuminated pixels, weighted by their light; 0 makes all passes.

    Returns:
        (1, H, W) complex.
    """
    parts = [frames.only(part) for part in spread_parts(frames.scan.xy, frames.members.numpy(), PARTS)]
    most = parts[0].illumination()[0]
    for part in parts[1:]:
        torch.maximum(most, part.illumination()[0], out=most)
    floor = frames.floor / len(parts)
    ahead = frames.empty_canvas().fill_(1)
    current = frames.empty_canvas().fill_(1)
    made = 0
    with progress.task("Projecting onto the counts", passes * len(frames.members), "frame") as done:
        for number in range(passes):
            before = frames.copy_of(current) if settled > 0 else current
            for part in parts:
                moved = part.departures(ahead)
                for new, old, lit in zip(moved.split(ROWS), ahead.split(ROWS), most.split(ROWS), strict=True):
                    new.add_((1 - old) * floor).mul_(STEP).div_(lit + floor).add_(old)
                weight = min(MOST_MOMENTUM, momentum(made))
                ahead, current = current.mul_(-weight).add_(moved, alpha=1 + weight), moved
                made += 1
                done(len(part.members), f"pass {number + 1} of {passes}")
            if settled > 0 and _moved(before, current, most) < settled:
                logger.info("The object settled after %d passes.", number + 1)
                break
    return current[None]


def _moved(before: Tensor, after: Tensor, lit: Tensor) -> float:
    """How far an object moved, over its departure from vacuum: (H, W) each, a few rows at a time."""
    moved = departed = torch.zeros((), device=lit.device)
    for old, new, light in zip(before.split(ROWS), after.split(ROWS), lit.split(ROWS), strict=True):
        moved = moved + ((new - old).abs().square() * light).sum()
        departed = departed + ((new - 1).abs().square() * light).sum()
    return float((moved / departed.clamp(min=1e-30)).sqrt())
