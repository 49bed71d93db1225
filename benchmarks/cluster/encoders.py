"""Encoders without a codec: the service's own actor, desk, batching, shards and commits around a codec that sleeps.

    EncoderActor.run ─▶ decoded items ─▶ tokenize_unit ─▶ EncodeDesk ─▶ SleepingCodec ─▶ shard, commit

A unit is one call of the codec, and the desk lets one call in at a time, as the device would: an encoder does 1 /
`unit_seconds` units a second at most, however many it has in hand.
"""

import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tests.tokenizer_jobs.factories import FACTS
from tokenizer_jobs.cluster.actors import EncoderActor
from tokenizer_jobs.encoding import EncodeDesk, Waveform
from tokenizer_jobs.recipe import CodecFacts
from tokenizer_jobs.records import AudioFacts, DecodedItem, EncodedItem, WorkUnit
from tokenizer_jobs.storage import Storage

__all__ = ["encoder_class"]

STUCK_SECONDS = 3600.0
NUM_SAMPLES = 1600
"""Of a made-up item."""


def encoder_class(*, unit_seconds: float, decodes: bool, stuck_after: int | None = None) -> type[Any]:
    """The class of encoders that sleep so long for each unit.

    Args:
        unit_seconds: That the device is busy with a unit.
        decodes: Whether items are decoded by tasks on the cluster; else their waveforms are made up in the encoder.
        stuck_after: Calls of each encoder's codec after which one does not come back; None: all do.
    """

    # Made in here, it travels by value to workers, with these numbers.
    class SleepingEncoder(EncoderActor):
        def load(self, *, num_threads: int) -> str:  # noqa: ARG002  # nothing here computes
            codec, device = SleepingCodec(unit_seconds, stuck_after=stuck_after), f"{self._name}/{os.getpid()}"
            if decodes:
                self._decoder.warm_up()
            else:
                self._decoder = MadeUpAudio()
            self._loaded = (codec, Storage.open(self._job.output), device)
            self._desk = EncodeDesk(codec, merges=False)
            return device

    return SleepingEncoder


class SleepingCodec:
    """Takes its time, and gives codes of the right shape.

    Args:
        unit_seconds: That a call takes.
        stuck_after: Calls after which one takes an hour; None: none does.
    """

    def __init__(self, unit_seconds: float, *, stuck_after: int | None = None) -> None:
        self._unit_seconds = unit_seconds
        self._stuck_after = stuck_after
        self._num_calls = 0

    def encode(self, waveforms: Sequence[Waveform]) -> list[EncodedItem]:
        """Sleep, and give codes [8, T] that follow from the lengths."""
        self._num_calls += 1
        is_stuck = self._stuck_after is not None and self._num_calls > self._stuck_after
        time.sleep(STUCK_SECONDS if is_stuck else self._unit_seconds)
        return [EncodedItem(codes=_codes(waveform.shape[1])) for waveform in waveforms]

    def decode(self, encoded: Sequence[EncodedItem], *, num_samples: Sequence[int]) -> list[Waveform]:
        """Refused: a run decodes nothing back, and codes that follow from lengths alone have no audio."""
        raise NotImplementedError(f"{len(encoded)} items to decode: their codes follow from lengths, and have no audio")

    def describe(self) -> CodecFacts:
        """Facts on what it stands for."""
        return FACTS


def _codes(num_samples: int) -> np.ndarray[tuple[int, int], np.dtype[np.uint16]]:
    num_frames = -(-num_samples // FACTS.hop_length)
    return (np.arange(FACTS.num_codebooks * num_frames, dtype=np.uint16) % 1024).reshape(-1, num_frames)


class MadeUpAudio:
    """Stands where decode tasks would: every item is a fifteenth of a second of a ramp."""

    def warm_up(self) -> None:
        """Nothing to start."""

    def allow(self, num_tasks: int) -> None:
        """Nothing to limit."""

    def note_encoding(self, seconds: float, *, audio_seconds: float) -> None:
        """Nothing to learn."""

    def decode(self, unit: WorkUnit, *, careful: bool) -> Iterator[DecodedItem]:  # noqa: ARG002  # the face of a decoder
        """Give every item of a unit."""
        waveform = np.linspace(-0.5, 0.5, NUM_SAMPLES, dtype=np.float32)[None]
        for position in range(len(unit.items)):
            yield DecodedItem(position=position, waveform=waveform, facts=_AUDIO_FACTS)


_AUDIO_FACTS = AudioFacts(
    num_samples=NUM_SAMPLES,
    sample_rate=FACTS.sample_rate,
    source_sample_rate=FACTS.sample_rate,
    source_channels=1,
    source_format="WAV/PCM_16",
    channel=0,
    rms_db=-10.8,
    peak=0.5,
    clipped_fraction=0.0,
    silent_fraction=0.0,
    truncated=False,
)
