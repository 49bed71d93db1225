"""Shards and rejects of one unit, written under staging names. Their bytes are a pure function of rows and metadata.

Writing ends with a staged, checked file; `commits.publish_unit` gives it its place.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import fsum
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import pyarrow as pa
import pyarrow.parquet as pq

from tokenizer_jobs.digest import Digest
from tokenizer_jobs.errors import IntegrityError, Stage
from tokenizer_jobs.recipe import METADATA_KEY
from tokenizer_jobs.records import RejectedItem, RowGroups, ShardFile, TokenizedItem, WorkUnit
from tokenizer_jobs.schema import CODES_LEAF
from tokenizer_jobs.shards.columns import reject_batch, row_batch
from tokenizer_jobs.storage import Storage, local_write_faults

__all__ = [
    "CODES_FOLDER",
    "REJECTS_FOLDER",
    "ShardWriter",
    "StagedFile",
    "StagedRejects",
    "StagedShard",
    "TableFile",
    "write_rejects",
]

ShardFormat = Literal["parquet", "arrow"]

CODES_FOLDER = "codes"
REJECTS_FOLDER = "rejects"

MIN_GROUP_ROWS, MAX_GROUP_ROWS = 256, 512
MAX_GROUP_CODES = 4 << 20
"""Bounds the memory of a row group: 8 MiB of codes, about two hours of audio at 75 frames and 8 codebooks.

Every row group has a dictionary of its own, 4 KiB for 1,024 entries before compression; at 256 rows of one second
that is 0.2 bits a code, at this bound 0.008.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedFile:
    """One complete, checked file that no reader sees yet."""

    staged: Path
    """Where its bytes are."""
    target: ShardFile
    """What it will be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedShard:
    """The rows of one unit."""

    file: StagedFile | None
    """None: no rows, so no file."""
    row_ids: tuple[str, ...]
    item_ids: tuple[str, ...]
    """Items that have a row, each once."""
    digest: str
    num_frames: int
    audio_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedRejects:
    """The rejects of one unit."""

    file: StagedFile | None
    """None: no rejects, so no file."""
    item_ids: tuple[str, ...]
    by_reason: Mapping[str, int]
    """Number of rejects by reason, in the order of their names."""
    num_filtered: int
    """How many of them are of stage `filter`."""


class ShardWriter:
    """Writes the rows of one unit to a staged file; a context manager that removes what was not closed.

    Args:
        storage: The output.
        unit: Names the file.
        schema: From `row_schema`.
        metadata: From `file_metadata`.
        shard_format: Parquet, or Arrow's IPC file format.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        unit: WorkUnit,
        schema: pa.Schema,
        metadata: Mapping[bytes, bytes],
        shard_format: ShardFormat,
    ) -> None:
        self._file = TableFile(
            storage,
            path=f"{CODES_FOLDER}/{unit.part_name}.{shard_format}",
            schema=schema.with_metadata(dict(metadata)),
            shard_format=shard_format,
        )
        self._schema = schema
        self._recipe_id: str = json.loads(metadata[METADATA_KEY])["recipe_id"]
        self._waiting: list[TokenizedItem] = []
        self._waiting_codes = 0
        self._row_ids: list[str] = []
        self._item_ids: dict[str, None] = {}
        self._digest = Digest()
        self._num_frames = 0
        self._durations: list[float] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.discard()

    def append(self, rows: Sequence[TokenizedItem]) -> None:
        """Add rows. Where row groups end depends on the rows alone, not on how they are grouped in calls."""
        for row in rows:
            self._waiting.append(row)
            self._waiting_codes += row.encoded.codes.size
            if self._waiting_codes >= MAX_GROUP_CODES:
                self._write(len(self._waiting))
            elif len(self._waiting) == MAX_GROUP_ROWS + MIN_GROUP_ROWS:
                self._write(MAX_GROUP_ROWS)  # what stays is enough for a group of its own

    def close(self) -> StagedShard:
        """Write what is left, check the file, and hand it over; the writer forgets it.

        Raises:
            IntegrityError: the file on disk is not what was written.
        """
        if len(self._waiting) > MAX_GROUP_ROWS:
            self._write(len(self._waiting) // 2)
        self._write(len(self._waiting))
        return StagedShard(
            file=self._file.close(num_rows=len(self._row_ids)),
            row_ids=tuple(self._row_ids),
            item_ids=tuple(self._item_ids),
            digest=self._digest.hex,
            num_frames=self._num_frames,
            audio_seconds=fsum(self._durations),
        )

    def _write(self, num_rows: int) -> None:
        if num_rows == 0:
            return
        rows, self._waiting = self._waiting[:num_rows], self._waiting[num_rows:]
        self._waiting_codes = sum(row.encoded.codes.size for row in self._waiting)
        batch = row_batch(rows, schema=self._schema)
        self._file.write(batch)
        for row, codes_sha256 in zip(rows, batch.column("codes_sha256").to_pylist(), strict=True):
            self._row_ids.append(row.row_id)
            self._item_ids[row.item.id] = None
            self._digest.add_row(row.row_id, codes_sha256=codes_sha256, recipe_id=self._recipe_id)
            self._num_frames += row.encoded.codes.shape[1]
            self._durations.append(row.facts.duration_seconds)


def write_rejects(
    storage: Storage,
    *,
    unit: WorkUnit,
    rejected: Sequence[RejectedItem],
    schema: pa.Schema,
    metadata: Mapping[bytes, bytes],
    shard_format: ShardFormat,
) -> StagedRejects:
    """Write the rejects of one unit to a staged file.

    Args:
        storage: The output.
        unit: Names the file and holds the items.
        rejected: In any order; they are written in plan order.
        schema: From `reject_schema`.
        metadata: From `file_metadata`; the rows' features are left out.
        shard_format: Parquet, or Arrow's IPC file format.
    """
    in_order = sorted(rejected, key=lambda reject: reject.position)
    pairs = [(unit.items[reject.position], reject) for reject in in_order]
    file = TableFile(
        storage,
        path=f"{REJECTS_FOLDER}/{unit.part_name}.{shard_format}",
        schema=schema.with_metadata({METADATA_KEY: metadata[METADATA_KEY]}),
        shard_format=shard_format,
    )
    try:
        for start in range(0, len(pairs), MAX_GROUP_ROWS):
            file.write(reject_batch(pairs[start : start + MAX_GROUP_ROWS], schema=schema))
        staged = file.close(num_rows=len(pairs))
    finally:
        file.discard()
    return StagedRejects(
        file=staged,
        item_ids=tuple(item.id for item, _ in pairs),
        by_reason=dict(sorted(Counter(str(reject.reason) for reject in in_order).items())),
        num_filtered=sum(reject.stage == Stage.FILTER for reject in in_order),
    )


class TableFile:
    """A staged file of record batches; it is made by the first batch."""

    def __init__(self, storage: Storage, *, path: str, schema: pa.Schema, shard_format: ShardFormat) -> None:
        self._storage = storage
        self._path = path
        self._schema = schema
        self._format = shard_format
        self._staged: Path | None = None
        self._writer: Any = None
        self._group_rows: list[int] = []
        self._group_shortest: list[int] = []

    def write(self, batch: pa.RecordBatch) -> None:
        """Write one row group or record batch."""
        with local_write_faults(f"staging for {self._path}"):
            if self._writer is None:
                self._staged = self._storage.stage(f".{self._format}")
                self._writer = _open_writer(self._staged, schema=self._schema, shard_format=self._format)
            if self._format == "parquet":
                self._writer.write_batch(batch, row_group_size=batch.num_rows)
            else:
                self._writer.write_batch(batch)
        self._group_rows.append(batch.num_rows)
        if "num_frames" in batch.schema.names:
            self._group_shortest.append(int(batch.column("num_frames").to_numpy().min()))

    def close(self, *, num_rows: int) -> StagedFile | None:
        """Finish and check the file; None when nothing was written."""
        if self._staged is None:
            return None
        with local_write_faults(f"staging for {self._path}"):
            self._writer.close()
        check = _check_parquet if self._format == "parquet" else _check_arrow
        check(self._staged, schema=self._schema, group_rows=self._group_rows, num_rows=num_rows)
        with self._staged.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        size_bytes = self._staged.stat().st_size
        groups = RowGroups(rows=tuple(self._group_rows), shortest_frames=tuple(self._group_shortest))
        target = ShardFile(
            path=self._path,
            rows=num_rows,
            size_bytes=size_bytes,
            sha256=sha256,
            row_groups=groups if self._group_shortest else None,
        )
        done = StagedFile(staged=self._staged, target=target)
        self._staged = self._writer = None
        return done

    def discard(self) -> None:
        """Remove the staged file unless it was closed."""
        if self._staged is not None:
            if self._writer is not None:
                # Closing writes a footer, which fails on a full disk; what is thrown away needs none.
                with suppress(OSError):
                    self._writer.close()
            self._staged.unlink(missing_ok=True)
            self._staged = self._writer = None


def _open_writer(staged: Path, *, schema: pa.Schema, shard_format: ShardFormat) -> Any:
    if shard_format == "arrow":
        options = pa.ipc.IpcWriteOptions(compression=pa.Codec("zstd", compression_level=3))
        return pa.ipc.new_file(str(staged), schema, options=options)
    short = [field.name for field in schema if pa.types.is_string(field.type) and field.name not in _UNIQUE]
    return pq.ParquetWriter(
        str(staged),
        schema,
        version="2.6",
        # Version 2 pages leave the list levels uncompressed: half a bit a code in short clips.
        data_page_version="1.0",
        compression="zstd",
        compression_level=3,
        use_dictionary=[*([CODES_LEAF] if "codes" in schema.names else []), *short],
        write_statistics=[field.name for field in schema if not pa.types.is_nested(field.type)],
        write_page_checksum=True,
    )


_UNIQUE = frozenset({"id", "codes_sha256", "message"})


def _check_parquet(staged: Path, *, schema: pa.Schema, group_rows: Sequence[int], num_rows: int) -> None:
    with pq.ParquetFile(staged) as file:
        footer = file.metadata
        found = [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
        _check_rows(staged, group_rows=group_rows, found=found, num_rows=num_rows)
        _check_schema(staged, schema=schema, found=file.schema_arrow)
        for group in range(footer.num_row_groups):
            for column in map(footer.row_group(group).column, range(footer.num_columns)):
                # Values beyond the levels: a row group of empty lists has no dictionary.
                if column.path_in_schema == CODES_LEAF and "RLE_DICTIONARY" not in column.encodings:
                    raise IntegrityError(f"{staged}: codes are encoded as {column.encodings}, expected RLE_DICTIONARY")


def _check_arrow(staged: Path, *, schema: pa.Schema, group_rows: Sequence[int], num_rows: int) -> None:
    with pa.ipc.open_file(str(staged)) as file:
        found = [file.get_batch(number).num_rows for number in range(file.num_record_batches)]
        _check_rows(staged, group_rows=group_rows, found=found, num_rows=num_rows)
        _check_schema(staged, schema=schema, found=file.schema)


def _check_rows(staged: Path, *, group_rows: Sequence[int], found: Sequence[int], num_rows: int) -> None:
    if sum(found) != num_rows:
        raise IntegrityError(f"{staged} holds {sum(found)} rows where {num_rows} were written; check the disk")
    if [*found] != [*group_rows]:
        raise IntegrityError(f"{staged} has row groups of {found} rows where {group_rows} were written; check the disk")


def _check_schema(staged: Path, *, schema: pa.Schema, found: pa.Schema) -> None:
    # Parquet calls the elements of a list "element" where Arrow calls them "item"; plain equality overlooks that.
    if not found.equals(schema) or found.metadata != schema.metadata:
        raise IntegrityError(f"{staged} has another schema or metadata than was written; check the disk")
