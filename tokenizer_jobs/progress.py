"""Progress of a run: a bar on a terminal, elsewhere one parseable line now and then, or a JSON object.

    progress units=12/40 hours=1.250/4.000 items=1500 rows=1498 rejects=2 elapsed=61.2 speed=73.4 eta=134.7

Hours are of audio, `speed` is hours of audio per hour of this run, the rest is in seconds; `?` is not known yet.
"""

import logging
import threading
import time
from abc import ABC, abstractmethod
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Column

from tokenizer_jobs.logs import LogFormat, log_event
from tokenizer_jobs.wording import audio_text, count_text, span_text, speed_text

if TYPE_CHECKING:
    from tokenizer_jobs.results import Progress

__all__ = ["LINE_SECONDS", "Pace", "ProgressDisplay", "progress_line"]

_log = logging.getLogger(__name__)

LINE_SECONDS = 10.0
"""Time between two lines where there is no terminal."""


class Pace:
    """Speed since the first look at a plan: what an earlier run committed is no speed of this one."""

    def __init__(self) -> None:
        self._first: Progress | None = None
        self._latest: Progress | None = None

    def observe(self, progress: "Progress") -> None:
        """Take in where the run is."""
        is_other_plan = self._latest is None or progress.units != self._latest.units
        self._first = progress if is_other_plan else self._first
        self._latest = progress

    @property
    def speed(self) -> float | None:
        """Hours of audio per hour; None before anything was done."""
        if self._first is None or self._latest is None:
            return None
        hours = self._latest.hours_done - self._first.hours_done
        seconds = self._latest.elapsed_seconds - self._first.elapsed_seconds
        return hours * 3600 / seconds if hours > 0 and seconds > 0 else None

    @property
    def eta_seconds(self) -> float | None:
        """Time until all planned audio is done; None while the speed is not known."""
        speed = self.speed
        if speed is None or self._latest is None:
            return None
        return max(0.0, self._latest.hours_total - self._latest.hours_done) * 3600 / speed


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


class _Face(Protocol):
    """One way of showing progress."""

    def start(self) -> None: ...

    def show(self, progress: "Progress", pace: Pace) -> None: ...

    def say(self, message: str) -> None: ...

    def stop(self) -> None: ...


class ProgressDisplay:
    """Shows progress while entered; give `report` to `run`.

    Args:
        stream: Where to; a terminal gets a bar, anything else lines.
        line_seconds: Time between two lines.
        log_format: json: events `progress` and `message` of the log, and nothing on the stream.
    """

    def __init__(self, stream: TextIO, *, line_seconds: float = LINE_SECONDS, log_format: LogFormat = "text") -> None:
        self._face: _Face
        if log_format == "json":
            self._face = _Events(line_seconds=line_seconds)
        else:
            self._face = _Bar(stream) if stream.isatty() else _Lines(stream, line_seconds=line_seconds)
        self._pace = Pace()

    def __enter__(self) -> Self:
        self._face.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._face.stop()

    def report(self, progress: "Progress") -> None:
        """Take in where the run is, and show it when it is time to."""
        self._pace.observe(progress)
        if progress.message:
            self._face.say(progress.message)
        self._face.show(progress, self._pace)


class _NowAndThen(ABC):
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


class _Lines(_NowAndThen):
    """Lines on a stream."""

    def __init__(self, stream: TextIO, *, line_seconds: float) -> None:
        super().__init__(line_seconds=line_seconds)
        self._stream = stream

    def say(self, message: str) -> None:
        print(message, file=self._stream, flush=True)

    def say_progress(self, progress: "Progress", pace: Pace, *, waited_seconds: float) -> None:
        print(progress_line(progress, pace, waited_seconds=waited_seconds), file=self._stream, flush=True)


class _Events(_NowAndThen):
    """Events of the log."""

    def say(self, message: str) -> None:
        _log.info("%s", message)

    def say_progress(self, progress: "Progress", pace: Pace, *, waited_seconds: float) -> None:
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


class _Bar:
    """A bar over the hours of audio, refreshed by rich."""

    def __init__(self, stream: TextIO) -> None:
        self._bar = RichProgress(
            SpinnerColumn(),
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[facts]}", style="dim", markup=False, table_column=Column(no_wrap=True)),
            console=Console(file=stream),
            transient=True,
            expand=True,
        )
        self._task = self._bar.add_task("starting", total=None, facts="")

    def start(self) -> None:
        self._bar.start()

    def show(self, progress: "Progress", pace: Pace) -> None:
        if progress.units == 0:
            self._bar.update(self._task, description="planning")
            return
        facts = [f"{progress.units_committed}/{count_text(progress.units, 'unit')}"]
        facts += [count_text(progress.rejects, "reject")] if progress.rejects else []
        facts += [] if pace.speed is None else [speed_text(pace.speed)]
        facts += [] if pace.eta_seconds is None else [f"{span_text(pace.eta_seconds)} left"]
        self._bar.update(
            self._task,
            description=f"{audio_text(progress.hours_done)} of {audio_text(progress.hours_total)}",
            completed=progress.hours_done,
            total=progress.hours_total or None,
            facts=" · ".join(facts),
        )

    def say(self, message: str) -> None:
        self._bar.console.print(message, markup=False, highlight=False, soft_wrap=True)

    def stop(self) -> None:
        self._bar.stop()
