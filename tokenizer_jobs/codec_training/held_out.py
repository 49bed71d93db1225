"""Which recordings are never trained on: chosen by the hash of their bytes, so that no copy slips to the other side."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tokenizer_jobs.codec_training.config import AudioSource
from tokenizer_jobs.codec_training.waveforms import Recording, Waveforms
from tokenizer_jobs.errors import ConfigError

__all__ = ["SplitAudio", "held_out_clips", "split"]

CLIP_SECONDS = 10
SILENCE_DB = -60.0
"""Root mean square, relative to full scale, of a stretch that says little about a codec."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitAudio:
    """The recordings of one source in two parts."""

    waveforms: Waveforms
    training: tuple[Recording, ...]
    held_out: tuple[Recording, ...]


def split(audio: Mapping[str, tuple[Waveforms, AudioSource]]) -> dict[str, SplitAudio]:
    """Part the recordings of each source, by its name: the share with the lowest hashes, rounded up, is held out.

    What one source holds out is not trained on in another.

    Raises:
        ConfigError: nothing of a source is left to train on.
    """
    ordered = {
        name: sorted(waveforms.recordings, key=lambda recording: recording.content_sha256)
        for name, (waveforms, _) in audio.items()
    }
    held_out = {
        name: tuple(ordered[name][: math.ceil(source.held_out_fraction * len(ordered[name]))])
        for name, (_, source) in audio.items()
    }
    never_trained_on = {recording.content_sha256 for recordings in held_out.values() for recording in recordings}
    parts = {}
    for name, (waveforms, source) in audio.items():
        training = tuple(r for r in ordered[name] if r.content_sha256 not in never_trained_on)
        if not training:
            raise ConfigError(
                f"held_out_fraction = {source.held_out_fraction} of source {name}, with what other sources hold out, "
                f"leaves none of {len(ordered[name])} recordings to train on; set it to 0 or add audio"
            )
        parts[name] = SplitAudio(waveforms=waveforms, training=training, held_out=held_out[name])
    return parts


def held_out_clips(audio: SplitAudio, *, max_clips: int | None = None) -> list[Tensor]:
    """Return a clip of each held-out recording, float32 `[C, n]` of 10 s at most; of silent ones none.

    A clip is the first stretch of 10 s that is not below -60 dB, or the loudest one.

    Args:
        audio: of one source.
        max_clips: the first so many; None: all.
    """
    clips: list[Tensor] = []
    for recording in audio.held_out:
        if len(clips) == max_clips:
            break
        num_samples = min(recording.num_samples, CLIP_SECONDS * audio.waveforms.sample_rate)
        start = _sounding_stretch(audio.waveforms, recording, num_samples=num_samples)
        if start is not None:
            clips.append(torch.from_numpy(audio.waveforms.crop(recording, start=start, num_samples=num_samples)))
    return clips


def _sounding_stretch(waveforms: Waveforms, recording: Recording, *, num_samples: int) -> int | None:
    """Return where to listen to a recording, in samples; None where there is nothing to hear."""
    loudest, highest_rms = None, 0.0
    for start in range(0, recording.num_samples, num_samples):
        first = min(start, recording.num_samples - num_samples)
        crop = waveforms.crop(recording, start=first, num_samples=num_samples)
        rms = float(np.sqrt(np.mean(np.square(crop), dtype=np.float64)))
        if rms >= 10 ** (SILENCE_DB / 20):
            return first
        if rms > highest_rms:
            loudest, highest_rms = first, rms
    return loudest
