"""Rows of published shards and rejects, of either format, one row group at a time."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tokenizer_jobs.errors import IntegrityError
from tokenizer_jobs.parquet import open_parquet, read_row_groups
from tokenizer_jobs.records import EncodedItem
from tokenizer_jobs.shards.columns import codes_arrays
from tokenizer_jobs.storage import Storage

__all__ = ["StoredRow", "find_row", "read_batches", "read_rows", "read_schema"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRow:
    """One row of a shard."""

    id: str
    path: str
    """The shard."""
    encoded: EncodedItem
    columns: Mapping[str, Any]
    """All its columns but the codes."""


def read_schema(storage: Storage, path: str) -> pa.Schema:
    """The schema of a file, with its metadata.

    Raises:
        FileNotFoundError: there is no such file.
        IntegrityError: it is damaged.
    """
    with _opened(storage, path) as file:
        return file.schema_arrow if isinstance(file, pq.ParquetFile) else file.schema


def read_batches(storage: Storage, path: str, *, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Read a file's row groups in order; page checksums are verified.

    Args:
        storage: The output.
        path: Of a shard or of rejects.
        columns: Names to read; None reads all.

    Raises:
        FileNotFoundError: there is no such file.
        IntegrityError: it is damaged.
    """
    names = None if columns is None else list(columns)
    with _opened(storage, path) as file:
        if isinstance(file, pq.ParquetFile):
            for table in read_row_groups(file, columns=names):
                yield from table.combine_chunks().to_batches()
        else:
            for number in range(file.num_record_batches):
                batch = file.get_batch(number)
                yield batch if names is None else batch.select(names)


def find_row(storage: Storage, paths: Iterable[str], *, row_id: str) -> StoredRow | None:
    """Look for one row in shards, reading ids only until it is found; None when no shard has it."""
    for path in paths:
        for group, batch in enumerate(read_batches(storage, path, columns=["id"])):
            place = pc.index(batch.column("id"), row_id).as_py()
            if place >= 0:
                return _row_at(storage, path, group=group, place=place)
    return None


def read_rows(storage: Storage, path: str) -> Iterator[StoredRow]:
    """Read every row of a shard, holding one row group at a time.

    Raises:
        FileNotFoundError: there is no such file.
        IntegrityError: it is damaged.
    """
    for batch in read_batches(storage, path):
        for place in range(batch.num_rows):
            yield _row_of(batch, place=place, path=path)


def _row_at(storage: Storage, path: str, *, group: int, place: int) -> StoredRow:
    batch = next(batch for number, batch in enumerate(read_batches(storage, path)) if number == group)
    return _row_of(batch, place=place, path=path)


def _row_of(batch: pa.RecordBatch, *, place: int, path: str) -> StoredRow:
    row = batch.slice(place, 1)
    columns = row.drop_columns(["codes"]).to_pylist()[0]
    (codes,) = codes_arrays(row.column("codes"))
    scales, window_frames = row.column("scales")[0], row.column("window_frames")[0]
    encoded = EncodedItem(
        codes=codes,
        scales=scales.values.to_numpy() if scales.is_valid else None,
        window_frames=window_frames.values.to_numpy() if window_frames.is_valid else None,
    )
    return StoredRow(id=columns["id"], path=path, encoded=encoded, columns=columns)


@contextmanager
def _opened(storage: Storage, path: str) -> Iterator[Any]:
    with storage.open_file(path) as raw:
        try:
            if path.endswith(".arrow"):
                with pa.ipc.open_file(raw) as file:
                    yield file
            else:
                with open_parquet(raw) as file:
                    yield file
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # of the system, not of the file's content
            raise IntegrityError(
                f"{path} is damaged ({error}); restore it from a copy, or delete it and its commit and run again"
            ) from error
