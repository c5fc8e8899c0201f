"""`ptychopinn infer`: a trained model reconstructs another scan."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ptycho.cli import shared
from ptycho.cli.afterwards import afterwards_options, asked_afterwards
from ptycho.cli.knobs import INFERENCE_KNOBS, SCAN_KNOBS, knob_options, with_device
from ptycho.cli.logs import verbosity_options
from ptycho.cli.options import COUNT, HeadedCommand
from ptycho.cli.resolve import Settings, resolve
from ptycho.config.execution import PyTorchExecutionConfig
from ptycho.config.models import InferenceConfig, ModelConfig, TrainingConfig
from ptycho.launch import place, refuse_unknown_launcher

if TYPE_CHECKING:
    from ptycho.placed import PlacedObject
    from ptycho.raw_data import RawData

__all__ = ["infer", "start_inference"]


@click.command(cls=HeadedCommand)
@click.argument("model", type=shared.FILE)
@click.argument("scans", metavar="SCAN...", type=shared.FILE, nargs=-1, required=True)
@shared.output_options()
@shared.config_options
@shared.scan_options
@shared.comparison_options
@afterwards_options
@click.option(
    "--projections", type=COUNT, metavar="N",
    help="Passes over the frames before the network, by a quarter of them at a time: 12 give nearly the same object in "
    "a third of the time. [default: the training's projections, by all frames at once; with --refine such passes until "
    "the object has settled]",
)
@click.option(
    "--canvases-on-disk/--canvases-in-memory", default=False, show_default=True,
    help="Keep canvases in nameless files on the output folder's disk, for scans whose canvases are larger than "
    "memory; those of --refine stay in memory.",
)
@knob_options(*with_device(INFERENCE_KNOBS))
@verbosity_options
@click.pass_context
def infer(
    ctx: click.Context, model: Path, scans: tuple[Path, ...], overwrite: bool, config_file: Path | None, dry_run: bool,
    **options: Any,
) -> None:  # fmt: skip
    """Reconstruct one SCAN or several with a trained MODEL.

    MODEL is the output folder of `ptychopinn train`, or the wts.h5.zip in it. A scan must be cropped as the
    one the model was trained on. The results of several scans go to folders of their names.

    \b
    Examples:
      ptychopinn infer results other_scan.npz --crop 64 --output-dir other_results
      ptychopinn infer results day/*.npz --output-dir day_results
      ptychopinn infer results other_scan.npz --refine --output-dir refined
    """
    settings = resolve(ctx, options, config_file)
    folder = shared.stated_output_dir(ctx, settings.get("output_dir"))
    start_inference(settings, model, scans, folder, overwrite=overwrite, config_file=config_file, dry_run=dry_run)


def start_inference(
    settings: Settings, model: Path, scans: Sequence[Path], folder: Path, *, overwrite: bool,
    config_file: Path | None, dry_run: bool, names: tuple[str, str] = ("model", "scan"),
) -> None:  # fmt: skip
    """Reconstruct the files `scans` with a trained `model` and write into `folder`, or say what that would be.

    names: what the running command calls model and scan, for the table of the dry run.
    """
    from ptycho.io.outputs import RESULT_FILES, check_output_dir

    refuse_unknown_launcher()
    first = place().number == 0  # of several processes it alone writes
    inputs = [path for path in (*scans, settings.get("reference"), config_file) if path is not None]
    out = check_output_dir(folder, overwrite=overwrite, replaces=RESULT_FILES, inputs=inputs) if first else folder
    folders = shared.result_folders(scans, out, overwrite=overwrite) if first else [folder] * len(scans)
    archive = _find_model(model)
    raws = [shared.load_scan(scan, settings.values, needs_probe=False) for scan in scans]
    wanted = shared.load_reference(settings.get("reference"))
    execution = shared.execution_config(settings.values)
    config = shared.build_config(
        InferenceConfig, settings.values,
        model=ModelConfig(N=raws[0].N), model_path=archive, test_data_file=scans[0], output_dir=out,
    )  # fmt: skip
    shared.check_backend(config.backend)
    # The archive's configuration is not in these: it was checked when the model was trained.
    notes = shared.check_settings(config, execution)
    asked = asked_afterwards(settings.values, raws)
    # every scan, before the results of the first are written
    shared.load_backend().check_inference(
        archive, raws, config, execution, refine=asked["refine"], halves=asked["halves"],
        projections=settings.get("projections"),
    )  # fmt: skip
    if dry_run and not first:
        return
    if dry_run:
        paths = {names[0]: archive} | shared.named_scans(names[1], scans) | {"output_dir": out}
        _describe(config, execution, raws[0], settings, notes, paths, config_file)
        return
    shared.set_threads(settings.get("threads"))
    for raw, where in zip(raws, folders, strict=True):
        _infer_and_report(archive, raw, config, execution, where, wanted, settings)


def _infer_and_report(
    archive: Path, raw: RawData, config: InferenceConfig, execution: PyTorchExecutionConfig, folder: Path,
    wanted: PlacedObject | None, settings: Settings,
) -> None:  # fmt: skip
    wanted_too = asked_afterwards(settings.values, [raw]) | {"projections": settings.get("projections")}
    on_disk = bool(settings.get("canvases_on_disk"))
    with shared.no_empty_folder(folder) if on_disk else contextlib.nullcontext():
        if on_disk:
            folder.mkdir(parents=True, exist_ok=True)
            wanted_too["canvas_folder"] = folder
        outcome = shared.load_backend().infer_scan(archive, raw, config, execution=execution, **wanted_too)
    if place().number == 0:
        shared.report(outcome, raw, folder, wanted, settings.get("half"))


def _describe(
    config: InferenceConfig, execution: PyTorchExecutionConfig, raw: RawData, settings: Settings,
    notes: list[str], paths: dict[str, Path], config_file: Path | None,
) -> None:  # fmt: skip
    """The dry run: say what the run would do. paths: by what the command calls them."""
    from ptycho.cli.dry_run import print_dry_run, rows_of_command, rows_of_config

    # Those that act, and whatever else the command has a flag for and was told.
    fields = [*(knob.field for knob in INFERENCE_KNOBS), *settings.values]
    about_scan = shared.build_config(TrainingConfig, settings.values, model=config.model)
    sections = {
        "command": rows_of_command(settings, paths),
        "scan": [
            *rows_of_config(config.model, settings, raw, ["N"]),
            *rows_of_config(about_scan, settings, raw, [knob.field for knob in SCAN_KNOBS]),
        ],
        "inference": rows_of_config(config, settings, raw, fields),
        "execution": rows_of_config(execution, settings, raw, fields),
    }
    print_dry_run(sections, notes, config_file)


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
