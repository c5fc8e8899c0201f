"""Options that several verbs have, and the way from a scan to written results."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ptycho.cli.afterwards import asked_afterwards
from ptycho.cli.beamline import beamline_options
from ptycho.cli.earlier import replaced
from ptycho.cli.knobs import SCAN_KNOBS, knob_options
from ptycho.cli.mistakes import backend_errors
from ptycho.cli.options import HeadedOption
from ptycho.cli.progress import show_progress
from ptycho.config.execution import PyTorchExecutionConfig
from ptycho.config.models import ModelConfig, TrainingConfig
from ptycho.errors import InputError, PtychoError
from ptycho.launch import place

if TYPE_CHECKING:
    from ptycho.outcome import Outcome
    from ptycho.placed import PlacedObject
    from ptycho.raw_data import RawData

__all__ = [
    "FILE",
    "backend_errors",
    "build_config",
    "check_backend",
    "check_settings",
    "comparison_options",
    "config_options",
    "crop_option",
    "execution_config",
    "load_backend",
    "load_reference",
    "load_scan",
    "named_scans",
    "no_empty_folder",
    "notes_said_later",
    "output_options",
    "report",
    "result_folders",
    "scan_options",
    "set_threads",
    "stated_output_dir",
    "train_and_report",
    "training_configs",
]

F = TypeVar("F", bound=Callable[..., Any])

FILE = click.Path(path_type=Path)


def build_config(owner: type, values: dict[str, Any], **more: Any) -> Any:
    """An instance of a configuration dataclass from those of the stated values that are its fields."""
    names = {f.name for f in dataclasses.fields(owner)}
    return owner(**{**{name: value for name, value in values.items() if name in names}, **more})


# ---------------------------------------------------------------------- groups of options


def output_options(default: str | None = None) -> Callable[[F], F]:
    """--output-dir and --overwrite. Without a default, `stated_output_dir` asks for the folder."""

    def decorate(function: F) -> F:
        function = click.option("--overwrite", is_flag=True, help="Replace earlier results in the output folder.")(
            function
        )
        return click.option(
            "--output-dir", "-o", type=FILE, default=default, show_default=True, cls=HeadedOption,
            aliases=("--output_dir",),
            help="Folder for everything that is written; new or empty." + (" [required]" if default is None else ""),
        )(function)  # fmt: skip

    return decorate


def stated_output_dir(ctx: click.Context, folder: Path | None) -> Path:
    """The output folder; click.MissingParameter when neither a flag nor the configuration file names one."""
    if folder is None:
        option = next(p for p in ctx.command.params if p.name == "output_dir")
        raise click.MissingParameter("Name it, or state output_dir in a configuration file.", ctx, option)
    # "." is a folder here; in a configuration Path() stands for none
    return Path(folder).resolve() if Path(folder) == Path() else folder


def config_options(function: F) -> F:
    """--config, --dry-run and --threads."""
    function = click.option(
        "--threads", type=click.IntRange(min=1), metavar="N",
        help="Threads of the CPU to compute with. [default: torch's]",
    )(function)  # fmt: skip
    function = click.option(
        "--dry-run", is_flag=True,
        help="Say which settings the run would have and where each comes from; run nothing, write nothing.",
    )(function)  # fmt: skip
    return click.option(
        "--config", "config_file", type=FILE, metavar="FILE.yaml",
        help="YAML file with settings by field name; a flag wins over it. See docs/CONFIGURATION.md.",
    )(function)  # fmt: skip


def crop_option(function: F) -> F:
    """--crop."""
    return click.option(
        "--crop", type=click.IntRange(min=1), metavar="N",
        help="Use the central N x N pixels of each frame. The object pixel grows, the rest follows.",
    )(function)  # fmt: skip


def scan_options(function: F) -> F:
    """What a scan file may need to be said about it: --crop, the domain of its frames, mask, geometry."""
    return crop_option(knob_options(*SCAN_KNOBS)(beamline_options(function)))


def half_option(function: F) -> F:
    """--half, the square that is compared."""
    return click.option(
        "--half", type=click.IntRange(min=8), metavar="H",
        help="Compare the central square of 2H x 2H pixels only. [default: all that two frames have seen]",
    )(function)  # fmt: skip


def comparison_options(function: F) -> F:
    """--reference and --half."""
    function = half_option(function)
    return click.option(
        "--reference", type=FILE, metavar="FILE",
        help="Object to compare with: a reconstruction, a product, or a scan that carries its object. "
        "[default: the true object, if SCAN carries it]",
    )(function)  # fmt: skip


# ---------------------------------------------------------------------- inputs


def load_scan(path: Path, values: dict[str, Any], *, needs_probe: bool = True) -> RawData:
    """Read a scan, with what is stated about it and the crop, and check what reconstruction needs."""
    from ptycho.preparation import read_prepared_scan, stated_preparation
    from ptycho.validation import check_positions_differ

    show_progress()  # the older commands come this way too
    stated = {knob.field: values[knob.field] for knob in SCAN_KNOBS if values.get(knob.field) is not None}
    raw = read_prepared_scan(path, stated_preparation(values), **stated)
    if values.get("crop") is not None:
        raw = raw.crop(values["crop"])
    # Found out on first use, and wanted now: before a folder is made or a model built.
    if needs_probe or raw.probeGuess is not None:
        _ = raw.probe
    raw.mean_counts_per_frame()
    check_positions_differ(str(path), raw.xcoords, raw.ycoords)
    return raw


def load_reference(path: Path | None) -> PlacedObject | None:
    """The object to compare with, or None."""
    if path is None:
        return None
    from ptycho.io.reconstruction_files import load_any
    from ptycho.placed import place_loaded

    return place_loaded(load_any(path))


# ---------------------------------------------------------------------- the backend


def load_backend() -> Any:
    """The module that trains and infers, and checks both before; imports torch."""
    with backend_errors():
        from ptycho_torch.workflows import reconstruct

        return reconstruct


def execution_config(values: dict[str, Any]) -> PyTorchExecutionConfig:
    """How to run, as far as it is stated."""
    with backend_errors():
        config: PyTorchExecutionConfig = build_config(PyTorchExecutionConfig, values)
    return config


def check_settings(*configs: Any) -> list[str]:
    """Ask the backend whether it does what the configurations say; imports torch.

    Returns a sentence for each setting that is superseded. Raises InputError for one that is refused. Says
    nothing itself: a run checks again, and reports then.
    """
    with backend_errors():
        from ptycho_torch import settings
        from ptycho_torch.config_bridge import merged_twins

    with notes_said_later():
        return settings.check_settings(*merged_twins(configs))


@contextlib.contextmanager
def notes_said_later() -> Iterator[None]:
    """Keep what the backend says of superseded settings out of the log; imports torch."""
    with backend_errors():
        from ptycho_torch import settings

    settings.logger.addFilter(_nothing)
    try:
        yield
    finally:
        settings.logger.removeFilter(_nothing)


def _nothing(_record: logging.LogRecord) -> bool:
    return False


def set_threads(number: int | None) -> None:
    """Let torch compute with so many threads; None leaves it as it is."""
    if number is not None:
        with backend_errors():
            import torch

            torch.set_num_threads(number)


# ---------------------------------------------------------------------- from a scan to results


@contextlib.contextmanager
def no_empty_folder(out: Path) -> Iterator[None]:
    """Take the output folder away again when what was asked for is refused; one with files stays."""
    try:
        yield
    except PtychoError:
        with contextlib.suppress(OSError):
            out.rmdir()
        raise


def training_configs(
    raw: RawData, scan: Path, out: Path, values: dict[str, Any]
) -> tuple[TrainingConfig, PyTorchExecutionConfig]:
    """The configuration of a training run, checked; InputError for settings that are wrong or refused."""
    from ptycho.config.validation import validate_training_config

    stated = values.get("N", raw.N)
    if stated != raw.N:
        raise InputError(
            f"N={stated} is stated, but the frames of {scan} are {raw.N} x {raw.N} pixels. Leave N out"
            + (f", or crop the frames (crop {stated})." if stated < raw.N else ".")
        )
    model = build_config(ModelConfig, values, N=raw.N)
    config = build_config(TrainingConfig, values, model=model, output_dir=out, train_data_file=scan)
    validate_training_config(config)
    check_backend(config.backend)
    return config, execution_config(values)


def check_backend(name: str) -> None:
    """InputError for a backend that this package does not have."""
    if name != "pytorch":
        raise InputError(f"backend={name!r} is not installed; expected 'pytorch', the backend of this package.")


def result_folders(scans: Sequence[Path], out: Path, *, overwrite: bool) -> list[Path]:
    """Where the results of each scan go: into `out`, or with several scans into a folder of the scan's name in it.

    Each is checked as an output folder is.
    """
    from ptycho.io.outputs import RESULT_FILES, check_output_dir

    if len(scans) == 1:
        return [out]
    folders: list[Path] = []
    for scan in scans:
        name, number = scan.stem, 2
        while out / name in folders:
            name, number = f"{scan.stem}_{number}", number + 1
        folders.append(out / name)
    return [check_output_dir(f, overwrite=overwrite, replaces=RESULT_FILES, inputs=list(scans)) for f in folders]


def named_scans(name: str, scans: Sequence[Path]) -> dict[str, Path]:
    """The scans for the table of a dry run: `name`, and where there are several `name 2` and so on."""
    return {name if i == 0 else f"{name} {i + 1}": scan for i, scan in enumerate(scans)}


def train_and_report(
    raws: Sequence[RawData],
    scans: Sequence[Path],
    out: Path,
    folders: Sequence[Path],
    values: dict[str, Any],
    *,
    reference: PlacedObject | None = None,
    half: int | None = None,
) -> None:
    """Train on scans, write the model into `out` and the results into `folders` (checked before), print the figures.

    scans: the files they came from. values: stated settings by field; the rest has the defaults. Of several processes
    that a launcher has started the first one writes and prints.
    """
    from ptycho.config.validation import MODEL_ARCHIVE_NAME
    from ptycho.io.outputs import MODEL_FILES, RESULT_FILES

    config, execution = training_configs(raws[0], scans[0], out, values)
    set_threads(values.get("threads"))
    backend = load_backend()
    check_settings(config.model, config, execution)
    wanted = asked_afterwards(values, raws)
    if place().number > 0:
        backend.train_scans(raws, config, execution, output_dir=out, **wanted)
        return
    with no_empty_folder(out), replaced(out, (*MODEL_FILES, *RESULT_FILES), by=MODEL_ARCHIVE_NAME):
        outcomes = backend.train_scans(raws, config, execution, output_dir=out, **wanted)
    for outcome, raw, folder in zip(outcomes, raws, folders, strict=True):
        report(outcome, raw, folder, reference, half)


def report(
    outcome: Outcome, raw: RawData, folder: Path, reference: PlacedObject | None, half: int | None
) -> None:  # fmt: skip
    """Write the results of a scan into `folder`, instead of those of an earlier run, and print the figures."""
    from ptycho.cli.summary import print_summary
    from ptycho.io.outputs import RESULT_FILES, write_outputs

    with replaced(folder, RESULT_FILES, by="metrics.json"):
        figures = write_outputs(folder, outcome, raw, reference, half=half)
    print_summary(figures, folder, outcome.stages)
