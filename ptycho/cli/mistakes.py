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

__all__ = ["UserMistake", "reported", "run_to_exit"]

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
