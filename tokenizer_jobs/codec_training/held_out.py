"""Which recordings are never trained on: chosen by the hash of their bytes, so that no copy slips to the other side."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenizer_jobs.codec_training.config import AudioSource
from tokenizer_jobs.codec_training.waveforms import Recording, Waveforms
from tokenizer_jobs.errors import ConfigError

__all__ = ["SplitAudio", "held_out_clips", "split"]

CLIP_SECONDS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitAudio:
    """The recordings of one source in two parts."""

    waveforms: Waveforms
    training: tuple[Recording, ...]
    held_out: tuple[Recording, ...]


def split(waveforms: Waveforms, source: AudioSource) -> SplitAudio:
    """Part the recordings of a source: the share with the lowest hashes, rounded up, is held out.

    Raises:
        ConfigError: nothing is left to train on.
    """
    recordings = sorted(waveforms.recordings, key=lambda recording: recording.content_sha256)
    num_held_out = math.ceil(source.held_out_fraction * len(recordings))
    if num_held_out == len(recordings):
        raise ConfigError(
            f"held_out_fraction = {source.held_out_fraction} leaves none of {len(recordings)} recordings to train on; "
            "set it to 0 or add audio"
        )
    return SplitAudio(
        waveforms=waveforms, training=tuple(recordings[num_held_out:]), held_out=tuple(recordings[:num_held_out])
    )


def held_out_clips(audio: SplitAudio, recordings: Sequence[Recording], *, sample_rate: int) -> list[Tensor]:
    """The first 10 s, or all, of each recording: float32 [C, n]."""
    longest = CLIP_SECONDS * sample_rate
    return [
        torch.from_numpy(audio.waveforms.crop(r, start=0, num_samples=min(longest, r.num_samples))) for r in recordings
    ]
