"""Text and metadata beside the codes, and what becomes of them where a sample is a part of a recording."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import pyarrow as pa

from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.training.windows import LoadedWindow
from tokenizer_jobs.training.words import crop_words

__all__ = ["SampleColumns"]

_OURS = frozenset(
    {"codes", "tokens", "start_frame", "positions", "document_ids", "cu_seqlens", "documents", "lengths", "mask"}
    | {"source"}
)
_OF_WHOLE_ROWS = frozenset({"scales", "window_frames"})
_TIMES = ("slice_count", "start_sample", "sample_rate")


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleColumns:
    """The columns that samples have; `of` makes it."""

    asked: tuple[str, ...]
    read: tuple[str, ...]
    """The id, those asked for, and what their times are found by."""
    has_words: bool
    frame_rate: float

    @classmethod
    def of(cls, schema: pa.Schema, columns: Sequence[str], *, cuts: bool, frame_rate: float) -> Self:
        """Check the columns that are asked for.

        Args:
            schema: Of the rows.
            columns: Names.
            cuts: Whether a sample may be a part of a row.
            frame_rate: Frames per second.

        Raises:
            ConfigError: there is no such column, or it does not follow a cut.
        """
        if isinstance(columns, str):
            raise ConfigError(f"columns = {columns!r} is one name; give a list of names")
        missing = [name for name in columns if name not in schema.names or name in _OURS]
        if missing:
            offered = ", ".join(name for name in schema.names if name not in _OURS)
            raise ConfigError(f"columns {', '.join(missing)} cannot be had beside the codes; choose of {offered}")
        has_words = "words" in schema.names
        whole = sorted(_OF_WHOLE_ROWS.intersection(columns))
        if cuts and whole:
            raise ConfigError(f"columns {', '.join(whole)} belong to whole rows; leave them out, or crop_frames")
        if cuts and "text" in columns and not has_words:
            raise ConfigError(_REMEDY.format("column 'text' cannot follow a crop"))
        timed = ("text" in columns or "words" in columns) and {*_TIMES}.issubset(schema.names)
        helpers = [*_TIMES, *(["words"] if has_words else [])] if timed else []
        return cls(
            asked=tuple(columns),
            read=tuple(dict.fromkeys(["id", *columns, *helpers])),
            has_words=has_words,
            frame_rate=frame_rate,
        )

    def of_piece(self, window: LoadedWindow, place: int, *, start: int, length: int) -> dict[str, Any]:
        """The id and the columns of a piece of a row.

        Args:
            window: That the row is in.
            place: Of the row.
            start: First frame of the piece in the row.
            length: Frames of the piece.

        Raises:
            ConfigError: a text has no words to choose from.
        """
        values = {name: window.columns[name][place] for name in ("id", *self.asked)}
        if "text" not in values and "words" not in values:
            return values
        is_whole = length == window.num_frames[place] and window.columns["slice_count"][place] == 1
        if is_whole:
            return values
        words = window.columns["words"][place] if self.has_words else None
        if words is None:
            if values.get("text") is not None:
                raise ConfigError(
                    _REMEDY.format(f"{values['id']!r} is a part of a recording, the text is of all of it")
                )
            return values
        offset = window.columns["start_sample"][place] / window.columns["sample_rate"][place]
        begin, end = (offset + frame / self.frame_rate for frame in (start, start + length))
        words = crop_words(words, start_seconds=begin, end_seconds=end)
        told = {"words": words, "text": " ".join(word["text"] for word in words)}
        return {name: told.get(name, value) for name, value in values.items()}


_REMEDY = (
    "{}: which of it is heard is not known without a column `words` (list of text, start_seconds, end_seconds); give "
    "the source one and tokenize with it, or read whole items (crop_frames=None, no packing, no slices), or leave out "
    "'text'"
)
