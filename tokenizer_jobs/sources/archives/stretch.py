"""A stretch of a larger input as a file of its own, read by ranges."""

import io
from collections.abc import Callable
from typing import IO, cast

__all__ = ["open_stretch"]

SHORTEST_READ, LONGEST_READ = 1 << 15, 1 << 22
"""Bytes of one request while reads jump, and while they follow one another.

Indexing a remote archive touches a kilobyte of each member: of large members little else is read, and small ones come
many at a time, for at 50 ms a request and 100 MB/s a gap of less than 5 MB costs less to read than to skip.
"""


def open_stretch(fetch: Callable[[int, int], bytes], *, start: int, size: int) -> IO[bytes]:
    """A seekable file of `size` bytes from byte `start` of an input.

    Args:
        fetch: Gives bytes of the input from an offset on: at most as many as asked for, fewer at its end.
        start: First byte of the stretch.
        size: Its length in bytes.
    """
    return cast(IO[bytes], _Stretch(fetch, start, size))


class _Stretch(io.RawIOBase):
    def __init__(self, fetch: Callable[[int, int], bytes], start: int, size: int) -> None:
        self._fetch, self._start, self._size = fetch, start, size
        self._position = 0
        self._window, self._window_start, self._ahead = b"", 0, SHORTEST_READ

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"place {base + offset} is before the start of the file")
        self._position = base + offset
        return self._position

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]  # the buffer of a C library
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def readall(self) -> bytes:
        return self.read(-1)

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(0, self._size - self._position)
        size = left if size is None or size < 0 else min(size, left)
        if size == 0:
            return b""
        place = self._position - self._window_start
        if not 0 <= place <= place + size <= len(self._window):
            self._move_window(size, left)
            place = 0
        content = self._window[place : place + size]
        self._position += len(content)
        return content

    def _move_window(self, size: int, left: int) -> None:
        gap = self._position - (self._window_start + len(self._window))
        self._ahead = min(2 * self._ahead, LONGEST_READ) if -self._ahead <= gap <= self._ahead else SHORTEST_READ
        self._window = self._fetch(self._start + self._position, min(left, max(size, self._ahead)))
        self._window_start = self._position
