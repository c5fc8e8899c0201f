"""`ptychopinn train`: a scan goes in, an object and a trained model come out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ptycho.cli import shared
from ptycho.cli.logs import verbosity_options

__all__ = ["train"]


@click.command()
@click.argument("scan", type=shared.FILE)
@shared.output_options()
@shared.scan_options
@shared.knob_options(*shared.TRAINING_KNOBS, *shared.EXECUTION_KNOBS)
@shared.comparison_options
@verbosity_options
def train(
    scan: Path,
    output_dir: Path,
    overwrite: bool,
    crop: int | None,
    reference: Path | None,
    half: int | None,
    **values: Any,
) -> None:
    """Train a network on SCAN and reconstruct its object.

    SCAN is an NPZ file with diff3d (frames), xcoords, ycoords (patch centres in object pixels) and
    probeGuess. The output folder receives the model (wts.h5.zip), the object (reconstruction.npz and .h5),
    pictures and figures (metrics.json).

    \b
    Example:
      ptychopinn train scan.npz --crop 64 --max-time 5m --output-dir results
    """
    from ptycho.io.outputs import MODEL_FILES, RESULT_FILES, check_output_dir

    inputs = [path for path in (scan, reference) if path is not None]
    names = (*MODEL_FILES, *RESULT_FILES)
    out = check_output_dir(output_dir, overwrite=overwrite, replaces=names, inputs=inputs)
    raw = shared.load_scan(scan, crop, values)
    wanted = shared.load_reference(reference)
    shared.train_and_report(raw, scan, out, values, reference=wanted, half=half)
