"""What the service asks of a codec. Another one slots in by offering the three methods of `Codec`."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from tokenizer_jobs.recipe import CodecFacts
from tokenizer_jobs.records import EncodedItem

__all__ = ["Codec", "EncodeStream", "LaneCodec", "PaddingCodec", "StreamingCodec", "Waveform"]

Waveform = npt.NDArray[np.float32]
"""[C, n] in [-1, 1], at the codec's rate and channel count."""


@runtime_checkable
class Codec(Protocol):
    """What the service asks of a codec."""

    def encode(self, waveforms: Sequence[Waveform]) -> list[EncodedItem]:
        """Encode each waveform [C, n] as if it were alone."""

    def decode(self, encoded: Sequence[EncodedItem], *, num_samples: Sequence[int]) -> list[Waveform]:
        """Decode each item to a waveform [C, n] of the given number of samples."""

    def describe(self) -> CodecFacts:
        """Say what the codec is, down to the sha256 of its weights."""


class EncodeStream(Protocol):
    """One recording while it is encoded, in memory that does not grow with it but for the codes."""

    def push(self, waveform: Waveform) -> None:
        """Take the next samples [C, n], n >= 0."""

    def finish(self) -> EncodedItem:
        """End the recording and return what `encode` gives for the whole of it; the stream is of no more use."""


@runtime_checkable
class PaddingCodec(Protocol):
    """A codec that says what it computed in vain."""

    @property
    def num_padded_samples(self) -> int:
        """Samples, so far, that filled items up to the length of others in their batch."""


@runtime_checkable
class StreamingCodec(Codec, Protocol):
    """A codec that offers more: recordings of any length. Its facts say `streamed` where it does."""

    def stream(self) -> EncodeStream:
        """Begin a recording; any number may be open at once, one of them computing at a time."""


@runtime_checkable
class LaneCodec(StreamingCodec, Protocol):
    """A codec whose streams take less time together than one after the other."""

    @property
    def max_lanes(self) -> int:
        """Streams that are worth encoding together, at most; 1: none is."""

    def push_together(self, pushes: Sequence[tuple[EncodeStream, Waveform]]) -> None:
        """Push samples [C, n], n >= 0, into streams of this codec, each there once, as if each were alone."""
