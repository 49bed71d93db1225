"""Tables of a source, opened so that rows can be read one after the other without ever holding a whole column.

What bounds memory. Of Parquet the largest page of the audio column, once as stored and once decompressed: `datasets`
from 4.0 on writes pages of about a megabyte; other writers put up to 1,024 rows into one, or all of a row group. Of
Arrow one record batch; local files are mapped, and cost no memory of the process.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from tokenizer_jobs.parquet import open_parquet
from tokenizer_jobs.sources.tables.columns import AudioColumn, AudioShape
from tokenizer_jobs.storage import local_path, open_source, public_uri
from tokenizer_jobs.storage.faults import local_read_faults
from tokenizer_jobs.storage.remote_files import RemoteFile

__all__ = ["ARROW_EXTENSIONS", "PARQUET_EXTENSIONS", "TABLE_ERRORS", "RowGroup", "Table", "is_damage", "open_table"]

PARQUET_EXTENSIONS = frozenset({"parquet", "pq", "parq"})
ARROW_EXTENSIONS = frozenset({"arrow", "feather"})

TABLE_ERRORS = (pa.ArrowException, UnicodeDecodeError, OSError)
"""What reading a table raises: of damage, see `is_damage`, or as the storage says."""

BUFFER_BYTES = 1 << 20
"""Of a column that are read at once."""
PLAN_BLOCK_BYTES, READ_BLOCK_BYTES = 1 << 18, 8 << 20
"""How far a remote file is read ahead: little while only some of it is wanted, some requests' worth for its audio."""
BATCH_BYTES = 8 << 20
"""Of audio that are taken out of pages at once."""
LARGEST_BATCH_ROWS = 1024
PLAN_BATCH_ROWS = 1 << 14


@dataclass(frozen=True, slots=True, kw_only=True)
class RowGroup:
    """Rows of a table that are stored together: a row group of Parquet, a record batch of Arrow."""

    index: int
    first_row: int
    num_rows: int


class Table(Protocol):
    """A table that is open. One thread at a time may use it."""

    schema: pa.Schema
    groups: Sequence[RowGroup]

    def group_bytes(self, group: RowGroup, *, audio: AudioColumn) -> int:
        """Bytes of the audio column in a group, decompressed; an estimate."""

    def read(self, columns: Sequence[str], *, group: RowGroup) -> Iterator[pa.RecordBatch]:
        """Some columns of a group; names of fields inside a struct are written `struct.field`."""

    def clips(self, group: RowGroup, *, audio: AudioColumn) -> Iterator[pa.Array]:
        """The audio column of a group, a few rows at a time."""

    def close(self) -> None:
        """Close the file."""


def is_damage(error: BaseException) -> bool:
    """Whether one of `TABLE_ERRORS` is about what is in the table: Arrow's own OS errors have a text alone."""
    return not isinstance(error, OSError) or (type(error) is OSError and error.errno is None)


def open_table(location: str, *, is_arrow: bool, block_bytes: int = READ_BLOCK_BYTES) -> Table:
    """Open a table.

    Args:
        location: Local path or URL.
        is_arrow: Whether it is Arrow IPC, a stream or a file, rather than Parquet.
        block_bytes: How far a remote file is read ahead.

    Raises:
        FileNotFoundError, PermissionError, OSError: as the storage says.
        TransientError: the storage failed.
        pa.ArrowException, UnicodeDecodeError: it is no such table; see `is_damage`.
    """
    file = _open_file(location, is_mapped=is_arrow, block_bytes=block_bytes)
    try:
        return _ArrowTable(file) if is_arrow else _ParquetTable(file)
    except BaseException:
        file.close()
        raise


def _open_file(location: str, *, is_mapped: bool, block_bytes: int) -> Any:
    path = local_path(location)
    if path is None:
        remote = open_source(location, block_bytes=block_bytes)
        return pa.PythonFile(RemoteFile(remote, public_uri(location)), mode="r")
    with local_read_faults(str(path)):
        open_source(location).close()  # refuses what is no regular file, and says what is wrong with an errno
        return pa.memory_map(str(path)) if is_mapped and path.stat().st_size else pa.OSFile(str(path))


class _ParquetTable:
    """A Parquet file."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._parquet = open_parquet(file, buffer_bytes=BUFFER_BYTES)
        self.schema: pa.Schema = self._parquet.schema_arrow
        metadata = self._parquet.metadata
        counts = [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
        self.groups: Sequence[RowGroup] = _groups(counts)

    def group_bytes(self, group: RowGroup, *, audio: AudioColumn) -> int:
        """See `Table`."""
        facts = self._parquet.metadata.row_group(group.index)
        columns = (facts.column(place) for place in range(facts.num_columns))
        return sum(
            int(column.total_uncompressed_size)
            for column in columns
            if column.path_in_schema == audio.name or column.path_in_schema.startswith(f"{audio.name}.")
        )

    def read(self, columns: Sequence[str], *, group: RowGroup) -> Iterator[pa.RecordBatch]:
        """See `Table`."""
        return self._batches(columns, group, num_rows=PLAN_BATCH_ROWS)

    def clips(self, group: RowGroup, *, audio: AudioColumn) -> Iterator[pa.Array]:
        """See `Table`."""
        mean = self.group_bytes(group, audio=audio) // max(1, group.num_rows)
        num_rows = min(max(1, BATCH_BYTES // max(1, mean)), LARGEST_BATCH_ROWS)
        for batch in self._batches(_leaves(audio), group, num_rows=num_rows):
            yield batch.column(0)

    def _batches(self, columns: Sequence[str], group: RowGroup, *, num_rows: int) -> Iterator[pa.RecordBatch]:
        found: Iterator[pa.RecordBatch] = self._parquet.iter_batches(
            num_rows, row_groups=[group.index], columns=list(columns), use_threads=False
        )
        return found

    def close(self) -> None:
        """See `Table`."""
        self._parquet.close()
        self._file.close()


def _leaves(audio: AudioColumn) -> list[str]:
    if audio.shape is AudioShape.FILE:
        return [f"{audio.name}.bytes", *([f"{audio.name}.path"] if audio.has_path else [])]
    return [audio.name]


_MAGIC = b"ARROW1\0\0"
_CONTINUATION = b"\xff\xff\xff\xff"
_SCHEMA, _DICTIONARY_BATCH, _RECORD_BATCH = 1, 2, 3


class _ArrowTable:
    """Arrow IPC, as a stream or as a file, which is a stream between two marks.

    The stream has no index: its messages are walked over once, and of each only the head is read.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        start = len(_MAGIC) if file.read(len(_MAGIC)) == _MAGIC else 0
        head = _read_head(file, start)
        if head is None or head.kind != _SCHEMA:  # read_schema of another message ends the process (pyarrow 26.0.1)
            raise pa.ArrowInvalid("no Arrow IPC stream: it does not begin with a schema")
        file.seek(start)
        self.schema: pa.Schema = pa.ipc.read_schema(pa.ipc.read_message(file.read_buffer(head.end - start)))
        self._heads = list[_Head]()
        while (head := _read_head(file, head.end)) is not None:
            if head.kind == _DICTIONARY_BATCH:
                raise pa.ArrowNotImplementedError("Arrow IPC with dictionaries is not read; write it as Parquet")
            if head.kind == _RECORD_BATCH:
                self._heads.append(head)
        self.groups: Sequence[RowGroup] = _groups([head.num_rows for head in self._heads])

    def group_bytes(self, group: RowGroup, *, audio: AudioColumn) -> int:  # noqa: ARG002  # the audio is most of it
        """See `Table`."""
        head = self._heads[group.index]
        return head.end - head.start

    def read(self, columns: Sequence[str], *, group: RowGroup) -> Iterator[pa.RecordBatch]:
        """See `Table`."""
        batch = self._batch(group)
        arrays = [_picked(batch, name) for name in columns]
        yield pa.RecordBatch.from_arrays(arrays, names=[name.split(".")[0] for name in columns])

    def clips(self, group: RowGroup, *, audio: AudioColumn) -> Iterator[pa.Array]:
        """See `Table`."""
        column = self._batch(group).column(audio.name)
        column.validate(full=True)  # offsets beyond the end would be read as they are
        yield column

    def _batch(self, group: RowGroup) -> pa.RecordBatch:
        head = self._heads[group.index]
        self._file.seek(head.start)
        content = self._file.read_buffer(head.end - head.start)
        return pa.ipc.read_record_batch(pa.ipc.read_message(content), self.schema)

    def close(self) -> None:
        """See `Table`."""
        self._file.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    """What the head of an IPC message says."""

    kind: int
    num_rows: int
    start: int
    end: int
    """Where the next message begins."""


def _read_head(file: Any, start: int) -> _Head | None:
    """The message that begins at a place; None at the end of the stream.

    Each is a length, a flatbuffer `Message` (0 version, 1 kind of header, 2 header, 3 length of the body) and a body:
    arrow.apache.org/docs/format/Columnar.html, "Encapsulated message format".
    """
    file.seek(start)
    mark = file.read(8)
    if not mark:
        return None
    if len(mark) < 8:
        raise pa.ArrowInvalid(f"the Arrow stream is cut off at byte {start}")
    skipped, size = (8, mark[4:]) if mark[:4] == _CONTINUATION else (4, mark[:4])  # before Arrow 0.15 without a mark
    (length,) = struct.unpack("<i", size)
    if length == 0:
        return None
    if not 0 < length <= file.size() - start - skipped:
        raise pa.ArrowInvalid(f"the Arrow stream is cut off or damaged at byte {start}")
    file.seek(start + skipped)
    head = file.read(length)
    try:
        (message,) = struct.unpack_from("<I", head)
        kind = _field(head, message, 1, "<B")
        body = _field(head, message, 3, "<q")
        place = _place(head, message, 2)
        header = place + struct.unpack_from("<I", head, place)[0] if place else 0
        num_rows = _field(head, header, 0, "<q") if kind == _RECORD_BATCH else 0
    except struct.error as error:
        raise pa.ArrowInvalid(f"the Arrow stream is damaged at byte {start}") from error
    end = start + skipped + length + body
    if body < 0 or num_rows < 0 or file.size() < end:
        raise pa.ArrowInvalid(f"the Arrow stream is cut off or damaged: {file.size()} bytes, expected {end}")
    return _Head(kind=kind, num_rows=num_rows, start=start, end=end)


def _place(content: bytes, table: int, number: int) -> int:
    """Where a field of a flatbuffer table is; 0: it has its default."""
    (distance,) = struct.unpack_from("<i", content, table)
    (size,) = struct.unpack_from("<H", content, table - distance)
    slot = 4 + 2 * number
    if slot >= size:
        return 0
    (offset,) = struct.unpack_from("<H", content, table - distance + slot)
    return table + offset if offset else 0


def _field(content: bytes, table: int, number: int, kind: str) -> int:
    place = _place(content, table, number)
    return int(struct.unpack_from(kind, content, place)[0]) if place else 0


def _picked(batch: pa.RecordBatch, name: str) -> pa.Array:
    outer, _, inner = name.partition(".")
    if name in batch.schema.names or not inner:
        return batch.column(name)
    column = batch.column(outer)
    place = column.type.get_field_index(inner)
    child = column.flatten()[place]
    return pa.StructArray.from_arrays([child], [inner])


def _groups(counts: Sequence[int]) -> tuple[RowGroup, ...]:
    groups, first = [], 0
    for index, num_rows in enumerate(counts):
        groups.append(RowGroup(index=index, first_row=first, num_rows=num_rows))
        first += num_rows
    return tuple(groups)
