"""`ptychopinn infer`: a trained model reconstructs another scan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ptycho.cli import shared
from ptycho.cli.logs import verbosity_options

__all__ = ["infer"]


@click.command()
@click.argument("model", type=shared.FILE)
@click.argument("scan", type=shared.FILE)
@shared.output_options()
@shared.scan_options
@shared.knob_options(*shared.EXECUTION_KNOBS)
@shared.comparison_options
@verbosity_options
def infer(
    model: Path,
    scan: Path,
    output_dir: Path,
    overwrite: bool,
    crop: int | None,
    reference: Path | None,
    half: int | None,
    **values: Any,
) -> None:
    """Reconstruct SCAN with a trained MODEL.

    MODEL is the output folder of `ptychopinn train`, or the wts.h5.zip in it. The scan must be cropped as the
    one the model was trained on.

    \b
    Example:
      ptychopinn infer results other_scan.npz --crop 64 --output-dir other_results
    """
    from ptycho.cli.summary import print_summary
    from ptycho.io.outputs import RESULT_FILES, check_output_dir, clear_results, write_outputs

    inputs = [path for path in (scan, reference) if path is not None]
    out = check_output_dir(output_dir, overwrite=overwrite, replaces=RESULT_FILES, inputs=inputs)
    archive = _find_model(model)
    raw = shared.load_scan(scan, crop, values, needs_probe=False)
    wanted = shared.load_reference(reference)
    execution = shared.execution_config(values)
    outcome = shared.load_backend().infer_scan(archive, raw, execution=execution)
    # Only now: a model or a scan that does not fit must not cost the results of an earlier run.
    clear_results(out, RESULT_FILES)
    print_summary(write_outputs(out, outcome, raw, wanted, half=half), out, outcome.stages)


def _find_model(model: Path) -> Path:
    """The archive itself; MissingFileError or InputError when there is none."""
    from ptycho.config.validation import MODEL_ARCHIVE_NAME
    from ptycho.errors import InputError, MissingFileError

    if model.is_dir():
        if not (model / MODEL_ARCHIVE_NAME).is_file():
            raise InputError(
                f"{model}: found a folder without {MODEL_ARCHIVE_NAME}, expected the output folder of a "
                "training run. Name that folder, or the archive itself."
            )
        return model / MODEL_ARCHIVE_NAME
    if not model.is_file():
        raise MissingFileError(f"{model}: no such file or folder. Name the output folder of a training run.")
    return model
