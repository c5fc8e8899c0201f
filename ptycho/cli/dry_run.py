"""What `--dry-run` prints: every setting that a run would have, and where it comes from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ptycho.cli.afterwards import IMPLIED_BY
from ptycho.cli.beamline import BEAMLINE_NAMES
from ptycho.cli.resolve import Settings
from ptycho.config.execution import PyTorchExecutionConfig
from ptycho.config.models import TrainingConfig

if TYPE_CHECKING:
    from ptycho.raw_data import RawData

__all__ = ["Row", "print_dry_run", "rows_of_command", "rows_of_config"]

# Named on the command line, or rows of another section.
_NOT_LISTED = ("model", "train_data_file", "test_data_file", "model_path", "output_dir", "n_images")
_OF_THE_COMMAND = (
    "crop", *BEAMLINE_NAMES, "refine", "refine_epochs", "uncertainty", "ensemble", "halves", "projections",
    "canvases_on_disk", "reference", "half", "threads",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One line of the table. source: 'flag', 'file', 'data' or 'default'."""

    name: str
    value: str
    source: str


def rows_of_command(settings: Settings, paths: dict[str, Path]) -> list[Row]:
    """Files, folder, and the options of the running command that are no field of a configuration."""
    rows = [Row(name, str(path), settings.sources.get(name, "flag")) for name, path in paths.items()]
    options = {param.name: param for param in click.get_current_context().command.params}
    for name in (name for name in _OF_THE_COMMAND if name in options):
        default = options[name].default
        implied_by = IMPLIED_BY.get(name, "")
        if name not in settings.values and settings.values.get(implied_by) is not None:
            rows.append(Row(name, "True", settings.sources[implied_by]))
            continue
        value = settings.values.get(name, default if isinstance(default, (bool, int)) else None)
        rows.append(Row(name, _text(value), settings.sources.get(name, "default")))
    return rows


def rows_of_config(config: Any, settings: Settings, raw: RawData, only: Sequence[str] | None = None) -> list[Row]:
    """The fields of a configuration; a field that exists twice is listed with the execution config.

    only: names of the fields to list, default all.
    """
    known = _known_from_data(settings, raw)
    twice = {f.name for f in dataclasses.fields(PyTorchExecutionConfig)} if isinstance(config, TrainingConfig) else ()
    rows = []
    for name in (f.name for f in dataclasses.fields(config)):
        if name in _NOT_LISTED or name in twice or (only is not None and name not in only):
            continue
        if name in known:
            rows.append(Row(name, _text(known[name]), "data"))
        else:
            rows.append(Row(name, _text(getattr(config, name)), settings.sources.get(name, "default")))
    return rows


def _known_from_data(settings: Settings, raw: RawData) -> dict[str, Any]:
    """What the scan decides because nothing else did."""
    known: dict[str, Any] = {}
    if "N" not in settings.values:
        known["N"] = raw.N
    if settings.get("measurement_domain") in (None, "auto"):
        known["measurement_domain"] = raw.measurement_domain
    if "nphotons" not in settings.values and raw.nphotons is not None:
        known["nphotons"] = raw.nphotons
    return known


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return repr(value) if isinstance(value, float) else str(value)


def print_dry_run(sections: dict[str, list[Row]], notes: Iterable[str], config_file: Path | None) -> None:
    """Print the table, section by section."""
    rows = [row for part in sections.values() for row in part]
    left, middle = (max(len(getattr(row, column)) for row in rows) for column in ("name", "value"))
    for title, part in sections.items():
        click.echo(f"{title}:")
        for row in part:
            click.echo(f"  {row.name.ljust(left)}  {row.value.ljust(middle)}  {row.source}")
    click.echo()
    click.echo(f"Configuration file: {config_file or 'none'}")
    for note in notes:
        click.echo(f"Note: {note}")
    click.echo("Dry run: nothing was run, nothing was written.")
