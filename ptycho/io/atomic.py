"""Files appear whole or not at all: written under a temporary name in the same folder, then renamed."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from ptycho.errors import OutputError

__all__ = ["atomic_path"]


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path to write; on success it replaces `path`, on any error it is removed.

    The temporary name has the suffix of `path`, since some writers look at it. Missing parent folders are
    made. An OSError on the way (no permission, no space, a folder in the way) becomes an OutputError that
    names the file.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.stem}.{secrets.token_hex(6)}.partial{target.suffix}")
    try:
        try:
            if target.is_dir():
                raise OutputError(f"Cannot write {target}: it is a folder. Name a file.")
            target.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            os.replace(temporary, target)
        except OutputError:
            raise
        except OSError as error:
            reason = error.strerror or str(error)
            raise OutputError(
                f"Cannot write {target}: {reason}. Choose a folder that exists or can be made, and is "
                "writable."
            ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
