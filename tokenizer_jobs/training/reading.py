"""Row groups of shards as arrays.

Letters in shapes: K codebooks, T frames, n rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tokenizer_jobs.errors import IntegrityError
from tokenizer_jobs.parquet import open_parquet
from tokenizer_jobs.records import RowGroups
from tokenizer_jobs.storage import Storage

__all__ = ["Footer", "GroupPlace", "RowGroup", "read_columns", "read_footer", "read_group"]

Codes = npt.NDArray[np.uint16]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPlace:
    """Where a row group is; in an Arrow file a record batch is one."""

    path: str
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Footer:
    """What a shard says before its rows are read."""

    schema: pa.Schema
    """With its metadata."""
    row_groups: RowGroups


@dataclass(frozen=True, slots=True, kw_only=True)
class RowGroup:
    """The rows of one row group."""

    values: Codes
    """Codes of all rows, one [K, T] after the other."""
    starts: npt.NDArray[np.int64]
    """[n] where each row's codes begin."""
    num_codebooks: npt.NDArray[np.int64]
    """[n]"""
    num_frames: npt.NDArray[np.int64]
    """[n]"""
    table: pa.Table
    """The other columns that were asked for."""

    def codes(self, place: int) -> Codes:
        """[K, T] of one row, as a view."""
        num_codebooks, num_frames = int(self.num_codebooks[place]), int(self.num_frames[place])
        start = int(self.starts[place])
        return self.values[start : start + num_codebooks * num_frames].reshape(num_codebooks, num_frames)


def read_footer(storage: Storage, path: str) -> Footer:
    """Read what a shard says of its row groups.

    Raises:
        IntegrityError: it is missing or damaged.
    """
    with _opened(storage, path) as file:
        if isinstance(file, pq.ParquetFile):
            groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
            rows = tuple(group.num_rows for group in groups)
            shortest = tuple(map(_shortest, groups))
            return Footer(schema=file.schema_arrow, row_groups=RowGroups(rows=rows, shortest_frames=shortest))
        schema = file.schema
    with _opened(storage, path, columns=[schema.get_field_index("num_frames")]) as file:
        batches = [file.get_batch(number) for number in range(file.num_record_batches)]
        rows = tuple(batch.num_rows for batch in batches)
        shortest = tuple(int(batch.column(0).to_numpy().min(initial=0x7FFFFFFF)) for batch in batches)
        return Footer(schema=schema, row_groups=RowGroups(rows=rows, shortest_frames=shortest))


def read_columns(storage: Storage, place: GroupPlace, *, columns: Sequence[str]) -> pa.Table:
    """Read some columns of one row group, in this order.

    Raises:
        IntegrityError: the shard is missing or damaged.
    """
    with _opened(storage, place.path) as file:
        if isinstance(file, pq.ParquetFile):
            return file.read_row_group(place.number, columns=list(columns), use_threads=False).select(list(columns))
        indices = [file.schema.get_field_index(name) for name in columns]
    with _opened(storage, place.path, columns=indices) as file:
        return pa.Table.from_batches([file.get_batch(place.number)]).select(list(columns))


def read_group(storage: Storage, place: GroupPlace, *, columns: Sequence[str]) -> RowGroup:
    """Read the codes of one row group, and other columns beside them.

    Raises:
        IntegrityError: the shard is missing or damaged, or codebooks of one row differ in length.
    """
    table = read_columns(storage, place, columns=["codes", *columns])
    column = table.column("codes")
    codes = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    if codes.null_count:
        raise IntegrityError(f"{place.path} has a row without codes in row group {place.number}; run `verify`")
    rows = codes.offsets.to_numpy().astype(np.int64)
    ends = codes.values.offsets.to_numpy().astype(np.int64)
    num_codebooks, lengths = np.diff(rows), np.diff(ends)
    if (num_codebooks == 0).any():
        raise IntegrityError(f"{place.path} has a row without codebooks in row group {place.number}; run `verify`")
    num_frames = lengths[rows[:-1]]
    if (np.repeat(num_frames, num_codebooks) != lengths[rows[0] : rows[-1]]).any():
        raise IntegrityError(f"{place.path} has codebooks of unlike lengths in row group {place.number}; run `verify`")
    return RowGroup(
        values=codes.values.values.to_numpy(zero_copy_only=True),
        starts=ends[rows[:-1]],
        num_codebooks=num_codebooks,
        num_frames=num_frames,
        table=table.drop_columns(["codes"]),
    )


def column_lists(table: pa.Table, *, places: npt.NDArray[Any]) -> Mapping[str, list[Any]]:
    """The values of some rows as Python's own, by column."""
    return {name: table.column(name).take(pa.array(places)).to_pylist() for name in table.column_names}


def _shortest(group: Any) -> int:
    for index in range(group.num_columns):
        column = group.column(index)
        if column.path_in_schema == "num_frames":
            statistics = column.statistics
            return int(statistics.min) if statistics is not None and statistics.has_min_max else 0
    return 0


@contextmanager
def _opened(storage: Storage, path: str, *, columns: Sequence[int] | None = None) -> Iterator[Any]:
    """A shard of either format.

    Args:
        storage: The output.
        path: The shard.
        columns: Of an Arrow file, which to read.
    """
    try:
        with storage.open_file(path) as raw:
            if path.endswith(".arrow"):
                options = pa.ipc.IpcReadOptions(included_fields=list(columns or ()), use_threads=False)
                with pa.ipc.open_file(raw, options=options) as file:
                    yield file
            else:
                with open_parquet(raw) as file:
                    yield file
    except FileNotFoundError as error:
        raise IntegrityError(
            f"{path} is not in {storage.name!r}, although its snapshot lists it: it was dropped or replaced since; "
            "open the newest snapshot, or restore the file"
        ) from error
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the system, not of the file's content
        raise IntegrityError(f"{path} is damaged ({error}); run `verify`, or restore it from a copy") from error
