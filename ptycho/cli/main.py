"""The command `ptychopinn`: finds the verb, and turns mistakes of users into one message."""

from __future__ import annotations

import errno
import importlib
import logging
from typing import Any

import click

from ptycho import __version__
from ptycho.cli.logs import verbosity_options
from ptycho.errors import PtychoError

__all__ = ["cli", "main"]

logger = logging.getLogger(__name__)

# The verbs in the order of the help text; each is the function of that name in the module of that name.
_VERBS = ("demo", "train", "infer", "evaluate")


class UserMistake(click.ClickException):
    """Shown as `Error: <message>` on standard error; ends the program with exit code 2."""

    exit_code = 2


class VerbGroup(click.Group):
    """Imports a verb when it is asked for, and reports the exceptions that are no defects of ours."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        command: click.Command = getattr(importlib.import_module(f"ptycho.cli.{cmd_name}"), cmd_name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PtychoError as error:
            logger.debug("Where it was raised:", exc_info=True)
            raise UserMistake(str(error)) from error
        except OSError as error:
            if error.errno in (None, errno.EPIPE):
                raise
            logger.debug("Where it was raised:", exc_info=True)
            raise UserMistake(f"{error.filename or 'File system'}: {error.strerror}.") from error


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


def main() -> None:
    """Entry point of the console script."""
    cli(prog_name="ptychopinn")


if __name__ == "__main__":
    main()
