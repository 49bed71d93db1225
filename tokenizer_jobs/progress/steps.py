"""How far a command is that goes through an output: a bar on a terminal, elsewhere one parseable line now and then.

    progress files=1200/50000 elapsed=61.2 eta=2478.6

Times are in seconds.
"""

import time
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from tokenizer_jobs.progress.lines import LINE_SECONDS, can_redraw

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["StepDisplay"]

PATIENCE_SECONDS = 1.0
"""Before a terminal gets a bar: what is over by then needs none."""


class StepDisplay:
    """Shows steps while entered, and leaves nothing on a terminal; give `report` to what takes `Steps`.

    Args:
        stream: Where to; a terminal gets a bar, anything else lines.
        line_seconds: Time between two lines, and before the first.
    """

    def __init__(self, stream: TextIO, *, line_seconds: float = LINE_SECONDS) -> None:
        self._stream = stream
        self._is_live = can_redraw(stream)
        self._pause_seconds = PATIENCE_SECONDS if self._is_live else line_seconds
        self._what = ""
        self._started = self._told = time.monotonic()
        self._bar: tuple[Progress, TaskID] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._take_down()

    def report(self, what: str, done: int, total: int) -> None:
        """Take in how far the work is, `done` >= 1 of `total`, and show it when it is time to."""
        now = time.monotonic()
        if what != self._what:
            self._take_down()
            self._what, self._started, self._told = what, now, now
        if self._bar is not None:
            bar, task = self._bar
            bar.update(task, completed=done, total=total)
        elif now - self._told >= self._pause_seconds:
            self._told = now
            if self._is_live:
                self._bar = _bar(self._stream, what, total=total)
                self._bar[0].update(self._bar[1], completed=done)
            else:
                elapsed = now - self._started
                line = f"progress {what}={done}/{total} elapsed={elapsed:.1f} eta={elapsed * (total - done) / done:.1f}"
                with suppress(OSError):  # the reader is gone, and the work goes on
                    print(line, file=self._stream, flush=True)

    def _take_down(self) -> None:
        if self._bar is not None:
            self._bar[0].stop()
            self._bar = None


def _bar(stream: TextIO, what: str, *, total: int) -> "tuple[Progress, TaskID]":
    from rich.console import Console  # a tenth of a second
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=Console(file=stream), transient=True)
    task = progress.add_task(what, total=total)
    progress.start()
    return progress, task
