"""Records to Arrow columns and back. Codes go through numpy buffers only; a Python list of them is 200 times slower.

Legend of shapes: K codebooks in use, T frames.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenizer_jobs.digest import codes_sha256
from tokenizer_jobs.errors import IntegrityError
from tokenizer_jobs.records import Item, RejectedItem, TokenizedItem
from tokenizer_jobs.schema import REJECT_COLUMNS, ROW_COLUMNS
from tokenizer_jobs.storage import public_uri

__all__ = ["codes_arrays", "codes_column", "reject_batch", "row_batch"]


def row_batch(rows: Sequence[TokenizedItem], *, schema: pa.Schema) -> pa.RecordBatch:
    """Build the columns of rows.

    Args:
        rows: In the order to be written.
        schema: From `row_schema`.
    """
    columns = _source_columns([row.item for row in rows], schema=schema, ours=ROW_COLUMNS)
    codes = [_checked_codes(row) for row in rows]
    facts = [row.facts for row in rows]
    columns |= {
        "id": [row.row_id for row in rows],
        "codes": codes_column(codes),
        "num_frames": [array.shape[1] for array in codes],
        "num_codebooks": [array.shape[0] for array in codes],
        "scales": _list_column([row.encoded.scales for row in rows], pa.float32()),
        "window_frames": _list_column([row.encoded.window_frames for row in rows], pa.int32()),
        "num_samples": [fact.num_samples for fact in facts],
        "sample_rate": [fact.sample_rate for fact in facts],
        "duration_seconds": [fact.duration_seconds for fact in facts],
        "slice_index": [row.place.slice_index for row in rows],
        "slice_count": [row.slice_count for row in rows],
        "start_sample": [row.place.start_sample for row in rows],
        "source_sample_rate": [fact.source_sample_rate for fact in facts],
        "source_channels": [fact.source_channels for fact in facts],
        "source_format": [fact.source_format for fact in facts],
        # Where channels are rows, ids are made from it: `row_places` leads back to the items by it.
        "channel": [row.facts.channel if row.place.channel is None else row.place.channel for row in rows],
        "rms_db": [fact.rms_db for fact in facts],
        "peak": [fact.peak for fact in facts],
        "clipped_fraction": [fact.clipped_fraction for fact in facts],
        "silent_fraction": [fact.silent_fraction for fact in facts],
        "truncated": [fact.truncated for fact in facts],
        "codes_sha256": [codes_sha256(array) for array in codes],
    }
    return _batch(columns, schema=schema)


def reject_batch(rejects: Sequence[tuple[Item, RejectedItem]], *, schema: pa.Schema) -> pa.RecordBatch:
    """Build the columns of rejects.

    Args:
        rejects: Each item with its rejection, in the order to be written.
        schema: From `reject_schema`.
    """
    columns = _source_columns([item for item, _ in rejects], schema=schema, ours=REJECT_COLUMNS)
    rejected = [reject for _, reject in rejects]
    columns |= {
        "stage": [str(reject.stage) for reject in rejected],
        "reason": [str(reject.reason) for reject in rejected],
        "message": [reject.message for reject in rejected],
        "attempts": [reject.attempts for reject in rejected],
    }
    return _batch(columns, schema=schema)


def codes_arrays(column: pa.ListArray) -> list[npt.NDArray[np.uint16]]:
    """The codes [K, T] of each row of a `codes` column, as views of its buffer.

    Raises:
        IntegrityError: a row's codebooks differ in length.
    """
    starts = column.offsets.to_numpy()
    ends = column.values.offsets.to_numpy()
    values = column.values.values.to_numpy(zero_copy_only=True)
    arrays: list[npt.NDArray[np.uint16]] = []
    for first, last in pairwise(starts):
        lengths = np.diff(ends[first : last + 1])
        if lengths.size and (lengths != lengths[0]).any():
            raise IntegrityError(f"codes of row {len(arrays)} have codebooks of {sorted(set(lengths))} frames")
        num_frames = int(lengths[0]) if lengths.size else 0
        arrays.append(values[ends[first] : ends[last]].reshape(int(last - first), num_frames))
    return arrays


def _batch(columns: dict[str, Any], *, schema: pa.Schema) -> pa.RecordBatch:
    arrays = [
        column if isinstance(column, pa.Array) else pa.array(column, type=schema.field(name).type)
        for name, column in ((name, columns[name]) for name in schema.names)
    ]
    return pa.record_batch(arrays, schema=schema)


def _source_columns(items: Sequence[Item], *, schema: pa.Schema, ours: pa.Schema) -> dict[str, Any]:
    columns: dict[str, Any] = {
        name: [item.user_columns.get(name) for item in items] for name in schema.names if name not in ours.names
    }
    columns["id"] = [item.id for item in items]
    # The sources strip credentials already; nothing that is stored may depend on that.
    columns["source_uri"] = [public_uri(item.source_uri) for item in items]
    for name in ("source_member", "source_row", "source_size", "source_etag"):
        columns[name] = [getattr(item, name) for item in items]
    return columns


def _checked_codes(row: TokenizedItem) -> npt.NDArray[np.uint16]:
    codes = row.encoded.codes
    if codes.dtype != np.uint16 or codes.ndim != 2:
        raise IntegrityError(f"codes of {row.item.id!r} are {codes.dtype}{list(codes.shape)}, expected uint16 [K, T]")
    return codes


def codes_column(codes: Sequence[npt.NDArray[np.uint16]]) -> pa.ListArray:
    """The `codes` column of rows whose codes are uint16 [K, T] each."""
    num_codebooks = [array.shape[0] for array in codes]
    num_frames = np.repeat([array.shape[1] for array in codes], num_codebooks)
    values = np.concatenate([array.reshape(-1) for array in codes])
    inner = pa.ListArray.from_arrays(_offsets(num_frames), pa.array(values, type=pa.uint16()))
    return pa.ListArray.from_arrays(_offsets(num_codebooks), inner)


def _list_column(arrays: Sequence[npt.NDArray[Any] | None], value_type: pa.DataType) -> pa.ListArray:
    absent = [array is None for array in arrays]
    present = [array for array in arrays if array is not None]
    values = np.concatenate(present) if present else np.empty(0, dtype=value_type.to_pandas_dtype())
    offsets = _offsets([0 if array is None else array.size for array in arrays])
    return pa.ListArray.from_arrays(offsets, pa.array(values, type=value_type), mask=pa.array(absent))


def _offsets(lengths: Sequence[int] | npt.NDArray[Any]) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
