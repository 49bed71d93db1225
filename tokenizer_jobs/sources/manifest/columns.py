"""The types of a manifest's columns, found out in one pass over all lines in bounded memory.

JSON. int64, double (also where integers and fractions meet), bool, string, and lists and structs of these, whose fields
are united. Null fits everything. Anything else that meets is an error with both lines.

Text. The fields of CSV and TSV are int64, double or bool (`true`, `false`) where every one of them is, else string;
a number with leading zeros, such as an id `0042`, is text.

A column that is null in every line is left out, unless it was asked for by name.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.sources.manifest.lines import Line

__all__ = ["ColumnTypes", "text_readers"]

_BATCH_LINES = 4096
MOST_FIELDS = 1_000
"""Fields of one struct, and columns: more are keys that are values, such as the words of a transcript."""
_NOT_ARROW = (pa.ArrowException, OverflowError, UnicodeEncodeError)
_DIGITS_OF_DOUBLE = 15
_INTEGER = re.compile(r"[+-]?(0|[1-9]\d{0,17})", re.ASCII)
_FRACTION = re.compile(
    r"[+-]?((0|[1-9]\d*)\.\d*([eE][+-]?\d+)?|\.\d+([eE][+-]?\d+)?|(0|[1-9]\d*)[eE][+-]\d+)", re.ASCII
)
_BOOLEANS = frozenset({"true", "false", "True", "False", "TRUE", "FALSE"})


class _Column:
    """What is known of one column so far."""

    def __init__(self) -> None:
        self.of_json: pa.DataType = pa.null()
        self.of_text: pa.DataType = pa.null()
        self.has_long_integers = False
        """Whether an integer was met that no double may hold."""
        self.json_place = self.text_place = ""
        """A line that has a value of the column."""


class ColumnTypes:
    """The types of columns, found out from values as they come."""

    def __init__(self) -> None:
        self._columns: dict[str, _Column] = {}
        self._waiting: list[tuple[Line, Mapping[str, Any]]] = []

    def see(self, line: Line, values: Mapping[str, Any]) -> None:
        """Take the values of one line into account, sooner or later.

        Raises:
            ConfigError: values of a column do not fit together.
        """
        self._waiting.append((line, values))
        if len(self._waiting) >= _BATCH_LINES:
            self._look()

    def schema(self, *, wanted: Sequence[str] | None) -> pa.Schema:
        """The columns in the order in which they were met, or those that were asked for.

        Raises:
            ConfigError: values of a column do not fit together.
        """
        self._look()
        names = self._columns if wanted is None else wanted
        types = {name: _united(name, self._columns.get(name, _Column())) for name in names}
        if wanted is None:
            types = {name: kind for name, kind in types.items() if not pa.types.is_null(kind)}
        for name, kind in types.items():
            if _has_empty_struct(kind):
                raise ConfigError(
                    f"column {name!r} holds objects without fields, which Parquet cannot store; leave it out by "
                    "selection.source.columns, or write null instead"
                )
        return pa.schema([(name, _without_null(kind)) for name, kind in types.items()])

    def _look(self) -> None:
        waiting, self._waiting = self._waiting, []
        for is_text in (False, True):
            lines = [(line, values) for line, values in waiting if line.is_text is is_text]
            for name in dict.fromkeys(name for _, values in lines for name in values):
                column = self._columns.setdefault(name, _Column())
                found = [(line, values[name]) for line, values in lines if values.get(name) is not None]
                if found and is_text:
                    column.text_place = column.text_place or found[0][0].place
                    column.of_text = _text_type(column.of_text, (value for _, value in found))
                    column.has_long_integers |= any(_is_long_integer(value) for _, value in found)
                elif found:
                    column.of_json = _json_type(name, column, found)
                    column.json_place = column.json_place or found[0][0].place
        if len(self._columns) > MOST_FIELDS:
            raise ConfigError(
                f"lines have more than {MOST_FIELDS:,} different fields, such as {next(reversed(self._columns))!r}; "
                "name those to pass through in selection.source.columns"
            )


def text_readers(schema: pa.Schema) -> dict[str, Callable[[str], Any]]:
    """For each column that texts cannot be stored in as they are: what makes a value of a text."""
    readers = ((pa.int64(), int), (pa.float64(), float), (pa.bool_(), lambda text: text.lower() == "true"))
    return {field.name: reader for field in schema for kind, reader in readers if field.type == kind}


def _is_long_integer(text: str) -> bool:
    digits = text.lstrip("+-")
    return len(digits) > _DIGITS_OF_DOUBLE and digits.isdigit()


def _text_type(known: pa.DataType, texts: Iterable[str]) -> pa.DataType:
    for text in texts:
        if pa.types.is_string(known):
            break
        known = joined(known, _type_of_text(text)) or pa.string()
    return known


def _type_of_text(text: str) -> pa.DataType:
    if _INTEGER.fullmatch(text):
        return pa.int64()
    if _FRACTION.fullmatch(text):
        return pa.float64()
    return pa.bool_() if text in _BOOLEANS else pa.string()


def _json_type(name: str, column: _Column, found: Sequence[tuple[Line, Any]]) -> pa.DataType:
    try:
        kind = joined(column.of_json, pa.array([value for _, value in found]).type)
    except _NOT_ARROW:
        kind = None
    if kind is not None and _num_fields(kind) > MOST_FIELDS:
        raise ConfigError(
            f"column {name!r} holds objects with more than {MOST_FIELDS:,} different keys; expected the same few in "
            "all lines, so write lists of names and values, or leave it out by selection.source.columns"
        )
    if kind is not None:
        return kind
    raise _misfit(name, column, found)


def _misfit(name: str, column: _Column, found: Sequence[tuple[Line, Any]]) -> ConfigError:
    """The first value that does not fit those before it, or fits nothing."""
    known, place = column.of_json, column.json_place
    for line, value in found:
        try:
            kind = pa.array([value]).type
        except _NOT_ARROW as error:
            return line.fault(f"{name} = {value!r:.120} cannot be stored ({error}); mend the line")
        both = joined(known, kind)
        if both is None:
            return _conflict(name, known, place, kind, line.place)
        known, place = both, place or line.place
    return found[0][0].fault(
        f"column {name!r} mixes fractions with integers beyond 2^53, which no double holds; write them as text"
    )


def _conflict(name: str, one: pa.DataType, place: str, other: pa.DataType, other_place: str) -> ConfigError:
    return ConfigError(
        f"column {name!r} is {one!s:.200} in {place} and {other!s:.200} in {other_place}; "
        "expected one type in all lines, so mend them, or leave the column out by selection.source.columns"
    )


def _united(name: str, column: _Column) -> pa.DataType:
    """One type for what JSON and texts say; texts can always be strings."""
    if pa.types.is_null(column.of_text):
        return column.of_json
    if pa.types.is_string(column.of_json):
        return pa.string()
    kind = joined(column.of_json, column.of_text)
    if kind == pa.float64() and column.has_long_integers and pa.types.is_null(column.of_json):
        return pa.string()
    if kind is None:
        raise _conflict(name, column.of_json, column.json_place, column.of_text, column.text_place)
    return kind


def joined(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The type that holds values of both; None when there is none."""
    if one.equals(other) or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    if {one, other} == {pa.int64(), pa.float64()}:
        return pa.float64()
    if pa.types.is_list(one) and pa.types.is_list(other):
        inside = joined(one.value_type, other.value_type)
        return None if inside is None else pa.list_(inside)
    if pa.types.is_struct(one) and pa.types.is_struct(other):
        return _joined_structs(one, other)
    return None


def _joined_structs(one: pa.StructType, other: pa.StructType) -> pa.DataType | None:
    types = {field.name: field.type for field in one}
    for field in other:
        inside = joined(types.get(field.name, pa.null()), field.type)
        if inside is None:
            return None
        types[field.name] = inside
    return pa.struct(list(types.items()))


def _num_fields(kind: pa.DataType) -> int:
    """Fields of all structs inside."""
    if pa.types.is_struct(kind):
        return sum(1 + _num_fields(field.type) for field in kind)
    return _num_fields(kind.value_type) if pa.types.is_list(kind) else 0


def _has_empty_struct(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return not kind.num_fields or any(_has_empty_struct(field.type) for field in kind)
    return bool(pa.types.is_list(kind)) and _has_empty_struct(kind.value_type)


def _without_null(kind: pa.DataType) -> pa.DataType:
    """The same type with strings where only nulls were met."""
    if pa.types.is_null(kind):
        return pa.string()
    if pa.types.is_list(kind):
        return pa.list_(_without_null(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, _without_null(field.type)) for field in kind])
    return kind
