"""What headers say about items, for cost estimates and the dry run: cheap, and never decisive."""

import os
from dataclasses import dataclass
from typing import IO

import soundfile

from tokenizer_jobs.errors import ItemError, TransientError
from tokenizer_jobs.records import Item
from tokenizer_jobs.sources.listing import Source

__all__ = ["AUDIO_EXTENSIONS", "HeaderFacts", "estimate_seconds", "probe", "read_header"]

_BYTES_PER_SECOND = {
    **dict.fromkeys(("wav", "wave", "bwf", "rf64", "w64", "aif", "aiff", "aifc", "au", "snd", "caf", "sph"), 88_200),
    **dict.fromkeys(("flac", "wv", "ape", "tta"), 60_000),
    **dict.fromkeys(("mp3", "mp2", "m4a", "m4b", "mp4", "aac", "wma", "ac3", "webm", "mka"), 16_000),
    **dict.fromkeys(("ogg", "oga"), 12_000),
    **dict.fromkeys(("opus", "g722"), 8_000),
    "amr": 1_600,
}
AUDIO_EXTENSIONS = frozenset(_BYTES_PER_SECOND)
"""Lower case, without the dot."""
_UNKNOWN_BYTES_PER_SECOND = 32_000


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderFacts:
    """What an item's header claims; nothing has been decoded."""

    format: str
    """Container and coding as soundfile names them, such as `WAV/PCM_16`."""
    sample_rate: int
    """In Hz."""
    channels: int
    seconds: float
    """Duration; an estimate for mp3."""


def read_header(file: str | os.PathLike[str] | IO[bytes]) -> HeaderFacts | None:
    """Read a header by soundfile; None when it cannot, which says nothing about the audio yet."""
    try:
        with soundfile.SoundFile(file) as opened:
            return HeaderFacts(
                format=f"{opened.format}/{opened.subtype}",
                sample_rate=opened.samplerate,
                channels=opened.channels,
                seconds=opened.frames / opened.samplerate,
            )
    except (soundfile.SoundFileError, OSError, ZeroDivisionError):
        return None


def probe(source: Source, item: Item) -> HeaderFacts | None:
    """Read one item's header through its source; None when it cannot be opened or read."""
    try:
        with source.open(item) as file:
            return read_header(file)
    except (ItemError, OSError, TransientError):
        return None


def estimate_seconds(size_bytes: int | None, *, extension: str, header: HeaderFacts | None = None) -> float:
    """Duration by the header, else by the bytes and what its format usually needs for a second.

    A lying header cannot claim more than one second a byte.
    """
    if header is not None:
        return header.seconds if size_bytes is None else min(header.seconds, float(size_bytes))
    return (size_bytes or 0) / _BYTES_PER_SECOND.get(extension, _UNKNOWN_BYTES_PER_SECOND)
