"""The report of a run: one HTML page that needs nothing beside itself."""

from ptycho.report.content import Content
from ptycho.report.render import render_report

__all__ = ["Content", "render_report"]
