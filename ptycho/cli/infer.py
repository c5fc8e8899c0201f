"""`ptychopinn infer`: a trained model reconstructs another scan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ptycho.cli import shared
from ptycho.cli.knobs import INFERENCE_KNOBS, SCAN_KNOBS, knob_options
from ptycho.cli.logs import verbosity_options
from ptycho.cli.options import HeadedCommand
from ptycho.cli.resolve import Settings, resolve
from ptycho.config.execution import PyTorchExecutionConfig
from ptycho.config.models import InferenceConfig, ModelConfig, TrainingConfig

if TYPE_CHECKING:
    from ptycho.raw_data import RawData

__all__ = ["infer", "start_inference"]


@click.command(cls=HeadedCommand)
@click.argument("model", type=shared.FILE)
@click.argument("scan", type=shared.FILE)
@shared.output_options()
@shared.config_options
@shared.scan_options
@shared.comparison_options
@knob_options(*INFERENCE_KNOBS)
@verbosity_options
@click.pass_context
def infer(
    ctx: click.Context, model: Path, scan: Path, overwrite: bool, config_file: Path | None, dry_run: bool,
    **options: Any,
) -> None:  # fmt: skip
    """Reconstruct SCAN with a trained MODEL.

    MODEL is the output folder of `ptychopinn train`, or the wts.h5.zip in it. The scan must be cropped as the
    one the model was trained on.

    \b
    Example:
      ptychopinn infer results other_scan.npz --crop 64 --output-dir other_results
    """
    settings = resolve(ctx, options, config_file)
    folder = shared.stated_output_dir(ctx, settings.get("output_dir"))
    start_inference(settings, model, scan, folder, overwrite=overwrite, config_file=config_file, dry_run=dry_run)


def start_inference(
    settings: Settings, model: Path, scan: Path, folder: Path, *, overwrite: bool, config_file: Path | None,
    dry_run: bool, names: tuple[str, str] = ("model", "scan"),
) -> None:  # fmt: skip
    """Reconstruct the file `scan` with a trained `model` and write into `folder`, or say what that would be.

    names: what the running command calls the two, for the table of the dry run.
    """
    from ptycho.cli.summary import print_summary
    from ptycho.io.outputs import RESULT_FILES, check_output_dir, clear_results, write_outputs

    inputs = [path for path in (scan, settings.get("reference"), config_file) if path is not None]
    out = check_output_dir(folder, overwrite=overwrite, replaces=RESULT_FILES, inputs=inputs)
    archive = _find_model(model)
    raw = shared.load_scan(scan, settings.values, needs_probe=False)
    wanted = shared.load_reference(settings.get("reference"))
    execution = shared.execution_config(settings.values)
    config = shared.build_config(
        InferenceConfig, settings.values,
        model=ModelConfig(N=raw.N), model_path=archive, test_data_file=scan, output_dir=out,
    )  # fmt: skip
    shared.check_backend(config.backend)
    # The archive's configuration is not in these: it was checked when the model was trained.
    notes = shared.check_settings(config, execution)
    if dry_run:
        paths = dict(zip((*names, "output_dir"), (archive, scan, out), strict=True))
        _describe(config, execution, raw, settings, notes, paths, config_file)
        return
    shared.set_threads(settings.get("threads"))
    outcome = shared.load_backend().infer_scan(archive, raw, config, execution=execution)
    # Only now: a model or a scan that does not fit must not cost the results of an earlier run.
    clear_results(out, RESULT_FILES)
    metrics = write_outputs(out, outcome, raw, wanted, half=settings.get("half"))
    print_summary(metrics, out, outcome.stages)


def _describe(
    config: InferenceConfig, execution: PyTorchExecutionConfig, raw: RawData, settings: Settings,
    notes: list[str], paths: dict[str, Path], config_file: Path | None,
) -> None:  # fmt: skip
    """The dry run: what the run would do. paths: by what the command calls them."""
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
