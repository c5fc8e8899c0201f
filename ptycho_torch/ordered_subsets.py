"""First projections by parts of the frames in turn: a coarse object, three times as soon.

Ordered subsets (H. M. Hudson and R. S. Larkin, IEEE Trans. Med. Imaging 13, 601 (1994)) with momentum (D. Kim,
S. Ramani and J. A. Fessler, IEEE Trans. Med. Imaging 34, 167 (2015)): each part of the frames, spread evenly over the
scan, moves the object by itself, so that one pass over all frames moves it as often as there are parts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ptycho import progress
from ptycho_torch.data.samplers import spread_folds
from ptycho_torch.solvers.projection import momentum

if TYPE_CHECKING:
    from ptycho_torch.reassembly import StreamedFrames

PARTS = 4
"""With 6 parts the same steps break up from the tenth pass on where frames are few (docs/findings.md, FEWER-001)."""
STEP = 0.7
"""Of the way that a part asks for. A whole one is too far, as with 6 parts."""
MOST_MOMENTUM = 0.9
_ROWS = 64


def project_by_parts(frames: StreamedFrames, passes: int) -> Tensor:
    """The object after so many passes over the frames from vacuum.

    Where a part lights less than another, its step is the shorter: all divide by the most that any of them lights, so
    that no pixel is moved further than its frames ask for.

    Args:
        frames: a scan; their illumination by parts takes two canvases while this runs.
        passes: >= 1; each moves the object `PARTS` times.

    Returns:
        (1, H, W) complex.
    """
    xy, members = frames.scan.xy, frames.members.numpy()
    folds = spread_folds(xy, members, PARTS, seed=0)
    parts = [frames.only(torch.from_numpy(np.flatnonzero(folds == n))) for n in range(PARTS) if (folds == n).any()]
    most = parts[0].illumination()[0]
    for part in parts[1:]:
        torch.maximum(most, part.illumination()[0], out=most)
    floor = frames.floor / len(parts)
    ahead = frames.empty_canvas().fill_(1)
    current = frames.empty_canvas().fill_(1)
    made = 0
    with progress.task("Projecting onto the counts", passes * len(members), "frame") as done:
        for number in range(passes):
            for part in parts:
                moved = part.departures(ahead)
                for new, old, lit in zip(moved.split(_ROWS), ahead.split(_ROWS), most.split(_ROWS), strict=True):
                    new.add_((1 - old) * floor).mul_(STEP).div_(lit + floor).add_(old)
                weight = min(MOST_MOMENTUM, momentum(made))
                ahead, current = current.mul_(-weight).add_(moved, alpha=1 + weight), moved
                made += 1
                done(len(part.members), f"pass {number + 1} of {passes}")
    return current[None]
