"""Griffe extension: the docstrings' house style, made Google style and Markdown before they are read.

Where they differ: a line of Args may describe several parameters, ``a, b: text``; each gets an entry of its own, those
after the first refer to it. A few docstrings underline ``Parameters`` instead of writing ``Args:``. Stars outside code
are products and powers, no emphasis. Roles (``:func:``) become code.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_HEADED = re.compile(r"^(Parameters|Attributes)\n-{3,}\n((?:.+\n?)*)", re.MULTILINE)
_SECTION = re.compile(r"^(Args|Attributes):\n((?:(?: {4}.*)?\n?)+)", re.MULTILINE)
_SEVERAL = re.compile(r"^ {4}(\w+(?:, \w+)+): ", re.MULTILINE)
_ROLE = re.compile(r":(?:func|class|meth|mod|attr|data):`[.~]*([^`]+)`")
_CODE_OR_STAR = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)|\*", re.DOTALL)
_TITLES = {"Parameters": "Args", "Attributes": "Attributes"}


def as_google(text: str) -> str:
    """A docstring in the house style as one in Google style."""

    def headed(match: re.Match[str]) -> str:
        lines = ["    " + line for line in match.group(2).rstrip("\n").split("\n")]
        return f"{_TITLES[match.group(1)]}:\n" + "\n".join(lines) + "\n"

    def section(match: re.Match[str]) -> str:
        title, entries = match.groups()
        return f"{title}:\n" + _split_entries(entries)

    text = _CODE_OR_STAR.sub(lambda match: match.group(0) if match.group(1) else r"\*", _ROLE.sub(r"`\1`", text))
    return _SECTION.sub(section, _HEADED.sub(headed, text))


def _split_entries(entries: str) -> str:
    """Entries ``a, b: text`` as ``a: text`` and ``b: see a``."""
    out: list[str] = []
    waiting: list[str] = []
    for line in entries.split("\n"):
        if waiting and (not line.startswith(" " * 5)):
            out += waiting
            waiting = []
        match = _SEVERAL.match(line)
        if match:
            first, *others = match.group(1).split(", ")
            line = f"    {first}: {line[match.end() :]}"
            waiting = [f"    {name}: see `{first}`." for name in others]
        out.append(line)
    return "\n".join(out + waiting)


class HouseStyle(griffe.Extension):
    """Rewrites the docstring of each object that is loaded."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called with everything that has been collected."""
        if obj.docstring is not None:
            obj.docstring.value = as_google(obj.docstring.value)
