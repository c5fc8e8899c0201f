"""The output folder of a run: whether it may be used, and clearing earlier results out of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from ptycho.errors import OutputError
from ptycho.io.atomic import atomic_path

__all__ = ["check_output_dir", "clear_results"]


def check_output_dir(
    folder: str | Path,
    *,
    overwrite: bool = False,
    replaces: Sequence[str] = (),
    inputs: Iterable[Path] = (),
) -> Path:
    """Say before any work whether results can be written there; nothing is left behind.

    replaces: names in the folder that the run will write. inputs: files it reads. OutputError when the folder
    is a file, cannot be made or written, holds something and `overwrite` is False, or when an input would be
    replaced.
    """
    out = Path(folder)
    if out.exists() and not out.is_dir():
        raise OutputError(f"Output folder {out}: found a file, expected a folder. Choose another name.")
    try:
        names = sorted(entry.name for entry in out.iterdir()) if out.exists() else []
    except OSError as error:
        raise _not_writable(out, error) from error
    if names and not overwrite:
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise OutputError(
            f"Output folder {out}: found {len(names)} entries ({shown}), expected an empty or a new folder. "
            "Choose another one, or say --overwrite to replace the results in it."
        )
    for source in inputs:
        if any(source.resolve().is_relative_to((out / name).resolve()) for name in replaces):
            raise OutputError(
                f"Output folder {out}: {source} is read by this run and would be replaced by it. Choose "
                "another output folder."
            )
    _try_writing(out)
    return out


def _try_writing(out: Path) -> None:
    """Make the folder and a file in it, and take both away again. Asking for permissions is not enough: a
    read-only file system refuses all the same."""
    missing = [folder for folder in (out, *out.parents) if not folder.exists()]
    made: list[Path] = []
    try:
        for folder in reversed(missing):
            folder.mkdir()
            made.append(folder)
        with atomic_path(out / ".writable") as trial:
            trial.touch()
        (out / ".writable").unlink()
    except OSError as error:
        raise _not_writable(out, error) from error
    finally:
        for folder in reversed(made):
            folder.rmdir()


def _not_writable(out: Path, error: OSError) -> OutputError:
    # An OutputError carries its text alone, any other OSError a number and the reason.
    reason = error.strerror or str(error)
    return OutputError(f"Output folder {out} cannot be used: {reason}. Choose a folder that is writable.")


def clear_results(out: Path, names: Sequence[str]) -> None:
    """Make the folder, and remove what an earlier run wrote there under these names; other files stay."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        for path in (out / name for name in names):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise _not_writable(out, error) from error
