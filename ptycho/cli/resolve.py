"""Where each setting comes from: flag, then the YAML file, then the data, then the defaults of the dataclasses.

A YAML file states options by their field names, flat or in the sections `model:` and `execution:`.
"""

from __future__ import annotations

import dataclasses
import difflib
import logging
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any

import click
from click.core import ParameterSource

from ptycho.cli.fields import DEPRECATED, ELSEWHERE, OWNERS, file_only_fields, hints, kind_for
from ptycho.config.execution import PyTorchExecutionConfig
from ptycho.config.models import ModelConfig
from ptycho.errors import InputError

__all__ = ["FILE_SECTIONS", "Settings", "file_options", "resolve"]

logger = logging.getLogger(__name__)

FILE_SECTIONS: dict[str, type] = {"model": ModelConfig, "execution": PyTorchExecutionConfig}
_ONLY_FLAGS = ("config_file", "dry_run", "overwrite", "help")


@dataclass
class Settings:
    """What was stated, by parameter or field name, and where: 'flag' or 'file'.

    What is in neither is left to the data and to the defaults of the dataclasses.
    """

    values: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)

    def get(self, name: str) -> Any:
        """The stated value, or None."""
        return self.values.get(name)


@dataclass(frozen=True)
class _Entry:
    """One setting of a file: its name, where it stands in the file, its value."""

    name: str
    place: str
    value: Any


def resolve(ctx: click.Context, values: dict[str, Any], config_file: Path | None) -> Settings:
    """The stated settings of a running command: those of the file, overruled by flags.

    values: parsed parameters by name. Raises MissingFileError or InputError for a file that cannot be used.
    """
    settings = Settings()
    if config_file is not None:
        for name, value in _read_file(ctx, config_file).items():
            settings.values[name], settings.sources[name] = value, "file"
    for name, value in values.items():
        if ctx.get_parameter_source(name) not in (ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP, None):
            settings.values[name], settings.sources[name] = value, "flag"
    return settings


# ---------------------------------------------------------------------- the file


def _read_file(ctx: click.Context, path: Path) -> dict[str, Any]:
    """Field name -> converted value."""
    from ptycho.config.legacy import load_yaml_config

    kinds = _kinds_of_values(ctx)
    found: dict[str, Any] = {}
    places: dict[str, str] = {}
    for entry in _entries(load_yaml_config(path), path):
        name = _known_name(ctx, entry, kinds, path)
        value = _converted(entry, *kinds[name], path)
        if name in found and found[name] != value:
            raise InputError(
                f"Configuration file {path}: found {found[name]!r} at {places[name]} and {value!r} at "
                f"{entry.place}, which are one setting. State it once."
            )
        found[name], places[name] = value, entry.place
    return found


def _entries(content: dict[str, Any], path: Path) -> Iterator[_Entry]:
    """The lines of a file, with those of its sections."""
    for key, value in content.items():
        owner = FILE_SECTIONS.get(str(key))
        if owner is None:
            yield _Entry(str(key), str(key), value)
            continue
        if not isinstance(value, (dict, NoneType)):
            raise InputError(
                f"Configuration file {path}: section {key}: found {value!r}, expected 'name: value' lines."
            )
        names = {f.name for f in dataclasses.fields(owner)}
        for inner, inner_value in (value or {}).items():
            if str(inner) not in names:
                raise _unknown(path, f"{key}.{inner}", str(inner), {name: name for name in names})
            yield _Entry(str(inner), f"{key}.{inner}", inner_value)


def _known_name(ctx: click.Context, entry: _Entry, kinds: dict[str, Any], path: Path) -> str:
    """The name of the setting; InputError when the command has none of that name."""
    name = entry.name
    if name in DEPRECATED and name not in kinds:
        new = DEPRECATED[name]
        logger.warning("Configuration file %s: %s is deprecated; say %s.", path, entry.place, new)
        name = new
    if name in kinds:
        return name
    if name in ELSEWHERE:
        raise InputError(f"Configuration file {path}: {entry.place} cannot be set there: {ELSEWHERE[name]}.")
    if any(f.name == name for owner in OWNERS for f in dataclasses.fields(owner)):
        raise InputError(
            f"Configuration file {path}: {entry.place} does not act in `{ctx.info_name}`, only in training. "
            "Take it out of the file."
        )
    raise _unknown(path, entry.place, name, {**_flag_spellings(ctx), **{kind: kind for kind in kinds}})


def _flag_spellings(ctx: click.Context) -> dict[str, str]:
    """Name of a flag, as somebody may write it in a file -> the key."""
    named = [(option, flag) for option in file_options(ctx.command) for flag in option.opts]
    named += [(option, flag) for option, _ in named for flag in getattr(option, "aliases", ())]
    return {flag.lstrip("-").replace("-", "_"): str(option.name) for option, flag in named}


def _unknown(path: Path, place: str, name: str, known: dict[str, str]) -> InputError:
    """known: spelling -> the valid name."""
    nearest = difflib.get_close_matches(name.lower().replace("-", "_"), known, n=1, cutoff=0.0)[0]
    return InputError(
        f"Configuration file {path}: {place} is unknown; the nearest valid key is {known[nearest]!r}. "
        "docs/CONFIGURATION.md lists them all."
    )


# ---------------------------------------------------------------------- values


def _kinds_of_values(ctx: click.Context) -> dict[str, tuple[Any, Any]]:
    """Setting -> (click type or None, annotation) of everything that a file may state for this command.

    A training command takes every field of the configuration; another command what it has options for.
    """
    options = {str(option.name): option.type for option in file_options(ctx.command)}
    known = hints()

    def hint(name: str, kind: Any) -> Any:
        return known.get(name, bool if isinstance(kind, type(click.BOOL)) else Path | None)

    kinds: dict[str, tuple[Any, Any]] = {name: (kind, hint(name, kind)) for name, kind in options.items()}
    if "nepochs" in options:
        kinds.update({f.name: (kind_for(known[f.name]), known[f.name]) for _, f in file_only_fields()})
    return kinds


def file_options(command: click.Command) -> list[click.Option]:
    """The options of a command that a file may state too, by their names."""
    options = [param for param in command.params if isinstance(param, click.Option) and param.expose_value]
    return [option for option in options if option.name not in _ONLY_FLAGS]


def _converted(entry: _Entry, kind: Any, hint: Any, path: Path) -> Any:
    """The value as the field wants it. Numbers go through their text: YAML reads 1e-3 as text, and no fraction
    may become a whole number in silence."""
    value, parts = entry.value, typing.get_args(hint) or (hint,)

    def refuse(expected: str) -> InputError:
        return InputError(f"Configuration file {path}: {entry.place}: found {value!r}, expected {expected}.")

    if value is None:
        if NoneType in parts:
            return None
        raise refuse("a value; leave the line out for the default")
    if kind is None:
        return value
    if bool in parts:
        if isinstance(value, bool) or (isinstance(value, str) and str in parts):
            return value
        raise refuse("true or false")
    if isinstance(value, (bool, list, dict)):
        raise refuse("one number or word")
    try:
        return kind.convert(str(value), None, None)
    except click.BadParameter as error:
        raise refuse(f"another value: {error.message.rstrip('.')}") from error
