"""The `huggingface` key of a file's metadata, by which `datasets` restores the types of columns.

`datasets` makes it too, but takes most of a second to import, which a short job would feel; so it is only asked about
types that are rare.
"""

import json
from typing import Any

import pyarrow as pa

from tokenizer_jobs.errors import ConfigError

__all__ = ["METADATA_KEY", "features_metadata"]

METADATA_KEY = b"huggingface"

_NAMES = {
    pa.null(): "null",
    pa.bool_(): "bool",
    pa.int8(): "int8",
    pa.int16(): "int16",
    pa.int32(): "int32",
    pa.int64(): "int64",
    pa.uint8(): "uint8",
    pa.uint16(): "uint16",
    pa.uint32(): "uint32",
    pa.uint64(): "uint64",
    pa.float16(): "float16",
    pa.float32(): "float32",
    pa.float64(): "float64",
    pa.string(): "string",
    pa.large_string(): "large_string",
    pa.binary(): "binary",
    pa.large_binary(): "large_binary",
}


class _RareTypeError(Exception):
    """A type whose name is left to `datasets`."""


def features_metadata(schema: pa.Schema) -> bytes:
    """The JSON that `Features.from_arrow_schema(schema)` of `datasets` puts into a file's metadata, to the byte.

    Raises:
        ConfigError: `datasets` does not know the type of a column.
    """
    try:
        features = {field.name: _feature(field.type) for field in schema}
    except _RareTypeError:
        return _by_datasets(schema)
    return json.dumps({"info": {"features": features}}).encode()


def _feature(kind: pa.DataType) -> dict[str, Any]:
    if kind in _NAMES:
        return {"dtype": _NAMES[kind], "_type": "Value"}
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    if pa.types.is_struct(kind):
        return {field.name: _feature(field.type) for field in kind}
    raise _RareTypeError


def _by_datasets(schema: pa.Schema) -> bytes:
    from datasets import Features

    try:
        content: bytes = Features.from_arrow_schema(schema.remove_metadata()).arrow_schema.metadata[METADATA_KEY]
    except ValueError as error:
        raise ConfigError(
            f"a column passed through has a type that Hugging Face datasets does not know: {error}; "
            "cast or leave out that column in the source"
        ) from error
    return content
