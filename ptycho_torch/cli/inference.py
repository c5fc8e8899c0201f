"""`python -m ptycho_torch.inference`: a trained model reconstructs another scan.

The factory, the workflow and the two helpers of `ptycho_torch.inference` are looked up when they are called.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click

from ptycho.cli import older_options as older
from ptycho.cli import shared as ptycho_cli
from ptycho.cli.knobs import knob_options
from ptycho.cli.logs import is_quiet, verbosity_options
from ptycho.cli.resolve import Settings, resolve
from ptycho.config.config import PyTorchExecutionConfig
from ptycho_torch.cli import shared
from ptycho_torch.cli.stated import execution_from, overrides_from, read_scan

__all__ = ["inference"]

logger = logging.getLogger(__name__)

PROGRAM = "python -m ptycho_torch.inference"


@click.command(PROGRAM, cls=older.EntryPoint, context_settings={"help_option_names": ["-h", "--help"]})
@older.extra_options(*older.MODULE_INFERENCE)
@ptycho_cli.config_options
@knob_options(*older.module_inference_knobs())
@verbosity_options
@click.pass_context
def inference(ctx: click.Context, config_file: Path | None, dry_run: bool, **options: Any) -> None:
    """Reconstruct a scan with a trained model.

    The output folder receives reconstructed_amplitude.png, reconstructed_phase.png and the object itself,
    reconstructed_object.npz. `ptychopinn infer` also writes coverage, probe and figures.

    \b
    Example:
      python -m ptycho_torch.inference --model_path results --test_data other.npz --output_dir other_results
    """
    settings = resolve(ctx, options, config_file)
    older.heed(settings, older.MODULE_INFERENCE)
    model, scan = older.required(settings, older.MODEL_PATH), older.required(settings, older.TEST_DATA)
    out = ptycho_cli.stated_output_dir(ctx, settings.get("output_dir"))
    execution = execution_from(settings, "inference")
    if dry_run:
        shared.check_files(None, scan)
        _describe(settings, _payload(settings, model, scan, out, execution), config_file)
        return
    shared.validate_paths(train_file=None, test_file=scan, output_dir=out)
    ptycho_cli.set_threads(settings.get("threads"))
    with ptycho_cli.no_empty_folder(out):
        _run(settings, model, scan, out, execution)


def _payload(settings: Settings, model: Path, scan: Path, out: Path, execution: PyTorchExecutionConfig) -> Any:
    """What the factory makes of the settings."""
    from ptycho_torch import config_factory

    return config_factory.create_inference_payload(
        model_path=model, test_data_file=scan, output_dir=out, overrides=overrides_from(settings),
        execution_config=execution,
    )  # fmt: skip


def _run(settings: Settings, model_path: Path, scan: Path, out: Path, execution: PyTorchExecutionConfig) -> None:
    """Configure, load, read, reconstruct, write."""
    from ptycho_torch import inference as helpers
    from ptycho_torch.workflows import components
    from ptycho_torch.workflows.scans import subsample

    payload = _payload(settings, model_path, scan, out, execution)
    for note in payload.overrides_applied["superseded"]:
        logger.info("%s", note)
    models, _ = components.load_inference_bundle_torch(model_path, model_name="diffraction_to_obj")
    model = models["diffraction_to_obj"]
    raw = read_scan(scan, settings)
    if settings.get("n_subsample") is not None:
        raw = subsample(raw, settings.get("n_subsample"), settings.get("subsample_seed") or 0)
    accelerator = payload.execution_config.accelerator
    amplitude, phase = helpers._run_inference_and_reconstruct(
        model=model, raw_data=raw, config=payload.tf_inference_config, execution_config=payload.execution_config,
        device="cuda" if accelerator == "gpu" else accelerator, quiet=is_quiet(),
    )  # fmt: skip
    helpers.save_individual_reconstructions(amplitude, phase, out)
    if settings.get("log_patch_stats"):
        _log_patches(model, raw, payload, out, settings.get("patch_stats_limit"))
    click.echo(f"The reconstruction is in {out}.")


def _log_patches(model: Any, raw: Any, payload: Any, out: Path, limit: int | None) -> None:
    """Patches of the scan, by the model."""
    from ptycho_torch.patch_stats import write_patch_stats
    from ptycho_torch.workflows import components

    config = payload.tf_inference_config
    container = components._ensure_container(raw, config)
    write_patch_stats(
        components.run_inference_with_lightning(model, container, config, payload.execution_config), out, limit
    )


def _describe(settings: Settings, payload: Any, config_file: Path | None) -> None:
    """The dry run: refuse what the run would refuse, else print what it would do."""
    from ptycho.cli.dry_run import print_dry_run, rows_of_command, rows_of_config
    from ptycho_torch.config_factory import check_frame_size

    config = payload.tf_inference_config
    raw = read_scan(config.test_data_file, settings)
    check_frame_size(config.model.N, raw.N, str(config.test_data_file))
    ptycho_cli.check_settings(config, payload.execution_config)
    paths = {"model_path": config.model_path, "test_data": config.test_data_file, "output_dir": config.output_dir}
    runtime = ["accelerator", "num_workers", "inference_batch_size", "enable_progress_bar"]
    sections = {
        "command": rows_of_command(settings, paths),
        "model": rows_of_config(config.model, settings, raw),
        "inference": rows_of_config(config, settings, raw),
        "execution": rows_of_config(payload.execution_config, settings, raw, runtime),
    }
    print_dry_run(sections, payload.overrides_applied["superseded"], config_file)
