"""`ptychopinn train`: a scan goes in, an object and a trained model come out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ptycho.cli import shared
from ptycho.cli.knobs import TRAINING_KNOBS, knob_options
from ptycho.cli.logs import verbosity_options
from ptycho.cli.options import HeadedCommand
from ptycho.cli.resolve import Settings, resolve

if TYPE_CHECKING:
    from ptycho.raw_data import RawData

__all__ = ["start_training", "train"]


@click.command(cls=HeadedCommand)
@click.argument("scan", type=shared.FILE)
@shared.output_options()
@shared.config_options
@shared.scan_options
@shared.comparison_options
@knob_options(*TRAINING_KNOBS)
@verbosity_options
@click.pass_context
def train(
    ctx: click.Context, scan: Path, overwrite: bool, config_file: Path | None, dry_run: bool, **options: Any
) -> None:
    """Train a network on SCAN and reconstruct its object.

    SCAN is an NPZ file with diff3d (frames), xcoords, ycoords (patch centres in object pixels) and
    probeGuess. The output folder receives the model (wts.h5.zip), the object (reconstruction.npz and .h5),
    pictures and figures (metrics.json).

    \b
    Example:
      ptychopinn train scan.npz --crop 64 --max-time 5m --output-dir results
    """
    settings = resolve(ctx, options, config_file)
    folder = shared.stated_output_dir(ctx, settings.get("output_dir"))
    start_training(settings, scan, folder, overwrite=overwrite, config_file=config_file, dry_run=dry_run)


def start_training(
    settings: Settings, scan: Path, folder: Path, *, overwrite: bool, config_file: Path | None, dry_run: bool,
    scan_name: str = "scan",
) -> None:  # fmt: skip
    """Train on the file `scan` and write into `folder`, or say what that would be.

    scan_name: what the running command calls the scan, for the table of the dry run.
    """
    from ptycho.io.outputs import MODEL_FILES, RESULT_FILES, check_output_dir

    inputs = [path for path in (scan, settings.get("reference"), config_file) if path is not None]
    names = (*MODEL_FILES, *RESULT_FILES)
    out = check_output_dir(folder, overwrite=overwrite, replaces=names, inputs=inputs)
    raw = shared.load_scan(scan, settings.values)
    wanted = shared.load_reference(settings.get("reference"))
    if dry_run:
        _describe(raw, {scan_name: scan, "output_dir": out}, settings, config_file)
        return
    shared.train_and_report(raw, scan, out, settings.values, reference=wanted, half=settings.get("half"))


def _describe(raw: RawData, paths: dict[str, Path], settings: Settings, config_file: Path | None) -> None:
    """The dry run: refuse what the run would refuse, else print what it would do.

    paths: by what the command calls them, the scan first, then the output folder.
    """
    from ptycho.cli.dry_run import print_dry_run, rows_of_command, rows_of_config

    scan, out = paths.values()
    config, execution = shared.training_configs(raw, scan, out, settings.values)
    notes = shared.check_settings(config.model, config, execution)
    sections = {
        "command": rows_of_command(settings, paths),
        "model": rows_of_config(config.model, settings, raw),
        "training": rows_of_config(config, settings, raw),
        "execution": rows_of_config(execution, settings, raw),
    }
    print_dry_run(sections, notes, config_file)
