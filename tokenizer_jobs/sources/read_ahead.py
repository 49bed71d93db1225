"""Small remote files, fetched before their turn comes: one request each, many under way at once.

    expected   a  b  c  d  e  f  g  h …     in the order in which they will be opened
    fetched    ├───────────────┤            at most so many files, and so many bytes
    open(a) ▶  a's bytes; the fetch of g begins

A file whose fetch fails, in whatever way, is opened when its turn comes as if it had not been fetched: what is wrong
with it is told by the same calls, in the same words, and counts for the same item. Only time is ever won or lost.

How much is under way follows from how long fetches take. On a slow line, or at a store that slows down, many at once
would hold back the file whose turn it is, for whose item a clock runs. So fewer are begun while a fetch takes seconds;
one that is not there when its turn has come and its time is over is given up, with all others under way. Its file has
the line to itself; fewer are begun after it, and none any more where that happens again and again.
"""

import io
import time
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, wait
from itertools import islice
from types import TracebackType
from typing import IO, Self

from tokenizer_jobs.records import Item
from tokenizer_jobs.sources.listing import HasFiles, Listing, Source
from tokenizer_jobs.storage import Wanted, is_url, local_path, start_fetch

__all__ = ["ReadAhead"]

SMALL_BYTES = 8 << 20
"""The largest file that is fetched ahead; at 50 ms a request and 100 MB/s, waiting for a larger one costs little."""
AHEAD_BYTES = 64 << 20
"""Of files that were begun and not yet opened; one whose size is not known counts as the largest until it is there."""
AHEAD_FILES = 32
"""Begun and not yet opened: at 50 ms a request 640 files a second, more than a process decodes."""
MAX_IN_VAIN = 64
"""Fetches in a row that bring nothing, after which none is begun: there are stores that list other versions than they
give, or tell no sizes, where each would be a request too many."""
UNKNOWN_SECONDS = 120.0
"""The longest recording that is fetched ahead where its size is not known: longer ones are seldom small."""
FIRST_FILES = 8
"""Begun at first."""
PATIENCE_SECONDS = 10.0
"""For a fetch, from its beginning. One that took less than a quarter makes room for two more at once, one that took
more than half halves them, one that was given up leaves a quarter of them, rounded down: at last none."""


class _Expected:
    """A small remote file, to be opened in its turn."""

    def __init__(self, item: Item, location: str) -> None:
        self.item = item
        self.location = location
        self.fetch: Future[bytes | None] | None = None
        """None: not begun."""
        self._begun_at = self._ended_at = 0.0

    @property
    def most_bytes(self) -> int:
        """That fetching it can take."""
        return SMALL_BYTES if self.item.source_size is None else self.item.source_size

    @property
    def num_bytes(self) -> int:
        """Memory that it takes or may take now."""
        if self.fetch is None:
            return 0
        return len(self.content() or b"") if self.fetch.done() else self.most_bytes

    @property
    def seconds(self) -> float:
        """That the fetch took, or that it has been under way."""
        return (self._ended_at or time.monotonic()) - self._begun_at

    def begin(self) -> None:
        self._begun_at, self._ended_at = time.monotonic(), 0.0
        wanted = Wanted(size_bytes=self.item.source_size, etag=self.item.source_etag, most_bytes=self.most_bytes)
        self.fetch = start_fetch(self.location, wanted)
        self.fetch.add_done_callback(self._note_end)

    def content(self) -> bytes | None:
        """What was fetched; None where nothing was, or it is still under way."""
        if self.fetch is None or not self.fetch.done() or self.fetch.cancelled() or self.fetch.exception() is not None:
            return None
        return self.fetch.result()

    def end(self) -> None:
        """End the request, unless it is done."""
        if self.fetch is not None and self.fetch.cancel():
            self.fetch = None

    def _note_end(self, _: object) -> None:
        self._ended_at = time.monotonic()


class ReadAhead:
    """Opens the items of a source as the source does, and small remote files from memory; a context manager.

    One thread opens; the requests are made by the thread in which fsspec makes all of them.

    Args:
        source: Of the items.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._files = _with_plain_files(source)
        self._expected = deque[_Expected]()
        self._num_ahead = FIRST_FILES
        self._num_in_vain = 0
        """Files in a row of which nothing had been fetched."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        while self._expected:
            self._expected.pop().end()

    def list(self) -> Listing:
        """As the source lists."""
        return self._source.list()

    def expect(self, items: Iterable[Item]) -> None:
        """Say which items are opened next, in this order, after those that were said before."""
        if self._files is None:
            return
        for item in items:
            if _may_be_small(item) and (location := self._files.file_location(item)) is not None:
                self._expected.append(_Expected(item, location))
        self._begin()

    def open(self, item: Item) -> IO[bytes]:
        """Open an item's bytes; see `Source.open`."""
        self._begin()
        content = self._take(item)
        if content is None:
            return self._source.open(item)  # what may be begun now waits for the next call, so that this has the line
        self._begin()
        return io.BytesIO(content)

    def _take(self, item: Item) -> bytes | None:
        """The bytes of an item; None where there are none of it. Those before it were passed over."""
        if not any(expected.item is item for expected in self._expected):
            return None
        while self._expected[0].item is not item:
            self._expected.popleft().end()
        expected = self._expected[0]
        if expected.fetch is not None:
            wait((expected.fetch,), max(0.0, PATIENCE_SECONDS - expected.seconds))
            self._judge(expected.seconds, is_there=expected.fetch.done())
        content = self._expected.popleft().content()
        self._num_in_vain = self._num_in_vain + 1 if content is None else 0
        return content

    def _judge(self, seconds: float, *, is_there: bool) -> None:
        """Choose how many files are fetched at once by how long one took; give up all where one takes too long."""
        if not is_there:
            self._num_ahead //= 4
            for expected in self._expected:
                expected.end()
        elif seconds > PATIENCE_SECONDS / 2:
            self._num_ahead = max(1, self._num_ahead // 2)
        elif seconds < PATIENCE_SECONDS / 4:
            self._num_ahead = min(AHEAD_FILES, self._num_ahead + 2)

    def _begin(self) -> None:
        """Begin to fetch what comes next, as much as may be."""
        if self._num_in_vain >= MAX_IN_VAIN:
            return
        num_bytes = sum(expected.num_bytes for expected in islice(self._expected, AHEAD_FILES))
        for expected in islice(self._expected, self._num_ahead):
            if expected.fetch is None:
                if num_bytes + expected.most_bytes > AHEAD_BYTES:
                    return
                expected.begin()
                num_bytes += expected.most_bytes


def _with_plain_files(source: Source) -> HasFiles | None:
    """The source, where it opens its files as they are.

    A class that is derived from one of ours and opens in its own way, to decrypt for instance, is always asked.
    """
    opening = next((kind for kind in type(source).__mro__ if "open" in vars(kind)), type(source))
    return source if isinstance(source, HasFiles) and "file_location" in vars(opening) else None


def _may_be_small(item: Item) -> bool:
    """Whether an item may be a small file that is not on this machine."""
    if not is_url(item.source_uri) or local_path(item.source_uri) is not None:
        return False
    if item.source_size is None:
        return item.start_seconds is None and item.estimated_seconds <= UNKNOWN_SECONDS
    return 0 < item.source_size <= SMALL_BYTES
