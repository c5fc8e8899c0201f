"""The tables of docs/CONFIGURATION.md, made from the knobs and the dataclasses.

`python -m ptycho.cli.reference docs/CONFIGURATION.md` writes them anew between their markers.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Sequence
from typing import Any

import click

from ptycho import documents
from ptycho.cli import older_options as older
from ptycho.cli.fields import file_only_fields
from ptycho.cli.infer import infer
from ptycho.cli.knobs import SCAN_KNOBS, TRAINING_KNOBS, Knob
from ptycho.cli.refine import refine
from ptycho.cli.resolve import file_options
from ptycho.cli.train import train
from ptycho.documents import code, line

__all__ = ["TABLES", "file_only_table", "flag_table", "older_table", "verb_table", "with_tables"]


_VERBS: tuple[click.Command, ...] = (train, infer, refine)


def _default(value: Any) -> str:
    return "unset" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _row(flags: Sequence[str], key: str, default: Any, kind: Any, text: str) -> str:
    """A flag with its key, its default, the verbs that have it, and what it does; text: of the help."""
    verbs = [str(verb.name) for verb in _VERBS if any(_is(option, key, text) for option in file_options(verb))]
    said = re.search(r" ?\[(?:default: )?(.*)\]$", text)
    what = text if said is None else text.removesuffix(said.group(0))
    if isinstance(kind, click.Choice):
        what = f"{what} One of {', '.join(kind.choices)}."
    return line(code(flags), f"`{key}`", said.group(1) if said else _default(default), ", ".join(verbs), what)


def _is(option: click.Option, key: str, text: str) -> bool:
    return (option.name, option.help) == (key, text)


_HEAD = ["| flag | key in a file | default | verbs | what |", "|---|---|---|---|---|"]


def flag_table() -> str:
    """Every flag that stands for a field, in the order of the help text."""
    knobs = (*SCAN_KNOBS, *TRAINING_KNOBS)
    return "\n".join([*_HEAD, *(_row(k.flag.split("/"), k.field, k.default, k.kind, k.help) for k in knobs)])


def verb_table() -> str:
    """Every other flag that a file may state, in the order of the help texts of the verbs."""
    lines = list(_HEAD)
    fields = {(knob.field, knob.help) for knob in (*SCAN_KNOBS, *TRAINING_KNOBS)}
    for option in (option for verb in _VERBS for option in file_options(verb)):
        default = option.default if isinstance(option.default, (bool, int, float, str)) else None
        row = _row((*option.opts, *option.secondary_opts), str(option.name), default, option.type, option.help or "")
        if (option.name, option.help) not in fields and row not in lines:
            lines.append(row)
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


TABLES = {"flags": flag_table, "verb-flags": verb_table, "file-only": file_only_table, "older-flags": older_table}


def with_tables(text: str) -> str:
    """A document with these tables made anew; see `ptycho.documents`."""
    return documents.with_tables(text, TABLES)


if __name__ == "__main__":
    documents.rewrite(sys.argv[1], TABLES)
