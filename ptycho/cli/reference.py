"""The tables of docs/CONFIGURATION.md, made from the knobs and the dataclasses.

`python -m ptycho.cli.reference docs/CONFIGURATION.md` writes them anew between their markers.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from typing import Any

import click

from ptycho import documents
from ptycho.cli import older_options as older
from ptycho.cli.fields import file_only_fields
from ptycho.cli.knobs import INFERENCE_KNOBS, SCAN_KNOBS, TRAINING_KNOBS, Knob
from ptycho.documents import code, line

__all__ = ["TABLES", "file_only_table", "flag_table", "older_table", "with_tables"]


def _default(value: Any) -> str:
    return "unset" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _row(knob: Knob, verbs: str) -> str:
    flag = code(knob.flag.split("/"))
    text = re.sub(r" ?\[default: .*\]", "", knob.help)
    if isinstance(knob.kind, click.Choice):
        text = f"{text} One of {', '.join(knob.kind.choices)}."
    default = re.search(r"\[default: (.*)\]", knob.help)
    shown = default.group(1) if default else _default(knob.default)
    return line(flag, f"`{knob.field}`", shown, verbs, text)


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


def older_table() -> str:
    """The flags of the older commands: first those that stand for a field, then each command's others."""
    return "\n\n".join("\n".join(lines) for lines in (_older_training(), _older_inference(), _older_others()))


def _older_training() -> list[str]:
    commands = "`ptycho_train`", "`python -m ptycho_torch.train`"
    lines = [line("key in a file", *commands, "other spellings"), "|---" * 4 + "|"]
    for by_field, by_module in zip(older.ptycho_training_knobs(), older.module_training_knobs(), strict=True):
        flags = by_field.flag.split("/"), by_module.flag.split("/")
        others = sorted({*by_field.older, *by_module.older} - {*flags[0], *flags[1]})
        lines.append(line(f"`{by_field.field}`", code(flags[0]), code(flags[1]), code(others)))
    return lines


def _older_inference() -> list[str]:
    lines = [line("key in a file", "`ptycho_inference`", "`python -m ptycho_torch.inference`"), "|---" * 3 + "|"]
    both = [{k.field: k for k in made} for made in (older.ptycho_inference_knobs(), older.module_inference_knobs())]
    for field in {**both[0], **both[1]}:
        lines.append(line(f"`{field}`", *(_spellings(knobs.get(field)) for knobs in both)))
    return lines


def _older_others() -> list[str]:
    lines = [line("command", "flag", "what"), "|---" * 3 + "|"]
    for command, extras in _OTHERS.items():
        lines += [line(f"`{command}`", code(extra.flags), extra.what) for extra in extras]
    return lines


_OTHERS = {
    "ptycho_train": older.PTYCHO_TRAIN,
    "ptycho_inference": older.PTYCHO_INFERENCE,
    "python -m ptycho_torch.train": older.MODULE_TRAIN,
    "python -m ptycho_torch.inference": older.MODULE_INFERENCE,
}


def _spellings(knob: Knob | None) -> str:
    return "-" if knob is None else code((*knob.flag.split("/"), *knob.older))


TABLES = {"flags": flag_table, "file-only": file_only_table, "older-flags": older_table}


def with_tables(text: str) -> str:
    """A document with these tables made anew; see `ptycho.documents`."""
    return documents.with_tables(text, TABLES)


if __name__ == "__main__":
    documents.rewrite(sys.argv[1], TABLES)
