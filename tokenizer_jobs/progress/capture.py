"""What anybody writes to stdout and stderr while a view holds the terminal: Ray, C libraries, bars of downloads.

    fd 1, fd 2 ──▶ pipe ──▶ lines, one by one        the view writes to a descriptor of its own

Only descriptors that are the view's terminal are taken; one that goes to a file stays as it is.
"""

import faulthandler
import os
import select
import sys
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import TextIO

__all__ = ["CapturedOutput"]

_CHUNK = 1 << 16


class CapturedOutput:
    """Takes what is written to the terminal by others; entering it gives the terminal.

    Args:
        stream: Whose descriptor is a terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._stack = ExitStack()
        self._pipe = -1
        self._pending = b""

    def __enter__(self) -> TextIO:
        self._stream.flush()
        with ExitStack() as stack:
            encoding, own = self._stream.encoding, os.dup(self._stream.fileno())
            terminal = os.fdopen(own, "w", encoding=encoding, errors="backslashreplace")
            stack.callback(_close, terminal)
            self._pipe, into = os.pipe()
            stack.callback(os.close, self._pipe)
            # Open all the while: where no descriptor is taken, a pipe without a writer would never let anybody wait.
            stack.callback(os.close, into)
            os.set_blocking(self._pipe, False)
            for number in _same_terminal(self._stream.fileno()):
                before = os.dup(number)
                os.dup2(into, number)
                stack.callback(_put_back, before, number)
            # A crash would leave its last words in the pipe.
            if not faulthandler.is_enabled():
                faulthandler.enable(terminal)
                stack.callback(faulthandler.disable)
            self._stack = stack.pop_all()
        return terminal

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def wait(self, seconds: float) -> None:
        """Wait until something is written, or the time is over."""
        select.select([self._pipe], [], [], seconds)

    def lines(self) -> list[str]:
        """The lines that were ended since the last look."""
        with suppress(BlockingIOError):
            while chunk := os.read(self._pipe, _CHUNK):
                self._pending += chunk
        *ended, self._pending = self._pending.split(b"\n")
        return [_last_state(line) for line in ended]

    def last_words(self) -> list[str]:
        """What is left, once nothing more is to come."""
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        return [*self.lines(), *filter(None, [self.unfinished])]

    @property
    def unfinished(self) -> str:
        """What was written since the last line ended; of a bar that draws itself over again, its last state."""
        return _last_state(self._pending.rstrip(b"\r"))


def _same_terminal(number: int) -> list[int]:
    """Which of stdout and stderr are that terminal."""
    terminal = os.fstat(number)
    found = []
    for other in (1, 2):
        with suppress(OSError):  # closed
            facts = os.fstat(other)
            if (facts.st_dev, facts.st_ino) == (terminal.st_dev, terminal.st_ino):
                found.append(other)
    return found


def _close(terminal: TextIO) -> None:
    with suppress(OSError):  # what was not written to a terminal that is gone
        terminal.close()


def _put_back(before: int, number: int) -> None:
    os.dup2(before, number)
    os.close(before)


def _last_state(line: bytes) -> str:
    """What a terminal would show of a line: after a carriage return it is written over; control characters are none."""
    text = line.rstrip(b"\r").rpartition(b"\r")[2].decode("utf-8", "replace")
    return "".join(character for character in text if character.isprintable() or character == "\t")
