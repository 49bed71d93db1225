"""The columns of a table as a source needs them: where the audio is, what ids are made of, what is passed through."""

import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import pyarrow as pa
import soundfile

from tokenizer_jobs.errors import ConfigError

__all__ = ["AudioColumn", "AudioShape", "ColumnChoice", "clip_bytes", "find_audio_column", "unify_columns"]

_USUAL_NAMES = frozenset(
    {
        *("audio", "audios", "wav", "flac", "mp3", "ogg", "opus", "speech", "sound", "recording"),
        *("file", "path", "filename", "file_name", "filepath", "file_path", "url", "uri", "wav_path"),
        *("audio_path", "audio_file", "audio_filename", "audio_filepath", "audio_url"),
    }
)
_SAMPLE_TYPES = (pa.float32(), pa.float64(), pa.int16(), pa.int32())


class AudioShape(Enum):
    """How a column holds audio."""

    FILE = "struct of bytes and path"
    """As `datasets.Audio` stores it: the bytes of a file, or its path, or both."""
    BYTES = "bytes"
    """The bytes of a file."""
    PATH = "path"
    """Path or URL of a file."""
    SAMPLES = "samples"
    """A struct of `array` and `sampling_rate`, as scripts write it that store decoded audio."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioColumn:
    """The column of a table that holds the audio."""

    name: str
    shape: AudioShape
    has_path: bool = False
    """Whether there is a path beside the bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnChoice:
    """What a job says of a table's columns."""

    audio_column: str | None
    """None: the only one there is."""
    id_column: str | None
    """None: ids are made from the place of the row."""
    columns: tuple[str, ...] | None
    """What is passed through; None: all others that hold no audio."""

    def passed(self, schema: pa.Schema, *, audio: AudioColumn, where: str) -> tuple[pa.Schema, tuple[str, ...]]:
        """The columns of a table that are passed through, as they are stored, and those left out as they hold audio.

        Raises:
            ConfigError: a column of the job is not there.
        """
        self._check_names(schema, where)
        if self.columns is not None:
            chosen = [schema.field(name) for name in self.columns if name in schema.names]
            return pa.schema([_stored(field) for field in chosen]), ()
        others = [field for field in schema if field.name not in (audio.name, self.id_column)]
        heavy = tuple(field.name for field in others if _struct_shape(field.type) is not None)
        return pa.schema([_stored(field) for field in others if field.name not in heavy]), heavy

    def _check_names(self, schema: pa.Schema, where: str) -> None:
        asked = {"id_column": (self.id_column,), "columns": self.columns or ()}
        for key, names in asked.items():
            for name in names:
                if name is not None and name not in schema.names and not (key == "columns" and name == "split"):
                    raise ConfigError(
                        f"selection.source.{key}: {where} has no column {name!r}; it has {_listed(schema.names)}"
                    )


def find_audio_column(schema: pa.Schema, *, name: str | None, where: str) -> AudioColumn:
    """Find the column that holds the audio: as named, else the only one of the surest kind that is there.

    The kinds, surest first: features of `datasets` that say so; structs of bytes and path, or of samples; bytes under
    a usual name; the only bytes; strings under a usual name.

    Args:
        schema: Of the table, with its metadata.
        name: `audio_column` of the job.
        where: What messages call the table.

    Raises:
        ConfigError: the column is not there or holds something else; there is none, or several.
    """
    if name is not None:
        if name not in schema.names:
            raise ConfigError(
                f"selection.source.audio_column: {where} has no column {name!r}; it has {_listed(schema.names)}"
            )
        return _audio_column(schema.field(name), where)
    features = _feature_kinds(schema)
    tests: tuple[Callable[[pa.Field], bool], ...] = (
        lambda field: features.get(field.name) == "Audio",
        lambda field: _struct_shape(field.type) is not None and features.get(field.name) in (None, "Audio"),
        lambda field: _is_bytes(field.type) and field.name.lower() in _USUAL_NAMES,
        lambda field: _is_bytes(field.type),
        lambda field: _is_text(field.type) and field.name.lower() in _USUAL_NAMES,
    )
    for is_candidate in tests:
        found = [field for field in schema if is_candidate(field)]
        if len(found) == 1:
            return _audio_column(found[0], where)
        if found:
            names = _listed(field.name for field in found)
            raise ConfigError(f"{where}: {names} may each hold the audio; say which in selection.source.audio_column")
    columns = _listed(f"{field.name}: {field.type}" for field in schema)
    raise ConfigError(
        f"{where}: no column holds audio (bytes, a struct of bytes and path, or paths); it has {columns}; "
        "say which it is in selection.source.audio_column"
    )


def unify_columns(schemas: Iterable[pa.Schema]) -> pa.Schema:
    """The columns that several tables pass through, with types that all of them fit.

    Raises:
        ConfigError: a column has types that do not go together.
    """
    try:
        return pa.unify_schemas(list(schemas), promote_options="permissive").remove_metadata()
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ConfigError(
            f"the files of selection.source have columns that do not go together: {error}; leave such columns out "
            "by selection.source.columns, or write the files again with one type"
        ) from error


def clip_bytes(value: Any, *, audio: AudioColumn) -> bytes | str | None:
    """What one row of the audio column holds: the bytes of a file, else its path, else None.

    Args:
        value: The row as an Arrow scalar.
        audio: The column.
    """
    if audio.shape is not AudioShape.FILE:
        return _samples_as_wav(value) if audio.shape is AudioShape.SAMPLES else value.as_py()
    if not value.is_valid:
        return None
    content: bytes | None = value["bytes"].as_py()
    if content is not None:
        return content
    return (value["path"].as_py() or None) if audio.has_path else None


def _samples_as_wav(value: Any) -> bytes | None:
    """Samples of a row as a WAV file that loses nothing of them; [n], or [C, n] as nested lists."""
    if not value.is_valid or not value["array"].is_valid:
        return None
    rate, rows = value["sampling_rate"].as_py(), value["array"].values
    if rate is None:
        return b""
    nested = pa.types.is_list(rows.type) or pa.types.is_large_list(rows.type)
    samples = (
        np.stack([row.values.to_numpy(zero_copy_only=False) for row in rows], axis=1)
        if nested
        else rows.to_numpy(zero_copy_only=False)
    )
    coding = {"f4": "FLOAT", "f8": "DOUBLE", "i2": "PCM_16", "i4": "PCM_32"}[samples.dtype.str[1:]]
    content = io.BytesIO()
    soundfile.write(content, samples, int(rate), format="WAV", subtype=coding)
    return content.getvalue()


def _audio_column(field: pa.Field, where: str) -> AudioColumn:
    shape = _struct_shape(field.type)
    if shape is not None:
        has_path = shape is AudioShape.FILE and field.type.get_field_index("path") >= 0
        return AudioColumn(name=field.name, shape=shape, has_path=has_path)
    if _is_bytes(field.type):
        return AudioColumn(name=field.name, shape=AudioShape.BYTES)
    if _is_text(field.type):
        return AudioColumn(name=field.name, shape=AudioShape.PATH)
    raise ConfigError(
        f"{where}: column {field.name!r} is {field.type}, which cannot hold audio; expected bytes, a struct of bytes "
        "and path, a struct of array and sampling_rate, or paths"
    )


def _struct_shape(kind: pa.DataType) -> AudioShape | None:
    if not pa.types.is_struct(kind):
        return None
    fields = {field.name: field.type for field in kind}
    if _is_bytes(fields.get("bytes", pa.null())):
        return AudioShape.FILE
    if "sampling_rate" in fields and _are_samples(fields.get("array", pa.null())):
        return AudioShape.SAMPLES
    return None


def _are_samples(kind: pa.DataType) -> bool:
    for _ in range(2):  # [n], or [C, n]
        if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
            return False
        kind = kind.value_type
        if kind in _SAMPLE_TYPES:
            return True
    return False


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _feature_kinds(schema: pa.Schema) -> dict[str, str]:
    """The kinds that `datasets` noted of columns; empty where there is no such note."""
    try:
        noted = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: kind["_type"] for name, kind in noted.items() if isinstance(kind, dict) and "_type" in kind}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def _stored(field: pa.Field) -> pa.Field:
    """A column as it is stored: how its values are encoded is no part of its type."""
    return pa.field(field.name, _plain_type(field.type))


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if isinstance(kind, pa.BaseExtensionType):
        return _plain_type(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return _plain_type(kind.value_type)
    if pa.types.is_string_view(kind):
        return pa.string()
    return pa.binary() if pa.types.is_binary_view(kind) else kind


def _listed(names: Iterable[str]) -> str:
    found: Sequence[str] = list(names)
    return ", ".join(found[:20]) + (f" and {len(found) - 20} more" if len(found) > 20 else "") or "none"
