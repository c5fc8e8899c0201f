"""Options that several verbs have, and the way from a scan to written results.

Flags that stand for a field of the configuration take their default from the dataclass, the one table of
defaults.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ptycho.cli.logs import is_quiet
from ptycho.config.execution import ACCELERATORS, PyTorchExecutionConfig
from ptycho.config.models import ModelConfig, TrainingConfig
from ptycho.errors import PtychoError

if TYPE_CHECKING:
    from ptycho.placed import PlacedObject
    from ptycho.raw_data import RawData

__all__ = [
    "Knob",
    "TRAINING_KNOBS",
    "build_config",
    "comparison_options",
    "execution_config",
    "knob_options",
    "load_backend",
    "load_reference",
    "load_scan",
    "output_options",
    "scan_options",
    "train_and_report",
]

F = TypeVar("F", bound=Callable[..., Any])


# ---------------------------------------------------------------------- kinds of values


class Duration(click.ParamType):  # type: ignore[type-arg]
    """Seconds as a number, or with a unit: 90s, 10m, 1.5h."""

    name = "duration"
    _seconds = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}  # noqa: RUF012

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, (int, float)):
            return float(value)
        found = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([smh]?)\s*", value)
        seconds = float(found.group(1)) * self._seconds[found.group(2)] if found else 0.0
        if not (math.isfinite(seconds) and seconds > 0):
            self.fail(
                f"{value!r} is not a time. Give seconds, or a number with s, m or h (90s, 10m).", param, ctx
            )
        return seconds


FILE = click.Path(path_type=Path)


# ---------------------------------------------------------------------- knobs: one flag, one field


@dataclass(frozen=True)
class Knob:
    """A flag that sets one field of a configuration dataclass.

    flag: as on the command line; for a switch that turns a field off, the `--no-...` form. no_default: leave
    the field's default unsaid and unset (the flag then acts only when given).
    """

    flag: str
    owner: type
    field: str
    kind: Any
    help: str
    no_default: bool = False

    @property
    def default(self) -> Any:
        """The default of the field, where it is one value."""
        return next(f.default for f in dataclasses.fields(self.owner) if f.name == self.field)

    @property
    def is_off_switch(self) -> bool:
        return self.kind is bool

    def option(self, function: F) -> F:
        """Decorate a command with this flag; its parameter is named after the field."""
        if self.is_off_switch:
            return click.option(self.flag, self.field, flag_value=False, default=self.default, type=bool,
                                show_default=False, help=self.help)(function)  # fmt: skip
        default = None if self.no_default else self.default
        return click.option(
            self.flag,
            self.field,
            type=self.kind,
            default=default,
            show_default=default is not None,
            help=self.help,
        )(function)


_DOMAIN = Knob(
    "--measurement-domain", TrainingConfig, "measurement_domain", str,
    "What the frames hold: intensity (counts), amplitude (their square roots), normalized_amplitude (up to a "
    "factor: give --nphotons), or auto to decide from the file.",
)  # fmt: skip
_NPHOTONS = Knob(
    "--nphotons", TrainingConfig, "nphotons", click.FloatRange(min=0, min_open=True),
    "Mean photons per frame, for frames in the domain normalized_amplitude. [default: from the file]",
    no_default=True,
)  # fmt: skip
_ACCELERATOR = Knob(
    "--accelerator", PyTorchExecutionConfig, "accelerator", click.Choice(ACCELERATORS),
    "Where to compute; auto takes a CUDA device if there is one.",
)  # fmt: skip

SCAN_KNOBS = (_DOMAIN, _NPHOTONS)
EXECUTION_KNOBS = (_ACCELERATOR,)
TRAINING_KNOBS = (
    Knob("--epochs", TrainingConfig, "nepochs", click.IntRange(min=0), "Passes over the scan, at most."),
    Knob("--batch-size", TrainingConfig, "batch_size", click.IntRange(min=1),
         "Frames per step, in whole merge blocks."),
    Knob("--learning-rate", PyTorchExecutionConfig, "learning_rate", click.FloatRange(min=0, min_open=True),
         "Step size of the optimiser."),
    Knob("--seed", TrainingConfig, "seed", click.IntRange(min=0), "Of weights, batches and the split."),
    Knob("--max-time", TrainingConfig, "max_time_s", Duration(),
         "Stop training after this time: seconds, or 90s, 10m, 2h. [default: no limit]"),
    Knob("--patience", PyTorchExecutionConfig, "early_stop_patience", click.IntRange(min=1),
         "Stop after so many epochs in which the loss of the withheld frames did not fall."),
    Knob("--stop-improvement", TrainingConfig, "stop_improvement", click.FloatRange(min=0),
         "Stop when three epochs lower the training loss by less than this fraction; 0 never stops."),
    Knob("--merge-block", ModelConfig, "merge_block", click.IntRange(min=1),
         "Neighbouring frames merged before the detector model."),
    Knob("--stages", ModelConfig, "stages", click.IntRange(min=1), "Project-and-correct stages."),
    Knob("--projection-steps", ModelConfig, "projection_steps", click.IntRange(min=0),
         "Projection steps of the first stage."),
    Knob("--later-projection-steps", ModelConfig, "later_projection_steps", click.IntRange(min=0),
         "Projection steps of each later stage."),
    Knob("--no-calibrate", TrainingConfig, "calibrate_probe", bool,
         "Trust the probe of the scan: do not refine it before training."),
)  # fmt: skip


def knob_options(*knobs: Knob) -> Callable[[F], F]:
    """Add the flags of these knobs, in this order in the help text."""

    def decorate(function: F) -> F:
        for knob in reversed(knobs):
            function = knob.option(function)
        return function

    return decorate


def build_config(owner: type, values: dict[str, Any], **more: Any) -> Any:
    """An instance of a configuration dataclass from those of the parsed values that are its fields."""
    names = {f.name for f in dataclasses.fields(owner)}
    return owner(**{k: v for k, v in values.items() if k in names and v is not None}, **more)


# ---------------------------------------------------------------------- groups of other options


def output_options(default: str | None = None) -> Callable[[F], F]:
    """--output-dir and --overwrite."""

    def decorate(function: F) -> F:
        function = click.option(
            "--overwrite", is_flag=True, help="Replace earlier results in the output folder."
        )(function)
        return click.option(
            "--output-dir", "-o", type=FILE, required=default is None, default=default, show_default=True,
            help="Folder for everything that is written; new or empty.",
        )(function)  # fmt: skip

    return decorate


def scan_options(function: F) -> F:
    """What a scan file may need to be said about it: --crop, and the domain of its frames."""
    function = knob_options(*SCAN_KNOBS)(function)
    return click.option(
        "--crop", type=click.IntRange(min=1), metavar="N",
        help="Use the central N x N pixels of each frame. The object pixel grows, the rest follows.",
    )(function)  # fmt: skip


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


def load_scan(path: Path, crop: int | None, values: dict[str, Any], *, needs_probe: bool = True) -> RawData:
    """Read a scan, with what the flags say about it, and check what reconstruction needs."""
    from ptycho.raw_data import RawData

    stated = {knob.field: values.get(knob.field) for knob in SCAN_KNOBS}
    raw = RawData.from_file(path, **stated)
    if crop is not None:
        raw = raw.crop(crop)
    # Found out on first use, and wanted now: before a folder is made or a model built.
    if needs_probe or raw.probeGuess is not None:
        _ = raw.probe
    raw.mean_counts_per_frame()
    return raw


def load_reference(path: Path | None) -> PlacedObject | None:
    """The object to compare with, or None."""
    if path is None:
        return None
    from ptycho.io.reconstruction_files import load_any
    from ptycho.placed import place_loaded

    return place_loaded(load_any(path))


# ---------------------------------------------------------------------- the backend


@contextlib.contextmanager
def backend_errors() -> Iterator[None]:
    """A missing torch is for the user to put right: one message, no traceback."""
    try:
        yield
    except ImportError as error:
        if (error.name or "").split(".")[0] not in ("torch", "lightning"):
            raise
        raise PtychoError(
            f"The package {error.name} is not installed, and networks need it. Install it with: "
            "pip install 'torch>=2.2' lightning"
        ) from error
    except RuntimeError as error:
        # Both packages answer a missing torch with a RuntimeError that says how to install it.
        if not isinstance(error.__cause__, ImportError):
            raise
        raise PtychoError(str(error)) from error


def load_backend() -> Any:
    """The module with train_scan and infer_scan; imports torch."""
    with backend_errors():
        from ptycho_torch.workflows import reconstruct

        return reconstruct


def execution_config(values: dict[str, Any]) -> PyTorchExecutionConfig:
    """How to run, with a progress bar where somebody may be watching."""
    watched = sys.stderr.isatty() and not is_quiet()
    with backend_errors():
        config: PyTorchExecutionConfig = build_config(
            PyTorchExecutionConfig, values, enable_progress_bar=watched
        )
    return config


# ---------------------------------------------------------------------- from a scan to results


def train_and_report(
    raw: RawData,
    scan: Path,
    out: Path,
    values: dict[str, Any],
    *,
    reference: PlacedObject | None = None,
    half: int | None = None,
) -> None:
    """Train on a scan, write everything into the folder `out` (checked before), print the figures.

    scan: the file it came from. values: parsed flags by field.
    """
    from ptycho.cli.summary import print_summary
    from ptycho.config.validation import validate_training_config
    from ptycho.io.outputs import MODEL_FILES, RESULT_FILES, clear_results, write_outputs

    model = build_config(ModelConfig, values, N=raw.N)
    config = build_config(TrainingConfig, values, model=model, output_dir=out, train_data_file=scan)
    validate_training_config(config)
    execution = execution_config(values)
    backend = load_backend()
    clear_results(out, (*MODEL_FILES, *RESULT_FILES))
    try:
        outcome = backend.train_scan(raw, config, execution, output_dir=out)
    except PtychoError:
        # The scan or a setting was refused: do not leave an empty folder behind (one with files stays).
        with contextlib.suppress(OSError):
            out.rmdir()
        raise
    print_summary(write_outputs(out, outcome, raw, reference, half=half), out, outcome.stages)
