"""What is asked for after the network: the refined object, the intervals of the result, the halves of the scan."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from ptycho import launch
from ptycho.errors import InputError
from ptycho.outcome import Outcome
from ptycho.raw_data import RawData
from ptycho_torch.halves import HalvesSettings, with_halves
from ptycho_torch.uncertainty import UncertaintySettings, with_intervals
from ptycho_torch.workflows.refinement import RefinementSettings, refined_outcome

logger = logging.getLogger(__name__)

SHARED_IN_TRAINING = (
    "The network was trained on the frames of both halves, so that its weights know both, and the probe was found with "
    "all of them; the two objects share no frame."
)
SHARED_IN_INFERENCE = (
    "Both halves were reconstructed by the same network and with the same probe; the two objects share no frame. A "
    "network that was trained on this very scan knows both halves."
)
SHARED_IN_REFINEMENT = (
    " Each half was then refined from its own network's object, object and probe with its own frames alone."
)


@dataclass(frozen=True)
class Wanted:
    """What is to follow the network: how to refine, to find intervals, to halve the scan; None for not at all.

    Raises:
        InputError: anything but settings; a refinement that moves frames, for which the canvas of the stages before
            has no room.
    """

    refine: RefinementSettings | None = None
    uncertainty: UncertaintySettings | None = None
    halves: HalvesSettings | None = None

    def __post_init__(self) -> None:
        kinds = {"refine": RefinementSettings, "uncertainty": UncertaintySettings, "halves": HalvesSettings}
        for name, kind in kinds.items():
            if not isinstance(getattr(self, name), (kind, type(None))):
                raise InputError(f"{name}: found {getattr(self, name)!r}, expected {kind.__name__}() or None.")
        if self.refine is not None and self.refine.refine_positions:
            raise InputError(
                "refine_positions=True: found for the last stage of a run, which keeps the canvas of the stages before "
                "it; expected False. Refine the result by itself: refine_scan, or ptychopinn refine --from."
            )


def finished(
    raw: RawData, outcome: Outcome, again: Callable[[RawData], Outcome], wanted: Wanted, *, shared: str, device: str
) -> Outcome:  # fmt: skip
    """An outcome with all that is wanted. Of several processes the first one does it alone.

    What cannot be made is left out, with a note: what is there already took the most time.

    Args:
        raw: the scan as it was reconstructed.
        outcome: of it.
        again: the same reconstruction of another scan that has positions of this one, on the same canvas.
        wanted: see :class:`Wanted`.
        shared: what the objects of the halves have in common.
        device: where to compute.
    """
    if launch.place().number > 0:
        return outcome
    how, found = wanted.refine, outcome

    def refined(scan: RawData, before: Outcome) -> Outcome:
        return before if how is None else refined_outcome(scan, before, how, device=device)

    def stages_of(scan: RawData) -> tuple[Outcome, Outcome]:
        before = again(scan)
        return before, refined(scan, before)

    if how is not None:
        found = _more(outcome, "The object was not refined", lambda: refined(raw, outcome))
        how = how if "refined" in found.stages else None  # nor are repeats and halves refined then
    if wanted.uncertainty is not None:
        intervals, known = wanted.uncertainty, found
        found = _more(
            found, "The intervals of the phase were not made",
            lambda: with_intervals(raw, known, lambda scan: stages_of(scan)[-1], intervals, device=device),
        )  # fmt: skip
    if wanted.halves is not None:
        halves, whole = wanted.halves, found
        shared += SHARED_IN_REFINEMENT if how is not None else ""
        found = _more(
            found, "The halves of the scan were not compared",
            lambda: with_halves(raw, whole, stages_of, halves, shared=shared, device=device),
        )  # fmt: skip
    return found


def _more(found: Outcome, otherwise: str, make: Callable[[], Outcome]) -> Outcome:
    """What ``make`` makes, or what was found before, with a note that says so."""
    try:
        return make()
    except InputError as error:
        note = f"{otherwise}: {error}"
        logger.warning("%s", note)
        return replace(found, notes=[*found.notes, note])
