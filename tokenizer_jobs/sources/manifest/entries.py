"""What a line of a manifest says about an item, and how single values of a line are read: strictly, naming the line."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from tokenizer_jobs.sources.manifest.lines import Line

__all__ = ["Entry", "Reader", "audio_path", "own_id", "seconds_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One item as a line names it."""

    path: str
    """As the line has it: absolute, relative, or a URL."""
    id: str | None
    """The line's own; None: made from the path and the cut."""
    start_seconds: float | None
    duration_seconds: float | None
    channel: int | None = None
    columns: Mapping[str, Any]
    """What may be passed through."""


class Reader(Protocol):
    """Makes items of the lines of one file."""

    names: set[str]
    """Fields that the lines were seen to have."""

    def entries(self, line: Line) -> tuple[Entry, ...]:
        """The items of one line.

        Raises:
            ConfigError: a field is missing or has a value of another kind.
        """


def audio_path(line: Line, name: str, value: object) -> str:
    """The path or URL that a field names.

    Raises:
        ConfigError: it is empty, no text, several files, or the pipe of a shell, which is never run.
    """
    if isinstance(value, list):
        raise line.fault(f"{name} = {value!r:.200} lists several files; expected one, with all of its channels inside")
    if not isinstance(value, str) or not value.strip():
        raise line.fault(f"{name} = {value!r:.200}; expected the path or URL of an audio file, so mend the line")
    if value.rstrip().endswith("|"):
        raise line.fault(
            f"{name} = {value!r:.200} is a shell pipe, which is not run; write its output to a file and name that"
        )
    if "\0" in value:
        raise line.fault(f"{name} = {value!r:.200} holds a zero byte, which no path may")
    return value


def own_id(line: Line, name: str) -> str:
    """The id that a field holds: a text, or an integer.

    Raises:
        ConfigError: the line has none.
    """
    value = line.fields.get(name)
    if name not in line.fields:
        raise line.fault(
            f"no field {name!r} among {', '.join(line.fields)}; every line of the file needs an id when its first has "
            "one or selection.source.id_column is set"
        )
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise line.fault(
            f"{name} = {value!r:.200}; expected a text or an integer, as every line of the file needs an id when its "
            "first has one or selection.source.id_column is set"
        )
    return str(value)


def seconds_of(line: Line, name: str | None) -> float | None:
    """A time or a duration in seconds; None where there is none.

    Raises:
        ConfigError: it is no number, negative or not finite.
    """
    value = None if name is None else line.fields.get(name)
    if value is None or (type(value) is float and 0 <= value < math.inf):  # of ten million lines nearly all
        return value
    number = _number(value, is_text=line.is_text)
    if number is None or not math.isfinite(number) or number < 0:
        raise line.fault(f"{name} = {value!r:.200}; expected seconds, a number of 0 or more, so mend the line")
    return number


def _number(value: object, *, is_text: bool) -> float | None:
    if is_text and isinstance(value, str) and "_" not in value:
        try:
            return float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return None
