"""What is asked for after the network: the refined object, the intervals of the result, the halves of the scan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ptycho import launch
from ptycho.outcome import Outcome
from ptycho.raw_data import RawData
from ptycho_torch.halves import HalvesSettings, with_halves
from ptycho_torch.uncertainty import UncertaintySettings, with_intervals
from ptycho_torch.workflows.refinement import RefinementSettings, refined_outcome

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
    """What is to follow the network: how to refine, to find intervals, to halve the scan; None for not at all."""

    refine: RefinementSettings | None = None
    uncertainty: UncertaintySettings | None = None
    halves: HalvesSettings | None = None


def finished(
    raw: RawData, outcome: Outcome, again: Callable[[RawData], Outcome], wanted: Wanted, *, shared: str, device: str
) -> Outcome:  # fmt: skip
    """An outcome with all that is wanted. Of several processes the first one does it alone.

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

    def refined(scan: RawData, before: Outcome) -> Outcome:
        return before if wanted.refine is None else refined_outcome(scan, before, wanted.refine, device=device)

    def stages_of(scan: RawData) -> tuple[Outcome, Outcome]:
        before = again(scan)
        return before, refined(scan, before)

    found = refined(raw, outcome)
    if wanted.uncertainty is not None:
        found = with_intervals(raw, found, lambda scan: stages_of(scan)[-1], wanted.uncertainty, device=device)
    if wanted.halves is not None:
        shared += SHARED_IN_REFINEMENT if wanted.refine is not None else ""
        found = with_halves(raw, found, stages_of, wanted.halves, shared=shared, device=device)
    return found
