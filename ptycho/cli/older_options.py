"""Flags of the older commands: every one that stands for a field comes from the table of knobs, in their spelling;
the others are listed here, with what becomes of each.

The older commands are `ptycho_train`, `ptycho_inference`, `python -m ptycho_torch.train` and
`python -m ptycho_torch.inference`. The tables of docs/CONFIGURATION.md are made from these.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from ptycho.cli.fields import field_knobs
from ptycho.cli.knobs import INFERENCE_KNOBS, SCAN_KNOBS, TRAINING_KNOBS, Knob
from ptycho.cli.mistakes import reported
from ptycho.cli.options import COUNT, HeadedCommand, HeadedOption
from ptycho.cli.resolve import Settings
from ptycho.config.execution import PyTorchExecutionConfig
from ptycho.config.models import InferenceConfig
from ptycho.errors import InputError

__all__ = [
    "DEVICE",
    "DISABLE_MLFLOW",
    "MODEL_PATH",
    "MODULE_INFERENCE",
    "MODULE_TRAIN",
    "PTYCHO_INFERENCE",
    "PTYCHO_TRAIN",
    "TEST_DATA",
    "TRAIN_DATA",
    "EntryPoint",
    "Extra",
    "OlderCommand",
    "extra_options",
    "field_spelled",
    "heed",
    "module_inference_knobs",
    "module_spelled",
    "module_training_knobs",
    "ptycho_inference_knobs",
    "ptycho_training_knobs",
    "required",
]

F = TypeVar("F", bound=Callable[..., Any])

logger = logging.getLogger(__name__)


class OlderCommand(HeadedCommand):
    """An older command: its spellings are its usual ones; a user's mistake is one message and exit code 2."""

    aliases_are_usual = True

    def invoke(self, ctx: click.Context) -> Any:
        with reported():
            return super().invoke(ctx)


class EntryPoint(OlderCommand):
    """One that runs inside its caller's process, who may be recording Python warnings."""

    keeps_warnings = True


# ---------------------------------------------------------------------- options that are no field


@dataclass(frozen=True)
class Extra:
    """An option that stands for no field.

    flags: all spellings, the one of the help text first. name: of the parameter. kind: of the value, or None for
    a switch. help: what it does. note: told when it is given, since it changes nothing. refusal: why it is
    refused, and what to say instead.
    """

    flags: tuple[str, ...]
    name: str
    kind: Any
    help: str = ""
    note: str = ""
    refusal: str = ""
    default: Any = None

    @property
    def what(self) -> str:
        """What becomes of it, in a sentence."""
        return self.help or (f"No effect: {self.note}." if self.note else f"Refused: {self.refusal}.")

    def option(self, function: F) -> F:
        """Decorate a command with it."""
        kind: dict[str, Any] = {"is_flag": True} if self.kind is None else {"type": self.kind, "default": self.default}
        if self.refusal:
            kind |= {"is_flag": False, "flag_value": Path()}  # with a value or without: it is refused
        return click.option(
            self.flags[0], self.name, help=self.what, show_default=self.default is not None, cls=HeadedOption,
            aliases=self.flags[1:], **kind,
        )(function)  # fmt: skip


def extra_options(*extras: Extra) -> Callable[[F], F]:
    """Add these options, in this order in the help text."""

    def decorate(function: F) -> F:
        for extra in reversed(extras):
            function = extra.option(function)
        return function

    return decorate


def heed(settings: Settings, extras: Iterable[Extra]) -> None:
    """Say what has no effect, refuse what is refused; neither stays among the settings.

    Raises:
        InputError: an option that is refused was given.
    """
    for extra in extras:
        if (extra.note or extra.refusal) and settings.values.pop(extra.name, None) not in (None, False):
            if extra.refusal:
                raise InputError(f"{extra.flags[0]} is not available: {extra.refusal}.")
            logger.info("%s has no effect: %s.", extra.flags[0], extra.note)


def required(settings: Settings, extra: Extra) -> Any:
    """The value of an option that must be given.

    Raises:
        InputError: neither a flag nor the configuration file gives it.
    """
    value = settings.get(extra.name)
    if value is None:
        raise InputError(f"{extra.flags[0]} is missing. Give it, or state {extra.name} in a configuration file.")
    return value


_FILE = click.Path(path_type=Path)

TRAIN_DATA = Extra(("--train_data_file", "--train-data-file"), "train_data_file", _FILE,
                   "The scan to train on. [required]")  # fmt: skip
TEST_DATA = Extra(("--test_data", "--test-data", "--test_data_file"), "test_data", _FILE,
                  "The scan to reconstruct. [required]")  # fmt: skip
MODEL_PATH = Extra(("--model_path", "--model-path"), "model_path", _FILE,
                   "The trained model: the output folder of a training run, or its wts.h5.zip. [required]")  # fmt: skip


def _output_dir(default: str | None) -> Extra:
    text = "Folder for everything that is written; earlier results in it are replaced."
    return Extra(("--output_dir", "--output-dir", "-o"), "output_dir", _FILE,
                 text + (" [required]" if default is None else ""), default=default)  # fmt: skip


PTYCHO_TRAIN = (
    TRAIN_DATA,
    Extra(("--test_data_file", "--test-data-file"), "test_data_file", _FILE,
          note="frames to validate with are withheld from the training scan (--val_fraction); "
          "ptycho_inference reconstructs another scan"),
    _output_dir("training_outputs"),
    Extra(("--do_stitching",), "do_stitching", None, note="the object is always stitched"),
)  # fmt: skip

PTYCHO_INFERENCE = (
    MODEL_PATH,
    TEST_DATA,
    _output_dir("inference_outputs"),
    Extra(("--debug",), "debug", None, "Superseded: say --verbose."),
    Extra(("--comparison_plot",), "comparison_plot", None,
          note="comparison.png is drawn whenever the scan carries its true object or --reference names one"),
    Extra(("--phase_vmin",), "phase_vmin", float, note="the limits of phase.png follow the object"),
    Extra(("--phase_vmax",), "phase_vmax", float, note="the limits of phase.png follow the object"),
    Extra(("--torch-num-workers",), "num_workers", click.IntRange(min=0), note="frames are read by the process itself"),
    Extra(("--debug_dump",), "debug_dump", _FILE,
          refusal="nothing is dumped on the way; `python -m ptycho_torch.inference --log-patch-stats` writes figures "
          "and pictures of the patches"),
)  # fmt: skip

_PATCH_STATS = (
    Extra(("--log-patch-stats",), "log_patch_stats", None,
          "Write figures and pictures of the object patches into analysis/ of the output folder."),
    Extra(("--patch-stats-limit",), "patch_stats_limit", COUNT, "Of so many groups of frames only. [default: all]"),
)  # fmt: skip
_SCALE_CONTRACT = Extra(("--scale-contract-version",), "scale_contract_version", str,
                        "Superseded: what the frames hold is said by --measurement-domain.")  # fmt: skip
DEVICE = Extra(("--device",), "device", click.Choice(("cpu", "cuda")), "Deprecated: say --accelerator.")
DISABLE_MLFLOW = Extra(("--disable_mlflow",), "disable_mlflow", None, "Deprecated: say --logger none.")

MODULE_TRAIN = (
    TRAIN_DATA,
    Extra(("--test_data_file", "--test-data-file"), "test_data_file", _FILE,
          "A scan to validate with. [default: frames withheld from the training scan]"),
    _output_dir(None),
    *_PATCH_STATS,
    Extra(("--profile",), "profile", click.Choice(("ci",)), "A named set of settings."),
    _SCALE_CONTRACT,
    DEVICE,
    DISABLE_MLFLOW,
    Extra(("--ptycho_dir",), "ptycho_dir", _FILE,
          refusal="training takes one scan, an NPZ named by --train_data_file, not a folder of them"),
)  # fmt: skip

MODULE_INFERENCE = (
    MODEL_PATH,
    TEST_DATA,
    _output_dir(None),
    *_PATCH_STATS,
    Extra(("--patch-weighting",), "patch_weighting", click.Choice(("uniform", "probe")),
          "Superseded: patches are merged whole, by their illumination."),
    Extra(("--varpro-scaling",), "varpro_scaling", None, "Superseded: frames stay in counts."),
    _SCALE_CONTRACT,
    DEVICE,
)  # fmt: skip


# ---------------------------------------------------------------------- options that are a field


def _spelled(knob: Knob, flag: str) -> Knob:
    """The same knob with `flag` in the help text and all other spellings beside it."""
    others = knob.older if knob.is_switch else (knob.flag, *knob.older)
    return dataclasses.replace(knob, flag=flag, aliases=others)


def field_spelled(knob: Knob) -> Knob:
    """As ptycho_train spells it: `--<field> VALUE`, true or false for a switch; `--torch-...` for how to run."""
    if knob.owner is not PyTorchExecutionConfig:
        if knob.is_switch:
            return dataclasses.replace(knob, flag=f"--{knob.field}", kind=click.BOOL, aliases=knob.aliases)
        return _spelled(knob, f"--{knob.field}")
    prefixed = [name for name in knob.aliases if name.startswith("--torch-")]
    return knob if knob.is_switch or not prefixed else _spelled(knob, prefixed[0])


# Where the usual spelling there is not the flag of `ptychopinn train`.
_OF_THE_MODULE = {
    "nepochs": "--max_epochs",
    "n_groups": "--n_images",
    "batch_size": "--batch_size",
    "early_stop_patience": "--early-stop-patience",
    "torch_loss_mode": "--torch-loss-mode",
}


def module_spelled(knob: Knob) -> Knob:
    """As `python -m ptycho_torch.train` spells it."""
    return _spelled(knob, _OF_THE_MODULE[knob.field]) if knob.field in _OF_THE_MODULE else knob


def ptycho_training_knobs() -> tuple[Knob, ...]:
    """Every field of the configuration."""
    return tuple(field_spelled(knob) for knob in (*SCAN_KNOBS, *TRAINING_KNOBS, *field_knobs()))


def module_training_knobs() -> tuple[Knob, ...]:
    """Every field of the configuration."""
    return tuple(module_spelled(knob) for knob in (*SCAN_KNOBS, *TRAINING_KNOBS, *field_knobs()))


_GROUPS = Knob("--n_images", InferenceConfig, "n_groups", COUNT, "Superseded: inference uses every frame once.",
               aliases=("--n-images",))  # fmt: skip
_BACKEND = Knob("--backend", InferenceConfig, "backend", str, "pytorch is the only one.")


def ptycho_inference_knobs() -> tuple[Knob, ...]:
    """What acts in a reconstruction, and what ptycho_inference had beside it."""
    known = (*SCAN_KNOBS, *INFERENCE_KNOBS)
    return (*(field_spelled(knob) for knob in known), _GROUPS, _BACKEND)


def module_inference_knobs() -> tuple[Knob, ...]:
    """What `python -m ptycho_torch.inference` takes."""
    wanted = {"accelerator", "num_workers", "inference_batch_size", "probe_mask", "probe_mask_sigma",
              "probe_mask_diameter"}  # fmt: skip
    chosen = [knob for knob in (*TRAINING_KNOBS, *field_knobs()) if knob.field in wanted]
    return (*SCAN_KNOBS, *chosen, _GROUPS)
