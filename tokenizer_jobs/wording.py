"""How quantities and notes are worded for people, the same in every command."""

import difflib
import shlex
from collections.abc import Iterable, Mapping

__all__ = [
    "audio_text",
    "bytes_text",
    "count_text",
    "counts_text",
    "did_you_mean",
    "rejects_command",
    "span_text",
    "speed_text",
]

_SHORTEST_HOURS = 0.1


def count_text(count: int, noun: str) -> str:
    """A count and its noun: `1 row`, `12,000 rows`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def counts_text(counts: Mapping[str, int]) -> str:
    """Counts by name, the most frequent first: `WAV/PCM_16 30, FLAC/PCM_16 2`; `none` when there are none."""
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{name} {count:,}" for name, count in ordered) or "none"


def rejects_command(output: str) -> str:
    """The command that shows an output's rejects, between backquotes, as it can be typed."""
    return f"`tokenizer-jobs status {shlex.quote(output)} --rejects`"


def audio_text(hours: float) -> str:
    """A duration of audio: seconds below six minutes, else hours."""
    return f"{hours * 3600:,.1f} s" if hours < _SHORTEST_HOURS else f"{hours:,.2f} h"


def span_text(seconds: float) -> str:
    """A stretch of clock time: `42 s`, `3 min 20 s`, `2 h 05 min`, `3 d 4 h`."""
    whole = round(seconds)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days} d {hour} h"
    if hours:
        return f"{hours} h {minute:02d} min"
    if minutes:
        return f"{minutes} min {second:02d} s"
    return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"


def speed_text(speed: float) -> str:
    """Audio per time: `0.3 × real time`, `1,200 × real time`."""
    return f"{speed:,.1f} × real time" if speed < 10 else f"{speed:,.0f} × real time"


def bytes_text(size: float) -> str:
    """A size in decimal units: `812 B`, `4.1 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: `; did you mean files?`, or nothing where none is like it."""
    by_lower_case = {word.lower(): word for word in known}
    close = difflib.get_close_matches(name.lower(), by_lower_case, n=1)
    return f"; did you mean {by_lower_case[close[0]]}?" if close and by_lower_case[close[0]] != name else ""
