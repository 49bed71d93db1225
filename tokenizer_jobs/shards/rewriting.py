"""A published file once more, without some of its rows: from Arrow tables to Arrow tables, never through records."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenizer_jobs.records import ShardFile
from tokenizer_jobs.shards.reader import read_batches, read_schema
from tokenizer_jobs.shards.writer import (
    MAX_GROUP_CODES,
    MAX_GROUP_ROWS,
    StagedFile,
    TableFile,
)
from tokenizer_jobs.storage import Storage

__all__ = ["stage_rewritten"]


def stage_rewritten(
    storage: Storage,
    path: str,
    *,
    part_name: str,
    kept: npt.NDArray[np.bool_],
    more_attempts: Mapping[str, int] | None = None,
) -> StagedFile | None:
    """Stage the rows of a file that are kept, with its schema and metadata; None when none are.

    Row groups that have become small are joined, within the bounds of `ShardWriter`. The file is to be published under
    a name with its own hash, since files are never overwritten.

    Args:
        storage: The output.
        path: Of a shard, or of rejects.
        part_name: Stem of its unit's files.
        kept: [rows of the file] which ones stay.
        more_attempts: For rejects: attempts to add, by id.

    Raises:
        IntegrityError: the file is damaged, or what was written is not what was meant.
    """
    folder, _, name = path.partition("/")
    suffix = name.rpartition(".")[2]
    file = TableFile(
        storage,
        path=f"{folder}/{part_name}.{suffix}",
        schema=read_schema(storage, path),
        shard_format="arrow" if suffix == "arrow" else "parquet",
    )
    try:
        for batch in _grouped(_kept_batches(storage, path, kept)):
            file.write(batch if not more_attempts else _with_attempts(batch, more_attempts))
        staged = file.close(num_rows=int(kept.sum()))
    finally:
        file.discard()
    return None if staged is None else replace(staged, target=_named_by_hash(staged.target))


def _named_by_hash(target: ShardFile) -> ShardFile:
    stem, _, suffix = target.path.rpartition(".")
    return replace(target, path=f"{stem}-{target.sha256[:8]}.{suffix}")


def _kept_batches(storage: Storage, path: str, kept: npt.NDArray[np.bool_]) -> Iterator[pa.RecordBatch]:
    start = 0
    for batch in read_batches(storage, path):
        mask = kept[start : start + batch.num_rows]
        start += batch.num_rows
        if mask.any():
            yield batch if mask.all() else batch.filter(pa.array(mask))


def _grouped(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Join neighbours that have become small, as long as the group stays within the writer's bounds."""
    waiting, num_rows, num_codes = list[pa.RecordBatch](), 0, 0
    for batch in batches:
        codes = _num_codes(batch)
        if waiting and (num_rows + batch.num_rows > MAX_GROUP_ROWS or num_codes + codes > MAX_GROUP_CODES):
            yield pa.concat_batches(waiting)
            waiting, num_rows, num_codes = [], 0, 0
        waiting.append(batch)
        num_rows, num_codes = num_rows + batch.num_rows, num_codes + codes
    if waiting:
        yield pa.concat_batches(waiting)


def _num_codes(batch: pa.RecordBatch) -> int:
    if "codes" not in batch.schema.names:
        return 0
    frames, codebooks = (batch.column(name).to_numpy().astype(np.int64) for name in ("num_frames", "num_codebooks"))
    return int((frames * codebooks).sum())


def _with_attempts(batch: pa.RecordBatch, more: Mapping[str, int]) -> pa.RecordBatch:
    place = batch.schema.names.index("attempts")
    ids, attempts = batch.column("id").to_pylist(), batch.column("attempts").to_pylist()
    sums = [before + more.get(item_id, 0) for item_id, before in zip(ids, attempts, strict=True)]
    return batch.set_column(place, batch.schema.field(place), pa.array(sums, type=pa.int32()))
