"""The columns of shards and of rejects: names, types and order, fixed by the format version."""

from typing import NoReturn

import pyarrow as pa

from tokenizer_jobs.errors import ConfigError

__all__ = ["CODES_LEAF", "REJECT_COLUMNS", "RESERVED_NAMES", "ROW_COLUMNS", "reject_schema", "row_schema"]

CODES_LEAF = "codes.list.element.list.element"
"""Path of the codes' values inside a Parquet file."""

ROW_COLUMNS = pa.schema(
    [
        ("id", pa.string()),
        ("codes", pa.list_(pa.list_(pa.uint16()))),
        ("num_frames", pa.int32()),
        ("num_codebooks", pa.int16()),
        ("scales", pa.list_(pa.float32())),
        ("window_frames", pa.list_(pa.int32())),
        ("num_samples", pa.int64()),
        ("sample_rate", pa.int32()),
        ("duration_seconds", pa.float64()),
        ("slice_index", pa.int32()),
        ("slice_count", pa.int32()),
        ("start_sample", pa.int64()),
        ("source_uri", pa.string()),
        ("source_member", pa.string()),
        ("source_row", pa.int64()),
        ("source_size", pa.int64()),
        ("source_etag", pa.string()),
        ("source_sample_rate", pa.int32()),
        ("source_channels", pa.int16()),
        ("source_format", pa.string()),
        ("channel", pa.int16()),
        ("rms_db", pa.float32()),
        ("peak", pa.float32()),
        ("clipped_fraction", pa.float32()),
        ("silent_fraction", pa.float32()),
        ("truncated", pa.bool_()),
        ("codes_sha256", pa.string()),
    ]
)

REJECT_COLUMNS = pa.schema(
    [
        ("id", pa.string()),
        ("source_uri", pa.string()),
        ("source_member", pa.string()),
        ("source_row", pa.int64()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("message", pa.string()),
        ("attempts", pa.int32()),
    ]
)

RESERVED_NAMES = frozenset(ROW_COLUMNS.names) | frozenset(REJECT_COLUMNS.names)
"""Names that a column passed through from the source may not have."""


def row_schema(user_columns: pa.Schema) -> pa.Schema:
    """The columns of a shard, the source's own after ours; without metadata.

    Raises:
        ConfigError: a column of the source has a reserved name, or two have the same.
    """
    return _with_user_columns(ROW_COLUMNS, user_columns)


def reject_schema(user_columns: pa.Schema) -> pa.Schema:
    """The columns of a file of rejects, the source's own after ours; without metadata.

    Raises:
        ConfigError: as `row_schema`.
    """
    return _with_user_columns(REJECT_COLUMNS, user_columns)


def _with_user_columns(ours: pa.Schema, user_columns: pa.Schema) -> pa.Schema:
    names = list(user_columns.names)
    clashes = sorted(RESERVED_NAMES.intersection(names))
    if clashes:
        _refuse(clashes, "the output has columns of its own with these names")
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        _refuse(doubled, "these names occur more than once")
    return pa.schema([*ours, *(pa.field(field.name, _plain(field.type)) for field in user_columns)])


def _plain(kind: pa.DataType) -> pa.DataType:
    # How a source encodes its values is no part of their type, and Arrow's IPC files cannot hold a dictionary that
    # grows from one batch to the next.
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _refuse(names: list[str], reason: str) -> NoReturn:
    raise ConfigError(
        f"columns {', '.join(names)} of the source cannot be passed through: {reason}; "
        "rename or leave them out in the source"
    )
