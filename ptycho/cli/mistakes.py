"""Mistakes of users become one message and an exit code; anything else is a defect of ours and stays what it is."""

from __future__ import annotations

import contextlib
import errno
import logging
import sys
import traceback
from collections.abc import Iterator, Sequence

import click

from ptycho.errors import PtychoError

__all__ = ["UserMistake", "backend_errors", "reported", "run_to_exit"]

logger = logging.getLogger(__name__)


class UserMistake(click.ClickException):
    """Shown as `Error: <message>` on standard error; ends the program with exit code 2."""

    exit_code = 2


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Turn a PtychoError, or an error of the file system, into a UserMistake."""
    try:
        yield
    except PtychoError as error:
        logger.debug("Where it was raised:", exc_info=True)
        raise UserMistake(str(error)) from error
    except OSError as error:
        if error.errno in (None, errno.EPIPE):
            raise
        logger.debug("Where it was raised:", exc_info=True)
        raise UserMistake(f"{error.filename or 'File system'}: {error.strerror}.") from error


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


def run_to_exit(command: click.Command, args: Sequence[str], prog_name: str) -> None:
    """Run a command for callers that expect nothing but SystemExit.

    Returns after a run that went well. Raises SystemExit(1) after a message on standard error for a mistake of
    the user; for a defect of ours the message is the traceback.
    """
    try:
        command.main(args=list(args), prog_name=prog_name, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(1)
    except click.Abort:
        click.echo("Aborted.", err=True)
        sys.exit(1)
    except Exception:
        click.echo(traceback.format_exc(), err=True, nl=False)
        sys.exit(1)
