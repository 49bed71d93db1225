"""Rows of Parquet and Arrow files (IPC files and streams, as `datasets` writes them): codes, and what lies beside them.

Row groups are read one at a time, and only the columns that are wanted.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenizer_jobs.errors import ConfigError, ItemError, RejectReason, Stage
from tokenizer_jobs.parquet import open_parquet
from tokenizer_jobs.storage import open_source

__all__ = ["OpenedTable", "TableRow", "cell_array", "codes_column_of", "table_rows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRow:
    """One row without its codes."""

    number: int
    """In the file, from 0."""
    group: int
    fields: Mapping[str, Any]


def table_rows(location: str, *, codes: str | None) -> Iterator[TableRow]:
    """The rows of a file.

    Args:
        location: Local path or URL.
        codes: Column of the codes; None: the only one that can hold them.

    Raises:
        ConfigError: the file is damaged, or has no such column.
    """
    number = 0
    with OpenedTable(location) as table:
        column = codes_column_of(table.schema, codes)
        others = [field.name for field in table.schema if field.name != column and not _is_bulky(field.type)]
        for group in range(table.num_groups):
            batch = table.read(group, columns=others)
            if not others:
                batch = table.read(group, columns=[column]).select([])
            for fields in batch.to_pylist() if others else [{}] * batch.num_rows:
                yield TableRow(number=number, group=group, fields=fields)
                number += 1


def codes_column_of(schema: pa.Schema, named: str | None) -> str:
    """The column of codes.

    Raises:
        ConfigError: there is none, or more than one.
    """
    if named is not None:
        if named not in schema.names:
            raise ConfigError(f"--key {named!r} names no column; the table has {', '.join(schema.names)}")
        return named
    if "codes" in schema.names:
        return "codes"
    fitting = [field.name for field in schema if _holds_integers(field.type)]
    if len(fitting) != 1:
        raise ConfigError(
            f"the codes may be in {', '.join(map(repr, fitting)) or 'none of the columns'} of the table, which has "
            f"{', '.join(f'{field.name} ({field.type})' for field in schema)}; name the column by --key"
        )
    return str(fitting[0])


class OpenedTable:
    """One file of rows; a context manager.

    Args:
        location: Local path or URL.
    """

    def __init__(self, location: str) -> None:
        self._file: IO[bytes] = open_source(location)
        self._stream: Iterator[pa.RecordBatch] | None = None
        self._place = -1
        self._batch: pa.RecordBatch | None = None
        try:
            self._open(location)
        except (pa.ArrowException, OSError) as error:
            self._file.close()
            raise ConfigError(
                f"{location} cannot be read as a table ({error}); leave a damaged file out by a glob"
            ) from error

    def _open(self, location: str) -> None:
        self._reader: Any
        if location.partition("?")[0].lower().endswith(".parquet"):
            self._reader = open_parquet(self._file)
            self.schema: pa.Schema = self._reader.schema_arrow
            self.num_groups = int(self._reader.num_row_groups)
            self._lengths = [self._reader.metadata.row_group(group).num_rows for group in range(self.num_groups)]
            return
        try:
            self._reader = pa.ipc.open_file(self._file)
            self.num_groups = int(self._reader.num_record_batches)
            self._lengths = [self._reader.get_batch(group).num_rows for group in range(self.num_groups)]
        except pa.ArrowInvalid:  # a stream says nowhere how many batches it has
            self._file.seek(0)
            self._reader = pa.ipc.open_stream(self._file)
            self._lengths = [batch.num_rows for batch in self._reader]
            self.num_groups = len(self._lengths)
            self._restart()
        self.schema = self._reader.schema

    def _restart(self) -> None:
        self._file.seek(0)
        self._reader = pa.ipc.open_stream(self._file)
        self._stream, self._place = iter(self._reader), -1

    def __enter__(self) -> "OpenedTable":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def first_row(self, group: int) -> int:
        """Number of the first row of a group in the file."""
        return sum(self._lengths[:group])

    def read(self, group: int, *, columns: list[str]) -> pa.RecordBatch:
        """One row group, or record batch.

        Raises:
            pa.ArrowException, OSError: it is damaged.
        """
        if self._stream is not None:
            if group < self._place:
                self._restart()
            while self._place < group:
                self._batch, self._place = next(self._stream), self._place + 1
            assert self._batch is not None
            return self._batch.select(columns)
        if isinstance(self._reader, pa.RecordBatchFileReader):
            return self._reader.get_batch(group).select(columns)
        table = self._reader.read_row_group(group, columns=columns, use_threads=False).select(columns)
        batches = table.combine_chunks().to_batches()
        return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)


def cell_array(cell: pa.Scalar) -> npt.NDArray[Any]:
    """One value of a column of codes as an array of one axis or two.

    Raises:
        ItemError: it is null, ragged, or no list of numbers.
    """
    if not cell.is_valid:
        raise _bad("its codes are null", RejectReason.EMPTY)
    if isinstance(cell, pa.ExtensionScalar):
        cell = cell.value
    values = getattr(cell, "values", None)
    if values is None:
        raise _bad(f"its codes are of type {cell.type}, expected a list of numbers, or of lists of them")
    if not _is_list(values.type):
        return _numbers(values)
    lengths = {len(each.values) if each.is_valid else -1 for each in values}
    if len(lengths) > 1:
        raise _bad(f"its codes are ragged: lists of {', '.join(map(str, sorted(lengths)[:5]))} numbers")
    return _numbers(values.flatten()).reshape(len(values), -1) if len(values) else np.empty((0, 0), np.int64)


def _numbers(values: pa.Array) -> npt.NDArray[Any]:
    if values.null_count or _is_list(values.type):
        raise _bad("its codes hold nulls, or lists of lists of lists")
    numbers: npt.NDArray[Any] = values.to_numpy(zero_copy_only=False)
    return numbers


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _holds_integers(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    depth = 0
    while _is_list(kind):
        kind, depth = kind.value_type, depth + 1
    return depth in (1, 2) and bool(pa.types.is_integer(kind))


def _is_bulky(kind: pa.DataType) -> bool:
    """Audio, pictures and other arrays that lie beside the codes are not passed through."""
    nested = _is_list(kind) and _is_list(kind.value_type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_struct(kind) or nested)


def _bad(message: str, reason: RejectReason = RejectReason.CORRUPT) -> ItemError:
    return ItemError(message, stage=Stage.DECODE, reason=reason)
