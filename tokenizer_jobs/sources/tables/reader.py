"""The audio of single rows, read forwards: neighbours in plan order are neighbours in a table.

A reader stands somewhere in a row group and hands out what comes next. Going back, or to another group, needs a reader
of its own: some are kept, one for each thread that reads its own unit.
"""

import threading
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from tokenizer_jobs.errors import ItemError, RejectReason, Stage
from tokenizer_jobs.records import Item
from tokenizer_jobs.sources.tables.columns import AudioColumn, clip_bytes, find_audio_column
from tokenizer_jobs.sources.tables.opened import TABLE_ERRORS, RowGroup, Table, is_damage, open_table
from tokenizer_jobs.storage import local_path, public_uri, stat_source

__all__ = ["RowReaders"]

KEPT_READERS = 4
"""Each holds a file open and what bounds `tables`."""


class RowReaders:
    """The rows of a source's tables, for any number of threads.

    Args:
        audio_column: Of the job.
    """

    def __init__(self, *, audio_column: str | None) -> None:
        self._audio_column = audio_column
        self._lock = threading.Lock()
        self._waiting: list[_Reader] = []
        self._damaged: dict[tuple[str, str | None], list[tuple[range, str]]] = {}

    def read(self, item: Item, *, location: str, is_arrow: bool) -> bytes | str | None:
        """The bytes of a row's audio, else the path that stands in for them, else None.

        Args:
            item: Its `source_row` is the row.
            location: What opens the table.
            is_arrow: Whether it is Arrow IPC rather than Parquet.

        Raises:
            ItemError: the table is not the one that was planned, or damaged.
            FileNotFoundError, PermissionError, OSError: as the storage says.
            TransientError: the storage failed.
        """
        row = item.source_row or 0
        is_local = local_path(location) is not None
        # A look at a local file is cheap, and so each time; elsewhere it is a request, and made once for a reader.
        version = stat_source(location).etag if is_local else item.source_etag
        _refuse_changed(item, version)
        for rows, message in self._damaged.get((location, version), ()):
            if row in rows:
                raise _damage(location, row, message)
        reader = self._take(location, version, row)
        if reader is None and not is_local:
            _refuse_changed(item, stat_source(location).etag)
        try:
            if reader is None:
                reader = _Reader(location, version, row=row, is_arrow=is_arrow, audio_column=self._audio_column)
            found = clip_bytes(reader.read(row), audio=reader.audio)
        except TABLE_ERRORS as error:
            unread = range(0) if reader is None else reader.unread
            if reader is not None:
                reader.close()
            if not is_damage(error):
                raise
            # What follows in the group is out of reach: do not read up to there for each row.
            self._damaged.setdefault((location, version), []).append((unread, str(error)))
            raise _damage(location, row, str(error)) from error
        except BaseException:
            if reader is not None:
                reader.close()
            raise
        self._give_back(reader)
        return found

    def _take(self, location: str, version: str | None, row: int) -> "_Reader | None":
        """The waiting reader that is nearest before a row; readers of an older version of the file are closed."""
        with self._lock:
            stale = [reader for reader in self._waiting if reader.location == location and reader.version != version]
            self._waiting = [reader for reader in self._waiting if reader not in stale]
            fitting = [reader for reader in self._waiting if reader.location == location and reader.is_before(row)]
            chosen = max(fitting, key=lambda reader: reader.next_row, default=None)
            if chosen is not None:
                self._waiting.remove(chosen)
        for reader in stale:
            reader.close()
        return chosen

    def _give_back(self, reader: "_Reader") -> None:
        with self._lock:
            self._waiting.append(reader)
            surplus = self._waiting[:-KEPT_READERS]
            self._waiting = self._waiting[-KEPT_READERS:]
        for old in surplus:
            old.close()


def _refuse_changed(item: Item, version: str | None) -> None:
    if item.source_etag is not None and version != item.source_etag:
        raise ItemError(
            f"version {version} of {item.source_uri}, {item.source_etag} when it was planned; the item keeps what "
            "this output has, write to a new output to take the new input",
            stage=Stage.READ,
            reason=RejectReason.CHANGED,
        )


def _damage(location: str, row: int, message: str) -> ItemError:
    return ItemError(
        f"row {row} of {public_uri(location)} cannot be read: {message}", stage=Stage.READ, reason=RejectReason.CORRUPT
    )


class _Reader:
    """A place in a row group of an open table."""

    _group: RowGroup
    _batches: Iterator[pa.Array]
    """What comes after `_values`."""
    _values: pa.Array
    """Rows that were taken out together."""
    _start: int
    """The first of them."""
    next_row: int

    def __init__(
        self, location: str, version: str | None, *, row: int, is_arrow: bool, audio_column: str | None
    ) -> None:
        self.location, self.version = location, version
        self._table: Table = open_table(location, is_arrow=is_arrow)
        try:
            where = public_uri(location)
            self.audio: AudioColumn = find_audio_column(self._table.schema, name=audio_column, where=where)
            self._enter(self._group_of(row))
        except BaseException:
            self._table.close()
            raise

    def is_before(self, row: int) -> bool:
        """Whether a row is in the group and not passed yet, or in the group that comes next."""
        return self.next_row <= row < self._group.first_row + self._group.num_rows or row == self._end

    def read(self, row: int) -> Any:
        """Go forwards to a row and give it as an Arrow scalar."""
        if row == self._end:
            self._enter(self._group_of(row))
        while row >= self._start + len(self._values):
            self._start += len(self._values)
            self._values = pa.nulls(0)  # before the next ones come
            values = next(self._batches, None)
            if values is None:
                raise pa.ArrowInvalid(f"its row group ends before row {self._start}")
            self._values = values
        value = self._values[row - self._start]
        self.next_row = row + 1
        if self.next_row == self._end:  # a reader that waits holds no page of a group that is done
            self._leave()
        return value

    @property
    def unread(self) -> range:
        """Rows of the group that have not been taken out of it yet."""
        return range(self._start, self._end)

    def close(self) -> None:
        """Close the table."""
        self._leave()
        self._table.close()

    def _leave(self) -> None:
        self._start, self._values, self._batches = self._end, pa.nulls(0), iter(())

    def _enter(self, group: RowGroup) -> None:
        self._group = group
        self._batches = self._table.clips(group, audio=self.audio)
        self._values = pa.nulls(0)
        self._start = self.next_row = group.first_row

    @property
    def _end(self) -> int:
        return self._group.first_row + self._group.num_rows

    def _group_of(self, row: int) -> RowGroup:
        for group in self._table.groups:
            if group.first_row <= row < group.first_row + group.num_rows:
                return group
        num_rows = sum(group.num_rows for group in self._table.groups)
        raise ItemError(
            f"row {row} is not in {public_uri(self.location)}, which has {num_rows} rows",
            stage=Stage.READ,
            reason=RejectReason.VANISHED,
        )
