"""Options on logging for scripts that use argparse; `ptycho.log_config.setup_logging` takes the result."""

from __future__ import annotations

import argparse
import logging
from typing import Any

__all__ = ["add_logging_arguments", "get_logging_config"]

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


def add_logging_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --quiet, --verbose (one or the other) and --console-level to a parser."""
    group = parser.add_argument_group("logging")
    either = group.add_mutually_exclusive_group()
    either.add_argument("--quiet", action="store_true", help="Show no messages; the log file still gets them.")
    either.add_argument("--verbose", action="store_true", help="Show all messages, those for debugging too.")
    group.add_argument(
        "--console-level", choices=_LEVELS, default="INFO", help="Show messages from this level on. [default: INFO]"
    )


def get_logging_config(args: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of setup_logging: console_level (int), quiet and verbose (bool)."""
    return {
        "console_level": logging.getLevelNamesMapping()[getattr(args, "console_level", "INFO")],
        "quiet": bool(getattr(args, "quiet", False)),
        "verbose": bool(getattr(args, "verbose", False)),
    }
