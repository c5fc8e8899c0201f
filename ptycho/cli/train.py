"""`ptychopinn train`: a scan goes in, an object and a trained model come out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ptycho.cli import shared
from ptycho.cli.afterwards import afterwards_options, asked_afterwards
from ptycho.cli.knobs import TRAINING_KNOBS, knob_options, with_device
from ptycho.cli.logs import verbosity_options
from ptycho.cli.options import HeadedCommand
from ptycho.cli.resolve import Settings, resolve
from ptycho.launch import place, refuse_unknown_launcher

if TYPE_CHECKING:
    from ptycho.raw_data import RawData

__all__ = ["start_training", "train"]


@click.command(cls=HeadedCommand)
@click.argument("scans", metavar="SCAN...", type=shared.FILE, nargs=-1, required=True)
@shared.output_options()
@shared.config_options
@shared.scan_options
@shared.comparison_options
@afterwards_options
@knob_options(*with_device(TRAINING_KNOBS))
@verbosity_options
@click.pass_context
def train(
    ctx: click.Context, scans: tuple[Path, ...], overwrite: bool, config_file: Path | None, dry_run: bool,
    **options: Any,
) -> None:  # fmt: skip
    """Train a network on one SCAN or several, and reconstruct their objects.

    SCAN is a file (NPZ or HDF5) with diff3d (frames), xcoords, ycoords (patch centres in object pixels) and
    probeGuess. The output folder receives the model (wts.h5.zip), the object (reconstruction.npz and .h5),
    pictures and figures (metrics.json). Several scans train one model, each with its own probe; the results
    of each go to a folder of its name.

    \b
    Examples:
      ptychopinn train scan.npz --crop 64 --max-time 5m --output-dir results
      ptychopinn train monday.npz tuesday.npz --mask dead_pixels.npy --output-dir both
    """
    settings = resolve(ctx, options, config_file)
    folder = shared.stated_output_dir(ctx, settings.get("output_dir"))
    start_training(settings, scans, folder, overwrite=overwrite, config_file=config_file, dry_run=dry_run)


def start_training(
    settings: Settings, scans: Sequence[Path], folder: Path, *, overwrite: bool, config_file: Path | None,
    dry_run: bool, scan_name: str = "scan",
) -> None:  # fmt: skip
    """Train on the files `scans` and write into `folder`, or say what that would be.

    scan_name: what the running command calls a scan, for the table of the dry run.
    """
    from ptycho.io.outputs import MODEL_FILES, RESULT_FILES, check_output_dir

    refuse_unknown_launcher()
    first = place().number == 0
    read = (*scans, _archive(settings.get("init_from")), settings.get("reference"), config_file)
    inputs = [path for path in read if path is not None]
    names = (*MODEL_FILES, *RESULT_FILES)
    # of several processes the first writes; what it has begun to write is no reason for the others to refuse
    out = check_output_dir(folder, overwrite=overwrite, replaces=names, inputs=inputs) if first else folder
    folders = shared.result_folders(scans, out, overwrite=overwrite) if first else []
    raws = [shared.load_scan(scan, settings.values) for scan in scans]
    asked = asked_afterwards(settings.values, raws)
    wanted = shared.load_reference(settings.get("reference"))
    if dry_run and not first:
        return
    if dry_run:
        paths = shared.named_scans(scan_name, scans) | {"output_dir": out}
        _describe(raws, paths, settings, asked["halves"], config_file)
        return
    shared.train_and_report(raws, scans, out, folders, settings.values, reference=wanted, half=settings.get("half"))


def _archive(model: Path | None) -> Path | None:
    """The file that is read, of a folder the model in it."""
    from ptycho.config.validation import MODEL_ARCHIVE_NAME

    return model / MODEL_ARCHIVE_NAME if model is not None and model.is_dir() else model


def _describe(
    raws: Sequence[RawData], paths: dict[str, Path], settings: Settings, halves: Any, config_file: Path | None
) -> None:  # fmt: skip
    """The dry run: refuse what the run would refuse, else print what it would do.

    paths: by what the command calls them, the scans first, then the output folder. halves: how the scans are to be
    halved, or None.
    """
    from ptycho.cli.dry_run import print_dry_run, rows_of_command, rows_of_config

    (scan, *_, out), raw = paths.values(), raws[0]
    config, execution = shared.training_configs(raw, scan, out, settings.values)
    notes = shared.check_settings(config.model, config, execution)
    with shared.notes_said_later():
        shared.load_backend().check_training(raws, config, execution, halves=halves)
    sections = {
        "command": rows_of_command(settings, paths),
        "model": rows_of_config(config.model, settings, raw),
        "training": rows_of_config(config, settings, raw),
        "execution": rows_of_config(execution, settings, raw),
    }
    print_dry_run(sections, notes, config_file)
