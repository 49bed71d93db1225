"""The one who is told where a run is, and shows it as the stream allows."""

from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TextIO

from tokenizer_jobs.logs import LogFormat
from tokenizer_jobs.progress.lines import LINE_SECONDS, Events, Lines, can_redraw
from tokenizer_jobs.progress.speed import Pace

if TYPE_CHECKING:
    from tokenizer_jobs.results import Progress

__all__ = ["ProgressDisplay"]


class _Face(Protocol):
    """One way of showing progress."""

    def start(self) -> None: ...

    def show(self, progress: "Progress", pace: Pace) -> None: ...

    def say(self, message: str) -> None: ...

    def stop(self) -> None: ...


class ProgressDisplay:
    """Shows progress while entered; give `report` to `run`.

    Args:
        stream: Where to; a terminal gets a live view, anything else lines.
        line_seconds: Time between two lines.
        log_format: json: events `progress` and `message` of the log, and nothing on the stream.
    """

    def __init__(self, stream: TextIO, *, line_seconds: float = LINE_SECONDS, log_format: LogFormat = "text") -> None:
        self._face = _face(stream, line_seconds=line_seconds, log_format=log_format)
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
        self._face.show(progress, self._pace)
        if progress.message:
            self._face.say(progress.message)


def _face(stream: TextIO, *, line_seconds: float, log_format: LogFormat) -> _Face:
    if log_format == "json":
        return Events(line_seconds=line_seconds)
    if not can_redraw(stream):
        return Lines(stream, line_seconds=line_seconds)
    from tokenizer_jobs.progress.terminal import LiveView  # rich takes a tenth of a second to import

    return LiveView(stream)
