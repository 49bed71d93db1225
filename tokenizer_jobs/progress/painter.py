"""Lines on a terminal that are drawn over again in place.

Each frame is one write: up to the first line of the last frame, then every line with what is left of its row erased,
then the rest of the screen. Nothing is erased before it is drawn, so that nothing flickers.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import TextIO

__all__ = ["Painter"]

_HIDE_CURSOR, _SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
_BEGIN_UPDATE, _END_UPDATE = "\x1b[?2026h", "\x1b[?2026l"
"""Synchronized output: terminals that know it show a frame at once, others pass over it."""
_ERASE_ROW, _ERASE_BELOW = "\x1b[K", "\x1b[J"


class Painter:
    """Draws frames, and lines above them that stay.

    Args:
        terminal: Where to.
    """

    def __init__(self, terminal: TextIO) -> None:
        self._terminal = terminal
        self._lines: Sequence[str] = ()
        self._widths: Sequence[int] = ()
        self._columns = 1

    def begin(self) -> None:
        """Take the terminal."""
        self._write(_HIDE_CURSOR)

    def say(self, line: str) -> None:
        """Write a line that stays, where the frame begins, and the frame below it."""
        self._write(f"{self._home()}{_ERASE_BELOW}{line}\n{self._frame()}")

    def paint(self, lines: Sequence[str], *, widths: Sequence[int], columns: int) -> None:
        """Draw a frame in place of the last one.

        Args:
            lines: Of the frame, without control characters but colours.
            widths: Columns that each of them takes.
            columns: Of the terminal now. One that has grown narrower has broken the last frame's lines into more rows.
        """
        self._columns = max(1, columns)
        home = self._home()
        self._lines, self._widths = lines, widths
        self._write(f"{home}{self._frame()}{_ERASE_BELOW}")

    def end(self) -> None:
        """Erase the frame, and give the terminal back."""
        self._write(f"{self._home()}{_ERASE_BELOW}{_SHOW_CURSOR}")
        self._lines = self._widths = ()

    def _home(self) -> str:
        num_rows = sum(max(1, -(-width // self._columns)) for width in self._widths)
        return f"\r\x1b[{num_rows}A" if num_rows else "\r"

    def _frame(self) -> str:
        return "".join(f"{line}{_ERASE_ROW}\n" for line in self._lines)

    def _write(self, text: str) -> None:
        with suppress(OSError):  # the terminal is gone, and the work goes on
            self._terminal.write(f"{_BEGIN_UPDATE}{text}{_END_UPDATE}")
            self._terminal.flush()
