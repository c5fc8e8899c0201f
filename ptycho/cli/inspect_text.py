"""An inspection as lines of text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ptycho.inspection import Inspection

__all__ = ["inspection_lines"]

_UNITS = ("_px", "_rad", "_bytes", "_ev", "_m")
_SHARES = ("linear_overlap", "share_of_zeros", "masked_share", "seen_share")
_VERBATIM = ("configuration", "arrays", "made")  # sections whose names are names in a file
_SIZES = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
_LENGTHS = ((1.0, "m"), (1e-3, "mm"), (1e-6, "um"), (1e-9, "nm"))
_WIDTH = 100


def inspection_lines(found: Inspection) -> Iterator[str]:
    """What was found, section by section, and the warnings at the end. Facts that are unknown are left out."""
    yield f"{found.path}: {found.kind}, {_size(found.size_bytes)}"
    tables = [
        (title, [_row(name, value, verbatim=title in _VERBATIM) for name, value in part])
        for title, part in _tables(found.sections)
    ]
    left = max((len(label) for _, rows in tables for label, _ in rows), default=0)
    for title, rows in tables:
        yield ""
        yield f"{title.replace('_', ' ')}:"
        for label, text in rows:
            yield f"  {label.ljust(left)}  {text}"
    yield ""
    if not found.warnings:
        yield "Nothing speaks against using it."
        return
    for warning in found.warnings:
        yield click.wrap_text(f"Warning: {warning}", _WIDTH, subsequent_indent="  ")


def _tables(sections: dict[str, dict[str, Any]], above: str = "") -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    """(title, facts that are known) of every section; a fact that is a section itself comes after its own."""
    for title, facts in sections.items():
        rows = [(name, value) for name, value in facts.items() if not isinstance(value, dict) and value is not None]
        if rows:
            yield above + title, rows
        yield from _tables({name: value for name, value in facts.items() if isinstance(value, dict)}, f"{title}, ")


def _row(name: str, value: Any, *, verbatim: bool) -> tuple[str, str]:
    return (name, str(value)) if verbatim else (_label(name), _text(name, value))


def _label(name: str) -> str:
    for unit in _UNITS:
        if name.endswith(unit):
            return _label(name[: -len(unit)])
    return name.replace("_", " ")


def _text(name: str, value: Any) -> str:
    if isinstance(value, (list, tuple)):
        between = " to " if name.endswith(("_range_px", "_range_rad", "_range")) else ", "
        parts = [_number(part) for part in value]
        return between.join(parts) + _plain_unit(name)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        if name in _SHARES:
            return f"{value:.1%}"
        if name.endswith("_bytes"):
            return _size(value)
        if name.endswith("_m"):
            return _length(value)
        if name.endswith("_ev"):
            return f"{value / 1000:.5g} keV" if value >= 1000 else f"{value:.5g} eV"
        return _number(value) + _plain_unit(name)
    return str(value)


def _plain_unit(name: str) -> str:
    return " px" if name.endswith("_px") else " rad" if name.endswith("_rad") else ""


def _number(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _size(value: float) -> str:
    for factor, unit in _SIZES:
        if value >= factor:
            return f"{value / factor:.1f} {unit}"
    return f"{value:.0f} bytes"


def _length(value: float) -> str:
    for factor, unit in _LENGTHS:
        if abs(value) >= factor:
            return f"{value / factor:.5g} {unit}"
    return f"{value:.5g} m"
