"""`ptycho_train` and `ptycho_inference`: the commands of older scripts, with what `ptychopinn train` and
`ptychopinn infer` do.

Every field of the configuration has the flag `--<field>`, switches take true or false, and the flags that say how
to run are spelled `--torch-...`. What is no field, and what becomes of it:

| flag | of | what |
|---|---|---|
| --train_data_file, --test_data, --model_path, --output_dir | both | the arguments of `ptychopinn train` and `infer` |
| --test_data_file | ptycho_train | no effect: validation frames are withheld from the training scan |
| --do_stitching | ptycho_train | no effect: the object is always stitched |
| --console-level | both | messages from this level on |
| --n_images | ptycho_inference | superseded: inference uses every frame once (--n_subsample takes fewer) |
| --debug | ptycho_inference | superseded: --verbose |
| --comparison_plot | ptycho_inference | no effect: drawn whenever there is something to compare with |
| --phase_vmin, --phase_vmax | ptycho_inference | no effect: the limits follow the object |
| --torch-num-workers | ptycho_inference | no effect: the process reads the frames itself |
| --debug_dump | ptycho_inference | refused, with what to use instead |
| --backend tensorflow | both | refused: not installed |

What has no effect is said in one line each. Earlier results in the output folder are replaced, as these commands
always did. Mistakes end with exit code 2.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ptycho.cli import older_options as older
from ptycho.cli import shared
from ptycho.cli.infer import start_inference
from ptycho.cli.knobs import knob_options
from ptycho.cli.logs import console_level_option, verbosity_options
from ptycho.cli.resolve import Settings, resolve
from ptycho.cli.train import start_training

__all__ = ["main_inference", "main_train", "ptycho_inference", "ptycho_train"]

_NAMES = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def _settings(
    ctx: click.Context, options: dict[str, Any], config_file: Path | None, extras: tuple[older.Extra, ...]
) -> tuple[Settings, Path]:
    """What was stated, without what has no effect, and the output folder."""
    settings = resolve(ctx, options, config_file)
    older.heed(settings, extras)
    settings.sources.setdefault("output_dir", "default")
    return settings, settings.get("output_dir") or options["output_dir"]


@click.command("ptycho_train", cls=older.OlderCommand, context_settings=_NAMES)
@older.extra_options(*older.PTYCHO_TRAIN)
@shared.config_options
@shared.crop_option
@shared.comparison_options
@knob_options(*older.ptycho_training_knobs())
@verbosity_options
@console_level_option
@click.pass_context
def ptycho_train(ctx: click.Context, config_file: Path | None, dry_run: bool, **options: Any) -> None:
    """Train a network on a scan and reconstruct its object: the older spelling of `ptychopinn train`.

    \b
    Example:
      ptycho_train --train_data_file scan.npz --nepochs 20 --output_dir results
    """
    settings, out = _settings(ctx, options, config_file, older.PTYCHO_TRAIN)
    scan = older.required(settings, older.TRAIN_DATA)
    start_training(settings, [scan], out, overwrite=True, config_file=config_file, dry_run=dry_run,
                   scan_name="train_data_file")  # fmt: skip


@click.command("ptycho_inference", cls=older.OlderCommand, context_settings=_NAMES)
@older.extra_options(*older.PTYCHO_INFERENCE)
@shared.config_options
@shared.crop_option
@shared.comparison_options
@knob_options(*older.ptycho_inference_knobs())
@verbosity_options
@console_level_option
@click.pass_context
def ptycho_inference(ctx: click.Context, config_file: Path | None, dry_run: bool, **options: Any) -> None:
    """Reconstruct a scan with a trained model: the older spelling of `ptychopinn infer`.

    \b
    Example:
      ptycho_inference --model_path results --test_data other.npz --output_dir other_results
    """
    settings, out = _settings(ctx, options, config_file, older.PTYCHO_INFERENCE)
    model, scan = older.required(settings, older.MODEL_PATH), older.required(settings, older.TEST_DATA)
    start_inference(settings, model, [scan], out, overwrite=True, config_file=config_file, dry_run=dry_run,
                    names=("model_path", "test_data"))  # fmt: skip


def main_train() -> None:
    """Entry point of the console script ptycho_train."""
    ptycho_train(prog_name="ptycho_train")


def main_inference() -> None:
    """Entry point of the console script ptycho_inference."""
    ptycho_inference(prog_name="ptycho_inference")
