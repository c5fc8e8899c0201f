"""`python -m ptycho_torch.train`: a scan goes in, a trained model comes out.

docs/CONFIGURATION.md lists its flags. The configuration is made by the factory, and the work is done by
`ptycho_torch.workflows.components`; both are looked up when they are called.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click

from ptycho.cli import older_options as older
from ptycho.cli import shared as ptycho_cli
from ptycho.cli.knobs import knob_options
from ptycho.cli.logs import verbosity_options
from ptycho.cli.resolve import Settings, resolve
from ptycho.config.config import PyTorchExecutionConfig
from ptycho_torch.cli import shared
from ptycho_torch.cli.stated import execution_from, overrides_from, read_scan

__all__ = ["train"]

logger = logging.getLogger(__name__)

PROGRAM = "python -m ptycho_torch.train"


@click.command(PROGRAM, cls=older.EntryPoint, context_settings={"help_option_names": ["-h", "--help"]})
@older.extra_options(*older.MODULE_TRAIN)
@ptycho_cli.config_options
@knob_options(*older.module_training_knobs())
@verbosity_options
@click.pass_context
def train(ctx: click.Context, config_file: Path | None, dry_run: bool, **options: Any) -> None:
    """Train a network on one scan.

    The output folder receives the model (wts.h5.zip), checkpoints and the losses of the epochs. `ptychopinn train`
    also writes the object and its figures.

    \b
    Example:
      python -m ptycho_torch.train --train_data_file scan.npz --output_dir results --max_epochs 20
    """
    settings = resolve(ctx, options, config_file)
    older.heed(settings, older.MODULE_TRAIN)
    scan = older.required(settings, older.TRAIN_DATA)
    out = ptycho_cli.stated_output_dir(ctx, settings.get("output_dir"))
    ptycho_cli.check_backend(settings.get("backend") or "pytorch")
    execution = execution_from(settings, "training")
    if dry_run:
        shared.check_files(scan, settings.get("test_data_file"))
        _describe(settings, _payload(settings, scan, out, execution), config_file)
        return
    shared.validate_paths(train_file=scan, test_file=settings.get("test_data_file"), output_dir=out)
    ptycho_cli.set_threads(settings.get("threads"))
    with ptycho_cli.no_empty_folder(out):
        _run(settings, scan, out, execution)


def _payload(settings: Settings, scan: Path, out: Path, execution: PyTorchExecutionConfig) -> Any:
    """What the factory makes of the settings."""
    from ptycho_torch import config_factory

    profile = {} if settings.get("profile") is None else {"profile": settings.get("profile")}
    return config_factory.create_training_payload(
        train_data_file=scan, output_dir=out, overrides=overrides_from(settings), execution_config=execution, **profile
    )


def _run(settings: Settings, scan: Path, out: Path, execution: PyTorchExecutionConfig) -> None:
    """Configure, read, train; the workflow saves the model."""
    from ptycho_torch.config_overrides import with_profile
    from ptycho_torch.workflows import components

    payload = _payload(settings, scan, out, execution)
    config = payload.tf_training_config
    raw = read_scan(scan, settings, config.nphotons)
    test_file = settings.get("test_data_file")
    beside = None if test_file is None else read_scan(test_file, settings, config.nphotons)
    overrides = with_profile(overrides_from(settings), settings.get("profile"))
    _, _, results = components.run_cdi_example_torch(
        raw, beside, config, do_stitching=False,
        execution_config=payload.execution_config, overrides=overrides,
    )  # fmt: skip
    if overrides["log_patch_stats"]:
        _log_patches(results, payload, out, overrides["patch_stats_limit"])
    told = payload.overrides_applied["superseded"]
    for note in (note for note in results.get("notes") or [] if note not in told):
        logger.info("%s", note)
    _report(results, out)


def _log_patches(results: dict[str, Any], payload: Any, out: Path, limit: int | None) -> None:
    """Patches of the training scan, by the trained model."""
    from ptycho_torch.patch_stats import write_patch_stats
    from ptycho_torch.workflows import components

    patches = components.run_inference_with_lightning(
        results["models"]["diffraction_to_obj"], results["train_container"], payload.tf_training_config,
        payload.execution_config,
    )  # fmt: skip
    write_patch_stats(patches, out, limit)


def _report(results: dict[str, Any], out: Path) -> None:
    """The last losses, and where the model is."""
    history = results.get("history") or {}
    for name, text in (("train_loss", "training loss"), ("val_loss", "validation loss")):
        losses = history.get(name)
        if losses:
            click.echo(f"Last {text}: {losses[-1]:.5g}")
    click.echo(f"The model is in {out}.")


def _describe(settings: Settings, payload: Any, config_file: Path | None) -> None:
    """The dry run: refuse what the run would refuse, else print what it would do."""
    from ptycho.cli.dry_run import print_dry_run, rows_of_command, rows_of_config
    from ptycho_torch.config_factory import check_frame_size

    config = payload.tf_training_config
    raw = read_scan(config.train_data_file, settings, config.nphotons)
    check_frame_size(config.model.N, raw.N, str(config.train_data_file))
    ptycho_cli.check_settings(config.model, config, *payload.named_configs().values())
    notes = payload.overrides_applied["superseded"]
    paths = {"train_data_file": config.train_data_file, "output_dir": config.output_dir}
    if config.test_data_file is not None:
        paths["test_data_file"] = config.test_data_file
    sections = {
        "command": rows_of_command(settings, paths),
        "model": rows_of_config(config.model, settings, raw),
        "training": rows_of_config(config, settings, raw),
        "execution": rows_of_config(payload.execution_config, settings, raw),
    }
    print_dry_run(sections, notes, config_file)
