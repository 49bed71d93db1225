"""Rows of tables as items, batch by batch: ids, places, estimates and the columns that are passed through."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.item_columns import item_schema
from tokenizer_jobs.sources.header import estimate_seconds
from tokenizer_jobs.sources.tables.columns import AudioColumn, AudioShape, ColumnChoice
from tokenizer_jobs.sources.tables.opened import PLAN_BLOCK_BYTES, TABLE_ERRORS, RowGroup, open_table
from tokenizer_jobs.storage import public_uri

__all__ = ["FoundAudio", "OpenedTable", "RowItems", "TableFile", "TableTask"]

PATH_SECONDS = 10.0
"""What a file is taken to last of which only the path is known, and no `duration`: a look at each costs a request."""
LEAST_BYTES = 200
"""Of audio in a row; where there are fewer, structs of bytes and path hold paths alone."""
_PLAUSIBLE_BYTES_PER_SECOND = (200.0, 2e6)
"""From speech codecs to many channels of 32 bits; a `duration` in milliseconds is far outside."""


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
class OpenedTable:
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
        """Of all groups."""
        return sum(group.num_rows for group in self.groups)


@dataclass(frozen=True, slots=True, kw_only=True)
class TableTask:
    """Groups of a table that are read together."""

    table: OpenedTable
    groups: tuple[RowGroup, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowItems:
    """Makes items of rows, as columns."""

    choice: ColumnChoice
    user_schema: pa.Schema
    name_audio: Callable[[str, TableFile], FoundAudio]
    adds_split: bool

    @property
    def schema(self) -> pa.Schema:
        """Of the batches."""
        return item_schema(self.user_schema)

    def of_groups(self, task: TableTask) -> list[pa.RecordBatch]:
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

    def _needed(self, table: OpenedTable) -> list[str]:
        wanted = list(table.passed.names)
        if self.choice.id_column is not None:
            wanted.append(self.choice.id_column)
        if table.audio.shape is AudioShape.PATH:
            wanted.append(table.audio.name)
        if table.duration is not None:
            wanted.append(table.duration)
        return list(dict.fromkeys(wanted))

    def _batch(
        self, table: OpenedTable, group: RowGroup, first: int, num_rows: int, columns: pa.RecordBatch | None
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
        if any(path and "://" in path and public_uri(path) != path for path in values):
            raise ConfigError(
                f"{public_uri(file.location)}: a path in it is a URL with a query or a password, which may not be "
                "stored; write it without, and let the environment grant the access"
            )
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

    def _user_columns(self, table: OpenedTable, columns: pa.RecordBatch | None, num_rows: int) -> pa.Array:
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


def _seconds(
    table: OpenedTable, group: RowGroup, columns: pa.RecordBatch | None, num_rows: int
) -> npt.NDArray[np.float64]:
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
