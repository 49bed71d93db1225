"""A few dozen short clips made by code, so that everything runs without a file or a network.

An item's bytes are rendered from its id wherever they are asked for; the same id gives the same clip in every worker.
"""

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import IO

import numpy as np
import numpy.typing as npt
import soundfile

from tokenizer_jobs.errors import ItemError, RejectReason, Stage
from tokenizer_jobs.records import Item
from tokenizer_jobs.sources.listing import Listing

__all__ = ["DemoClips"]

_VERSION = "demo-1"
"""Changes when any clip does."""
_BLOCK = 4096
"""libsndfile 1.2.2 overflows its stack when a long Vorbis clip is written in one call."""


@dataclass(frozen=True, slots=True)
class _Clip:
    shape: str
    """`tone`, `chirp`, `noise` or `chord`."""
    pitch: int
    """Of the tone, or where the chirp begins, in Hz; the seed of noise."""
    rate: int
    """In Hz."""
    channels: int
    seconds: float
    extension: str
    coding: str

    @property
    def name(self) -> str:
        return f"{self.shape}-{self.pitch}.{self.extension}"

    @property
    def id(self) -> str:
        return f"{self.shape}-{self.pitch}-{self.extension}"


_CLIPS = (
    _Clip("tone", 220, 8000, 1, 1.0, "wav", "PCM_16"),
    _Clip("tone", 330, 11025, 1, 1.5, "wav", "PCM_24"),
    _Clip("tone", 440, 24000, 1, 2.0, "wav", "PCM_16"),
    _Clip("tone", 550, 22050, 1, 1.25, "wav", "FLOAT"),
    _Clip("tone", 660, 44100, 2, 2.0, "wav", "PCM_16"),
    _Clip("tone", 770, 48000, 2, 1.0, "wav", "PCM_24"),
    _Clip("tone", 880, 16000, 1, 0.2, "wav", "PCM_16"),
    _Clip("tone", 440, 24000, 1, 2.0, "flac", "PCM_16"),
    _Clip("tone", 990, 44100, 1, 2.5, "flac", "PCM_24"),
    _Clip("tone", 440, 44100, 1, 2.0, "ogg", "VORBIS"),
    _Clip("tone", 440, 44100, 1, 2.0, "mp3", "MPEG_LAYER_III"),
    _Clip("chirp", 100, 8000, 1, 2.0, "wav", "PCM_16"),
    _Clip("chirp", 150, 11025, 1, 1.0, "flac", "PCM_16"),
    _Clip("chirp", 200, 22050, 2, 2.0, "flac", "PCM_16"),
    _Clip("chirp", 250, 48000, 2, 3.0, "flac", "PCM_24"),
    _Clip("chirp", 300, 48000, 1, 2.0, "ogg", "VORBIS"),
    _Clip("chirp", 350, 22050, 2, 1.5, "ogg", "VORBIS"),
    _Clip("chirp", 400, 24000, 1, 2.0, "mp3", "MPEG_LAYER_III"),
    _Clip("chirp", 450, 44100, 2, 3.0, "mp3", "MPEG_LAYER_III"),
    _Clip("chirp", 500, 48000, 1, 4.0, "wav", "FLOAT"),
    _Clip("noise", 1, 8000, 1, 0.25, "wav", "PCM_16"),
    _Clip("noise", 2, 24000, 1, 1.5, "wav", "PCM_16"),
    _Clip("noise", 3, 44100, 2, 2.0, "wav", "PCM_24"),
    _Clip("noise", 4, 22050, 1, 1.0, "flac", "PCM_16"),
    _Clip("noise", 5, 44100, 1, 1.0, "ogg", "VORBIS"),
    _Clip("noise", 6, 44100, 2, 1.5, "mp3", "MPEG_LAYER_III"),
    _Clip("chord", 110, 24000, 1, 4.0, "wav", "PCM_16"),
    _Clip("chord", 165, 44100, 2, 3.5, "flac", "PCM_16"),
    _Clip("chord", 196, 48000, 2, 2.5, "ogg", "VORBIS"),
    _Clip("chord", 247, 22050, 1, 2.0, "mp3", "MPEG_LAYER_III"),
    _Clip("chord", 262, 16000, 1, 1.75, "flac", "PCM_16"),
    _Clip("chord", 330, 44100, 2, 2.25, "wav", "FLOAT"),
)


class DemoClips:
    """The source of kind `demo`."""

    def list(self) -> Listing:
        """List every clip."""
        items = (
            Item(
                id=clip.id,
                source_uri=f"demo:{clip.name}",
                source_size=len(_render(clip)),
                source_etag=_VERSION,
                estimated_seconds=clip.seconds,
            )
            for clip in _CLIPS
        )
        return Listing(items=tuple(sorted(items, key=lambda item: item.source_uri)), skipped={})

    def open(self, item: Item) -> IO[bytes]:
        """Render a clip.

        Raises:
            FileNotFoundError: there is no clip of that id.
            ItemError: the clips were made anew since the item was planned.
        """
        clip = next((clip for clip in _CLIPS if clip.id == item.id), None)
        if clip is None:
            raise FileNotFoundError(f"no demo clip has the id {item.id!r}")
        if item.source_etag not in (None, _VERSION):
            raise ItemError(
                f"version {_VERSION}, {item.source_etag} when it was planned",
                stage=Stage.READ,
                reason=RejectReason.CHANGED,
            )
        return io.BytesIO(_render(clip))


@lru_cache(maxsize=len(_CLIPS))
def _render(clip: _Clip) -> bytes:
    waveform = _waveform(clip)
    content = io.BytesIO()
    container = {"wav": "WAV", "flac": "FLAC", "ogg": "OGG", "mp3": "MP3"}[clip.extension]
    with soundfile.SoundFile(
        content, "w", samplerate=clip.rate, channels=clip.channels, format=container, subtype=clip.coding
    ) as file:
        for start in range(0, len(waveform), _BLOCK):
            file.write(waveform[start : start + _BLOCK])
    return content.getvalue()


def _waveform(clip: _Clip) -> npt.NDArray[np.float32]:
    """Samples [n, C] within ±0.5, faded in and out over 10 ms."""
    num_samples = round(clip.seconds * clip.rate)
    time = np.arange(num_samples) / clip.rate
    fade = np.clip(np.minimum(time, time[::-1]) / 0.01, 0, 1)
    channels = [0.5 * fade * channel for channel in _channels(clip, time)]
    return np.stack(channels, axis=1).astype(np.float32)


def _channels(clip: _Clip, time: npt.NDArray[np.float64]) -> Iterator[npt.NDArray[np.float64]]:
    for channel in range(clip.channels):
        pitch = clip.pitch * (1 + channel / 2)  # the right channel is a fifth higher
        match clip.shape:
            case "tone":
                yield np.sin(2 * np.pi * pitch * time)
            case "chirp":
                octaves = math.log2(min(clip.rate / 2.5, 8000) / pitch)
                growth = octaves * math.log(2) / clip.seconds
                yield np.sin(2 * np.pi * pitch * np.expm1(growth * time) / growth)
            case "noise":
                noise = np.random.default_rng([clip.pitch, channel]).uniform(-1, 1, len(time))
                yield noise * (np.sin(2 * np.pi * 3 * time) > 0)  # bursts, three a second
            case _:
                partials = [np.sin(2 * np.pi * pitch * ratio * time) / 3 for ratio in (1, 1.25, 1.5)]
                yield np.sum(partials, axis=0) * np.exp(-time)
