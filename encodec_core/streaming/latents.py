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
from encodec_core.fast.native.stream import BlockedNetwork
from encodec_core.fast.placement import takes_large_batches
from encodec_core.fast.streams import Network, StreamPush
from encodec_core.quantization.codebook import Codebook
from encodec_core.spans import window_spans
from encodec_core.streaming.network import StreamNetwork

__all__ = [
    "CausalLatents",
    "LatentPiece",
    "LatentSource",
    "WindowLatents",
    "latents_of",
    "network_of",
    "tile_samples",
]

TILE_SAMPLES = 24_000
"""Samples of a stream that go through the convolutions at once, which bounds the memory; as in `fast.lanes`."""
BATCH_SAMPLES = 96_000
"""Samples of all rows in lockstep at once, 12 MB in the widest layer of the 24 kHz codec; tiles are shorter for more
than four rows."""
SMALLEST_TILE = 2_400
DEVICE_SAMPLES = 2**20
"""Samples at once where steps should be few and large: 44 s of one stream, half a gigabyte in the 24 kHz codec."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentPiece:
    """Latents that are final."""

    latents: Tensor
    """`[N, D, t]`; those of one window, if the codec has windows."""
    scales: Tensor | None
    """`[N]`: loudness that was divided out of the window; None unless the codec has windows."""
    first_frame: int = 0
    """Its place in the stream, or the window."""


class LatentSource(Protocol):
    """Turns audio into latents as it arrives."""

    def push(self, waveforms: Tensor) -> Iterator[LatentPiece]:
        """Take the next samples `[N, C, n]` of N streams, n >= 0, and yield what they complete."""

    def flush(self) -> Iterator[LatentPiece]:
        """End the streams and yield what is left; the next samples begin new ones."""


def tile_samples(num_rows: int, *, device: torch.device) -> int:
    """Return how many samples of each of N rows in lockstep go through the convolutions at once."""
    if takes_large_batches(device):
        return max(SMALLEST_TILE, DEVICE_SAMPLES // num_rows)
    return min(TILE_SAMPLES, max(SMALLEST_TILE, BATCH_SAMPLES // num_rows))


def network_of(encoder: FoldedEncoder, codebooks: Sequence[Codebook]) -> Network:
    """Return the encoder for streams; where `BatchEncoder` runs the kernels for it, so do they."""
    return BlockedNetwork(encoder) if can_run_blocked(encoder, codebooks) else StreamNetwork(encoder)


def latents_of(
    config: EncodecConfig, encoder: FoldedEncoder, codebooks: Sequence[Codebook], *, num_streams: int
) -> LatentSource:
    """Return the way that streams of this codec go, as `BatchEncoder` does."""
    if config.chunk_length is None:
        return CausalLatents(config, encoder, network_of(encoder, codebooks), num_streams=num_streams)
    if can_run_blocked(encoder, codebooks):
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
        network: Network,
        *,
        num_streams: int,
    ) -> None:
        self._network = network
        self._nothing = torch.zeros(num_streams, config.audio_channels, 0, dtype=encoder.dtype, device=encoder.device)
        self._tile_samples = tile_samples(num_streams, device=encoder.device)
        self._start()

    def push(self, waveforms: Tensor) -> Iterator[LatentPiece]:
        """See `LatentSource`."""
        for tile in torch.split(waveforms, self._tile_samples, -1):
            yield self._piece(tile, is_last=False)

    def flush(self) -> Iterator[LatentPiece]:
        """See `LatentSource`."""
        piece = self._piece(self._nothing, is_last=True)
        self._start()
        yield piece

    def _start(self) -> None:
        self._state = self._network.start(self._nothing.shape[0])
        self._num_frames = 0

    def _piece(self, tile: Tensor, *, is_last: bool) -> LatentPiece:
        (latents,) = self._network.push([StreamPush(inputs=tile, state=self._state, is_last=is_last)])
        first_frame = self._num_frames
        self._num_frames += latents.shape[-1]
        return LatentPiece(latents=latents, scales=None, first_frame=first_frame)


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
