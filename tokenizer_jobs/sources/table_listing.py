"""The items of tables, from their footers and from the columns beside the audio: the audio itself is not read.

footers of all files ──▶ one set of user columns ──▶ columns of all files, batch by batch ──▶ ItemTable
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.item_columns import item_schema
from tokenizer_jobs.item_table import ItemTable
from tokenizer_jobs.sources.header import estimate_seconds
from tokenizer_jobs.sources.listing import Listing
from tokenizer_jobs.sources.roots import extension_of
from tokenizer_jobs.sources.table_columns import (
    AudioColumn,
    AudioShape,
    ColumnChoice,
    find_audio_column,
    unify_columns,
)
from tokenizer_jobs.sources.tables import PLAN_BLOCK_BYTES, TABLE_ERRORS, RowGroup, Table, open_table
from tokenizer_jobs.storage import public_uri

__all__ = ["FoundAudio", "TableFile", "list_tables"]

OPENED_AT_ONCE = 8
TASK_ROWS = 1 << 16
"""Rows that are read by one task: so many of the user columns may wait in memory, `OPENED_AT_ONCE` times."""
MOST_NAMED = 3
PATH_SECONDS = 10.0
"""What a file is taken to last of which only the path is known, and no `duration`: a look at each costs a request."""
LEAST_BYTES = 200
"""Of audio in a row; where there are fewer, structs of bytes and path hold paths alone."""
_DURATIONS = ("duration", "duration_seconds", "duration_s", "seconds")
_PLAUSIBLE_BYTES_PER_SECOND = (200.0, 2e6)
"""From speech codecs to many channels of 32 bits; a `duration` in milliseconds is far outside."""

T = TypeVar("T")
Task = TypeVar("Task")


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFile:
    """One file of rows."""

    location: str
    """What opens it. Never stored."""
    uri: str
    """What is stored of that."""
    etag: str | None
    id_prefix: str
    """What stands before the number of a row in its id."""
    is_arrow: bool = False
    split: str | None = None
    """Where set: rows are counted through all files of it, and it is a column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundAudio:
    """An audio file that a row names."""

    id: str
    uri: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    """What the footer of a file says."""

    file: TableFile
    audio: AudioColumn
    duration: str | None
    """The column of how long rows last."""
    passed: pa.Schema
    left_out: tuple[str, ...]
    groups: tuple[RowGroup, ...]
    group_bytes: tuple[int, ...]
    extension: str
    """Of the path inside the first row; without one that of 16-bit WAV."""
    first_row: int = 0
    """Number of its first row in its split."""

    @property
    def num_rows(self) -> int:
        return sum(group.num_rows for group in self.groups)


def list_tables(
    files: Iterable[TableFile],
    *,
    choice: ColumnChoice,
    name_audio: Callable[[str, TableFile], FoundAudio],
    skipped: Counter[str],
) -> Listing:
    """List the rows of tables as items.

    Args:
        files: The tables, in the order in which rows of a split are counted.
        choice: Which columns are what.
        name_audio: Id and URI of the audio file that a row's path leads to.
        skipped: What was skipped before.

    Raises:
        ConfigError: a file is damaged, or has no audio column, or there is no row at all.
        TransientError: the storage failed.
    """
    with ThreadPoolExecutor(OPENED_AT_ONCE, thread_name_prefix="tables") as pool:
        opened = _number(_whole(_ahead(pool, lambda file: _look(file, choice), files)))
        if not any(table.num_rows for table in opened):
            raise ConfigError("selection.source holds no row: all of its tables are empty")
        user_schema = unify_columns(table.passed for table in opened)
        adds_split = any(table.file.split is not None for table in opened) and (
            "split" not in user_schema.names if choice.columns is None else "split" in choice.columns
        )
        if adds_split and "split" not in user_schema.names:
            user_schema = user_schema.append(pa.field("split", pa.string()))
        for table in opened:
            for name in table.left_out:
                skipped[f"column {name!r}, a second one of files: not passed on unless named in columns"] += (
                    table.num_rows
                )
        rows = _RowItems(choice=choice, user_schema=user_schema, name_audio=name_audio, adds_split=adds_split)
        batches = (batch for found in _ahead(pool, rows.of_groups, _tasks(opened)) for batch in found)
        items = ItemTable.sort(batches, schema=rows.schema)
    return Listing(items=items, skipped=dict(skipped), user_schema=user_schema)


def _look(file: TableFile, choice: ColumnChoice) -> "_Opened | _Damaged":
    """Read the footer of a table, and the path inside its first row."""
    where = public_uri(file.location)
    try:
        table = open_table(file.location, is_arrow=file.is_arrow, block_bytes=PLAN_BLOCK_BYTES)
        try:
            audio = find_audio_column(table.schema, name=choice.audio_column, where=where)
            passed, left_out = choice.passed(table.schema, audio=audio, where=where)
            return _Opened(
                file=file,
                audio=audio,
                duration=_duration_column(table.schema),
                passed=passed,
                left_out=left_out,
                groups=tuple(table.groups),
                group_bytes=tuple(table.group_bytes(group, audio=audio) for group in table.groups),
                extension=_first_extension(table, audio),
            )
        finally:
            table.close()
    except TABLE_ERRORS as error:
        return _Damaged(f"{where} ({error})")


class _Damaged(str):
    """A table that cannot be read, and why."""

    __slots__ = ()


def _whole(looked: Iterable[_Opened | _Damaged]) -> list[_Opened]:
    opened, damaged = list[_Opened](), list[_Damaged]()
    for table in looked:
        if isinstance(table, _Damaged):
            damaged.append(table)
        else:
            opened.append(table)
    if damaged:
        more = f" and {len(damaged) - MOST_NAMED} more" if len(damaged) > MOST_NAMED else ""
        raise ConfigError(
            f"selection.source: {len(damaged)} of {len(damaged) + len(opened)} tables cannot be read: "
            f"{'; '.join(damaged[:MOST_NAMED])}{more}; mend them, or move them out of the source: "
            "how many rows they hold is not known, so they are not skipped"
        )
    return opened


def _first_extension(table: Table, audio: AudioColumn) -> str:
    group = next((group for group in table.groups if group.num_rows), None)
    if not audio.has_path or group is None:
        return "wav"
    batch = next(table.read([f"{audio.name}.path"], group=group))
    path = batch.column(0).field(0)[0].as_py() if batch.num_rows else None
    return extension_of(path or "") or "wav"


def _duration_column(schema: pa.Schema) -> str | None:
    kinds = {field.name: field.type for field in schema}
    numbers = (pa.types.is_floating, pa.types.is_integer)
    return next((name for name in _DURATIONS if name in kinds and any(test(kinds[name]) for test in numbers)), None)


def _number(tables: Iterable[_Opened]) -> list[_Opened]:
    """Count the rows of each split through its files."""
    first_rows = Counter[str]()
    numbered = []
    for table in tables:
        split = table.file.split
        if split is not None:
            numbered.append(replace(table, first_row=first_rows[split]))
            first_rows[split] += table.num_rows
        else:
            numbered.append(table)
    return numbered


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """Groups of a table that are read together."""

    table: _Opened
    groups: tuple[RowGroup, ...]


def _tasks(tables: Iterable[_Opened]) -> Iterator[_Task]:
    for table in tables:
        waiting, num_rows = list[RowGroup](), 0
        for group in table.groups:
            if waiting and num_rows + group.num_rows > TASK_ROWS:
                yield _Task(table=table, groups=tuple(waiting))
                waiting, num_rows = [], 0
            waiting.append(group)
            num_rows += group.num_rows
        if num_rows:
            yield _Task(table=table, groups=tuple(waiting))


@dataclass(frozen=True, slots=True, kw_only=True)
class _RowItems:
    """Makes items of rows, as columns."""

    choice: ColumnChoice
    user_schema: pa.Schema
    name_audio: Callable[[str, TableFile], FoundAudio]
    adds_split: bool

    @property
    def schema(self) -> pa.Schema:
        return item_schema(self.user_schema)

    def of_groups(self, task: _Task) -> list[pa.RecordBatch]:
        """The items of some groups of a table."""
        table = task.table
        names = self._needed(table)
        if not names:
            counts = ((group, group.first_row, group.num_rows) for group in task.groups)
            return [self._batch(table, group, first, count, None) for group, first, count in counts]
        batches = []
        file = table.file
        opened = open_table(file.location, is_arrow=file.is_arrow, block_bytes=PLAN_BLOCK_BYTES)
        try:
            for group in task.groups:
                first = group.first_row
                for columns in opened.read(names, group=group):
                    columns.validate(full=True)  # text that is not UTF-8 would fail far from here
                    batches.append(self._batch(table, group, first, columns.num_rows, columns))
                    first += columns.num_rows
        except TABLE_ERRORS as error:
            raise ConfigError(
                f"{public_uri(file.location)}: columns beside the audio cannot be read ({error}); mend the file, or "
                "move it out of the source"
            ) from error
        finally:
            opened.close()
        return batches

    def _needed(self, table: _Opened) -> list[str]:
        wanted = list(table.passed.names)
        if self.choice.id_column is not None:
            wanted.append(self.choice.id_column)
        if table.audio.shape is AudioShape.PATH:
            wanted.append(table.audio.name)
        if table.duration is not None:
            wanted.append(table.duration)
        return list(dict.fromkeys(wanted))

    def _batch(
        self, table: _Opened, group: RowGroup, first: int, num_rows: int, columns: pa.RecordBatch | None
    ) -> pa.RecordBatch:
        rows = np.arange(first, first + num_rows)
        found: dict[str, Any] = {
            "id": pc.binary_join_element_wise(
                table.file.id_prefix, pa.array(rows + table.first_row).cast("string"), ""
            ),
            "source_uri": pa.repeat(table.file.uri, num_rows),
            "source_row": pa.array(rows),
            "source_etag": pa.repeat(pa.scalar(table.file.etag, pa.string()), num_rows),
            "source_group": pa.repeat(pa.scalar(group.index, pa.int64()), num_rows),
            "estimated_seconds": pa.array(_seconds(table, group, columns, num_rows)),
        }
        if columns is not None and table.audio.shape is AudioShape.PATH:
            found |= self._of_paths(columns.column(table.audio.name), found, table.file)
        if self.choice.id_column is not None and columns is not None:
            found["id"] = _own_ids(columns.column(self.choice.id_column), table.file, first, self.choice.id_column)
        arrays = [
            found[field.name].cast(field.type) if field.name in found else pa.nulls(num_rows, field.type)
            for field in item_schema()
        ]
        if len(self.user_schema):
            arrays.append(self._user_columns(table, columns, num_rows))
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    def _of_paths(self, paths: pa.Array, found: dict[str, Any], file: TableFile) -> dict[str, Any]:
        """The audio files that rows name are the items; a row that names none stays a row, and is rejected as empty."""
        values = paths.to_pylist()
        named = [self.name_audio(path, file) if path else None for path in values]
        is_named = pa.array([audio is not None for audio in named])
        ids = pa.array([audio and audio.id for audio in named], pa.string())
        uris = pa.array([audio and audio.uri for audio in named], pa.string())
        return {
            "id": pc.coalesce(ids, found["id"]),
            "source_uri": pc.coalesce(uris, found["source_uri"]),
            "source_row": pc.if_else(is_named, None, found["source_row"]),
            "source_etag": pc.if_else(is_named, None, found["source_etag"]),
            "source_group": pa.nulls(len(named), pa.int64()),
        }

    def _user_columns(self, table: _Opened, columns: pa.RecordBatch | None, num_rows: int) -> pa.Array:
        arrays = []
        for field in self.user_schema:
            if columns is not None and field.name in table.passed.names:
                arrays.append(_plain(columns.column(field.name), field, table.file))
            elif field.name == "split" and self.adds_split:
                arrays.append(pa.repeat(pa.scalar(table.file.split, pa.string()), num_rows))
            else:
                arrays.append(pa.nulls(num_rows, field.type))
        return pa.StructArray.from_arrays(arrays, fields=list(self.user_schema))


def _plain(column: pa.Array, field: pa.Field, file: TableFile) -> pa.Array:
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    try:
        return column.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ConfigError(
            f"{public_uri(file.location)}: column {field.name!r} of {column.type} cannot be passed through as "
            f"{field.type} ({error}); leave it out by selection.source.columns"
        ) from error


def _own_ids(column: pa.Array, file: TableFile, first: int, name: str) -> pa.Array:
    ids = _plain(column, pa.field(name, pa.string()), file)
    if ids.null_count:
        row = first + int(np.flatnonzero(ids.is_null().to_numpy(zero_copy_only=False))[0])
        raise ConfigError(
            f"selection.source.id_column = {name!r}: row {row} of {public_uri(file.location)} has none; every row "
            "needs one, or leave the key out for ids made from the place of each row"
        )
    return ids


def _seconds(table: _Opened, group: RowGroup, columns: pa.RecordBatch | None, num_rows: int) -> npt.NDArray[np.float64]:
    """Seconds of each row: its `duration` where that is plausible, else the mean of its group by the bytes."""
    mean_bytes = table.group_bytes[group.index] / max(1, group.num_rows)
    is_path = table.audio.shape is AudioShape.PATH or (table.audio.has_path and mean_bytes < LEAST_BYTES)
    mean = PATH_SECONDS if is_path else estimate_seconds(round(mean_bytes), extension=table.extension)
    if table.duration is None or columns is None:
        return np.full(num_rows, mean)
    column = columns.column(table.duration).cast(pa.float64(), safe=False)
    given: npt.NDArray[np.float64] = column.to_numpy(zero_copy_only=False)
    is_known = np.isfinite(given) & (given >= 0)
    total = float(given[is_known].sum())
    least, most = _PLAUSIBLE_BYTES_PER_SECOND
    if not is_path and not least * total <= mean_bytes * int(is_known.sum()) <= most * total:
        return np.full(num_rows, mean)
    return np.where(is_known, given, mean)


def _ahead(pool: ThreadPoolExecutor, do: Callable[[Task], T], tasks: Iterable[Task]) -> Iterator[T]:
    """Do tasks in order, no more than `OPENED_AT_ONCE` of them before they are asked for."""
    waiting = deque[Any]()
    try:
        for task in tasks:
            if len(waiting) == OPENED_AT_ONCE:
                yield waiting.popleft().result()
            waiting.append(pool.submit(do, task))
        while waiting:
            yield waiting.popleft().result()
    finally:
        for undone in waiting:
            undone.cancel()
