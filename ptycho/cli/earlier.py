"""Results of an earlier run: aside while a new one works in their folder, and back if it leaves none of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from ptycho.io.output_folder import clear_results

__all__ = ["replaced"]

_ASIDE = ".earlier-"
"""Beginning of the name of the folder in which they wait; it ends with what shows that they are no longer needed."""


@contextlib.contextmanager
def replaced(out: Path, names: Sequence[str], by: str) -> Iterator[None]:
    """Let new results be written into `out` under these names, which an earlier run may have used.

    by: the one of the names that shows that the new run has results. If it is not there at the end, whatever ended
    the run, the earlier results are put back and what the new run has left under the names is removed. A run that is
    killed can do neither; the next one that comes here does it.
    """
    out.mkdir(parents=True, exist_ok=True)
    _settle(out, names)
    aside = out / f"{_ASIDE}{by}"
    # `by` goes first and comes back last: while it is there, it tells of results that are complete
    found = [name for name in (by, *names) if os.path.lexists(out / name)]
    try:
        if found:
            aside.mkdir()
        for name in dict.fromkeys(found):
            (out / name).rename(aside / name)
        yield
    finally:
        _settle(out, names)


def _settle(out: Path, names: Sequence[str]) -> None:
    """Remove earlier results that were replaced, put back those that were not."""
    for aside in out.glob(f"{_ASIDE}*"):
        by = aside.name.removeprefix(_ASIDE)
        waiting = sorted((path.name for path in aside.iterdir()), key=lambda name: name == by)
        if not os.path.lexists(out / by):
            clear_results(out, [*names, *waiting])
            for name in waiting:
                (aside / name).rename(out / name)
        shutil.rmtree(aside)
