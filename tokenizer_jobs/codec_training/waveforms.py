"""Audio decoded once: every item of a source as int16 samples at the codec's rate, in one file that is memory-mapped.

WAVEFORMS/
  samples.i16     item after item, [n, C] each, little-endian
  index.json      written last: what was decoded, where each recording lies, and what could not be decoded
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenizer_jobs.errors import IntegrityError

__all__ = ["FULL_SCALE", "INDEX", "SAMPLES", "Recording", "Undecoded", "Waveforms", "open_waveforms"]

SAMPLES, INDEX = "samples.i16", "index.json"
FULL_SCALE = 32767


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """One item of a source."""

    id: str
    content_sha256: str
    """Of the item's bytes; copies of a recording agree in it."""
    start: int
    """Its first sample in the file, counted in samples per channel."""
    num_samples: int
    """Per channel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Undecoded:
    """One item of a source that is no recording."""

    id: str
    reason: str
    """Of `RejectReason`."""
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Waveforms:
    """The decoded audio of one source."""

    samples: npt.NDArray[np.int16]
    """[n, C], memory-mapped."""
    sample_rate: int
    """In Hz."""
    recordings: tuple[Recording, ...]
    undecoded: tuple[Undecoded, ...]
    num_copies: int
    """Items that were left out because they hold the same bytes as a recording."""

    @property
    def hours(self) -> float:
        """Of all recordings."""
        return len(self.samples) / self.sample_rate / 3600

    def crop(self, recording: Recording, *, start: int, num_samples: int) -> npt.NDArray[np.float32]:
        """Float32 [C, num_samples] in [-1, 1], from sample `start` of a recording; zeros beyond its end."""
        num_present = max(0, min(num_samples, recording.num_samples - start))
        first = recording.start + start
        present = self.samples[first : first + num_present].T.astype(np.float32) / FULL_SCALE
        return np.pad(present, ((0, 0), (0, num_samples - num_present)))


def open_waveforms(folder: Path) -> Waveforms:
    """Open decoded audio; changes nothing.

    Raises:
        FileNotFoundError: there is none.
        IntegrityError: the samples are not as many as the index says.
    """
    index: Mapping[str, Any] = json.loads((folder / INDEX).read_text())
    recordings = tuple(Recording(**fields) for fields in index["recordings"])
    channels = int(index["origin"]["channels"])
    expected = sum(recording.num_samples for recording in recordings) * channels * np.dtype("<i2").itemsize
    found = (folder / SAMPLES).stat().st_size
    if found != expected:
        raise IntegrityError(
            f"{folder / SAMPLES} holds {found} bytes, its index says {expected}; remove {folder} to decode the audio "
            "again"
        )
    return Waveforms(
        samples=np.memmap(folder / SAMPLES, dtype="<i2", mode="r").reshape(-1, channels),
        sample_rate=int(index["origin"]["sample_rate"]),
        recordings=recordings,
        undecoded=tuple(Undecoded(**fields) for fields in index.get("undecoded", ())),
        num_copies=index.get("num_copies", 0),
    )
