"""What an inference begins with: the projections of the training, or fewer, by parts of the frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from ptycho.errors import InputError
from ptycho_torch.archive import load_model
from ptycho_torch.generators.base import ByParts
from ptycho_torch.model import PtychoPINN_Lightning

SETTLED = 0.12
"""Share of the object's departure from vacuum by which passes would still move it when the refinement may go on from
there: more passes come no nearer to the end than a refinement does (docs/findings.md, FEWER-001)."""


class Loaded(NamedTuple):
    """A module as it is to infer, the settings that it was trained with, and what a reader should know."""

    module: PtychoPINN_Lightning
    trained_with: dict[str, Any]
    notes: list[str]


def loaded(model_path: str | Path, projections: int | None, refines: bool) -> Loaded:
    """The module of an archive, which begins as asked for.

    Args:
        model_path: an archive, or the folder of a training run.
        projections: passes by parts; None for what serves: those of the training where the network's object is the
            result, and otherwise so many passes by parts as it takes until the object has settled.
        refines: whether a refinement goes on from the network's object.

    Raises:
        MissingFileError, InputError: no such archive, or a damaged one; less than one pass, or an architecture that
            takes none.
    """
    if projections is not None and projections < 1:
        raise InputError(f"projections={projections}: found less than 1. The network needs one projection to see data.")
    module, trained_with = load_model(model_path)
    notes = []
    if projections is not None:
        module.generator.project_first(ByParts(projections))
        notes.append(f"Projections before the network: {projections}, by parts of the frames, as asked for.")
    elif refines and module.generator.takes_parts:
        module.generator.project_first(ByParts(module.generator.begin_steps, SETTLED))
        notes.append(
            "Projections before the network: by parts of the frames until the object had settled, for the refinement "
            "goes on from there."
        )
    return Loaded(module, trained_with, notes)
