"""Messages of the library on standard error, as plain lines; --verbose, --quiet and --console-level."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import click

from ptycho.launch import place

__all__ = ["console_level_option", "is_quiet", "verbosity_options"]

_OURS = ("ptycho", "ptycho_torch")
_LEVELS = {"quiet": logging.ERROR, "verbose": logging.DEBUG}
_CONSOLE_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_STATE = "ptychopinn.log_level"
# What the warnings module hands to logging: "file:line: Category: message", then a line of source.
_WARNING = re.compile(r"^.*?:\d+: \w+: (.*?)(\n  .*)?$", re.DOTALL)

F = TypeVar("F", bound=Callable[..., Any])


class _ClickHandler(logging.Handler):
    """Writes through click, to the standard error of the moment."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            click.echo(self.format(record), err=True)
        except Exception:
            self.handleError(record)

    def filter(self, record: logging.LogRecord) -> bool:
        """Other libraries are heard from WARNING on."""
        ours = record.name.split(".")[0] in _OURS
        return (ours or record.levelno >= logging.WARNING) and bool(super().filter(record))


class _PlainFormatter(logging.Formatter):
    """The bare message; from WARNING on with the level in front; of a Python warning only its text."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if record.name == "py.warnings":
            found = _WARNING.match(record.getMessage().rstrip())
            text = found.group(1) if found else text
        if record.levelno >= logging.WARNING:
            return f"{record.levelname.capitalize()}: {text}"
        return text if record.levelno > logging.DEBUG else f"[{record.name}] {text}"


def _start(ctx: click.Context, level: int) -> None:
    """Log at this level until the command ends; an option after the verb wins over one before it.

    Of several processes that a launcher has started the first one tells; of the others errors are heard.
    """
    level = max(level, logging.ERROR) if place().number > 0 else level
    root = ctx.find_root()
    root.meta[_STATE] = level
    for name in _OURS:
        logging.getLogger(name).setLevel(level)
    if root.meta.get(_STATE + ".on"):
        return
    root.meta[_STATE + ".on"] = True
    handler = _ClickHandler()
    handler.setFormatter(_PlainFormatter("%(message)s"))
    logging.getLogger().addHandler(handler)
    release = _show_warnings(root)

    def stop() -> None:
        release()
        logging.getLogger().removeHandler(handler)
        for name in _OURS:
            logging.getLogger(name).setLevel(logging.NOTSET)

    root.call_on_close(stop)


def _show_warnings(root: click.Context) -> Callable[[], None]:
    """Let Python warnings appear as plain lines too; returns what undoes it.

    They go through logging, except for a command with `keeps_warnings`: its callers record them, which they
    cannot do when logging has taken them.
    """
    if not getattr(root.command, "keeps_warnings", False):
        logging.captureWarnings(True)
        return lambda: logging.captureWarnings(False)
    before = warnings.formatwarning

    def plain(message: Warning | str, *_: Any, **__: Any) -> str:
        return "" if root.meta[_STATE] >= logging.ERROR else f"Warning: {message}\n"

    warnings.formatwarning = plain

    def restore() -> None:
        warnings.formatwarning = before

    return restore


def is_quiet() -> bool:
    """True when --quiet was given to the running command."""
    ctx = click.get_current_context(silent=True)
    return ctx is not None and ctx.find_root().meta.get(_STATE, logging.INFO) >= logging.ERROR


def console_level_option(function: F) -> F:
    """Add --console-level, the older commands' way to say --verbose and --quiet, and what lies between."""

    def chosen(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
        if value is not None:
            _start(ctx, getattr(logging, value))

    return click.option(
        "--console-level", type=click.Choice(_CONSOLE_LEVELS), metavar="LEVEL", expose_value=False, is_eager=True,
        callback=chosen, help="Say messages of this level and above. [default: INFO]",
    )(function)  # fmt: skip


def verbosity_options(function: F) -> F:
    """Add --verbose and --quiet; they act before the command does."""

    def chosen(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
        if value is not None:
            said = f"{_STATE}.{ctx.command_path}"
            if ctx.meta.setdefault(said, value) != value:
                raise click.UsageError("--verbose and --quiet exclude each other: leave one of them out.", ctx)
            _start(ctx, _LEVELS[value])
        elif _STATE not in ctx.find_root().meta:
            _start(ctx, logging.INFO)

    for flag, short, text in (
        ("verbose", "-v", "Say more; with an error, where it was raised."),
        ("quiet", "-q", "Say only errors and the results."),
    ):
        function = click.option(
            f"--{flag}", short, flag_value=flag, default=None, expose_value=False, is_eager=True, type=str,
            callback=chosen, help=text,
        )(function)  # fmt: skip
    return function
