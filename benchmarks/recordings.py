"""Audio for benchmarks of the codec: real recordings one after the other, or made by code where there are none."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import soundfile
import soxr
import torch
from torch import Tensor

from tests.fitted_models import synthetic_waveform

__all__ = ["Recordings", "load_recordings"]

SUFFIXES = {".wav", ".flac", ".ogg", ".mp3", ".opus"}
LONGEST_SECONDS = 5
"""Of a longer recording its beginning, so that there are many."""
SYNTHETIC_SECONDS = 10
"""Length of each recording made by code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recordings:
    """One long waveform."""

    waveform: Tensor
    """`[C, n]` float32 in [-1, 1]."""
    about: str
    """One line: what it is."""


def load_recordings(folder: Path, *, seconds: float, sampling_rate: int, num_channels: int) -> Recordings:
    """Put different recordings one after the other.

    The subfolders of `folder` are its kinds of audio. The next recording is always one of the kind that has had the
    fewest seconds; a kind's own come in the order of their paths. Where `folder` has no audio, or too little, the rest
    is made by code, and `about` says so.

    Args:
        folder: of WAV, FLAC, Ogg or MP3 files.
        seconds: how much of it.
        sampling_rate: to resample to.
        num_channels: 1 mixes; 2 repeats a lone channel.
    """
    wanted = round(seconds * sampling_rate)
    pieces: list[Tensor] = []
    kinds: dict[str, float] = {}
    for kind, samples in _each_recording(folder, sampling_rate=sampling_rate, num_channels=num_channels):
        kinds[kind] = kinds.get(kind, 0.0) + samples.shape[1] / sampling_rate
        pieces.append(samples)
        if sum(piece.shape[1] for piece in pieces) >= wanted:
            break
    num_real, num_samples = len(pieces), sum(piece.shape[1] for piece in pieces)
    while num_samples < wanted:
        length = SYNTHETIC_SECONDS * sampling_rate
        seed = 7000 + len(pieces)
        pieces.append(synthetic_waveform(length, num_channels=num_channels, sampling_rate=sampling_rate, seed=seed))
        num_samples += length
    waveform = torch.cat(pieces, 1)[:, :wanted].contiguous()
    real = ", ".join(f"{kind} {kind_seconds:.0f} s" for kind, kind_seconds in sorted(kinds.items()))
    if num_real == 0:
        about = "audio made by code, because there were no recordings"
    elif num_real < len(pieces):
        about = f"{num_real} recordings ({real}), and audio made by code, because there were too few"
    else:
        about = f"{num_real} recordings one after the other ({real})"
    return Recordings(waveform=waveform, about=about)


def _each_recording(folder: Path, *, sampling_rate: int, num_channels: int) -> Iterator[tuple[str, Tensor]]:
    """Yield kind and samples `[C, n]` of each recording, a turn at a time for the kind with the fewest seconds."""
    paths: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.suffix.lower() in SUFFIXES:
            paths.setdefault(path.relative_to(folder).parts[0], []).append(path)
    num_samples = dict.fromkeys(sorted(paths), 0)
    while num_samples:
        kind = min(num_samples, key=lambda name: num_samples[name])
        samples = _read(paths[kind].pop(), sampling_rate=sampling_rate, num_channels=num_channels)
        num_samples[kind] += samples.shape[1]
        if not paths[kind]:
            del num_samples[kind]
        yield kind, samples


def _read(path: Path, *, sampling_rate: int, num_channels: int) -> Tensor:
    with soundfile.SoundFile(path) as file:
        source_rate = file.samplerate
        samples = file.read(LONGEST_SECONDS * source_rate, dtype="float32", always_2d=True)
    if samples.shape[1] > num_channels:
        samples = samples.mean(axis=1, keepdims=True)
    resampled = torch.from_numpy(soxr.resample(samples, source_rate, sampling_rate)).t()
    return resampled.expand(num_channels, -1).clamp(-1, 1)
