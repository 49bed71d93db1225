"""A column of audio in somebody else's batch: which one it is, and what each of its cells holds.

    cell                                      read as
    {"bytes", "path"}                         StoredAudio: bytes, or else the file at the path
    str, bytes                                StoredAudio
    {"array", "sampling_rate"}                Samples: [n] or [C, n], the type of its numbers kept
    a decoder (`get_all_samples()`)           Samples: all channels; `decoder["array"]` would be their mean
    None                                      None

Columns come as Arrow where they can: a cell of numbers then has its own type, and stored audio is read without the
decoder that `datasets` would put in its place.

Legend: C channels, n samples.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenizer_jobs.errors import ConfigError, ItemError, RejectReason, Stage

__all__ = ["Samples", "StoredAudio", "audio_column", "column_names", "read_cell"]

USUAL_NAME = "audio"
MOST_CHANNELS = 64
"""A first axis longer than this is time, not channels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAudio:
    """A recording in its container: bytes, or where they are."""

    content: bytes | None = field(repr=False)
    """None: the file at `path`."""
    path: str | None
    """Path or URL; beside bytes it is only a name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """A recording that is decoded already."""

    waveform: npt.NDArray[Any] = field(repr=False)
    """[C, n], floats in [-1, 1] or integers at the full scale of their type."""
    sample_rate: int
    """In Hz."""
    source_channels: int | None = None
    """Of the recording, where a decoder says so: it may have mixed them; None: those of the waveform."""


def column_names(batch: Any) -> tuple[str, ...]:
    """Names of the columns of a batch; none where it is the audio column itself."""
    if isinstance(batch, pa.Table):
        return tuple(batch.column_names)
    return tuple(batch) if isinstance(batch, Mapping) else ()


def audio_column(batch: Any, *, name: str | None) -> Sequence[Any]:
    """The audio column of a batch, as Arrow where the batch has that.

    Args:
        batch: An Arrow table, a mapping of columns, a lazy batch of `datasets`, or a list: the column itself.
        name: Of the column; None: `audio`, or else the only one that looks like audio.

    Raises:
        ConfigError: there is no such column, or it has no rows but one value.
    """
    if isinstance(batch, list | tuple):
        return batch
    if not isinstance(batch, pa.Table | Mapping):
        raise ConfigError(f"a batch of type {type(batch).__name__}; expected a mapping of columns or an Arrow table")
    columns: Any = getattr(batch, "pa_table", batch)  # a lazy batch would put decoders in place of stored audio
    chosen = _choose_name(columns, asked=name)
    column: Any = columns[chosen]
    if (
        isinstance(column, str | bytes | Mapping)
        or hasattr(column, "get_all_samples")
        or not hasattr(column, "__len__")
    ):
        raise ConfigError(f"column {chosen!r} holds one value, not one for each row; call map with batched=True")
    return column  # type: ignore[no-any-return]  # anything with a length and values


def read_cell(value: Any) -> StoredAudio | Samples | None:
    """Read one cell of an audio column; None: there is no audio in it.

    Raises:
        ConfigError: it is of a kind that holds no audio, or lacks what is needed to know its sound.
        ItemError: its decoder fails, or its array is no waveform.
    """
    if isinstance(value, pa.Scalar):
        value = _from_arrow(value)
    if value is None:
        return None
    if hasattr(value, "get_all_samples"):
        return _from_decoder(value)
    if isinstance(value, Mapping):
        return _from_mapping(value)
    if isinstance(value, np.bytes_):
        raise ConfigError(
            "the format numpy takes the zero bytes off the end of audio files; map the dataset without a format, or "
            'with_format("arrow")'
        )
    if isinstance(value, bytes | bytearray | memoryview):
        return StoredAudio(content=bytes(value), path=None)
    if isinstance(value, str | os.PathLike):
        return StoredAudio(content=None, path=os.fspath(value))
    raise ConfigError(
        f"an audio cell of type {type(value).__name__}; expected a path, bytes, {{'bytes', 'path'}}, "
        "{'array', 'sampling_rate'} or an audio decoder"
    )


def _choose_name(columns: Any, *, asked: str | None) -> str:
    names = column_names(columns)
    if asked is not None:
        if asked not in names:
            raise ConfigError(f"audio_column = {asked!r} is not in the batch; choose one of {', '.join(names)}")
        return asked
    if USUAL_NAME in names:
        return USUAL_NAME
    found = [name for name in names if _looks_like_audio(columns[name])]
    if len(found) != 1:
        seen = f"{len(found)} columns look like audio" if found else "no column looks like audio"
        raise ConfigError(f"{seen}; say audio_column = one of {', '.join(found or names)}")
    return found[0]


def _looks_like_audio(column: Any) -> bool:
    if isinstance(column, pa.ChunkedArray | pa.Array):
        kind = column.type
        fields = {kind.field(index).name for index in range(kind.num_fields)} if pa.types.is_struct(kind) else set()
        return _has_audio_keys(fields)
    first = next((value for value in _values(column) if value is not None), None)
    return hasattr(first, "get_all_samples") or (isinstance(first, Mapping) and _has_audio_keys(first))


def _has_audio_keys(keys: Iterable[str]) -> bool:
    return {"array", "sampling_rate"} <= set(keys) or {"bytes", "path"} <= set(keys)


def _values(column: Any) -> Iterator[Any]:
    return iter(column) if isinstance(column, Iterable) and not isinstance(column, str | bytes) else iter(())


def _from_arrow(scalar: pa.Scalar) -> Any:
    if not scalar.is_valid:
        return None
    if isinstance(scalar, pa.StructScalar) and "array" in (names := list(scalar)):
        others = {name: scalar[name].as_py() for name in names if name in ("bytes", "path", "sampling_rate")}
        return others | {"array": _numbers(scalar["array"])}
    return scalar.as_py()


def _numbers(scalar: pa.Scalar) -> npt.NDArray[Any] | None:
    """A list of numbers, or of lists of them, with the type that they have in Arrow."""
    if isinstance(scalar, pa.ExtensionScalar):
        scalar = scalar.value
    if scalar is None or not scalar.is_valid:
        return None
    values = scalar.values
    if not hasattr(values, "offsets") and not pa.types.is_fixed_size_list(values.type):
        return np.asarray(values.to_numpy(zero_copy_only=False))
    return _stacked([np.asarray(row.values.to_numpy(zero_copy_only=False)) for row in values])


def _from_mapping(cell: Mapping[str, Any]) -> StoredAudio | Samples | None:
    if (array := cell.get("array")) is not None:
        rate = cell.get("sampling_rate")
        if rate is None:
            raise ConfigError("an audio cell has an array and no sampling_rate; expected both, in Hz")
        return Samples(waveform=_waveform(array), sample_rate=int(rate))
    content, path = cell.get("bytes"), cell.get("path")
    if not {"array", "bytes", "path"} & set(cell):
        raise ConfigError(
            f"an audio cell with the keys {', '.join(map(str, cell))}; expected bytes and path, or array and "
            "sampling_rate"
        )
    if isinstance(content, np.bytes_):
        read_cell(content)
    if content is None and path is None:
        return None
    return StoredAudio(
        content=None if content is None else bytes(content), path=None if path is None else os.fspath(path)
    )


def _from_decoder(decoder: Any) -> Samples:
    try:
        samples = decoder.get_all_samples()
    except RuntimeError as error:
        raise ItemError(f"its decoder: {error}", stage=Stage.DECODE, reason=RejectReason.CORRUPT) from error
    return Samples(
        waveform=_waveform(samples.data),
        sample_rate=int(samples.sample_rate),
        source_channels=getattr(getattr(decoder, "metadata", None), "num_channels", None),
    )


def _waveform(array: Any) -> npt.NDArray[Any]:
    rows = _stacked([np.asarray(row) for row in array]) if _is_nested(array) else np.asarray(array)
    waveform = rows[None] if rows.ndim == 1 else rows
    if waveform.ndim != 2 or waveform.dtype.kind not in "fiu":
        raise ConfigError(
            f"an audio array of {waveform.dtype}{list(rows.shape)}; expected numbers, [samples] or [channels, samples]"
        )
    if waveform.shape[0] > MOST_CHANNELS:
        raise ConfigError(
            f"an audio array of shape {list(rows.shape)}, {waveform.shape[0]} channels; expected [channels, samples]: "
            "transpose it"
        )
    if waveform.dtype.kind in "iu" and waveform.dtype.itemsize == 8:
        raise ConfigError(
            "an audio array of whole numbers of 64 bits, whose full scale cannot be known; give floats in [-1, 1] or "
            'int16, and where a format of datasets has widened them, map with_format("arrow")'
        )
    return waveform


def _is_nested(array: Any) -> bool:
    return isinstance(array, list | tuple) and bool(array) and isinstance(array[0], list | tuple | np.ndarray)


def _stacked(rows: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    lengths = {row.shape for row in rows}
    if len(lengths) > 1:
        raise ItemError(
            f"channels of {' and '.join(str(shape[0]) for shape in sorted(lengths))} samples, expected equal lengths",
            stage=Stage.DECODE,
            reason=RejectReason.CORRUPT,
        )
    return np.stack(rows)
