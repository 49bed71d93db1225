"""Progress where there is no terminal: one parseable line now and then, or a JSON object.

    progress units=12/40 hours=1.250/4.000 items=1500 rows=1498 rejects=2 elapsed=61.2 speed=73.4 eta=134.7

Hours are of audio, `speed` is hours of audio per hour of this run, the rest is in seconds; `?` is not known yet.
"""

import logging
import os
import threading
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

from tokenizer_jobs.logs import log_event
from tokenizer_jobs.progress.speed import Pace

if TYPE_CHECKING:
    from tokenizer_jobs.results import Progress

__all__ = ["LINE_SECONDS", "Events", "Lines", "can_redraw", "progress_line"]

_log = logging.getLogger(__name__)

LINE_SECONDS = 10.0
"""Time between two lines."""


def can_redraw(stream: TextIO) -> bool:
    """Say whether a stream is a terminal on which what was written can be written over."""
    return stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def progress_line(progress: "Progress", pace: Pace, *, waited_seconds: float = 0.0) -> str:
    """The line of the module's docstring.

    Args:
        progress: Where the run is.
        pace: What it was before.
        waited_seconds: Time since `progress` was reported.
    """
    speed, eta = pace.speed, pace.eta_seconds
    return (
        f"progress units={progress.units_committed}/{progress.units} "
        f"hours={progress.hours_done:.3f}/{progress.hours_total:.3f} items={progress.items} rows={progress.rows} "
        f"rejects={progress.rejects} elapsed={progress.elapsed_seconds + waited_seconds:.1f} "
        f"speed={'?' if speed is None else f'{speed:.1f}'} eta={'?' if eta is None else f'{eta:.1f}'}"
    )


class NowAndThen(ABC):
    """Says something when `line_seconds` have passed, whether or not a unit ended, and once at the end."""

    def __init__(self, *, line_seconds: float) -> None:
        self._line_seconds = line_seconds
        self._lock = threading.Lock()
        self._latest: tuple[Progress, Pace, float] | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._tick, name="progress", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def show(self, progress: "Progress", pace: Pace) -> None:
        with self._lock:
            self._latest = (progress, pace, time.monotonic())

    @abstractmethod
    def say(self, message: str) -> None: ...

    @abstractmethod
    def say_progress(self, progress: "Progress", pace: Pace, *, waited_seconds: float) -> None: ...

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()
        self._line()

    def _tick(self) -> None:
        while not self._ended.wait(self._line_seconds):
            self._line()

    def _line(self) -> None:
        with self._lock:
            if self._latest is None or self._latest[0].units == 0:
                return  # nothing is planned yet, or nothing was new
            progress, pace, seen = self._latest
            self.say_progress(progress, pace, waited_seconds=time.monotonic() - seen)


class Lines(NowAndThen):
    """Lines on a stream, as long as somebody reads it."""

    def __init__(self, stream: TextIO, *, line_seconds: float) -> None:
        super().__init__(line_seconds=line_seconds)
        self._stream = stream

    def say(self, message: str) -> None:
        """Write a line at once, and not into one that is being written."""
        with self._lock:
            self._write(message)

    def say_progress(self, progress: "Progress", pace: Pace, *, waited_seconds: float) -> None:
        """Write the line."""
        self._write(progress_line(progress, pace, waited_seconds=waited_seconds))

    def _write(self, line: str) -> None:
        with suppress(OSError):  # the reader is gone, and the work goes on
            print(line, file=self._stream, flush=True)


class Events(NowAndThen):
    """Events of the log."""

    def say(self, message: str) -> None:
        """Log a message."""
        _log.info("%s", message)

    def say_progress(self, progress: "Progress", pace: Pace, *, waited_seconds: float) -> None:
        """Log the event."""
        log_event(
            _log,
            logging.INFO,
            "progress",
            units_committed=progress.units_committed,
            units=progress.units,
            hours_done=progress.hours_done,
            hours_total=progress.hours_total,
            items=progress.items,
            rows=progress.rows,
            rejects=progress.rejects,
            elapsed_seconds=progress.elapsed_seconds + waited_seconds,
            speed=pace.speed,
            eta_seconds=pace.eta_seconds,
        )
