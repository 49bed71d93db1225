"""The inputs of the chaos: short recordings made by code in three formats, and files that nobody can tokenize."""

import io
from pathlib import Path

import numpy as np
import soundfile

__all__ = ["write_recordings"]

FORMATS = (("wav", "WAV", "PCM_16"), ("flac", "FLAC", "PCM_16"), ("mp3", "MP3", "MPEG_LAYER_III"))
RATES = (8_000, 16_000, 22_050, 24_000, 44_100)
REJECT_EVERY = 20
"""One file in so many is damaged, empty or no audio."""


def write_recordings(folder: Path, *, num_items: int, seed: int) -> None:
    """Write files that sound like short utterances, and rejects between them.

    Args:
        folder: Gets them in subfolders, as speakers have them.
        num_items: How many files, rejects included.
        seed: Decides lengths, rates, formats and samples.
    """
    generator = np.random.default_rng(seed)
    for number in range(num_items):
        extension, container, coding = FORMATS[int(generator.integers(len(FORMATS)))]
        rate = RATES[int(generator.integers(len(RATES)))]
        content = _encoded(_utterance(generator, rate=rate), rate=rate, container=container, coding=coding)
        if number % REJECT_EVERY == REJECT_EVERY // 2:
            content = _spoiled(content, kind=number // REJECT_EVERY % 3)
        path = folder / f"speaker-{number % 7}" / f"{number:04d}.{extension}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _utterance(generator: np.random.Generator, *, rate: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Samples `[n]` of 0.3 to 1.5 s: a voice of a few harmonics that glides and is loud in syllables, over noise."""
    num_samples = int(rate * generator.uniform(0.3, 1.5))
    seconds = np.arange(num_samples) / rate
    pitch = generator.uniform(90, 260) * (1 + 0.1 * np.sin(2 * np.pi * generator.uniform(0.5, 3) * seconds))
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    harmonics = range(1, 8)
    voice = sum(np.sin(harmonic * phase) / harmonic * generator.uniform(0.3, 1) for harmonic in harmonics)
    syllables = 0.5 + 0.5 * np.sin(2 * np.pi * generator.uniform(2, 5) * seconds + generator.uniform(0, 6))
    return np.asarray(0.15 * voice * syllables + 0.005 * generator.normal(size=num_samples), np.float32)


def _encoded(samples: np.ndarray[tuple[int], np.dtype[np.float32]], *, rate: int, container: str, coding: str) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, samples, rate, format=container, subtype=coding)
    return content.getvalue()


def _spoiled(content: bytes, *, kind: int) -> bytes:
    """Nothing, a page of text, or the first third of the file."""
    match kind:
        case 0:
            return b""
        case 1:
            return b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head><body></body></html>\n" * 20
        case _:
            return content[: len(content) // 3]
