"""What a public configuration object states, as overrides for the factories."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ptycho.config.config import PyTorchExecutionConfig, TrainingConfig
from ptycho_torch import config_factory
from ptycho_torch.config_bridge import ALL_GROUPS, TWINS, merge_execution
from ptycho_torch.config_factory import TrainingPayload
from ptycho_torch.config_overrides import ALIASES
from ptycho_torch.settings import changed_fields

_ARGUMENTS = ("train_data_file", "output_dir", "n_images", "backend")


def stated_overrides(config: TrainingConfig) -> dict[str, Any]:
    """Fields of ``config`` and of its model that differ from their defaults, and what a payload always needs."""
    changed = {**changed_fields(config.model), **changed_fields(config)}
    stated = {name: value for name, (value, _) in changed.items() if name not in _ARGUMENTS}
    return {**stated, "N": config.model.N, "n_groups": ALL_GROUPS if config.n_groups is None else config.n_groups}


def payload_of(
    config: TrainingConfig,
    execution: PyTorchExecutionConfig | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    output_dir: Path | None = None,
) -> TrainingPayload:
    """The payload of a run that is described by a configuration object.

    Precedence: ``overrides``, fields of ``execution`` that were set, fields of ``config`` that were set, the data
    file, the defaults. The file need not exist where the frames are in memory: ``Path()`` and None stand for none.

    Args:
        config: what to compute; ``config.model.N`` is the side of the frames.
        execution: how to run it, or None for its defaults.
        overrides: as in :func:`ptycho_torch.config_factory.create_training_payload`.
        output_dir: where to write, instead of ``config.output_dir``.

    Raises:
        InputError: what the factory raises; a knob that both configs have is stated twice, differently.
    """
    stated = stated_overrides(config)
    if execution is not None:
        execution = merge_execution(config, execution)
        stated = {name: value for name, value in stated.items() if name not in TWINS}
    given = dict(overrides or {})
    taken = {ALIASES.get(name, name) for name in given}
    stated = {name: value for name, value in stated.items() if ALIASES.get(name, name) not in taken}
    payload = config_factory.create_training_payload(
        train_data_file=_named(config.train_data_file),
        output_dir=config.output_dir if output_dir is None else output_dir,
        overrides={**stated, **given},
        execution_config=execution,
    )
    sources = payload.overrides_applied["sources"]
    sources.update({name: "config" for name in (*stated, *(ALIASES.get(n, n) for n in stated)) if name in sources})
    return payload


def _named(file: Path | None) -> Path | None:
    return None if file is None or Path(file) == Path() else Path(file)
