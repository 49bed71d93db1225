"""Audio made for tests, in every container that soundfile writes, and a source over bytes in memory."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO

import numpy as np
import numpy.typing as npt
import soundfile

from tokenizer_jobs.decode import AudioTarget, decode_items
from tokenizer_jobs.records import Decoded, Item
from tokenizer_jobs.sources import Listing

RATE = 16000
MONO = AudioTarget(sample_rate=RATE, channels=1)


@dataclass
class MemorySource:
    """Items by id; an exception instead of bytes is raised when the item is opened."""

    contents: Mapping[str, bytes | Exception]

    def list(self) -> Listing:
        items = (Item(id=name, source_uri=name) for name in sorted(self.contents))
        return Listing(items=tuple(items), skipped={})

    def open(self, item: Item) -> IO[bytes]:
        content = self.contents[item.id]
        if isinstance(content, Exception):
            raise content
        return io.BytesIO(content)


def decode_bytes(content: bytes | Exception, *, target: AudioTarget = MONO, name: str = "clip.bin") -> Decoded:
    source = MemorySource({name: content})
    (decoded,) = decode_items([(0, Item(id=name, source_uri=name))], source=source, target=target)
    return decoded


def speechlike(num_samples: int, *, channels: int = 1, rate: int = RATE) -> npt.NDArray[np.float32]:
    """Samples [n, C]: a wavering tone over noise, different in each channel."""
    time = np.arange(num_samples)[:, None] / rate
    noise = np.random.default_rng(7).normal(size=(num_samples, channels))
    tone = np.sin(2 * np.pi * (200 + 90 * np.arange(channels)) * time + 3 * np.sin(5 * time))
    return np.asarray(0.3 * tone + 0.03 * noise, np.float32)


def encode(
    waveform: npt.NDArray[np.generic], *, container: str, coding: str, rate: int = RATE, variable_bitrate: bool = False
) -> bytes:
    """Encode [n, C] in small writes, since libsndfile overflows its stack on long Vorbis writes."""
    content = io.BytesIO()
    options = {"bitrate_mode": "VARIABLE", "compression_level": 0.5} if variable_bitrate else {}
    with soundfile.SoundFile(
        content, "w", samplerate=rate, channels=waveform.shape[1], format=container, subtype=coding, **options
    ) as file:
        for start in range(0, len(waveform), 4096):
            file.write(waveform[start : start + 4096])
    return content.getvalue()


CONTAINERS = {
    "wav": ("WAV", "PCM_16"),
    "wav24": ("WAVEX", "PCM_24"),
    "wavfloat": ("WAV", "FLOAT"),
    "rf64": ("RF64", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "nist": ("NIST", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "flac24": ("FLAC", "PCM_24"),
    "ogg": ("OGG", "VORBIS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}
