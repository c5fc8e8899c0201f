"""The exception family for mistakes a user can make and put right.

Every message says what was found, what was expected, and what to do. The command line catches
`PtychoError`, prints its message and ends with exit code 2; anything else is a defect of ours.
The classes also derive from the built-in exceptions that callers of the reference implementation
catch (ValueError, FileNotFoundError, OSError).
"""

from __future__ import annotations

__all__ = ["PtychoError", "InputError", "MissingFileError", "OutputError"]


class PtychoError(Exception):
    """Base of all user mistakes."""


class InputError(PtychoError, ValueError):
    """Bad data, bad values, bad shapes."""


class MissingFileError(PtychoError, FileNotFoundError):
    """A file or folder that was named does not exist."""


class OutputError(PtychoError, OSError):
    """The output cannot be written (no permission, a file where a folder should be, ...)."""
