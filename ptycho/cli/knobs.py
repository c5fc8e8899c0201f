"""One table of flags that stand for a field of the configuration; defaults are those of the dataclasses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from ptycho.cli.options import COUNT, FRACTION, FROM_ZERO, POSITIVE, WHOLE, Devices, Duration, HeadedOption
from ptycho.config.execution import (
    ACCELERATORS,
    CLIP_ALGORITHMS,
    LOGGER_BACKENDS,
    PRECISIONS,
    SCHEDULERS,
    PyTorchExecutionConfig,
)
from ptycho.config.models import ModelConfig, TrainingConfig

__all__ = [
    "INFERENCE_KNOBS",
    "Knob",
    "SCAN_KNOBS",
    "SEED",
    "TRAINING_KNOBS",
    "knob_options",
    "with_device",
]

F = TypeVar("F", bound=Callable[..., Any])


# ---------------------------------------------------------------------- knobs: one flag, one field


@dataclass(frozen=True)
class Knob:
    """A flag that sets one field of a configuration dataclass.

    flag: as on the command line; for a field that is switched, `--on/--off`. heading: where the help text
    lists it, '' among the common ones. no_default: leave the field's default unsaid. aliases: older spellings,
    beside `--<field>` which is always taken (but not for a switch: it would have a value). also: other good spellings.
    """

    flag: str
    owner: type
    field: str
    kind: Any
    help: str
    heading: str = ""
    no_default: bool = False
    aliases: tuple[str, ...] = ()
    also: tuple[str, ...] = ()

    @property
    def default(self) -> Any:
        """The default of the field, where it is one value."""
        return next(f.default for f in dataclasses.fields(self.owner) if f.name == self.field)

    @property
    def is_switch(self) -> bool:
        """True for `--on/--off`."""
        return "/" in self.flag

    @property
    def older(self) -> tuple[str, ...]:
        """All spellings but the flag itself."""
        own = () if self.is_switch else (f"--{self.field}",)
        return tuple(dict.fromkeys(name for name in (*own, *self.aliases) if name != self.flag))

    def option(self, function: F) -> F:
        """Decorate a command with this flag; its parameter is named after the field."""
        default = None if self.no_default else self.default
        return click.option(
            self.flag, *self.also, self.field, type=self.kind, default=default, show_default=default is not None,
            help=self.help, cls=HeadedOption, heading=self.heading, aliases=self.older,
        )(function)  # fmt: skip


def knob_options(*knobs: Knob) -> Callable[[F], F]:
    """Add the flags of these knobs, in this order in the help text."""

    def decorate(function: F) -> F:
        for knob in reversed(knobs):
            function = knob.option(function)
        return function

    return decorate


def with_device(knobs: tuple[Knob, ...]) -> tuple[Knob, ...]:
    """The same flags, with --device as another spelling of --accelerator."""
    return tuple(dataclasses.replace(k, also=("--device",)) if k.field == "accelerator" else k for k in knobs)


SEED = Knob("--seed", TrainingConfig, "seed", WHOLE, "Of weights, batches and the split.")

SCAN_KNOBS = (
    Knob("--measurement-domain", TrainingConfig, "measurement_domain", str,
         "What the frames hold: intensity (counts), amplitude (their square roots), normalized_amplitude (up to "
         "a factor: give --nphotons), or auto to decide from the file."),
    Knob("--nphotons", TrainingConfig, "nphotons", POSITIVE,
         "Mean photons per frame, for frames in the domain normalized_amplitude. [default: from the file]",
         no_default=True),
)  # fmt: skip

ACCELERATOR = Knob(
    "--accelerator", PyTorchExecutionConfig, "accelerator", click.Choice(ACCELERATORS),
    "Where to compute; auto takes a CUDA device if there is one.",
    aliases=("--torch-accelerator",),
)  # fmt: skip

_COMMON_TRAINING = (
    Knob("--epochs", TrainingConfig, "nepochs", WHOLE, "Passes over the scan, at most.",
         aliases=("--max_epochs", "--max-epochs")),
    Knob("--batch-size", TrainingConfig, "batch_size", COUNT, "Frames per step, in whole merge blocks."),
    Knob("--learning-rate", PyTorchExecutionConfig, "learning_rate", POSITIVE,
         "Step size of the optimiser; the cnn takes a fifth of it.",
         aliases=("--torch-learning-rate",)),
    Knob("--max-time", TrainingConfig, "max_time_s", Duration(),
         "Stop training after this time: seconds, or 90s, 10m, 2h. [default: no limit]"),
    Knob("--calibrate/--no-calibrate", TrainingConfig, "calibrate_probe", bool,
         "Refine the probe of the scan before training, or trust it."),
    SEED,
    ACCELERATOR,
    Knob("--init-from", TrainingConfig, "init_from", click.Path(path_type=Path),
         "Start from the network of a trained model: the folder of a run, or its wts.h5.zip. [default: new weights]"),
    Knob("--pretrain-scans", TrainingConfig, "pretrain_scans", WHOLE,
         "Train first on so many simulated scans of other objects under the same probe; 24 helps most "
         "where frames overlap little or counts are few. 0 for none."),
)  # fmt: skip

_SUBSAMPLE = (
    Knob("--n-subsample", TrainingConfig, "n_subsample", COUNT,
         "Use so many frames of the scan, chosen at random. [default: all]", "Which frames"),
    Knob("--subsample-seed", TrainingConfig, "subsample_seed", WHOLE,
         "Of that choice. [default: --seed where there is one, else 0]", "Which frames"),
)  # fmt: skip

_FRAMES = (
    *_SUBSAMPLE,
    Knob("--n-groups", TrainingConfig, "n_groups", COUNT,
         "Groups of frames per epoch. [default: every frame once]", "Which frames",
         aliases=("--n_images",)),
    Knob("--val-fraction", TrainingConfig, "val_fraction", click.FloatRange(min=0, max=1, max_open=True),
         "Share of the scan points withheld from training, to validate with.", "Which frames"),
)  # fmt: skip

_MODEL = (
    Knob("--architecture", ModelConfig, "architecture", str,
         "The network: projection_unet, or cnn as published.", "Model and probe"),
    Knob("--merge-block", ModelConfig, "merge_block", COUNT,
         "Neighbouring frames merged before the detector model.", "Model and probe"),
    Knob("--stages", ModelConfig, "stages", COUNT, "Project-and-correct stages.", "Model and probe"),
    Knob("--projection-steps", ModelConfig, "projection_steps", COUNT,
         "Projection steps of the first stage; 1 is the back-projection.", "Model and probe"),
    Knob("--later-projection-steps", ModelConfig, "later_projection_steps", WHOLE,
         "Projection steps of each stage after the first.", "Model and probe"),
    Knob("--calibration-epochs", TrainingConfig, "calibration_epochs", WHOLE,
         "Passes over the scan that refine the probe.", "Model and probe"),
)  # fmt: skip

_OPTIMISATION = (
    Knob("--loss", TrainingConfig, "torch_loss_mode", click.Choice(("poisson", "mae")),
         "Likelihood of the counts, or mean difference of the amplitudes.", "Optimisation",
         aliases=("--torch-loss-mode",)),
    Knob("--optimizer", TrainingConfig, "optimizer", click.Choice(("adam", "adamw", "sgd")),
         "Optimiser.", "Optimisation"),
    Knob("--weight-decay", TrainingConfig, "weight_decay", FROM_ZERO, "Weight decay.", "Optimisation"),
    Knob("--scheduler", PyTorchExecutionConfig, "scheduler", click.Choice(SCHEDULERS),
         "How the learning rate changes; Default keeps it.", "Optimisation",
         aliases=("--torch-scheduler",)),
    Knob("--lr-warmup-epochs", TrainingConfig, "lr_warmup_epochs", WHOLE,
         "Epochs in which the learning rate rises (WarmupCosine, Cosine).", "Optimisation"),
    Knob("--lr-min-ratio", TrainingConfig, "lr_min_ratio", FRACTION,
         "Last learning rate over the first.", "Optimisation"),
    Knob("--gradient-clip-val", PyTorchExecutionConfig, "gradient_clip_val", FROM_ZERO,
         "Clip gradients at this value. [default: no clipping]", "Optimisation"),
    Knob("--gradient-clip-algorithm", PyTorchExecutionConfig, "gradient_clip_algorithm",
         click.Choice(CLIP_ALGORITHMS), "What is clipped: the norm, each value, or by layer (agc).", "Optimisation"),
    Knob("--accumulate-grad-batches", PyTorchExecutionConfig, "accum_steps", COUNT,
         "Batches whose gradients make one step.", "Optimisation",
         aliases=("--torch-accumulate-grad-batches",)),
    Knob("--patience", PyTorchExecutionConfig, "early_stop_patience", COUNT,
         "Stop after so many epochs in which the loss of the withheld frames did not fall.", "Optimisation",
         aliases=("--early-stop-patience",)),
    Knob("--stop-improvement", TrainingConfig, "stop_improvement", FROM_ZERO,
         "Stop when --stop-window epochs lower the training loss by less than this fraction; 0 never stops.",
         "Optimisation"),
    Knob("--stop-window", TrainingConfig, "stop_window", COUNT, "In epochs.", "Optimisation"),
)  # fmt: skip

_INFERENCE_BATCH = Knob(
    "--inference-batch-size", PyTorchExecutionConfig, "inference_batch_size", COUNT,
    "Frames in memory at a time while the whole scan is reconstructed. [default: the backend's]",
    "Device and data loading",
    aliases=("--torch-inference-batch-size",),
)  # fmt: skip

_DEVICES = Knob(
    "--devices", PyTorchExecutionConfig, "devices", Devices(), "How many devices; each has a process of its own.",
    "Device and data loading",
)  # fmt: skip

_DEVICE = (
    _DEVICES,
    Knob("--strategy", PyTorchExecutionConfig, "strategy", str,
         "Lightning's strategy for several devices.", "Device and data loading"),
    Knob("--precision", PyTorchExecutionConfig, "precision", click.Choice(PRECISIONS),
         "Of the arithmetic; Fourier transforms take 32 bits at least.", "Device and data loading"),
    Knob("--deterministic/--no-deterministic", PyTorchExecutionConfig, "deterministic", bool,
         "Same result, to the bit, from the same seed on the same machine.", "Device and data loading",
         aliases=("--torch-deterministic",)),
    Knob("--num-workers", PyTorchExecutionConfig, "num_workers", WHOLE,
         "Processes that load batches; 0 loads in this one.", "Device and data loading",
         aliases=("--torch-num-workers",)),
    Knob("--pin-memory/--no-pin-memory", PyTorchExecutionConfig, "pin_memory", bool,
         "Page-locked batches, for a CUDA device.", "Device and data loading"),
    Knob("--persistent-workers/--no-persistent-workers", PyTorchExecutionConfig, "persistent_workers", bool,
         "Keep the loading processes from one epoch to the next.", "Device and data loading"),
    Knob("--prefetch-factor", PyTorchExecutionConfig, "prefetch_factor", COUNT,
         "Batches that each loading process prepares. [default: torch's]", "Device and data loading"),
    _INFERENCE_BATCH,
)  # fmt: skip

_RECORDS = (
    Knob("--logger", PyTorchExecutionConfig, "logger_backend", click.Choice((*LOGGER_BACKENDS, "none")),
         "Where the losses of the epochs are logged.", "Checkpoints and log",
         aliases=("--torch-logger",)),
    Knob("--enable-checkpointing/--disable-checkpointing", PyTorchExecutionConfig, "enable_checkpointing", bool,
         "Keep the best weights of the run, or only the last.", "Checkpoints and log",
         aliases=("--torch-enable-checkpointing",)),
    Knob("--checkpoint-save-top-k", PyTorchExecutionConfig, "checkpoint_save_top_k", WHOLE,
         "How many of the best to keep.", "Checkpoints and log",
         aliases=("--torch-checkpoint-save-top-k",)),
    Knob("--checkpoint-monitor", PyTorchExecutionConfig, "checkpoint_monitor_metric", str,
         "The loss that decides which are best, and when to stop.", "Checkpoints and log"),
    Knob("--checkpoint-mode", PyTorchExecutionConfig, "checkpoint_mode", click.Choice(("min", "max")),
         "Whether less or more of it is better.", "Checkpoints and log"),
)  # fmt: skip

TRAINING_KNOBS = (*_COMMON_TRAINING, *_MODEL, *_FRAMES, *_OPTIMISATION, *_DEVICE, *_RECORDS)
INFERENCE_KNOBS = (ACCELERATOR, *_SUBSAMPLE, _DEVICES, _INFERENCE_BATCH)
