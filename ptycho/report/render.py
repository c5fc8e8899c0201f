"""From the content of a report to its HTML."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from importlib import resources
from typing import Any

from ptycho.report.captions import sections
from ptycho.report.content import Content, stage_title
from ptycho.report.figures import figure_rows, lead_sentences

__all__ = ["render_report"]

TEMPLATE = "template.html"
_TIMES = {
    "calibration": "Calibration of the probe",
    "training": "Training",
    "reconstruction": "Reconstruction of the object",
    "refinement": "Refinement",
    "uncertainty": "Intervals of the phase",
    "halves": "Two halves of the scan",
    "total": "In total",
}


def render_report(content: Content) -> str:
    """The page as text. Everything is in it: pictures, styles; no scripts, nothing is fetched from anywhere."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    source = resources.files("ptycho.report").joinpath(TEMPLATE).read_text(encoding="utf-8")
    metrics = content.metrics
    return environment.from_string(source).render(
        content=content,
        date=content.created.strftime("%d %B %Y, %H:%M %Z").strip(),
        lead=lead_sentences(content),
        notes=metrics.get("notes") or [],
        columns=[stage_title(name) for name in content.stages],
        rows=figure_rows(content),
        compared_with=metrics.get("compared_with"),
        half=metrics.get("half"),
        sections=sections(content),
        embedded={name: _embedded(png) for name, png in content.pictures.items()},
        settings=_flat(metrics.get("settings") or {}),
        times=[(_TIMES.get(name, name), f"{seconds:.1f} s") for name, seconds in _known(metrics.get("times_s"))],
        versions=_known(metrics.get("versions")),
    )


def _embedded(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _known(values: Mapping[str, Any] | None) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in (values or {}).items() if value is not None]


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as pairs of a dotted name and a text, in their order."""
    found: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            found += _flat(value, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", "not set" if value is None else str(value)))
    return found
