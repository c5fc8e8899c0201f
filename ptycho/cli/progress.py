"""Progress bars on standard error, where it is a terminal and nobody asked for quiet."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from ptycho import progress
from ptycho.cli.logs import is_quiet
from ptycho.launch import place

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, Task

__all__ = ["TerminalProgress", "is_watched", "show_progress"]

DELAY_S = 1.0  # what is done sooner needs no bar
_STATE = "ptychopinn.progress"


def is_watched() -> bool:
    """True where somebody may be looking: standard error is a terminal, and --quiet was not given."""
    return sys.stderr.isatty() and not is_quiet()


def show_progress() -> None:
    """Show bars until the running command ends; any number of times."""
    ctx = click.get_current_context(silent=True)
    if ctx is None or _STATE in ctx.find_root().meta or place().number > 0:
        return
    root = ctx.find_root()
    root.meta[_STATE] = True
    root.with_resource(_shown(TerminalProgress(delay_s=DELAY_S)))


@contextlib.contextmanager
def _shown(bars: TerminalProgress) -> Iterator[None]:
    try:
        with progress.reporting_to(bars):
            yield
    finally:
        bars.close()


@dataclass
class _Work:
    """A task as far as it has come."""

    what: str
    total: float | None
    unit: str
    limit_s: float | None
    started: float = field(default_factory=time.monotonic)
    done: float = 0.0
    text: str = ""
    ended: bool = False

    def elapsed_s(self) -> float:
        return time.monotonic() - self.started

    def amount(self) -> str:
        """As "12/50 epochs"."""
        if self.total is None:
            return f"{int(self.done)} {self.unit}s" if self.done else ""
        return f"{int(self.done)}/{int(self.total)} {self.unit}s"

    def rate(self) -> str:
        """As "3.1 epochs/s", or "2.5 s/epoch" where that reads better."""
        speed = self.done / max(self.elapsed_s(), 1e-9)
        if speed <= 0:
            return ""
        if speed < 1:
            return f"{1 / speed:.3g} s/{self.unit}"
        return f"{speed:,.0f} {self.unit}s/s" if speed >= 100 else f"{speed:.3g} {self.unit}s/s"

    def left(self) -> str:
        """As "0:42 left", by the mean rate so far; never more than the task may take."""
        bounds = []
        if self.total is not None and self.done > 0:
            bounds.append(max(self.total - self.done, 0.0) * self.elapsed_s() / self.done)
        if self.limit_s is not None:
            bounds.append(max(self.limit_s - self.elapsed_s(), 0.0))
        if not bounds:
            return ""
        minutes, seconds = divmod(round(min(bounds)), 60)
        hours, minutes = divmod(minutes, 60)
        return (f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}") + " left"


class TerminalProgress:
    """Draws one line for each task that takes longer than `delay_s`; the lines go away when their tasks end.

    console: where to draw; default standard error, and only while `is_watched`. What is written to standard error
    meanwhile appears above the lines.
    """

    def __init__(self, console: Console | None = None, delay_s: float = DELAY_S) -> None:
        self._console, self._delay_s = console, delay_s
        self._bars: Progress | None = None
        self._numbers: dict[int, Any] = {}  # id of a task's work: its number among the bars
        self._closed = False
        self._lock = threading.RLock()

    @contextlib.contextmanager
    def task(self, what: str, total: float | None, unit: str, limit_s: float | None) -> Iterator[progress.Step]:
        """See `ptycho.progress.task`."""
        work = _Work(what, total, unit, limit_s)

        def step(done: float = 1.0, text: str = "") -> None:
            work.done += done
            work.text = text or work.text
            self._update(work)

        # A timer, not a look at the clock at each step: the first step may be a long one.
        timer = threading.Timer(self._delay_s, self._show, (work,))
        timer.daemon = True
        if self._console is not None or is_watched():
            timer.start()
        try:
            yield step
        finally:
            timer.cancel()
            self._hide(work)

    def _show(self, work: _Work) -> None:
        with self._lock:
            if work.ended or self._closed:
                return
            if self._bars is None:
                bars = _bars(self._console)
                if bars.console.is_dumb_terminal:
                    return
                self._bars = bars
                bars.start()
            self._numbers[id(work)] = self._bars.add_task(work.what, total=work.total, work=work)
            self._bars.update(self._numbers[id(work)], completed=work.done)

    def _update(self, work: _Work) -> None:
        with self._lock:
            if self._bars is not None and id(work) in self._numbers:
                self._bars.update(self._numbers[id(work)], completed=work.done)

    def _hide(self, work: _Work) -> None:
        with self._lock:
            work.ended = True
            number = self._numbers.pop(id(work), None)
            if self._bars is None or number is None:
                return
            self._bars.remove_task(number)
            if not self._numbers:
                self._stop()

    def close(self) -> None:
        """Take all lines away, also those of tasks that an error left without an end, and draw no more."""
        with self._lock:
            self._closed = True
            self._stop()

    def _stop(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
        self._numbers.clear()


def _bars(console: Console | None) -> Progress:
    """The block of lines, not yet drawn."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
    from rich.table import Column
    from rich.text import Text

    class Told(ProgressColumn):
        """What a task says of itself."""

        def __init__(self, tell: Callable[[_Work], str], column: Column, style: str = "") -> None:
            super().__init__(column)
            self._tell, self._style = tell, style

        def render(self, task: Task) -> Text:
            return Text(self._tell(task.fields["work"]), style=self._style)

    def column(**more: Any) -> Column:
        return Column(no_wrap=True, **more)

    return Progress(
        TextColumn("{task.description}", markup=False, table_column=column(overflow="ellipsis")),
        BarColumn(bar_width=16),
        Told(_Work.amount, column()),
        Told(_Work.rate, column(), "cyan"),
        Told(_Work.left, column(), "cyan"),
        Told(lambda work: work.text, column(overflow="ellipsis")),
        console=console or Console(stderr=True),
        transient=True,
        redirect_stdout=False,  # it may be a file, and the bars' console is not
        redirect_stderr=True,
        refresh_per_second=5,
    )
