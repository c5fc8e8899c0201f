"""Parts that the command lines are made of: kinds of values, options with older spellings, help under headings."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable
from typing import Any

import click

__all__ = [
    "COUNT",
    "FRACTION",
    "FROM_ZERO",
    "POSITIVE",
    "WHOLE",
    "Devices",
    "Duration",
    "HeadedCommand",
    "HeadedOption",
    "Indices",
    "Numbers",
]

logger = logging.getLogger(__name__)


# ---------------------------------------------------------------------- kinds of values


class Duration(click.ParamType):  # type: ignore[type-arg]
    """Seconds as a number, or with a unit: 90s, 10m, 1.5h."""

    name = "duration"
    _seconds = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}  # noqa: RUF012

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, (int, float)):
            return float(value)
        found = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([smh]?)\s*", value)
        seconds = float(found.group(1)) * self._seconds[found.group(2)] if found else 0.0
        if not (math.isfinite(seconds) and seconds > 0):
            self.fail(f"{value!r} is not a time. Give seconds, or a number with s, m or h (90s, 10m).", param, ctx)
        return seconds


class Devices(click.ParamType):  # type: ignore[type-arg]
    """A number of devices, or auto for all of them."""

    name = "number or auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if value == "auto":
            return "auto"
        try:
            number = int(value)
        except ValueError:
            number = 0
        if number < 1:
            self.fail(f"{value!r} is not a number of devices. Give a positive whole number, or auto.", param, ctx)
        return number


class Indices(click.ParamType):  # type: ignore[type-arg]
    """Whole numbers with commas between them: 0,5,12."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, (list, tuple)):
            return tuple(value)
        parts = [part.strip() for part in value.split(",")]
        if not all(part.isdecimal() for part in parts):
            self.fail(f"{value!r} is not a list of whole numbers. Give them with commas between: 0,5,12.", param, ctx)
        return tuple(int(part) for part in parts)


class Numbers(click.ParamType):  # type: ignore[type-arg]
    """Numbers with commas between them: -1,65535."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        if isinstance(value, (list, tuple)):
            return tuple(value)
        try:
            return tuple(float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers. Give them with commas between: -1,65535.", param, ctx)


COUNT = click.IntRange(min=1)
WHOLE = click.IntRange(min=0)
POSITIVE = click.FloatRange(min=0, min_open=True)
FROM_ZERO = click.FloatRange(min=0)
FRACTION = click.FloatRange(min=0, max=1)


# ---------------------------------------------------------------------- help text under headings


class HeadedOption(click.Option):
    """An option with the heading under which the help text lists it, and older spellings that it leaves unsaid.

    aliases: further flags that do the same. Those of a switch turn it on.
    """

    def __init__(self, *args: Any, heading: str = "", aliases: Iterable[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.heading = heading
        self.aliases = tuple(aliases)

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        # Only the parser knows the aliases: help text and messages are made from `opts`.
        shown = self.opts
        self.opts = [*shown, *self.aliases]
        try:
            super().add_to_parser(parser, ctx)
        finally:
            self.opts = shown


class HeadedCommand(click.Command):
    """A command whose help text lists the common options first, and the others under their headings.

    An older spelling of an option is taken, and called deprecated once unless `aliases_are_usual`.
    """

    aliases_are_usual = False

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given = dict.fromkeys(arg.partition("=")[0] for arg in args)
        try:
            rest = super().parse_args(ctx, args)
        except BaseException:
            # click closes a context only once it is complete; the log handler must not outlive this one
            if ctx.parent is None:
                ctx.close()
            raise
        if not self.aliases_are_usual:
            # Only now: --quiet and --verbose have been seen.
            now = {old: p.opts[0] for p in self.params if isinstance(p, HeadedOption) for old in p.aliases}
            for old in given:
                if old in now:
                    logger.warning("%s is deprecated; say %s.", old, now[old])
        return rest

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {"": []}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None:
                sections.setdefault(getattr(param, "heading", ""), []).append(record)
        for heading, records in sections.items():
            with formatter.section(heading or "Options"):
                formatter.write_dl(records)
