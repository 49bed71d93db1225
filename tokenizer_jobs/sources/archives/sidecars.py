"""Files beside the audio of an archive, as columns: their values, and one type for each column over all of them."""

import json
import threading
from collections.abc import Mapping
from functools import reduce
from typing import Any

import pyarrow as pa

from tokenizer_jobs.errors import ConfigError

__all__ = ["SIDECARS", "ColumnTypes", "read_sidecar"]

SIDECARS = frozenset({"json", "txt", "cls"})
"""Extensions: an object whose keys are columns, the column `txt`, and the integer column `cls`."""

_INT64 = range(-(1 << 63), 1 << 63)
_SCALARS = {type(None): pa.null(), bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}


class _ConflictError(Exception):
    pass


def read_sidecar(content: bytes, *, extension: str, name: str) -> dict[str, Any]:
    """Read a sidecar as columns; an object without keys inside a value counts as no value.

    Args:
        content: The whole file.
        extension: One of `SIDECARS`.
        name: What messages call the file.

    Raises:
        ConfigError: it does not hold what its extension says.
    """
    try:
        text = content.decode("utf-8-sig" if extension == "json" else "utf-8")
        if extension == "txt":
            return {"txt": text}
        found = json.loads(text) if extension == "json" else {"cls": int(text)}
        json.dumps(found, ensure_ascii=False).encode()  # `\ud800` is JSON and no text
    except (ValueError, RecursionError) as error:
        expected = {"json": "a JSON object", "txt": "UTF-8 text", "cls": "an integer"}[extension]
        raise _unfit(name, f"{type(error).__name__}: {error}", expected=expected) from error
    if not isinstance(found, dict):
        raise _unfit(name, f"it holds {_shown(found)}", expected="a JSON object, whose keys become columns")
    return {key: _without_empty(value) for key, value in found.items()}


class ColumnTypes:
    """Learns the type of every column from all values; threads may share it."""

    def __init__(self) -> None:
        self._types: dict[str, pa.DataType] = {}
        self._origins: dict[str, str] = {}
        self._lock = threading.Lock()

    def learn(self, columns: Mapping[str, Any], *, name: str) -> None:
        """Take in the columns of one sidecar.

        Args:
            columns: As `read_sidecar` gives them.
            name: What messages call the sidecar.

        Raises:
            ConfigError: a value has another type than an earlier one; it names both sidecars.
        """
        with self._lock:
            for column, value in columns.items():
                known = self._types.get(column, pa.null())
                try:
                    merged = _merge(known, _type_of(value))
                except _ConflictError as error:
                    raise self._clash(column, value, name=name, error=error) from None
                if column not in self._types or merged != known:
                    self._types[column], self._origins[column] = merged, name

    def schema(self) -> pa.Schema:
        """The columns by name; those without any value are text."""
        with self._lock:
            return pa.schema([(column, _storable(self._types[column])) for column in sorted(self._types)])

    def _clash(self, column: str, value: Any, *, name: str, error: Exception) -> ConfigError:
        if str(error):
            return _unfit(name, f"its {column!r} holds {_shown(value)}", expected=str(error))
        return ConfigError(
            f"column {column!r} has no one type: {self._types[column]} in {self._origins[column]}, {_shown(value)} in "
            f"{name}; mend one of them, or name the columns you want in selection.source.columns"
        )


def _type_of(value: Any) -> pa.DataType:
    if type(value) is int and value not in _INT64:
        raise _ConflictError("an integer of at most 64 bits")
    if isinstance(value, list):
        return pa.list_(reduce(_merge, map(_type_of, value), pa.null()))
    if isinstance(value, dict):
        return pa.struct([(key, _type_of(inner)) for key, inner in sorted(value.items())])
    return _SCALARS[type(value)]


def _merge(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    if {one, other} == {pa.int64(), pa.float64()}:
        return pa.float64()
    if pa.types.is_list(one) and pa.types.is_list(other):
        return pa.list_(_merge(one.value_type, other.value_type))
    if pa.types.is_struct(one) and pa.types.is_struct(other):
        mine, theirs = ({field.name: field.type for field in kind} for kind in (one, other))
        keys = sorted(mine.keys() | theirs.keys())
        return pa.struct([(key, _merge(mine.get(key, pa.null()), theirs.get(key, pa.null()))) for key in keys])
    raise _ConflictError


def _storable(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_list(kind):
        return pa.list_(_storable(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, _storable(field.type)) for field in kind])
    return pa.string() if pa.types.is_null(kind) else kind


def _without_empty(value: Any) -> Any:
    """Parquet has no struct without fields."""
    if isinstance(value, dict):
        return {key: _without_empty(inner) for key, inner in value.items()} or None
    return [_without_empty(inner) for inner in value] if isinstance(value, list) else value


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _unfit(name: str, seen: str, *, expected: str) -> ConfigError:
    return ConfigError(
        f"{name}: {seen}; expected {expected}. Mend it, or leave it out by naming the columns you want in "
        "selection.source.columns ([]: none)"
    )
