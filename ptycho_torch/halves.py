"""Reconstruct two halves of a scan apart, and hold each against the other: see :mod:`ptycho.halves`.

Each half takes the way that the whole scan took, on the same canvas.  The object of one half has not seen the frames
of the other.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ptycho import progress
from ptycho.config.validation import check_whole_number
from ptycho.errors import InputError
from ptycho.halves import (
    Halves,
    HalvesFigures,
    agreement,
    check_enough_frames,
    frames_to_score,
    middle_of_scan,
    split_in_halves,
)
from ptycho.outcome import Outcome
from ptycho.placed import lit_frames
from ptycho.raw_data import RawData
from ptycho_torch.data.scans import PlacedScan
from ptycho_torch.reassembly import StreamedFrames

logger = logging.getLogger(__name__)

Again = Callable[[RawData], Sequence[Outcome]]


@dataclass(frozen=True)
class HalvesSettings:
    """How to halve a scan.

    Attributes:
        seed: of the coin that decides which of two neighbouring frames goes where.
        half: the ring correlation is taken over the central square of 2 * half pixels; None for all that both light.
    """

    seed: int = 0
    half: int | None = None

    def __post_init__(self) -> None:
        """InputError for values that say nothing."""
        check_whole_number("seed", self.seed, 0)
        check_whole_number("half", self.half, 1, optional=True)


@dataclass(frozen=True)
class _Object:
    """What one half has made: the object (H, W) on the canvas of the scan, the probe (M, N, N) that belongs to it,
    and the frames that it was made of."""

    image: NDArray[np.complex64]
    probe: NDArray[np.complex64]
    made_of: RawData


@torch.no_grad()
def with_halves(
    raw: RawData, outcome: Outcome, again: Again, settings: HalvesSettings, *, shared: str,
    device: str | torch.device = "cpu",
) -> Outcome:  # fmt: skip
    """A reconstruction with what two halves of its scan say; the outcome that is given is left as it is.

    Args:
        raw: the scan as it was reconstructed.
        outcome: of it.
        again: the same reconstruction of some of the frames, on the same canvas: outcomes, each with the probe that
            its new stages go with.
        settings: see :class:`HalvesSettings`.
        shared: what the objects of the halves have in common beside the sample, in a sentence or two.
        device: where rates are computed.

    Raises:
        InputError: too few frames.
    """
    started = time.perf_counter()
    check_enough_frames(raw.source, raw.n_frames)
    halves = []
    with progress.task("Reconstructing the halves of the scan", 2, "half") as step:
        for members in split_in_halves(outcome.xcoords, outcome.ycoords, settings.seed):
            half = raw.subset(members, copy=False)
            # where the run has moved frames, that is where they are
            half.xcoords, half.ycoords = outcome.xcoords[members], outcome.ycoords[members]
            halves.append((half, _by_stage(half, again(half))))
            step()
    (first, _), (second, _) = halves
    stages, notes = {}, list(outcome.notes)
    for name in (name for name in outcome.stages if all(name in objects for _, objects in halves)):
        stages[name] = _figures(name, [objects[name] for _, objects in halves], outcome, settings, notes, device)
    return dataclasses.replace(
        outcome,
        halves=Halves(stages, (first.n_frames, second.n_frames), shared),
        notes=notes,
        timings_s={**outcome.timings_s, "halves": time.perf_counter() - started},
        settings={**outcome.settings, "halves": dataclasses.asdict(settings)},
    )


def _by_stage(half: RawData, outcomes: Sequence[Outcome]) -> dict[str, _Object]:
    """The objects by the name of the stage, each with the probe of the first outcome that has it."""
    found: dict[str, _Object] = {}
    for outcome in outcomes:
        for name, stage in outcome.stages.items():
            found.setdefault(name, _Object(stage.object, outcome.probe, half))
    return found


def _figures(
    stage: str, objects: list[_Object], whole: Outcome, settings: HalvesSettings, notes: list[str],
    device: str | torch.device,
) -> HalvesFigures:  # fmt: skip
    """Figures of one stage; ``notes`` gets a sentence for each that there is not."""
    one, other = objects
    lit = [lit_frames(part.probe, part.made_of.xcoords, part.made_of.ycoords, whole.canvas) > 0 for part in objects]
    frc, shift = None, None
    try:
        middle = middle_of_scan(whole.xcoords, whole.ycoords, whole.canvas)
        frc, shift = agreement((one.image, other.image), (lit[0], lit[1]), middle, settings.half)
    except InputError as error:
        _note(notes, f"The halves of the scan could not be compared ({stage}): {error}")
    scored = [
        _heldout(part, seen, frames.made_of, whole, device)
        for part, seen, frames in ((one, lit[0], other), (other, lit[1], one))
    ]
    number = sum(n for n, _, _ in scored)
    if number == 0:
        _note(notes, f"No frame of one half lies where the other half lights the object: none is scored ({stage}).")
        return HalvesFigures(frc, shift, None, None, 0)
    deviance, expected = (sum(entry[0] * entry[k] for entry in scored) / number for k in (1, 2))
    return HalvesFigures(frc, shift, deviance, expected, number)


def _note(notes: list[str], text: str) -> None:
    logger.warning("%s", text)
    notes.append(text)


def _heldout(
    made: _Object, lit: NDArray[np.bool_], frames: RawData, whole: Outcome, device: str | torch.device
) -> tuple[int, float, float]:
    """How many frames that the object has not seen are scored, their mean deviance, and what noise alone would leave.

    Scored are those with nearly all of their beam where the object is ``lit`` (H, W).
    """
    chosen = frames_to_score(lit, made.probe, frames.xcoords, frames.ycoords, whole.canvas)
    if not len(chosen):
        return 0, 0.0, 0.0
    placed = PlacedScan.of(frames.subset(chosen, copy=False), whole.canvas)
    light = torch.from_numpy(made.probe.copy()).to(device)
    good = torch.from_numpy(frames.good_pixels.copy()).to(device)
    misfit = StreamedFrames(placed, light, good).deviance(torch.from_numpy(made.image.copy())[None].to(device))
    return len(chosen), misfit.deviance, misfit.expected
