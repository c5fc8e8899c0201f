"""How far a long piece of work has come, for whoever is watching.

The library says what it is doing; nothing happens with that unless somebody installed a reporter, as the command line
does on a terminal. A reporter belongs to the running context (contextvars), so that two users of the library in one
process do not see each other's work, and threads of others stay silent.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Protocol

__all__ = ["Reporter", "Step", "by_epoch", "reporting_to", "task"]


class Step(Protocol):
    """Takes note of work that was done."""

    def __call__(self, done: float = 1.0, text: str = "") -> None:
        """done: how much since the last call, in units of the task. text: the newest figures, kept when empty."""


class Reporter(Protocol):
    """Shows tasks."""

    def task(self, what: str, total: float | None, unit: str, limit_s: float | None) -> AbstractContextManager[Step]:
        """Arguments as of :func:`task`."""


_reporter: ContextVar[Reporter | None] = ContextVar("ptycho_progress_reporter", default=None)


def _unseen(done: float = 1.0, text: str = "") -> None:
    """The step of a task that nobody watches."""


@contextlib.contextmanager
def task(what: str, total: float | None = None, unit: str = "step", *, limit_s: float | None = None) -> Iterator[Step]:
    """A piece of work that may take more than a moment; yields the function that takes note of what is done.

    what: in words, as "Calibrating the probe". total: amount of work in units; None if it is not known. unit: name of
    one, in the singular. limit_s: seconds after which the work ends in any case.

        with progress.task("Reading frames", total=600, unit="frame") as step:
            step(64)
    """
    reporter = _reporter.get()
    if reporter is None:
        yield _unseen
        return
    with reporter.task(what, total, unit, limit_s) as step:
        yield step


@contextlib.contextmanager
def reporting_to(reporter: Reporter) -> Iterator[None]:
    """Show the tasks of this context to `reporter`."""
    token = _reporter.set(reporter)
    try:
        yield
    finally:
        _reporter.reset(token)


def by_epoch(
    step: Step, figure: str = "misfit", also: Callable[[int, float], None] | None = None
) -> Callable[[int, float], None]:
    """A callback for solvers, which know nothing of tasks: on_epoch(number of finished epochs, value).

    figure: name of the value. also: called with the same arguments.
    """

    def on_epoch(epoch: int, value: float) -> None:
        step(1, f"{figure} {value:.4g}")
        if also is not None:
            also(epoch, value)

    return on_epoch
