"""The fields of the configuration that no flag of `ptychopinn train` sets: a file states them, and the older
commands have flags for them, made from the dataclasses."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Sequence
from typing import Any

import click

from ptycho.cli.knobs import SCAN_KNOBS, TRAINING_KNOBS, Knob
from ptycho.cli.options import Devices, Indices
from ptycho.config.execution import PyTorchExecutionConfig
from ptycho.config.models import ModelConfig, TrainingConfig

__all__ = ["DEPRECATED", "ELSEWHERE", "OWNERS", "field_knobs", "file_only_fields", "hints", "kind_for"]

OWNERS = (ModelConfig, TrainingConfig, PyTorchExecutionConfig)
DEPRECATED = {"n_images": "n_groups"}
ELSEWHERE = {
    "train_data_file": "the scan is named on the command line",
    "test_data_file": "frames for validation are withheld from the scan (val_fraction)",
    "model": "it is a section of 'name: value' lines",
}
"""Fields that are said otherwise than by a setting, and how."""

_PREFIXED = ("plateau_", "recon_log_")  # of these the older commands also know --torch-<field>
_FROM_THE_SCAN = ("N",)


def hints() -> dict[str, Any]:
    """Annotation of every field; of one that exists twice that of PyTorchExecutionConfig."""
    return {name: hint for owner in OWNERS for name, hint in typing.get_type_hints(owner).items()}


def file_only_fields() -> list[tuple[type, dataclasses.Field[Any]]]:
    """(owner, field) of what a file may state for `train` and no flag sets; a field that exists twice once."""
    known = {knob.field for knob in (*SCAN_KNOBS, *TRAINING_KNOBS)} | {*ELSEWHERE, *DEPRECATED, "output_dir"}
    found = {f.name: (owner, f) for owner in OWNERS for f in dataclasses.fields(owner) if f.name not in known}
    return list(found.values())


def kind_for(hint: Any) -> Any:
    """The click type for an annotation; None for sequences, which the dataclass checks itself."""
    parts = typing.get_args(hint) or (hint,)
    if int in parts and str in parts:
        return Devices()
    for part, kind in ((bool, click.BOOL), (float, click.FLOAT), (int, click.INT), (str, click.STRING)):
        if part in parts:
            return kind
    return None


def field_knobs() -> tuple[Knob, ...]:
    """A flag for each of these fields: `--some-field VALUE`, or `--some-field/--no-some-field`."""
    annotations = hints()
    return tuple(_knob(owner, f.name, annotations[f.name]) for owner, f in file_only_fields())


def _knob(owner: type, name: str, hint: Any) -> Knob:
    plain = name.replace("_", "-")
    kind = Indices() if _is_sequence(hint) else kind_for(hint)
    from_scan = name in _FROM_THE_SCAN
    return Knob(
        f"--{plain}/--no-{plain}" if hint is bool else f"--{plain}",
        owner,
        name,
        kind,
        f"Sets {name}." + (" [default: from the scan]" if from_scan else ""),
        f"Other fields of {owner.__name__}",
        no_default=from_scan,
        aliases=(f"--torch-{plain}",) if name.startswith(_PREFIXED) else (),
    )


def _is_sequence(hint: Any) -> bool:
    return any(typing.get_origin(part) is Sequence for part in (hint, *typing.get_args(hint)))
