"""The command `ptychopinn`: finds the verb."""

from __future__ import annotations

import importlib
from typing import Any

import click

from ptycho import __version__
from ptycho.cli.logs import verbosity_options
from ptycho.cli.mistakes import reported
from ptycho.cli.progress import show_progress
from ptycho.errors import InputError
from ptycho.launch import place

__all__ = ["cli", "main"]

# The verbs in the order of the help text: where each is, module and function.
_VERBS = {
    "demo": ("demo", "demo"),
    "simulate": ("simulate", "simulate"),
    "inspect": ("inspect_file", "inspect"),
    "check-orientation": ("check_orientation", "check_orientation"),
    "train": ("train", "train"),
    "infer": ("infer", "infer"),
    "refine": ("refine", "refine"),
    "evaluate": ("evaluate", "evaluate"),
}

_SHARED_VERBS = ("train", "infer")


class VerbGroup(click.Group):
    """Imports a verb when it is asked for, and reports the exceptions that are no defects of ours."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        module, function = _VERBS[cmd_name]
        command: click.Command = getattr(importlib.import_module(f"ptycho.cli.{module}"), function)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        with reported():
            return super().invoke(ctx)


@click.group(
    cls=VerbGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="ptychopinn")
@verbosity_options
def cli() -> None:
    """Reconstruct ptychography scans with a physics-informed neural network.

    A scan (diffraction frames, positions, a guess of the probe) goes in; a network is trained on it without
    labels; the complex object comes out. Start with `ptychopinn demo`.
    """
    _refuse_several(str(click.get_current_context().invoked_subcommand))
    show_progress()


def _refuse_several(verb: str) -> None:
    """InputError where a launcher has started several processes for a verb that one does alone."""
    if verb not in _SHARED_VERBS and place().of > 1:
        raise InputError(
            f"{verb}: found {place().of} processes that a launcher has started, expected one: each would do the same. "
            f"Start it without torchrun or srun; several processes share the work of {' and '.join(_SHARED_VERBS)}."
        )


def main() -> None:
    """Entry point of the console script."""
    cli(prog_name="ptychopinn")


if __name__ == "__main__":
    main()
