"""Audio to latents while it arrives: for a causal codec frame by frame, for one with windows window by window.

Letters in shapes: N streams, C audio channels, n samples, D latent channels, t frames.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Protocol

import torch
from torch import Tensor

from encodec_core.config import EncodecConfig
from encodec_core.fast.lanes import LaneEncoder
from encodec_core.fast.layers import FoldedEncoder
from encodec_core.fast.loudness import window_loudness
from encodec_core.fast.lstm import MAX_LANES
from encodec_core.fast.native.encoder import BlockedEncoder, can_run_blocked
from encodec_core.fast.native.stream import BlockedStream
from encodec_core.quantization.codebook import Codebook
from encodec_core.streaming.network import NetworkStream
from encodec_core.windows import window_spans

__all__ = ["CausalLatents", "LatentPiece", "LatentSource", "WindowLatents", "latents_of", "tile_samples"]

TILE_SAMPLES = 24_000
"""Samples of a stream that go through the convolutions at once, which bounds the memory; as in `fast.lanes`."""
BATCH_SAMPLES = 96_000
"""Samples of all streams at once, 12 MB in the widest layer of the 24 kHz codec; tiles are shorter for more than four
streams."""
SMALLEST_TILE = 2_400


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentPiece:
    """Latents that are final."""

    latents: Tensor
    """`[N, D, t]`; those of one window, if the codec has windows."""
    scales: Tensor | None
    """`[N]`: loudness that was divided out of the window; None unless the codec has windows."""


class LatentSource(Protocol):
    """Turns audio into latents as it arrives."""

    def push(self, waveforms: Tensor) -> Iterator[LatentPiece]:
        """Take the next samples `[N, C, n]` of N streams, n >= 0, and yield what they complete."""

    def flush(self) -> Iterator[LatentPiece]:
        """End the streams and yield what is left; the next samples begin new ones."""


def tile_samples(num_streams: int) -> int:
    """Return how many samples of each stream go through the convolutions at once."""
    return min(TILE_SAMPLES, max(SMALLEST_TILE, BATCH_SAMPLES // num_streams))


def latents_of(
    config: EncodecConfig, encoder: FoldedEncoder, codebooks: Sequence[Codebook], *, num_streams: int
) -> LatentSource:
    """Return the way that streams of this codec go; where `BatchEncoder` runs the kernels for it, so do they."""
    blocked = can_run_blocked(encoder, codebooks)
    if config.chunk_length is None:
        stream = BlockedStream if blocked else NetworkStream
        return CausalLatents(config, encoder, stream(encoder, num_streams=num_streams), num_streams=num_streams)
    if blocked:
        encode = BlockedEncoder(encoder, codebooks, hop_length=config.hop_length).latents
    else:
        encode = partial(_latents_in_lanes, LaneEncoder(encoder, convolution_dtype=encoder.dtype))
    return WindowLatents(config, encoder, encode, num_streams=num_streams)


class CausalLatents:
    """Latents of a causal codec: those of a frame come with its last sample, after a start of seven frames."""

    def __init__(
        self,
        config: EncodecConfig,
        encoder: FoldedEncoder,
        network: NetworkStream | BlockedStream,
        *,
        num_streams: int,
    ) -> None:
        self._network = network
        self._nothing = torch.zeros(num_streams, config.audio_channels, 0, dtype=encoder.dtype, device=encoder.device)
        self._tile_samples = tile_samples(num_streams)

    def push(self, waveforms: Tensor) -> Iterator[LatentPiece]:
        """See `LatentSource`."""
        for tile in torch.split(waveforms, self._tile_samples, -1):
            yield LatentPiece(latents=self._network.push(tile, is_last=False), scales=None)

    def flush(self) -> Iterator[LatentPiece]:
        """See `LatentSource`."""
        yield LatentPiece(latents=self._network.push(self._nothing, is_last=True), scales=None)


class WindowLatents:
    """Latents of a codec with windows: those of a window come with its last sample.

    Memory: one window of every stream, and what `MAX_LANES` windows need in the networks.
    """

    def __init__(
        self,
        config: EncodecConfig,
        encoder: FoldedEncoder,
        encode: Callable[[Sequence[Tensor]], list[Tensor]],
        *,
        num_streams: int,
    ) -> None:
        assert config.chunk_length is not None
        self._length, self._stride = config.chunk_length, config.chunk_stride or config.chunk_length
        self._normalize = config.normalize
        self._encode = encode
        self._buffer = torch.zeros(
            num_streams, config.audio_channels, self._length, dtype=encoder.dtype, device=encoder.device
        )
        self._num_buffered = 0

    def push(self, waveforms: Tensor) -> Iterator[LatentPiece]:
        """See `LatentSource`."""
        return self._encoded(self._whole_windows(waveforms))

    def flush(self) -> Iterator[LatentPiece]:
        """See `LatentSource`."""
        num_left, self._num_buffered = self._num_buffered, 0
        spans = window_spans(num_left, length=self._length, stride=self._stride)
        return self._encoded(self._buffer[..., span] for span in spans)

    def _whole_windows(self, waveforms: Tensor) -> Iterator[Tensor]:
        while waveforms.shape[-1] > 0:
            taken = waveforms[..., : self._length - self._num_buffered]
            waveforms = waveforms[..., taken.shape[-1] :]
            self._buffer[..., self._num_buffered : self._num_buffered + taken.shape[-1]] = taken
            self._num_buffered += taken.shape[-1]
            if self._num_buffered == self._length:
                yield self._buffer.clone()
                self._num_buffered -= self._stride
                self._buffer[..., : self._num_buffered] = self._buffer[..., self._stride :].clone()

    def _encoded(self, windows: Iterator[Tensor]) -> Iterator[LatentPiece]:
        """Encode windows `[N, C, n]`, some at once."""
        num_streams = self._buffer.shape[0]
        while some := list(islice(windows, max(1, MAX_LANES // num_streams))):
            waveforms = [waveform for window in some for waveform in window]
            scales = [window_loudness(waveform) for waveform in waveforms] if self._normalize else None
            if scales is not None:
                waveforms = [waveform / scale for waveform, scale in zip(waveforms, scales, strict=True)]
            latents = self._encode(waveforms)
            for start in range(0, len(waveforms), num_streams):
                streams = slice(start, start + num_streams)
                window_scales = None if scales is None else torch.stack(scales[streams])
                yield LatentPiece(latents=torch.stack(latents[streams]), scales=window_scales)


def _latents_in_lanes(lanes: LaneEncoder, waveforms: Sequence[Tensor]) -> list[Tensor]:
    found: dict[int, Tensor] = {}
    for group in lanes.groups([waveform.shape[-1] for waveform in waveforms]):
        encoded = lanes.encode([waveforms[index] for index in group], finish=list)
        found |= dict(zip(group, encoded, strict=True))
    return [found[index] for index in range(len(waveforms))]
