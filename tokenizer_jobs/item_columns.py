"""Items as columns: the types that plans and listings share, and the way from records to columns and back."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from operator import attrgetter
from typing import Any, overload

import pyarrow as pa

from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.records import Item

__all__ = ["StoredItems", "item_schema", "to_batch", "to_columns", "to_items", "user_schema_of"]

_FIELDS = (
    pa.field("id", pa.string(), nullable=False),
    pa.field("source_uri", pa.string(), nullable=False),
    pa.field("source_member", pa.string()),
    pa.field("source_row", pa.int64()),
    pa.field("source_size", pa.int64()),
    pa.field("source_etag", pa.string()),
    pa.field("source_group", pa.int64()),
    pa.field("start_seconds", pa.float64()),
    pa.field("duration_seconds", pa.float64()),
    pa.field("channel", pa.int32()),
    pa.field("duplicate_of", pa.string()),
    pa.field("estimated_seconds", pa.float64(), nullable=False),
)
_USER_COLUMNS = "user_columns"
_NAMES = tuple(field.name for field in _FIELDS)
_values_of = attrgetter(*_NAMES)


def item_schema(user_schema: pa.Schema | None = None) -> pa.Schema:
    """The columns of items; user columns are in a struct of their own, so that they can have any name."""
    if user_schema is None or not len(user_schema):  # Parquet has no struct without fields
        return pa.schema(_FIELDS)
    return pa.schema([*_FIELDS, pa.field(_USER_COLUMNS, pa.struct(list(user_schema)))])


def user_schema_of(schema: pa.Schema) -> pa.Schema:
    """The user columns of a schema that has the columns of `item_schema` among others."""
    if _USER_COLUMNS not in schema.names:
        return pa.schema([])
    return pa.schema(list(schema.field(_USER_COLUMNS).type))


def to_columns(items: Sequence[Item], *, schema: pa.Schema) -> list[pa.Array]:
    """The columns of `item_schema` that a schema has, in the order of `item_schema`.

    Raises:
        ConfigError: a user column does not fit its type.
    """
    values: list[Sequence[Any]] = list(zip(*map(_values_of, items), strict=True)) or [()] * len(_FIELDS)
    fields = list(_FIELDS)
    if _USER_COLUMNS in schema.names:
        values.append([dict(item.user_columns) for item in items])
        fields.append(schema.field(_USER_COLUMNS))
    try:
        return [pa.array(column, type=field.type) for column, field in zip(values, fields, strict=True)]
    except (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeEncodeError) as error:
        raise ConfigError(f"an item's columns do not fit the types that its source declares: {error}") from error


def to_batch(items: Sequence[Item], *, schema: pa.Schema) -> pa.RecordBatch:
    """Items as one batch of `item_schema`.

    Raises:
        ConfigError: a user column does not fit its type.
    """
    return pa.RecordBatch.from_arrays(to_columns(items, schema=schema), schema=schema)


def to_items(batch: pa.RecordBatch | pa.Table) -> Iterator[Item]:
    """The items of a batch that has the columns of `item_schema` among others."""
    columns = [batch.column(field.name).to_pylist() for field in _FIELDS]
    has_more = _USER_COLUMNS in batch.schema.names
    user_columns = batch.column(_USER_COLUMNS).to_pylist() if has_more else [None] * batch.num_rows
    for *values, more in zip(*columns, user_columns, strict=True):
        yield _item(values, more)


def _item(values: Sequence[Any], user_columns: dict[str, Any] | None) -> Item:
    return Item(**dict(zip(_NAMES, values, strict=True)), user_columns=user_columns or {})


class StoredItems(Sequence[Item]):
    """Items that stay columns until one of them is looked at: a driver only hands them on.

    As records, ten million items would cost a driver 80 s to read and as much to send (2-core EPYC).

    Args:
        batch: With the columns of `item_schema` among others.
    """

    def __init__(self, batch: pa.RecordBatch) -> None:
        self._batch = batch

    @cached_property
    def _items(self) -> tuple[Item, ...]:
        return tuple(to_items(self._batch))

    def __len__(self) -> int:
        return int(self._batch.num_rows)

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)

    @overload
    def __getitem__(self, index: int) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Item, ...]: ...

    def __getitem__(self, index: int | slice) -> Item | tuple[Item, ...]:
        return self._items[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StoredItems | tuple) and self._items == tuple(other)

    def __hash__(self) -> int:
        return hash(self._items)

    def __repr__(self) -> str:
        return f"StoredItems({len(self)} items)"

    def __reduce__(self) -> tuple[Any, tuple[bytes]]:
        # Pickled as it is, a slice would take the buffers of its whole row group along.
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self._batch.schema) as writer:
            writer.write_batch(self._batch)
        return _unpickled, (sink.getvalue().to_pybytes(),)


def _unpickled(content: bytes) -> StoredItems:
    with pa.ipc.open_stream(content) as reader:
        return StoredItems(reader.read_next_batch())
