"""First projections by parts of the frames in turn: a coarse object, twice as soon and more.

Ordered subsets (H. M. Hudson and R. S. Larkin, IEEE Trans. Med. Imaging 13, 601 (1994)) with momentum (D. Kim,
S. Ramani and J. A. Fessler, IEEE Trans. Med. Imaging 34, 167 (2015)): each part of the frames, spread evenly over the
scan, moves the object by itself, so that one pass over all frames moves it as often as there are parts. The first
passes, which have the farthest to go, take smaller parts.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ptycho import progress
from ptycho_torch.data.parts import spread_parts
from ptycho_torch.frame_stream import FrameStream
from ptycho_torch.physics.patches import ROWS
from ptycho_torch.physics.slow_phase import SlowPhase, light_through, move_further
from ptycho_torch.solvers.projection import momentum
from ptycho_torch.solvers.refinement import turns_of

if TYPE_CHECKING:
    from ptycho_torch.reassembly import StreamedFrames

logger = logging.getLogger(__name__)

PARTS = 4
"""With 6 parts all along the same steps break up from the tenth pass on where frames are few (docs/findings.md,
FEWER-001)."""
FINE_PASSES = 2
"""So many passes take the parts by pieces."""
MOST_PIECES, LEAST_FRAMES = 4, 32
"""Of a part, and frames of a piece: what fewer light has holes, and few counts are too noisy to be followed alone."""
STEP = 0.7
"""Of the way that a part asks for. A whole one is too far, as with 6 parts."""
MOST_MOMENTUM = 0.8
"""With 0.9 the slow phases of scans that hardly overlap break up after ten passes (docs/findings.md, SLOW-001)."""

SLOWEST = 0.8
"""A pass that moves the object by more than this share of what the pass before did is not taken at its word: it is
noise that moves the object then, and all the passes to come would be waited for."""

Part = Sequence[FrameStream]
"""The pieces of a part."""


def project_by_parts(frames: StreamedFrames, passes: int, settled: float = 0.0) -> Tensor:
    """The object after so many passes over the frames from vacuum, or fewer, once it has settled.

    Where a part lights less than another, its step is the shorter: all divide by the most that any of them lights, so
    that no pixel is moved further than its frames ask for.

    Args:
        frames: a scan; what its parts and their pieces light at most takes one canvas while this runs.
        passes: >= 1; each moves the object `PARTS` times, the first `FINE_PASSES` as often as the parts have pieces.
        settled: ends once what is left to move the object by is less than this share of its departure from vacuum
            (:func:`_left`), both as root mean squares over the pixels, weighted by their light; 0 makes all passes.

    Returns:
        (1, H, W) complex.
    """
    parts = _parts_of(frames)
    most_of_pieces, most_of_parts = _most_lit(parts)
    pieces = [[piece] for part in parts for piece in part]
    random, slow = torch.Generator().manual_seed(0), SlowPhase.of(frames.probe)
    ahead, current = frames.empty_canvas().fill_(1), frames.empty_canvas().fill_(1)
    made, moves = 0, list[float]()
    with progress.task("Projecting onto the counts", passes * len(frames.members), "frame") as done:
        for number in range(passes):
            before = frames.copy_of(current) if settled > 0 else current
            turn, most = (pieces, most_of_pieces) if number < FINE_PASSES else (parts, most_of_parts)
            floor, through = frames.floor / len(turn), light_through(ahead, most, slow)
            for first, *others in (turn[at] for at in turns_of(len(turn), random)):
                asked = first.departures(ahead, others)
                moved = move_further(asked, ahead, most, floor, through, slow, STEP)
                weight = min(MOST_MOMENTUM, momentum(made))
                ahead, current = current.mul_(-weight).add_(moved, alpha=1 + weight), moved
                made += 1
                done(sum(len(piece.members) for piece in (first, *others)), f"pass {number + 1} of {passes}")
            if settled > 0:
                moves.append(_moved(before, current, most_of_parts))
                if _left(moves) < settled:
                    logger.info("The object settled after %d passes.", number + 1)
                    break
    return current[None]


def _parts_of(frames: StreamedFrames) -> list[Part]:
    """Equally many pieces of each part, both spread evenly over the scan; the parts in this order."""
    xy, members = frames.scan.xy, frames.members.numpy()
    number = max(1, min(MOST_PIECES, len(members) // (PARTS * LEAST_FRAMES)))
    parts = spread_parts(xy, members, PARTS)
    return [[frames.only(piece) for piece in spread_parts(xy, part.numpy(), number)] for part in parts]


def _most_lit(parts: Sequence[Part]) -> tuple[Tensor, Tensor]:
    """(H, W) each: the most light of any piece, and of any part; one pass over the frames."""
    by_piece = by_part = None
    for first, *others in parts:
        of_part = first.light()
        of_piece = first.copy_of(of_part)
        for piece in others:
            light = piece.light()
            torch.maximum(of_piece, light, out=of_piece)
            of_part += light
        by_piece = of_piece if by_piece is None else torch.maximum(by_piece, of_piece, out=by_piece)
        by_part = of_part if by_part is None else torch.maximum(by_part, of_part, out=by_part)
    if by_piece is None or by_part is None:
        raise ValueError("found no frames; expected at least one")
    return by_piece, by_part


def _left(moves: Sequence[float]) -> float:
    """How far an object is still to move, if each pass to come moves it by the same share of what the one before does
    as the last one did of the last but one: the sum of a geometric series. The first pass makes the object, and is no
    part of that."""
    if len(moves) < 3:
        return float("inf")
    share = min(SLOWEST, moves[-1] / max(moves[-2], 1e-30))
    return moves[-1] * share / (1 - share)


def _moved(before: Tensor, after: Tensor, lit: Tensor) -> float:
    """How far an object moved, over its departure from vacuum: (H, W) each, a few rows at a time."""
    moved = departed = torch.zeros((), device=lit.device)
    for old, new, light in zip(before.split(ROWS), after.split(ROWS), lit.split(ROWS), strict=True):
        moved = moved + ((new - old).abs().square() * light).sum()
        departed = departed + ((new - 1).abs().square() * light).sum()
    return float((moved / departed.clamp(min=1e-30)).sqrt())
