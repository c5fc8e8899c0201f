"""The table of figures that ends every run: one column per stage, the network's beside those without it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

__all__ = ["figure_lines", "print_summary"]

# Key and text; the formats are those of the report.
_ROWS = (
    ("phase_correlation", "phase correlation"),
    ("ssim", "SSIM of the phase"),
    ("psnr", "PSNR of the phase (dB)"),
    ("frc_resolution_px", "FRC resolution, half period (px)"),
    ("amplitude_correlation", "amplitude correlation"),
    ("contrast_ratio", "phase contrast, to the reference"),
    ("phase_error", "rms phase difference (rad)"),
    ("shift_px", "shift found (rows, columns; px)"),
    ("registration_residual_px", "left after registration (px)"),
    ("n_pixels", "pixels compared"),
    ("deviance", "deviance per detector pixel"),
    ("expected_deviance", "  expected from photon noise"),
    ("phase_interval_90_rad", "90 % interval of the phase (+- rad, median)"),
    ("halves_frc_resolution_px", "FRC resolution of two halves (px)"),
    ("heldout_deviance", "deviance of held-out frames"),
    ("heldout_expected_deviance", "  expected from photon noise"),
    ("time_s", "time (s)"),
)


def figure_lines(columns: dict[str, dict[str, Any]]) -> list[str]:
    """Lines of a table with one column per entry; rows that no entry has are left out."""
    from ptycho.report.figures import figure_text

    names = list(columns)
    rows = [
        (text, [figure_text(key, columns[name].get(key), "-") for name in names])
        for key, text in _ROWS
        if any(columns[name].get(key) is not None for name in names)
    ]
    left = max([len(text) for text, _ in rows] or [0])
    widths = [max([len(name)] + [len(cells[i]) for _, cells in rows]) for i, name in enumerate(names)]

    def line(text: str, cells: list[str]) -> str:
        return "  ".join(
            [text.ljust(left), *(c.rjust(w) for c, w in zip(cells, widths, strict=True))]
        ).rstrip()

    return [line("", names), *(line(text, cells) for text, cells in rows)]


def _halves_line(frames: list[int], figures: dict[str, Any]) -> str:
    """What the two halves of the scan say of the result."""
    from ptycho.report.content import length_text

    pixels, length = figures.get("halves_frc_resolution_px"), figures.get("halves_frc_resolution_m")
    agree = "do not agree" if pixels is None else f"agree down to a half period of {pixels:.2f} px"
    agree += "" if length is None else f" ({length_text(length)})"
    scored = figures.get("heldout_frames_scored") or 0
    return f"Halves of {frames[0]} and {frames[1]} frames {agree}; {scored} frames were scored on the other half."


def print_summary(metrics: dict[str, Any], out: Path, stages: Iterable[str]) -> None:
    """Where the results are, and the figures of each stage."""
    columns = {name: metrics[name] for name in stages}
    compared = metrics.get("compared_with")
    click.echo()
    for line in figure_lines(columns):
        click.echo(line)
    click.echo()
    if compared:
        click.echo(f"Compared with: {compared}")
    else:
        click.echo("Compared with nothing: no reference was given, and the scan carries no true object.")
    halves = metrics.get("halves")
    if halves:
        click.echo(_halves_line(halves["frames"], list(columns.values())[-1]))
    for note in metrics.get("notes") or []:
        click.echo(f"Note: {note}")
    times = metrics.get("times_s") or {}
    if times:
        click.echo("Times: " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in times.items()))
    click.echo(f"Results are in {out}: start with phase.png; the object is in reconstruction.npz.")
