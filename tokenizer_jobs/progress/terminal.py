"""A live view on a terminal: drawn in place, torn by nobody, and gone without a trace when it ends."""

import os
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, TextIO

from rich.console import Console

from tokenizer_jobs.progress.capture import CapturedOutput
from tokenizer_jobs.progress.frame import Scene, frame
from tokenizer_jobs.progress.painter import Painter
from tokenizer_jobs.progress.speed import Pace

if TYPE_CHECKING:
    from tokenizer_jobs.results import Progress

__all__ = ["LiveView"]

FRAME_SECONDS = 0.25
"""Between two frames."""
UNKNOWN_SIZE = os.terminal_size((80, 24))
_PLAIN = str.maketrans({"━": "#", "─": "-", "·": "|", "×": "x", "…": "."})
"""For terminals whose encoding has no such characters."""


class LiveView:
    """Draws a frame now and then while it is started; messages, and what others write meanwhile, go above it.

    Args:
        stream: The terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._tick, name="progress", daemon=True)
        self._stack = ExitStack()
        self._terminal = stream
        self._painter = Painter(stream)
        self._captured: CapturedOutput | None = None
        self._started = time.monotonic()
        self._latest: tuple[Progress, Pace, float] | None = None

    def start(self) -> None:
        """Take the terminal.

        Raises:
            RuntimeError: no thread can be started; the terminal is as it was.
        """
        try:
            self._take()
        except BaseException:  # nobody would empty the pipe: the error itself would never be seen
            self._give_back()
            raise

    def _take(self) -> None:
        if _descriptor(self._stream) is not None:
            self._captured = CapturedOutput(self._stream)
            self._terminal = self._stack.enter_context(self._captured)
        self._painter = Painter(self._terminal)
        # It chooses colours by the terminal, and none where NO_COLOR is set.
        self._console = Console(file=self._terminal, force_terminal=True, width=10_000)
        self._painter.begin()
        self._thread.start()

    def show(self, progress: "Progress", pace: Pace) -> None:
        """Take in where the run is; the next frame shows it."""
        with self._lock:
            self._latest = (progress, pace, time.monotonic())

    def say(self, message: str) -> None:
        """Put a line above the view."""
        with self._lock:
            self._painter.say(self._spelt(message))
            if self._thread.is_alive():
                self._draw()

    def stop(self) -> None:
        """Take the view away, and give the terminal back as it was."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        self._give_back()

    def _give_back(self) -> None:
        with self._lock:
            for line in [] if self._captured is None else self._captured.last_words():
                self._painter.say(self._spelt(line))
            self._painter.end()
            self._stack.close()
            self._captured, self._terminal = None, self._stream
            self._painter = Painter(self._stream)

    def _tick(self) -> None:
        try:
            while not self._ended.is_set():
                with self._lock:
                    self._say_captured()
                    self._draw()
                if self._captured is None:
                    self._ended.wait(FRAME_SECONDS)
                else:
                    self._captured.wait(FRAME_SECONDS)
        finally:
            if not self._ended.is_set():  # a fault of ours: nobody empties the pipe any more, and writers would hang
                self._give_back()

    def _say_captured(self) -> None:
        for line in [] if self._captured is None else self._captured.lines():
            self._painter.say(self._spelt(line))

    def _draw(self) -> None:
        size = _size(self._terminal)
        lines = frame(self._scene(), columns=size.columns, rows=size.lines)
        with self._console.capture() as drawn:
            for line in lines:
                self._console.print(line, soft_wrap=True)
        text = self._spelt(drawn.get()).split("\n")[: len(lines)]
        self._painter.paint(text, widths=[line.cell_len for line in lines], columns=size.columns)

    def _scene(self) -> Scene:
        note = "" if self._captured is None else self._captured.unfinished
        if self._latest is None:
            return Scene(progress=None, elapsed_seconds=time.monotonic() - self._started, note=note)
        progress, pace, seen = self._latest
        watch = progress.watch
        recent = None if watch is None else watch.recent()
        return Scene(
            progress=progress,
            elapsed_seconds=progress.elapsed_seconds + time.monotonic() - seen,
            speed=pace.speed,
            eta_seconds=_counted_down(pace.eta_seconds, by=time.monotonic() - seen),
            encoders=None if watch is None else watch.encoders(),
            stage_shares=None if recent is None else recent.stage_shares,
            stop_seconds_left=None if watch is None else watch.stop_seconds_left,
            note=note,
        )

    def _spelt(self, text: str) -> str:
        """The text in characters that the terminal's encoding has."""
        encoding = self._terminal.encoding or "utf-8"
        try:
            text.encode(encoding)
        except UnicodeEncodeError:
            return text.translate(_PLAIN).encode(encoding, "backslashreplace").decode(encoding)
        return text


def _counted_down(seconds: float | None, *, by: float) -> float | None:
    """A time that was left, a while later."""
    return None if seconds is None else max(0.0, seconds - by)


def _descriptor(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError, AttributeError):  # a stream in memory has none
        return None


def _size(terminal: TextIO) -> os.terminal_size:
    try:
        size = os.get_terminal_size(terminal.fileno())
    except (OSError, ValueError):
        return UNKNOWN_SIZE
    return size if size.columns and size.lines else UNKNOWN_SIZE
