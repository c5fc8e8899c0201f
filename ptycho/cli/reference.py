"""The tables of docs/CONFIGURATION.md, made from the knobs and the dataclasses.

`python -m ptycho.cli.reference docs/CONFIGURATION.md` writes them anew between their markers.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path
from typing import Any

import click

from ptycho.cli.knobs import INFERENCE_KNOBS, SCAN_KNOBS, TRAINING_KNOBS, Knob
from ptycho.cli.resolve import file_only_fields

__all__ = ["TABLES", "file_only_table", "flag_table", "with_tables"]


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


def _default(value: Any) -> str:
    return "unset" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _row(knob: Knob, verbs: str) -> str:
    flag = ", ".join(f"`{part}`" for part in knob.flag.split("/"))
    text = re.sub(r" ?\[default: .*\]", "", knob.help)
    if isinstance(knob.kind, click.Choice):
        text = f"{text} One of {', '.join(knob.kind.choices)}."
    default = re.search(r"\[default: (.*)\]", knob.help)
    shown = default.group(1) if default else _default(knob.default)
    return f"| {flag} | `{knob.field}` | {shown} | {verbs} | {_cell(text)} |"


def flag_table() -> str:
    """Every flag that stands for a field, in the order of the help text."""
    of_both = {knob.field for knob in (*SCAN_KNOBS, *INFERENCE_KNOBS)}
    lines = ["| flag | key in a file | default | verbs | what |", "|---|---|---|---|---|"]
    for knob in (*SCAN_KNOBS, *TRAINING_KNOBS):
        lines.append(_row(knob, "train, infer" if knob.field in of_both else "train"))
    return "\n".join(lines)


def file_only_table() -> str:
    """The fields that have no flag: a file may state them for `train`."""
    lines = ["| key in a file | default | of |", "|---|---|---|"]
    for owner, field in file_only_fields():
        default = "made from the run" if field.default is dataclasses.MISSING else _default(field.default)
        lines.append(f"| `{field.name}` | {default} | `{owner.__name__}` |")
    return "\n".join(lines)


TABLES = {"flags": flag_table, "file-only": file_only_table}


def with_tables(text: str) -> str:
    """A document with its tables made anew; ValueError when a marker is missing."""
    for name, make in TABLES.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        head, found, rest = text.partition(begin)
        _, closed, tail = rest.partition(end)
        if not (found and closed):
            raise ValueError(f"found no pair of {begin} and {end} in the document, expected one")
        text = f"{head}{begin}\n{make()}\n{end}{tail}"
    return text


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(with_tables(page.read_text(encoding="utf-8")), encoding="utf-8")
