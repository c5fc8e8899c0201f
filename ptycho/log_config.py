"""Logging of a script: everything into a file of its output folder, the important part on standard error."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TextIO

from ptycho.errors import InputError, OutputError

__all__ = ["setup_logging", "restore_stdout"]

_FILE_FORMAT = "%(asctime)s %(levelname)-8s %(name)s: %(message)s"
_CONSOLE_FORMAT = "%(levelname)s %(name)s: %(message)s"


class _RunLog(logging.FileHandler):
    """The log file of a run; it also remembers the root logger as it was before."""

    def __init__(self, file: Path) -> None:
        super().__init__(file, mode="a", encoding="utf-8")
        self.previous_level = logging.NOTSET
        self.previous_handlers: list[logging.Handler] = []


class _Console(logging.StreamHandler[TextIO]):
    """Standard error, as it is when logging is set up."""


def setup_logging(
    output_dir: str | Path, console_level: int = logging.INFO, quiet: bool = False, verbose: bool = False
) -> None:
    """Log to output_dir/logs/debug.log (all levels, appended) and to standard error.

    The handlers of the root logger are replaced; `restore_stdout` puts them back. A second call replaces what
    the first one made. Standard output is left alone: it is for results.

    Args:
        output_dir: made if missing.
        console_level: level from which messages are shown.
        quiet: show none. verbose: show all. Not both.

    Raises:
        InputError: quiet and verbose. OutputError: the folder cannot be written.
    """
    if quiet and verbose:
        raise InputError("setup_logging: found quiet=True and verbose=True, expected one of them. Leave one out.")
    file = Path(output_dir) / "logs" / "debug.log"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        log = _RunLog(file)
    except OSError as error:
        raise OutputError(
            f"Cannot write {file}: {error.strerror or error}. Choose an output folder that can be made and written."
        ) from error
    log.setLevel(logging.DEBUG)
    log.setFormatter(logging.Formatter(_FILE_FORMAT))
    handlers: list[logging.Handler] = [log]
    if not quiet:
        console = _Console()
        console.setLevel(logging.DEBUG if verbose else console_level)
        console.setFormatter(logging.Formatter(_CONSOLE_FORMAT))
        handlers.append(console)
    restore_stdout()
    root = logging.getLogger()
    log.previous_level, log.previous_handlers = root.level, list(root.handlers)
    root.handlers[:] = handlers
    root.setLevel(logging.DEBUG)


def restore_stdout() -> None:
    """Undo `setup_logging`: close its handlers and put back those that it replaced. Any number of times.

    The name is the reference's, whose set-up also redirects sys.stdout; ours never does. Handlers that others
    added since are kept.
    """
    root = logging.getLogger()
    for handler in list(root.handlers):
        if not isinstance(handler, (_RunLog, _Console)):
            continue
        root.removeHandler(handler)
        handler.close()
        if isinstance(handler, _RunLog):
            root.setLevel(handler.previous_level)
            for earlier in handler.previous_handlers:
                root.addHandler(earlier)  # a handler that is there already is not added twice
