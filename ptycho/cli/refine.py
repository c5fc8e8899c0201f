"""`ptychopinn refine`: object and probe from the frames, iteratively, without a network."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ptycho.cli import shared
from ptycho.cli.afterwards import halves_option, halves_settings
from ptycho.cli.knobs import ACCELERATOR, SEED, knob_options, with_device
from ptycho.cli.logs import verbosity_options
from ptycho.cli.options import COUNT, FROM_ZERO, POSITIVE, WHOLE, HeadedCommand, HeadedOption
from ptycho.cli.resolve import Settings, resolve

if TYPE_CHECKING:
    from ptycho.io.reconstruction_files import LoadedObject
    from ptycho.raw_data import RawData

__all__ = ["refine"]

# Option -> field of RefinementSettings, in the order of the dry run.
_FIELDS = {
    "epochs": "epochs",
    "batch": "batch_size",
    "modes": "modes",
    "refine_probe": "refine_probe",
    "correct_defocus": "correct_defocus",
    "refine_positions": "refine_positions",
    "support": "support_diameter_px",
    "stop_improvement": "stop_improvement",
    "stop_window": "stop_window",
    "seed": "seed",
}
# Tests compare them with RefinementSettings.
EPOCHS = 50
STOP_IMPROVEMENT, STOP_WINDOW = 0.001, 10
_SEED = dataclasses.replace(SEED, help="Of which frames make a step together.")


@click.command(cls=HeadedCommand, short_help="Refine object and probe without a network.")
@click.argument("scan", type=shared.FILE)
@click.option("--from", "start", type=shared.FILE, metavar="FILE",
              help="Where to start: a reconstruction (NPZ, or the output folder of a run), a product (HDF5), or a scan "
              "that carries its object. Frames lie where it has them. "
              "[default: vacuum, and the scan's probe guess]")  # fmt: skip
@shared.output_options()
@click.option("--epochs", type=WHOLE, default=EPOCHS, show_default=True, help="Passes over the frames, at most.")
@click.option("--batch", type=COUNT, cls=HeadedOption, aliases=("--batch-size",), metavar="N",
              help="Frames per step; fewer take less memory. "
              "[default: a quarter of the frames, 16 to 256]")  # fmt: skip
@click.option("--modes", type=COUNT, metavar="M",
              help="Incoherent modes of the probe; orthogonal ones are added, or the weakest left out. "
              "[default: as many as the start has]")  # fmt: skip
@click.option("--probe/--no-probe", "refine_probe", default=True, show_default=True,
              help="Refine the probe too, or the object alone.")  # fmt: skip
@click.option("--defocus/--no-defocus", "correct_defocus", default=False, show_default=True,
              help="First move the probe guess along the axis to where it explains the frames best.")  # fmt: skip
@click.option("--positions/--no-positions", "refine_positions", default=False, show_default=True,
              help="Refine the positions of the frames too, by up to 8 px.")  # fmt: skip
@click.option("--support", type=POSITIVE, metavar="PX",
              help="Keep the probe inside a disk of so many pixels across. [default: the whole frame]")  # fmt: skip
@click.option("--stop-improvement", type=FROM_ZERO, default=STOP_IMPROVEMENT, show_default=True,
              help="Stop when --stop-window epochs lower the mean misfit of those before them by less than this "
              "fraction; 0 does all epochs.")  # fmt: skip
@click.option("--stop-window", type=COUNT, default=STOP_WINDOW, show_default=True,
              help="Epochs that are compared with as many before them.")  # fmt: skip
@knob_options(_SEED, *with_device((ACCELERATOR,)))
@shared.config_options
@shared.scan_options
@shared.comparison_options
@halves_option
@verbosity_options
@click.pass_context
def refine(
    ctx: click.Context, scan: Path, overwrite: bool, config_file: Path | None, dry_run: bool, **options: Any
) -> None:
    """Refine object and probe of SCAN together, and positions with --positions, without a network.

    An iterative least-squares solver takes the frames in batches and moves object and probe towards
    likelier counts (Poisson). Started from vacuum it reconstructs a scan by itself; started from a reconstruction it
    polishes what a network, or another program, has found. Frames are read in batches, so that memory grows
    with the object, not with the number of frames.

    The output folder receives what `ptychopinn train` writes but for the model. The figures stand side by side:
    before (start) and after (refined).

    \b
    Examples:
      ptychopinn refine scan.npz --crop 64 --epochs 100 --output-dir refined
      ptychopinn refine scan.npz --halves --output-dir refined
      ptychopinn refine scan.npz --from results --modes 3 --output-dir polished
      ptychopinn refine scan.npz --from product.h5 --no-probe --epochs 20 --output-dir polished
      ptychopinn refine scan.npz --defocus --positions --output-dir corrected
    """
    from ptycho.io.outputs import RESULT_FILES, check_output_dir

    settings = resolve(ctx, options, config_file)
    folder = shared.stated_output_dir(ctx, settings.get("output_dir"))
    named = (scan, _start_file(settings.get("start")), settings.get("reference"), config_file)
    inputs = [path for path in named if path is not None]
    out = check_output_dir(folder, overwrite=overwrite, replaces=RESULT_FILES, inputs=inputs)
    start = _load_start(settings.get("start"))
    raw = shared.load_scan(scan, settings.values, needs_probe=start is None or start.probe is None)
    wanted = shared.load_reference(settings.get("reference"))
    halves_settings(settings.values, [raw])
    if dry_run:
        paths = {"scan": scan, "output_dir": out} | ({} if start is None else {"start": start.path})
        _describe(paths, raw, start, settings, config_file)
        return
    _refine_and_report(raw, start, settings, out, wanted)


def _start_file(start: Path | None) -> Path | None:
    """The file that is read, of a folder the reconstruction in it."""
    return start / "reconstruction.npz" if start is not None and start.is_dir() else start


def _load_start(start: Path | None) -> LoadedObject | None:
    if start is None:
        return None
    from ptycho.io.reconstruction_files import load_any

    return load_any(start)


def _describe(
    paths: dict[str, Path], raw: RawData, start: LoadedObject | None, settings: Settings, config_file: Path | None
) -> None:  # fmt: skip
    """The dry run: refuse what the run would refuse, else print what it would do."""
    from ptycho.cli.dry_run import Row, print_dry_run, rows_of_command, rows_of_config
    from ptycho.cli.knobs import SCAN_KNOBS
    from ptycho.config.models import ModelConfig, TrainingConfig

    model = ModelConfig(N=raw.N)
    about = shared.build_config(TrainingConfig, settings.values, model=model)
    execution = shared.execution_config(settings.values)
    with shared.backend_errors():
        from ptycho_torch.workflows import refinement, starting_point
    refinement.torch_device(execution.accelerator)
    starting_point.placed_start(raw, start)
    defaults = {"epochs": EPOCHS, "refine_probe": True, "correct_defocus": False, "refine_positions": False,
                "stop_improvement": STOP_IMPROVEMENT, "stop_window": STOP_WINDOW, "seed": SEED.default}  # fmt: skip
    rows = [
        Row(name, str(settings.values.get(name, defaults.get(name, "-"))), settings.sources.get(name, "default"))
        for name in _FIELDS
    ]
    sections = {
        "command": rows_of_command(settings, paths),
        "scan": [
            *rows_of_config(model, settings, raw, ["N"]),
            *rows_of_config(about, settings, raw, [knob.field for knob in SCAN_KNOBS]),
        ],
        "refinement": rows,
        "execution": rows_of_config(execution, settings, raw, ["accelerator"]),
    }
    print_dry_run(sections, (), config_file)


def _refine_and_report(
    raw: RawData, start: LoadedObject | None, settings: Settings, out: Path, wanted: Any
) -> None:  # fmt: skip
    shared.set_threads(settings.get("threads"))
    execution = shared.execution_config(settings.values)
    with shared.backend_errors():
        from ptycho_torch.workflows import refinement
    asked = {field: settings.values[name] for name, field in _FIELDS.items() if name in settings.values}
    outcome = refinement.refine_scan(
        raw, start, refinement.RefinementSettings(**asked), device=refinement.torch_device(execution.accelerator),
        halves=halves_settings(settings.values),
    )  # fmt: skip
    shared.report(outcome, raw, out, wanted, settings.get("half"))
