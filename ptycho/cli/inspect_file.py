"""`ptychopinn inspect`: what a file is, what it holds, and what will not work with it."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from ptycho.cli import shared
from ptycho.cli.knobs import SCAN_KNOBS
from ptycho.cli.logs import verbosity_options
from ptycho.cli.options import HeadedCommand

__all__ = ["inspect"]

# What these say while a scan is read is part of what is shown.
_TOLD_ANYWAY = ("ptycho.raw_data", "ptycho.measured", "ptycho.validation", "ptycho.io.npz", "ptycho.units")


@click.command(cls=HeadedCommand, short_help="Show what a file holds, and what will not work.")
@click.argument("file", type=shared.FILE)
@click.option("--model", type=shared.FILE, metavar="MODEL",
              help="Say too whether this model (archive, checkpoint, output folder) fits the scan.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON object.")
@shared.scan_options
@verbosity_options
def inspect(file: Path, model: Path | None, as_json: bool, crop: int | None, **values: Any) -> None:
    """Show what FILE is, what it holds, and what will not work with it.

    FILE is a scan, a trained model (wts.h5.zip), a checkpoint (.ckpt), a reconstruction (NPZ), a product
    (HDF5), or the output folder of a run. Of a scan: frames and their domain with the reason, counts, positions
    and overlap, mask, probe guess, and the memory that reconstruction takes. Of a model: the network, its probe
    and photon scale, and every setting. It ends with warnings, each with what to do. Nothing is written, and
    nothing that a file holds is run.

    \b
    Examples:
      ptychopinn inspect scan.npz --crop 64
      ptychopinn inspect scan.npz --model results
      ptychopinn inspect results/checkpoints/last.ckpt --json
    """
    from ptycho.cli.inspect_text import inspection_lines
    from ptycho.inspection import inspect_file
    from ptycho.preparation import stated_preparation

    stated = {knob.field: values[knob.field] for knob in SCAN_KNOBS}
    if stated.get("measurement_domain") == "auto":
        stated["measurement_domain"] = None
    with _silenced():
        found = inspect_file(file, preparation=stated_preparation(values), crop=crop, model=model, **stated)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
        return
    for line in inspection_lines(found):
        click.echo(line)


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Keep quiet what the inspection says itself."""
    loggers = [logging.getLogger(name) for name in _TOLD_ANYWAY]
    for logger in loggers:
        logger.addFilter(_nothing)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(_nothing)


def _nothing(record: logging.LogRecord) -> bool:
    return record.levelno < logging.INFO
